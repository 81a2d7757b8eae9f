"""Carriers of the client's tunnel, each against somebody who says what the test wants."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request as Handshake
from websockets.http11 import Response as Answer
from websockets.typing import Subprotocol

from jupyter_token_ws.client import carriers
from jupyter_token_ws.client.auth import Grant
from jupyter_token_ws.client.carriers import (
    MIN_FRAGMENT,
    MIN_POST,
    CarrierEndedError,
    CarrierLostError,
    EventStreamCarrier,
    Limits,
    RefusalError,
    Way,
    WebSocketCarrier,
    check_token,
)
from jupyter_token_ws.client.errors import (
    ClientError,
    NoConnectionError,
    TooLargeError,
    UnsupportedError,
    UpgradeBlockedError,
)
from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.auth import Request, Response
from jupyter_token_ws.protocol.clients import addresses
from jupyter_token_ws.protocol.frames import FIN, Frame, Kind
from jupyter_token_ws.protocol.reasons import REASONS, Advice
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, TUNNEL
from tests.support.waiting import auntil

WITH_TOKEN = {"token": {"subprotocol": MARKER}}
GRANT = Grant({"X-More": "yes"}, "the-token", 1)


class Granting:
    """An authenticator."""

    def __init__(self, *verdicts: bool) -> None:
        self.verdicts = list(verdicts)
        self.given = GRANT

    async def grant(self) -> Grant:
        return self.given

    async def judge(self, grant: Grant, response: Response) -> bool:
        return bool(self.verdicts and self.verdicts.pop(0))


def way(transport: Any, url: str = "http://127.0.0.1/", **options: Any) -> Way:
    options = {"authenticator": Granting(), "capabilities": WITH_TOKEN, **options}
    return Way(transport, addresses=addresses(url, None), **cast("Any", options))


def close_text(slug: str) -> tuple[int, str]:
    return REASONS[slug].code, REASONS[slug].close_reason()


# -- where tunnels are -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"tunnel": {"path": "elsewhere"}}, "elsewhere"),
        ({"tunnel": {"path": "../elsewhere"}}, carriers.PATH),
        ({"tunnel": {"path": 3}}, carriers.PATH),
        ({"tunnel": 3}, carriers.PATH),
        (None, carriers.PATH),
    ],
)
def test_where_tunnels_are(said, path):
    assert way(None, capabilities=said).path == path


# -- a websocket -------------------------------------------------------------------------------------


@asynccontextmanager
async def websocket(
    answer: Callable[[ServerConnection], Any],
    *,
    status: int = 101,
    body: bytes = b"",
    **options: Any,
) -> AsyncIterator[WebSocketCarrier]:
    """A carrier to a server that does this, or answers the handshake so."""

    def process(connection: ServerConnection, request: Handshake) -> Answer | None:
        seen.append(request)
        return None if status == 101 else Answer(status, "", Headers(), body)

    seen: list[Handshake] = []
    async with serve(
        answer,
        "127.0.0.1",
        0,
        process_request=process,
        subprotocols=[Subprotocol(TUNNEL)],
        ping_interval=None,
        close_timeout=0.1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"http://127.0.0.1:{port}/base/"
        transport = Transport(url)
        carrier = WebSocketCarrier(way(transport, url, **options), lambda: None)
        cast("Any", carrier).seen = seen
        try:
            yield carrier
        finally:
            await carrier.aclose()
            await transport.aclose()


def batch(first: int, data: bytes) -> bytes:
    return struct.pack(">Q", first) + data


async def quiet(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def test_batches_over_a_websocket():
    async def answer(connection: ServerConnection) -> None:
        assert await connection.recv() == batch(3, b"up")
        await connection.send(batch(7, b"down"))
        await connection.send("text")

    async with websocket(answer) as carrier:
        await carrier.connect(GRANT, "?tunnel=x")
        await carrier.send("id", 3, b"up")
        batches = carrier.batches()
        assert await batches.__anext__() == (7, b"down")
        with pytest.raises(CarrierLostError, match="no batch"):
            await batches.__anext__()
        seen = cast("Any", carrier).seen[0]
        assert seen.path == f"/base/{carriers.PATH}?tunnel=x"
        offer = seen.headers["Sec-WebSocket-Protocol"].split(", ")
        assert offer == [TUNNEL, MARKER, f"{MARKER}.the-token", REASON_MARKER]
        assert "Authorization" not in seen.headers
        assert seen.headers["X-More"] == "yes"
        await carrier.aclose(politely=True)
        with pytest.raises(CarrierLostError):
            await carrier.send("id", 4, b"late")


async def test_without_capabilities_the_token_goes_by_header():
    async with websocket(quiet, capabilities=None) as carrier:
        await carrier.connect(GRANT, "")
        seen = cast("Any", carrier).seen[0]
        assert seen.headers["Authorization"] == "token the-token"
        assert seen.headers["Sec-WebSocket-Protocol"] == f"{TUNNEL}, {REASON_MARKER}"


@pytest.mark.parametrize(
    ("greeted", "close", "error"),
    [
        (False, close_text("token_revoked"), RefusalError),
        (False, (4001, "x"), CarrierLostError),
        (True, close_text("token_revoked"), CarrierLostError),
        (True, close_text("replaced"), CarrierEndedError),
        (True, (1000, ""), CarrierLostError),
        (True, None, CarrierLostError),
    ],
)
async def test_how_a_websocket_ends(greeted, close, error):
    async def answer(connection: ServerConnection) -> None:
        if greeted:
            await connection.send(batch(1, b""))
        if close is None:
            connection.transport.abort()
        else:
            await connection.close(*close)

    async with websocket(answer) as carrier:
        await carrier.connect(GRANT, "")
        with pytest.raises(error) as raised:
            [each async for each in carrier.batches()]
        if error is RefusalError:
            response = raised.value.response
            assert (response.status, response.reason.slug) == (401, "token_revoked")
            told = raised.value.told()
            assert (told.slug, told.advice) == ("token_revoked", Advice.AUTHENTICATE)
        # What is sent after the end waits for whoever hears it.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(carrier.send("id", 1, b""), 0.05)


def told(slug: str) -> bytes:
    return json.dumps({"status": slug}).encode()


@pytest.mark.parametrize(
    ("status", "body", "token", "error"),
    [
        (400, b"", True, UpgradeBlockedError),
        (400, told("bad_request"), True, UpgradeBlockedError),
        (502, b"{}", True, UpgradeBlockedError),
        (404, b"[]", True, UpgradeBlockedError),
        (403, told("credentials_missing"), True, UpgradeBlockedError),
        (403, told("credentials_missing"), False, RefusalError),
        (403, told("token_rejected"), True, RefusalError),
        (403, b"", True, RefusalError),
        (503, told("draining"), True, RefusalError),
    ],
)
async def test_handshakes_that_come_to_nothing(status, body, token, error):
    async with websocket(quiet, status=status, body=body) as carrier:
        with pytest.raises(error) as raised:
            await carrier.connect(GRANT if token else Grant({"Cookie": "a=b"}), "")
        if error is RefusalError:
            assert raised.value.told().status == status


async def test_a_websocket_that_is_alive_and_one_that_is_dead():
    connections: list[ServerConnection] = []

    async def answer(connection: ServerConnection) -> None:
        connections.append(connection)
        await connection.wait_closed()

    async with websocket(answer, keepalive=0.2) as carrier:
        await carrier.connect(GRANT, "")
        watching = asyncio.create_task(carrier.watch("id"))
        await asyncio.sleep(0.5)
        assert not watching.done()
        connections[0].transport.pause_reading()  # its pongs do not come any more
        with pytest.raises(CarrierLostError, match="dead"):
            await asyncio.wait_for(watching, 10)


async def test_a_carrier_that_never_was():
    carrier = WebSocketCarrier(way(None), lambda: None)
    with pytest.raises(CarrierLostError):
        await carrier.batches().__anext__()
    await carrier.aclose()
    other = EventStreamCarrier(way(None), lambda: None)
    with pytest.raises(CarrierLostError):
        await other.batches().__anext__()
    await other.aclose()


# -- an event stream ---------------------------------------------------------------------------------


class Scripted:
    """A transport that answers so, and knows what it was asked."""

    def __init__(self, *posts: Response | Exception, status: int = 200, kind: str = "") -> None:
        self.posts = list(posts)
        self.status = status
        self.kind = kind or "text/event-stream"
        self.asked: list[Request] = []
        self.chunks: list[bytes | Exception] = []
        self.ended = 0

    async def request(self, request: Request, *, timeout: float) -> Response:
        self.asked.append(request)
        await asyncio.sleep(0)
        answer = self.posts.pop(0) if self.posts else Response(200)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[httpx.Response]:
        self.asked.append(request)
        headers = {"Content-Type": self.kind}
        yield httpx.Response(self.status, headers=headers, content=self.content())
        self.ended += 1

    async def content(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def bodies(self) -> list[tuple[int, bytes]]:
        """What was posted."""
        read = [json.loads(asked.body or b"") for asked in self.asked if asked.method == "POST"]
        return [(each["first"], base64.b64decode(each["frames"])) for each in read]


def event_stream(transport: Scripted, beats: list[int] | None = None, **options: Any) -> Any:
    beaten = [] if beats is None else beats
    return EventStreamCarrier(way(transport, **options), lambda: beaten.append(1))


async def hear(carrier: EventStreamCarrier, heard: list[tuple[int, bytes]]) -> None:
    async for each in carrier.batches():
        heard.append(each)  # noqa: PERF401 # the end raises


def event(first: int, data: bytes) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (first, base64.b64encode(data))


async def test_batches_over_an_event_stream():
    transport, beats = Scripted(), list[int]()
    carrier = event_stream(transport, beats)
    stream = event(1, b"one") + b"event: keepalive\ndata: {}\n\nevent: later\ndata: x\n\n"
    stream += event(2, b"") + event(2, bytes(300_000))
    transport.chunks = [stream[at : at + 977] for at in range(0, len(stream), 977)]
    await carrier.connect(GRANT, "?a=b")
    heard: list[tuple[int, bytes]] = []
    with pytest.raises(CarrierLostError, match="ended"):
        await hear(carrier, heard)
    assert heard == [(1, b"one"), (2, b""), (2, bytes(300_000))]
    assert beats == [1]
    asked = transport.asked[0]
    assert asked.url == f"http://127.0.0.1/{carriers.PATH}?a=b"
    assert asked.headers["Authorization"] == "token the-token"
    await carrier.aclose()
    await carrier.aclose()
    assert transport.ended == 1


@pytest.mark.parametrize(
    ("chunks", "error", "why"),
    [
        ([b"id: x\ndata: \n\n"], CarrierLostError, "no batch"),
        ([b"id: 1\ndata: ?\n\n"], CarrierLostError, "no batch"),
        ([b"event: end\ndata: []\n\n"], CarrierLostError, "no batch"),
        ([httpx.ReadTimeout("x")], CarrierLostError, "ReadTimeout"),
        ([b"data: ", *[bytes(1_000_000)] * 3], CarrierLostError, "no end"),
    ],
)
async def test_events_that_are_none(chunks, error, why):
    transport = Scripted()
    transport.chunks = chunks
    carrier = event_stream(transport)
    await carrier.connect(GRANT, "")
    with pytest.raises(error, match=why):
        [each async for each in carrier.batches()]
    await carrier.aclose()


@pytest.mark.parametrize(
    ("document", "code", "slug"),
    [
        ({"code": 4409, "status": "replaced"}, 4409, "replaced"),
        ({"code": 4503, "status": "draining", "retry_after": 5}, 4503, "draining;retry_after=5"),
        ({"code": 1001, "message": "bye"}, 1001, "bye"),
        ({"status": "of another version"}, 1005, ""),
    ],
)
async def test_what_ends_the_tunnel(document, code, slug):
    transport = Scripted()
    transport.chunks = [b"event: end\ndata: %b\n\n" % json.dumps(document).encode()]
    transport.chunks += [httpx.ReadError("cut")] * (code == 1001)
    carrier = event_stream(transport)
    await carrier.connect(GRANT, "")
    with pytest.raises(CarrierEndedError) as raised:
        [each async for each in carrier.batches()]
    assert (raised.value.code, raised.value.reason.partition(":")[0]) == (code, slug)
    await carrier.aclose()


async def test_an_event_stream_that_is_refused_or_none():
    transport = Scripted(status=404)
    transport.chunks = [told("not_found"), b" " * 10_000]
    carrier = event_stream(transport)
    with pytest.raises(RefusalError) as raised:
        await carrier.connect(GRANT, "")
    assert raised.value.response.reason is REASONS["not_found"]
    await carrier.aclose()
    carrier = event_stream(Scripted(kind="text/html"))
    await carrier.connect(GRANT, "")
    with pytest.raises(NoConnectionError, match="no event stream"):
        await carrier.batches().__anext__()
    await carrier.aclose()


@pytest.mark.parametrize(
    ("answer", "held"),
    [(Response(200), True), (Response(404), False), (NoConnectionError("no"), False)],
)
async def test_nothing_comes_and_the_server_answers_otherwise(answer, held):
    carrier = event_stream(Scripted(answer))
    assert await carrier.is_held_back() is held
    await carrier.connect(GRANT, "")
    assert await carrier.is_held_back()
    await carrier.aclose()
    assert not await WebSocketCarrier(way(None), lambda: None).is_held_back()


async def test_a_cookie_is_no_credential_there():
    with pytest.raises(UnsupportedError, match=r"Authorization alone.*ticket plugin"):
        await event_stream(Scripted()).connect(Grant({"Cookie": "a=b"}), "")
    both = {"Cookie": "a=b", "Authorization": "Basic dXM6aGlkZGVu"}
    with pytest.raises(
        UnsupportedError, match=r"Authorization alone.*the proxy's password"
    ) as raised:
        await event_stream(Scripted()).connect(Grant(both), "")
    assert "dXM6" not in str(raised.value)
    check_token(Grant({"Cookie": "a=b"}, "token"))
    check_token(Grant({"Authorization": "Basic dXM6aGlkZGVu"}))


# -- posts -------------------------------------------------------------------------------------------


def data_of(*sizes: int) -> bytes:
    some = [Frame(Kind.DATA, 1, bytes(size), FIN) for size in sizes]
    return b"".join(frames.encode(frame) for frame in some)


async def test_what_is_posted():
    transport = Scripted()
    await event_stream(transport).send("id", 5, b"")
    (asked,) = transport.asked
    assert (asked.method, asked.url) == ("POST", f"http://127.0.0.1/{carriers.PATH}/id")
    assert asked.headers["Content-Type"] == "application/json"
    assert transport.bodies() == [(5, b"")]


async def test_large_batches_are_split_between_frames():
    transport = Scripted()
    ack, data = frames.encode(frames.ack_frame(0, 0)), data_of(500, 500, 5000, 10)
    limits = Limits(post=1100)
    await event_stream(transport, limits=limits).send("id", 5, ack + data)
    heard = transport.bodies()
    assert b"".join(each for _, each in heard) == ack + data
    assert [first for first, _ in heard] == [5, 7, 8]


async def test_a_body_that_is_too_large_is_halved():
    transport = Scripted(Response(413), Response(200), Response(413))
    limits = Limits(fragment=16_000)
    carrier = event_stream(transport, limits=limits)
    data = data_of(*[1000] * 30)
    await carrier.send("id", 1, data)
    heard = transport.bodies()
    assert [first for first, _ in heard][:3] == [1, 1, 16]
    assert heard[-1][0] > 16
    assert carrier.size == limits.post < len(data) // 2
    assert limits.fragment <= limits.post // 2


async def test_until_it_cannot_be_halved_any_more():
    limits = Limits(fragment=16_000)
    carrier = event_stream(Scripted(*[Response(413)] * 50), limits=limits)
    advice = []
    for _ in range(3):
        with pytest.raises(TooLargeError, match="413") as raised:
            await carrier.send("id", 1, data_of(*[1000] * 30))
        advice.append(raised.value.advice)
    assert advice[-1] is Advice.STOP
    assert (limits.post, limits.fragment) == (MIN_POST, MIN_FRAGMENT)
    limits.fragment = 2 * MIN_FRAGMENT
    with pytest.raises(TooLargeError) as raised:  # the next tunnel's frames are smaller
        await carrier.send("id", 1, data_of(2 * MIN_FRAGMENT))
    assert raised.value.advice is Advice.RETRY


def test_what_the_server_says_it_takes():
    limits = Limits()
    limits.allow(64 * 1024)
    assert (limits.post + 2) // 3 * 4 + carriers.POST_FRAMING <= 64 * 1024
    limits.allow(512 * 1024)
    assert limits.post < 64 * 1024


async def test_a_post_that_does_not_get_through_is_sent_again():
    transport = Scripted(NoConnectionError("no"), Response(502), Response(429, retry_after=0.01))
    await event_stream(transport).send("id", 5, b"x")
    assert transport.bodies() == [(5, b"x")] * 4


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (NoConnectionError("no"), "does not get through"),
        (Response(503), "answered 503"),
        (Response(503, retry_after=60), "answered 503"),
        (Response(409), "missing"),
    ],
)
async def test_but_not_for_ever(answer, why):
    transport = Scripted(*[answer] * 20)
    with pytest.raises(CarrierLostError, match=why):
        await event_stream(transport, keepalive=0.3).send("id", 5, b"x")
    assert transport.posts


async def test_a_post_that_is_refused():
    transport = Scripted(Response(403), Response(403), Response(200))
    await event_stream(transport, authenticator=Granting(True, True)).send("id", 1, b"")
    transport = Scripted(*[Response(403)] * 9)
    with pytest.raises(RefusalError):
        await event_stream(transport, authenticator=Granting(*[True] * 9)).send("id", 1, b"")
    assert len(transport.asked) == carriers.JUDGED
    with pytest.raises(RefusalError) as raised:
        await event_stream(Scripted(Response(404, body=told("not_found")))).send("id", 1, b"")
    assert raised.value.response.reason is REASONS["not_found"]


class Answering(Scripted):
    """A transport that gives an event to who asks for one, until it is mute."""

    mute = False

    def __init__(self) -> None:
        super().__init__()
        self.events = asyncio.Queue[bytes]()

    async def request(self, request: Request, *, timeout: float) -> Response:
        assert json.loads(request.body or b"") == {"first": 1, "frames": "", "ask": True}
        if not self.mute:
            self.events.put_nowait(KEEPALIVE)
        return await super().request(request, timeout=timeout)

    async def content(self) -> AsyncIterator[bytes]:
        while True:
            yield await self.events.get()


KEEPALIVE = b"event: keepalive\ndata: {}\n\n"


async def test_who_hears_no_event_asks_for_one():
    transport, beats = Answering(), list[int]()
    carrier = event_stream(transport, beats, keepalive=0.5)
    await carrier.connect(GRANT, "")
    hearing = asyncio.create_task(hear(carrier, []))
    watching = asyncio.create_task(carrier.watch("id"))
    await auntil(lambda: len(transport.bodies()) > 2, "it to have asked three times")
    assert not watching.done()
    assert not hearing.done()
    assert beats == []  # what was asked for is not answered
    transport.events.put_nowait(KEEPALIVE)
    await auntil(lambda: beats, "an answer to what was not")
    transport.mute = True
    before = len(transport.bodies())
    with pytest.raises(CarrierLostError, match="dead"):
        await watching
    assert len(transport.bodies()) == before + 1
    hearing.cancel()
    await asyncio.gather(hearing, return_exceptions=True)
    await carrier.aclose()


async def test_who_cannot_ask_has_lost_it():
    """Though the event stream itself may still be there."""
    transport = Scripted(*[NoConnectionError("no")] * 9)
    transport.chunks = []
    carrier = event_stream(transport, keepalive=0.1)
    await carrier.connect(GRANT, "")
    with pytest.raises(CarrierLostError):
        await asyncio.wait_for(carrier.watch("id"), 10)
    await carrier.aclose()


def test_the_errors_of_carriers_are_no_errors_of_the_client():
    """They do not get out: the tunnel makes something of them."""
    for error in (CarrierLostError, CarrierEndedError, RefusalError):
        assert not issubclass(error, ClientError)
