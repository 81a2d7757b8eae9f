"""A cookie that was signed out with, or is from before a new password, is good for nothing (contract 6.7)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.auth.identity import PasswordIdentityProvider
from jupyter_server.auth.security import passwd
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import create_signed_value, decode_signed_value

from jupyter_token_ws.login import signed_out
from jupyter_token_ws.login.denials import signed_at
from jupyter_token_ws.login.service import Login
from jupyter_token_ws.login.signed_out import SignedOut, remove_cookie
from jupyter_token_ws.protocol.subprotocols import REASON_MARKER
from tests.support.door import Door, Socket
from tests.support.knock import Knock
from tests.support.observing import Listener
from tests.unit.login.test_handler import ask, offer, read, ticket
from tests.unit.login.test_watch import ECHO, lives, opening, told

PASSWORD = "of all people"


@pytest.fixture
def door(door) -> Door:
    door.add(ECHO, Socket)
    return door


def denied(door: Door) -> SignedOut:
    found = Login.of(door.app.web_app.settings).signed_out
    assert found is not None
    return found


async def by(door: Door, cookie: str) -> Knock:
    return await door.knock(ECHO, [REASON_MARKER], {"Cookie": cookie})


async def enters(door: Door, cookie: str) -> tuple[bool, bool]:
    """Whether a cookie is good for REST, and for websockets."""
    rest = (await door.fetch("api/me", {"Cookie": cookie})).status == 200
    socket = (
        await door.refused(ECHO, [REASON_MARKER], {"Cookie": cookie})
        if not rest
        else await by(door, cookie)
    )
    async with socket:
        return rest, socket.status == 101 and socket.code is None


async def sign_out(door: Door, cookie: str) -> None:
    assert (await door.fetch("logout", {"Cookie": cookie})).status == 200


async def sign_in(door: Door, password: str, new: str = "") -> str:
    """By the form; the cookie."""
    page = await door.fetch("login")
    xsrf = page.headers["set-cookie"].partition(";")[0]
    form = f"password={password}&new_password={new}&{xsrf}".replace(" ", "+")
    answer = await door.fetch(
        "login",
        {"Cookie": xsrf, "Content-Type": "application/x-www-form-urlencoded"},
        method="POST",
        body=form.encode(),
    )
    assert answer.status == 302, answer
    return answer.headers["set-cookie"].partition(";")[0]


async def test_C6_7_who_signs_out_is_out(door):
    mine, another = await door.login_cookie(), await door.login_cookie()
    assert mine != another
    socket, also = await by(door, mine), await by(door, mine)
    plain, by_ticket = [
        await door.knock(ECHO, offer(each)) for each in (door.token, await ticket(door))
    ]
    async with await by(door, another) as other, plain, by_ticket:
        await sign_out(door, mine)
        assert await told(socket) == await told(also) == (4401, "token_revoked")
        for each in (other, plain, by_ticket):
            assert await lives(each)
    assert await enters(door, mine) == (False, False)
    assert await enters(door, another) == (True, True)
    assert await enters(door, f"a=b; {mine}; c=d") == (False, False)


async def test_C6_7_a_ticket_for_a_cookie_ends_with_it(door):
    cookie = await door.login_cookie()
    xsrf = "_xsrf=x"
    answer = await ask(
        door, "POST", {}, Cookie=f"{cookie}; {xsrf}", X_XSRFToken="x", Origin=f"http://{door.host}"
    )
    token = read(answer)["token"]
    events = Listener(door.app.event_logger)
    socket = await door.knock(ECHO, offer(token))
    assert await lives(socket)
    await sign_out(door, cookie)
    assert await told(socket) == (4401, "token_revoked")
    [revoked] = await events.wait_for("ticket_revoked")
    assert (revoked["cause"], revoked["sockets"]) == ("logout", 1)
    assert (await door.refused(ECHO, offer(token))).slug == "token_revoked"


async def test_C6_7_a_socket_that_was_opening_when_somebody_signed_out_ends_too(door):
    cookie = await door.login_cookie()
    async with opening(door, [REASON_MARKER], {"Cookie": cookie}) as knocking:
        await sign_out(door, cookie)
    assert await told(await knocking) == (4401, "token_revoked")


async def test_what_is_no_good_cookie_is_not_remembered(door, monkeypatch):
    """Or anybody could push out the good ones."""
    monkeypatch.setattr(denied(door).denials, "most", 1)
    mine = await door.login_cookie()
    name = mine.partition("=")[0]
    await sign_out(door, mine)
    for bad in ("", "nonsense", mine.partition("=")[2][:-1] + "0"):
        await sign_out(door, f"{name}={bad}")
        await door.fetch("api/me", {"Cookie": f"{name}={bad}"})
    assert await enters(door, mine) == (False, False)
    await sign_out(door, await door.login_cookie())  # but so many good ones
    assert await enters(door, mine) == (True, True)


async def test_C6_7_an_old_cookie_that_is_still_good_is_denied_too(door):
    provider = door.app.identity_provider
    name, _, value = (await door.login_cookie()).partition("=")
    then = time.time() - 40 * signed_out.DAY
    secret = door.app.web_app.settings["cookie_secret"]
    content = decode_signed_value(secret, name, value.strip('"'))
    assert content is not None
    old = create_signed_value(secret, name, content, clock=lambda: then)
    cookie = f"{name}={old.decode()}"
    provider.get_secure_cookie_kwargs = {"max_age_days": 365}
    assert await enters(door, cookie) == (True, True)
    await sign_out(door, cookie)
    assert await enters(door, cookie) == (False, False)


@pytest.mark.parametrize("days", [None, 365])
async def test_a_cookie_is_denied_until_it_would_expire(door, monkeypatch, clock, days):
    mine = await door.login_cookie()
    clock.now = 2_000_000_000.0
    monkeypatch.setattr(denied(door).denials, "clock", clock)
    if days:
        door.app.identity_provider.get_secure_cookie_kwargs = {"max_age_days": days}
    await sign_out(door, mine)
    # As long as tornado takes it, whatever the browser was told.
    clock.now += (days or 31) * signed_out.DAY - 1
    assert await enters(door, mine) == (False, False)
    clock.now += 1
    assert await enters(door, mine) == (True, True)  # by tornado's own clock it is good still


@pytest.fixture
def with_password(jp_server_config: dict[str, Any]) -> None:
    jp_server_config["PasswordIdentityProvider"] = {"hashed_password": passwd(PASSWORD)}


async def test_C6_7_a_new_password_ends_what_was_before(with_password, door, monkeypatch):
    before = await sign_in(door, PASSWORD)
    socket = await by(door, before)
    assert await lives(socket)
    provider: Any = door.app.identity_provider
    assert isinstance(provider, PasswordIdentityProvider)
    monkeypatch.setattr(
        denied(door).denials, "clock", lambda: signed_at(before.partition("=")[2]) + 1
    )
    provider.hashed_password = passwd("another one")
    assert await told(socket) == (4401, "token_revoked")
    assert await enters(door, before) == (False, False)


async def test_C6_7_a_first_password_ends_nothing(door, monkeypatch):
    before = await door.login_cookie()
    monkeypatch.setattr(
        denied(door).denials, "clock", lambda: signed_at(before.partition("=")[2]) + 1
    )
    async with await by(door, before) as socket:
        provider: Any = door.app.identity_provider
        provider.hashed_password = passwd("the first")
        assert await lives(socket)
    assert await enters(door, before) == (True, True)


@given(st.text("|:0123456789abc²", max_size=30))
def test_any_text_was_signed_at_some_time(value):
    assert signed_at(value) >= 0


def test_a_signed_cookie_tells_when():
    value = create_signed_value("key", "name", "value", clock=lambda: 1234).decode()
    assert signed_at(value) == 1234
    assert signed_at("1|2|3") == signed_at("a|b|10:x|d") == float("inf")
    assert signed_at("2|1:0|2:²³|x") == float("inf")


@pytest.mark.parametrize(
    ("sent", "left"),
    [("a=1", None), ("b=1; a=2; c=3", "b=1; c=3"), (" a = 1 ;b=2", "b=2"), ("ab=1", "ab=1")],
)
def test_one_cookie_is_taken_out(sent, left):
    request = HTTPServerRequest(
        headers=HTTPHeaders({"Host": "x", "Cookie": sent}),
        start_line=RequestStartLine("GET", "/", "HTTP/1.1"),
    )
    assert request.cookies
    remove_cookie(request, "a")
    assert request.headers.get("Cookie") == left
    assert "a" not in request.cookies
