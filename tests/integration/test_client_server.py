"""``connect`` and websockets of their own against real servers, behind real proxies and cut connections."""

from __future__ import annotations

import asyncio
import importlib.resources
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jupyter_token_ws.client import server as module
from jupyter_token_ws.client import sync
from jupyter_token_ws.client.errors import (
    AuthError,
    ClientError,
    RefusedError,
    SocketClosedError,
    UnsupportedError,
    UpgradeBlockedError,
)
from jupyter_token_ws.client.server import connect
from jupyter_token_ws.client.sockets import PlainSocket, Socket
from jupyter_token_ws.client.tunnel import TunnelSocket
from jupyter_token_ws.protocol.auth import TicketAuth
from jupyter_token_ws.protocol.reasons import Advice
from tests.integration.conftest import Start
from tests.support import nginx, other_versions, own_sockets
from tests.support.cutting_proxy import cutting
from tests.support.nginx import nginx as run_nginx
from tests.support.process import Server, start_server
from tests.support.proxies import HAPROXY, haproxy
from tests.support.waiting import auntil

EXTENSIONS = {own_sockets.__name__: True}
NGINX = pytest.mark.requires(*nginx.PROGRAM)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that do not end it."""
    with start_server(tmp_path_factory.mktemp("client"), extensions=EXTENSIONS) as server:
        yield server


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of other tests."""
    monkeypatch.setattr(module, "_blocked", {})


async def echoes(socket: Socket) -> None:
    for message in ("text", b"\x00bytes"):
        await socket.send(message)
        assert await socket.recv() == message


async def test_requests_and_websockets(server: Server):
    async with connect(server.url, auth=server.token) as there:
        assert there.capabilities is not None
        assert (there.api_version, there.carrier) == ("1.0", "websocket")
        assert (await there.request("GET", "api/kernels")).body == b"[]"
        with pytest.raises(RefusedError) as refused:
            await there.request("GET", "api/kernels/none-of-that-name")
        assert refused.value.status == 404
        async with await there.websocket("own/echo") as socket:
            assert isinstance(socket, PlainSocket)
            await echoes(socket)
        with pytest.raises(RefusedError) as refused:
            await there.websocket("api/kernels/12345678-1234-1234-1234-123456789abc/channels")
        assert (refused.value.slug, refused.value.advice) == ("not_found", Advice.STOP)


@pytest.mark.parametrize("stock", [False, True])
async def test_C2_9_a_wrong_token_is_told_and_sent_no_other_way(
    start: Start, tmp_path: Path, stock: bool
):
    there = await asyncio.to_thread(start, stock=stock)
    with run_nginx(tmp_path, there.port) as proxy:
        async with connect(proxy.url, auth="a-wrong-token", open_timeout=3) as client:
            with pytest.raises((AuthError, RefusedError)) as refused:
                await client.websocket("api/events/subscribe")
            assert refused.value.advice in (Advice.AUTHENTICATE, Advice.STOP)
            assert "a-wrong-token" not in str(refused.value)
        asked = proxy.requests()
    assert any(request.websocket for request in asked)
    assert not any("wrong" in request.uri for request in asked)
    assert any("wrong" in request.subprotocols for request in asked) is not stock


async def test_a_stock_server(start: Start):
    there = await asyncio.to_thread(start, stock=True)
    async with connect(there.url, auth=there.token) as client:
        assert (client.capabilities, client.api_version) == (None, None)
        assert (await client.request("GET", "api/kernels")).body == b"[]"
        socket = await client.websocket("api/events/subscribe")
        await socket.close()
        assert there.token not in there.log().partition("GET /api/events")[2]
    with pytest.raises(UnsupportedError):
        await connect(there.url, auth=there.token, carrier="tunnel-eventstream")


async def test_a_base_url_that_is_wrong(server: Server):
    with pytest.raises(RefusedError, match="base URL"):
        await connect(f"{server.url}user/somebody/", auth=server.token)


# -- other versions (contract section 5) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "mine", "spoken"),
    [
        ("1.3 1.0", "1.0", "1.3"),  # a newer server, compatible
        ("2.0 1.4", "1.0", "1.4"),  # that still knows an older one
        ("1.0", "2.0 1.2", "1.0"),  # an older server
        ("2.0", "1.0", None),
    ],
)
async def test_peers_of_other_versions(
    start: Start, monkeypatch: pytest.MonkeyPatch, theirs: str, mine: str, spoken: str | None
):
    extensions = {**EXTENSIONS, other_versions.__name__: True}
    env = {other_versions.VARIABLE: theirs}
    there = await asyncio.to_thread(start, extensions=extensions, env=env)
    monkeypatch.setattr(module, "API_VERSIONS", tuple(mine.split()))
    monkeypatch.setattr("jupyter_token_ws.protocol.auth.API_VERSIONS", tuple(mine.split()))
    connecting = connect(there.url, auth=TicketAuth(token=there.token))
    if spoken is None:
        with pytest.raises(UnsupportedError, match="update"):
            await connecting
        return
    async with connecting as client:
        assert client.api_version == spoken
        # The login, too, is asked in that version.
        await echoes(await client.websocket("own/echo"))
        answer = await client.request("GET", "api/token-ws/login")
        assert answer.headers["api-version"] == spoken


# -- proxies that let no websocket through -----------------------------------------------------------


Behind = Callable[[Path, int], AbstractContextManager[str]]


@contextmanager
def nginx_1_0(tmp_path: Path, port: int) -> Iterator[str]:
    with run_nginx(tmp_path, port, websockets=False, http="1.0") as proxy:
        yield proxy.url


@contextmanager
def nginx_1_1(tmp_path: Path, port: int) -> Iterator[str]:
    with run_nginx(tmp_path, port, websockets=False) as proxy:
        yield proxy.url


@contextmanager
def haproxy_without(tmp_path: Path, port: int) -> Iterator[str]:
    with haproxy(tmp_path, port, more="http-request del-header Upgrade") as url:
        yield url


@contextmanager
def haproxy_denying(tmp_path: Path, port: int) -> Iterator[str]:
    more = "http-request deny if { req.hdr(Upgrade) -m found }"
    with haproxy(tmp_path, port, more=more) as url:
        yield url


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(nginx_1_0, marks=NGINX),
        pytest.param(nginx_1_1, marks=NGINX),
        pytest.param(haproxy_without, marks=pytest.mark.requires(*HAPROXY)),
        pytest.param(haproxy_denying, marks=pytest.mark.requires(*HAPROXY)),
    ],
)
async def test_where_no_websocket_gets_through(server: Server, tmp_path: Path, behind: Behind):
    with behind(tmp_path, server.port) as url:
        async with connect(url, auth=server.token, carrier="websocket") as forced:
            with pytest.raises(UpgradeBlockedError):
                await forced.websocket("own/echo")
        async with connect(url, auth=server.token) as client:
            socket = await client.websocket("own/echo")
            assert isinstance(socket, TunnelSocket)
            await echoes(socket)
            assert client.carrier == "tunnel-eventstream"


async def test_a_refusal_with_a_reason_is_none_of_the_proxys(server: Server):
    async with connect(server.url, auth=server.token) as client:
        with pytest.raises(RefusedError):
            await client.websocket("own/nothing")
        assert client.carrier == "websocket"


# -- cut connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["reset", "finish", "vanish", "stall up", "stall down"])
async def test_a_cut_is_noticed_within_one_keepalive(server: Server, tmp_path: Path, way: str):
    with cutting(tmp_path, server.port) as proxy:
        async with connect(proxy.url, auth=server.token, keepalive=1) as client:
            socket = await client.websocket("own/echo")
            await echoes(socket)
            await asyncio.to_thread(proxy.do, way)
            begun = time.monotonic()
            with pytest.raises(SocketClosedError) as closed:
                await socket.recv()
            assert time.monotonic() - begun < 3
            assert (closed.value.code, closed.value.advice) == (1006, Advice.RETRY)
            await asyncio.to_thread(proxy.do, "resume")
            await echoes(await client.websocket("own/echo"))
            assert client.carrier == "websocket"


@pytest.mark.parametrize("way", ["vanish", "stall up", "stall down"])
async def test_of_an_event_stream_too_though_the_server_says_nothing_for_long(
    server: Server, tmp_path: Path, way: str
):
    with cutting(tmp_path, server.port) as proxy:
        async with connect(
            proxy.url, auth=server.token, carrier="tunnel-eventstream", keepalive=1
        ) as client:
            socket = await client.websocket("own/echo")
            await echoes(socket)
            tunnel = client._tunnel
            assert tunnel is not None
            resumed = tunnel.resumed
            await asyncio.to_thread(proxy.do, way)
            begun = time.monotonic()
            await auntil(lambda: tunnel.resumed > resumed, "it to be resumed")
            assert time.monotonic() - begun < 10  # the server's keepalive is 25 s
            await echoes(socket)


async def test_a_server_that_is_started_again_under_it(start: Start):
    there = await asyncio.to_thread(start, extensions=EXTENSIONS)
    async with connect(there.url, auth=there.token, open_timeout=60) as client:
        socket = await client.websocket("own/echo")
        await echoes(socket)
        there.kill()
        with pytest.raises(SocketClosedError) as closed:
            await socket.recv()
        assert closed.value.advice is Advice.RETRY
        opening = asyncio.ensure_future(client.websocket("own/echo"))
        await asyncio.to_thread(start, extensions=EXTENSIONS, port=there.port)
        await echoes(await opening)
        assert client.carrier == "websocket"


# -- programs that use it ----------------------------------------------------------------------------


def test_scripts_without_asyncio(server: Server):
    with sync.connect(server.url, auth=server.token) as there:
        with there.websocket("own/echo") as socket:
            socket.send("a")
            assert socket.recv() == "a"
        with pytest.raises(ClientError):
            there.request("GET", "api/kernels/none")


USER = """\
from __future__ import annotations

import asyncio

from jupyter_token_ws.client import Server, Socket, connect, sync
from jupyter_token_ws.client.errors import RefusedError
from jupyter_token_ws.protocol.reasons import Advice


async def answer(prompt: str, password: bool) -> str:
    return "yes"


async def main() -> None:
    async with connect("http://localhost:8888/", auth="t", carrier="auto") as server:
        async with await server.websocket("api/events/subscribe", ["a"]) as socket:
            await socket.send("a")
            async for message in socket:
                told: str | bytes = message
            code: int | None = socket.close_code
            advice: Advice | None = socket.advice
        async with server.kernel("python3", on_input=answer) as kernel:
            cell = kernel.execute("1 + 1", timeout=60)
            async for part in cell:
                kind: str = part.type
            result = await cell
            printed: str = result.stdout
            value: str | None = result.raise_for_status().text
            await kernel.interrupt()
            kernel.open_comm("target").send({"a": 1}, [b"b"])
    server = await connect("http://localhost:8888/")
    status: int = (await server.request("GET", "api", timeout=3)).status
    await server.aclose()


def script() -> None:
    with sync.connect("http://localhost:8888/", auth="t", keepalive=3.0) as server:
        for message in server.websocket("a"):
            told: str | bytes = message
        with server.kernel(id="k", on_input=lambda prompt, password: "yes") as kernel:
            printed: str = kernel.execute("1 + 1").result().stdout
            for part in kernel.execute("1 + 1"):
                kind: str = part.type
"""
WRONG = {
    'connect("http://localhost/", carrier="pigeon")': "arg-type",
    'connect("http://localhost/", keepalive="x")': "arg-type",
    'connect("http://localhost/", unknown=1)': "call-arg",
    'sync.connect("http://localhost/", keepalive="x")': "arg-type",
    'sync.connect("http://localhost/", unknown=1)': "call-arg",
    'sync.connect("http://localhost/").kernel(unknown=1)': "call-arg",
    'sync.connect("http://localhost/").kernel("a").__enter__().execute(1)': "arg-type",
}


def test_types_of_programs_that_use_it(tmp_path: Path):
    """As a type checker sees the installed package, by its ``py.typed``."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(USER)
    bad.write_text("from jupyter_token_ws.client import connect, sync\n" + "\n".join(WRONG) + "\n")
    command: list[Any] = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}/cache"]
    options = ["--config-file=", "--no-error-summary", str(good), str(bad)]
    done = subprocess.run(
        [*command, *options], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    told = [line for line in done.stdout.splitlines() if ": note: " not in line]
    assert len(told) == len(WRONG), done.stdout + done.stderr
    for number, (line, code) in enumerate(zip(told, WRONG.values(), strict=True), 2):
        assert line.startswith(f"bad.py:{number}:"), line
        assert line.endswith(f"[{code}]"), line


def test_it_comes_with_its_types():
    root = importlib.resources.files("jupyter_token_ws")
    assert root.joinpath("py.typed").is_file()
