"""The guard of one server: its options, its registry, its timer, and who passes by it.

Everything that belongs to a server and not to a request is here. One guard belongs to one tornado
application and is found in its settings.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_token_ws.protocol.capabilities import CLOSE_REASONS
from jupyter_token_ws.protocol.reasons import Feature, Reason
from jupyter_token_ws.protocol.subprotocols import MAX_TOKEN_SIZE, Offer, parse_offer

from . import logs, metrics
from .addresses import ADDRESS_HEADER, PROTOCOL_HEADER, Proxies
from .credentials import Digester
from .events import Events
from .handshake import Handshake
from .keepalive import Keepalive
from .kernels import SessionClaims
from .openings import Opening, Openings
from .refusal import RefusalBudget
from .registry import OpenSocket, Registry
from .throttle import Throttle

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest
    from tornado.web import Application, RequestHandler

    from .tickets import Tickets

SETTING = "token_ws_guard"
"""Where an application keeps its guard."""

RETRY_AFTER_DRAINING = 1
"""Seconds. Whoever starts the server again needs a moment."""

RETRY_AFTER_CROWD = 5
"""Seconds. Handshakes are through in less, but for those that wait for a kernel."""

RETRY_AFTER_FULL = 30
"""Seconds. Somebody has to close a socket first."""

_HEADER = "Sec-WebSocket-Protocol"
_ATTRIBUTE = "_token_ws_handshake"


@dataclass(frozen=True)
class GuardOptions:
    """What can be set. Times in seconds, sizes in bytes; the traits of the extension explain each."""

    enabled: bool = True
    exclude_paths: tuple[str, ...] = ()
    close_reasons: str = CLOSE_REASONS[0]
    allow_token_in_url: bool = True
    max_token_size: int = MAX_TOKEN_SIZE
    keepalive_interval: float = 25
    keepalive_timeout: float = 75
    open_timeout: float = 300
    open_timeouts: Mapping[str, float] = field(default_factory=dict)
    max_refusals_open: int = 100
    refusal_burst: int = 5
    refusal_window: float = 10
    refusal_linger: float = 1
    max_refusal_events: int = 10
    drain_timeout: float = 2
    attempt_burst: int = 20
    attempt_window: float = 60
    wrong_token_memory: float = 10
    password_wait: float = 10
    max_connections: int = 10_000
    max_connections_per_principal: int = 2_000
    max_handshakes: int = 1_000
    trusted_proxies: tuple[str, ...] = ()
    proxy_address_header: str = ADDRESS_HEADER
    proxy_protocol_header: str = PROTOCOL_HEADER
    require_tls: bool = False


class Guard:
    """The guard of one tornado application."""

    def __init__(
        self,
        application: Application,
        options: GuardOptions | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.application = application
        self.options = options = options or GuardOptions()
        self.log = log or logging.getLogger("jupyter_token_ws")
        self.digest = Digester()
        self.registry = Registry(self.log, self._on_end)
        self.events = Events(application, self.log, options.max_refusal_events)
        self.sessions = SessionClaims()
        self.refusals = RefusalBudget(
            options.max_refusals_open, options.refusal_burst, options.refusal_window
        )
        self.keepalive = Keepalive(
            self.registry,
            options.keepalive_interval,
            options.keepalive_timeout,
            on_tick=self._on_tick,
            on_drop=self._on_drop,
        )
        self.proxies = Proxies.named(
            options.trusted_proxies, options.proxy_address_header, options.proxy_protocol_header
        )
        self.throttle = Throttle(
            self.proxies,
            self.digest,
            self.log,
            burst=options.attempt_burst,
            window=options.attempt_window,
            memory=options.wrong_token_memory,
            longest=options.password_wait,
        )
        self.features = frozenset({Feature.GUARD})
        """What this server has, for the reasons that it may give. Who adds a part adds it here."""
        if options.require_tls:
            self.features |= {Feature.TLS}
        self.elsewhere: Callable[[RequestHandler], Awaitable[bool]] | None = None
        """Whether the websockets of whoever was admitted belong to another server; may raise ``Refused``."""
        self.tickets: Tickets | None = None
        """Who keeps tickets, where there are any."""
        self.login_document: Mapping[str, Any] | None = None
        """What the capabilities say of login, where there is one."""
        self.tunnel_document: Mapping[str, Any] | None = None
        """What they say of the tunnel, where there is one."""
        self.on_opened: Callable[[OpenSocket], None] = lambda _: None
        """Told of each socket that opened."""
        self.draining = False
        self.opening = Openings(on_late=functools.partial(self._refuse_opening, "open_timeout"))
        self._tasks: set[asyncio.Task[None]] = set()
        self._excluded = [re.compile(pattern) for pattern in options.exclude_paths]
        self._open_timeouts = [
            (re.compile(pattern), seconds) for pattern, seconds in options.open_timeouts.items()
        ]
        self._numbers = itertools.count(1)
        metrics.SOCKETS_OPEN.watch(self, _sockets_open)
        metrics.HANDSHAKES_OPEN.watch(self, lambda guard: {(): len(guard.opening)})
        metrics.REFUSALS_OPEN.watch(self, lambda guard: {(): guard.refusals.open})
        application.settings[SETTING] = self
        logs.install(self.log)

    @classmethod
    def of(cls, application: Application) -> Guard:
        """The guard of an application; one with default options where it has none."""
        guard: Guard | None = application.settings.get(SETTING)
        return guard if guard is not None else cls(application)

    # -- one request -------------------------------------------------------------------------------

    def begin(self, request: HTTPServerRequest) -> Handshake:
        """Take the token out of a request and keep what is known of it. May be called again."""
        handshake: Handshake | None = getattr(request, _ATTRIBUTE, None)
        if handshake is None:
            offer = self.strip(request)
            handshake = Handshake.begin(request, offer, self.opted_in(offer))
            setattr(request, _ATTRIBUTE, handshake)
        return handshake

    def strip(self, request: HTTPServerRequest) -> Offer:
        """Take every token-bearing entry out of a request's offer (C1.2)."""
        header = request.headers.get(_HEADER, "")
        offer = parse_offer(header, self.options.max_token_size)
        if offer.token_bearing:
            set_offer(request, offer.visible)
        return offer

    def opted_in(self, offer: Offer) -> bool:
        """Whether a refusal is told by accepting and closing (C3.1)."""
        mode = self.options.close_reasons
        if mode == "offered":
            return offer.marker or offer.token_bearing or offer.reason_marker
        return offer.reason_marker if mode == "explicit" else mode == "always"

    def covers(self, path: str) -> bool:
        """Whether the guard stands before a path; if not, tokens are stripped all the same."""
        if not self._excluded:
            return self.options.enabled  # as nearly everywhere; this is asked for every upgrade
        below = self._below_base(path)
        return self.options.enabled and not any(p.match(below) for p in self._excluded)

    def open_timeout(self, path: str) -> float:
        """How long a path may take from the request to the 101, in seconds; 0 is for ever."""
        for pattern, seconds in self._open_timeouts:
            if pattern.match(self._below_base(path)):
                return seconds
        return self.options.open_timeout

    def _below_base(self, path: str) -> str:
        base: str = self.application.settings.get("base_url", "/")
        return path[len(base) :] if path.startswith(base) else path.lstrip("/")

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the request that started it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- limits ------------------------------------------------------------------------------------

    def lacks_tls(self, request: HTTPServerRequest) -> bool:
        """Whether a request is to be refused because it did not come encrypted."""
        return self.options.require_tls and not self.proxies.encrypted(request)

    def crowded(self, handler: Opening) -> bool:
        """Whether too many handshakes are in progress for one more; of one address half as many."""
        most = self.options.max_handshakes
        if not most or 2 * len(self.opening) < most:
            return False
        if len(self.opening) >= most:
            return True
        client = handler.opening_client()
        if client is None:
            return False
        return 2 * sum(other.opening_client() == client for other in self.opening) >= most

    def full(self, principal: str) -> bool:
        """Whether too many sockets are open for one more of a principal."""
        most, most_of_one = self.options.max_connections, self.options.max_connections_per_principal
        if 0 < most <= self.registry.sockets:
            return True
        return 0 < most_of_one <= self.registry.count(principal)

    # -- open sockets ------------------------------------------------------------------------------

    def opened(self, socket: OpenSocket, seconds: float) -> None:
        """A socket opened, ``seconds`` after its request."""
        socket.number = next(self._numbers)
        self.registry.add(socket)
        self.on_opened(socket)
        self.keepalive.start()
        metrics.opened(socket, seconds)
        self.events.socket_opened(socket)
        grant = socket.grant
        if grant is not None:
            self.events.ticket_used(
                family=grant.family,
                user=socket.user_name,
                handler=socket.handler,
                single_use=grant.single_use,
            )

    def refused(self, handler: RequestHandler, reason: Reason, told: bool) -> None:
        """A socket was refused; ``told`` says whether by close code."""
        handshake = self.begin(handler.request)
        self._log_refusal(handler.request, handshake, reason, told)
        metrics.refused(handler, reason, told)
        self.events.socket_refused(handler, handshake, reason, told)

    def _log_refusal(
        self, request: HTTPServerRequest, handshake: Handshake, reason: Reason, told: bool
    ) -> None:
        name = handshake.told_name
        self.log.info(
            "Refused websocket: %d %s %s from %s%s%s",
            reason.code,
            reason.slug,
            logs.printable(request.path),
            request.remote_ip,
            f" user {logs.printable(name)}" if name else "",
            "" if told else " (plain HTTP)",
        )

    def _on_end(self, socket: OpenSocket) -> None:
        metrics.closed(socket)
        if self.events.heard("socket_closed"):
            # Not before the handler was told: one that listens itself has stopped then.
            asyncio.get_running_loop().call_soon(self.events.socket_closed, socket)

    async def drain(self) -> None:
        """Close every socket because the server ends, and refuse new ones from now on."""
        self.draining = True
        metrics.DRAINS.inc()
        for handler in self.opening:
            self._refuse_opening("draining", handler, RETRY_AFTER_DRAINING)
        self.opening.stop()
        if len(self.registry):
            self.log.info("Closing %d websockets", len(self.registry))
        self.registry.close_all("draining", RETRY_AFTER_DRAINING)
        if not await self.registry.wait_empty(self.options.drain_timeout):
            self.log.info("%d websockets did not answer the close", len(self.registry))
        self.keepalive.stop()

    def _refuse_opening(self, slug: str, handler: Opening, retry_after: int | None = None) -> None:
        try:
            handler.refuse_opening(slug, retry_after)
        except Exception:  # whatever a handler raises, it must not keep us from the next one
            self.log.exception("Cannot refuse a websocket that is opening")

    def _on_tick(self) -> None:
        kernel_manager: Any = self.application.settings.get("kernel_manager")
        if kernel_manager is None:
            return
        for socket in self.registry:
            if (
                socket.kernel is not None
                and socket.opted_in
                and socket.kernel not in kernel_manager
            ):
                socket.kernel = None
                self.registry.close(socket, "gone")

    def _on_drop(self, socket: OpenSocket, silence: float) -> None:
        socket.ended_by = "keepalive"
        self.log.warning(
            "Dropping websocket %s from %s after %.0f s of silence",
            logs.printable(socket.path),
            socket.remote_ip,
            silence,
        )


def _sockets_open(guard: Guard) -> Counter[tuple[str, ...]]:
    return Counter(
        (metrics.handler_name(type(socket.handler)), socket.source.value)
        for socket in guard.registry
        if socket.socket
    )


def set_offer(request: HTTPServerRequest, protocols: tuple[str, ...]) -> None:
    """Write the offered subprotocols of a request anew."""
    if protocols:
        request.headers[_HEADER] = ", ".join(protocols)
    elif _HEADER in request.headers:
        del request.headers[_HEADER]
