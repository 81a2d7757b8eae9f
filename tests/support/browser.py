"""Debian's Chromium, driven by Playwright. No browser is ever downloaded."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.plugins.programs import requires

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAM = ("chromium", "chromium")
"""The program and the Debian package that has it, for the marker ``requires``."""

_ARGUMENTS = (
    "--no-sandbox",  # it refuses to run as root with one, and these pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the length of a block, with a profile of its own that is thrown away.

    Each of its contexts has its own cookies. Tests that use it must not be coroutines: Playwright
    runs a loop of its own meanwhile.
    """
    from playwright.sync_api import sync_playwright

    path = requires(*PROGRAM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(_ARGUMENTS), timeout=90_000
        )
        try:
            yield browser
        finally:
            browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def another_origin(directory: Path) -> Iterator[str]:
    """A web server of static files at a port of its own; its address with the slash."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
