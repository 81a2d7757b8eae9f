"""``TokenWebSocket`` of ``frontend/`` in a real browser, against a real server with a kernel.

What its own tests cannot show: the browser's sockets, cookies, origins and CORS, and what the server
counts.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL
from tests.plugins.programs import FRONTEND
from tests.support.browser import PROGRAM, another_origin, chromium
from tests.support.kernel_messages import execute
from tests.support.pages import build_package
from tests.support.process import TOKEN, Server, start_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.requires(*PROGRAM)

HARNESS = Path(__file__).parent / "page" / "token_web_socket.html"
BASE = "/user/ann/"
EVENTS = "api/events/subscribe"
NO_KERNEL = "api/kernels/00000000-0000-0000-0000-000000000000/channels"
WRONG = "not-the-token"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built package, its example and the test's page, as a web server gives them."""
    site = tmp_path_factory.mktemp("site")
    build_package(site)
    shutil.copytree(FRONTEND / "example", site / "example")
    shutil.copy(HARNESS, site)
    return site


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[Server]:
    config = {
        "ServerApp": {"base_url": BASE, "extra_static_paths": [str(site)]},
        # All tests come from one address, some with the same wrong token.
        "TokenWebSocketApp": {"refusal_burst": 1000},
    }
    with start_server(tmp_path_factory.mktemp("server"), config=config) as running:
        yield running


@pytest.fixture
def channels(server: Server) -> str:
    """The path of a kernel of the test's own."""
    return f"api/kernels/{server.start_kernel()}/channels"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        yield context


class Watched:
    """A page, every address it asked for and every websocket it began."""

    def __init__(self, context: BrowserContext, address: str, *, clock: bool = False) -> None:
        self.page: Page = context.new_page()
        self.requests: list[str] = []
        self.sockets: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.sockets.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        if clock:
            self.page.clock.install()
        self.page.goto(address)
        self.page.wait_for_function("window.ready")

    def run(self, server: Server, path: str, **options: Any) -> None:
        """Start the application."""
        what = {"base": server.url, "ws": server.ws_url, "path": path, **options}
        self.page.evaluate("(what) => application(what)", what)

    def until(self, condition: str) -> None:
        """Wait for something to hold in the page."""
        # Every tenth of a second, not every frame: a page whose clock is played draws none.
        self.page.wait_for_function(condition, polling=100, timeout=60_000)

    def heard(self) -> list[str]:
        """What the application heard."""
        heard: list[str] = self.page.evaluate("app.heard")
        return heard

    def events(self) -> list[str]:
        """What the package told beside it."""
        told: list[str] = self.page.evaluate(
            "app.events.map(event => [event.kind, event.closed?.slug ?? event.cause].join(' ').trim())"
        )
        return told


@pytest.fixture
def watched(context: BrowserContext, server: Server) -> Iterator[Watched]:
    """A page of the server; nobody is logged in."""
    watched = Watched(context, f"{server.url}static/{HARNESS.name}")
    yield watched
    assert watched.errors == []


def login(context: BrowserContext, server: Server) -> None:
    assert context.request.get(f"{server.url}login?token={TOKEN}").ok
    assert context.cookies()


def refusals(server: Server, path: str) -> list[str]:
    """The slugs that the server logged for a path, in order."""
    return re.findall(rf"Refused websocket: \d+ (\w+) {re.escape(BASE + path)} ", server.log())


def test_C1_4_C2_9_good_token_runs_a_cell_and_stands_in_no_address(watched, server, channels):
    watched.run(server, f"{channels}?session_id=s1&token={TOKEN}", token=TOKEN)
    watched.until("app.socket.readyState === 1")
    watched.page.evaluate("(frame) => app.socket.send(frame)", execute("print(6 * 7)").frame(""))
    watched.until("app.heard.some(text => text.includes('42\\\\n'))")
    assert watched.heard()[0] == "open "
    assert watched.events() == ["open"]
    assert watched.page.evaluate("app.socket.url") == f"{server.ws_url}{channels}?session_id=s1"
    assert watched.sockets == [f"{server.ws_url}{channels}?session_id=s1"]
    assert not [address for address in watched.requests if TOKEN in address]
    assert watched.page.context.cookies() == []
    watched.page.evaluate("app.socket.close(3000, 'enough')")
    watched.until("app.socket.readyState === 3")
    assert watched.heard()[-1] == "close 3000  true"  # tornado echoes the code alone


def test_C1_1_the_kernel_protocol_is_answered_and_carries_binary_messages(
    watched, server, channels
):
    watched.run(server, channels, token=TOKEN, protocols=[KERNEL])
    watched.until("app.socket.readyState === 1")
    assert watched.heard()[0] == f"open {KERNEL}"
    assert watched.page.evaluate("app.socket.binaryType") == "blob"
    watched.page.evaluate(
        "(frame) => { app.socket.binaryType = 'arraybuffer'; app.socket.send(new Uint8Array(frame)); }",
        list(execute("6 * 7").frame(KERNEL)),
    )
    text = (
        "app.heard.map(data => data instanceof ArrayBuffer ? new TextDecoder().decode(data) : '')"
    )
    watched.until(f'{text}.some(text => text.includes(\'"text/plain": "42"\'))')


def test_C2_1_a_terminal_says_the_first_word(watched, server):
    answer = server.request("POST", "api/terminals", {})
    assert answer.status == 200
    watched.run(server, f"terminals/websocket/{answer.json()['name']}", token=TOKEN)
    watched.until("app.heard.length > 1")
    assert watched.heard()[0] == "open "
    assert json.loads(watched.heard()[1]) == ["setup", {}]


def test_C2_9_wrong_token_is_tried_twice_then_waits_for_the_user(context, server, channels):
    """Whatever an application does that reconnects at once, and however long it goes on."""
    watched = Watched(context, f"{server.url}static/{HARNESS.name}", clock=True)
    watched.run(server, channels, token=WRONG, eager=True)
    watched.until("app.sockets === 2")
    assert watched.heard() == ["error", "close 4401 credentials_missing false"]
    assert watched.events() == [
        "refused token_rejected",
        "refused credentials_missing",
        "parked credentials_missing",
    ]
    watched.page.clock.fast_forward("10:00")
    # A socket of another path goes all the way, so one of this path could have.
    watched.page.evaluate("window.first = app")
    watched.run(server, EVENTS, token=TOKEN)
    watched.until("app.socket.readyState === 1")
    assert refusals(server, channels) == ["token_rejected", "credentials_missing"]
    assert watched.page.evaluate("[first.sockets, first.socket.readyState]") == [2, 0]
    assert [url for url in watched.sockets if channels in url] == [server.ws_url + channels] * 2

    watched.page.evaluate("(token) => { first.token = token; first.connections.release() }", TOKEN)
    watched.until("first.socket.readyState === 1")
    assert len(refusals(server, channels)) == 2
    assert watched.page.evaluate("first.connections.parked().size") == 0
    assert watched.errors == []


def test_missing_kernel_is_told_and_not_asked_for_again(watched, server):
    before = len(refusals(server, NO_KERNEL))
    watched.run(server, NO_KERNEL, token=TOKEN, protocols=[KERNEL], eager=True)
    watched.until("app.sockets === 2")
    assert watched.heard() == ["error", "close 4404 not_found false"]
    assert watched.events() == ["refused not_found", "parked not_found"]
    assert refusals(server, NO_KERNEL)[before:] == ["not_found"]


@pytest.mark.parametrize("path", [None, EVENTS], ids=["kernel", "silent"])
def test_C2_1_cookie_is_enough_though_the_token_is_stale(path, context, server, channels):
    login(context, server)
    watched = Watched(context, f"{server.url}static/{HARNESS.name}")
    path = path or channels
    before = refusals(server, path)
    watched.run(server, path, token=WRONG, cookies=True)
    watched.until("app.socket.readyState === 1")
    assert watched.heard()[0] == "open "
    assert watched.events() == ["open"]
    assert watched.sockets == [server.ws_url + path]
    assert refusals(server, path) == before


def test_C2_1_token_follows_the_cookie_that_is_not_there(watched, server, channels):
    watched.run(server, channels, token=TOKEN, cookies=True)
    watched.until("app.socket.readyState === 1")
    assert watched.heard()[0] == "open "
    assert refusals(server, channels) == ["credentials_missing"]


def test_C2_2_cookie_follows_the_token_that_is_rejected(context, server, channels):
    login(context, server)
    watched = Watched(context, f"{server.url}static/{HARNESS.name}")
    watched.run(server, channels, token=WRONG)
    watched.until("app.socket.readyState === 1")
    assert refusals(server, channels) == ["token_rejected"]


@pytest.fixture
def foreign(context: BrowserContext, site: Path) -> Iterator[Watched]:
    """A page of another origin, which the server's CORS settings do not allow."""
    with another_origin(site) as address:
        watched = Watched(context, address + HARNESS.name)
        yield watched
        assert watched.errors == []
        watched.page.close()


def test_C3_4_good_token_from_another_origin(foreign, server, channels):
    foreign.run(server, channels, token=TOKEN, protocols=[KERNEL])
    foreign.until("app.socket.readyState === 1")
    assert foreign.heard()[0] == f"open {KERNEL}"


def test_C3_4_wrong_token_from_another_origin_parks_with_its_own_reason(foreign, server, channels):
    foreign.run(server, channels, token=WRONG, protocols=[KERNEL], eager=True)
    foreign.until("app.sockets === 2")
    assert foreign.heard() == ["error", "close 4403 token_rejected false"]
    assert foreign.events() == ["refused token_rejected", "parked token_rejected"]


def test_a_server_that_is_gone_is_told_so(context, site, tmp_path):
    with start_server(
        tmp_path, config={"ServerApp": {"base_url": BASE, "extra_static_paths": [str(site)]}}
    ) as server:
        watched = Watched(context, f"{server.url}static/{HARNESS.name}")
        watched.run(server, EVENTS, token=TOKEN)
        watched.until("app.socket.readyState === 1")
        server.stop()
    watched.until("app.socket.readyState === 3")
    ended = watched.heard()
    # The next one may wait, as the server asked; the user does not.
    watched.page.evaluate("path => { app.connect(); app.connections.release(path); }", EVENTS)
    watched.until("app.events.some(event => event.cause)")
    assert ended == ["open ", "close 4503 draining;retry_after=1 true"]
    assert watched.events()[-1] == "unexplained server_down"
    assert watched.heard()[len(ended) :] == ["error", "close 1006  false"]


_OPENER = build_opener(ProxyHandler({}))


class _NoWebsockets(BaseHTTPRequestHandler):
    """A network that lets plain requests through and nothing else."""

    server_url = ""

    def do_GET(self) -> None:
        if self.headers.get("Upgrade"):
            self.send_error(400)
            return
        names = ("Authorization", "Host")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        try:
            answer = _OPENER.open(Request(self.server_url + self.path, headers=headers), timeout=60)
        except HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("token", "cause"), [(TOKEN, "websockets_blocked"), (WRONG, "credential_refused")]
)
def test_a_network_without_websockets_is_told_so(token, cause, context, server):
    handler = type("Handler", (_NoWebsockets,), {"server_url": f"http://127.0.0.1:{server.port}"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            place = f"127.0.0.1:{proxy.server_port}{BASE}"
            watched = Watched(context, f"http://{place}static/{HARNESS.name}")
            what = {"base": f"http://{place}", "ws": f"ws://{place}", "path": EVENTS}
            watched.page.evaluate("(what) => application(what)", {**what, "token": token})
            watched.until("app.events.length === 1")
            assert watched.events() == [f"unexplained {cause}"]
            assert watched.heard() == ["error", "close 1006  false"]
            watched.page.close()
        finally:
            proxy.shutdown()
            thread.join()


def test_the_example_runs_a_cell(context, server):
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server.url}static/example/index.html")
    assert page.get_by_label("base address").input_value() == server.url
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="Start a kernel").click()
    log = page.get_by_role("log")
    log.get_by_text("the kernel says 42").wait_for(timeout=90_000)
    page.locator("output").get_by_text("closed 1000").wait_for()
    page.get_by_label("Token", exact=True).fill(WRONG)
    page.get_by_role("button", name="Open another").click()
    page.locator("output").get_by_text("credentials_missing").wait_for()
    log.get_by_text("parked").wait_for()
    # The next socket waits until the user acts.
    page.get_by_role("button", name="Open another").click()
    page.locator("output").get_by_text("connecting").wait_for()
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="parked sockets").click()
    page.locator("output").get_by_text("closed 1000").wait_for(timeout=90_000)
    assert errors == []
