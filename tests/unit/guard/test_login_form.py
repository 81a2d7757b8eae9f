"""jupyter_server's own login page: its passwords wait for their turn, and need TLS where that is required."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_server.auth.identity import PasswordIdentityProvider
from jupyter_server.auth.login import LoginFormHandler

from tests.support.door import Answer, Door
from tests.support.observing import page_of
from tests.support.providers import HASH, PASSWORD_AND_TOKEN, PLAIN_LEGACY, TOKEN, Kind
from tests.unit.guard.conftest import EXTENSIONS

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated in (jupyter-server )?2.0")

FORM = "application/x-www-form-urlencoded"
XSRF = "_xsrf=x"
FEW = {"attempt_burst": 2, "password_wait": 0}
FAR_AND_PLAIN = {"X-Forwarded-For": "203.0.113.1", "X-Forwarded-Proto": "http"}
REFUSED = {"code": "4429", "slug": "too_many_attempts"}


class OwnPage(LoginFormHandler):
    """A page made of upstream's, which has no coroutine to prepare it."""

    def prepare(self) -> None:  # type: ignore[override]
        self.current_user = None


class OwnProvider(PasswordIdentityProvider):
    """Has it."""

    login_handler_class = OwnPage


OWN = Kind(
    "own page",
    {
        "ServerApp": {"identity_provider_class": OwnProvider},
        "OwnProvider": {"token": TOKEN, "hashed_password": HASH},
    },
)
KINDS = [PASSWORD_AND_TOKEN, PLAIN_LEGACY, OWN]


@pytest.fixture
def kind() -> Kind:
    return PASSWORD_AND_TOKEN


@pytest.fixture
def jp_server_config(kind: Kind, token_ws_config: dict[str, Any]) -> dict[str, Any]:
    server = {**kind.config.get("ServerApp", {}), "jpserver_extensions": dict(EXTENSIONS)}
    return {**kind.config, "ServerApp": server, "TokenWebSocketApp": token_ws_config}


async def post(door: Door, password: str, **headers: str) -> Answer:
    """Send the form."""
    told = {"Cookie": XSRF, "Content-Type": FORM, **headers}
    body = f"password={password}&{XSRF}".encode()
    return await door.fetch("login", told, method="POST", body=body)


async def statuses(door: Door, *passwords: str) -> list[int]:
    return [(await post(door, password)).status for password in passwords]


@pytest.mark.parametrize("token_ws_config", [FEW, {**FEW, "login": False}], ids=["", "no_tickets"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_passwords_are_tried_at_a_pace(door):
    before = await page_of(door)
    assert await statuses(door, *[TOKEN] * 4) == [302] * 4
    assert await statuses(door, "a", "b", "c") == [401, 401, 429]
    answer = await post(door, TOKEN)  # what is short could be guessed otherwise
    assert answer.status == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert "set-cookie" not in answer.headers
    after = await page_of(door)
    counter = "requests_refused_total"
    assert after.value(counter, **REFUSED) - before.value(counter, **REFUSED) == 2
    # The page itself is shown, and a token by another way enters.
    assert (await door.fetch("login")).status == 200
    assert (await door.fetch("api/me", {"Authorization": f"token {TOKEN}"})).status == 200


@pytest.mark.parametrize("token_ws_config", [FEW])
async def test_however_it_is_sent_and_together_with_those_at_our_login(door):
    sent = f"login?password=a&{XSRF}"
    assert (await door.fetch(sent, {"Cookie": XSRF}, method="POST")).status == 401
    told = {"Content-Type": "application/json"}
    body = b'{"password": "b"}'
    ours = await door.fetch("api/token-ws/login", told, method="POST", body=body)
    assert ours.status == 403
    assert (await door.fetch(sent, {"Cookie": XSRF}, method="POST")).status == 429
    ours = await door.fetch("api/token-ws/login", told, method="POST", body=body)
    assert ours.status == 429


@pytest.mark.parametrize("token_ws_config", [FEW])
async def test_what_is_not_judged_takes_no_turn(door):
    """Another site can make a browser send the form, and must not keep its user out."""
    for cookie in ("", "_xsrf=y"):
        assert (await post(door, "a", Cookie=cookie)).status == 403
    assert await statuses(door, "a", "b", "c") == [401, 401, 429]


@pytest.mark.parametrize("token_ws_config", [FEW])
async def test_who_makes_up_a_proxy_waits_too(door):
    """Passwords can be guessed: where nobody knows the address, that of the connection counts."""
    made_up = [{"X-Forwarded-For": f"192.0.2.{n}"} for n in range(4)]
    answers = [(await post(door, "a", **headers)).status for headers in made_up]
    assert answers == [401, 401, 429, 429]


@pytest.mark.parametrize(
    "token_ws_config", [{"attempt_burst": 1, "attempt_window": 0.2, "password_wait": 10}]
)
async def test_a_password_waits_for_its_turn(door):
    assert await statuses(door, "a", TOKEN) == [401, 302]


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 0}], ids=["any_number"])
async def test_without_a_limit(door):
    assert await statuses(door, *["a"] * 30) == [401] * 30


@pytest.mark.parametrize("token_ws_config", [{**FEW, "exclude_paths": ["login"]}])
async def test_before_paths_that_are_excluded_nobody_stands(door):
    assert await statuses(door, *["a"] * 4) == [401] * 4


@pytest.mark.parametrize(
    "token_ws_config", [{**FEW, "require_tls": True, "trusted_proxies": ["127.0.0.1"]}]
)
@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_C3_3_over_plain_http_it_is_refused(door, caplog):
    before = await page_of(door)
    for answer in (
        await door.fetch("login", FAR_AND_PLAIN),
        *[await post(door, password, **FAR_AND_PLAIN) for password in (TOKEN, "a", "b", "c")],
    ):
        assert answer.status == 426
        assert answer.headers["upgrade"] == "TLS/1.2, HTTP/1.1"
        assert "set-cookie" not in answer.headers
        assert b"tls_required" in answer.body
    assert "Uncaught" not in caplog.text
    labels = {"code": "4426", "slug": "tls_required"}
    counter = "requests_refused_total"
    after = await page_of(door)
    assert after.value(counter, **labels) - before.value(counter, **labels) == 5
    # Encrypted, or from here, it is as ever.
    encrypted = {**FAR_AND_PLAIN, "X-Forwarded-Proto": "https"}
    assert (await door.fetch("login", encrypted)).status == 200
    assert (await post(door, TOKEN, **encrypted)).status == 302
    assert await statuses(door, TOKEN, "a") == [302, 401]
    # It is about what credentials are sent to, and no other page.
    assert (await door.fetch("api", FAR_AND_PLAIN)).status == 200


@pytest.mark.parametrize("token_ws_config", [{"attempt_burst": 1}])
async def test_a_right_password_signs_in_beside_whatever_token(door):
    wrong = [{"Authorization": f"token wrong-{n}"} for n in range(2)]
    assert [(await door.fetch("api/me", each)).status for each in wrong] == [403, 429]
    answer = await post(door, TOKEN, Authorization="token wrong-2")
    assert answer.status == 302
    assert answer.headers["set-cookie"].startswith("username-")
