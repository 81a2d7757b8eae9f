"""A websocket as a stream of messages, for authors of extensions: ``async for``, ``send``, ``send_eof``.

The same handler serves a socket of its own and a stream of a tunnel. What waits for whom is left to those:
here a message is taken from them when the handler asks for it, and not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import (
    WebSocketClosedError,
    WebSocketHandler,
    WebSocketProtocol,
    WebSocketProtocol13,
)

from jupyter_token_ws.guard.addresses import local_address
from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.handler import SocketInfo, TokenWebSocketHandler, socket_info
from jupyter_token_ws.guard.refusal import Refused

from .streams import ABNORMAL, StreamClosedError
from .virtual import StreamProtocol

if TYPE_CHECKING:
    from typing_extensions import Self

NORMAL = 1000
"""Close code of what is complete (RFC 6455 section 7.4.1)."""

_CLOSE = 8  # opcode, RFC 6455 section 5.2


@dataclass(frozen=True, kw_only=True)
class StreamInfo(SocketInfo):
    """How a client came in, and over what.

    ``remote_address`` is the client's IP address as the server believes it (behind a proxy, see
    ``ServerApp.trust_xheaders``), ``local_address`` where its connection came in: ``127.0.0.1:8888``, or
    the path of a unix socket. Of a tunnel's stream they are its carrier's. ``tls`` says that it came
    encrypted, by the connection itself or by the word of a proxy that ``trusted_proxies`` names.
    """

    remote_address: str
    local_address: str
    tls: bool


class MessageStream:
    """The messages of one client, ``str`` or ``bytes``, and what goes to it.

    ``async for`` gives one message after the other. A client whose messages are not asked for waits before it
    sends more. The loop ends when the client is through: it ended its direction, or closed with 1000 or
    without a code. However else the stream ends, the loop raises ``StreamClosedError``, after the last
    message that came before; at once where it was closed from here.
    """

    def __init__(self, handler: StreamHandler) -> None:
        self._handler = handler
        self._message: str | bytes | None = None
        self._taken: asyncio.Future[None] | None = None
        self._moved = asyncio.Event()
        self._complete = False  # the client has no more
        self._over = False  # all that came was read
        self._sent_eof = False
        self._left = False  # nobody reads any more
        self._shut: tuple[int | None, str] | None = None  # how it was closed from here

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        while self._shut is None:
            if self._message is not None:
                message = self._message
                self._release()
                return message
            if self._complete:
                raise StopAsyncIteration
            if self._over:
                break
            self._moved.clear()
            await self._moved.wait()
        raise self._error()

    async def send(self, message: str | bytes) -> None:
        """Send a message: text or binary, as it is ``str`` or ``bytes``. Waits while the client does not take
        what was sent before; what is cancelled meanwhile may still go.

        Raises ``StreamClosedError`` where the stream is gone, or was closed or ended from here, and
        ``TypeError`` for what is no message.
        """
        if not isinstance(message, (str, bytes)):
            raise TypeError("a message is str or bytes")
        if self._sent_eof or self._handler._is_gone:
            raise self._error()
        try:
            await self._handler.write_message(message, binary=isinstance(message, bytes))
        except WebSocketClosedError:
            raise self._error() from None

    async def send_eof(self) -> None:
        """No more messages from here; the client's may still come. Once more changes nothing.

        Over a socket of its own the client is told by a close frame with 1000, after what was sent before. It
        answers that at once and has until then, 5 s at most, to send: the loop ends with its answer.

        Raises ``StreamClosedError`` where the stream is gone, or was closed from here.
        """
        if self._sent_eof:
            return
        if self._shut is not None or not self._handler._end():
            raise self._error()
        self._sent_eof = True

    async def close(self, slug: str | None = None, retry_after: int | None = None) -> None:
        """Close both directions, after what was sent before: with 1000, or with a reason of the table as
        ``close_with_reason`` does. Does not wait for the client; what is closed stays so.

        ``retry_after`` is in seconds. Raises ``KeyError`` for a slug that is not in the table and
        ``ValueError`` for a negative ``retry_after``.
        """
        if slug is None:
            self._handler.close(NORMAL)
        else:
            self._handler.close_with_reason(slug, retry_after)

    # -- for the handler ---------------------------------------------------------------------------

    def _offer(self, message: str | bytes) -> asyncio.Future[None] | None:
        """A message came; the future tells when it was taken."""
        if self._left or self._shut is not None:
            return None
        self._message = message
        self._taken = asyncio.get_running_loop().create_future()
        self._moved.set()
        return self._taken

    def _release(self) -> None:
        taken, self._taken, self._message = self._taken, None, None
        if taken is not None and not taken.done():
            taken.set_result(None)

    def _shut_here(self, code: int | None, reason: str) -> None:
        if self._shut is None:
            self._shut = (code, reason)
            self._release()
            self._moved.set()

    def _has_ended(self) -> None:
        self._complete = True
        self._moved.set()

    def _is_over(self) -> None:
        """What came was read to its end."""
        code, _ = self._handler._ended_with()
        self._complete = self._complete or code in (None, NORMAL)
        self._over = True
        self._moved.set()

    def _leave(self) -> None:
        self._left = True
        self._release()

    def _error(self) -> StreamClosedError:
        if self._sent_eof and not self._handler._is_gone:
            return StreamClosedError()
        return StreamClosedError(*(self._shut or self._handler._ended_with()))


Callback = Callable[[MessageStream, StreamInfo], Awaitable[None]]


class StreamHandler(TokenWebSocketHandler, WebSocketMixin, WebSocketHandler, JupyterHandler):
    """A websocket handler that is one coroutine. Override ``on_stream``, or make a class of a function by
    ``of``; register it as any handler.

    Who may enter is settled before: by the guard, the identity provider, and the authorizer, which is asked
    for ``execute`` on ``auth_resource``.
    """

    auth_resource = "streams"

    cancel_after: float | None = 10
    """Seconds that ``on_stream`` has to end when the stream is gone; then it is cancelled. ``None``: it is
    not."""

    _opened = False

    async def on_stream(self, stream: MessageStream, info: StreamInfo) -> None:
        """Serve one client.

        When it returns the stream is closed with 1000. ``Refused`` closes with its reason, any other error
        with ``internal_error``, and is logged. That the stream is closed is no error.
        """
        raise NotImplementedError

    @classmethod
    def of(cls, callback: Callback, auth_resource: str | None = None) -> type[Self]:
        """A handler class whose ``on_stream`` is a function of stream and info."""

        async def on_stream(self: StreamHandler, stream: MessageStream, info: StreamInfo) -> None:
            await callback(stream, info)

        members = {
            "__module__": callback.__module__,
            "__doc__": callback.__doc__,
            "auth_resource": auth_resource or cls.auth_resource,
            "on_stream": on_stream,
        }
        name = getattr(callback, "__name__", type(callback).__name__)
        return type(name, (cls,), members)

    # -- before it is open -------------------------------------------------------------------------

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Ask the authorizer, then open."""
        allowed: bool = await ensure_async(
            self.authorizer.is_authorized(
                self, cast("Any", self.current_user), "execute", self.auth_resource
            )
        )
        if not allowed:
            raise web.HTTPError(403)
        await super().get(*args, **kwargs)

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """As stock, and it can be told from a lost connection that the client closed without a code."""
        made: Any = super().get_websocket_protocol()
        return None if made is None else _SocketProtocol(self, False, made.params)

    # -- while it is -------------------------------------------------------------------------------

    async def open(self, *args: Any, **kwargs: Any) -> None:
        """Start the coroutine."""
        super().open(*args, **kwargs)
        self._protocol = cast("Any", self.ws_connection)
        self._messages = MessageStream(self)
        self._opened = True
        self._ending = self._cancelled = self._is_gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.ensure_future(self._run(self._info()))
        if isinstance(self._protocol, StreamProtocol):
            self._protocol.tunnel_stream.when_closed(self._gone)
        else:
            self._protocol.stream.set_close_callback(self._gone)

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        """Nothing more is read from the client until this was taken."""
        return self._messages._offer(message)

    def on_half_close(self) -> None:
        """The client of a tunnel's stream has no more messages."""
        self._messages._has_ended()

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """As stock, whoever closes."""
        if not self._ending and self._opened:
            self._messages._shut_here(code, reason or "")
            self._gone()
        super().close(code, reason)

    def on_ws_connection_close(
        self, close_code: int | None = None, close_reason: str | None = None
    ) -> None:
        """All that came was read."""
        if self._opened:
            self._messages._is_over()
        super().on_ws_connection_close(close_code, close_reason)

    def on_close(self) -> None:
        """The connection ended, though there may be something left to read."""
        if self._opened:
            self._gone()
        super().on_close()

    def _gone(self) -> None:
        self._is_gone = True
        if self._timer is None and self.cancel_after is not None and not self._task.done():
            seconds = 0 if Guard.of(self.application).draining else self.cancel_after
            self._timer = asyncio.get_running_loop().call_later(seconds, self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()

    def _end(self) -> bool:
        """Tell the client that no more comes; whether there was somebody to tell."""
        protocol = self._protocol
        if isinstance(protocol, StreamProtocol):
            try:
                protocol.tunnel_stream.end()
            except StreamClosedError:
                return False
            return True
        if protocol.is_closing():
            return False
        self._ending = True
        try:
            self.close(NORMAL)
        finally:
            self._ending = False
        return True

    def _ended_with(self) -> tuple[int | None, str]:
        """Code and reason of the client's close, ``ABNORMAL`` where it was lost."""
        protocol = self._protocol
        if isinstance(protocol, StreamProtocol):
            closed = protocol.tunnel_stream.closed
            return (ABNORMAL, "") if closed is None else (closed.code, closed.reason)
        if protocol.said_close:
            return (protocol.close_code, protocol.close_reason or "")
        return (ABNORMAL, "")

    # -- the coroutine -----------------------------------------------------------------------------

    def _info(self) -> StreamInfo:
        info = socket_info(self)
        if info is None:  # the guard is off here
            user: Any = self.current_user
            source = CredentialSource.NONE if user is None else CredentialSource.AMBIENT
            name = getattr(user, "username", "")
            info = SocketInfo(source, self.selected_subprotocol, False, f"user:{name}", user)
        request: Any = self.request
        return StreamInfo(
            **vars(info),
            remote_address=request.remote_ip or "",
            local_address=self._protocol.stream.local_address
            if isinstance(self._protocol, StreamProtocol)
            else local_address(self._protocol.stream),
            tls=Guard.of(self.application).proxies.tls(request),
        )

    async def _run(self, info: StreamInfo) -> None:
        try:
            await self.on_stream(self._messages, info)
        except Refused as error:
            self.close_with_reason(error.slug, error.retry_after)
        except asyncio.CancelledError:
            if not self._cancelled:  # somebody else wants it to end
                self.close_with_reason("internal_error")
                raise
        except Exception as error:
            if not (_tells_closed(error) and self._is_closed()):
                self.log.exception("Error in the stream %s", self.request.path)
            self.close_with_reason("internal_error")
        else:
            self.close(NORMAL)
        finally:
            self._messages._leave()
            if self._timer is not None:
                self._timer.cancel()

    def _is_closed(self) -> bool:
        """Whether it was not the coroutine itself that ended what it wrote to."""
        return self._is_gone or (self._protocol.is_closing() and not self._messages._sent_eof)


class _SocketProtocol(WebSocketProtocol13):
    """Tornado's, which remembers whether the client said that it closes."""

    said_close = False

    def _handle_message(self, opcode: int, data: bytes) -> asyncio.Future[None] | None:
        self.said_close = self.said_close or opcode == _CLOSE
        return super()._handle_message(opcode, data)


def _tells_closed(error: BaseException) -> bool:
    """Whether an error says that a stream is closed, and nothing else; a group of such says so too."""
    inner = getattr(error, "exceptions", ())  # of Python 3.11 and later, or of a backport
    if inner:
        return all(map(_tells_closed, inner))
    return isinstance(error, StreamClosedError)
