"""A canary for a token: sent by every route into every failure, and found nowhere afterwards.

On a real server at debug level, with an application behind jupyter-server-proxy. Looked for in what
the process prints and logs, in its metrics, in its event log, and in what the application received:
plain, percent-encoded and in base64.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, encode_token
from tests.integration.conftest import Proxied
from tests.support import own_sockets, process, proxied_app
from tests.support.knock import Knock, knock
from tests.support.process import Server, start_server
from tests.support.waiting import until

KERNEL_ID = "00000000-0000-0000-0000-000000000000"


def new_canary() -> str:
    """A token that would be recognised anywhere. With characters that percent-encoding changes, so that
    no encoding is left out of the search; such are what a person may choose."""
    return f"ca+na/ry={secrets.token_hex(12)}"


def spellings(canary: str) -> list[str]:
    """All ways in which it could stand somewhere: plain, encoded once and twice, in base64."""
    core = canary.rpartition("=")[2]  # 24 hexadecimal digits: they look the same in every encoding
    found = [core, core[:12], core[12:]]
    for text in (canary, quote(canary, safe=""), quote(quote(canary, safe=""), safe="")):
        found.append(text)
        # At any offset: the first and last characters depend on their neighbours.
        for shift in range(3):
            data = (b"\0" * shift + text.encode() + b"\0" * 2)[: (shift + len(text)) // 3 * 3]
            middle = base64.b64encode(data).decode()[4:-4]
            found += [middle, middle.replace("+", "-").replace("/", "_")]
    return sorted({text.lower() for text in found})


def sightings(text: str, canary: str) -> list[str]:
    """Where a text shows a canary, with a few characters before it."""
    lowered = text.lower()
    return [
        text[max(0, match.start() - 80) : match.end() + 20]
        for spelling in spellings(canary)
        for match in re.finditer(re.escape(spelling), lowered)
    ]


@pytest.mark.parametrize("shift", range(6))
def test_the_search_finds_what_it_must(shift):
    """A check that cannot fail is no check."""
    canary = new_canary()
    around = "x" * shift
    for text in (
        canary,
        f"?token={quote(canary, safe='')}&",
        quote(quote(canary, safe="")),
        base64.b64encode(f"{around}{canary} and more".encode()).decode(),
        base64.urlsafe_b64encode(f"{around}:{quote(canary, safe='')}:".encode()).decode(),
        canary.upper(),
        canary[-12:],
    ):
        assert sightings(f"something {text} else", canary)
    assert not sightings(new_canary() + base64.b64encode(new_canary().encode()).decode(), canary)


# --- routes: how it is sent -----------------------------------------------------------------------


@dataclass
class Sent:
    """What goes into a request, and whether the token counts there."""

    offer: list[str] | None = None
    headers: dict[str, str] | None = None
    query: str = ""


def by_subprotocol(token: str) -> Sent:
    return Sent([MARKER, f"{MARKER}.{encode_token(token)}", REASON_MARKER])


def by_subprotocol_silently(token: str) -> Sent:
    return Sent([f"{MARKER}.{encode_token(token)}"])


def by_url(token: str) -> Sent:
    return Sent(query=f"token={quote(token, safe='')}")


def by_url_told(token: str) -> Sent:
    return Sent([REASON_MARKER], query=f"x=1&token={quote(token, safe='')}&y=2")


def by_header(token: str) -> Sent:
    return Sent(headers={"Authorization": f"token {token}"})


def by_bearer(token: str) -> Sent:
    return Sent([REASON_MARKER], {"Authorization": f"Bearer {token}"})


def by_referer(token: str) -> Sent:
    address = f"http://127.0.0.1/lab?token={quote(token, safe='')}"
    return Sent([REASON_MARKER], {"Referer": address})


def by_login_next(token: str) -> Sent:
    inner = quote(f"/lab?token={quote(token, safe='')}", safe="")
    return Sent([REASON_MARKER], {"Referer": f"http://127.0.0.1/login?next={inner}"})


def by_next_parameter(token: str) -> Sent:
    return Sent(query=f"next={quote(f'/lab?token={quote(token, safe=str())}', safe='')}")


def by_every_way(token: str) -> Sent:
    sent = by_url(token)
    sent.offer = [MARKER, f"{MARKER}.{encode_token(token)}"]
    sent.headers = {**(by_header(token).headers or {}), **(by_referer(token).headers or {})}
    return sent


ROUTES: list[Callable[[str], Sent]] = [
    by_subprotocol,
    by_subprotocol_silently,
    by_url,
    by_url_told,
    by_header,
    by_bearer,
    by_referer,
    by_login_next,
    by_next_parameter,
    by_every_way,
]

# --- failures: where it is sent -------------------------------------------------------------------


async def go(server: Server, path: str, sent: Sent, **options: Any) -> Knock:
    query = f"?{sent.query}" if sent.query else ""
    headers = {**(sent.headers or {}), **options.pop("headers", {})}
    return await knock(server.port, f"/{path}{query}", sent.offer, headers, **options)


async def ended(socket: Knock) -> None:
    """Read a socket to its end, whichever it is, and leave."""
    async with socket:
        if socket.status == 101:
            with contextlib.suppress(ConnectionError):  # it may be refused and gone already
                await socket.close()
            await socket.wait_closed(answer=False)


async def to(server: Server, path: str, sent: Sent, **options: Any) -> None:
    await ended(await go(server, path, sent, **options))


async def opens(server: Server, app: Proxied, sent: Sent) -> None:
    await to(server, "own/echo", sent)
    await to(server, "own/plain", sent)
    await to(server, "api/events/subscribe", sent)


async def not_found(server: Server, app: Proxied, sent: Sent) -> None:
    await to(server, f"api/kernels/{KERNEL_ID}/channels", sent)
    await to(server, "terminals/websocket/nobody", sent)
    await to(server, "no/such/path", sent)
    await to(server, "api/status", sent)


async def error_in_a_handler(server: Server, app: Proxied, sent: Sent) -> None:
    await to(server, "own/fails-in-get", sent)
    await to(server, "own/fails-in-open", sent)
    async with await go(server, "own/fails-in-message", sent) as socket:
        if socket.status == 101:
            with contextlib.suppress(ConnectionError):
                await socket.send("x")
            await socket.wait_closed()


async def open_timeout(server: Server, app: Proxied, sent: Sent) -> None:
    await to(server, "own/never-opens", sent)


async def vanished(server: Server, app: Proxied, sent: Sent) -> None:
    for path in ("own/never-opens", "own/echo", "own/fails-in-get"):
        knocking = asyncio.ensure_future(go(server, path, sent))
        await asyncio.sleep(0)
        knocking.cancel()
        (result,) = await asyncio.gather(knocking, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError)
    async with await go(server, "own/echo", sent) as socket:
        socket.vanish()


async def malformed(server: Server, app: Proxied, sent: Sent) -> None:
    entries = list(sent.offer or [])
    for wrong in (
        [*entries, f"{MARKER}.second"],
        [entry + "%" for entry in entries],
        [entry + "%ff%00" for entry in entries],
        [entry.replace("v1.", "v2.") for entry in entries],
        [entry.upper() for entry in entries],
        [entry + "x" * 5000 for entry in entries],
    ):
        changed = Sent(wrong or None, sent.headers, sent.query)
        await to(server, "own/echo", changed)
    for name in ("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Connection", "Upgrade"):
        await to(server, "own/echo", sent, drop=(name,))
    await to(server, "own/echo", sent, method="POST")
    await to(server, "own/echo", sent, method="OPTIONS")
    await to(server, "own/echo", sent, headers={"Origin": "http://evil.example"})
    await to(server, "own/echo", sent, headers={"Host": "evil.example"})


async def storm(server: Server, app: Proxied, sent: Sent) -> None:
    for _ in range(12):
        await to(server, f"api/kernels/{KERNEL_ID}/channels", sent)


async def proxied(server: Server, app: Proxied, sent: Sent) -> None:
    await to(server, f"proxy/{app.port}/socket", sent)
    await to(server, f"proxy/{app.port}/nothing", sent)
    # A plain page is none of the guard's business, but for what only it understands.
    await to(server, f"proxy/{app.port}/page", Sent(sent.offer), drop=("Upgrade",))
    await to(server, f"proxy/absolute/{app.port}/socket", sent)


async def login_page(server: Server, app: Proxied, sent: Sent) -> None:
    """Plain pages, where the token or its page's address arrives too."""
    for path in ("login", "api/kernels", "api/token-ws/capabilities", "tree/x", "logout"):
        await to(server, path, sent, drop=("Upgrade", "Connection"))


FAILURES = [
    opens,
    not_found,
    error_in_a_handler,
    open_timeout,
    vanished,
    malformed,
    storm,
    proxied,
    login_page,
]

EVIDENCE = {
    "opens": "101 GET /own/echo",
    "not_found": "4404 not_found",
    "error_in_a_handler": r"RuntimeError: in get\(\) of HTTPServerRequest",
    "open_timeout": "4408 open_timeout",
    "vanished": "/own/",
    "malformed": "4400 malformed_credentials",
    "storm": "/channels",
    "proxied": "/proxy/",
    "login_page": "GET /login",
}
"""What the log says of a failure that happened as it was meant to, when the token was good."""


# --- servers --------------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "ServerApp": {"log_level": "DEBUG", "allow_remote_access": False},
    "TokenWebSocketApp": {
        "open_timeouts": {"own/never-opens": 0.2},
        "keepalive_interval": 0.5,
        "keepalive_timeout": 5,
        "drain_timeout": 0.5,
    },
}


@dataclass
class Aviary:
    """A server whose own token is a canary, and what can be read of it afterwards."""

    server: Server
    app: Proxied
    good: str
    events: Path

    def everything(self) -> dict[str, str]:
        return {
            "what the process printed": self.server.log(),
            "the event log": self.events.read_text("utf-8") if self.events.exists() else "",
            "what the application received": self.app.received,
        }


@pytest.fixture(scope="module", params=["offered", "always", "never"])
def aviary(request, tmp_path_factory) -> Iterator[Aviary]:
    home = tmp_path_factory.mktemp(f"canary-{request.param}")
    good = new_canary()
    events = home / "events.jsonl"
    port, record = process.free_port(), home / "proxied.jsonl"
    config = {
        **CONFIG,
        "TokenWebSocketApp": {**CONFIG["TokenWebSocketApp"], "close_reasons": request.param},
    }
    command = [sys.executable, proxied_app.__file__, str(port), str(record)]
    with process.run(command, home / "proxied.log") as running:
        until(lambda: record.exists() or running.poll() is not None, "the application")
        with start_server(
            home,
            token=good,
            config=config,
            extensions={"tests.support.own_sockets": True, "jupyter_server_proxy": True},
            args=["--debug"],
            env={own_sockets.EVENT_LOG: str(events)},
        ) as server:
            assert server.request("GET", "api/contents").status == 200
            until(
                lambda: events.exists() and "contents_service" in events.read_text("utf-8"),
                "an event log that is used",
            )
            yield Aviary(server, Proxied(port, record), good, events)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
@pytest.mark.parametrize("which", ["good", "wrong"])
async def test_C1_2_C2_3_no_token_is_found_anywhere(aviary: Aviary, failure, which):
    """Sent as the server's own token and as a wrong one, by every route."""
    before = {place: len(text) for place, text in aviary.everything().items()}
    canaries = {
        route.__name__: aviary.good if which == "good" else new_canary() for route in ROUTES
    }
    await asyncio.gather(
        *(failure(aviary.server, aviary.app, route(canaries[route.__name__])) for route in ROUTES)
    )
    metrics = await asyncio.to_thread(aviary.server.request, "GET", "metrics")
    assert metrics.status == 200
    places = {place: text[before[place] :] for place, text in aviary.everything().items()}
    places["the metrics"] = metrics.body.decode()
    assert places["what the process printed"], "nothing was logged, so nothing was looked at"
    found = {
        (place, route): sightings(text, canary)[:2]
        for place, text in places.items()
        for route, canary in canaries.items()
    }
    found = {where: what for where, what in found.items() if what}
    if which == "good":
        assert re.search(EVIDENCE[failure.__name__], places["what the process printed"])
    assert not found, "\n".join(f"{where}: {what}" for where, what in found.items())
    assert aviary.server.running


async def test_the_application_was_reached(aviary: Aviary):
    """Else it is no wonder that it received no token."""
    for _ in range(2):
        async with await go(
            aviary.server, f"proxy/{aviary.app.port}/socket", by_subprotocol(aviary.good)
        ) as socket:
            assert socket.status == 101
            await socket.send("x")
            assert await socket.wait_message() == "x"
    assert '"/socket"' in aviary.app.received


async def test_zz_what_the_end_of_the_process_prints(aviary: Aviary):
    """The last of these tests: opened sockets, then SIGTERM; the whole of the output once more."""
    async with await go(aviary.server, "own/echo", by_every_way(aviary.good)) as socket:
        assert socket.status == 101
        await asyncio.to_thread(aviary.server.stop, signal.SIGTERM)
        await socket.wait_closed()
    for place, text in aviary.everything().items():
        assert not sightings(text, aviary.good), place
