"""The twin without asyncio."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from jupyter_token_ws.client import sync
from jupyter_token_ws.client.errors import NoConnectionError, RefusedError, UnsupportedError
from jupyter_token_ws.protocol.reasons import Advice
from tests.support.odd_server import OddServer, odd_server
from tests.support.waiting import until


@pytest.fixture
def odd() -> Iterator[OddServer]:
    """A server, in a thread of its own."""
    ready: list[OddServer] = []
    over = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with odd_server() as odd:
            ready.append(odd)
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    until(lambda: ready, "the server")
    yield ready[0]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "jupyter_token_ws" in thread.name]


def test_a_server_and_its_websockets(odd: OddServer):
    odd.answers["/base/api/x"] = (200, {"a": 1})
    with sync.connect(odd.url, auth="t") as server:
        assert (server.base_url, server.carrier, server.api_version) == (
            odd.url,
            "websocket",
            "1.0",
        )
        assert server.capabilities is not None
        assert server.request("GET", "api/x").body == b'{"a": 1}'
        with pytest.raises(RefusedError):
            server.request("GET", "api/y")
        with server.websocket("own", ["a"]) as socket:
            socket.send("one")
            socket.send(b"two")
            assert [socket.recv(), socket.recv(timeout=5)] == ["one", b"two"]
            with pytest.raises(TimeoutError):
                socket.recv(timeout=0.01)
            with pytest.raises(UnsupportedError):
                socket.send_eof()
            assert (socket.close_code, socket.reason, socket.advice) == (None, None, None)
            assert (socket.subprotocol, socket.retry_after) == (None, None)
        assert socket.close_code == 1000
        assert list(socket) == []
        assert len(client_threads()) == 1
    server.close()
    assert client_threads() == []
    with pytest.raises(NoConnectionError) as raised:
        server.request("GET", "api/x")
    assert raised.value.advice is Advice.STOP


def test_messages_are_iterated_over(odd: OddServer):
    with sync.connect(odd.url, auth="t") as server, server.websocket("own") as socket:
        for number in range(3):
            socket.send(str(number))
        heard = []
        for message in socket:
            heard.append(message)
            if len(heard) == 3:
                socket.close()
        assert heard == ["0", "1", "2"]


def test_in_a_thread_whose_own_loop_runs_as_in_a_notebook(odd: OddServer):
    odd.answers["/base/api/x"] = (200, {"a": 1})

    async def cell() -> None:
        with sync.connect(odd.url, auth="t") as server:
            assert server.request("GET", "api/x").status == 200

    asyncio.run(cell())
    assert client_threads() == []


def test_where_nobody_is_no_thread_is_left():
    with pytest.raises(NoConnectionError):
        sync.connect("http://127.0.0.1:9/", auth="t")
    assert client_threads() == []


def test_several_threads_use_one(odd: OddServer):
    heard: list[str | bytes] = []

    def use(server: sync.Server, number: int) -> None:
        with server.websocket("own") as socket:
            socket.send(str(number))
            heard.append(socket.recv())

    with sync.connect(odd.url, auth="t") as server:
        threads = [threading.Thread(target=use, args=[server, number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(heard) == sorted(str(number) for number in range(8))


def interrupt() -> None:
    """Ctrl-C, as a terminal's reaches the thread that waits."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.mark.timeout(30)
def test_ctrl_c_ends_what_it_interrupts_before_anything_else():
    ended = []

    async def long() -> None:
        asyncio.get_running_loop().call_later(0.1, interrupt)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            ended.append(True)

    loop = sync.Loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run(long())
        assert ended == [True]
    finally:
        loop.close()
    assert client_threads() == []


@pytest.mark.timeout(30)
def test_ctrl_c_leaves_no_thread_and_no_websocket(odd: OddServer):
    with sync.connect(odd.url, auth="t") as server:
        socket = server.websocket("own")
        timer = threading.Timer(0.1, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            socket.recv()
        timer.join()
        socket.send("a")
        assert socket.recv() == "a"
    assert socket.close_code == 1000
    assert client_threads() == []


def test_a_loop_does_not_wait_for_itself():
    loop = sync.Loop()

    async def inner() -> None:
        with pytest.raises(NoConnectionError):
            loop.run(asyncio.sleep(0))

    loop.run(inner())
    loop.close()
    loop.close()
