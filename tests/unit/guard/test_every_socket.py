"""Handlers of every make: not Jupyter's, half Jupyter's, with ways of their own (C2.2, C2.6)."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws import socket_info
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.identity import JudgedProvider
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import Door
from tests.support.knock import bearing
from tests.support.providers import (
    BAD,
    BEARER,
    FLAG,
    HEADER,
    LEGACY,
    OFF,
    PASSWORD,
    SESSION,
    STOCK,
    TOKEN,
    USER,
    Kind,
    OldWay,
    Sent,
    expected,
)
from tests.support.recording import Protected, Recorder
from tests.unit.guard.conftest import EXTENSIONS

pytestmark = [
    # Upstream calls what it has deprecated, and warns of the very handlers that are tested here.
    pytest.mark.filterwarnings("ignore:.*is deprecated in (jupyter-server )?2.0"),
    pytest.mark.filterwarnings("ignore::jupyter_server.utils.JupyterServerAuthWarning"),
]

GOOD = [MARKER, bearing(TOKEN), REASON_MARKER]
WRONG = [MARKER, bearing(BAD), REASON_MARKER]
SEVERAL = (STOCK, PASSWORD, LEGACY, HEADER, BEARER, FLAG, OFF)


@pytest.fixture
def kind() -> Kind:
    return STOCK


@pytest.fixture
def closed() -> bool:
    return False


@pytest.fixture
def jp_server_config(kind: Kind, closed: bool) -> dict[str, Any]:
    config: dict[str, Any] = {section: dict(traits) for section, traits in kind.config.items()}
    config.setdefault("ServerApp", {}).update(
        jpserver_extensions=dict(EXTENSIONS), allow_unauthenticated_access=not closed
    )
    config["TokenWebSocketApp"] = {"refusal_burst": 100_000, "max_refusals_open": 100_000}
    return config


def added(door: Door, handler: type[Recorder], path: str = "here") -> type[Recorder]:
    """A class of its own for this test, registered now that the server runs."""
    here = type("Here", (handler,), {"__module__": __name__})
    door.add(path, here)
    return here


class Plain(Recorder):
    """tornado's own, which asks nobody."""


class Mixed(Recorder, WebSocketMixin, WebSocketHandler):
    """Half Jupyter's: it pings and checks origins, and asks ``get_current_user``."""

    allow_origin = allow_origin_pat = ""

    def get_origin(self) -> str | None:
        return self.request.headers.get("Origin")

    @property
    def log(self) -> Any:
        import logging

        return logging.getLogger("test")


class MixedOld(OldWay, Mixed):
    """The same with users of its own."""


class OwnPrepare(Protected):
    """Jupyter's, but prepares in its own way."""

    async def prepare(self) -> None:  # type: ignore[override]
        self.note("prepare")
        info = socket_info(self)
        assert info is not None
        assert info.user is None


@pytest.mark.parametrize("kind", SEVERAL, ids=str)
@pytest.mark.parametrize("handler", [Plain, Mixed])
async def test_C2_6_C2_2_open_handlers_of_tornados(door, kind, handler):
    here = added(door, handler)
    for sent in (
        Sent(remote_user="good" if kind.remote_user else "none"),
        Sent("good", remote_user="good" if kind.remote_user else "none"),
        Sent("bad"),
        Sent("bad", cookie="good"),
    ):
        must = expected(kind, sent)
        headers = sent.headers(kind, door.app, door.port)
        async with await door.knock("here", sent.offer(), headers) as socket:
            if sent.subprotocol != "none" and must.slug:
                await socket.wait_closed()
                assert (socket.code, socket.slug) == (4403, "token_rejected")
                assert here.sights == []
            else:
                assert socket.status == 101, sent
                assert socket.subprotocol == (
                    MARKER if sent.subprotocol != "none" else REASON_MARKER
                )
                info = here.at("open").info
                # Nobody was asked who it is, unless a token was sent.
                source = must.source if sent.subprotocol != "none" else "none"
                assert info.source.value == source
                assert not any(sight.shows(TOKEN) for sight in here.sights[-2:])
        here.sights.clear()


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("kind", [STOCK, FLAG, OFF], ids=str)
async def test_C2_6_half_jupyter_handler_without_users_stays_as_closed_as_upstream(
    door, kind, closed
):
    added(door, Mixed)
    headers = {"Authorization": f"token {TOKEN}"}
    by_header = await door.knock("here", None, headers)
    by_subprotocol = await door.knock("here", [MARKER, bearing(TOKEN), REASON_MARKER])
    async with by_header, by_subprotocol:
        assert by_header.status == (403 if closed else 101)
        assert by_subprotocol.status == 101
        if closed:
            await by_subprotocol.wait_closed()
            assert by_subprotocol.slug == "forbidden"  # the token was good
    if closed or kind is not OFF:
        wrong = await door.refused("here", WRONG)
        assert wrong.slug == ("forbidden" if kind is OFF else "token_rejected")


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("kind", [STOCK, BEARER], ids=str)
async def test_C2_6_half_jupyter_handler_with_users_of_its_own(door, kind, closed):
    class Users(Mixed):
        """Takes the scheme under which it is documented to be shown the token."""

        def get_current_user(self) -> Any:
            if self.request.headers.get("Authorization") == f"token {TOKEN}":
                return USER
            return self.get_cookie("name")

    here = added(door, Users)
    async with await door.knock("here", GOOD, {"Cookie": "name=bob"}) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
    # The token's user, though the handler asks again and would find the cookie first or last.
    assert here.handlers[-1].current_user == USER
    info = here.at("open").info
    assert (info.user, info.source.value, info.principal) == (USER, "subprotocol", "user:ann")
    answer = await door.refused("here", WRONG, {"Cookie": "name=bob"})
    assert answer.slug == "token_rejected"
    async with await door.knock("here", ["own"], {"Cookie": "name=bob"}) as socket:
        assert socket.status == 101
    info = here.at("open").info
    # Who asked the handler for its user was upstream, if only for the access log.
    assert (info.user, info.source.value, info.principal) == ("bob", "ambient", "user:bob")


class Keyed(Plain):
    """Has keys of its own, and asks for one in ``get``."""

    def get_current_user(self) -> Any:
        header = self.request.headers.get("Authorization", "")
        if header == "token raise":
            raise web.HTTPError(403)
        self.set_cookie("login", "1")
        if header == "token of-the-app":
            return b"eve"  # as tornado's signed cookies are
        return self.get_cookie("name") or ""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.note("get")
        if not self.current_user:
            raise web.HTTPError(403)
        await WebSocketHandler.get(self, *args, **kwargs)


async def test_C2_2_C2_5_plain_handler_with_keys_of_its_own(door):
    here = added(door, Keyed)
    app_key = [MARKER, bearing("of-the-app"), REASON_MARKER]
    async with await door.knock("here", app_key, {"Cookie": "name=bob"}) as socket:
        assert (socket.status, socket.set_cookies) == (101, [])
    handler = here.handlers[-1]
    assert handler.current_user == b"eve"
    info = here.at("open").info
    assert (info.user, info.principal) == (b"eve", "user:eve")
    # The cookie that was hidden while the key was judged is there again.
    assert here.at("open").cookies == {"name": "bob"}
    async with await door.knock("here", ["own"], {"Cookie": "name=bob"}) as socket:
        assert socket.status == 101
    info = here.at("open").info
    assert (info.user, info.source, info.principal) == (
        "bob",
        CredentialSource.AMBIENT,
        "user:bob",
    )


async def test_C2_2_server_token_does_not_pass_by_a_plain_handlers_own_users(door):
    """It is good, so it is not rejected; but the handler knows nobody by it."""
    added(door, Keyed)
    answer = await door.refused("here", GOOD)
    assert (answer.code, answer.slug) == (4403, "forbidden")
    assert (await door.refused("here", WRONG)).slug == "token_rejected"
    raising = await door.refused("here", [MARKER, bearing("raise"), REASON_MARKER])
    assert raising.slug == "token_rejected"
    assert (await door.refused("here", [REASON_MARKER])).slug == "credentials_missing"


async def test_C2_2_cookie_that_a_plain_handler_has_read_before_does_not_vouch(door):
    class Early(Keyed):
        """Reads its cookies before anything else, so that tornado has parsed them."""

        def initialize(self, **kwargs: Any) -> None:
            super().initialize(**kwargs)
            assert self.get_cookie("name") == "bob"

    added(door, Early)
    answer = await door.refused("here", WRONG, {"Cookie": "name=bob"})
    assert answer.slug == "token_rejected"


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("kind", [*SEVERAL], ids=str)
async def test_C2_6_C2_2_handler_that_prepares_in_its_own_way(door, kind, closed):
    here = added(door, OwnPrepare)

    async def knock(sent: Sent) -> Any:
        return await door.knock("here", sent.offer(), sent.headers(kind, door.app, door.port))

    name = "good" if kind.remote_user else "none"
    for sent in (Sent("good", remote_user=name), Sent("bad", cookie="good")):
        must = expected(kind, sent)
        async with await knock(sent) as socket:
            if must.slug:
                await socket.wait_closed()
                assert socket.slug == must.slug
                assert here.steps() == ["prepare"]
            else:
                assert (socket.status, socket.subprotocol) == (101, MARKER)
                assert here.at("open").info.source.value == must.source
                assert not any(sight.shows(TOKEN) for sight in here.sights)
        here.sights.clear()


async def test_C2_2_handler_that_refuses_before_anybody_was_asked(door):
    class Here(Protected):
        """Refuses in ``prepare``."""

        async def prepare(self) -> None:  # type: ignore[override]
            raise web.HTTPError(403)

    door.add("here", Here)
    assert (await door.refused("here", GOOD)).slug == "token_rejected"
    assert (await door.refused("here", [REASON_MARKER])).slug == "credentials_missing"


async def test_C2_6_attribute_of_the_name_identity_provider_is_the_handlers_own(door):
    ours = {"not": "jupyter's"}

    class OnInstance(Plain):
        identity_provider: Any

        def initialize(self, **kwargs: Any) -> None:
            super().initialize(**kwargs)
            assert not hasattr(self, "identity_provider")
            self.identity_provider = ours

        def open(self, *args: Any, **kwargs: Any) -> None:
            assert self.identity_provider is ours
            super().open(*args, **kwargs)

    class OnClass(Plain):
        identity_provider = ours

        def open(self, *args: Any, **kwargs: Any) -> None:
            assert self.identity_provider is ours
            super().open(*args, **kwargs)

    for path, handler in (("instance", OnInstance), ("class", OnClass)):
        added(door, handler, path)
        async with await door.knock(path, GOOD) as socket:
            assert (socket.status, socket.subprotocol) == (101, MARKER)
            await socket.send("x")
            assert await socket.wait_message() == "x"
        assert (await door.refused(path, WRONG)).slug == "token_rejected"


async def test_C2_6_provider_of_a_jupyter_handlers_own_is_judged_too(door):
    """Upstream asks what the handler's property gives; so does the guard."""
    from tests.support.providers import FlagProvider

    own = FlagProvider(parent=door.app)

    class Here(Protected):
        @property
        def identity_provider(self) -> Any:
            return own

    door.add("here", Here)
    async with await door.knock("here", GOOD) as socket:
        assert socket.status == 101
    handler: Any = Here.handlers[-1]
    assert type(handler.identity_provider) is JudgedProvider
    assert isinstance(handler.identity_provider, FlagProvider)
    assert Here.at("open").info.principal == "user:ann"
    assert (await door.refused("here", WRONG, {"Cookie": SESSION})).slug == "token_rejected"
    async with await door.knock("here", ["own"], {"Cookie": SESSION}) as socket:
        assert socket.status == 101
