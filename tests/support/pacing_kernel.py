"""A kernel that says so many messages a second, by a PUB socket with ZMQ's own high-water mark.

    python -m tests.support.pacing_kernel CONNECTION_FILE

The code of an execute_request is JSON: ``{"count": 30000, "rate": 30000, "size": 100}``. What it says is
numbered, and made before the first is sent. Being late it does not catch up at once: the reply says how
long it took. It can lose messages as ipykernel can: past the mark ZMQ throws away the newest.
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


class Pacing(Odd):
    """The kernel of a connection file."""

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
            content["seconds"] = self.say(request, **json.loads(request["content"]["code"]))
        self.send(socket, kind.replace("_request", "_reply"), content, request, identities)
        self.send(iopub, "status", {"execution_state": "idle"}, request, b"status")
        return bool(kind != "shutdown_request")

    def say(self, request: dict[str, Any], count: int, rate: int, size: int) -> float:
        """Say it; how many seconds it took."""
        made: list[list[bytes]] = []
        for number in range(count):
            text = {"text/plain": f"<{number}>".ljust(size, "x")}
            content = {"data": text, "metadata": {}}
            display = self.session.msg("display_data", content, parent=request)
            made.append(self.session.serialize(display, ident=b"display_data"))
        send = self.sockets["iopub"].send_multipart
        each = max(1, round(rate * TICK))
        begun = due = time.perf_counter()
        for start in range(0, count, each):
            for message in made[start : start + each]:
                send(message, zmq.NOBLOCK, copy=True)
            due = max(due + TICK, time.perf_counter() - TICK)
            while time.perf_counter() < due:
                time.sleep(TICK / 10)
        return time.perf_counter() - begun


if __name__ == "__main__":
    Pacing("plain", json.loads(Path(sys.argv[1]).read_text())).run()
