"""A real JupyterHub: what its tokens and cookies are worth to the websockets of its users' servers."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from jupyter_token_ws.protocol.subprotocols import (
    KERNEL,
    MARKER,
    REASON_MARKER,
    offer_subprotocols,
)
from tests.support.clients import connect_websockets
from tests.support.hub import Hub, jupyterhub
from tests.support.kernel_messages import execute, read
from tests.support.knock import knock
from tests.support.process import request
from tests.support.waiting import until

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("hub")]

EVENTS = "api/events/subscribe"
OPEN = (0, "")
REJECTED, FORBIDDEN = (4403, "token_rejected"), (4403, "forbidden")
MISSING = (4401, "credentials_missing")
STRICT = "strict"
"""The name of a server of Ann's that takes no cookie for a websocket."""
BROWSER = {"Sec-Fetch-Mode": "websocket", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with jupyterhub(tmp_path_factory.mktemp("hub")) as running:
        running.add_user("mallory")
        running.start_server("ann")
        running.start_server("ann", STRICT, {"JUPYTERHUB_ALLOW_WEBSOCKET_COOKIE_AUTH": "0"})
        yield running


async def enter(
    hub: Hub, token: str | None = None, headers: dict[str, str] | None = None, name: str = ""
) -> tuple[int, str]:
    """``OPEN``, or code and slug of the refusal, for who shows a token, by subprotocol, and headers."""
    offer = [REASON_MARKER] if token is None else offer_subprotocols([], token)
    path = urlsplit(hub.server_url("ann", name)).path + EVENTS
    async with await knock(hub.port, path, offer, headers) as socket:
        assert socket.status == 101, socket.body
        # Before the pong a socket that is refused sends its close frame.
        await socket.send(opcode=9)
        frame = await socket.read_frame()
        if frame == (10, b""):
            return OPEN
        assert frame is not None
        code, reason = int.from_bytes(frame[1][:2], "big"), frame[1][2:].decode()
        return code, reason.partition(":")[0]


async def run_cell(server: str, token: str, code: str) -> str:
    """What a cell prints, by a kernel that is started for it, with nothing but a token."""
    model = request("POST", f"{server}api/kernels", {"name": "python3"}, token=token)
    assert model.status == 201, model
    kernel = model.json()["id"]
    address = f"{server.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
    printed, done = "", False
    async with await connect_websockets(address, offer_subprotocols([KERNEL], token), {}) as client:
        assert (client.status, client.subprotocol) == (101, KERNEL)
        asked = execute(code)
        await client.send(asked.frame(KERNEL))
        while not (printed and done):
            frame = await client.receive()
            assert frame is not None, (client.code, client.reason)
            message = read(frame)
            if message["parent_header"].get("msg_id") == asked.id:
                kind, content = message["header"]["msg_type"], message["content"]
                printed += content["text"] if kind == "stream" else ""
                done = done or kind == "execute_reply"
    assert request("DELETE", f"{server}api/kernels/{kernel}", token=token).status == 204
    return printed


async def test_C2_1_C2_6_a_cell_runs_with_a_hub_token_by_subprotocol(hub: Hub):
    token = hub.token_of("ann", ["access:servers!server=ann/"], expires_in=300)
    code = "import os; print(os.environ['JUPYTERHUB_USER'])"
    assert await run_cell(hub.server_url("ann"), token, code) == "ann\n"


async def test_C2_2_C3_1_an_expired_hub_token(hub: Hub):
    token = hub.token_of("ann", expires_in=1)
    until(lambda: not hub.knows(token), "the token has expired")
    assert await enter(hub, token) == REJECTED


async def test_C2_2_C3_1_a_revoked_hub_token(hub: Hub):
    token = hub.token_of("ann")
    assert hub.knows(token)
    hub.revoke(token)
    assert await enter(hub, token) == REJECTED


async def test_C2_2_C3_1_what_the_hub_never_made(hub: Hub):
    assert await enter(hub, "0123456789abcdef") == REJECTED
    assert await enter(hub) == MISSING


@pytest.mark.parametrize(
    ("user", "scopes"),
    [
        ("ann", []),
        ("ann", ["access:servers!server=ann/strict"]),
        ("ann", ["read:users!user"]),
        ("mallory", None),
    ],
    ids=["scopeless", "of_another_server", "of_no_server", "of_another_user"],
)
async def test_C3_1_a_hub_token_without_access(hub: Hub, user, scopes):
    """The Hub knows whose it is: another one of the same kind would not help. Told so each time, and
    however it is shown."""
    token = hub.token_of(user, scopes)
    header = {"Authorization": f"token {token}"}
    assert [await enter(hub, token) for _ in range(2)] == [FORBIDDEN] * 2
    assert await enter(hub, headers=header) == FORBIDDEN
    # It is no wrong token either: however many are shown, a wrong one is still told that it is wrong.
    for _ in range(25):
        assert await enter(hub, hub.token_of(user, scopes)) == FORBIDDEN
    assert await enter(hub, "fedcba9876543210") == REJECTED


async def test_C3_4_across_origins_only_the_token_decides_what_is_told(hub: Hub):
    foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Mode": "websocket"}
    for cookie in ({}, {"Cookie": "jupyterhub-user-ann=no"}, {"Cookie": hub.log_in("ann")}):
        headers = {**foreign, **cookie}
        assert await enter(hub, hub.token_of("ann"), headers) == OPEN
        assert await enter(hub, hub.token_of("mallory"), headers) == FORBIDDEN
        assert await enter(hub, "8765432101234567", headers) == REJECTED
        path = urlsplit(hub.server_url("ann")).path + EVENTS
        async with await knock(hub.port, path, [REASON_MARKER], headers) as socket:
            assert socket.status == 403


async def test_C2_2_a_cookie_where_the_hub_takes_none_for_websockets(hub: Hub):
    """``allow_websocket_cookie_auth = False``: pages without a token in them are refused, others enter."""
    for name, alone in (("", OPEN), (STRICT, MISSING)):
        cookies = {**BROWSER, "Cookie": hub.log_in("ann", name)}
        assert await enter(hub, headers=cookies, name=name) == alone, name
        assert await enter(hub, hub.token_of("ann"), cookies, name) == OPEN, name
        assert await enter(hub, "wrong", cookies, name) == REJECTED, name
        assert await enter(hub, hub.token_of("mallory"), cookies, name) == FORBIDDEN, name


async def test_C2_3_C2_5_no_cookie_comes_of_a_hub_token(hub: Hub):
    path = urlsplit(hub.server_url("ann")).path + EVENTS
    offer = offer_subprotocols([], hub.token_of("ann"))
    async with await knock(hub.port, path, offer, BROWSER) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
        assert socket.set_cookies == []
