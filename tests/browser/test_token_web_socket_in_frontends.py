"""``TokenWebSocket`` in the place of ``WebSocket`` in JupyterLab and Notebook as they are.

That it is a drop-in is seen best where it drops in: a person's walk through both frontends, kernels,
terminals and events, by cookie with a token that is stale, and by token alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import test_stock_frontends as walks
from tests.plugins.programs import FRONTEND, requires_node_package
from tests.support.browser import PROGRAM, chromium
from tests.support.lab_pages import FRONTENDS, Journal
from tests.support.process import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

pytestmark = [
    pytest.mark.requires(*PROGRAM),
    pytest.mark.heavy,
    pytest.mark.timeout(400),
]

INSTALL = """
(options => {
  const connections = new tokenWebSocketPackage.Connections({
    baseUrl: `${location.origin}/`,
    token: () => options.token,
    cookies: options.cookies,
    onEvent: event => told(event)
  });
  window.WebSocket = tokenWebSocketPackage.tokenWebSocket(connections);
})
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The package as one classic script, which runs before any of the page's own."""
    modules = requires_node_package("esbuild", FRONTEND / "node_modules")
    out = tmp_path_factory.mktemp("bundle") / "package.js"
    arguments = ["--bundle", "--format=iife", "--global-name=tokenWebSocketPackage"]
    # Not by node: it is either a script or, where its installation was allowed to, the program itself.
    command = [modules / ".bin" / "esbuild", FRONTEND / "src" / "index.ts", *arguments]
    subprocess.run([*map(str, command), f"--outfile={out}", "--log-level=warning"], check=True)
    return out.read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.mark.parametrize("cookies", [True, False], ids=["cookie", "token"])
@pytest.mark.parametrize("name", FRONTENDS)
def test_C1_1_C2_9_frontends_work_with_it(name, cookies, script, browser, tmp_path, monkeypatch):
    told: list[dict[str, Any]] = []
    addresses: list[str] = []
    watch = Journal.watch

    def hear(event: dict[str, Any]) -> None:
        told.append(event)

    def watch_and_install(self: Journal, context: BrowserContext) -> None:
        watch(self, context)
        context.on("page", lambda page: page.on("websocket", lambda it: addresses.append(it.url)))
        context.expose_function("told", hear)
        options = {"cookies": cookies, "token": "stale" if cookies else TOKEN}
        # Blank pages and pages of data have no server.
        install = f"if (location.host) {{ {INSTALL.strip()}({json.dumps(options)}); }}"
        context.add_init_script(f"{script}\n{install}")

    monkeypatch.setattr(Journal, "watch", watch_and_install)
    with walks._start(tmp_path, stock=False) as server:
        walks._walk(browser, name, server, tmp_path / "shot.png")
        log = server.log()
    # Nothing was refused, nothing had to wait; pages that are closed close their sockets, also those that
    # had not opened yet.
    assert {event["kind"] for event in told} <= {"open", "closed", "abandoned"}
    opened = {event["path"].split("/")[1] for event in told if event["kind"] == "open"}
    assert opened == {"kernels", "websocket", "events"}
    assert addresses
    assert not [address for address in addresses if "token" in address]
    assert "Refused websocket" not in log
