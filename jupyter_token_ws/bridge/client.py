"""One client of a kernel: what it has not taken, and where it is to go. It outlives its connections.

What can be written at once is; what cannot waits in the backlog until the futures of what was written
say that there is room. Nothing is polled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from .backlog import Backlog
from .outlet import Outlet
from .wire import Batch, Message

LOW = 256 * 1024
"""Bytes in a connection's buffer below which the backlog hands out again."""

PORTION = 256 * 1024
"""Bytes that the backlog hands out at a time."""


TURN = 1024 * 1024
"""Bytes that the backlog hands out before others have their turn: about a millisecond of work."""


class Owner(Protocol):
    """The connection that a client has at the moment."""

    @property
    def hears_reasons(self) -> bool:
        """Whether its client understands the codes with which it is closed."""

    def on_overflow(self) -> None:
        """The client cannot be served without loss: tell it so, and end."""

    def on_low(self) -> None:
        """The client was told to stop, and may send again."""

    def on_replaced(self) -> None:
        """The client connected anew: end."""


class Client:
    """One client.

    Args:
        key: its kernel session; ``None`` for one that cannot come back.
        backlog: for what it does not take.
        on_overflow: called, once, when even the backlog is full.
    """

    def __init__(
        self, key: str | None, backlog: Backlog, on_overflow: Callable[[Client], None]
    ) -> None:
        self.key = key
        self.backlog = backlog
        self.outlet: Outlet | None = None
        self.away_since: float | None = None
        self.said_goodbye = False
        """Whether it left in good order, and not because a connection broke."""
        self.asked = False
        """Whether the kernel waits for an answer of this client."""
        self.verified = False
        """Whether the kernel's signatures are checked for it."""
        self.owner: Owner | None = None
        self.limit: Callable[[Batch], Batch] | None = None
        self._on_overflow = on_overflow
        self._pumping = False

    @property
    def _open_outlet(self) -> Outlet | None:
        """Where messages go. One that is closed, or about to be, takes nothing, and would keep all of it."""
        outlet = self.outlet
        return None if outlet is None or outlet.closed else outlet

    def deliver(self, batch: Batch) -> None:
        """Messages from the kernel, the same for all clients."""
        outlet = self._open_outlet
        if self.limit is not None:
            batch = self.limit(batch)
        if outlet is not None and not self.backlog and outlet.unsent_bytes < outlet.high:
            self._write(outlet, batch)
            return
        overflowed = self.backlog.overflowed
        for message in batch.messages:
            self.backlog.push(message)
        if not overflowed:
            self._check()
        # Not before the connection has come down to where its futures will ask for more.
        if outlet is not None and outlet.unsent_bytes <= LOW:
            self.pump()

    def deliver_one(self, message: Message) -> None:
        """A message for this client only."""
        self.deliver(Batch([message]))

    def pump(self) -> None:
        """Hand out what waits, as far as the connection takes it; some of it at a time, so that others
        have their turn when it takes all."""
        left = TURN
        while self.backlog and (outlet := self._open_outlet) and outlet.unsent_bytes < outlet.high:
            if left <= 0:
                if not self._pumping:
                    self._pumping = True
                    asyncio.get_running_loop().call_soon(self._go_on)
                return
            try:
                taken = self.backlog.take(PORTION)
            except OSError:  # the spool cannot be read: what it held is lost, and that is told
                self.backlog.overflow()
                self._check()
                return
            left -= sum(message.size for message in taken)
            self._write(outlet, Batch(taken))

    def _go_on(self) -> None:
        self._pumping = False
        self.pump()

    def attach(self, outlet: Outlet) -> None:
        """The client is there: it gets what waits for it, and what comes."""
        self.outlet = outlet
        self.away_since = None
        self.pump()

    def detach(self, now: float) -> None:
        """The client is gone, maybe not for good: what did not get out waits for it again."""
        outlet, self.outlet = self.outlet, None
        self.owner = None
        self.away_since = now
        if outlet is not None:
            self.backlog.give_back(outlet.unsent())

    def _write(self, outlet: Outlet, batch: Batch) -> None:
        future = outlet.send(batch)
        if future is not None:
            future.add_done_callback(self._written)

    def _written(self, future: asyncio.Future[None]) -> None:
        if future.cancelled() or future.exception() is not None:
            return  # the connection is gone
        if self.backlog and self.outlet is not None and self.outlet.unsent_bytes <= LOW:
            self.pump()

    def _check(self) -> None:
        if self.backlog.overflowed:
            self._on_overflow(self)
