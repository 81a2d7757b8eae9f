"""A real server with other people's extensions beside ours: jupyterlab-lsp with python-lsp-server,
jupyter-collaboration and jupyter-server-proxy with an application behind it."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_ydoc import YUnicode
from pycrdt import YMessageType, handle_sync_message

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, encode_token
from tests.support import process, proxied_app
from tests.support.clients import Client
from tests.support.process import Server, free_port, start_server
from tests.support.waiting import until

TOKEN = "the/server's (own) token=%3F"
TEXT = "one line\n"
"""What is in the shared document."""

PING_INTERVAL = 0.2


@dataclass(frozen=True)
class Place:
    """The server, the port of the application behind it, what reached that, and a document's room."""

    server: Server
    app_port: int
    record: Path
    room: str

    def seen(self, probe: str) -> list[dict[str, Any]]:
        """What reached the application so far and has this in its address."""
        lines = self.record.read_text("utf-8").splitlines()
        return [request for request in map(json.loads, lines) if probe in request["uri"]]

    def path(self, name: str) -> str:
        """A websocket of each extension; the proxy has two kinds of them."""
        return {
            "lsp": "lsp/ws/pylsp",
            "collaboration": self.room,
            "proxy": f"proxy/{self.app_port}/socket",
            "named_proxy": "app/socket",
        }[name]


@contextlib.contextmanager
def serving(
    directory: Path,
    extensions: Mapping[str, bool] | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Place]:
    """The server for the length of a block; all that it writes is in the directory. More extensions, traits
    and environment are as ``start_server`` takes them."""
    app_port, record = free_port(), directory / "record.jsonl"
    app = [sys.executable, proxied_app.__file__, str(app_port), str(record)]
    with (
        process.run(app, directory / "app.log"),
        start_server(
            directory,
            token=TOKEN,
            extensions={
                "jupyter_lsp": True,
                "jupyter_server_fileid": True,
                "jupyter_server_ydoc": True,
                "jupyter_server_proxy": True,
                **(extensions or {}),
            },
            env=env,
            config={
                "ServerApp": {"log_level": "DEBUG"},
                "TokenWebSocketApp": {
                    "keepalive_interval": PING_INTERVAL,
                    "keepalive_timeout": 60,
                    "refusal_burst": 1000,
                },
                "LanguageServerManager": {
                    "autodetect": False,
                    "language_servers": {
                        "pylsp": {
                            "argv": [sys.executable, "-m", "pylsp"],
                            "display_name": "pylsp",
                            "languages": ["python"],
                            "mime_types": ["text/x-python"],
                            "version": 2,
                        }
                    },
                },
                "ServerProxy": {"servers": {"app": {"command": [], "port": app_port}}},
                **(config or {}),
            },
        ) as server,
    ):
        # A stock server does not end either once a shared document was left while it was being opened.
        server.abruptly = True
        until(record.exists, "the application is up")
        body = {"type": "file", "format": "text", "content": TEXT}
        assert server.request("PUT", "api/contents/note.txt", body).status == 201
        kind = {"format": "text", "type": "file"}
        session = server.request("PUT", "api/collaboration/session/note.txt", kind).json()
        room = "api/collaboration/room/text:file:{fileId}?sessionId={sessionId}".format(**session)
        yield Place(server, app_port, record, room)


def forms(token: str) -> list[str]:
    """The token in every form in which it could have slipped through."""
    return [
        token,
        quote(token, safe=""),
        encode_token(token),
        base64.b64encode(token.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(token.encode()).decode().rstrip("="),
    ]


def assert_clean(request: dict[str, Any]) -> None:
    """Nothing of the server's token is in a request, nor of the markers."""
    text = json.dumps(request["headers"]) + request["uri"] + request["body"]
    for form in forms(TOKEN):
        assert form not in text
    assert MARKER not in text
    assert REASON_MARKER not in text


class Peer:
    """One editor of the document."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.document = YUnicode()

    async def until_source(self, wanted: str) -> None:
        """Take part in the exchange until the document reads so."""
        while self.document.source != wanted:
            await self._exchange()

    async def _exchange(self) -> None:
        message = await self.client.receive()
        assert isinstance(message, bytes), f"closed with {self.client.code}"
        if message[0] == YMessageType.SYNC:
            reply = handle_sync_message(message[1:], self.document.ydoc)
            if reply is not None:
                await self.client.send(reply)

    async def until_any(self) -> str:
        """Take part until there is a text, whichever."""
        while not self.document.source:
            await self._exchange()
        return self.document.source
