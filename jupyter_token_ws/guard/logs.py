"""Keeps tokens out of logs.

Upstream scrubs the access log. Everything else (an error page's log line, a traceback, the request
that tornado prints with an uncaught exception, a ``Referer``, ``login?next=``) would show them, so
a filter looks at every record of the server's loggers and handlers.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from traceback import format_exception
from typing import TYPE_CHECKING, Any, cast

from jupyter_token_ws.protocol.tickets import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

SECRET = "[secret]"

# A token is whatever somebody chose and a text is whatever somebody printed, so nothing tells for
# sure where a token ends: rather too much is taken than too little. What no URL and no list of
# subprotocols can hold ends a value, and of the quotes and brackets right before that the last ones stay.
_CLOSING = r"\"'`,;:.)\]}>"
_QUOTED = r"b?(?:'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")"
_PRINTED = rf"(?:{_QUOTED}|\[(?:{_QUOTED}|[\s,])*\])"
# A `"` before what follows a JSON string ends it; no URL that a client made has one.
_IN_URL = r"(?!\"(?:[,:}\])]|$))[^\s&#]"
# A name may be encoded too, letter by letter.
_PARAMETER = "".join(rf"(?:{letter}|%(?:25)*{ord(letter):x})" for letter in "token")
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), rf"\1{SECRET}")
    for pattern in (
        # The token-bearing subprotocol, any version, any case.
        rf"(v[0-9]+\.token\.websocket\.jupyter\.org\.)(?!\[secret)[^\s,]*[^\s,{_CLOSING}]",
        # A URL's parameter, also of a URL inside another one's parameter, however often encoded:
        # an encoded `&` may be part of the token there.
        rf"({_PARAMETER}(?:=|%(?:25)*3d))(?!\[secret)(?:{_IN_URL})*(?:(?![{_CLOSING}]){_IN_URL})",
        # A ticket, wherever it stands: it can be told by its form.
        rf"({PREFIX})[a-z0-9_.-]{{20,}}",
        # Arguments and JSON, as they are printed.
        rf"(['\"]token\\*['\"]\s*:\s*)(?:{_PRINTED}|\\+[^\r\n]*)",
        # The header: what is in quotes, else the rest of the line.
        rf"(authorization\\*['\"]?[ \t]*[:=,](?![ \t]*\[secret)[ \t]*)(?:{_PRINTED}|[^\r\n]+)",
        # The header's value alone, as tornado prints one that it cannot take.
        r"((['\"])(?:token|bearer)(?:[ \t]|\\t)+)(?:\\.|(?!\2)[^\r\n])+",
    )
)

# The link that the server prints on purpose for the person who started it.
_LOGIN_LINK = "/jupyter_server/serverapp.py"


def printable(text: str) -> str:
    """A path or a name as it may stand in a line: what would end the line or steer a terminal is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def scrub(text: str) -> str:
    """A text with every token in it replaced."""
    lowered = text.lower()
    if not any(word in lowered for word in ("token", "bearer", "authorization", "%", PREFIX)):
        return text  # most lines, and logging is on every request's path
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


class ScrubFilter(logging.Filter):
    """Scrubs records in place, before a handler has them. Never drops one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Scrub message, traceback and stack."""
        _scrub_record(record)
        return True


class MarkFilter(logging.Filter):
    """Marks records to be scrubbed by whoever reads them first. Never drops one.

    For loggers: most records there are below every handler's level and are never read, and a handler
    that came later has no filter of ours.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark the record."""
        kind = type(record)
        if not issubclass(kind, _Unread) and not getattr(record, _SCRUBBED, False):
            record.__class__ = _unread(cast("Any", kind))
        return True


_SCRUBBED = "_token_ws_scrubbed"
"""With the underscore, or formatters that write all of a record, as those of events do, would write it."""


class _Unread(logging.LogRecord):
    """A record of which nothing was read yet."""

    def getMessage(self) -> str:  # noqa: N802 - its name in logging
        """The message, scrubbed; formatters ask for it before anything else."""
        _scrub_record(self)
        return self.getMessage()


@lru_cache(maxsize=64)
def _unread(kind: type[logging.LogRecord]) -> type[logging.LogRecord]:
    return type(kind.__name__, (_Unread, kind), {"token_ws_kind": kind})


def _scrub_record(record: logging.LogRecord) -> None:
    if isinstance(record, _Unread):
        record.__class__ = vars(type(record))["token_ws_kind"]
    if getattr(record, _SCRUBBED, False):
        return
    setattr(record, _SCRUBBED, True)
    if not record.exc_info and record.pathname.replace("\\", "/").endswith(_LOGIN_LINK):
        return
    try:
        message = record.getMessage()
    except Exception as error:  # noqa: BLE001 - whatever a `__str__` raises
        # Logging itself would report it on the standard error, with all arguments.
        record.msg, record.args = scrub(_unformatted(record, error)), None
    else:
        clean = scrub(message)
        if clean != message:
            record.msg, record.args = clean, None
    if record.exc_info and record.exc_info[0] is not None:
        # Formatters print this instead of formatting the exception anew.
        record.exc_text = "".join(format_exception(*record.exc_info)).rstrip("\n")
    if record.exc_text:
        record.exc_text = scrub(record.exc_text)
    if record.stack_info:
        record.stack_info = scrub(record.stack_info)


def _unformatted(record: logging.LogRecord, error: Exception) -> str:
    """What can be said of a record whose message cannot be formatted."""
    where = f"{type(error).__name__} in a log call at {record.pathname}:{record.lineno}"
    try:
        return f"{where}: {record.msg!s} {record.args!r}"
    except Exception:  # noqa: BLE001 - as above
        return where


_SCRUB = ScrubFilter()
_MARK = MarkFilter()
LOGGERS = ("tornado.access", "tornado.application", "tornado.general", "asyncio", "py.warnings", "")
"""Where the server and its parts log, beside the application's own logger."""


def install(*extra: logging.Logger) -> None:
    """Put the filters on the server's loggers and on their handlers. May be called again at any time."""
    for logger in (*map(logging.getLogger, LOGGERS), *extra):
        _add(logger, _MARK)
        for handler in _handlers(logger):
            _add(handler, _SCRUB)
    # Each extension application has a logger of its own, whose handler hears of the requests that
    # its routes serve, and nothing says which other libraries have.
    for other in list(logging.Logger.manager.loggerDict.values()):
        for handler in getattr(other, "handlers", ()):
            _add(handler, _SCRUB)
    if logging.lastResort is not None:
        _add(logging.lastResort, _SCRUB)


def _add(target: logging.Filterer, wanted: logging.Filter) -> None:
    if wanted not in target.filters:
        target.addFilter(wanted)


def _handlers(logger: logging.Logger) -> Iterable[logging.Handler]:
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None
