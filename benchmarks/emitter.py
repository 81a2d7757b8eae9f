"""A kernel that does nothing but emit, fast enough that the server is what is measured.

    python -m benchmarks.emitter CONNECTION_FILE

The code of an execute_request is JSON: `{"count": 1000, "size": 100, "buffer": 0, "kind": "stream"}`.
All messages are made and signed before the first is sent, and then their bytes are written to the
subscribers' connections at once: iopub speaks ZMTP 3.0 (RFC 23 of the ZeroMQ project) on plain sockets,
because a PUB socket takes longer for a message than the server is to take. Nothing is thrown away.
Everything else is answered as a kernel does.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

INFO = {
    "status": "ok",
    "protocol_version": "5.3",
    "implementation": "emitter",
    "implementation_version": "1",
    "banner": "",
    "language_info": {
        "name": "emitter",
        "version": "1",
        "mimetype": "text/plain",
        "file_extension": ".json",
    },
}

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4


def frame(data: bytes, flags: int) -> bytes:
    """One frame of ZMTP."""
    if len(data) < 256:
        return bytes((flags, len(data))) + data
    return struct.pack("!BQ", flags | LONG, len(data)) + data


def encode(parts: Sequence[bytes]) -> bytes:
    """A message of several parts."""
    return b"".join([*(frame(part, MORE) for part in parts[:-1]), frame(parts[-1], 0)])


class Publisher:
    """What a PUB socket is to its subscribers, who all subscribe to everything.

    Args:
        address: to listen at.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._listener = socket.create_server(address)
        self._subscribers: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(GREETING)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack("!I", 3) + b"PUB"
        connection.sendall(frame(ready, COMMAND))
        received = b""
        # Their greeting and READY, and then the subscription, whatever it is.
        while len(received) < len(GREETING) + 2 or received.count(b"\x01", len(GREETING) + 20) == 0:
            data = connection.recv(4096)
            if not data:
                return
            received += data
        self._subscribers.append(connection)
        while connection.recv(4096):
            pass
        self._subscribers.remove(connection)

    def send(self, data: bytes) -> None:
        """Write encoded messages to all subscribers; waits for those that do not read."""
        for connection in list(self._subscribers):
            with contextlib.suppress(OSError):
                connection.sendall(data)


class Emitter:
    """The kernel of a connection file."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self.session = Session(key=connection["key"].encode())
        context = zmq.Context()
        ip = connection["ip"]

        def bind(kind: int, name: str) -> zmq.Socket[bytes]:
            made = context.socket(kind)
            made.linger = 1000
            made.bind(f"tcp://{ip}:{connection[name + '_port']}")
            return made

        self.iopub = Publisher((ip, connection["iopub_port"]))
        self.shell, self.control = bind(zmq.ROUTER, "shell"), bind(zmq.ROUTER, "control")
        self.stdin = bind(zmq.ROUTER, "stdin")
        self.heart = bind(zmq.REP, "hb")

    def run(self) -> None:
        """Answer until a shutdown_request."""
        poller = zmq.Poller()
        for each in (self.shell, self.control, self.heart):
            poller.register(each, zmq.POLLIN)
        while True:
            for ready, _ in poller.poll():
                if ready is self.heart:
                    ready.send(ready.recv())
                elif not self.answer(ready):
                    return

    def answer(self, asked: zmq.Socket[bytes]) -> bool:
        """Answer one request; whether to go on."""
        identities, request = self.session.recv(asked, mode=0)
        if request is None:
            return True
        kind: str = request["header"]["msg_type"]
        self.iopub.send(self.made("status", {"execution_state": "busy"}, request))
        content: dict[str, Any] = {"status": "ok"}
        if kind == "kernel_info_request":
            content = INFO
        elif kind == "execute_request":
            content["execution_count"] = 1
            self.iopub.send(self.output(request))
        reply = kind.replace("_request", "_reply")
        self.session.send(asked, reply, content, parent=request, ident=identities)
        self.iopub.send(self.made("status", {"execution_state": "idle"}, request))
        return kind != "shutdown_request"

    def made(
        self, kind: str, content: dict[str, Any], parent: dict[str, Any], *buffers: bytes
    ) -> bytes:
        """An encoded message."""
        message = self.session.msg(kind, content, parent=parent)
        return encode([*self.session.serialize(message, ident=kind.encode()), *buffers])

    def output(self, request: dict[str, Any]) -> bytes:
        """What the code asks for."""
        try:
            wanted = json.loads(request["content"]["code"])
        except ValueError:
            return b""
        if not isinstance(wanted, dict):
            return b""
        text = "x" * wanted["size"]
        buffers = [bytes(wanted["buffer"])] if wanted.get("buffer") else []
        if wanted.get("kind", "stream") == "stream":
            kind, content = "stream", {"name": "stdout", "text": text}
        else:
            kind, content = "display_data", {"data": {"text/plain": text}, "metadata": {}}
        return b"".join(self.made(kind, content, request, *buffers) for _ in range(wanted["count"]))


if __name__ == "__main__":
    Emitter(json.loads(Path(sys.argv[1]).read_text())).run()
