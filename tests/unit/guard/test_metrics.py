"""What ``/metrics`` says of websockets: that it is right and bounded, and that the page is upstream's."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
from typing import Any, cast

import pytest
from tornado import web

from jupyter_token_ws import Refused
from jupyter_token_ws.bridge import metrics as bridge_metrics
from jupyter_token_ws.guard import metrics
from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.metrics import DESCRIBED, PREFIX, Watched, make
from jupyter_token_ws.guard.registry import OpenSocket
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Door, Socket
from tests.support.knock import bearing
from tests.support.observing import Listener, Page, page_of
from tests.support.waiting import auntil

SUBSCRIBE = "jupyter_server.services.events.handlers.SubscribeWebsocket"


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 1000, "max_refusal_events": 1000}


# -- the table ---------------------------------------------------------------------------------------


def test_names_are_by_the_conventions():
    for name, row in DESCRIBED.items():
        assert name == row.name
        assert re.fullmatch(rf"{PREFIX}[a-z_]+", name)
        assert name.endswith("_total") is (row.kind == "counter")
        assert row.kind != "histogram" or name.endswith("_seconds")
        assert row.text.endswith(".")
        assert set(row.labels) <= {
            "action", "by", "carrier", "code", "handler", "outcome", "place", "slug", "source", "state",
            "told",
        }  # fmt: skip


async def test_the_page_has_what_the_table_has(door):
    page = await page_of(door)
    kinds = {
        name.removesuffix("_total") if row.kind == "counter" else name: row.kind
        for name, row in DESCRIBED.items()
    }
    # The library adds to each counter when it was made.
    told = {name: kind for name, kind in page.kinds.items() if not name.endswith("_created")}
    assert told == kinds
    assert bridge_metrics.MESSAGES_CUT.count == page.value("messages_cut_total")


# -- what there is -----------------------------------------------------------------------------------


async def test_open_sockets_by_class_and_source(door):
    token, before = door.token, await page_of(door)
    credential = {"Authorization": f"token {token}"}
    async with (
        await door.knock(EVENTS, [MARKER, bearing(token)]),
        await door.knock(EVENTS, None, credential) as second,
        await door.knock(f"{EVENTS}?token={token}"),
    ):
        await auntil(lambda: len(door.guard.registry) == 3)
        page = await page_of(door)
        for source in ("subprotocol", "header", "url"):
            labels = {"handler": SUBSCRIBE, "source": source}
            assert page.value("sockets_open", **labels) == 1
            opened = "sockets_opened_total"
            assert page.value(opened, **labels) - before.value(opened, **labels) == 1
        for metric in ("handshakes_total", "handshake_duration_seconds_count"):
            more = page.value(metric, outcome="opened") - before.value(metric, outcome="opened")
            assert more == 3
        await second.close()
        await auntil(lambda: len(door.guard.registry) == 2)
        page = await page_of(door)
        assert page.value("sockets_open") == 2
        assert page.value("sockets_open", source="header") == 0
    await door.settled()
    page = await page_of(door)
    assert page.value("sockets_open") == 0
    assert page.value("keepalive_drops_total") == before.value("keepalive_drops_total")
    closed = "sockets_closed_total"
    assert (
        page.value(closed, by="client", slug="") - before.value(closed, by="client", slug="") == 3
    )


class Waits(Socket):
    """Neither opens nor is refused before its client leaves or asks for another answer."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        await self.settings["go"].wait()
        self.finish("no websocket after all")


async def test_handshakes_that_are_under_way_and_those_that_end_otherwise(door):
    go = door.app.web_app.settings["go"] = asyncio.Event()
    door.add("waits", Waits)
    header = {"Authorization": f"token {door.token}"}
    before = await page_of(door)
    answered = asyncio.ensure_future(door.knock("waits", None, header))
    _, left = await asyncio.open_connection("127.0.0.1", door.port)
    lines = {
        "Host": door.host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
        **header,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    left.write(f"GET {door.base}waits HTTP/1.1\r\n{head}\r\n".encode())
    await auntil(lambda: len(door.guard.opening) == 2)
    assert (await page_of(door)).value("handshakes_open") == 2
    left.transport.abort()
    await auntil(lambda: len(door.guard.opening) == 1)
    go.set()
    async with await answered as answer:
        assert answer.status == 200
    await door.settled()
    after = await page_of(door)
    for outcome in ("answered", "left"):
        for metric in ("handshakes_total", "handshake_duration_seconds_count"):
            more = after.value(metric, outcome=outcome) - before.value(metric, outcome=outcome)
            assert more == 1, (metric, outcome)
    assert after.value("handshakes_open") == 0


async def test_refused_sockets_that_are_still_there(door):
    async with await door.knock(EVENTS, [REASON_MARKER]) as told:
        assert told.status == 101
        assert (await page_of(door)).value("refusals_open") == 1
    await door.settled()
    assert (await page_of(door)).value("refusals_open") == 0


async def test_a_server_that_ends(door):
    before = await page_of(door)
    async with await door.knock(EVENTS, [MARKER, bearing(door.token)]) as socket:
        await auntil(lambda: len(door.guard.registry))
        await asyncio.gather(door.guard.drain(), socket.wait_closed())
    await door.settled()
    after = await page_of(door)
    assert after.value("drains_total") - before.value("drains_total") == 1
    closed = "sockets_closed_total"
    labels = {"by": "server", "slug": "draining"}
    assert after.value(closed, **labels) - before.value(closed, **labels) == 1


# -- one process, many servers -----------------------------------------------------------------------


class Handler:
    close_code = None


def a_guard_with_a_socket() -> Guard:
    guard = Guard(web.Application())
    guard.registry.add(
        OpenSocket(
            handler=cast("Any", Handler()),
            path="/",
            principal="",
            credential="",
            source=CredentialSource.AMBIENT,
            opted_in=False,
        )
    )
    return guard


def ambient() -> float:
    (family,) = metrics.SOCKETS_OPEN.collect()
    return sum(sample.value for sample in family.samples if sample.labels["source"] == "ambient")


def test_several_servers_are_counted_together_and_forgotten_when_they_are_gone():
    gc.collect()
    before = ambient()
    first, second = a_guard_with_a_socket(), a_guard_with_a_socket()
    assert ambient() - before == 2
    del first
    gc.collect()
    assert ambient() - before == 1
    second.registry.discard(next(iter(second.registry)).handler)
    assert ambient() - before == 0


@pytest.mark.parametrize(
    "again",
    [
        "importlib.reload(first)",
        "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('jupyter_token_ws')]",
    ],
)
def test_loaded_anew_it_goes_on_counting(again):
    code = f"""
import importlib, sys
from prometheus_client import REGISTRY, generate_latest
import jupyter_token_ws.guard.metrics as first
import jupyter_token_ws.bridge.metrics as bridge
kept = dict(vars(first)) | dict(vars(bridge))
first.DRAINS.inc()
bridge.MESSAGES_CUT.count += 2
{again}
import jupyter_token_ws.guard.metrics as second
import jupyter_token_ws.bridge.metrics as bridge
second.DRAINS.inc()
bridge.MESSAGES_CUT.count += 3
now = dict(vars(second)) | dict(vars(bridge))
for name in ("SOCKETS_OPEN", "HANDSHAKES", "HANDSHAKE_SECONDS", "DRAINS", "MESSAGES_CUT", "CLIENTS"):
    assert now[name] is kept[name], name
assert set(second.DESCRIBED) == set(now["DESCRIBED"])
text = generate_latest(REGISTRY).decode()
assert "jupyter_token_ws_drains_total 2.0" in text
assert "jupyter_token_ws_messages_cut_total 5.0" in text
assert text.count("# HELP jupyter_token_ws_sockets_open ") == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_metric_is_made_once():
    assert make(Watched, "sockets_open", "Other words.", ("handler", "source")) is (
        metrics.SOCKETS_OPEN
    )
    again = DESCRIBED[f"{PREFIX}sockets_open"]
    DESCRIBED[again.name] = type(again)(
        again.name, again.kind, "Websockets that are open.", again.labels
    )


# -- who may read, and what it costs in series -------------------------------------------------------


async def test_who_may_read_is_upstreams(door, monkeypatch):
    answer = await door.fetch("metrics")
    assert answer.status == 403
    assert PREFIX.encode() not in answer.body
    assert (await door.fetch("metrics", {"Authorization": "token wrong"})).status == 403
    assert PREFIX in (await page_of(door)).text
    monkeypatch.setitem(door.app.web_app.settings, "authenticate_prometheus", False)
    assert PREFIX.encode() in (await door.fetch("metrics")).body


class Refuses(Socket):
    async def get(self, *args: Any) -> None:
        raise Refused("forbidden")


async def strangers(door: Door, mark: str) -> None:
    """Everything that a client chooses is another one each time."""
    for number in range(5):
        name = f"{mark}{number}"
        for path in (f"refuses/{name}", f"terminals/websocket/{name}", f"no/{name}"):
            for credential in (door.token, f"wrong-{name}"):
                header = {
                    "Authorization": f"token {credential}",
                    "Cookie": f"username-{name}={name}",
                    "X-Forwarded-For": f"192.0.2.{number}",
                }
                await door.refused(path, [REASON_MARKER, f"sub.{name}"], header)
                await door.refused(f"{path}?token={credential}&x={name}")
    async with await door.knock(f"here/{mark}", [MARKER, bearing(door.token)]) as socket:
        assert socket.status == 101


def series(page: Page) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return set(page.samples)


async def test_labels_come_from_tables_and_no_client_makes_series(door):
    door.add("refuses/(.*)", Refuses)
    door.add("here/(.*)", Socket)
    await strangers(door, "first")
    await door.settled()
    first = await page_of(door)
    await strangers(door, "second")
    await door.settled()
    second = await page_of(door)
    assert series(first) == series(second)
    allowed = {
        "slug": {*REASONS, ""},
        "code": {str(reason.code) for reason in REASONS.values()},
        "source": {source.value for source in CredentialSource},
        "outcome": {"opened", "refused", "answered", "left"},
        "told": {"close", "http"},
        "by": {"client", "server", "keepalive"},
        "state": {"here", "away"},
        "place": {"memory", "disk"},
        "action": {"issued", "renewed", "used", "revoked"},
        "le": {*(str(float(bound)) for bound in metrics.HANDSHAKE_BUCKETS), "+Inf"},
    }
    for _, labels in series(second):
        for label, value in labels:
            if label == "handler":
                assert re.fullmatch(r"[\w.]+", value)
            else:
                assert value in allowed[label], (label, value)


# -- no secret ---------------------------------------------------------------------------------------


async def test_no_secret_is_in_an_event_or_on_the_page(door):
    """The server's own token and wrong ones, cookies, kernel sessions, and what stands in paths."""
    listener = Listener(door.app.event_logger)
    own, cookie = door.token, await door.login_cookie()
    secrets = {"own": own, "cookie": cookie.partition("=")[2].strip('"')}
    for route in (
        "subprotocol",
        "url",
        "header",
        "cookie_of_its_own",
        "path",
        "session",
        "referer",
    ):
        secrets[route] = f"canary-{route.replace('_', '')}-0123456789abcdef"
    ways: list[tuple[str, list[str] | None, dict[str, str]]] = [
        ("", [MARKER, bearing(own), REASON_MARKER], {}),
        (f"?token={own}", [REASON_MARKER], {}),
        ("", None, {"Authorization": f"token {own}"}),
        ("", None, {"Cookie": cookie}),
        ("", [MARKER, bearing(secrets["subprotocol"]), REASON_MARKER], {}),
        (f"?token={secrets['url']}&session_id={secrets['session']}", [REASON_MARKER], {}),
        ("", [REASON_MARKER], {"Authorization": f"Bearer {secrets['header']}"}),
        ("", None, {"Cookie": f"username-127-0-0-1={secrets['cookie_of_its_own']}"}),
        ("", None, {"Referer": f"http://127.0.0.1/?token={secrets['referer']}"}),
    ]
    door.add("refuses/(.*)", Refuses)
    door.add("here/(.*)", Socket)
    for query, offer, headers in ways:
        for path in ("refuses", "here", "nothing"):
            answer = await door.knock(f"{path}/{secrets['path']}{query}", offer, headers)
            async with answer:
                if answer.status == 101:
                    await answer.close()
    await door.settled()
    await listener.wait_for("socket_closed", 4)
    await auntil(lambda: len(listener.of("socket_opened")) == len(listener.of("socket_closed")))
    assert {data["slug"] for data in listener.of("socket_refused")} == {
        "credentials_missing", "forbidden", "not_found", "token_rejected",
    }  # fmt: skip
    told = {"events": repr(listener.heard), "metrics": (await page_of(door)).text}
    digests = {door.guard.digest(secret) for secret in secrets.values()}
    for place, text in told.items():
        assert len(text) > 1000
        found = [s for s in {*secrets.values(), *digests} if s in text]
        assert not found, (place, found)
