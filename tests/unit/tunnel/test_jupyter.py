"""Jupyter's own websockets as streams: who may enter, and kernels, terminals and events behind them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jupyter_token_ws.protocol.reasons import parse_close
from jupyter_token_ws.protocol.subprotocols import KERNEL
from tests.support.door import Door
from tests.support.live_kernel import Client
from tests.support.tunnel_peer import Link, carrier_request


def link_to(door: Door) -> Link:
    carrier = carrier_request(Authorization=f"token {door.token}", Host=door.host)
    return Link(door.app.web_app, carrier, door.base)


@pytest.mark.parametrize("v1", [True, False])
async def test_C7_1_a_cell_runs(door, kernel, v1):
    link = link_to(door)
    path = f"api/kernels/{kernel.id}/channels?session_id=a"
    socket: Any = await link.open(path, [KERNEL] if v1 else []).wait_open()
    assert socket.opened
    assert socket.subprotocol == (KERNEL if v1 else None)
    client = Client(socket, v1)
    assert await client.run("print(6 * 7)") == "42\n"
    sent = await client.execute(
        "from IPython.display import display\nfor n in range(500): print(n)"
    )
    heard = await client.idle(sent)
    texts = "".join(m["content"]["text"] for m in heard if m["header"]["msg_type"] == "stream")
    assert texts.split() == [str(n) for n in range(500)]
    await socket.close()
    await socket.wait_closed()


async def test_C7_1_a_terminal(door):
    link = link_to(door)
    name = door.app.web_app.settings["terminal_manager"].create()["name"]
    socket = await link.open(f"terminals/websocket/{name}").wait_open()
    assert socket.opened
    assert json.loads(await socket.wait_message())[0] == "setup"
    await socket.send(json.dumps(["stdin", "echo $((6*7))x\n"]))
    heard = ""
    while "42x" not in heard:
        kind, *rest = json.loads(await socket.wait_message())
        heard += rest[0] if kind == "stdout" else ""
    await socket.close()
    await socket.wait_closed()


async def test_C7_1_events(door):
    link = link_to(door)
    socket = await link.open("api/events/subscribe").wait_open()
    assert socket.opened
    await socket.send(
        json.dumps(
            {
                "schema_id": "https://events.jupyter.org/jupyter_server/contents_service/v1",
                "version": "1",
                "data": {"action": "get", "path": "x"},
            }
        )
    )
    await socket.close()
    await socket.wait_closed()


@pytest.mark.parametrize(
    ("headers", "path", "code", "slug"),
    [
        ({}, "api/events/subscribe", 4401, "credentials_missing"),
        ({"Authorization": "token wrong"}, "api/events/subscribe", 4403, "token_rejected"),
        (None, "api/nothing", 4404, "not_found"),
        (None, "terminals/websocket/none", 4404, "not_found"),
    ],
)
async def test_C7_5_refusals(door, headers, path, code, slug):
    if headers is None:
        headers = {"Authorization": f"token {door.token}"}
    link = Link(door.app.web_app, carrier_request(Host=door.host, **headers), door.base)
    socket = await link.open(path).wait_open()
    await socket.wait_closed()
    closed = parse_close(socket.code or 0, socket.reason)
    assert (socket.code, closed and closed.reason.slug) == (code, slug)
    assert socket.subprotocol is None
