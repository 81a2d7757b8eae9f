"""Sockets that other people's extensions open: language servers, and documents that are shared.

They use the page's settings, so they are ours as well: by the cookie, and by the token where the page is
told to send it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.browser.places import LAB, Place
from tests.support.browser import PROGRAM
from tests.support.lab_pages import put_notebook, visit, wait
from tests.support.process import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.timeout(240),
]

SERVER_PARTS = {
    "jupyter_lsp": True,
    "jupyter_server_fileid": True,
    "jupyter_server_ydoc": True,
}
PAGE_PARTS = [
    "@jupyter-lsp/jupyterlab-lsp",
    "@jupyter/collaboration-extension",
    "@jupyter/docprovider-extension",
]
AWARENESS = "api/collaboration/room/JupyterLab:globalAwareness"
PATHS = ("/channels", "/lsp/ws/pylsp", "/api/collaboration/room/json:notebook:")


class Handshakes:
    """What a page's websockets offered, and which of them opened, as the browser has it."""

    def __init__(self, page: Page) -> None:
        self.offers: dict[str, list[str]] = {}
        """Subprotocols by address."""
        self.opened: set[str] = set()
        self._urls: dict[str, str] = {}
        tools = page.context.new_cdp_session(page)
        tools.on("Network.webSocketCreated", self._created)
        tools.on("Network.webSocketWillSendHandshakeRequest", self._asked)
        tools.on("Network.webSocketHandshakeResponseReceived", self._answered)
        tools.send("Network.enable")

    def _created(self, event: dict[str, Any]) -> None:
        self._urls[event["requestId"]] = event["url"]

    def _asked(self, event: dict[str, Any]) -> None:
        names = event["request"]["headers"].get("Sec-WebSocket-Protocol", "")
        self.offers[self._urls[event["requestId"]]] = names.split(", ")

    def _answered(self, event: dict[str, Any]) -> None:
        if event["response"]["status"] == 101:
            self.opened.add(self._urls[event["requestId"]])


@pytest.mark.parametrize(
    "by_token", [False, pytest.param(True, marks=pytest.mark.heavy)], ids=["cookie", "token"]
)
@pytest.mark.parametrize("place", [LAB], indirect=True)
def test_C1_1_C2_9_sockets_of_extensions_open(place: Place, by_token, browser: Browser, tmp_path):
    page_options = {"appendToken": "true"} if by_token else {}
    with place.start(
        tmp_path, page=page_options, extensions=SERVER_PARTS, labextensions=PAGE_PARTS
    ) as server:
        put_notebook(server)
        with visit(browser, place.frontend, server.url) as (frontend, journal):
            frontend.login(TOKEN)
            page = frontend.context.new_page()
            handshakes = Handshakes(page)
            page.goto(server.url + frontend.notebook_path + "walk.ipynb")
            frontend.loaded(page)
            frontend.run(page, lambda times, process: True)
            for path in PATHS:
                wait(page, lambda: any(path in url for url in handshakes.opened), path)  # noqa: B023
            for url, names in handshakes.offers.items():
                if AWARENESS in url:
                    continue  # this one takes the browser's own, which is not ours to change
                assert REASON_MARKER in names, url
                assert (f"{MARKER}.{TOKEN}" in names) == by_token, url
            assert [url for url in handshakes.offers if AWARENESS in url]
            assert journal.with_token(TOKEN) == []
