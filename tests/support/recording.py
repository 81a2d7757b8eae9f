"""Websocket handlers that keep what they saw of their request, at every step of a handshake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.websocket import WebSocketHandler

from jupyter_token_ws import socket_info


@dataclass
class Sight:
    """A request at one moment."""

    where: str
    headers: list[tuple[str, str]]
    uri: str
    query: str
    arguments: dict[str, list[bytes]]
    query_arguments: dict[str, list[bytes]]
    cookies: dict[str, str]
    info: Any
    """A ``SocketInfo``, or ``None`` where the guard does not stand."""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, handler: web.RequestHandler, where: str, **extra: Any) -> Sight:
        request = handler.request
        return cls(
            where,
            sorted(request.headers.get_all()),
            request.uri or "",
            request.query,
            {name: list(values) for name, values in request.arguments.items()},
            {name: list(values) for name, values in request.query_arguments.items()},
            {name: morsel.value for name, morsel in request.cookies.items()},
            socket_info(handler),
            extra,
        )

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def shows(self, secret: str) -> bool:
        """Whether a secret is to be seen anywhere."""
        return secret in repr(
            (self.headers, self.uri, self.query, self.arguments, self.query_arguments, self.extra)
        )


class Recorder(WebSocketHandler):
    """Notes every step. ``sights`` belongs to the class: make a subclass for each test."""

    sights: ClassVar[list[Sight]]
    handlers: ClassVar[list[Recorder]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__mro__[1].__name__.startswith(
            "_Guarded"
        ):  # that one notes for the class it guards
            cls.sights, cls.handlers = [], []

    def note(self, where: str, **extra: Any) -> None:
        self.sights.append(Sight.of(self, where, **extra))

    def initialize(self, **_: Any) -> None:
        self.handlers.append(self)

    async def prepare(self) -> None:
        self.note("prepare")
        result: Any = super().prepare()
        if result is not None:
            await result
        self.note("prepared")

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.note("get")
        await super().get(*args, **kwargs)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        self.note("select_subprotocol", offered=subprotocols)
        return "own" if "own" in subprotocols else None

    def open(self, *args: Any, **kwargs: Any) -> None:
        self.note("open")
        super().open(*args, **kwargs)

    def on_message(self, message: str | bytes) -> None:
        self.note("on_message")
        self.write_message(message)

    @classmethod
    def at(cls, where: str) -> Sight:
        """The last sight of one step."""
        return [sight for sight in cls.sights if sight.where == where][-1]

    @classmethod
    def steps(cls) -> list[str]:
        return [sight.where for sight in cls.sights]


class Protected(Recorder, WebSocketMixin, WebSocketHandler, JupyterHandler):  # type: ignore[misc] # prepare
    """A Jupyter socket for people who are known."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.current_user is None:
            raise web.HTTPError(403)
        await super().get(*args, **kwargs)


class OpenToAll(Recorder, WebSocketMixin, WebSocketHandler, JupyterHandler):  # type: ignore[misc] # prepare
    """A Jupyter socket for everybody."""


class Connection:
    """Enough of one for a request."""

    def set_close_callback(self, callback: object) -> None:
        """Never closed."""


def request_for(uri: str, headers: dict[str, str] | None = None) -> HTTPServerRequest:
    """A request that nobody sent."""
    return HTTPServerRequest(
        headers=HTTPHeaders({"Host": "h", **(headers or {})}),
        connection=Connection(),  # type: ignore[arg-type]
        start_line=RequestStartLine("GET", uri, "HTTP/1.1"),
    )
