"""Receiving from real ZMQ sockets, also from kernels that send what is no message."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from zmq.eventloop.zmqstream import ZMQStream

from jupyter_token_ws.bridge import channels
from jupyter_token_ws.bridge.channels import (
    BURST_BYTES,
    BURST_FIRST,
    BURST_LEAST,
    DRAIN_BYTES,
    DRAIN_MESSAGES,
    MARK_MOST,
    Burst,
    Channel,
    bursts,
)
from jupyter_token_ws.bridge.wire import OVERHEAD, V1, Message
from tests.support.waiting import auntil

LOG = logging.getLogger("channels")
PARTS = [b"sig", b'{"msg_type": "x"}', b"{}", b"{}", b"{}"]
GOOD = [b"topic", b"<IDS|MSG>", *PARTS]


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    context = zmq.Context()
    ours, theirs = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    ours.bind("inproc://pair")
    theirs.connect("inproc://pair")
    yield ours, theirs
    for each in (ours, theirs):
        each.close(0)
    context.term()


class Ear:
    """A channel and what it gave."""

    def __init__(self, socket: Any) -> None:
        self.wakes: list[int] = []
        self.messages: list[Message] = []
        self.channel = Channel("iopub", ZMQStream(socket), self.hear, lambda sender: None, LOG)

    def hear(self, messages: list[Message]) -> None:
        self.wakes.append(len(messages))
        self.messages += messages


async def test_many_per_wake_up_and_never_too_many(pair):
    ours, theirs = pair
    for number in range(500):
        theirs.send_multipart([*GOOD[:-1], b"%d" % number, b"buffer"])
    ear = Ear(ours)
    await auntil(lambda: len(ear.messages) == 500, "all messages")
    assert len(ear.wakes) <= 4
    assert max(ear.wakes) <= DRAIN_MESSAGES + 1
    assert [message.parts[3] for message in ear.messages] == [b"%d" % n for n in range(500)]
    assert ear.messages[0].parts[4:] == [b"buffer"]
    assert ear.messages[0].signature == b"sig"
    ear.channel.close()


async def test_large_ones_are_handed_on_in_portions(pair):
    """And after each others have their turn."""
    ours, theirs = pair
    for _ in range(100):
        theirs.send_multipart([*GOOD[:-1], bytes(2**16)])
    ear = Ear(ours)
    ear.channel._receive(ours.recv_multipart(copy=False))
    whole = DRAIN_BYTES // 2**16
    assert ear.wakes == [whole]
    await auntil(lambda: len(ear.messages) == 100)
    assert max(ear.wakes) <= whole
    ear.channel.close()


async def test_large_buffers_are_not_copied(pair):
    """What is looked into is bytes, however large it is, and so is what is small."""
    ours, theirs = pair
    large = bytes(range(256)) * 512
    for _ in range(2):
        theirs.send_multipart([*GOOD[:-1], large, large, b"small"])
    ear = Ear(ours)
    await auntil(lambda: len(ear.messages) == 2, "both messages")
    for message in ear.messages:
        assert [type(part) for part in message.parts] == [bytes] * 4 + [memoryview, bytes]
        assert message.parts[3:] == [large, large, b"small"]
        assert message.size == OVERHEAD + sum(map(len, [*PARTS[1:4], large, large, b"small"]))
        assert b"".join(V1.payload(message)[1]).endswith(large + large + b"small")
    ear.channel.close()


@pytest.mark.parametrize(
    "odd",
    [
        [b"no delimiter"],
        [b"topic", b"<IDS|MSG>"],
        [b"topic", b"<IDS|MSG>", b"sig", b"{}"],
        [b"<IDS|MSG>", b"sig", b"{}", b"{}"],
        [b"topic", b"<IDS|MSG>", b"sig", b"<IDS|MSG>", b"{}", b"{}", b"{}"],
    ],
)
async def test_what_is_no_message_costs_at_most_its_neighbour(pair, odd):
    ours, theirs = pair
    for message in (odd, GOOD, GOOD, odd, GOOD, GOOD, GOOD, odd):
        theirs.send_multipart(message)
    ear = Ear(ours)
    await auntil(lambda: len(ear.messages) >= 3)
    await asyncio.sleep(0)
    theirs.send_multipart([*GOOD, b"last"])
    await auntil(lambda: any(message.parts[4:] == [b"last"] for message in ear.messages))
    assert all(message.type == "x" for message in ear.messages)
    ear.channel.close()


async def test_flush_takes_what_is_there_without_waiting(pair):
    ours, theirs = pair
    ear = Ear(ours)
    for _ in range(300):
        theirs.send_multipart(GOOD)
    ear.channel.flush()
    assert len(ear.messages) == 300
    ear.channel.close()
    ear.channel.flush()
    ear.channel.close()


async def test_sends_in_turn(pair):
    ours, theirs = pair
    ear = Ear(ours)
    ear.channel.hold()
    assert ear.channel.send("ann", [b"one"])
    ear.channel.send_own([b"own"])
    ear.channel.release()
    theirs.rcvtimeo = 60_000
    received: list[bytes] = []
    while len(received) < 2:
        await asyncio.sleep(0)
        if theirs.poll(0):
            received.append(theirs.recv())
    assert received == [b"own", b"one"]
    ear.channel.close()


async def test_an_error_in_what_hears_does_not_make_it_deaf(pair, caplog):
    ours, theirs = pair
    ear = Ear(ours)
    heard: list[int] = []

    def fail(messages: list[Message]) -> None:
        heard.append(len(messages))
        raise RuntimeError("not mine")

    ear.channel._on_messages = fail
    for _ in range(500):
        theirs.send_multipart(GOOD)
    await auntil(lambda: sum(heard) == 500, "all messages")
    assert "Cannot hand on" in caplog.text
    ear.channel.close()


@pytest.fixture
def published() -> Iterator[tuple[Any, Any]]:
    """A subscription that stands, and who publishes to it and waits for nobody."""
    kernel = SimpleNamespace(context=zmq.Context())
    with bursts(kernel):
        ours = kernel.context.socket(zmq.SUB)
    theirs = kernel.context.socket(zmq.XPUB)
    theirs.sndhwm = 0
    port = theirs.bind_to_random_port("tcp://127.0.0.1")
    ours.subscribe(b"")
    ours.connect(f"tcp://127.0.0.1:{port}")
    assert theirs.recv() == b"\x01"
    yield ours, theirs
    for each in (ours, theirs):
        each.close(0)
    kernel.context.term()


@pytest.mark.parametrize("seed", range(20))
def test_whoever_waits_for_room_is_told_of_it_whatever_sizes_come(published, seed):
    ours, theirs = published
    burst = Burst(ours)
    chance = random.Random(seed)
    count, size = 50_000, 2**22
    for _ in range(count):
        theirs.send(b"message")
    left = count
    while left:
        assert ours.poll(60_000), f"{left} of {count} never came"
        portion = 0
        for _ in range(chance.randrange(1, DRAIN_MESSAGES)):
            try:
                ours.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            portion += 1
        left -= portion
        if chance.random() < 0.3:
            size = chance.choice([1, 1000, 50_000, 2**20, 2**22])
        burst.received(portion, size)


@pytest.mark.parametrize("read", [1, 31, 66, 500, 17_000])
@pytest.mark.parametrize("most", [MARK_MOST, 0])
def test_a_large_message_behind_many_small_ones_stops_nothing(published, monkeypatch, read, most):
    """Each is read before the next is sent: the writer has not been told of most of them."""
    monkeypatch.setattr(channels, "MARK_MOST", most)
    ours, theirs = published
    burst = Burst(ours)
    sizes = [100] * read + [400_000] + [100] * 300 + [2**22] * 100
    for number, size in enumerate(sizes):
        theirs.send(b"message")
        assert ours.poll(60_000), f"message {number} never came"
        ours.recv()
        burst.received(1, size)
    assert ours.rcvhwm == BURST_LEAST or most == 0


def test_the_larger_messages_are_the_fewer_may_come_at_once(published):
    ours, _ = published
    burst = Burst(ours)
    assert ours.rcvhwm == BURST_FIRST
    burst.received(1, BURST_BYTES)
    assert ours.rcvhwm == BURST_LEAST
    burst.received(BURST_LEAST - 1, 1)
    assert ours.rcvhwm == BURST_LEAST
    burst.received(1, 1)
    assert ours.rcvhwm == 2 * BURST_LEAST
    for _ in range(100):
        burst.received(BURST_BYTES, 1000)
    assert ours.rcvhwm == BURST_BYTES // 1024


@pytest.mark.parametrize("own", [None, 77])
def test_only_sockets_of_the_bridge_begin_with_its_mark(own):
    kernel = SimpleNamespace(context=zmq.Context())
    if own is not None:
        kernel.context.rcvhwm = own
    with bursts(kernel), kernel.context.socket(zmq.SUB) as ours:
        assert ours.rcvhwm == BURST_FIRST
    with kernel.context.socket(zmq.SUB) as another:
        assert another.rcvhwm == (own or 1000)
        Burst(another)  # raises nothing
        assert another.rcvhwm == (64 if own else 512)
    kernel.context.term()


def test_a_kernel_that_connects_in_another_way_may():
    context = SimpleNamespace(sockopts={})
    for kernel in (SimpleNamespace(), SimpleNamespace(context=context)):
        with bursts(kernel):
            assert context.sockopts == {}
