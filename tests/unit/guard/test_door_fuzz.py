"""Anything at all is thrown at the door of a live server. It must answer or hang up in time, keep
nothing open, and let the next good client in."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.support.door import EVENTS, Door, Socket, errors
from tests.support.knock import bearing

EXAMPLES = 120
LIMIT = 30.0
"""Seconds that the server has to answer, or to hang up once we did."""

PATIENCE = 0.2
"""Seconds after which it is taken that the server waits for more."""

CONFIG = {
    "refusal_burst": 1_000_000,
    "max_refusals_open": 1_000_000,
    "refusal_linger": 0.1,
    "open_timeout": 2,
}

once = settings(
    max_examples=EXAMPLES,
    # One server takes all examples: that it still works after each of them is the point.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
ANY_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40)
# tornado answers most of the wilder ones before anybody else sees them.
TEXT = st.one_of(PRINTABLE, PRINTABLE, PRINTABLE, ANY_TEXT)
RAW = st.binary(max_size=60).map(lambda data: data.decode("latin-1"))
NAMES = st.one_of(
    st.sampled_from(
        [
            MARKER,
            REASON_MARKER,
            KERNEL,
            f"{MARKER}.",
            bearing("wrong"),
            "GOOD",
            "v2.token.websocket.jupyter.org.x",
            "V1.TOKEN.WEBSOCKET.JUPYTER.ORG.x",
        ]
    ),
    TEXT.map(lambda text: f"{MARKER}.{text}"),
    TEXT,
)
OFFERS = st.lists(NAMES, max_size=8).map(", ".join)
METHODS = st.sampled_from(["GET"] * 12 + ["POST", "HEAD", "OPTIONS", "BREW", ""])
PATHS = st.one_of(
    *3
    * [
        st.sampled_from(
            [
                EVENTS,
                f"{EVENTS}?token=wrong",
                f"{EVENTS}?token=GOOD",
                "api/kernels/00000000-0000-0000-0000-000000000000/channels",
                "api/kernels/x/channels?session_id=1",
                "terminals/websocket/1",
                "api/token-ws/capabilities",
                "no/such",
                "echo",
            ]
        )
    ],
    TEXT.map(lambda text: text.replace(" ", "%20")),
)
HEADERS = st.one_of(
    st.tuples(st.just("Upgrade"), st.sampled_from(["websocket", "WebSocket", "x", ""])),
    st.tuples(st.just("Connection"), st.sampled_from(["Upgrade", "keep-alive, Upgrade", "x"])),
    st.tuples(st.just("Sec-WebSocket-Key"), st.one_of(st.just("MDEyMzQ1Njc4OWFiY2RlZg=="), TEXT)),
    st.tuples(st.just("Sec-WebSocket-Version"), st.one_of(st.sampled_from(["13", "8"]), TEXT)),
    st.tuples(st.just("Sec-WebSocket-Protocol"), OFFERS),
    st.tuples(st.just("Sec-WebSocket-Extensions"), st.one_of(st.just("permessage-deflate"), TEXT)),
    st.tuples(
        st.just("Authorization"), st.one_of(st.sampled_from(["token GOOD", "Bearer wrong"]), TEXT)
    ),
    st.tuples(st.just("Cookie"), TEXT),
    st.tuples(
        st.just("Origin"), st.one_of(st.sampled_from(["https://evil.example", "null"]), TEXT)
    ),
    st.tuples(st.just("Sec-Fetch-Site"), st.sampled_from(["cross-site", "same-origin", "x"])),
    st.tuples(st.just("Referer"), TEXT),
    st.tuples(st.just("Content-Length"), st.sampled_from(["0", "3", "-1", "x"])),
    st.tuples(st.just("Transfer-Encoding"), st.sampled_from(["chunked", "x"])),
    st.tuples(st.just("Api-Version"), TEXT),
    st.tuples(st.one_of(st.just("X-Any"), TEXT), RAW),
)
USUAL = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
    ("Sec-WebSocket-Version", "13"),
]


@st.composite
def requests(draw: st.DrawFn) -> str:
    """Mostly handshakes, with something wrong here and there. ``GOOD`` stands for a good token."""
    method, path = draw(METHODS), draw(PATHS)
    lines = [("Host", draw(st.sampled_from([*["HOST"] * 8, "evil.example", ""])))]
    lines += [line for line in USUAL if draw(st.integers(0, 19))]
    for name, value in draw(st.lists(HEADERS, max_size=6)):
        if draw(st.booleans()):
            lines = [line for line in lines if line[0] != name]
        lines.append((name, value))
    text = f"{method} BASE{path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines) + "\r\n"
    return text + draw(st.one_of(st.just(""), st.just(""), RAW))


async def throw(door: Door, data: bytes) -> bytes:
    """Send, and read what comes. Where nothing does, as to half a request, hang up our side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(65536), PATIENCE)
        except asyncio.TimeoutError:
            writer.write_eof()
            return await asyncio.wait_for(reader.read(65536), LIMIT)
    except ConnectionError:
        return b""  # cut by the server
    finally:
        writer.transport.abort()


async def good_client_gets_in(door: Door) -> None:
    async with await door.knock("echo", [MARKER, bearing(door.token), REASON_MARKER]) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
        await socket.send("hello")
        assert await socket.wait_message() == "hello"
    await door.settled()


def uncaught(records: list[logging.LogRecord]) -> list[str]:
    """Exceptions in a handler.

    An error page of upstream's that fails is upstream's: it asks for the user, whom nobody has asked
    for yet where a method or a path cannot even be read. So is its redirect to a path with control
    characters, less the slash at the end, which tornado refuses to write.
    """
    pages = "Uncaught exception in write_error"
    redirects = [
        each for each in records if each.exc_info and "Unsafe header" in str(each.exc_info[1])
    ]
    theirs = {pages, *errors(redirects)}
    lines = [line for line in errors(records) if line not in theirs]
    return [line for line in lines if "Uncaught" in line or "Exception in" in line]


@pytest.fixture
def token_ws_config():
    return CONFIG


def test_whole_handshakes_gone_wrong(door, caplog, jp_asyncio_loop):
    door.add("echo", Socket)
    run = jp_asyncio_loop.run_until_complete

    @once
    @given(requests())
    def check(text: str) -> None:
        caplog.clear()
        text = text.replace("BASE", door.base).replace("HOST", door.host)
        data = text.replace("GOOD", door.token).encode("latin-1", "replace")
        answer = run(throw(door, data))
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:80]
        assert b"Traceback" not in answer
        run(good_client_gets_in(door))
        assert uncaught(caplog.records) == []

    check()


def test_raw_bytes(door, caplog, jp_asyncio_loop):
    door.add("echo", Socket)
    run = jp_asyncio_loop.run_until_complete

    @once
    @given(st.lists(st.one_of(st.binary(max_size=200), st.just(b"\r\n\r\n")), max_size=5))
    def check(pieces: list[bytes]) -> None:
        caplog.clear()
        answer = run(throw(door, b"".join(pieces)))
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        run(good_client_gets_in(door))
        assert uncaught(caplog.records) == []

    check()


def test_frames_of_any_kind_after_a_handshake(door, caplog, jp_asyncio_loop):
    """Behind a handshake that is refused, and behind one that is not."""
    door.add("echo", Socket)
    run = jp_asyncio_loop.run_until_complete

    @once
    @given(st.lists(st.binary(max_size=300), max_size=6), st.booleans(), st.booleans())
    def check(pieces: list[bytes], good: bool, end: bool) -> None:
        caplog.clear()
        run(frames(pieces, good, end))
        run(good_client_gets_in(door))
        assert uncaught(caplog.records) == []

    async def frames(pieces: list[bytes], good: bool, end: bool) -> None:
        offer = [MARKER, bearing(door.token if good else "wrong"), REASON_MARKER]
        async with await door.knock("echo", offer) as socket:
            assert socket.status == 101
            try:
                for piece in pieces:
                    socket.writer.write(piece)
                    await socket.writer.drain()
                if end:
                    socket.writer.write_eof()
                if end or not good:
                    await asyncio.wait_for(socket.reader.read(), LIMIT)
            except ConnectionError:
                pass  # cut by the server

    check()
