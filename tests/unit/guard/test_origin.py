"""Across origins nothing is learned but what a token has paid for (C3.4), and the Host comes first."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import tornado

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Door, Socket, refusals
from tests.support.knock import Knock, bearing

EVIL = "https://evil.example"
FRIEND = "https://friend.example"
BODY = b"Cross origin websockets not allowed"
NOBODY = "00000000-0000-0000-0000-000000000000"

ROUTES = ("subprotocol", "url", "header")
COOKIES = ("none", "bad", "good")


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 1000, "max_refusals_open": 1000}


def without_date(answer: Knock) -> tuple[int, dict[str, list[str]], bytes]:
    headers = {name: values for name, values in answer.headers.items() if name != "date"}
    return answer.status, headers, answer.body


def outcome(answer: Knock) -> object:
    """What a page on the other side can tell apart."""
    if answer.status == 101:
        return (101, answer.subprotocol, answer.code, answer.reason, answer.set_cookies)
    return without_date(answer)


async def start_kernel(door) -> str:
    answer = await door.fetch(
        "api/kernels",
        {"Authorization": f"token {door.token}", "Content-Type": "application/json"},
        method="POST",
        body=json.dumps({"name": "echo"}).encode(),
    )
    assert answer.status == 201
    return str(json.loads(answer.body)["id"])


class Asker:
    """Knocks with every mixture of origin, cookie and token."""

    def __init__(self, door: Door, cookie: str) -> None:
        self.door = door
        self.cookies = {
            "none": {},
            "bad": {"Cookie": f"{cookie.partition('=')[0]}=nonsense"},
            "good": {"Cookie": cookie},
        }

    async def ask(
        self,
        path: str,
        cookie: str,
        token: str | None = None,
        route: str = "subprotocol",
        origin: str | None = EVIL,
        offer: tuple[str, ...] = (REASON_MARKER,),
        opens: bool = False,
        **extra: str,
    ) -> Knock:
        headers = dict(self.cookies[cookie])
        if origin is not None:
            headers["Origin"] = origin
        headers.update({name.replace("_", "-"): value for name, value in extra.items()})
        offered = list(offer)
        if token is not None and route == "subprotocol":
            offered = [MARKER, bearing(token), *offered]
        elif token is not None and route == "url":
            path += f"?token={token}"
        elif token is not None:
            headers["Authorization"] = f"token {token}"
        answer = await self.door.knock(path, offered or None, headers)
        if answer.status == 101 and not opens:
            await answer.wait_closed()
        answer.writer.transport.abort()
        return answer


@pytest.mark.parametrize("offer", [(), (REASON_MARKER,)], ids=["plain", "opted in"])
async def test_C3_4_every_mixture_across_origins(door, offer):
    asker = Asker(door, await door.login_cookie())
    kernel = await start_kernel(door)
    paths = {name: f"api/kernels/{name}/channels" for name in (kernel, NOBODY)}
    for route, token in itertools.product(ROUTES, (None, "wrong", door.token)):
        seen = {}
        for name, cookie in itertools.product(paths, COOKIES):
            opens = token == door.token and name == kernel
            answer = await asker.ask(paths[name], cookie, token, route, offer=offer, opens=opens)
            seen[name, cookie] = outcome(answer)
            # Upstream's 404 page brings its XSRF cookie; nothing else sets any.
            assert not [c for c in answer.set_cookies if not c.startswith("_xsrf=")]
            if opens:
                assert answer.status == 101, (route, cookie)
                assert answer.code is None
            elif token == door.token:
                told = (answer.code, answer.slug) == (4404, "not_found")
                assert told or answer.status == 404, (route, cookie)
            elif token is None:
                assert (answer.status, answer.body) == (403, BODY), (route, cookie)
            elif route == "subprotocol" or offer:
                assert (answer.code, answer.slug) == (4403, "token_rejected"), (route, cookie)
            else:
                assert (answer.status, answer.body) == (403, BODY), (route, cookie)
        if token != door.token:
            # Neither the cookie nor the kernel's existence makes any difference.
            assert len(set(map(repr, seen.values()))) == 1, (route, token, seen)
    await door.settled()


@pytest.mark.parametrize("origin", [None, "same", FRIEND])
async def test_C3_4_where_the_origin_is_allowed_everybody_is_told(door, origin):
    asker = Asker(door, await door.login_cookie())
    door.app.allow_origin = FRIEND
    door.app.web_app.settings["allow_origin"] = FRIEND
    origin = f"http://{door.host}" if origin == "same" else origin
    path = f"api/kernels/{NOBODY}/channels"
    for cookie in COOKIES:
        answer = await asker.ask(path, cookie, origin=origin)
        expected = (4404, "not_found") if cookie == "good" else (4401, "credentials_missing")
        assert (answer.code, answer.slug) == expected
        answer = await asker.ask(path, cookie, "wrong", "subprotocol", origin=origin)
        assert (answer.code, answer.slug) == (4403, "token_rejected")
    answer = await asker.ask(path, "none", door.token, "header", origin=origin)
    assert (answer.code, answer.slug) == (4404, "not_found")


async def test_C3_4_a_pattern_of_origins(door):
    door.app.web_app.settings["allow_origin_pat"] = r"https://.*\.friend\.example$"
    asker = Asker(door, "username=none")
    answer = await asker.ask(EVENTS, "none", origin="https://a.friend.example")
    assert answer.slug == "credentials_missing"
    answer = await asker.ask(EVENTS, "none", origin=EVIL)
    assert (answer.status, answer.body) == (403, BODY)


@pytest.mark.parametrize("allowed", [True, False])
async def test_C3_4_a_path_without_websocket_allows_the_same_origins(door, allowed):
    if allowed:
        door.app.web_app.settings["allow_origin"] = FRIEND
    asker = Asker(door, await door.login_cookie())
    answer = await asker.ask("no/such/path", "good", origin=FRIEND)
    if allowed:
        assert (answer.code, answer.slug) == (4404, "not_found")
    else:
        assert (answer.status, answer.body) == (403, BODY)


# What a browser says of the page, and whether the server lets it in without a token. tornado heeds
# the header from 6.6 on.
SITES = [
    ("same-origin", None, True),
    ("same-origin", "same", True),
    ("none", None, True),
    ("cross-site", EVIL, False),
    ("same-site", EVIL, False),
    ("cross-site", FRIEND, True),
    ("same-site", FRIEND, True),
    (None, "null", False),
    (None, "http://127.0.0.1", False),
]
if tornado.version_info >= (6, 6):
    SITES += [("cross-site", None, False), ("same-origin", EVIL, True)]


@pytest.mark.parametrize(("site", "origin", "allowed"), SITES)
async def test_C3_4_sec_fetch_site(door, site, origin, allowed):
    door.app.web_app.settings["allow_origin"] = FRIEND
    extra: Any = {} if site is None else {"Sec_Fetch_Site": site}
    origin = f"http://{door.host}" if origin == "same" else origin
    asker = Asker(door, await door.login_cookie())
    answer = await asker.ask(EVENTS, "good", origin=origin, opens=allowed, **extra)
    if allowed:
        assert (answer.status, answer.subprotocol) == (101, REASON_MARKER)
        return
    seen = {repr(outcome(answer))}
    for cookie, path in itertools.product(COOKIES, (EVENTS, f"api/kernels/{NOBODY}/channels")):
        answer = await asker.ask(path, cookie, origin=origin, **extra)
        assert (answer.status, answer.body) == (403, BODY)
        if path == EVENTS:
            seen.add(repr(outcome(answer)))
    assert len(seen) == 1
    answer = await asker.ask(EVENTS, "good", "wrong", origin=origin, **extra)
    assert (answer.code, answer.slug) == (4403, "token_rejected")
    # A good token is let in from anywhere, but for what tornado itself refuses.
    opens = origin is not None
    answer = await asker.ask(EVENTS, "none", door.token, origin=origin, opens=opens, **extra)
    assert answer.status == (101 if opens else 403)


@pytest.mark.parametrize("malformed", [[MARKER, f"{MARKER}.%zz"], [f"{MARKER}.a", f"{MARKER}.b"]])
async def test_C3_4_a_malformed_token_is_told_across_origins(door, malformed):
    asker = Asker(door, await door.login_cookie())
    answers = [
        outcome(await asker.ask(EVENTS, cookie, offer=(*malformed, REASON_MARKER)))
        for cookie in COOKIES
    ]
    assert len(set(map(repr, answers))) == 1
    assert "malformed_credentials" in repr(answers[0])


@pytest.mark.parametrize("token_ws_config", [{"allow_token_in_url": False, "refusal_burst": 1000}])
@pytest.mark.parametrize("token", ["wrong", "good"])
async def test_C3_4_a_token_in_the_url_that_is_not_taken_is_told_across_origins(door, token):
    asker = Asker(door, await door.login_cookie())
    token = door.token if token == "good" else token
    for cookie in COOKIES:
        answer = await asker.ask(EVENTS, cookie, token, "url")
        assert (answer.code, answer.slug) == (4401, "url_token_refused")


@pytest.mark.parametrize("token_ws_config", [{"close_reasons": "always", "refusal_burst": 1000}])
async def test_C3_4_always_is_still_silent_across_origins(door, caplog):
    asker = Asker(door, await door.login_cookie())
    for cookie in COOKIES:
        answer = await asker.ask(EVENTS, cookie, offer=())
        assert (answer.status, answer.body) == (403, BODY)
    lines = refusals(caplog.records)
    assert len(lines) == 3
    assert all(line.startswith("4403 origin_refused /") for line in lines)
    assert all("(plain HTTP)" in line for line in lines)


async def test_C3_4_with_authentication_off_a_token_changes_nothing_across_origins(door):
    door.app.identity_provider.token = ""
    asker = Asker(door, "username=none")
    for token, route in [(None, ""), ("any", "url"), ("any", "subprotocol"), ("any", "header")]:
        answer = await asker.ask(EVENTS, "none", token, route)
        assert (answer.status, answer.body) == (403, BODY), route


async def test_C3_4_C2_7_host_comes_before_everything(door, caplog):
    asker = Asker(door, await door.login_cookie())
    plain: Any = {"Host": f"evil.example:{door.port}"}
    tokens = [None, "wrong", door.token]
    for cookie, token, route, origin in itertools.product(
        COOKIES, tokens, ROUTES, (None, EVIL, f"http://evil.example:{door.port}")
    ):
        answer = await asker.ask(EVENTS, cookie, token, route, origin, **plain)
        assert answer.status == 403
        assert b"<html" in answer.body.lower()  # upstream's own page, wherever the page came from
    for offer in ([f"{MARKER}.%zz"], [f"{MARKER}.a", f"{MARKER}.b"]):
        answer = await asker.ask(EVENTS, "none", offer=(*offer, REASON_MARKER), **plain)
        assert answer.status == 403
    door.guard.draining = True
    answer = await asker.ask(EVENTS, "good", door.token, **plain)
    assert answer.status == 403
    door.guard.draining = False
    assert all(line.startswith("4403 origin_refused /") for line in refusals(caplog.records))


async def test_C3_4_C2_7_origin_comes_before_draining(door):
    asker = Asker(door, await door.login_cookie())
    door.guard.draining = True
    for cookie in COOKIES:
        answer = await asker.ask(EVENTS, cookie)
        assert (answer.status, answer.body) == (403, BODY)
    answer = await asker.ask(EVENTS, "none", origin=None)
    assert (answer.code, answer.reason.partition(":")[0]) == (4503, "draining;retry_after=1")


async def test_C3_4_a_check_of_the_handlers_own_that_fails_tells_nothing(door):
    class Fussy(Socket):
        def check_origin(self, origin=None):
            raise RuntimeError("not yet")

    door.add("fussy", Fussy)
    asker = Asker(door, "username=none")
    answer = await asker.ask("fussy", "none")
    assert (answer.status, answer.body) == (403, BODY)
