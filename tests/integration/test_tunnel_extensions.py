"""Kernels, terminals, events and other people's extensions in one real server, over a plain socket and over
streams of a tunnel on either carrier: all is the same, close codes and reasons included (contract 7.1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from pycrdt import create_sync_message, create_update_message

from jupyter_token_ws.protocol.subprotocols import (
    KERNEL,
    MARKER,
    REASON_MARKER,
    TUNNEL,
    offer_subprotocols,
)
from jupyter_token_ws.protocol.tunnel import ABNORMAL
from jupyter_token_ws.tunnel.tunnels import EVENT_STREAM, WEBSOCKET
from tests.support.clients import TIMEOUT, Client, Message, connect_websockets
from tests.support.extensions import TEXT, TOKEN, Peer, Place, assert_clean, forms, serving
from tests.support.far_peer import FarPeer, FarStream
from tests.support.live_kernel import Client as KernelClient
from tests.support.waiting import until

SOCKET = "socket"
NO_CODE = 1005
"""What a websocket's client says where there was none (RFC 6455 section 7.1.5)."""

each_way = pytest.mark.parametrize("way", [SOCKET, WEBSOCKET, EVENT_STREAM])
each_carrier = pytest.mark.parametrize("carrier", [WEBSOCKET, EVENT_STREAM])

Connect = Callable[..., Awaitable[Client]]
"""Opens a websocket of a server, given its path and what is offered."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("tunnel_extensions")) as running:
        yield running


class Streamed(Client):
    """A stream, as other clients are."""

    def __init__(self, stream: FarStream) -> None:
        self.stream = stream
        closed = stream.closed
        if stream.opened is None and closed is not None and not closed.reason:
            self.status = (closed.code or 0) - 4000  # told by plain HTTP
        else:
            self.status, self.subprotocol = 101, stream.subprotocol

    async def send(self, message: Message) -> None:
        await self.stream.send(message)

    async def receive(self) -> Message | None:
        message = await self.stream.receive()
        closed = self.stream.closed
        if message is None and closed is not None:
            self.code = None if closed.code == ABNORMAL else closed.code or NO_CODE
            self.reason = closed.reason
        return message

    async def leave(self) -> None:
        await self.stream.close()


class Knocked:
    """A client, as a kernel's asks it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.send = client.send

    async def wait_message(self) -> Message:
        message = await self.client.receive()
        assert message is not None, (self.client.code, self.client.reason)
        return message


@asynccontextmanager
async def going(place: Place, way: str) -> AsyncIterator[Connect]:
    """One way to the server; a tunnel is one for all that is opened."""
    if way == SOCKET:

        async def by_socket(path: str, *offer: str) -> Client:
            client = await connect_websockets(
                place.server.ws_url + path, offer_subprotocols(offer, TOKEN), {}
            )
            if client.subprotocol in (MARKER, REASON_MARKER):
                client.subprotocol = None  # not the handler's
            return client

        yield by_socket
        return

    async def by_stream(path: str, *offer: str) -> Client:
        return Streamed(await peer.open(path, offer))

    async with FarPeer(place.server.url, TOKEN, way) as peer:
        yield by_stream


async def end_of(client: Client) -> tuple[int | None, str]:
    """How a websocket ends; what comes before is passed over."""

    async def read() -> None:
        while await client.receive() is not None:
            pass

    await asyncio.wait_for(read(), TIMEOUT)
    return client.code, client.reason


def start_kernel(place: Place) -> str:
    """The id of a new one."""
    model = place.server.request("POST", "api/kernels", {"name": "python3"})
    assert model.status == 201, model
    identity: str = model.json()["id"]
    return identity


@pytest.fixture(scope="module")
def kernel(place: Place) -> str:
    """The path of a kernel's websocket."""
    return f"api/kernels/{start_kernel(place)}/channels"


# -- each does what it is for ----------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])
async def test_C7_1_a_cell_runs(v1, way, place, kernel):
    async with going(place, way) as connect:
        offer = [KERNEL] if v1 else []
        async with await connect(f"{kernel}?session_id={uuid4().hex}", *offer) as client:
            assert (client.status, client.subprotocol) == (101, KERNEL if v1 else None)
            talking: Any = KernelClient(Knocked(client), v1)  # type: ignore[arg-type]
            assert await talking.run("print(6 * 7)") == "42\n"
            sent = await talking.execute("for n in range(2000): print(n)")
            heard = await talking.idle(sent)
            texts = [m["content"]["text"] for m in heard if m["header"]["msg_type"] == "stream"]
            assert "".join(texts).split() == [str(n) for n in range(2000)]


@each_way
async def test_C7_1_a_terminal(way, place):
    name = place.server.request("POST", "api/terminals").json()["name"]
    async with going(place, way) as connect, await connect(f"terminals/websocket/{name}") as client:
        assert (client.status, client.subprotocol) == (101, None)
        await client.send(json.dumps(["set_size", 24, 80, 0, 0]))
        await client.send(json.dumps(["stdin", "echo $((6*7))x\n"]))
        assert json.loads(str(await client.receive())) == ["setup", {}]
        said = ""
        while "42x" not in said:
            kind, text = json.loads(str(await client.receive()))
            assert kind == "stdout"
            said += text
        await client.send(json.dumps(["stdin", "exit\n"]))
        assert await end_of(client) == (NO_CODE, "")


@each_way
async def test_C7_1_events(way, place):
    async with going(place, way) as connect, await connect("api/events/subscribe") as client:
        assert (client.status, client.subprotocol) == (101, None)
        path = uuid4().hex
        event = {
            "schema_id": "https://events.jupyter.org/jupyter_server/contents_service/v1",
            "version": "1",
            "data": {"action": "get", "path": path},
        }
        assert place.server.request("POST", "api/events", event).status == 204
        while json.loads(str(await client.receive())).get("path") != path:
            pass  # others' events


@each_way
async def test_C7_1_a_language_server_answers(way, place):
    async with going(place, way) as connect, await connect(place.path("lsp")) as client:
        assert (client.status, client.subprotocol) == (101, None)
        request = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {"processId": None, "rootUri": None, "capabilities": {}},
        }
        await client.send(json.dumps(request))
        answer: dict[str, Any] = {}
        while answer.get("id") != 1:
            answer = json.loads(str(await client.receive()))
        assert answer["result"]["capabilities"]["hoverProvider"] is True


@each_carrier
async def test_C7_1_editors_share_a_document_by_stream_and_socket(carrier, place):
    path = place.path("collaboration")
    async with (
        going(place, carrier) as by_stream,
        going(place, SOCKET) as by_socket,
        await by_stream(path) as one,
        await by_stream(path) as another,
        await by_socket(path) as third,
    ):
        peers = [Peer(client) for client in (one, another, third)]
        text = None
        for peer in peers:
            await peer.client.send(create_sync_message(peer.document.ydoc))
            text = await peer.until_any()
        for writer in peers:
            before = writer.document.ydoc.get_state()
            writer.document.source = text = f"{TEXT}{uuid4().hex}\n"
            await writer.client.send(create_update_message(writer.document.ydoc.get_update(before)))
            for reader in peers:
                if reader is not writer:
                    await reader.until_source(text)


@each_way
@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
async def test_C7_1_a_proxied_socket(name, way, place):
    large = "ä" * 250_000  # more than a stream's window
    offer = "app.v1", "app.secret"
    async with going(place, way) as connect, await connect(place.path(name), *offer) as client:
        assert (client.status, client.subprotocol) == (101, "app.v1")
        for message in ("x", b"\x00\xff", "", b"", large, large.encode()):
            await client.send(message)
            assert await client.receive() == message
        await client.send("close")
        # The proxy has no code for its client, whatever the application's was.
        assert await end_of(client) == (NO_CODE, "")


# -- how each ends and is refused ------------------------------------------------------------------


async def test_C7_1_a_kernel_that_is_shut_down(place):
    async def told(way: str) -> Any:
        there = f"api/kernels/{start_kernel(place)}"
        async with (
            going(place, way) as connect,
            await connect(f"{there}/channels", KERNEL) as client,
        ):
            assert client.status == 101
            assert place.server.request("DELETE", there).status == 204
            return await end_of(client)

    first = await told(SOCKET)
    assert first[1].startswith("gone")
    assert [await told(WEBSOCKET), await told(EVENT_STREAM)] == [first] * 2


async def test_C7_1_a_session_that_connects_again(place, kernel):
    """From a socket to a stream and back, too: who is replaced is so whatever it came by."""

    async def told(before: str, after: str) -> Any:
        path = f"{kernel}?session_id={uuid4().hex}"
        async with (
            going(place, before) as connect,
            going(place, after) as again,
            await connect(path, KERNEL) as older,
            await again(path, KERNEL) as newer,
        ):
            assert newer.status == 101
            return await end_of(older)

    first = await told(SOCKET, SOCKET)
    assert (first[0], first[1].partition(":")[0]) == (4409, "replaced")
    for ways in (
        (SOCKET, EVENT_STREAM),
        (EVENT_STREAM, SOCKET),
        (WEBSOCKET, WEBSOCKET),
        (WEBSOCKET, EVENT_STREAM),
        (EVENT_STREAM, WEBSOCKET),
    ):
        assert await told(*ways) == first, ways


@pytest.mark.parametrize(
    "path",
    [
        "api/kernels/00000000-0000-0000-0000-000000000000/channels",
        "terminals/websocket/none",
        "api/collaboration/room/text:file:none?sessionId=none",
        "proxy/1/socket",
        "proxy/elsewhere.example:80/socket",
        "proxy/{app}/page",
        "app/page",
        "api/status",
        "nowhere",
    ],
)
async def test_C7_1_C7_5_refusals_and_failures(path, place):
    """Whatever these are by a plain socket."""
    path = path.format(app=place.app_port)
    outcomes = []
    for way in (SOCKET, WEBSOCKET, EVENT_STREAM):
        async with going(place, way) as connect:
            client = await connect(path, "app.v1")
            # A socket is opened to be told why not, and a stream is not.
            outcomes.append((client.status, *await end_of(client)))
            await client.leave()
    assert outcomes[1:] == outcomes[:1] * 2


# -- what reaches the application ------------------------------------------------------------------

_OF_THE_CONNECTION = ("sec-websocket-key", "sec-websocket-extensions")
_OF_THE_CLIENT = ("user-agent", "accept", "accept-encoding")


def _reached(place: Place, probe: str) -> tuple[str, str, dict[str, str]]:
    """Method, URI and headers of the request that the application had, whatever its client's habits."""
    (request,) = place.seen(probe)
    assert_clean(request)
    uri = request["uri"].replace(probe, "probe")
    names = [name.lower() for name, _ in request["headers"]]
    assert len(names) == len(set(names))
    headers = {name.lower(): value for name, value in request["headers"]}
    for name in (*_OF_THE_CONNECTION, *_OF_THE_CLIENT):
        headers.pop(name, None)
    return request["method"], uri, headers


@pytest.mark.parametrize("name", ["proxy", "named_proxy"])
@pytest.mark.parametrize("own", [["app.v1", "app.secret"], []], ids=["own_subprotocols", "none"])
async def test_C7_5_C2_3_a_proxied_application_sees_what_it_sees_of_a_socket(own, name, place):
    seen = []
    for way in (SOCKET, WEBSOCKET, EVENT_STREAM):
        probe = uuid4().hex
        path = f"{place.path(name)}?a={probe}&token=the-apps-own&b=%2F"
        async with going(place, way) as connect, await connect(path, *own) as client:
            assert client.status == 101
            await client.send("x")
            assert await client.receive() == "x"
        method, uri, headers = _reached(place, probe)
        # The Hub's cookie rule is by this; python's clients have none by themselves.
        assert headers.pop("sec-fetch-mode", "websocket") == "websocket"
        seen.append((method, uri, headers))
        assert TUNNEL not in json.dumps(headers)
    assert seen[0][:2] == ("GET", "/socket?a=probe&token=the-apps-own&b=%2F")
    assert seen[1:] == seen[:1] * 2


@each_carrier
async def test_C1_2_no_token_in_the_log(carrier, place):
    async with going(place, carrier) as connect:
        for name in ("lsp", "collaboration", "proxy", "named_proxy"):
            async with await connect(place.path(name)) as client:
                assert client.status == 101
    probe = uuid4().hex
    assert place.server.request("GET", f"api/contents/{probe}").status == 404
    until(lambda: probe in place.server.log(), "the log")
    log = place.server.log()
    for form in forms(TOKEN):
        assert form not in log
