"""A tunnel over plain HTTP: an event stream (``GET``) for what goes to the client, ``POST`` for what comes.

Both take ``Authorization`` and no other credential (C7.2): nothing that a browser adds by itself lets a page
of another origin in.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import re
from typing import TYPE_CHECKING, Any, cast

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado import web
from tornado.iostream import StreamClosedError

from jupyter_token_ws.guard.addresses import local_address
from jupyter_token_ws.guard.alone import judge_alone
from jupyter_token_ws.guard.core import RETRY_AFTER_DRAINING, Guard
from jupyter_token_ws.guard.handshake import Handshake
from jupyter_token_ws.guard.identity import DetachedHandler, StandIn, auth_enabled
from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.guard.rest import ApiHandler
from jupyter_token_ws.guard.router import is_upgrade
from jupyter_token_ws.protocol.frames import MAX_DATA
from jupyter_token_ws.protocol.reasons import REASONS, error_document, parse_close, slug_for_status
from jupyter_token_ws.protocol.tunnel import Closed, Data, Event, Opened, OutOfOrderError

from .only_stream import OnlyStream
from .socket_carrier import TunnelSocketHandler
from .tunnels import (
    EVENT_STREAM,
    PATH,
    HeldTunnel,
    Origin,
    Tunnels,
    asked_to_resume,
    wrong_with,
)

if TYPE_CHECKING:
    from jupyter_server.auth.identity import IdentityProvider, User

CONTENT_TYPE = "text/event-stream"

POST_WAIT = 10.0
"""Seconds that a batch waits for those before it."""

LINGER = 1.0
"""Seconds that a client is given to hear that its event stream has ended."""

MAX_NUMBER = 2**63
"""Frames have lower numbers."""


_LINE_END = re.compile("\r\n|\r|\n")


def event(data: str, name: str = "") -> bytes:
    """An event with some text (HTML standard, section 9.2: each line of it by itself)."""
    lines = [f"event: {name}"] if name else []
    lines += [f"data: {line}" for line in _LINE_END.split(data)]
    return "\n".join([*lines, "", ""]).encode()


def batch_event(first: int, data: bytes) -> bytes:
    """A batch of frames as an event."""
    return b"id: %d\ndata: %b\n\n" % (first, base64.b64encode(data))


def close_event(name: str, code: int | None, reason: str) -> bytes:
    """An event that says why there are no more: ``{"code", "status", "message"}``, a ``status`` where it is a
    reason of the table, and ``retry_after`` where it has one."""
    closed = parse_close(code or 0, reason)
    document: dict[str, Any] = {"message": reason}
    if closed is not None:
        document = error_document(closed.reason, closed.retry_after)
    return event(json.dumps({"code": code, **document}), name)


KEEPALIVE = event("{}", "keepalive")


class _Settled(StandIn):
    """Before the identity provider: who the request is from was settled by its header."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        """As it was judged."""
        user: User | None = await handler._judged()  # type: ignore[attr-defined] # it is ours
        return user

    def is_token_authenticated(self, handler: web.RequestHandler) -> bool:
        """By nothing that comes along by itself: and who posts has to know the tunnel's id besides."""
        return True

    def should_check_origin(self, handler: web.RequestHandler) -> bool:
        """Not of who came by a header that pages of other origins cannot set."""
        return not auth_enabled(object.__getattribute__(self, "_provider"))


class TunnelHandler(ApiHandler):
    """What takes ``Authorization`` and nothing else, and is about tunnels."""

    _needs_tls = True
    _token_ws_judges = True
    _shown: DetachedHandler
    _handshake: Handshake

    async def prepare(self) -> None:  # type: ignore[override] # upstream's argument is for websockets
        """Settle who this is, whatever the method."""
        await super().prepare()
        self.set_header("Cache-Control", "no-store")

    @functools.cached_property
    def _provider(self) -> IdentityProvider:
        return super().identity_provider

    @functools.cached_property
    def identity_provider(self) -> IdentityProvider:
        """The server's provider, who was asked about the header."""
        return cast("IdentityProvider", _Settled(self._provider, self))

    async def _judged(self) -> User | None:
        """Whom the request is from. Raises ``Refused``."""
        if self.request.method == "OPTIONS":
            return None
        authorization = self.request.headers.get("Authorization", "")
        if not auth_enabled(self._provider):
            self._check_page()
        elif not authorization:
            raise Refused("credentials_missing")
        found = await judge_alone(self, self._provider, "Authorization", authorization)
        self._shown = cast("DetachedHandler", found.handler)
        self._handshake = found.handshake
        grant = found.handshake.grant
        if grant is not None and grant.single_use:
            raise Refused("wrong_audience")  # it is for a websocket (C6.5)
        elsewhere = Guard.of(self.application).elsewhere
        if elsewhere is not None and await elsewhere(self._shown):
            raise Refused("other_server")
        return found.user

    def check_xsrf_cookie(self) -> None:
        """Nothing that a browser adds by itself lets anybody in. (A Hub's check asks only its own way of
        knowing that.)"""

    def _check_page(self) -> None:
        """Where everybody is let in, a page of another origin is not: it could use up all tunnels, and open
        websockets without an ``Origin``, which an image or a script does not send. Raises ``Refused``."""
        headers = self.request.headers
        if "Origin" in headers:
            allowed = self.check_origin()
        elif "Referer" in headers:
            allowed = self.check_referer()
        else:
            site = headers.get("Sec-Fetch-Site", "none")
            allowed = site in ("none", "same-origin") or self.allow_origin == "*"
        if not allowed:
            raise Refused("origin_refused")

    @property
    def _tunnels(self) -> Tunnels:
        return Tunnels.of(self.application)


class Pulse:
    """An event stream, as the guard's keepalive looks at a websocket."""

    _read_buffer_size = 0

    def __init__(self, handler: EventStreamHandler, held: HeldTunnel) -> None:
        self._handler = handler
        self._held = held
        self._stream: Any = cast("Any", handler.request.connection).stream

    @property
    def _wire_bytes_in(self) -> int:
        return self._held.heard

    @property
    def _total_write_done_index(self) -> int:
        return int(self._stream._total_write_done_index)

    def closed(self) -> bool:
        """The handler tells when it is."""
        return False

    def writing(self) -> bool:
        """Whether output waits."""
        return bool(self._stream.writing())

    def reading(self) -> bool:
        """The client is to be heard of: what it says comes by ``POST``."""
        return True

    def write_ping(self, data: bytes) -> None:
        """Ask for a sign of life."""
        self._handler.beat()

    def close(self) -> None:
        """There is nobody: cut the connection."""
        self._stream.close()


class EventStreamHandler(TunnelHandler):
    """``GET api/token-ws/tunnel`` as an event stream; upgrades of the path are another class's."""

    token_ws_socket = TunnelSocketHandler
    _held: HeldTunnel | None = None

    def initialize(self) -> None:
        """Nothing is to be written yet."""
        self._woken = asyncio.Event()
        self._beat = False
        self._ended: tuple[int | None, str] | None = None
        self._gone = False
        self._cut: asyncio.TimerHandle | None = None
        self.connection: Any = None

    @allow_unauthenticated
    async def get(self) -> None:
        """The events, until the tunnel is over or has another carrier."""
        guard = Guard.of(self.application)
        if guard.draining:
            raise Refused("draining", RETRY_AFTER_DRAINING)
        if is_upgrade(self.request):
            raise Refused("bad_request")  # the guard does not stand before this path
        path = self.get_query_argument("path", None)
        if path is not None:
            await self._follow(path)
            return
        asked = asked_to_resume(self)
        received = 0
        if asked is None:
            held = self._tunnels.open(self._handshake.principal)
        else:
            identity, received = asked
            held = self._tunnels.find(identity, self._handshake)
        self.connection = Pulse(self, held)
        held.attach(self, self._origin, received)
        self._held = held
        self.begin()
        await self._write(held)

    @property
    def _origin(self) -> Origin:
        came_in = local_address(cast("Any", self.request.connection).stream)
        return Origin(self._shown, self._handshake, EVENT_STREAM, came_in)

    def begin(self) -> None:
        """What stands before the first event."""
        # Nagle's algorithm would keep each small event until the one before is acknowledged.
        cast("Any", self.request.connection).stream.set_nodelay(True)
        self.set_header("Content-Type", CONTENT_TYPE)
        self.set_header("X-Accel-Buffering", "no")  # nginx would keep events until there are many

    async def _write(self, held: HeldTunnel) -> None:
        """Events as there is something to tell; one write at a time, or tornado loses one's end."""
        try:
            while held.carrier is self:
                beat, self._beat = self._beat, False
                batch = held.take(MAX_DATA)
                if batch is not None:
                    self.write(batch_event(*batch))
                    await self.flush()
                elif beat:
                    self.write(KEEPALIVE)
                    await self.flush()
                elif held.machine.closed:
                    break
                else:
                    self._woken.clear()
                    await self._woken.wait()
            if not self._gone:
                self.write(close_event("end", *(self._ended or held.ended)))
                await self.finish()
        except StreamClosedError:
            pass
        finally:
            if self._cut is not None:
                self._cut.cancel()
            held.detach(self)

    async def _follow(self, path: str) -> None:
        """One stream's messages as events, read-only (C7.7)."""
        wrong = wrong_with(path)
        if wrong is not None:
            raise Refused(wrong)
        guard = Guard.of(self.application)
        only = OnlyStream(guard, self._origin, path, self._woken.set)
        interval = guard.options.keepalive_interval or None
        try:
            while not (self._gone or self._finished):
                happened = only.events()
                for each in happened:
                    await self._tell(only, each)
                if happened:
                    continue
                self._woken.clear()
                try:
                    await asyncio.wait_for(self._woken.wait(), interval if only.opened else None)
                except asyncio.TimeoutError:
                    self.write(KEEPALIVE)
                    await self._sent(self.flush())
        except StreamClosedError:
            pass
        finally:
            only.leave()

    async def _tell(self, only: OnlyStream, happened: Event) -> None:
        if isinstance(happened, Opened):
            only.opened = True
            self.begin()
            self.write(event("{}", "open"))
        elif isinstance(happened, Data):
            whole = only.whole(happened)
            if whole is not None:
                encoded = whole if isinstance(whole, str) else base64.b64encode(whole).decode()
                self.write(event(encoded, "" if isinstance(whole, str) else "binary"))
        elif isinstance(happened, Closed):
            if not only.opened:
                closed = parse_close(happened.code or 0, happened.reason)
                status = (happened.code or 4500) - 4000
                slug = "forbidden" if status in (401, 403) else slug_for_status(status)
                raise Refused(closed.reason.slug if closed else slug)
            self.write(close_event("close", happened.code, happened.reason))
            await self._sent(self.finish())
            return
        await self._sent(self.flush())
        if isinstance(happened, Data):
            only.consumed(happened)

    async def _sent(self, written: asyncio.Future[None]) -> None:
        """Wait until it is out. Who follows one stream is not asked for signs of life, but who takes nothing
        for as long as anybody may be silent is cut."""
        options = Guard.of(self.application).options
        patience = options.keepalive_timeout if options.keepalive_interval > 0 else 0
        stream: Any = cast("Any", self.request.connection).stream
        while patience > 0 and not written.done():
            before = stream._total_write_done_index
            await asyncio.wait([written], timeout=patience)
            if stream._total_write_done_index == before:
                stream.close()
                break
        await written

    def beat(self) -> None:
        """Ask the client for a sign of life."""
        self._beat = True
        self._woken.set()

    def on_connection_close(self) -> None:
        """The carrier is lost."""
        self._gone = True
        if self._held is not None:
            self._held.detach(self)
        self._woken.set()
        super().on_connection_close()

    # -- as a carrier ------------------------------------------------------------------------------

    def wake(self) -> None:
        """See ``Carrier``."""
        self._woken.set()

    def end(self, slug: str) -> None:
        """See ``Carrier``."""
        reason = REASONS[slug]
        self._ended = (reason.code, reason.close_reason())
        self._woken.set()
        # It may be that nobody reads any more what is written already.
        loop = asyncio.get_running_loop()
        self._cut = loop.call_later(LINGER, self.connection.close)


@web.stream_request_body
class TunnelPostHandler(TunnelHandler):
    """``POST api/token-ws/tunnel/{id}``: a batch of the client's."""

    def initialize(self) -> None:
        """Nothing was read yet."""
        self._body = bytearray()

    async def prepare(self) -> None:  # type: ignore[override] # upstream's argument is for websockets
        """As all our paths; a body that is too large is not waited for."""
        await super().prepare()
        if self._finished:
            return
        if self.request.method == "POST":
            self._tunnels.find(self.path_args[0], self._handshake)
            self.bound_body(self._tunnels.options.max_post_size)

    def _carries_body(self) -> bool:
        return self.request.method == "POST"

    def data_received(self, chunk: bytes) -> None:
        """A part of the body."""
        self._body += chunk

    @allow_unauthenticated
    async def post(self, identity: str) -> None:
        """Take it in; answered with the number of the last frame that is here."""
        held = self._tunnels.find(identity, self._handshake)
        first, data, asks = read_post(bytes(self._body))
        self._body.clear()
        try:
            await asyncio.wait_for(held.receive_in_turn(first, data), POST_WAIT)
        except (OutOfOrderError, asyncio.TimeoutError):
            raise Refused("out_of_order") from None
        if asks and isinstance(held.carrier, EventStreamHandler):
            held.carrier.beat()
        self.finish({"received": held.machine.received})


def read_post(body: bytes) -> tuple[int, bytes, bool]:
    """The number of the first frame in a body, the frames, and whether an event is asked for.

    Raises ``Refused``, ``bad_request``.
    """
    try:
        match json.loads(body):
            case {"first": first, "frames": str(frames), **more} if type(first) is int:
                asks = more.get("ask", False)
                if 0 < first < MAX_NUMBER and isinstance(asks, bool):
                    return first, base64.b64decode(frames, validate=True), asks
    except (ValueError, RecursionError):
        pass
    raise Refused("bad_request", text='a body is {"first": number, "frames": base64}')


def handlers() -> list[tuple[str, type[JupyterHandler]]]:
    """Our routes, below the server's base."""
    return [
        (f"/{PATH}", EventStreamHandler),
        (f"/{PATH}/([A-Za-z0-9_-]+)", TunnelPostHandler),
    ]
