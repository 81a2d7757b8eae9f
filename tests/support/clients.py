"""Real websocket clients behind one small interface, so that one table serves them all.

Each client connects in its own way and reports what its user would see: the HTTP status of a
refused handshake, the answered subprotocol, messages, and code and reason of the close.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

TIMEOUT = 30.0
"""Seconds that any one step may take; a kernel that starts on a busy machine needs some."""

Message = str | bytes
Headers = Mapping[str, str]


class Client:
    """One connection, open or refused.

    ``status`` is 101 or that of the refusal, ``subprotocol`` what was answered, ``code`` and
    ``reason`` those of the close once ``receive`` returned ``None``.
    """

    status: int = 0
    subprotocol: str | None = None
    code: int | None = None
    reason: str = ""

    async def send(self, message: Message) -> None:
        """Send one message: text or binary, by its type."""
        raise NotImplementedError

    async def receive(self) -> Message | None:
        """The next message, or ``None`` when the other side closed."""
        raise NotImplementedError

    async def leave(self) -> None:
        """End the connection and what else the client holds."""

    @property
    def slug(self) -> str:
        """The slug of the close reason, empty without one."""
        return self.reason.partition(":")[0].partition(";")[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await asyncio.wait_for(self.leave(), TIMEOUT)


Connect = Callable[[str, Sequence[str], Headers], Awaitable[Client]]


class _Websockets(Client):
    socket: Any = None

    async def send(self, message: Message) -> None:
        await self.socket.send(message)

    async def receive(self) -> Message | None:
        from websockets.exceptions import ConnectionClosed

        try:
            message: Message = await asyncio.wait_for(self.socket.recv(), TIMEOUT)
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                self.code, self.reason = closed.rcvd.code, closed.rcvd.reason
            return None
        return message

    async def leave(self) -> None:
        if self.socket is not None:
            await self.socket.close()


async def connect_websockets(url: str, offer: Sequence[str], headers: Headers) -> Client:
    """Python ``websockets``."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    client = _Websockets()
    try:
        client.socket = await connect(
            url,
            subprotocols=list(offer) or None,  # type: ignore[arg-type] # a NewType of str
            additional_headers=dict(headers),
            proxy=None,
            open_timeout=TIMEOUT,
        )
    except InvalidStatus as refused:
        client.status = refused.response.status_code
    else:
        client.status, client.subprotocol = 101, client.socket.subprotocol
    return client


class _Tornado(Client):
    socket: Any = None
    ended = False

    async def send(self, message: Message) -> None:
        await self.socket.write_message(message, binary=isinstance(message, bytes))

    async def receive(self) -> Message | None:
        message: Message | None = await asyncio.wait_for(self.socket.read_message(), TIMEOUT)
        if message is None:
            self.ended = True
            self.code, self.reason = self.socket.close_code, self.socket.close_reason or ""
        return message

    async def leave(self) -> None:
        if self.socket is not None:
            self.socket.close()
            # Until the connection has ended: its tasks must not outlive the loop. The end is read
            # once and no more.
            while not self.ended and await self.receive() is not None:
                pass


async def connect_tornado(url: str, offer: Sequence[str], headers: Headers) -> Client:
    """tornado's own client."""
    from tornado.httpclient import HTTPClientError, HTTPRequest
    from tornado.websocket import websocket_connect

    client = _Tornado()
    request = HTTPRequest(url, headers=dict(headers), request_timeout=TIMEOUT)
    try:
        client.socket = await websocket_connect(request, subprotocols=list(offer) or None)
    except HTTPClientError as refused:
        client.status = refused.code
    else:
        client.status, client.subprotocol = 101, client.socket.selected_subprotocol
    return client


class _WebsocketClient(Client):
    """It blocks, so every step runs in a thread."""

    socket: Any = None

    async def send(self, message: Message) -> None:
        import websocket

        text = isinstance(message, str)
        opcode = websocket.ABNF.OPCODE_TEXT if text else websocket.ABNF.OPCODE_BINARY
        await asyncio.to_thread(self.socket.send, message, opcode)

    async def receive(self) -> Message | None:
        import websocket

        opcode, data = await asyncio.to_thread(self.socket.recv_data)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            if len(data) >= 2:
                self.code, self.reason = int.from_bytes(data[:2], "big"), data[2:].decode()
            return None
        return data.decode() if opcode == websocket.ABNF.OPCODE_TEXT else bytes(data)

    async def leave(self) -> None:
        if self.socket is not None:
            await asyncio.to_thread(self.socket.close)
            self.socket.shutdown()  # what the other side closed is not closed by `close`


async def connect_websocket_client(url: str, offer: Sequence[str], headers: Headers) -> Client:
    """``websocket-client``."""
    import websocket

    client = _WebsocketClient()
    try:
        client.socket = await asyncio.to_thread(
            websocket.create_connection,
            url,
            timeout=TIMEOUT,
            subprotocols=list(offer) or None,
            header=[f"{name}: {value}" for name, value in headers.items()],
            # By itself it names the server's own origin.
            suppress_origin=True,
            http_no_proxy=["*"],
        )
    except websocket.WebSocketBadStatusException as refused:
        client.status = refused.status_code
    else:
        client.status, client.subprotocol = 101, client.socket.subprotocol
    return client


class _Aiohttp(Client):
    session: Any = None
    socket: Any = None

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self.socket.send_str(message)
        else:
            await self.socket.send_bytes(message)

    async def receive(self) -> Message | None:
        from aiohttp import WSMsgType

        message = await self.socket.receive(TIMEOUT)
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: Message = message.data
            return data
        if message.type is WSMsgType.CLOSE:
            self.code, self.reason = message.data, message.extra or ""
        return None

    async def leave(self) -> None:
        if self.socket is not None:
            await self.socket.close()
        await self.session.close()


async def connect_aiohttp(url: str, offer: Sequence[str], headers: Headers) -> Client:
    """aiohttp."""
    from aiohttp import ClientSession, WSServerHandshakeError

    client = _Aiohttp()
    client.session = ClientSession()
    try:
        client.socket = await client.session.ws_connect(
            url, protocols=tuple(offer), headers=dict(headers), max_msg_size=0
        )
    except WSServerHandshakeError as refused:
        client.status = refused.status
    else:
        client.status, client.subprotocol = 101, client.socket.protocol
    return client


NODE_SCRIPT = Path(__file__).parents[1] / "node" / "client.mjs"


class _Node(Client):
    """A node process that reports each event as a line of JSON, see the script."""

    process: asyncio.subprocess.Process

    async def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), TIMEOUT)
        assert line, "the node client ended without saying why"
        event: dict[str, Any] = json.loads(line)
        assert "error" not in event, event
        return event

    async def send(self, message: Message) -> None:
        said = (
            {"text": message}
            if isinstance(message, str)
            else {"binary": base64.b64encode(message).decode()}
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(said).encode() + b"\n")
        await self.process.stdin.drain()

    async def receive(self) -> Message | None:
        event = await self.event()
        if "code" in event:
            self.code, self.reason = event["code"], event["reason"]
            return None
        if "text" in event:
            return str(event["text"])
        return base64.b64decode(event["binary"])

    async def leave(self) -> None:
        # The end of its input is the sign to close.
        await self.process.communicate(b"")


async def connect_node(url: str, offer: Sequence[str], headers: Headers) -> Client:
    """node's ``ws``. Needs tests/node/node_modules."""
    client = _Node()
    node = shutil.which("node")
    assert node is not None
    client.process = await asyncio.create_subprocess_exec(
        node,
        str(NODE_SCRIPT),
        json.dumps({"url": url, "offer": list(offer), "headers": dict(headers)}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    event = await client.event()
    client.status, client.subprotocol = event["status"], event["subprotocol"]
    return client


CLIENTS: dict[str, Connect] = {
    "websockets": connect_websockets,
    "tornado": connect_tornado,
    "websocket-client": connect_websocket_client,
    "aiohttp": connect_aiohttp,
    "ws": connect_node,
}
"""Every real client by the name of its package."""
