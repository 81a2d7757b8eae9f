"""Kernels behind the bridge, in JupyterLab: what a page has in the end, by its model, drawn or not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.places import Place
from tests.support import nginx as proxies
from tests.support.browser import PROGRAM
from tests.support.lab_pages import MOVED, SLIDER, Frontend, put_notebook, text_of, visit, wait
from tests.support.live_kernel import once
from tests.support.nginx import nginx
from tests.support.process import Server, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.requires(*PROGRAM), pytest.mark.timeout(400)]

in_lab = pytest.mark.parametrize("place", ["lab"], indirect=True)

PAGE = {"exposeAppInBrowser": True}

_TEXT = """number => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const outputs = notebook.model.cells.get(number).outputs;
  let text = '';
  for (let index = 0; index < outputs.length; index++) {
    const output = outputs.get(index).toJSON();
    text += [].concat(output.text ?? `[${output.output_type}]`).join('');
  }
  return text;
}"""


def printed(page: Page, number: int) -> str:
    """What a cell printed, whether it is drawn or not."""
    text: str = page.evaluate(_TEXT, number)
    return text


def ended(frontend: Frontend, page: Page, number: int) -> bool:
    """Whether a cell has its number, and no star."""
    prompt = text_of(frontend.cell(page, number).locator(".jp-InputPrompt"))
    return re.fullmatch(r"\[\d+\]:", prompt) is not None


LINES = "".join(f"{n}\n" for n in range(200_000))
PRINTS = "for n in range(200_000): print(n)"


@in_lab
def test_two_hundred_thousand_lines(place: Place, browser: Browser, tmp_path: Path):
    """The cell ends, the kernel is idle, and every line is there."""
    with place.start(tmp_path, page=PAGE) as server:
        put_notebook(server, PRINTS)
        with visit(browser, place.frontend, server.url) as (frontend, journal):
            frontend.login(server.token)
            page = frontend.open_notebook()
            frontend.run(page, lambda times, process: True)
            frontend.run_cell(page, 1, lambda _cell: printed(page, 1).endswith("199999\n") or None)
            frontend.idle(page)
            assert printed(page, 1) == LINES
            assert ended(frontend, page, 1)
            # The page is still there to be worked with.
            frontend.run(page, lambda times, process: times > 1)
        assert not [text for text in journal.complaints if "uncaught" in text]


@in_lab
def test_widget_of_a_page(place: Place, browser: Browser, tmp_path: Path):
    """A slider that the kernel moves and that the page moves."""
    back = "slider.value = 7"
    with place.start(tmp_path, page=PAGE) as server:
        put_notebook(server, SLIDER, MOVED, back)
        with visit(browser, place.frontend, server.url) as (frontend, _):
            frontend.login(server.token)
            page = frontend.open_notebook()
            frontend.run(page, lambda times, process: True)
            frontend.run_cell(page, 1, lambda cell: cell.locator(".noUi-handle").count())
            handle = page.locator(".noUi-handle")
            handle.press("ArrowRight")
            frontend.run_cell(page, 2, lambda cell: "slider at 4." in text_of(cell))
            frontend.run_cell(page, 3, lambda _cell: handle.get_attribute("aria-valuenow") == "7.0")


GO_ON = "for n in range(1, 6): print(n, flush=True)\n" + once(
    Path("away"), "for n in range(6, 501): print(n, flush=True)\nprint('end')"
)
"""Goes on when it is told that the page is away. It is silent before: what goes into a connection that is cut
before the server knows is lost."""


@in_lab
@pytest.mark.requires(*proxies.PROGRAM)
def test_page_that_was_away_gets_what_it_missed(place: Place, browser: Browser, tmp_path: Path):
    """The connection breaks in the middle of a cell, which ends while nobody is there."""
    front = free_port()
    with (
        place.start(tmp_path, page=PAGE) as server,
        visit(browser, place.frontend, f"http://127.0.0.1:{front}/") as (frontend, journal),
    ):
        put_notebook(server, GO_ON)
        with nginx(tmp_path / "before", server.port, port=front):
            frontend.login(server.token)
            page = frontend.open_notebook()
            frontend.run(page, lambda times, process: True)
            busy = page.locator('.jp-Notebook-ExecutionIndicator[data-status="busy"]')
            frontend.run_cell(page, 1, lambda _cell: "5\n" in printed(page, 1) and busy.count())
        (kernel,) = server.request("GET", "api/kernels").json()
        until(lambda: connections(server, kernel["id"]) == 0, "the page to be away")
        body = {"type": "file", "format": "text", "content": ""}
        assert server.request("PUT", "api/contents/away", body).status == 201
        until(lambda: state(server, kernel["id"]) == "idle", "the cell to end")
        assert "end" not in printed(page, 1)
        with nginx(tmp_path / "after", server.port, port=front):
            wait(page, lambda: printed(page, 1).endswith("end\n"), "what was missed")
            assert printed(page, 1).split() == [*map(str, range(1, 501)), "end"]
            frontend.idle(page)
            assert ended(frontend, page, 1)
        assert len(set(journal.sockets_to(f"{kernel['id']}/channels"))) == 1, "one session"


def connections(server: Server, kernel_id: str) -> int:
    model = server.kernel(kernel_id)
    assert model is not None
    return int(model["connections"])


def state(server: Server, kernel_id: str) -> str:
    model = server.kernel(kernel_id)
    assert model is not None
    return str(model["execution_state"])
