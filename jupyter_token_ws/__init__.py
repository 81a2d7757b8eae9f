"""Tokens by subprotocol, refusals with a reason: a Jupyter Server extension for every websocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .guard.handler import (
        SocketInfo,
        TokenWebSocketHandler,
        close_with_reason,
        socket_info,
    )
    from .guard.refusal import Refused
    from .tunnel.stream_handler import MessageStream, StreamHandler, StreamInfo
    from .tunnel.streams import StreamClosedError

__all__ = [
    "MessageStream",
    "Refused",
    "SocketInfo",
    "StreamClosedError",
    "StreamHandler",
    "StreamInfo",
    "TokenWebSocketHandler",
    "__version__",
    "close_with_reason",
    "socket_info",
]


def __getattr__(name: str) -> Any:
    # On first use: a client must be able to import the package without a server's libraries.
    if name in ("MessageStream", "StreamClosedError", "StreamHandler", "StreamInfo"):
        from .tunnel import stream_handler

        return getattr(stream_handler, name)
    if name in __all__:
        from .guard import handler

        return getattr(handler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell jupyter_server where the extension is."""
    from .app import TokenWebSocketApp

    return [{"module": "jupyter_token_ws", "app": TokenWebSocketApp}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Tell `jupyter labextension develop` where the built part for JupyterLab and Notebook is."""
    return [{"src": "labextension", "dest": "jupyter_token_ws"}]
