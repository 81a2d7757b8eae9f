"""Sockets that other people's extensions open: language servers, and documents that are shared.

They use the page's settings, so they are ours as well: by the cookie, and by the token where the page is
told to send it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.browser.places import LAB, Place
from tests.support.browser import PROGRAM
from tests.support.handshakes import Handshakes
from tests.support.lab_pages import put_notebook, visit, wait
from tests.support.process import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.timeout(400),
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
            handshakes = Handshakes(frontend.context)
            page = frontend.context.new_page()
            page.goto(server.url + frontend.notebook_path + "walk.ipynb")
            frontend.loaded(page)
            frontend.run(page, lambda times, process: True)
            for path in PATHS:
                wait(page, lambda: handshakes.opened_to(path), path)  # noqa: B023
            for url, names in handshakes.offers.items():
                if AWARENESS in url:
                    continue  # this one takes the browser's own, which is not ours to change
                assert REASON_MARKER in names, url
                assert (f"{MARKER}.{TOKEN}" in names) == by_token, url
            assert [url for url in handshakes.offers if AWARENESS in url]
            assert journal.with_token(TOKEN) == []
        # Asked to end while it saves a shared document, jupyter-collaboration may wait for ever.
        server.kill()
