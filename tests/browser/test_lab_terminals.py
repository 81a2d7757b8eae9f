"""Terminals have the lowest number that is free: a new one gets the name of one that is gone.

What was refused under that name must not keep the new one waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.places import LAB, Place
from tests.support.browser import PROGRAM
from tests.support.lab_pages import visit
from tests.support.process import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.timeout(400),
]

CONNECT = """
name => new Promise(resolve => {
  const { WebSocket, wsUrl } = jupyterapp.serviceManager.serverSettings;
  const socket = new WebSocket(`${wsUrl}terminals/websocket/${name}`);
  socket.onclose = event => resolve(event.code);
})
"""
MAKE = """
async () => {
  const made = await jupyterapp.serviceManager.terminals.startNew();
  window.made = made;
  return made.name;
}
"""


@pytest.mark.parametrize("place", [LAB], indirect=True)
def test_C3_a_terminal_made_anew_under_an_old_name_opens(place: Place, browser: Browser, tmp_path):
    # Without the user interface, which would tidy up some seconds later.
    options = {"exposeAppInBrowser": "true", "disabledExtensions": ["jupyter_token_ws:ui"]}
    with (
        place.start(tmp_path, page=options) as server,
        visit(browser, place.frontend, server.url) as (frontend, _journal),
    ):
        frontend.login(TOKEN)
        page = frontend.open("lab")
        frontend.loaded(page)
        assert page.evaluate(CONNECT, "1") == 4404
        assert page.evaluate(MAKE) == "1"
        page.wait_for_function("window.made.connectionStatus === 'connected'")
