"""The tunnels of one server: who has which, and what becomes of one whose carrier is lost.

A tunnel's id is a name and no credential (C7.3): whoever comes with it is judged as everybody is, and only
the principal that opened it finds it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import unquote

from tornado.httputil import HTTPInputError

from jupyter_token_ws.guard import metrics
from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.handshake import Carried, Handshake
from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.guard.registry import OpenSocket
from jupyter_token_ws.protocol.reasons import REASONS, Feature
from jupyter_token_ws.protocol.tickets import climbs
from jupyter_token_ws.protocol.tunnel import (
    GOING_AWAY,
    OutOfOrderError,
    ResumeError,
    Side,
    Tunnel,
    TunnelError,
)

from .streams import Stream, Streams
from .virtual import serve, virtual_request

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest
    from tornado.web import Application, RequestHandler

SETTING = "token_ws_tunnels"
"""Where an application keeps its tunnels."""

PATH = "api/token-ws/tunnel"
"""Where tunnels are had, below the server's base."""

WEBSOCKET, EVENT_STREAM = "tunnel-websocket", "tunnel-eventstream"
"""Carriers, as capabilities and events call them."""

ID_SIZE = 18
"""Random bytes of an id: 144 bits (C7.3 asks for 128)."""

RETRY_AFTER_FULL = 30
"""Seconds. Somebody has to close a tunnel first."""

ACK_DELAY = 0.2
"""Seconds that an acknowledgement waits for something that it can go with."""

MAX_WAITING = 4
"""Batches of a tunnel that wait for earlier ones at most."""

TUNNELS = metrics.make(
    metrics.Watched, "tunnels_open", "Tunnels, by what carries them at the moment.", ("carrier",)
)


@dataclass(frozen=True)
class TunnelOptions:
    """What can be set; see the traits ``tunnel_…``. Times in seconds, sizes in bytes."""

    resume_window: float = 60
    idle_timeout: float = 600
    max_streams: int = 256
    max_per_principal: int = 16
    max_post_size: int = 512 * 1024
    stream_window: int = 256 * 1024
    window: int = 1024 * 1024
    replay: int = 1024 * 1024


@dataclass(frozen=True)
class Origin:
    """Where a carrier came from.

    ``handler`` is one whose request has the carrier's address and headers and no credential but that by
    which it came; ``handshake`` what is known of that; ``carrier`` what it is; ``local_address`` where it
    came in.
    """

    handler: RequestHandler
    handshake: Handshake
    carrier: str
    local_address: str

    @property
    def request(self) -> HTTPServerRequest:
        """The carrier's request."""
        return self.handler.request

    def serve(self, stream: Stream, application: Application, base_url: str) -> None:
        """Give a stream to the application, or refuse it."""
        wrong = wrong_with(stream.path)
        if not all(map(_NAME.fullmatch, stream.offered)):
            wrong = "bad_request"
        if wrong is None:
            try:
                request = self._for_stream(stream, base_url)
            except HTTPInputError:  # tornado has limits of its own
                wrong = "bad_request"
            else:
                serve(application, request, self.carried)
                return
        reason = REASONS[wrong]
        stream.close(reason.code, reason.close_reason())

    def _for_stream(self, stream: Stream, base_url: str) -> HTTPServerRequest:
        """The request that a stream is (C7.5)."""
        handshake = self.handshake
        by_header = handshake.source is CredentialSource.HEADER
        return virtual_request(
            stream,
            self.request,
            base_url,
            None if by_header else handshake.ours,
            handshake.authorization if by_header else None,
            self.local_address,
        )

    @property
    def carried(self) -> Carried:
        """What the guard is to know of its streams."""
        return Carried(self.carrier, self.handshake.grant)


class Carrier(Protocol):
    """What brings a tunnel's frames to its client and from it."""

    def wake(self) -> None:
        """There may be something to take."""

    def end(self, slug: str) -> None:
        """It is not the tunnel's any more, for this reason: nothing more is taken by it."""

    @property
    def connection(self) -> Any:
        """What the guard's keepalive is to look at; ``None`` where it does already."""


class Subject:
    """A tunnel, as the registry has it: what is closed when the credential of its carrier ends, whether there
    is a carrier or not."""

    def __init__(self, origin: Origin, close: Callable[[int | None, str | None], None]) -> None:
        self._handler = origin.handler
        self._token_ws_handshake = origin.handshake
        self.ws_connection: Any = None
        self.close = close

    def __getattr__(self, name: str) -> Any:
        """As the carrier's, for who asks for its credential anew."""
        return getattr(self._handler, name)


class HeldTunnel:
    """One tunnel, with or without a carrier at the moment."""

    def __init__(self, tunnels: Tunnels, principal: str, resume_window: float) -> None:
        self.id = secrets.token_urlsafe(ID_SIZE)
        self.principal = principal
        self.resume_window = resume_window
        self._tunnels = tunnels
        options, keepalive = tunnels.options, tunnels.guard.options
        self.machine = Tunnel(
            Side.SERVER,
            hello={
                "tunnel": self.id,
                "resume_window": resume_window,
                "max_streams": options.max_streams,
                "max_post_size": options.max_post_size,
                "keepalive": {
                    "interval": keepalive.keepalive_interval,
                    "timeout": keepalive.keepalive_timeout,
                },
            },
            stream_window=options.stream_window,
            tunnel_window=options.window,
            max_streams=options.max_streams,
            max_kept=options.replay,
        )
        self.streams = Streams(self.machine, self._asked, self._moved, self._over)
        self.carrier: Carrier | None = None
        self.audience: frozenset[str] | None = None
        """The widest of the tickets by which its carriers came; ``None``, all of the server."""
        self.heard = 0
        """Bytes that came."""
        self._origin: Origin | None = None  # of the newest carrier
        self._subject: Subject | None = None
        self._lost: asyncio.TimerHandle | None = None  # ends it when no carrier comes
        self._idle: asyncio.TimerHandle | None = None  # ends it when no stream comes
        self._ack: asyncio.TimerHandle | None = None
        self._ack_due = False
        self._waiting: list[asyncio.Future[None]] = []
        self._asking: deque[tuple[Stream, Origin]] = (
            deque()
        )  # asked for, not given to the application yet
        self._turn: asyncio.Handle | None = None  # when the next of these is
        self.ended: tuple[int | None, str] = (GOING_AWAY, "")
        """Code and reason, when it is over."""
        self._watch_idle()

    @property
    def carried_by(self) -> str:
        """What carries it at the moment, or ``none``."""
        return "none" if self.carrier is None or self._origin is None else self._origin.carrier

    # -- carriers ----------------------------------------------------------------------------------

    def attach(self, carrier: Carrier, origin: Origin, received: int) -> None:
        """A carrier came, whose client has so many frames; the one before ends. Raises ``Refused``."""
        try:
            self.machine.attach(received)
        except ResumeError:
            raise Refused("resume_failed") from None  # all stays as it was
        before, self.carrier = self.carrier, carrier
        self._origin = origin
        self.audience = audience_of(origin.handshake)
        if self._lost is not None:
            self._lost.cancel()
            self._lost = None
        self._enter(origin, carrier)
        if before is not None:
            before.end("replaced")
        carrier.wake()

    def _enter(self, origin: Origin, carrier: Carrier) -> None:
        """Enter the list of what ends with its credential: with that of the newest carrier."""
        guard, handshake = self._tunnels.guard, origin.handshake
        self._leave()
        subject = self._subject = Subject(origin, self.end)
        subject.ws_connection = carrier.connection
        entry = OpenSocket(
            handler=cast("Any", subject),
            path=origin.request.path,
            principal=self.principal,
            credential=handshake.credential,
            source=handshake.source,
            opted_in=True,
            user=handshake.user,
            remote_ip=origin.request.remote_ip or "",
            carrier=origin.carrier,
            stream=carrier.connection,
            user_name=handshake.told_name,
            grant=handshake.grant,
            socket=False,
        )
        guard.registry.add(entry)
        guard.on_opened(entry)
        guard.keepalive.start()

    def _leave(self) -> None:
        subject, self._subject = self._subject, None
        if subject is not None:
            self._tunnels.guard.registry.discard(cast("Any", subject))

    def end(self, code: int | None = None, reason: str | None = None) -> None:
        """End the tunnel with this code and reason."""
        if not self.machine.closed:
            self.ended = (code, reason or "")
            self.machine.close_tunnel(code, reason or "")
            self._moved()

    def detach(self, carrier: Carrier) -> None:
        """A carrier is lost; the tunnel waits for the next one."""
        if self.carrier is not carrier:
            return
        self.carrier = None
        self.machine.detach()
        entry = self._tunnels.guard.registry.get(cast("Any", self._subject))
        if entry is not None:
            entry.stream = None  # there is nobody to ask whether he is there
        if self.machine.closed:
            self._leave()
            return
        if self.resume_window <= 0:
            self.close()
            return
        loop = asyncio.get_running_loop()
        self._lost = loop.call_later(self.resume_window, self.close)

    def receive(self, first: int, data: bytes) -> None:
        """A carrier brought something. Raises ``OutOfOrderError`` where something before it is missing."""
        try:
            self.machine.receive(first, data)
        except TunnelError as error:  # it is over, and the client is told so
            wrong = REASONS[error.slug]
            self.ended = (wrong.code, wrong.close_reason())
        self.heard += 1 + len(data)
        self._wake_waiting()
        self._moved()
        if self._ack is None and self.machine.wants_ack:
            loop = asyncio.get_running_loop()
            self._ack = loop.call_later(ACK_DELAY, self._acknowledge)

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waits in waiting:
            if not waits.done():
                waits.set_result(None)

    async def receive_in_turn(self, first: int, data: bytes) -> None:
        """As ``receive``; what came before its turn waits for what is missing.

        Raises ``OutOfOrderError`` where too much waits already. Cancel it when it waited long enough.
        """
        while True:
            try:
                self.receive(first, data)
            except OutOfOrderError:
                if len(self._waiting) >= MAX_WAITING:
                    raise
            else:
                return
            waits = asyncio.get_running_loop().create_future()
            self._waiting.append(waits)
            try:
                await waits
            finally:
                with suppress(ValueError):
                    self._waiting.remove(waits)

    def take(self, size: int) -> tuple[int, bytes] | None:
        """What the carrier is to bring next; see ``protocol.tunnel.Tunnel.take``."""
        batch = self.machine.take(size, ack=self._ack_due)
        self._ack_due = False
        return batch

    def _acknowledge(self) -> None:
        self._ack = None
        self._ack_due = True
        self._wake()

    def close(self, slug: str | None = None) -> None:
        """End the tunnel, and all that it carries."""
        reason = None if slug is None else REASONS[slug]
        if reason is None:
            self.end(GOING_AWAY)
        else:
            self.end(reason.code, reason.close_reason())

    # -- streams -----------------------------------------------------------------------------------

    def _asked(self, stream: Stream) -> None:
        origin = cast("Origin", self._origin)  # frames come by a carrier
        self._watch_idle()
        stream.when_closed(self._watch_idle)
        self._asking.append((stream, origin))
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._serve_next)

    def _serve_next(self) -> None:
        """Serve one: a batch has room for thousands, and everybody waits while one is served."""
        self._turn = None
        while self._asking:
            stream, origin = self._asking.popleft()
            if stream.closed is None:  # who withdrew meanwhile costs nothing
                if self._asking:
                    self._turn = asyncio.get_running_loop().call_soon(self._serve_next)
                origin.serve(stream, self._tunnels.application, self._tunnels.base_url)
                return

    def _watch_idle(self) -> None:
        """A tunnel that nobody uses does not stay for ever."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        seconds = self._tunnels.options.idle_timeout
        if seconds > 0 and not len(self.streams) and not self.machine.closed:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(seconds, self.close, "open_timeout")

    def _moved(self) -> None:
        self.streams.hear()
        self._wake()

    def _wake(self) -> None:
        if self.carrier is not None:
            self.carrier.wake()

    def _over(self) -> None:
        self.ended = self.streams.closed_with or self.ended
        for timer in (self._lost, self._idle, self._ack):
            if timer is not None:
                timer.cancel()
        self._wake_waiting()
        if self.carrier is None:
            self._leave()  # else when the carrier has told its client
        self._tunnels.forget(self)


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 9110 section 5.6.2), for a header

_NOT_IN_A_PATH = re.compile(r"[^!-~]|[#\\]")


def wrong_with(path: str) -> str | None:
    """What is wrong with a stream's path, as a slug: it must lie below the base and be no tunnel (C7.5)."""
    if _NOT_IN_A_PATH.search(path):
        return "bad_request"
    where = path.partition("?")[0]
    if where.startswith("/") or climbs(where):
        return "not_found"
    below = unquote(where).rstrip("/") + "/"
    return "not_found" if below.startswith(f"{PATH}/") else None


def audience_of(handshake: Handshake) -> frozenset[str] | None:
    """Where a client may go who came by a ticket: route prefixes, or ``None``, everywhere."""
    grant = handshake.grant
    return None if grant is None or grant.audience is None else frozenset(grant.audience)


def asked_to_resume(handler: RequestHandler) -> tuple[str, int] | None:
    """The tunnel that a client comes back to, and how many frames it has; ``None`` for a new tunnel.

    Raises ``Refused``, ``bad_request``.
    """
    identity = handler.get_query_argument("tunnel", "")
    received = handler.get_query_argument("received", "0")
    if not (received.isascii() and received.isdigit() and len(received) < 19):
        raise Refused("bad_request")
    return (identity, int(received)) if identity else None


class Tunnels:
    """All of one server.

    Args:
        guard: of the server, whose application's websockets are streams.
        options: what can be set.
    """

    def __init__(self, guard: Guard, options: TunnelOptions | None = None) -> None:
        self.guard = guard
        self.application = guard.application
        self.base_url: str = guard.application.settings.get("base_url", "/")
        self.options = options or TunnelOptions()
        self._held: dict[str, HeldTunnel] = {}
        self._counts: Counter[str] = Counter()
        TUNNELS.watch(self, _tunnels_open)
        guard.application.settings[SETTING] = self
        guard.features |= {Feature.TUNNEL}
        guard.tunnel_document = {
            "path": PATH,
            "resume_window": self.options.resume_window,
            "max_streams": self.options.max_streams,
        }

    @classmethod
    def of(cls, application: Application) -> Tunnels:
        """The tunnels of an application. Raises ``KeyError`` where it has none."""
        found: Tunnels = application.settings[SETTING]
        return found

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[HeldTunnel]:
        return iter(list(self._held.values()))

    def open(self, principal: str, *, resumes: bool = True) -> HeldTunnel:
        """A new one. Raises ``Refused``, ``too_many_connections``."""
        most = self.options.max_per_principal
        if 0 < most <= self._counts[principal]:
            raise Refused("too_many_connections", RETRY_AFTER_FULL)
        made = HeldTunnel(self, principal, self.options.resume_window if resumes else 0)
        self._held[made.id] = made
        self._counts[principal] += 1
        return made

    def find(self, identity: str, handshake: Handshake) -> HeldTunnel:
        """A client's tunnel by its id. Raises ``Refused``: ``not_found``, also for somebody else's, and
        ``wrong_audience`` for one whose streams may be out of reach of the client's ticket."""
        found = self._held.get(identity)
        if found is None or found.principal != handshake.principal:
            raise Refused("not_found")
        if audience_of(handshake) not in (None, found.audience):
            raise Refused("wrong_audience")
        return found

    def forget(self, tunnel: HeldTunnel) -> None:
        """One is over."""
        if self._held.pop(tunnel.id, None) is not None:
            self._counts[tunnel.principal] -= 1
            if not self._counts[tunnel.principal]:
                del self._counts[tunnel.principal]


def _tunnels_open(tunnels: Tunnels) -> Counter[tuple[str, ...]]:
    return Counter((tunnel.carried_by,) for tunnel in tunnels)
