"""A real JupyterHub whose tokens and cookies die while websockets are open that came by them (contract 6.7).

What a server remembers of the Hub's answers is as it is by default: for five minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL, REASON_MARKER, offer_subprotocols
from tests.support.door import EVENTS
from tests.support.entering import OPEN, enter, ticket, ticket_for_cookie
from tests.support.hub import Hub, jupyterhub
from tests.support.knock import Knock, knock
from tests.support.process import request
from tests.support.waiting import until

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("hub")]

REJECTED, REVOKED = (4403, "token_rejected"), (4401, "token_revoked")
MISSING, UNAVAILABLE = (4401, "credentials_missing"), (4503, "unavailable")
ACCESS = ["access:servers!server=ann/"]
BROWSER = {"Sec-Fetch-Mode": "websocket", "Sec-Fetch-Site": "same-origin"}
HASTY, GRACE = "hasty", 3.0
"""A server of Ann's that gives up sooner, and after how many seconds."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    often = {"TokenWebSocketApp": {"revalidate_interval": 1, "revalidate_grace": 36_000}}
    with jupyterhub(tmp_path_factory.mktemp("hub_live"), config=often) as running:
        running.start_server("ann")
        running.start_server("ann", HASTY, args=[f"--TokenWebSocketApp.revalidate_grace={GRACE}"])
        yield running


@pytest.fixture(scope="module")
def anns(hub: Hub) -> str:
    """Where Ann's server is."""
    return hub.server_url("ann")


@pytest.fixture(scope="module")
def kernel(hub: Hub, anns: str) -> str:
    """The address of a kernel of Ann's."""
    model = request("POST", f"{anns}api/kernels", {"name": "python3"}, token=hub.token)
    assert model.status == 201, model
    return f"{anns}api/kernels/{model.json()['id']}/channels"


async def opened(
    address: str, token: str | None = None, headers: dict[str, str] | None = None
) -> Knock:
    """A websocket that is open."""
    offer = [KERNEL, REASON_MARKER] if token is None else offer_subprotocols([KERNEL], token)
    at = urlsplit(address)
    assert at.port is not None
    socket = await knock(at.port, at.path, offer, headers)
    assert socket.status == 101, socket.body
    await lives(socket)
    return socket


async def lives(socket: Knock) -> None:
    """It still answers; a close frame would be before the answer."""
    await socket.send(opcode=9)
    while (frame := await socket.read_frame()) is not None and frame[0] != 10:
        assert frame[0] != 8, frame
    assert frame is not None


async def ended(socket: Knock) -> tuple[int | None, str]:
    """How it was closed."""
    async with socket:
        await socket.wait_closed()
    return socket.code, socket.slug


def wait_for_a_round(hub: Hub, user: str = "ann") -> None:
    """Wait until the Hub was asked who somebody is, twice: the first may have been under way."""

    def asked() -> int:
        return sum(f"GET /hub/api/user ({user}@" in line for line in hub.log().splitlines())

    before = asked()
    until(lambda: asked() >= before + 2, "the Hub was asked")


@pytest.mark.parametrize("way", ["token", "ticket"])
async def test_C6_7_a_revoked_token_of_the_hub_s_ends_its_sockets(hub: Hub, anns, kernel, way):
    token = hub.token_of("ann", ACCESS)
    shown = token if way == "token" else ticket(anns, token)
    async with await opened(kernel, hub.token_of("ann", ACCESS)) as other:
        socket, also = await opened(kernel, shown), await opened(kernel, shown)
        wait_for_a_round(hub)  # it is asked, past what is remembered
        await lives(socket)
        hub.revoke(token)
        assert await ended(socket) == await ended(also) == REVOKED
        assert await enter(anns, shown) == (REJECTED if way == "token" else REVOKED)
        assert await enter(anns, token) == REJECTED
        wait_for_a_round(hub)
        await lives(other)


async def test_C6_7_a_token_of_the_hub_s_that_expires_ends_its_sockets(hub: Hub, anns, kernel):
    token = hub.token_of("ann", ACCESS, expires_in=10)
    assert await ended(await opened(kernel, token)) == REVOKED
    assert not hub.knows(token)
    assert await enter(anns, token) == REJECTED


async def test_C6_7_who_logs_out_at_the_hub_is_out(hub: Hub, anns, kernel):
    """The Hub deletes what the session's cookies stand for, and no other token of the user's."""
    cookies = {**BROWSER, "Cookie": hub.log_in("ann", anns)}
    token = hub.token_of("ann", ACCESS)
    async with await opened(kernel, token) as other:
        socket = await opened(kernel, headers=cookies)
        wait_for_a_round(hub)
        await lives(socket)
        hub.log_out("ann")
        assert await ended(socket) == REVOKED
        assert await enter(anns, headers=cookies) == MISSING
        wait_for_a_round(hub)
        await lives(other)


async def test_C6_7_a_ticket_for_a_cookie_ends_with_the_logout_at_the_hub(hub: Hub, anns, kernel):
    shown = ticket_for_cookie(anns, hub.log_in("ann", anns))
    socket = await opened(kernel, shown)
    hub.log_out("ann")
    assert await ended(socket) == REVOKED
    assert await enter(anns, shown) == REVOKED


async def test_C6_7_while_the_hub_does_not_answer_sockets_live_on(hub: Hub, anns, kernel):
    def failed() -> int:
        return hub.log().count("Cannot ask for the credential of open websockets")

    token = hub.token_of("ann", ACCESS)
    async with await opened(kernel, ticket(anns, hub.token_of("ann", ACCESS))) as other:
        socket = await opened(kernel, token)
        with hub.paused():
            before = failed()
            until(lambda: failed() >= before + 4, "two rounds that failed for both")
            await lives(socket)
            await lives(other)
        wait_for_a_round(hub)
        await lives(socket)
        hub.revoke(token)
        assert await ended(socket) == REVOKED
        await lives(other)


async def test_C6_7_but_no_longer_than_the_grace(hub: Hub):
    token = hub.token_of("ann", ["access:servers!server=ann/hasty"])
    hasty = hub.server_url("ann", HASTY)
    socket = await opened(f"{hasty}{EVENTS}", token)
    with hub.paused():
        begun = time.monotonic()
        assert await ended(socket) == UNAVAILABLE
        assert time.monotonic() - begun >= GRACE
    until(lambda: hub.knows(token), "the Hub is back")
    assert await enter(hasty, token) == OPEN
