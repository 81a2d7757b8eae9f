"""Pings for every websocket, by one timer.

Upstream pings some sockets in two ways and others not at all. The guard switches both off and asks
one question of every socket: has anything moved? Bytes received count, and so do bytes that drained
from a full buffer, because a slow reader's pong waits behind its own output. A socket that the
server itself is not reading from (it is opening, or its handler holds the client back) is not
judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tornado.ioloop import PeriodicCallback
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

if TYPE_CHECKING:
    from .registry import OpenSocket, Registry

TICK = 1.0
"""Seconds between two looks at the sockets, less where the interval is shorter."""


@dataclass
class Reading:
    """What can be seen of a socket from outside at one moment."""

    received: tuple[int, int]
    drained: int
    blocked: bool
    """Output waits in our own buffer, so the system's is full."""
    reading: bool
    """The server is waiting for the client, not the client for the server."""


@dataclass
class Pulse:
    """What the timer remembers of one socket. Times in seconds of one clock.

    ``asked_at`` is when the first ping went out to which nothing moved since.
    """

    last: Reading
    alive_at: float
    pinged_at: float
    asked_at: float | None = None

    def observe(self, now: float, reading: Reading) -> None:
        """Note whether anything moved since the last look."""
        drained = self.last.blocked and reading.drained != self.last.drained
        if reading.received != self.last.received or drained or not reading.reading:
            self.revive(now)
        self.last = reading

    def revive(self, now: float) -> None:
        """Count silence from now."""
        self.alive_at = now
        self.asked_at = None

    def pinged(self, now: float) -> None:
        """A ping went out."""
        self.pinged_at = now
        if self.asked_at is None:
            self.asked_at = now

    def dead(self, now: float, timeout: float, patience: float) -> bool:
        """Whether it was silent too long, and had a ping to answer and ``patience`` seconds for it."""
        if self.asked_at is None or now - self.alive_at < timeout:
            return False
        return now - self.asked_at >= patience


class Keepalive:
    """The timer.

    ``interval`` and ``timeout`` are in seconds; interval 0 sends no pings and drops nobody, timeout
    0 pings and drops nobody.
    ``on_tick`` is called at every look, for what else wants to be looked at. The clocks are
    arguments for the tests.
    """

    def __init__(
        self,
        registry: Registry,
        interval: float,
        timeout: float,
        *,
        on_tick: Callable[[], None] | None = None,
        on_drop: Callable[[OpenSocket, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.interval = interval
        self.timeout = timeout
        self._patience = min(interval, timeout) if timeout > 0 else interval
        self.tick_interval = min(TICK, self._patience / 5) if interval > 0 else TICK
        self._registry = registry
        self._on_tick = on_tick
        self._on_drop = on_drop
        self._clock, self._wall = clock, wall
        self._pulses: WeakKeyDictionary[OpenSocket, Pulse] = WeakKeyDictionary()
        self._last_tick, self._last_wall = clock(), wall()
        self._timer: PeriodicCallback | None = None

    def start(self) -> None:
        """Start looking, if not already; the timer ends by itself when no socket is open."""
        if self._timer is None:
            self._timer = PeriodicCallback(self.tick, self.tick_interval * 1000)
            self._timer.start()

    def stop(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def tick(self) -> None:
        """Look at every socket once."""
        now, wall = self._clock(), self._wall()
        gap = max(now - self._last_tick, wall - self._last_wall)
        self._last_tick, self._last_wall = now, wall
        if self.interval > 0:
            # The machine slept, or the loop was blocked: nobody could have answered, so ask first.
            slept = gap > self.tick_interval + self._patience / 2
            for socket in self._registry:
                self._look(socket, now, slept)
        if not len(self._registry):
            self.stop()
        if self._on_tick is not None:
            self._on_tick()

    def _look(self, socket: OpenSocket, now: float, slept: bool) -> None:
        connection: Any = socket.handler.ws_connection
        stream: Any = socket.stream
        if stream is None:
            return
        if getattr(stream, "gone", stream.closed)():
            self._registry.discard(socket.handler)  # its handler is stuck and will not tell us
            return
        if connection is None:
            return  # closing; the close handshake has a time limit of its own
        reading = read(connection, stream)
        pulse = self._pulses.get(socket)
        if pulse is None:
            self._pulses[socket] = Pulse(reading, now, now)
            return
        pulse.observe(now, reading)
        if slept:
            pulse.revive(now)
        if self.timeout > 0 and pulse.dead(now, self.timeout, self._patience):
            if self._on_drop is not None:
                self._on_drop(socket, now - pulse.alive_at)
            # No close handshake with somebody who is not there: the stream ends, and with it the
            # handler.
            stream.close()
        elif slept or now - pulse.pinged_at >= self.interval:
            try:
                connection.write_ping(b"")
            except (WebSocketClosedError, StreamClosedError):
                return
            pulse.pinged(now)


def read(connection: Any, stream: Any) -> Reading:
    """Look at a connection from outside. Bytes of a message that is still arriving count as received."""
    return Reading(
        received=(connection._wire_bytes_in, stream._read_buffer_size),
        drained=stream._total_write_done_index,
        blocked=stream.writing(),
        reading=stream.reading(),
    )
