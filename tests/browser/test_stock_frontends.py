"""JupyterLab and Notebook as they are, with the extension on: nobody who uses them notices.

Each is walked through twice, first on a stock server, then on one with the extension: open a
notebook, run a cell, restart the kernel, run again, use a terminal, close the page and come back.
What the browser's console complains of in the second walk it must have complained of in the first.

Screenshots are left in .cache/screenshots for people to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import PROGRAM, chromium
from tests.support.lab_pages import FRONTENDS, VIEWPORT, Journal, put_notebook, wait
from tests.support.lab_servers import start_lab
from tests.support.process import PROJECT, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.heavy,
    # Two servers, each with two kernels' lives, and megabytes of JavaScript.
    pytest.mark.timeout(400),
]

SCREENSHOTS = PROJECT / ".cache" / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def _start(directory: Path, *, stock: bool) -> Server:
    name = "stock" if stock else "ours"
    return start_lab(directory, server_part=not stock, page_part=False, name=name)


def _walk(browser: Browser, name: str, server: Server, shot: Path) -> Journal:
    """Do everything once; fails where something does not work."""
    put_notebook(server)
    journal = Journal()
    with browser.new_context(viewport=VIEWPORT) as context:
        journal.watch(context)
        frontend = FRONTENDS[name](context, server.url)
        frontend.login(server.token)

        page = frontend.open_notebook()
        _, first = frontend.run(page, lambda times, process: True)
        frontend.restart(page)
        times, second = frontend.run(page, lambda times, process: process != first)

        terminal = frontend.open_terminal(page)
        terminal.keyboard.type("echo said $((6 * 7))\n")
        said = "the terminal's output"
        wait(terminal, lambda: "said 42" in "".join(journal.terminal), said)

        page.close()
        page = frontend.open_notebook()
        # In the process and with the variables that were there before.
        frontend.run(page, lambda again, process: process == second and again > times)
        page.screenshot(path=shot)
    return journal


@pytest.mark.parametrize("name", FRONTENDS)
def test_C2_6_stock_frontend_works_unchanged(name, browser, tmp_path):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with _start(tmp_path, stock=True) as stock, _start(tmp_path, stock=False) as server:
        baseline = _walk(browser, name, stock, SCREENSHOTS / f"{name}-stock.png")
        journal = _walk(browser, name, server, SCREENSHOTS / f"{name}.png")
        capabilities = server.request("GET", "api/token-ws/capabilities", token="")
        assert capabilities.status == 200, "the walk was on a server without the extension"
        assert journal.sockets == baseline.sockets
        # Some of the frontends' own complaints come in one run and not in the next.
        for _ in range(2):
            if journal.complaints <= baseline.complaints:
                break
            again = _walk(browser, name, stock, SCREENSHOTS / f"{name}-stock.png")
            baseline.complaints |= again.complaints
        assert journal.complaints - baseline.complaints == set()
