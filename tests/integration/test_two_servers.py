"""Two real servers that share one Redis: who signs out, revokes or changes the password at one is gone from
both, wrong tokens are counted for both together, and a Redis that is killed lets nobody in and throws nobody
out.

Nobody is asked for credentials again meanwhile (``revalidate_interval`` is 0), so what closes a socket is
what one server tells the other.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from jupyter_server.auth.security import passwd

from jupyter_token_ws.login.denials import signed_at
from jupyter_token_ws.protocol.subprotocols import KERNEL, REASON_MARKER
from tests.integration.conftest import Start
from tests.support.guessing import by_rest, by_subprotocol
from tests.support.knock import Knock, knock
from tests.support.live_kernel import Client
from tests.support.process import TOKEN, Answer, Server
from tests.support.redis_server import PROGRAM, RedisServer, redis_server
from tests.support.waiting import auntil

pytestmark = pytest.mark.requires(*PROGRAM)

PASSWORD, ANOTHER = "of all people", "of some people"
LOGIN = "api/token-ws/login"
REVOKED, EXPIRED = (4401, "token_revoked"), (4401, "token_expired")
BURST = 6


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, keeps=True) as server:
        yield server


@dataclass
class Pair:
    """Two servers on one Redis, which take each other's cookies, and a kernel on each."""

    begin: Callable[[str, int | None], Server]
    servers: list[Server] = field(default_factory=list)
    kernels: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        for name in ("one", "two"):
            server = self.begin(name, None)
            self.servers.append(server)
            self.kernels[server.url] = server.start_kernel()

    def restart(self, number: int) -> Server:
        """A new process at the same place."""
        old = self.servers[number]
        old.stop()
        self.servers[number] = new = self.begin(("one", "two")[number], old.port)
        return new

    async def open(self, server: Server, *, cookie: str = "", ticket: str = "") -> Client:
        """A websocket of the server's kernel, in which the kernel was just heard."""
        headers = {"Cookie": cookie} if cookie else {"Authorization": f"Bearer {ticket}"}
        path = f"/api/kernels/{self.kernels[server.url]}/channels"
        opened = await knock(server.port, path, [KERNEL, REASON_MARKER], headers)
        assert opened.status == 101, opened
        client = Client(opened, v1=True)
        await runs(client)
        return client


@pytest.fixture
def pair(start: Start, redis: RedisServer, tmp_path: Path) -> Pair:
    config: dict[str, Any] = {
        # The same name and secret: behind one address the servers are one to a browser.
        "ServerApp": {"cookie_secret_file": str(tmp_path / "secret")},
        "IdentityProvider": {"token": TOKEN, "cookie_name": "signed-in"},
        "PasswordIdentityProvider": {"hashed_password": passwd(PASSWORD)},
        "TokenWebSocketApp": {
            "ticket_store": "redis",
            "revalidate_interval": 0,
            "attempt_burst": BURST,
            "attempt_window": 3600,
        },
        "RedisTicketStore": {"url": redis.url, "timeout": 30},
    }

    def begin(name: str, port: int | None) -> Server:
        return start(config=config, name=name, port=port)

    made = Pair(begin)
    made.start()
    return made


async def runs(client: Client) -> None:
    assert (await client.run("print(6 * 7)")).strip() == "42"


async def told(client: Client) -> tuple[int | None, str]:
    closed = await client.knock.wait_closed()
    return closed.code, closed.reason.partition(";")[0].partition(":")[0]


def send(server: Server, method: str, path: str, body: str = "", **headers: str) -> Any:
    """A form or a page, as a browser asks for it; the answer has been read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    if body:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    try:
        connection.request(method, f"/{path}", body or None, headers)
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


def sign_in(server: Server, password: str, new: str = "") -> str | None:
    """By the form of the login page; the cookie, ``None`` for a wrong password."""
    xsrf = send(server, "GET", "login").headers["Set-Cookie"].partition(";")[0]
    fields = {"password": password, "new_password": new, "_xsrf": xsrf.partition("=")[2]}
    answer = send(server, "POST", "login", urlencode(fields), Cookie=xsrf)
    if answer.status != 302:
        return None
    cookies = [line.partition(";")[0] for line in answer.headers.get_all("Set-Cookie")]
    (cookie,) = [each for each in cookies if each.startswith("signed-in=")]
    return str(cookie)


def sign_out(server: Server, cookie: str) -> None:
    assert send(server, "GET", "logout", Cookie=cookie).status == 200


def good(server: Server, **headers: str) -> bool:
    """Whether a cookie or a ticket is good for REST."""
    answer = server.request("GET", "api/kernels", headers=headers, token="")
    assert answer.status in (200, 403), answer
    return answer.status == 200


def issue(server: Server, cookie: str = "", **options: Any) -> Answer:
    """A ticket, for a cookie or else for the server's token."""
    if not cookie:
        return server.request("POST", LOGIN, options)
    headers = {"Cookie": f"{cookie}; _xsrf=x", "X-XSRFToken": "x"}
    return server.request("POST", LOGIN, options, headers, token="")


def ticket(server: Server, cookie: str = "", **options: Any) -> str:
    answer = issue(server, cookie, **options)
    assert answer.status == 200, answer
    return str(answer.json()["token"])


def bears(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def refused(server: Server, token: str) -> str:
    """The slug with which a ticket is refused at a websocket."""
    headers = bears(token)
    opened: Knock = await knock(server.port, "/api/events/subscribe", [REASON_MARKER], headers)
    async with opened:
        assert opened.status == 101, opened
        await opened.wait_closed()
        return opened.reason.partition(";")[0].partition(":")[0]


async def test_C6_4_C6_7_who_signs_out_at_one_is_out_at_both(pair: Pair):
    one, two = pair.servers
    mine, other = sign_in(one, PASSWORD), sign_in(two, PASSWORD)
    assert mine
    assert other
    token = ticket(one, mine)
    async with AsyncExitStack() as stack:
        gone, stay = [], []
        for server in pair.servers:
            assert good(server, Cookie=mine)
            assert good(server, **bears(token))
            gone += [await pair.open(server, cookie=mine), await pair.open(server, ticket=token)]
            stay.append(await pair.open(server, cookie=other))
        for client in (*gone, *stay):
            await stack.enter_async_context(client.knock)
        sign_out(one, mine)
        assert [await told(client) for client in gone] == [REVOKED] * 4
        for client in stay:
            await runs(client)
    for server in pair.servers:
        assert not good(server, Cookie=mine)
        assert not good(server, **bears(token))
        assert await refused(server, token) == "token_revoked"
        assert good(server, Cookie=other)
    # A new process knows it too.
    for number in range(2):
        again = pair.restart(number)
        await auntil(lambda: not good(again, Cookie=mine), "it was told")  # noqa: B023
        assert good(again, Cookie=other)


async def test_C6_4_a_ticket_of_one_is_good_at_both_and_revoked_at_both(pair: Pair):
    one, two = pair.servers
    for here, there in ((one, two), (two, one)):
        token, other = ticket(here), ticket(here)
        async with AsyncExitStack() as stack:
            gone = [await pair.open(server, ticket=token) for server in (here, there)]
            stay = [await pair.open(server, ticket=other) for server in (here, there)]
            for client in (*gone, *stay):
                await stack.enter_async_context(client.knock)
            answer = there.request("DELETE", LOGIN, headers=bears(token), token="")
            assert answer.status == 204, answer
            assert [await told(client) for client in gone] == [REVOKED] * 2
            for client in stay:
                await runs(client)
        for server in pair.servers:
            assert await refused(server, token) == "token_revoked"
            assert good(server, **bears(other))


async def test_C6_7_a_new_password_at_one_ends_what_was_before_at_both(pair: Pair):
    one, two = pair.servers
    before = sign_in(one, PASSWORD)
    assert before
    tickets = [ticket(one, before), ticket(two, before)]
    async with AsyncExitStack() as stack:
        gone, stay = [], []
        for server in pair.servers:
            gone.append(await pair.open(server, cookie=before))
            gone += [await pair.open(server, ticket=each) for each in tickets]
            stay.append(await pair.open(server, ticket=ticket(server)))
        for client in (*gone, *stay):
            await stack.enter_async_context(client.knock)
        # Cookies have whole seconds in them.
        signed = signed_at(before.partition("=")[2])
        await auntil(lambda: time.time() >= signed + 1, "the next second")
        after = sign_in(one, TOKEN, new=ANOTHER)  # upstream wants the token for that
        assert after
        assert [await told(client) for client in gone] == [REVOKED] * 6
        for client in stay:  # by the server's token, which is none of the password's
            await runs(client)
    for server in pair.servers:
        assert not good(server, Cookie=before)
        assert good(server, Cookie=after)
        for token in tickets:
            assert await refused(server, token) == "token_revoked"
    # The other server goes on with the password that it was started with.
    assert sign_in(one, PASSWORD) is None
    assert sign_in(two, ANOTHER) is None
    again = sign_in(two, PASSWORD)
    assert again
    assert good(two, Cookie=again)


async def test_C6_6_a_redis_that_is_killed_lets_nobody_in_and_throws_nobody_out(
    pair: Pair, redis: RedisServer
):
    one, two = pair.servers
    mine = sign_in(one, PASSWORD)
    assert mine
    lasting = ticket(one, max_age=300)
    once = ticket(one, single_use=True)
    async with AsyncExitStack() as stack:
        stay = [await pair.open(server, ticket=lasting) for server in pair.servers]
        by_cookie = await pair.open(two, cookie=mine)
        short = issue(two, max_age=15).json()
        ending = [await pair.open(server, ticket=short["token"]) for server in pair.servers]
        for client in (*stay, *ending, by_cookie):
            await stack.enter_async_context(client.knock)
        redis.kill()
        for server in pair.servers:
            for answer in (
                issue(server),
                server.request("POST", LOGIN, {"renew": True}, bears(lasting), token=""),
                server.request("DELETE", LOGIN, headers=bears(lasting), token=""),
                server.request("GET", "api/kernels", headers=bears(lasting), token=""),
            ):
                assert answer.status == 503, answer
            for token in (lasting, once):
                assert await refused(server, token) == "unavailable"
            # Who needs no ticket notices nothing.
            assert server.request("GET", "api/kernels").status == 200
            assert good(server, Cookie=mine)
        # Signing out goes on at the server where it is done; the other is told when Redis is back.
        sign_out(one, mine)
        assert not good(one, Cookie=mine)
        for client in (*stay, by_cookie):
            await runs(client)
        assert [await told(client) for client in ending] == [EXPIRED] * 2
        assert time.time() >= short["expires_at"]
        for client in stay:
            await runs(client)
        redis.start()
        assert await told(by_cookie) == REVOKED
        for server in pair.servers:
            await auntil(lambda: issue(server).status == 200, "tickets are issued")  # noqa: B023
            assert good(server, **bears(lasting))
            assert not good(server, Cookie=mine)
        for client in stay:
            await runs(client)
        opened = await pair.open(two, ticket=once)
        await stack.enter_async_context(opened.knock)
        assert await refused(one, once) == "token_rejected"
        assert two.request("DELETE", LOGIN, headers=bears(lasting), token="").status == 204
        assert [await told(client) for client in stay] == [REVOKED] * 2


async def test_wrong_tokens_are_counted_for_both_together(pair: Pair, redis: RedisServer):
    one, two = pair.servers
    source = "127.0.0.2"

    async def guess(server: Server, *names: str) -> list[int]:
        return [await by_rest(server.port, source, name) for name in names]

    async def right() -> None:
        for server in pair.servers:
            assert await by_rest(server.port, source, TOKEN) == 200
            assert await by_subprotocol(server.port, source, TOKEN) == 101

    assert await guess(one, "a", "b", "c", "a") == [403] * 4
    assert await guess(two, "d", "e", "f", "d") == [403] * 4
    for server in pair.servers:
        assert await guess(server, "g", "h") == [429] * 2
    await right()
    assert await by_rest(one.port, "127.0.0.3", "wrong") == 403
    # Without Redis each has its own count, and nobody who is right waits for it.
    redis.kill()
    await right()
    for server in pair.servers:
        assert set(await guess(server, *(f"without {n}" for n in range(2 * BURST)))) == {403, 429}
        assert await guess(server, "one more") == [429]
    await right()


async def test_passwords_take_turns_at_both(pair: Pair, redis: RedisServer):
    one, two = pair.servers

    async def attempt(server: Server, password: str) -> int:
        return (
            await asyncio.to_thread(server.request, "POST", LOGIN, {"password": password}, token="")
        ).status

    assert [await attempt(one, f"wrong {n}") for n in range(BURST)] == [403] * BURST
    # An hour for so many: the next turn is ten minutes away, and that is not waited for.
    assert [await attempt(server, PASSWORD) for server in pair.servers] == [429, 429]
    redis.kill()
    assert await attempt(one, PASSWORD) == 429
    assert await attempt(two, PASSWORD) == 503  # it was right, and there are no tickets
