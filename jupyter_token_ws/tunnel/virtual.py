"""How a stream poses as a websocket: a request that no socket brought, and tornado's protocol without one.

The request goes the way of all requests, through the router and the guard. Whoever accepts it is given
tornado's own websocket protocol, whose frames are messages of the stream: what handlers know of it holds.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tornado import iostream
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.handler import carried_class
from jupyter_token_ws.guard.refusal import MAX_CONTROL_FRAME, RefusalHandler
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import is_token_bearing, offer_subprotocols

from .streams import ABNORMAL, MessageTooLargeError, Stream, StreamClosedError

if TYPE_CHECKING:
    from tornado.web import Application

    from jupyter_token_ws.guard.handshake import Carried

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10  # opcodes, RFC 6455 section 5.2
_CODE = struct.Struct(">H")

_OF_THE_CARRIER = (
    "Connection",
    "Upgrade",
    "Content-Length",
    "Content-Type",
    "Transfer-Encoding",
    "Expect",
    "Accept",
    "Last-Event-Id",
)
"""Headers that are about the carrier and nothing that it carries."""

_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
"""What a handshake has to have (RFC 6455 section 4.1); it proves nothing here."""


class Context:
    """What tornado asks a connection for when it makes a request of it."""

    def __init__(self, carrier: HTTPServerRequest, local_address: str) -> None:
        behind = getattr(carrier.connection, "context", None)
        self.remote_ip = carrier.remote_ip or ""
        self.protocol = carrier.protocol
        self.address = (self.remote_ip, 0)
        self.local_address = local_address
        # What `trust_xheaders` makes of these is the client's own word; see `guard.addresses`.
        self.address_family = getattr(behind, "address_family", None)
        self._orig_remote_ip = getattr(behind, "_orig_remote_ip", self.remote_ip)
        self._orig_protocol = getattr(behind, "_orig_protocol", self.protocol)


class StreamConnection(HTTPConnection):
    """What a stream is to tornado while it is a request: the place where the answer goes."""

    def __init__(self, stream: Stream, context: Context) -> None:
        self.context = context
        self._stream = stream
        self._answered = self._refused = False
        self._on_close: Callable[[], None] | None = None
        self.stream: VirtualIOStream | None = VirtualIOStream(stream, context.local_address)
        """Until it is detached."""
        stream.when_closed(self._closed)

    # -- as tornado's own --------------------------------------------------------------------------

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Whom to tell when the stream is gone before it was answered."""
        self._on_close = callback

    def set_max_body_size(self, max_body_size: int) -> None:
        """There is none."""

    def set_body_timeout(self, timeout: float) -> None:
        """There is none."""

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        """The answer: 101 opens the stream, anything else refuses it, with 4000 + its status."""
        status = getattr(start_line, "code", 500)
        if not self._answered:
            self._answered = True
            if status == 101 and not self._refused:
                self._accept(headers.get("Sec-WebSocket-Protocol"))
            elif status != 101:
                self._stream.close(4000 + (status if 100 <= status <= 999 else 500))
        return _done()

    def _accept(self, subprotocol: str | None) -> None:
        if subprotocol not in self._stream.offered:
            subprotocol = None  # a marker of ours
        with suppress(StreamClosedError):  # the client withdrew; who reads will find out
            self._stream.accept(subprotocol)

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """The text of a refusal, which nobody is told."""
        return _done()

    def finish(self) -> None:
        """The answer is complete."""

    def detach(self) -> Any:
        """The stream, to who opened it. There is no connection to take over without."""
        if not self._answered:
            self.refuse("internal_error")
        self._on_close = None
        stream, self.stream = self.stream, None
        return stream

    # -- of ours -----------------------------------------------------------------------------------

    def websocket_protocol(self, handler: WebSocketHandler) -> WebSocketProtocol:
        """What stands for tornado's protocol over this. See ``guard.handler``."""
        # A socket has to open to be told why not; a stream is closed instead of opened.
        self._refused = isinstance(handler, RefusalHandler)
        return StreamProtocol(handler, self._stream)

    def refuse(self, slug: str) -> None:
        """Refuse the stream for a reason of the table, if it is not answered."""
        if not self._answered:
            self._answered = True
            reason = REASONS[slug]
            self._stream.close(reason.code, reason.close_reason())

    def _closed(self) -> None:
        callback, self._on_close = self._on_close, None
        if callback is not None:
            IOLoop.current().add_callback(callback)  # what a handler raises is its own affair


def _done() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


class VirtualIOStream:
    """As much of tornado's stream as those touch who have a websocket over it."""

    max_write_buffer_size: int | None = None

    def __init__(self, stream: Stream, local_address: str) -> None:
        self.local_address = local_address
        self._stream = stream
        self._closed = False
        self._on_close: Callable[[], None] | None = None
        self.leaving = False
        """Whether the client closes it in good order, and is being answered."""
        self.io_loop = IOLoop.current()
        self.socket = None

    def closed(self) -> bool:
        """Whether it is gone, and all that came was read."""
        return self._closed or (self._stream.over and not self.leaving)

    def gone(self) -> bool:
        """Whether it is gone, though there be messages that nobody has read."""
        return self._closed or self._stream.closed is not None

    def close(self, exc_info: Any = False) -> None:
        """Cut it off, unless it is closing in good order already."""
        if not self._closed:
            self._closed = True
            self._stream.abort()

    def reading(self) -> bool:
        """The carrier looks whether anybody is there. But of who sends without waiting for credit the client
        has to take something, as over a socket."""
        return self._stream.neglected

    def writing(self) -> bool:
        """Whether something waits."""
        return self._stream.unsent > 0

    def set_nodelay(self, value: bool) -> None:
        """The carrier's business."""

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Whom to tell when it is gone, though nobody reads."""
        if self._on_close is None:
            self._stream.when_closed(self._tell)
        self._on_close = callback
        if self._stream.closed is not None:
            self._tell()

    def _tell(self) -> None:
        callback, self._on_close = self._on_close, None
        if callback is not None:
            asyncio.get_running_loop().call_soon(callback)

    @property
    def _total_write_done_index(self) -> int:
        return self._stream.sent

    _read_buffer_size = 0
    _total_write_index = 0


class StreamProtocol(WebSocketProtocol13):
    """Tornado's protocol with the frames of a stream in place of RFC 6455's."""

    stream: Any

    def __init__(self, handler: WebSocketHandler, stream: Stream) -> None:
        params = _Params(handler)
        super().__init__(handler, False, params)  # type: ignore[arg-type]
        self.tunnel_stream = stream
        stream.max_message_size = handler.max_message_size

    def start_pinging(self) -> None:
        """The carrier's business, as is whoever answers."""

    def write_message(
        self, message: str | bytes | dict[str, Any], binary: bool = False
    ) -> asyncio.Future[None]:
        """As tornado's. Of thousands that wait when the stream ends each would have a traceback in the log,
        where nobody waits for them."""
        written: asyncio.Future[None] = super().write_message(message, binary)
        written.add_done_callback(_look_at)
        return written

    def _write_frame(
        self, fin: bool, opcode: int, data: bytes, flags: int = 0
    ) -> asyncio.Future[None]:
        stream = self.tunnel_stream
        if opcode >= _CLOSE and len(data) > MAX_CONTROL_FRAME:
            raise ValueError("control frame payloads may not exceed 125 bytes")
        if opcode == _CLOSE:
            code, reason = None, ""
            if data:
                code, reason = _CODE.unpack_from(data)[0], data[_CODE.size :].decode()
            if code is not None and not 1000 <= code <= 4999:
                code, reason = ABNORMAL, ""  # what clients make of one that is none
            stream.close(code, reason)
            return _done()
        if opcode == _PING:
            # Whether anybody is there is the carrier's business. Who is not answered takes it for lost.
            self.stream.io_loop.add_callback(self._handle_message, _PONG, data)
            return _done()
        try:
            return stream.send(data, text=opcode == _TEXT)
        except StreamClosedError:
            if self.stream.closed():
                raise iostream.StreamClosedError from None
            return _done()  # as into a socket whose other end has just gone

    # -- as guard.keeping.Keeping ------------------------------------------------------------------

    def send_small(self, payloads: Sequence[bytes], *, text: bool) -> int:
        """See there."""
        return self.tunnel_stream.send_small(payloads, text=text)

    def send_long(self, payload: bytes, *, text: bool) -> asyncio.Future[None]:
        """See there."""
        return self.tunnel_stream.send(payload, text=text, keep=True)

    def unacknowledged(self) -> list[tuple[bytes, bool]]:
        """See there."""
        return self.tunnel_stream.unacknowledged()

    async def _receive_frame(self) -> None:
        stream = self.tunnel_stream
        try:
            message = await stream.receive()
            if message is None:
                # No more from the client; the handler may go on, and the stream ends with it.
                self._tell_half_closed()
                await self._wait_closed(stream)
                return
        except MessageTooLargeError:
            self.close(1009, "message too big")
            self._abort()
            return
        except StreamClosedError as error:
            if error.code == ABNORMAL:
                raise iostream.StreamClosedError from None
            self._note_close(error.code, error.reason)
            return
        self._wire_bytes_in += message.size
        handled = self._handle_message(_TEXT if message.text else _BINARY, message.payload)
        if handled is not None:
            await handled
        stream.done(message)

    async def _wait_closed(self, stream: Stream) -> None:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if stream.closed is None:
            stream.when_closed(lambda: None if gone.done() else gone.set_result(None))
            await gone
        stream.over = True
        closed: Any = stream.closed
        if closed.code == ABNORMAL:
            raise iostream.StreamClosedError
        self._note_close(closed.code, closed.reason)

    def _note_close(self, code: int | None, reason: str) -> None:
        self.close_code, self.close_reason = code, reason or None
        self.client_terminated = self.stream.leaving = True
        self.close(code)

    def _tell_half_closed(self) -> None:
        told: Any = getattr(self.handler, "on_half_close", None)
        if told is not None:
            told()


def _look_at(written: asyncio.Future[None]) -> None:
    if not written.cancelled():
        written.exception()


class _Params:
    """What tornado's protocol asks for; nothing is compressed, and nobody pinged, below a carrier."""

    ping_interval = None
    ping_timeout = None
    compression_options = None

    def __init__(self, handler: WebSocketHandler) -> None:
        self.max_message_size = handler.max_message_size


def virtual_request(
    stream: Stream,
    carrier: HTTPServerRequest,
    base_url: str,
    token: str | None = None,
    authorization: str | None = None,
    local_address: str = "",
) -> HTTPServerRequest:
    """The upgrade request that a stream is, with the carrier's headers, address and credential.

    Args:
        stream: asked for.
        carrier: the request that opened the carrier, as it came.
        base_url: path of the server, below which the stream's path is.
        token: by which the carrier came, if by one; what the stream itself offers as one counts nothing.
        authorization: the header by which it came instead.
        local_address: where the carrier came in.
    """
    headers = HTTPHeaders()
    for name, value in carrier.headers.get_all():
        if name not in _OF_THE_CARRIER and not name.startswith("Sec-Websocket-"):
            headers.add(name, value)
    headers["Connection"] = "Upgrade"
    headers["Upgrade"] = "websocket"
    headers["Sec-WebSocket-Version"] = "13"
    headers["Sec-WebSocket-Key"] = _KEY
    headers["Sec-Fetch-Mode"] = "websocket"
    if authorization is not None:
        headers["Authorization"] = authorization
    own = [name for name in stream.offered if not is_token_bearing(name)]
    # Whoever speaks this protocol understands close codes.
    headers["Sec-WebSocket-Protocol"] = ", ".join(offer_subprotocols(own, token))
    connection = StreamConnection(stream, Context(carrier, local_address))
    start = RequestStartLine("GET", f"{base_url}{stream.path}", "HTTP/1.1")
    return HTTPServerRequest(start_line=start, headers=headers, connection=connection)


def serve(
    application: Application, request: HTTPServerRequest, carried: Carried | None = None
) -> None:
    """Give a virtual request to the application. ``carried``: what the guard is to know of its carrier.

    Whatever fails is the stream's end and no more."""
    guard = Guard.of(application)
    guard.begin(request).carried = carried
    connection: Any = request.connection
    try:
        delegate: Any = application.find_handler(request)
        kind = getattr(delegate, "handler_class", None)
        if isinstance(kind, type):
            delegate.handler_class = carried_class(kind)
        start = RequestStartLine(request.method or "", request.uri or "", request.version)
        delegate.headers_received(start, request.headers)
        delegate.finish()
    except Exception:
        guard.log.exception("Cannot serve %s", request.path)
        connection.refuse("internal_error")
