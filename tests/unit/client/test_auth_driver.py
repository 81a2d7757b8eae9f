"""The driver of auth plugins: one refresh for all who are refused together, whoever of them goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jupyter_token_ws.client.auth import KEEPER_REST, Authenticator, Grant, drive, drive_sync
from jupyter_token_ws.client.errors import AuthError, ClientError, NoConnectionError
from jupyter_token_ws.protocol.auth import (
    AuthPlugin,
    Context,
    Endpoint,
    Flow,
    NoAuth,
    Outgoing,
    Request,
    Response,
    TokenAuth,
)
from jupyter_token_ws.protocol.reasons import Advice
from tests.support.waiting import auntil

HERE = Endpoint("https://lab.example/")
REFUSED = Response(401)


class Counter(AuthPlugin[Context]):
    """Its credential is the number of requests that were answered."""

    name = "counter"

    def __init__(self, left: float | None = None) -> None:
        self.begun = self.refreshes = self.cleaned = 0
        self.left = left

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[Context]:
        self.begun += 1
        yield Request("POST", f"{endpoint.base_url}begin")
        return Context(endpoint)

    def update_headers(self, context: Context, outgoing: Outgoing) -> Flow[None]:
        yield from ()
        outgoing.headers["X-Number"] = str(self.refreshes)
        outgoing.token = f"t{self.refreshes}"

    def refresh(self, context: Context, now: float) -> Flow[bool]:
        response = yield Request("POST", f"{context.base_url}refresh")
        if response.status != 200:
            raise AuthError("the login said no")
        self.refreshes += 1
        return True

    def refresh_in(self, context: Context, now: float) -> float | None:
        return self.left

    def cleanup(self, context: Context) -> Flow[None]:
        self.cleaned += 1
        yield Request("DELETE", context.base_url)


class Peer:
    """Answers what plugins ask; holds the answers back until it is told to ``go``."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.status = 200
        self.error: ClientError | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, request: Request) -> Response:
        self.asked.append(request)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Response(self.status)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(
    *plugins: AuthPlugin[Any],
) -> tuple[Authenticator, Peer, Clock]:
    peer, clock = Peer(), Clock()
    return Authenticator(plugins, HERE, peer, clock=clock), peer, clock


async def all_of(count: int, call: Callable[[], Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*(call() for _ in range(count)), return_exceptions=True)


async def test_a_hundred_first_requests_log_in_once():
    counter = Counter()
    auth, _, _ = made(counter)
    assert auth.plugin is None
    assert auth.base_url == HERE.base_url
    grants = await all_of(100, auth.grant)
    assert grants == [Grant({"X-Number": "0"}, "t0", 0, HERE.base_url)] * 100
    assert counter.begun == 1
    assert [auth.plugin] == [counter]
    await auth.aclose()


def test_a_grant_as_headers():
    assert Grant({"A": "b"}).for_http() == {"A": "b"}
    assert Grant({"A": "b"}, "t").for_http() == {"A": "b", "Authorization": "token t"}
    assert "hidden" not in repr(Grant({"Cookie": "hidden"}, "hidden"))


async def test_a_hundred_that_are_refused_refresh_once():
    counter = Counter()
    auth, peer, _ = made(counter)
    grant = await auth.grant()
    verdicts = await all_of(100, lambda: auth.judge(grant, REFUSED))
    assert verdicts == [True] * 100
    assert counter.refreshes == 1
    assert (await auth.grant()).token == "t1"
    assert [each.url for each in peer.asked] == [f"{HERE.base_url}begin", f"{HERE.base_url}refresh"]
    await auth.aclose()


async def test_a_hundred_share_a_refresh_that_fails_however_long_it_takes():
    counter = Counter()
    auth, peer, clock = made(counter)
    grant = await auth.grant()
    peer.status = 403
    peer.go.clear()
    waiting = asyncio.ensure_future(all_of(100, lambda: auth.judge(grant, REFUSED)))
    await auntil(lambda: len(peer.asked) == 2)
    clock.now += 60
    peer.go.set()
    errors = await waiting
    assert len(peer.asked) == 2
    assert all(isinstance(error, AuthError) for error in errors)
    assert [error.retry_after for error in errors] == [None] + [5.0] * 99
    assert all("the login said no" in str(error) for error in errors)
    await auth.aclose()


async def test_who_is_cancelled_in_a_refresh_leaves_it_to_the_others():
    counter = Counter()
    auth, peer, _ = made(counter)
    grant = await auth.grant()
    peer.go.clear()
    first = asyncio.ensure_future(auth.judge(grant, REFUSED))
    await auntil(lambda: len(peer.asked) == 2)
    others = asyncio.ensure_future(all_of(9, lambda: auth.judge(grant, REFUSED)))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    peer.go.set()
    assert await others == [True] * 9
    assert counter.refreshes == 1
    await auth.aclose()


async def test_who_is_cancelled_in_the_first_login_leaves_it_to_the_others():
    counter = Counter()
    auth, peer, _ = made(counter)
    peer.go.clear()
    first = asyncio.ensure_future(auth.grant())
    await auntil(lambda: len(peer.asked) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    peer.go.set()
    assert (await auth.grant()).token == "t0"
    assert counter.begun == 1
    await auth.aclose()


async def test_a_failure_that_nobody_waits_for_any_more_is_no_warning():
    auth, peer, _ = made(Counter())
    peer.go.clear()
    peer.error = AuthError("no")
    first = asyncio.ensure_future(auth.grant())
    await auntil(lambda: len(peer.asked) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    peer.go.set()
    await auntil(lambda: not auth._tasks)
    await auth.aclose()


async def test_an_answer_to_an_older_grant_does_not_refresh():
    counter = Counter()
    auth, _, clock = made(counter)
    old = await auth.grant()
    assert await auth.judge(old, REFUSED)
    clock.now += 100
    assert await auth.judge(old, REFUSED)
    assert counter.refreshes == 1
    await auth.aclose()


async def test_an_answer_that_is_about_something_else():
    auth, peer, _ = made(Counter())
    grant = await auth.grant()
    peer.go.clear()  # it does not even wait for a refresh that goes on
    assert not await auth.judge(grant, Response(404))
    peer.go.set()
    await auth.aclose()


async def test_a_login_that_is_refused_is_not_tried_by_everybody():
    auth, peer, clock = made(Counter())
    peer.error = AuthError("wrong password")
    assert {str(error) for error in await all_of(100, auth.grant)} == {"wrong password"}
    assert len(peer.asked) == 1
    clock.now += 5
    peer.error = None
    assert (await auth.grant()).token == "t0"
    await auth.aclose()


async def test_a_server_that_was_not_there_may_be_asked_at_once():
    auth, peer, _ = made(Counter())
    peer.error = NoConnectionError("nobody there")
    with pytest.raises(NoConnectionError):
        await auth.grant()
    peer.error = None
    assert (await auth.grant()).token == "t0"
    await auth.aclose()


async def test_the_first_plugin_that_does_not_ignore_serves():
    elsewhere = NoAuth()
    elsewhere.servers = ("https://other.example/",)
    auth, _, _ = made(elsewhere, TokenAuth(""), TokenAuth("one"), TokenAuth("two"))
    assert (await auth.grant()).token == "one"
    auth, _, _ = made(elsewhere, TokenAuth(""))
    with pytest.raises(AuthError, match=r"none: its servers are .*; token: it has nothing"):
        await auth.grant()
    auth, _, _ = made()
    with pytest.raises(AuthError):
        await auth.grant()


async def test_renewal_ahead_of_the_end_before_a_request():
    counter = Counter(left=3600.0)
    auth, peer, clock = made(counter)
    assert auth.refresh_in() is None
    await auth.grant()
    assert auth.refresh_in() == 3600
    counter.left = 0
    assert [grant.token for grant in await all_of(100, auth.grant)] == ["t1"] * 100
    peer.status = 500
    clock.now += 5
    assert (await auth.grant()).token == "t1"
    assert (counter.refreshes, len(peer.asked)) == (1, 3)
    await auth.aclose()


async def test_renewal_while_nothing_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jupyter_token_ws.client.auth.KEEPER_REST", 0.0)
    counter = Counter(left=0.0)
    auth, _, clock = made(counter)
    await auth.grant()
    await auntil(lambda: counter.refreshes == 1)
    clock.now += 5
    await auntil(lambda: counter.refreshes == 2)
    counter.left = None
    await auntil(lambda: auth._keeper is not None and auth._keeper.done())
    await auth.aclose()
    assert KEEPER_REST > 0


async def test_a_plugin_that_fails_is_asked_again_and_its_secrets_stay_out_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("jupyter_token_ws.client.auth.KEEPER_REST", 0.0)
    counter = Counter(left=0.0)
    auth, _, _ = made(counter)
    await auth.grant()
    failed = 0

    def keep_fresh(context: Any, now: float) -> Any:
        nonlocal failed
        failed += 1
        raise ValueError("s3cret")

    monkeypatch.setattr(counter, "keep_fresh", keep_fresh)
    await auntil(lambda: failed > 1)
    assert "not renewed ahead: ValueError" in caplog.text
    assert "s3cret" not in caplog.text
    await auth.aclose()


async def test_at_the_end_the_plugin_cleans_up_and_nothing_goes_on():
    counter = Counter(left=3600.0)
    auth, peer, _ = made(counter)
    grant = await auth.grant()
    peer.go.clear()
    waiting = asyncio.ensure_future(auth.judge(grant, REFUSED))
    await auntil(lambda: len(peer.asked) == 2)
    closing = asyncio.ensure_future(auth.aclose())
    with pytest.raises(AuthError, match="closed"):
        await waiting
    peer.error = NoConnectionError("gone")
    peer.go.set()
    await closing
    assert counter.cleaned == 1
    for late in (auth.grant(), auth.judge(grant, REFUSED)):
        with pytest.raises(AuthError) as caught:
            await late
        assert caught.value.advice is Advice.STOP
    await auth.aclose()
    assert counter.cleaned == 1


# -- driving -------------------------------------------------------------------------------------------


def asking() -> Flow[str]:
    heard = []
    for url in ("a", "b"):
        try:
            response = yield Request("GET", url)
        except ClientError as error:  # noqa: PERF203 - it goes on
            heard.append(str(error))
        else:
            heard.append(str(response.status))
    return " ".join(heard)


async def test_a_plugin_is_told_answers_and_errors_with_and_without_a_loop():
    def answer(request: Request) -> Response:
        if request.url == "a":
            raise ClientError("lost")
        return Response(200)

    async def answer_later(request: Request) -> Response:
        await asyncio.sleep(0)
        return answer(request)

    assert drive_sync(asking(), answer) == await drive(asking(), answer_later) == "lost 200"
