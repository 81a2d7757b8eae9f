"""What extension authors can ask and do in their own handlers."""

from __future__ import annotations

import asyncio
import json

import pytest
from tornado import httpserver, netutil, web

import jupyter_token_ws
from jupyter_token_ws import Refused, TokenWebSocketHandler, close_with_reason, socket_info
from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import Socket, errors, refusals
from tests.support.knock import bearing, knock, refused


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 1000, "exclude_paths": ["excluded"]}


def credential(door) -> dict[str, str]:
    return {"Authorization": f"token {door.token}"}


# -- socket_info -----------------------------------------------------------------------------------


class Informed(Socket):
    """Says what it knows of its client."""

    def select_subprotocol(self, subprotocols):
        return "mine" if "mine" in subprotocols else None

    def open(self):
        info = socket_info(self)
        assert info is not None
        user = info.user.username if info.user else None
        self.write_message(
            {
                "source": info.source.value,
                "subprotocol": info.subprotocol,
                "opted_in": info.opted_in,
                "principal": info.principal,
                "named": bool(user),
                "selected": self.selected_subprotocol,
            }
        )


async def info(door, path="informed", *args):
    async with await door.knock(path, *args) as socket:
        assert socket.status == 101
        return json.loads(await socket.wait_message())


async def test_a_handler_finds_out_how_its_client_came_in(door):
    door.add("informed", Informed)
    cookie = {"Cookie": await door.login_cookie()}
    by_token = await info(door, "informed", [MARKER, bearing(door.token)])
    assert by_token["source"] == CredentialSource.SUBPROTOCOL.value
    assert (by_token["subprotocol"], by_token["opted_in"]) == (MARKER, True)
    assert by_token["selected"] is None  # the handler's own choice: it need not know the markers
    assert by_token["principal"]
    mine = await info(door, "informed", ["mine", MARKER, bearing(door.token), REASON_MARKER])
    assert (mine["subprotocol"], mine["selected"]) == ("mine", "mine")
    by_url = await info(door, f"informed?token={door.token}")
    assert (by_url["source"], by_url["opted_in"], by_url["subprotocol"]) == ("url", False, None)
    by_header = await info(door, "informed", [REASON_MARKER], credential(door))
    assert (by_header["source"], by_header["opted_in"]) == ("header", True)
    assert by_header["subprotocol"] == REASON_MARKER
    by_cookie = await info(door, "informed", None, cookie)
    assert (by_cookie["source"], by_cookie["named"]) == ("cookie", True)
    # One credential, one principal, whatever way it came.
    assert by_token["principal"] == by_url["principal"] == by_header["principal"]
    assert by_cookie["principal"] != by_token["principal"]
    door.app.identity_provider.token = ""
    assert (await info(door))["source"] == "none"


async def test_where_the_guard_does_not_stand_there_is_nothing_to_know(door):
    answers: list[object] = []

    class Plain(Socket):
        def open(self):
            answers.append(socket_info(self))
            close_with_reason(self, "gone")

    class Public(TokenWebSocketHandler, Socket):
        def open(self):
            answers.append(self.socket_info)
            self.close_with_reason("gone", retry_after=3)

    door.add("excluded/plain", Plain)
    door.add("excluded/public", Public)
    socket = await door.refused("excluded/plain", [REASON_MARKER], credential(door))
    assert (socket.code, socket.reason) == (4410, REASONS["gone"].close_reason())
    socket = await door.refused("excluded/public", [REASON_MARKER], credential(door))
    assert (socket.code, socket.reason) == (4410, REASONS["gone"].close_reason(3))
    assert answers == [None, None]


def test_a_plain_request_handler_has_no_socket_info():
    assert socket_info(object()) is None  # type: ignore[arg-type]


# -- Refused ---------------------------------------------------------------------------------------


def test_refused_is_an_http_error_of_the_table():
    error = Refused("not_found")
    assert isinstance(error, web.HTTPError)
    assert (error.status_code, error.slug, error.retry_after) == (404, "not_found", None)
    assert Refused("credentials_missing").status_code == 403
    assert Refused("draining", retry_after=4).retry_after == 4


@pytest.mark.parametrize("refuse", [Refused, lambda slug: Refused(slug, retry_after=1)])
def test_an_unknown_slug_is_a_mistake_where_it_is_made(refuse):
    with pytest.raises(KeyError):
        refuse("no_such_slug")


def test_a_negative_retry_after_is_a_mistake_where_it_is_made():
    with pytest.raises(ValueError, match="negative"):
        Refused("draining", retry_after=-1)


@pytest.mark.parametrize("where", ["prepare", "get"])
async def test_C3_3_refused_in_prepare_or_get(door, caplog, where):
    class InPrepare(Socket):
        async def prepare(self):  # type: ignore[override] # upstream's argument is for websockets
            await super().prepare()
            raise Refused("unavailable", retry_after=30)

    class InGet(Socket):
        async def get(self):
            raise Refused("unavailable", retry_after=30)

    door.add("refuses", InPrepare if where == "prepare" else InGet)
    told = await door.refused("refuses", [REASON_MARKER], credential(door))
    assert (told.code, told.reason) == (4503, REASONS["unavailable"].close_reason(30))
    plain = await door.refused("refuses", None, credential(door))
    assert plain.status == 503
    await door.settled()
    assert [line.split()[1] for line in refusals(caplog.records)] == ["unavailable"] * 2


# -- close_with_reason -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["prepare", "get"])
async def test_close_with_reason_before_the_socket_is_open_refuses_it(door, caplog, where):
    go_on = []

    class Closes(Socket):
        async def prepare(self):  # type: ignore[override] # upstream's argument is for websockets
            await super().prepare()
            if where == "prepare":
                close_with_reason(self, "too_many_connections", 9)
                close_with_reason(self, "gone")  # once is enough

        async def get(self):
            go_on.append(1)
            close_with_reason(self, "too_many_connections", 9)
            close_with_reason(self, "gone")
            await super().get()  # a handler that goes on all the same

    door.add("closes", Closes)
    told = await door.refused("closes", [REASON_MARKER], credential(door))
    assert (told.code, told.reason) == (4429, REASONS["too_many_connections"].close_reason(9))
    plain = await door.refused("closes", None, credential(door))
    assert (plain.status, plain.headers["retry-after"]) == (429, ["9"])
    assert plain.body == b"too_many_connections: too many connections\n"
    await door.settled()
    assert len(go_on) == (0 if where == "prepare" else 2)
    assert len(refusals(caplog.records)) == 2
    assert errors(caplog.records) == []


@pytest.mark.parametrize("offer", [[REASON_MARKER], None])
async def test_C3_6_close_with_reason_of_an_open_socket(door, offer):
    class Closes(Socket):
        def on_message(self, message):
            close_with_reason(self, str(message), 5)
            close_with_reason(self, "gone")  # twice does nothing

    for slug, everybody in [("unavailable", False), ("draining", True)]:
        door.add(f"closes-{slug}", Closes)
        async with await door.knock(f"closes-{slug}", offer, credential(door)) as socket:
            await socket.send(slug)
            await socket.wait_closed()
            if offer or everybody:
                reason = REASONS[slug]
                assert (socket.code, socket.reason) == (reason.code, reason.close_reason(5))
            else:
                assert (socket.code, socket.reason) == (None, "")
    await door.settled()


async def test_close_with_reason_after_the_end_does_nothing(door):
    seen: list[Socket] = []
    door.add("ends", Socket, seen=seen)
    async with await door.knock("ends", [REASON_MARKER], credential(door)) as socket:
        await socket.close()
        await socket.at_end()
    await door.settled()
    close_with_reason(seen[0], "gone")


async def test_close_with_reason_takes_only_what_is_in_the_table(door):
    seen: list[Socket] = []
    door.add("stays", Socket, seen=seen)
    async with await door.knock("stays", [REASON_MARKER], credential(door)) as socket:
        with pytest.raises(KeyError):
            close_with_reason(seen[0], "no_such_slug")
        with pytest.raises(ValueError, match="negative"):
            close_with_reason(seen[0], "draining", -1)
        await socket.send("still here")
        assert await socket.wait_message() == "still here"


async def test_before_the_socket_is_open_too(door):
    class Mistaken(Socket):
        async def get(self):
            close_with_reason(self, "draining", -1)

    door.add("mistaken", Mistaken)
    told = await door.refused("mistaken", [REASON_MARKER], credential(door))
    assert (told.code, told.slug) == (4500, "internal_error")


# -- TokenWebSocketHandler in an application of its own -----------------------------------------------


class Echo(TokenWebSocketHandler):
    """As in the documentation: a plain tornado handler that knows one token."""

    def get_current_user(self):
        given = self.request.headers.get("Authorization")
        return "ann" if given == "token secret" else None

    async def prepare(self):
        if self.current_user is None:
            raise web.HTTPError(403)

    def on_message(self, message):
        if message == "close":
            self.close_with_reason("gone")
        elif message == "info":
            info = self.socket_info
            assert info is not None
            self.write_message({"source": info.source.value, "user": info.user})
        else:
            self.write_message(message)


class Open(TokenWebSocketHandler):
    """Asks for nobody."""


@pytest.fixture
def own_port(jp_asyncio_loop):
    application = web.Application([("/echo", Echo), ("/open", Open)])
    (listening,) = netutil.bind_sockets(0, "127.0.0.1")

    async def serve():
        server = httpserver.HTTPServer(application)
        server.add_socket(listening)
        return server

    server = jp_asyncio_loop.run_until_complete(serve())
    yield listening.getsockname()[1]
    server.stop()
    jp_asyncio_loop.run_until_complete(server.close_all_connections())


async def test_C2_6_the_class_works_without_the_extension(own_port):
    offer = [MARKER, bearing("secret"), REASON_MARKER]
    async with await knock(own_port, "/echo", offer) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
        await socket.send("hello")
        assert await socket.wait_message() == "hello"
        await socket.send("info")
        assert await socket.wait_message() == '{"source": "subprotocol", "user": "ann"}'
        await socket.send("close")
        await socket.wait_closed()
        assert (socket.code, socket.slug) == (4410, "gone")
    told = await refused(own_port, "/echo", [MARKER, bearing("wrong"), REASON_MARKER])
    assert (told.code, told.slug) == (4403, "token_rejected")
    told = await refused(own_port, "/echo", [REASON_MARKER])
    assert (told.code, told.slug) == (4401, "credentials_missing")
    plain = await refused(own_port, "/echo")
    assert plain.status == 403
    header = {"Authorization": "token secret"}
    async with await knock(own_port, "/echo", None, header) as socket:
        assert socket.status == 101


async def test_C2_2_nobody_to_ask_about_a_token_means_nobody_is_admitted_by_it(own_port):
    told = await refused(own_port, "/open", [MARKER, bearing("secret"), REASON_MARKER])
    assert (told.code, told.slug) == (4403, "token_rejected")
    async with await knock(own_port, "/open", [REASON_MARKER]) as socket:
        assert (socket.status, socket.subprotocol) == (101, REASON_MARKER)


async def test_C3_4_the_class_across_origins(own_port):
    evil = {"Origin": "https://evil.example"}
    plain = await refused(own_port, "/open", [REASON_MARKER], evil)
    assert (plain.status, plain.body) == (403, b"Cross origin websockets not allowed")
    told = await refused(own_port, "/echo", [MARKER, bearing("wrong"), REASON_MARKER], evil)
    assert (told.code, told.slug) == (4403, "token_rejected")
    # tornado knows of no origin that a token makes good.
    plain = await refused(own_port, "/echo", [MARKER, bearing("secret"), REASON_MARKER], evil)
    assert plain.status == 403


async def test_a_plain_request_to_the_class(own_port):
    head = f"GET /open HTTP/1.1\r\nHost: 127.0.0.1:{own_port}\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", own_port)
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")


async def test_C2_6_a_guarded_class_of_the_authors_is_guarded_once(door):
    class Both(TokenWebSocketHandler, Socket):
        pass

    door.add("both", Both)
    async with await door.knock("both", [MARKER, bearing(door.token)]) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
        (entry,) = door.guard.registry
        names = [kind.__name__ for kind in type(entry.handler).__mro__]
        assert names.count("_Guarded") == 1
        assert isinstance(entry.handler, Both)


# -- the package -----------------------------------------------------------------------------------


def test_the_package_gives_what_it_names():
    for name in jupyter_token_ws.__all__:
        assert getattr(jupyter_token_ws, name) is not None
    assert jupyter_token_ws.Refused is Refused
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = jupyter_token_ws.no_such_name


async def test_the_guard_of_an_application_is_one(door):
    assert Guard.of(door.app.web_app) is door.guard
    application = web.Application([])
    assert Guard.of(application) is Guard.of(application)
