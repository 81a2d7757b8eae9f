"""The labextension in JupyterLab and Notebook, behind nginx: everything works, and no URL has the token.

Seen from both ends: by what the browser asked for, and by what nginx wrote into its access log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, encode_token
from tests.browser.places import HEAVY_BUT_LAB, PLACES, Place
from tests.support import nginx as proxies
from tests.support.browser import PROGRAM
from tests.support.lab_pages import (
    CELLS,
    Journal,
    put_notebook,
    shows,
    use_every_kind_of_cell,
    use_terminal,
    visit,
)
from tests.support.nginx import Proxy, Request, nginx
from tests.support.process import Server, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.requires(*proxies.PROGRAM),
    pytest.mark.timeout(400),
]

TOKEN = "the/server's (own) token=%3F"
"""What any encoding changes."""

SOCKETS = ("/channels", "/terminals/websocket/", "/api/events/subscribe")


def _walk(place: Place, browser: Browser, proxy: Proxy) -> Journal:
    """Come by the printed link, use everything, restart the kernel, reload the page."""
    with visit(browser, place.frontend, proxy.url) as (frontend, journal):
        page = frontend.open_notebook(query=f"?token={quote(TOKEN, safe='')}")
        use_every_kind_of_cell(frontend, page)
        _, first = frontend.run(page, lambda times, process: True)
        frontend.restart(page)
        times, second = frontend.run(page, lambda times, process: process != first)
        use_terminal(frontend, page, journal)
        frontend.show_notebook(page)
        page.reload()
        frontend.loaded(page)
        frontend.run(page, lambda again, process: process == second and again > times)
    return journal


def _log(proxy: Proxy, journal: Journal) -> list[Request]:
    """nginx's access log once every websocket of the walk is in it."""
    count = len(journal.socket_urls) - journal.failed_sockets
    until(
        lambda: sum(request.websocket for request in proxy.requests()) >= count,
        "all websockets are in nginx's log",
    )
    return proxy.requests()


def _run_and_type(place: Place, browser: Browser, proxy: Proxy, server: Server) -> Journal:
    """The short form: one cell, and a terminal."""
    put_notebook(server)
    with visit(browser, place.frontend, proxy.url) as (frontend, journal):
        frontend.login(TOKEN)
        page = frontend.open_notebook()
        frontend.run(page, lambda times, process: True)
        use_terminal(frontend, page, journal)
    return journal


ELSEWHERE = ["websocket_url", pytest.param("appendToken", marks=pytest.mark.heavy)]


@pytest.mark.parametrize("ours", [False, True], ids=["stock", "ours"])
@pytest.mark.parametrize("why", ELSEWHERE)
@pytest.mark.parametrize("place", HEAVY_BUT_LAB, indirect=True)
def test_C1_4_C2_9_token_leaves_the_url_where_stock_has_it_there(
    place, why, ours, browser, tmp_path
):
    """Sockets of another host get no cookie, and some pages are told to send the token always.

    That stock does it is also what shows that a token in a URL would be seen here.
    """
    port, front = free_port(), free_port()
    websocket_url = {"websocket_url": f"ws://localhost:{front}"}
    with (
        place.start(
            tmp_path,
            token=TOKEN,
            port=port,
            page_part=ours,
            page={"appendToken": "true"} if why == "appendToken" else {},
            config={"ServerApp": websocket_url if why == "websocket_url" else {}},
        ) as server,
        nginx(tmp_path, port, port=front) as proxy,
    ):
        journal = _run_and_type(place, browser, proxy, server)
        log = _log(proxy, journal)
    for path in SOCKETS:
        urls = journal.sockets_to(path)
        asked = [request for request in log if request.websocket and path in request.path]
        assert urls
        assert asked
        if why == "websocket_url":
            assert {urlsplit(url).hostname for url in urls} == {"localhost"}
        shown = [url for url in urls if shows(url, TOKEN)]
        assert shown == ([] if ours else urls)
        assert [shows(request.uri, TOKEN) for request in asked] == [not ours] * len(asked)
        offered = [request.subprotocols.split(", ") for request in asked]
        assert [f"{MARKER}.{encode_token(TOKEN)}" in names for names in offered] == [ours] * len(
            asked
        )


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_C1_4_C2_9_everything_works_and_no_url_has_the_token(place, browser, tmp_path):
    with (
        place.start(tmp_path, token=TOKEN) as server,
        nginx(tmp_path, server.port) as proxy,
    ):
        put_notebook(server, *CELLS)
        journal = _walk(place, browser, proxy)
        log = _log(proxy, journal)
    assert journal.with_token(TOKEN) == [journal.urls[0]]
    assert [request.uri for request in log if shows(request.uri, TOKEN)] == [log[0].uri]
    assert [request.uri for request in log if shows(request.referer, TOKEN)] == []
    for path in SOCKETS:
        asked = [request for request in log if request.websocket and path in request.path]
        assert asked, f"no websocket to {path}"
        assert journal.sockets_to(path)
        for request in asked:
            # Ours opened it, by the cookie alone.
            offered = request.subprotocols.split(", ")
            assert REASON_MARKER in offered
            assert not [name for name in offered if name.startswith(MARKER)]
