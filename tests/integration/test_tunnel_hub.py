"""Tunnels to the servers of a real JupyterHub's users: by the Hub's tokens, and by tickets for those and for
its cookies (contract section 7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL
from jupyter_token_ws.tunnel.tunnels import EVENT_STREAM, PATH, WEBSOCKET
from tests.support.entering import ticket, ticket_for_cookie
from tests.support.far_peer import FarPeer
from tests.support.hub import Hub, jupyterhub
from tests.support.live_kernel import Client
from tests.support.process import request

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("hub")]

ACCESS = ["access:servers!server=ann/"]
each_carrier = pytest.mark.parametrize("carrier", [WEBSOCKET, EVENT_STREAM])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    often = {"TokenWebSocketApp": {"revalidate_interval": 1, "revalidate_grace": 36_000}}
    with jupyterhub(tmp_path_factory.mktemp("tunnel_hub"), config=often) as running:
        running.add_user("mallory")
        running.start_server("ann")
        yield running


@pytest.fixture(scope="module")
def anns(hub: Hub) -> str:
    """Where Ann's server is."""
    return hub.server_url("ann")


@pytest.fixture(scope="module")
def kernel(hub: Hub, anns: str) -> str:
    """The path of a kernel's websocket, on Ann's server."""
    model = request("POST", f"{anns}api/kernels", {"name": "python3"}, token=hub.token)
    assert model.status == 201, model
    return f"api/kernels/{model.json()['id']}/channels"


async def runs_a_cell(peer: FarPeer, kernel: str) -> None:
    """A cell runs on a stream of this tunnel, on Ann's server."""
    stream: Any = await peer.open(kernel, [KERNEL])
    assert stream.subprotocol == KERNEL, stream.closed
    code = "import os; print(os.environ['JUPYTERHUB_USER'])"
    assert await Client(stream, True).run(code) == "ann\n"
    await stream.close()


@each_carrier
async def test_C7_2_a_cell_runs_with_a_token_of_the_hub_s(hub: Hub, anns, kernel, carrier):
    async with FarPeer(anns, hub.token_of("ann", ACCESS), carrier) as peer:
        await runs_a_cell(peer, kernel)


@each_carrier
async def test_C7_2_C6_3_a_cell_runs_with_a_ticket(hub: Hub, anns, kernel, carrier):
    async with FarPeer(anns, ticket(anns, hub.token_of("ann", ACCESS)), carrier) as peer:
        await runs_a_cell(peer, kernel)


async def test_C7_2_who_has_a_cookie_gets_a_ticket_first(hub: Hub, anns, kernel):
    cookie = hub.log_in("ann", anns)
    headers = {"Cookie": cookie, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    answer = request("GET", anns + PATH, headers=headers)
    assert (answer.status, answer.json()["status"]) == (403, "credentials_missing")
    async with FarPeer(anns, ticket_for_cookie(anns, cookie), EVENT_STREAM) as peer:
        await runs_a_cell(peer, kernel)
        hub.log_out("ann")
        assert (await peer.finished()).slug == "token_revoked"


@each_carrier
async def test_C7_3_nobody_else_finds_a_tunnel(hub: Hub, anns, kernel, carrier):
    """Neither who may not enter Ann's server nor who may."""
    async with FarPeer(anns, hub.token_of("ann", ACCESS), carrier) as peer:
        await peer.attached()
        for token, told in (
            (hub.token_of("mallory"), (403, "forbidden")),
            (hub.token, (404, "not_found")),  # a service's, that may enter every server
        ):
            for identity in (peer.id, "x" * len(peer.id)):
                batch = {"first": 1, "frames": ""}
                posted = request("POST", f"{anns}{PATH}/{identity}", batch, token=token)
                resumed = request("GET", f"{anns}{PATH}?tunnel={identity}&received=0", token=token)
                for answer in (posted, resumed):
                    assert (answer.status, answer.json()["status"]) == told
        await runs_a_cell(peer, kernel)


@each_carrier
@pytest.mark.parametrize("way", ["token", "ticket"])
async def test_C7_6_C6_7_a_revoked_token_of_the_hub_s_ends_its_tunnel(
    hub: Hub, anns, kernel, carrier, way
):
    token = hub.token_of("ann", ACCESS)
    shown = token if way == "token" else ticket(anns, token)
    async with (
        FarPeer(anns, hub.token_of("ann", ACCESS), carrier) as other,
        FarPeer(anns, shown, carrier) as peer,
    ):
        stream = await peer.open("api/events/subscribe")
        assert stream.opened
        hub.revoke(token)
        assert (await peer.finished()).slug == "token_revoked"
        assert stream.closed
        await runs_a_cell(other, kernel)
    answer = request("GET", anns + PATH, headers={"Authorization": f"Bearer {shown}"})
    told = "token_rejected" if way == "token" else "token_revoked"
    assert (answer.status, answer.json()["status"]) == (403, told)
