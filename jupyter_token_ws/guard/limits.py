"""How often somebody may be wrong: tables without I/O, which are told the time.

They know nothing of requests and of who is asked for a verdict: ``throttle`` brings both together. All
of them are bounded and forget whoever was longest not heard of. The rule that they keep: verify first,
throttle after. Whoever is right never comes here.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

MAX_ADDRESSES = 4096
"""Addresses of which something is remembered."""

MAX_REMEMBERED = 4096
"""Wrong credentials that are remembered."""


class Attempts:
    """Counts wrong credentials of each address, every distinct one once.

    A page that goes on with a dead token is no guesser, whatever it sends: only what differs counts.
    ``burst`` are counted in any ``window`` seconds. ``max_addresses`` bounds the table, and ``burst``
    what is kept for each.
    """

    def __init__(self, burst: int, window: float, max_addresses: int = MAX_ADDRESSES) -> None:
        self.burst = burst
        self.window = window
        self.max_addresses = max_addresses
        self._counted: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counted)

    def wrong(self, address: str, credential: str, now: float) -> float:
        """A credential was wrong. 0 where it was counted, or had been, else the seconds until one more
        will be.

        ``credential`` is a digest.
        """
        counted = self._counted.setdefault(address, OrderedDict())
        self._counted.move_to_end(address)
        if len(self._counted) > self.max_addresses:
            self._counted.popitem(last=False)
        while counted and now - next(iter(counted.values())) >= self.window:
            counted.popitem(last=False)
        if credential in counted:
            return 0
        if len(counted) >= self.burst:
            return next(iter(counted.values())) + self.window - now
        counted[credential] = now
        return 0


class AttemptStore(Protocol):
    """Where wrong credentials are counted: here, or in one place for several servers."""

    async def wrong(self, address: str, credential: str) -> float:
        """As ``Attempts.wrong``, now."""


class MemoryAttempts:
    """Counts for this server alone."""

    def __init__(self, table: Attempts, clock: Callable[[], float] = time.monotonic) -> None:
        self.table = table
        self._clock = clock

    async def wrong(self, address: str, credential: str) -> float:
        """See ``AttemptStore``."""
        return self.table.wrong(address, credential, self._clock())


class Remembered:
    """What was wrong a moment ago, so that nobody is asked again. For ``seconds``, ``most`` at once."""

    def __init__(self, seconds: float, most: int = MAX_REMEMBERED) -> None:
        self.seconds = seconds
        self.most = most
        self._since: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._since)

    def add(self, key: str, now: float) -> None:
        """It was wrong just now."""
        if self.seconds <= 0:
            return
        self._since[key] = now
        self._since.move_to_end(key)
        if len(self._since) > self.most:
            self._since.popitem(last=False)

    def has(self, key: str, now: float) -> bool:
        """Whether it was, not longer ago than that. Being asked for it keeps nothing alive."""
        since = self._since.get(key)
        if since is None:
            return False
        if now - since >= self.seconds:
            del self._since[key]
            return False
        return True


class Pace:
    """Paces attempts at a secret that people choose, such as a password: delayed, not locked.

    ``burst`` attempts of an address go ahead at once; after that there is one every ``window / burst``
    seconds, each waiting for its turn *before* it is verified, the right one as well: what is short can be
    guessed, and verified first it would be, by as many connections at once as one likes. One whose turn
    is more than ``longest`` seconds away is told to come back then. An attempt that was right is given
    back and costs nothing, and waiting brings every turn back. The addresses do not wait for each other.
    """

    def __init__(
        self, burst: int, window: float, longest: float, max_addresses: int = MAX_ADDRESSES
    ) -> None:
        self.longest = longest
        self.max_addresses = max_addresses
        self.every = window / burst
        """Seconds from one turn to the next."""
        self.ahead = window - self.every
        """Seconds of turns that may be taken at once, after the first."""
        # When all turns of an address will be back (the theoretical arrival time of GCRA, ITU-T I.371).
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, address: str, now: float) -> tuple[bool, float]:
        """Take a turn: whether there is one, and in how many seconds; else when to ask again."""
        full_at = max(self._full_at.get(address, now), now)
        wait = max(0.0, full_at - self.ahead - now)
        if wait > self.longest:
            return False, wait - self.longest
        self._full_at[address] = full_at + self.every
        self._full_at.move_to_end(address)
        if len(self._full_at) > self.max_addresses:
            self._full_at.popitem(last=False)
        return True, wait

    def give_back(self, address: str) -> None:
        """The attempt was right."""
        if address in self._full_at:
            self._full_at[address] -= self.every


class PaceStore(Protocol):
    """Where attempts are paced: here, or in one place for several servers."""

    async def take(self, address: str) -> tuple[bool, float]:
        """As ``Pace.take``, now."""

    def give_back(self, address: str) -> None:
        """As ``Pace.give_back``."""


class MemoryPace:
    """Paces for this server alone."""

    def __init__(self, table: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self.table = table
        self._clock = clock

    async def take(self, address: str) -> tuple[bool, float]:
        """See ``PaceStore``."""
        return self.table.take(address, self._clock())

    def give_back(self, address: str) -> None:
        """See ``PaceStore``."""
        self.table.give_back(address)
