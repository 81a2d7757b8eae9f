"""The client's auth plugins at real servers: by each of them one gets in, and whatever ends a credential, the
client has the next one and the server is asked for it once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.auth.security import passwd

from jupyter_token_ws.client import connect
from jupyter_token_ws.client.errors import AuthError, ClientError, SocketClosedError
from jupyter_token_ws.client.server import Server as Connected
from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.protocol.auth import (
    LOGIN_PATH,
    BasicAuth,
    CookieAuth,
    HubAuth,
    NoAuth,
    Request,
    TicketAuth,
    TokenAuth,
)
from tests.integration.conftest import Start
from tests.support.hub import Hub, jupyterhub
from tests.support.nginx import PROGRAM, nginx
from tests.support.process import TOKEN, Server, start_server
from tests.support.providers import TOKEN as PROVIDERS_TOKEN
from tests.support.providers import USER
from tests.support.waiting import auntil

PASSWORD, ANOTHER = "of all people", "of some people"
EVENTS = "api/events/subscribe"
HANDLER = re.compile(
    r'^http_request_duration_seconds_count\{handler="[^"]*LoginHandler",method="POST",'
    r'status_code="200"\} ([0-9.]+)$',
    re.MULTILINE,
)


def config(password: str = PASSWORD, **ours: Any) -> dict[str, Any]:
    return {
        "IdentityProvider": {"token": TOKEN},
        "PasswordIdentityProvider": {"hashed_password": passwd(password)},
        "TokenWebSocketApp": ours,
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("auth"), config=config(revalidate_interval=1)) as one:
        yield one


def logins(server: Server) -> int:
    """How often somebody has logged in, by the server's metrics."""
    return round(sum(map(float, HANDLER.findall(server.request("GET", "metrics").body.decode()))))


async def enters(connected: Connected) -> None:
    """REST that reads, REST that changes something, and a websocket."""
    assert (await connected.request("GET", "api/kernels")).status == 200
    body = {"type": "file"}
    made = await connected.request("POST", "api/contents", json=body)
    assert made.status == 201
    path = json.loads(made.body)["path"]
    assert (await connected.request("DELETE", f"api/contents/{path}")).status == 204
    socket = await connected.websocket(EVENTS)
    await socket.close()


async def end_of(socket: Any) -> None:
    """Read a socket until it is closed."""
    async for _ in socket:
        pass


def secret_free(server: Server, *secrets: str) -> None:
    log = server.log()
    assert not [secret for secret in secrets if secret in log]


# -- each of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plugin",
    [
        TokenAuth(TOKEN),
        TicketAuth(password=PASSWORD),
        TicketAuth(token=TOKEN),
        CookieAuth(PASSWORD),
        CookieAuth(TOKEN),
    ],
    ids=["token", "ticket_password", "ticket_token", "cookie_password", "cookie_token"],
)
async def test_one_gets_in(server: Server, plugin: Any):
    async with connect(server.url, auth=plugin) as connected:
        await enters(connected)
    secret_free(server, PASSWORD, TOKEN)


@pytest.mark.parametrize(
    "plugin",
    [
        TokenAuth("wrong"),
        TicketAuth(password="wrong"),
        TicketAuth(token="wrong"),
        CookieAuth("wrong"),
        NoAuth(),
    ],
    ids=["token", "ticket_password", "ticket_token", "cookie", "none"],
)
async def test_one_does_not_get_in(server: Server, plugin: Any):
    async with connect(server.url, auth=plugin) as connected:
        with pytest.raises(AuthError) as caught:
            await connected.request("GET", "api/kernels")
        assert "wrong" not in str(caught.value)
        with pytest.raises(ClientError):
            await connected.websocket(EVENTS)


async def test_the_first_that_does_not_ignore_is_taken(server: Server):
    plugins: list[Any] = [
        HubAuth("x"),
        TicketAuth(),
        TokenAuth(""),
        TokenAuth(TOKEN),
        TokenAuth("wrong"),
    ]
    async with connect(server.url, auth=plugins) as connected:
        await enters(connected)


async def test_no_cookie_is_kept_by_who_does_not_log_in_by_one(start: Start):
    """Requests of a plugin leave nothing behind that others are sent with."""
    stock = start(stock=True, config=config(), name="cookies-of-nobody")
    transport = Transport(stock.url)
    try:
        answers = [await transport.request(Request("GET", f"{stock.url}login")) for _ in range(2)]
        # To who shows none, it gives a new one.
        assert all(answer.cookies for answer in answers)
        assert answers[0].cookies != answers[1].cookies
    finally:
        await transport.aclose()


async def test_none_where_nobody_needs_to_sign_in(start: Start):
    open_to_all = start(config={"IdentityProvider": {"token": ""}}, token="")
    async with connect(open_to_all.url, auth=NoAuth()) as connected:
        assert (await connected.request("GET", "api/kernels")).status == 200
        await (await connected.websocket(EVENTS)).close()


async def test_a_stock_server_by_cookie_where_it_has_no_tickets(start: Start):
    stock = start(stock=True, config=config(), name="stock")
    async with connect(
        stock.url, auth=[TicketAuth(password=PASSWORD), CookieAuth(PASSWORD)]
    ) as connected:
        await enters(connected)


@pytest.mark.requires(*PROGRAM)
async def test_basic_for_a_proxy_in_front(server: Server, tmp_path: Path):
    users = tmp_path / "users"
    users.write_text("ann:{PLAIN}of the proxy\n")
    guarded = f'auth_basic "lab"; auth_basic_user_file {users};'
    with nginx(tmp_path, server.port, more=guarded) as proxy:
        # The capabilities are open to all, but not through this proxy.
        wrong = BasicAuth("ann", "wrong", [CookieAuth(PASSWORD)])
        right = BasicAuth("ann", "of the proxy", [CookieAuth(PASSWORD)])
        with pytest.raises(ClientError):
            async with connect(proxy.url, auth=wrong) as connected:
                await connected.request("GET", "api/kernels")
        async with connect(proxy.url, auth=right) as connected:
            await enters(connected)


# -- what ends a credential ----------------------------------------------------------------------------


async def test_C6_4_a_ticket_is_renewed_again_and_again_under_an_open_socket(start: Start):
    short = start(config=config(), name="short")
    async with connect(short.url, auth=TicketAuth(token=TOKEN, max_age=9)) as connected:
        socket = await connected.websocket(EVENTS)
        auth = connected._authenticator()
        first = await auth.grant()
        before = logins(short)
        # Longer than the ticket was for, while nothing is asked.
        await auntil(
            lambda: auth._serving is not None and auth._serving[1].generation >= 2, deadline=60
        )
        assert socket.close_code is None
        assert logins(short) >= before + 2
        assert (await auth.grant()).token != first.token
        await socket.close()
        assert (await connected.request("GET", "api/kernels")).status == 200


@pytest.mark.heavy
async def test_C6_4_a_cell_that_runs_longer_than_its_ticket_loses_nothing(start: Start):
    short = start(config=config(), name="cell")
    code = "import time\nfor i in range(13):\n    print(i, flush=True)\n    time.sleep(1)"
    async with connect(short.url, auth=TicketAuth(password=PASSWORD, max_age=9)) as connected:
        async with connected.kernel("python3") as kernel:
            result = await kernel.execute(code).result()
        auth = connected._authenticator()
        assert auth._serving is not None
        assert auth._serving[1].generation >= 2
    printed = "".join(output["text"] for output in result.outputs)
    assert printed.split() == [str(number) for number in range(13)]


async def test_a_cookie_is_got_anew_before_its_end(start: Start):
    settings = config()
    settings["IdentityProvider"]["cookie_options"] = {"max_age": 9, "expires_days": None}
    short = start(config=settings, name="cookies")
    async with connect(short.url, auth=CookieAuth(PASSWORD)) as connected:
        auth = connected._authenticator()
        first = await auth.grant()
        left = auth.refresh_in()
        assert left is not None
        assert left <= 6
        await auntil(
            lambda: auth._serving is not None and auth._serving[1].generation >= 1, deadline=60
        )
        assert (await auth.grant()).headers["Cookie"] != first.headers["Cookie"]
        await enters(connected)


async def test_C6_4_a_hundred_sockets_of_a_revoked_ticket_come_back_through_one_login(start: Start):
    busy = start(config=config(), name="busy")
    async with connect(busy.url, auth=TicketAuth(password=PASSWORD)) as connected:
        sockets = [await connected.websocket(EVENTS) for _ in range(100)]
        grant = await connected._authenticator().grant()
        before = logins(busy)

        async def comes_back(socket: Any) -> Any:
            with pytest.raises(SocketClosedError) as caught:
                await end_of(socket)
            assert (caught.value.code, caught.value.slug) == (4401, "token_revoked")
            await connected.refused(caught.value)
            return await connected.websocket(EVENTS)

        coming = asyncio.gather(*map(comes_back, sockets))
        assert busy.request("DELETE", LOGIN_PATH, token=grant.token).status == 204
        again = await coming
        assert logins(busy) == before + 1
        await asyncio.gather(*(socket.close() for socket in again))


async def test_who_hears_late_that_a_ticket_was_revoked_takes_the_newer_one(server: Server):
    async with connect(server.url, auth=TicketAuth(password=PASSWORD)) as connected:
        one, two = [await connected.websocket(EVENTS) for _ in range(2)]
        grant = await connected._authenticator().grant()
        assert server.request("DELETE", LOGIN_PATH, token=grant.token).status == 204
        # The request comes back by a new ticket, before anybody looks at the sockets.
        assert (await connected.request("GET", "api/kernels")).status == 200
        before = logins(server)
        for socket in (one, two):
            with pytest.raises(SocketClosedError) as caught:
                await end_of(socket)
            await connected.refused(caught.value)
        assert logins(server) == before
        await enters(connected)


@pytest.mark.parametrize("kind", ["ticket", "cookie"])
async def test_a_changed_password_is_asked_for_again(start: Start, kind: str):
    """The server is restarted with another one, as an administrator does."""
    old = start(config=config(), name=f"old-{kind}")
    password = PASSWORD

    def ask() -> str:
        return password

    plugin = TicketAuth(password=ask) if kind == "ticket" else CookieAuth(ask)
    async with connect(old.url, auth=plugin) as connected:
        await enters(connected)
        old.stop()
        start(config=config(ANOTHER), name=f"new-{kind}", port=old.port)
        with pytest.raises(AuthError):
            await connected.request("GET", "api/kernels")
        password = ANOTHER
        with pytest.raises(AuthError) as caught:
            await connected.request("GET", "api/kernels")
        assert caught.value.retry_after is not None  # it does not try each time it is asked
        connected._authenticator()._clock = lambda: asyncio.get_running_loop().time() + 1000
        await enters(connected)


# -- a login that leads to another server --------------------------------------------------------------


def pair(start: Start, tmp_path: Path) -> tuple[Server, Server]:
    """A portal, and the server of its user behind another address and token."""
    anns = start(name="anns", token="the-token-of-ann-s-server")
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({USER: anns.token}))
    tokens.chmod(0o600)
    portal = start(
        name="portal",
        config={
            "ServerApp": {"identity_provider_class": "tests.support.providers.FlagProvider"},
            "TokenWebSocketApp": {"server_directory": "static"},
            "StaticServerDirectory": {"servers": {USER: anns.url}, "tokens_file": str(tokens)},
        },
    )
    return portal, anns


async def test_C6_2_a_login_leads_to_a_second_server(start: Start, tmp_path: Path):
    portal, anns = pair(start, tmp_path)
    auth = TicketAuth(token=PROVIDERS_TOKEN)
    async with connect(portal.url, auth=auth) as connected:
        with pytest.raises(AuthError, match="trusted"):
            await connected.request("GET", "api/kernels")
    async with connect(portal.url, auth=auth, trusted=[anns.url]) as connected:
        await enters(connected)
        assert connected.base_url == anns.url
    # A token is not taken along, whoever is trusted.
    async with connect(
        portal.url, auth=TokenAuth(PROVIDERS_TOKEN), trusted=[anns.url]
    ) as connected:
        with pytest.raises(ClientError):
            await connected.websocket(EVENTS)
        assert connected.base_url == portal.url
    for secret in (PROVIDERS_TOKEN, anns.token):
        assert secret not in portal.log() + anns.log()


# -- a Hub ---------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("hub")
async def test_at_a_hub(tmp_path_factory: pytest.TempPathFactory):
    with ExitStack() as running:
        hub: Hub = running.enter_context(jupyterhub(tmp_path_factory.mktemp("hub")))
        hub.add_user("ann")
        hub.start_server("ann")
        token = hub.token_of("ann")
        url = hub.server_url("ann")
        async with connect(url, auth=HubAuth(token)) as connected:
            await enters(connected)
        async with connect(url, auth=TicketAuth(token=token)) as connected:
            await enters(connected)
        revoked = hub.token_of("ann")  # which the server has not seen before
        hub.revoke(revoked)
        async with connect(url, auth=HubAuth(revoked)) as connected:
            with pytest.raises(AuthError):
                await connected.websocket(EVENTS)
