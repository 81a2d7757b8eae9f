"""Which kernels go through the bridge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

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


def test_one_bridge_for_an_application():
    settings: dict[str, Any] = {}
    bridge = Bridge.of(settings)
    assert Bridge.of(settings) is settings[SETTING] is bridge
    assert len(bridge) == 0
    bridge.close()
