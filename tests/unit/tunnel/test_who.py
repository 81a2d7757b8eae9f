"""Whose tunnels and streams are whose, by which credential, and how these end with it (C7.3, C7.5, C6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_token_ws.guard.handler import socket_info
from jupyter_token_ws.protocol.frames import Frame, Kind, encode
from jupyter_token_ws.protocol.reasons import parse_close
from jupyter_token_ws.protocol.subprotocols import (
    REASON_MARKER,
    TUNNEL,
    offer_subprotocols,
)
from jupyter_token_ws.tunnel.tunnels import PATH, SETTING
from tests.support.door import Door, Socket
from tests.support.knock import TIMEOUT
from tests.support.tunnel_carriers import NUMBER, FarEvents, FarSocket
from tests.support.tunnel_peer import FakeSocket
from tests.support.waiting import auntil
from tests.unit.login.test_handler import ask, bears, ticket
from tests.unit.login.test_watch import Hub


class Tells(Socket):
    """Says how its client came in."""

    async def open(self, *args: Any, **kwargs: Any) -> None:
        info = socket_info(self)
        assert info is not None
        await self.write_message(
            {
                "principal": info.principal,
                "source": info.source.value,
                "carrier": info.carrier,
                "address": self.request.remote_ip,
                "origin": self.request.headers.get("Origin"),
                "host": self.request.host,
                "uri": self.request.uri,
                "authorization": self.request.headers.get("Authorization"),
            }
        )


@pytest.fixture
def users(jp_server_config: dict[str, Any]) -> None:
    """Ann and Bob, by tokens."""
    jp_server_config["ServerApp"]["identity_provider_class"] = Hub


@pytest.fixture
def far(door: Door) -> FarSocket:
    door.add("tells", Tells)
    door.add("echo", Socket)
    return FarSocket(door)


@pytest.fixture
def events(door: Door, far: FarSocket, jp_asyncio_loop: Any) -> Iterator[FarEvents]:
    events = FarEvents(door)
    yield events
    jp_asyncio_loop.run_until_complete(events.leave())


def slug_of(socket: Any) -> str | None:
    closed = parse_close(socket.code or 0, socket.reason)
    return closed.reason.slug if closed else None


async def said(far: FarSocket | FarEvents, path: str = "tells") -> dict[str, Any]:
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open(path).wait_open()
    assert socket.opened, socket.reason
    told: dict[str, Any] = json.loads(await socket.wait_message())
    return told


# -- streams have what their carrier has --------------------------------------------------------------


async def test_C7_5_a_stream_has_its_carriers_credential_address_and_origin(far, door):
    origin = f"http://{door.host}"
    await far.connect(door.token, Origin=origin)
    told = await said(far, "tells?x=1")
    assert told["uri"] == f"{door.base}tells?x=1"
    assert (told["address"], told["origin"], told["host"]) == ("127.0.0.1", origin, door.host)
    assert (told["source"], told["carrier"]) == ("subprotocol", "tunnel-websocket")
    assert told["authorization"] is None
    await far.cut()


async def test_C7_5_over_an_event_stream_too(events, door):
    await events.connect()
    told = await said(events)
    assert (told["address"], told["host"]) == ("127.0.0.1", door.host)
    assert (told["source"], told["carrier"]) == ("header", "tunnel-eventstream")
    assert told["authorization"] is None
    await events.cut()


async def test_C7_5_by_cookie_over_a_websocket(far, door):
    origin = f"http://{door.host}"
    await far.connect(Cookie=await door.login_cookie(), Origin=origin)
    assert (await said(far))["source"] == "cookie"
    await far.cut()


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("by", ["subprotocol", "header"])
async def test_C7_5_all_streams_are_the_users_of_the_carrier(far, by):
    if by == "header":
        await far.connect(Authorization="Bearer of-ann")
    else:
        await far.connect("of-ann")
    assert (await said(far))["principal"] == "user:ann"
    # What a stream says of itself is not asked for: neither in its URL nor in what it offers.
    assert (await said(far, "tells?token=of-bob"))["principal"] == "user:ann"
    socket = await far.open("tells", offer_subprotocols([], "of-bob")).wait_open()
    assert '"user:ann"' in str(await socket.wait_message())
    await far.cut()


async def test_C7_5_a_token_in_a_streams_url_is_no_credential_where_the_carriers_ended(far, door):
    await far.connect(Cookie=await door.login_cookie(), Origin=f"http://{door.host}")
    await asyncio.wait_for(far.attached(), TIMEOUT)
    door.app.identity_provider.token = "another"
    door.app.web_app.settings["cookie_secret"] = b"another"
    socket = await far.open("echo?token=another").wait_open()
    await socket.wait_closed()
    assert slug_of(socket) in ("token_rejected", "url_token_refused", "credentials_missing")
    await far.cut()


async def test_C7_5_an_open_frame_sets_no_header(far, door):
    """Members that it has not are passed over."""
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    payload = {
        "path": "tells",
        "subprotocols": [],
        "credit": 100_000,
        "headers": {"Origin": "https://elsewhere.example", "Host": "elsewhere.example"},
        "origin": "https://elsewhere.example",
    }
    number = far.client.open("unused")  # as the machine would have written it
    far.client._kept.pop()
    far.client._numbered -= 1
    far.sockets[number] = FakeSocket(far, number)
    frame = encode(Frame(Kind.OPEN, number, json.dumps(payload).encode()))
    await far.knock.send(NUMBER.pack(far.client._numbered + 1) + frame)
    far.client._numbered += 1
    far.client._given = far.client._reached = far.client._numbered
    told = json.loads(await far.sockets[number].wait_message())
    assert (told["origin"], told["host"]) == (None, door.host)
    await far.cut()


@pytest.mark.parametrize(
    "name", ["a\r\nCookie: a=b", "a\nb", "a, b", "a b", "", "\u00e4", "a\0", 'a"b', "v1.token,x"]
)
async def test_C7_5_what_is_no_name_of_a_subprotocol_comes_into_no_header(far, door, name):
    await far.connect()
    socket = await far.open("tells", ["b", name]).wait_open()
    await socket.wait_closed()
    assert (socket.opened, slug_of(socket)) == (False, "bad_request")
    assert (await said(far))["principal"]
    await far.cut()


async def test_C7_5_a_carrier_of_another_origin_opens_no_streams_by_cookie(door, far):
    told = await door.refused(
        PATH,
        [TUNNEL, REASON_MARKER],
        {"Cookie": await door.login_cookie(), "Origin": "https://elsewhere.example"},
    )
    assert told.status == 403


async def test_C7_5_a_stream_of_a_carrier_from_another_origin_by_token(door, far):
    """As a socket: who came by token may, whatever the page."""
    await far.connect(door.token, Origin="https://elsewhere.example")
    assert (await said(far))["origin"] == "https://elsewhere.example"
    await far.cut()


@pytest.mark.parametrize(
    "more_config", [{"PasswordIdentityProvider": {"token": "", "hashed_password": ""}}]
)
async def test_where_authentication_is_off(events, far):
    await events.connect()
    assert (await said(events))["source"] == "none"
    await far.connect("whatever")
    assert (await said(far))["source"] == "none"
    answer = await events.get("", Authorization="")
    assert answer.status == 200
    await events.cut()
    await far.cut()


EVIL = "http://elsewhere.example"


@pytest.mark.parametrize(
    "more_config", [{"PasswordIdentityProvider": {"token": "", "hashed_password": ""}}]
)
@pytest.mark.parametrize("query", ["", "?path=tells"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": EVIL}, 403),
        ({"Referer": f"{EVIL}/page", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Referer": f"{EVIL}/page"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://{host}", "Referer": f"{EVIL}/page"}, 200),
        ({"Referer": "http://{host}/lab"}, 200),
    ],
)
async def test_C7_2_where_authentication_is_off_pages_of_other_origins_are_not_let_in(
    events, query, headers, status
):
    """They need to set no header for it, and an image or a script sends no ``Origin``."""
    shown = {name: value.replace("{host}", events.door.host) for name, value in headers.items()}
    answer = await events.get(query, Authorization="", **shown)
    assert answer.status == status
    if status == 403:
        assert b"origin_refused" in await answer.body()


@pytest.mark.parametrize("token_ws_config", [{"exclude_paths": ["api/token-ws"]}])
async def test_an_upgrade_where_the_guard_does_not_stand(door, far):
    told = await door.knock(PATH, [TUNNEL], {"Authorization": f"token {door.token}"})
    assert told.status == 400
    await told.close()


# -- paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "slug"),
    [
        (PATH, "not_found"),
        (f"{PATH}?tunnel=x", "not_found"),
        (f"{PATH}/", "not_found"),
        ("api/token-ws/%74unnel", "not_found"),
        ("/a@b/echo", "not_found"),
        ("//elsewhere.example/echo", "not_found"),
        ("../echo", "not_found"),
        ("api/../echo", "not_found"),
        ("api/%2e%2e/echo", "not_found"),
        ("https://elsewhere.example/echo", "not_found"),
        ("ec ho", "bad_request"),
        ("echo\r\nX: y", "bad_request"),
        ("echo\x00", "bad_request"),
        ("echo#x", "bad_request"),
        ("\u00e4cho", "bad_request"),
        ("a\\b", "bad_request"),
    ],
)
async def test_C7_5_paths_outside_the_base_and_tunnels_are_refused(far, path, slug):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open(path).wait_open()
    await socket.wait_closed()
    assert not socket.opened
    assert slug_of(socket) == slug
    await far.cut()


# -- whose a tunnel is -------------------------------------------------------------------------------


@pytest.mark.usefixtures("users")
async def test_C7_3_somebody_elses_tunnel_is_not_found(far, door, events):
    await far.connect("of-ann")
    await asyncio.wait_for(far.attached(), TIMEOUT)
    identity = far.hello["tunnel"]
    told = await door.refused(
        f"{PATH}?tunnel={identity}&received=0", offer_subprotocols([TUNNEL], "of-bob")
    )
    assert told.slug == "not_found"
    events.token = "of-bob"
    theirs = await events.get(f"?tunnel={identity}&received=0")
    assert theirs.status == 404
    assert await theirs.body() == await (await events.get("?tunnel=none&received=0")).body()
    assert await events.post({"first": 1, "frames": ""}, identity) == await events.post(
        {"first": 1, "frames": ""}, "none"
    )
    # It goes on as if nothing had been.
    assert (await said(far))["principal"] == "user:ann"
    events.token = "of-ann"
    assert (await events.post({"first": 1, "frames": ""}, identity))[0] == 200
    await far.cut()


# -- tickets -----------------------------------------------------------------------------------------


async def test_C6_1_C7_3_a_tunnel_is_out_of_reach_of_a_narrower_ticket(far, door, events):
    """What comes by it, and what goes by ``POST``, may be of streams for which the ticket is not."""
    narrow = await ticket(door, audience=[PATH, "tells"])
    await far.connect(door.token)
    await asyncio.wait_for(far.attached(), TIMEOUT)
    query = f"?tunnel={far.hello['tunnel']}&received=0"
    told = await door.refused(f"{PATH}{query}", offer_subprotocols([TUNNEL], narrow))
    assert told.slug == "wrong_audience"
    events.token = narrow
    assert b"wrong_audience" in await (await events.get(query)).body()
    status, answer = await events.post({"first": 1, "frames": ""}, far.hello["tunnel"])
    assert (status, answer["status"]) == (403, "wrong_audience")
    await said(far)
    await far.cut()


async def test_C6_1_C7_3_a_tunnel_is_within_reach_of_a_ticket_as_wide(far, door, events):
    first = await ticket(door, audience=[PATH, "tells"])
    events.token = await ticket(door, audience=["tells", PATH])
    await far.connect(first)
    await said(far)
    identity = far.hello["tunnel"]
    assert (await events.post({"first": 1, "frames": ""}, identity))[0] == 200
    await far.cut()
    await far.connect(door.token)  # its streams go anywhere from now on
    await said(far)
    assert (await events.post({"first": 1, "frames": ""}, identity))[0] == 403
    await far.cut()


async def test_C6_5_C7_6_a_single_use_ticket_opens_one_tunnel_without_resume(far, door, events):
    once = await ticket(door, single_use=True)
    events.token = once
    for answer in (await events.get(), await events.get("?path=echo")):
        assert answer.status == 403
        assert b"wrong_audience" in await answer.body()
    await far.connect(once)
    await said(far)
    await said(far)  # as many streams as one likes
    assert far.hello["resume_window"] == 0
    again = await door.refused(PATH, offer_subprotocols([TUNNEL], once))
    assert again.slug == "token_rejected"
    another = await ticket(door, single_use=True)
    told = await door.refused(
        f"{PATH}?tunnel={far.hello['tunnel']}&received=0", offer_subprotocols([TUNNEL], another)
    )
    assert told.slug == "wrong_audience"
    await far.cut()
    await auntil(lambda: not len(door.app.web_app.settings[SETTING]), "the tunnel is over")


async def test_C6_4_C7_5_a_renewed_ticket_serves_the_streams_of_its_tunnel(far, door):
    first = await ticket(door, max_age=60)
    await far.connect(first)
    await said(far)
    renewed = await ask(door, "POST", {"renew": True}, **bears(first))
    assert renewed.status == 200
    await auntil_dead(door, first)
    assert (await said(far))["source"] == "subprotocol"
    await far.cut()


async def auntil_dead(door: Door, token: str) -> None:
    """Let the 30 s pass for which an old ticket is good."""
    store = door.app.web_app.settings["token_ws_login"].store
    now = store.clock
    store.clock = lambda: now() + 31
    assert (await ask(door, **bears(token))).status == 403


async def test_C7_5_a_tickets_audience_holds_for_streams(far, door):
    some = await ticket(door, audience=[PATH, "tells"])
    await far.connect(some)
    await said(far)
    socket = await far.open("echo").wait_open()
    await socket.wait_closed()
    assert slug_of(socket) == "wrong_audience"
    await far.cut()


@pytest.mark.parametrize("carrier", ["websocket", "eventstream", "none"])
async def test_C7_6_revocation_ends_a_tunnel_carried_or_not(far, door, events, carrier):
    some = await ticket(door)
    tunnels = door.app.web_app.settings[SETTING]
    user: Any = events if carrier == "eventstream" else far
    if carrier == "eventstream":
        events.token = some
        await events.connect()
    else:
        await far.connect(some)
    await said(user)
    socket = await user.open("echo").wait_open()
    if carrier == "none":
        await far.cut()
        await auntil(lambda: [each.carried_by for each in tunnels] == ["none"], "it is cut")
    assert (await ask(door, "DELETE", **bears(some))).status == 204
    await auntil(lambda: not len(tunnels), "the tunnel is over")
    await door.settled()
    if carrier == "none":
        return
    await user.ended()
    assert user.client.closed
    assert socket.gone
    if carrier == "eventstream":
        assert [told["status"] for _, told in events.others] == ["token_revoked"]
    else:
        assert await far.ended() == (4401, "token_revoked")


@pytest.mark.parametrize("carrier", ["websocket", "none"])
async def test_C7_6_expiry_ends_a_tunnel_carried_or_not(far, door, carrier):
    tunnels = door.app.web_app.settings[SETTING]
    await far.connect(await ticket(door, max_age=1))
    await asyncio.wait_for(far.attached(), TIMEOUT)
    if carrier == "none":
        await far.cut()
    await auntil(lambda: not len(tunnels), "the tunnel is over")
    if carrier == "websocket":
        assert await far.ended() == (4401, "token_expired")


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("token_ws_config", [{"revalidate_interval": 0.1}])
@pytest.mark.parametrize("carrier", ["websocket", "eventstream", "none"])
async def test_C6_7_C7_6_a_credential_that_died_ends_a_tunnel_carried_or_not(
    far, door, events, carrier
):
    tunnels = door.app.web_app.settings[SETTING]
    if carrier == "eventstream":
        events.token = "of-ann"
        await events.connect()
        await asyncio.wait_for(events.attached(), TIMEOUT)
    else:
        await far.connect("of-ann")
        await asyncio.wait_for(far.attached(), TIMEOUT)
    if carrier == "none":
        await far.cut()
    del door.app.identity_provider.names["of-ann"]
    await auntil(lambda: not len(tunnels), "the tunnel is over")
    if carrier == "websocket":
        assert await far.ended() == (4401, "token_revoked")


async def test_C6_7_C7_6_logout_ends_the_tunnels_of_a_cookie(far, door):
    tunnels = door.app.web_app.settings[SETTING]
    cookie = await door.login_cookie()
    await far.connect(Cookie=cookie, Origin=f"http://{door.host}")
    await asyncio.wait_for(far.attached(), TIMEOUT)
    await far.cut()
    assert (await door.fetch("logout", {"Cookie": cookie})).status == 200
    await auntil(lambda: not len(tunnels), "the tunnel is over")


# -- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token_ws_config", [{"max_connections_per_principal": 3}])
async def test_C7_5_streams_count_as_sockets(far):
    await far.connect()  # one
    await said(far)
    await said(far)
    socket = await far.open("echo").wait_open()
    await socket.wait_closed()
    assert slug_of(socket) == "too_many_connections"
    await far.cut()


@pytest.mark.parametrize("token_ws_config", [{"tunnel_max_streams": 2}])
async def test_so_many_streams(far):
    await far.connect()
    await said(far)
    await said(far)
    socket = await far.open("echo").wait_open()
    await socket.wait_closed()
    assert slug_of(socket) == "too_many_connections"
    await far.cut()


class Never(Socket):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("token_ws_config", [{"open_timeout": 0.2}])
async def test_C7_5_time_to_open(far, door):
    door.add("never", Never)
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open("never").wait_open()
    await socket.wait_closed()
    assert slug_of(socket) == "open_timeout"
    await far.cut()


async def test_who_withdraws_while_it_opens(far, door):
    reached = asyncio.Event()

    class Waits(Socket):
        async def get(self, *args: Any, **kwargs: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

    door.add("waits", Waits)
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = far.open("waits")
    await asyncio.wait_for(reached.wait(), TIMEOUT)
    await socket.close(1000)
    await socket.wait_closed()
    await auntil(lambda: not door.guard.opening, "nothing is opening")
    await far.cut()


@pytest.mark.parametrize(
    "token_ws_config", [{"require_tls": True, "trusted_proxies": ["127.0.0.1"]}]
)
async def test_where_tls_is_required(events):
    answer = await events.get(X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="http")
    assert answer.status == 426
    assert b"tls_required" in await answer.body()


async def test_a_host_that_is_not_this_server(events):
    assert (await events.get(Host="elsewhere.example")).status == 403


async def test_C7_4_more_than_there_was_credit_for(far, caplog):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open("echo").wait_open()
    far.client._may_send = far.client._streams[socket.number].may_send = 2**40
    far.client._max_kept = 2**40
    for _ in range(4):
        far.client.send(socket.number, b"x" * 200_000, text=True)
    far.move()
    assert (await far.ended())[0] == 1000
    assert far.client.closed
    assert not [record for record in caplog.records if record.exc_info]
