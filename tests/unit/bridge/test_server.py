"""Which kernels go through the bridge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_token_ws.bridge.backlog import ALL
from jupyter_token_ws.bridge.hub import BridgeOptions
from jupyter_token_ws.bridge.server import SETTING, Bridge, wanted_for


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"jupyter_token_ws": {"bridge": False}}, False),
        ({"jupyter_token_ws": {"bridge": True}}, True),
        ({"jupyter_token_ws": {}}, True),
        ({"jupyter_token_ws": False}, True),
        ({}, True),
        (None, True),
    ],
)
def test_kernelspec_decides(metadata, expected):
    kernel = SimpleNamespace(kernel_spec=SimpleNamespace(metadata=metadata))
    assert wanted_for(kernel) is expected


def test_kernel_without_spec():
    assert wanted_for(SimpleNamespace())
    assert wanted_for(SimpleNamespace(kernel_spec=None))


def test_kernel_that_goes_without_is_told_to_the_log(caplog):
    caplog.set_level("INFO")
    spec = SimpleNamespace(metadata={"jupyter_token_ws": {"bridge": False}})
    kernel = SimpleNamespace(kernel_name="stock", kernel_spec=spec)
    watched: list[str] = []
    manager = SimpleNamespace(
        get_kernel=lambda _: kernel,
        start_watching_activity=watched.append,
        restart_kernel=None,
        remove_kernel=None,
    )
    bridge = Bridge()
    bridge.watch(manager)
    manager.start_watching_activity("an id")
    assert watched == ["an id"]
    assert len(bridge) == 0
    (record,) = caplog.records
    assert record.levelname == "INFO"
    said = "Kernel an id is without the bridge: the metadata of its kernelspec 'stock' says so"
    assert record.getMessage() == said


def test_one_bridge_for_an_application():
    settings: dict[str, Any] = {}
    bridge = Bridge.of(settings)
    assert Bridge.of(settings) is settings[SETTING] is bridge
    assert len(bridge) == 0
    bridge.close()


def test_a_disk_that_is_used_up_is_told_to_the_log(caplog):
    bridge = Bridge(BridgeOptions(disk_total=1_500_000))
    assert bridge.quota.has_room(1_500_000, ALL)
    assert not caplog.records
    for _ in range(2):
        assert not bridge.quota.has_room(1_500_001, ALL)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "backlog_disk_total is used up, 0.0 of 1.5 MB" in record.getMessage()
