"""Where users belong: from the configuration, and from a server that plays JupyterHub and says odd things."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Any

import pytest
from traitlets import TraitError
from traitlets.config import Config

from jupyter_token_ws.login import directory as module
from jupyter_token_ws.login.directory import (
    MAX_ANSWER,
    RETRY_AFTER,
    Caller,
    CallerRefused,
    CallerUnknown,
    DirectoryError,
    DirectoryUnavailable,
    HubServerDirectory,
    Place,
    ServerDirectory,
    StaticServerDirectory,
    base_url_of,
)
from jupyter_token_ws.login.tickets import BadRequest, Unsupported
from jupyter_token_ws.protocol.reasons import REASONS
from tests.support.playing import Says
from tests.support.process import free_port

TOKEN = "the-token-of-the-caller"
OWN = "the-token-that-this-server-has"
TICKET = "jtws_a-ticket-of-the-other-server"
ANN = Caller("ann", TOKEN)
USER, TOKENS = "/hub/api/user", "/hub/api/users/ann/tokens"
PATIENCE = 60.0
"""Seconds for what should take milliseconds: the machine may have much else to do."""
SHORT = 0.2
"""Seconds that are let pass where nothing answers."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("JUPYTERHUB"):
            monkeypatch.delenv(name)


@pytest.fixture
def made(jp_asyncio_loop):
    """Makes directories, which are closed in the end."""
    directories: list[ServerDirectory] = []

    def make(kind: type[ServerDirectory], **traits: Any) -> Any:
        directory = kind(**{"timeout": PATIENCE, **traits})
        directory.log.propagate = True
        directories.append(directory)
        return directory

    yield make

    async def close() -> None:
        for directory in directories:
            directory.close()

    jp_asyncio_loop.run_until_complete(close())
    jp_asyncio_loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def hub(made, other):
    """The directory of the Hub that ``other`` plays."""

    def make(**traits: Any) -> HubServerDirectory:
        traits = {"hub_api_url": f"{other.url}/hub/api", **traits}
        directory: HubServerDirectory = made(HubServerDirectory, **traits)
        return directory

    return make


@pytest.fixture
def static(made, other, tmp_path):
    """The directory that knows one server, which ``other`` plays."""
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"ann": OWN, "eve": "eves"}))
    tokens.chmod(0o600)

    def make(**traits: Any) -> StaticServerDirectory:
        servers = {"ann": f"{other.url}/ann", "eve": f"{other.url}/eve/"}
        traits = {"servers": servers, "tokens_file": str(tokens), **traits}
        directory: StaticServerDirectory = made(StaticServerDirectory, **traits)
        return directory

    return make


def server(name: str = "", **more: Any) -> dict[str, Any]:
    path = f"/user/ann/{name}/".replace("//", "/")
    return {
        "name": name,
        "ready": True,
        "url": path,
        "full_url": f"https://hub.example{path}",
        **more,
    }


def model(*servers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "user", "name": "ann", "servers": {s["name"]: s for s in servers}, **more}


# -- none ------------------------------------------------------------------------------------------


async def test_without_a_directory_everybody_belongs_here(made):
    none = made(ServerDirectory)
    assert await none.locate(ANN) is None
    assert not await none.belongs_elsewhere(ANN)
    with pytest.raises(Unsupported):
        await none.log_in(ANN, Place("https://hub.example/", ready=True))


# -- JupyterHub ------------------------------------------------------------------------------------


async def test_C6_2_the_hub_is_asked_as_the_caller(hub, other):
    other.answers[USER] = Says(200, model(server()))
    place = await hub().locate(ANN)
    assert place == Place("https://hub.example/user/ann/", ready=True)
    address = f"{USER}?include_stopped_servers=1"
    assert other.calls == [("GET", address, f"token {TOKEN}")]
    assert "Cookie" not in other.asked[0].headers


async def test_C6_2_the_hub_that_started_this_server_is_the_hub(made, other, monkeypatch):
    """Nothing else of the environment names a server: JUPYTERHUB_SERVICE_URL is where this one listens."""
    monkeypatch.setenv("JUPYTERHUB_API_URL", f"{other.url}/hub/api")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", "http://127.0.0.1:1/user/eve/")
    other.answers[USER] = Says(200, model(server()))
    place = await made(HubServerDirectory).locate(ANN)
    assert place.base_url == "https://hub.example/user/ann/"


@pytest.mark.parametrize(
    ("servers", "wanted", "expected"),
    [
        ([], "", None),
        ([server()], "", ("", True)),
        ([server(ready=False)], "", ("", False)),
        ([server(ready="yes")], "", ("", False)),
        ([server(), server("b"), server("a")], "", ("", True)),
        ([server(), server("b"), server("a")], "b", ("b", True)),
        ([server(ready=False), server("a")], "", ("", False)),
        ([server("b"), server("a"), server("0", ready=False)], "", ("a", True)),
        ([server("b", ready=False), server("a", ready=False)], "c", ("a", False)),
    ],
    ids=["none", "default", "starting", "odd", "of_three", "named", "not_ready", "first", "asleep"],
)
async def test_C6_2_which_of_a_user_s_servers(hub, other, servers, wanted, expected):
    other.answers[USER] = Says(200, model(*servers))
    place = await hub(server_name=wanted).locate(ANN)
    assert (place and (place.name, place.ready)) == expected


@pytest.mark.parametrize(
    ("told", "public_url", "expected"),
    [
        ({"full_url": None}, "https://hub.example", "https://hub.example/user/ann/"),
        ({"full_url": None}, "https://hub.example:8/jh/", "https://hub.example:8/user/ann/"),
        ({"full_url": ""}, "http://[::1]:8000", "http://[::1]:8000/user/ann/"),
        ({}, "https://elsewhere.example", "https://hub.example/user/ann/"),
        (
            {"full_url": "https://ann.hub.example/user/ann/"},
            "",
            "https://ann.hub.example/user/ann/",
        ),
        # With a domain for each user, older Hubs say so in `url`.
        (
            {"full_url": None, "url": "//ann.hub.example/user/ann/"},
            "https://hub.example",
            None,
        ),
        (
            {"full_url": None, "url": "https://ann.hub.example/user/ann/"},
            "https://hub.example",
            "https://ann.hub.example/user/ann/",
        ),
        (
            {"full_url": None, "url": "/jh/user/ann%40x%2Fy/"},
            "https://hub.example",
            None,
        ),
        ({"full_url": None, "url": "/user/ann%40x/"}, "https://h.example", "https://h.example/user/ann%40x/"),
        ({"full_url": None}, "", None),
        ({"full_url": None, "url": None}, "https://hub.example", None),
        ({"full_url": 7}, "https://hub.example", None),
        ({"full_url": "ftp://hub.example/user/ann/"}, "", None),
        ({"full_url": "javascript:alert(1)/"}, "", None),
        ({"full_url": "https://hub.example@evil.example/"}, "", None),
        ({"full_url": "https://hub.example/user/../ann/"}, "", None),
        ({"full_url": "https://hub.example/user/ann/?next=x/"}, "", None),
        ({"full_url": "https://hub.example/user/ann/#/"}, "", None),
        ({"full_url": "https://hub.example\r\nX: y/"}, "", None),
        ({"full_url": "https://hub.example\\evil/"}, "", None),
        ({"full_url": None, "url": "user/ann/"}, "https://hub.example", None),
        ({"full_url": None, "url": "/user/ann/\\evil/"}, "https://hub.example", None),
    ],
)  # fmt: skip
async def test_C6_2_the_address_of_a_server(hub, other, told, public_url, expected):
    """The Hub's own ``full_url``, else its path at the configured origin, else nothing."""
    other.answers[USER] = Says(200, model(server(**told)))
    if expected is None:
        with pytest.raises(DirectoryUnavailable):
            await hub(public_url=public_url).locate(ANN)
    else:
        assert (await hub(public_url=public_url).locate(ANN)).base_url == expected


async def test_C6_2_who_is_at_home_is_not_sent_elsewhere(hub, other):
    other.answers[USER] = Says(200, model(server(url="/user/ann%40x/", full_url=None)))
    directory = hub(public_url="https://hub.example")
    for base_url in ("/user/ann@x/", "/user/ann%40x/"):
        directory.base_url = base_url
        assert await directory.locate(ANN) is None
    directory.base_url = "/user/ann/"
    assert await directory.locate(ANN) is not None


async def test_C6_2_from_a_user_s_own_server_nobody_is_sent_elsewhere(hub, other, monkeypatch):
    """Others than its user may be let in there by the Hub."""
    monkeypatch.setenv("JUPYTERHUB_USER", "bob")
    directory = hub()
    assert await directory.locate(ANN) is None
    assert not await directory.belongs_elsewhere(ANN)
    assert other.asked == []
    # A service that is run as a user is none.
    monkeypatch.setenv("JUPYTERHUB_SERVICE_NAME", "portal")
    other.answers[USER] = Says(200, model(server()))
    assert await hub().locate(ANN) is not None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Says(403, {"status": 403, "message": "Forbidden"}), CallerUnknown),
        (Says(401, b""), CallerUnknown),
        (Says(200, model(name="eve")), CallerUnknown),
        (Says(200, {"kind": "user"}), CallerUnknown),
        (Says(200, {"kind": "user", "name": "ann"}), CallerRefused),
        (Says(404, b""), DirectoryUnavailable),
        (Says(429, b""), DirectoryUnavailable),
        (Says(500, b"oops"), DirectoryUnavailable),
        (Says(599, b""), DirectoryUnavailable),
        (Says(204, b""), DirectoryUnavailable),
        (Says(200, b"<html>"), DirectoryUnavailable),
        (Says(200, b"\xff\xfe\xfd"), DirectoryUnavailable),
        (Says(200, b""), DirectoryUnavailable),
        (Says(200, b"[" * 60_000), DirectoryUnavailable),
        (Says(200, ["ann"]), DirectoryUnavailable),
        (Says(200, "ann"), DirectoryUnavailable),
        (Says(200, model(servers=[])), DirectoryUnavailable),
        (Says(200, model(servers=None)), DirectoryUnavailable),
        (Says(200, model(servers={"": "https://hub.example/"})), DirectoryUnavailable),
        (Says(200, b'{"name": "' + b"a" * MAX_ANSWER + b'"}'), DirectoryUnavailable),
        (Says(200, b"{}", {"Content-Encoding": "gzip"}), CallerUnknown),
        (Says(200, b"\x1f\x8b\x08\x00", {"Content-Encoding": "gzip"}), DirectoryUnavailable),
        (Says(200, b"{}", {"X-Long": "x" * MAX_ANSWER}), DirectoryUnavailable),
        (Says(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"), DirectoryUnavailable),
        (Says(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 2 * MAX_ANSWER), DirectoryUnavailable),
        (
            Says(
                raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 5
            ),
            DirectoryUnavailable,
        ),
        (Says(raw=b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"), DirectoryUnavailable),
    ],
)
async def test_what_a_hub_may_answer(hub, other, answer, error, caplog):
    other.answers[USER] = answer
    with pytest.raises(DirectoryError) as refused:
        await hub().locate(ANN)
    assert type(refused.value) is error
    assert refused.value.slug in REASONS
    assert (refused.value.retry_after == RETRY_AFTER) == (error is DirectoryUnavailable)
    # An answer that is none is in the log, once, and nothing of the caller's is.
    said = [r for r in caplog.records if "where a user belongs" in r.message]
    assert len(said) == (error is DirectoryUnavailable)
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(refused.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(hub, other, status):
    other.answers[USER] = Says(status, b"", {"Location": f"{other.url}/elsewhere"})
    other.answers["/elsewhere"] = Says(200, model(server()))
    with pytest.raises(DirectoryUnavailable):
        await hub().locate(ANN)
    assert len(other.asked) == 1


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"what?\r\n\r\n", b"\r\n\r\n"],
    ids=["silent", "never_done", "something_else", "nothing"],
)
async def test_a_hub_that_does_not_answer_in_time(hub, other, raw):
    """Older tornados wait for an answer after what is none."""
    other.answers[USER] = Says(raw=raw)
    began = asyncio.get_running_loop().time()
    with pytest.raises(DirectoryUnavailable):
        await hub(timeout=SHORT).locate(ANN)
    assert asyncio.get_running_loop().time() - began < PATIENCE / 2


async def test_a_hub_that_answers_a_little_at_a_time(hub, jp_asyncio_loop):
    """Its whole time is bounded, not that between two bytes."""
    port, ended = free_port(), asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(SHORT / 10)
        writer.close()
        ended.set()

    dripping = await asyncio.start_server(drip, "127.0.0.1", port)
    directory = hub(timeout=SHORT, hub_api_url=f"http://127.0.0.1:{port}/hub/api")
    with pytest.raises(DirectoryUnavailable):
        await directory.locate(ANN)
    await ended.wait()  # nobody is on the other side any more
    dripping.close()
    await dripping.wait_closed()


async def test_nobody_listens(made):
    directory = made(HubServerDirectory, hub_api_url=f"http://127.0.0.1:{free_port()}/hub/api")
    with pytest.raises(DirectoryUnavailable):
        await directory.locate(ANN)


@pytest.mark.parametrize("token", [None, "", "a b", "a\r\nX-Evil: b", "ä", "a" * 5000])
async def test_without_a_token_of_the_caller_the_hub_is_not_asked(hub, other, token):
    with pytest.raises(CallerUnknown):
        await hub().locate(Caller("ann", token))
    assert other.asked == []


async def test_a_service_has_no_server(hub, other):
    other.answers[USER] = Says(200, {"kind": "service", "name": "ann"})
    assert await hub().locate(ANN) is None


async def test_C6_2_a_token_of_the_hub_for_that_server_and_nothing_else(hub, other):
    other.answers[USER] = Says(200, model(server("strict")))
    expires = {"token": "made", "expires_at": "2026-11-22T12:00:00Z"}
    other.answers[TOKENS] = Says(201, expires)
    directory = hub()
    directory.clock = lambda: 1000.0
    place = await directory.locate(ANN)
    granted = await directory.log_in(ANN, place, max_age=60.9)
    assert (granted.token, granted.expires_in, granted.expires_at) == ("made", 60, 1060.0)
    assert "made" not in repr(granted)
    assert other.calls[1] == ("POST", TOKENS, f"token {TOKEN}")
    assert json.loads(other.asked[1].body) == {
        "note": "jupyter_token_ws login",
        "expires_in": 60,
        "scopes": ["access:servers!server=ann/strict"],
    }
    # No longer than a ticket lives, and not less than the Hub can.
    assert (await directory.log_in(ANN, place)).expires_in == 300
    assert (await directory.log_in(ANN, place, max_age=1e9)).expires_in == 300
    assert (await directory.log_in(ANN, place, max_age=0.1)).expires_in == 1


@pytest.mark.parametrize(
    ("user", "path"),
    [
        ("a/../b?c#d", "a%2F..%2Fb%3Fc%23d"),
        ("ann@hub.example", "ann%40hub.example"),
        ("Ünal x", "%C3%9Cnal%20x"),
        ("\ud800", "%ED%A0%80"),
    ],
)
async def test_C6_2_names_are_escaped(hub, other, user, path):
    caller = Caller(user, TOKEN)
    other.answers[f"/hub/api/users/{path}/tokens"] = Says(201, {"token": "t", "expires_at": "x"})
    await hub().log_in(caller, Place("https://hub.example/", ready=True))
    assert other.asked[0].uri == f"/hub/api/users/{path}/tokens"
    scopes = json.loads(other.asked[0].body)["scopes"]
    assert scopes == [f"access:servers!server={user}/"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_age": "60"}, BadRequest),
        ({"max_age": -1}, BadRequest),
        ({"audience": ["api/kernels"]}, Unsupported),
        ({"single_use": True}, Unsupported),
        ({"single_use": "no"}, Unsupported),
    ],
)
async def test_C6_1_what_a_token_of_the_hub_cannot_be(hub, other, options, error):
    with pytest.raises(error):
        await hub().log_in(ANN, Place("https://hub.example/", ready=True), **options)
    assert other.asked == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Says(400, {"message": "not your scope"}), CallerRefused),
        (Says(403, b""), CallerRefused),
        (Says(404, b""), CallerRefused),
        (Says(401, b""), CallerUnknown),
        (Says(200, {"token": "t", "expires_at": "x"}), DirectoryUnavailable),
        (Says(302, b"", {"Location": "/"}), DirectoryUnavailable),
        (Says(500, b""), DirectoryUnavailable),
        (Says(201, b"t"), DirectoryUnavailable),
        (Says(201, {"expires_at": "x"}), DirectoryUnavailable),
        (Says(201, {"token": 7, "expires_at": "x"}), DirectoryUnavailable),
        (Says(201, {"token": "", "expires_at": "x"}), DirectoryUnavailable),
        (Says(201, {"token": "a b", "expires_at": "x"}), DirectoryUnavailable),
        (Says(201, {"token": "a" * 5000, "expires_at": "x"}), DirectoryUnavailable),
        (Says(201, {"token": "for-ever", "expires_at": None}), DirectoryUnavailable),
    ],
)
async def test_what_a_hub_may_answer_who_asks_for_a_token(hub, other, answer, error):
    other.answers[TOKENS] = answer
    with pytest.raises(DirectoryError) as refused:
        await hub().log_in(ANN, Place("https://hub.example/", ready=True))
    assert type(refused.value) is error


@pytest.mark.parametrize(
    "traits",
    [
        {},
        {"hub_api_url": "hub/api"},
        {"hub_api_url": "http://hub\n/"},
        {"hub_api_url": "http://hub/", "public_url": "hub.example"},
    ],
)
def test_a_hub_that_is_configured_wrongly(traits):
    with pytest.raises(TraitError, match="HubServerDirectory"):
        HubServerDirectory(**traits)


# -- a moment's memory -----------------------------------------------------------------------------


async def test_C6_2_the_hub_is_not_asked_for_each_socket(hub, other):
    now = [0.0]
    directory = hub(memory=10.0)
    directory.monotonic = lambda: now[0]
    other.answers[USER] = Says(200, model(server()))
    assert [await directory.belongs_elsewhere(ANN) for _ in range(3)] == [True] * 3
    assert len(other.asked) == 1
    now[0] = 10.0
    other.answers[USER] = Says(200, model())
    assert [await directory.belongs_elsewhere(ANN) for _ in range(3)] == [False] * 3
    assert len(other.asked) == 2
    now[0] = 20.0
    other.answers[USER] = Says(500)
    for asked in (3, 4):  # an error is no verdict
        with pytest.raises(DirectoryUnavailable):
            await directory.belongs_elsewhere(ANN)
        assert len(other.asked) == asked


async def test_users_are_told_apart_and_so_many_are_remembered(made, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)

    class Asked(ServerDirectory):
        asked: list[str] = []  # noqa: RUF012 - for this test

        async def locate(self, caller):
            self.asked.append(caller.user)
            return Place("https://x/", ready=True) if caller.user == "b" else None

    directory = made(Asked, memory=1e9)
    told = [await directory.belongs_elsewhere(Caller(user)) for user in "abcdabcd"]
    assert told == [user == "b" for user in "abcdabcd"]
    assert directory.asked == list("abcdabcd")
    await directory.belongs_elsewhere(Caller("d"))
    assert directory.asked == list("abcdabcd")


# -- a mapping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (Says(200, {"api_versions": ["1.0"]}), True),
        (Says(200, {}), False),
        (Says(200, []), False),
        (Says(404, b""), False),
        (Says(302, b"", {"Location": "/"}), False),
        (Says(500, b""), False),
    ],
)
async def test_C6_2_a_server_is_ready_that_tells_what_it_can(static, other, answer, ready):
    other.answers["/ann/api/token-ws/capabilities"] = answer
    place = await static().locate(ANN)
    assert place == Place(f"{other.url}/ann/", ready, "ann")
    assert other.calls == [("GET", "/ann/api/token-ws/capabilities", None)]


async def test_C6_2_who_is_in_no_mapping_belongs_here(static, other):
    directory = static()
    assert await directory.locate(Caller("bob")) is None
    assert not await directory.belongs_elsewhere(Caller("bob"))
    assert await directory.belongs_elsewhere(ANN)
    assert other.asked == []  # a socket needs no readiness


async def test_C6_2_a_ticket_comes_from_the_other_server(static, other):
    """Asked with the portal's own credential for it, and never with what the caller logged in with."""
    login = "/ann/api/token-ws/login"
    other.answers[login] = Says(200, {"token": TICKET, "expires_in": 60.5})
    directory = static()
    directory.clock = lambda: 1000.0
    place = await directory.locate(ANN)
    other.asked.clear()
    granted = await directory.log_in(ANN, place, max_age=60.5, audience=["api/kernels"])
    assert (granted.token, granted.expires_in, granted.expires_at) == (TICKET, 60.5, 1060.5)
    assert other.calls == [("POST", login, f"token {OWN}")]
    asked = other.asked[0]
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Api-Version"] == "1.0"
    assert json.loads(asked.body) == {"max_age": 60.5, "audience": ["api/kernels"]}
    assert TOKEN not in str(asked.headers)
    await directory.log_in(ANN, place, single_use=True)
    assert json.loads(other.asked[1].body) == {"single_use": True}
    await directory.log_in(Caller("ann"), place)
    assert json.loads(other.asked[2].body) == {}


@pytest.mark.parametrize(
    ("answer", "error", "retry_after"),
    [
        (Says(400, {"status": "bad_request"}), BadRequest, None),
        (Says(401, b""), DirectoryUnavailable, RETRY_AFTER),
        (Says(403, b""), DirectoryUnavailable, RETRY_AFTER),
        (Says(404, b""), DirectoryUnavailable, RETRY_AFTER),
        (Says(302, b"", {"Location": "/"}), DirectoryUnavailable, RETRY_AFTER),
        (Says(429, b"", {"Retry-After": "17"}), DirectoryUnavailable, 17),
        (Says(503, b"", {"Retry-After": "0"}), DirectoryUnavailable, 1),
        (Says(503, b"", {"Retry-After": "9999"}), DirectoryUnavailable, 3600),
        (Says(503, b"", {"Retry-After": "99999999999"}), DirectoryUnavailable, RETRY_AFTER),
        (Says(503, b"", {"Retry-After": "soon"}), DirectoryUnavailable, RETRY_AFTER),
        (Says(201, {"token": TICKET, "expires_in": 60}), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, TICKET), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, {"expires_in": 60}), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, {"token": TICKET}), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, {"token": TICKET, "expires_in": True}), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, {"token": TICKET, "expires_in": 0}), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, b'{"token": "t", "expires_in": NaN}'), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, b'{"token": "t", "expires_in": 1e999}'), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, {"token": "a\nb", "expires_in": 60}), DirectoryUnavailable, RETRY_AFTER),
        (Says(200, {"token": [TICKET], "expires_in": 60}), DirectoryUnavailable, RETRY_AFTER),
    ],
)
async def test_what_another_server_may_answer(static, other, answer, error, retry_after, caplog):
    other.answers["/ann/api/token-ws/login"] = answer
    place = Place(f"{other.url}/ann/", ready=True, name="ann")
    with pytest.raises(error) as refused:
        await static().log_in(ANN, place)
    assert refused.value.retry_after == retry_after
    assert OWN not in caplog.text + repr(refused.value)


async def test_a_token_is_read_anew_at_each_login(static, other, tmp_path):
    other.answers["/ann/api/token-ws/login"] = Says(200, {"token": TICKET, "expires_in": 60})
    directory, place = static(), Place(f"{other.url}/ann/", ready=True)
    await directory.log_in(ANN, place)
    (tmp_path / "tokens.json").write_text('{"ann": "another"}')
    await directory.log_in(ANN, place)
    assert [token for _, _, token in other.calls] == [f"token {OWN}", "token another"]


@pytest.mark.parametrize(
    "text",
    [
        None, "", "no json", "[]", "{}", '{"eve": "eves-secret"}', '{"ann": 7}', '{"ann": ""}',
        '{"ann": "anns\\nsecret"}', "\x00", "[" * 100_000,
    ],
)  # fmt: skip
async def test_a_token_that_is_not_there(static, other, tmp_path, text, caplog):
    path = tmp_path / "tokens.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(DirectoryUnavailable) as refused:
        await static().log_in(ANN, Place(f"{other.url}/ann/", ready=True))
    assert other.asked == []
    assert "secret" not in caplog.text + repr(refused.value)
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


@pytest.mark.skipif(os.name != "posix", reason="others are of POSIX")
async def test_it_is_said_that_others_can_read_the_tokens(static, other, tmp_path, caplog):
    other.answers["/ann/api/token-ws/login"] = Says(200, {"token": TICKET, "expires_in": 60})
    place = Place(f"{other.url}/ann/", ready=True)
    await static().log_in(ANN, place)
    assert "chmod" not in caplog.text
    (tmp_path / "tokens.json").chmod(0o640)
    await static().log_in(ANN, place)
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize(
    "url", ["", "ann", "/ann/", "ws://x/", "http://x/?a", "http://x/#a", "http://a@x/", "http://x/../"]
)  # fmt: skip
def test_a_mapping_that_is_none(url):
    with pytest.raises(TraitError, match=r"StaticServerDirectory\.servers"):
        StaticServerDirectory(config=Config(StaticServerDirectory={"servers": {"ann": url}}))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://x", "http://x/"),
        ("https://x.example:8/user/ann", "https://x.example:8/user/ann/"),
        ("HTTPS://[::1]/a%20b/", "HTTPS://[::1]/a%20b/"),
    ],
)
def test_base_urls(url, expected):
    assert base_url_of(url) == expected


async def test_it_can_be_used_again_after_it_was_closed(hub, other):
    other.answers[USER] = Says(200, model(server()))
    directory = hub()
    directory.close()
    await directory.locate(ANN)
    directory.close()
    await directory.locate(ANN)
    assert len(other.asked) == 2
