"""Who is between its request and its 101, and who has been there for too long.

One timer for all of them: most handshakes are through long before it rings, and need not pay for one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Protocol


class Opening(Protocol):
    """A handler between its request and its 101."""

    def refuse_opening(self, slug: str, retry_after: int | None = None) -> None:
        """Refuse it with a reason of the table. ``retry_after`` is in seconds."""

    def opening_client(self) -> str | None:
        """The client's address as limits count it; ``None`` where nobody can know."""


class Openings:
    """The handlers that are opening, each with its deadline.

    ``on_late`` is called with each that did not open in time, once; it must not raise.
    """

    def __init__(self, on_late: Callable[[Opening], None]) -> None:
        self._on_late = on_late
        self._deadlines: dict[Opening, float] = {}
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def __iter__(self) -> Iterator[Opening]:
        """A snapshot: handlers may leave meanwhile."""
        return iter(list(self._deadlines))

    def add(self, handler: Opening, seconds: float) -> None:
        """A handshake began, and may take so many seconds; 0 is for ever."""
        deadline = math.inf
        if seconds > 0:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + seconds
            if deadline < self._due:
                self._ring_at(loop, deadline)
        self._deadlines[handler] = deadline

    def discard(self, handler: Opening) -> None:
        """A handshake is over; one that is not listed is no error."""
        self._deadlines.pop(handler, None)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = math.inf

    def _ring_at(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self.stop()
        self._due = deadline
        self._timer = loop.call_at(deadline, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        # A loop may ring a little early, by the resolution of its clock.
        now = max(loop.time(), self._due)
        self.stop()
        for handler in [one for one, deadline in self._deadlines.items() if deadline <= now]:
            if self._deadlines.pop(handler, None) is not None:  # else it left meanwhile
                self._on_late(handler)
        following = min(self._deadlines.values(), default=math.inf)
        if following < math.inf:
            self._ring_at(loop, following)
