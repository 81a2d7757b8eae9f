"""A connection that keeps what it has sent until the other side has it.

Where streams of a tunnel meet those who write more than a client may take: both know of this, and neither
of the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Keeping(Protocol):
    """What may stand for tornado's protocol, and offers this beside it (see ``refusal.carried_protocol``).

    All raise ``ConnectionError`` where the connection is gone.
    """

    def send_small(self, payloads: Sequence[bytes], *, text: bool) -> int:
        """Send as many of some messages as the other side has room for; how many these are."""

    def send_long(self, payload: bytes, *, text: bool) -> asyncio.Future[None]:
        """Send a message, in parts as room comes; the future tells when all of it has gone."""

    def unacknowledged(self) -> list[tuple[bytes, bool]]:
        """The messages that were sent so and that the other side has not said to have, oldest first, each
        with whether it is text. Also when the connection is gone."""
