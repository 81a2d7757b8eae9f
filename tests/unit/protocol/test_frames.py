"""Frames: each is read as it was written, and what is none is refused."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.frames import (
    FIN,
    MAX_DATA,
    MAX_STREAM,
    MAX_TEXT,
    TEXT,
    Frame,
    FrameError,
    Kind,
    decode,
    encode,
)

STREAMS = st.integers(1, MAX_STREAM)
COUNTS = st.integers(0, 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
FRAMES = st.one_of(
    st.builds(frames.open_frame, STREAMS, NAMES, st.lists(NAMES, max_size=3), COUNTS),
    st.builds(frames.opened_frame, STREAMS, st.none() | NAMES, COUNTS),
    st.builds(Frame, st.just(Kind.DATA), STREAMS, st.binary(max_size=200), st.integers(0, 3)),
    STREAMS.map(lambda stream: Frame(Kind.END, stream)),
    st.builds(frames.close_frame, STREAMS | st.just(0), st.none() | st.integers(1000, 4999), NAMES),
    st.builds(frames.ack_frame, COUNTS, COUNTS),
    st.builds(frames.credit_frame, STREAMS, COUNTS),
    COUNTS.map(lambda count: frames.hello_frame({"received": count})),
)


@given(st.lists(FRAMES, max_size=10))
def test_frames_are_read_as_they_were_written(many):
    assert list(decode(b"".join(map(encode, many)))) == many


@given(st.binary(max_size=200))
def test_what_is_none_is_refused_and_nothing_else_happens(data):
    try:
        read = list(decode(data))
    except FrameError:
        return
    assert b"".join(map(encode, read)) == data


@given(st.lists(FRAMES, min_size=1, max_size=3), st.data())
def test_what_is_cut_is_refused(many, data):
    whole = b"".join(map(encode, many))
    ends = {0}
    for frame in many:
        ends.add(max(ends) + len(encode(frame)))
    at = data.draw(st.integers(0, len(whole)))
    if at in ends:
        assert len(list(decode(whole[:at]))) == sorted(ends).index(at)
    else:
        with pytest.raises(FrameError, match="is cut"):
            list(decode(whole[:at]))


def raw(kind: int, stream: int = 1, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">BBII", kind, flags, stream, len(payload)) + payload


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (raw(0), "no such kind"),
        (raw(6), "no such kind"),
        (raw(15), "no such kind"),
        (raw(19), "no such kind"),
        (raw(255), "no such kind"),
        (raw(Kind.DATA, stream=0), "no data"),
        (raw(Kind.DATA, stream=MAX_STREAM + 1), "no data"),
        (raw(Kind.DATA, flags=4), "no data"),
        (raw(Kind.DATA, payload=bytes(MAX_DATA + 1)), "no data"),
        (raw(Kind.OPEN, stream=0), "not as its kind"),
        (raw(Kind.OPEN, stream=MAX_STREAM + 1), "not as its kind"),
        (raw(Kind.OPEN, flags=FIN), "not as its kind"),
        (raw(Kind.OPEN, payload=b" " * (MAX_TEXT + 1)), "not as its kind"),
        (raw(Kind.OPENED, stream=0), "not as its kind"),
        (raw(Kind.END, stream=0), "not as its kind"),
        (raw(Kind.END, payload=b"x"), "not as its kind"),
        (raw(Kind.CREDIT, stream=0, payload=bytes(8)), "not as its kind"),
        (raw(Kind.CREDIT, payload=bytes(7)), "not as its kind"),
        (raw(Kind.ACK, stream=1, payload=bytes(16)), "not as its kind"),
        (raw(Kind.ACK, stream=0, payload=bytes(8)), "not as its kind"),
        (raw(Kind.HELLO, stream=1, payload=b"{}"), "not as its kind"),
        (raw(Kind.END)[:9], "header is cut"),
        (raw(Kind.DATA, payload=b"abc")[:-1], "payload is cut"),
    ],
)
def test_frames_that_are_none(data, why):
    with pytest.raises(FrameError, match=why):
        list(decode(data))


def test_the_largest_are_read():
    largest = [
        Frame(Kind.DATA, MAX_STREAM, bytes(MAX_DATA), FIN | TEXT),
        Frame(Kind.HELLO, 0, json.dumps({"received": 0, "x": "y" * (MAX_TEXT - 24)}).encode()),
        Frame(Kind.CLOSE, 0),
    ]
    assert list(decode(b"".join(map(encode, largest)))) == largest


def test_what_comes_before_a_bad_frame_is_read():
    reading = decode(raw(Kind.END) + raw(0))
    assert next(reading) == Frame(Kind.END, 1)
    with pytest.raises(FrameError):
        next(reading)


# -- payloads ----------------------------------------------------------------------------------------


@given(NAMES, st.lists(NAMES, max_size=3), COUNTS)
def test_open(path, offered, credit):
    assert frames.read_open(frames.open_frame(1, path, offered, credit).payload) == (
        path,
        offered,
        credit,
    )


@given(st.none() | NAMES, COUNTS)
def test_opened(subprotocol, credit):
    payload = frames.opened_frame(1, subprotocol, credit).payload
    assert frames.read_opened(payload) == (subprotocol, credit)


@given(st.integers(1000, 4999), st.text(st.characters(exclude_categories=["Cs"])))
def test_close(code, reason):
    read, told = frames.read_close(frames.close_frame(1, code, reason).payload)
    assert read == code
    assert reason.startswith(told)
    assert len(told.encode()) <= 123
    assert told == reason or len(told.encode()) > 119


def test_close_without_code():
    assert frames.close_frame(1, None, "unheard") == Frame(Kind.CLOSE, 1)
    assert frames.read_close(b"") == (None, "")


@given(COUNTS, COUNTS)
def test_counts(one, other):
    assert frames.read_ack(frames.ack_frame(one, other).payload) == (one, other)
    assert frames.read_credit(frames.credit_frame(1, one).payload) == one


def test_hello():
    said = {"received": 7, "tunnel": "x"}
    assert frames.read_hello(frames.hello_frame(said).payload) == said
    assert frames.received_of(said) == 7


def test_a_path_that_is_too_long_is_not_asked_for():
    with pytest.raises(FrameError, match="too long"):
        frames.open_frame(1, "x" * MAX_TEXT, [], 0)


OPEN = {"path": "x", "subprotocols": [], "credit": 1}


@pytest.mark.parametrize(
    ("read", "payload"),
    [
        (frames.read_open, b""),
        (frames.read_open, b"[" * 5000),
        (frames.read_open, b"\xff"),
        (frames.read_open, []),
        (frames.read_open, {}),
        (frames.read_open, OPEN | {"path": None}),
        (frames.read_open, OPEN | {"subprotocols": "x"}),
        (frames.read_open, OPEN | {"subprotocols": ["x", 1]}),
        (frames.read_open, OPEN | {"credit": -1}),
        (frames.read_open, OPEN | {"credit": True}),
        (frames.read_open, OPEN | {"credit": 1.0}),
        (frames.read_open, OPEN | {"credit": 2**63}),
        (frames.read_opened, {"subprotocol": "x"}),
        (frames.read_opened, {"credit": 1}),
        (frames.read_opened, {"subprotocol": 1, "credit": 1}),
        (frames.read_opened, {"subprotocol": "x", "credit": None}),
        (frames.read_hello, {}),
        (frames.read_close, b"x"),
        (frames.read_close, b"\x03\xe7"),
        (frames.read_close, b"\x13\x88"),
        (frames.read_close, b"\x03\xe8" + b"x" * 124),
        (frames.read_close, b"\x03\xe8\xff"),
    ],
    ids=lambda given: getattr(given, "__name__", None) or repr(given)[:40],
)
def test_payloads_that_are_none(read, payload):
    with pytest.raises(FrameError):
        read(payload if isinstance(payload, bytes) else json.dumps(payload).encode())


def test_what_newer_versions_add_is_passed_over():
    assert frames.read_open(json.dumps(OPEN | {"new": 1}).encode()) == ("x", [], 1)
