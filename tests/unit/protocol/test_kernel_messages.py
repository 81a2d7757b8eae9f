"""Kernel messages on a websocket: each is read as it was written, and what is none is refused."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.protocol.kernel_messages import (
    MAX_PARTS,
    KernelMessage,
    WireError,
    decode,
    encode,
    join_legacy,
    join_v1,
    new_message,
    split_legacy,
    split_v1,
)
from jupyter_token_ws.protocol.subprotocols import KERNEL

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
OBJECTS = st.dictionaries(
    st.text(max_size=10),
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS),
    max_size=4,
)
NAMES = st.text("abcdefgh_", min_size=1, max_size=20)
MESSAGES = st.builds(
    KernelMessage,
    channel=st.sampled_from(["shell", "control", "stdin", "iopub"]),
    header=OBJECTS.map(lambda fields: {**fields, "msg_id": "1"}),
    parent_header=OBJECTS,
    metadata=OBJECTS,
    content=OBJECTS,
    buffers=st.lists(st.binary(max_size=50), max_size=3).map(tuple),
)


@given(MESSAGES, st.sampled_from([KERNEL, None]))
def test_each_is_read_as_it_was_written(message, subprotocol):
    written = encode(message, subprotocol)
    read = decode(written, subprotocol)
    assert read == message
    assert read.size == len(written)
    if subprotocol is None:
        assert isinstance(written, bytes) is bool(message.buffers)


@given(st.binary(max_size=200) | st.text(max_size=50), st.sampled_from([KERNEL, None]))
def test_what_is_none_is_refused_and_nothing_else_happens(data, subprotocol):
    try:
        message = decode(data, subprotocol)
    except WireError:
        return
    assert message.channel or subprotocol == KERNEL


@given(MESSAGES, st.sampled_from([KERNEL, None]), st.data())
def test_one_that_is_cut_is_refused_or_lacks_what_was_cut(message, subprotocol, data):
    written = encode(message, subprotocol)
    cut = data.draw(st.integers(0, len(written) - 1))
    try:
        read = decode(written[:cut], subprotocol)
    except WireError:
        return
    assert isinstance(written, bytes)
    assert subprotocol is None  # its last buffer has no end
    assert replace(read, buffers=()) == replace(message, buffers=())


def test_a_message_of_ours():
    parent = {"msg_id": "p"}
    message = new_message("stdin", "input_reply", {"value": "x"}, "s", parent=parent)
    assert (message.channel, message.type, message.parent_id) == ("stdin", "input_reply", "p")
    assert message.header["session"] == "s"
    assert len(message.id) == 32
    assert message.id != new_message("shell", "x", {}, "s").id


def test_names_that_are_no_text_are_none():
    message = KernelMessage("iopub", {"msg_type": 1, "msg_id": None}, {"msg_id": ["x"]})
    assert (message.type, message.id, message.parent_id) == ("", "", "")


def test_what_is_no_json_is_not_written():
    with pytest.raises(TypeError):
        encode(KernelMessage("shell", {}, content={"x": object()}), KERNEL)


def v1(count: int, *offsets: int, rest: bytes = b"") -> bytes:
    return struct.pack(f"<{len(offsets) + 1}Q", count, *offsets) + rest


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("text", "text instead"),
        (b"", "unpack_from"),
        (v1(5, *range(5)), "5 offsets"),
        (v1(2**63, *range(7)), "offsets in"),
        (v1(6, 0, *range(57, 62)), "out of order"),
        (v1(6, 56, 56, 56, 56, 56, 57), "out of order"),
        (v1(6, 56, 56, 58, 57, 58, 59, rest=b"abc"), "out of order"),
        (v1(6, 56), "offsets in"),
        (b"".join(join_v1("iopub", [b"{}", b"{}", b"{}", b"["])), "no JSON"),
        (b"".join(join_v1("iopub", [b"{}", b"{}", b"{}", b"[]"])), "no object"),
        (b"".join(join_v1("iopub", [b"{}", b"{}", b"{}", b"[" * 100_000])), "no JSON"),
    ],
)
def test_what_is_no_message_of_v1(data, said):
    with pytest.raises(WireError, match=said):
        decode(data, KERNEL)


def test_v1_needs_as_many_offsets_as_it_says():
    with pytest.raises(WireError, match="unpack_from"):
        split_v1(v1(7, 1, 2, 3, 4, 5, 6))


HEADER = {"msg_id": "1", "msg_type": "x"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no object"),
        ("{}", "a part is missing"),
        (json.dumps({"header": HEADER}), "no channel"),
        (json.dumps({"header": HEADER, "channel": 1}), "no channel"),
        (json.dumps({"header": HEADER, "channel": "iopub", "content": [1]}), "no object"),
        (b"", "unpack_from"),
        (struct.pack("!I", 0), "0 offsets"),
        (struct.pack("!II", 2**31, 8), "offsets in"),
        (struct.pack("!II", 1, 4), "out of order"),
        (struct.pack("!III", 2, 13, 12), "out of order"),
        (struct.pack("!II", 1, 9), "out of order"),
        (struct.pack("!IH", 1, 1), "unpack_from"),
        (b"".join(join_legacy(b"{}", [])), "a part is missing"),
    ],
)
def test_what_is_no_message_of_the_older_format(data, said):
    with pytest.raises(WireError, match=said):
        decode(data, None)


def test_parts_that_are_missing_are_empty_in_the_older_format():
    read = decode(json.dumps({"header": HEADER, "channel": "iopub"}), None)
    assert read == KernelMessage("iopub", HEADER)


def test_buffers_are_split_where_they_were_joined():
    assert split_legacy(b"".join(join_legacy(b"{}", [b"", b"ab"]))) == [b"{}", b"", b"ab"]
    parts = [b"{}"] * 4 + [b"", b"ab"]
    assert split_v1(b"".join(join_v1("iopub", parts))) == ("iopub", parts)


@pytest.mark.parametrize(("subprotocol", "number"), [(KERNEL, "<Q"), (None, "!I")])
@pytest.mark.parametrize(("count", "said"), [(MAX_PARTS + 1, "offsets in"), (MAX_PARTS, "no JSON")])
def test_more_parts_than_anybody_sends(subprotocol, number, count, said):
    """They are empty, and their list takes a multiple of the message."""
    first = struct.calcsize(number) * (count + 1)
    with pytest.raises(WireError, match=said):
        decode(struct.pack(number, count) + struct.pack(number, first) * count, subprotocol)
