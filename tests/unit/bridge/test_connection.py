"""What is configured for connections: ours and upstream's section."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets import TraitError
from traitlets.config import Config
from traitlets.config.loader import DeferredConfigString

from jupyter_token_ws.bridge.connection import STOCK, KernelBridgeConnection

OWN = KernelBridgeConnection.__name__


def configured(**sections: dict[str, Any]) -> KernelBridgeConnection:
    return KernelBridgeConnection(config=Config(sections))


@pytest.mark.parametrize(
    ("sections", "limited"),
    [
        ({}, False),
        ({STOCK: {"iopub_msg_rate_limit": 20}}, True),
        ({STOCK: {"iopub_data_rate_limit": 1e6}}, True),
        ({OWN: {"rate_limit_window": 1}}, True),
        ({STOCK: {"limit_rate": True}}, True),
        ({STOCK: {"limit_rate": False, "iopub_msg_rate_limit": 20}}, False),
        ({STOCK: {"limit_rate": True}, OWN: {"limit_rate": False}}, False),
        ({STOCK: {"kernel_ws_protocol": ""}}, False),
    ],
)
def test_rates_are_limited_only_if_somebody_says_so(sections, limited):
    assert configured(**sections)._limited is limited


def test_our_section_counts_more_than_upstream_s():
    both = configured(
        **{
            STOCK: {"iopub_msg_rate_limit": 20, "iopub_data_rate_limit": 30},
            OWN: {"iopub_msg_rate_limit": 40},
        }
    )
    assert (both.iopub_msg_rate_limit, both.iopub_data_rate_limit) == (40, 30)
    assert configured(**{STOCK: {"kernel_ws_protocol": ""}}).kernel_ws_protocol == ""


def test_what_stands_on_the_command_line_counts():
    """There it is text, whose type is not known yet."""
    connection = configured(**{STOCK: {"iopub_msg_rate_limit": DeferredConfigString("20")}})
    assert connection.iopub_msg_rate_limit == 20
    assert connection._limited


@pytest.mark.parametrize("section", [STOCK, OWN])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iopub_msg_rate_limit", -1.0),
        ("iopub_data_rate_limit", float("nan")),
        ("rate_limit_window", 0),
        ("rate_limit_window", float("inf")),
    ],
)
def test_what_is_wrong_is_named(section, name, value):
    with pytest.raises(TraitError, match=name):
        configured(**{section: {name: value}})


def test_defaults_are_upstream_s():
    stock = ZMQChannelsWebsocketConnection.class_traits(config=True)
    for name in ("iopub_msg_rate_limit", "iopub_data_rate_limit", "rate_limit_window"):
        trait = KernelBridgeConnection.class_traits(config=True)[name]
        assert trait.default_value == stock[name].default_value
        assert "econd" in str(trait.help)


def test_a_message_without_socket_is_nobody_s():
    handler = SimpleNamespace(settings={})
    connection = KernelBridgeConnection.__new__(KernelBridgeConnection)
    KernelBridgeConnection.__init__(connection)
    del handler
    connection.handle_incoming_message("late")
    connection.on_low()
    assert connection.waiting is None
