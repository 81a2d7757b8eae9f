"""A kernel that says so many messages a second, by a PUB socket with ZMQ's own high-water mark.

    python -m tests.support.pacing_kernel CONNECTION_FILE

The code of an execute_request is JSON: ``{"count": 30000, "rate": 30000, "size": 100}``. What it says is
numbered, and made before the first is sent. Being late it does not catch up at once: the reply says how
long it took, ``seconds``. It can lose messages as ipykernel can: past the mark the newest are thrown away.

That may be nobody's fault but the machine's: where ZMQ's thread here gets no turn for a thirtieth of a
second, a thousand messages wait for it, though the reader has read all that was sent. So the reply names
what was thrown away while the connection was empty, ``stalled``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from tests.support.odd_kernel import Odd

TICK = 0.001
"""Seconds in which as many messages are sent as the rate says."""

EMPTY = 64 * 1024
"""Bytes in a connection whose reader has kept up. One that has not leaves more than a megabyte there before
messages wait at the sender."""


class Pacing(Odd):
    """The kernel of a connection file."""

    def __init__(self, habit: str, connection: dict[str, Any]) -> None:
        super().__init__(habit, connection)
        self.port = int(connection["iopub_port"])
        # To be told of what is thrown away: without, ZMQ does it in silence.
        self.sockets["iopub"].setsockopt(zmq.XPUB_NODROP, 1)

    def answer(self, socket: Any) -> bool:
        """Answer one request; whether to go on."""
        identities, request = self.session.recv(socket, mode=0)
        assert request is not None
        kind = request["header"]["msg_type"]
        iopub = self.sockets["iopub"]
        self.send(iopub, "status", {"execution_state": "busy"}, request, b"status")
        content: dict[str, Any] = {"status": "ok", "execution_count": 1}
        if kind == "kernel_info_request":
            content |= {"protocol_version": "5.3", "language_info": {"name": "pacing"}}
        elif kind == "execute_request":
            content |= self.say(request, **json.loads(request["content"]["code"]))
        self.send(socket, kind.replace("_request", "_reply"), content, request, identities)
        self.send(iopub, "status", {"execution_state": "idle"}, request, b"status")
        return bool(kind != "shutdown_request")

    def say(self, request: dict[str, Any], count: int, rate: int, size: int) -> dict[str, Any]:
        """Say it; what the reply says of it."""
        made: list[list[bytes]] = []
        for number in range(count):
            text = {"text/plain": f"<{number}>".ljust(size, "x")}
            content = {"data": text, "metadata": {}}
            display = self.session.msg("display_data", content, parent=request)
            made.append(self.session.serialize(display, ident=b"display_data"))
        each = max(1, round(rate * TICK))
        stalled: list[int] = []
        thrown, empty = -2, False
        begun = due = time.perf_counter()
        for start in range(0, count, each):
            for number, message in enumerate(made[start : start + each], start):
                if self._sent(message):
                    continue
                if number > thrown + 1:
                    empty = waiting(self.port) < EMPTY
                thrown = number
                if empty:
                    stalled.append(number)
            due = max(due + TICK, time.perf_counter() - TICK)
            while time.perf_counter() < due:
                time.sleep(TICK / 10)
        return {"seconds": time.perf_counter() - begun, "stalled": stalled}

    def _sent(self, message: list[bytes]) -> bool:
        try:
            self.sockets["iopub"].send_multipart(message, zmq.NOBLOCK, copy=True)
        except zmq.Again:
            return False
        return True


def number_in(text: str) -> int:
    """The number of what was said."""
    return int(text.partition("<")[2].partition(">")[0])


def waiting(port: int) -> int:
    """Bytes that were sent from a port of this machine to others of it and not read yet, as Linux tells."""
    end = f":{port:04X}"
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        sent, received = (int(queue, 16) for queue in queues.split(":"))
        total += sent * local.endswith(end) + received * remote.endswith(end)
    return total


if __name__ == "__main__":
    Pacing("plain", json.loads(Path(sys.argv[1]).read_text())).run()
