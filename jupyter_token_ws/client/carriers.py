"""What brings a tunnel's batches of frames: a websocket, or an event stream and ``POST``s.

A carrier lives until it breaks; ``tunnel`` puts the next one in its place. What goes over them is specified
in docs/reference/tunnel.md.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx
from httpx_sse import EventSource, SSEError
from websockets.exceptions import ConnectionClosed

from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.auth import Request, Response
from jupyter_token_ws.protocol.clients import Addresses, TokenRoute, token_route, within_base
from jupyter_token_ws.protocol.frames import FIRST_UNNUMBERED, MAX_DATA
from jupyter_token_ws.protocol.reasons import REASONS, Advice, parse_close
from jupyter_token_ws.protocol.subprotocols import TUNNEL, offer_subprotocols

from .errors import (
    NoConnectionError,
    RefusedError,
    TooLargeError,
    UnsupportedError,
    UpgradeBlockedError,
)
from .handshake import refused_error, response_of_close, told_reason
from .tasks import stop
from .transport import UpgradeRefused

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from .auth import Authenticator, Grant
    from .transport import Transport

WEBSOCKET, EVENT_STREAM = "websocket", "eventstream"
"""Names of the carriers."""

PATH = "api/token-ws/tunnel"
"""Where tunnels are had where the capabilities do not say."""

CAPABILITIES = "api/token-ws/capabilities"
"""What every server that has tunnels answers to everybody."""

MAX_BATCH = 2 * 1024 * 1024
"""Bytes that come at once at most, with what an event's encoding adds. Servers send a quarter of it."""

POST_SIZE = 512 * 1024
"""Bytes of a ``POST``'s body at most (C7.2)."""

POST_FRAMING = 64
"""Bytes of it that are no frames, at most."""

MAX_SECONDS = 86400.0
"""Seconds at most that are taken from what a server says of its times."""

MIN_POST, MIN_FRAGMENT = 4 * 1024, 1024
"""Bytes of a ``POST``'s frames, and of a message in one, below which nothing smaller is tried."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the end of a carrier may take."""

PAUSE = 0.1
"""Seconds before a ``POST`` is tried again the first time; then twice as long each time."""

JUDGED = 3
"""Credentials that are tried for one carrier, or one ``POST``, at most, without a pause."""

_NUMBER = struct.Struct(">Q")


class CarrierLostError(Exception):
    """The carrier broke, or is dead. The tunnel may be resumed over another."""


class CarrierEndedError(Exception):
    """The server says that the tunnel is over: ``code`` and ``reason`` of its close."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class RefusalError(Exception):
    """The server refuses a carrier, or a ``POST``."""

    def __init__(self, response: Response, grant: Grant) -> None:
        super().__init__(str(response.status))
        self.response = response
        self.grant = grant

    def told(self) -> RefusedError:
        """As an error for who uses the client."""
        return refused_error("the tunnel", self.response)


@dataclass
class Limits:
    """What was learned of the way to a server, by all of a tunnel's carriers.

    ``post`` is bytes of frames in a ``POST``; ``fragment`` bytes of a message in one frame.
    """

    post: int = (POST_SIZE - POST_FRAMING) // 4 * 3
    fragment: int = MAX_DATA

    def allow(self, max_post_size: int) -> None:
        """Bytes of a body that the server says it takes."""
        self.post = max(MIN_POST, min(self.post, (max_post_size - POST_FRAMING) // 4 * 3))
        self.fragment = min(self.fragment, self.post // 2)


@dataclass(frozen=True)
class Way:
    """How a server's tunnels are reached.

    ``keepalive`` is seconds within which a dead carrier is noticed; ``capabilities`` the server's document.
    """

    transport: Transport
    authenticator: Authenticator
    addresses: Addresses
    capabilities: Mapping[str, Any] | None
    keepalive: float = 25.0
    patience: float = 10.0
    limits: Limits = field(default_factory=Limits)

    @property
    def path(self) -> str:
        """Of tunnels, below the base."""
        tunnel = (self.capabilities or {}).get("tunnel")
        said = tunnel.get("path") if isinstance(tunnel, Mapping) else None
        base = self.addresses.base_url
        return said if isinstance(said, str) and within_base(base, base + said) else PATH


def seconds_of(said: object, otherwise: float) -> float:
    """Seconds that a server names, a day at most; ``otherwise`` where that is no number."""
    if not isinstance(said, (int, float)):
        return otherwise
    seconds = float(max(min(said, MAX_SECONDS), 0))  # of this order NaN stays NaN
    return otherwise if math.isnan(seconds) else seconds


class Carrier(ABC):
    """One carrier. Its methods raise ``CarrierLostError`` when it breaks, ``CarrierEndedError`` when the
    server says that the tunnel is over, ``RefusalError``, and errors of the client where another try is no
    use.

    Args:
        way: to the server.
        beat: is called where the server asks for a sign of life; it makes something that ``send`` is given
            then.
    """

    name: str
    size: int = MAX_DATA
    """Bytes of a batch, about."""

    def __init__(self, way: Way, beat: Callable[[], None]) -> None:
        self.way = way
        self.beat = beat
        self._heard = 0.0
        """When the last of anything came."""

    @abstractmethod
    async def connect(self, grant: Grant, query: str) -> None:
        """Until the server has said yes; ``query`` says what is resumed."""

    @abstractmethod
    def batches(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """What comes: the number of the first frame, and the frames."""

    @abstractmethod
    async def send(self, tunnel: str, first: int, data: bytes) -> None:
        """Bring a batch of the tunnel with this id; returns when the next one may come."""

    async def watch(self, tunnel: str) -> None:
        """Raise when nothing comes within the keepalive, though it was asked for after half of it."""
        clock, half = asyncio.get_running_loop().time, self.way.keepalive / 2
        while True:
            left = self._heard + half - clock()
            if left > 0:
                await asyncio.sleep(left)
                continue
            asked = clock()
            asking = asyncio.ensure_future(self._ask(tunnel))
            try:
                # Not wait_for, by which who is told to end may not hear it (before Python 3.12).
                await asyncio.wait({asking}, timeout=half)
            finally:
                await stop(asking)
            if not asking.cancelled():
                asking.result()
            if self._heard < asked:
                raise CarrierLostError("it is dead: nothing came within the keepalive")

    @abstractmethod
    async def _ask(self, tunnel: str) -> None:
        """Ask for a sign of life, and wait for it."""

    async def is_held_back(self) -> bool:
        """Whether, where nothing of it came in time, the server answers what does end."""
        return False

    @abstractmethod
    async def aclose(self, *, politely: bool = False) -> None:
        """End it at once, or after what was sent has arrived, within ``CLOSE_TIMEOUT``."""


# -- a websocket -------------------------------------------------------------------------------------


class WebSocketCarrier(Carrier):
    """Each binary message is a batch, behind its number."""

    name = WEBSOCKET

    def __init__(self, way: Way, beat: Callable[[], None]) -> None:
        super().__init__(way, beat)
        self._socket: ClientConnection | None = None

    async def connect(self, grant: Grant, query: str) -> None:
        """See ``Carrier``."""
        self._grant = grant
        way = self.way
        headers, token = dict(grant.headers), grant.token
        if token_route(way.capabilities, browser=False) is not TokenRoute.SUBPROTOCOL:
            headers, token = grant.for_http(), None
        offer = offer_subprotocols([TUNNEL], token)
        url = f"{way.addresses.ws_url}{way.path}{query}"
        try:
            self._socket = await way.transport.websocket(
                url,
                subprotocols=offer,
                headers=headers,
                max_size=MAX_BATCH,
                timeout=way.patience,
            )
        except UpgradeRefused as refused:
            raise self._not_upgraded(told_reason(refused.response), grant) from None
        self._heard = asyncio.get_running_loop().time()

    @staticmethod
    def _not_upgraded(response: Response, grant: Grant) -> Exception:
        """What it means that there is an answer, and no websocket.

        A proxy that leaves the upgrade out makes a plain ``GET`` of it: which is answered as such, and
        knows nothing of the token in the subprotocols.
        """
        slug = response.reason.slug if response.reason else None
        stripped = slug == "bad_request" or (slug == "credentials_missing" and grant.token)
        if not stripped and (slug or response.status in (401, 403, 429, 503)):
            return RefusalError(response, grant)
        return UpgradeBlockedError(
            f"no websocket came about: the upgrade was answered {response.status}. A proxy may have to be"
            " told to let websockets through; the carrier tunnel-eventstream does without"
        )

    async def batches(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """See ``Carrier``."""
        clock, greeted, socket = asyncio.get_running_loop().time, False, self._there
        while True:
            try:
                message = await socket.recv()
            except ConnectionClosed as closed:
                raise self._ended(closed, greeted) from None
            self._heard = clock()
            if isinstance(message, str) or len(message) < _NUMBER.size:
                raise CarrierLostError("what came is no batch")
            greeted = True
            yield _NUMBER.unpack_from(message)[0], message[_NUMBER.size :]

    def _ended(self, closed: ConnectionClosed, greeted: bool) -> Exception:
        code, text = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
        told = parse_close(code, text)
        if told is None:
            return CarrierLostError(f"the websocket was closed: {code}")
        if not greeted:  # it opened to say that it does not
            return RefusalError(response_of_close(code, text), self._grant)
        if told.reason.slug == "replaced":
            return CarrierEndedError(code, text)
        return CarrierLostError(f"the websocket was closed: {code} {told.reason.slug}")

    async def send(self, tunnel: str, first: int, data: bytes) -> None:
        """See ``Carrier``."""
        try:
            await self._there.send(_NUMBER.pack(first) + data)
        except ConnectionClosed:
            # Why, is heard: a close frame may wait behind what was sent before it.
            await asyncio.Event().wait()

    async def _ask(self, tunnel: str) -> None:
        with suppress(ConnectionClosed):
            await (await self._there.ping())
            self._heard = asyncio.get_running_loop().time()

    @property
    def _there(self) -> ClientConnection:
        if self._socket is None:
            raise CarrierLostError("there is no websocket")
        return self._socket

    async def aclose(self, *, politely: bool = False) -> None:
        """See ``Carrier``."""
        socket, self._socket = self._socket, None
        if socket is None:
            return
        try:
            if politely:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(socket.close(), CLOSE_TIMEOUT)
        finally:
            socket.transport.abort()
            await socket.wait_closed()


# -- an event stream ---------------------------------------------------------------------------------


class EventStreamCarrier(Carrier):
    """Events for what comes, each a batch; ``POST``s for what goes, one after the other."""

    name = EVENT_STREAM

    def __init__(self, way: Way, beat: Callable[[], None]) -> None:
        super().__init__(way, beat)
        self._url = way.addresses.base_url + way.path
        self._context: AbstractAsyncContextManager[httpx.Response] | None = None
        self._response: httpx.Response | None = None
        self._grant: Grant | None = None
        self._came = asyncio.Event()
        self._asked = False  # so that the answer is not answered
        self.size = way.limits.post

    async def connect(self, grant: Grant, query: str) -> None:
        """See ``Carrier``."""
        check_token(grant)
        self._grant = grant
        headers = {
            **grant.for_http(),
            "Accept": "text/event-stream",
            "Cache-Control": "no-store",
        }
        request = Request("GET", self._url + query, headers)
        context = self.way.transport.stream(request)
        response = await context.__aenter__()
        self._context = context
        if response.status_code != 200:
            told = Response(
                response.status_code,
                {name.lower(): value for name, value in response.headers.items()},
                await _beginning(response),
            )
            raise RefusalError(told_reason(told), grant)
        response.encoding = "utf-8"  # as events are, whatever the server calls it
        self._response = response
        self._on_text()

    def _on_text(self) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._came.set()

    async def is_held_back(self) -> bool:
        """See ``Carrier``. Some proxies keep the headers too until there is enough to pass on."""
        if self._response is not None:
            return True
        request = Request("GET", self.way.addresses.base_url + CAPABILITIES)
        try:
            answer = await self.way.transport.request(request, timeout=self.way.patience)
        except NoConnectionError:
            return False
        return answer.status == 200

    async def batches(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """See ``Carrier``."""
        if self._response is None:
            raise CarrierLostError("there is no event stream")
        bounded = _Bounded(self._response, self._on_text)
        source = EventSource(cast("httpx.Response", bounded))
        ended: CarrierEndedError | None = None
        try:
            async with aclosing(source.aiter_sse()) as events:
                async for event in events:
                    asked, self._asked = self._asked, False
                    # The library says "message" for what has no name.
                    if event.event == "message":
                        yield int(event.id), base64.b64decode(event.data, validate=True)
                    elif event.event == "keepalive" and not asked:
                        self.beat()
                    elif event.event == "end":
                        ended = CarrierEndedError(*_read_end(event.data))
        except SSEError:
            raise NoConnectionError(
                "what came is no event stream: something else answers for the server"
            ) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            if ended is None:
                raise CarrierLostError(f"the event stream broke: {type(error).__name__}") from None
        except (ValueError, RecursionError, binascii.Error):
            raise CarrierLostError("what came is no batch") from None
        raise ended or CarrierLostError("the event stream ended")

    async def send(self, tunnel: str, first: int, data: bytes) -> None:
        """See ``Carrier``. Larger batches are split between frames."""
        waiting = list(_split(first, data, self.way.limits.post))[::-1]
        while waiting:
            first, data = waiting.pop()
            response = await self._post(tunnel, first, data)
            if response.status == 413:
                self._shrink(data)
                size = min(len(data) // 2, self.way.limits.post)
                waiting += list(_split(first, data, size))[::-1]
        self.size = self.way.limits.post

    def _shrink(self, data: bytes) -> None:
        """A body was too large: for something on the way, which tells no limit. Raises ``TooLargeError``
        where it is one frame, which cannot be split any more."""
        limits = self.way.limits
        limits.post = max(MIN_POST, min(limits.post, len(data)) // 2)
        before, limits.fragment = (
            limits.fragment,
            max(MIN_FRAGMENT, min(limits.fragment, limits.post) // 2),
        )
        if next(_split(1, data, 1))[1] == data:
            raise TooLargeError(
                f"a POST of {len(data) * 4 // 3 + POST_FRAMING} bytes was answered 413: something between"
                " allows less. Allow bodies of 64 KiB there (nginx: client_max_body_size)",
                # Frames that are made keep their size; those of the next tunnel are smaller.
                advice=Advice.RETRY if limits.fragment < before else Advice.STOP,
            )

    async def _post(self, tunnel: str, first: int, data: bytes, *, ask: bool = False) -> Response:
        """Until it was answered 200 or 413; what arrives twice applies once. ``ask`` for an event."""
        asks = b', "ask": true' if ask else b""
        body = b'{"first": %d, "frames": "%b"%b}' % (first, base64.b64encode(data), asks)
        clock, pause = asyncio.get_running_loop().time, PAUSE
        until, judged = clock() + self.way.keepalive, 0
        while True:
            try:
                grant = await self.way.authenticator.grant()
                check_token(grant)
                headers = {**grant.for_http(), "Content-Type": "application/json"}
                request = Request("POST", f"{self._url}/{tunnel}", headers, body)
                left = max(until - clock(), 0.1)
                response = told_reason(await self.way.transport.request(request, timeout=left))
            except NoConnectionError:
                if clock() + pause >= until:
                    # It may have been too much for this way in that time.
                    self.way.limits.post = max(MIN_POST, self.way.limits.post // 2)
                    raise CarrierLostError("a POST does not get through") from None
            else:
                status = response.status
                if status in (200, 413):
                    return response
                if status == 409:
                    raise CarrierLostError("frames are missing")
                if status < 500 and status not in (408, 421, 425, 429):
                    judged += 1
                    if judged < JUDGED and await self.way.authenticator.judge(grant, response):
                        continue
                    raise RefusalError(response, grant)
                pause = max(pause, response.retry_after or 0)
                if clock() + pause >= until:
                    raise CarrierLostError(f"POSTs are answered {status}")
            await asyncio.sleep(pause)
            pause *= 2

    async def _ask(self, tunnel: str) -> None:
        self._came.clear()
        self._asked = True
        await self._post(tunnel, 1, b"", ask=True)  # of no frames: its turn is always
        await self._came.wait()

    async def aclose(self, *, politely: bool = False) -> None:
        """See ``Carrier``. A ``POST`` has arrived when it is answered: there is nothing to wait for."""
        context, self._context = self._context, None
        if context is not None:
            with suppress(httpx.HTTPError, httpx.StreamError):
                await context.__aexit__(None, None, None)


class _Bounded:
    """A response whose events have a size: the library keeps what has no end."""

    def __init__(self, response: httpx.Response, on_text: Callable[[], None]) -> None:
        self.headers = response.headers
        self._response = response
        self._on_text = on_text

    async def aiter_text(self) -> AsyncIterator[str]:
        """Raises ``CarrierLostError`` for an event that is too large."""
        size = 0
        async for text in self._response.aiter_text():
            self._on_text()
            end = max(text.rfind("\n\n"), text.rfind("\r\n\r\n"))
            size = size + len(text) if end < 0 else len(text) - end
            if size > MAX_BATCH:
                raise CarrierLostError("an event has no end")
            yield text


async def _beginning(response: httpx.Response, size: int = 8192) -> bytes:
    """What fits of a body."""
    body = b""
    with suppress(httpx.HTTPError):
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) >= size:
                break
    return body[:size]


def check_token(grant: Grant) -> None:
    """Raises ``UnsupportedError`` for what is no credential of an event stream."""
    shown = {name.lower(): value for name, value in grant.for_http().items()}
    authorization = shown.get("authorization", "")
    basic = authorization.lower().startswith("basic ")
    if "cookie" not in shown or (authorization and not basic):
        return
    why = (
        "there the proxy's password stands: let the proxy ask for none below the server's base, or let"
        " websockets through"
        if basic
        else "the cookie plugin has none: use the ticket plugin, which logs in with the same password or"
        " token"
    )
    raise UnsupportedError(
        "a tunnel over an event stream is judged by Authorization alone, so that no page of another site"
        f" can use one with a browser's cookie (contract C7.2), and {why}"
    )


def _read_end(data: str) -> tuple[int, str]:
    """Close code and reason of an ``end`` event. Raises ``ValueError``."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("that is no end")  # noqa: TRY004 # as json's own, for what is no JSON
    code, status, later = (document.get(each) for each in ("code", "status", "retry_after"))
    code = code if type(code) is int else 1005
    reason = REASONS.get(status) if isinstance(status, str) else None
    if reason is None:
        return code, str(document.get("message", ""))
    return code, reason.close_reason(later if type(later) is int and later >= 0 else None)


def _split(first: int, data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """A batch as several, of about so many bytes and one frame at least."""
    if len(data) <= size:
        yield first, data
        return
    begin = at = 0
    number = first
    for frame in frames.decode(data):
        end = at + frames.HEADER_SIZE + len(frame.payload)
        if end - begin > size and at > begin:
            yield first, data[begin:at]
            begin, first = at, number
        at = end
        number += frame.kind < FIRST_UNNUMBERED
    yield first, data[begin:]


CARRIERS: Mapping[str, type[Carrier]] = {
    WEBSOCKET: WebSocketCarrier,
    EVENT_STREAM: EventStreamCarrier,
}
"""By name."""
