"""Messages that wait for whoever reads them, bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import TooLargeError

T = TypeVar("T")

ITEM = 500
"""Bytes that are counted for an item beside its size: small ones need memory too."""


class EndError(Exception):
    """There is nothing more in an inbox, and nothing comes."""


class Inbox(Generic[T]):
    """First in, first out.

    Args:
        limit: bytes from which on it is full: whoever fills it should wait then. It takes twice as much
            from who does not; then all that waits is thrown away, and its reader is told so.
        option: the name of the option that sets the limit, for the error.
        on_room: called when it is not full any more.
    """

    def __init__(self, limit: int, option: str, on_room: Callable[[], None] = lambda: None) -> None:
        self.limit = limit
        self._option = option
        self._on_room = on_room
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether whoever fills it should wait."""
        return self._size >= self.limit

    def put(self, item: T, size: int) -> None:
        """Put something of so many bytes into it; what comes after its end is passed over."""
        if self._error is not None:
            return
        size += ITEM
        if self._size + size > 2 * self.limit and self._items:
            self._throw_away()
            self.end(
                TooLargeError(
                    f"more than {2 * self.limit} bytes of messages waited to be read ({self._option})"
                )
            )
            return
        self._items.append((item, size))
        self._size += size
        self._news.set()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes. ``error`` is raised when all that waits was read."""
        if self._error is None:
            self._error = error or EndError()
            self._news.set()

    def close(self) -> None:
        """Nobody reads any more."""
        self._throw_away()
        self.end()

    async def get(self) -> T:
        """The next. Raises ``EndError`` at the end, or the error that it ended with."""
        while not self._items:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        item, size = self._items.popleft()
        was_full = self.full
        self._size -= size
        if was_full and not self.full:
            self._on_room()
        return item

    def _throw_away(self) -> None:
        self._items.clear()
        self._size = 0
        self._on_room()
