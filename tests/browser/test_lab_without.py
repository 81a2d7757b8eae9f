"""Where one half of the extension is missing or off, the other leaves a frontend that works as ever.

As ever is: by the cookie, or with the token in the URL where the page is told so, and without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL
from tests.browser.places import HEAVY_BUT_LAB, Place
from tests.support.browser import PROGRAM
from tests.support.handshakes import Handshakes
from tests.support.lab_pages import put_notebook, use_terminal, visit, wait
from tests.support.process import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.timeout(400),
]

WITHOUT: dict[str, dict[str, Any]] = {
    # What `jupyter labextension disable jupyter_token_ws` puts into the page.
    "the page's part disabled": {"page": {"disabledExtensions": ["jupyter_token_ws"]}},
    "no server part": {"server_part": False},
    "the server's part off": {"config": {"TokenWebSocketApp": {"enabled": False}}},
}
SOCKETS = {"/channels": [KERNEL], "/terminals/websocket/": [], "/api/events/subscribe": []}


@pytest.mark.parametrize(
    "by_token", [False, pytest.param(True, marks=pytest.mark.heavy)], ids=["cookie", "token"]
)
@pytest.mark.parametrize("what", WITHOUT)
@pytest.mark.parametrize("place", HEAVY_BUT_LAB, indirect=True)
def test_C2_9_frontend_works_as_ever(place: Place, what, by_token, browser: Browser, tmp_path):
    options = dict(WITHOUT[what])
    if by_token:
        options["page"] = {**options.get("page", {}), "appendToken": "true"}
    with (
        place.start(tmp_path, **options) as server,
        visit(browser, place.frontend, server.url) as (frontend, journal),
    ):
        put_notebook(server)
        handshakes = Handshakes(frontend.context)
        frontend.login(TOKEN)
        page = frontend.open_notebook()
        _, first = frontend.run(page, lambda times, process: True)
        frontend.restart(page)
        frontend.run(page, lambda times, process: process != first)
        use_terminal(frontend, page, journal)
        for path, names in SOCKETS.items():
            wait(page, lambda: handshakes.opened_to(path), path)  # noqa: B023
            for url in handshakes.opened_to(path):
                assert handshakes.offers[url] == names, url
                assert (TOKEN in url) == by_token, url
        assert not [text for text in journal.complaints if "token" in text]
