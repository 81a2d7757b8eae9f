"""A portal beside the servers of a real JupyterHub's users: who logs in there works on their own server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from traitlets.config import Config

from jupyter_token_ws.login.directory import StaticServerDirectory
from tests.integration.conftest import Start
from tests.support.entering import OPEN, enter, run_cell
from tests.support.hub import PORTAL_SCOPES, Hub, jupyterhub
from tests.support.pages import blocks
from tests.support.process import Answer, request
from tests.support.providers import TOKEN, USER

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("hub")]

LOGIN = "api/token-ws/login"
PAGE = "docs/how-to/jupyterhub.md"
WHO = "import os; print(os.environ['JUPYTERHUB_USER'], os.environ['JUPYTERHUB_SERVER_NAME'])"
FORBIDDEN, REJECTED = (4403, "forbidden"), (4403, "token_rejected")
ELSEWHERE = (4421, "other_server")


def on_the_page(name: str) -> Config:
    """All that a file on the page configures."""
    config = Config()
    for block in blocks(PAGE, "python"):
        if block.startswith(f"# {name}\n"):
            exec(block, {"c": config})
    return config


def as_on_the_page(url: str) -> dict[str, Any]:
    """The portal's configuration."""
    config: dict[str, Any] = on_the_page("portal.py")
    assert config["HubServerDirectory"] == {"public_url": "https://hub.example"}
    return {**config, "HubServerDirectory": {"public_url": url}}


def by_directory(url: str) -> dict[str, Any]:
    """The same for a Hub that knows its address."""
    return {
        name: traits for name, traits in as_on_the_page(url).items() if name != "HubServerDirectory"
    }


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    home = tmp_path_factory.mktemp("portal")
    with jupyterhub(home, config=by_directory(""), portal=by_directory) as running:
        for user in ("ann", "bob", "mallory"):
            running.add_user(user)
        running.start_server("ann")
        running.start_server("mallory")
        yield running


def log_in(url: str, token: str = "", body: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request("POST", f"{url}{LOGIN}", body or {}, named, token=token)


def logged_in(url: str, token: str = "", body: Any = None, **headers: str) -> dict[str, Any]:
    answer = log_in(url, token, body, **headers)
    assert answer.status == 200, answer
    told: dict[str, Any] = answer.json()
    return told


async def test_C6_2_a_login_at_the_portal_ends_in_a_kernel_on_the_user_s_own_server(hub: Hub):
    token = hub.token_of("ann", PORTAL_SCOPES, expires_in=300)
    told = logged_in(hub.portal_url, token, {"max_age": 120})
    server = {"base_url": hub.server_url("ann"), "ready": True}
    assert told["server"] == server
    assert 110 < told["expires_in"] <= 120  # less the time until it was told
    assert told["user"]["username"] == "ann"
    # As a client goes on: what the server is, without a credential, and then the new one.
    base_url = told["server"]["base_url"]
    preflight = request("GET", f"{base_url}api/token-ws/capabilities")
    assert (preflight.status, preflight.json()["base_url"]) == (200, base_url)
    assert await run_cell(base_url, told["token"], WHO) == "ann \n"


async def test_C6_2_what_the_portal_gives_is_good_there_and_nowhere_else(hub: Hub):
    token = logged_in(hub.portal_url, hub.token_of("ann"))["token"]
    said = hub.ask("GET", "user", token=token, expect=(200,)).json()
    # Beside it only what each token may: say whose it is.
    more = {
        s
        for s in said["scopes"]
        if s.partition("!")[0] not in ("read:users:name", "read:users:groups")
    }
    assert more == {"access:servers!server=ann/"}
    assert await enter(hub.server_url("ann"), token) == OPEN
    assert await enter(hub.server_url("mallory"), token) == FORBIDDEN
    assert await enter(hub.portal_url, token) == FORBIDDEN
    assert log_in(hub.portal_url, token).status == 403
    assert hub.ask("POST", "users/ann/tokens", {}, token=token).status == 403


async def test_C6_1_C6_2_by_the_cookie_of_who_signed_in(hub: Hub):
    cookie = hub.log_in("ann", hub.portal_url)
    xsrf = cookie.partition("_xsrf=")[2].partition(";")[0]
    told = logged_in(hub.portal_url, Cookie=cookie, X_XSRFToken=xsrf)
    assert await run_cell(told["server"]["base_url"], told["token"], WHO) == "ann \n"
    # Another site has the cookie sent along, and nothing more.
    assert log_in(hub.portal_url, Cookie=cookie).status == 403


async def test_C6_2_who_is_told_where_the_server_is(hub: Hub):
    asked = request("GET", f"{hub.portal_url}{LOGIN}", token=hub.token_of("ann"))
    assert asked.json()["server"] == {"base_url": hub.server_url("ann"), "ready": True}
    # At home it is here, and who was let in by the Hub is not sent away.
    at_home = request("GET", f"{hub.server_url('ann')}{LOGIN}", token=hub.token_of("ann"))
    assert at_home.json()["server"]["base_url"] == hub.server_url("ann")


async def test_C3_1_websockets_at_the_portal_belong_elsewhere(hub: Hub):
    assert await enter(hub.portal_url, hub.token_of("ann")) == ELSEWHERE
    assert await enter(hub.portal_url, "0123456789") == REJECTED


async def test_C6_2_a_server_that_was_not_started_yet(hub: Hub):
    """To the Hub everybody has a server, and who has the token for it waits until it is ready."""
    assert await enter(hub.portal_url, hub.token_of("bob")) == ELSEWHERE
    told = logged_in(hub.portal_url, hub.token_of("bob"))
    assert told["server"] == {"base_url": hub.server_url("bob"), "ready": False}
    hub.start_server("bob")
    assert await run_cell(told["server"]["base_url"], told["token"], WHO) == "bob \n"
    hub.stop_server("bob")


@pytest.mark.parametrize(
    "scopes",
    [["access:services!service=portal"], ["access:services!service=portal", "read:servers!user"]],
    ids=["cannot_see", "cannot_ask"],
)
async def test_C6_2_who_may_enter_the_portal_and_no_more(hub: Hub, scopes):
    """The portal has no rights of its own that it could lend."""
    answer = log_in(hub.portal_url, hub.token_of("ann", scopes))
    assert (answer.status, answer.json()["status"]) == (403, "forbidden")


async def test_C6_1_a_token_of_the_hub_has_no_audience(hub: Hub):
    for option in ({"audience": ["api/kernels"]}, {"single_use": True}):
        answer = log_in(hub.portal_url, hub.token_of("ann"), option)
        assert (answer.status, answer.json()["status"]) == (400, "bad_request")


async def test_C6_6_what_mallory_s_server_has_opens_nothing_of_ann_s(hub: Hub):
    mallorys, anns = hub.server_url("mallory"), hub.server_url("ann")
    environment = await run_cell(
        mallorys, hub.token_of("mallory"), "import json, os; print(json.dumps(dict(os.environ)))"
    )
    # All that a server is given by the Hub, and that its user can read.
    values = {value for value in _values(environment) if value.isprintable() and " " not in value}
    assert len(values) > 10
    for value in sorted(values):
        assert await enter(anns, value) in (REJECTED, FORBIDDEN, (4429, "too_many_attempts")), value
        # What opens the portal is Mallory's own, and leads to Mallory's own server.
        answer = log_in(hub.portal_url, value)
        if answer.status == 200:
            told = answer.json()
            assert told["user"]["username"] == "mallory"
            assert told["server"]["base_url"] == mallorys
            assert await enter(anns, told["token"]) == FORBIDDEN
    # A ticket of one server is nothing at another, in either direction.
    hers = logged_in(anns, hub.token_of("ann"))["token"]
    his = logged_in(mallorys, hub.token_of("mallory"))["token"]
    assert await enter(anns, hers) == OPEN
    assert await enter(mallorys, his) == OPEN
    assert await enter(mallorys, hers) in (REJECTED, (4429, "too_many_attempts"))
    assert await enter(anns, his) in (REJECTED, (4429, "too_many_attempts"))


def _values(environment: str) -> list[str]:
    read: dict[str, str] = json.loads(environment)
    return [value for value in read.values() if 0 < len(value) < 2000 and value.isascii()]


async def test_C6_2_a_hub_that_does_not_know_its_own_address(tmp_path):
    with jupyterhub(tmp_path, portal=as_on_the_page, public_url=False) as hub:
        hub.start_server("ann@hub.example")
        told = logged_in(hub.portal_url, hub.token_of("ann@hub.example"))
        assert urlsplit(told["server"]["base_url"]).path == "/user/ann@hub.example/"
        answer = await run_cell(told["server"]["base_url"], told["token"], WHO)
        assert answer == "ann@hub.example \n"


async def test_C6_2_without_a_hub_the_other_server_is_asked_for_a_ticket(start: Start, tmp_path):
    """The caller's token opens the portal alone, the portal's token Ann's server alone."""
    anns = start(name="anns", token="a-token-of-the-portal-only")
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({USER: anns.token}))
    tokens.chmod(0o600)
    portal = start(
        name="portal",
        config={
            "ServerApp": {"identity_provider_class": "tests.support.providers.FlagProvider"},
            "TokenWebSocketApp": {"server_directory": "static"},
            "StaticServerDirectory": {"servers": {USER: anns.url}, "tokens_file": str(tokens)},
        },
    )
    told = logged_in(portal.url, TOKEN, {"max_age": 120, "audience": ["api/kernels"]})
    assert told["server"] == {"base_url": anns.url, "ready": True}
    assert 110 < told["expires_in"] <= 120  # less the time until it was told
    assert await run_cell(anns.url, told["token"], "print(6 * 7)") == "42\n"
    assert await enter(anns.url, told["token"]) == (4403, "wrong_audience")
    assert await enter(anns.url, TOKEN) == REJECTED
    assert await enter(portal.url, TOKEN) == ELSEWHERE
    assert await enter(portal.url, told["token"]) == REJECTED
    anns.stop()
    answer = log_in(portal.url, TOKEN)
    assert (answer.status, answer.json()["status"]) == (503, "unavailable")
    whereabouts = request("GET", f"{portal.url}{LOGIN}", token=TOKEN).json()["server"]
    assert whereabouts == {"base_url": anns.url, "ready": False}
    for secret in (anns.token, told["token"], TOKEN):
        assert secret not in portal.log() + anns.log()


def test_the_page_configures_what_is_tried_here():
    hub = on_the_page("jupyterhub_config.py")
    [service] = hub.JupyterHub.services
    assert set(service["oauth_client_allowed_scopes"]) == set(PORTAL_SCOPES)
    [role] = hub.JupyterHub.load_roles
    assert (role["name"], role["scopes"]) == ("user", ["self", PORTAL_SCOPES[0]])
    assert hub.Spawner.environment == {"JUPYTERHUB_ALLOW_WEBSOCKET_COOKIE_AUTH": "0"}
    static = on_the_page("jupyter_server_config.py")
    assert static.TokenWebSocketApp.server_directory == "static"
    directory = StaticServerDirectory(config=static)
    assert set(directory.servers) == {"ann", "bob"}
    assert directory.tokens_file
