"""HTTP and websocket connections of the client, against servers that say what the test wants."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request as Handshake
from websockets.http11 import Response as Answer

from jupyter_token_ws.client.errors import (
    ClientError,
    NoConnectionError,
    PlainHttpError,
    TooLargeError,
)
from jupyter_token_ws.client.transport import (
    MAX_REFUSAL,
    Transport,
    UpgradeRefused,
    is_loopback,
    place_of,
    retry_after_of,
)
from jupyter_token_ws.protocol.auth import Request
from tests.support.talker import Talker, answer, saying, talking


@asynccontextmanager
async def transport_to(port: int, **options: object) -> AsyncIterator[Transport]:
    transport = Transport(f"http://127.0.0.1:{port}/", **options)  # type: ignore[arg-type]
    try:
        yield transport
    finally:
        await transport.aclose()


def url(talker: Talker, path: str = "") -> str:
    return f"http://127.0.0.1:{talker.port}/{path}"


# -- requests ----------------------------------------------------------------------------------------


async def test_a_request_and_its_answer():
    said = answer(
        b"body", "418 Teapot", "X-More: yes", "Set-Cookie: a=1", "Set-Cookie: b=2", "Retry-After: 7"
    )
    async with talking(saying(said)) as talker, transport_to(talker.port) as transport:
        request = Request("POST", url(talker, "x?y=1"), {"X-Mine": "1"}, b"sent")
        response = await transport.request(request)
    assert (response.status, response.body, response.retry_after) == (418, b"body", 7)
    assert response.headers["x-more"] == "yes"
    assert response.cookies == ("a=1", "b=2")
    assert talker.text.startswith("POST /x?y=1 HTTP/1.1\r\n")
    assert "accept-encoding: identity" in talker.text.lower()
    assert talker.text.endswith("\r\n\r\nsent")


async def test_a_connection_is_used_again():
    async with talking(saying(answer())) as talker, transport_to(talker.port) as transport:
        for _ in range(3):
            assert (await transport.request(Request("GET", url(talker)))).status == 200
    assert talker.connections == 1


async def test_nothing_is_sent_after_the_end():
    async with talking(saying(answer())) as talker, transport_to(talker.port) as transport:
        await transport.aclose()
        with pytest.raises(ClientError, match="were closed"):
            await transport.request(Request("GET", url(talker)))
        await transport.aclose()
    assert talker.connections == 0


async def test_a_redirect_is_an_answer():
    said = answer(b"", "302 Found", "Location: http://127.0.0.1:1/elsewhere")
    async with talking(saying(said)) as talker, transport_to(talker.port) as transport:
        response = await transport.request(Request("GET", url(talker)))
    assert response.status == 302
    assert talker.connections == 1


async def test_an_answer_that_is_too_large():
    async with (
        talking(saying(answer(b"x" * 1001))) as talker,
        transport_to(talker.port) as transport,
    ):
        request = Request("GET", url(talker))
        assert len((await transport.request(request, max_size=1001)).body) == 1001
        with pytest.raises(TooLargeError, match="more than 1000 bytes"):
            await transport.request(request, max_size=1000)


async def test_an_answer_that_was_compressed_unasked():
    bomb = answer(gzip.compress(bytes(10_000)), "200 OK", "Content-Encoding: gzip")
    async with talking(saying(bomb)) as talker, transport_to(talker.port) as transport:
        with pytest.raises(NoConnectionError, match="compressed"):
            await transport.request(Request("GET", url(talker)))


async def test_an_answer_that_drips_has_an_end():
    async def drip(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await talker.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with talking(drip) as talker, transport_to(talker.port) as transport:
        with pytest.raises(NoConnectionError, match=r"within 0\.2 s"):
            await transport.request(Request("GET", url(talker)), timeout=0.2)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"what is that\r\n\r\n"]
)
async def test_no_answer_or_half_of_one(said: bytes):
    async def talk(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await talker.request(reader)
        writer.write(said)
        await writer.drain()
        writer.close()

    async with talking(talk) as talker, transport_to(talker.port) as transport:
        with pytest.raises(NoConnectionError):
            await transport.request(Request("GET", url(talker)))


async def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with transport_to(port) as transport:
            with pytest.raises(NoConnectionError, match="Is the server running there"):
                await transport.request(Request("GET", f"http://127.0.0.1:{port}/"))
            with pytest.raises(NoConnectionError):
                await transport.websocket(f"ws://127.0.0.1:{port}/")


async def test_a_name_that_is_none():
    transport = Transport("http://nowhere.invalid/", plain_http=True, trust_env=False)
    with pytest.raises(NoConnectionError, match=r"nowhere\.invalid"):
        await transport.request(Request("GET", "http://nowhere.invalid/"))
    await transport.aclose()


async def test_a_request_that_is_cancelled_leaves_nothing():
    asked = asyncio.Event()

    async def silent(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await talker.request(reader)
        asked.set()
        assert await reader.read() == b""  # the client hangs up
        gone.set()

    gone = asyncio.Event()
    async with talking(silent) as talker, transport_to(talker.port) as transport:
        asking = asyncio.ensure_future(transport.request(Request("GET", url(talker))))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(gone.wait(), 10)


async def test_by_a_unix_socket(tmp_path: Path):
    path = tmp_path / "socket"
    async with talking(saying(answer(b"here")), path=path):
        transport = Transport("http://server.example/", unix_socket=path)
        response = await transport.request(Request("GET", "http://server.example/"))
        await transport.aclose()
    assert response.body == b"here"


async def test_by_ipv6():
    async with talking(saying(answer(b"six")), host="::1") as talker:
        transport = Transport(f"http://[::1]:{talker.port}/")
        response = await transport.request(Request("GET", f"http://[::1]:{talker.port}/"))
        await transport.aclose()
    assert response.body == b"six"


async def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch):
    async with (
        talking(saying(answer(b"by proxy"))) as proxy,
        talking(saying(answer(b"direct"))) as talker,
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with transport_to(talker.port) as transport:
            assert (await transport.request(Request("GET", url(talker)))).body == b"direct"
        there = "http://server.example/"
        for trusts, expected in ((True, b"by proxy"), (False, None)):
            far = Transport(there, plain_http=True, trust_env=trusts)
            if expected is None:
                with pytest.raises(NoConnectionError):
                    await far.request(Request("GET", there))
            else:
                assert (await far.request(Request("GET", there))).body == expected
            await far.aclose()


# -- websockets --------------------------------------------------------------------------------------


@asynccontextmanager
async def websocket_server(
    process_request=None, subprotocols=None
) -> AsyncIterator[tuple[int, list[Handshake]]]:
    seen: list[Handshake] = []

    async def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request)
        async for message in connection:
            await connection.send(message)

    async with serve(
        echo, "127.0.0.1", 0, process_request=process_request, subprotocols=subprotocols
    ) as server:
        yield server.sockets[0].getsockname()[1], seen


async def test_a_websocket_there_and_back():
    async with (
        websocket_server(subprotocols=["one"]) as (port, seen),
        transport_to(port) as transport,
    ):
        connection = await transport.websocket(
            f"ws://127.0.0.1:{port}/x", subprotocols=["one", "two"], headers={"X-Mine": "1"}
        )
        assert connection.subprotocol == "one"
        await connection.send("é")
        assert await connection.recv() == "é"
        await connection.close()
    assert seen[0].headers["X-Mine"] == "1"
    assert seen[0].headers["Sec-WebSocket-Protocol"] == "one, two"
    assert "Sec-WebSocket-Extensions" not in seen[0].headers


async def test_a_handshake_that_is_refused():
    async def refuse(connection: ServerConnection, request: Handshake) -> Answer:
        said = connection.respond(403, "token_rejected: no" + "x" * 2 * MAX_REFUSAL)
        said.headers["Retry-After"] = "3"
        return said

    async with websocket_server(refuse) as (port, _), transport_to(port) as transport:
        with pytest.raises(UpgradeRefused) as raised:
            await transport.websocket(f"ws://127.0.0.1:{port}/x")
    response = raised.value.response
    assert (response.status, response.retry_after) == (403, 3)
    assert response.body.startswith(b"token_rejected: no")
    assert len(response.body) == MAX_REFUSAL


async def test_a_handshake_that_is_sent_elsewhere_goes_nowhere():
    async with websocket_server() as (elsewhere, seen):

        async def send_on(connection: ServerConnection, request: Handshake) -> Answer:
            said = connection.respond(302, "")
            said.headers["Location"] = f"ws://127.0.0.1:{elsewhere}/"
            return said

        async with websocket_server(send_on) as (port, _), transport_to(port) as transport:
            with pytest.raises(UpgradeRefused) as raised:
                await transport.websocket(
                    f"ws://127.0.0.1:{port}/x", headers={"Authorization": "token secret"}
                )
    assert raised.value.response.status == 302
    assert seen == []


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
    ],
)
async def test_a_handshake_that_is_answered_wrongly(said: bytes):
    async def talk(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await talker.request(reader)
        writer.write(said)
        await writer.drain()
        writer.close()

    async with talking(talk) as talker, transport_to(talker.port) as transport:
        with pytest.raises(NoConnectionError):
            await transport.websocket(f"ws://127.0.0.1:{talker.port}/")


async def test_a_handshake_that_is_not_answered():
    async def silent(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read()

    async with talking(silent) as talker, transport_to(talker.port) as transport:
        with pytest.raises(NoConnectionError, match=r"within 0\.2 s"):
            await transport.websocket(f"ws://127.0.0.1:{talker.port}/", timeout=0.2)


async def test_a_websocket_by_a_unix_socket(tmp_path: Path):
    async def talk(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await talker.request(reader)
        writer.write(answer(b"here", "403 Forbidden"))
        await writer.drain()

    path = tmp_path / "socket"
    async with talking(talk, path=path):
        transport = Transport("http://server.example/", unix_socket=path)
        with pytest.raises(UpgradeRefused) as raised:
            await transport.websocket("ws://server.example/x")
    assert raised.value.response.body == b"here"


# -- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("http://localhost:8888/lab?x", "http://localhost:8888"),
        ("https://Hub.Example.ORG/user/ann/", "https://hub.example.org"),
        ("http://[::1]:8888/", "http://[::1]:8888"),
    ],
)
def test_places(address: str, place: str):
    assert place_of(address) == place


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:8888",
        "ftp://x/",
        "http:///x",
        "http://x:99999/",
        "http://[::1/",
        "http://ann:pw@x/",
    ],
)
def test_no_addresses(address: str):
    with pytest.raises(ClientError, match="no address of a server") as raised:
        place_of(address)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://localhost/", True),
        ("http://a.localhost/", True),
        ("http://127.9.9.9/", True),
        ("http://[::1]/", True),
        ("http://localhost.example/", False),
        ("http://10.0.0.1/", False),
        ("http://example.org/", False),
    ],
)
def test_plain_http_to_this_machine_alone(address: str, own: bool):
    assert is_loopback(address) is own
    if own:
        Transport(address)
    else:
        with pytest.raises(PlainHttpError, match="plain_http"):
            Transport(address)
    Transport(address, plain_http=True)
    Transport(address, unix_socket="/somewhere")
    Transport(address.replace("http:", "https:"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("0", 0),
        ("-1", None),
        ("soon", None),
        ("9" * 30, 86400),
        ("²", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None):
    assert retry_after_of(value) == seconds


async def test_an_error_of_ours_stays_one():
    async with talking(saying(answer())) as talker, transport_to(talker.port) as transport:
        with pytest.raises(ZeroDivisionError):
            async with transport.stream(Request("GET", url(talker))):
                raise ZeroDivisionError
        with pytest.raises(ClientError, match="no address below"):
            await transport.request(Request("GET", "nonsense"))


async def test_http_where_tls_was_expected():
    async def talk(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(100)
        writer.write(answer(b"", "400 Bad Request"))
        await writer.drain()

    async with talking(talk) as talker:
        transport = Transport(f"https://127.0.0.1:{talker.port}/")
        with pytest.raises(NoConnectionError, match="no TLS with"):
            await transport.request(Request("GET", f"https://127.0.0.1:{talker.port}/"))
        await transport.aclose()
