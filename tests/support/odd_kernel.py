"""A kernel with an odd habit, to see what becomes of its clients.

    python -m tests.support.odd_kernel HABIT CONNECTION_FILE

``mute`` never answers; ``parentless`` does not say what a reply is about; ``old`` speaks version 4 of
the messaging protocol; ``plain`` has none. It echoes the code of a request as output, and asks a
question where the code is ``ask``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import zmq
from jupyter_client.session import Session


class Odd:
    """The kernel of a connection file."""

    def __init__(self, habit: str, connection: dict[str, Any]) -> None:
        self.habit = habit
        self.session = Session(key=connection["key"].encode())
        self.context = zmq.Context()
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        for name in ("shell", "control", "stdin", "iopub"):
            socket = self.context.socket(zmq.PUB if name == "iopub" else zmq.ROUTER)
            socket.linger = 1000
            socket.bind(f"tcp://{connection['ip']}:{connection[name + '_port']}")
            self.sockets[name] = socket

    def run(self) -> None:
        """Answer until a shutdown_request, or for ever."""
        poller = zmq.Poller()
        for name in ("shell", "control"):
            poller.register(self.sockets[name], zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                if not self.answer(socket):
                    return

    def send(self, socket: Any, kind: str, content: Any, request: Any, identities: Any) -> None:
        parent = {} if self.habit == "parentless" else request["header"]
        message = self.session.msg(kind, content)
        message["parent_header"] = parent
        if self.habit == "old":
            message["header"]["version"] = "4.1"
        self.session.send(socket, message, ident=identities)

    def answer(self, socket: Any) -> bool:
        # Not Session.recv: that would show an older protocol's message as one of today's.
        identities, raw = self.session.feed_identities(socket.recv_multipart())
        names = ("header", "parent_header", "metadata", "content")
        request: dict[str, Any] = {
            name: json.loads(bytes(cast("Any", part)))
            for name, part in zip(names, raw[1:5], strict=True)
        }
        kind = request["header"]["msg_type"]
        if self.habit == "mute":
            return kind != "shutdown_request"
        iopub = self.sockets["iopub"]
        self.send(iopub, "status", {"execution_state": "busy"}, request, b"status")
        content: dict[str, Any] = {"status": "ok"}
        if kind == "kernel_info_request":
            version: Any = [4, 1] if self.habit == "old" else "5.3"
            content |= {"protocol_version": version, "language": "odd", "language_version": [1]}
        elif kind == "execute_request":
            code = request["content"]["code"]
            if code == "ask":
                stdin = self.sockets["stdin"]
                self.send(stdin, "input_request", {"prompt": "?"}, request, identities)
                _, answer = self.session.recv(stdin, mode=0)
                code = answer["content"]["value"] if answer is not None else ""
            text = {"name": "stdout", "data" if self.habit == "old" else "text": code}
            self.send(iopub, "stream", text, request, b"stream")
            content |= {"execution_count": 1, "user_expressions": {}, "echo": code}
        elif kind == "object_info_request":
            assert request["content"]["oname"] == "abc"
            content = {"found": False}
        self.send(socket, kind.replace("_request", "_reply"), content, request, identities)
        self.send(iopub, "status", {"execution_state": "idle"}, request, b"status")
        return kind != "shutdown_request"


if __name__ == "__main__":
    Odd(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())).run()
