"""A server as ``connect`` gives it: what odd ones answer, and what a token goes into."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from jupyter_token_ws.client import server as module
from jupyter_token_ws.client.errors import (
    AuthError,
    ClientError,
    NoConnectionError,
    PlainHttpError,
    RefusedError,
    SocketClosedError,
    TooLargeError,
    UnsupportedError,
    UpgradeBlockedError,
)
from jupyter_token_ws.client.server import Server, connect
from jupyter_token_ws.client.sockets import PlainSocket
from jupyter_token_ws.protocol.auth import NoAuth
from jupyter_token_ws.protocol.reasons import REASONS, Advice
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.support.odd_server import DOCUMENT, echo, odd_server
from tests.support.waiting import auntil

TOKEN = "a-secret-(of)-tests"
CAPABILITIES = "/base/api/token-ws/capabilities"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of other tests, and tries follow upon each other at once."""

    class Quick:
        def delay(self, retry_after: float | None = None) -> float:
            return min(retry_after or 0.01, 0.01)

    monkeypatch.setattr(module, "_blocked", {})
    monkeypatch.setattr(module, "Backoff", Quick)


def opened(url: str, **options: Any) -> module.Connecting:
    return connect(url, **{"auth": TOKEN, "open_timeout": 5, **options})


# -- how the token travels (C2.9) --------------------------------------------------------------------


async def test_C2_9_C1_4_a_token_goes_by_subprotocol_behind_what_the_caller_offers():
    async with odd_server(subprotocol=KERNEL) as odd, opened(odd.url) as server:
        async with await server.websocket("api/kernels/a/channels?x=1", [KERNEL]) as socket:
            assert socket.subprotocol == KERNEL
        request = odd.asked[-1]
        assert request.path == "/base/api/kernels/a/channels?x=1"
        offered = request.headers["Sec-WebSocket-Protocol"].replace(" ", "").split(",")
        bearing = f"{MARKER}.a-secret-%28of%29-tests"
        assert offered == [KERNEL, MARKER, bearing, REASON_MARKER]
        assert "Authorization" not in request.headers


async def test_C2_9_a_stock_server_is_sent_it_by_header():
    async with odd_server(document=None, subprotocol=None) as odd, opened(odd.url) as server:
        assert (server.capabilities, server.api_version) == (None, None)
        async with await server.websocket("anything") as socket:
            await socket.send("a")
            assert await socket.recv() == "a"
        request = odd.asked[-1]
        assert request.headers["Authorization"] == f"token {TOKEN}"
        assert TOKEN not in request.headers.get("Sec-WebSocket-Protocol", "")
        with pytest.raises(UnsupportedError):
            await opened(odd.url, carrier="tunnel-websocket")


@pytest.mark.parametrize("document", [DOCUMENT, None])
@pytest.mark.parametrize("carrier", ["auto", "websocket"])
@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 426, 429, 500, 502, 503])
async def test_C2_9_whatever_fails_no_token_goes_into_a_url(
    document: Any, carrier: Any, status: int
):
    async with odd_server(document=document) as odd:
        odd.refusal = (status, "no", {"Location": f"http://127.0.0.1:{odd.port}/elsewhere"})
        async with opened(odd.url, carrier=carrier) as server:
            with pytest.raises(ClientError):
                await server.websocket("anything", timeout=0.5)
        by_header = document is None
        for request in odd.asked:
            assert "secret" not in request.path
            assert request.path.startswith("/base/")
            if "Upgrade" in request.headers:
                assert ("Authorization" in request.headers) is by_header
                assert (MARKER in request.headers["Sec-WebSocket-Protocol"]) is not by_header
        assert odd.handshakes >= 1


@pytest.mark.parametrize("path", ["a?token=b", "a?x=1&token=b", "a?%74oken=b", "a?token="])
async def test_C2_9_a_caller_puts_no_token_into_a_url_either(path: str):
    async with odd_server() as odd, opened(odd.url) as server:
        before = len(odd.asked)
        with pytest.raises(ClientError, match="auth="):
            await server.websocket(path)
        with pytest.raises(ClientError, match="auth="):
            await server.request("GET", path)
        assert len(odd.asked) == before


@pytest.mark.parametrize("path", ["../x", "a/../../x", "%2e%2e/x", "a\\..\\x", "a/%2f/b", "a b"])
async def test_C2_9_nothing_is_asked_outside_the_base(path: str):
    async with odd_server() as odd, opened(odd.url) as server:
        before = len(odd.asked)
        with pytest.raises(ClientError):
            await server.request("GET", path)
        with pytest.raises(ClientError):
            await server.websocket(path)
        assert len(odd.asked) == before


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://a/?token=b",
        "http://a/#b",
        "ftp://a/",
        "a",
        "",
        "http://u:p@a/",
        "http://a:x/",
    ],
)
def test_what_is_no_base_url(url: str):
    with pytest.raises(ClientError) as raised:
        connect(url)
    assert "p@" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [{"carrier": "pigeon"}, {"open_timeout": 0}, {"keepalive": -1}, {"keepalive": float("nan")}],
)
def test_what_are_no_options(options: Any):
    with pytest.raises(ClientError):
        connect("http://localhost/", **options)


async def test_plain_http_to_another_machine():
    with pytest.raises(PlainHttpError):
        await connect("http://192.0.2.1/")


# -- capabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"base_url": "http://127.0.0.1:1/base/", "ws_url": "ws://127.0.0.1:1/base/"},
        {"base_url": "http://evil.example/base/", "ws_url": "ws://evil.example/base/"},
        {"base_url": "/", "ws_url": "/"},
        {"base_url": 1, "ws_url": ["ws://x/"]},
        {"transports": "tunnel-eventstream"},
        {"transports": [1, None, {}, [], "pigeon" * 1000]},
        {"transports": {"tunnel-eventstream": True}},
        {"tunnel": [], "login": 1, "keepalive": "x", "reasons": None, "kernel": -1},
        {"api_versions": 1},
        {"api_versions": None, "token": {"subprotocol": MARKER, "max_size": -1}},
    ],
)
async def test_C4_5_hostile_documents_lead_nowhere(said: dict[str, Any]):
    async with (
        odd_server(document={**DOCUMENT, **said}) as odd,
        opened(odd.url) as server,
        await server.websocket("own") as socket,
    ):
        assert server.base_url == odd.url
        await socket.send("a")
        assert await socket.recv() == "a"
        assert "pigeon" not in repr(server)
        if "transports" in said:
            with pytest.raises(UnsupportedError) as raised:
                await opened(odd.url, carrier="tunnel-eventstream")
            assert "pigeon" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"a": ' * 20_000,
        b"\xff\xfe",
        b'{"x": ' + b"9" * 5000 + b"}",
    ],
)
async def test_C4_5_what_is_no_document_is_no_server(body: bytes):
    async with odd_server() as odd:
        odd.answers[CAPABILITIES] = (200, body)
        odd.answers["/base/api"] = (200, body)
        with pytest.raises(RefusedError) as raised:
            await opened(odd.url)
        assert raised.value.advice is Advice.STOP


async def test_C4_5_a_document_without_end():
    async with odd_server() as odd:
        odd.answers[CAPABILITIES] = (200, b" " * (module.MAX_DOCUMENT_SIZE + 1))
        with pytest.raises(TooLargeError):
            await opened(odd.url)


async def test_a_server_that_is_none():
    async with odd_server() as odd:
        odd.answers.clear()
        with pytest.raises(RefusedError, match="Is that the base URL") as raised:
            await opened(odd.url)
        assert raised.value.advice is Advice.STOP


async def test_a_server_that_is_busy_says_when():
    async with odd_server() as odd:
        odd.answers[CAPABILITIES] = (503, "", {"Retry-After": "7"})
        with pytest.raises(RefusedError) as raised:
            await opened(odd.url)
        assert (raised.value.advice, raised.value.retry_after) == (Advice.RETRY, 7)


async def test_nobody_there():
    with pytest.raises(NoConnectionError) as raised:
        await opened("http://127.0.0.1:9/")
    assert raised.value.advice is Advice.RETRY


# -- versions (contract section 5) -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kept"),
    [("1.0", "1.0"), ("1.7", "1.7"), ("2.0", "1.0"), ("x" * 5000, "1.0"), ("", "1.0")],
)
async def test_what_is_answered_is_kept_if_it_is_a_version_of_ours(told: str, kept: str):
    async with odd_server(headers={"Api-Version": told}) as odd, opened(odd.url) as server:
        assert server.api_version == kept
        odd.answers["/base/api/x"] = (200, {})
        await server.request("GET", "api/x")
        assert odd.asked[-1].headers["Api-Version"] == kept


@pytest.mark.parametrize("in_header", [True, False])
async def test_an_older_server_is_asked_by_what_both_know(
    monkeypatch: pytest.MonkeyPatch, in_header: bool
):
    monkeypatch.setattr(module, "API_VERSIONS", ("2.1", "1.4"))
    async with odd_server(headers={"Api-Version": "1.0"}) as odd:
        versions: Any = {"Supported-Api-Versions": "1.0, x"} if in_header else {}
        said = {} if in_header else {"supported_api_versions": [1, "1.0", "x"]}

        def judge(request: Request) -> Any:
            old = request.headers["Api-Version"].startswith("1.")
            return None if old else (422, said, versions)

        odd.judge = judge
        async with opened(odd.url) as server:
            assert server.api_version == "1.0"
        assert [request.headers["Api-Version"] for request in odd.asked] == ["2.1", "1.4"]


@pytest.mark.parametrize(
    "said", [{"supported_api_versions": ["7.0"]}, {}, {"supported_api_versions": ["1.0"]}]
)
async def test_no_version_in_common(said: Any):
    async with odd_server() as odd:
        odd.answers[CAPABILITIES] = (422, said)
        with pytest.raises(UnsupportedError, match="update"):
            await opened(odd.url)
        assert len(odd.asked) == 1


# -- refusals ----------------------------------------------------------------------------------------


def closing(code: int, reason: str) -> Any:
    async def close(connection: ServerConnection) -> None:
        await connection.close(code, reason)

    return close


@pytest.mark.parametrize(
    "slug", [slug for slug, row in REASONS.items() if row.advice in (Advice.STOP, Advice.REDIRECT)]
)
async def test_C3_2_accepted_and_closed_is_refused(slug: str):
    row = REASONS[slug]
    async with odd_server(closing(row.code, row.close_reason())) as odd, opened(odd.url) as server:
        with pytest.raises(RefusedError) as raised:
            await server.websocket("own")
        error = raised.value
        assert (error.slug, error.advice) == (slug, row.advice)
        assert odd.handshakes == 1


async def test_C3_2_a_token_that_is_refused_is_sent_once():
    row = REASONS["token_rejected"]
    async with odd_server(closing(row.code, row.close_reason())) as odd, opened(odd.url) as server:
        with pytest.raises((AuthError, RefusedError)) as raised:
            await server.websocket("own")
        assert raised.value.advice in (Advice.AUTHENTICATE, Advice.STOP)
        assert odd.handshakes == 1
        assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("slug", ["draining", "too_many_connections", "internal_error"])
async def test_C3_2_who_is_told_to_try_again_does(slug: str):
    row, tries = REASONS[slug], 0

    async def third(connection: ServerConnection) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            await connection.close(row.code, row.close_reason(1))
        else:
            await echo(connection)

    async with odd_server(third) as odd, opened(odd.url) as server:
        async with await server.websocket("own") as socket:
            await socket.send(b"a")
            assert await socket.recv() == b"a"
        assert tries == 3


async def test_C3_2_and_is_told_the_last_reason_when_it_is_time():
    row = REASONS["draining"]
    async with odd_server(closing(row.code, row.close_reason(3))) as odd, opened(odd.url) as server:
        with pytest.raises(RefusedError) as raised:
            await server.websocket("own", timeout=0.2)
        assert (raised.value.slug, raised.value.retry_after) == ("draining", 3)
        assert odd.handshakes > 1


async def test_C3_2_a_reason_beside_its_code_is_none():
    """Applications behind the server use such codes too."""
    async with (
        odd_server(closing(4403, "draining: no")) as odd,
        opened(odd.url) as server,
        await server.websocket("own") as socket,
    ):
        with pytest.raises(SocketClosedError) as raised:
            await socket.recv()
        assert (raised.value.code, raised.value.slug) == (4403, None)


async def test_a_handler_that_is_done_at_once():
    async def say(connection: ServerConnection) -> None:
        await connection.send("that was all")

    async with (
        odd_server(say) as odd,
        opened(odd.url) as server,
        await server.websocket("own") as socket,
    ):
        assert [message async for message in socket] == ["that was all"]


async def test_a_websocket_that_is_cut_before_it_says_anything():
    async def cut(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with odd_server(cut) as odd, opened(odd.url, carrier="websocket") as server:
        with pytest.raises(NoConnectionError):
            await server.websocket("own", timeout=0.2)


@pytest.mark.parametrize("body", ["not_found: nothing", {"status": "not_found", "message": "x"}])
async def test_C3_3_a_reason_in_a_plain_answer(body: Any):
    async with odd_server() as odd, opened(odd.url) as server:
        odd.refusal = (404, body)
        with pytest.raises(RefusedError) as raised:
            await server.websocket("own")
        assert (raised.value.slug, raised.value.status) == ("not_found", 404)


@pytest.mark.parametrize("body", [{"status": ["x"]}, b"{" * 10, b'{"a":' * 10_000, "forbidden: no"])
async def test_C3_3_what_is_no_reason_is_none(body: Any):
    async with odd_server() as odd, opened(odd.url) as server:
        odd.answers["/base/api/x"] = (404, body)
        with pytest.raises(RefusedError) as raised:
            await server.request("GET", "api/x")
        assert (raised.value.slug, raised.value.status) == (None, 404)
        answer = await server.request("GET", "api/x", ok=[404])
        assert answer.status == 404


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_what_a_stock_server_refuses_is_not_blocked(status: int):
    async with odd_server(document=None) as odd, opened(odd.url) as server:
        odd.refusal = (status, "no")
        with pytest.raises((RefusedError, AuthError)):
            await server.websocket("own")


# -- blocked websockets ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 426])
async def test_where_no_websocket_gets_through_a_forced_one_says_so(status: int):
    async with odd_server() as odd, opened(odd.url, carrier="websocket") as server:
        odd.refusal = (status, "Bad Request")
        with pytest.raises(UpgradeBlockedError, match="tunnel-eventstream"):
            await server.websocket("own")
        assert odd.handshakes == 1


async def test_a_gateway_whose_server_starts_is_tried_again():
    async with odd_server() as odd, opened(odd.url, carrier="websocket") as server:
        odd.refusal, odd.refusals = (502, "Bad Gateway"), 2
        async with await server.websocket("own") as socket:
            await socket.send("a")
        assert odd.handshakes == 3


@pytest.mark.parametrize(("status", "seconds"), [(426, 3600), (502, 60)])
async def test_that_none_gets_through_is_remembered(
    monkeypatch: pytest.MonkeyPatch, status: int, seconds: int
):
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    async with odd_server() as odd:
        odd.refusal = (status, "no")
        async with opened(odd.url) as server:
            assert server.carrier == "websocket"
            with pytest.raises(ClientError):  # for there is no tunnel either
                await server.websocket("own", timeout=1)
            assert server.carrier == "tunnel-eventstream"
            assert odd.handshakes == 1
        async with opened(odd.url) as again:
            assert again.carrier == "tunnel-eventstream"
            now[0] += seconds - 1
            assert again.carrier == "tunnel-eventstream"
            now[0] += 2
            assert again.carrier == "websocket"


async def test_it_may_be_forgotten_while_a_socket_opens(monkeypatch: pytest.MonkeyPatch):
    async with odd_server() as odd, opened(odd.url) as server:
        server._remember_blocked(60)
        granted = server._with_credential

        async def and_forgotten(attempt: Any) -> Any:
            module._blocked.clear()
            return await granted(attempt)

        monkeypatch.setattr(server, "_with_credential", and_forgotten)
        with pytest.raises(ClientError):  # for there is no tunnel
            await server.websocket("own", timeout=0.5)
        assert odd.handshakes == 0


async def test_only_of_so_many_servers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    async with odd_server() as odd:
        odd.refusal = (426, "no")
        for number in range(4):
            path = f"/base{number}/api/token-ws/capabilities"
            odd.answers[path] = odd.answers[CAPABILITIES]
            url = odd.url.replace("/base/", f"/base{number}/")
            async with opened(url) as server:
                with pytest.raises(ClientError):
                    await server.websocket("own", timeout=0.5)
    assert [key[0][-7:] for key in module._blocked] == ["/base2/", "/base3/"]


async def test_where_one_got_through_a_cut_one_is_chance():
    async with odd_server() as odd, opened(odd.url) as server:
        await (await server.websocket("own")).close()
        odd.refusal = (502, "no")
        with pytest.raises(UpgradeBlockedError):
            await server.websocket("own", timeout=0.5)
        assert server.carrier == "websocket"


# -- requests ----------------------------------------------------------------------------------------


async def test_requests():
    async with odd_server() as odd, opened(odd.url) as server:
        odd.answers["/base/api/x"] = (200, {"a": 1})
        answer = await server.request("GET", "/api/x?y=1", headers={"X-A": "b"})
        assert answer.body == b'{"a": 1}'
        request = odd.asked[-1]
        assert request.headers["Authorization"] == f"token {TOKEN}"
        assert request.headers["X-A"] == "b"
        assert TOKEN not in repr(server)
        assert TOKEN not in repr(answer)


# -- the end -----------------------------------------------------------------------------------------


async def test_nothing_is_left_behind():
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    ended = asyncio.Event()

    async def wait(connection: ServerConnection) -> None:
        await connection.wait_closed()
        ended.set()

    async with odd_server(wait, subprotocol=None) as odd:
        server = await opened(odd.url)
        assert isinstance(server, Server)
        socket = await server.websocket("own")
        before = asyncio.all_tasks()
        await server.aclose()
        await server.aclose()
        await asyncio.wait_for(ended.wait(), 5)
        assert socket.close_code == 1000
        with pytest.raises(NoConnectionError) as raised:
            await server.websocket("own")
        assert raised.value.advice is Advice.STOP
        with pytest.raises(NoConnectionError):
            await server.request("GET", "api")
        assert before
    await auntil(lambda: asyncio.all_tasks() <= tasks, "all tasks to end")
    left = [thread for thread in threading.enumerate() if thread not in threads]
    assert all("asyncio" in thread.name for thread in left)  # the loop's own, for names of hosts


async def test_who_is_cancelled_while_it_opens_leaves_nothing():
    begun = asyncio.Event()
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        while await reader.read(1000):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opening = asyncio.ensure_future(connect(f"http://127.0.0.1:{port}/", auth=TOKEN).opened())
    await asyncio.wait_for(begun.wait(), 5)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await asyncio.wait_for(gone.wait(), 5)
    server.close()


async def test_without_a_credential():
    async with odd_server() as odd, opened(odd.url, auth=NoAuth()) as server:
        async with await server.websocket("own") as socket:
            await socket.send("a")
        request = odd.asked[-1]
        assert request.headers["Sec-WebSocket-Protocol"] == REASON_MARKER
        assert "Authorization" not in request.headers


class Curious(NoAuth):
    """Wants to see every answer."""

    def concerns(self, response: Any) -> bool:
        assert response.status != 101
        return True


async def test_a_socket_that_is_open_is_handed_over_at_once():
    async with (
        odd_server() as odd,
        opened(odd.url, auth=Curious()) as server,
        await server.websocket("own") as socket,
    ):
        await socket.send("a")
        assert await socket.recv() == "a"


# -- plain sockets -----------------------------------------------------------------------------------


async def test_a_loss_is_noticed_within_one_keepalive():
    """Where the other side says nothing any more, and its system still takes what comes."""

    over = asyncio.Event()

    async def stop_reading(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await over.wait()

    async with (
        odd_server(stop_reading, subprotocol=None) as odd,
        opened(odd.url, keepalive=0.5) as server,
    ):
        socket = await server.websocket("own")
        begun = time.monotonic()
        with pytest.raises(SocketClosedError) as raised:
            await socket.recv()
        over.set()
        assert 0.3 < time.monotonic() - begun < 3
        assert (raised.value.code, raised.value.advice) == (1006, Advice.RETRY)
        assert (socket.close_code, socket.advice, socket.retry_after) == (1006, Advice.RETRY, None)
        with pytest.raises(SocketClosedError):
            await socket.send("a")
        await socket.close()


async def test_a_silent_socket_stays_and_so_does_one_that_nobody_reads():
    flood = 300

    async def talk(connection: ServerConnection) -> None:
        async for message in connection:
            if message == "flood":
                for number in range(flood):
                    await connection.send(f"{number} ".ljust(20_000))
            else:
                await connection.send(message)

    async with (
        odd_server(talk) as odd,
        opened(odd.url, keepalive=0.2) as server,
        await server.websocket("own") as socket,
    ):
        await asyncio.sleep(1)
        await socket.send("flood")
        await asyncio.sleep(1)
        heard = [str(await socket.recv()).strip() for _ in range(flood)]
        assert heard == [str(number) for number in range(flood)]
        await socket.send("still")
        assert await socket.recv() == "still"


async def test_what_a_plain_socket_cannot_do():
    async with odd_server() as odd, opened(odd.url) as server:
        socket = await server.websocket("own")
        assert isinstance(socket, PlainSocket)
        assert (socket.advice, socket.reason, socket.retry_after) == (None, None, None)
        with pytest.raises(UnsupportedError):
            await socket.send_eof()
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
            with pytest.raises(ValueError, match=f"carry {code}:"):
                await socket.close(code)
        await socket.send("still open")
        await socket.close(3000, "bye")
        await socket.close()
        assert (socket.close_code, socket.reason) == (3000, "bye")


async def test_a_message_that_is_too_large():
    async with (
        odd_server() as odd,
        opened(odd.url) as server,
        await server.websocket("own", max_size=10) as socket,
    ):
        await socket.send("a" * 11)
        with pytest.raises(SocketClosedError) as raised:
            await socket.recv()
        # Another try would be told the same.
        assert (raised.value.code, raised.value.advice) == (1009, Advice.STOP)
