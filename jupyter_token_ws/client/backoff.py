"""When to try again: exponential backoff with full jitter, or what the server said."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays between tries, in seconds: each is drawn from nothing to a bound, which doubles.

    (Full jitter: a hundred clients that lost the same server do not come back at the same moment.)

    Args:
        base: the bound of the first delay, in seconds.
        cap: the bound at most, in seconds.
        draw: a number from 0 to 1.
    """

    def __init__(
        self, base: float = 0.5, cap: float = 30.0, draw: Callable[[], float] = random.random
    ) -> None:
        self._base, self._cap, self._draw = base, cap, draw
        self._bound = base

    def delay(self, retry_after: float | None = None) -> float:
        """Seconds to wait before the next try, not less than ``retry_after``, which the server asked for."""
        bound, self._bound = self._bound, min(self._bound * 2, self._cap)
        drawn = bound * self._draw()
        return drawn if retry_after is None else retry_after + drawn

    def reset(self) -> None:
        """It went well: the next delay is short again."""
        self._bound = self._base
