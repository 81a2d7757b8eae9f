"""The principal: the key of whatever belongs to a user (C2.8)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jupyter_server.auth.identity import IdentityProvider, User
from tornado import web
from tornado.web import create_signed_value

from jupyter_token_ws import SocketInfo
from jupyter_token_ws.guard.handshake import Handshake
from jupyter_token_ws.protocol.subprotocols import MARKER, Offer
from tests.support.door import EVENTS, Door
from tests.support.knock import bearing
from tests.support.providers import (
    FLAG,
    HEADER,
    KINDS,
    OFF,
    PASSWORD_AND_TOKEN,
    PLAIN_LEGACY,
    SESSION,
    STOCK,
    TOKEN,
    USER,
    Kind,
    Sent,
)
from tests.support.recording import OpenToAll, Protected, Recorder
from tests.unit.guard.conftest import EXTENSIONS

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated in (jupyter-server )?2.0")

GOOD = [MARKER, bearing(TOKEN)]
OTHER = "another-token-of-the-same-server"


class Many(IdentityProvider):
    """Everybody names himself."""

    def get_user(self, handler: web.RequestHandler) -> User | None:
        header = handler.request.headers.get("Authorization", "")
        name = handler.request.headers.get("X-Remote-User") or header.partition(" ")[2]
        return User(name) if name else None


MANY = Kind("many", {"ServerApp": {"identity_provider_class": Many}})


@pytest.fixture
def kind() -> Kind:
    return STOCK


@pytest.fixture
def jp_server_config(kind: Kind) -> dict[str, Any]:
    config: dict[str, Any] = {section: dict(traits) for section, traits in kind.config.items()}
    config.setdefault("ServerApp", {}).update(jpserver_extensions=dict(EXTENSIONS))
    return config


@pytest.fixture
def here(door: Door) -> type[Protected]:
    class Here(Protected):
        """For this server."""

    door.add("here", Here)
    return Here


async def info(
    door: Door,
    recorder: type[Recorder],
    path: str,
    offer: list[str] | None,
    headers: dict[str, str] | None = None,
) -> SocketInfo:
    """Of a socket that opened; the registry says the same."""
    async with await door.knock(path, offer, headers) as socket:
        assert socket.status == 101
        found: SocketInfo = recorder.at("open").info
        await socket.send("are you there?")
        await socket.wait_message()
        (entry,) = door.guard.registry
        assert (entry.principal, entry.source, entry.user, entry.opted_in) == (
            found.principal,
            found.source,
            found.user,
            found.opted_in,
        )
        assert door.guard.registry.by_principal(found.principal) == [entry]
        assert TOKEN not in repr((entry.principal, entry.credential))
    await door.settled()
    return found


def login(door: Door, name: str, kind: Kind = STOCK) -> str:
    """The stock login cookie of somebody."""
    fields = ("username", "name", "display_name", "initials", "color", "avatar_url")
    value = name if kind is PLAIN_LEGACY else json.dumps(dict.fromkeys(fields, name))
    cookie = f"username-127-0-0-1-{door.port}"
    signed = create_signed_value(door.app.web_app.settings["cookie_secret"], cookie, value)
    return f"{cookie}={signed.decode()}"


@pytest.mark.parametrize("kind", [STOCK, PASSWORD_AND_TOKEN, PLAIN_LEGACY], ids=str)
async def test_C2_8_the_stock_providers_token_is_one_principal_by_every_way(door, here, kind):
    """They invent a new user for each request, which is nobody to belong to."""
    ways: list[tuple[str, list[str] | None, dict[str, str]]] = [
        ("here", GOOD, {}),
        ("here", GOOD, {"Cookie": "theme=dark"}),
        (f"here?token={TOKEN}", None, {}),
        (f"here?token={TOKEN}", None, {"Cookie": "theme=dark"}),
        ("here", None, {"Authorization": f"token {TOKEN}"}),
    ]
    infos = [await info(door, here, *way) for way in ways]
    assert len({found.principal for found in infos}) == 1
    assert infos[0].principal.startswith("credential:")
    assert len(infos[0].principal) == len("credential:") + 32
    assert len({found.user.username for found in infos}) == len(ways)


@pytest.mark.parametrize("kind", [STOCK, PLAIN_LEGACY], ids=str)
async def test_C2_8_the_stock_login_cookie_names_its_user(door, here, kind):
    ann, bob = login(door, "ann", kind), login(door, "bob", kind)
    for offer, headers, principal in (
        (None, {"Cookie": ann}, "user:ann"),
        (None, {"Cookie": f"theme=dark; {ann}"}, "user:ann"),
        (None, {"Cookie": bob}, "user:bob"),
        # Upstream takes the name from the cookie when both are good.
        (GOOD, {"Cookie": ann}, "user:ann"),
        (None, {"Cookie": bob, "Authorization": f"token {TOKEN}"}, "user:bob"),
    ):
        found = await info(door, here, "here", offer, headers)
        assert (found.principal, found.user.username) == (principal, principal[5:])


async def test_C2_8_forged_cookie_names_nobody(door, here):
    forged = login(door, "ann")[:-1] + "x"
    found = await info(door, here, "here", GOOD, {"Cookie": forged})
    assert found.principal.startswith("credential:")


async def test_C2_8_another_token_is_another_principal(door, here):
    first = await info(door, here, "here", GOOD)
    door.app.identity_provider.token = OTHER
    second = await info(door, here, "here", [MARKER, bearing(OTHER)])
    assert first.principal != second.principal


@pytest.mark.parametrize("kind", [k for k in KINDS if k.names], ids=str)
async def test_C2_8_a_named_user_is_one_principal_by_every_credential(door, here, kind):
    name = "good" if kind.remote_user else "none"
    found = set()
    for sent in (
        Sent("good", remote_user=name),
        Sent(header="good", scheme=kind.schemes[0], remote_user=name),
        Sent(cookie="good", remote_user=name),
    ):
        headers = sent.headers(kind, door.app, door.port)
        found.add((await info(door, here, "here", sent.offer(), headers)).principal)
    assert found == {f"user:{USER}"}


@pytest.mark.parametrize("kind", [MANY], ids=str)
async def test_C2_8_users_cannot_call_themselves_what_they_are_not(door, here, kind):
    first = await info(door, here, "here", [MARKER, bearing("bob")])
    assert first.principal == "user:bob"
    digest = door.guard.digest("bob")
    second = await info(door, here, "here", None, {"X-Remote-User": f"credential:{digest}"})
    assert second.principal == f"user:credential:{digest}"


@pytest.mark.parametrize("kind", [FLAG, HEADER, STOCK], ids=str)
async def test_C2_8_C2_6_plain_handlers_have_the_same_principals(door, here, kind):
    class Plain(Recorder):
        """tornado's own."""

    door.add("plain", Plain)
    name = {"X-Remote-User": USER} if kind is HEADER else {}
    for offer, headers in ((GOOD, name), (None, {"Authorization": f"token {TOKEN}", **name})):
        if kind is HEADER and offer is None:
            continue  # nobody asks there
        jupyter = await info(door, here, "here", offer, headers)
        plain = await info(door, Plain, "plain", offer, headers)
        assert plain.principal == jupyter.principal
        assert plain.source == jupyter.source


async def test_C2_8_strangers_are_told_apart_by_what_they_bring(door):
    class Plain(Recorder):
        """tornado's own."""

    class Jupyter(OpenToAll):
        """Open to all."""

    for path, recorder in (("plain", Plain), ("open", Jupyter)):
        door.add(path, recorder)
        principals = [
            (await info(door, recorder, path, None, headers)).principal
            for headers in ({}, {"Cookie": "a=1"}, {"Cookie": "a=2"}, {"Cookie": "a=1"})
        ]
        assert principals[0] == "credential:"
        assert principals[1] == principals[3] != principals[2]
        assert all(principal.startswith("credential:") for principal in principals)


@pytest.mark.parametrize("kind", [OFF], ids=str)
async def test_C2_8_without_authentication_all_are_one(door, here, kind):
    found = {
        (await info(door, here, "here", offer, headers)).principal
        for offer, headers in ((None, {}), (GOOD, {}), (None, {"Cookie": SESSION}))
    }
    assert found == {"credential:"}


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (None, ""),
        ("ann", "ann"),
        (b"ann", "ann"),
        (b"\xff", "\ufffd"),
        (User("ann"), "ann"),
        ({"name": "ann"}, ""),
        (7, ""),
    ],
)
def test_C2_8_name_of_whatever_a_handler_calls_a_user(user, name):
    handshake = Handshake(Offer(), False, None, None, None)
    handshake.user = user
    assert handshake.user_name == name


async def test_C2_8_events_socket_is_listed_under_its_principal(door):
    async with await door.knock(EVENTS, GOOD) as socket:
        assert socket.status == 101
        (entry,) = door.guard.registry
        assert entry.principal == f"credential:{door.guard.digest(TOKEN)}"
