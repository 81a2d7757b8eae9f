"""A page on one origin that works with a server on another, as portals and embedded pages do.

The page is the frontend's own, served by one server and told to use another. Neither host nor cookie are
the other's, so all that counts there is the token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_token_ws.protocol.subprotocols import MARKER
from tests.browser.places import HEAVY_BUT_LAB, LAB, Place
from tests.support.browser import PROGRAM
from tests.support.handshakes import Handshakes
from tests.support.lab_pages import Frontend, Journal, put_notebook, use_terminal, visit, wait
from tests.support.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.timeout(400),
]

HERE, THERE = "the-token-of-the-page", "the-token-of-the-server"
SOCKETS = ("/channels", "/api/events/subscribe")

CONFIGURE = """
(options => {
  // As soon as the page's configuration is there, and before any script that reads it.
  new MutationObserver((_, observer) => {
    const element = document.getElementById('jupyter-config-data');
    if (element?.textContent.trim().endsWith('}')) {
      observer.disconnect();
      element.textContent = JSON.stringify({ ...JSON.parse(element.textContent), ...options });
    }
  }).observe(document, { childList: true, subtree: true });
})
"""


@contextmanager
def _two_origins(
    place: Place, browser: Browser, directory: Path, page: dict[str, Any], **options: Any
) -> Iterator[tuple[Frontend, Journal, Handshakes]]:
    """A page of one server, told by ``page`` and to use the other one, which has ``options``."""
    port = free_port()
    origin = f"http://localhost:{port}"
    config = {"ServerApp": {"allow_origin": origin}}
    with (
        place.start(directory, name="there", token=THERE, config=config, **options) as server,
        place.start(directory, name="here", token=HERE, port=port),
        visit(browser, place.frontend, f"{origin}/") as (frontend, journal),
    ):
        put_notebook(server)
        told = {"baseUrl": server.url, "wsUrl": server.ws_url, "token": THERE, **page}
        frontend.context.add_init_script(f"{CONFIGURE.strip()}({json.dumps(told)})")
        handshakes = Handshakes(frontend.context)
        frontend.login(HERE)
        yield frontend, journal, handshakes


def _use(frontend: Frontend, journal: Journal, handshakes: Handshakes) -> None:
    page = frontend.open_notebook()
    frontend.run(page, lambda times, process: True)
    if frontend.notebook_path.startswith("lab"):  # Notebook opens a terminal at the other server
        use_terminal(frontend, page, journal)
    for path in SOCKETS:
        wait(page, lambda: handshakes.opened_to(path), path)  # noqa: B023


@pytest.mark.parametrize("place", HEAVY_BUT_LAB, indirect=True)
def test_C2_9_C3_4_page_of_one_origin_uses_the_server_of_another(
    place: Place, browser: Browser, tmp_path
):
    with _two_origins(place, browser, tmp_path, {}) as (frontend, journal, handshakes):
        _use(frontend, journal, handshakes)
        for url, names in handshakes.offers.items():
            assert url.startswith("ws://127.0.0.1:"), url
            assert f"{MARKER}.{THERE}" in names, url
        assert journal.with_token(THERE) == []


@pytest.mark.heavy
@pytest.mark.parametrize("place", [LAB], indirect=True)
def test_C2_9_a_server_elsewhere_without_the_extension_is_used_as_ever(
    place: Place, browser: Browser, tmp_path
):
    """The token goes where stock puts it, because that server takes it nowhere else."""
    page = {"appendToken": "true"}
    with _two_origins(place, browser, tmp_path, page, server_part=False) as (
        frontend,
        journal,
        handshakes,
    ):
        _use(frontend, journal, handshakes)
        assert sorted(journal.with_token(THERE)) == sorted(set(journal.socket_urls))
        assert not [names for names in handshakes.offers.values() if MARKER in names]
