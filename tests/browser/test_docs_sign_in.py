"""The page of the how-to about signing in, on another site than the server's: with a ticket in its memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_server.auth.security import passwd

from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import offer_subprotocols
from tests.support.browser import PROGRAM, another_origin
from tests.support.pages import build_package, save
from tests.support.process import TOKEN, Server, start_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Request, Response

PAGE = "docs/how-to/sign-in-from-your-page.md"
LOGIN = "api/token-ws/login"
PASSWORD = "a password"
LIFE = 16.0
"""Seconds of a ticket; renewed after half of them, so that a busy machine may be late by as much."""
BASE = "/user/ann/"

pytestmark = pytest.mark.requires(*PROGRAM)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with the package beside it: at another host, so that no cookie would be shared by chance."""
    folder = tmp_path_factory.mktemp("page")
    assert save(PAGE, folder) == ["sign-in.html"]
    build_package(folder)
    with another_origin(folder) as origin:
        yield origin.replace("127.0.0.1", "localhost")


def start(tmp_path: Path, site: str, **stores: Any) -> Server:
    config = {
        "ServerApp": {"allow_origin": site.rstrip("/"), "base_url": BASE},
        "PasswordIdentityProvider": {"hashed_password": passwd(PASSWORD, algorithm="sha1")},
        **stores,
    }
    return start_server(tmp_path, config=config)


class Visit:
    """The page in a browser, and every address that it asked for."""

    def __init__(self, context: BrowserContext, site: str, server: Server) -> None:
        self.server = server
        self.page: Page = context.new_page()
        self.requests: list[Request] = []
        self.sockets: list[str] = []
        self.errors: list[str] = []
        # Playwright marks the functions it is given: a list's own method cannot be.
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108
        self.page.on("websocket", lambda socket: self.sockets.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{site}sign-in.html")
        self.page.fill("[name=base]", server.url.rstrip("/"))

    def sign_in(self, by: str, secret: str) -> dict[str, Any]:
        """Sign in; return what the server answered."""
        self.page.select_option("[name=by]", by)
        self.page.fill("[name=secret]", secret)
        with self.page.expect_response(answers("POST", LOGIN), timeout=60_000) as answered:
            self.page.click("button:has-text('Sign in')")
        answer: dict[str, Any] = answered.value.json()
        return answer

    def says(self, text: str) -> None:
        """Wait until the page says so."""
        self.page.get_by_role("status").get_by_text(text, exact=True).wait_for(timeout=90_000)

    def run(self, times: int) -> None:
        """Run the cell, and wait for what it prints: for so many times in all."""
        self.page.click("button:has-text('Run')")
        self.page.wait_for_function(
            "text => document.querySelector('pre').textContent === text",
            arg="42\n" * times,
            timeout=90_000,
        )

    def knock(self, path: str, token: str) -> str:
        """How a plain websocket of this page ends that bears a token."""
        ended: str = self.page.evaluate(
            """([url, offer]) => new Promise(resolve => {
              const socket = new WebSocket(url, offer);
              socket.onclose = ({code, reason}) => resolve(`${code} ${reason.split(':')[0]}`);
            })""",
            [self.server.ws_url + path, offer_subprotocols([], token)],
        )
        return ended

    def fetch(self, path: str, token: str) -> list[Any]:
        """What this page may read of a request that bears a token."""
        read: list[Any] = self.page.evaluate(
            """async ([url, token]) => {
              const response = await fetch(url, {headers: {Authorization: `Bearer ${token}`}});
              return [response.status, await response.json()];
            }""",
            [self.server.url + path, token],
        )
        return read

    @property
    def bearers(self) -> list[str]:
        """Every ticket that went out in ``Authorization``, in order."""
        sent = [request.headers.get("authorization", "") for request in self.requests]
        return [header.removeprefix("Bearer ") for header in sent if header]

    def keeps_nothing(self, *secrets: str) -> None:
        """None of these is anywhere but in the page's memory."""
        state = self.page.context.storage_state(indexed_db=True)
        assert state == {"cookies": [], "origins": []}
        kept = self.page.evaluate(
            """async () => [document.cookie, location.href, sessionStorage.length, localStorage.length,
              (await caches.keys()).length, window.name, JSON.stringify(history.state)]"""
        )
        assert kept == ["", self.page.url, 0, 0, 0, "", "null"]
        written = [
            self.page.url,
            self.page.content(),
            *self.sockets,
            *(request.url for request in self.requests),
            self.server.log(),
            *self.page.locator("input").evaluate_all("fields => fields.map(field => field.value)"),
        ]
        for secret in secrets:
            assert not [text for text in written if secret in text]
        assert not [request for request in self.requests if "cookie" in request.all_headers()]
        assert self.errors == []


def told(slug: str) -> dict[str, str]:
    """What an answer says of a refusal."""
    return {"status": slug, "message": REASONS[slug].text}


def answers(method: str, path: str) -> Any:
    def matches(response: Response) -> bool:
        return response.request.method == method and response.url.endswith(path)

    return matches


@pytest.mark.heavy
def test_C6_1_C6_3_C6_4_page_of_another_site_with_a_ticket_in_memory(tmp_path, site, browser):
    """It runs a cell, renews, goes on past the end of its first ticket, and after the last one's cannot."""
    with (
        start(tmp_path, site, MemoryTicketStore={"max_age": LIFE}) as server,
        browser.new_context() as context,
    ):
        visit = Visit(context, site, server)
        assert visit.sign_in("password", "wrong")["status"] == "token_rejected"
        visit.says("not signed in: token_rejected")
        first = visit.sign_in("password", PASSWORD)["token"]
        visit.says("signed in")
        visit.run(1)
        (socket,) = visit.sockets

        visit.says("renewed")
        until(lambda: server.request("GET", LOGIN, token=first).status != 200)
        assert visit.fetch(LOGIN, first) == [403, told("token_expired")]
        # The same socket, past the end of the ticket that opened it.
        visit.run(2)
        assert visit.sockets == [socket]

        visit.page.uncheck("[name=stay]")
        visit.says("the token has expired")
        visit.page.click("button:has-text('Run')")
        visit.says("not run: Failed to fetch")  # stock lets no other origin read what went wrong
        last = visit.bearers[-1]
        assert last not in (first, "")
        for token in (first, last):
            assert visit.fetch(LOGIN, token) == [403, told("token_expired")]
            refused = server.request("POST", "api/kernels", {}, token=token)
            assert (refused.status, refused.json()["reason"]) == (403, "token_expired")
            assert visit.knock(socket.removeprefix(server.ws_url), token) == "4401 token_expired"
            assert visit.knock("api/events/subscribe", token) == "4401 token_expired"
        visit.keeps_nothing(PASSWORD, TOKEN, *visit.bearers)


def test_C6_1_C6_4_who_signs_out_of_the_page_has_no_socket_and_may_come_back(
    tmp_path, site, browser
):
    with start(tmp_path, site) as server, browser.new_context() as context:
        visit = Visit(context, site, server)
        assert visit.sign_in("token", "wrong")["status"] == "token_rejected"
        first = visit.sign_in("token", TOKEN)["token"]
        visit.says("signed in")
        visit.run(1)
        visit.page.click("button:has-text('Sign out')")
        visit.says("the token was revoked")
        assert visit.fetch(LOGIN, first) == [403, told("token_revoked")]
        assert visit.knock("api/events/subscribe", first) == "4401 token_revoked"
        second = visit.sign_in("password", PASSWORD)["token"]
        visit.says("signed in")
        visit.run(2)
        assert len(visit.sockets) == 3  # the one of the test among them
        visit.keeps_nothing(PASSWORD, TOKEN, first, second)


def test_C6_1_page_that_the_server_does_not_allow_gets_no_ticket(tmp_path, site, browser):
    with (
        start(tmp_path, "https://friend.example/") as server,
        browser.new_context() as context,
    ):
        visit = Visit(context, site, server)
        for by, secret in (("password", PASSWORD), ("token", TOKEN)):
            visit.page.select_option("[name=by]", by)
            visit.page.fill("[name=secret]", secret)
            visit.page.click("button:has-text('Sign in')")
            visit.says("not signed in: Failed to fetch")
            assert visit.page.evaluate("typeof ticket") == "undefined"
