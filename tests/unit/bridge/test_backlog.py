"""What waits for a client: nothing lost, doubled or reordered but by the stated rule; and the bounds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.bridge.backlog import (
    AGAIN,
    ALL,
    CHUNK,
    DROPPABLE,
    MERGED_MAX,
    NOTICE_SIZE,
    OUTPUT,
    PARENTS_MAX,
    Backlog,
    Limits,
    Quota,
)
from jupyter_token_ws.bridge.spool import FileSpool
from jupyter_token_ws.bridge.wire import OVERHEAD, Message
from jupyter_token_ws.protocol.kernel_messages import pack_json

PLENTY = Limits(memory=2**20, disk=2**20)


def make(kind: str, number: int, parent: str = "p", size: int = 0, name: str = "stdout") -> Message:
    """A message that says which it is."""
    text = f"<{number}>" + "x" * size
    content = {"name": name, "text": text} if kind == "stream" else {"text": text}
    header = pack_json({"msg_id": str(number), "msg_type": kind})
    parts = [header, pack_json({"msg_id": parent}), b"{}", json.dumps(content).encode()]
    return Message("iopub" if kind != "execute_reply" else "shell", parts, b"signature")


def notice(parent: bytes, count: int, size: int) -> Message:
    header = pack_json({"msg_type": "notice"})
    return Message("iopub", [header, parent, b"{}", pack_json({"count": count, "size": size})])


def numbers(messages: list[Message]) -> list[int]:
    """Which messages these are, merged ones taken apart."""
    found: list[int] = []
    for message in messages:
        found += map(int, re.findall(rb"<(\d+)>", message.parts[3]))
    return found


def new(limits: Limits = PLENTY, quota: Quota | None = None, spool=FileSpool) -> Backlog:
    return Backlog(limits, notice, spool, quota)


def everything(backlog: Backlog) -> list[Message]:
    taken: list[Message] = []
    while backlog:
        taken += backlog.take(1000)
    return taken


# -- against a model -------------------------------------------------------------------------------

KINDS = ["stream", "display_data", "status", "execute_reply", "comm_msg", "error", "clear_output"]
pushes = st.tuples(
    st.just("push"),
    st.sampled_from(KINDS),
    st.sampled_from("pq"),
    st.sampled_from([0, 0, 0, 400, 3000]),
)
steps = st.lists(
    st.one_of(
        pushes,
        pushes,
        st.tuples(st.just("burst"), st.sampled_from(KINDS), st.just("p"), st.integers(1, 40)),
        st.tuples(st.just("take"), st.sampled_from([1, 2000, 100_000])),
        st.tuples(st.just("lose"), st.integers(0, 3)),
    ),
    max_size=40,
)
limits = st.builds(
    Limits, memory=st.sampled_from([4000, 20_000]), disk=st.sampled_from([0, 8000, 60_000])
)


class Model:
    """A list of all that was pushed, and what must be true of what came out."""

    def __init__(self, bounds: Limits) -> None:
        self.quota = Quota(2 * bounds.disk)
        self.backlog = new(bounds, self.quota)
        self.bounds = bounds
        self.pushed: list[Message] = []
        self.delivered: list[Message] = []
        self.largest = 0
        self.returned = 0

    def push(self, kind: str, parent: str, size: int) -> None:
        message = make(kind, len(self.pushed), parent, size)
        self.pushed.append(message)
        self.largest = max(self.largest, message.size)
        self.backlog.push(message)

    def run(self, step: tuple) -> None:
        match step:
            case ("push", kind, parent, size):
                self.push(kind, parent, size)
            case ("burst", kind, parent, count):
                for _ in range(count):
                    self.push(kind, parent, 0)
            case ("take", budget):
                taken = self.backlog.take(budget)
                assert bool(taken) or not self.backlog
                assert len(taken) == 1 or sum(message.size for message in taken[:-1]) <= budget + (
                    PARENTS_MAX * NOTICE_SIZE
                )
                self.delivered += taken
            case ("lose", count):
                # The connection is gone before the last of them got out.
                lost = self.delivered[len(self.delivered) - count :] if count else []
                del self.delivered[len(self.delivered) - len(lost) :]
                self.backlog.give_back(lost)
                self.returned += sum(message.size for message in lost)
        self.check_bounds()

    def check_bounds(self) -> None:
        backlog, bounds = self.backlog, self.bounds
        assert backlog.memory_size <= bounds.memory + 2 * self.largest + self.returned
        assert 0 <= self.quota.used <= bounds.disk
        assert (backlog.size == 0) == (len(backlog) == 0)

    def check_delivery(self) -> None:
        """All that was pushed came out, in order, or is counted in a notice where it is missing."""
        waiting = iter(self.pushed)
        missing: Counter[bytes] = Counter()
        for message in self.delivered:
            if message.type == "notice":
                told = json.loads(message.parts[3])
                missing[message.parts[1]] -= told["count"]
                continue
            for number in numbers([message]):
                for cut in waiting:
                    if cut is self.pushed[number]:
                        break
                    assert cut.type in DROPPABLE
                    missing[cut.parts[1]] += 1
                else:
                    pytest.fail(f"{number} came twice or too late")
                assert message.parts[1] == self.pushed[number].parts[1]
                assert message.channel == self.pushed[number].channel
            assert not +missing, "cut without a word before the next message"
        for cut in waiting:
            assert cut.type in DROPPABLE
            missing[cut.parts[1]] += 1
        assert not any(missing.values())


@given(steps, limits)
def test_nothing_is_lost_doubled_or_reordered_but_by_the_rule(program, bounds):
    model = Model(bounds)
    for step in program:
        model.run(step)
    if not model.backlog.overflowed:
        model.delivered += everything(model.backlog)
        model.check_delivery()
    assert not model.backlog
    assert model.quota.used == 0
    assert model.backlog.memory_size == model.backlog.size == 0


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([0, 500])), max_size=60))
def test_where_there_is_room_nothing_is_cut(program):
    backlog = new(Limits(memory=8000, disk=2**20))
    pushed = [make(kind, number, size=size) for number, (kind, size) in enumerate(program)]
    for message in pushed:
        backlog.push(message)
    assert numbers(everything(backlog)) == list(range(len(pushed)))
    assert backlog.cut_count == 0


# -- merging ---------------------------------------------------------------------------------------


def test_printed_text_is_merged_where_it_waits():
    backlog = new()
    for number in range(100):
        backlog.push(make("stream", number))
    (message,) = everything(backlog)
    assert numbers([message]) == list(range(100))
    assert json.loads(message.parts[3])["name"] == "stdout"
    assert json.loads(message.parts[0])["msg_id"] == "0"


def test_a_single_message_stays_as_it_is():
    backlog = new()
    message = make("stream", 1)
    backlog.push(message)
    other = make("stream", 2, parent="q")
    backlog.push(other)
    assert everything(backlog) == [message, other]


def test_half_merged_is_not_a_new_message():
    backlog = new()
    first, other = make("stream", 1), make("stream", 2, size=MERGED_MAX)
    backlog.push(first)
    backlog.push(other)
    assert everything(backlog) == [first, other]


@given(st.lists(st.text(), min_size=2, max_size=5), st.booleans())
def test_merged_text_is_the_text(pieces, ascii_only):
    backlog = new()
    for text in pieces:
        content = json.dumps({"name": "stderr", "text": text}, ensure_ascii=ascii_only)
        header = b'{"msg_type": "stream"}'
        backlog.push(Message("iopub", [header, b"{}", b"{}", content.encode()]))
    (message,) = everything(backlog)
    assert json.loads(message.parts[3]) == {"name": "stderr", "text": "".join(pieces)}


def stream(content: bytes, parent: bytes = b"{}", metadata: bytes = b"{}") -> Message:
    return Message("iopub", [b'{"msg_type": "stream"}', parent, metadata, content])


PLAIN = stream(b'{"name": "stdout", "text": "a"}')


@pytest.mark.parametrize(
    "other",
    [
        stream(b'{"name": "stderr", "text": "a"}'),
        stream(b'{"text": "a", "name": "stdout"}'),
        stream(b'{"name": "stdout", "text": "a", "more": "b"}'),
        stream(b'{"name": "stdout", "text": "a\\"}'),
        stream(b'{"name": "stdout", "text": "a"}', parent=b'{"msg_id": 1}'),
        stream(b'{"name": "stdout", "text": "a"}', metadata=b'{"a": 1}'),
        stream(b"nonsense"),
        Message("iopub", [*PLAIN.parts, b"buffer"]),
        Message("iopub", [b'{"msg_type": "display_data"}', *PLAIN.parts[1:]]),
    ],
)
def test_what_differs_is_not_merged(other):
    for order in ([PLAIN, other], [other, PLAIN]):
        backlog = new()
        for message in order:
            backlog.push(message)
        assert everything(backlog) == order


def test_merging_goes_on_behind_what_is_spooled():
    backlog = new(Limits(memory=8000, disk=2**20))
    for number in range(2000):
        backlog.push(make("stream", number, size=10))
        if number == 1500:
            backlog.push(make("status", 5000))
    assert backlog.spooling
    messages = everything(backlog)
    assert len(messages) < 30
    assert [n for n in numbers(messages) if n != 5000] == list(range(2000))


# -- bounds ----------------------------------------------------------------------------------------


def test_size_of_a_message_counts_what_python_needs():
    backlog = new()
    backlog.push(make("status", 1))
    assert backlog.memory_size > OVERHEAD


def test_spooled_messages_come_back_as_they_were():
    backlog = new(Limits(memory=4000, disk=2**20))
    pushed = [make("comm_msg", number) for number in range(50)]
    for message in pushed:
        message.parts.append(bytes([message.parts[0][-3]]) * 5)
        backlog.push(message)
    assert backlog.spooling
    assert backlog.memory_size <= 4000
    got = everything(backlog)
    assert [(m.channel, m.parts, m.signature) for m in got] == [
        (m.channel, m.parts, m.signature) for m in pushed
    ]
    assert not backlog.spooling


def test_room_in_memory_is_no_room_for_what_comes_behind_the_spool():
    bounds = Limits(memory=16_000, disk=20_000)
    quota = Quota(2**20)
    backlog = new(bounds, quota)
    message = make("comm_msg", 0, size=500)
    while quota.used + message.size <= bounds.disk:
        backlog.push(message)
    taken = backlog.take(3 * message.size)
    assert len(taken) == 3
    backlog.push(message)
    assert backlog.overflowed


def test_one_message_larger_than_the_bound_goes_through():
    for bounds in (Limits(memory=1000, disk=0), Limits(memory=1000, disk=2000)):
        backlog = new(bounds)
        for kind in ("display_data", "comm_msg"):
            message = make(kind, 1, size=10_000)
            backlog.push(message)
            assert everything(backlog) == [message]


def test_behind_a_message_larger_than_the_bound_the_rule_is_as_ever():
    backlog = new(Limits(memory=64_000, disk=0))
    backlog.push(make("display_data", 0, size=500_000))
    backlog.push(make("status", 1))
    for number in range(2, 102):
        backlog.push(make("display_data", number, size=1000))
    backlog.push(make("status", 102))
    assert not backlog.overflowed
    messages = everything(backlog)
    assert [message.type for message in messages[-2:]] == ["notice", "status"]
    kept = numbers(messages)
    assert kept == [*range(len(kept) - 1), 102]
    assert backlog.cut_count == 103 - len(kept)


def test_output_is_cut_with_a_notice_and_all_else_stays():
    backlog = new(Limits(memory=32_000, disk=0))
    for number in range(100):
        backlog.push(make("display_data", number))
    backlog.push(make("status", 100))
    assert not backlog.overflowed
    messages = everything(backlog)
    (told,) = [message for message in messages if message.type == "notice"]
    kept = len(messages) - 2
    assert messages.index(told) == kept
    assert json.loads(told.parts[3])["count"] == 100 - kept == backlog.cut_count
    size = json.loads(told.parts[3])["size"]
    assert size == sum(make("display_data", n).size - OVERHEAD for n in range(kept, 100))
    assert json.loads(told.parts[1]) == {"msg_id": "p"}
    assert numbers(messages[-1:]) == [100]


def test_what_was_cut_last_is_told_though_nothing_follows():
    backlog = new(Limits(memory=32_000, disk=0))
    for number in range(100):
        backlog.push(make("display_data", number))
    assert everything(backlog)[-1].type == "notice"


def test_notices_tell_parents_apart():
    backlog = new(Limits(memory=2**16, disk=0))
    backlog.push(make("comm_msg", 0, size=2**16 - 2**13))
    for number in range(2 * PARENTS_MAX):
        backlog.push(make("display_data", number, parent=str(number % 3), size=2**13))
    told = [json.loads(m.parts[3])["count"] for m in everything(backlog) if m.type == "notice"]
    assert told == [11, 11, 10]


def test_one_notice_for_one_request_however_its_header_is_written():
    backlog = new(Limits(memory=2**16, disk=0))
    backlog.push(make("comm_msg", 0, size=2**16 - 2**13))
    header = {"msg_id": "1", "session": "s"}
    for number, items in enumerate([header.items(), reversed(header.items())]):
        message = make("display_data", number, size=2**13)
        backlog.push(
            Message("iopub", [message.parts[0], pack_json(dict(items)), *message.parts[2:]])
        )
    (told,) = [m for m in everything(backlog) if m.type == "notice"]
    assert json.loads(told.parts[3])["count"] == 2


def test_notices_are_counted_where_things_are_spooled():
    quota = Quota(40_000)
    backlog = new(Limits(memory=16_000, disk=40_000), quota)
    while not backlog.cut_count:
        backlog.push(make("display_data", 0, size=1000))
    used = quota.used
    for parent in "qr":
        backlog.push(make("display_data", 0, parent=parent))
    assert quota.used == used + 2 * NOTICE_SIZE
    assert [m.type for m in everything(backlog)][-3:] == ["notice"] * 3
    assert quota.used == 0


def test_text_behind_a_notice_is_not_merged_into_the_text_before():
    backlog = new(Limits(memory=32_000, disk=0))
    backlog.push(make("stream", 0, size=25_000))
    backlog.push(make("stream", 1, size=5000))
    backlog.take(1)
    backlog.push(make("stream", 2))
    assert [m.type for m in everything(backlog)] == ["notice", "stream"]


def test_many_parents_need_several_notices():
    bounds = Limits(memory=40 * NOTICE_SIZE * 8, disk=0)
    backlog = new(bounds)
    for _ in range(5):
        backlog.push(make("comm_msg", 0, size=7 * NOTICE_SIZE * 8))
    for number in range(PARENTS_MAX + 1):
        backlog.push(make("display_data", number, parent=str(number), size=NOTICE_SIZE))
        backlog.push(make("display_data", number, parent=str(number), size=NOTICE_SIZE))
    messages = everything(backlog)
    assert [m.type for m in messages] == ["comm_msg"] * 5 + ["notice"] * (PARENTS_MAX + 1)
    assert {json.loads(m.parts[3])["count"] for m in messages[5:]} == {2}


def test_output_is_cut_until_there_is_room_worth_it():
    bounds = Limits(memory=32_000, disk=0)
    backlog = new(bounds)
    message = make("display_data", 0, size=400)
    while not backlog.cut_count:
        backlog.push(message)
    assert len(backlog.take(3 * message.size)) == 3
    backlog.push(message)
    assert backlog.cut_count == 2, "there is room for it, but not yet for what may follow"
    backlog.take(8000)
    backlog.push(message)
    assert backlog.cut_count == 2


@pytest.mark.parametrize("disk", [0, 20_000])
def test_when_even_the_reserve_is_full_it_is_told(disk):
    quota = Quota(disk)
    backlog = new(Limits(memory=8000, disk=disk), quota)
    for number in range(1000):
        backlog.push(make("comm_msg", number))
    assert backlog.overflowed
    assert not backlog
    assert quota.used == 0
    backlog.push(make("status", 1))
    backlog.give_back([make("status", 2)])
    assert not backlog.take(1)


def test_when_there_is_no_room_for_a_notice_it_is_told():
    backlog = new(Limits(memory=4000, disk=0))
    backlog.push(make("comm_msg", 0, size=3000))
    backlog.push(make("display_data", 1, size=3000))
    assert backlog.overflowed


def test_output_is_not_cut_where_the_connection_shall_end():
    backlog = new(Limits(memory=4000, disk=0, close=True))
    for number in range(10):
        backlog.push(make("display_data", number))
    assert backlog.overflowed
    assert backlog.cut_count == 0


def test_the_server_s_quota_counts_too():
    said: list[int] = []
    quota = Quota(20_000, lambda: said.append(quota.used))
    one, two = new(Limits(memory=4000, disk=2**20), quota), new(Limits(4000, 2**20), quota)
    for number in range(15):
        one.push(make("comm_msg", number))
    assert one.spooling
    for number in range(40):
        two.push(make("display_data", number))
    assert two.cut_count
    assert said
    assert quota.used <= quota.limit
    two.clear()
    one.clear()
    assert quota.used == 0


def test_quota_says_once_that_it_is_used_up():
    said: list[int] = []
    quota = Quota(800, lambda: said.append(quota.used))
    quota.used = 650
    assert quota.has_room(50, OUTPUT)
    assert not quota.has_room(50, AGAIN)
    assert not said, "that what is cut goes on to be cut is no news"
    for _ in range(3):
        assert not quota.has_room(51, OUTPUT)
    assert not quota.has_room(151, ALL)
    assert said == [650]
    quota.release(40)
    assert not quota.has_room(91, OUTPUT)
    assert said == [650], "output is not kept again yet"
    quota.release(10)
    assert not quota.has_room(101, OUTPUT)
    assert said == [650, 600]


def test_own_bound_is_not_that_of_all():
    said: list[int] = []
    quota = Quota(20_000, lambda: said.append(quota.used))
    backlog = new(Limits(memory=4000, disk=16_000), quota)
    for number in range(100):
        backlog.push(make("display_data", number))
    assert backlog.cut_count
    assert not said


def test_one_large_message_goes_through_where_all_is_used_up():
    quota = Quota(20_000)
    backlog = new(Limits(memory=4000, disk=2**20), quota)
    quota.used = quota.limit
    message = make("display_data", 1, size=3000)
    backlog.push(message)
    assert everything(backlog) == [message]


class FullDisk(FileSpool):
    """Takes so many chunks."""

    def __init__(self, chunks: int = 0) -> None:
        super().__init__()
        self.chunks = chunks

    def append(self, data: Sequence[bytes]) -> None:
        if not self.chunks:
            raise OSError(28, "No space left on device")
        self.chunks -= 1
        super().append(data)


@pytest.mark.parametrize("chunks", [0, 3])
def test_on_a_full_disk_output_is_cut_and_all_else_stays(chunks):
    quota = Quota(2**20)
    errors: list[OSError] = []
    bounds = Limits(memory=64_000, disk=2**20)
    backlog = Backlog(bounds, notice, lambda: FullDisk(chunks), quota, errors.append)
    for number in range(100):
        backlog.push(make("display_data", number, size=1000))
    backlog.push(make("status", 100))
    assert not backlog.overflowed
    assert len(errors) == 1, "said once"
    assert backlog.memory_size <= bounds.memory
    messages = everything(backlog)
    (told,) = [message for message in messages if message.type == "notice"]
    kept = len(messages) - 2
    assert kept > 10 + 10 * chunks
    assert json.loads(told.parts[3])["count"] == 100 - kept
    assert numbers(messages) == [*range(kept), 100]
    assert quota.used == 0


def test_a_disk_that_was_full_is_tried_again_when_nothing_waits():
    spools = [FullDisk(), FullDisk(9)]
    backlog = new(Limits(memory=64_000, disk=2**20), spool=lambda: spools.pop(0))
    for _ in range(2):
        for number in range(30):
            backlog.push(make("comm_msg", number, size=1000))
        assert numbers(everything(backlog)) == list(range(30))
    assert not spools


def test_what_is_large_has_room_again_when_nothing_waits():
    backlog = new(Limits(memory=64_000, disk=2**20), spool=FullDisk)
    for number in range(30):
        backlog.push(make("comm_msg", number, size=1000))
    assert numbers(backlog.take(10**6)) + numbers(backlog.take(10**6)) == list(range(30))
    large = make("display_data", 30, size=40_000)
    backlog.push(make("status", 31))
    backlog.push(large)
    assert backlog.cut_count == 0


def test_a_full_disk_bounds_what_is_never_cut_too():
    backlog = new(Limits(memory=4000, disk=2**20), spool=FullDisk)
    for number in range(20):
        backlog.push(make("comm_msg", number))
    assert backlog.overflowed


# -- what overflowed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("comm_msg", Limits(memory=8000, disk=0)),
        ("comm_msg", Limits(memory=8000, disk=20_000)),
        ("display_data", Limits(memory=8000, disk=20_000, close=True)),
        ("stream", Limits(memory=8000, disk=0, close=True)),
    ],
)
def test_after_an_overflow_all_that_was_lost_is_told_and_it_goes_on(kind, limits):
    backlog = new(limits)
    pushed = [make(kind, number, parent=str(number // 50), size=100) for number in range(100)]
    for message in pushed:
        backlog.push(message)
    assert backlog.overflowed
    backlog.give_back(pushed[:1])
    backlog.resume()
    backlog.push(make("status", 100))
    told, last = everything(backlog)
    lost = json.loads(told.parts[3])
    assert told.parts[1] == pushed[-1].parts[1], "told where the last of it was"
    assert lost["count"] == 101
    size = sum(message.size - OVERHEAD for message in [pushed[0], *pushed])
    assert size * 0.4 < lost["size"] <= size, "merged text has fewer headers"
    assert numbers([last]) == [100]


def test_what_was_cut_before_the_overflow_is_in_its_count():
    backlog = new(Limits(memory=2**16, disk=0))
    for number in range(100):
        backlog.push(make("display_data", number, size=2000))
    for number in range(100, 150):
        backlog.push(make("comm_msg", number, size=1000))
    assert backlog.overflowed
    backlog.resume()
    (told,) = everything(backlog)
    assert json.loads(told.parts[3])["count"] == 150


def test_what_is_given_back_comes_first():
    backlog = new()
    for number in range(6):
        backlog.push(make("status", number))
    taken = backlog.take(10_000)
    backlog.push(make("status", 6))
    backlog.give_back(taken[2:])
    assert numbers(everything(backlog)) == [2, 3, 4, 5, 6]


def test_the_spool_is_written_in_small_pieces():
    """However much memory there is: others wait meanwhile."""
    sizes: list[int] = []

    class Measured(FileSpool):
        def append(self, data: Sequence[bytes]) -> None:
            sizes.append(sum(map(len, data)))
            super().append(data)

    backlog = new(Limits(memory=8 * CHUNK, disk=20 * CHUNK), spool=Measured)
    for number in range(80):
        backlog.push(make("display_data", number, size=CHUNK // 8))
    assert numbers(everything(backlog)) == list(range(80))
    assert sizes
    assert max(sizes) < 1.5 * CHUNK


def test_clear_closes_the_spool():
    spools = []

    def opened() -> FileSpool:
        spools.append(FileSpool())
        return spools[-1]

    backlog = new(Limits(memory=4000, disk=2**20), spool=opened)
    for number in range(50):
        backlog.push(make("comm_msg", number))
    (spool,) = spools
    backlog.clear()
    assert not backlog
    with pytest.raises(IndexError):
        spool.take()
    backlog.clear()


def test_a_shell_message_of_a_droppable_name_is_no_output():
    backlog = new(Limits(memory=64_000, disk=0))
    odd = make("display_data", 0, size=1000)
    odd = Message("shell", odd.parts)
    for _ in range(100):
        backlog.push(odd)
    assert backlog.overflowed
