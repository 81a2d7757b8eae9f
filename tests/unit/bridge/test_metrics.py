"""What ``/metrics`` says of a bridge: read from what it holds at the moment."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from jupyter_token_ws.bridge import metrics
from jupyter_token_ws.bridge.backlog import Backlog, Limits
from jupyter_token_ws.bridge.server import Bridge
from jupyter_token_ws.bridge.spool import FileSpool
from jupyter_token_ws.bridge.wire import Message
from jupyter_token_ws.guard.metrics import PREFIX
from jupyter_token_ws.protocol.kernel_messages import pack_json


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(PREFIX + name, labels) or 0


def notice(parent: bytes, count: int, size: int) -> Message:
    return Message("iopub", [b"{}", parent, b"{}", b"{}"])


def output() -> Message:
    return Message("iopub", [pack_json({"msg_type": "display_data"}), b"{}", b"{}", b"x" * 10_000])


class Bridged(Bridge):
    """A bridge with these clients, and no kernels to keep."""

    def __init__(self, *clients: Any) -> None:
        super().__init__()
        self._hubs = {"k": SimpleNamespace(clients=clients)}  # type: ignore[dict-item]


def a_client(outlet: object, limits: Limits) -> Any:
    return SimpleNamespace(outlet=outlet, backlog=Backlog(limits, notice, FileSpool))


@pytest.fixture(autouse=True)
def nothing_left_of_other_tests():
    gc.collect()


def test_what_waits_and_for_whom():
    names = [("backlog_bytes", {"place": place}) for place in ("memory", "disk")]
    names += [("bridge_clients", {"state": state}) for state in ("here", "away")]
    names.append(("bridge_kernels", {}))

    def read() -> list[float]:
        return [sample(name, **labels) for name, labels in names]

    before = read()
    here, away = a_client(object(), Limits()), a_client(None, Limits(memory=100_000))
    bridge = Bridged(here, away, a_client(None, Limits()))
    here.backlog.push(output())
    for _ in range(100):
        away.backlog.push(output())
    assert away.backlog.spooling
    memory = here.backlog.memory_size + away.backlog.memory_size
    disk = 101 * output().size - memory
    assert 0 < memory < disk
    assert [now - then for now, then in zip(read(), before, strict=True)] == [memory, disk, 1, 2, 1]
    away.backlog.clear()
    assert sample("backlog_bytes", place="disk") == before[1]
    del bridge
    gc.collect()
    assert read() == before


def test_what_was_cut_stays_counted():
    before = sample("messages_cut_total")
    backlog = Backlog(Limits(memory=100_000, disk=0), notice, FileSpool)
    for _ in range(100):
        backlog.push(output())
    cut = backlog.cut_count
    assert cut > 80
    assert sample("messages_cut_total") - before == cut
    del backlog
    assert sample("messages_cut_total") - before == cut


def test_what_was_lost_while_nobody_was_there_is_counted_with_its_notice():
    before = sample("messages_cut_total")
    backlog = Backlog(Limits(memory=100_000, disk=0, close=True), notice, FileSpool)
    for _ in range(100):
        backlog.push(output())
    assert sample("messages_cut_total") == before
    backlog.resume()
    assert sample("messages_cut_total") - before == 100


async def test_a_bridge_is_watched_from_the_start(door):
    bridge = Bridge.of(door.app.web_app.settings)
    for metric in (metrics.KERNELS, metrics.CLIENTS, metrics.BACKLOG_BYTES):
        assert bridge in metric._readers
