"""How the guard gets before every websocket, whoever registered it and whenever (C2.6)."""

from __future__ import annotations

import pytest
from jupyter_server.base.handlers import JupyterHandler
from tornado import routing, web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard import rest, router, routes
from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.handler import guarded_class
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.support.door import EVENTS, Socket, errors
from tests.support.knock import bearing
from tests.support.recording import request_for

CANARY = "canary0123456789"


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 1000}


def good(door) -> list[str]:
    return [MARKER, bearing(door.token), REASON_MARKER]


async def test_C2_6_sockets_of_the_server_and_of_others_whenever_they_come(door):
    class OldStyle(WebSocketHandler):
        """No Jupyter handler at all."""

    door.add("late", Socket)
    door.add("plain", OldStyle)
    for path in (EVENTS, "late", "plain"):
        async with await door.knock(path, good(door)) as socket:
            assert (socket.status, socket.subprotocol) == (101, MARKER), path
        refused = await door.refused(path, [MARKER, bearing("wrong"), REASON_MARKER])
        assert (refused.code, refused.slug) == (4403, "token_rejected"), path


async def test_C2_6_a_guarded_class_looks_like_the_one_behind_it(door):
    kinds: list[type] = []

    class Named(Socket):
        """Of the test."""

        async def get(self):
            kinds.append(type(self))
            await super().get()

    door.add("named", Named)
    for _ in range(2):
        async with await door.knock("named", good(door)):
            pass
    first, second = kinds
    assert first is second
    assert first is not Named
    assert issubclass(first, Named)
    for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
        assert getattr(first, attribute) == getattr(Named, attribute)
    assert guarded_class(first) is first


async def test_C2_6_no_library_class_is_changed(door):
    before = dict(vars(WebSocketHandler)), dict(vars(JupyterHandler)), dict(vars(Socket))
    door.add("late", Socket)
    async with await door.knock("late", good(door)):
        pass
    after = dict(vars(WebSocketHandler)), dict(vars(JupyterHandler)), dict(vars(Socket))
    assert before == after


class Sealed(type):
    """Classes of this kind have no subclasses."""

    def __new__(cls, name, bases, namespace):
        if any(isinstance(base, Sealed) for base in bases):
            raise TypeError("no subclasses")
        return super().__new__(cls, name, bases, namespace)


async def test_C2_6_a_class_that_cannot_be_wrapped_never_sees_a_token(door, caplog):
    seen: list[str] = []

    class Closed(Socket, metaclass=Sealed):
        def select_subprotocol(self, subprotocols):
            seen.append(repr((subprotocols, self.request, dict(self.request.headers))))

    door.add("sealed", Closed)
    told = await door.refused("sealed", good(door))
    assert (told.code, told.slug) == (4500, "internal_error")
    plain = await door.refused("sealed", [KERNEL, bearing(door.token)])
    assert (plain.code, plain.slug) == (4500, "internal_error")
    told = await door.refused("sealed", [MARKER, bearing(CANARY), REASON_MARKER])
    assert told.slug == "token_rejected"
    assert seen == []
    assert any("Cannot guard" in line for line in errors(caplog.records))
    # Without one it is as it would be without us.
    header = {"Authorization": f"token {door.token}"}
    async with await door.knock("sealed", [REASON_MARKER], header) as socket:
        assert socket.status == 101
        assert socket.subprotocol is None
    assert len(seen) == 1
    assert (await door.refused("sealed")).status == 403


@pytest.mark.parametrize("token_ws_config", [{"close_reasons": "never"}])
async def test_C2_6_a_token_sent_to_such_a_class_is_a_plain_500(door):
    class Closed(Socket, metaclass=Sealed):
        pass

    door.add("sealed", Closed)
    assert (await door.refused("sealed", good(door))).status == 500


# -- what is not a websocket's handshake -------------------------------------------------------------


class Witness(web.RequestHandler):
    """Says what it sees of a request."""

    def get(self) -> None:
        self.finish({"headers": dict(self.request.headers), "uri": self.request.uri})

    post = put = get


class SocketWitness(Socket):
    """A websocket whose plain GET is a page that says what it sees."""

    async def get(self, *args, **kwargs):
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            await super().get(*args, **kwargs)
        else:
            self.finish({"headers": dict(self.request.headers), "uri": self.request.uri})


@pytest.mark.parametrize(
    "token_ws_config", [{}, {"enabled": False}, {"exclude_paths": ["witness", "socket"]}]
)
@pytest.mark.parametrize("path", ["witness", "socket"])
async def test_C1_2_no_handler_sees_a_token_bearing_name(door, path):
    door.add("witness", Witness)
    door.add("socket", SocketWitness)
    offer = f"{KERNEL}, {bearing(CANARY)}, V9.Token.WebSocket.Jupyter.Org.{CANARY}, {REASON_MARKER}"
    for method in ("GET", "POST"):
        answer = await door.fetch(path, {"Sec-WebSocket-Protocol": offer}, method=method)
        assert CANARY.encode() not in answer.body
        if answer.status == 200:
            assert f"{KERNEL}, {REASON_MARKER}".encode() in answer.body
    only = await door.fetch(path, {"Sec-WebSocket-Protocol": bearing(CANARY)})
    assert CANARY.encode() not in only.body
    assert b"Sec-Websocket-Protocol" not in only.body


async def test_C2_6_an_upgrade_of_what_is_no_websocket_is_the_handlers_own(door):
    door.add("witness", Witness)
    answer = await door.refused("witness")
    assert answer.status == 200
    # Who can be told is told, after the credential.
    told = await door.refused("witness", [REASON_MARKER])
    assert told.slug == "credentials_missing"
    told = await door.refused("witness", good(door))
    assert told.slug == "not_found"


async def test_C2_6_targets_that_are_no_handler_classes(door):
    def by_hand(request: HTTPServerRequest) -> None:
        connection = request.connection
        assert connection is not None
        headers = HTTPHeaders({"Content-Length": "2"})
        connection.write_headers(ResponseStartLine("HTTP/1.1", 200, "OK"), headers, b"ok")
        connection.finish()

    rules = door.app.web_app.default_router.rules
    rules.insert(1, routing.Rule(routing.PathMatches(f"{door.base}callable"), by_hand))
    answer = await door.fetch("callable", {"Sec-WebSocket-Protocol": bearing(CANARY)})
    assert (answer.status, answer.body) == (200, b"ok")
    answer = await door.refused("callable", good(door))
    assert (answer.status, answer.body) == (200, b"ok")
    assert "api/events/subscribe" in routes.socket_templates(door.app.web_app)


# -- the switch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("token_ws_config", [{"enabled": False}])
async def test_C2_6_switched_off_everything_is_stock_but_tokens_are_taken_out(door):
    refused = await door.refused(EVENTS, good(door))
    assert refused.status == 403  # the token is gone, and nobody looked at it
    header = {"Authorization": f"token {door.token}"}
    async with await door.knock(EVENTS, good(door), header) as socket:
        assert (socket.status, socket.subprotocol) == (101, None)
        assert len(door.guard.registry) == 0


@pytest.mark.parametrize("token_ws_config", [{"exclude_paths": ["api/ev", "/never"]}])
async def test_C2_6_excluded_paths_are_below_the_base_and_matched_at_their_start(door):
    assert (await door.refused(EVENTS, good(door))).status == 403
    assert door.guard.covers(f"{door.base}other/api/ev")
    assert not door.guard.covers(f"{door.base}api/ev/x")
    assert not door.guard.covers("/api/ev")  # outside the base
    told = await door.refused("terminals/websocket/9", good(door))
    assert told.slug == "not_found"


@pytest.mark.parametrize(
    ("method", "headers", "concerns"),
    [
        ("GET", {}, False),
        ("PUT", {"Upgrade": "websocket"}, False),
        ("POST", {}, True),  # it may be a password's
        ("GET", {"Upgrade": "h2c"}, False),
        ("GET", {"Upgrade": "WebSocket"}, True),
        ("OPTIONS", {}, True),
        ("POST", {"Sec-WebSocket-Protocol": "x"}, True),
    ],
)
def test_C2_6_other_requests_are_not_looked_at(method, headers, concerns):
    request = request_for("/", headers)
    request.method = method
    guard = Guard(web.Application())
    assert (router._Concerns(guard).match(request) is not None) is concerns


def test_C4_6_sockets_of_an_application_without_a_base():
    application = web.Application([("/a/([^/]+)", Socket), ("/b", JupyterHandler)])
    assert routes.socket_templates(application) == ("a/{name}",)


def test_C2_6_installed_once():
    application = web.Application([])
    guard = Guard(application)
    for _ in range(3):
        router.install(guard, rest.SocketOptionsHandler)
    rules = application.default_router.rules
    assert [isinstance(rule.target, router.GuardRouter) for rule in rules].count(True) == 1
    assert isinstance(rules[0].target, router.GuardRouter)
