"""HTTP and websocket connections to one server: TLS, proxies, unix sockets and limits, once for both.

By httpx and websockets. Nothing here knows of tokens or follows redirects: where to go, and with what, is for
the callers to decide.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection as _ClientConnection
from websockets.asyncio.client import connect as _connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from websockets.typing import Subprotocol

from jupyter_token_ws._version import __version__
from jupyter_token_ws.protocol.auth import Request, Response

from .errors import ClientError, NoConnectionError, PlainHttpError, TooLargeError
from .logs import WEBSOCKETS, ours
from .tls import TLSIdentity, context_maker, identity_error, ssl_error_of

T = TypeVar("T")

USER_AGENT = f"jupyter-token-ws/{__version__}"

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an HTTP answer at most, unless the caller says otherwise."""

MAX_REFUSAL = 8 * 1024
"""Bytes that are kept of what a refused handshake was answered."""

MAX_CONNECTIONS = 32
"""HTTP connections at once; further requests wait for one."""


class ClientConnection(_ClientConnection):
    """Knows when something came last, whatever it was."""

    heard: float = 0.0
    """The loop's time, in seconds."""

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self.heard = self.loop.time()
        super().data_received(data)


class UpgradeRefused(Exception):  # noqa: N818 - not an error of its own: the callers judge it
    """A handshake was answered by something other than 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"the handshake was answered {response.status}")
        self.response = response


class Transport:
    """Connections to a server, and to whom it sends us if the callers trust that.

    Args:
        base_url: the server's address; whatever is asked for must have its scheme, host and port.
        tls: who the server must be, and who we are to it.
        unix_socket: path of the socket on which the server listens; the address then only names it.
        plain_http: allow ``http`` to other machines than this one.
        trust_env: take proxies from ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.
        open_timeout: seconds that a connection and its answer may take, unless a call says otherwise.
        max_answer: bytes of an answer at most.

    Raises ``PlainHttpError``, and ``ClientError`` for an address that is none.
    """

    def __init__(
        self,
        base_url: str,
        *,
        tls: TLSIdentity | None = None,
        unix_socket: str | Path | None = None,
        plain_http: bool = False,
        trust_env: bool = True,
        open_timeout: float = 30.0,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        self.place = place_of(base_url)
        self.secure = self.place.startswith("https:")
        local = unix_socket is not None or is_loopback(base_url)
        if not (self.secure or local or plain_http):
            raise PlainHttpError(
                f"{self.place} is not encrypted, and is another machine: use https, or give plain_http"
                " if everybody on the way may read along"
            )
        self.unix_socket = unix_socket
        self.open_timeout = open_timeout
        # What is meant for this machine is shown to no proxy.
        self._trust_env = trust_env and not local
        self._plain_http = plain_http
        self._max_answer = max_answer
        self._make_context = context_maker(tls)
        self._context: ssl.SSLContext | None = None
        self._client: httpx.AsyncClient | None = None
        self._closed = False
        self._making = asyncio.Lock()

    async def request(
        self, request: Request, *, timeout: float | None = None, max_size: int | None = None
    ) -> Response:
        """Send a request and return the answer, of whatever status.

        Args:
            request: what to send.
            timeout: seconds for all of it, ``open_timeout`` by default.
            max_size: bytes of the answer's body at most.

        Raises ``NoConnectionError``, ``IdentityError``, ``TooLargeError``.
        """
        seconds = self.open_timeout if timeout is None else timeout
        return await self._bounded(self._request(request, max_size or self._max_answer), seconds)

    async def _request(self, request: Request, max_size: int) -> Response:
        async with self.stream(request) as answer:
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > max_size:
                    raise TooLargeError(
                        f"{self.place} answered with more than {max_size} bytes (max_answer)"
                    )
            return response_of(answer.status_code, answer.headers.multi_items(), bytes(body))

    @asynccontextmanager
    async def stream(
        self, request: Request, *, read_timeout: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; the answer's body is read by the caller, for the time of the block.

        ``read_timeout`` is how many seconds may pass without a byte; ``None``: any number.
        """
        self._guard(request.url)
        timeout = httpx.Timeout(self.open_timeout, read=read_timeout)
        with self._told(), ours():
            client = await self._http()
            async with client.stream(
                request.method,
                request.url,
                # Asked for plainly, so that what comes is as large as it says.
                headers={"Accept-Encoding": "identity", **request.headers},
                content=request.body,
                timeout=timeout,
            ) as answer:
                if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise NoConnectionError(f"{self.place} compressed its answer unasked")
                yield answer

    async def websocket(
        self,
        url: str,
        *,
        subprotocols: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        max_size: int | None = None,
        timeout: float | None = None,
    ) -> ClientConnection:
        """Open a websocket (RFC 6455).

        Args:
            url: ``ws`` or ``wss``, of this transport's host.
            subprotocols: the offer, in order.
            headers: further headers of the handshake.
            max_size: bytes of a message that may come; ``None``: any number.
            timeout: seconds for all of the handshake.

        Raises ``UpgradeRefused`` with what was answered instead, ``NoConnectionError``, ``IdentityError``.
        """
        self._guard(url)
        seconds = self.open_timeout if timeout is None else timeout
        options: dict[str, Any] = {}
        if self.secure:
            options["ssl"] = await self.context()
        if self.unix_socket is not None:
            options.update(unix=True, path=str(self.unix_socket))
        with ours():
            connecting = _Connect(
                url,
                subprotocols=[Subprotocol(name) for name in subprotocols] or None,
                additional_headers=dict(headers or {}),
                user_agent_header=USER_AGENT,
                proxy=True if self._trust_env else None,
                open_timeout=None,
                ping_interval=None,
                close_timeout=5,
                max_size=max_size,
                compression=None,
                logger=WEBSOCKETS,
                create_connection=ClientConnection,
                **options,
            )
            return await self._bounded(self._connect(connecting), seconds)

    async def _connect(self, connecting: _connect) -> ClientConnection:
        try:
            with self._told():
                connection: ClientConnection = await connecting  # type: ignore[assignment]
                return connection
        except InvalidStatus as error:
            answer = error.response
            body = bytes(answer.body or b"")[:MAX_REFUSAL]
            raise UpgradeRefused(
                response_of(answer.status_code, answer.headers.raw_items(), body)
            ) from None

    async def certificate(self) -> bytes | None:
        """The server's certificate (DER), whether it is good or not; ``None`` where it shows none.

        Nothing is asked of the server but the handshake.
        """
        if not self.secure:
            return None
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        parts = urlsplit(self.place)
        with self._told():
            if self.unix_socket is not None:
                opening = asyncio.open_unix_connection(
                    str(self.unix_socket), ssl=context, server_hostname=parts.hostname
                )
            else:
                opening = asyncio.open_connection(
                    parts.hostname, parts.port or 443, ssl=context, server_hostname=parts.hostname
                )
            _, writer = await self._bounded(opening, self.open_timeout)
        try:
            shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return shown.getpeercert(binary_form=True)
        finally:
            writer.transport.abort()

    async def context(self) -> ssl.SSLContext:
        """The TLS context of all connections, made once and off the loop: it reads files."""
        async with self._making:
            if self._context is None:
                self._context = await asyncio.to_thread(self._make_context)
            return self._context

    async def aclose(self) -> None:
        """Close the HTTP connections; websockets are their owners'."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _http(self) -> httpx.AsyncClient:
        verify = await self.context() if self.secure else _no_tls()
        if self._closed:
            raise ClientError(f"the connections to {self.place} were closed")
        if self._client is None:
            options: dict[str, Any] = {}
            if self.unix_socket is not None:
                options["transport"] = httpx.AsyncHTTPTransport(
                    uds=str(self.unix_socket), verify=verify, limits=_LIMITS
                )
            self._client = httpx.AsyncClient(
                verify=verify,
                trust_env=self._trust_env,
                limits=_LIMITS,
                headers={"User-Agent": USER_AGENT},
                # Whose cookies are sent is for the auth plugins to say: none is kept here.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                follow_redirects=False,
                **options,
            )
        return self._client

    def _guard(self, url: str) -> None:
        """Raises ``PlainHttpError`` for an address to which nothing may go unencrypted."""
        if url.lower().startswith(("http:", "ws:")) and (
            self.secure
            or not (self.unix_socket is not None or self._plain_http or is_loopback(url))
        ):
            raise PlainHttpError(f"nothing goes unencrypted to another place than {self.place}")

    async def _bounded(self, doing: Awaitable[T], seconds: float) -> T:
        try:
            return await asyncio.wait_for(doing, seconds)
        except asyncio.TimeoutError:
            raise NoConnectionError(
                f"{self.place} did not answer within {seconds:g} s (open_timeout)"
            ) from None

    def _told(self) -> AbstractContextManager[None]:
        return told(self.place)


@contextmanager
def told(place: str) -> Iterator[None]:
    """Turns what the libraries raise in the block into the client's errors."""
    try:
        yield
    except (ClientError, InvalidStatus):
        raise
    except Exception as error:
        mine = error_of(place, error)
        if mine is None:
            raise
        raise mine from None


def error_of(place: str, error: BaseException) -> ClientError | None:
    """The client's error for one of a library or the system; ``None`` for what is none of the network's."""
    failed = ssl_error_of(error)
    if failed is not None:
        wrong = identity_error(place, failed)
        if wrong is not None:
            return wrong
        hint = " Does it speak http, not https?" if "WRONG_VERSION" in str(failed) else ""
        return NoConnectionError(f"no TLS with {place}: {failed}.{hint}")
    if isinstance(
        error, ImportError
    ):  # of the libraries, for a proxy that they have no support for
        return ClientError(
            f"the proxy on the way to {place} needs a package that is not there: {error}. Install it, or"
            " switch the proxy off (NO_PROXY, or trust_env)"
        )
    if isinstance(error, (httpx.TimeoutException, asyncio.TimeoutError)):
        return NoConnectionError(f"{place} did not answer in time")
    if isinstance(error, (httpx.ProxyError, ProxyError)):
        return NoConnectionError(f"the proxy on the way to {place} said no: {error}")
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, InvalidURI)):
        return ClientError(f"that is no address below {place}")
    if isinstance(error, UnicodeEncodeError):
        return ClientError(
            f"nothing was sent to {place}: a header, or the credential in it, has letters outside ASCII"
        )
    if isinstance(error, InvalidMessage):
        return NoConnectionError(
            f"{place} ended the connection, or what it answered is no HTTP.{_wanted(place)}"
        )
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        return NoConnectionError(
            f"{place} ended the connection before its answer ({str(error) or type(error).__name__})."
            f"{_wanted(place)}"
        )
    if isinstance(error, InvalidHandshake):
        return NoConnectionError(f"{place} answered the handshake wrongly: {type(error).__name__}")
    if isinstance(error, (httpx.HTTPError, OSError, EOFError)):
        why = str(error) or type(error).__name__
        return NoConnectionError(f"no answer from {place}: {why}. Is the server running there?")
    return None


def _wanted(place: str) -> str:
    """A hint. Since TLS 1.3 a server asks for it when the client takes the handshake to be over."""
    if not place.startswith("https:"):
        return ""
    return " Does it want to see a certificate of yours (TLSIdentity(certificate=…))?"


class _Connect(_connect):
    """Where a server sends somebody is for them to decide, who may have a credential with them."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@functools.cache
def _no_tls() -> ssl.SSLContext:
    """For transports that encrypt nothing, where httpx wants one all the same. It trusts nobody."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_LIMITS = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=30.0)


def response_of(status: int, headers: Any, body: bytes) -> Response:
    """An answer, from pairs of header and value."""
    pairs = [(str(name).lower(), str(value)) for name, value in headers]
    cookies = tuple(value for name, value in pairs if name == "set-cookie")
    return Response(
        status,
        {name: value for name, value in pairs if name != "set-cookie"},
        body,
        cookies,
        retry_after=retry_after_of(dict(pairs).get("retry-after")),
    )


def retry_after_of(value: str | None) -> float | None:
    """The seconds of a ``Retry-After`` header (RFC 9110 section 10.2.3); a date is passed over."""
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return float(min(int(value[:9]), 86400))


def place_of(url: str) -> str:
    """Scheme, host and port of an ``http`` or ``https`` address. Raises ``ClientError`` for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise ClientError(
            "that is no address of a server. One looks like http://localhost:8888/ or"
            " https://hub.example.org/user/ann/, without a user or password in it"
        )
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port is not None else "")


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own, by its host's name (RFC 6761 section 6.3)."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
