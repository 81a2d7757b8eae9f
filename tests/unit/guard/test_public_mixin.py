"""``TokenWebSocketHandler`` without the extension, and what is left where the guard is off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_server.base.handlers import JupyterHandler
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.websocket import WebSocketHandler

from jupyter_token_ws import SocketInfo, TokenWebSocketHandler
from jupyter_token_ws.guard.core import SETTING, Guard, GuardOptions
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS
from tests.support.knock import Knock, bearing, knock, refused
from tests.support.providers import BAD, TOKEN, USER
from tests.support.recording import Protected, Recorder
from tests.unit.guard.conftest import EXTENSIONS

GOOD = ["own", MARKER, bearing(TOKEN), REASON_MARKER]
WRONG = ["own", MARKER, bearing(BAD), REASON_MARKER]
TWO = ["own", bearing(TOKEN), bearing(BAD)]


class Echo(TokenWebSocketHandler, Recorder):
    """As the documentation says: ``get_current_user`` reads the token in ``Authorization``."""

    def get_current_user(self) -> Any:
        if self.request.headers.get("Authorization") == f"token {TOKEN}":
            return USER
        return self.get_cookie("name")

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.note("get")
        if self.current_user is None:
            raise web.HTTPError(403)
        await WebSocketHandler.get(self, *args, **kwargs)


class Application:
    """A tornado application without anything of Jupyter's."""

    def __init__(self, options: GuardOptions | None) -> None:
        class Here(Echo):
            """For this test."""

        self.handler = Here
        self.app = web.Application([("/echo", Here), ("/out/echo", Here)])
        if options is not None:
            Guard(self.app, options)
        self.listener, self.port = bind_unused_port()

    async def knock(self, path: str, *args: Any, **options: Any) -> Knock:
        return await knock(self.port, path, *args, **options)

    async def refused(self, path: str, *args: Any, **options: Any) -> Knock:
        return await refused(self.port, path, *args, **options)


@pytest.fixture
def options() -> GuardOptions | None:
    return None


@pytest.fixture
def own(jp_asyncio_loop: Any, options: GuardOptions | None) -> Iterator[Application]:
    application = Application(options)

    async def start() -> HTTPServer:
        server = HTTPServer(application.app)
        server.add_socket(application.listener)
        return server

    server = jp_asyncio_loop.run_until_complete(start())
    yield application
    server.stop()
    jp_asyncio_loop.run_until_complete(server.close_all_connections())


async def test_C2_2_C2_3_C1_1_plain_application(own):
    here = own.handler
    for offer, headers, answer, info in (
        (GOOD, {}, "own", SocketInfo(CredentialSource.SUBPROTOCOL, "own", True, "user:ann", USER)),
        (
            GOOD[1:],
            {"Cookie": "name=bob"},
            MARKER,
            SocketInfo(CredentialSource.SUBPROTOCOL, MARKER, True, "user:ann", USER),
        ),
        (
            ["own"],
            {"Cookie": "name=bob"},
            "own",
            SocketInfo(CredentialSource.AMBIENT, "own", False, "user:bob", "bob"),
        ),
        (
            None,
            {"Authorization": f"token {TOKEN}"},
            None,
            SocketInfo(CredentialSource.AMBIENT, None, False, "user:ann", USER),
        ),
    ):
        async with await own.knock("/echo", offer, headers) as socket:
            assert (socket.status, socket.subprotocol, socket.set_cookies) == (101, answer, [])
        assert here.handlers[-1].socket_info == info
        if offer is not None:
            assert here.at("get").header("Authorization") == (
                [f"token {TOKEN}"] if TOKEN in repr(offer) else []
            )
            assert not here.at("select_subprotocol").shows(TOKEN)
            assert not here.at("open").shows(TOKEN)
        assert here.at("open").header("Cookie") == [v for k, v in headers.items() if k == "Cookie"]


async def test_C2_2_plain_application_rejects_whatever_the_cookie(own):
    for headers in ({}, {"Cookie": "name=bob"}, {"Authorization": f"token {TOKEN}"}):
        answer = await own.refused("/echo", WRONG, headers)
        assert (answer.code, answer.slug) == (4403, "token_rejected")
    assert own.handler.steps() == []
    assert (await own.refused("/echo", [REASON_MARKER])).slug == "credentials_missing"
    assert (await own.refused("/echo", TWO)).slug == "malformed_credentials"
    assert (await own.refused("/echo")).status == 403


async def test_C2_6_guard_of_an_application_comes_with_the_first_request(own):
    assert SETTING not in own.app.settings
    async with await own.knock("/echo", GOOD) as socket:
        assert socket.status == 101
        guard = own.app.settings[SETTING]
        assert [entry.path for entry in guard.registry] == ["/echo"]
    async with await own.knock("/echo", GOOD):
        assert own.app.settings[SETTING] is guard


@pytest.mark.parametrize(
    "options", [GuardOptions(enabled=False), GuardOptions(exclude_paths=("out/", "echo"))]
)
async def test_C2_6_C1_2_switched_off_the_class_only_strips(own):
    here = own.handler
    for path in ("/echo", "/out/echo"):
        answer = await own.refused(path, GOOD)
        assert answer.status == 403
        async with await own.knock(path, TWO, {"Cookie": "name=bob"}) as socket:
            assert (socket.status, socket.subprotocol) == (101, "own")
        assert here.handlers[-1].socket_info is None
        assert type(here.handlers[-1]) is here
        assert not any(sight.shows(TOKEN) or sight.shows(BAD) for sight in here.sights)
        assert here.at("prepare").header("Sec-Websocket-Protocol") == ["own"]
    assert len(own.app.settings[SETTING].registry) == 0


@pytest.mark.parametrize("options", [GuardOptions(exclude_paths=("out/",))])
async def test_C2_6_excluded_is_what_matches_only(own):
    assert (await own.refused("/out/echo", GOOD)).status == 403
    async with await own.knock("/echo", GOOD) as socket:
        assert (socket.status, socket.subprotocol) == (101, "own")


# --- in a Jupyter server --------------------------------------------------------------------------


class Marked(TokenWebSocketHandler, Protected):  # type: ignore[misc] # prepare
    """The documented way, in a Jupyter server."""


@pytest.fixture
def extensions() -> dict[str, bool]:
    return dict(EXTENSIONS)


@pytest.fixture
def jp_server_config(
    token_ws_config: dict[str, Any], extensions: dict[str, bool]
) -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": extensions},
        "IdentityProvider": {"token": TOKEN},
        "TokenWebSocketApp": token_ws_config,
    }


@pytest.mark.parametrize("extensions", [{"jupyter_server_terminals": True}, dict(EXTENSIONS)])
async def test_C2_6_C2_2_jupyter_handler_with_and_without_the_extension(door, extensions):
    class Here(Marked):
        """For this server."""

    door.add("here", Here)
    async with await door.knock("here", GOOD) as socket:
        assert (socket.status, socket.subprotocol, socket.set_cookies) == (101, "own", [])
    handler: Any = Here.handlers[-1]
    info = handler.socket_info
    assert (info.source, info.subprotocol, info.opted_in) == (
        CredentialSource.SUBPROTOCOL,
        "own",
        True,
    )
    assert info.principal == f"credential:{door.guard.digest(TOKEN)}"
    assert isinstance(handler, JupyterHandler)
    assert not any(sight.shows(TOKEN) for sight in Here.sights)
    assert (await door.refused("here", WRONG)).slug == "token_rejected"
    assert (await door.refused("here", [REASON_MARKER])).slug == "credentials_missing"
    # The guard does not stand before the others, unless the extension is there.
    there = "jupyter_token_ws" in extensions
    other = await door.refused(EVENTS, WRONG[1:])
    assert (other.slug, other.status) == (("token_rejected", 101) if there else ("", 403))


@pytest.mark.parametrize("token_ws_config", [{"enabled": False}, {"exclude_paths": ["here"]}])
@pytest.mark.parametrize("kind", [Marked, Protected])
async def test_C2_6_C1_2_excluded_handler_never_sees_the_entry(door, kind, token_ws_config):
    class Here(kind):  # type: ignore[misc, valid-type]
        """For this server."""

    door.add("here", Here)
    good = {"Authorization": f"token {TOKEN}"}
    for offer in (["own", MARKER, bearing(BAD)], ["own", bearing(BAD), bearing(BAD)]):
        assert (await door.refused("here", offer)).status == 403
        async with await door.knock("here", offer, good) as socket:
            # As stock: answered by the handler's choice, and a login cookie for the token.
            assert (socket.status, socket.subprotocol) == (101, "own")
            assert len(socket.set_cookies) == 1
        for sight in Here.sights:
            assert not sight.shows(BAD), sight.where
            assert sight.info is None
        assert Here.at("open").header("Authorization") == [f"token {TOKEN}"]
    # A token in the subprotocol is no credential there, however good.
    assert (await door.refused("here", GOOD)).status == 403
