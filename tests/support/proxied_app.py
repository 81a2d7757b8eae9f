"""A small application to stand behind jupyter-server-proxy: an echo that writes down what reaches it.

    python tests/support/proxied_app.py PORT FILE

Each request, upgrade or not, becomes a line of JSON in FILE: method, URI, headers, body.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tornado import web
from tornado.websocket import WebSocketHandler


class Recorder(web.RequestHandler):
    """Writes a request down before anything else is done with it."""

    def initialize(self, record: Path) -> None:
        self.record = record

    def prepare(self) -> None:
        request = self.request
        with self.record.open("a", encoding="utf-8") as file:
            line = {
                "method": request.method,
                "uri": request.uri,
                "headers": list(request.headers.get_all()),
                "body": request.body.decode("latin-1"),
            }
            file.write(json.dumps(line) + "\n")


class Page(Recorder):
    def get(self) -> None:
        self.finish("page")

    post = get


class Echo(Recorder, WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[0] if subprotocols else None

    async def on_message(self, message: str | bytes) -> None:
        if message == "close":
            self.close(4123, "the application's own")
            return
        await self.write_message(message, binary=isinstance(message, bytes))


async def main(port: int, record: Path) -> None:
    routes = [(r"/socket", Echo, {"record": record}), (r"/.*", Page, {"record": record})]
    web.Application(routes).listen(port, "127.0.0.1")
    record.touch()  # the sign that somebody listens
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
