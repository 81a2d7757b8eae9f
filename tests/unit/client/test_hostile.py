"""Servers and kernels that mean harm: what they say must end in the client's own errors, and cost little."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import CancelledError

import pytest
from websockets.asyncio.server import serve
from websockets.typing import Subprotocol

from jupyter_token_ws import cli, cli_run
from jupyter_token_ws.client import connect
from jupyter_token_ws.client.auth import Grant
from jupyter_token_ws.client.carriers import MAX_SECONDS, seconds_of
from jupyter_token_ws.client.errors import ClientError, KernelError, SocketClosedError
from jupyter_token_ws.client.execution import Result
from jupyter_token_ws.client.handshake import open_websocket
from jupyter_token_ws.client.kernel import open_kernel
from jupyter_token_ws.client.link import MAX_ID, Link
from jupyter_token_ws.client.sync import Loop
from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.client.tunnel import TunnelSocket
from jupyter_token_ws.protocol.auth import CookieAuth, Request, Response, TicketAuth
from jupyter_token_ws.protocol.clients import TokenRoute
from jupyter_token_ws.protocol.kernel_messages import new_message
from jupyter_token_ws.protocol.subprotocols import REASON_MARKER
from jupyter_token_ws.protocol.tunnel import Data
from tests.support.fake_kernel import MemoryHost
from tests.support.talker import answer, saying, talking

HUGE = b"1" + b"0" * 400
DEEP = b"[" * 200_000
STOCK = (answer(status="404 Not Found"), answer(b'{"version": "2"}'))
TUNNELLED = b'{"api_versions": ["1.0"], "transports": ["tunnel-eventstream"]'


async def wait(awaitable, seconds=10.0):
    return await asyncio.wait_for(awaitable, seconds)


# -- what is answered --------------------------------------------------------------------------------


async def test_a_token_that_no_header_can_carry_is_an_error_of_ours():
    async with (
        talking(saying(*STOCK)) as talker,
        connect(f"http://127.0.0.1:{talker.port}/", auth="tök€n") as server,
    ):
        with pytest.raises(ClientError, match="outside ASCII") as caught:
            await wait(server.request("GET", "api"))
    assert "tök" not in str(caught.value)


async def test_a_cookie_that_no_header_can_carry_is_an_error_of_ours():
    login = (
        answer(),
        answer(b"", "302 Found", "Set-Cookie: a=é", "Location: /"),
    )
    async with talking(saying(*STOCK, *login)) as talker:
        url = f"http://127.0.0.1:{talker.port}/"
        async with connect(url, auth=CookieAuth("password")) as server:
            with pytest.raises(ClientError, match="outside ASCII"):
                await wait(server.request("GET", "api"))


async def test_a_ticket_for_longer_than_numbers_go_is_one_without_an_end():
    document = answer(b'{"api_versions": ["1.0"], "login": {}}')
    ticket = answer(b'{"token": "abc", "expires_in": ' + HUGE + b"}")
    async with talking(saying(document, ticket, answer(b"{}"))) as talker:
        url = f"http://127.0.0.1:{talker.port}/"
        async with connect(url, auth=TicketAuth(password="password")) as server:
            assert (await wait(server.request("GET", "api"))).status == 200
            assert server._auth is not None
            assert server._auth.refresh_in() is None


async def test_a_kernel_in_deep_json_is_none():
    async with (
        talking(saying(*STOCK, answer(DEEP))) as talker,
        connect(f"http://127.0.0.1:{talker.port}/", auth="token") as server,
    ):
        with pytest.raises(KernelError, match="no kernel"):
            await wait(server.kernel("python3").__aenter__())


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        pytest.param(10**400, MAX_SECONDS, id="huge"),
        (float("inf"), MAX_SECONDS),
        (float("nan"), 7.0),
        (float("-inf"), 0.0),
        ("10", 7.0),
        (None, 7.0),
        (10, 10.0),
    ],
)
def test_seconds_that_a_server_names(said, taken):
    assert seconds_of(said, 7.0) == taken


@pytest.mark.parametrize(
    ("document", "stream"),
    [
        (TUNNELLED + b', "keepalive": {"interval": ' + HUGE + b"}}", b""),
        (TUNNELLED + b', "keepalive": {"interval": NaN}}', b""),
        (TUNNELLED + b"}", b"event: end\ndata: " + DEEP + b"\n\n"),
    ],
)
@pytest.mark.parametrize("charset", ["utf-8", "zlib"])
async def test_an_event_stream_that_means_harm(document, stream, charset):
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    events = answer(stream, "200 OK", f"Content-Type: text/event-stream; charset={charset}")
    async with talking(saying(answer(document), events)) as talker:
        url = f"http://127.0.0.1:{talker.port}/"
        async with connect(url, auth="token", carrier="tunnel-eventstream") as server:
            with pytest.raises(ClientError) as caught:
                await wait(server.websocket("x", timeout=0.3))
    assert not isinstance(caught.value, SocketClosedError)  # there was no tunnel that could end
    assert not unhandled


# -- websockets --------------------------------------------------------------------------------------


async def test_a_websocket_that_says_much_at_once_is_open():
    async def talk(socket):
        for number in range(100):
            await socket.send(str(number))
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0, subprotocols=[Subprotocol(REASON_MARKER)]) as server:
        port = server.sockets[0].getsockname()[1]
        transport = Transport(f"http://127.0.0.1:{port}/")
        socket = await open_websocket(
            transport,
            f"ws://127.0.0.1:{port}/x",
            (),
            Grant(),
            TokenRoute.SUBPROTOCOL,
            keepalive=5,
            max_size=None,
            timeout=3,
        )
        assert [await wait(socket.recv()) for _ in range(100)] == [str(n) for n in range(100)]
        await socket.close(1000, "x" * 200)
        assert socket.close_code == 1000
        await transport.aclose()


class Machine:
    has_more = False

    def consumed(self, number, size):
        pass


class Life:
    machine = Machine()

    def wake(self):
        pass


async def test_fragments_of_nothing_take_no_memory():
    socket = TunnelSocket(Life(), 1, 1000)  # type: ignore[arg-type]
    for _ in range(1000):
        socket.on_event(Data(1, b"", False, False))
    assert len(socket._parts) == 0
    socket.on_event(Data(1, b"ab", False, False))
    socket.on_event(Data(1, b"c", True, False))
    assert await wait(socket.recv()) == b"abc"


async def test_what_is_cut_off_while_closing_closes_the_rest():
    async with talking(saying(*STOCK)) as talker:
        server = await connect(f"http://127.0.0.1:{talker.port}/", auth="token")
        await wait(server.request("GET", "api"))
        closed = []

        class Slow:
            async def close(self):
                await asyncio.sleep(60)

        class Tunnel:
            async def aclose(self):
                closed.append("tunnel")

        slow = Slow()
        server._sockets.add(slow)  # type: ignore[arg-type]
        server._tunnel = Tunnel()  # type: ignore[assignment]
        closing = asyncio.ensure_future(server.aclose())
        await asyncio.sleep(0.01)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait(closing)
        assert closed == ["tunnel"]
        assert server._transport._client is None


# -- kernels -----------------------------------------------------------------------------------------


def link_to(host, **options):
    async def on_message(message):
        pass

    return Link(
        host,
        "id",
        on_message=on_message,
        on_back=lambda complete: None,
        on_end=options.pop("on_end", lambda error: None),
        max_message=1000,
        max_unsent=1000,
        reconnect_timeout=options.pop("reconnect_timeout", 300.0),
    )


async def test_long_names_of_messages_are_not_kept():
    link = link_to(MemoryHost())
    message = new_message("iopub", "stream", {"name": "stdout", "text": "a"}, "kernel")
    message.header["msg_id"] = "\ud800" + "x" * 100_000  # type: ignore[index]
    assert link._fresh(message) is message
    assert link._fresh(message) is None
    assert all(len(name) <= MAX_ID for name in link._heard)


async def test_connections_that_end_at_once_come_back_slower_each_time(monkeypatch):
    delays = []

    class Counting:
        def __init__(self):
            self.bound = 0.5

        def delay(self, retry_after=None):
            delays.append(self.bound)
            self.bound *= 2
            return 0.0

    monkeypatch.setattr("jupyter_token_ws.client.link.Backoff", Counting)
    host = MemoryHost()
    link = link_to(host)
    await link.open()
    for _ in range(4):
        (await host.next()).end(1000)
    socket = await host.next()
    assert delays == [0.5, 1.0, 2.0, 4.0]
    socket.status(None, "idle")  # this one was worth something
    socket.end(1006)
    await host.next()
    assert delays[4:] == [0.5]
    await wait(link.aclose())


async def test_connections_that_end_at_once_are_not_tried_for_ever(monkeypatch):
    class Quick:
        def delay(self, retry_after=None):
            return 0.01

    monkeypatch.setattr("jupyter_token_ws.client.link.Backoff", Quick)
    ended = asyncio.get_running_loop().create_future()
    host = MemoryHost()
    link = link_to(host, on_end=ended.set_result, reconnect_timeout=0.1)
    await link.open()

    async def close_all():
        while True:
            (await host.next()).end(1006)

    closing = asyncio.ensure_future(close_all())
    assert isinstance(await wait(ended), SocketClosedError)
    closing.cancel()
    await wait(link.aclose())


@pytest.mark.parametrize("turns", range(8))
async def test_a_link_that_is_closed_as_its_socket_ends_does_not_come_back(turns):
    host = MemoryHost()
    link = link_to(host)
    await link.open()
    task = link._task
    assert task is not None
    (await host.next()).end(1006)
    for _ in range(turns):  # of the loop: somewhere among them the two meet
        await asyncio.sleep(0)
    await wait(link.aclose(), 1)
    assert task.done()
    assert len(host.paths) == 1


async def test_why_a_kernel_was_not_opened_is_what_is_told():
    host = MemoryHost()
    host.answers["DELETE api/kernels/made"] = Response(500)
    opening = asyncio.ensure_future(open_kernel(host, "python3").__aenter__())
    await host.next()  # which never answers
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait(opening)


@pytest.mark.parametrize("data", [None, [], "text"])
def test_a_value_that_is_none(data):
    outputs = [{"output_type": "execute_result", "data": data, "metadata": {}}]
    assert Result("ok", outputs).text is None


@pytest.mark.parametrize("traceback", [5, "lines", {}, None, []])
def test_run_shows_an_error_without_a_traceback(capsys, traceback):
    content = {"ename": "E", "evalue": "v", "traceback": traceback}
    cli_run.show(new_message("iopub", "error", content, "kernel"))
    assert capsys.readouterr().err == "E: v\n"


def test_a_request_does_not_show_its_headers():
    secret = "s3cret"
    shown = repr(
        Request("GET", "http://localhost/", {"Authorization": secret}, json.dumps(secret).encode())
    )
    assert secret not in shown


def test_capabilities_steer_no_terminal(monkeypatch, capsys):
    class Found:
        capabilities = {"name": "\x9b31m\x1b]52;\u202e\ud800"}  # noqa: RUF012

    monkeypatch.setattr(cli, "find_server", lambda url: Found)
    assert cli.main(["capabilities", "http://localhost/"]) == 0
    shown = capsys.readouterr().out
    assert all(letter.isprintable() and letter.isascii() for letter in shown.replace("\n", ""))


@pytest.mark.parametrize(
    "answered", [answer(DEEP), answer(b"", "500 \x1b]52;c;QQ\x07"), answer(b"", "404 \x1b[31m")]
)
async def test_what_a_server_says_in_place_of_capabilities(capsys, answered):
    async with talking(saying(answered)) as talker:
        url = f"http://127.0.0.1:{talker.port}/"
        assert await wait(asyncio.to_thread(cli.main, ["capabilities", url])) == 1
    assert "\x1b" not in capsys.readouterr().err


# -- without asyncio ---------------------------------------------------------------------------------


def test_who_asks_while_another_thread_closes_is_told(monkeypatch):
    loop = Loop()
    submit, arrived, ended = asyncio.run_coroutine_threadsafe, threading.Event(), []

    def slowly(doing, within):
        if threading.current_thread() is asking:
            arrived.set()
            time.sleep(0.2)  # the other would be through by now
        return submit(doing, within)

    def ask():
        try:
            loop.run(asyncio.sleep(60))
        except (ClientError, CancelledError) as error:
            ended.append(error)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", slowly)
    closing = threading.Thread(target=loop.close, daemon=True)
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert arrived.wait(10)
    closing.start()
    closing.join(10)
    asking.join(10)
    assert not asking.is_alive()
    assert not closing.is_alive()
    assert ended
