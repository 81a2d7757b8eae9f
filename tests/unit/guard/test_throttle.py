"""Wrong credentials are throttled, right ones never; connections are counted; plain HTTP is refused."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws import TokenWebSocketHandler
from jupyter_token_ws.guard import rest
from jupyter_token_ws.guard.core import RETRY_AFTER_CROWD, RETRY_AFTER_FULL, Guard
from jupyter_token_ws.guard.throttle import NO_PROXY_NAMED
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Answer, Door, Socket, refusals
from tests.support.knock import Knock, bearing
from tests.support.providers import BAD, SESSION, TOKEN, BearerProvider, RaisingProvider
from tests.support.recording import OpenToAll
from tests.support.waiting import auntil
from tests.unit.guard.conftest import EXTENSIONS

ME = "api/me"
FEW = pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 2}])


def offer(token: str | None) -> list[str]:
    return [MARKER, *([bearing(token)] if token else []), REASON_MARKER]


def header(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"token {token}", **more}


async def by_socket(door: Door, token: str, **headers: str) -> str:
    """What a websocket with a token is told."""
    answer = await door.refused(EVENTS, offer(token), headers)
    assert answer.status == 101
    return answer.slug


async def by_rest(door: Door, token: str, **headers: str) -> int:
    return (await door.fetch(ME, header(token, **headers))).status


def retry_after(answer: Knock | Answer) -> int:
    value = answer.headers["retry-after"]
    return int(value[0] if isinstance(value, list) else value)


async def good_enters(door: Door, **headers: str) -> None:
    assert await by_rest(door, door.token, **headers) == 200
    async with await door.knock(EVENTS, offer(door.token), headers) as socket:
        assert socket.status == 101
        assert socket.subprotocol == MARKER


# -- wrong answers ---------------------------------------------------------------------------------


@FEW
async def test_wrong_tokens_are_told_so_only_so_often_and_the_right_one_enters(door):
    told = [await by_socket(door, f"wrong-{n}") for n in range(4)]
    assert told == ["token_rejected"] * 2 + ["too_many_attempts"] * 2
    assert await by_rest(door, "wrong-5") == 429
    await good_enters(door)
    # What was told before is told again: the page with this token must learn that it is dead.
    assert await by_socket(door, "wrong-1") == "token_rejected"
    assert await by_rest(door, "wrong-1") == 403


@FEW
async def test_a_token_is_counted_once_by_whatever_way(door):
    for n in range(2):
        for _ in range(3):
            await door.refused(EVENTS, offer(f"wrong-{n}"))
            await door.refused(f"{EVENTS}?token=wrong-{n}")
            await door.refused(EVENTS, None, header(f"wrong-{n}"))
            await door.refused(EVENTS, None, {"Authorization": f"Bearer wrong-{n}"})
            assert await by_rest(door, f"wrong-{n}") == 403
            assert (await door.fetch(f"{ME}?token=wrong-{n}")).status == 403
    assert await by_rest(door, "wrong-2") == 429


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1}])
@pytest.mark.parametrize(
    ("path", "offered", "headers"),
    [
        (EVENTS, offer("wrong"), {}),
        (f"{EVENTS}?token=wrong", [REASON_MARKER], {}),
        (EVENTS, [REASON_MARKER], header("wrong")),
        (f"{EVENTS}?token=wrong", [REASON_MARKER], header("wrong")),
        ("open", offer("wrong"), {}),
        ("plain", offer("wrong"), {}),
        ("nothing/here", offer("wrong"), {}),
    ],
)
async def test_every_way_of_showing_a_wrong_token_to_a_socket_counts(door, path, offered, headers):
    class Open(OpenToAll):
        """For this server."""

    class Plain(WebSocketHandler):
        """Not one of Jupyter's."""

    door.add("open", Open)
    door.add("plain", Plain)
    assert await by_rest(door, "another") == 403
    answer = await door.refused(path, offered, headers)
    assert (answer.code, answer.slug) == (4429, "too_many_attempts")
    assert answer.reason == "too_many_attempts;retry_after=60: too many wrong credentials"
    plain = await door.refused(path.replace("nothing", "api"), offered[1:-1] or None, headers)
    assert plain.status in (101, 429)


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1, "close_reasons": "never"}])
async def test_C3_3_a_socket_that_is_told_by_plain_http(door):
    assert (await door.refused(EVENTS, offer("one"))).status == 403
    answer = await door.refused(EVENTS, offer("two"))
    assert answer.status == 429
    assert 55 <= retry_after(answer) <= 60
    assert answer.body == b"too_many_attempts: too many wrong credentials\n"


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1}])
async def test_rest_is_told_the_same(door, caplog):
    caplog.set_level(logging.INFO)
    assert await by_rest(door, "one") == 403
    answer = await door.fetch(ME, header("secret-guess"))
    assert answer.status == 429
    assert 55 <= retry_after(answer) <= 60
    assert json.loads(answer.body)["message"] == "too many wrong credentials"
    [line] = [r.getMessage() for r in caplog.records if "Refused request" in r.getMessage()]
    assert line == f"Refused request: 429 too_many_attempts {door.base}{ME} from 127.0.0.1"
    assert "secret-guess" not in caplog.text


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1}])
@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("GET", "api/contents", header("two"), b""),
        ("GET", "api/contents?token=two", {}, b""),
        ("GET", "tree-of-nothing", header("two"), b""),
        ("GET", "files/x", header("two"), b""),
        ("GET", "api/contents", header("two", Upgrade="websocket"), b""),
        ("DELETE", "api/kernels/none", header("two"), b""),
        ("POST", "api/kernels", {"Authorization": "Bearer two"}, b"{}"),
        (
            "POST",
            "api/kernels",
            {"Content-Type": "application/x-www-form-urlencoded"},
            b"token=two",
        ),
        ("GET", "page", header("two"), b""),
    ],
)
async def test_every_rest_path_that_needs_a_user_counts(door, method, path, headers, body):
    class Page(JupyterHandler):
        @web.authenticated
        def get(self) -> None:
            """Never comes here."""

    door.add("page", Page)
    assert await by_rest(door, "one") == 403
    before = await door.fetch(path, headers, method=method, body=body)
    door.guard.throttle.store.table.burst = 0
    assert before.status == (404 if path == "tree-of-nothing" else 429)


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1}])
async def test_what_needs_no_user_is_served_however_many_were_wrong(door):
    class Public(APIHandler):
        @allow_unauthenticated
        def get(self) -> None:
            self.finish({"who": str(self.current_user)})

    door.add("public", Public)
    for n in range(4):
        for path in ("public", "api", "login", "api/token-ws/capabilities"):
            answer = await door.fetch(path, header(f"wrong-{n}"))
            assert answer.status == 200, (n, path)
    assert await by_rest(door, "wrong-9") == 429  # they were counted all the same
    assert (await door.fetch(f"login?token={door.token}")).status == 302


@FEW
async def test_a_token_that_is_no_text_is_answered_as_ever(door):
    assert (await door.fetch(f"{ME}?token=%ff")).status == 400
    assert len(door.guard.throttle.store.table) == 0


@FEW
async def test_who_shows_no_token_is_never_throttled(door):
    for n in range(5):
        await by_socket(door, f"wrong-{n}")
    answer = await door.refused(EVENTS, offer(None))
    assert answer.slug == "credentials_missing"
    assert (await door.fetch(ME)).status == 403
    assert (await door.fetch(ME, {"Authorization": "Basic d3Jvbmc6d3Jvbmc="})).status == 403
    assert (await door.fetch(f"{ME}?token=")).status == 403


@FEW
async def test_a_wrong_token_beside_a_good_cookie_is_not_counted_by_rest(door):
    cookie = await door.login_cookie()
    for n in range(5):
        assert await by_rest(door, f"of-a-proxied-app-{n}", Cookie=cookie) == 200
        async with await door.knock(
            f"{EVENTS}?token=of-an-app-{n}", None, {"Cookie": cookie}
        ) as socket:
            assert socket.status == 101
    assert len(door.guard.throttle.store.table) == 0


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1, "allow_token_in_url": False}])
async def test_C2_4_a_url_token_that_is_not_judged_is_not_counted(door):
    for n in range(4):
        answer = await door.refused(f"{EVENTS}?token=wrong-{n}", [REASON_MARKER])
        assert answer.slug == "url_token_refused"
    assert await by_socket(door, "first") == "token_rejected"
    assert await by_socket(door, "second") == "too_many_attempts"


@FEW
async def test_C3_4_across_origins_the_reason_is_as_ever(door):
    for n in range(4):
        answer = await door.refused(EVENTS, offer(f"wrong-{n}"), {"Origin": "https://evil.example"})
        assert answer.reason == "token_rejected: the token is not valid here"
        answer = await door.refused(EVENTS, offer(None), {"Origin": "https://evil.example"})
        assert (answer.status, answer.code) == (403, None)


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1, "refusal_burst": 3}])
async def test_C3_5_a_storm_of_guesses_is_soon_told_by_plain_http(door):
    answers = [await door.refused(EVENTS, offer(f"wrong-{n}")) for n in range(7)]
    # Each is another credential, but one address.
    assert [answer.status for answer in answers] == [101] * 4 + [429] * 3
    await good_enters(door)


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 0}])
async def test_no_limit(door):
    for n in range(30):
        assert await by_rest(door, f"wrong-{n}") == 403
    assert door.guard.throttle.active  # something may be remembered


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 0, "wrong_token_memory": 0}])
async def test_neither_counted_nor_remembered(door):
    assert not door.guard.throttle.active
    assert await by_rest(door, "wrong") == 403
    assert (await door.refused(EVENTS, offer("wrong"))).slug == "token_rejected"


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1, "exclude_paths": ["api/me"]}])
async def test_C2_6_excluded_paths_are_as_on_a_stock_server(door):
    assert [await by_rest(door, f"wrong-{n}") for n in range(4)] == [403] * 4


@FEW
async def test_waiting_helps(door):
    now = [0.0]
    door.guard.throttle.store._clock = lambda: now[0]
    answers = [await door.refused(EVENTS, offer(f"wrong-{n}")) for n in range(3)]
    assert answers[-1].reason.startswith("too_many_attempts;retry_after=60:")
    now[0] = 59.5
    answer = await door.refused(EVENTS, offer("wrong-2"))
    assert answer.reason.startswith("too_many_attempts;retry_after=1:")
    now[0] = 60
    assert await by_socket(door, "wrong-2") == "token_rejected"


@FEW
async def test_C2_6_a_class_of_the_authors_counts_once(door):
    class Own(TokenWebSocketHandler, JupyterHandler):  # type: ignore[misc] # check_origin
        async def get(self, *args: Any, **kwargs: Any) -> None:
            if self.current_user is None:
                raise web.HTTPError(403)
            await super().get(*args, **kwargs)

    door.add("own", Own)
    answers = [await door.refused("own", offer(f"wrong-{n}")) for n in range(3)]
    assert [a.slug for a in answers] == ["token_rejected"] * 2 + ["too_many_attempts"]
    assert (await door.fetch("own", header("wrong-4"))).status in (400, 403, 426, 429)


async def test_a_class_that_cannot_be_wrapped_is_served_as_ever(door, caplog):
    class Meta(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Meta:
            if any(isinstance(base, Meta) for base in bases):
                raise TypeError("no more of this")
            return super().__new__(cls, name, bases, namespace)

    class Alone(APIHandler, metaclass=Meta):
        @web.authenticated
        def get(self) -> None:
            self.finish("welcome")

    caplog.set_level(logging.DEBUG)
    door.add("alone", Alone)
    assert (await door.fetch("alone", header(door.token))).body == b"welcome"
    assert (await door.fetch("alone", header("wrong"))).status == 403
    assert "Cannot count for" in caplog.text


# -- where a client is -----------------------------------------------------------------------------

PROXY = {"attempt_burst": 1, "trusted_proxies": ["127.0.0.1"]}


@pytest.mark.parametrize("token_ws_config", [PROXY])
async def test_behind_a_named_proxy_each_client_is_counted_apart(door):
    one, two = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "6.6.6.6, 192.0.2.2"}
    for client in (one, two):
        assert await by_rest(door, "first", **client) == 403
        assert await by_socket(door, "second", **client) == "too_many_attempts"
        assert await by_rest(door, "third", **client) == 429
        await good_enters(door, **client)
    # What a client puts there itself makes nobody else of it.
    assert await by_rest(door, "fourth", **{"X-Forwarded-For": "7.7.7.7, 192.0.2.2"}) == 429
    assert await by_rest(door, "fourth", **{"X-Real-Ip": "7.7.7.7", **one}) == 429


@pytest.mark.parametrize(
    "token_ws_config", [{"attempt_burst": 1, "trusted_proxies": ["192.0.2.9"]}]
)
async def test_who_is_no_named_proxy_is_the_client(door, caplog):
    for n in range(3):
        status = await by_rest(door, f"wrong-{n}", **{"X-Forwarded-For": f"192.0.2.{n}"})
        assert status == (429 if n else 403)
    assert NO_PROXY_NAMED not in caplog.text


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1}])
async def test_with_no_proxy_named_nothing_is_limited_by_address_and_that_is_said_once(
    door, http_server, caplog
):
    http_server.xheaders = True  # as JupyterHub does
    for n in range(4):
        assert await by_rest(door, f"wrong-{n}", **{"X-Forwarded-For": "192.0.2.1"}) == 403
        assert await by_socket(door, f"wrong-{n}", **{"X-Real-Ip": "192.0.2.1"}) == "token_rejected"
    assert caplog.text.count(NO_PROXY_NAMED) == 1
    # Who comes past the proxy is counted.
    assert await by_rest(door, "first") == 403
    assert await by_rest(door, "second") == 429


# -- a provider is not asked again -----------------------------------------------------------------


class Counting(BearerProvider):
    """As a Hub's: each question costs a request."""

    asked = 0

    def known(self, token: str) -> User | None:
        if token != TOKEN:
            type(self).asked += 1
        return super().known(token)


class CountingRaising(RaisingProvider):
    """The same, but answers by an error."""

    asked = 0

    def known(self, token: str) -> User | None:
        type(self).asked += token != TOKEN
        return super().known(token)


@pytest.fixture
def provider() -> type[IdentityProvider]:
    Counting.asked = CountingRaising.asked = 0
    return Counting


@pytest.fixture
def jp_server_config(
    request: pytest.FixtureRequest, token_ws_config: dict[str, object]
) -> dict[str, Any]:
    server: dict[str, Any] = {"jpserver_extensions": dict(EXTENSIONS)}
    if "provider" in request.fixturenames:
        server["identity_provider_class"] = request.getfixturevalue("provider")
    return {"ServerApp": server, "TokenWebSocketApp": token_ws_config}


BEARER = {"Authorization": f"Bearer {BAD}"}


async def test_a_wrong_token_is_asked_for_once(provider, door):
    for _ in range(5):
        answer = await door.refused(EVENTS, offer(BAD))
        assert answer.slug == "token_rejected"
    assert provider.asked == 1
    for _ in range(5):
        assert (await door.fetch(ME, BEARER)).status == 403
        assert (await door.fetch("api/contents", BEARER)).status == 403
    assert provider.asked == 2
    for _ in range(5):
        answer = await door.refused(EVENTS, [REASON_MARKER], BEARER)
        assert answer.slug == "token_rejected" or answer.status == 403
    assert provider.asked == 2  # the first question's second half was the same


async def test_what_else_admits_is_asked_for_each_time(provider, door):
    cookie = {"Cookie": SESSION}
    for _ in range(2):
        assert (await door.fetch(ME, BEARER)).status == 403
        assert (await door.fetch(ME, BEARER | cookie)).status == 200
        assert (await door.refused(EVENTS, [REASON_MARKER], BEARER)).slug == "token_rejected"
        async with await door.knock(EVENTS, [REASON_MARKER], BEARER | cookie) as socket:
            await asyncio.sleep(0)
            assert (socket.status, socket.subprotocol) == (101, REASON_MARKER)
            assert len(door.guard.registry) == 1
        await door.settled()
        # A subprotocol token stands alone (C2.2).
        assert (await door.refused(EVENTS, offer(BAD), cookie)).slug == "token_rejected"


async def test_a_wrong_token_beside_a_good_cookie_is_asked_for_once_too(provider, door):
    cookie = {"Cookie": SESSION}
    asked = []
    for _ in range(4):
        for path, headers in ((EVENTS, BEARER), (f"{EVENTS}?token={BAD}", {})):
            async with await door.knock(path, [REASON_MARKER], headers | cookie) as socket:
                assert socket.status == 101
            await door.settled()
        asked.append(provider.asked)
    # The first time the whole request is judged, then each credential by itself.
    assert asked == [asked[0], asked[1], asked[1], asked[1]]


async def test_a_token_that_is_right_now_enters_when_the_moment_is_over(
    provider, door, monkeypatch
):
    now = [0.0]
    door.guard.throttle._clock = lambda: now[0]
    assert (await door.refused(EVENTS, offer(BAD))).slug == "token_rejected"
    monkeypatch.setattr(provider, "known", lambda self, token: User("ann"))
    now[0] = 9.9
    assert (await door.refused(EVENTS, offer(BAD))).slug == "token_rejected"
    now[0] = 10
    async with await door.knock(EVENTS, offer(BAD)) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)


class TestRaising:
    """A provider that says by an error of its own that it knows nobody."""

    @pytest.fixture
    def provider(self) -> type[IdentityProvider]:
        CountingRaising.asked = 0
        return CountingRaising

    @FEW
    async def test_its_errors_are_wrong_answers(self, provider, door):
        for n in range(4):
            answer = await door.fetch(ME, {"Authorization": f"Bearer wrong-{n}"})
            assert answer.status == (401 if n < 2 else 429)
            answer = await door.refused(
                EVENTS, [REASON_MARKER], {"Authorization": f"Bearer wrong-{n}"}
            )
            assert answer.slug == ("token_rejected" if n < 2 else "too_many_attempts")
        assert await by_socket(door, "wrong-5") == "too_many_attempts"

    async def test_its_errors_are_told_each_time(self, provider, door):
        for _ in range(3):
            assert (await door.fetch(ME, BEARER)).status == 401
            assert (await door.refused(EVENTS, None, BEARER)).status == 401
        asked = provider.asked
        for _ in range(3):
            assert await by_socket(door, BAD) == "token_rejected"
        assert provider.asked == asked + 1  # there nobody sees which error it was


class TestBroken:
    """A provider whose own server does not answer."""

    @pytest.fixture
    def provider(self) -> type[IdentityProvider]:
        class Broken(BearerProvider):
            def known(self, token: str) -> User | None:
                raise web.HTTPError(502)

        return Broken

    @FEW
    async def test_no_verdict_is_no_wrong_answer(self, provider, door):
        for n in range(4):
            headers = {"Authorization": f"Bearer wrong-{n}"}
            assert (await door.fetch(ME, headers)).status == 502
            answer = await door.refused(EVENTS, [REASON_MARKER], headers)
            assert answer.slug == "internal_error"
        assert len(door.guard.throttle.remembered) == 0


class TestOfOld:
    """Who overrides `get_current_user`, which upstream lets pass under the base provider."""

    @pytest.fixture
    def provider(self) -> type[IdentityProvider]:
        return IdentityProvider

    @pytest.mark.filterwarnings("ignore:.*deprecated in jupyter-server 2.0")
    @FEW
    async def test_it_is_asked_as_ever(self, provider, door):
        class Old(JupyterHandler):
            def get_current_user(self) -> str:
                return "somebody"

            @web.authenticated
            def get(self) -> None:
                self.finish(self.current_user.username)

        door.add("old", Old)
        for n in range(4):
            assert (await door.fetch("old", header(f"wrong-{n}"))).body == b"somebody"
            assert await by_rest(door, f"wrong-{n}") == (403 if n < 2 else 429)


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("token_ws_config", [{"max_connections_per_principal": 2}])
async def test_C2_8_only_so_many_sockets_of_one_principal(door, caplog):
    caplog.set_level(logging.INFO)
    door.add("open", OpenHere)
    mine = [await door.knock(EVENTS, offer(door.token)) for _ in range(2)]
    assert [socket.status for socket in mine] == [101, 101]
    for path in (EVENTS, "open", f"{EVENTS}?x=1"):
        answer = await door.refused(path, offer(door.token))
        assert (answer.code, answer.slug) == (4429, "too_many_connections")
        assert answer.reason.startswith(f"too_many_connections;retry_after={RETRY_AFTER_FULL}:")
    plain = await door.refused(EVENTS, None, header(door.token))
    assert (plain.status, retry_after(plain)) == (429, RETRY_AFTER_FULL)
    assert refusals(caplog.records)[-1].startswith("4429 too_many_connections")
    # Somebody else has his own.
    async with await door.knock("open", offer(None), {"Cookie": "who=else"}) as other:
        assert other.status == 101
    # Nobody who is open was closed for it, and a place that is free may be taken.
    for socket in mine:
        await socket.send("x", opcode=9)
        while (frame := await socket.read_frame()) != (10, b"x"):
            assert frame is not None, "it was closed"  # else an event
    await mine[0].close()
    await auntil(lambda: len(door.guard.registry) == 1, "the first is gone")
    async with await door.knock(EVENTS, offer(door.token)) as again:
        assert again.status == 101
    mine[1].vanish()
    await door.settled()


class OpenHere(OpenToAll):
    """For everybody."""


@pytest.mark.parametrize("token_ws_config", [{"max_connections": 2}])
async def test_only_so_many_sockets_of_a_server(door):
    door.add("open", OpenHere)
    sockets = [await door.knock("open", offer(None), {"Cookie": f"who={n}"}) for n in range(2)]
    assert [socket.status for socket in sockets] == [101, 101]
    answer = await door.refused("open", offer(None), {"Cookie": "who=3"})
    assert answer.slug == "too_many_connections"
    for socket in sockets:
        socket.vanish()
    await door.settled()
    async with await door.knock("open", offer(None)) as socket:
        assert socket.status == 101


@pytest.mark.parametrize(
    "token_ws_config", [{"max_connections": 1, "max_connections_per_principal": 1}]
)
async def test_C2_7_who_may_not_enter_hears_that_first(door):
    async with await door.knock(EVENTS, offer(door.token)):
        assert await by_socket(door, "wrong") == "token_rejected"
        assert (await door.refused(EVENTS, offer(None))).slug == "credentials_missing"
        missing = "api/kernels/00000000-0000-0000-0000-000000000000/channels"
        assert (await door.refused(missing, offer(door.token))).slug == "not_found"
        evil = {"Origin": "https://evil.example"}
        cookie = await door.login_cookie()
        answer = await door.refused(EVENTS, offer(None), {**evil, "Cookie": cookie})
        assert answer.status == 403


@pytest.mark.parametrize(
    "token_ws_config",
    [{"max_connections": 0, "max_connections_per_principal": 0, "max_handshakes": 0}],
)
async def test_any_number_of_connections(door):
    sockets = [await door.knock(EVENTS, offer(door.token)) for _ in range(5)]
    assert [socket.status for socket in sockets] == [101] * 5
    for socket in sockets:
        socket.vanish()
    await door.settled()


class Slow(Socket):
    """Waits before it asks who is there."""

    gate: asyncio.Event

    async def prepare(self) -> None:  # type: ignore[override] # upstream's argument is its own
        await self.gate.wait()
        await super().prepare()


@pytest.fixture
def slow(door: Door) -> asyncio.Event:
    Slow.gate = asyncio.Event()
    door.add("slow", Slow)
    return Slow.gate


async def begin(door: Door, count: int, **headers: str) -> list[asyncio.Task[Knock]]:
    """So many handshakes that wait."""
    before = len(door.guard.opening)
    begun = [
        asyncio.ensure_future(door.knock("slow", offer(door.token), headers)) for _ in range(count)
    ]
    await auntil(lambda: len(door.guard.opening) == before + count, "they have begun")
    return begun


@pytest.mark.parametrize(
    "token_ws_config", [{"max_handshakes": 4, "trusted_proxies": ["127.0.0.1"]}]
)
async def test_only_so_many_handshakes_at_once_and_half_of_one_address(door, slow):
    one, two, three = ({"X-Forwarded-For": f"192.0.2.{n}"} for n in (1, 2, 3))
    begun = await begin(door, 2, **one)
    answer = await door.refused(EVENTS, offer(door.token), one)
    assert answer.reason.startswith(f"too_many_connections;retry_after={RETRY_AFTER_CROWD}:")
    begun += await begin(door, 1, **two)  # another address has room
    async with await door.knock(EVENTS, offer(door.token), two) as socket:
        assert socket.status == 101
    begun += await begin(door, 1, **two)
    assert (await door.refused(EVENTS, offer(door.token), three)).slug == "too_many_connections"
    slow.set()
    for future in begun:
        socket = await future
        assert socket.status == 101
        socket.vanish()
    await door.settled()
    async with await door.knock(EVENTS, offer(door.token), one) as socket:
        assert socket.status == 101


@pytest.mark.parametrize("token_ws_config", [{"max_handshakes": 2}])
async def test_where_nobody_knows_the_address_all_places_are_for_everybody(door, slow):
    begun = await begin(door, 2, **{"X-Forwarded-For": "192.0.2.1"})
    assert (await door.refused(EVENTS, offer(door.token))).slug == "too_many_connections"
    slow.set()
    for future in begun:
        (await future).vanish()
    await door.settled()


# -- require_tls -----------------------------------------------------------------------------------

TLS = pytest.mark.parametrize(
    "token_ws_config", [{"require_tls": True, "trusted_proxies": ["127.0.0.1"]}]
)


@TLS
async def test_C3_3_plain_http_is_refused(door):
    headers = {"X-Forwarded-Proto": "http", "X-Forwarded-For": "192.0.2.1"}
    for given in (offer(door.token), offer(None), [bearing("%zz"), REASON_MARKER]):
        answer = await door.refused(EVENTS, given, headers)
        assert (answer.code, answer.slug) == (4426, "tls_required")
    plain = await door.refused(EVENTS, None, headers)
    assert plain.status == 426
    assert plain.headers["upgrade"] == ["TLS/1.2, HTTP/1.1"]
    assert plain.headers["connection"] == ["Upgrade"]
    assert "retry-after" not in plain.headers
    # Nothing that was sent was judged.
    assert await by_socket(door, "wrong", **headers) == "tls_required"
    assert len(door.guard.throttle.store.table) == 0


@TLS
async def test_what_came_encrypted_enters(door):
    for protocol in ("https", "wss", "http, https"):
        await good_enters(door, **{"X-Forwarded-Proto": protocol, "X-Forwarded-For": "192.0.2.1"})


@TLS
async def test_this_machine_needs_no_encryption_where_no_proxy_was_on_the_way(door):
    await good_enters(door)
    answer = await door.refused(EVENTS, offer(door.token), {"X-Forwarded-For": "192.0.2.1"})
    assert answer.slug == "tls_required"


@pytest.mark.parametrize("token_ws_config", [{"require_tls": True}])
async def test_nobody_but_a_named_proxy_may_say_that_it_is_encrypted(door, http_server):
    http_server.xheaders = True
    for headers in ({"X-Forwarded-Proto": "https"}, {"X-Scheme": "https"}):
        assert (await door.refused(EVENTS, offer(door.token), headers)).slug == "tls_required"


@TLS
async def test_C2_7_the_host_comes_first(door):
    answer = await door.refused(
        EVENTS, offer(door.token), {"Host": "evil.example", "X-Forwarded-Proto": "http"}
    )
    assert (answer.status, answer.code) == (403, None)


async def test_plain_http_is_no_matter_by_default(door):
    assert not door.guard.options.require_tls
    await good_enters(door, **{"X-Forwarded-Proto": "http"})


class Exchange(rest.ApiHandler):
    """A path where credentials are exchanged."""

    _needs_tls = True

    @allow_unauthenticated
    def get(self) -> None:
        self.finish({})


@TLS
async def test_C5_4_a_path_where_credentials_are_exchanged_is_refused_too(door):
    door.add("exchange", Exchange)
    answer = await door.fetch("exchange", {"X-Forwarded-Proto": "http"})
    assert answer.status == 426
    assert answer.headers["upgrade"] == "TLS/1.2, HTTP/1.1"
    assert json.loads(answer.body) == {
        "status": "tls_required",
        "message": "use an encrypted connection",
    }
    assert (await door.fetch("exchange", {"X-Forwarded-Proto": "https"})).status == 200
    assert (await door.fetch("exchange")).status == 200
    assert (await door.fetch("api/token-ws/capabilities", {"Via": "1.1 x"})).status == 200


@pytest.mark.parametrize(("token_ws_config", "told"), [({"require_tls": True}, True), ({}, False)])
async def test_C4_6_the_capabilities_name_what_can_be_told(door, told):
    document = json.loads((await door.fetch("api/token-ws/capabilities")).body)
    codes = document["reasons"]["codes"]
    assert ("4426" in codes) is told
    assert set(codes["4429"]) == {"too_many_attempts", "too_many_connections"}


@FEW
async def test_who_signs_in_is_sent_on_whatever_token_the_address_has(door):
    """The way back from the login page is no way to it."""

    class Login(JupyterHandler):
        @allow_unauthenticated
        def post(self) -> None:
            self.redirect("/elsewhere")

        def check_xsrf_cookie(self) -> None:
            """A form of this test's."""

    door.add("sign-in", Login)
    for n in range(4):
        answer = await door.fetch(f"sign-in?token=wrong-{n}", method="POST")
        assert answer.status == 302
    assert await by_rest(door, "wrong-5") == 429


async def test_C5_4_too_many_attempts_on_our_own_paths(door):
    class Own(rest.ApiHandler):
        @web.authenticated
        def get(self) -> None:
            """Never comes here."""

    door.add("own-rest", Own)
    table = door.guard.throttle.store.table
    table.burst = 1
    await by_rest(door, "one")
    answer = await door.fetch("own-rest", header("two"))
    assert answer.status == 429
    body = json.loads(answer.body)
    assert body.pop("retry_after") == retry_after(answer)
    assert body == {"status": "too_many_attempts", "message": "too many wrong credentials"}


async def test_a_guard_without_a_server_has_the_limits_too(guard: Guard):
    assert guard.options.attempt_burst == 20
    assert guard.options.max_handshakes == 1_000
