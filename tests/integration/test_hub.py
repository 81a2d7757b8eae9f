"""A real JupyterHub: what its tokens and cookies are worth to the websockets of its users' servers."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, offer_subprotocols
from tests.support.door import EVENTS
from tests.support.entering import OPEN, enter, run_cell
from tests.support.hub import Hub, jupyterhub
from tests.support.knock import knock
from tests.support.waiting import until

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("hub")]

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


@pytest.fixture
def anns(hub: Hub) -> str:
    """Where Ann's server is."""
    return hub.server_url("ann")


async def test_C2_1_C2_6_a_cell_runs_with_a_hub_token_by_subprotocol(hub: Hub, anns: str):
    token = hub.token_of("ann", ["access:servers!server=ann/"], expires_in=300)
    code = "import os; print(os.environ['JUPYTERHUB_USER'])"
    assert await run_cell(anns, token, code) == "ann\n"


async def test_C2_2_C3_1_an_expired_hub_token(hub: Hub, anns: str):
    token = hub.token_of("ann", expires_in=1)
    until(lambda: not hub.knows(token), "the token has expired")
    assert await enter(anns, token) == REJECTED


async def test_C2_2_C3_1_a_revoked_hub_token(hub: Hub, anns: str):
    token = hub.token_of("ann")
    assert hub.knows(token)
    hub.revoke(token)
    assert await enter(anns, token) == REJECTED


async def test_C2_2_C3_1_what_the_hub_never_made(hub: Hub, anns: str):
    assert await enter(anns, "0123456789abcdef") == REJECTED
    assert await enter(anns) == MISSING


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
async def test_C3_1_a_hub_token_without_access(hub: Hub, anns: str, user, scopes):
    """The Hub knows whose it is: another one of the same kind would not help. Told so each time, and
    however it is shown."""
    token = hub.token_of(user, scopes)
    header = {"Authorization": f"token {token}"}
    assert [await enter(anns, token) for _ in range(2)] == [FORBIDDEN] * 2
    assert await enter(anns, headers=header) == FORBIDDEN
    # It is no wrong token either: however many are shown, a wrong one is still told that it is wrong.
    for _ in range(25):
        assert await enter(anns, hub.token_of(user, scopes)) == FORBIDDEN
    assert await enter(anns, "fedcba9876543210") == REJECTED


async def test_C3_4_across_origins_only_the_token_decides_what_is_told(hub: Hub, anns: str):
    foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Mode": "websocket"}
    good = hub.log_in("ann", anns)
    for cookie in ("", "jupyterhub-user-ann=no", good):
        headers = {**foreign, **({"Cookie": cookie} if cookie else {})}
        assert await enter(anns, hub.token_of("ann"), headers) == OPEN
        assert await enter(anns, hub.token_of("mallory"), headers) == FORBIDDEN
        assert await enter(anns, "8765432101234567", headers) == REJECTED
        path = urlsplit(anns).path + EVENTS
        async with await knock(hub.port, path, [REASON_MARKER], headers) as socket:
            assert socket.status == 403


async def test_C2_2_a_cookie_where_the_hub_takes_none_for_websockets(hub: Hub, anns: str):
    """``allow_websocket_cookie_auth = False``: pages without a token in them are refused, others enter."""
    for server, alone in ((anns, OPEN), (hub.server_url("ann", STRICT), MISSING)):
        cookies = {**BROWSER, "Cookie": hub.log_in("ann", server)}
        assert await enter(server, headers=cookies) == alone, server
        assert await enter(server, hub.token_of("ann"), cookies) == OPEN, server
        assert await enter(server, "wrong", cookies) == REJECTED, server
        assert await enter(server, hub.token_of("mallory"), cookies) == FORBIDDEN, server


async def test_C2_3_C2_5_no_cookie_comes_of_a_hub_token(hub: Hub, anns: str):
    path = urlsplit(anns).path + EVENTS
    offer = offer_subprotocols([], hub.token_of("ann"))
    async with await knock(hub.port, path, offer, BROWSER) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
        assert socket.set_cookies == []
