"""Tunnels where no websocket gets through: behind proxies as people set them up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL
from jupyter_token_ws.tunnel.tunnels import EVENT_STREAM, WEBSOCKET
from tests.integration.conftest import Start
from tests.support import nginx, own_sockets
from tests.support.cutting_proxy import cutting
from tests.support.far_peer import FarPeer
from tests.support.live_kernel import Client, printed
from tests.support.nginx import nginx as run_nginx
from tests.support.process import Server
from tests.support.proxies import CADDY, HAPROXY, caddy, haproxy

EXTENSIONS = {own_sockets.__name__: True}

LINES = 1000


@contextmanager
def bare_nginx(tmp_path: Path, upstream: int) -> Iterator[str]:
    """As it is where nobody thought of websockets: no upgrades, answers buffered, HTTP/1.0 to the server."""
    with run_nginx(tmp_path, upstream, websockets=False, http="1.0", body_limit="1m") as proxy:
        yield proxy.url


@contextmanager
def nginx_without_upgrades(tmp_path: Path, upstream: int) -> Iterator[str]:
    """The same with HTTP/1.1 to the server."""
    with run_nginx(tmp_path, upstream, websockets=False, body_limit="1m") as proxy:
        yield proxy.url


PROXIES = pytest.mark.parametrize(
    "proxy",
    [
        pytest.param(
            nginx_without_upgrades, marks=pytest.mark.requires(*nginx.PROGRAM), id="nginx"
        ),
        pytest.param(bare_nginx, marks=pytest.mark.requires(*nginx.PROGRAM), id="nginx-http-1.0"),
        pytest.param(haproxy, marks=pytest.mark.requires(*HAPROXY), id="haproxy"),
        pytest.param(caddy, marks=pytest.mark.requires(*CADDY), id="caddy"),
    ],
)

Proxy = Callable[[Path, int], Any]


async def kernel_talks(peer: FarPeer, kernel: str, pause: float = 0.0) -> None:
    """A kernel is asked and asks, and prints much; in between it is silent for so many seconds."""
    stream = await peer.open(f"api/kernels/{kernel}/channels?session_id={kernel}", [KERNEL])
    assert stream.subprotocol == KERNEL, stream.closed
    client: Any = Client(stream, v1=True)  # type: ignore[arg-type]
    code = (
        "import time\n"
        "first = input('how much?')\n"
        f"for n in range({LINES}): print(first, n, flush=n % 10 == 0)\n"
        f"time.sleep({pause})\n"
        "print('x' * 400_000)\n"
        f"time.sleep({pause})\n"
        "print('done')"
    )
    asked = await client.execute(code, stdin=True)
    # It is heard while the cell runs: nothing on the way waits for more.
    await client.until("input_request", asked)
    await client.send("stdin", "input_reply", {"value": "y" * 100})
    lines = [f"{'y' * 100} {n}\n" for n in range(LINES)]
    assert printed(await client.idle(asked)) == "".join(lines) + "x" * 400_000 + "\ndone\n"
    await stream.close()


async def terminal_talks(peer: FarPeer, name: str) -> None:
    """A terminal counts."""
    stream = await peer.open(f"terminals/websocket/{name}")
    assert stream.opened, stream.closed
    assert json.loads(await stream.wait_message())[0] == "setup"
    await stream.send(json.dumps(["stdin", "PS1=; stty -echo; seq 1 2000; echo en''d\n"]))
    heard = ""
    while "end" not in heard:
        kind, *rest = json.loads(await stream.wait_message())
        heard += rest[0] if kind == "stdout" else ""
    assert "".join(f"{n}\r\n" for n in range(1, 2001)) in heard
    await stream.close()


async def three_kernels_and_a_terminal(server: Server, peer: FarPeer, pause: float = 0.0) -> None:
    kernels = [await asyncio.to_thread(server.start_kernel) for _ in range(3)]
    terminal = server.request("POST", "api/terminals").json()["name"]
    talking = [kernel_talks(peer, kernel, pause) for kernel in kernels]
    await asyncio.gather(*talking, terminal_talks(peer, terminal))


@PROXIES
async def test_three_kernels_and_a_terminal_over_one_event_stream(
    start: Start, tmp_path: Path, proxy: Proxy
):
    server = start()
    with proxy(tmp_path, server.port) as url:
        async with FarPeer(url, server.token, EVENT_STREAM) as peer:
            await three_kernels_and_a_terminal(server, peer)
    assert (peer.counts.carriers, peer.counts.posted_again) == (1, 0)


@pytest.mark.parametrize("keepalive", [1, 25])
async def test_a_proxy_that_cuts_idle_connections(start: Start, tmp_path: Path, keepalive: float):
    server = start(config={"TokenWebSocketApp": {"keepalive_interval": keepalive}})
    with cutting(tmp_path, server.port, "--idle=5") as proxy:
        async with FarPeer(proxy.url, server.token, EVENT_STREAM) as peer:
            await three_kernels_and_a_terminal(server, peer, pause=6)
        cut = proxy.do("counts").get("idle", 0)
    if keepalive < 5:
        assert peer.counts.carriers == 1  # what was cut are connections that POSTs had left
    else:
        assert (peer.counts.carriers > 1) is (cut > 0) is True


@pytest.mark.requires(*nginx.PROGRAM)
async def test_no_websocket_gets_through_nginx_by_itself(start: Start, tmp_path: Path):
    server = start()
    with bare_nginx(tmp_path, server.port) as url:
        async with FarPeer(url, server.token, WEBSOCKET) as peer:
            assert (await peer.finished()).slug == "403"


@pytest.mark.requires(*nginx.PROGRAM)
async def test_bodies_fit_into_what_nginx_takes_by_itself(start: Start, tmp_path: Path):
    server = start(extensions=EXTENSIONS)
    message = "é" * 3_000_000
    with bare_nginx(tmp_path, server.port) as url:
        async with FarPeer(url, server.token, EVENT_STREAM) as peer:
            stream = await peer.open("own/echo")
            _, back = await asyncio.gather(stream.send(message), stream.receive())
            assert back == message
    assert peer.counts.posted_again == 0
    assert 250_000 < peer.counts.largest_post < 512 * 1024


@pytest.mark.requires(*nginx.PROGRAM)
async def test_bodies_that_nginx_refuses_end_the_tunnel(start: Start, tmp_path: Path):
    """Not silently: whoever set it up so is to find out."""
    server = start(extensions=EXTENSIONS)
    with run_nginx(tmp_path, server.port, websockets=False, body_limit="100k") as proxy:
        async with FarPeer(proxy.url, server.token, EVENT_STREAM) as peer:
            stream = await peer.open("own/echo")
            await stream.send("x" * 250_000)
            assert (await peer.finished()).slug == "413"
            assert stream.closed is not None
