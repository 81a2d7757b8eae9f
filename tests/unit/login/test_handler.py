"""The login's REST path, and tickets at every door of a server (contract section 6)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.login.handler import MAX_BODY, Asked, read_body
from jupyter_token_ws.login.service import Login
from jupyter_token_ws.protocol.capabilities import capabilities_schema
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from jupyter_token_ws.protocol.tickets import PREFIX
from tests.support.authorizers import NoEvents
from tests.support.door import EVENTS, Answer, Door, Socket
from tests.support.knock import bearing
from tests.support.providers import (
    BAD,
    FLAG,
    HASH,
    KINDS,
    OFF,
    PASSWORD_AND_TOKEN,
    PLAIN_LEGACY,
    RAISING,
    SESSION,
    STOCK,
    TOKEN,
    FlagProvider,
    Kind,
    PlainLegacyLogin,
    RaisingProvider,
    session_user,
)

pytestmark = [
    # As in the guard's tests of every provider.
    pytest.mark.filterwarnings("ignore:.*is deprecated in (jupyter-server )?2.0"),
    pytest.mark.filterwarnings("ignore::jupyter_server.utils.JupyterServerAuthWarning"),
]

LOGIN = "api/token-ws/login"
ME = "api/me"
NOBODY = f"{PREFIX}{'A' * 43}"
"""Something that looks like a ticket and was issued by nobody."""


async def ask(door: Door, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    """One request of the login path. Names of headers are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    if data:
        named.setdefault("Content-Type", "application/json")
    return await door.fetch(LOGIN, named, method=method, body=data)


def read(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def ticket(door: Door, **options: Any) -> str:
    """A ticket for the server's token."""
    answer = await ask(door, "POST", {"token": door.token, **options})
    assert answer.status == 200, answer
    token: str = read(answer)["token"]
    assert token.startswith(PREFIX)
    return token


def bears(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def offer(token: str) -> list[str]:
    return [MARKER, bearing(token), REASON_MARKER]


async def slug(door: Door, token: str, path: str = EVENTS, **headers: str) -> str:
    """What a websocket with a ticket is told."""
    return (await door.refused(path, offer(token), headers)).slug


async def rest(door: Door, token: str) -> tuple[int, str]:
    """What REST says to a ticket: status and, where it is refused, the reason."""
    answer = await door.fetch(ME, bears(token))
    return answer.status, read(answer).get("reason") or ""


async def enters(door: Door, token: str) -> None:
    """A ticket opens a websocket and REST."""
    assert await rest(door, token) == (200, "")
    async with await door.knock(EVENTS, offer(token)) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)


@pytest.fixture
def login(door) -> Login:
    return Login.of(door.app.web_app.settings)


@pytest.fixture
def emitted(door) -> list[tuple[str, dict[str, Any]]]:
    """The events of tickets, as they come."""
    found: list[tuple[str, dict[str, Any]]] = []
    logger = door.app.event_logger

    async def listen(logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        name = schema_id.split("/")[-2]
        found.append((name, {key: data[key] for key in data if not key.startswith("__")}))

    for name in ("issued", "renewed", "used", "revoked"):
        identity = f"https://events.jupyter.org/jupyter_token_ws/ticket_{name}/v1"
        logger.add_listener(schema_id=identity, listener=listen)
    return found


# -- a ticket's way ------------------------------------------------------------------------------------


async def test_C6_1_C6_3_a_ticket_for_a_token(door, login, emitted):
    answer = await ask(door, "POST", {"token": door.token, "max_age": 120})
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    told = read(answer)
    assert set(told) == {"token", "token_type", "expires_in", "expires_at", "user", "server"}
    assert (told["token_type"], told["expires_in"]) == ("Bearer", pytest.approx(120, abs=5))
    assert told["expires_at"] == pytest.approx(login.store.clock() + 120, abs=10)
    assert told["server"] == {"base_url": f"http://{door.host}{door.base}", "ready": True}
    await enters(door, told["token"])
    who = read(await ask(door, Authorization=f"Bearer {told['token']}"))
    assert (who["user"], who["server"]) == (told["user"], told["server"])
    assert who["expires_at"] == pytest.approx(told["expires_at"], abs=1)
    gone = await ask(door, "DELETE", Authorization=f"Bearer {told['token']}")
    assert (gone.status, gone.body) == (204, b"")
    assert await rest(door, told["token"]) == (403, "token_revoked")
    assert await slug(door, told["token"]) == "token_revoked"
    again = await ask(door, "DELETE", Authorization=f"Bearer {told['token']}")
    assert again.status == 204
    await door.app.event_logger.gather_listeners()
    assert [name for name, _ in emitted] == ["ticket_issued", "ticket_used", "ticket_revoked"]
    issued, used, revoked = (data for _, data in emitted)
    assert issued["family"] == used["family"] == revoked["family"]
    assert (issued["source"], issued["single_use"], revoked["cause"]) == ("token", False, "request")
    assert told["token"] not in str(emitted)
    assert door.token not in str(emitted)


@pytest.mark.parametrize("way", ["subprotocol", "url", "header"])
async def test_C6_3_by_whatever_way_a_token_comes(door, way):
    token = await ticket(door)
    path = f"{EVENTS}?token={token}" if way == "url" else EVENTS
    headers = bears(token) if way == "header" else {}
    offered = [MARKER, bearing(token)] if way == "subprotocol" else []
    async with await door.knock(path, offered, headers) as socket:
        assert socket.status == 101
        (entry,) = door.guard.registry
        assert entry.source.value == way
        assert entry.grant.family
        assert door.guard.registry.by_family(entry.grant.family) == [entry]
    assert door.guard.registry.by_family("another") == []
    answer = await door.fetch(f"{ME}?token={token}")
    assert answer.status == 200


async def test_C6_3_a_ticket_and_its_token_are_one_principal(door):
    token = await ticket(door)
    async with (
        await door.knock(EVENTS, offer(token)),
        await door.knock(EVENTS, offer(door.token)),
    ):
        first, second = door.guard.registry
        assert first.principal == second.principal


class Seen(JupyterHandler):
    """Tells what a handler sees of its request."""

    def get(self) -> None:
        names = ("Authorization", "Cookie", "Referer")
        seen = {name: self.request.headers.get(name) for name in names}
        self.finish({**seen, "uri": self.request.uri, "token": self.token_authenticated})


async def test_C6_3_C2_3_no_handler_sees_a_ticket_or_what_is_behind_it(door):
    door.add("seen", Seen)
    token = await ticket(door)
    cookie = f"_xsrf=x; {await door.login_cookie()}"
    answer = await door.fetch(f"seen?a=b&token={token}", {"Cookie": cookie})
    assert read(answer) == {
        "Authorization": None,
        "Cookie": cookie,
        "Referer": None,
        "uri": f"{door.base}seen?a=b",
        "token": True,
    }
    answer = await door.fetch("seen", bears(token))
    assert read(answer)["Authorization"] is None
    # Neither one that is not what let the client in.
    answer = await door.fetch(f"seen?token={door.token}", bears(token))
    assert (read(answer)["Authorization"], read(answer)["token"]) == (None, True)
    page = f"http://{door.host}/?token={token}"
    answer = await door.fetch("seen", {"Authorization": f"token {door.token}", "Referer": page})
    assert token not in read(answer)["Referer"]
    handlers: list[Socket] = []
    door.add("echo", Socket, seen=handlers)
    async with await door.knock(f"echo?token={token}", offer(door.token), {}) as socket:
        assert socket.status == 101
        assert token not in f"{handlers[0].request.uri}{handlers[0].request.headers}"


async def test_C6_3_the_requests_own_cookie_is_hidden(door, login):
    token = await ticket(door)
    cookie = await door.login_cookie()
    await login.store.revoke(token)
    answer = await door.fetch(ME, {**bears(token), "Cookie": cookie})
    assert answer.status == 403
    assert await slug(door, token, Cookie=cookie) == "token_revoked"


async def test_C6_3_what_needs_no_user_is_served_with_a_bad_ticket(door):
    for token in (NOBODY, f"{PREFIX}x"):
        answer = await door.fetch("api/token-ws/capabilities", bears(token))
        assert answer.status == 200
        assert await rest(door, token) == (403, "token_rejected")
        assert await slug(door, token) == "token_rejected"


async def test_C6_3_a_page_with_a_bad_ticket_leads_to_the_login_page(door, jp_base_url):
    answer = await door.fetch(f"api/token-ws/signed-in?token={NOBODY}")
    assert answer.status == 302
    assert answer.headers["location"].startswith(f"{jp_base_url}login")


class Plain(WebSocketHandler):
    """A websocket of nobody's framework, with a user of its own."""

    def initialize(self, seen: list[Any]) -> None:
        self.seen = seen

    def get_current_user(self) -> Any:
        _, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return "ann" if token == TOKEN else None

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.current_user is None:
            raise web.HTTPError(403)
        await super().get(*args, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        self.seen.append(str(self.request.headers) + str(self.request.uri))


class Guest(WebSocketHandler):
    """One that asks nobody."""

    def open(self, *args: str, **kwargs: str) -> None:
        pass


def config(kind: Kind, **traits: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {name: dict(value) for name, value in kind.config.items()}
    merged.setdefault("ServerApp", {})["jpserver_extensions"] = {"jupyter_token_ws": True}
    merged["TokenWebSocketApp"] = traits
    return merged


BOTH = pytest.mark.parametrize("jp_server_config", [config(PASSWORD_AND_TOKEN)], ids=["both"])


@BOTH
@pytest.mark.parametrize("handler", [Plain, Guest])
async def test_C6_3_C2_6_a_websocket_that_is_not_jupyters(door, handler, login):
    seen: list[str] = []
    door.add("plain", handler, **({"seen": seen} if handler is Plain else {}))
    token = await ticket(door)
    for path, offered, headers in (
        ("plain", [MARKER, bearing(token)], {}),
        (f"plain?token={token}", [], {}),
        ("plain", [], bears(token)),
    ):
        async with await door.knock(path, offered, headers) as socket:
            assert socket.status == 101
            (entry,) = door.guard.registry
            assert entry.grant.family
        await door.settled()
    assert token not in str(seen)
    assert TOKEN not in str(seen)
    await login.store.revoke(token)
    assert await slug(door, token, "plain") == "token_revoked"
    assert await slug(door, NOBODY, "plain") == "token_rejected"


# -- every identity provider -----------------------------------------------------------------------


@pytest.fixture
def kind(request) -> Kind:
    found: Kind = request.param
    return found


def every(*kinds: Kind) -> Any:
    return pytest.mark.parametrize(
        ("kind", "jp_server_config"),
        [(kind, config(kind)) for kind in kinds],
        indirect=["kind"],
        ids=map(str, kinds),
    )


async def judged(door: Door, answer: Answer, expected: bool) -> None:
    """A login was answered with a ticket that is good, or was refused."""
    if expected:
        assert answer.status == 200, answer
        assert "set-cookie" not in answer.headers
        await enters(door, read(answer)["token"])
    else:
        assert answer.status == 403, answer
        assert read(answer)["status"] in {"forbidden", "token_rejected", "credentials_missing"}


@every(*KINDS)
async def test_C6_1_C6_3_a_token_under_every_provider(door, kind):
    await judged(
        door, await ask(door, "POST", {"token": TOKEN}), expected=kind.takes_token or kind.off
    )
    await judged(door, await ask(door, "POST", {"token": BAD}), expected=kind.off)
    for scheme in kind.schemes:
        answer = await ask(door, "POST", Authorization=f"{scheme} {TOKEN}")
        await judged(door, answer, expected=kind.takes_token or kind.off)
        answer = await ask(door, "POST", Authorization=f"{scheme} {BAD}")
        await judged(door, answer, expected=kind.off)


@every(*(kind for kind in KINDS if kind.login))
async def test_C6_1_C6_3_a_cookie_under_every_provider(door, kind):
    """Where the provider keeps other cookies than upstream's, there are tickets for tokens only."""
    cookie = kind.good_cookie(door.app, door.port)
    headers = {"Cookie": f"_xsrf=x; {cookie}; other=secret", "X_XSRFToken": "x"}
    good = kind.off or kind.login != "session"
    answer = await ask(door, "POST", **headers)
    await judged(door, answer, expected=good)
    if not good:
        assert read(answer)["status"] == "forbidden"
    elif not kind.off:
        token = read(answer)["token"]
        kept = (await Login.of(door.app.web_app.settings).store.look_up(token)).credential
        assert (kept.kind, kept.value) == ("Cookie", cookie)


@every(*KINDS)
async def test_C6_1_whoever_a_proxy_names_gets_no_ticket(door, kind):
    answer = await ask(door, "POST", {"token": BAD}, X_Remote_User="ann")
    await judged(door, answer, expected=kind.off)
    if kind.remote_user:
        answer = await ask(door, "POST", X_Remote_User="ann", Cookie="_xsrf=x", X_XSRFToken="x")
        assert (answer.status, read(answer)["status"]) == (403, "forbidden")
        who = await ask(door, X_Remote_User="ann")
        assert (who.status, read(who)["user"]["username"]) == (200, "ann")


@every(*KINDS)
async def test_C6_1_a_password_under_every_provider(door, kind):
    known = "hashed_password" in str(kind.config) and not kind.off
    answer = await ask(door, "POST", {"password": "a password"})
    await judged(door, answer, expected=known or kind.off)
    if known:
        kept = await Login.of(door.app.web_app.settings).store.look_up(read(answer)["token"])
        assert kept.credential.kind == "Cookie"
    await judged(door, await ask(door, "POST", {"password": "another"}), expected=kind.off)


LEGACY_PASSWORD = Kind(
    "legacy, password",
    {
        "ServerApp": {"login_handler_class": PlainLegacyLogin},
        "PasswordIdentityProvider": {"hashed_password": HASH},
        "IdentityProvider": {"token": TOKEN},
    },
    names=False,
    login="legacy",
)


@every(FLAG)
async def test_C6_1_where_there_are_no_passwords_that_is_said(door, kind):
    answer = await ask(door, "POST", {"password": "a password"})
    assert answer.status == 403
    assert read(answer) == {
        "status": "forbidden",
        "message": "there are no passwords here: log in with a token",
    }


@every(LEGACY_PASSWORD)
async def test_C6_1_a_password_as_before_identity_providers(door, kind):
    await judged(door, await ask(door, "POST", {"password": "a password"}), expected=True)
    await judged(door, await ask(door, "POST", {"password": "another"}), expected=False)


class Slow(FlagProvider):
    """Has a form of its own, which takes its time; the cookie is its own too."""

    async def process_login_form(  # type: ignore[override]
        self, handler: web.RequestHandler
    ) -> User | None:
        await asyncio.sleep(0)
        typed = handler.get_argument("password")
        if typed == "broken":
            raise web.HTTPError(502)
        if typed == "locked":
            raise web.HTTPError(403)
        return User("ann") if typed == "right" else None

    def set_login_cookie(self, handler: web.RequestHandler, user: User) -> None:
        handler.set_cookie("session", "of-ann")


class Cookieless(Slow):
    """The same, but it keeps nothing."""

    def set_login_cookie(self, handler: web.RequestHandler, user: User) -> None: ...


def of(provider: type[IdentityProvider]) -> Kind:
    return Kind(provider.__name__, {"ServerApp": {"identity_provider_class": provider}})


@every(of(Slow))
async def test_C6_1_a_password_by_a_form_of_the_providers_own(door, kind):
    await judged(door, await ask(door, "POST", {"password": "right"}), expected=True)
    for wrong in ("locked", "wrong"):
        await judged(door, await ask(door, "POST", {"password": wrong}), expected=False)
    broken = await ask(door, "POST", {"password": "broken"})
    assert (broken.status, read(broken)["status"]) == (502, "internal_error")


@every(of(Cookieless))
async def test_C6_1_a_password_that_leaves_no_cookie_gives_no_ticket(door, kind):
    answer = await ask(door, "POST", {"password": "right"})
    assert (answer.status, read(answer)["status"]) == (403, "forbidden")


class Hub(FlagProvider):
    """Keeps a token in its cookie, as JupyterHub's does."""

    @property
    def hub_auth(self) -> Any:
        return self

    def get_token(self, handler: Any, in_cookie: bool = False) -> str | None:
        found = super().get_token(handler)
        return found or (handler.get_cookie("hub") if in_cookie else None)

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        if handler.get_cookie("hub") == "down":
            raise web.HTTPError(503)
        if handler.get_cookie("hub") == TOKEN:
            return User("ann")
        return await super().get_user(handler)


@every(of(Hub))
async def test_C6_3_of_a_hubs_cookie_the_token_inside_is_kept(door, kind):
    xsrf = {"X_XSRFToken": "x"}
    answer = await ask(door, "POST", Cookie=f"_xsrf=x; hub={TOKEN}", **xsrf)
    await judged(door, answer, expected=True)
    kept = await Login.of(door.app.web_app.settings).store.look_up(read(answer)["token"])
    assert (kept.credential.kind, kept.credential.value) == ("Authorization", f"token {TOKEN}")
    # Nothing is known of its other cookies.
    answer = await ask(door, "POST", Cookie=f"_xsrf=x; {SESSION}", **xsrf)
    assert (answer.status, read(answer)["status"]) == (403, "forbidden")
    answer = await ask(door, "POST", Cookie="_xsrf=x; hub=down", **xsrf)
    assert (answer.status, read(answer)["status"]) == (503, "unavailable")


class Another(FlagProvider):
    """Its token is somebody else's than its cookie."""

    def get_cookie_name(self, handler: web.RequestHandler) -> str:
        return "session"

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        user = session_user(handler)
        if user is not None and handler.get_cookie("other"):
            return User("bob")
        return user


class Two(FlagProvider):
    """Needs two cookies."""

    def get_cookie_name(self, handler: web.RequestHandler) -> str:
        return "session"

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        return session_user(handler) if handler.get_cookie("other") else None


@every(of(Another), of(Two))
async def test_C6_3_what_is_kept_alone_must_be_the_same_user(door, kind):
    xsrf = {"X_XSRFToken": "x"}
    answer = await ask(door, "POST", Cookie=f"_xsrf=x; {SESSION}; other=1", **xsrf)
    assert (answer.status, read(answer)["status"]) == (403, "forbidden")
    answer = await ask(door, "POST", Cookie=f"_xsrf=x; {SESSION}", **xsrf)
    await judged(door, answer, expected="Another" in kind.name)


class Refusing(FlagProvider):
    """Knows who it is, who may not enter."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        user = await super().get_user(handler)
        if getattr(self, "closed", False) and user is not None:
            handler._cached_hub_user = user  # type: ignore[attr-defined]
            return None
        return user


@every(of(Refusing))
async def test_C6_3_who_may_not_enter_is_told_so(door, kind):
    answer = await ask(door, "POST", {"token": TOKEN})
    token = read(answer)["token"]
    await enters(door, token)
    door.app.identity_provider.closed = True
    assert await rest(door, token) == (403, "forbidden")
    assert await slug(door, token) == "forbidden"
    answer = await ask(door, "POST", {"token": TOKEN})
    assert (answer.status, read(answer)["status"]) == (403, "forbidden")


class Posted(APIHandler):
    @web.authenticated
    def post(self) -> None:
        self.finish({})


ELSEWHERE = {"Origin": "https://elsewhere.example"}


@pytest.mark.parametrize(
    ("kind", "way", "jp_server_config"),
    [
        pytest.param(kind, way, config(kind), id=f"{kind}, {way}")
        for kind in (STOCK, PLAIN_LEGACY, FLAG)
        for way in ("token", "cookie")
        if way == "token" or kind.login != "session"
    ],
    indirect=["kind"],
)
async def test_C6_3_C2_7_a_ticket_counts_as_a_token_for_origin_and_xsrf(door, kind, way):
    """Whatever is behind it: no browser adds a ticket by itself."""
    door.add("posted", Posted)
    door.add("echo", Socket)
    cookie = {"Cookie": f"_xsrf=x; {kind.good_cookie(door.app, door.port)}"}
    if way == "token":
        answer = await ask(door, "POST", {"token": TOKEN})
    else:
        answer = await ask(door, "POST", X_XSRFToken="x", **cookie)
    token = read(answer)["token"]
    for path in (EVENTS, "echo"):
        async with await door.knock(path, offer(token), ELSEWHERE) as socket:
            assert socket.status == 101
        async with await door.knock(path, [], {**ELSEWHERE, **cookie}) as other:
            assert other.status == 403
    for headers in (bears(token), {**bears(token), **cookie}):
        assert (await door.fetch("posted", {**ELSEWHERE, **headers}, method="POST")).status == 200
    answer = await door.fetch("posted", {**ELSEWHERE, **cookie}, method="POST")
    assert answer.status in (403, 404)  # for XSRF, or for Origin: what upstream looks at first


@every(RAISING)
async def test_C6_3_a_provider_that_raises_for_what_is_behind_it(door, kind, monkeypatch):
    door.add("plain", Guest)
    token = read(await ask(door, "POST", {"token": TOKEN}))["token"]
    error = web.HTTPError(401)

    def known(self: Any, token: str) -> User | None:
        raise error

    monkeypatch.setattr(RaisingProvider, "known", known)
    for path in (EVENTS, "plain"):
        assert await slug(door, token, path) == "token_revoked"
    assert await rest(door, token) == (403, "token_revoked")
    error = web.HTTPError(503)  # nobody knows: that is no verdict
    for path in (EVENTS, "plain"):
        assert await slug(door, token, path) == "unavailable"
    assert (await rest(door, token))[0] == 503


async def test_C6_3_a_websocket_with_nobody_to_ask(door):
    door.add("guest", Guest)
    token = await ticket(door)
    provider = door.app.web_app.settings.pop("identity_provider")
    try:
        assert await slug(door, token, "guest") == "token_revoked"
    finally:
        door.app.web_app.settings["identity_provider"] = provider


# -- what counts -----------------------------------------------------------------------------------


async def test_C6_1_nobody_without_a_credential(door):
    for method in ("GET", "POST"):
        answer = await ask(door, method)
        assert (answer.status, read(answer)["status"]) == (403, "credentials_missing")
        answer = await door.fetch(f"{LOGIN}?token={door.token}", method=method)
        assert (answer.status, read(answer)["status"]) == (403, "url_token_refused")
        answer = await ask(door, method, Authorization=f"token {BAD}")
        assert (answer.status, read(answer)["status"]) == (403, "token_rejected")


async def test_C6_1_what_is_in_the_body_counts_alone(door):
    cookie = await door.login_cookie()
    headers = {"Cookie": f"_xsrf=x; {cookie}", "X_XSRFToken": "x"}
    assert (await ask(door, "POST", **headers)).status == 200
    for way in ("token", "password"):
        body = {way: BAD}
        answer = await ask(door, "POST", body, **headers, Authorization=f"token {door.token}")
        assert answer.status == 403
        told = {"status": "token_rejected", "message": f"the {way} is not valid here"}
        assert read(answer) == told


async def test_C6_1_a_cookie_needs_xsrf_and_origin(door):
    cookie = f"_xsrf=x; {await door.login_cookie()}"
    for headers in (
        {},
        {"X_XSRFToken": "y"},
        {"X_XSRFToken": "x", "Origin": "https://elsewhere.example"},
    ):
        answer = await ask(door, "POST", Cookie=cookie, **headers)
        assert (answer.status, read(answer)["status"]) == (403, "forbidden")
    origin = {"Origin": f"http://{door.host}"}
    assert (await ask(door, "POST", Cookie=cookie, X_XSRFToken="x", **origin)).status == 200
    # Who shows a token need not: no browser adds it by itself.
    elsewhere = {"Origin": "https://elsewhere.example"}
    assert (await ask(door, "POST", {"token": door.token}, **elsewhere)).status == 200
    assert (await ask(door, "POST", **elsewhere, **bears(door.token))).status == 200


@BOTH
async def test_C6_1_no_other_site_tries_passwords(door):
    body = {"password": "a password"}
    answer = await ask(door, "POST", body, Origin="https://elsewhere.example")
    assert (answer.status, read(answer)["status"]) == (403, "forbidden")
    assert (await ask(door, "POST", body, Origin=f"http://{door.host}")).status == 200


FRIEND, EVIL = "https://friend.example", "https://evil.example"


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, {FRIEND: None, EVIL: None}),
        # The browser compares: what is told to all is for one.
        ({"allow_origin": FRIEND}, {FRIEND: FRIEND, EVIL: FRIEND}),
        ({"allow_origin_pat": r"https://friend\..*"}, {FRIEND: FRIEND, EVIL: None}),
    ],
    ids=["none", "one", "pattern"],
)
async def test_C6_1_preflights_of_pages_of_other_origins(door, settings, allowed):
    """What a page needs, where stock allows as much at its own paths, and nobody else."""
    door.app.web_app.settings.update(settings)
    asking = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    for origin, told in allowed.items():
        ours, stocks = [
            await door.fetch(path, {"Origin": origin, **asking}, method="OPTIONS")
            for path in (LOGIN, "api/kernels")
        ]
        assert (ours.status, stocks.status) == (204, 200)
        found = ours.headers.get("access-control-allow-origin")
        assert found == told
        # Stock's own answer allows at least as much.
        assert stocks.headers.get("access-control-allow-origin") in {told, origin}
        names = ours.headers["access-control-allow-headers"].split(", ")
        assert set(stocks.headers["access-control-allow-headers"].split(", ")) <= set(names)
        assert ours.headers["access-control-allow-methods"] == "GET, POST, DELETE, OPTIONS"
        assert "set-cookie" not in ours.headers


async def test_C6_1_a_page_that_is_allowed_may_read_why_it_has_no_ticket(door):
    door.app.web_app.settings["allow_origin"] = FRIEND
    for method, body in (("POST", {"token": BAD}), ("POST", {"renew": True}), ("GET", None)):
        for headers in ({}, bears(NOBODY)):
            answer = await ask(door, method, body, Origin=FRIEND, **headers)
            assert answer.status >= 400
            assert answer.headers["access-control-allow-origin"] == FRIEND


@BOTH
async def test_C6_1_no_password_is_changed(door):
    before = door.app.identity_provider.hashed_password
    for body in (
        {"password": "a password", "new_password": "mine"},
        {"password": TOKEN, "new_password": "mine"},
    ):
        answer = await ask(door, "POST", body)
        assert (answer.status, read(answer)["status"]) == (400, "bad_request")
        answer = await door.fetch(
            f"{LOGIN}?new_password=mine",
            {"Content-Type": "application/json"},
            method="POST",
            body=json.dumps({"password": body["password"]}).encode(),
        )
        assert answer.status == 200
    assert door.app.identity_provider.hashed_password == before == HASH


BAD_BODIES: list[tuple[Any, str]] = [
    (b"no JSON", "bad_request"),
    (b"\xff", "bad_request"),
    (b"[" * 10_000, "bad_request"),
    (b'{"audience": ["api/kernels"], "audience": null}', "bad_request"),
    ([], "bad_request"),
    ("text", "bad_request"),
    ({"tokn": "x"}, "bad_request"),
    ({"token": TOKEN, "audiense": ["api"]}, "bad_request"),
    ({"token": "x", "password": "y"}, "bad_request"),
    ({"token": "x", "renew": True}, "bad_request"),
    ({"renew": False}, "bad_request"),
    ({"renew": 1}, "bad_request"),
    ({"renew": True, "audience": ["api"]}, "bad_request"),
    ({"renew": True, "single_use": True}, "bad_request"),
    ({"token": ""}, "malformed_credentials"),
    ({"token": 1}, "malformed_credentials"),
    ({"token": None}, "malformed_credentials"),
    ({"token": "a\r\nCookie: b"}, "malformed_credentials"),
    ({"token": "\ud800"}, "malformed_credentials"),
    ({"token": "x" * 4097}, "malformed_credentials"),
    ({"password": ["x"]}, "malformed_credentials"),
    ({"password": "x" * 4097}, "malformed_credentials"),
]


@pytest.mark.parametrize(("body", "wanted"), BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_C6_1_C5_4_bad_bodies(door, body, wanted):
    answer = await ask(door, "POST", body, Authorization=f"token {door.token}")
    assert (answer.status, read(answer)["status"]) == (400, wanted)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
WORDS = st.sampled_from(["password", "token", "renew", "max_age", "single_use", "audience", "x"])


@given(
    st.binary(max_size=40)
    | (VALUES | st.dictionaries(WORDS, VALUES)).map(lambda value: json.dumps(value).encode())
)
def test_C6_1_any_body_is_read_or_refused(body):
    refused, asked = "", Asked({})
    try:
        asked = read_body(body, 4096)
    except Refused as error:
        refused = error.slug
    assert refused in {"", "bad_request", "malformed_credentials"}
    if refused:
        return
    ways = [asked.password is not None, asked.token is not None, asked.renew]
    assert sum(ways) <= 1
    assert set(asked.options) <= (
        {"max_age"} if asked.renew else {"max_age", "single_use", "audience"}
    )
    sent = json.loads(body) if body else {}
    told = {**asked.options, "password": asked.password, "token": asked.token, "renew": asked.renew}
    for name, value in sent.items():
        assert json.dumps(told[name]) == json.dumps(value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_age": 0},
        {"max_age": "long"},
        {"single_use": 1},
        {"audience": []},
        {"audience": "api"},
        {"audience": ["../x"]},
    ],
    ids=str,
)
async def test_C6_1_C5_4_bad_options(door, options):
    answer = await ask(door, "POST", {"token": door.token, **options})
    assert (answer.status, read(answer)["status"]) == (400, "bad_request")
    assert read(answer)["message"] != "the request was not understood"


async def test_C6_1_bodies_are_bounded(door):
    json_type = {"Content-Type": "application/json"}
    answer = await door.fetch(LOGIN, {**json_type, "Content-Length": "99999999999"}, method="POST")
    assert answer.status == 413
    exactly = b'{"token": "%s"}' % (b"x" * (MAX_BODY - 13))
    assert len(exactly) == MAX_BODY
    assert (await ask(door, "POST", exactly)).status == 400
    answer = await ask(door, "POST", exactly + b" ")
    assert (answer.status, read(answer)["message"]) == (413, "the body is too large")
    head = (
        f"POST {door.base}{LOGIN} HTTP/1.1\r\nHost: {door.host}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    ).encode()
    small = json.dumps({"token": door.token}).encode()
    for body, status in ((small, 200), (b" " * (MAX_BODY + 1), 400)):
        chunked = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        async with await door.raw(chunked) as knock:
            assert knock.status == status


async def test_C6_1_C5_4_bodies_are_json_only(door):
    body = json.dumps({"token": door.token}).encode()
    answer = await ask(door, "POST", body, Content_Type="text/plain")
    assert answer.status == 415
    assert (await ask(door, "PUT")).status == 405
    answer = await ask(door, "POST", body, Api_Version="9.0")
    assert (answer.status, read(answer)["status"]) == (422, "unsupported_api_version")


# -- options ---------------------------------------------------------------------------------------


class Api(APIHandler):
    @web.authenticated
    def get(self) -> None:
        self.finish({})


async def test_C6_1_a_ticket_is_good_for_its_audience_only(door):
    door.add("api/some/thing", Api)
    door.add("api/something", Api)
    token = await ticket(door, audience=["api/some", "api/events"])
    assert (await door.fetch("api/some/thing", bears(token))).status == 200
    refused = await door.fetch("api/something", bears(token))
    assert (refused.status, read(refused)["reason"]) == (403, "wrong_audience")
    assert await rest(door, token) == (403, "wrong_audience")
    async with await door.knock(EVENTS, offer(token)) as socket:
        assert socket.status == 101
    assert await slug(door, token, "terminals/websocket/1") == "wrong_audience"
    # Looking at it, renewing and revoking it are no question of its audience.
    assert (await ask(door, **bears(token))).status == 200
    renewed = await ask(door, "POST", {"renew": True}, **bears(token))
    assert renewed.status == 200
    assert await rest(door, read(renewed)["token"]) == (403, "wrong_audience")
    assert (await ask(door, "DELETE", **bears(token))).status == 204


async def test_C6_5_one_for_a_single_use_opens_one_websocket(door):
    token = await ticket(door, single_use=True)
    assert await rest(door, token) == (403, "wrong_audience")
    assert (await ask(door, **bears(token))).status == 200
    renewal = await ask(door, "POST", {"renew": True}, **bears(token))
    assert (renewal.status, read(renewal)["status"]) == (400, "bad_request")
    async with await door.knock(EVENTS, offer(token)) as socket:
        assert socket.status == 101
    assert await slug(door, token) == "token_rejected"


async def test_C6_5_it_is_not_used_up_by_what_is_refused(door):
    token = await ticket(door, single_use=True, audience=["api/events", "nothing"])
    origin = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    assert await slug(door, token, "terminals/websocket/1", **origin) == "wrong_audience"
    assert await slug(door, token, "nothing") == "not_found"
    async with await door.knock(EVENTS, offer(token), {"Host": "evil.example"}) as socket:
        assert socket.status == 403
    settings = door.app.web_app.settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            settings, "authorizer", NoEvents(identity_provider=door.app.identity_provider)
        )
        assert await slug(door, token) == "forbidden"
    door.guard.options = type(door.guard.options)(max_connections=1)
    async with await door.knock(EVENTS, offer(door.token)):
        assert await slug(door, token) == "too_many_connections"
    async with await door.knock(EVENTS, offer(token)) as socket:
        assert socket.status == 101


async def test_C6_5_of_many_at_once_one_opens(door):
    token = await ticket(door, single_use=True)
    knocks = await asyncio.gather(*(door.knock(EVENTS, [], bears(token)) for _ in range(8)))
    async with contextlib.AsyncExitStack() as stack:
        for knock in knocks:
            await stack.enter_async_context(knock)
        assert sorted(knock.status for knock in knocks) == [101, *[403] * 7]
        assert len(door.guard.registry) == 1
    await door.settled()


@pytest.mark.parametrize("refused", [False, True])
async def test_C6_5_one_that_is_late_does_not_open(door, login, monkeypatch, refused):
    token = await ticket(door, single_use=True)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def consume(request: Any, ticket: str) -> None:
        asked.set()
        await answer.wait()
        if refused:
            raise Refused("token_rejected")

    monkeypatch.setattr(login, "consume", consume)
    knock = asyncio.ensure_future(door.refused(EVENTS, offer(token)))
    await asked.wait()
    (opening,) = door.guard.opening
    opening.refuse_opening("open_timeout")
    answer.set()
    assert (await knock).slug == "open_timeout"
    assert not len(door.guard.registry)
    await door.settled()


async def test_C6_4_renewal(door, emitted):
    token = await ticket(door, max_age=100, audience=["api"])
    answer = await ask(door, "POST", {"renew": True, "max_age": 50}, **bears(token))
    assert answer.status == 200
    renewed = read(answer)
    assert renewed["token"] != token
    assert renewed["expires_in"] == pytest.approx(50, abs=5)
    for good in (token, renewed["token"]):
        await enters(door, good)
    left = read(await ask(door, **bears(token)))["expires_in"]
    assert 0 < left <= 30
    assert (await ask(door, "DELETE", **bears(token))).status == 204
    assert await rest(door, renewed["token"]) == (403, "token_revoked")
    await door.app.event_logger.gather_listeners()
    names = [name for name, _ in emitted]
    assert names.count("ticket_renewed") == 1
    assert len({data["family"] for _, data in emitted}) == 1


async def test_C6_4_a_ticket_gives_no_other(door):
    token = await ticket(door)
    for answer in (
        await ask(door, "POST", **bears(token)),
        await ask(door, "POST", {"max_age": 9999}, **bears(token)),
        await ask(door, "POST", {"token": token}),
        await ask(door, "POST", {"renew": True}, **bears(door.token)),
        await ask(door, "POST", {"renew": True, "audience": ["api"]}, **bears(token)),
        await ask(door, "POST", {"renew": True, "single_use": False}, **bears(token)),
    ):
        assert (answer.status, read(answer)["status"]) == (400, "bad_request")
    for answer in (
        await ask(door, "POST", {"renew": True}),
        await ask(door, "POST", {"renew": True}, **bears(NOBODY)),
    ):
        assert answer.status == 403


async def test_C6_4_delete_takes_a_ticket_in_authorization_only(door):
    token = await ticket(door)
    for answer in (
        await ask(door, "DELETE"),
        await ask(door, "DELETE", **bears(door.token)),
        await door.fetch(f"{LOGIN}?token={token}", method="DELETE"),
    ):
        assert (answer.status, read(answer)["status"]) == (400, "bad_request")
    await enters(door, token)
    assert (await ask(door, "DELETE", **bears(NOBODY))).status == 204


async def test_C6_4_a_ticket_expires(door, login):
    now = login.store.clock()
    login.store.clock = lambda: now
    token = await ticket(door, max_age=10)
    login.store.clock = lambda: now + 10
    assert await rest(door, token) == (403, "token_expired")
    assert await slug(door, token) == "token_expired"
    answer = await ask(door, "POST", {"renew": True}, **bears(token))
    assert (answer.status, read(answer)["status"]) == (403, "token_expired")


async def test_C6_3_a_ticket_ends_with_what_is_behind_it(door):
    token = await ticket(door)
    door.app.identity_provider.token = "another"
    assert await rest(door, token) == (403, "token_revoked")
    assert await slug(door, token) == "token_revoked"
    answer = await ask(door, "POST", {"renew": True}, **bears(token))
    assert (answer.status, read(answer)["status"]) == (403, "token_revoked")


# -- limits ----------------------------------------------------------------------------------------

FEW = pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 2, "password_wait": 0}])


@FEW
async def test_tickets_that_nobody_issued_are_counted_as_wrong_tokens(door):
    good = await ticket(door)
    made = [f"{PREFIX}{n:043d}" for n in range(5)]
    assert [(await rest(door, token))[1] for token in made[:2]] == ["token_rejected"] * 2
    answer = await door.fetch(ME, bears(made[2]))
    assert (answer.status, read(answer)["reason"]) == (429, "too_many_attempts")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert await slug(door, made[3]) == "too_many_attempts"
    answer = await ask(door, "POST", {"renew": True}, **bears(made[4]))
    assert (answer.status, read(answer)["status"]) == (429, "too_many_attempts")
    answer = await ask(door, "POST", {"token": BAD})
    assert (answer.status, read(answer)["status"]) == (429, "too_many_attempts")
    assert read(answer)["retry_after"] > 0
    await enters(door, good)
    await ticket(door)


@pytest.mark.parametrize(
    "jp_server_config", [config(PASSWORD_AND_TOKEN, attempt_burst=2, password_wait=0)], ids=["few"]
)
async def test_passwords_are_tried_at_a_pace(door):
    for _ in range(4):
        assert (await ask(door, "POST", {"password": "a password"})).status == 200
    for _ in range(2):
        assert (await ask(door, "POST", {"password": "wrong"})).status == 403
    answer = await ask(door, "POST", {"password": "wrong"})
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0
    # The right one waits for its turn as well: what is short could be guessed otherwise.
    assert (await ask(door, "POST", {"password": "a password"})).status == 429
    await ticket(door)


@pytest.mark.parametrize(
    "jp_server_config", [config(PASSWORD_AND_TOKEN, attempt_burst=0)], ids=["any number"]
)
async def test_passwords_without_a_limit(door):
    for _ in range(30):
        assert (await ask(door, "POST", {"password": "wrong"})).status == 403
    assert (await ask(door, "POST", {"password": "a password"})).status == 200


@pytest.mark.parametrize(
    "jp_server_config",
    [config(PASSWORD_AND_TOKEN, attempt_burst=1, attempt_window=0.2, password_wait=10)],
    ids=["slow"],
)
async def test_a_password_waits_for_its_turn(door):
    assert (await ask(door, "POST", {"password": "wrong"})).status == 403
    assert (await ask(door, "POST", {"password": "a password"})).status == 200


# -- where things are ------------------------------------------------------------------------------


async def test_C4_6_C6_1_the_capabilities_name_it(door):
    document = read(await door.fetch("api/token-ws/capabilities"))
    assert document["login"] == {"path": LOGIN, "max_age": 300, "revocable": True}
    assert set(document["login"]) == set(capabilities_schema()["properties"]["login"]["required"])
    assert document["reasons"]["codes"]["4401"]["token_expired"] == "authenticate"


@pytest.mark.parametrize("token_ws_config", [{"login": False}])
async def test_C4_6_switched_off_there_is_none(door):
    document = read(await door.fetch("api/token-ws/capabilities"))
    assert "login" not in document
    assert "token_expired" not in document["reasons"]["codes"]["4401"]
    assert (await ask(door, **bears(door.token))).status == 404
    assert await slug(door, NOBODY) == "token_rejected"
    assert (await rest(door, NOBODY))[0] == 403
    async with await door.knock(EVENTS, offer(door.token)) as socket:
        assert socket.status == 101


NAMED_AS_A_TICKET = Kind(
    "a token that begins as a ticket", {"PasswordIdentityProvider": {"token": NOBODY}}
)


@pytest.mark.parametrize(
    ("jp_server_config", "warned"),
    [(config(NAMED_AS_A_TICKET), True), (config(PASSWORD_AND_TOKEN), False)],
    ids=["as a ticket", "as a token"],
)
async def test_whose_token_begins_as_tickets_do_is_told(capsys, door, warned):
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if "begins as tickets do" in line]
    assert bool(told) is warned
    assert NOBODY not in "".join(told)


@pytest.mark.parametrize("jp_server_config", [config(OFF, login=False)], ids=["off"])
async def test_C2_2_without_tickets_what_looks_like_one_is_somebody_elses(door):
    door.add("seen", Seen)
    assert read(await door.fetch("seen", bears(NOBODY)))["Authorization"] == f"Bearer {NOBODY}"


@pytest.mark.parametrize("token_ws_config", [{"require_tls": True}])
async def test_C3_3_no_login_over_plain_http(door):
    forwarded = {"X_Forwarded_For": "192.0.2.1"}
    answer = await ask(door, "POST", {"token": door.token}, **forwarded)
    assert (answer.status, read(answer)["status"]) == (426, "tls_required")


@pytest.mark.parametrize("jp_server_config", [config(OFF)], ids=["off"])
async def test_C2_2_where_authentication_is_off_a_ticket_is_ignored_and_taken_out(door):
    handlers: list[Socket] = []
    door.add("echo", Socket, seen=handlers)
    door.add("seen", Seen)
    answer = await ask(door, "POST", Cookie="_xsrf=x", X_XSRFToken="x")
    assert answer.status == 200
    token = read(answer)["token"]
    for shown in (token, NOBODY):
        async with await door.knock(f"echo?token={shown}", [], bears(shown)) as socket:
            assert socket.status == 101
            assert shown not in f"{handlers[-1].request.uri}{handlers[-1].request.headers}"
        assert read(await door.fetch("seen", bears(shown)))["Authorization"] is None


async def test_C2_5_cookies_stay_as_they_are(door):
    token = await ticket(door)
    bad = {"Cookie": f"username-127-0-0-1-{door.port}=nonsense"}
    for answer in (
        await door.fetch(ME, {**bears(token), **bad}),
        await ask(door, **bears(token), **bad),
        await ask(door, "POST", {"renew": True}, **bears(token), **bad),
        await ask(door, "POST", {"token": door.token}, **bad),
        await ask(door, "POST", **bears(door.token), **bad),
    ):
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
    for answer in (
        await ask(door, **bad),
        await ask(door, "POST", **bad),
        await ask(door, "POST", {"token": BAD}, **bad),
        await ask(door, "POST", {"renew": True}, **bears(NOBODY), **bad),
    ):
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


class Told(JupyterHandler):
    """Does what upstream's handlers and pages do for whoever is signed in."""

    @web.authenticated
    async def get(self) -> None:
        """What a page is told, and a cookie of its own and the login cookie, in both of upstream's ways."""
        provider = self.identity_provider
        provider.set_login_cookie(self, self.current_user)
        self.add_header("Set-Cookie", f"{provider.get_cookie_name(self)}=; Path=/")
        self.add_header("Set-Cookie", "other=2")
        self.set_cookie("own", "1")
        config = {"token": self.settings["token"]}
        hook = self.settings["page_config_hook"]
        page = self.render_template("error.html", status_code=200, status_message="", message="")
        self.finish({"config": hook(self, config), "given": config, "page": page})


async def test_C2_5_C6_4_a_ticket_is_not_traded_for_what_lives_longer(door):
    """Pages show the server's token to whoever is signed in, and a change of one's name sets a cookie."""
    door.add("told", Told)
    door.app.web_app.settings["token"] = door.token  # what upstream has there where there are pages
    token = await ticket(door)
    for path, headers in (("told", bears(token)), (f"told?token={token}", {})):
        answer = await door.fetch(path, headers)
        said = read(answer)
        assert said["config"]["token"] == ""
        assert said["given"]["token"] == door.token  # it is everybody's
        assert "tokenWebSocket" in said["config"]
        assert door.token not in said["page"]
        assert not [cookie for cookie in answer.cookies if cookie.startswith("username-")]
        assert {"own=1", "other=2"} <= set(answer.cookies)
    said = read(await door.fetch("told", bears(door.token)))
    assert said["config"]["token"] == door.token
    assert door.token in said["page"]
    missing = await door.fetch("files/of-nobody", bears(token))
    assert missing.status == 404
    assert door.token.encode() not in missing.body


async def test_session_cookies_of_others_are_not_kept(door):
    answer = await ask(door, "POST", Cookie=SESSION)
    assert answer.status == 403
