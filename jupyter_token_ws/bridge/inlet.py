"""What clients send to one channel of a kernel, in turn. No I/O.

ZMQ takes messages without bound if it is let, and a kernel that is busy may take none. So only a few are
handed to ZMQ at a time, the others wait here, by client; each client in turn gets one out, so that
nobody waits behind another's thousand. A client with much waiting is told to stop.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Sender = TypeVar("Sender")

WINDOW = 16
"""Messages handed to ZMQ that it has not taken."""

HIGH = 1024 * 1024
"""Bytes of one client that may wait before it is told to stop."""

LOW = HIGH // 2
"""Bytes of one client down to which it is told to go on."""


class Inlet(Generic[Sender]):
    """One channel.

    Args:
        write: hands a message to ZMQ.
        on_low: called when a client that was told to stop may go on.
    """

    def __init__(
        self, write: Callable[[list[bytes]], None], on_low: Callable[[Sender], None]
    ) -> None:
        self._write = write
        self._on_low = on_low
        self._queues: OrderedDict[Sender, deque[list[bytes]]] = OrderedDict()
        self._sizes: dict[Sender, int] = {}
        self._stopped: set[Sender] = set()
        self._written = 0
        self._held = False

    def hold(self) -> None:
        """Hand on nothing until ``release``."""
        self._held = True

    def release(self) -> None:
        """Hand on what waits, and what comes."""
        self._held = False
        self._feed()

    def put_first(self, raw: list[bytes]) -> None:
        """Send a message of our own: at once, though others are held."""
        self._written += 1
        self._write(raw)

    def put(self, sender: Sender, raw: list[bytes]) -> bool:
        """Send a message, now or in its turn; whether the client may send more."""
        if self._written < WINDOW and not self._queues and not self._held:
            self._written += 1
            self._write(raw)
            return True
        self._queues.setdefault(sender, deque()).append(raw)
        self._sizes[sender] = self._sizes.get(sender, 0) + sum(map(len, raw))
        if self._sizes[sender] > HIGH:
            self._stopped.add(sender)
        return sender not in self._stopped

    def waiting(self, sender: Sender) -> int:
        """Bytes of a client that wait here."""
        return self._sizes.get(sender, 0)

    def taken(self) -> None:
        """ZMQ took a message."""
        self._written -= 1
        self._feed()

    def _feed(self) -> None:
        while self._written < WINDOW and self._queues and not self._held:
            sender, queue = self._queues.popitem(last=False)
            raw = queue.popleft()
            self._sizes[sender] -= sum(map(len, raw))
            if queue:
                self._queues[sender] = queue
            else:
                del self._sizes[sender]
            self._written += 1
            self._write(raw)
            if sender in self._stopped and self.waiting(sender) <= LOW:
                self._stopped.remove(sender)
                self._on_low(sender)

    def take_over(self, other: Inlet[Sender]) -> None:
        """What waits there waits here: the same channel has another socket."""
        self._queues, other._queues = other._queues, OrderedDict()
        self._sizes, other._sizes = other._sizes, {}
        self._stopped, other._stopped = other._stopped, set()
        self._held = other._held
        self._feed()

    def drop(self, sender: Sender) -> None:
        """Forget what waits of a client that will not come back."""
        self._queues.pop(sender, None)
        self._sizes.pop(sender, None)
        self._stopped.discard(sender)

    def clear(self) -> None:
        """Forget what waits; who was told to stop may go on."""
        self._queues.clear()
        self._sizes.clear()
        self._written = 0
        stopped, self._stopped = self._stopped, set()
        for sender in stopped:
            self._on_low(sender)
