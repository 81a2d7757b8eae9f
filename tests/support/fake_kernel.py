"""A kernel in memory, for what a real one does only by chance: a server and sockets that do as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from jupyter_token_ws.client.errors import ClientError, RefusedError
from jupyter_token_ws.client.sockets import Socket
from jupyter_token_ws.protocol.auth import Response
from jupyter_token_ws.protocol.kernel_messages import KernelMessage, decode, encode, new_message
from jupyter_token_ws.protocol.subprotocols import KERNEL

BRIDGED = {"reasons": {"codes": {"4507": {"backlog_full": "retry"}}}}
"""Of the capabilities of a server that keeps backlogs."""


class MemorySocket(Socket):
    """A websocket of which the test is the other end."""

    def __init__(self, subprotocol: str | None) -> None:
        self.subprotocol = subprotocol
        self.sent: asyncio.Queue[KernelMessage] = asyncio.Queue()
        self.said: list[KernelMessage] = []
        self._coming: asyncio.Queue[str | bytes | None] = asyncio.Queue()

    async def send(self, message: str | bytes) -> None:
        if self.close_code is not None:
            raise self._closed_error()
        self.sent.put_nowait(decode(message, self.subprotocol))

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def recv(self) -> str | bytes:
        message = await self._coming.get()
        if message is None:
            raise self._closed_error()
        return message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.end(code, reason)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        while True:
            yield await self.recv()

    # -- the test's end ----------------------------------------------------------------------------

    def end(self, code: int = 1006, reason: str = "") -> None:
        """It is closed, or lost; what was said before comes first."""
        if self.close_code is None:
            self.close_code, self.close_text = code, reason
            self._coming.put_nowait(None)

    def raw(self, data: str | bytes) -> None:
        self._coming.put_nowait(data)

    def say(
        self,
        kind: str,
        about: KernelMessage | None = None,
        *,
        channel: str = "iopub",
        buffers: Sequence[bytes] = (),
        **content: Any,
    ) -> KernelMessage:
        """The kernel says something."""
        parent = None if about is None else about.header
        message = new_message(channel, kind, content, "kernel", parent=parent, buffers=buffers)
        self.repeat(message)
        return message

    def repeat(self, message: KernelMessage) -> None:
        self.raw(encode(message, self.subprotocol))

    def status(self, about: KernelMessage | None, state: str) -> None:
        self.say("status", about, execution_state=state)

    def reply(self, about: KernelMessage, **content: Any) -> None:
        kind = about.type.replace("_request", "_reply")
        self.say(kind, about, channel=about.channel, **{"status": "ok", **content})

    def done(self, about: KernelMessage, **content: Any) -> None:
        """The kernel replied to it, and is idle."""
        self.reply(about, **content)
        self.status(about, "idle")

    async def heard(self, kind: str) -> KernelMessage:
        """The next message of that type that was sent; questions who the kernel is are answered meanwhile."""
        while True:
            message = await asyncio.wait_for(self.sent.get(), 10)
            if message.type == kind:
                return message
            if message.type == "kernel_info_request":
                self.done(message, implementation="memory")


class MemoryHost:
    """A server in memory."""

    def __init__(
        self,
        capabilities: Mapping[str, Any] | None = BRIDGED,
        subprotocol: str | None = KERNEL,
    ) -> None:
        self.capabilities = capabilities
        self.subprotocol = subprotocol
        self.sockets: asyncio.Queue[MemorySocket] = asyncio.Queue()
        self.refusals: list[ClientError] = []
        """What the next openings end with."""
        self.requests: list[tuple[str, str, Any]] = []
        self.paths: list[str] = []
        self.prepared: list[ClientError] = []
        self.answers: dict[str, Response] = {}
        self.answering = True
        """Whether kernels of new sockets say at once who they are."""

    async def request(
        self, method: str, path: str, *, json: Any = None, ok: Sequence[int] = ()
    ) -> Response:
        self.requests.append((method, path, json))
        answer = self.answers.get(f"{method} {path}")
        if answer is None:
            answer = (
                Response(201, body=b'{"id": "made"}') if path == "api/kernels" else Response(204)
            )
        if answer.status >= 400 and answer.status not in ok:
            raise RefusedError("refused", answer.status)
        return answer

    async def websocket(
        self, path: str, subprotocols: Sequence[str] = (), *, max_size: int = 0
    ) -> Socket:
        self.paths.append(path)
        if self.refusals:
            raise self.refusals.pop(0)
        socket = MemorySocket(self.subprotocol)
        self.sockets.put_nowait(socket)
        return socket

    async def refused(self, error: ClientError) -> None:
        self.prepared.append(error)

    async def next(self) -> MemorySocket:
        """The next socket that was opened."""
        return await asyncio.wait_for(self.sockets.get(), 10)


def kernel_model(kernel_id: str) -> Response:
    """What starting a kernel is answered."""
    return Response(201, body=json.dumps({"id": kernel_id}).encode())
