"""Whose fault a loss is, by the kernel that counts: or a test of losses could blame the machine for ours."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.support import pacing_kernel
from tests.support.pacing_kernel import Pacing, number_in
from tests.support.process import free_port

COUNT = 60_000
REQUEST: dict[str, Any] = {"header": {"msg_id": "1", "msg_type": "execute_request"}}
CHANNELS = ("shell", "control", "stdin", "iopub")


@pytest.fixture
def kernel() -> Iterator[Pacing]:
    ports = {f"{name}_port": free_port() for name in CHANNELS}
    kernel = Pacing("plain", {"ip": "127.0.0.1", "key": secrets.token_hex(), **ports})
    yield kernel
    kernel.context.destroy(linger=0)


@pytest.fixture
def reader(kernel: Pacing) -> Iterator[zmq.Socket[bytes]]:
    """Subscribed, and with ZMQ's own high-water mark; it has a thread of its own."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(f"tcp://127.0.0.1:{kernel.port}")
        socket.subscribe(b"")
        while not socket.poll(10):
            kernel.sockets["iopub"].send(b"there?")
        yield socket


def missing(reader: zmq.Socket[bytes]) -> list[int]:
    """Numbers that a reader who begins now does not get."""
    came = set()
    while reader.poll(1000):
        text = reader.recv_multipart()[-1].decode()
        if "<" in text:
            came.add(number_in(text))
    return sorted(set(range(COUNT)) - came)


def test_who_does_not_read_is_at_fault(kernel: Pacing, reader: zmq.Socket[bytes]):
    said = kernel.say(REQUEST, count=COUNT, rate=30_000, size=1000)
    assert pacing_kernel.waiting(kernel.port) > pacing_kernel.EMPTY
    assert missing(reader)
    assert said["stalled"] == []
    assert pacing_kernel.waiting(kernel.port) == 0


def test_what_is_thrown_away_over_an_empty_connection_is_named(
    kernel: Pacing, reader: zmq.Socket[bytes], monkeypatch
):
    monkeypatch.setattr(pacing_kernel, "waiting", lambda port: 0)
    said = kernel.say(REQUEST, count=COUNT, rate=30_000, size=1000)
    lost = missing(reader)
    assert lost
    assert said["stalled"] == lost
