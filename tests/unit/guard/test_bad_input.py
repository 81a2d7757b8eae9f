"""Whatever comes in gets its row of the table or upstream's own answer: never a traceback, never a
socket that stays."""

from __future__ import annotations

import asyncio
import base64
import logging
import struct
import time

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.support.door import EVENTS, Socket, errors
from tests.support.knock import TIMEOUT, bearing

KEY = base64.b64encode(b"0123456789abcdef").decode()


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 10000}


@pytest.fixture(autouse=True)
def nothing_stays(door, caplog, jp_asyncio_loop):
    """After every test here: no socket is left and nothing was logged as an error."""
    caplog.set_level(logging.DEBUG)
    yield
    jp_asyncio_loop.run_until_complete(door.settled())
    assert errors(caplog.records) == []


def head(door, *lines: str, method: str = "GET", path: str = EVENTS) -> bytes:
    first = f"{method} {door.base}{path} HTTP/1.1"
    return "\r\n".join([first, f"Host: {door.host}", *lines, "", ""]).encode("latin-1")


HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)

# -- tokens ----------------------------------------------------------------------------------------

MALFORMED = {
    "two tokens": [bearing("a"), bearing("b")],
    "the same token twice": [bearing("a"), bearing("a")],
    "a token and an empty one": [bearing("a"), f"{MARKER}."],
    "two empty ones": [f"{MARKER}.", f"{MARKER}."],
    "two cases": [bearing("a"), bearing("a").upper()],
    "half an escape": [bearing("a%2")],
    "no escape": [bearing("a%")],
    "bad escape": [bearing("%zz")],
    "bad UTF-8": [bearing("%ff")],
    "half a character": [bearing("%c3")],
    "a surrogate": [bearing("%ed%a0%80")],
    "NUL": [bearing("a%00b")],
    "line feed": [bearing("a%0ab")],
    "escape": [bearing("%1b[31m")],
    "DEL": [bearing("%7f")],
    "a C1 control": [bearing("%c2%85")],
    "not ASCII": [bearing("\xe4")],
    "too long": [bearing("a" * 4097)],
    "too long when encoded": [bearing("%61" * 1366)],
    "an unknown version": ["v2.token.websocket.jupyter.org.a"],
    "an unknown version, empty": ["v0.token.websocket.jupyter.org."],
    "a version like ours": ["v01.token.websocket.jupyter.org.a"],
}


async def test_C1_3_malformed_credentials(door):
    for offered in MALFORMED.values():
        cookie = {"Cookie": await door.login_cookie()}
        for headers in ({}, cookie, {"Authorization": f"token {door.token}"}):
            told = await door.refused(EVENTS, [MARKER, *offered, REASON_MARKER], headers)
            assert (told.status, told.code, told.slug) == (101, 4400, "malformed_credentials")
            assert told.subprotocol == REASON_MARKER
            assert told.set_cookies == []
        # However the client offers them: in one header or several.
        lines = [f"Sec-WebSocket-Protocol: {name}" for name in (KERNEL, *offered)]
        async with await door.raw(head(door, *HANDSHAKE, *lines)) as told:
            await told.wait_closed()
            assert (told.subprotocol, told.slug) == (KERNEL, "malformed_credentials")


@pytest.mark.parametrize("token_ws_config", [{"close_reasons": "never"}])
async def test_C1_3_C3_3_plain(door):
    for offered in MALFORMED.values():
        answer = await door.refused(EVENTS, [MARKER, *offered])
        assert answer.status == 400
        assert answer.body == b"malformed_credentials: the token could not be read\n"


async def test_C1_3_the_longest_token_that_is_read(door):
    for size in [4095, 4096]:
        told = await door.refused(EVENTS, [MARKER, bearing("a" * size), REASON_MARKER])
        assert told.slug == "token_rejected"
        door.app.identity_provider.token = "a" * size
        async with await door.knock(EVENTS, [MARKER, bearing("a" * size)]) as socket:
            assert socket.status == 101


async def test_C1_3_an_empty_token_is_none(door):
    told = await door.refused(EVENTS, [MARKER, f"{MARKER}.", REASON_MARKER])
    assert told.slug == "credentials_missing"
    header = {"Authorization": f"token {door.token}"}
    async with await door.knock(EVENTS, [MARKER, f"{MARKER}."], header) as socket:
        assert (socket.status, socket.subprotocol) == (101, None)


async def test_C2_1_C2_2_two_places_that_disagree(door):
    wrong, good = "wrong", door.token
    for subprotocol, url, header, admitted in [
        (good, wrong, wrong, True),
        (wrong, good, good, False),
        (wrong, None, good, False),
        (good, wrong, None, True),
        (None, good, wrong, True),
    ]:
        path = EVENTS + (f"?token={url}" if url else "")
        offer = [MARKER, bearing(subprotocol)] if subprotocol else []
        headers = {"Authorization": f"token {header}"} if header else {}
        if admitted:
            async with await door.knock(path, [*offer, REASON_MARKER], headers) as socket:
                assert socket.status == 101
        else:
            told = await door.refused(path, [*offer, REASON_MARKER], headers)
            assert told.slug == "token_rejected"


# -- subprotocols ----------------------------------------------------------------------------------


async def test_C1_1_a_thousand_subprotocols(door):
    many = [f"application.{number}" for number in range(1000)]
    begun = time.monotonic()
    async with await door.knock(EVENTS, [*many, MARKER, bearing(door.token)]) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
    told = await door.refused(EVENTS, [*many, MARKER, bearing("wrong"), REASON_MARKER])
    assert (told.subprotocol, told.slug) == (REASON_MARKER, "token_rejected")
    told = await door.refused(EVENTS, [bearing(str(number)) for number in range(1000)])
    assert told.slug == "malformed_credentials"
    assert time.monotonic() - begun < 5


async def test_C1_1_an_empty_offer_is_none(door):
    for offer in ["", ",", " , ,,", "\t", ",".join([""] * 1000)]:
        header = {"Authorization": f"token {door.token}"}
        async with await door.knock(EVENTS, offer, header) as socket:
            assert (socket.status, socket.subprotocol) == (101, None)
        assert (await door.refused(EVENTS, offer)).status == 403


async def test_C1_1_odd_names(door):
    odd = ["a b", '"quoted"', "(x)", "\xff\xfe", "%00", KERNEL.upper()]
    async with await door.knock(EVENTS, [*odd, MARKER, bearing(door.token)]) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
    told = await door.refused(EVENTS, [*odd, REASON_MARKER])
    assert told.slug == "credentials_missing"


async def test_C1_1_markers_many_times(door):
    offer = [MARKER] * 50 + [REASON_MARKER] * 50 + [bearing(door.token)]
    async with await door.knock(EVENTS, offer) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)


# -- handshakes that are none ------------------------------------------------------------------------


async def test_an_upgrade_that_lacks_something(door):
    for credential in ["none", "bad", "good"]:
        for opted_in in [True, False]:
            for drop, upstream in [
                ("Sec-WebSocket-Key", 400),
                ("Sec-WebSocket-Version", 426),
                ("Connection", 400),
                ("Upgrade", 400),
            ]:
                headers = {"none": {}, "bad": {"Authorization": "token wrong"}}.get(
                    credential, {"Authorization": f"token {door.token}"}
                )
                answer = await door.refused(
                    EVENTS, [REASON_MARKER] if opted_in else None, headers, drop=(drop,)
                )
                admitted = credential == "good" or (opted_in and drop != "Upgrade")
                assert answer.status == (upstream if admitted else 403)


async def test_an_upgrade_with_something_wrong(door):
    for changed in [
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": "13, 8"},
        {"Sec-WebSocket-Version": "x"},
        {"Connection": "keep-alive"},
        {"Upgrade": "h2c"},
        {"Upgrade": "websocket, h2c"},
    ]:
        for credential in (["Authorization", f"token {door.token}"],):
            headers = {**changed, credential[0]: credential[1]}
            answer = await door.refused(EVENTS, [REASON_MARKER], headers)
            assert answer.status == (426 if "Sec-WebSocket-Version" in changed else 400)
        answer = await door.refused(EVENTS, [MARKER, bearing("wrong")], changed)
        assert answer.status in (400, 403, 426)


async def test_a_strange_key_is_upstreams_business(door):
    for key in ["x", "=" * 500, "\xff"]:
        headers = {"Sec-WebSocket-Key": key, "Authorization": f"token {door.token}"}
        async with await door.knock(EVENTS, [REASON_MARKER], headers) as socket:
            assert socket.status == 101
        told = await door.refused(EVENTS, [REASON_MARKER], {"Sec-WebSocket-Key": key})
        assert told.slug == "credentials_missing"


async def test_strange_extensions(door):
    for extensions in ["permessage-deflate; x=y", ";;;", "a; b*=utf-8''%ff", "\xff"]:
        header = {"Sec-WebSocket-Extensions": extensions}
        told = await door.refused(EVENTS, [REASON_MARKER], header)
        assert told.slug == "credentials_missing"
        async with await door.knock(EVENTS, [MARKER, bearing(door.token)], header) as socket:
            assert socket.status == 101


async def test_another_method_with_upgrade(door):
    for method in ["POST", "PUT", "DELETE", "HEAD", "PATCH"]:
        for headers in ({}, {"Authorization": f"token {door.token}"}):
            for offer in (None, [MARKER, bearing(door.token), REASON_MARKER]):
                lines = [
                    *HANDSHAKE,
                    "Connection: close",
                    *(f"{k}: {v}" for k, v in headers.items()),
                ]
                if offer:
                    lines.append(f"Sec-WebSocket-Protocol: {', '.join(offer)}")
                reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
                writer.write(head(door, *lines, "Content-Length: 0", method=method))
                answer = await asyncio.wait_for(reader.readline(), 10)
                writer.transport.abort()
                assert answer.split()[1] in (b"403", b"405")


async def test_options_with_upgrade_is_still_options(door):
    async with await door.raw(head(door, *HANDSHAKE, method="OPTIONS")) as answer:
        assert answer.status == 204


async def test_a_plain_get_on_a_sockets_path(door):
    seen: list[Socket] = []
    headers_seen: list[dict[str, str]] = []

    class Watching(Socket):
        async def get(self, *args, **kwargs):
            headers_seen.append(dict(self.request.headers))
            await super().get(*args, **kwargs)

    door.add("watching", Watching, seen=seen)
    good = {"Authorization": f"token {door.token}"}
    for path in (EVENTS, "watching"):
        assert (await door.fetch(path)).status == 403
        answer = await door.fetch(path, good)
        assert (answer.status, answer.body) == (400, b'Can "Upgrade" only to "WebSocket".')
        offered = {"Sec-WebSocket-Protocol": f"{KERNEL}, {MARKER}, {bearing(door.token)}"}
        # A token there opens nothing: it is no handshake.
        assert (await door.fetch(path, offered)).status == 403
        answer = await door.fetch(path, {**good, **offered})
        assert answer.status == 400
    assert len(headers_seen) >= 2
    assert door.token not in repr([h.get("Sec-Websocket-Protocol", "") for h in headers_seen])


async def test_http_1_0(door):
    data = head(door, *HANDSHAKE, f"Authorization: token {door.token}")
    async with await door.raw(data.replace(b"HTTP/1.1", b"HTTP/1.0")) as answer:
        assert answer.status in (101, 400, 426)
    data = head(door, *HANDSHAKE, f"Sec-WebSocket-Protocol: {REASON_MARKER}")
    async with await door.raw(data.replace(b"HTTP/1.1", b"HTTP/1.0")) as answer:
        assert answer.status in (101, 400, 426)


# -- what comes too early or is too much -------------------------------------------------------------


def frame(data: bytes, opcode: int = 1) -> bytes:
    mask = b"\x01\x02\x03\x04"
    length = (
        struct.pack("!B", 0x80 | len(data))
        if len(data) < 126
        else struct.pack("!BH", 0x80 | 126, len(data))
    )
    return (
        bytes([0x80 | opcode])
        + length
        + mask
        + bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    )


async def test_a_message_before_the_handshake_is_through(door):
    door.add("echo", Socket)
    early = frame(b"early")
    offered = f"Sec-WebSocket-Protocol: {MARKER}, {bearing(door.token)}"
    async with await door.raw(head(door, *HANDSHAKE, offered, path="echo") + early) as socket:
        assert socket.status == 101
        assert await socket.wait_message() == "early"
    offered = f"Sec-WebSocket-Protocol: {MARKER}, {bearing('wrong')}, {REASON_MARKER}"
    for opcode, data in [(1, b"early"), (9, b"ping"), (8, b""), (2, b"x" * 1000)]:
        request = head(door, *HANDSHAKE, offered, path="echo") + frame(data, opcode)
        async with await door.raw(request) as socket:
            await socket.wait_closed()
            assert socket.slug == "token_rejected"
            assert socket.messages == []
            # Ended; older tornado answers the ping before.
            await asyncio.wait_for(socket.reader.read(), TIMEOUT)
    async with await door.raw(head(door, *HANDSHAKE, path="echo") + early) as socket:
        assert socket.status == 403


async def test_a_second_request_behind_a_refused_one_is_not_answered(door):
    offered = f"Sec-WebSocket-Protocol: {REASON_MARKER}"
    request = head(door, *HANDSHAKE, offered)
    async with await door.raw(request + request) as socket:
        assert socket.status == 101
        await socket.wait_closed(answer=False)
        assert socket.slug == "credentials_missing"
        assert await socket.at_end()


async def test_oversized_headers(door):
    for size in [70_000, 200_000]:
        for line in (
            f"Sec-WebSocket-Protocol: {bearing('a' * size)}",
            f"Sec-WebSocket-Protocol: {', '.join(['x'] * (size // 3))}",
            f"Cookie: a={'a' * size}",
        ):
            async with await door.raw(head(door, *HANDSHAKE, line)) as answer:
                assert answer.status in (0, 400, 431)  # tornado's limit: closed without a word


async def test_a_token_as_long_as_headers_may_be(door):
    told = await door.refused(EVENTS, [MARKER, bearing("a" * 60_000), REASON_MARKER])
    assert told.slug == "malformed_credentials"


async def test_strange_paths(door):
    for path in [
        "api/events/subscribe/",
        "api//events/subscribe",
        "api/%65vents/subscribe",
        "%00",
        "a" * 5000,
        "api/kernels/../events",
        "?token=a&token=b",
        f"{EVENTS}?%ff=%ff&token=a",
    ]:
        told = await door.refused(path, [MARKER, bearing("wrong"), REASON_MARKER])
        assert (told.code, told.slug) == (4403, "token_rejected")
        told = await door.refused(path, [REASON_MARKER])
        assert told.slug in ("credentials_missing", "token_rejected")


async def test_C2_1_a_parameter_that_upstream_cannot_read(door):
    told = await door.refused(f"{EVENTS}?token=%ff", [REASON_MARKER])
    assert (told.code, told.slug) == (4400, "bad_request")
    assert (await door.refused(f"{EVENTS}?token=%ff")).status == 400
    async with await door.knock(f"{EVENTS}?token=%ff", [MARKER, bearing(door.token)]) as socket:
        assert socket.status == 101


async def test_C2_1_strange_authorization(door):
    for value in [
        "token",
        "token ",
        "Bearer",
        "token \xff\xfe",
        "Basic YTpi",
        "token a b",
        "tokenx y",
        "a" * 9999,
    ]:
        told = await door.refused(EVENTS, [REASON_MARKER], {"Authorization": value})
        assert told.slug in ("credentials_missing", "token_rejected")
        # None of it is in the way of a token in the subprotocol.
        async with await door.knock(
            EVENTS, [MARKER, bearing(door.token)], {"Authorization": value}
        ) as socket:
            assert socket.status == 101


async def test_strange_cookies(door):
    for cookie in ["\xff", "a", "=;=;", "username=\x22", "a=b;" * 500, "_xsrf=x"]:
        told = await door.refused(EVENTS, [REASON_MARKER], {"Cookie": cookie})
        assert told.slug == "credentials_missing"
        async with await door.knock(
            EVENTS, [MARKER, bearing(door.token)], {"Cookie": cookie}
        ) as socket:
            assert socket.status == 101


async def test_C2_3_strange_referers(door):
    for referer in ["\xff", "http://[", "http://x/?token", "?token=%", "//", "http://[::1"]:
        async with await door.knock(
            EVENTS, [MARKER, bearing(door.token)], {"Referer": referer}
        ) as socket:
            assert socket.status == 101
        told = await door.refused(EVENTS, [REASON_MARKER], {"Referer": referer})
        assert told.slug == "credentials_missing"


async def test_C3_4_strange_origins(door):
    for origin in ["", "null", "http://[", "\xff", "//", "http://[::1", "x" * 9999]:
        answer = await door.refused(EVENTS, [REASON_MARKER], {"Origin": origin})
        assert answer.status in (101, 403)
        assert answer.status == 403 or answer.slug == "credentials_missing"
        answer = await door.refused(EVENTS, [MARKER, bearing("wrong")], {"Origin": origin})
        assert answer.status == 403 or answer.slug == "token_rejected"
        await door.fetch(EVENTS, {"Origin": origin})
