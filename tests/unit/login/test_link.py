"""The link that a server prints, with a ticket for one browser in place of the token (C2.5, C6.5)."""

from __future__ import annotations

import asyncio
import io
import re
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from jupyter_server.base.handlers import JupyterHandler
from traitlets import TraitError

from jupyter_token_ws.app import TokenWebSocketApp
from jupyter_token_ws.guard import identity
from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.login import link
from jupyter_token_ws.login.link import _at_once
from jupyter_token_ws.login.service import Login
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from jupyter_token_ws.protocol.tickets import SIGN_IN
from tests.support.door import EVENTS, Answer, Door
from tests.support.knock import bearing
from tests.support.providers import PASSWORD_AND_TOKEN, PLAIN_LEGACY, STOCK
from tests.unit.login.test_handler import NOBODY, ask, bears, config, read, ticket

pytestmark = [
    # As in the guard's tests of every provider.
    pytest.mark.filterwarnings("ignore:.*is deprecated in (jupyter-server )?2.0"),
    pytest.mark.filterwarnings("ignore::jupyter_server.utils.JupyterServerAuthWarning"),
]

ON = {"link_ticket": True}


@pytest.fixture
def token_ws_config() -> dict[str, Any]:
    return ON


@pytest.fixture(autouse=True)
def generated(door):
    """As where the server made its token up, which alone is printed."""
    door.app.identity_provider.token_generated = True


def links_of(door: Door) -> Any:
    return Login.of(door.app.web_app.settings).links


def ticket_in(url: str) -> str:
    found = re.fullmatch(r"token=(jtws_[\w-]{43})", urlsplit(url).fragment)
    assert found is not None, url
    return found[1]


async def post(
    door: Door, shown: str, cookies: str = "", query: str = "", **headers: str
) -> Answer:
    """What a browser does that opens a link: it gets the page, and its script posts the form."""
    page = await door.fetch(SIGN_IN + query, {"Cookie": cookies} if cookies else {})
    assert page.status == 200, page
    assert "username-" not in page.headers.get("set-cookie", "")
    xsrf = re.search(rb'name="_xsrf" value="([^"]+)"', page.body)
    assert xsrf is not None
    jar = SimpleCookie(page.headers.get("set-cookie", ""))
    sent = "; ".join([*filter(None, [cookies]), *(f"{k}={m.value}" for k, m in jar.items())])
    return await door.fetch(
        SIGN_IN + query,
        {"Content-Type": "application/x-www-form-urlencoded", "Cookie": sent, **headers},
        method="POST",
        body=urlencode({"_xsrf": xsrf[1].decode(), "ticket": shown}).encode(),
    )


def cookie_of(answer: Answer) -> str:
    """The login cookie that an answer sets, empty for none."""
    cookie = answer.headers.get("set-cookie", "")
    return cookie.partition(";")[0] if cookie.startswith("username-") else ""


async def test_a_link_signs_one_browser_in_and_no_other(door):
    shown = ticket_in(door.app.public_url)
    first = await post(door, shown)
    assert (first.status, first.headers["location"]) == (302, door.app.default_url)
    cookie = cookie_of(first)
    assert (await door.fetch("api/me", {"Cookie": cookie})).status == 200

    second = await post(door, shown)
    assert second.status == 403
    assert b"This link was used before" in second.body
    assert b"jupyter token-ws login --local --link" in second.body
    assert shown.encode() not in second.body
    assert not cookie_of(second)


async def test_of_all_that_open_it_at_once_one_is_signed_in(door):
    shown = ticket_in(door.app.public_url)
    answers = await asyncio.gather(*(post(door, shown) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [302, 403, 403, 403, 403]
    assert len([answer for answer in answers if cookie_of(answer)]) == 1


KINDS = (STOCK, PASSWORD_AND_TOKEN, PLAIN_LEGACY)


@pytest.mark.parametrize(
    "jp_server_config", [config(kind, link_ticket=True) for kind in KINDS], ids=map(str, KINDS)
)
async def test_under_identity_providers_with_a_login_cookie(door):
    answer = await post(door, ticket_in(door.app.public_url))
    assert answer.status == 302
    assert (await door.fetch("api/me", {"Cookie": cookie_of(answer)})).status == 200


CLOSED = config(STOCK, link_ticket=True)
CLOSED["ServerApp"]["allow_unauthenticated_access"] = False


@pytest.mark.parametrize("jp_server_config", [CLOSED])
async def test_where_nothing_is_open_to_strangers(door):
    assert cookie_of(await post(door, ticket_in(door.app.public_url)))


async def test_one_that_is_used_while_it_is_judged(door, monkeypatch):
    shown, links = ticket_in(door.app.public_url), links_of(door)
    judged = identity.ask_behind

    async def judge(*args: Any) -> Any:
        await links._store.consume(shown)
        return await judged(*args)

    monkeypatch.setattr(link, "ask_behind", judge)
    answer = await post(door, shown)
    assert (answer.status, cookie_of(answer)) == (403, "")


async def test_to_look_at_the_page_uses_nothing_up(door):
    shown = ticket_in(door.app.public_url)
    for method in ("GET", "GET"):
        page = await door.fetch(SIGN_IN, method=method)
        assert page.status == 200
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "same-origin"
        assert "default-src 'none'; script-src 'sha256-" in page.headers["content-security-policy"]
    assert (await post(door, shown)).status == 302


async def test_a_browser_that_is_signed_in_goes_on_with_a_used_link(door):
    shown = ticket_in(door.app.public_url)
    cookie = cookie_of(await post(door, shown))
    again = await post(door, shown, cookie)
    assert (again.status, cookie_of(again)) == (302, "")


async def test_a_browser_that_is_signed_in_uses_up_a_good_one(door):
    cookie = await door.login_cookie()
    shown = ticket_in(door.app.public_url)
    answer = await post(door, shown, cookie)
    assert (answer.status, cookie_of(answer)) == (302, "")
    assert (await post(door, shown)).status == 403


async def test_C6_5_what_is_in_a_link_is_good_nowhere_else(door):
    shown = ticket_in(door.app.public_url)
    knock = await door.refused(EVENTS, [MARKER, bearing(shown), REASON_MARKER])
    assert (knock.code, knock.slug) == (4403, "token_rejected")
    for path in ("api/me", "api/contents", "api/token-ws/login", "lab"):
        by_header = await door.fetch(path, bears(shown))
        by_url = await door.fetch(f"{path}?token={shown}")
        assert by_header.status in (302, 403, 404)
        assert by_url.status in (302, 403, 404)
        assert "username-" not in str(by_header.headers) + str(by_url.headers)
    assert (await ask(door, "POST", {"token": shown})).status == 400
    assert (await post(door, shown)).status == 302


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"single_use": True},
        {"audience": [SIGN_IN]},
        {"single_use": True, "audience": ["api"]},
        {"single_use": True, "audience": ["api/token-ws"]},
        {"single_use": True, "audience": [SIGN_IN, "lab"]},
    ],
)
async def test_C2_5_no_other_ticket_becomes_a_cookie(door, options):
    answer = await post(door, await ticket(door, **options))
    assert (answer.status, cookie_of(answer)) == (403, "")


async def test_C2_5_a_ticket_for_a_cookie_becomes_no_other_cookie(door):
    """It would be good after a logout."""
    page = await door.fetch("login")
    xsrf = page.headers["set-cookie"].partition(";")[0]
    cookie = await door.login_cookie()
    answer = await ask(
        door,
        "POST",
        {"single_use": True, "audience": [SIGN_IN]},
        Cookie=f"{cookie}; {xsrf}",
        X_XSRFToken=xsrf.partition("=")[2],
    )
    assert answer.status == 200, answer
    refused = await post(door, read(answer)["token"])
    assert refused.status == 403
    assert b"This ticket is not for signing in a browser" in refused.body


async def test_another_link_from_the_login(door):
    shown = await ticket(door, single_use=True, audience=[SIGN_IN])
    first = await post(door, shown)
    assert first.status == 302
    assert cookie_of(first)
    assert (await post(door, shown)).status == 403


async def test_a_link_expires(door, clock):
    links_of(door)._store.clock = clock
    shown = ticket_in(door.app.public_url)
    clock.now += 899
    assert links_of(door)._store.clock() == clock.now
    clock.now += 2
    answer = await post(door, shown)
    assert answer.status == 403
    assert b"The time of this link is over" in answer.body


async def test_a_link_is_judged_by_what_is_behind_it(door):
    shown = ticket_in(door.app.public_url)
    door.app.identity_provider.token = "another"
    answer = await post(door, shown)
    assert answer.status == 403
    assert b"was revoked, or what it stood for" in answer.body


@pytest.mark.parametrize("shown", [NOBODY, "", "x", "a-token"])
async def test_what_nobody_made(door, shown):
    assert (await post(door, shown)).status == 403


async def test_the_token_itself_is_not_taken_by_the_page(door):
    assert (await post(door, door.token)).status == 403


@pytest.mark.parametrize("token_ws_config", [{**ON, "attempt_burst": 2}])
async def test_guesses_are_counted(door):
    made_up = [NOBODY.replace("A", letter) for letter in "BCD"]
    statuses = [(await post(door, shown)).status for shown in made_up]
    assert statuses == [403, 403, 429]
    told = await post(door, made_up[2])
    assert "retry-after" in told.headers
    assert (await post(door, ticket_in(door.app.public_url))).status == 302


async def test_another_site_cannot_post_it(door, monkeypatch):
    shown = ticket_in(door.app.public_url)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode({"ticket": shown}).encode()
    assert (await door.fetch(SIGN_IN, form, method="POST", body=body)).status == 403
    for origin in ("https://elsewhere.example.org", "null"):
        elsewhere = await post(door, shown, Origin=origin)
        assert elsewhere.status in (403, 404)
        assert not cookie_of(elsewhere)
    monkeypatch.setattr(JupyterHandler, "check_xsrf_cookie", lambda self: None)
    # Older versions of jupyter_server check only one of the two.
    elsewhere = await post(door, shown, Origin="https://elsewhere.example.org")
    assert elsewhere.status == 403
    assert (await post(door, shown)).status == 302


@pytest.mark.parametrize(
    ("then", "goes"),
    [
        ("lab/tree/a%20b.ipynb?reset", True),
        ("https://elsewhere.example.org/", False),
        ("//elsewhere.example.org/", False),
        ("\\\\elsewhere.example.org", False),
    ],
)
async def test_where_a_browser_goes_on_to(door, then, goes):
    asked = f"{door.base}{then}" if goes else then
    shown = ticket_in(door.app.public_url)
    answer = await post(door, shown, query=f"?next={quote(asked)}")
    assert answer.status == 302
    assert "elsewhere" not in answer.headers["location"].replace("%5C", "\\")[:3] + (
        urlsplit(answer.headers["location"]).netloc
    )
    assert (answer.headers["location"] == asked) is goes


@pytest.mark.parametrize("token_ws_config", [{**ON, "require_tls": True}])
async def test_C3_3_not_over_plain_http_where_that_is_refused(door, monkeypatch):
    monkeypatch.setattr(Guard, "lacks_tls", lambda self, request: True)
    answer = await door.fetch(SIGN_IN)
    assert answer.status == 426
    assert "TLS" in answer.headers["upgrade"]


# -- what is printed, written and opened -----------------------------------------------------------


async def test_every_printed_address_has_the_same_ticket_and_no_token(door):
    door.app.ip = ""
    printed = f"{door.app.running_server_info(kernel_count=False)}\n{door.app.display_url}"
    assert door.token not in printed
    urls = re.findall(r"http\S+", printed)
    assert len(urls) == 4
    assert len({ticket_in(url) for url in urls}) == 1
    assert {urlsplit(url).path for url in urls} == {f"{door.base}{SIGN_IN}"}
    assert {urlsplit(url).query for url in urls} == {""}


async def test_one_is_printed_again_until_it_is_used_or_half_its_time_is_over(door, clock):
    links_of(door)._store.clock = clock
    shown = ticket_in(door.app.public_url)
    clock.now += 440
    assert ticket_in(door.app.local_url) == shown
    clock.now += 20
    second = ticket_in(door.app.local_url)
    assert second != shown
    assert (await post(door, second)).status == 302
    third = ticket_in(door.app.local_url)
    assert third not in (shown, second)
    assert (await post(door, third)).status == 302


async def test_a_token_of_the_configuration_is_left_out_as_ever(door):
    door.app.identity_provider.token_generated = False
    assert door.app.public_url.endswith("?token=...")
    assert "jtws_" not in door.app.display_url


async def test_addresses_without_a_token_stay(door):
    assert door.app.connection_url == f"http://{door.app.ip}:{door.port}{door.base}"
    door.app.identity_provider.token = ""
    assert "token" not in door.app.display_url


@pytest.mark.parametrize("generated", [True, False])
async def test_the_file_that_a_browser_opens(door, generated):
    door.app.identity_provider.token_generated = generated
    written = io.StringIO()
    door.app._write_browser_open_file("notebooks/a.ipynb", written)
    assert door.token not in written.getvalue()
    url = re.search(r'url=([^"]+)"', written.getvalue())
    assert url is not None
    there = urlsplit(url[1].replace("&amp;", "&"))
    assert there.path == f"{door.base}{SIGN_IN}"
    assert parse_qs(there.query) == {"next": [f"{door.base}notebooks/a.ipynb"]}
    shown = ticket_in(url[1])
    assert (await post(door, shown, query=f"?{there.query}")).headers["location"] == (
        f"{door.base}notebooks/a.ipynb"
    )
    assert (await post(door, ticket_in(_public(door)))).status == 302, "the printed one is another"


def _public(door: Door) -> str:
    door.app.identity_provider.token_generated = True
    url: str = door.app.public_url
    return url


async def test_a_browser_that_is_opened_without_the_file(door):
    door.app.use_redirect_file = False
    url, _ = door.app._prepare_browser_open()
    assert door.token not in url
    assert urlsplit(url).path == f"{door.base}{SIGN_IN}"
    assert (await post(door, ticket_in(url))).status == 302
    door.app.use_redirect_file = True
    assert door.app._prepare_browser_open()[0].startswith("file:")


async def test_without_a_token_pages_are_opened_as_ever(door):
    door.app.identity_provider.token = ""
    written = io.StringIO()
    door.app._write_browser_open_file("lab", written)
    assert f"{door.base}lab" in written.getvalue()
    assert SIGN_IN not in written.getvalue()
    door.app.use_redirect_file = False
    assert SIGN_IN not in door.app._prepare_browser_open()[0]


@pytest.mark.parametrize(
    ("configured", "shown"),
    [
        ("https://hub.example.org/{base}lab?x=1", "https://hub.example.org/{base}"),
        ("https://hub.example.org", "https://hub.example.org/{base}"),
    ],
)
async def test_an_address_for_people(door, configured, shown):
    base = door.base.strip("/") + "/" * (door.base != "/")
    door.app.custom_display_url = configured.format(base=base)
    links_of(door).install()
    url = door.app.public_url
    assert url.startswith(shown.format(base=base) + SIGN_IN)
    ticket_in(url)


async def test_a_jupyter_server_that_it_does_not_know_keeps_its_link(door, caplog, monkeypatch):
    server = type("Odd", (), {"log": door.app.log})()
    links = links_of(door)
    monkeypatch.setattr(links, "_server", server)
    links.install()
    assert "does not know this jupyter_server" in caplog.text
    assert vars(server) == {}


@pytest.mark.parametrize("age", [0, -1, float("inf"), float("nan")])
def test_an_age_that_is_none(age):
    with pytest.raises(TraitError, match="link_age must be positive and finite"):
        TokenWebSocketApp(link_age=age)


@pytest.mark.parametrize("token_ws_config", [{}])
async def test_it_is_off_by_default(door):
    assert f"?token={door.token}" in door.app.public_url
    assert (await door.fetch(SIGN_IN)).status == 404


@pytest.mark.parametrize("token_ws_config", [{**ON, "login": False}, {**ON, "enabled": False}])
async def test_without_login_there_are_no_links(door):
    assert f"?token={door.token}" in door.app.public_url
    assert (await door.fetch(SIGN_IN)).status == 404


async def test_the_ticket_is_in_no_log(door, caplog):
    shown = ticket_in(door.app.public_url)
    await post(door, shown)
    await post(door, shown)
    await door.fetch(f"{SIGN_IN}?token={shown}")
    assert shown not in caplog.text
    assert MARKER not in caplog.text


def test_a_coroutine_that_waits_is_none_for_it():
    with pytest.raises(RuntimeError, match="it waited"):
        _at_once(asyncio.sleep(0, None))
