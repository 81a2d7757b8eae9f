"""A kernel that does nothing but emit, fast enough that the server is what is measured.

    python -m benchmarks.emitter CONNECTION_FILE [--pub]

The code of an execute_request is JSON: `{"count": 1000, "size": 100, "buffer": 0, "kind": "stream"}`.
Each output's text begins with its number: `#00000000`. All messages are made and signed before the first
is sent, busy state included, and then their bytes are written to the subscribers' connections at once:
iopub speaks ZMTP 3.0 (RFC 23 of the ZeroMQ project) on plain sockets, because a PUB socket takes longer
for a message than the server is to take. Nothing is thrown away. Everything else is answered as a
kernel does.

With `--pub` iopub is what kernels have: a PUB socket, which throws away what is beyond its high-water
mark of 1,000 messages. Then the code may name a `"rate"`, messages per second, and the reply's
`"rate"` is what it came to.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

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

NUMBERED = b"#00000000"

PACE = 30
"""Messages sent together where a rate is kept."""
LATE = 0.005
"""Seconds that are made up for."""


def frame(data: bytes, flags: int) -> bytes:
    """One frame of ZMTP."""
    if len(data) < 256:
        return bytes((flags, len(data))) + data
    return struct.pack("!BQ", flags | LONG, len(data)) + data


def encode(parts: Sequence[bytes]) -> bytes:
    """A message of several parts."""
    return b"".join([*(frame(part, MORE) for part in parts[:-1]), frame(parts[-1], 0)])


Message = list[bytes]


class Publisher(Protocol):
    """What iopub is."""

    def prepare(self, messages: Sequence[Message]) -> Any:
        """What ``send`` takes for these."""

    def send(self, prepared: Any, rate: float = 0) -> float:
        """Send to all subscribers; return the messages per second."""


class Wire:
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

    def prepare(self, messages: Sequence[Message]) -> bytes:
        """Their bytes."""
        return b"".join(map(encode, messages))

    def send(self, prepared: bytes, rate: float = 0) -> float:
        """Write to all subscribers, at any rate; waits for those that do not read."""
        for connection in list(self._subscribers):
            with contextlib.suppress(OSError):
                connection.sendall(prepared)
        return rate


class Pub:
    """A PUB socket as kernels have it.

    Args:
        socket: it.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def prepare(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Themselves."""
        return messages

    def send(self, prepared: Sequence[Message], rate: float = 0) -> float:
        """Send to all subscribers, so many per second."""
        begun = due = time.perf_counter()
        for at in range(0, len(prepared), PACE):
            if rate:
                # What another program made late is made up for a little, not in a burst.
                due = max(due + PACE / rate, time.perf_counter() - LATE)
                time.sleep(max(0, due - time.perf_counter()))
            for message in prepared[at : at + PACE]:
                self._socket.send_multipart(message)
        return len(prepared) / (time.perf_counter() - begun)


def read_code(request: dict[str, Any]) -> dict[str, Any]:
    """What the code asks for; nothing if it is no such code."""
    with contextlib.suppress(ValueError):
        wanted = json.loads(request["content"]["code"])
        if isinstance(wanted, dict):
            return wanted
    return {}


def make_message(
    session: Session, kind: str, content: dict[str, Any], parent: dict[str, Any]
) -> Message:
    """The parts of a message."""
    message = session.msg(kind, content, parent=parent)
    return list(session.serialize(message, ident=kind.encode()))


def make_output(
    session: Session,
    request: dict[str, Any],
    count: int,
    size: int,
    buffer: int = 0,
    kind: str = "stream",
    rate: float = 0,
) -> Iterator[Message]:
    """The messages that the code asks for."""
    text = NUMBERED.decode().ljust(size - 1, "x") + "\n"
    content: dict[str, Any] = {"data": {"text/plain": text}, "metadata": {}}
    if kind == "stream":
        content = {"name": "stdout", "text": text}
    # Made in full but once: that takes longer than everything else.
    message = make_message(session, kind, content, request)
    *ident, _, header, parent, metadata, body = message
    message_id = json.loads(header)["msg_id"].encode()
    buffers = [bytes(buffer)] if buffer else []
    for number in range(count):
        parts = [
            header.replace(message_id, b"%b-%d" % (message_id, number)),
            parent,
            metadata,
            body.replace(NUMBERED, b"#%08d" % number),
        ]
        yield [*ident, session.sign(parts), *parts, *buffers]


class Emitter:
    """The kernel of a connection file."""

    def __init__(self, connection: dict[str, Any], *, pub: bool) -> None:
        self.session = Session(key=connection["key"].encode())
        context = zmq.Context()
        ip = connection["ip"]

        def bind(kind: int, name: str) -> zmq.Socket[bytes]:
            made = context.socket(kind)
            made.linger = 1000
            made.bind(f"tcp://{ip}:{connection[name + '_port']}")
            return made

        self.iopub: Publisher = (
            Pub(bind(zmq.PUB, "iopub")) if pub else Wire((ip, connection["iopub_port"]))
        )
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
        code = read_code(request) if kind == "execute_request" else {}
        output = self.iopub.prepare(
            list(make_output(self.session, request, **code)) if code else []
        )
        self.tell_state("busy", request)
        content: dict[str, Any] = {"status": "ok"}
        if kind == "kernel_info_request":
            content = INFO
        elif kind == "execute_request":
            content |= {"execution_count": 1, "rate": self.iopub.send(output, code.get("rate", 0))}
        reply = kind.replace("_request", "_reply")
        self.session.send(asked, reply, content, parent=request, ident=identities)
        self.tell_state("idle", request)
        return kind != "shutdown_request"

    def tell_state(self, state: str, parent: dict[str, Any]) -> None:
        """Send a status message."""
        made = make_message(self.session, "status", {"execution_state": state}, parent)
        self.iopub.send(self.iopub.prepare([made]))


if __name__ == "__main__":
    Emitter(json.loads(Path(sys.argv[1]).read_text()), pub="--pub" in sys.argv).run()
