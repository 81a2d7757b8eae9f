"""The libraries below write headers into their debugging logs; with ours there would be tokens in them.

While a request or a websocket of ours is on its way, what they say below ``INFO`` is dropped. Other users
of the same libraries in the process keep theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

_NOISY = ("httpcore", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy",
          "httpcore.socks", "httpx", "hpack", "hpack.hpack")  # fmt: skip

_ours: ContextVar[bool] = ContextVar("jupyter_token_ws_request", default=False)


def _without_ours(record: logging.LogRecord) -> bool:
    return not (_ours.get() and (record.levelno < logging.INFO or record.name == "httpx"))


def _never_debug(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.INFO


def _quiet_logger() -> logging.Logger:
    logger = logging.getLogger("jupyter_token_ws.client.websockets")
    logger.setLevel(logging.INFO)
    logger.addFilter(_never_debug)
    return logger


for _name in _NOISY:
    logging.getLogger(_name).addFilter(_without_ours)

WEBSOCKETS = _quiet_logger()
"""What `websockets` logs by: it writes the handshake's headers at ``DEBUG``, and those it drops."""


@contextmanager
def ours() -> Iterator[None]:
    """What is logged in here is about a request of ours."""
    token = _ours.set(True)
    try:
        yield
    finally:
        # What began in one task may end in another, which never had it.
        with suppress(ValueError):
            _ours.reset(token)
