"""What is configured for connections: ours and upstream's section."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.web import HTTPError
from traitlets import TraitError
from traitlets.config import Config
from traitlets.config.loader import DeferredConfigString

from jupyter_token_ws.bridge import connection as connection_module
from jupyter_token_ws.bridge.connection import STOCK, KernelBridgeConnection
from tests.support.waiting import auntil

OWN = KernelBridgeConnection.__name__


def configured(**sections: dict[str, Any]) -> KernelBridgeConnection:
    return KernelBridgeConnection(config=Config(sections))


@pytest.mark.parametrize(
    ("sections", "rates"),
    [
        ({}, [0, 0]),
        ({STOCK: {"iopub_msg_rate_limit": 20}}, [20, 0]),
        ({STOCK: {"iopub_data_rate_limit": 1e10}}, [0, 1e10]),
        ({OWN: {"rate_limit_window": 1}}, [0, 0]),
        ({STOCK: {"limit_rate": True}}, [1000, 1_000_000]),
        ({STOCK: {"limit_rate": False, "iopub_msg_rate_limit": 20}}, [0, 0]),
        ({STOCK: {"limit_rate": True}, OWN: {"limit_rate": False}}, [0, 0]),
        ({STOCK: {"kernel_ws_protocol": ""}}, [0, 0]),
    ],
)
def test_a_rate_is_limited_only_if_somebody_says_so(sections, rates):
    assert configured(**sections)._rates == rates


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
    assert connection._rates == [20, 0]


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


# -- what goes wrong before the 101 ----------------------------------------------------------------


def opening(monkeypatch, **kernel: Any) -> tuple[KernelBridgeConnection, Any]:
    """A connection that is about to open, to a kernel that has these attributes."""
    connection, kernel_manager = configured(), SimpleNamespace(**kernel)
    connection.kernel_info_timeout = 0.05
    monkeypatch.setattr(KernelBridgeConnection, "kernel_manager", kernel_manager)
    return connection, kernel_manager


async def test_a_kernel_that_did_not_start_is_dead_and_says_why(monkeypatch):
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ready.set_exception(RuntimeError("no such program"))
    connection, kernel = opening(monkeypatch, ready=ready)
    with pytest.raises(HTTPError, match="no such program") as error:
        await connection.prepare()
    assert error.value.status_code == 500
    assert (kernel.execution_state, kernel.reason) == ("dead", "no such program")


@pytest.mark.parametrize("ready", [None, "concurrent"])
async def test_a_process_that_does_not_come_up_is_waited_for_only_so_long(monkeypatch, ready):
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_result(None)
    monkeypatch.setattr(connection_module, "ALIVE_INTERVAL", 0.01)
    connection, _ = opening(monkeypatch, ready=ready and future, is_alive=lambda: False)
    with pytest.raises(TimeoutError, match="alive"):
        await connection.prepare()


async def test_a_kernel_that_ends_while_somebody_connects(kernel, monkeypatch):
    prepare = KernelBridgeConnection.prepare

    async def and_then(self: Any) -> None:
        await prepare(self)
        self._hub.close()

    monkeypatch.setattr(KernelBridgeConnection, "prepare", and_then)
    client = await kernel.open()
    await client.knock.wait_closed()
    await auntil(lambda: kernel.connections == 0)
    await client.knock.close()


async def test_what_comes_after_the_end_is_nobody_s(caplog):
    caplog.set_level(logging.DEBUG)
    connection = configured()
    connection.handle_incoming_message("late")
    connection.on_low()
    assert connection.waiting is None
    assert "closed websocket" in caplog.text


async def test_what_is_no_message_ends_the_connection(kernel):
    async with kernel.client() as client:
        await client.knock.send(b"nonsense")
        await client.knock.wait_closed()
        assert (client.knock.code, client.knock.slug) == (4400, "bad_request")


async def test_a_server_that_ends_closes_what_kernels_have(kernel):
    async with kernel.client() as client:
        await client.run("1")
        hub = kernel.hub
        kernel.bridge.close()
        assert hub.closed
        assert len(kernel.bridge) == 0
