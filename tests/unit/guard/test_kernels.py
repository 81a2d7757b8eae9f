"""Whose a kernel session is, and what becomes of sockets when a kernel ends: with real kernels."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, cast

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard.kernels import SessionClaims, change_session_id, session_id
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.kernel_messages import execute, read
from tests.support.knock import Knock, bearing, knock, refused
from tests.support.waiting import auntil

# --- claims, beside a model of what upstream does -------------------------------------------------


def a_handler() -> WebSocketHandler:
    """Something that is only itself."""
    return cast("WebSocketHandler", object())


def test_a_session_belongs_to_who_uses_it():
    claims = SessionClaims()
    ann, bob = a_handler(), a_handler()
    assert claims.claim(ann, ("k", "s"), "user:ann")
    assert not claims.claim(bob, ("k", "s"), "user:bob")
    assert claims.claim(bob, ("k", "other"), "user:bob")
    assert claims.claim(bob, ("l", "s"), "user:bob"), "an id of another kernel is another id"


def test_a_claim_that_never_opened_leaves_nothing():
    claims = SessionClaims()
    ann, bob = a_handler(), a_handler()
    claims.claim(ann, ("k", "s"), "user:ann")
    claims.release(ann, ("k", "s"), opened=False)
    assert len(claims) == 0
    assert claims.claim(bob, ("k", "s"), "user:bob")


def test_while_away_a_session_stays_its_owners_until_another_takes_the_buffer():
    claims = SessionClaims()
    ann, bob = a_handler(), a_handler()
    claims.claim(ann, ("k", "s"), "user:ann")
    claims.release(ann, ("k", "s"), opened=True)
    assert not claims.claim(bob, ("k", "s"), "user:bob")
    assert claims.claim(ann, ("k", "s"), "user:ann")
    claims.release(ann, ("k", "s"), opened=False)
    assert not claims.claim(bob, ("k", "s"), "user:bob")
    claims.claim(bob, ("k", "t"), "user:bob")
    claims.release(bob, ("k", "t"), opened=True)
    assert claims.claim(bob, ("k", "s"), "user:bob"), "upstream keeps one buffer per kernel"
    assert not claims.claim(ann, ("k", "t"), "user:ann")


def test_an_unfinished_second_handshake_does_not_lose_the_owner():
    """Ann's first socket leaves, and upstream buffers for it, while her second is still opening; then
    that one fails. The buffer is hers all the same."""
    claims = SessionClaims()
    first, second, bob = a_handler(), a_handler(), a_handler()
    claims.claim(first, ("k", "s"), "user:ann")
    claims.claim(second, ("k", "s"), "user:ann")
    claims.release(first, ("k", "s"), opened=True)
    claims.release(second, ("k", "s"), opened=False)
    assert not claims.claim(bob, ("k", "s"), "user:bob")


def test_who_is_replaced():
    claims = SessionClaims()
    older, newer, stranger = a_handler(), a_handler(), a_handler()
    key = ("k", "s")
    assert not claims.replaced(older, key)
    claims.claim(older, key, "user:ann")
    assert not claims.replaced(older, key)
    claims.claim(newer, key, "user:ann")
    assert claims.replaced(older, key)
    assert not claims.replaced(newer, key)
    assert not claims.replaced(stranger, key)
    claims.release(stranger, key, opened=True)  # not its own: nothing happens
    claims.release(older, ("k", "unknown"), opened=True)
    claims.release(older, key, opened=True)
    assert not claims.replaced(older, key)
    assert not claims.replaced(newer, key)


def test_kernels_that_are_no_more_are_forgotten():
    claims = SessionClaims()
    for kernel in ("k", "l"):
        handler = a_handler()
        claims.claim(handler, (kernel, "s"), "user:ann")
        claims.release(handler, (kernel, "s"), opened=True)
    claims.forget({"l"})
    assert len(claims) == 1
    assert not claims.claim(a_handler(), ("l", "s"), "user:bob")
    assert claims.claim(a_handler(), ("k", "s"), "user:bob")


class Upstream:
    """What jupyter_server does with session ids, step by step, and who would gain from it."""

    def __init__(self) -> None:
        self.claims = SessionClaims()
        self.fresh = itertools.count()
        self.sockets: list[dict[str, Any]] = []
        self.open_sessions: dict[tuple[str, str], dict[str, Any]] = {}
        self.connections: dict[str, int] = {}
        self.buffers: dict[str, dict[str, Any]] = {}

    def begin(self, principal: str, kernel: str, session: str) -> None:
        handler, key = a_handler(), (kernel, session)
        if not self.claims.claim(handler, key, principal):
            key = (kernel, f"fresh-{next(self.fresh)}")
            assert self.claims.claim(handler, key, principal)
        self.sockets.append(
            {"principal": principal, "handler": handler, "stage": "opening", "key": key}
        )

    def step(self, socket: dict[str, Any]) -> None:
        kernel = socket["key"][0]
        if socket["stage"] == "opening":
            stale = self.open_sessions.get(socket["key"])
            if stale is not None and stale["stage"] != "ended":
                assert stale["principal"] == socket["principal"], "replaced by somebody else"
            self.open_sessions[socket["key"]] = socket
            socket["stage"] = "registered"
        elif socket["stage"] == "registered":
            self.connections[kernel] = self.connections.get(kernel, 0) + 1
            buffer = self.buffers.pop(kernel, None)
            if buffer is not None and buffer["key"] == socket["key"]:
                assert buffer["principal"] == socket["principal"], "given another's output"
            socket["stage"] = "open"

    def end(self, socket: dict[str, Any]) -> None:
        if socket["stage"] == "ended":
            return
        kernel, opened = socket["key"][0], socket["stage"] == "open"
        socket["stage"] = "ended"
        self.claims.release(socket["handler"], socket["key"], opened=opened)
        if opened:
            self.connections[kernel] -= 1
            if self.open_sessions.get(socket["key"]) is socket:
                del self.open_sessions[socket["key"]]
            if self.connections[kernel] == 0:
                self.buffers[kernel] = socket


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(["user:ann", "user:bob", "credential:c"]),
                st.sampled_from(["k", "l"]),
                st.sampled_from(["s", "t"]),
            ),
            st.tuples(st.sampled_from(["step", "end"]), st.integers(0, 7)),
        ),
        max_size=60,
    )
)
def test_C2_8_nobody_is_replaced_by_or_heard_by_another_whatever_the_order(steps):
    model = Upstream()
    for step in steps:
        if len(step) == 3:
            model.begin(*step)
        elif model.sockets:
            socket = model.sockets[step[1] % len(model.sockets)]
            (model.step if step[0] == "step" else model.end)(socket)
    for socket in model.sockets:
        model.end(socket)
    assert len(model.claims) <= 2, "one session a kernel is remembered"


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
    fresh = change_session_id(handler.request)
    assert handler.get_argument("session_id") == fresh
    assert handler.get_query_argument("session_id") == fresh
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


@pytest.fixture
def jp_server_config(jp_server_config, provider):
    jp_server_config["ServerApp"]["identity_provider_class"] = provider
    return jp_server_config


class Kernel:
    """A running kernel of the test's server and the ways in."""

    def __init__(self, app, port: int, base_url: str, kernel_id: str) -> None:
        self.app, self.port, self.base_url, self.id = app, port, base_url, kernel_id

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


@pytest.fixture
def kernel(jp_asyncio_loop, jp_serverapp, http_server, jp_http_port, jp_base_url):
    manager = jp_serverapp.kernel_manager
    kernel_id = jp_asyncio_loop.run_until_complete(manager.start_kernel())
    yield Kernel(jp_serverapp, jp_http_port, jp_base_url, kernel_id)
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


async def test_C3_6_the_same_token_replaces_its_own_session(kernel, guard):
    """Tokens name nobody, so the credential is the principal."""
    async with await kernel.by_token() as older, await kernel.by_token() as newer:
        await older.wait_closed()
        assert (older.code, older.slug) == (4409, "replaced")
        assert await works(newer)


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
            keys = {cast("Any", entry.handler).connection.session_key for entry in guard.registry}
            assert len(keys) == 2


async def output_while_away(kernel: Kernel, session: str, **who: str) -> None:
    """Run something whose output comes after its owner left, and wait until upstream has it."""
    async with await kernel.connect(session, **who) as owner:
        assert await works(owner)
        await owner.send(execute("input_was = 'se' + 'cret'; print(input_was)").frame(None))
        # Gone before the answer is read.
    await auntil(lambda: kernel.connections == 0, "the owner to be gone")
    manager = kernel.app.kernel_manager
    await auntil(
        lambda: (
            b"secret\\n"
            in b"".join(
                b"".join(bytes(part) for part in parts)
                for _, parts in manager._kernel_buffers[kernel.id]["buffer"]
            )
        ),
        "upstream to buffer the output",
    )


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
        await stock.send("ping", opcode=9)
        frames = [await stock.read_frame()]
        while frames[-1] is not None and frames[-1][0] != 10:
            frames.append(await stock.read_frame())
        assert frames[-1] == (10, b"ping"), "stock leaves it open"
        assert all(frame is not None and frame[0] != 8 for frame in frames)
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
        await stock.send("ping", opcode=9)
        frame = await stock.read_frame()
        while frame is not None and frame[0] != 10:
            assert frame[0] != 8
            frame = await stock.read_frame()
        assert frame == (10, b"ping")


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
        assert await works(socket)
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
    await auntil(lambda: not ZMQChannelsWebsocketConnection._open_sockets)
    before = process.num_fds()
    async with await kernel.by_token("s") as vanished:
        await auntil(lambda: kernel.connections == 1, "connected")
        [entry] = guard.registry
        connection = cast("Any", entry.handler).connection
        await auntil(lambda: len(connection.channels) == 4)
        channels = list(connection.channels.values())
        # The nudge's transient channels are closed by now or soon.
        await auntil(entry.stream.reading, "open")
        await auntil(lambda: len(guard.registry) == 0, "the silence to be noticed")
        assert kernel.connections == 0
        assert all(channel.closed() for channel in channels)
        assert len(guard.sessions) == 1  # kept for its return
        assert vanished.code is None
    await auntil(lambda: process.num_fds() <= before, "descriptors to be given back")


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0.1, "keepalive_timeout": 0.5}])
async def test_a_client_that_vanished_can_come_back_to_its_output(kernel, guard):
    async with await kernel.by_token("s") as vanished:
        await auntil(lambda: len(guard.registry) == 1)
        [entry] = guard.registry
        await auntil(entry.stream.reading, "open")
        await vanished.send(
            execute("import time; time.sleep(1.5); print('se' + 'cret')").frame(None)
        )
        await auntil(lambda: kernel.connections == 0, "the silence to be noticed")
    async with await kernel.by_token("s") as back:
        assert "secret" in said(await run(back, "'hel' + 'lo'"))
