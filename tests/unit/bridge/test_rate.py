"""Limits, where somebody set them."""

from __future__ import annotations

import pytest

from jupyter_token_ws.bridge.rate import RateLimit
from jupyter_token_ws.bridge.wire import OVERHEAD, Batch, Message
from jupyter_token_ws.protocol.kernel_messages import pack_json


def message(kind: str, size: int = 0, state: str = "", channel: str = "iopub") -> Message:
    content = pack_json({"execution_state": state, "text": "x" * size})
    return Message(channel, [pack_json({"msg_type": kind}), b'{"msg_id": "p"}', b"{}", content])


def notice(parent: bytes, name: str) -> Message:
    return Message("iopub", [pack_json({"msg_type": name}), parent, b"{}", b"{}"])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def types(limit: RateLimit, *messages: Message) -> list[str]:
    return [each.type for each in limit(Batch(messages)).messages]


def test_messages_beyond_the_rate_are_dropped_with_a_word(clock):
    limit = RateLimit(10, 0, 1, notice, clock)
    displays = [message("display_data") for _ in range(30)]
    assert types(limit, *displays) == ["display_data"] * 10 + ["iopub_msg_rate_limit"]
    clock.now += 0.5
    assert types(limit, message("display_data")) == []
    clock.now += 0.5
    assert types(limit, message("display_data")) == ["display_data"]


def test_notice_has_the_parent_of_what_was_dropped(clock):
    limit = RateLimit(1, 0, 1, notice, clock)
    passed = limit(Batch([message("error"), message("error")])).messages
    assert passed[-1].parts[1] == b'{"msg_id": "p"}'


def test_printed_bytes_beyond_the_rate_are_dropped(clock):
    one = message("stream", 500)
    limit = RateLimit(0, 10 * (one.size - OVERHEAD), 1, notice, clock)
    assert types(limit, *[one] * 12) == ["stream"] * 10 + ["iopub_data_rate_limit"]
    # Other output has no size for this limit, but is dropped while it is exceeded.
    assert types(limit, message("display_data", 5000)) == []


def test_the_end_of_a_cell_begins_anew(clock):
    limit = RateLimit(10, 0, 1, notice, clock)
    types(limit, *[message("display_data")] * 30)
    assert types(limit, message("status", state="busy"), message("display_data")) == ["status"]
    idle = message("status", state="idle")
    assert types(limit, idle, message("display_data")) == ["status", "display_data"]


def test_what_is_never_dropped(clock):
    limit = RateLimit(1, 1, 1, notice, clock)
    types(limit, *[message("display_data")] * 30)
    always = [message(kind) for kind in ("status", "comm_open", "execute_input")]
    always.append(message("execute_reply", channel="shell"))
    assert types(limit, *always * 5) == [each.type for each in always] * 5


def test_no_limits_limit_nothing(clock):
    limit = RateLimit(0, 0, 1, notice, clock)
    assert len(types(limit, *[message("stream", 100)] * 1000)) == 1000


def test_resumes_below_four_fifths(clock):
    limit = RateLimit(10, 0, 1, notice, clock)
    for _ in range(10):
        types(limit, message("display_data"))
        clock.now += 0.05
    assert types(limit, message("display_data")) == ["iopub_msg_rate_limit"]
    clock.now += 0.59  # seven of ten are left: more than four fifths with this one
    assert types(limit, message("display_data")) == []
    clock.now += 0.1
    assert types(limit, message("display_data")) == ["display_data"]
