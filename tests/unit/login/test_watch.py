"""Open sockets end with the credential that opened them (contract 6.4 and 6.7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_server.auth.identity import IdentityProvider, User
from tornado import web

from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.login.service import Login
from jupyter_token_ws.login.tickets import FamilyChange, StoreUnavailable
from jupyter_token_ws.login.watch import Watch
from jupyter_token_ws.protocol.subprotocols import REASON_MARKER
from tests.support.door import Door, Socket
from tests.support.knock import Knock
from tests.support.observing import Listener
from tests.support.waiting import auntil
from tests.unit.login.test_handler import ask, bears, offer, read, ticket

ECHO = "echo"
DOWN = web.HTTPError(502)


class Hub(IdentityProvider):
    """Knows tokens by name, as a hub does; counts the questions."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = {"of-ann": "ann", "of-bob": "bob"}
        self.asked: list[str] = []
        self.raises: Exception | None = None

    @property
    def auth_enabled(self) -> bool:
        return True

    def get_user(self, handler: Any) -> User | None:
        token = handler.request.headers.get("Authorization", "").partition(" ")[2]
        self.asked.append(token)
        if self.raises is not None:
            raise self.raises
        name = self.names.get(token)
        return User(name) if name else None

    def is_token_authenticated(self, handler: Any) -> bool:
        return "Authorization" in handler.request.headers


class Slow(Socket):
    """Takes its time between the judgement and the 101."""

    reached: asyncio.Event
    go_on: asyncio.Event

    async def get(self, *args: Any, **kwargs: Any) -> None:
        type(self).reached.set()
        await type(self).go_on.wait()
        await super().get(*args, **kwargs)


@asynccontextmanager
async def opening(
    door: Door, offered: list[str], headers: dict[str, str] | None = None
) -> AsyncIterator[asyncio.Task[Knock]]:
    """For the length of a block, a socket that was judged and is not open yet; it opens at its end."""

    class Waiting(Slow):
        reached, go_on = asyncio.Event(), asyncio.Event()

    door.add("slow", Waiting)
    knocking = asyncio.ensure_future(door.knock("slow", offered, headers or {}))
    await Waiting.reached.wait()
    yield knocking
    Waiting.go_on.set()


@pytest.fixture
def hub(jp_server_config: dict[str, Any]) -> None:
    jp_server_config["ServerApp"]["identity_provider_class"] = Hub


@pytest.fixture
def door(door) -> Door:
    door.add(ECHO, Socket)
    return door


@pytest.fixture
def watch(door) -> Watch:
    found = Login.of(door.app.web_app.settings).watch
    assert found is not None
    return found


def provider(door: Door) -> Any:
    return door.app.identity_provider


async def opened(door: Door, token: str) -> Knock:
    socket = await door.knock(ECHO, offer(token))
    assert socket.status == 101
    await auntil(lambda: len(door.guard.registry) > 0, "the socket to be listed")
    return socket


async def told(socket: Knock) -> tuple[int | None, str]:
    """How a socket was closed."""
    async with socket:
        await socket.wait_closed()
    return socket.code, socket.slug


async def lives(socket: Knock) -> bool:
    """Whether the server still answers; a close frame would be before the answer."""
    await socket.send(b"there?", opcode=1)
    return await socket.wait_message() == "there?"


# -- tickets -------------------------------------------------------------------------------------------


async def test_C6_4_a_socket_ends_with_its_ticket(door):
    socket = await opened(door, await ticket(door, max_age=1))
    assert await told(socket) == (4401, "token_expired")


async def test_C6_4_sockets_of_a_family_adopt_the_new_expiry(door):
    token = await ticket(door, max_age=1)
    begun = time.time()
    async with await opened(door, token) as socket:
        renewed = read(await ask(door, "POST", {"renew": True, "max_age": 60}, **bears(token)))
        assert renewed["expires_in"] > 30
        other = await opened(door, await ticket(door, max_age=1))
        assert await told(other) == (4401, "token_expired")
        assert time.time() > begun + 1
        assert await lives(socket)


async def test_C6_4_a_renewal_that_nobody_told_is_asked_for(door, watch, monkeypatch):
    token = await ticket(door, max_age=1)
    monkeypatch.setattr(Login.of(door.app.web_app.settings).store, "_listeners", [])
    async with await opened(door, token) as socket:
        assert (
            await ask(door, "POST", {"renew": True, "max_age": 60}, **bears(token))
        ).status == 200
        other = await opened(door, await ticket(door, max_age=1))
        assert await told(other) == (4401, "token_expired")
        assert await lives(socket)


async def test_C6_4_revoking_closes_the_sockets_of_the_family_only(door):
    token = await ticket(door)
    socket = await opened(door, token)
    renewed = read(await ask(door, "POST", {"renew": True}, **bears(token)))["token"]
    late = await opened(door, renewed)
    async with (
        await opened(door, await ticket(door)) as other,
        await opened(door, door.token) as plain,
    ):
        assert (await ask(door, "DELETE", **bears(renewed))).status == 204
        assert await told(socket) == await told(late) == (4401, "token_revoked")
        assert await lives(other)
        assert await lives(plain)


async def test_C6_4_a_socket_that_was_opening_when_its_ticket_was_revoked_ends_too(door):
    token = await ticket(door)
    async with opening(door, offer(token)) as knocking:
        assert (await ask(door, "DELETE", **bears(token))).status == 204
    assert await told(await knocking) == (4401, "token_revoked")


async def test_C6_4_news_that_may_have_been_missed_are_asked_for(door, watch, monkeypatch):
    token = await ticket(door)
    socket = await opened(door, token)
    async with await opened(door, await ticket(door)) as other:
        with monkeypatch.context() as deaf:
            deaf.setattr(watch, "_close_family", lambda *_: None)
            assert (await ask(door, "DELETE", **bears(token))).status == 204
        watch._on_change(FamilyChange(None))
        assert await told(socket) == (4401, "token_revoked")
        assert await lives(other)


async def test_of_families_without_sockets_nothing_is_kept(door, watch):
    async with await opened(door, await ticket(door)):
        assert len(watch._ends) == 1
    await auntil(lambda: not len(door.guard.registry), "the socket to be gone")
    await watch.check()
    assert watch._ends == {}


async def test_C6_7_a_store_that_is_down_drops_nobody_before_the_expiry(door, watch, monkeypatch):
    async def down(family: str) -> Any:
        raise StoreUnavailable

    store = Login.of(door.app.web_app.settings).store
    socket = await opened(door, await ticket(door, max_age=1))
    async with await opened(door, await ticket(door, max_age=60)) as other:
        monkeypatch.setattr(store, "family", down)
        await watch.check()
        assert await lives(socket)
        assert await told(socket) == (4401, "token_expired")
        assert await lives(other)


# -- credentials ---------------------------------------------------------------------------------------


async def test_C6_7_a_dead_credential_closes_its_sockets(hub, door, watch):
    ann, also = await opened(door, "of-ann"), await opened(door, "of-ann")
    async with await opened(door, "of-bob") as bob:
        await auntil(lambda: len(door.guard.registry) == 3, "all to be listed")
        provider(door).asked.clear()
        await watch.check()
        assert sorted(provider(door).asked) == ["of-ann", "of-bob"]  # once a credential
        del provider(door).names["of-ann"]
        await watch.check()
        assert await told(ann) == await told(also) == (4401, "token_revoked")
        assert await lives(bob)


async def test_C6_7_a_credential_that_is_somebody_else_s_now_is_dead(hub, door, watch):
    ann = await opened(door, "of-ann")
    provider(door).names["of-ann"] = "mallory"
    await watch.check()
    assert await told(ann) == (4401, "token_revoked")


@pytest.mark.parametrize("error", [web.HTTPError(403), Refused("token_expired")])
async def test_C6_7_a_provider_may_say_no_by_an_error_too(hub, door, watch, error):
    async with await opened(door, "of-ann") as ann:
        provider(door).raises = error
        await watch.check()
        assert await told(ann) == (4401, "token_revoked")


async def test_C6_7_a_ticket_dies_with_what_is_behind_it(hub, door, watch):
    events = Listener(door.app.event_logger)
    answer = await ask(door, "POST", {"token": "of-ann"})
    token = read(answer)["token"]
    ann, also = await opened(door, token), await opened(door, token)
    await auntil(lambda: len(door.guard.registry) == 2, "both to be listed")
    del provider(door).names["of-ann"]
    await watch.check()
    await watch.check()  # before they have answered the close: that is not told again
    assert await told(ann) == await told(also) == (4401, "token_revoked")
    [issued] = await events.wait_for("ticket_issued")
    [revoked] = await events.wait_for("ticket_revoked")
    assert revoked == {
        "family": issued["family"], "user": "ann", "cause": "credential", "sockets": 2
    }  # fmt: skip
    provider(door).names["of-ann"] = "ann"
    assert (await door.refused(ECHO, offer(token))).slug == "token_revoked"


@pytest.mark.parametrize("token_ws_config", [{"revalidate_grace": 100.0}])
async def test_C6_7_an_error_is_no_verdict_but_not_for_ever(
    hub, door, watch, clock, monkeypatch, caplog
):
    monkeypatch.setattr(watch, "_clock", clock)
    ann = await opened(door, "of-ann")
    for seconds, down in ((0, True), (99, True), (50, False), (0, True), (99, True)):
        clock.now += seconds
        provider(door).raises = DOWN if down else None
        await watch.check()
        assert await lives(ann)
    clock.now += 1
    await watch.check()
    assert await told(ann) == (4503, "unavailable")
    assert "of-ann" not in caplog.text


@pytest.mark.parametrize("token_ws_config", [{"revalidate_grace": 100.0}])
async def test_a_doubt_ends_with_the_last_socket(hub, door, watch, clock, monkeypatch):
    monkeypatch.setattr(watch, "_clock", clock)
    for seconds in (0, 99):
        clock.now += seconds
        provider(door).raises = None
        async with await opened(door, "of-ann") as ann:
            provider(door).raises = DOWN
            await watch.check()
            assert await lives(ann)
        await auntil(lambda: not len(door.guard.registry), "the socket to be gone")
        await watch.check()
    clock.now += 99
    provider(door).raises = None
    async with await opened(door, "of-ann") as ann:
        provider(door).raises = DOWN
        await watch.check()
        assert await lives(ann)


async def test_C6_7_the_hub_is_asked_past_its_provider_s_memory(hub, door, watch):
    """JupyterHub's provider remembers what the Hub said, in ``hub_auth.cache``."""
    memory = {"token::of-ann": {"name": "ann"}}
    provider(door).hub_auth = SimpleNamespace(cache=memory)
    async with await opened(door, "of-ann") as ann:
        await watch.check()
        assert memory == {}
        assert await lives(ann)


@pytest.mark.parametrize("way", ["header", "url"])
async def test_C6_7_a_token_by_other_ways_is_asked_for_too(door, watch, way):
    path = ECHO if way == "header" else f"{ECHO}?token={door.token}"
    header = {"Authorization": f"Bearer {door.token}"} if way == "header" else {}
    socket = await door.knock(path, [REASON_MARKER], header)
    await watch.check()
    assert await lives(socket)
    provider(door).token = "another"
    await watch.check()
    assert await told(socket) == (4401, "token_revoked")


@pytest.mark.parametrize("token_ws_config", [{"revalidate_interval": 0.05}])
async def test_C6_7_it_is_asked_from_time_to_time(hub, door):
    ann = await opened(door, "of-ann")
    asked = len(provider(door).asked)
    await auntil(lambda: len(provider(door).asked) > asked + 2, "three rounds")
    del provider(door).names["of-ann"]
    assert await told(ann) == (4401, "token_revoked")


@pytest.mark.parametrize("token_ws_config", [{"revalidate_interval": 0.05}])
async def test_C6_7_it_is_asked_no_longer_than_there_are_sockets(hub, door, watch):
    for _ in range(2):
        async with await opened(door, "of-ann"):
            provider(door).asked.clear()
            await auntil(lambda: provider(door).asked, "a round")
        await auntil(lambda: watch._round is None, "the last round")


@pytest.mark.parametrize("token_ws_config", [{"revalidate_interval": 0.0}])
async def test_C6_7_nobody_is_asked_unless_it_is_to_be(hub, door, watch):
    async with await opened(door, "of-ann"):
        assert watch._round is None


@pytest.mark.parametrize("token_ws_config", [{"revalidate_interval": 0.05}])
async def test_C6_7_a_round_that_fails_is_not_the_last(door, watch, monkeypatch, caplog):
    rounds: list[int] = []

    async def fail() -> None:
        rounds.append(1)
        raise RuntimeError("of all things")

    monkeypatch.setattr(watch, "check", fail)
    async with await opened(door, door.token):
        await auntil(lambda: len(rounds) > 1, "another round")
    assert "Cannot check the credentials" in caplog.text


async def test_C6_7_cookies_are_asked_for_too(door, watch):
    socket = await door.knock(ECHO, [REASON_MARKER], {"Cookie": await door.login_cookie()})
    await watch.check()
    assert await lives(socket)
    door.app.web_app.settings["cookie_secret"] = b"another"
    await watch.check()
    assert await told(socket) == (4401, "token_revoked")


class OfProxy(Hub):
    """Knows the user whom a proxy names."""

    def get_user(self, handler: Any) -> User | None:
        self.asked.append(handler.request.headers.get("X-User", ""))
        return User("ann") if handler.request.headers.get("X-User") else None


class OfHandler(Socket):
    """Knows the user itself."""

    def get_current_user(self) -> Any:
        return "ann" if self.request.headers.get("X-User") else None


@pytest.mark.parametrize("cookie", ["", "theme=dark"])
@pytest.mark.parametrize("who", ["proxy", "handler"])
async def test_C6_7_whom_no_credential_of_ours_named_is_not_asked_for(
    jp_serverapp, door, watch, who, cookie
):
    if who == "handler":
        door.add("own", OfHandler)
        own = IdentityProvider(parent=jp_serverapp, token="a-token")
    else:
        door.add("own", Socket)
        own = OfProxy(parent=jp_serverapp)
    door.app.web_app.settings["identity_provider"] = own
    headers = {"X-User": "ann", **({"Cookie": cookie} if cookie else {})}
    async with await door.knock("own", [REASON_MARKER], headers) as socket:
        assert socket.status == 101
        await auntil(lambda: len(door.guard.registry) > 0, "the socket to be listed")
        asked = len(getattr(own, "asked", []))
        await watch.check()
        assert len(getattr(own, "asked", [])) == asked
        assert await lives(socket)


async def test_C6_7_where_authentication_is_off_nobody_is_asked(door, watch, monkeypatch):
    async with await opened(door, door.token) as socket:
        monkeypatch.setattr(type(provider(door)), "auth_enabled", False)
        provider(door).token = "another"
        await watch.check()
        assert await lives(socket)
