"""A server: what it can do, by which carrier, with which credential; requests and websockets of it."""

from __future__ import annotations

import asyncio
import json as _json
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakSet

from jupyter_token_ws.protocol.auth import (
    BasicAuth,
    Endpoint,
    Request,
    Response,
)
from jupyter_token_ws.protocol.clients import (
    Addresses,
    TokenRoute,
    addresses,
    token_route,
    within_base,
)
from jupyter_token_ws.protocol.reasons import REASONS, Advice
from jupyter_token_ws.protocol.versions import API_VERSIONS, HEADER, best_common, negotiate

from .auth import Authenticator, Grant
from .backoff import Backoff
from .config import Auth, plugins_of
from .errors import (
    ClientError,
    NoConnectionError,
    RefusedError,
    SocketClosedError,
    UnsupportedError,
    UpgradeBlockedError,
)
from .execution import OnInput
from .handshake import Refusal, open_websocket, refused_error, response_of_close, told_reason
from .kernel import Limits, Opening, open_kernel
from .sockets import Socket
from .transport import Transport, place_of
from .tunnel import Tunnel

if TYPE_CHECKING:
    from typing_extensions import Self

    from .tls import TLSIdentity

T = TypeVar("T")

Carrier = Literal["auto", "websocket", "tunnel-websocket", "tunnel-eventstream"]
CARRIERS: tuple[Carrier, ...] = ("auto", "websocket", "tunnel-websocket", "tunnel-eventstream")

CAPABILITIES_PATH = "api/token-ws/capabilities"

MAX_DOCUMENT_SIZE = 1 << 20
"""Bytes of a capabilities document at most."""

MAX_MESSAGE_SIZE = 256 * 1024 * 1024
"""Bytes of a message of a websocket at most, unless the caller says otherwise."""

BLOCKED_FOR = 3600.0
"""Seconds for which it is remembered that no websocket gets through to a server."""

BLOCKED_ONCE_FOR = 60.0
"""The same, where it was seen once only, by a connection that was cut: that may have been chance."""

MAX_TRIES = 3
"""How often one request is sent at most, each time with another credential."""

PATIENCE = 10.0
"""Seconds that the first handshake has where the event stream may be taken in its place."""

MAX_REMEMBERED = 256
"""Of how many servers that is remembered at most; the oldest are forgotten first."""

_blocked: dict[tuple[str, str], float] = {}


class Server:
    """A Jupyter server, as ``connect`` gives it; ``async with`` closes it.

    ``base_url`` ends in ``/``. ``capabilities`` is its document (contract section 4), ``None`` for a server
    without the extension. ``carrier`` is what carries new websockets at the moment.
    """

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._given = options.base_url
        self._transports: dict[str, Transport] = {}
        self._transport = self._transport_to(options.base_url)
        self._following = asyncio.Lock()
        self._addresses: Addresses = addresses(options.base_url, None)
        self.capabilities: Mapping[str, Any] | None = None
        self.api_version: str | None = None
        self._auth: Authenticator | None = None
        self._tunnel: Tunnel | None = None
        self._followed = options.base_url
        self._closed = False
        self._websocket_seen = False
        self._sockets: WeakSet[Socket] = WeakSet()

    # -- what it is --------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """The server's base URL, which ends in ``/``."""
        return self._addresses.base_url

    @property
    def carrier(self) -> str:
        """What carries new websockets: ``websocket``, ``tunnel-websocket`` or ``tunnel-eventstream``."""
        if self._options.carrier != "auto":
            return self._options.carrier
        if self._may_tunnel("tunnel-eventstream") and self._is_blocked():
            return "tunnel-eventstream"
        return "websocket"

    def __repr__(self) -> str:
        return f"<Server {self.base_url} by {self.carrier}>"

    # -- opening and closing -----------------------------------------------------------------------

    async def _open(self) -> None:
        try:
            await self._preflight(self._options.base_url)
            self._check_carrier(self._options.carrier)
            self._auth = Authenticator(
                self._options.plugins,
                Endpoint(self.base_url, self.capabilities, self._options.trusted),
                self._exchange,
            )
        except BaseException:
            await self.aclose()
            raise

    def _check_carrier(self, carrier: str) -> None:
        if carrier.startswith("tunnel") and not self._may_tunnel(carrier):
            raise UnsupportedError(
                f"{self.base_url} offers no {carrier}: its capabilities have"
                f" {', '.join(self._carriers_told()) or 'no transports'}"
            )

    async def aclose(self) -> None:
        """Close what is open: websockets, tunnel, credentials, connections."""
        self._closed = True
        tunnel, self._tunnel = self._tunnel, None
        auth, self._auth = self._auth, None
        # The last one first, and each of them also where closing another was cut off.
        async with AsyncExitStack() as closing:
            for transport in self._transports.values():
                closing.push_async_callback(transport.aclose)
            if auth is not None:
                closing.push_async_callback(auth.aclose)
            if tunnel is not None:
                closing.push_async_callback(tunnel.aclose)
            sockets = (socket.close() for socket in self._sockets)
            await asyncio.gather(*sockets, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _preflight(self, base_url: str) -> None:
        """Read the capabilities, without any credential, and agree upon a version (sections 4 and 5)."""
        version = API_VERSIONS[0]
        answer = await self._ask_capabilities(base_url, version)
        if answer.status == 422:
            common = best_common(API_VERSIONS, _versions_of(answer))
            if common is None or common == version:
                raise UnsupportedError(
                    f"{base_url} speaks other versions ({', '.join(_versions_of(answer)) or 'unnamed'})"
                    f" than this client ({', '.join(API_VERSIONS)}): update the older one"
                )
            version = common
            answer = await self._ask_capabilities(base_url, version)
        if answer.status == 200:
            document = json_object(answer.body)
            if "api_versions" in document:
                self.capabilities = document
                self.api_version = _version_told(answer, version)
                self._addresses = addresses(base_url, document)
                return
        if answer.status in (408, 429, 502, 503, 504):
            raise refused_error(f"{base_url}{CAPABILITIES_PATH}", told_reason(answer))
        await self._stock(base_url, answer.status)

    async def _follow(self, base_url: str) -> None:
        """The login led to another server (C6.2), which is trusted, or the plugin had not gone there: what is
        asked from now on is asked there."""
        async with self._following:
            if base_url in (self.base_url, self._followed):
                return
            transport, self._transport = self._transport, self._transport_to(base_url)
            try:
                await self._preflight(base_url)
            except BaseException:
                self._transport = transport
                raise
            self._followed = base_url
            tunnel, self._tunnel = self._tunnel, None
            if tunnel is not None:
                await tunnel.aclose()

    def _transport_to(self, url: str) -> Transport:
        place = place_of(url)
        if place not in self._transports:
            self._transports[place] = self._options.transport(url)
        return self._transports[place]

    async def _ask_capabilities(self, base_url: str, version: str) -> Response:
        request = Request(
            "GET",
            base_url + CAPABILITIES_PATH,
            {"Accept": "application/json", HEADER: version},
        )
        return await self._unsigned(request)

    async def _unsigned(self, request: Request) -> Response:
        """Send without a credential for the server; a proxy in front of the one that was named is shown what
        it wants."""
        endpoint, front = Endpoint(self._given), dict[str, str]()
        if within_base(self._given, request.url):
            for plugin in self._options.plugins:
                if isinstance(plugin, BasicAuth) and plugin.meant_for(endpoint):
                    front.update(plugin.front(endpoint))
                    break
        asked = replace(request, headers={**request.headers, **front})
        return await self._transport.request(asked, max_size=MAX_DOCUMENT_SIZE)

    async def _stock(self, base_url: str, status: int) -> None:
        """Without capabilities it is a server without the extension, if it is a Jupyter server at all."""
        answer = await self._unsigned(
            Request("GET", base_url + "api", {"Accept": "application/json"})
        )
        if answer.status == 200 and "version" in json_object(answer.body):
            self.capabilities, self.api_version = None, None
            self._addresses = addresses(base_url, None)
            return
        raise RefusedError(
            f"there is no Jupyter server at {base_url} ({CAPABILITIES_PATH}: {status}, api:"
            f" {answer.status}). Is that the base URL, with its path and no page behind it?",
            answer.status,
            advice=Advice.STOP,
        )

    # -- requests ----------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        ok: Sequence[int] = (),
    ) -> Response:
        """Send an HTTP request with the credential, and with a newer one where that one is refused.

        Args:
            method: the HTTP method.
            path: below the server's base, without a leading slash; may have a query.
            json: what is sent as the body, as JSON.
            body: what is sent as the body, as it is.
            headers: more headers.
            timeout: seconds for each try, the connection's ``open_timeout`` by default.
            ok: statuses of 400 and above that are no errors.

        Raises ``RefusedError`` for statuses of 400 and above, ``AuthError``, ``NoConnectionError``,
        ``TooLargeError``.
        """
        self._below(self.base_url, path)  # before any credential is got for it
        sent = {"Accept": "application/json", **(headers or {})}
        if self.api_version is not None:
            sent.setdefault(HEADER, self.api_version)
        if json is not None:
            body = _json.dumps(json).encode()
            sent.setdefault("Content-Type", "application/json")

        async def attempt(grant: Grant) -> Response:
            url = self._below(self.base_url, path)
            request = Request(method, url, {**sent, **grant.for_http()}, body)
            return told_reason(await self._transport.request(request, timeout=timeout))

        response = await self._with_credential(attempt)
        if response.status >= 400 and response.status not in ok:
            raise refused_error(f"{method} {path.partition('?')[0]}", response)
        return response

    async def _with_credential(self, attempt: Callable[[Grant], Awaitable[Response]]) -> Response:
        auth = self._authenticator()
        tries = 1
        while True:
            grant = await auth.grant()
            await self._follow(grant.base_url)
            response = await attempt(grant)
            if response.status == 101:
                return response  # at once: who is cancelled from here on would leave a socket open
            if not await auth.judge(grant, response) or tries == MAX_TRIES:
                return response
            tries += 1

    async def _exchange(self, request: Request) -> Response:
        """What an auth plugin asks; of this server in the version that both speak."""
        if (
            HEADER in request.headers
            and self.api_version
            and within_base(self.base_url, request.url)
        ):
            request = replace(request, headers={**request.headers, HEADER: self.api_version})
        transport = self._transport_to(request.url)
        return told_reason(await transport.request(request, max_size=MAX_DOCUMENT_SIZE))

    def _authenticator(self) -> Authenticator:
        if self._auth is None or self._closed:
            raise _closed()
        return self._auth

    def _below(self, base: str, path: str) -> str:
        url = base + path.lstrip("/")
        if not within_base(base, url):
            raise ClientError("that path is not below the server's base URL")
        if any(name == "token" for name, _ in parse_qsl(urlsplit(url).query, True)):
            raise ClientError("a token does not belong into a URL, where logs keep it: give auth=")
        return url

    # -- websockets --------------------------------------------------------------------------------

    async def websocket(
        self,
        path: str,
        subprotocols: Sequence[str] = (),
        *,
        max_size: int = MAX_MESSAGE_SIZE,
        timeout: float | None = None,
    ) -> Socket:
        """Open a websocket of the server, and try again as the server advises until it is time.

        Args:
            path: below the server's base, without a leading slash; may have a query, but no token.
            subprotocols: the caller's own, in order.
            max_size: bytes of a message that may come.
            timeout: seconds for all tries together, the connection's ``open_timeout`` by default.

        Raises ``RefusedError``, ``AuthError``, ``NoConnectionError`` with the last reason.
        """
        self._below(self._addresses.ws_url, path)  # before any credential is got for it
        seconds = self._options.open_timeout if timeout is None else timeout
        if self.carrier != "websocket":
            return await self._stream(path, subprotocols, max_size, seconds)

        may_fall_back = (
            self._options.carrier == "auto"
            and self._may_tunnel("tunnel-eventstream")
            and not self._websocket_seen
        )

        async def attempt(left: float) -> Socket:
            if not may_fall_back:
                return await self._plain(path, subprotocols, max_size, left)
            try:
                return await self._plain(path, subprotocols, max_size, min(left, PATIENCE))
            except NoConnectionError as error:
                if not (_surely(error) or await self._answers()):
                    raise
                self._remember_blocked(BLOCKED_FOR if _surely(error) else BLOCKED_ONCE_FOR)
                return await self._stream(path, subprotocols, max_size, left)

        return await self._persevere(attempt, seconds)

    async def _answers(self) -> bool:
        """Whether HTTP gets through, where a websocket did not."""
        request = Request("GET", self.base_url + CAPABILITIES_PATH)
        try:
            answer = await self._unsigned(request)
        except ClientError:
            return False
        return answer.status == 200

    async def _plain(
        self, path: str, subprotocols: Sequence[str], max_size: int, timeout: float
    ) -> Socket:
        opened: list[Socket] = []

        async def attempt(grant: Grant) -> Response:
            route = token_route(self.capabilities, browser=False)
            try:
                socket = await open_websocket(
                    self._transport,
                    self._below(self._addresses.ws_url, path),
                    subprotocols,
                    grant,
                    route if route is TokenRoute.SUBPROTOCOL else TokenRoute.HEADER,
                    keepalive=self._options.keepalive,
                    max_size=max_size,
                    timeout=timeout,
                )
            except Refusal as refusal:
                if refusal.blocked:
                    raise refusal.error() from None
                return refusal.response
            socket.generation = grant.generation
            opened.append(socket)
            if self._closed:
                await socket.close()
                raise _closed()
            self._sockets.add(socket)
            self._websocket_seen = True
            return Response(101)

        response = await self._with_credential(attempt)
        if opened:
            return opened[0]
        raise refused_error(f"the websocket {path.partition('?')[0]}", response)

    async def _stream(
        self, path: str, subprotocols: Sequence[str], max_size: int, timeout: float
    ) -> Socket:
        await self._with_credential(_nothing_to_ask)
        tunnel = self._tunnelled()
        return await self._persevere(
            lambda left: tunnel.open(path, subprotocols, max_size=max_size, timeout=left), timeout
        )

    def _tunnelled(self) -> Tunnel:
        if self._tunnel is None:
            # Not by `carrier`: what was remembered may have been forgotten since.
            by_websocket = self._options.carrier == "tunnel-websocket"
            self._tunnel = Tunnel(
                self._transport,
                self._authenticator(),
                self._addresses,
                self.capabilities,
                ("websocket",) if by_websocket else ("eventstream",),
                keepalive=self._options.keepalive,
                open_timeout=self._options.open_timeout,
            )
        return self._tunnel

    async def _persevere(self, attempt: Callable[[float], Awaitable[T]], seconds: float) -> T:
        """Try until it is time, as long as the advice is to try again."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        backoff = Backoff()
        while True:
            try:
                return await attempt(max(0.1, end - loop.time()))
            except asyncio.TimeoutError:
                raise NoConnectionError(
                    f"{self.base_url} opened no websocket within {seconds:g} s (open_timeout)"
                ) from None
            except ClientError as error:
                if error.advice not in (Advice.RETRY, Advice.RETRY_AFTER):
                    raise
                delay = backoff.delay(error.retry_after)
                if loop.time() + delay >= end:
                    raise
            await asyncio.sleep(delay)

    async def refused(self, error: ClientError) -> None:
        """Prepare for another try after a socket ended with this error: where its advice is to authenticate,
        the credential is refreshed, once for all that were opened with it, and where it is to go elsewhere, a
        login is tried that may lead there. Raises ``AuthError`` where there is no other credential, and
        ``error`` where none helps."""
        if error.advice not in (Advice.AUTHENTICATE, Advice.REDIRECT):
            return
        auth = self._authenticator()
        status = error.status if isinstance(error, RefusedError) else 401
        reason = REASONS.get(error.slug or "")
        response, grant = Response(status, reason=reason), await auth.grant()
        if isinstance(error, SocketClosedError):
            response = response_of_close(error.code, error.reason)
            if error.generation is not None:
                grant = replace(grant, generation=error.generation)
        if not await auth.judge(grant, response):
            raise error

    def kernel(
        self,
        name_or_id: str | None = None,
        *,
        id: str | None = None,  # noqa: A002 - so the server calls it
        path: str | None = None,
        on_input: OnInput | None = None,
        limits: Limits | None = None,
        open_timeout: float = 60.0,
        reconnect_timeout: float = 300.0,
    ) -> Opening:
        """A kernel: ``async with server.kernel("python3") as kernel`` starts one and shuts it down again; one
        that runs, by its id, runs on.

        Args:
            name_or_id: the name of a kernelspec, or an id; the server's default kernelspec without it.
            id: the id of one that runs.
            path: the notebook or folder that it is started for.
            on_input: answers the questions of cells: called with the prompt, and whether what is typed is
                secret. Without it cells may not ask.
            limits: what is kept at most.
            open_timeout: seconds that a kernel that is started has to answer. One that runs already is not
                waited for.
            reconnect_timeout: seconds for which a lost connection is tried to be opened again.

        Raises ``RefusedError`` where it cannot be started, ``KernelGoneError`` where there is none of that
        id, ``KernelError`` where it does not answer in time.
        """
        return open_kernel(
            self,
            name_or_id,
            id=id,
            path=path,
            on_input=on_input,
            limits=limits,
            open_timeout=open_timeout,
            reconnect_timeout=reconnect_timeout,
        )

    # -- blocked websockets ------------------------------------------------------------------------

    def _key(self) -> tuple[str, str]:
        return self._given, self.base_url

    def _is_blocked(self) -> bool:
        until = _blocked.get(self._key())
        if until is not None and until <= time.monotonic():
            del _blocked[self._key()]
            until = None
        return until is not None

    def _remember_blocked(self, seconds: float) -> None:
        _blocked.pop(self._key(), None)
        while len(_blocked) >= MAX_REMEMBERED:
            del _blocked[next(iter(_blocked))]
        _blocked[self._key()] = time.monotonic() + seconds

    def _carriers_told(self) -> list[str]:
        told = (self.capabilities or {}).get("transports")
        return [name for name in told if name in CARRIERS] if isinstance(told, list) else []

    def _may_tunnel(self, carrier: str) -> bool:
        return carrier in self._carriers_told()


def _surely(error: ClientError) -> bool:
    """Whether something answered that websockets do not get through; else one was cut, or not answered."""
    return isinstance(error, UpgradeBlockedError) and error.advice is Advice.STOP


def _closed() -> NoConnectionError:
    return NoConnectionError("the connection to the server is closed", advice=Advice.STOP)


async def _nothing_to_ask(grant: Grant) -> Response:
    """That there is a credential, and for which server, is all that is wanted."""
    return Response(200)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, empty for anything else."""
    try:
        read = _json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _version_told(answer: Response, asked: str) -> str:
    """What the server answered with, where it is a version of the asked one's major; else what was asked."""
    told = answer.headers.get(HEADER.lower(), "")
    return told if negotiate(told, [asked]) is not None else asked


def _versions_of(answer: Response) -> list[str]:
    told = json_object(answer.body).get("supported_api_versions")
    if not isinstance(told, list):
        told = answer.headers.get("supported-api-versions", "").split(",")
    return [version.strip()[:20] for version in told[:20] if isinstance(version, str)]


class _Options:
    """What ``connect`` was given."""

    def __init__(
        self,
        base_url: str,
        *,
        auth: Auth,
        carrier: Carrier,
        tls: TLSIdentity | None,
        unix_socket: str | Path | None,
        plain_http: bool,
        trust_env: bool,
        open_timeout: float,
        keepalive: float,
        trusted: Sequence[str],
    ) -> None:
        if carrier not in CARRIERS:
            raise UnsupportedError(f"there is no carrier {carrier!r}: one of {', '.join(CARRIERS)}")
        if not (open_timeout > 0 and keepalive > 0):
            raise ClientError("open_timeout and keepalive are seconds, above 0")
        place_of(base_url)  # raises for what is no address
        parts = urlsplit(base_url)
        if parts.query or parts.fragment:
            raise ClientError("a base URL has no query and no fragment: give a token as auth=")
        self.base_url = base_url.rstrip("/") + "/"
        self.plugins = plugins_of(auth)
        self.carrier = carrier
        self.open_timeout = open_timeout
        self.keepalive = keepalive
        self.trusted = tuple(trusted)
        self._tls = tls
        self._unix_socket = unix_socket
        self._plain_http = plain_http
        self._trust_env = trust_env

    def transport(self, base_url: str) -> Transport:
        return Transport(
            base_url,
            tls=self._tls,
            unix_socket=self._unix_socket,
            plain_http=self._plain_http,
            trust_env=self._trust_env,
            open_timeout=self.open_timeout,
        )


class Connecting:
    """What ``connect`` returns: ``await`` it, or use it in ``async with``."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._server: Server | None = None

    def __await__(self) -> Generator[Any, None, Server]:
        return self.opened().__await__()

    async def opened(self) -> Server:
        """The server; whoever has it closes it."""
        server = Server(self._options)
        await server._open()
        return server

    async def __aenter__(self) -> Server:
        self._server = await self.opened()
        return self._server

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._server.aclose()


def connect(
    base_url: str,
    *,
    auth: Auth = None,
    carrier: Carrier = "auto",
    tls: TLSIdentity | None = None,
    unix_socket: str | Path | None = None,
    plain_http: bool = False,
    trust_env: bool = True,
    open_timeout: float = 30.0,
    keepalive: float = 25.0,
    trusted: Sequence[str] = (),
) -> Connecting:
    """Connect to a Jupyter server: ``async with connect("http://localhost:8888/", auth=token) as server``.

    Args:
        base_url: the server's base URL, with its path. No token belongs into it.
        auth: a token, an auth plugin, or several in the order in which they are asked. ``None``: those of the
            configuration, or none.
        carrier: ``websocket``; ``tunnel-websocket`` or ``tunnel-eventstream``, for all websockets over one
            connection; ``auto``: websockets, and the event stream where none gets through.
        tls: who the server must be, and who we are to it.
        unix_socket: path of the socket on which the server listens.
        plain_http: allow ``http`` to other machines than this one.
        trust_env: take proxies from the environment.
        open_timeout: seconds for a request, and for all tries of opening one websocket.
        keepalive: seconds of silence within which a lost connection is noticed.
        trusted: base URLs of other servers to which a login may lead.

    Raises ``NoConnectionError``, ``IdentityError``, ``PlainHttpError``, ``UnsupportedError``,
    ``RefusedError``, ``AuthError``.
    """
    return Connecting(
        _Options(
            base_url,
            auth=auth,
            carrier=carrier,
            tls=tls,
            unix_socket=unix_socket,
            plain_http=plain_http,
            trust_env=trust_env,
            open_timeout=open_timeout,
            keepalive=keepalive,
            trusted=trusted,
        )
    )
