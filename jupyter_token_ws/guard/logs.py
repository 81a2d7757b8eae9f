"""Keeps tokens out of logs.

Upstream scrubs the access log. Everything else (an error page's log line, a traceback, the request
that tornado prints with an uncaught exception, a ``Referer``, ``login?next=``) would show them, so
a filter looks at every record of the server's loggers and handlers.
"""

from __future__ import annotations

import logging
import re
from traceback import format_exception
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SECRET = "[secret]"

# Values end at what ends a URL parameter or a header element in the ways they are printed. `%26` is
# an `&` inside a parameter that is a URL itself.
_VALUE = r"(?:(?!%(?:25)*26)[^\s&\"'<>#,;\\)\]}])+"
_EQUALS = r"(?:=|%(?:25)*3[dD])"
_RULES = (
    # The token-bearing subprotocol, any version, any case.
    (
        re.compile(r"(v[0-9]+\.token\.websocket\.jupyter\.org\.)[^\s,;\"'\])}]+", re.IGNORECASE),
        rf"\1{SECRET}",
    ),
    # URL parameters, plain or inside another URL's parameter, however often encoded.
    (re.compile(rf"(\btoken{_EQUALS}){_VALUE}", re.IGNORECASE), rf"\1{SECRET}"),
    # The header, as headers are printed.
    (
        re.compile(
            r"(\bauthorization\b['\"]?\s*[:=,]\s*['\"]?\s*[a-z0-9_-]+\s+)[^\s,;\"'\])}]+",
            re.IGNORECASE,
        ),
        rf"\1{SECRET}",
    ),
)

# The link that the server prints on purpose for the person who started it.
_LOGIN_LINK = ("jupyter_server", "serverapp.py")


def scrub(text: str) -> str:
    """A text with every token in it replaced."""
    lowered = text.lower()
    if "token" not in lowered and "authorization" not in lowered:
        return text  # most lines, and logging is on every request's path
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


class ScrubFilter(logging.Filter):
    """Scrubs records in place. Never drops one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Scrub message, traceback and stack."""
        if getattr(record, "token_ws_scrubbed", False):
            return True
        record.token_ws_scrubbed = True
        if not record.exc_info and record.pathname.replace("\\", "/").endswith(
            "/".join(_LOGIN_LINK)
        ):
            return True
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - whatever a `__str__` raises
            # A bad format string is reported by logging itself, with the arguments: those it must
            # not have.
            record.msg, record.args = scrub(f"{record.msg!s} {record.args!r}"), None
        else:
            clean = scrub(message)
            if clean != message:
                record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters print this instead of formatting the exception anew.
            record.exc_text = scrub("".join(format_exception(*record.exc_info)).rstrip("\n"))
        if record.stack_info:
            record.stack_info = scrub(record.stack_info)
        return True


_FILTER = ScrubFilter()
LOGGERS = ("tornado.access", "tornado.application", "tornado.general", "asyncio", "py.warnings", "")
"""Where the server and its parts log, beside the application's own logger."""


def install(*extra: logging.Logger) -> None:
    """Put the filter on the server's loggers and on their handlers. May be called again at any time."""
    for logger in (*map(logging.getLogger, LOGGERS), *extra):
        _add(logger)
        for handler in _handlers(logger):
            _add(handler)


def _add(target: logging.Filterer) -> None:
    if _FILTER not in target.filters:
        target.addFilter(_FILTER)


def _handlers(logger: logging.Logger) -> Iterable[logging.Handler]:
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None
