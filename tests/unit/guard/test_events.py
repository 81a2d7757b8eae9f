"""What the server's event log hears of websockets, and that listening is all it costs."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from jupyter_events import EventLogger, validators
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws import Refused
from jupyter_token_ws.guard import events as events_module
from jupyter_token_ws.guard import logs
from jupyter_token_ws.guard.core import Guard, GuardOptions
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.events import DIRECTORY, NAMES, Events, schema_id
from jupyter_token_ws.guard.events import schema as schema_of
from jupyter_token_ws.guard.handshake import Handshake
from jupyter_token_ws.guard.registry import OpenSocket, Registry
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, parse_offer
from tests.support.door import EVENTS, Door, Socket, errors
from tests.support.knock import bearing
from tests.support.observing import Listener, page_of
from tests.support.pages import blocks
from tests.support.waiting import auntil

SUBSCRIBE = "jupyter_server.services.events.handlers.SubscribeWebsocket"
HERE = f"{__name__}.Raises"


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 1000, "max_refusal_events": 1000}


@pytest.fixture
def listener(door: Door) -> Listener:
    return Listener(cast("EventLogger", door.app.event_logger))


class Raises(Socket):
    """Refuses with the reason that the path names."""

    async def get(self, slug: str) -> None:
        raise Refused(slug)


# -- schemas -----------------------------------------------------------------------------------------


def test_every_schema_is_an_event_and_registered(door):
    assert {path.name for path in DIRECTORY.iterdir()} == set(NAMES)
    for name in NAMES:
        schema = schema_of(name)
        assert schema["$id"] == schema_id(name)
        assert schema_id(name) in door.app.event_logger.schemas
        assert set(schema["required"]) <= set(schema["properties"])


@pytest.mark.parametrize(("kind", "version"), [("integer", 1), ("string", "1")])
def test_version_is_of_the_type_that_jupyter_events_wants(monkeypatch, kind, version):
    monkeypatch.setitem(validators.EVENT_METASCHEMA["properties"]["version"], "type", kind)
    assert schema_of("socket_opened")["version"] == version


def test_registering_twice_changes_nothing(door):
    """Two guards of one application, as where an extension is loaded twice."""
    Guard(door.app.web_app)
    assert schema_id("socket_opened") in door.app.event_logger.schemas


def only_fields_of(name: str, data: dict[str, Any]) -> bool:
    return set(data) <= set(schema_of(name)["properties"])


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", REASONS)
async def test_every_refusal_is_one_event_and_counted(door, listener, slug):
    """Told by close code and not; but what is told to nobody is in log and metrics only."""
    door.add("raises/([a-z_]+)", Raises)
    reason, header = REASONS[slug], {"Authorization": f"token {door.token}"}
    before = await page_of(door)
    for offer in ([REASON_MARKER], None):
        await door.refused(f"raises/{slug}", offer, header)
    await door.settled()
    after = await page_of(door)

    def more(metric: str, **labels: str) -> float:
        return after.value(metric, **labels) - before.value(metric, **labels)

    code = str(reason.code)
    assert more("refusals_total", code=code, slug=slug, told="close") == int(reason.told)
    assert more("refusals_total", code=code, slug=slug) == 2
    assert more("refusals_total") == 2
    assert more("handshakes_total", handler=HERE, outcome="refused", slug=slug) == 2
    assert more("handshake_duration_seconds_count", outcome="refused") == 2
    heard = listener.of("socket_refused")
    assert len(listener.heard) == len(heard) == (2 if reason.told else 0)
    for data, told in zip(heard, (True, False), strict=False):
        assert data.pop("user")
        assert data == {
            "code": reason.code,
            "slug": slug,
            "told": told,
            "handler": HERE,
            "route": "raises/{name}",
            "source": "header",
            "address": "127.0.0.1",
            "left_out": 0,
        }


BAD = "wrong-token"


@pytest.mark.parametrize(
    ("offer", "headers", "query", "slug", "source"),
    [
        (None, {}, "", "credentials_missing", "none"),
        (None, {"Cookie": "a=b"}, "", "credentials_missing", "none"),
        ([MARKER, bearing(BAD)], {}, "", "token_rejected", "subprotocol"),
        ([f"{MARKER}.%zz"], {}, "", "malformed_credentials", "subprotocol"),
        (None, {"Authorization": f"Bearer {BAD}"}, "", "token_rejected", "header"),
        (None, {}, f"?token={BAD}", "token_rejected", "url"),
        (
            [MARKER, bearing(BAD)],
            {"Origin": "http://a.example"},
            "",
            "token_rejected",
            "subprotocol",
        ),
    ],
)
async def test_a_stranger_has_no_name_and_no_secret(
    door, listener, offer, headers, query, slug, source
):
    await door.refused(EVENTS + query, offer, headers)
    (data,) = listener.of("socket_refused")
    assert (data["slug"], data["source"], data["route"]) == (slug, source, EVENTS)
    assert "user" not in data
    assert BAD not in json.dumps(data)


async def test_a_refused_origin_makes_no_event(door, listener):
    before = await page_of(door)
    await door.refused(EVENTS, None, {"Origin": "http://evil.example"})
    after = await page_of(door)
    counted = ("refusals_total", {"slug": "origin_refused", "told": "http"})
    assert after.value(counted[0], **counted[1]) - before.value(counted[0], **counted[1]) == 1
    assert listener.heard == []


async def test_what_is_no_websocket_has_no_route(door, listener):
    header = {"Authorization": f"token {door.token}"}
    await door.refused("no/such/socket", [REASON_MARKER], header)
    (data,) = listener.of("socket_refused")
    assert data["slug"] == "not_found"
    assert data["handler"].endswith(".MissingSocketHandler")
    assert "route" not in data


# -- opened and closed -------------------------------------------------------------------------------


async def test_one_socket_from_its_opening_to_its_end(door, listener):
    async with await door.knock(EVENTS, [MARKER, bearing(door.token)]) as socket:
        (opened,) = await listener.wait_for("socket_opened")
        assert socket.status == 101
        await socket.close()
        (closed,) = await listener.wait_for("socket_closed")
    assert only_fields_of("socket_opened", opened)
    assert only_fields_of("socket_closed", closed)
    user, number = opened.pop("user"), opened.pop("socket")
    assert opened == {"handler": SUBSCRIBE, "route": EVENTS, "source": "subprotocol"}
    assert (closed.pop("user"), closed.pop("socket")) == (user, number)
    assert 0 <= closed.pop("seconds") < 60
    assert closed == {**opened, "by": "client", "code": 1000}


class Leaves(Socket):
    """Does what it is told to."""

    def on_message(self, message: str | bytes) -> None:
        code, _, reason = str(message).partition(" ")
        self.close(int(code) if code else None, reason or None)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", {"by": "server"}),
        ("4000", {"by": "server", "code": 4000}),
        ("4403 of its own", {"by": "server", "code": 4403}),
        ("4403 gone: not with this code", {"by": "server", "code": 4403}),
        ("4410 gone: the kernel", {"by": "server", "code": 4410, "slug": "gone"}),
    ],
)
async def test_closed_by_the_handler(door, listener, message, expected):
    door.add("leaves", Leaves)
    header = {"Authorization": f"token {door.token}"}
    async with await door.knock("leaves", None, header) as socket:
        await socket.send(message)
        await socket.wait_closed()
        (data,) = await listener.wait_for("socket_closed")
    assert {key: data[key] for key in ("by", "code", "slug") if key in data} == expected


async def test_the_servers_code_counts_whatever_the_client_answers(door, listener):
    door.add("leaves", Leaves)
    header = {"Authorization": f"token {door.token}"}
    async with await door.knock("leaves", None, header) as socket:
        await socket.send("4000")
        await socket.wait_closed(answer=False)
        await socket.send(struct.pack("!H", 4999), opcode=8)
        (data,) = await listener.wait_for("socket_closed")
    assert (data["by"], data["code"]) == ("server", 4000)


async def test_each_socket_has_a_number(door, listener):
    for _ in range(3):
        async with await door.knock(EVENTS, [MARKER, bearing(door.token)]) as socket:
            await socket.close()
            await door.settled()
    heard = await listener.wait_for("socket_closed", 3)
    assert [data["socket"] for data in heard] == [1, 2, 3]


@pytest.mark.parametrize("offer", [None, [REASON_MARKER]])
@pytest.mark.parametrize("slug", ["gone", "draining"])
async def test_closed_with_a_reason_whoever_is_told(door, listener, offer, slug):
    async with await door.knock(EVENTS, offer, {"Authorization": f"token {door.token}"}) as socket:
        await listener.wait_for("socket_opened")
        before = await page_of(door)
        door.guard.registry.close_all(slug)
        await socket.wait_closed()
        (data,) = await listener.wait_for("socket_closed")
    assert (data["by"], data["code"], data["slug"]) == ("server", REASONS[slug].code, slug)
    after = await page_of(door)
    labels = {"handler": SUBSCRIBE, "by": "server", "slug": slug}
    closed = "sockets_closed_total"
    assert after.value(closed, **labels) - before.value(closed, **labels) == 1


async def test_who_left_first_was_not_closed_by_what_came_after():
    registered: list[Any] = []
    socket = a_socket(close=lambda *how: registered.append(how))
    socket.ends(4000, None)
    socket.close("draining")
    socket.ends(1001, "later")
    assert (socket.ended_by, socket.code, socket.slug) == ("server", 4000, None)
    assert len(registered) == 1


async def test_a_handler_that_cannot_close_was_still_ended_by_the_server():
    def fail(*_: object) -> None:
        raise RuntimeError("in close()")

    socket = a_socket(close=fail)
    Registry().close(socket, "gone")
    assert (socket.ended_by, socket.slug) == ("server", "gone")


async def test_a_connection_that_broke(door, listener):
    async with await door.knock(EVENTS, [MARKER, bearing(door.token)]) as socket:
        await listener.wait_for("socket_opened")
        socket.vanish()
        (data,) = await listener.wait_for("socket_closed")
    assert data["by"] == "client"
    assert "code" not in data


async def test_a_handler_that_fails_while_it_opens(door, listener):
    class Fails(Socket):
        def open(self) -> None:
            raise RuntimeError("in open()")

    door.add("fails", Fails)
    async with await door.knock("fails", [MARKER, bearing(door.token)]) as socket:
        assert await socket.at_end()
        (data,) = await listener.wait_for("socket_closed")
    assert (data["by"], "code" in data) == ("server", False)
    assert len(listener.of("socket_opened")) == 1


async def test_a_socket_that_keepalive_drops(door, listener):
    async with await door.knock(EVENTS, [MARKER, bearing(door.token)]):
        await listener.wait_for("socket_opened")
        (entry,) = door.guard.registry
        before = await page_of(door)
        door.guard._on_drop(entry, 75)
        entry.stream.close()
        (data,) = await listener.wait_for("socket_closed")
        after = await page_of(door)
    assert data["by"] == "keepalive"
    for metric in ("keepalive_drops_total", "sockets_closed_total"):
        assert after.value(metric, handler=SUBSCRIBE) - before.value(metric, handler=SUBSCRIBE) == 1


async def test_a_kernels_socket_says_which(door, listener):
    manager = door.app.kernel_manager
    kernel_id = await manager.start_kernel()
    try:
        path = f"api/kernels/{kernel_id}/channels"
        async with await door.knock(path, [MARKER, bearing(door.token)]):
            (data,) = await listener.wait_for("socket_opened")
    finally:
        await manager.shutdown_kernel(kernel_id, now=True)
    assert (data["route"], data["kernel_id"]) == ("api/kernels/{id}/channels", kernel_id)


class Shown(WebSocketHandler):
    """An application's own, which takes what it is shown for the user's name."""

    def get_current_user(self) -> str:
        return self.request.headers["Authorization"].partition(" ")[2]

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.get_argument("refuse", None):
            raise Refused("forbidden")
        await super().get(*args, **kwargs)


async def test_a_user_that_is_the_token_has_no_name(door, listener, caplog):
    door.add("shown", Shown)
    secret = "an-application-s-own-secret"
    await door.refused("shown?refuse=1", [MARKER, bearing(secret)])
    async with await door.knock("shown", [MARKER, bearing(secret)]) as socket:
        assert socket.status == 101
        await socket.close()
        await listener.wait_for("socket_closed")
    assert [data.get("slug") for _, data in listener.heard] == ["forbidden", None, None]
    assert not [data for _, data in listener.heard if "user" in data]
    assert secret not in json.dumps(listener.heard) + caplog.text


# -- who listens -------------------------------------------------------------------------------------


async def test_a_client_that_listens_hears_others_and_leaves_in_peace(door, caplog):
    header = {"Authorization": f"token {door.token}"}
    async with await door.knock(EVENTS, None, header) as ears:
        await auntil(lambda: len(door.guard.registry) == 1)
        await door.refused(EVENTS, [MARKER, bearing("wrong")])
        told = json.loads(await ears.wait_message())
        assert (told["schema_id"], told["slug"]) == (schema_id("socket_refused"), "token_rejected")
        await ears.close()
        await door.settled()
        await asyncio.gather(*door.app.event_logger._active_listeners)
    assert errors(caplog.records) == []


async def test_who_listens_is_not_told_of_its_own_end(door):
    """It could not be: its connection is gone."""
    told: list[str] = []

    class Ears(Socket):
        async def listen(self, logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
            told.append(schema_id)

        def open(self) -> None:
            door.app.event_logger.add_listener(listener=self.listen)

        def on_close(self) -> None:
            door.app.event_logger.remove_listener(listener=self.listen)

    door.add("ears", Ears)
    async with (
        await door.knock("ears", [MARKER, bearing(door.token)]) as first,
        await door.knock("ears", [MARKER, bearing(door.token)]) as second,
    ):
        await auntil(lambda: told == [schema_id("socket_opened")])
        await second.close()
        await auntil(lambda: told[1:] == [schema_id("socket_closed")])
        await first.close()
        await door.settled()
        await asyncio.sleep(0)
    assert len(told) == 2


async def test_while_nobody_listens_nothing_is_made(door, monkeypatch):
    def made(*_: object, **__: object) -> None:
        raise AssertionError("an event was made for nobody")

    monkeypatch.setattr(EventLogger, "emit", made)
    monkeypatch.setattr(events_module, "template_of", made)
    monkeypatch.setattr(Events, "_emit", made)
    door.add("raises/([a-z_]+)", Raises)
    header = {"Authorization": f"token {door.token}"}
    await door.refused("raises/forbidden", [REASON_MARKER], header)
    door.add("here", Socket)
    async with await door.knock("here", None, header) as socket:
        assert socket.status == 101
        await auntil(lambda: len(door.guard.registry))
        await socket.close()
    await door.settled()
    door.guard.events.ticket_renewed(family="f", user="ann", expires_in=1)


async def test_who_wants_events_as_they_were_made_hears_too(door):
    told = Listener(door.app.event_logger, modified=False)
    await door.refused(EVENTS)
    (data,) = await told.wait_for("socket_refused")
    assert data["slug"] == "credentials_missing"


async def test_a_handler_of_the_log_hears_too(door):
    texts: list[str] = []

    class Sink(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(self.format(record))

    logger = door.app.event_logger
    logger.handlers = []
    logger.register_handler(Sink())
    logs.install()
    await door.refused(EVENTS)
    (data,) = map(json.loads, texts)
    # What keeps tokens out of logs has looked at it too, and left no trace.
    assert only_fields_of(
        "socket_refused", {key: data[key] for key in data if not key.startswith("__")}
    )
    assert (data["__schema__"], data["slug"]) == (
        schema_id("socket_refused"),
        "credentials_missing",
    )


async def test_an_error_of_a_modifier_is_not_the_sockets(door, listener, caplog):
    def modifier(schema_id: str, data: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError(f"about {data}")

    door.app.event_logger.add_modifier(schema_id=schema_id("socket_opened"), modifier=modifier)
    async with await door.knock(EVENTS, [MARKER, bearing(door.token)]) as socket:
        assert socket.status == 101
        await auntil(lambda: "Cannot emit the event socket_opened: RuntimeError" in caplog.messages)
    assert "about" not in caplog.text


async def test_an_application_without_an_event_log():
    """A tornado application of somebody's own."""
    events = Events(web.Application(), logging.getLogger(__name__), 10)
    assert not events.heard("socket_opened")
    events.socket_opened(a_socket())
    events._emit("socket_opened", dict)


async def test_schemas_that_cannot_be_registered_are_not_the_guards(caplog):
    """A guard that did not come to be would leave every socket unguarded."""
    application = web.Application()
    application.settings["event_logger"] = SimpleNamespace(schemas={})
    guard = Guard(application)
    assert not guard.events.heard("socket_opened")
    assert len(errors(caplog.records)) == 1


async def test_a_log_that_keeps_its_listeners_elsewhere_is_told():
    application = web.Application()
    told: list[dict[str, Any]] = []
    logger = SimpleNamespace(schemas=[schema_id(name) for name in NAMES], handlers=[])
    logger.emit = lambda **event: told.append(event)
    application.settings["event_logger"] = logger
    events = Events(application, logging.getLogger(__name__), 10)
    events.socket_opened(a_socket())
    assert [event["schema_id"] for event in told] == [schema_id("socket_opened")]


# -- how many ----------------------------------------------------------------------------------------


def a_socket(**of_handler: Any) -> OpenSocket:
    return OpenSocket(
        handler=cast("Any", SimpleNamespace(close_code=None, **of_handler)),
        path="/socket",
        principal="user:ann",
        credential="",
        source=CredentialSource.COOKIE,
        opted_in=True,
        number=1,
    )


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refusals_heard(most: int, clock: Clock) -> tuple[Listener, Any]:
    """A listener, and what refuses."""
    application = web.Application()
    logger = application.settings["event_logger"] = EventLogger()
    events = Events(application, logging.getLogger(__name__), most, clock)
    listener = Listener(logger)
    request = SimpleNamespace(path="/x", remote_ip=None)
    handler = cast("Any", SimpleNamespace(request=request))
    handshake = Handshake(parse_offer("", 10), False, None, None, None)

    def refuse() -> None:
        events.socket_refused(handler, handshake, REASONS["forbidden"], False)

    return listener, refuse


async def test_so_many_refusals_in_a_second_and_the_rest_is_counted():
    clock = Clock()
    listener, refuse = refusals_heard(3, clock)
    for _ in range(10):
        refuse()
    clock.now += 0.999
    refuse()
    heard = await listener.wait_for("socket_refused", 3)
    assert [data["left_out"] for data in heard] == [0, 0, 0]
    clock.now += 0.001
    refuse()
    refuse()
    heard = await listener.wait_for("socket_refused", 5)
    assert [data["left_out"] for data in heard[3:]] == [8, 0]
    assert heard[0]["address"] == ""


async def test_none_at_all():
    clock = Clock()
    listener, refuse = refusals_heard(0, clock)
    refuse()
    clock.now += 5
    refuse()
    await asyncio.sleep(0)
    assert listener.heard == []


def test_the_default_bounds_it():
    assert 0 < GuardOptions().max_refusal_events < 100


# -- tickets -----------------------------------------------------------------------------------------

TICKETS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "issued",
        {"user": "ann", "source": "password", "expires_in": 300, "single_use": True},
        {"user": "ann", "source": "password", "expires_in": 300, "single_use": True},
    ),
    (
        "issued",
        {"user": "", "source": "cookie", "expires_in": 0.5, "single_use": False},
        {"source": "cookie", "expires_in": 0.5, "single_use": False},
    ),
    ("renewed", {"user": "ann", "expires_in": 299.5}, {"user": "ann", "expires_in": 299.5}),
    (
        "used",
        {"user": "ann", "handler": SimpleNamespace(), "single_use": False},
        {"user": "ann", "handler": "types.SimpleNamespace", "single_use": False},
    ),
    (
        "revoked",
        {"user": "ann", "cause": "logout", "sockets": 2},
        {"user": "ann", "cause": "logout", "sockets": 2},
    ),
]


@pytest.mark.parametrize(("action", "arguments", "expected"), TICKETS)
async def test_every_ticket_event(door, listener, action, arguments, expected):
    before = await page_of(door)
    getattr(door.guard.events, f"ticket_{action}")(family="f" * 32, **arguments)
    (data,) = await listener.wait_for(f"ticket_{action}")
    assert data == {"family": "f" * 32, **expected}
    assert only_fields_of(f"ticket_{action}", data)
    after = await page_of(door)
    for name in ("issued", "renewed", "used", "revoked"):
        more = after.value("tickets_total", action=name) - before.value(
            "tickets_total", action=name
        )
        assert more == int(name == action)


# -- the page about it -------------------------------------------------------------------------------


async def test_listeners_on_the_page(door, caplog):
    config, extension = blocks("docs/reference/events.md", "python")
    assert "EventLogger.handlers" in config
    names: dict[str, Any] = {}
    exec(extension, names)
    names["_load_jupyter_server_extension"](door.app)
    await door.refused(EVENTS)
    await auntil(lambda: "127.0.0.1 was refused: credentials_missing" in caplog.messages)
