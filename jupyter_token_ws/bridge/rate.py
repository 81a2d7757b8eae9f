"""The limits on a client's output that jupyter_server has, for who sets them. No I/O.

The backlog does without: nothing is dropped because it comes fast. Where an administrator set a limit,
it holds as upstream's: over a window, messages and bytes of printed text are counted; beyond the limit
output is dropped, with a word to the client, until the rate is below four fifths of it. The end of a
cell begins a new count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .wire import OVERHEAD, Batch, Message, parse_header

UNCOUNTED = frozenset({"status", "comm_open", "execute_input"})
"""Types that are never dropped, nor counted."""

RESUME = 0.8
"""Times the limit: below that what was dropped begins to pass again."""


class RateLimit:
    """One client.

    Args:
        messages: per second; 0 for any number.
        data: bytes of printed text per second; 0 for any number.
        window: seconds over which is counted.
        notice: makes the message that says which limit was exceeded, from parent header and name.
        clock: seconds.
    """

    def __init__(
        self,
        messages: float,
        data: float,
        window: float,
        notice: Callable[[bytes, str], Message],
        clock: Callable[[], float],
    ) -> None:
        self._limits = {"iopub_msg_rate_limit": messages, "iopub_data_rate_limit": data}
        self._window = window
        self._notice = notice
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._counted: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._exceeded: set[str] = set()

    def __call__(self, batch: Batch) -> Batch:
        """What of it passes, and what is to be said."""
        passed: list[Message] = []
        for message in batch.messages:
            passed += self._pass(message)
        return Batch(passed)

    def _pass(self, message: Message) -> list[Message]:
        kind = message.type
        if message.channel != "iopub":
            return [message]
        if kind == "status" and parse_header(message.parts[3]).get("execution_state") == "idle":
            self._forget()
        if kind in UNCOUNTED:
            return [message]
        now = self._clock()
        size = message.size - OVERHEAD if kind == "stream" else 0
        while self._counted and self._counted[0][0] <= now:
            self._bytes -= self._counted.popleft()[1]
        rates = {
            "iopub_msg_rate_limit": (len(self._counted) + 1) / self._window,
            "iopub_data_rate_limit": (self._bytes + size) / self._window,
        }
        told: list[Message] = []
        for name, limit in self._limits.items():
            if limit > 0 and rates[name] > limit and name not in self._exceeded:
                self._exceeded.add(name)
                told.append(self._notice(message.parts[1], name))
            elif rates[name] < RESUME * limit:
                self._exceeded.discard(name)
        if self._exceeded:
            return told
        self._counted.append((now + self._window, size))
        self._bytes += size
        return [message]
