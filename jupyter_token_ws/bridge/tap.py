"""What the activity watcher of ``MappingKernelManager`` gets instead of a subscription of its own.

Upstream opens a second subscription per kernel, and takes apart every message that it brings, to know
when the kernel was last active and whether it is busy. It takes ``connect_iopub()`` for that, and of
what this returns it uses ``on_recv``, ``close`` and ``socket.closed``. A tap has these, and passes on what
can change anything, by type and type of the parent: of each ``status`` that arrived at once the last,
because the state is that of the last one, and of all else one per ``INTERVAL``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from .wire import DELIMITER, Message, message_type

INTERVAL = 0.1
"""Seconds by which the time of the last activity may be too early."""

Receive = Callable[[list[bytes]], object]


class _Socket:
    closed = False


class Tap:
    """One watcher.

    Args:
        on_close: called when the watcher has had enough.
        log: for what the watcher raises.
    """

    def __init__(self, on_close: Callable[[Tap], None], log: logging.Logger) -> None:
        self.socket = _Socket()
        self._on_close = on_close
        self._log = log
        self._failed = False
        self._receive: Receive | None = None
        self._passed: dict[tuple[str, str], float] = {}
        self._parent = b""
        self._parent_type = ""

    def on_recv(self, callback: Receive | None) -> None:
        """Pass messages to *callback*; to nobody, if ``None``."""
        self._receive = callback

    def closed(self) -> bool:
        """Whether it was closed."""
        return self.socket.closed

    def close(self) -> None:
        """Pass on nothing more."""
        if not self.socket.closed:
            self.socket.closed = True
            self._receive = None
            self._on_close(self)

    def feed(self, messages: Sequence[Message], now: float) -> None:
        """Messages arrived at *now*, in seconds of any clock."""
        passed = self._passed
        due: dict[tuple[str, str], Message] = {}
        before = ""
        for message in messages:
            kind, parent = message.type, message.parts[1]
            if parent != self._parent:
                self._parent, self._parent_type = parent, message_type(parent)
            elif kind == before and kind != "status":
                continue
            before = kind
            key = kind, self._parent_type
            if kind == "status":
                due.pop(key, None)
                due[key] = message
            elif now >= passed.get(key, now):
                if len(passed) > 1000:  # kernels have some twenty types
                    passed.clear()
                passed[key] = now + INTERVAL
                due[key] = message
        for message in due.values():
            if self._receive is None:
                return
            try:
                self._receive([DELIMITER, message.signature, *message.parts])
            except Exception:  # noqa: BLE001 - upstream's, with kernels of protocol 4
                # Clients come after the watcher, and must get their messages all the same.
                self._log.log(
                    logging.DEBUG if self._failed else logging.ERROR,
                    "The activity watcher cannot take %r",
                    message,
                    exc_info=True,
                )
                self._failed = True
