"""The extension: configuration and wiring, nothing else."""

from __future__ import annotations

import functools
import math
import os
import re
import socket
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jupyter_server.extension.application import ExtensionApp
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado import web
from traitlets import Bool, Dict, Enum, Float, Integer, List, TraitError, Unicode, default, validate

from . import frontends
from .bridge.backlog import Limits
from .bridge.connection import KernelBridgeConnection
from .bridge.hub import BridgeOptions
from .bridge.server import SETTING, Bridge
from .guard import logs, referrer, rest, router
from .guard.addresses import Proxies
from .guard.core import Guard, GuardOptions
from .login import handler as login_handler
from .login import link
from .login.directory import HubServerDirectory, ServerDirectory, StaticServerDirectory
from .login.memory import MemoryTicketStore
from .login.redis import RedisTicketStore
from .login.sealed import KeyProblem, SealedTicketStore
from .login.service import SETTING as LOGIN
from .login.service import Login
from .login.signed_out import SignedOut
from .login.store import TicketStore
from .login.watch import Watch
from .protocol.capabilities import CLOSE_REASONS
from .protocol.reasons import Feature
from .protocol.subprotocols import MAX_TOKEN_SIZE
from .protocol.tickets import is_ticket
from .tunnel import event_stream
from .tunnel.tunnels import TunnelOptions, Tunnels

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _setting(name: str) -> Any:
    """The default of an option: written down once."""
    return getattr(GuardOptions(), name)


def _not_negative(trait: str, number: float) -> None:
    if number < 0 or not math.isfinite(number):
        raise TraitError(f"TokenWebSocketApp.{trait} must be finite and not negative: {number}")


def _compile(trait: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise TraitError(f"TokenWebSocketApp.{trait}: {pattern!r}: {error}") from error


_STORES: dict[str, type[TicketStore]] = {
    "memory": MemoryTicketStore,
    "redis": RedisTicketStore,
    "sealed": SealedTicketStore,
}


_DIRECTORIES: dict[str, type[ServerDirectory] | None] = {
    "none": None,
    "static": StaticServerDirectory,
    "hub": HubServerDirectory,
}


class TokenWebSocketApp(ExtensionApp):
    """Takes tokens from the websocket subprotocol and tells refusals by close codes."""

    name = "jupyter_token_ws"
    extension_url = "/"
    load_other_extensions = True
    classes = [*_STORES.values(), *filter(None, _DIRECTORIES.values())]  # noqa: RUF012 - as upstream's own
    description = __doc__ or ""

    enabled = Bool(
        _setting("enabled"),
        help="Whether the guard stands before websockets. If not, tokens in subprotocols are taken out of"
        " requests all the same, so that no handler and no log ever sees one.",
    ).tag(config=True)
    exclude_paths = List(
        Unicode(),
        help="Regular expressions of paths below base_url, matched at their start, before which the guard"
        " does not stand. Tokens in subprotocols are taken out all the same.",
    ).tag(config=True)
    close_reasons = Enum(
        CLOSE_REASONS,
        default_value=_setting("close_reasons"),
        help="Who is told a refusal by accepting the socket and closing it with a 4xxx code."
        " 'offered': clients that offered a marker or a token as subprotocol, all others get plain HTTP;"
        " 'explicit': only clients that offered the reason marker; 'always': everybody; 'never': nobody.",
    ).tag(config=True)
    allow_token_in_url = Bool(
        _setting("allow_token_in_url"),
        help="Whether websockets take the token from the URL parameter 'token' as well.",
    ).tag(config=True)
    max_token_size = Integer(
        MAX_TOKEN_SIZE,
        help="The longest token taken from a subprotocol, in bytes as encoded there.",
    ).tag(config=True)
    keepalive_interval = Float(
        help="Seconds between two pings on every websocket; 0 leaves pings to jupyter_server and tornado."
        " Default: ServerApp.websocket_ping_interval if that is set, else 25."
    ).tag(config=True)
    keepalive_timeout = Float(
        help="Seconds of silence after which a websocket is dropped; 0 is never."
        " Default: ServerApp.websocket_ping_timeout if that is set, else three times the interval."
    ).tag(config=True)
    open_timeout = Float(
        _setting("open_timeout"),
        help="Seconds that a websocket may take from the complete request to the answer 101; 0 is for ever.",
    ).tag(config=True)
    open_timeouts = Dict(
        value_trait=Float(),
        key_trait=Unicode(),
        help="open_timeout by path, in seconds: regular expressions of paths below base_url, matched at"
        " their start, the first that matches counts.",
    ).tag(config=True)
    max_refusals_open = Integer(
        _setting("max_refusals_open"),
        help="How many refused websockets may be open at once, waiting for the client to hear the reason."
        " Further refusals are plain HTTP.",
    ).tag(config=True)
    refusal_burst = Integer(
        _setting("refusal_burst"),
        help="How many refusals in refusal_window seconds the same address, route and credential is told"
        " by close code. Further ones are plain HTTP.",
    ).tag(config=True)
    refusal_window = Float(
        _setting("refusal_window"), help="Seconds over which refusal_burst counts."
    ).tag(config=True)
    refusal_linger = Float(
        _setting("refusal_linger"),
        help="Seconds that a refused client is given to answer the close before the connection is cut.",
    ).tag(config=True)
    max_refusal_events = Integer(
        _setting("max_refusal_events"),
        help="How many refused websockets in a second are told to who listens to the server's events."
        " Of further ones the next event says how many there were.",
    ).tag(config=True)
    drain_timeout = Float(
        _setting("drain_timeout"),
        help="Seconds that clients are given to answer the close when the server ends.",
    ).tag(config=True)

    attempt_burst = Integer(
        _setting("attempt_burst"),
        help="How many different wrong tokens of one address are told so in attempt_window seconds. Further"
        " ones are refused with 4429 too_many_attempts, or 429. Right ones never are. 0 is any number.",
    ).tag(config=True)
    attempt_window = Float(
        _setting("attempt_window"), help="Seconds over which attempt_burst counts."
    ).tag(config=True)
    wrong_token_memory = Float(
        _setting("wrong_token_memory"),
        help="Seconds for which an identity provider that is not jupyter_server's own is not asked again for"
        " a token that admitted nobody; 0 asks always.",
    ).tag(config=True)
    password_wait = Float(
        _setting("password_wait"),
        help="Seconds that a password waits for its turn at most, at the login and on jupyter_server's login"
        " page. attempt_burst passwords of an address are tried at once, then so many in attempt_window"
        " seconds, each after the other; what would have to wait longer is answered 429. A right one costs"
        " nothing.",
    ).tag(config=True)
    max_connections = Integer(
        _setting("max_connections"),
        help="How many websockets may be open at once. Further ones are refused with 4429"
        " too_many_connections, or 429; open ones are never closed for it. 0 is any number.",
    ).tag(config=True)
    max_connections_per_principal = Integer(
        _setting("max_connections_per_principal"),
        help="How many of them may be open for one user, or for one token where the identity provider names"
        " no users. 0 is any number.",
    ).tag(config=True)
    max_handshakes = Integer(
        _setting("max_handshakes"),
        help="How many websockets may be between their request and the answer 101 at once, half as many for"
        " one address. Further ones are refused with 4429 too_many_connections, or 429. 0 is any number.",
    ).tag(config=True)
    trusted_proxies = List(
        Unicode(),
        help="Addresses and networks of the proxies before this server, and 'unix' where one comes by a unix"
        " socket. Only what these say of a client's address and protocol counts, for limits and for"
        " require_tls. With the header of a proxy and none named, nothing is limited by address.",
    ).tag(config=True)
    proxy_address_header = Unicode(
        _setting("proxy_address_header"),
        help="The header in which trusted_proxies tell the client's address, read from right to left as"
        " X-Forwarded-For is. No other is read.",
    ).tag(config=True)
    proxy_protocol_header = Unicode(
        _setting("proxy_protocol_header"),
        help="The header in which trusted_proxies tell the client's protocol. No other is read.",
    ).tag(config=True)
    require_tls = Bool(
        _setting("require_tls"),
        help="Whether websockets and login are refused over plain HTTP, with 4426 tls_required or 426."
        " What comes from this machine without the header of a proxy may be plain.",
    ).tag(config=True)

    login = Bool(
        True,
        help="Whether there are login tickets: tokens of short life that a client gets for a password, a"
        " token or its cookie, and that stand for these at websockets and REST.",
    ).tag(config=True)
    ticket_store = Enum(
        tuple(_STORES),
        default_value="memory",
        help="Where tickets are kept. 'memory': here; they end with the server. 'redis': in Redis, for"
        " servers that trust each other; needs jupyter-token-ws[redis]. 'sealed': nowhere, they are"
        " encrypted under a key of the server, and can neither be revoked nor be for one use; needs"
        " jupyter-token-ws[sealed].",
    ).tag(config=True)
    server_directory = Enum(
        tuple(_DIRECTORIES),
        default_value="none",
        help="Who knows that users who log in here have a server elsewhere. They get a token for that one,"
        " and their websockets are refused here with 4421 other_server. 'static': StaticServerDirectory, the"
        " configuration. 'hub': HubServerDirectory, a JupyterHub.",
    ).tag(config=True)
    link_ticket = Bool(
        False,
        help="Whether the link that the server prints and opens at its start has a ticket for one browser in"
        " place of the token. For another one, later: `jupyter token-ws login --local --link URL` on the"
        " server's machine. A token from the configuration is not printed in either case.",
    ).tag(config=True)
    link_age = Float(
        900,
        help="Seconds that a link of link_ticket is good, if it was not used before.",
    ).tag(config=True)

    revalidate_interval = Float(
        60,
        help="Seconds after which the identity provider is asked again for the credential behind open"
        " websockets, once for each. Those of one that admits nobody any more are closed with 4401"
        " token_revoked. 0 never asks.",
    ).tag(config=True)
    revalidate_grace = Float(
        900,
        help="Seconds that a websocket stays open while the identity provider fails to answer what it is"
        " asked every revalidate_interval; then it is closed with 4503 unavailable. One by a ticket ends"
        " with its ticket in any case.",
    ).tag(config=True)

    bridge = Bool(
        True,
        help="Whether the sockets of kernels go through the bridge. If not, or where"
        " ServerApp.kernel_websocket_connection_class is set or kernels are a gateway's, they are as"
        " jupyter_server has them.",
    ).tag(config=True)
    backlog_memory = Integer(
        Limits.memory,
        help="Bytes of a kernel's messages that are held in memory for a client that does not take them.",
    ).tag(config=True)
    backlog_disk = Integer(
        Limits.disk,
        help="Bytes held for a client in a temporary file beyond that; 0 for none. Where there is one,"
        " half of backlog_memory is for what is on its way there.",
    ).tag(config=True)
    backlog_disk_total = Integer(
        BridgeOptions.disk_total, help="Bytes held in temporary files for all clients together."
    ).tag(config=True)
    backlog_directory = Unicode(
        help="Where temporary files are made. Default: the server's runtime directory."
    ).tag(config=True)
    backlog_overflow = Enum(
        ("cut", "close"),
        default_value="cut",
        help="What becomes of output that has no room: 'cut' puts a notice with the count in its place,"
        " 'close' ends the connection with 4507 backlog_full.",
    ).tag(config=True)
    backlog_age = Float(
        BridgeOptions.age,
        help="Seconds that messages are held for a client that is away while its kernel has others;"
        " for its only client they are held as long as the kernel runs.",
    ).tag(config=True)

    tunnel = Bool(
        True,
        help="Whether many websockets may come over one connection, a websocket or an event stream: see"
        " docs/reference/tunnel.md.",
    ).tag(config=True)
    tunnel_resume_window = Float(
        TunnelOptions.resume_window,
        help="Seconds that a tunnel waits for its client when the connection is lost. Meanwhile nothing of it"
        " is lost; then its streams are closed.",
    ).tag(config=True)
    tunnel_idle_timeout = Float(
        TunnelOptions.idle_timeout,
        help="Seconds after which a tunnel without streams is closed with 4408 open_timeout; 0 is never.",
    ).tag(config=True)
    tunnel_max_streams = Integer(
        TunnelOptions.max_streams,
        help="How many websockets one tunnel may carry at once. Further ones are refused with 4429"
        " too_many_connections.",
    ).tag(config=True)
    max_tunnels_per_principal = Integer(
        TunnelOptions.max_per_principal,
        help="How many tunnels may be there for one user, those included that wait for their client. Further"
        " ones are refused with 4429 too_many_connections, or 429. 0 is any number.",
    ).tag(config=True)
    tunnel_max_post_size = Integer(
        TunnelOptions.max_post_size,
        help="Bytes of the body of a POST to a tunnel at most. More is answered 413 bad_request, unread.",
    ).tag(config=True)
    tunnel_stream_window = Integer(
        TunnelOptions.stream_window,
        help="Bytes that a client may send on one stream of a tunnel before they are read; more ends the"
        " tunnel with 4400 bad_request.",
    ).tag(config=True)
    tunnel_window = Integer(
        TunnelOptions.window,
        help="Bytes that a client may send on all streams of a tunnel before it hears that they came; more"
        " ends the tunnel with 4400 bad_request.",
    ).tag(config=True)
    tunnel_replay = Integer(
        TunnelOptions.replay,
        help="Bytes that are kept of a tunnel's output until its client says that it has them. What there is"
        " no room for waits.",
    ).tag(config=True)

    guard: Guard

    @default("backlog_directory")
    def _default_backlog_directory(self) -> str:
        return str(getattr(self.serverapp, "runtime_dir", ""))

    @default("keepalive_interval")
    def _default_keepalive_interval(self) -> float:
        return self._ping_setting("websocket_ping_interval") or _setting("keepalive_interval")

    @default("keepalive_timeout")
    def _default_keepalive_timeout(self) -> float:
        return self._ping_setting("websocket_ping_timeout") or 3 * self.keepalive_interval

    def _ping_setting(self, name: str) -> float:
        return float(getattr(self.serverapp, name, None) or 0)

    @validate(
        "max_token_size",
        "keepalive_interval",
        "keepalive_timeout",
        "open_timeout",
        "max_refusals_open",
        "refusal_burst",
        "refusal_window",
        "refusal_linger",
        "max_refusal_events",
        "drain_timeout",
        "attempt_burst",
        "attempt_window",
        "wrong_token_memory",
        "max_connections",
        "max_connections_per_principal",
        "max_handshakes",
        "password_wait",
        "revalidate_interval",
        "revalidate_grace",
        "backlog_memory",
        "backlog_disk",
        "backlog_disk_total",
        "backlog_age",
        "tunnel_resume_window",
        "tunnel_idle_timeout",
        "max_tunnels_per_principal",
    )
    def _number(self, proposal: Any) -> Any:
        _not_negative(proposal["trait"].name, proposal["value"])
        return proposal["value"]

    @validate(
        "link_age",
        "tunnel_max_streams",
        "tunnel_max_post_size",
        "tunnel_stream_window",
        "tunnel_window",
        "tunnel_replay",
    )
    def _positive(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if not 0 < value < math.inf:
            raise TraitError(f"TokenWebSocketApp.{name} must be positive and finite: {value}")
        return value

    @validate("backlog_directory")
    def _directory(self, proposal: Any) -> Any:
        path: str = proposal["value"]
        if path and not (Path(path).is_dir() and os.access(path, os.W_OK | os.X_OK)):
            raise TraitError(
                f"TokenWebSocketApp.backlog_directory is no directory that can be written: {path}"
            )
        return path

    @validate("trusted_proxies")
    def _proxies(self, proposal: Any) -> Any:
        try:
            Proxies.named(proposal["value"])
        except ValueError as error:
            raise TraitError(f"TokenWebSocketApp.trusted_proxies: {error}") from error
        return proposal["value"]

    @validate("proxy_address_header", "proxy_protocol_header")
    def _header(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if not re.fullmatch(r"[A-Za-z0-9-]+", value):
            raise TraitError(f"TokenWebSocketApp.{name} is no name of a header: {value!r}")
        return value

    @validate("exclude_paths", "open_timeouts")
    def _patterns(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        for pattern in value:
            _compile(name, pattern)
        for seconds in value.values() if isinstance(value, dict) else ():
            _not_negative(name, seconds)
        return value

    @property
    def _application(self) -> web.Application:
        application: web.Application = cast("ServerApp", self.serverapp).web_app
        return application

    def options(self) -> GuardOptions:
        """The traits as the guard's options, which have the same names."""
        values = {field.name: getattr(self, field.name) for field in fields(GuardOptions)}
        for name in ("exclude_paths", "trusted_proxies"):
            values[name] = tuple(values[name])
        return GuardOptions(**values)

    def _link_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        """Read the configuration. An error in it ends the server, as one in its own does: upstream
        would go on with all our options at their defaults, open where they were meant to be shut."""
        try:
            super()._link_jupyter_server_extension(serverapp)
        except TraitError as error:
            self._end(serverapp, error)

    def _end(self, serverapp: ServerApp, error: Exception) -> None:
        serverapp.log.critical("Bad config encountered during initialization: %s", error)
        serverapp.exit(1)

    def initialize_settings(self) -> None:
        """The guard of this server."""
        self.guard = Guard(self._application, self.options(), self.log)
        self._build_login()
        self._build_bridge()
        self._build_tunnel()

    def _build_login(self) -> None:
        """Tickets, if there are to be any. A store that cannot be had ends the server: whoever configured
        it counts on it."""
        if not (self.login and self.enabled):
            if self.link_ticket:
                self.log.warning(
                    "TokenWebSocketApp.link_ticket needs login: the link has the token"
                )
            return
        server, kind = cast("ServerApp", self.serverapp), _STORES[self.ticket_store]
        options: dict[str, Any] = {}
        if kind is SealedTicketStore:
            options["server"] = self._name_for_tickets()
        try:
            store = kind(parent=self, log=self.log, **options)
            directory = self._directory_of(store)
        except (ImportError, KeyProblem, TraitError) as error:
            self._end(server, error)
            return
        if is_ticket(getattr(server.identity_provider, "token", "") or ""):
            self.log.warning(
                "The server's token begins as tickets do, and is judged as one: choose another"
            )
        login = Login(self.guard, store, directory=directory)
        login.watch = Watch(
            self.guard,
            store,
            interval=self.revalidate_interval,
            grace=self.revalidate_grace,
            clock=store.clock,
        )
        login.signed_out = SignedOut(
            self.guard,
            server.identity_provider,
            functools.partial(login.watch.end, cause="logout"),
            store.denials,
        )
        store.share_limits(self.guard.throttle)
        if self.link_ticket:
            login.links = link.Links(login, server, self.link_age)
            login.links.install()

    def _name_for_tickets(self) -> str:
        """Of two servers that share a key neither takes the other's tickets, unless they are told so."""
        chosen: str = self.config.SealedTicketStore.get("server", "")
        server = cast("ServerApp", self.serverapp)
        return chosen or f"{socket.gethostname()} {server.ip}:{server.port}{server.base_url}"

    def _directory_of(self, store: TicketStore) -> ServerDirectory | None:
        kind = _DIRECTORIES[self.server_directory]
        if kind is None:
            return None
        directory = kind(parent=self, log=self.log)
        directory.base_url = cast("ServerApp", self.serverapp).base_url
        directory.lifetimes = store.lifetimes
        return directory

    def _other_connection_class(self) -> str | None:
        """The class that an administrator chose for kernels, or a gateway's; ``None`` for the default."""
        server = cast("ServerApp", self.serverapp)
        chosen: Any = server.kernel_websocket_connection_class
        named = any(
            "kernel_websocket_connection_class" in server.config[kind.__name__]
            for kind in type(server).__mro__
            if kind.__name__ in server.config
        )
        return chosen.__name__ if named or chosen is not ZMQChannelsWebsocketConnection else None

    def _build_bridge(self) -> None:
        """Put the bridge where jupyter_server's own class stands, if that is there by default."""
        server, settings = cast("ServerApp", self.serverapp), self._application.settings
        if not self.bridge:
            self.log.info("TokenWebSocketApp.bridge is False: kernels are without the bridge")
            return
        other = self._other_connection_class()
        if other is not None:
            self.log.info("Kernels are without the bridge: their connection class is %s", other)
            return
        try:
            KernelBridgeConnection(config=server.config)  # or each connection would find out anew
        except TraitError as error:
            self._end(server, error)
        disk = min(self.backlog_disk, self.backlog_disk_total)
        limits = Limits(self.backlog_memory, disk, self.backlog_overflow == "close")
        directory = self.backlog_directory or None
        options = BridgeOptions(limits, self.backlog_disk_total, self.backlog_age, directory)
        bridge = settings[SETTING] = Bridge(options, self.log)
        # Upstream writes its copy of all settings back when this is done, so into the copy too.
        for place in (settings, self.settings):
            place["kernel_websocket_connection_class"] = KernelBridgeConnection
        bridge.watch(server.kernel_manager)
        self.guard.features |= {Feature.BRIDGE}

    def _build_tunnel(self) -> None:
        if not (self.tunnel and self.enabled):
            return
        Tunnels(
            self.guard,
            TunnelOptions(
                resume_window=self.tunnel_resume_window,
                idle_timeout=self.tunnel_idle_timeout,
                max_streams=self.tunnel_max_streams,
                max_per_principal=self.max_tunnels_per_principal,
                max_post_size=self.tunnel_max_post_size,
                stream_window=self.tunnel_stream_window,
                window=self.tunnel_window,
                replay=self.tunnel_replay,
            ),
        )

    def initialize_handlers(self) -> None:
        """Our routes, and the rule before all others."""
        router.install(self.guard, rest.SocketOptionsHandler)
        if not self.enabled:
            self.log.info("TokenWebSocketApp.enabled is False: no websocket is guarded")
        if self.enabled:
            self.handlers.extend(rest.handlers())
            login: Login | None = self._application.settings.get(LOGIN)
            if login is not None:
                self.handlers.extend(login_handler.handlers())
                if login.links is not None:
                    self.handlers.extend(link.handlers())
            if self.guard.tunnel_document is not None:
                self.handlers.extend(event_stream.handlers())
            referrer.install(self._application)
            rest.add_to_pages(self._application.settings)

    async def _start_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        """What came since: loggers, the port where another was taken, and extensions that set the page hook
        for themselves."""
        logs.install(self.log)
        login: Login | None = self._application.settings.get(LOGIN)
        if login is not None:
            if isinstance(login.store, SealedTicketStore):
                login.store.server = self._name_for_tickets()
            await login.store.start()
        if self.enabled:
            rest.add_to_pages(self._application.settings)
            if frontends.lack_their_part(serverapp):
                self.log.warning(frontends.MISSING)

    async def stop_extension(self) -> None:
        """The server ends: tell every socket."""
        guard: Guard | None = getattr(self, "guard", None)
        if (
            guard is not None
        ):  # also called where loading failed, and an error keeps the server alive
            await guard.drain()
            login: Login | None = self._application.settings.get(LOGIN)
            if login is not None:
                if login.watch is not None:
                    login.watch.stop()
                await login.store.close()
                if login.directory is not None:
                    login.directory.close()
            bridge: Bridge | None = self._application.settings.get(SETTING)
            if bridge is not None:
                bridge.close()
