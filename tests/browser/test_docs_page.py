"""The page of the documentation, in a browser, on another origin than the server's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import PROGRAM, another_origin, chromium
from tests.support.pages import blocks, save
from tests.support.process import start_server

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage

CLIENT = "docs/how-to/use-it-from-your-client.md"


def says(beginning: str) -> Callable[[ConsoleMessage], bool]:
    return lambda message: message.text.startswith(beginning)


@pytest.mark.requires(*PROGRAM)
def test_page_of_another_origin_runs_a_cell_and_hears_the_end(tmp_path):
    folder = tmp_path / "client"
    folder.mkdir()
    save(CLIENT, folder)
    with another_origin(folder) as origin, chromium() as browser:
        config = {"ServerApp": {"allow_origin": origin.rstrip("/")}}
        with start_server(tmp_path, config=config) as server:
            page = browser.new_page()
            page.goto(f"{origin}page.html")
            page.fill("[name=base]", server.url)
            page.fill("[name=token]", server.token)
            page.click("button")
            said = page.locator("pre")
            # The cell, then the socket that stays open.
            page.wait_for_function(
                "document.querySelector('pre').textContent.endsWith('42\\nopen\\n')"
            )
            assert said.inner_text().splitlines() == [
                "open, answered v1.token.websocket.jupyter.org",
                "42",
                "open",
            ]
            server.stop()
            page.wait_for_function("document.querySelector('pre').textContent.includes('closed')")
            closed = "closed 4503 draining;retry_after=1: the server is shutting down"
            assert said.inner_text().splitlines()[3] == closed


@pytest.mark.requires(*PROGRAM)
def test_ten_lines_of_the_readme_need_no_leave_from_the_server(tmp_path):
    """A good token opens a socket from any origin: no other site can know it."""
    (lines,) = blocks("README.md", "javascript")
    with another_origin(tmp_path) as origin, start_server(tmp_path) as server:
        lines = lines.replace("ws://localhost:8888/", server.ws_url)
        with chromium() as browser:
            page = browser.new_page()
            printed: list[str] = []
            page.on("console", lambda message: printed.append(message.text))
            page.goto(origin)
            for token, first in (
                (server.token, "open, answered v1.token"),
                ("wrong", "closed 4403"),
            ):
                with page.expect_console_message(says(first)):
                    page.evaluate(f"() => {{ {lines.replace('your token', token)} }}")
            with page.expect_console_message(says("closed 4503")):
                server.stop()
    assert "open, answered v1.token.websocket.jupyter.org" in printed
    assert "closed 4403 token_rejected: the token is not valid here" in printed
