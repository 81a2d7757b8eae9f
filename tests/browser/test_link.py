"""The link of a server in a real browser: it signs in once, and the address keeps nothing of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import PROGRAM, chromium
from tests.support.process import Server, start_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.requires(*PROGRAM)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    config = {"TokenWebSocketApp": {"link_ticket": True}}
    with start_server(tmp_path, config=config) as running:
        yield running


def test_the_file_that_a_server_opens_signs_one_browser_in(browser, server, tmp_path):
    [opened] = (tmp_path / "server" / "runtime").glob("jpserver-*-open.html")
    link = re.search(r'href="([^"]+#token=jtws_[^"]+)"', opened.read_text("utf-8"))
    assert link is not None
    asked: list[str] = []
    with browser.new_context() as context:
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{opened}")
        page.wait_for_url(lambda url: url.startswith(server.url) and "sign-in" not in url)
        assert context.cookies()
        answer = page.request.get(f"{server.url}api/me")
        assert answer.status == 200
        page.goto(link[1])  # again, from the terminal
        page.wait_for_url(lambda url: "sign-in" not in url)
        assert complaints == []
    with browser.new_context() as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(link[1])
        page.get_by_text("This link was used before").wait_for()
        assert page.url.endswith("/sign-in")
        page.goto(f"{page.url}#token=jtws_{'A' * 43}")  # another one, in the same tab
        page.wait_for_url(lambda url: "#" not in url)
        page.get_by_text("This link was used before").wait_for()
        assert page.request.get(f"{server.url}api/me").status == 403
        assert "jtws_" not in page.url
        page.goto(link[1].partition("#")[0])
        page.get_by_text("has no ticket, or not any more").wait_for()
    shown = link[1].partition("=")[2]
    assert not any(shown in url.partition("#")[0] for url in asked)
    assert shown not in server.log()
    assert server.token not in server.log()
