"""Other people's extensions beside ours in one real server: jupyterlab-lsp with python-lsp-server,
jupyter-collaboration and jupyter-server-proxy with an application behind it.

None of them knows of tokens in subprotocols. Their sockets take them all the same, and the proxied
application never sees the server's token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from pycrdt import create_sync_message, create_update_message

from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, offer_subprotocols
from tests.support.clients import Client, connect_websockets
from tests.support.extensions import TEXT, TOKEN, Peer, Place, assert_clean, forms, serving
from tests.support.knock import TIMEOUT, Knock, knock, refused
from tests.support.waiting import until

OFFER = offer_subprotocols((), TOKEN)
HEADER = {"Authorization": f"token {TOKEN}"}
IN_URL = f"token={quote(TOKEN, safe='')}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("extensions")) as running:
        yield running


SOCKETS = ["lsp", "collaboration", "proxy", "named_proxy"]
each_socket = pytest.mark.parametrize("name", SOCKETS)


@each_socket
async def test_C1_1_C2_6_opens_by_subprotocol(name, place):
    server = place.server
    async with await knock(server.port, f"/{place.path(name)}", OFFER) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
        assert socket.set_cookies == []


@each_socket
@pytest.mark.parametrize(
    ("offer", "slug"),
    [
        ([MARKER, f"{MARKER}.wrong", REASON_MARKER], "token_rejected"),
        ([REASON_MARKER], "credentials_missing"),
        ([*OFFER, f"{MARKER}.another"], "malformed_credentials"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_C2_6_C3_2_refusals_are_told(name, offer, slug, place):
    path = place.path(name)
    probe = uuid4().hex
    path += f"{'&' if '?' in path else '?'}probe={probe}"
    socket = await refused(place.server.port, f"/{path}", offer)
    assert (socket.status, socket.subprotocol) == (101, REASON_MARKER)
    assert (socket.code, socket.reason) == (REASONS[slug].code, REASONS[slug].close_reason())
    if "proxy" in name:
        # The next one gets through, so what had been let through before would have been seen.
        async with await knock(place.server.port, f"/{path}&good=1", OFFER) as next_socket:
            await next_socket.send("x")
            assert await next_socket.wait_message() == "x"
        (request,) = place.seen(probe)
        assert request["uri"].endswith("&good=1"), "a refused request reached the application"


@each_socket
async def test_C2_6_pings_reach_the_client(name, place):
    """None of these sockets has any by itself."""
    async with await knock(place.server.port, f"/{place.path(name)}", OFFER) as socket:
        for _ in range(3):
            await asyncio.wait_for(_ping(socket), TIMEOUT)


async def _ping(socket: Knock) -> None:
    while (frame := await socket.read_frame()) is not None:
        if frame[0] == 9:
            await socket.send(frame[1], opcode=10)
            return
    raise AssertionError("closed")


def test_C4_6_the_capabilities_name_them(place):
    """Those of proxied applications are not the server's to promise."""
    document = place.server.request("GET", "api/token-ws/capabilities", token="").json()
    sockets = document["sockets"]
    assert "lsp/ws/{language_server}" in sockets
    assert "api/collaboration/room/{name}" in sockets
    assert not [path for path in sockets if "proxy" in path or path.startswith("app")]


# -- each does what it is for ----------------------------------------------------------------------


async def _open(place: Place, name: str) -> Client:
    client = await connect_websockets(place.server.ws_url + place.path(name), OFFER, {})
    assert (client.status, client.subprotocol) == (101, MARKER)
    return client


async def test_C2_6_language_server_answers(place):
    async with await _open(place, "lsp") as client:
        request = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {"processId": None, "rootUri": None, "capabilities": {}},
        }
        await client.send(json.dumps(request))
        answer: dict[str, Any] = {}
        while answer.get("id") != 1:
            message = await client.receive()
            assert message is not None, f"closed with {client.code} {client.reason}"
            answer = json.loads(message)
        assert answer["result"]["capabilities"]["hoverProvider"] is True


async def test_C2_6_collaboration_room_syncs(place):
    async with (
        await _open(place, "collaboration") as one,
        await _open(place, "collaboration") as other,
    ):
        writer, reader = Peer(one), Peer(other)
        for peer in (writer, reader):
            await peer.client.send(create_sync_message(peer.document.ydoc))
            await peer.until_source(TEXT)
        before = writer.document.ydoc.get_state()
        writer.document.source = TEXT + "another\n"
        await one.send(create_update_message(writer.document.ydoc.get_update(before)))
        await reader.until_source(TEXT + "another\n")


# -- what reaches the application ------------------------------------------------------------------

ROUTES = ["subprotocol", "header", "url", "cookie"]


async def _login_cookie(place: Place) -> str:
    answer = await knock(
        place.server.port,
        "/api/status",
        headers=HEADER,
        drop=("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"),
    )
    answer.writer.close()
    assert answer.status == 200
    return "; ".join(cookie.partition(";")[0] for cookie in answer.set_cookies)


async def _credential(place: Place, route: str) -> tuple[list[str], dict[str, str], list[str]]:
    """What each route adds to a request: subprotocols, headers, URL parameters."""
    if route == "subprotocol":
        return OFFER, {}, []
    if route == "header":
        return [], HEADER, []
    if route == "url":
        return [], {}, [IN_URL]
    return [], {"Cookie": await _login_cookie(place)}, []


@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("own", [["app.v1", "app.secret"], []], ids=["own_subprotocols", "none"])
async def test_C1_1_C2_3_proxied_application_gets_no_token(own, route, name, place):
    offer, headers, parameters = await _credential(place, route)
    probe = uuid4().hex
    path = f"/{place.path(name)}?" + "&".join([f"a={probe}", *parameters, "b=%2F"])
    async with await knock(place.server.port, path, [*own, *offer] or None, headers) as socket:
        answered = own[0] if own else MARKER if route == "subprotocol" else None
        assert (socket.status, socket.subprotocol) == (101, answered)
        await socket.send("echo me")
        assert await socket.wait_message() == "echo me"
    (request,) = place.seen(probe)
    assert_clean(request)
    assert request["uri"] == f"/socket?a={probe}&b=%2F"
    reached = {key.lower(): value for key, value in request["headers"]}
    assert "authorization" not in reached
    assert reached.get("sec-websocket-protocol") == (",".join(own) or None)


@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
@pytest.mark.parametrize("route", ["subprotocol", "cookie"])
async def test_C2_3_the_applications_own_token_parameter_stays(route, name, place):
    """By header a foreign URL token is refused, as upstream: it comes first there."""
    offer, headers, _ = await _credential(place, route)
    probe = uuid4().hex
    path = f"/{place.path(name)}?token=the-apps-own&x={probe}"
    async with await knock(place.server.port, path, offer or None, headers) as socket:
        assert socket.status == 101
        await socket.send(b"\x00\xff")
        assert await socket.wait_message() == b"\x00\xff"
    (request,) = place.seen(probe)
    assert_clean(request)
    assert request["uri"] == f"/socket?token=the-apps-own&x={probe}"


@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
@pytest.mark.parametrize("route", ["subprotocol", "cookie"])
@pytest.mark.parametrize("own", ["Basic dXNlcjpwYXNz", "Bearer the-apps-own"])
async def test_C2_1_C2_3_the_applications_own_authorization_stays(own, route, name, place):
    offer, headers, _ = await _credential(place, route)
    headers = {**headers, "Authorization": own}
    probe = uuid4().hex
    path = f"/{place.path(name)}?probe={probe}"
    async with await knock(place.server.port, path, offer or None, headers) as socket:
        assert socket.status == 101
        await socket.send("x")
        assert await socket.wait_message() == "x"
    (request,) = place.seen(probe)
    assert_clean(request)
    assert [value for key, value in request["headers"] if key == "Authorization"] == [own]


@pytest.mark.parametrize(
    "parameters", [[IN_URL, "token=own"], ["token=own", IN_URL]], ids=["before", "behind"]
)
@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
async def test_C2_3_beside_the_applications_own_token(name, parameters, place):
    """The server's token by two routes, the application's own before or behind it."""
    probe = uuid4().hex
    path = f"/{place.path(name)}?" + "&".join([*parameters, f"probe={probe}"])
    async with await knock(place.server.port, path, OFFER, HEADER) as socket:
        assert socket.status == 101
        await socket.send("x")
        assert await socket.wait_message() == "x"
    (request,) = place.seen(probe)
    assert_clean(request)
    assert request["uri"] == f"/socket?token=own&probe={probe}"
    assert "Authorization" not in dict(request["headers"])


@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
@pytest.mark.parametrize("route", ["subprotocol", "header", "url"])
async def test_C2_3_no_token_in_the_referer(route, name, place):
    """The page that opens the socket may have been opened by its own token."""
    offer, headers, parameters = await _credential(place, route)
    referer = {"Referer": f"{place.server.url}lab?{IN_URL}&reset"}
    probe = uuid4().hex
    path = f"/{place.path(name)}?" + "&".join([*parameters, f"probe={probe}"])
    async with await knock(
        place.server.port, path, offer or None, {**headers, **referer}
    ) as socket:
        assert socket.status == 101
        await socket.send("x")
        assert await socket.wait_message() == "x"
    (request,) = place.seen(probe)
    assert_clean(request)


@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
async def test_C1_2_no_token_in_a_plain_request(name, place):
    """A token offered where nothing is upgraded admits nobody and goes nowhere."""
    probe = uuid4().hex
    path = f"/{place.path(name)}?probe={probe}".replace("socket", "page")
    plain = ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
    stranger = await knock(place.server.port, path, OFFER, drop=plain)
    stranger.writer.close()
    assert stranger.status in (302, 403)
    cookie = {"Cookie": await _login_cookie(place)}
    user = await knock(place.server.port, path, OFFER, cookie, drop=plain)
    user.writer.close()
    assert (user.status, user.body) == (200, b"page")
    (request,) = place.seen(probe)
    for form in forms(TOKEN):
        assert form not in json.dumps(request)


@pytest.mark.parametrize("route", ROUTES)
@each_socket
async def test_C1_2_no_token_in_the_log(name, route, place):
    """At debug level, with all that the extensions write there themselves."""
    offer, headers, parameters = await _credential(place, route)
    path = place.path(name)
    path += ("&" if "?" in path else "?") + "&".join(["x=1", *parameters])
    async with await knock(place.server.port, f"/{path}", offer or None, headers) as socket:
        assert socket.status == 101
    # Whatever follows in the log comes after that socket's lines.
    probe = uuid4().hex
    assert place.server.request("GET", f"api/contents/{probe}").status == 404
    until(lambda: probe in place.server.log(), "the log")
    log = place.server.log()
    assert "[D " in log
    for form in forms(TOKEN):
        assert form not in log
