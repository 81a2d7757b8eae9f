"""A little server that plays another: it answers what a test says, and notes what it was asked.

with playing() as other:
    other.answers["/hub/api/user"] = Says(200, {"name": "ann"})
    ...  # other.url, other.asked
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest, ResponseStartLine

from tests.support.process import free_port


@dataclass
class Says:
    """An answer: ``body`` is JSON unless it is bytes. ``raw`` is written as it is, in place of one; empty
    says nothing and keeps the connection."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None


@dataclass
class Other:
    """The server. ``answers`` are by path; what it has none for is 404."""

    port: int
    answers: dict[str, Says] = field(default_factory=dict)
    asked: list[HTTPServerRequest] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[tuple[str | None, str, str | None]]:
        """Method, address and ``Authorization`` of each request."""
        return [(a.method, a.uri or "", a.headers.get("Authorization")) for a in self.asked]

    def __call__(self, request: HTTPServerRequest) -> None:
        self.asked.append(request)
        says = self.answers.get(request.path, Says(404, b""))
        connection: Any = request.connection
        if says.raw is not None:
            stream = connection.detach()
            self.kept.append(stream)
            if says.raw:
                stream.write(says.raw).add_done_callback(lambda _: stream.close())
            return
        body = says.body if isinstance(says.body, bytes) else json.dumps(says.body).encode()
        headers = {"Content-Length": str(len(body)), **says.headers}
        lines: Any = request.headers.__class__(headers)
        connection.write_headers(ResponseStartLine("HTTP/1.1", says.status, "said"), lines, body)
        connection.finish()


@contextmanager
def playing() -> Iterator[Other]:
    """The server for the length of a block, in this loop."""
    other = Other(free_port())
    server = HTTPServer(other)
    server.listen(other.port, "127.0.0.1")
    try:
        yield other
    finally:
        server.stop()
        for stream in other.kept:
            stream.close()
