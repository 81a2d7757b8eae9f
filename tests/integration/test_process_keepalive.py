"""Pings of a real server with extensions, and how it is configured from the command line."""

from __future__ import annotations

import asyncio
import time

import pytest

from jupyter_token_ws.protocol.subprotocols import MARKER
from tests.integration.conftest import Proxied, Start
from tests.support.knock import TIMEOUT, bearing, knock
from tests.support.process import Server

INTERVAL = 0.3
EXTENSIONS = {
    "tests.support.own_sockets": True,
    "jupyter_server_proxy": True,
    "jupyter_server_ydoc": True,
    "jupyter_server_fileid": True,
    "jupyter_lsp": True,
}


LEAST = 4.5 * INTERVAL
"""Seconds that six pings take at least. With a second pinger they would take half the time; how late they may
be is the machine's business."""


async def six_pings(server: Server, path: str) -> float:
    """How long it takes from one ping to the fifth after it.

    The first that came late makes it shorter: then others are looked at, of which a second pinger would make
    each too short.
    """
    async with await knock(server.port, f"/{path}", [MARKER, bearing(server.token)]) as socket:
        assert socket.status == 101, path
        times: list[float] = []
        while len(times) < 6 or (times[-1] - times[-6] < LEAST and len(times) < 60):
            frame = await asyncio.wait_for(socket.read_frame(), TIMEOUT)
            assert frame is not None, path
            assert frame[0] != 8, path
            if frame[0] == 9:
                times.append(time.monotonic())
                await socket.send(frame[1], opcode=10)
        return times[-1] - times[-6]


async def test_one_ping_an_interval_on_every_socket_of_a_full_server(
    start: Start, proxied: Proxied
):
    """Kernels, terminals, events, documents, language servers, proxied applications: some have pings of
    their own, which are told to be as frequent, and some have none."""
    server = start(
        extensions=EXTENSIONS,
        config={
            "TokenWebSocketApp": {"keepalive_interval": INTERVAL, "keepalive_timeout": 10},
            "ServerApp": {
                "tornado_settings": {
                    "ws_ping_interval": 1000 * INTERVAL,
                    "websocket_ping_interval": INTERVAL,
                    "websocket_ping_timeout": INTERVAL,
                }
            },
        },
    )
    terminal = server.request("POST", "api/terminals").json()["name"]
    paths = [
        f"api/kernels/{server.start_kernel()}/channels",
        f"terminals/websocket/{terminal}",
        "api/events/subscribe",
        f"proxy/{proxied.port}/socket",
        "api/collaboration/room/JupyterLab:globalAwareness",
        "own/echo",
        "own/plain",
    ]
    spans = await asyncio.gather(*(six_pings(server, path) for path in paths))
    for path, span in zip(paths, spans, strict=True):
        assert span >= LEAST, path


@pytest.mark.parametrize(
    ("args", "keepalive"),
    [
        ([], {"interval": 25, "timeout": 75}),
        (
            ["--ServerApp.websocket_ping_interval=10", "--ServerApp.websocket_ping_timeout=7"],
            {"interval": 10, "timeout": 7},
        ),
        (["--TokenWebSocketApp.keepalive_interval=0"], None),
    ],
)
def test_C4_6_the_capabilities_tell_the_keepalive_as_configured(start: Start, args, keepalive):
    server = start(args=args)
    document = server.request("GET", "api/token-ws/capabilities", token="").json()
    assert document.get("keepalive") == keepalive


def test_an_error_in_the_configuration_is_named_and_ends_the_server(start: Start):
    """On a command line as in a file."""
    with pytest.raises(
        AssertionError,
        match=r"(?s)ended at once.*keepalive_interval must be finite and not negative",
    ):
        start(args=["--TokenWebSocketApp.keepalive_interval=-1"], name="args")
    with pytest.raises(AssertionError, match=r"(?s)ended at once.*close_reasons.*sometimes"):
        start(config={"TokenWebSocketApp": {"close_reasons": "sometimes"}}, name="file")
