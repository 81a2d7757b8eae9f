"""JupyterLab and Notebook in a browser: what people do there, and what is written down meanwhile.

    with browser.new_context(viewport=VIEWPORT) as context:
        journal = Journal(token)
        journal.watch(context)
        frontend = FRONTENDS["lab"](context, url)
        page = frontend.open_notebook()
        frontend.run(page, lambda times, process: True)

Nothing here waits for a time: everything waits for what it needs, up to ``PATIENCE``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote, unquote, unquote_plus

from playwright.sync_api import Error as PlaywrightError

from tests.support.process import PROJECT
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import (
        BrowserContext,
        ConsoleMessage,
        Locator,
        Page,
        Request,
        ViewportSize,
        WebSocket,
    )

    from tests.support.process import Server

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds that anything on the page may take."""
PRESS_AGAIN = 5.0
FAILURES = PROJECT / ".cache" / "screenshots" / "failed"
VIEWPORT: ViewportSize = {"width": 1400, "height": 900}


def notebook(*sources: str) -> dict[str, Any]:
    """A notebook of code cells."""
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{number}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(sources)
    ]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


COUNT = (
    # Says which kernel it was and how often, so no output can be taken for an earlier one.
    "import os\n"
    "times = globals().get('times', 0) + 1\n"
    "print('run', times, 'in', os.getpid(), end='.')"
)
OUTPUT = re.compile(r"run (\d+) in (\d+)\.")


def put_notebook(server: Server, *sources: str, path: str = "walk.ipynb") -> None:
    """Save a notebook on the server: ``COUNT``, and the cells in ``sources`` below it."""
    body = {"type": "notebook", "format": "json", "content": notebook(COUNT, *sources)}
    assert server.request("PUT", f"api/contents/{path}", body).status in (200, 201)


def shows(text: str, token: str) -> bool:
    """Whether an address has the token in it: encoded in whatever way, or in an address within it."""
    for _ in range(4):
        if token in text or token in unquote_plus(text):
            return True
        text = unquote(text)
    return False


@dataclass
class Journal:
    """What happened on the pages of one walk."""

    complaints: set[str] = field(default_factory=set)
    terminal: list[str] = field(default_factory=list)
    sockets: set[str] = field(default_factory=set)
    """Addresses of websockets, without what differs from run to run."""
    socket_urls: list[str] = field(default_factory=list)
    failed_sockets: int = 0
    """Websockets that came to nothing, such as one that was given up before anybody heard of it."""
    first_socket: float = 0.0
    """When the page began to connect, on the monotonic clock."""
    urls: list[str] = field(default_factory=list)
    """All that the browser asked for, in order, websockets too."""

    def watch(self, context: BrowserContext) -> None:
        context.on("page", self._page)
        context.on("request", self._request)

    def with_token(self, token: str) -> list[str]:
        """The addresses that show the token in one form or another."""
        return [url for url in self.urls if shows(url, token)]

    def sockets_to(self, path: str) -> list[str]:
        """The addresses of the websockets whose path has this in it."""
        return [url for url in self.socket_urls if path in url.partition("?")[0]]

    def _page(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complain(f"uncaught: {error}"))
        page.on("websocket", self._socket)

    def _request(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.urls.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._complain(f"{message.location.get('url', '')}: {message.text}")

    def _complain(self, text: str) -> None:
        # The first line says what it is; where in the frontend's code differs with the moment.
        self.complaints.add(_plain(text.partition("\n")[0]))

    def _socket_failed(self, _: str) -> None:
        self.failed_sockets += 1

    def _socket(self, socket: WebSocket) -> None:
        self.first_socket = self.first_socket or time.monotonic()
        self.urls.append(socket.url)
        self.socket_urls.append(socket.url)
        socket.on("socketerror", self._socket_failed)
        self.sockets.add(_plain(socket.url))
        if "/terminals/websocket/" in socket.url:
            socket.on("framereceived", lambda data: self.terminal.append(str(data)))


def _plain(text: str) -> str:
    """Without what differs from run to run: ports, identifiers, numbers."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "ID", text)
    return re.sub(r"\d+", "N", text)


def wait(page: Page, condition: Callable[[], T | None], what: str, deadline: float = PATIENCE) -> T:
    """Like ``until``, but the page's events come in meanwhile."""

    def step() -> T | None:
        page.wait_for_timeout(20)
        return condition()

    return cast("T", until(step, what, deadline))


@dataclass
class Frontend:
    """How to do on its pages what people do.

    ``url`` is the server's, or that of what stands in front of it; it ends with a slash.
    """

    context: BrowserContext
    url: str

    notebook_path = ""

    def login(self, token: str) -> None:
        """Get the login cookie, without a page."""
        assert self.context.request.get(f"{self.url}login?token={quote(token, safe='')}").ok

    def open(self, path: str) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(self.url + path)
        return page

    def open_notebook(self, name: str = "walk.ipynb", query: str = "") -> Page:
        page = self.open(self.notebook_path + name + query)
        self.loaded(page)
        return page

    def loaded(self, page: Page) -> None:
        """Wait until the page is there to be worked with."""

    def show_notebook(self, page: Page) -> None:
        """Come back to the notebook from whatever was opened since."""
        page.bring_to_front()

    def open_terminal(self, page: Page) -> Page:
        """The page with a new terminal, which has the focus."""
        raise NotImplementedError

    def idle(self, page: Page) -> None:
        """Wait until the kernel is connected and has nothing to do.

        On a busy machine the page may ask which kernel it shall be, on a stock server too.
        """
        idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        asked = page.locator(".jp-Dialog", has_text="Select Kernel")

        def connected() -> bool:
            if asked.count():
                with suppress(PlaywrightError):  # it may be gone by now
                    _choose_kernel(asked.first)
            dismiss_dialogs(page)
            return idle.count() > 0 and not asked.count()

        wait(page, connected, "an idle kernel")

    def cell(self, page: Page, number: int) -> Locator:
        """A code cell; the first is 0."""
        return page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def run_cell(self, page: Page, number: int, shown: Callable[[Locator], T | None]) -> T:
        """Run a cell until ``shown`` finds something in it.

        Asked for while it is still settling, the page may take no notice. People press again then,
        and so does this.
        """
        cell = self.cell(page, number)

        def press() -> T | None:
            self.idle(page)
            cell.locator(".cm-content").first.click()
            page.keyboard.press("Control+Enter")
            with suppress(AssertionError):
                return wait(page, lambda: shown(cell), "the cell's output", PRESS_AGAIN)
            return None

        return cast("T", until(press, f"the output of cell {number}", PATIENCE))

    def run(self, page: Page, good: Callable[[int, int], bool]) -> tuple[int, int]:
        """Run the first cell; how often it ran and in which process, once that is ``good``."""

        def shown(cell: Locator) -> tuple[int, int] | None:
            match = OUTPUT.search(text_of(cell.locator(".jp-OutputArea-output")))
            seen = (int(match[1]), int(match[2])) if match else (0, 0)
            return seen if match and good(*seen) else None

        return self.run_cell(page, 0, shown)

    def restart(self, page: Page) -> None:
        page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:restart-kernel"]').click()
        page.locator(".jp-Dialog .jp-mod-accept").click()


def _choose_kernel(dialog: Locator) -> None:
    """The one that runs already, where there is one."""
    running = dialog.locator("""select option[value*='"id"']""")
    if running.count():
        value = running.first.get_attribute("value")
        dialog.locator("select").first.select_option(value=value, timeout=1000)
    dialog.locator(".jp-mod-accept").click(timeout=1000)


def text_of(locator: Locator) -> str:
    """The text of what a locator finds, if it finds anything."""
    return "\n".join(locator.all_inner_texts())


class Lab(Frontend):
    notebook_path = "lab/tree/"

    def loaded(self, page: Page) -> None:
        page.locator("#jupyterlab-splash").wait_for(state="detached")

    def show_notebook(self, page: Page) -> None:
        page.locator('.lm-DockPanel-tabBar .lm-TabBar-tab:has-text(".ipynb")').click()

    def open_terminal(self, page: Page) -> Page:
        page.locator('.lm-MenuBar-item:has-text("File")').click()
        page.locator('.lm-Menu-item[data-type="submenu"]:has-text("New")').first.hover()
        page.locator('.lm-Menu-item[data-command="terminal:create-new"]').click()
        page.locator(".jp-Terminal .xterm").click()
        return page


class Notebook(Frontend):
    notebook_path = "notebooks/"

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


@contextmanager
def visit(browser: Any, name: str, url: str, **options: Any) -> Iterator[tuple[Frontend, Journal]]:
    """A person with a browser of their own: nothing stored, everything they do written down."""
    with browser.new_context(**{"viewport": VIEWPORT, **options}) as context:
        journal = Journal()
        journal.watch(context)
        note_toasts(context)
        try:
            yield FRONTENDS[name](context, url), journal
        except BaseException:
            _keep_pictures(context)
            raise


def _keep_pictures(context: BrowserContext) -> None:
    """What a test that fails had before its eyes, for people to look at."""
    FAILURES.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(context.pages):
        name = re.sub(r"\W+", "-", os.environ.get("PYTEST_CURRENT_TEST", "page").split("::")[-1])
        with suppress(PlaywrightError):
            page.screenshot(path=FAILURES / f"{name}-{number}.png", timeout=5000)


# -- more cells, and what people do with them ---------------------------------------------------------

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()"
SLIDER = "from ipywidgets import IntSlider\nslider = IntSlider(value=3, min=0, max=9)\nslider"
MOVED = "print('slider at', slider.value, end='.')"
ASK = "print('hello', input('Who? '), end='!')"
CELLS = (PLOT, SLIDER, MOVED, ASK)
"""Below ``COUNT``, so they are the cells 1 to 4."""


def use_every_kind_of_cell(frontend: Frontend, page: Page) -> None:
    """Text, a plot, a slider that is moved, and a question that is answered."""
    frontend.run(page, lambda times, process: True)
    frontend.run_cell(page, 1, _picture)
    handle = frontend.run_cell(page, 2, lambda cell: _one(cell.locator(".noUi-handle")))

    # By the mouse: the keys are the frontend's where it says so.
    handle.scroll_into_view_if_needed()
    grip, track = handle.bounding_box(), frontend.cell(page, 2).locator(".noUi-base").bounding_box()
    assert grip
    assert track
    middle = grip["y"] + grip["height"] / 2
    page.mouse.move(grip["x"] + grip["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] * 5 / 9, middle, steps=5)
    page.mouse.up()
    frontend.run_cell(page, 3, lambda cell: "slider at 5." in text_of(cell))
    question = frontend.run_cell(page, 4, lambda cell: _one(cell.locator("input.jp-Stdin-input")))
    question.fill("Ann")
    question.press("Enter")
    wait(page, lambda: "hello Ann!" in text_of(frontend.cell(page, 4)), "the answer")


def use_terminal(frontend: Frontend, page: Page, journal: Journal) -> Page:
    """Have a command's output in a new terminal; the page that has it."""
    terminal = frontend.open_terminal(page)
    terminal.keyboard.type("echo said $((6 * 7))\n")
    # What is drawn is pixels: the words stand in what the socket brought.
    wait(terminal, lambda: "said 42" in "".join(journal.terminal), "the terminal's output")
    return terminal


def _one(locator: Locator) -> Locator | None:
    return locator if locator.count() == 1 else None


def _picture(cell: Locator) -> bool:
    """Whether a PNG stands in the cell and could be decoded."""
    image = cell.locator('.jp-OutputArea-output img[src^="data:image/png"]')
    return bool(image.count() == 1 and image.evaluate("image => image.naturalWidth > 0"))


# -- notifications ------------------------------------------------------------------------------------

_NOTE_TOASTS = """
(() => {
  window.toastsOfTests = [];
  const note = () => {
    for (const toast of document.querySelectorAll('.Toastify__toast')) {
      if (!window.toastsOfTests.includes(toast)) {
        window.toastsOfTests.push(toast);
      }
    }
  };
  new MutationObserver(note).observe(document, { childList: true, subtree: true });
})();
"""


def note_toasts(context: BrowserContext) -> None:
    """Have the pages of a context remember every notification that was ever shown."""
    context.add_init_script(_NOTE_TOASTS)


def toasts_ever(page: Page) -> list[str]:
    """The text of every notification since the page was loaded, in order."""
    texts: list[str] = page.evaluate("window.toastsOfTests.map(toast => toast.textContent)")
    return texts


def toast(page: Page, text: str) -> Locator:
    """The notification that is shown with this text in it; not one that is on its way out."""
    return page.locator('.Toastify__toast:not([class*="exit"])', has_text=text)


def dismiss_dialogs(page: Page) -> None:
    """Put away what the frontend itself says of a server that is not there."""
    dialog = page.locator(".jp-Dialog", has_text="Server Connection Error")
    if dialog.count():
        with suppress(PlaywrightError):
            dialog.locator(".jp-mod-accept").last.click(timeout=1000)
