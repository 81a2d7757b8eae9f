"""What ``/metrics`` says of the bridge: what waits for clients, and what they never got."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jupyter_token_ws.guard.metrics import Tally, Watched, make

if TYPE_CHECKING:
    from .server import Bridge

KERNELS = make(Watched, "bridge_kernels", "Kernels whose sockets go through the bridge.")
CLIENTS = make(
    Watched,
    "bridge_clients",
    "Clients of kernels, connected (state=here) or waited for (state=away).",
    ("state",),
)
BACKLOG_BYTES = make(
    Watched,
    "backlog_bytes",
    "What clients have not taken, in memory (place=memory) and in temporary files (place=disk).",
    ("place",),
)
MESSAGES_CUT = make(
    Tally,
    "messages_cut_total",
    "Messages of output that a client gets a notice in place of, because there was no room.",
)


def watch(bridge: Bridge) -> None:
    """Count what belongs to a bridge, as long as it lives."""
    KERNELS.watch(bridge, lambda bridge: {(): len(bridge)})
    CLIENTS.watch(bridge, _clients)
    BACKLOG_BYTES.watch(bridge, _backlog_bytes)


def _clients(bridge: Bridge) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter({("here",): 0, ("away",): 0})
    found.update(("away" if client.outlet is None else "here",) for client in bridge.clients())
    return found


def _backlog_bytes(bridge: Bridge) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter({("memory",): 0, ("disk",): 0})
    for client in bridge.clients():
        backlog = client.backlog
        found["memory",] += backlog.memory_size
        found["disk",] += backlog.size - backlog.memory_size
    return found
