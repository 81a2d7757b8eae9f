"""The client's tunnel against real servers, through proxies and connections that break."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from jupyter_token_ws.client.auth import Grant
from jupyter_token_ws.client.carriers import EVENT_STREAM, WEBSOCKET
from jupyter_token_ws.client.errors import (
    ClientError,
    HeldBackError,
    NoConnectionError,
    RefusedError,
    SocketClosedError,
    TooLargeError,
    TunnelEndedError,
    UnsupportedError,
    UpgradeBlockedError,
)
from jupyter_token_ws.client.server import connect
from jupyter_token_ws.client.sockets import Socket
from jupyter_token_ws.client.tunnel import Tunnel, TunnelSocket
from jupyter_token_ws.protocol.auth import CookieAuth, TicketAuth
from jupyter_token_ws.protocol.reasons import Advice
from jupyter_token_ws.protocol.subprotocols import KERNEL
from tests.integration.conftest import Start
from tests.support import nginx, own_sockets
from tests.support.client_tunnel import QUICK, tunnel_to
from tests.support.cutting_proxy import cutting
from tests.support.live_kernel import Client
from tests.support.nginx import nginx as run_nginx
from tests.support.process import Server, start_server
from tests.support.proxies import HAPROXY, haproxy
from tests.support.waiting import auntil

EXTENSIONS = {own_sockets.__name__: True}
CARRIERS = pytest.mark.parametrize("carrier", [WEBSOCKET, EVENT_STREAM])
NGINX = pytest.mark.requires(*nginx.PROGRAM)

IGNORES = "proxy_ignore_headers X-Accel-Buffering;"
"""For nginx: answers are kept though the server asks that they are not."""

LINES = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that do not end it."""
    place = tmp_path_factory.mktemp("tunnel")
    with start_server(place, config=QUICK, extensions=EXTENSIONS) as server:
        yield server


async def echoes(tunnel: Tunnel, count: int = 20, size: int = 1000) -> None:
    """Messages there and back, each once and in order, and the end both ways."""
    socket = await tunnel.open("own/streamed")
    sent = [f"{number} ".ljust(size, "é") for number in range(count)]
    sending = asyncio.create_task(send_all(socket, sent))
    heard = [message async for message in socket]
    await sending
    assert (heard == [*sent, f"{count} messages"]) is True
    assert socket.close_code == 1000


async def send_all(socket: Socket, messages: list[str]) -> None:
    for message in messages:
        await socket.send(message)
    await socket.send_eof()


# -- what goes well ----------------------------------------------------------------------------------


@CARRIERS
async def test_sockets_of_a_server(server: Server, carrier: str):
    async with tunnel_to(server.url, server.token, carrier) as tunnel:
        await echoes(tunnel)
        await echoes(tunnel, count=3, size=500_000)
        socket = await tunnel.open("own/echo")
        await socket.send(b"bytes")
        assert await socket.recv() == b"bytes"
        with pytest.raises(RefusedError) as raised:
            await tunnel.open("own/nothing")
        assert (raised.value.slug, raised.value.advice) == ("not_found", Advice.STOP)
        with pytest.raises(NoConnectionError):
            await tunnel.open("own/never-opens", timeout=0.2)
        await socket.close(3000, "bye")
        assert socket.close_code == 3000
        assert tunnel.carrier == carrier


@CARRIERS
async def test_fifty_sockets_on_one_tunnel(server: Server, carrier: str):
    async with tunnel_to(server.url, server.token, carrier) as tunnel:
        await asyncio.gather(*(echoes(tunnel, count=5) for _ in range(50)))
        assert tunnel.resumed == 0


async def test_a_silent_tunnel_stays(server: Server):
    """Longer than either side waits for a sign of life."""

    async def stays(carrier: str) -> None:
        async with tunnel_to(server.url, server.token, carrier) as tunnel:
            socket = await tunnel.open("own/echo")
            await asyncio.sleep(5)
            await socket.send("still")
            assert await socket.recv() == "still"
            assert tunnel.resumed == 0

    await asyncio.gather(stays(WEBSOCKET), stays(EVENT_STREAM))


@CARRIERS
async def test_it_is_no_slower_than_that(server: Server, carrier: str):
    async with tunnel_to(server.url, server.token, carrier) as tunnel:
        begun = time.monotonic()
        await echoes(tunnel, count=5000, size=100)
        await echoes(tunnel, count=10, size=500_000)
        assert time.monotonic() - begun < 20


@CARRIERS
async def test_goodbye_ends_the_tunnel_at_the_server(server: Server, carrier: str):
    async with tunnel_to(server.url, server.token, carrier) as tunnel:
        await tunnel.open("own/echo")
        assert open_tunnels(server)
    await auntil(lambda: not open_tunnels(server), "the server to forget it")


def open_tunnels(server: Server) -> bool:
    """Whether there are any, carried or not."""
    text = server.request("GET", "metrics").body.decode()
    return any(
        line.startswith("jupyter_token_ws_tunnels_open{") and not line.endswith(" 0.0")
        for line in text.splitlines()
    )


# -- behind proxies ----------------------------------------------------------------------------------


@NGINX
@pytest.mark.parametrize("http", ["1.0", "1.1"])
async def test_nginx_that_lets_no_websocket_through(server: Server, tmp_path: Path, http: str):
    with run_nginx(tmp_path, server.port, websockets=False, http=http, body_limit="1m") as proxy:
        async with tunnel_to(proxy.url, server.token) as tunnel:
            await echoes(tunnel)
            await echoes(tunnel, count=4, size=400_000)
            assert (tunnel.carrier, tunnel.resumed) == (EVENT_STREAM, 0)
        async with tunnel_to(proxy.url, server.token, WEBSOCKET) as tunnel:
            with pytest.raises(UpgradeBlockedError, match="proxy"):
                await tunnel.open("own/echo")


@NGINX
async def test_nginx_that_holds_the_event_stream_back(server: Server, tmp_path: Path):
    with run_nginx(tmp_path, server.port, websockets=False, http="1.0", more=IGNORES) as proxy:
        async with tunnel_to(proxy.url, server.token, patience=1) as tunnel:
            with pytest.raises(HeldBackError, match="buffering") as raised:
                await tunnel.open("own/echo")
            assert raised.value.advice is Advice.STOP


@NGINX
async def test_nginx_that_lets_them_through(server: Server, tmp_path: Path):
    with run_nginx(tmp_path, server.port) as proxy:
        async with tunnel_to(proxy.url, server.token) as tunnel:
            await echoes(tunnel)
            assert tunnel.carrier == WEBSOCKET


@pytest.mark.requires(*HAPROXY)
@CARRIERS
async def test_haproxy(server: Server, tmp_path: Path, carrier: str):
    with haproxy(tmp_path, server.port) as url:
        async with tunnel_to(url, server.token, carrier) as tunnel:
            await echoes(tunnel)
            await echoes(tunnel, count=4, size=400_000)


@NGINX
async def test_a_proxy_that_allows_small_bodies_only(server: Server, tmp_path: Path):
    with run_nginx(tmp_path, server.port, websockets=False, body_limit="60k") as proxy:
        async with tunnel_to(proxy.url, server.token) as tunnel:
            await echoes(tunnel, count=4, size=400_000)
            assert tunnel.resumed == 0


@NGINX
async def test_a_proxy_that_allows_hardly_any_body(server: Server, tmp_path: Path):
    with run_nginx(tmp_path, server.port, websockets=False, body_limit="1k") as proxy:
        async with tunnel_to(proxy.url, server.token) as tunnel:
            socket = await tunnel.open("own/echo")
            await socket.send("é" * 5000)
            with pytest.raises(TunnelEndedError, match="client_max_body_size") as raised:
                await socket.recv()
            assert isinstance(raised.value.__cause__, TooLargeError)


# -- connections that break --------------------------------------------------------------------------


@CARRIERS
@pytest.mark.parametrize("how", ["reset", "finish"])
async def test_a_cut_is_not_noticed(server: Server, tmp_path: Path, carrier: str, how: str):
    with cutting(tmp_path, server.port) as proxy:
        async with tunnel_to(proxy.url, server.token, carrier) as tunnel:
            socket = await tunnel.open("own/streamed")
            sent = [str(number) for number in range(300)]
            sending = asyncio.create_task(send_all(socket, sent))
            heard = []
            async for message in socket:
                heard.append(message)
                if len(heard) % 100 == 50:
                    await asyncio.to_thread(proxy.do, how)
            await sending
            assert heard == [*sent, "300 messages"]
            resumed = tunnel.resumed
            proxy.do(how)
            await auntil(lambda: tunnel.resumed > resumed, "it to be resumed")


@CARRIERS
@pytest.mark.parametrize("way", ["vanish", "stall up"])
async def test_a_frozen_network_is_noticed_within_a_keepalive(
    server: Server, tmp_path: Path, carrier: str, way: str
):
    with cutting(tmp_path, server.port) as proxy:
        async with tunnel_to(proxy.url, server.token, carrier) as tunnel:
            socket = await tunnel.open("own/echo")
            await socket.send("a")
            assert await socket.recv() == "a"
            await asyncio.to_thread(proxy.do, way)
            begun = time.monotonic()
            await socket.send("b")
            await auntil(lambda: tunnel.resumed, "it to be resumed over a new connection")
            # 2 s to notice, and the way back.
            assert time.monotonic() - begun < 6
            assert await socket.recv() == "b"


async def test_a_proxy_that_ends_what_is_silent(server: Server, tmp_path: Path):
    """Before the server gives any sign of life."""
    with cutting(tmp_path, server.port, "--idle=0.5") as proxy:
        async with tunnel_to(proxy.url, server.token, EVENT_STREAM) as tunnel:
            socket = await tunnel.open("own/echo")
            await auntil(lambda: tunnel.resumed > 1, "it to be cut")
            await socket.send("a")
            assert await socket.recv() == "a"


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("carriers", [[WEBSOCKET], [EVENT_STREAM], [WEBSOCKET, EVENT_STREAM]])
async def test_a_hundred_thousand_lines_over_connections_that_are_cut_at_random(
    start: Start, tmp_path: Path, carriers: list[str]
):
    server = await asyncio.to_thread(start, config=QUICK, extensions=EXTENSIONS)
    kernel = await asyncio.to_thread(server.start_kernel)
    with cutting(tmp_path, server.port, "--every=0.1-2", "--seed=7") as proxy:
        async with tunnel_to(proxy.url, server.token, *carriers) as tunnel:
            path = f"api/kernels/{kernel}/channels?session_id=a"
            socket = await tunnel.open(path, [KERNEL])
            others = [asyncio.create_task(echoes(tunnel, 2000, 2000)) for _ in range(2)]
            client: Any = Client(Knocked(socket), v1=True)  # type: ignore[arg-type]
            code = (
                "import time\n"
                f"for n in range({LINES}):\n"
                "    print(n)\n"
                "    if n % 1000 == 0: time.sleep(0.05)"
            )
            asked = await client.execute(code)
            told = [
                message["content"]["text"]
                for message in await client.idle(asked)
                if message["header"]["msg_type"] == "stream"
            ]
            assert ("".join(told) == "".join(f"{n}\n" for n in range(LINES))) is True
            await asyncio.gather(*others)
            proxy.do("calm")
            assert tunnel.resumed > 2


class Knocked:
    """A socket, asked as ``Client`` asks."""

    def __init__(self, socket: Socket) -> None:
        self.send = socket.send
        self.wait_message = socket.recv


# -- servers that end --------------------------------------------------------------------------------


@CARRIERS
async def test_a_server_that_was_restarted(start: Start, carrier: str):
    server = await asyncio.to_thread(start, config=QUICK, extensions=EXTENSIONS)
    async with tunnel_to(server.url, server.token, carrier, open_timeout=60) as tunnel:
        socket = await tunnel.open("own/echo")
        server.kill()
        options = {"config": QUICK, "extensions": EXTENSIONS, "port": server.port}
        await asyncio.to_thread(start, **options)
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert (raised.value.slug, raised.value.advice) == ("resume_failed", Advice.RETRY)
        await echoes(tunnel)


@CARRIERS
async def test_a_server_that_drains(start: Start, carrier: str):
    server = await asyncio.to_thread(start, config=QUICK, extensions=EXTENSIONS)
    async with tunnel_to(server.url, server.token, carrier, open_timeout=2) as tunnel:
        socket = await tunnel.open("own/echo")
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(SocketClosedError) as raised:
            await socket.recv()
        assert (raised.value.slug, raised.value.advice) == ("draining", Advice.RETRY_AFTER)
        with pytest.raises((NoConnectionError, RefusedError)):
            await tunnel.open("own/echo")


# -- credentials -------------------------------------------------------------------------------------


def ticket(server: Server, **options: Any) -> str:
    answer = server.request("POST", "api/token-ws/login", options)
    assert answer.status == 200, answer
    made: str = answer.json()["token"]
    return made


@CARRIERS
async def test_a_ticket_that_is_revoked(server: Server, carrier: str):
    made = ticket(server)
    async with tunnel_to(server.url, made, carrier) as tunnel:
        socket = await tunnel.open("own/echo")
        assert server.request("DELETE", "api/token-ws/login", token=made).status == 204
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert (raised.value.slug, raised.value.advice) == ("token_revoked", Advice.AUTHENTICATE)


@CARRIERS
async def test_a_ticket_that_expires(server: Server, carrier: str):
    async with tunnel_to(server.url, ticket(server, max_age=2), carrier) as tunnel:
        socket = await tunnel.open("own/echo")
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert (raised.value.slug, raised.value.advice) == ("token_expired", Advice.AUTHENTICATE)


async def test_a_ticket_is_renewed_while_the_tunnel_lives(server: Server):
    """The server ends what it carries when the ticket does."""

    async def lives(carrier: str) -> None:
        auth = TicketAuth(token=server.token, max_age=7)
        async with tunnel_to(server.url, "", carrier, auth=auth) as tunnel:
            socket = await tunnel.open("own/echo")
            first = (await tunnel.way.authenticator.grant()).generation
            begun = time.monotonic()
            while time.monotonic() - begun < 9:
                await socket.send("a")
                assert await socket.recv() == "a"
                await asyncio.sleep(0.1)
            assert (await tunnel.way.authenticator.grant()).generation > first
            assert tunnel.resumed == 0

    await asyncio.gather(lives(WEBSOCKET), lives(EVENT_STREAM))


@CARRIERS
async def test_after_a_revocation_the_next_tunnel_has_a_fresh_ticket(server: Server, carrier: str):
    auth = TicketAuth(token=server.token)
    async with tunnel_to(server.url, "", carrier, auth=auth) as tunnel:
        socket = await tunnel.open("own/echo")
        made = ticket_of(await tunnel.way.authenticator.grant())
        assert server.request("DELETE", "api/token-ws/login", token=made).status == 204
        with pytest.raises(TunnelEndedError):
            await socket.recv()
        await echoes(tunnel)


async def test_a_cookie_carries_a_websocket_and_no_event_stream(server: Server):
    async with tunnel_to(server.url, "", auth=CookieAuth(server.token)) as tunnel:
        await echoes(tunnel)
        assert tunnel.carrier == WEBSOCKET
    async with tunnel_to(server.url, "", EVENT_STREAM, auth=CookieAuth(server.token)) as tunnel:
        with pytest.raises(UnsupportedError, match="ticket"):
            await tunnel.open("own/echo")


@CARRIERS
async def test_a_wrong_token(server: Server, carrier: str):
    token = f"wrong{random.random()}"
    async with tunnel_to(server.url, token, carrier) as tunnel:
        with pytest.raises(ClientError) as raised:
            await tunnel.open("own/echo")
        assert raised.value.advice is Advice.AUTHENTICATE
        assert token not in str(raised.value)


# -- as a server's carrier ---------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["tunnel-websocket", "tunnel-eventstream"])
async def test_all_websockets_of_a_server_over_one_tunnel(
    server: Server, carrier: Literal["tunnel-websocket", "tunnel-eventstream"]
):
    async with connect(server.url, auth=server.token, carrier=carrier) as client:
        sockets = await asyncio.gather(*(client.websocket("/own/echo") for _ in range(3)))
        for socket in sockets:
            assert isinstance(socket, TunnelSocket)
            await socket.send("a")
            assert await socket.recv() == "a"
        assert client.carrier == carrier
        with pytest.raises(RefusedError) as raised:
            await client.websocket("own/nothing")
        assert raised.value.slug == "not_found"
    assert sockets[0].close_code == 1001


@NGINX
async def test_the_event_stream_where_no_websocket_gets_through(server: Server, tmp_path: Path):
    with run_nginx(tmp_path, server.port, websockets=False) as proxy:
        for _ in range(2):
            async with connect(proxy.url, auth=server.token) as client:
                socket = await client.websocket("own/echo")
                assert isinstance(socket, TunnelSocket)
                await socket.send("a")
                assert await socket.recv() == "a"
                assert client.carrier == "tunnel-eventstream"
        upgrades = [asked for asked in proxy.requests() if asked.websocket]
        assert len(upgrades) == 1, "it is remembered"


@pytest.mark.parametrize("carrier", ["tunnel-websocket", "tunnel-eventstream"])
async def test_what_to_do_after_a_revocation(
    server: Server, carrier: Literal["tunnel-websocket", "tunnel-eventstream"]
):
    """As the advice says: the credential is refreshed once, for all that ended together."""
    auth = TicketAuth(token=server.token)
    async with connect(server.url, auth=auth, carrier=carrier) as client:
        sockets = [await client.websocket("own/echo") for _ in range(5)]
        made = ticket_of(await client._authenticator().grant())
        assert server.request("DELETE", "api/token-ws/login", token=made).status == 204

        async def again(socket: Socket) -> Socket:
            with pytest.raises(TunnelEndedError) as raised:
                await socket.recv()
            assert raised.value.slug == "token_revoked"
            await client.refused(raised.value)
            return await client.websocket("own/echo")

        for socket in await asyncio.gather(*map(again, sockets)):
            await socket.send("a")
            assert await socket.recv() == "a"


def ticket_of(grant: Grant) -> str:
    assert grant.token is not None
    return grant.token
