"""From opening a notebook's page to its first executed cell, in a real browser.

The kernel runs already and the browser has the frontend's files: what remains is what people wait for each
time. Time is the page's own, from the beginning of its navigation until an output stands in the notebook;
the page runs the cell itself, as soon as its kernel is connected.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.pairs import Options
from benchmarks.stats import LEAST_PAIRS, Comparison
from tests.support.browser import chromium
from tests.support.lab_pages import FRONTENDS, put_notebook
from tests.support.lab_servers import start_lab

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Request

LIMIT = 1.05
"""Times stock's."""

WARM_UP = 2
"""Pairs measured and thrown away."""
PATIENCE = 120.0
"""Seconds for a page."""

RUN = """
(() => {
  const panel = () =>
    [...(window.jupyterapp?.shell.widgets('main') ?? [])].find(
      widget => widget.sessionContext?.session?.kernel?.connectionStatus === 'connected'
    );
  let asked = false;
  const look = () => {
    if (!asked && panel()) {
      asked = true;
      void window.jupyterapp.commands.execute('notebook:run-all-cells');
    }
    if (document.querySelector('.jp-Notebook .jp-OutputArea-output')) {
      window.msToOutput = performance.now();
      return;
    }
    setTimeout(look, 5);
  };
  look();
})();
"""


def measure(options: Options) -> Iterator[Comparison]:
    """Yield the time for each frontend.

    Args:
        options: with `control` both servers are stock.
    """
    for name in FRONTENDS:
        samples: tuple[list[float], list[float]] = ([], [])
        for share in options.shares(LEAST_PAIRS):
            _measure(name, share, samples, control=options.control)
        yield Comparison(f"{name}: page to first output", "ms", *samples, limit=LIMIT)


def _measure(
    name: str, pairs: int, samples: tuple[list[float], list[float]], *, control: bool
) -> None:
    source = random.Random(name)
    with ExitStack() as stack:
        start = stack.enter_context
        folder = Path(start(tempfile.TemporaryDirectory(prefix="bench-")))
        browser = start(chromium())
        sides: list[tuple[int, BrowserContext, str]] = []
        for index, ours in enumerate((False, not control)):
            server = start(
                start_lab(
                    folder,
                    server_part=ours,
                    page_part=ours,
                    page={"exposeAppInBrowser": "true"},
                    name=f"server-{index}",
                )
            )
            put_notebook(server)
            context = start(browser.new_context())
            context.add_init_script(RUN)
            context.request.get(f"{server.url}login?token={server.token}")
            url = f"{server.url}{FRONTENDS[name].notebook_path}walk.ipynb"
            if name == "lab":
                _save_layout(context, url)
            sides.append((index, context, url))
        for number in range(-WARM_UP, pairs):
            # Who goes first must not matter.
            source.shuffle(sides)
            for index, context, url in sides:
                milliseconds = _open(context, url)
                if number >= 0:
                    samples[index].append(milliseconds)


def _save_layout(context: BrowserContext, url: str) -> None:
    """Open the page until it has saved its layout. A page that finds its notebook there opens it a second
    sooner, and whether it does must not depend on when the page before it was closed."""

    def saves(request: Request) -> bool:
        return (
            request.method == "PUT"
            and "/api/workspaces/" in request.url
            and "walk.ipynb" in (request.post_data or "")
        )

    page = context.new_page()
    with page.expect_request_finished(saves, timeout=PATIENCE * 1000):
        page.goto(url)
    page.close()


def _open(context: BrowserContext, url: str) -> float:
    page = context.new_page()
    page.goto(url)
    found = page.wait_for_function("window.msToOutput", timeout=PATIENCE * 1000)
    milliseconds = float(found.json_value())
    page.close()
    return milliseconds
