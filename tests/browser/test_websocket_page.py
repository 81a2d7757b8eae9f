"""What a page learns from ``new WebSocket`` in a real browser, which is all that a page can learn.

The page comes from the server itself, or from another origin. The server's token has every kind of
character that needs care on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import (
    KERNEL,
    MARKER,
    MAX_TOKEN_SIZE,
    REASON_MARKER,
    encode_token,
)
from tests.support.browser import PROGRAM, another_origin, chromium
from tests.support.kernel_messages import Request
from tests.support.process import Server, start_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.requires(*PROGRAM)

PAGES = Path(__file__).parent / "page"
PAGE = "socket.html"

# All of printable ASCII that can stand in a token, Latin, Greek, a wide character and one that
# UTF-16 writes as two.
TOKEN = "(a)%41%zz/b\\c?d=e&f+g#h;i,j:k@l\"m'n<o>[p]{q}|r^s`t~u!v*w$x y\u00e9\u03b1\u4e16\U0001f511"
GOOD = f"{MARKER}.{encode_token(TOKEN)}"
WRONG = f"{MARKER}.{encode_token(TOKEN + '!')}"
TOO_LONG = f"{MARKER}.{'x' * (MAX_TOKEN_SIZE + 1)}"

CHANNELS = "api/kernels/{kernel}/channels"
NO_KERNEL = "api/kernels/00000000-0000-0000-0000-000000000000/channels"
IN_URL = f"{CHANNELS}?token={quote(TOKEN, safe='')}"
OPEN = "open"
NOTHING = "nothing"
"""What a page learns of a plain HTTP refusal: code 1006, and not why."""


@dataclass(frozen=True)
class Row:
    """``says`` is ``OPEN``, ``NOTHING`` or the slug; ``answered`` what the page reads as ``protocol``."""

    id: str
    offer: tuple[str, ...]
    says: str
    answered: str = ""
    path: str = CHANNELS


# A page of the server; nobody is logged in.
PLAIN = (
    Row("marker", (MARKER, GOOD), OPEN, MARKER),
    Row("marker_and_reason_marker", (MARKER, GOOD, REASON_MARKER), OPEN, MARKER),
    Row("kernel_protocol", (KERNEL, MARKER, GOOD, REASON_MARKER), OPEN, KERNEL),
    Row("url", (), OPEN, path=IN_URL),
    Row("url_and_reason_marker", (REASON_MARKER,), OPEN, REASON_MARKER, IN_URL),
    Row("none", (), NOTHING),
    Row("none_and_reason_marker", (REASON_MARKER,), "credentials_missing", REASON_MARKER),
    Row("wrong", (MARKER, WRONG), "token_rejected", MARKER),
    Row("wrong_and_kernel_protocol", (KERNEL, MARKER, WRONG), "token_rejected", KERNEL),
    Row("wrong_and_reason_marker", (MARKER, WRONG, REASON_MARKER), "token_rejected", REASON_MARKER),
    Row("wrong_in_url", (), NOTHING, path=f"{CHANNELS}?token=wrong"),
    Row("two_tokens", (MARKER, GOOD, WRONG), "malformed_credentials", MARKER),
    Row("bad_percent", (MARKER, f"{MARKER}.%zz"), "malformed_credentials", MARKER),
    Row("over_long", (MARKER, TOO_LONG), "malformed_credentials", MARKER),
    Row("empty", (MARKER, f"{MARKER}."), "credentials_missing", MARKER),
    Row("missing_kernel", (MARKER, GOOD), "not_found", MARKER, NO_KERNEL),
    Row("missing_kernel_wrong", (MARKER, WRONG), "token_rejected", MARKER, NO_KERNEL),
    Row("no_websocket", (MARKER, GOOD), "not_found", MARKER, "api/status"),
)
# The same page after a login.
COOKIE = (
    Row("alone", (), OPEN),
    Row("reason_marker", (REASON_MARKER,), OPEN, REASON_MARKER),
    Row("kernel_protocol", (KERNEL, REASON_MARKER), OPEN, KERNEL),
    Row("missing_kernel", (REASON_MARKER,), "not_found", REASON_MARKER, NO_KERNEL),
    Row("missing_kernel_plain", (), NOTHING, path=NO_KERNEL),
    Row("beside_wrong", (MARKER, WRONG), "token_rejected", MARKER),
)
# A page of another origin, whose browser has the server's cookie or not: same answers.
ACROSS = (
    Row("good", (MARKER, GOOD), OPEN, MARKER),
    Row("good_missing_kernel", (MARKER, GOOD), "not_found", MARKER, NO_KERNEL),
    Row("wrong", (MARKER, WRONG), "token_rejected", MARKER),
    Row("none", (REASON_MARKER,), NOTHING),
    Row("none_missing_kernel", (REASON_MARKER,), NOTHING, "", NO_KERNEL),
)
OFF = (
    Row("nothing_offered", (), OPEN),
    Row("any_token", (MARKER, WRONG), OPEN, MARKER),
    Row("kernel_protocol", (KERNEL, MARKER, WRONG), OPEN, KERNEL),
    Row("two_tokens", (MARKER, GOOD, WRONG), "malformed_credentials", MARKER),
    Row("missing_kernel", (MARKER, WRONG), "not_found", MARKER, NO_KERNEL),
)


@dataclass(frozen=True)
class Place:
    """A server with a kernel."""

    server: Server
    kernel: str

    @property
    def page(self) -> str:
        return f"{self.server.url}static/{PAGE}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def _place(directory: Path, stack: ExitStack, token: str) -> Place:
    config = {
        "ServerApp": {
            "extra_static_paths": [str(PAGES)],
            # Without a token this test's own requests would need the page's cookie.
            "disable_check_xsrf": not token,
        },
        "TokenWebSocketApp": {"refusal_burst": 1000},
    }
    server = stack.enter_context(start_server(directory, config=config, token=token))
    # In the URL: what no header can carry is in this token.
    answer = server.request("POST", f"api/kernels?token={quote(token, safe='')}", {}, token="")
    assert answer.status == 201
    return Place(server, answer.json()["id"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        yield _place(tmp_path_factory.mktemp("page"), stack, TOKEN)


@pytest.fixture(scope="module")
def open_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Authentication is off."""
    with ExitStack() as stack:
        yield _place(tmp_path_factory.mktemp("off"), stack, "")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    with another_origin(PAGES) as address:
        yield address + PAGE


def _context(browser: Browser, place: Place, *, login: bool) -> BrowserContext:
    context = browser.new_context()
    if login:
        answer = context.request.get(f"{place.server.url}login?token={quote(TOKEN, safe='')}")
        assert answer.ok
        assert context.cookies()
    return context


@pytest.fixture(scope="module")
def plain_page(browser: Browser, place: Place) -> Iterator[Page]:
    with _context(browser, place, login=False) as context:
        page = context.new_page()
        page.goto(place.page)
        yield page
        assert context.cookies() == [], "a token set a cookie"


@pytest.fixture(scope="module")
def logged_in_page(browser: Browser, place: Place) -> Iterator[Page]:
    with _context(browser, place, login=True) as context:
        page = context.new_page()
        page.goto(place.page)
        yield page


@pytest.fixture(scope="module", params=[False, True], ids=["no_cookie", "cookie"])
def foreign_page(
    request: pytest.FixtureRequest, browser: Browser, place: Place, elsewhere: str
) -> Iterator[Page]:
    with _context(browser, place, login=request.param) as context:
        page = context.new_page()
        page.goto(elsewhere)
        yield page


def each(rows: tuple[Row, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.id)


def knock(page: Page, place: Place, row: Row) -> dict[str, Any]:
    frame = Request("kernel_info_request").frame(row.answered)
    seen: dict[str, Any] = page.evaluate(
        "(what) => knock(what)",
        {
            "url": place.server.ws_url + row.path.format(kernel=place.kernel),
            "protocols": list(row.offer),
            "say": frame if isinstance(frame, str) else list(frame),
        },
    )
    return seen


def holds(page: Page, place: Place, row: Row) -> None:
    """Compare everything that the page sees."""
    if row.says == OPEN:
        opened, answered, code, reason = True, True, 1000, ""
    elif row.says == NOTHING:
        opened, answered, code, reason = False, False, 1006, ""
    else:
        told = REASONS[row.says]
        opened, answered, code, reason = True, False, told.code, told.close_reason()
    assert knock(page, place, row) == {
        "opened": opened,
        "protocol": row.answered,
        "answered": answered,
        "code": code,
        "reason": reason,
    }


@each(PLAIN)
def test_C1_1_C1_3_C2_1_C3_1_C3_2_page_of_the_server(row, plain_page, place):
    holds(plain_page, place, row)


@each(COOKIE)
def test_C1_1_C2_1_C2_2_logged_in(row, logged_in_page, place):
    holds(logged_in_page, place, row)


@each(ACROSS)
def test_C3_4_another_origin(row, foreign_page, place):
    holds(foreign_page, place, row)


@each(OFF)
def test_C2_2_authentication_off(row, browser, open_place):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(open_place.page)
        holds(page, open_place, row)


def test_C2_2_C3_4_authentication_off_another_origin(browser, open_place, elsewhere):
    """A token that nobody asks for opens no door to a foreign page."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(elsewhere)
        holds(page, open_place, Row("any_token", (MARKER, WRONG), NOTHING))


def test_C1_4_J3_the_page_encodes_as_the_package(plain_page):
    every = "".join(map(chr, range(0x20, 0x7F))) + TOKEN
    assert plain_page.evaluate("(token) => encodeToken(token)", every) == encode_token(every)


@pytest.mark.parametrize("character", ["(", ")"])
def test_C1_4_a_browser_takes_no_parenthesis(character, plain_page, place):
    """Why more is escaped than ``encodeURIComponent`` does; a newer browser may have thought better."""
    error = plain_page.evaluate(
        """([url, protocol]) => {
            try { new WebSocket(url, [protocol]).close(); } catch (error) { return error.name; }
        }""",
        [place.server.ws_url, f"{MARKER}.{character}"],
    )
    assert error == "SyntaxError"


def test_C3_6_kernel_shut_down_while_connected(plain_page, place):
    token = quote(TOKEN, safe="")
    answer = place.server.request("POST", f"api/kernels?token={token}", {}, token="")
    kernel = answer.json()["id"]
    ended = plain_page.evaluate_handle(
        """([url, protocols]) => new Promise((opened) => {
            const socket = new WebSocket(url, protocols);
            const ended = new Promise((resolve) => {
              socket.onclose = ({ code, reason }) => resolve({ code, reason });
            });
            socket.onopen = () => opened({ ended });
        })""",
        [place.server.ws_url + CHANNELS.format(kernel=kernel), [MARKER, GOOD, REASON_MARKER]],
    )
    assert (
        place.server.request("DELETE", f"api/kernels/{kernel}?token={token}", token="").status
        == 204
    )
    gone = REASONS["gone"]
    assert ended.evaluate("({ ended }) => ended") == {
        "code": gone.code,
        "reason": gone.close_reason(),
    }
