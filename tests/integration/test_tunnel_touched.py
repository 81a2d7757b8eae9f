"""What handlers touch of the connection behind a websocket: terminals', kernels', events' and those of other
people's extensions. What they ask a socket for they ask a stream for, and it is there."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pycrdt import create_sync_message

from jupyter_token_ws.protocol.subprotocols import KERNEL, offer_subprotocols
from jupyter_token_ws.tunnel.tunnels import EVENT_STREAM
from jupyter_token_ws.tunnel.virtual import StreamConnection, StreamProtocol, VirtualIOStream
from tests.support.extensions import TOKEN, Peer, Place, serving
from tests.support.far_peer import FarPeer
from tests.support.knock import Knock, knock
from tests.support.waiting import auntil, whole_lines

PACKAGES = (
    "terminado",
    "jupyter_server",
    "jupyter_server_terminals",
    "jupyter_lsp",
    "jupyter_server_ydoc",
    "jupyter_server_proxy",
)
"""Whose handlers are looked at."""

PLACES: dict[str, type] = {
    "ws_connection.stream": VirtualIOStream,
    "ws_connection": StreamProtocol,
    "request.connection.stream": VirtualIOStream,
    "request.connection": StreamConnection,
}
"""What stands where for a stream; the longer one counts."""

BY_ITSELF = {"stream", "context", "handler"}
"""What these have once they are made."""


def _names(node: ast.AST) -> list[str]:
    """``["a", "b", "c"]`` for ``a.b.c``; what it begins with may be anything."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return names[::-1]


def _touched_in(package: str) -> Iterator[str]:
    """What a package's sources ask connections for, by the names above."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    for file in Path(spec.origin).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = _names(node)
            for place in PLACES:
                if names[-1:] and ".".join(names[:-1]).endswith(place):
                    yield f"{place}.{names[-1]}"


@pytest.mark.parametrize("package", PACKAGES)
def test_C7_1_what_sources_ask_connections_for_is_there(package):
    for touched in set(_touched_in(package)):
        place, _, attribute = touched.rpartition(".")
        assert attribute in BY_ITSELF or hasattr(PLACES[place], attribute) or _made(attribute), (
            f"{package} asks for {touched}"
        )


def _made(attribute: str) -> bool:
    """Whether tornado's protocol has this once it is made."""
    return attribute in {"client_terminated", "server_terminated", "close_code", "close_reason"}


def test_C7_1_the_sources_are_read():
    """Upstream's pings are known to look at the connection."""
    assert "ws_connection.client_terminated" in set(_touched_in("jupyter_server"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("touched")
    with serving(
        directory,
        extensions={"tests.support.touched": True},
        config={
            # Upstream's pings in place of ours: they are what looks at connections.
            "TokenWebSocketApp": {"keepalive_interval": 0},
            "ServerApp": {"tornado_settings": {"ws_ping_interval": 50, "ws_ping_timeout": 40_000}},
        },
        env={"TOUCHED": str(directory / "touched.jsonl")},
    ) as running:
        yield running


def _touched(place: Place, carrier: str) -> set[tuple[str, str]]:
    read = [json.loads(line) for line in whole_lines(place.record.parent / "touched.jsonl")]
    return {(package, name) for by, package, name in read if by == carrier}


async def test_C7_1_what_is_asked_of_a_socket_is_asked_of_a_stream(place):
    model = place.server.request("POST", "api/kernels", {"name": "python3"}).json()
    terminal = place.server.request("POST", "api/terminals").json()["name"]
    sockets: list[tuple[str, str | bytes, str]] = [
        (f"api/kernels/{model['id']}/channels", "", KERNEL),
        (f"terminals/websocket/{terminal}", json.dumps(["stdin", "echo x\n"]), ""),
        ("api/events/subscribe", "", ""),
        ("lsp/ws/pylsp", json.dumps({"jsonrpc": "2.0", "method": "exit"}), ""),
        (place.room, create_sync_message(Peer(None).document.ydoc), ""),  # type: ignore[arg-type]
        (place.path("proxy"), "x", ""),
        (place.path("named_proxy"), "x", ""),
    ]
    expected = {("jupyter_server", "ws_connection.client_terminated")}
    opened: list[Any] = []
    async with AsyncExitStack() as stack:
        for path, first, offer in sockets:
            offered = offer_subprotocols([offer] if offer else [], TOKEN)
            socket = await stack.enter_async_context(
                await knock(place.server.port, f"/{path}", offered)
            )
            assert socket.status == 101
            opened.append((socket, first))
        await _say(opened)
        await auntil(lambda: _touched(place, "socket") >= expected, "pings")
        before: Knock
        for before, _ in opened:
            await before.close()
    async with FarPeer(place.server.url, TOKEN, EVENT_STREAM) as peer:
        opened = []
        for path, first, offer in sockets:
            stream = await peer.open(path, [offer] if offer else [])
            assert stream.opened, (path, stream.closed)
            opened.append((stream, first))
        await _say(opened)
        await auntil(lambda: _touched(place, "stream") >= expected, "pings")
        for stream, _ in opened:
            assert not stream.closed
            await stream.close()
    assert _touched(place, "stream") == _touched(place, "socket")


async def _say(opened: list[Any]) -> None:
    for socket, first in opened:
        if first:
            await socket.send(first)
