"""Clients that lag, vanish and come back, against a simple model: a list of all that was sent."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.bridge.backlog import Backlog, Limits, Quota
from jupyter_token_ws.bridge.client import Client
from jupyter_token_ws.bridge.outlet import HIGH
from jupyter_token_ws.bridge.spool import FileSpool
from jupyter_token_ws.bridge.wire import Batch, Message
from jupyter_token_ws.protocol.kernel_messages import pack_json

SIZES = {"small": 10, "large": HIGH // 3}


class Line:
    """An outlet in memory: takes everything, and lets go of it when it is told to."""

    high = HIGH

    def __init__(self) -> None:
        self.closed = False
        self.queue: deque[tuple[Message, asyncio.Future[None] | None]] = deque()
        self.arrived: list[Message] = []

    @property
    def unsent_bytes(self) -> int:
        return sum(message.size for message, _ in self.queue)

    def send(self, batch: Batch) -> asyncio.Future[None] | None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        *first, last = batch.messages
        self.queue.extend((message, None) for message in first)
        self.queue.append((last, future))
        return future

    def unsent(self) -> list[Message]:
        return [message for message, _ in self.queue]

    async def carry(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            message, future = self.queue.popleft()
            self.arrived.append(message)
            if future is not None:
                future.set_result(None)
        await asyncio.sleep(0)  # whoever waits for it learns of it

    def cut(self) -> None:
        self.closed = True
        for _, future in self.queue:
            if future is not None:
                future.set_exception(OSError("gone"))
                future.exception()


def notice(parent: bytes, count: int, size: int) -> Message:
    text = f"[{count}]"
    header = pack_json({"msg_type": "notice"})
    return Message("iopub", [header, parent, b"{}", pack_json({"text": text})])


def made(number: int, kind: str, size: str) -> Message:
    text = f"<{number}>" + "x" * SIZES[size]
    content = json.dumps({"name": "stdout", "text": text}).encode()
    return Message("iopub", [pack_json({"msg_type": kind}), b"{}", b"{}", content])


def numbers(messages: list[Message]) -> list[int]:
    return [int(n) for m in messages for n in re.findall(rb"<(\d+)>", m.parts[3])]


kinds = st.sampled_from(["stream", "display_data", "status", "comm_msg"])
single = st.one_of(
    st.tuples(st.just("say"), kinds, st.sampled_from(["small", "small", "large"])),
    st.tuples(st.just("say"), kinds, st.just("small")),
    st.tuples(st.just("carry"), st.sampled_from([1, 5, 100])),
    st.just(("vanish",)),
    st.just(("return",)),
)
# More at once than a connection takes, or nearly every program would end before the backlog is used.
flood = kinds.map(lambda kind: [("say", kind, "large")] * 8)
steps = st.lists(st.one_of(single.map(lambda step: [step]), flood), max_size=30).map(
    lambda rows: [step for row in rows for step in row]
)


def run(program: list[tuple], limits: Limits) -> tuple[Client, list[Message], int]:
    """What arrived, over all its connections, and how many were said."""
    quota = Quota(2**30)
    overflowed: list[Client] = []

    async def play() -> tuple[Client, list[Message], int]:
        client = Client("s", Backlog(limits, notice, FileSpool, quota), overflowed.append)
        lines = [Line()]
        client.attach(lines[0])
        count = 0
        for step in program:
            match step:
                case ("say", kind, size):
                    client.deliver(Batch([made(count, kind, size)]))
                    count += 1
                case ("carry", number) if client.outlet is not None:
                    await lines[-1].carry(number)
                case ("vanish",) if client.outlet is not None:
                    client.detach(0)
                    lines[-1].cut()
                    await asyncio.sleep(0)
                case ("return",) if client.outlet is None:
                    lines.append(Line())
                    client.attach(lines[-1])
                case _:
                    continue
            assert client.backlog.memory_size <= limits.memory + 3 * HIGH
            if client.outlet is not None:
                assert lines[-1].unsent_bytes <= 3 * HIGH
        if client.outlet is None:
            lines.append(Line())
            client.attach(lines[-1])
        while lines[-1].queue:
            await lines[-1].carry(100)
        return client, [m for line in lines for m in line.arrived], count

    result = asyncio.run(play())
    assert quota.used == 0
    assert bool(overflowed) == result[0].backlog.overflowed
    return result


@given(steps)
def test_everything_arrives_once_and_in_order(program):
    _, arrived, count = run(program, Limits(memory=2 * HIGH, disk=2**30))
    assert numbers(arrived) == list(range(count))


@given(steps)
def test_in_little_room_only_output_is_missing_and_that_is_told(program):
    client, arrived, count = run(program, Limits(memory=8 * HIGH, disk=0))
    if client.backlog.overflowed:
        return
    got = numbers(arrived)
    assert got == sorted(set(got))
    told = sum(int(json.loads(m.parts[3])["text"][1:-1]) for m in arrived if m.type == "notice")
    assert len(got) + told == count
    said = [kind for step, kind, *_ in (s for s in program if s[0] == "say")]
    missing = set(range(count)) - set(got)
    assert {said[number] for number in missing} <= {"stream", "display_data"}


class Broken(FileSpool):
    def take(self) -> bytes:
        raise OSError("cannot be read")


def test_spool_that_cannot_be_read_is_told():
    overflowed: list[Client] = []

    async def play() -> None:
        client = Client("s", Backlog(Limits(HIGH, 2**30), notice, Broken, None), overflowed.append)
        for number in range(20):
            client.deliver(Batch([made(number, "comm_msg", "large")]))
        line = Line()
        client.attach(line)
        while line.queue:
            await line.carry(1)
        client.deliver(Batch([made(99, "comm_msg", "small")]))
        assert overflowed == [client]

    asyncio.run(play())


def test_what_is_limited_is_limited_before_it_is_kept():
    async def play() -> None:
        client = Client("s", Backlog(Limits(), notice, FileSpool), lambda client: None)
        client.limit = lambda batch: Batch(batch.messages[:1])
        client.deliver(Batch([made(1, "status", "small"), made(2, "status", "small")]))
        line = Line()
        client.attach(line)
        await line.carry(5)
        assert numbers(line.arrived) == [1]

    asyncio.run(play())


class Open(Line):
    """Takes all at once, as a fast connection does."""

    def send(self, batch: Batch) -> None:
        self.arrived += batch.messages


async def test_others_have_their_turn_while_much_is_handed_out():
    client = Client("s", Backlog(Limits(), notice, FileSpool), lambda _: None)
    for number in range(60):
        client.deliver(Batch([made(number, "display_data", "large")]))
    line = Open()
    client.attach(line)
    turns = [len(line.arrived)]
    while client.backlog:
        await asyncio.sleep(0)
        turns.append(len(line.arrived))
    assert numbers(line.arrived) == list(range(60))
    assert max(after - before for before, after in pairwise([0, *turns])) <= 4
    # A message in between comes behind them, and does not begin a second row of turns.
    client.detach(0)
    for number in range(60, 100):
        client.deliver(Batch([made(number, "display_data", "large")]))
    client.attach(line)
    client.deliver(Batch([made(100, "status", "small")]))
    client.pump()
    client.detach(0)
    await asyncio.sleep(0)
    gone = len(line.arrived)
    assert gone < 80
    await asyncio.sleep(0)
    assert len(line.arrived) == gone, "nobody is there"
    client.attach(line)
    while client.backlog:
        await asyncio.sleep(0)
    assert numbers(line.arrived) == list(range(101))


async def test_what_waits_follows_what_has_left_though_nobody_says_more():
    client = Client("s", Backlog(Limits(), notice, FileSpool), lambda _: None)
    line = Line()
    client.attach(line)
    for number in range(30):
        client.deliver(Batch([made(number, "display_data", "large")]))
    assert client.backlog
    assert HIGH <= line.unsent_bytes < 2 * HIGH
    while line.queue:
        await line.carry(1)
        assert line.unsent_bytes < 2 * HIGH
    assert numbers(line.arrived) == list(range(30))
    assert not client.backlog


class Silent(Line):
    """Says nothing when what it took has left."""

    def send(self, batch: Batch) -> None:
        self.queue.extend((message, None) for message in batch.messages)


async def test_what_waits_follows_the_next_message_too():
    client = Client("s", Backlog(Limits(), notice, FileSpool), lambda _: None)
    line = Silent()
    client.attach(line)
    for number in range(8):
        client.deliver(Batch([made(number, "display_data", "large")]))
    while line.queue:
        await line.carry(1)
    client.deliver(Batch([made(8, "status", "small")]))
    assert line.queue
    while line.queue:
        await line.carry(1)
        client.pump()
    assert numbers(line.arrived) == list(range(9))


async def test_a_connection_that_closes_is_given_nothing_more():
    """Its client may read on for seconds and never answer: all that would be kept for nobody."""
    client = Client("s", Backlog(Limits(), notice, FileSpool), lambda _: None)
    line = Line()
    client.attach(line)
    client.deliver(Batch([made(0, "display_data", "small")]))
    line.closed = True
    for number in range(1, 20):
        client.deliver(Batch([made(number, "display_data", "large")]))
        client.pump()
    assert len(line.queue) == 1
    client.detach(0)
    newer = Open()
    client.attach(newer)
    while client.backlog:
        await asyncio.sleep(0)
    assert numbers(newer.arrived) == list(range(20))
