"""A portal: who logs in there is sent to another server, with a credential that is good there (C6.2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.auth.identity import IdentityProvider, User
from tornado import web

from jupyter_token_ws.login.directory import HubServerDirectory, StaticServerDirectory
from jupyter_token_ws.login.memory import MemoryTicketStore
from jupyter_token_ws.login.service import Login
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Answer, Door
from tests.support.knock import bearing
from tests.support.playing import Other, Says
from tests.unit.guard.conftest import EXTENSIONS

LOGIN = "api/token-ws/login"
TICKET = "jtws_a-ticket-of-the-other-server"
OWN = "the-token-that-this-server-has"
OTHERS_LOGIN = "/ann/api/token-ws/login"
CAPABILITIES = "/ann/api/token-ws/capabilities"


class HubAuth:
    """As much of the Hub's as is asked: the token inside the cookie."""

    def get_token(self, handler: web.RequestHandler, in_cookie: bool) -> str | None:
        return handler.get_cookie("session") if in_cookie else None


class Named(IdentityProvider):
    """Everybody is who their token or cookie names."""

    def get_user(self, handler: web.RequestHandler) -> User | None:
        token = self.get_token(handler)
        if token is not None and token.startswith("token-of-"):
            handler._token_authenticated = True  # type: ignore[attr-defined]
            return User(token.removeprefix("token-of-"))
        cookie = handler.get_cookie("session") or ""
        return User(cookie.removeprefix("token-of-")) if cookie else None


class NamedByHub(Named):
    """The same, but its cookie has a token inside, as a Hub's has, and some whom it knows may not enter."""

    hub_auth = HubAuth()

    def get_user(self, handler: web.RequestHandler) -> User | None:
        user = super().get_user(handler)
        known = self.get_token(handler) == "without-access"
        handler._cached_hub_user = {"name": "eve"} if known else None  # type: ignore[attr-defined]
        return user


PROVIDERS = {"static": Named, "hub": NamedByHub, "nameless": IdentityProvider}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"ann": OWN}))
    path.chmod(0o600)
    return path


@pytest.fixture
def kind() -> str:
    return "static"


@pytest.fixture
def jp_server_config(other: Other, tokens: Path, kind: str) -> dict[str, Any]:
    return {
        "ServerApp": {
            "jpserver_extensions": dict(EXTENSIONS),
            "identity_provider_class": PROVIDERS[kind],
        },
        "TokenWebSocketApp": {
            "server_directory": "static" if kind == "static" else "hub",
            "refusal_burst": 1000,
        },
        "MemoryTicketStore": {"max_age": 100},
        "ServerDirectory": {"timeout": 30.0},
        "StaticServerDirectory": {
            "servers": {"ann": f"{other.url}/ann/"},
            "tokens_file": str(tokens),
        },
        "HubServerDirectory": {"hub_api_url": f"{other.url}/hub/api"},
    }


async def ask(door: Door, method: str, body: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = b"" if body is None else json.dumps(body).encode()
    if data:
        named.setdefault("Content-Type", "application/json")
    return await door.fetch(LOGIN, named, method=method, body=data)


def offer(token: str) -> list[str]:
    return [MARKER, bearing(token), REASON_MARKER]


ANNS = {"Authorization": "token token-of-ann"}
BOBS = {"Authorization": "token token-of-bob"}


async def test_C6_2_who_belongs_elsewhere_gets_a_ticket_of_that_server(door, other):
    other.answers[CAPABILITIES] = Says(200, {"api_versions": ["1.0"]})
    other.answers[OTHERS_LOGIN] = Says(200, {"token": TICKET, "expires_in": 60})
    login = Login.of(door.app.web_app.settings)
    assert isinstance(login.directory, StaticServerDirectory)
    assert isinstance(login.store, MemoryTicketStore)
    login.directory.clock = lambda: 1000.0
    for body, headers in (({"token": "token-of-ann", "max_age": 60}, {}), ({"max_age": 60}, ANNS)):
        other.asked.clear()
        answer = await ask(door, "POST", body, **headers)
        assert answer.status == 200, answer
        assert json.loads(answer.body) == {
            "token": TICKET,
            "token_type": "Bearer",
            "expires_in": 60,
            "expires_at": 1060.0,
            "user": json.loads(answer.body)["user"],
            "server": {"base_url": f"{other.url}/ann/", "ready": True},
        }
        assert json.loads(answer.body)["user"]["username"] == "ann"
        assert other.calls[1] == ("POST", OTHERS_LOGIN, f"token {OWN}")
        assert json.loads(other.asked[1].body) == {"max_age": 60}
        assert not any("token-of-ann" in str(list(a.headers.get_all())) for a in other.asked)
    assert len(login.store) == 0  # nothing was issued here
    told = json.loads((await ask(door, "GET", **ANNS)).body)
    assert told["server"] == {"base_url": f"{other.url}/ann/", "ready": True}


async def test_C6_2_who_belongs_here_gets_a_ticket_of_this_server(door, other):
    answer = await ask(door, "POST", {}, **BOBS)
    told = json.loads(answer.body)
    here = {"base_url": f"http://{door.host}{door.base}", "ready": True}
    assert told["server"] == here
    assert other.asked == []
    async with await door.knock(EVENTS, offer(told["token"])) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
    bears = {"Authorization": f"Bearer {told['token']}"}
    renewed = json.loads((await ask(door, "POST", {"renew": True}, **bears)).body)
    assert renewed["server"] == here


async def test_C3_1_websockets_belong_elsewhere_however_one_came(door, other):
    for headers, offered in (
        ({}, offer("token-of-ann")),
        (ANNS, [REASON_MARKER]),
        ({"Cookie": "session=token-of-ann"}, [REASON_MARKER]),
    ):
        answer = await door.refused(EVENTS, offered, headers)
        assert (answer.code, answer.slug) == (4421, "other_server")
    async with await door.knock(EVENTS, offer("token-of-bob")) as socket:
        assert socket.status == 101
    assert other.asked == []


@pytest.mark.parametrize(
    ("says", "status", "slug", "retry_after"),
    [
        (Says(503, b"", {"Retry-After": "9"}), 503, "unavailable", "9"),
        (Says(403, b""), 503, "unavailable", "5"),
        (Says(400, b""), 400, "bad_request", None),
    ],
)
async def test_C5_4_C6_2_when_the_other_server_gives_no_ticket(
    door, other, says, status, slug, retry_after
):
    other.answers[OTHERS_LOGIN] = says
    answer = await ask(door, "POST", {}, **ANNS)
    assert (answer.status, json.loads(answer.body)["status"]) == (status, slug)
    assert answer.headers.get("retry-after") == retry_after
    told = json.loads((await ask(door, "GET", **ANNS)).body)
    assert told["server"] == {"base_url": f"{other.url}/ann/", "ready": False}


def hub_model(name: str, *servers: str) -> dict[str, Any]:
    told = {s: {"ready": True, "full_url": f"https://hub.example/user/{name}/"} for s in servers}
    return {"kind": "user", "name": name, "servers": told}


@pytest.mark.parametrize("kind", ["hub"])
async def test_C6_2_C6_3_the_hub_is_asked_with_the_caller_s_token_however_it_came(door, other):
    login = Login.of(door.app.web_app.settings)
    assert isinstance(login.directory, HubServerDirectory)
    assert login.directory.base_url == door.base
    assert login.directory.lifetimes == login.store.lifetimes
    login.directory.memory = 0.0
    # Bob has no server, so he gets a ticket here; what is behind it is his token.
    other.answers["/hub/api/user"] = Says(200, hub_model("bob"))
    ticket = json.loads((await ask(door, "POST", {}, **BOBS)).body)["token"]
    cookie = {"Cookie": "session=token-of-bob"}
    other.asked.clear()
    for headers, offered in (
        ({}, offer("token-of-bob")),
        (BOBS, [REASON_MARKER]),
        (cookie, [REASON_MARKER]),
        ({}, offer(ticket)),
    ):
        async with await door.knock(EVENTS, offered, headers) as socket:
            assert socket.status == 101
    for headers in (BOBS, cookie, {"Authorization": f"Bearer {ticket}"}):
        assert (await ask(door, "GET", **headers)).status == 200
    assert [token for _, _, token in other.calls] == ["token token-of-bob"] * 7
    # Now he has one.
    other.answers["/hub/api/user"] = Says(200, hub_model("bob", ""))
    token = {"token": "made", "expires_at": "2026-11-22T12:00:00Z"}
    other.answers["/hub/api/users/bob/tokens"] = Says(201, token)
    told = json.loads((await ask(door, "POST", {}, **BOBS)).body)
    assert (told["token"], told["expires_in"]) == ("made", 100)
    assert told["server"]["base_url"] == "https://hub.example/user/bob/"
    assert (await door.refused(EVENTS, offer(ticket))).slug == "other_server"


@pytest.mark.parametrize("kind", ["hub"])
async def test_C6_1_who_may_not_enter_gets_no_ticket(door, other):
    for body, headers in (
        ({}, {"Authorization": "token without-access"}),
        ({"token": "without-access"}, {}),
    ):
        answer = await ask(door, "POST", body, **headers)
        assert (answer.status, json.loads(answer.body)["status"]) == (403, "forbidden")
    assert other.asked == []


@pytest.mark.parametrize("kind", ["nameless"])
async def test_C6_2_C2_8_who_has_no_name_belongs_here(door, other):
    """jupyter_server's own provider invents one for each request."""
    header = {"Authorization": f"token {door.token}"}
    told = json.loads((await ask(door, "GET", **header)).body)
    assert told["server"]["base_url"] == f"http://{door.host}{door.base}"
    async with await door.knock(EVENTS, offer(door.token)) as socket:
        assert socket.status == 101
    assert other.asked == []


@pytest.mark.parametrize("kind", ["hub"])
async def test_C6_2_a_hub_that_does_not_answer(door, other):
    other.answers["/hub/api/user"] = Says(500, b"")
    for method in ("GET", "POST"):
        answer = await ask(door, method, **BOBS)
        assert (answer.status, json.loads(answer.body)["status"]) == (503, "unavailable")
    socket = await door.refused(EVENTS, offer("token-of-bob"))
    assert (socket.code, socket.slug) == (4503, "unavailable")
    other.answers["/hub/api/user"] = Says(403, b"")
    assert json.loads((await ask(door, "POST", **BOBS)).body)["status"] == "token_rejected"
    assert (await door.refused(EVENTS, offer("token-of-bob"))).slug == "token_rejected"


async def test_the_directory_is_the_one_of_the_configuration(door, other):
    directory = Login.of(door.app.web_app.settings).directory
    assert isinstance(directory, StaticServerDirectory)
    assert directory.timeout == 30.0
    assert directory.servers == {"ann": f"{other.url}/ann/"}
