"""Whether tunnels get through by either carrier, at once, up to their sizes, in silence, and after a cut."""

from __future__ import annotations

import base64
import json
import math
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from statistics import median
from typing import Any, TypeVar

import httpx
from httpx_sse import EventSource
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from jupyter_token_ws.client.errors import ClientError
from jupyter_token_ws.client.transport import UpgradeRefused
from jupyter_token_ws.protocol.auth import Request
from jupyter_token_ws.protocol.frames import MAX_DATA
from jupyter_token_ws.protocol.reasons import parse_close
from jupyter_token_ws.protocol.subprotocols import REASON_MARKER, TUNNEL, offer_subprotocols
from jupyter_token_ws.protocol.tunnel import (
    Attached,
    Closed,
    Opened,
    OutOfOrderError,
    Side,
    Tunnel,
    TunnelError,
)

from .case import Case, SkipError, limited, within
from .report import Finding
from .upgrades import SOCKET, alive, for_front, needs_upgrades, opened, refusal, shown, told

FIRST_EVENT = 4.0
"""Seconds in which the first event has to come: it is sent at once."""

ECHO = 3.0
"""Seconds in which what was asked has to be answered."""

SLOW_ECHO = 1.0
"""Seconds above which an answer was held up, beside the round trip."""

HELD_BRIEFLY = 0.15
"""Seconds above which each event was held up, beside the request that it answers."""

ECHOES = 3
"""Of which the one in the middle counts."""

NOWHERE = "there-is-no-such-websocket"
"""A path that is answered with a refusal, which costs nobody anything."""

MAX_POST = 512 * 1024
_NUMBER = struct.Struct(">Q")
_SIZES = (262_144, 65_536, 16_384, 4_096, 1_024, 512)


class EndedError(Exception):
    """The carrier is gone; the text says how."""


class Probe(ABC):
    """A tunnel of the doctor's, over one carrier."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.machine = Tunnel(Side.CLIENT)
        self.hello: dict[str, Any] = {}
        self.seen: list[Any] = []

    @property
    def query(self) -> str:
        """What the next carrier asks for."""
        if not self.hello:
            return ""
        return f"?tunnel={self.hello['tunnel']}&received={self.machine.received}"

    @abstractmethod
    async def hear(self) -> tuple[int, bytes]:
        """The next batch. Raises ``EndedError``."""

    @abstractmethod
    async def say(self, first: int, data: bytes) -> None:
        """Send a batch. Raises ``EndedError``."""

    async def begin(self) -> None:
        """Until ``HELLO`` came."""
        self.hello = {}
        while not self.hello:
            await self.turn()

    async def send(self) -> None:
        """What there is to send."""
        while (batch := self.machine.take(ack=True)) is not None:
            await self.say(*batch)

    async def echo(self) -> float:
        """Ask for what is nowhere and hear that: seconds that it took."""
        began = time.monotonic()
        stream = self.machine.open(NOWHERE)
        await self.send()
        await self.until(lambda each: isinstance(each, Closed) and each.stream == stream)
        return time.monotonic() - began

    async def until(self, wanted: Any) -> Any:
        """The next event that is wanted."""
        while True:
            for each in self.seen:
                if wanted(each):
                    self.seen = []
                    return each
            self.seen = []
            await self.turn()

    async def turn(self) -> None:
        """Take in one batch."""
        try:
            self.machine.receive(*await self.hear())
        except (TunnelError, OutOfOrderError) as error:
            raise EndedError(f"what came is no tunnel: {error}") from None
        for event in self.machine.events():
            if isinstance(event, Attached):
                self.hello = event.hello
            else:
                self.seen.append(event)

    async def finish(self) -> None:
        """The tunnel is not needed any more, and need not wait."""
        self.machine.close_tunnel()
        await self.send()


class SocketProbe(Probe):
    """Over a websocket."""

    def __init__(self, case: Case, socket: ClientConnection) -> None:
        super().__init__(case)
        self.socket = socket

    async def hear(self) -> tuple[int, bytes]:
        """The next batch."""
        try:
            message = await self.socket.recv()
        except ConnectionClosed as error:
            close = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
            raise EndedError(shown(close)) from None
        if isinstance(message, str) or len(message) < _NUMBER.size:
            raise EndedError("what came was no batch")
        return _NUMBER.unpack_from(message)[0], message[_NUMBER.size :]

    async def say(self, first: int, data: bytes) -> None:
        """Send a batch."""
        try:
            await self.socket.send(_NUMBER.pack(first) + data)
        except ConnectionClosed as error:
            close = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
            raise EndedError(shown(close)) from None


class StreamProbe(Probe):
    """Over an event stream and ``POST``."""

    def __init__(self, case: Case, url: str, headers: Mapping[str, str], events: Any) -> None:
        super().__init__(case)
        self._url = url
        self._headers = headers
        self._events = events
        self.quickest = math.inf
        """Seconds of a request that was answered."""

    async def hear(self) -> tuple[int, bytes]:
        """The next batch."""
        try:
            async for event in self._events:
                if event.event == "message" and event.id.isdigit():
                    return int(event.id), base64.b64decode(event.data)
                if event.event == "end":
                    break
        except (httpx.HTTPError, ClientError):
            raise EndedError("the event stream was cut") from None
        except ValueError:
            raise EndedError("what came is no event of a tunnel") from None
        raise EndedError("the event stream ended")

    async def say(self, first: int, data: bytes) -> None:
        """Send a batch."""
        status, server = await self.post(first, data)
        if status != 200:
            raise EndedError(f"{status} from {server} for a POST")

    async def post(self, first: int, data: bytes, size: int = 0) -> tuple[int, str]:
        """Send a batch, the body filled up with blanks to so many bytes: status, and who says so."""
        body = json.dumps({"first": first, "frames": base64.b64encode(data).decode()}).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        url = f"{self._url}/{self.hello['tunnel']}"
        began = time.monotonic()
        answer = await self.case.ask("POST", url, headers, body.ljust(size))
        self.quickest = min(self.quickest, time.monotonic() - began)
        ours = "api-version" in answer.headers
        return answer.status, "the server" if ours else answer.headers.get("server", "a proxy")


P = TypeVar("P", bound=Probe)


# -- opening them ------------------------------------------------------------------------------------


def _path(case: Case) -> str:
    path = case.part("tunnel").get("path")
    if not isinstance(path, str) or path.startswith("/"):
        raise SkipError("the server's capabilities name no path of its tunnels")
    return path


@asynccontextmanager
async def by_websocket(case: Case, query: str) -> AsyncIterator[SocketProbe]:
    """A tunnel over a websocket."""
    grant = case.authorization()
    offer = offer_subprotocols([TUNNEL], grant.token)
    headers = for_front(grant) if grant.token else grant.headers
    async with opened(case, _path(case) + query, offer, headers) as socket:
        yield SocketProbe(case, socket)


@asynccontextmanager
async def by_events(case: Case, query: str) -> AsyncIterator[StreamProbe]:
    """A tunnel over an event stream. Raises ``SkipError`` where the credential is none that it takes."""
    grant = case.authorization()
    if grant.token is None and not case.everybody:
        raise SkipError("event streams take a token, and this credential is none")
    own = grant.for_http()
    url = case.base() + _path(case)
    headers = {**own, "Accept": "text/event-stream"}
    request = Request("GET", url + query, headers)
    async with case.transport.stream(request, read_timeout=case.left + 1) as answer:
        if answer.status_code != 200:
            raise EndedError(f"{answer.status_code} from {answer.headers.get('server', 'a proxy')}")
        async with aclosing(EventSource(answer).aiter_sse()) as events:
            yield StreamProbe(case, url, own, events)


@asynccontextmanager
async def begun(
    carrier: Callable[[Case, str], AbstractAsyncContextManager[P]],
    case: Case,
    lost: Probe | None = None,
) -> AsyncIterator[P]:
    """A tunnel whose ``HELLO`` came, in time: a new one, or one that goes on. Raises ``TimeoutError``."""
    async with AsyncExitStack() as stack:
        async with limited(FIRST_EVENT):
            query = "" if lost is None else lost.query
            probe = await stack.enter_async_context(carrier(case, query))
        if lost is not None:
            probe.machine = lost.machine
        await within(FIRST_EVENT, probe.begin())
        yield probe


# -- the checks ----------------------------------------------------------------------------------------


async def tunnel_websocket(case: Case) -> Finding:
    """A tunnel over a websocket begins, and answers."""
    needs_upgrades(case)
    try:
        async with begun(by_websocket, case) as probe:
            took = await within(ECHO, probe.echo())
            await probe.finish()
    except UpgradeRefused as refused:
        reason = told(refused)
        lost = reason is not None and reason.slug == "credentials_missing"
        return case.broken(refusal(refused), "subprotocol_lost" if lost else "no_upgrade")
    except EndedError as error:
        return case.broken(str(error), _cause(error, "close_code_lost"))
    return case.ok(f"it begins, and answers in {took * 1000:.0f} ms")


def _cause(error: EndedError, otherwise: str) -> str:
    """The likely cause, by how a carrier ended."""
    said = str(error)
    if said.startswith(("401", "403")):
        return "authorization_lost"
    return "too_many" if said.startswith(("429", "4429")) else otherwise


async def event_stream(case: Case) -> Finding:
    """Events come at once and one by one: nothing between holds them back."""
    _path(case)
    began, first = time.monotonic(), 0.0
    try:
        async with begun(by_events, case) as probe:
            first = time.monotonic() - began
            took = median([await within(ECHO, probe.echo()) for _ in range(ECHOES)])
            await probe.finish()
    except TimeoutError:
        seen = (
            f"one event, and no more in {ECHO:g} s" if first else f"no event in {FIRST_EVENT:g} s"
        )
        return case.broken(seen, "held_back")
    except EndedError as error:
        return case.broken(str(error), _cause(error, "held_back"))
    case.streams = True
    seen = f"the first event after {first * 1000:.0f} ms, an answer after {took * 1000:.0f} ms"
    if max(first, took) > SLOW_ECHO + case.options.slow_round_trip:
        return case.slow(seen, "held_back")
    if took - probe.quickest > HELD_BRIEFLY:
        return case.slow(seen, "held_briefly")
    return case.ok(seen)


async def post_size(case: Case) -> Finding:
    """Bodies of the size that the server takes get there."""
    _path(case)
    if not case.streams:
        raise SkipError("no event stream comes")
    async with begun(by_events, case) as probe:
        told = probe.hello.get("max_post_size")
        size = told if isinstance(told, int) else MAX_POST
        size = min(size, MAX_POST)
        status, who = await _post(probe, size)
        if status == 200:
            await probe.finish()
            return case.ok(f"{size:,} bytes")
        passes = 0
        for smaller in _SIZES:
            if (await _post(probe, smaller))[0] == 200:
                passes = smaller
                break
    seen = f"{status or 'cut off'} from {who} for {size:,} bytes; {passes:,} get through"
    return case.broken(seen, "server_limit" if who == "the server" else "body_limit")


async def _post(probe: StreamProbe, size: int) -> tuple[int, str]:
    try:
        return await probe.post(1, b"", size)
    except (ClientError, TimeoutError):
        return 0, "somebody on the way"


async def message_size(case: Case) -> Finding:
    """A long message gets through a websocket: the longest that a tunnel makes. It is a fragment without its
    end, so that nobody hears it."""
    needs_upgrades(case)
    try:
        async with begun(by_websocket, case) as probe:
            stream = probe.machine.open(SOCKET)
            await probe.send()
            event = await within(ECHO, probe.until(_answers(stream)))
            if isinstance(event, Closed):
                raise SkipError("the websocket that it would go through is refused")
            probe.machine.send(stream, bytes(MAX_DATA))
            batch = probe.machine.take(2 * MAX_DATA)
            first, data = batch or (0, b"")
            sent = len(data) + _NUMBER.size
            await probe.say(first, data)
            close = await _still(probe.socket)
            if close is not None:
                return case.broken(f"a message of {sent:,} bytes: {shown(close)}", "message_limit")
            await probe.finish()
    except EndedError as error:
        return case.broken(f"a long message: {error}", _cause(error, "message_limit"))
    return case.ok(f"{sent:,} bytes")


def _answers(stream: int) -> Any:
    return lambda each: isinstance(each, (Opened, Closed)) and each.stream == stream


async def _still(socket: ClientConnection) -> tuple[int, str] | None:
    """As ``alive``; one that does not answer any more is lost."""
    try:
        return await alive(socket)
    except TimeoutError:
        return 1006, "no answer to a ping"


async def idle(case: Case) -> Finding:
    """A connection survives silence."""
    case.base()
    silence = min(case.options.idle, max(0.0, case.left - 5.0))
    if silence < 1.0 <= case.options.idle:
        raise SkipError("no time was left")
    if not case.upgrades:
        return await _idle_events(case, silence)
    grant = case.authorization()
    offer, headers = [REASON_MARKER], grant.for_http()
    if case.capabilities is not None and grant.token:
        offer, headers = offer_subprotocols([], grant.token), for_front(grant)
    async with opened(case, SOCKET, offer, headers) as socket:
        close = await alive(socket)
        if close is not None:
            raise SkipError(f"the websocket that would be silent is refused: {shown(close)}")
        began = time.monotonic()
        try:
            while (left := began + silence - time.monotonic()) > 0:
                await within(left, socket.recv())  # an event of the server's is no fault
        except TimeoutError:
            close = await _still(socket)
        except ConnectionClosed as error:
            close = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
        lasted = time.monotonic() - began
    if close is None:
        return case.ok(f"a websocket lives after {silence:g} s of silence")
    if parse_close(*close) is not None:
        raise SkipError(f"the server closed it: {shown(close)}")
    return case.broken(f"{shown(close)} after {lasted:.0f} s of silence", "idle_cut")


async def _idle_events(case: Case, silence: float) -> Finding:
    try:
        async with begun(by_events, case) as probe:
            began = time.monotonic()
            try:
                while True:
                    left = began + silence - time.monotonic()
                    await within(max(0.0, left), probe.turn())
            except TimeoutError:
                pass
            except EndedError:
                lasted = time.monotonic() - began
                return case.broken(f"an event stream ended after {lasted:.0f} s", "idle_cut")
            return case.ok(f"an event stream lives after {silence:g} s of silence")
    except (TimeoutError, EndedError):
        raise SkipError("neither websockets nor event streams come") from None


async def resume(case: Case) -> Finding:
    """A tunnel goes on after its connection was cut."""
    carrier: Any = by_websocket if case.upgrades else by_events
    _path(case)
    try:
        async with begun(carrier, case) as first:
            await within(ECHO, first.echo())
            first.machine.detach()
    except (TimeoutError, EndedError, UpgradeRefused):
        raise SkipError("there is no tunnel to cut") from None
    began = time.monotonic()
    try:
        async with begun(carrier, case, first) as second:
            took = time.monotonic() - began
            if second.hello["tunnel"] != first.hello["tunnel"]:
                return case.broken("another tunnel came in its place", "not_resumed")
            await within(ECHO, second.echo())
            await second.finish()
    except UpgradeRefused as refused:
        return case.broken(f"after a cut: {refusal(refused)}", "not_resumed")
    except EndedError as error:
        return case.broken(f"after a cut: {error}", "not_resumed")
    return case.ok(f"a tunnel goes on {took * 1000:.0f} ms after a cut")
