"""The demonstration: real servers, a real kernel, and every way to open a kernel's socket.

Three servers run side by side: a stock one, one with the extension, and one that tells reasons to
everybody. What a browser would see is derived by the rules that browsers follow: an answer other than 101
is 1006 without a reason, and so is an accepted handshake that answers none of the offered subprotocols.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from jupyter_server.services.kernels.connection import base as wire
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from .protocol.reasons import parse_close
from .protocol.subprotocols import KERNEL, MARKER, REASON_MARKER, offer_subprotocols

# Upstream's own functions for the wire format of kernel sockets; they have no types.
_pack: Any = wire.serialize_msg_to_ws_v1
_unpack: Any = wire.deserialize_msg_from_ws_v1

START_TIMEOUT = 60.0
"""Seconds that a server is given to start, and a kernel to answer."""

STOP_TIMEOUT = 10.0
"""Seconds that a server is given to end its kernel and itself."""

CELL = "print('Hello from the kernel. No token was in the URL.')"
LOGIN = "api/token-ws/login"
MISSING = "00000000-0000-0000-0000-000000000000"


@dataclass
class Server:
    """One running server."""

    name: str
    port: int
    token: str
    process: subprocess.Popen[bytes]
    log: Path
    kernel: str = ""
    ticket: str = "none"
    revoked: str = "none"

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/"

    async def api(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        """One REST request."""
        response = await AsyncHTTPClient().fetch(
            HTTPRequest(
                f"{self.url}{path}",
                method=method,
                headers={
                    "Authorization": f"token {token or self.token}",
                    "Content-Type": "application/json",
                },
                body=None if body is None else json.dumps(body),
                request_timeout=START_TIMEOUT,
            )
        )
        return json.loads(response.body) if response.body else None

    async def log_in(self) -> str:
        """A ticket."""
        answer = await self.api("POST", LOGIN, {})
        return str(answer["token"])


@dataclass
class Way:
    """One way to open a kernel's socket. In offer, header and query ``{token}`` is the server's token,
    ``{ticket}`` and ``{revoked}`` are tickets of its login."""

    sent: str
    offer: tuple[str, ...] = ()
    header: str = ""
    query: str = ""
    missing: bool = False

    def request(self, server: Server) -> HTTPRequest:
        """The handshake."""
        kernel = MISSING if self.missing else server.kernel
        headers = {}
        if self.offer:
            headers["Sec-WebSocket-Protocol"] = _fill(", ".join(self.offer), server)
        if self.header:
            headers["Authorization"] = _fill(self.header, server)
        query = _fill(self.query, server)
        address = f"ws://127.0.0.1:{server.port}/api/kernels/{kernel}/channels{query}"
        return HTTPRequest(address, headers=headers, request_timeout=START_TIMEOUT)


def _fill(text: str, server: Server) -> str:
    for name in ("token", "ticket", "revoked"):
        text = text.replace(f"{{{name}}}", getattr(server, name))
    return text


def _offer(name: str) -> tuple[str, ...]:
    return tuple(unquote(entry) for entry in offer_subprotocols([KERNEL], f"{{{name}}}"))


def _ways() -> list[Way]:
    good = _offer("token")
    wrong = tuple(offer_subprotocols([KERNEL], "wrong"))
    return [
        Way("token as subprotocol", good),
        Way("ticket of a login as subprotocol", _offer("ticket")),
        Way("token in a header (no browser can)", header="token {token}"),
        Way("token in the URL (logs keep it)", query="?token={token}"),
        Way("no token", (KERNEL, REASON_MARKER)),
        Way("no token, client that offered nothing"),
        Way("wrong token", wrong),
        Way("ticket that was revoked", _offer("revoked")),
        Way("two tokens", (*good[1:3], f"{MARKER}.another")),
        Way("good token, no such kernel", good, missing=True),
    ]


def demo(*, keep: bool = False) -> int:
    """Run the demonstration; with ``keep`` leave a server running. Returns the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="token-ws-demo-"))
    servers: list[Server] = []
    status = 1
    print(
        "Starting three servers: stock, with jupyter-token-ws, and telling everybody ...",
        flush=True,
    )
    try:
        for name, traits in _SERVERS.items():
            servers.append(_start(folder / name, name, traits))
        status = asyncio.run(_show(servers, keep))
    except DemoError as error:
        print(f"The demonstration failed: {error}", file=sys.stderr)
        print(f"What is left of it is in {folder}", file=sys.stderr)
    finally:
        _stop([s for s in servers if not (keep and status == 0 and s.name == "here")])
    if status == 0 and not keep:
        shutil.rmtree(folder, ignore_errors=True)  # after a failure the logs are of use
    return status


_SERVERS: dict[str, dict[str, str] | None] = {
    "stock": None,
    "here": {},
    "always": {"close_reasons": "always"},
}
"""Name and traits of each server; without traits the extension is off."""


class DemoError(Exception):
    """Something did not start, with what to look at."""


def _start(folder: Path, name: str, traits: dict[str, str] | None) -> Server:
    folder.mkdir(parents=True)
    token = secrets.token_urlsafe(24)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = {
        "ServerApp": {
            "ip": "127.0.0.1",
            "port": port,
            "port_retries": 0,
            "open_browser": False,
            "root_dir": str(folder),
            "allow_root": True,
            "jpserver_extensions": {"jupyter_token_ws": traits is not None},
        },
        "TokenWebSocketApp": traits or {},
    }
    (folder / "jupyter_server_config.json").write_text(json.dumps(config))
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_TOKEN": token,
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", "--debug"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(name, port, token, process, log)


def _stop(servers: list[Server]) -> None:
    for server in servers:
        server.process.terminate()
    for server in servers:
        _wait_or_kill(server.process)


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _show(servers: list[Server], keep: bool) -> int:
    await asyncio.gather(*map(_ready, servers))
    here = servers[1]
    print("Opening the socket of a kernel every way ...\n")
    rows = []
    for way in _ways():
        on_stock, on_here, on_always = [await _browser_view(way, server) for server in servers]
        same = "the same" if on_always == on_here else on_always.text
        rows.append([way.sent, on_stock.text, on_here.text, on_here.advice, same])
    titles = ["what is sent", "stock server", "here", "what to do", "with close_reasons=always"]
    print("\n".join(_table(titles, rows)))
    print(
        "\nThat is what a script in a browser is told. 1006 is all it gets when a handshake is refused"
        "\nby HTTP: it cannot tell a wrong token from a server that is down."
    )
    print("\nA cell, over the socket whose token came as subprotocol:")
    output = await execute(here)
    print(f"  In:  {CELL}\n  Out: {output.strip()}")
    leaked = here.log.read_bytes().count(here.token.encode())
    print(f"How often the token stands in that server's debug log: {leaked} times")
    if keep:
        print(f"\nA server with the extension is still running: {here.url}?token={here.token}")
        print(f"Its process is {here.process.pid}, its log {here.log}")
        print(f"Stop it with: kill {here.process.pid}")
        print(f"and remove {here.log.parent.parent}")
    return 0 if "Hello" in output and not leaked else 1


async def _ready(server: Server) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT
    while True:
        try:
            await server.api("GET", "api")
            break
        except (OSError, HTTPClientError) as error:
            if server.process.poll() is not None or loop.time() > deadline:
                raise DemoError(
                    f"the server '{server.name}' did not start, see {server.log}"
                ) from error
            await asyncio.sleep(0.1)
    try:
        kernel = await server.api("POST", "api/kernels", {})
    except HTTPClientError as error:
        raise DemoError(
            f"no kernel could be started ({error}); `pip install ipykernel` brings one"
        ) from error
    server.kernel = kernel["id"]
    if server.name != "stock":
        try:
            server.ticket, server.revoked = [await server.log_in() for _ in range(2)]
            await server.api("DELETE", LOGIN, token=server.revoked)
        except HTTPClientError as error:
            raise DemoError(f"no tickets could be had ({error}), see {server.log}") from error
    # A kernel that has run a cell is one whose socket opens at once.
    await execute(server)


@dataclass(frozen=True)
class View:
    """What a script in a browser is told of one handshake."""

    text: str
    advice: str = ""


async def _browser_view(way: Way, server: Server) -> View:
    """What a browser's script would be told."""
    request = way.request(server)
    try:
        connection = await websocket_connect(request)
    except HTTPClientError as error:
        return View(f"1006 (HTTP {error.code})")
    try:
        answered = connection.selected_subprotocol
        closed = await _close_frame(connection)
        if way.offer and answered is None:
            return View("1006 (no subprotocol answered)")
        if closed is None:
            return View("open")
        code, reason = closed
        known = parse_close(code, reason)
        if known is None:
            return View(str(code))
        return View(f"{code} {known.reason.slug}", known.reason.advice.value)
    finally:
        connection.close()


async def _close_frame(connection: WebSocketClientConnection) -> tuple[int, str] | None:
    """The close frame that follows a refused handshake at once, ``None`` where the socket stays open."""
    try:
        while await asyncio.wait_for(connection.read_message(), 0.5) is not None:
            pass
    except asyncio.TimeoutError:
        return None
    return connection.close_code or 1006, connection.close_reason or ""


async def execute(server: Server) -> str:
    """Run the cell and return what it printed."""
    headers = {"Authorization": f"token {server.token}", "Sec-WebSocket-Protocol": KERNEL}
    if server.name != "stock":
        offered = offer_subprotocols([KERNEL], server.token)
        headers = {"Sec-WebSocket-Protocol": ", ".join(offered)}
    address = f"ws://127.0.0.1:{server.port}/api/kernels/{server.kernel}/channels"
    try:
        connection = await websocket_connect(
            HTTPRequest(address, headers=headers, request_timeout=START_TIMEOUT)
        )
    except HTTPClientError as error:
        raise DemoError(f"no socket to the kernel ({error}), see {server.log}") from error
    try:
        request_id = uuid4().hex
        header = {
            "msg_id": request_id,
            "msg_type": "execute_request",
            "session": uuid4().hex,
            "username": "",
            "date": "2000-01-01T00:00:00Z",
            "version": "5.3",
        }
        content = {"code": CELL, "silent": False, "allow_stdin": False}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        await connection.write_message(_pack(parts, "shell"), binary=True)
        return await asyncio.wait_for(_output(connection, request_id), START_TIMEOUT)
    except asyncio.TimeoutError:
        raise DemoError(f"the kernel did not answer, see {server.log}") from None
    finally:
        connection.close()


async def _output(connection: WebSocketClientConnection, request_id: str) -> str:
    output = ""
    while (message := await connection.read_message()) is not None:
        _channel, parts = _unpack(message)
        header, parent, _metadata, content = (json.loads(part) for part in parts[:4])
        if parent.get("msg_id") != request_id:
            continue
        if header["msg_type"] == "stream":
            output += content["text"]
        if header["msg_type"] == "status" and content["execution_state"] == "idle":
            break
    return output


def _table(titles: list[str], rows: list[list[str]]) -> Iterator[str]:
    """The lines of a table as wide as its cells."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, ["-" * width for width in widths], *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
