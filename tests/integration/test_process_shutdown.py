"""The end of a real server: every open socket is told, nobody new gets in, the process ends."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.integration.conftest import Proxied, Start
from tests.support.knock import TIMEOUT, Knock, bearing, knock, refused
from tests.support.process import Server
from tests.support.waiting import auntil

EXTENSIONS = {"tests.support.own_sockets": True, "jupyter_server_proxy": True}


def ways_in(server: Server) -> list[tuple[str, dict[str, Any]]]:
    """By which credential, and with or without having opted in."""
    header = {"Authorization": f"token {server.token}"}
    return [
        ("", {"offer": [MARKER, bearing(server.token)]}),
        ("", {"headers": header, "offer": [REASON_MARKER]}),
        ("", {"headers": header}),
        (f"token={server.token}", {}),
    ]


def kinds(server: Server, proxied: Proxied) -> list[str]:
    terminal = server.request("POST", "api/terminals").json()["name"]
    return [
        f"api/kernels/{server.start_kernel()}/channels",
        f"terminals/websocket/{terminal}",
        "api/events/subscribe",
        f"proxy/{proxied.port}/socket",
        "own/plain",
    ]


async def open_all(server: Server, proxied: Proxied) -> list[tuple[str, Knock]]:
    """Twenty sockets: five kinds, each by four ways in."""
    sockets = []
    for kind in kinds(server, proxied):
        for query, options in ways_in(server):
            socket = await knock(server.port, f"/{kind}?{query}", **options)
            assert socket.status == 101, (kind, options)
            sockets.append((kind, socket))
    assert len(sockets) == 20
    return sockets


async def upgrade_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: Server, offer: str
) -> Knock:
    """A handshake on a connection that exists already."""
    writer.write(
        (
            "GET /api/events/subscribe HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{server.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: token {server.token}\r\n{offer}\r\n"
        ).encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
    return Knock(reader, writer, status=int(head.split(b" ")[1]))


async def keep_alive(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that was used once and stays."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET /api HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
    assert b" 200 " in head
    [length] = [
        int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")
    ]
    await reader.readexactly(length)
    return reader, writer


async def test_C3_6_sigterm_tells_every_socket(start: Start, proxied: Proxied):
    """Opted in or not; meanwhile nobody gets in; then the process ends well."""
    server = start(extensions=EXTENSIONS, config={"TokenWebSocketApp": {"drain_timeout": 100}})
    sockets = await open_all(server, proxied)
    waiting = [await keep_alive(server) for _ in range(2)]
    # One that does not answer the close keeps the server draining, until it does.
    silent = await knock(server.port, "/own/echo", [MARKER, bearing(server.token)])
    server.process.send_signal(signal.SIGTERM)
    told = await asyncio.gather(*(socket.wait_closed() for _, socket in sockets))
    assert server.running
    for (kind, _), socket in zip(sockets, told, strict=True):
        assert (socket.code, socket.slug) == (4503, "draining"), kind
        assert "retry_after=" in socket.reason
    (plain_reader, plain), (told_reader, opted) = waiting
    assert (await upgrade_on(plain_reader, plain, server, "")).status == 503
    offer = f"Sec-WebSocket-Protocol: {REASON_MARKER}\r\n"
    late = await upgrade_on(told_reader, opted, server, offer)
    assert late.status == 101
    await late.wait_closed()
    assert (late.code, late.slug) == (4503, "draining")
    with pytest.raises(ConnectionRefusedError):
        await refused(server.port, "/own/echo")
    await silent.wait_closed()
    assert silent.code == 4503
    await auntil(lambda: not server.running, "the end of the process")
    assert server.wait() == 0
    log = server.log()
    assert "Closing 21 websockets" in log
    # (terminado writes to sockets that are closing, and its traceback is nothing of ours.)
    ours = [
        line for line in log.splitlines() if 'File "' in line and "jupyter_token_ws/guard/" in line
    ]
    assert not ours
    for socket in [*(socket for _, socket in sockets), silent]:
        socket.vanish()
    plain.close()
    opted.close()


async def test_a_server_whose_clients_do_not_answer_ends_in_time(start: Start):
    server = start(extensions=EXTENSIONS, config={"TokenWebSocketApp": {"drain_timeout": 0.2}})
    async with await knock(server.port, "/own/echo", [MARKER, bearing(server.token)]) as silent:
        assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0
        await silent.wait_closed()
        assert silent.code == 4503
    assert "1 websockets did not answer the close" in server.log()


async def test_the_end_by_the_rest_api_is_the_same(start: Start):
    server = start(extensions=EXTENSIONS)
    async with await knock(server.port, "/own/echo", [MARKER, bearing(server.token)]) as socket:
        answer = await asyncio.to_thread(server.request, "POST", "api/shutdown")
        assert answer.status == 200
        await socket.wait_closed()
        assert (socket.code, socket.slug) == (4503, "draining")
    assert await asyncio.to_thread(server.wait) == 0


async def test_sigint_ends_the_process_without_a_word(start: Start):
    """Without a terminal jupyter_server installs no handler for it: the loop is left where it stands,
    and no extension is told. What can be held is that the connection ends and the process too."""
    server = start(extensions=EXTENSIONS)
    async with await knock(server.port, "/own/echo", [MARKER, bearing(server.token)]) as socket:
        assert await asyncio.to_thread(server.stop, signal.SIGINT) == 0
        await socket.wait_closed()
        assert socket.code is None


async def test_stock_tells_nobody(start: Start):
    """What the above is good for: the same server without the extension says nothing at its end."""
    server = start(extensions=EXTENSIONS, stock=True)
    async with await knock(
        server.port, "/own/echo", [KERNEL], {"Authorization": f"token {server.token}"}
    ) as socket:
        assert socket.status == 101
        await asyncio.to_thread(server.stop)
        await socket.wait_closed()
        assert socket.code is None
