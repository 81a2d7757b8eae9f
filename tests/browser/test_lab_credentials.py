"""A server that is started again: with the cookie still good nobody notices; with nothing good any more the
page says so once, and goes on where it was as soon as the user signed in.

The kernel outlives its server (``lasting_kernel``), as behind a gateway. So all that changes is who is known.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.places import HEAVY_BUT_LAB, Place
from tests.support import nginx as proxies
from tests.support.browser import PROGRAM
from tests.support.lab_pages import (
    Frontend,
    Journal,
    put_notebook,
    toast,
    toasts_ever,
    visit,
    wait,
)
from tests.support.lasting_kernels import Kernel, config_for, lasting_kernel
from tests.support.nginx import Proxy, Request, nginx
from tests.support.process import Server, free_port
from tests.support.screenshots import screenshot
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.requires(*proxies.PROGRAM),
    pytest.mark.timeout(400),
]

FIRST, SECOND = "the-first-token", "the-second-token"
SIGNED_OUT = "signed out"
DOWN = "The server does not answer."
DOWN_IS_TOLD = 6.0
"""Seconds: a page may tell that its server is down where a busy machine took longer to start it again. That
is after 10 s, but the page does not ask all the time."""
EDIT = "kept = 'what nobody saved'"


class Restarts:
    """A server behind nginx that can be started again, and its kernel that goes on."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.kernel: Kernel
        self.place = place
        self.directory = directory
        self.port = free_port()
        self.kernels = directory / "kernels"
        self.server: Server | None = None
        self._stopped = 0.0
        self.outage = 0.0
        """Seconds that the last restart took."""

    def open_notebook(self, frontend: Frontend) -> tuple[Page, int]:
        """A page whose notebook uses the kernel that lasts, and how often its cell ran there.

        On a busy machine a frontend may ask for a kernel although there is one, and start another.
        """
        assert self.server is not None
        names = {"path": "walk.ipynb", "name": "walk.ipynb", "type": "notebook"}
        body = {**names, "kernel": {"id": self.kernel.id}}
        for _ in range(3):
            for session in self.server.request("GET", "api/sessions").json():
                self.server.request("DELETE", f"api/sessions/{session['id']}")
            assert self.server.request("POST", "api/sessions", body).status == 201
            page = frontend.open_notebook()
            times, process = frontend.run(page, lambda times, process: True)
            if process == self.kernel.pid:
                # What shows notifications is fetched from the server a moment after the page.
                page.locator(".Toastify").wait_for(state="attached")
                return page, times
            page.close()
        raise AssertionError("the notebook did not take its kernel")

    def start(self, token: str, **options: Any) -> Server:
        """Start it, with the kernel, its sessions and, where it is there, the cookies' secret."""
        config = config_for(self.kernels)
        self.server = self.place.start(
            self.directory, token=token, port=self.port, config=config, **options
        )
        self.outage = time.monotonic() - self._stopped
        return self.server

    def stop(self) -> None:
        """End it, as one that is updated ends: its sockets are told, then nobody answers any more.

        How long the process takes to let go of a kernel that is not its own is nobody's concern here.
        """
        if self.server is not None:
            self._stopped = time.monotonic()
            self.server.process.terminate()
            until(lambda: not _listens(self.port), "nobody listens any more")
            self.server.kill()
            self.server = None

    def told(self, page: Page) -> list[str]:
        """All notifications so far, but for one that a slow restart earned."""
        told = toasts_ever(page)
        slow = self.outage > DOWN_IS_TOLD
        return [text for text in told if not (slow and text.startswith(DOWN))]

    def forget_cookies(self) -> None:
        """Nobody's login cookie shall be good any more."""
        (self.directory / "lab" / "runtime" / "jupyter_cookie_secret").unlink()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _restarts(place: Place, directory: Path) -> Iterator[tuple[Restarts, Proxy]]:
    restarts = Restarts(place, directory)
    with (
        lasting_kernel(restarts.kernels) as restarts.kernel,
        nginx(directory, restarts.port) as proxy,
    ):
        server = restarts.start(FIRST)
        try:
            put_notebook(server, "pass")
            yield restarts, proxy
        finally:
            restarts.stop()


def _edit(frontend: Frontend, page: Page) -> None:
    """Write into a cell what is saved nowhere."""
    frontend.cell(page, 1).locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.type(EDIT)


def _edited(frontend: Frontend, page: Page) -> bool:
    return EDIT in frontend.cell(page, 1).inner_text()


def _opened(journal: Journal, path: str) -> int:
    return len(journal.sockets_to(path))


@pytest.mark.parametrize("place", HEAVY_BUT_LAB, indirect=True)
def test_C2_1_new_token_and_good_cookie_go_unnoticed(place, browser, tmp_path):
    with (
        _restarts(place, tmp_path) as (restarts, proxy),
        visit(browser, place.frontend, proxy.url) as (frontend, journal),
    ):
        frontend.login(FIRST)
        page, times = restarts.open_notebook(frontend)
        _edit(frontend, page)
        before = {path: _opened(journal, path) for path in ("/channels", "/events/subscribe")}
        restarts.stop()
        server = restarts.start(SECOND)
        assert server.request("GET", "api/me", token=FIRST).status == 403
        for path, count in before.items():
            wait(page, lambda: _opened(journal, path) > count, f"{path} opens again")  # noqa: B023
        frontend.run(page, lambda again, same: same == restarts.kernel.pid and again > times)
        assert _edited(frontend, page)
        assert restarts.told(page) == []
        assert journal.with_token(FIRST) == []
        assert journal.with_token(SECOND) == []


def _per_path(log: list[Request], since: float, until: float) -> Counter[str]:
    return Counter(
        request.path for request in log if request.websocket and since <= request.at < until
    )


@pytest.mark.parametrize("place", HEAVY_BUT_LAB, indirect=True)
@pytest.mark.parametrize(
    "window", [0, pytest.param(30, marks=pytest.mark.heavy)], ids=lambda value: f"{value}s"
)
def test_C2_9_one_word_when_nothing_is_good_any_more(place, window, browser, tmp_path):
    """``window`` is for how many seconds nobody signs in."""
    with (
        _restarts(place, tmp_path) as (restarts, proxy),
        visit(browser, place.frontend, proxy.url) as (frontend, journal),
    ):
        frontend.login(FIRST)
        page, times = restarts.open_notebook(frontend)
        _edit(frontend, page)
        restarts.stop()
        restarts.forget_cookies()
        restarts.start(SECOND)
        begun = time.time()
        notification = toast(page, SIGNED_OUT)
        notification.wait_for()
        page.wait_for_timeout(window * 1000)

        def asked_so_far() -> Counter[str] | None:
            counted = _per_path(proxy.requests(), begun, time.time())
            names = {path.rpartition("/")[2] for path in counted}
            return counted if names == {"channels", "subscribe"} else None

        asked = wait(page, asked_so_far, "every socket was refused")
        assert max(asked.values()) <= 2, asked
        assert len(restarts.told(page)) == 1
        screenshot(page, "signed-out")

        _sign_in(frontend, page)
        notification.wait_for(state="detached")
        frontend.run(page, lambda again, same: same == restarts.kernel.pid and again > times)
        assert _edited(frontend, page)
        assert len(restarts.told(page)) == 1
        assert journal.with_token(FIRST) == []
        assert journal.with_token(SECOND) == []


def _sign_in(frontend: Frontend, page: Page) -> None:
    """As the notification says; the login opens in a page of its own."""
    with frontend.context.expect_page() as opened:
        page.get_by_role("button", name="Sign in again").click()
    login = opened.value
    login.locator("#password_input").fill(SECOND)
    login.locator("#login_submit").click()
    page.bring_to_front()
