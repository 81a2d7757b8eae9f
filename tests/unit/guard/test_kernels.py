"""Whose a kernel session is, and what becomes of sockets when a kernel ends: with real kernels."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import jupyter_server
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.auth.authorizer import AllowAllAuthorizer
from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.bridge.connection import KernelBridgeConnection
from jupyter_token_ws.bridge.server import SETTING
from jupyter_token_ws.guard.credentials import Digester
from jupyter_token_ws.guard.kernels import (
    SessionClaims,
    change_session_id,
    own_session_id,
    session_id,
)
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.kernel_messages import execute, read
from tests.support.knock import TIMEOUT, Knock, bearing, knock, refused
from tests.support.live_kernel import once
from tests.support.waiting import auntil, given_back

# --- claims ---------------------------------------------------------------------------------------


def a_handler() -> WebSocketHandler:
    """Something that is only itself."""
    return cast("WebSocketHandler", object())


def test_who_is_replaced():
    claims = SessionClaims()
    older, newer, stranger = a_handler(), a_handler(), a_handler()
    key = ("k", "s")
    assert not claims.replaced(older, key)
    claims.claim(older, key)
    assert not claims.replaced(older, key)
    claims.claim(newer, key)
    assert claims.replaced(older, key)
    assert not claims.replaced(newer, key)
    assert not claims.replaced(stranger, key)
    claims.release(stranger, key)  # not its own: nothing happens
    claims.release(older, ("k", "unknown"))
    claims.release(older, key)
    assert not claims.replaced(older, key)
    assert not claims.replaced(newer, key)
    claims.release(newer, key)
    assert len(claims) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["claim", "release"]), st.integers(0, 5), st.sampled_from(["s", "t"])
        )
    )
)
def test_only_the_last_to_come_is_not_replaced(steps):
    claims, handlers = SessionClaims(), [a_handler() for _ in range(6)]
    model: dict[str, list[int]] = {"s": [], "t": []}
    for step, number, session in steps:
        held = model[session]
        if step == "claim" and number not in held:
            claims.claim(handlers[number], ("k", session))
            held.append(number)
        elif step == "release":
            claims.release(handlers[number], ("k", session))
            if number in held:
                held.remove(number)
    for session, held in model.items():
        for number, handler in enumerate(handlers):
            older = number in held[:-1]
            assert claims.replaced(handler, ("k", session)) == older
    assert len(claims) == sum(map(bool, model.values()))


@given(
    st.tuples(st.text(), st.text().filter(lambda text: "\0" not in text)),
    st.tuples(st.text(), st.text().filter(lambda text: "\0" not in text)),
)
def test_C2_8_two_principals_never_have_one_session(one, other):
    digest = Digester()
    same = own_session_id(digest, *one) == own_session_id(digest, *other)
    assert same == (one == other)
    assert own_session_id(digest, *one) != own_session_id(Digester(), *one), "keyed"


# --- the id in the request ------------------------------------------------------------------------


def a_request(query: str) -> RequestHandler:
    class Connection:
        def set_close_callback(self, callback: object) -> None:
            """Never closed."""

    request = HTTPServerRequest(
        start_line=RequestStartLine("GET", f"/channels?{query}", "HTTP/1.1"),
        headers=HTTPHeaders({"Host": "h"}),
        connection=cast("Any", Connection()),
    )
    return RequestHandler(Application(), request)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", None),
        ("session_id=", None),
        ("session_id=%20", None),
        ("session_id=abc", "abc"),
        ("session_id=abc&session_id=def", "def"),
        ("session_id=+abc%20", "abc"),
        # Tornado makes spaces of control characters and takes them away.
        ("session_id=abc%00", "abc"),
        ("session_id=%01%1fabc", "abc"),
        ("session_id=%ff", None),
    ],
)
def test_the_session_id_is_read_as_upstream_reads_it(query, expected):
    assert session_id(a_request(query)) == expected


def test_a_changed_session_id_is_what_upstream_reads():
    handler = a_request("session_id=abc&session_id=def&x=1")
    change_session_id(handler.request, "own")
    assert handler.get_argument("session_id") == "own"
    assert handler.get_query_argument("session_id") == "own"
    assert handler.get_argument("x") == "1"


# --- real kernels ---------------------------------------------------------------------------------


class ByHeader(IdentityProvider):
    """A custom provider: a header says who it is; tokens mean nothing to it."""

    def get_user(self, handler: Any) -> User | None:
        name = handler.request.headers.get("X-User")
        return User(name) if name else None


@pytest.fixture
def provider() -> type[IdentityProvider]:
    return IdentityProvider


@pytest.fixture
def token_ws_config() -> dict[str, object]:
    # Looks at the kernels twenty times a second.
    return {"keepalive_interval": 0.25, "keepalive_timeout": 30}


@pytest.fixture(params=[False, True], ids=["stock", "bridge"])
def bridge(request) -> bool:
    """Whether kernels go through the bridge: the guard promises the same of both."""
    return bool(request.param)


@pytest.fixture
def jp_server_config(jp_server_config, provider, bridge):
    jp_server_config["ServerApp"]["identity_provider_class"] = provider
    traits = jp_server_config["TokenWebSocketApp"]
    jp_server_config["TokenWebSocketApp"] = {**traits, "bridge": bridge}
    return jp_server_config


class Kernel:
    """A running kernel of the test's server and the ways in, by jupyter_server's own connection class."""

    connection_class: type[BaseKernelWebsocketConnection] = ZMQChannelsWebsocketConnection

    def __init__(self, app, port: int, base_url: str, kernel_id: str) -> None:
        self.app, self.port, self.base_url, self.id = app, port, base_url, kernel_id

    def sessions(self) -> set[str]:
        """The sessions of the kernel that the server keeps, connected or about to be."""
        keys = ZMQChannelsWebsocketConnection._open_sessions
        return {key for key in keys if key.startswith(f"{self.id}:")}

    def kept(self) -> bytes:
        """What is kept for who is away."""
        buffers: dict[str, Any] = self.app.kernel_manager._kernel_buffers
        if self.id not in buffers:
            return b""
        kept = [bytes(part) for _, parts in buffers[self.id]["buffer"] for part in parts]
        return b"".join(kept)

    def channels(self) -> list[Any]:
        """The ZMQ streams that there are for sockets alone."""
        return [
            channel
            for connection in ZMQChannelsWebsocketConnection._open_sockets
            for channel in connection.channels.values()
        ]

    @property
    def token(self) -> str:
        token: str = self.app.identity_provider.token
        return token

    @property
    def connections(self) -> int:
        count: int = self.app.kernel_manager._kernel_connections.get(self.id, 0)
        return count

    def path(self, session: str = "s") -> str:
        return f"{self.base_url}api/kernels/{self.id}/channels?session_id={session}"

    async def connect(self, session: str = "s", offer: Any = None, **headers: str) -> Knock:
        """Open a socket and wait until the kernel answers it."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        socket = await knock(self.port, self.path(session), offer, names)
        assert socket.status == 101, socket
        return socket

    async def by_token(self, session: str = "s") -> Knock:
        return await self.connect(session, [MARKER, bearing(self.token)])

    async def request(self, method: str, path: str = "") -> int:
        """A REST request about the kernel; returns the status."""
        answer = await AsyncHTTPClient().fetch(
            f"http://127.0.0.1:{self.port}{self.base_url}api/kernels/{self.id}{path}",
            method=method,
            headers={"Authorization": f"token {self.token}", "X-User": "root"},
            allow_nonstandard_methods=True,
            raise_error=False,
            request_timeout=60,
        )
        return answer.code


class BridgedKernel(Kernel):
    """The same, by the bridge."""

    connection_class = KernelBridgeConnection

    @property
    def clients(self) -> frozenset[Any]:
        """Those that are there and those that are expected back."""
        hub = self.app.web_app.settings[SETTING].find(self.id)
        return frozenset() if hub is None else hub.clients

    def sessions(self) -> set[str]:
        return {str(client.key) for client in self.clients if client.outlet is not None}

    def kept(self) -> bytes:
        kept = b""
        for client in self.clients:
            waiting = client.backlog.take(2**20)
            client.backlog.give_back(waiting)
            kept += b"".join(part for message in waiting for part in message.parts)
        return kept

    def channels(self) -> list[Any]:
        return []  # all sockets share those of the hub, which stay


@pytest.fixture
def kernel(bridge, jp_asyncio_loop, jp_serverapp, http_server, jp_http_port, jp_base_url):
    manager = jp_serverapp.kernel_manager
    kernel_id = jp_asyncio_loop.run_until_complete(manager.start_kernel())
    made = BridgedKernel if bridge else Kernel
    yield made(jp_serverapp, jp_http_port, jp_base_url, kernel_id)
    if kernel_id in manager:
        jp_asyncio_loop.run_until_complete(manager.shutdown_kernel(kernel_id, now=True))


async def run(socket: Knock, code: str) -> list[dict[str, Any]]:
    """Run code and return everything that came until the kernel was idle again, whoever asked for it."""
    request = execute(code)
    await socket.send(request.frame(None))
    heard: list[dict[str, Any]] = []
    while True:
        message = read(await socket.wait_message())
        heard.append(message)
        ours = message["parent_header"].get("msg_id") == request.id
        if ours and message["content"].get("execution_state") == "idle":
            return heard


def said(messages: list[dict[str, Any]]) -> str:
    return json.dumps([message["content"] for message in messages])


async def works(socket: Knock) -> bool:
    return "'hello'" in said(await run(socket, "'hel' + 'lo'"))


async def still_open(socket: Knock) -> bool:
    """Whether the server answers a ping, and sent no close frame before."""
    await socket.send("ping", opcode=9)
    while (frame := await asyncio.wait_for(socket.read_frame(), TIMEOUT)) is not None:
        if frame[0] in (8, 10):
            return frame == (10, b"ping")
    return False


@pytest.fixture
def users(jp_asyncio_loop, kernel, provider):
    """Headers of two principals."""
    if provider is ByHeader:
        return {"X_User": "ann"}, {"X_User": "bob"}

    async def new_cookie() -> str:
        # The stock provider names a new user whenever a browser comes with nothing but the token.
        answer = await AsyncHTTPClient().fetch(
            f"http://127.0.0.1:{kernel.port}{kernel.base_url}api/me",
            headers={"Authorization": f"token {kernel.token}"},
        )
        cookie: str = answer.headers["Set-Cookie"].partition(";")[0]
        return cookie

    ann, bob = (jp_asyncio_loop.run_until_complete(new_cookie()) for _ in range(2))
    assert ann != bob
    return {"Cookie": ann}, {"Cookie": bob}


PROVIDERS = pytest.mark.parametrize("provider", [IdentityProvider, ByHeader])


@PROVIDERS
async def test_C3_6_the_same_principal_replaces_its_own_session(kernel, users, guard):
    """The older one is told, though it did not opt in, and the newer one works."""
    ann, _ = users
    async with await kernel.connect("s", **ann) as older:
        assert await works(older)
        async with await kernel.connect("s", **ann) as newer:
            await older.wait_closed()
            assert (older.code, older.slug) == (4409, "replaced")
            assert await works(newer)
            assert not newer.reader.at_eof()
            await auntil(lambda: kernel.connections == 1)
            assert len(guard.registry) == 1


@pytest.mark.parametrize("token_ws_config", [{"open_timeout": 0.3}])
async def test_a_kernel_s_socket_that_was_refused_while_it_prepared_leaves_nothing(kernel, guard):
    Waiting.reached, Waiting.go_on = asyncio.Event(), asyncio.Event()
    kernel.app.web_app.settings["kernel_websocket_connection_class"] = waiting(
        kernel.connection_class
    )
    late = await refused(kernel.port, kernel.path(), [MARKER, bearing(kernel.token)])
    assert (late.code, late.slug) == (4408, "open_timeout")
    await asyncio.wait_for(Waiting.reached.wait(), 30)
    Waiting.go_on.set()
    await auntil(lambda: not kernel.sessions(), "what upstream prepared to be given back")
    assert kernel.connections == 0


@pytest.mark.parametrize("token_ws_config", [{"max_connections_per_principal": 1}])
async def test_C2_8_a_kernel_s_socket_that_is_one_too_many(kernel, guard):
    """It leaves nothing behind; who comes back for his session is no more than before."""
    async with await kernel.by_token() as first:
        assert await works(first)
        another = await refused(
            kernel.port, kernel.path("another"), [MARKER, bearing(kernel.token)]
        )
        assert (another.code, another.slug) == (4429, "too_many_connections")
        await auntil(lambda: len(kernel.sessions()) == 1, "what upstream prepared to be given back")
        assert kernel.connections == 1
        assert await works(first)
        async with await kernel.by_token() as again:
            await first.wait_closed()
            assert (first.code, first.slug) == (4409, "replaced")
            assert await works(again)
    await auntil(lambda: kernel.connections == 0, "everybody to be gone")


async def test_C3_6_the_same_token_replaces_its_own_session(kernel, guard):
    """Tokens name nobody, so the credential is the principal."""
    async with await kernel.by_token() as older:
        assert await works(older)  # or stock is still asking for it, under the same name
        async with await kernel.by_token() as newer:
            await older.wait_closed()
            assert (older.code, older.slug) == (4409, "replaced")
            assert await works(newer)


async def test_C3_6_a_session_of_the_same_name_at_another_kernel_is_another(kernel, guard):
    async with await kernel.by_token():
        ((handler, named),) = ((s.handler, s.handler._token_ws_session) for s in guard.registry)
        assert named == (kernel.id, handler.get_argument("session_id"))
        guard.sessions.claim(a_handler(), ("another kernel", named[1]))
        assert not guard.sessions.replaced(handler, named)


@pytest.mark.parametrize(
    ("provider", "spelling"),
    [
        (IdentityProvider, "s"),
        (ByHeader, "s"),
        # Other ways to write it: with what tornado takes away, and twice.
        (ByHeader, "%01s%00"),
        (ByHeader, "x&session_id=s"),
    ],
)
async def test_C2_8_another_principal_replaces_nobody(kernel, users, guard, spelling):
    ann, bob = users
    async with await kernel.connect("s", **ann) as older:
        assert await works(older)
        async with await kernel.connect(spelling, **bob) as other:
            assert await works(other)
            assert await works(older)
            assert len(guard.registry) == 2
            assert kernel.connections == 2
            assert len(kernel.sessions()) == 2


async def output_while_away(kernel: Kernel, session: str, **who: str) -> None:
    """Run something whose output comes after its owner left, and wait until it is kept."""
    async with await kernel.connect(session, **who) as owner:
        assert await works(owner)
        await owner.send(execute("input_was = 'se' + 'cret'; print(input_was)").frame(None))
        # Gone before the answer is read.
    await auntil(lambda: kernel.connections == 0, "the owner to be gone")
    await auntil(lambda: b"secret\\n" in kernel.kept(), "the output to be kept")


@PROVIDERS
@pytest.mark.parametrize("who", ["the owner", "another"])
async def test_C2_8_what_was_kept_for_somebody_away_is_given_to_nobody_else(kernel, users, who):
    ann, bob = users
    await output_while_away(kernel, "s", **ann)
    async with await kernel.connect("s", **(ann if who == "the owner" else bob)) as socket:
        heard = said(await run(socket, "'hel' + 'lo'"))
    assert "'hello'" in heard
    assert ("secret" in heard) is (who == "the owner")


async def test_C2_8_what_was_kept_is_given_to_the_same_token(kernel, users):
    ann, _ = users
    token = {"Authorization": f"token {kernel.token}"}
    await output_while_away(kernel, "s", **token)
    async with await kernel.by_token("s") as socket:
        assert "secret" in said(await run(socket, "'hel' + 'lo'"))
    await output_while_away(kernel, "s", **token)
    async with await kernel.connect("s", **ann) as socket:
        assert "secret" not in said(await run(socket, "'hel' + 'lo'"))


async def test_without_a_session_id_nobody_is_replaced(kernel, guard):
    async with await kernel.by_token("") as one, await kernel.by_token("") as other:
        assert await works(one)
        assert await works(other)
        assert len(guard.sessions) == 0


async def test_a_session_id_that_cannot_be_read_is_a_bad_request(kernel, guard):
    socket = await refused(kernel.port, kernel.path("%ff"), [MARKER, bearing(kernel.token)])
    assert (socket.code, socket.slug) == (4400, "bad_request")
    assert len(guard.sessions) == 0


async def test_C3_6_a_kernel_that_is_shut_down_is_gone_for_who_opted_in(kernel, guard):
    async with (
        await kernel.connect("a", [MARKER, bearing(kernel.token)]) as opted,
        await kernel.connect(
            "b", [REASON_MARKER], Authorization=f"token {kernel.token}"
        ) as reasons,
        await kernel.connect("c", Authorization=f"token {kernel.token}") as stock,
    ):
        assert await works(opted)
        assert await works(stock)
        assert await kernel.request("DELETE") == 204
        for socket in (opted, reasons):
            await socket.wait_closed()
            assert (socket.code, socket.slug) == (4410, "gone")
        await auntil(lambda: len(guard.registry) == 1)
        assert await still_open(stock), "stock leaves it open"
    missing = await refused(kernel.port, kernel.path(), [MARKER, bearing(kernel.token)])
    assert (missing.code, missing.slug) == (4404, "not_found")
    await auntil(lambda: len(guard.registry) == 0)
    guard._on_tick()
    assert len(guard.sessions) == 0


@pytest.mark.parametrize("token_ws_config", [{"enabled": False}])
async def test_what_stock_does_when_a_kernel_is_shut_down(kernel):
    """The other half of the test above: stock does not close the socket either."""
    async with await kernel.connect("c", Authorization=f"token {kernel.token}") as stock:
        assert await works(stock)
        assert await kernel.request("DELETE") == 204
        assert await still_open(stock)


async def test_a_restarted_kernel_is_not_gone(kernel, guard):
    async with await kernel.by_token() as socket:
        assert await works(socket)
        [entry] = guard.registry
        looks = 0
        restart = asyncio.ensure_future(kernel.request("POST", "/restart"))
        while not restart.done():
            guard._on_tick()
            looks += 1
            await asyncio.sleep(0)
        assert restart.result() == 200
        assert looks > 10
        assert entry.kernel == kernel.id
        assert await still_open(socket)
        assert list(guard.registry) == [entry]


@pytest.mark.parametrize("offer_reason", [True, False])
async def test_no_such_kernel(jp_serverapp, http_server, jp_http_port, jp_base_url, offer_reason):
    path = f"{jp_base_url}api/kernels/00000000-0000-0000-0000-000000000000/channels?session_id=s"
    headers = {"Authorization": f"token {jp_serverapp.identity_provider.token}"}
    socket = await refused(jp_http_port, path, [REASON_MARKER] if offer_reason else None, headers)
    if offer_reason:
        assert (socket.code, socket.slug) == (4404, "not_found")
    else:
        assert socket.status == 404


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0.1, "keepalive_timeout": 0.5}])
async def test_a_client_that_vanished_gives_its_channels_back(kernel, guard):
    """Without a reset there is only silence: nobody reads, nobody answers a ping."""
    kernel.app.kernel_manager.buffer_offline_messages = False
    process = psutil.Process()
    async with await kernel.by_token("warm") as warm:
        assert await works(warm)
    await auntil(lambda: kernel.connections == 0)
    await auntil(lambda: not kernel.sessions() and not kernel.channels())
    before = process.num_fds()
    async with await kernel.by_token("s") as vanished:
        await auntil(lambda: kernel.connections == 1, "connected")
        [entry] = guard.registry
        await auntil(lambda: len(kernel.sessions()) == 1)
        await auntil(lambda: isinstance(kernel, BridgedKernel) or len(kernel.channels()) == 4)
        channels = kernel.channels()
        # The nudge's transient channels are closed by now or soon.
        await auntil(entry.stream.reading, "open")
        await auntil(lambda: len(guard.registry) == 0, "the silence to be noticed")
        assert kernel.connections == 0
        assert all(channel.closed() for channel in channels)
        assert not kernel.sessions()
        assert not kernel.kept()
        assert len(guard.sessions) == 0
        assert vanished.code is None
    if jupyter_server.version_info >= (2, 21):  # 2.14 leaves some open, now and then
        await given_back(process, before)


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0.1, "keepalive_timeout": 0.5}])
async def test_a_client_that_vanished_can_come_back_to_its_output(kernel, tmp_path):
    gone = tmp_path / "gone"
    async with await kernel.by_token("s") as vanished:
        request = execute(once(gone, "print('se' + 'cret')"))
        await vanished.send(request.frame(None))
        while read(await vanished.wait_message())["parent_header"].get("msg_id") != request.id:
            pass  # stock takes requests some time after the 101
        await auntil(lambda: kernel.connections == 0, "the silence to be noticed")
        gone.touch()
        # What comes while somebody connects again, stock may lose.
        await auntil(lambda: b"secret" in kernel.kept(), "the output to be kept")
    async with await kernel.by_token("s") as back:
        assert "secret" in said(await run(back, "'hel' + 'lo'"))


EVIL = {"Origin": "http://evil.example"}


@pytest.mark.parametrize(
    "handshake",
    [
        {"headers": EVIL},
        {"drop": ("Sec-WebSocket-Key",)},
        {"drop": ("Sec-WebSocket-Version",)},
        {"drop": ("Connection",)},
    ],
    ids=["origin", "key", "version", "connection"],
)
async def test_C2_7_a_handshake_that_fails_ends_nobodys_connection(kernel, users, guard, handshake):
    """Upstream ends the older connection of a session before it looks at origin and headers."""
    ann, _ = users
    async with await kernel.connect("s", **ann) as older:
        assert await works(older)
        headers = {**ann, **handshake.get("headers", {})}
        drop = handshake.get("drop", ())
        other = await refused(kernel.port, kernel.path("s"), headers=headers, drop=drop)
        assert other.status in (400, 403, 426)
        assert await works(older)
        assert kernel.connections == 1
    await auntil(lambda: not len(guard.sessions), "the session to be let go")


@PROVIDERS
async def test_C2_8_a_client_that_leaves_early_does_not_change_for_whom_is_kept(
    kernel, users, guard
):
    """Upstream counts a connection off that it never counted, and then buffers for the wrong one."""
    ann, bob = users
    async with await kernel.connect("b", **bob) as other:
        assert await works(other)
        for _ in range(5):
            early = await knock_and_leave(kernel, "b2", bob)
            early.vanish()
        await auntil(
            lambda: not guard.opening and len(guard.registry) == 1, "the early leavers to be gone"
        )
        await auntil(lambda: kernel.connections == 1, "one connection to be left")
        async with await kernel.connect("s", **ann) as owner:
            assert await works(owner)
        await auntil(lambda: kernel.connections == 1, "the owner to be gone")
        assert await works(other)
    await auntil(lambda: kernel.connections == 0, "everybody to be gone")
    async with await kernel.connect("s", **bob) as thief:
        assert "hello" not in said(await run(thief, "1"))


async def knock_and_leave(kernel: Kernel, session: str, who: dict[str, str]) -> Knock:
    """Send a handshake and go before it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", kernel.port)
    lines = {
        "Host": f"127.0.0.1:{kernel.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
        **who,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"GET {kernel.path(session)} HTTP/1.1\r\n{head}\r\n".encode())
    await writer.drain()
    return Knock(reader, writer)


class Waiting:
    """A place to stop before the 101 until it is told to go on."""

    reached: asyncio.Event
    go_on: asyncio.Event


def waiting(connection_class: Any) -> Any:
    """A connection class that stops there."""

    class Connection(connection_class):  # type: ignore[misc]
        async def prepare(self) -> None:
            await super().prepare()
            Waiting.reached.set()
            await Waiting.go_on.wait()

    return Connection


class WaitingAuthorizer(AllowAllAuthorizer):
    """Allows after a while."""

    async def is_authorized(self, *args: Any) -> bool:  # type: ignore[override]
        Waiting.reached.set()
        await Waiting.go_on.wait()
        return True


@pytest.mark.parametrize("where", ["before upstream's connection", "after it"])
async def test_C2_8_who_leaves_before_the_101_is_not_counted_off(kernel, users, guard, where):
    Waiting.reached, Waiting.go_on = asyncio.Event(), asyncio.Event()
    _, bob = users
    settings = kernel.app.web_app.settings
    async with await kernel.connect("b", **bob) as other:
        assert await works(other)
        if where == "after it":
            settings["kernel_websocket_connection_class"] = waiting(kernel.connection_class)
        else:
            settings["authorizer"] = WaitingAuthorizer()
        early = await knock_and_leave(kernel, "b2", bob)
        await asyncio.wait_for(Waiting.reached.wait(), TIMEOUT)
        assert len(guard.opening) == 1
        prepared = where == "after it" and not isinstance(kernel, BridgedKernel)
        assert len(kernel.sessions()) == 1 + prepared, "the bridge keeps nothing before the 101"
        early.vanish()
        await auntil(lambda: not guard.opening, "the early leaver to be gone")
        assert len(kernel.sessions()) == 1, "what upstream prepared is not given back"
        assert kernel.connections == 1
        assert not kernel.kept()
        Waiting.go_on.set()
        assert await works(other)
    await auntil(lambda: kernel.connections == 0, "everybody to be gone")
