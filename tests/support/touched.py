"""A server extension that writes down what handlers of websockets touch of the connection behind them.

Each line of the file ``TOUCHED`` (of the environment) is JSON: what carries the connection, the package that
touched it, and what was touched, from the handler on. What tornado and we do ourselves is not told.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.tunnel.virtual import StreamConnection

_OURS = ("tornado", "jupyter_token_ws", "tests")
_PASSED_ON = ("stream", "context")


def _toucher() -> str:
    """The package of who asked the one who asks this."""
    name: str = sys._getframe(2).f_globals.get("__name__", "")
    return name.partition(".")[0]


class Touched:
    """Stands for an object and tells of each attribute that somebody else asks it for."""

    def __init__(self, behind: Any, name: str, carrier: str) -> None:
        self.__dict__.update(_behind=behind, _name=name, _carrier=carrier)

    def __getattr__(self, attribute: str) -> Any:
        package, name = _toucher(), f"{self._name}.{attribute}"
        found = getattr(self._behind, attribute)
        if package in _OURS:
            return found
        line = json.dumps([self._carrier, package, name])
        with Path(os.environ["TOUCHED"]).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return Touched(found, name, self._carrier) if attribute in _PASSED_ON else found

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(self._behind, attribute, value)


def _watch(kind: type, attribute: str, carrier_of: Any) -> None:
    kept = f"_touched_{attribute}"

    def get(self: Any) -> Any:
        found = self.__dict__.get(kept)
        if found is None or _toucher() in _OURS:
            return found
        return Touched(found, attribute, carrier_of(self))

    def put(self: Any, value: Any) -> None:
        self.__dict__[kept] = value

    setattr(kind, attribute, property(get, put))


def _carrier(request: HTTPServerRequest) -> str:
    return "stream" if isinstance(request.connection, StreamConnection) else "socket"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(app: Any) -> None:
    _watch(WebSocketHandler, "ws_connection", lambda handler: _carrier(handler.request))
    _watch(HTTPServerRequest, "connection", _carrier)
