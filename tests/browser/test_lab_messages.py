"""What a page says of its connections, each message brought about for real, and what its button does.

The pictures of the documentation are taken here.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.places import HEAVY_BUT_LAB, LAB, LAB_4_4, Place
from tests.support import nginx as proxies
from tests.support.authorizers import RefusesFor
from tests.support.browser import PROGRAM
from tests.support.lab_pages import (
    Frontend,
    Journal,
    dismiss_dialogs,
    put_notebook,
    text_of,
    toast,
    toasts_ever,
    visit,
    wait,
)
from tests.support.nginx import nginx
from tests.support.process import Server, free_port
from tests.support.screenshots import screenshot

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.timeout(400),
]

each_place = pytest.mark.parametrize("place", HEAVY_BUT_LAB, indirect=True)
with_status_bar = pytest.mark.parametrize("place", [LAB, LAB_4_4], indirect=True)


@contextmanager
def _visit(
    place: Place, browser: Browser, server: Server, url: str | None = None
) -> Iterator[tuple[Frontend, Journal]]:
    put_notebook(server, "pass")
    with visit(browser, place.frontend, url or server.url) as (frontend, journal):
        frontend.login(server.token)
        yield frontend, journal


def _end(server: Server) -> None:
    """Ended in good order, a server waits long for a kernel that has not even begun."""
    server.kill()


def _ready(page: Page) -> None:
    """What shows notifications is fetched a moment after the page."""
    page.locator(".Toastify").wait_for(state="attached")


@each_place
def test_C3_6_a_kernel_that_was_deleted_elsewhere(place, browser, tmp_path):
    with place.start(tmp_path) as server, _visit(place, browser, server) as (frontend, _):
        page = frontend.open_notebook()
        _, first = frontend.run(page, lambda times, process: True)
        _ready(page)
        for kernel in server.request("GET", "api/kernels").json():
            assert server.request("DELETE", f"api/kernels/{kernel['id']}").status == 204
        gone = toast(page, "The kernel of walk.ipynb is gone")
        gone.wait_for()
        screenshot(page, "kernel-gone")
        gone.get_by_role("button", name="Start a new kernel").click()
        gone.wait_for(state="detached")
        frontend.run(page, lambda times, process: process != first)
        assert len(toasts_ever(page)) == 1


@each_place
@pytest.mark.requires(*proxies.PROGRAM)
def test_websockets_that_a_proxy_blocks_are_told_within_ten_seconds(place, browser, tmp_path):
    with (
        place.start(tmp_path) as server,
        nginx(tmp_path, server.port, websockets=False) as proxy,
        _visit(place, browser, server, proxy.url) as (frontend, journal),
    ):
        page = frontend.open_notebook()
        blocked = toast(page, "Websockets do not get through to the server")
        blocked.wait_for()
        assert time.monotonic() - journal.first_socket < 10
        screenshot(page, "websockets-blocked")
        assert len(toasts_ever(page)) == 1
        refused = [request for request in proxy.requests() if request.websocket]
        assert refused
        assert {request.status for request in refused} == {400}
        _end(server)


@each_place
@pytest.mark.requires(*proxies.PROGRAM)
def test_websockets_that_are_swallowed_are_told_and_tried_again(place, browser, tmp_path):
    """Nothing refuses them: handshakes are just never answered, and a browser waits for minutes."""
    with (
        place.start(tmp_path) as server,
        socket.create_server(("127.0.0.1", free_port())) as silent,
        nginx(tmp_path, server.port, swallows=silent.getsockname()[1]) as proxy,
        _visit(place, browser, server, proxy.url) as (frontend, journal),
    ):
        page = frontend.open_notebook()
        blocked = toast(page, "Websockets do not get through to the server")
        blocked.wait_for()
        assert time.monotonic() - journal.first_socket < 15
        assert len(toasts_ever(page)) == 1
        opened = len(journal.socket_urls)
        wait(page, lambda: len(journal.socket_urls) > opened, "another attempt")
        _end(server)


@each_place
@pytest.mark.heavy
@pytest.mark.requires(*proxies.PROGRAM)
def test_server_that_is_down_is_told_and_comes_back(place, browser, tmp_path):
    port = free_port()
    server = place.start(tmp_path, port=port)
    with (
        nginx(tmp_path, port) as proxy,
        _visit(place, browser, server, proxy.url) as (frontend, _),
    ):
        page = frontend.open_notebook()
        frontend.run(page, lambda times, process: True)
        _ready(page)
        server.stop()
        down = toast(page, "The server does not answer.")
        down.wait_for()
        dismiss_dialogs(page)
        screenshot(page, "server-down")
        with place.start(tmp_path, port=port):
            down.wait_for(state="detached")
            page.close()


@contextmanager
def _refusing(place: Place, directory: Path, reason: str) -> Iterator[tuple[Server, Path]]:
    """A server that refuses kernels for a reason, which is a file that can be taken away."""
    authorizer = f"{RefusesFor.__module__}.{RefusesFor.__name__}"
    config: dict[str, Any] = {"ServerApp": {"authorizer_class": authorizer}}
    with place.start(directory, config=config) as server:
        file = directory / "lab" / "reason"
        file.write_text(reason)
        yield server, file


@each_place
def test_a_wait_that_the_server_asks_for_is_counted_down(place, browser, tmp_path):
    with (
        _refusing(place, tmp_path, "too_many_connections 15") as (server, file),
        _visit(place, browser, server) as (frontend, _),
    ):
        page = frontend.open_notebook()
        waiting = toast(page, "Trying again in")
        waiting.wait_for()
        screenshot(page, "waiting")

        def seconds() -> int:
            text = waiting.inner_text()
            return int(text.partition("Trying again in ")[2].split()[0])

        first = seconds()
        wait(page, lambda: seconds() < first, "the seconds become fewer")
        file.unlink()
        waiting.wait_for(state="detached")
        frontend.run(page, lambda times, process: True)
        assert len(toasts_ever(page)) == 1


@pytest.mark.heavy
@each_place
def test_output_that_was_cut(place, browser, tmp_path):
    with (
        _refusing(place, tmp_path, "backlog_full") as (server, file),
        _visit(place, browser, server) as (frontend, _),
    ):
        page = frontend.open_notebook()
        cut = toast(page, "Output was cut")
        cut.wait_for()
        screenshot(page, "output-cut")
        file.unlink()
        frontend.run(page, lambda times, process: True)
        assert len(toasts_ever(page)) == 1


@pytest.mark.heavy
@each_place
def test_a_server_that_is_elsewhere(place, browser, tmp_path):
    with (
        _refusing(place, tmp_path, "other_server") as (server, _),
        _visit(place, browser, server) as (frontend, _),
    ):
        page = frontend.open_notebook()
        elsewhere = toast(page, "What this page wants is on another server.")
        elsewhere.wait_for()
        screenshot(page, "other-server")
        elsewhere.get_by_role("button", name="Go to your server").click()
        # This server says nothing of another one; nothing is opened.
        page.locator(".jp-Dialog", has_text="does not say where yours is").wait_for()
        assert len(frontend.context.pages) == 1
        _end(server)


@pytest.mark.heavy
@each_place
def test_a_refusal_for_good(place, browser, tmp_path):
    with (
        _refusing(place, tmp_path, "forbidden") as (server, file),
        _visit(place, browser, server) as (frontend, _),
    ):
        page = frontend.open_notebook()
        refused = toast(page, "The server refused a connection")
        refused.wait_for()
        screenshot(page, "refused")
        file.unlink()
        refused.get_by_role("button", name="Try again").click()
        refused.wait_for(state="detached")
        frontend.run(page, lambda times, process: True)
        assert len(toasts_ever(page)) == 1


@with_status_bar
def test_status_and_details_by_keyboard_and_by_name(place, browser, tmp_path):
    with place.start(tmp_path) as server, _visit(place, browser, server) as (frontend, _):
        page = frontend.open_notebook()
        frontend.run(page, lambda times, process: True)
        status = page.locator("button.jp-TokenWs-status")
        assert "Connected" in (status.get_attribute("aria-label") or "")
        wait(page, lambda: " ms" in status.inner_text(), "the round-trip time")
        status.focus()
        page.keyboard.press("Enter")
        details = page.get_by_role("dialog", name="Connections to the server")
        details.wait_for()
        wait(page, lambda: details.evaluate("d => d.contains(document.activeElement)"), "the focus")
        rows = details.locator("tr[data-path]")
        assert "Kernel of walk.ipynb" in text_of(rows)
        assert set(rows.evaluate_all("rows => rows.map(row => row.dataset.state)")) == {"open"}
        screenshot(page, "details")
        page.keyboard.press("Escape")
        details.wait_for(state="detached")


@with_status_bar
def test_settings_are_in_the_editor_with_help(place, browser, tmp_path):
    with place.start(tmp_path) as server, _visit(place, browser, server) as (frontend, _):
        page = frontend.open_notebook()
        page.locator('.lm-MenuBar-item:has-text("Settings")').click()
        page.locator('.lm-Menu-item[data-command="settingeditor:open"]').first.click()
        page.locator(".jp-PluginList-entry", has_text="Connections to the server").click()
        editor = page.locator(".jp-SettingsForm", has_text="Connections to the server")
        for title in ("Notifications", "Token in addresses"):
            editor.get_by_label(title).first.wait_for()
        screenshot(page, "settings")
        _end(server)
