"""Tickets in the memory of one server: the default. They end with the process.

The store has room for so many. What is dead goes first; when all are alive a login is refused, since to
forget a live ticket is to close somebody's sockets without a reason. A renewal needs no room: where there is
none it takes the place of the ticket that it renews.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field, replace

from traitlets import Integer

from jupyter_token_ws.protocol.tickets import is_current

from .secrecy import Mask
from .store import Held, KeepingStore
from .tickets import (
    ExpiredTicket,
    FamilyChange,
    FamilyState,
    RenewalRefused,
    RevokedTicket,
    StoreFull,
    UnknownTicket,
    UsedTicket,
)


@dataclass
class _Kept:
    family: str
    box: bytes
    single_use: bool
    issued_at: float
    expires_at: float
    used: bool = False


@dataclass
class _Family:
    ends_at: float
    revoked: bool = False
    names: set[str] = field(default_factory=set)


class MemoryTicketStore(KeepingStore):
    """Keeps tickets in this process."""

    cipher = Mask()

    max_tickets = Integer(
        10_000,
        min=1,
        help="Tickets that are kept at most, some 2 KiB each. While so many are alive further logins are"
        " answered 503.",
    ).tag(config=True)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._tickets: dict[str, _Kept] = {}
        self._families: dict[str, _Family] = {}
        # When a ticket dies, and its name. One that dies earlier than was planned stands here twice; the
        # later of the two then means nothing any more.
        self._deaths: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._tickets)

    async def _put(
        self, name: str, held: Held, *, retire: str | None = None, grace: float = 0.0
    ) -> Held:
        now = self.clock()
        left, family_left = held.left, held.family_left
        if retire is not None:
            old = self._good(retire, now)
            if old.single_use:
                raise RenewalRefused
            family_left = self._families[old.family].ends_at - now
            left = min(left, family_left)
        self._make_room(now, retire)
        if retire is not None:
            self._end(retire, now + grace)
        self._tickets[name] = _Kept(held.family, held.box, held.single_use, now, now + left)
        family = self._families.setdefault(held.family, _Family(now + family_left))
        family.names.add(name)
        self._dies(now + left, name)
        latest_left = self._latest(family) - now
        return replace(held, left=left, family_left=family_left, latest_left=latest_left)

    async def _get(self, name: str, use: bool) -> Held:
        now = self.clock()
        kept = self._good(name, now)
        kept.used = kept.used or (use and kept.single_use)
        family_left = self._families[kept.family].ends_at - now
        return Held(kept.family, kept.box, kept.single_use, kept.expires_at - now, family_left)

    async def _revoke(self, name: str) -> str | None:
        self._forget(self.clock(), self.remembered)
        kept = self._tickets.get(name)
        if kept is None:
            return None
        self._revoke_family(kept.family)
        return kept.family

    async def revoke_family(self, family: str) -> None:
        """Revoke a family."""
        if family in self._families:
            self._revoke_family(family)
            self._tell(FamilyChange(family, revoked=True))

    async def family(self, family: str) -> FamilyState:
        """What became of a family."""
        known = self._families.get(family)
        if known is None or known.revoked:
            return FamilyState(alive=False)
        expires_at = self._latest(known)
        return FamilyState(self.clock() < expires_at, expires_at)

    def _latest(self, family: _Family) -> float:
        return max(self._tickets[name].expires_at for name in family.names)

    def _good(self, name: str, now: float) -> _Kept:
        self._forget(now, self.remembered)
        kept = self._tickets.get(name)
        if kept is None:
            raise UnknownTicket
        if self._families[kept.family].revoked:
            raise RevokedTicket
        if not is_current(kept.issued_at, kept.expires_at, now):
            raise ExpiredTicket
        if kept.used:
            raise UsedTicket
        return kept

    def _revoke_family(self, family: str) -> None:
        known, now = self._families[family], self.clock()
        known.revoked = True
        for name in known.names:
            self._end(name, now)

    def _end(self, name: str, at: float) -> None:
        """Let a ticket die earlier."""
        kept = self._tickets.get(name)
        if kept is not None and kept.expires_at > at:
            kept.expires_at = at
            self._dies(at, name)

    def _dies(self, at: float, name: str) -> None:
        heapq.heappush(self._deaths, (at, name))
        if len(self._deaths) > 2 * len(self._tickets) + 64:
            self._deaths = [(kept.expires_at, name) for name, kept in self._tickets.items()]
            heapq.heapify(self._deaths)

    def _make_room(self, now: float, retire: str | None) -> None:
        """See that there is room for one more. Raises ``StoreFull``."""
        if len(self._tickets) < self.max_tickets:
            return
        self._forget(now, 0.0)
        if len(self._tickets) < self.max_tickets:
            return
        if retire is None:
            raise StoreFull(retry_after=max(1, math.ceil(self._deaths[0][0] - now)))
        self._drop(retire)

    def _forget(self, now: float, remembered: float) -> None:
        """Forget what has been dead for so many seconds."""
        while self._deaths and self._deaths[0][0] + remembered <= now:
            died_at, name = heapq.heappop(self._deaths)
            kept = self._tickets.get(name)
            if kept is not None and kept.expires_at <= died_at:
                self._drop(name)

    def _drop(self, name: str) -> None:
        kept = self._tickets.pop(name)
        family = self._families[kept.family]
        family.names.discard(name)
        if not family.names:
            del self._families[kept.family]
