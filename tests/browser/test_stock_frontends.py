"""JupyterLab and Notebook as they are, with the extension on: nobody who uses them notices.

Each is walked through twice, first on a stock server, then on one with the extension: open a
notebook, run a cell, restart the kernel, run again, use a terminal, close the page and come back.
What the browser's console complains of in the second walk it must have complained of in the first.

Screenshots are left in .cache/screenshots for people to look at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from tests.support.browser import PROGRAM, chromium
from tests.support.process import PROJECT, Server, start_server
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Page,
        WebSocket,
    )

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.heavy,
    # Two servers, each with two kernels' lives, and megabytes of JavaScript.
    pytest.mark.timeout(400),
]

T = TypeVar("T")

SCREENSHOTS = PROJECT / ".cache" / "screenshots"
PATIENCE = 60.0
"""Seconds that anything on the page may take."""
PRESS_AGAIN = 5.0

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "only",
            "metadata": {},
            "outputs": [],
            # Says which kernel it was and how often, so no output can be taken for an earlier one.
            "source": (
                "import os\n"
                "times = globals().get('times', 0) + 1\n"
                "print('run', times, 'in', os.getpid(), end='.')"
            ),
        }
    ],
    "metadata": {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}
OUTPUT = re.compile(r"run (\d+) in (\d+)\.")


@dataclass
class Journal:
    """What happened on the pages of one walk."""

    complaints: set[str] = field(default_factory=set)
    terminal: list[str] = field(default_factory=list)
    sockets: set[str] = field(default_factory=set)

    def watch(self, context: BrowserContext) -> None:
        context.on("page", self._page)

    def _page(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complain(f"uncaught: {error}"))
        page.on("websocket", self._socket)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._complain(f"{message.location.get('url', '')}: {message.text}")

    def _complain(self, text: str) -> None:
        # The first line says what it is; where in the frontend's code differs with the moment.
        self.complaints.add(_plain(text.partition("\n")[0]))

    def _socket(self, socket: WebSocket) -> None:
        self.sockets.add(_plain(socket.url))
        if "/terminals/websocket/" in socket.url:
            socket.on("framereceived", lambda data: self.terminal.append(str(data)))


def _plain(text: str) -> str:
    """Without what differs from run to run: ports, identifiers, numbers."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "ID", text)
    return re.sub(r"\d+", "N", text)


@dataclass
class Frontend:
    """How to do on its pages what a walk does."""

    context: BrowserContext
    server: Server

    def open(self, path: str) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(self.server.url + path)
        return page

    def open_notebook(self) -> Page:
        raise NotImplementedError

    def open_terminal(self, page: Page) -> Page:
        """The page with a new terminal, which has the focus."""
        raise NotImplementedError

    def idle(self, page: Page) -> None:
        """Wait until the kernel is connected and has nothing to do."""
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()

    def run(self, page: Page, good: Callable[[int, int], bool]) -> tuple[int, int]:
        """Run the cell; how often it ran and in which process, once that is ``good``.

        Asked for while it is still settling, the page may take no notice. People press again then,
        and so does this.
        """
        output = page.locator(".jp-Notebook .jp-OutputArea-output").first

        def press() -> tuple[int, int] | None:
            self.idle(page)
            page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
            page.keyboard.press("Control+Enter")
            with suppress(AssertionError):
                return _wait(page, shown, "the cell's output", PRESS_AGAIN)
            return None

        def shown() -> tuple[int, int] | None:
            match = OUTPUT.search(output.inner_text()) if output.count() else None
            seen = (int(match[1]), int(match[2])) if match else (0, 0)
            return seen if match and good(*seen) else None

        return cast("tuple[int, int]", until(press, "the cell's output", PATIENCE))

    def restart(self, page: Page) -> None:
        page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:restart-kernel"]').click()
        page.locator(".jp-Dialog .jp-mod-accept").click()


def _wait(page: Page, condition: Callable[[], T | None], what: str, deadline: float) -> T:
    """Like ``until``, but the page's events come in meanwhile."""

    def step() -> T | None:
        page.wait_for_timeout(20)
        return condition()

    return cast("T", until(step, what, deadline))


class Lab(Frontend):
    def open_notebook(self) -> Page:
        page = self.open("lab/tree/walk.ipynb")
        page.locator("#jupyterlab-splash").wait_for(state="detached")
        return page

    def open_terminal(self, page: Page) -> Page:
        page.locator('.lm-MenuBar-item:has-text("File")').click()
        page.locator('.lm-Menu-item[data-type="submenu"]:has-text("New")').first.hover()
        page.locator('.lm-Menu-item[data-command="terminal:create-new"]').click()
        page.locator(".jp-Terminal .xterm").click()
        return page


class Notebook(Frontend):
    def open_notebook(self) -> Page:
        return self.open("notebooks/walk.ipynb")

    def open_terminal(self, page: Page) -> Page:
        tree = self.open("tree")
        tree.locator('.jp-FileBrowser-toolbar .lm-MenuBar-item:has-text("New")').click()
        with self.context.expect_page() as opened:
            tree.locator('.lm-Menu-item[data-command="terminal:create-new"]').click()
        terminal = opened.value
        terminal.set_default_timeout(PATIENCE * 1000)
        terminal.locator(".jp-Terminal .xterm").click()
        return terminal


FRONTENDS: dict[str, type[Frontend]] = {"lab": Lab, "notebook": Notebook}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def _start(directory: Path, *, stock: bool) -> Server:
    # The other extensions of the test environment have parts in the browser too.
    bare: dict[str, Any] = {"labextensions_path": [], "extra_labextensions_path": []}
    # No questions to servers elsewhere.
    silent = {
        "news_url": None,
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "extension_manager": "readonly",
    }
    return start_server(
        directory,
        stock=stock,
        extensions={"jupyterlab": True, "notebook": True, "notebook_shim": True},
        config={"LabApp": {**bare, **silent}, "JupyterNotebookApp": bare},
        name="stock" if stock else "ours",
    )


def _walk(browser: Browser, name: str, server: Server, shot: Path) -> Journal:
    """Do everything once; fails where something does not work."""
    body = {"type": "notebook", "format": "json", "content": NOTEBOOK}
    assert server.request("PUT", "api/contents/walk.ipynb", body).status in (200, 201)
    journal = Journal()
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        journal.watch(context)
        assert context.request.get(f"{server.url}login?token={server.token}").ok
        frontend = FRONTENDS[name](context, server)

        page = frontend.open_notebook()
        _, first = frontend.run(page, lambda times, process: True)
        frontend.restart(page)
        times, second = frontend.run(page, lambda times, process: process != first)

        terminal = frontend.open_terminal(page)
        terminal.keyboard.type("echo said $((6 * 7))\n")
        said = "the terminal's output"
        _wait(terminal, lambda: "said 42" in "".join(journal.terminal), said, PATIENCE)

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
