"""Messages in both formats, against jupyter_server's own code; and scans against a parser."""

from __future__ import annotations

import json
import struct
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

from jupyter_token_ws.bridge import wire
from jupyter_token_ws.bridge.wire import (
    BINARY,
    LARGE,
    OVERHEAD,
    TEXT,
    V1,
    Legacy,
    Message,
    find_names,
    frame_head,
    frames,
    from_zmq,
    message_type,
    parse_header,
    scan,
    together,
    wire_of,
)
from jupyter_token_ws.protocol.kernel_messages import WireError, pack_json
from jupyter_token_ws.protocol.subprotocols import KERNEL

channels = st.sampled_from(["shell", "control", "stdin", "iopub"])
texts = st.text(max_size=20)
flat = st.dictionaries(
    st.sampled_from(["msg_id", "msg_type", "session", "username", "date", "version", "x"]),
    texts,
    max_size=7,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
headers = flat | st.dictionaries(st.sampled_from(["msg_type", "msg_id", "x"]), values, max_size=3)
objects = st.dictionaries(texts, values, max_size=3)
packers = st.sampled_from(
    [
        lambda value: json.dumps(value).encode(),
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"),
        lambda value: json.dumps(value, separators=(",", ":")).encode(),
        lambda value: json.dumps(value, indent=1).encode(),
    ]
)
buffers = st.lists(st.binary(max_size=20), max_size=3)


@st.composite
def messages(draw, header=headers):
    pack = draw(packers)
    parts = [pack(draw(each)) for each in (header, flat, objects, objects)]
    return Message(draw(channels), parts + draw(buffers))


def unframe(data: bytes) -> list[tuple[int, bytes]]:
    """The frames in *data*, read by the book."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80  # final, nothing reserved
        assert data[1] & 0x80 == 0  # a server does not mask
        length, at = data[1], 2
        if length == 126:
            (length,), at = struct.unpack_from("!H", data, 2), 4
            assert length >= 126
        elif length == 127:
            (length,), at = struct.unpack_from("!Q", data, 2), 10
            assert length >= 65536
        assert len(data) >= at + length
        found.append((data[0] & 0x0F, data[at : at + length]))
        data = data[at + length :]
    return found


# -- what comes from ZMQ ---------------------------------------------------------------------------


def test_message_from_zmq():
    session = Session(key=b"secret")
    sent = session.msg("stream", {"name": "stdout", "text": "é"})
    raw = session.serialize(sent, ident=[b"kernel", b"stream"])
    message = from_zmq("iopub", [*raw, b"buffer"])
    assert message.channel == "iopub"
    assert message.signature == raw[3]
    assert message.parts == [*raw[4:], b"buffer"]
    assert message.type == "stream"
    assert message.type == "stream"  # remembered
    assert repr(message).startswith("<iopub stream ")


@pytest.mark.parametrize(
    "raw", [[b"<IDS|MSG>"] * 6, [], [b"topic"], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"", b"{}", b"{}"]]
)
def test_no_message_from_zmq(raw):
    with pytest.raises(WireError):
        from_zmq("iopub", raw)


def test_overhead_is_what_python_needs():
    parts = [bytes(100) for _ in range(4)]
    message = Message("iopub", parts, bytes(64))
    held = [message, parts, message.signature, *parts]
    needed = sum(map(sys.getsizeof, held)) - 400
    assert needed <= OVERHEAD <= 2 * needed


# -- scans -----------------------------------------------------------------------------------------


@given(headers, packers)
def test_scans_find_what_a_parser_finds(fields, pack):
    header = pack(fields)
    parsed = json.loads(header)
    expected = parsed.get("msg_type")
    assert message_type(header) == (expected if isinstance(expected, str) else "")
    assert parse_header(header) == parsed
    for key in ("msg_id", "msg_type", "x"):
        scanned = scan(header, f'"{key}"'.encode())
        assert scanned is None or scanned.decode() == parsed[key]


def test_scan_reads_what_kernels_send():
    session = Session()
    header = session.pack(session.msg_header("status"))
    for written in (header, header.replace(b": ", b":").replace(b", ", b",")):
        assert scan(written, b'"msg_type"') == b"status"


@pytest.mark.parametrize(
    "header",
    [
        b'{"username": "\\"msg_type\\": \\"stream\\"", "msg_type": "status"}',
        b'{"x": {"msg_type": "stream"}, "msg_type": "status"}',
        b'{"msg_type": "stream", "msg_type": "status"}',
        b'{"x": "msg_type", "msg_type": "status"}',
        b'{"x": ["msg_type"], "msg_type": "status"}',
        b'{"\\u006dsg_type": "status"}',
        b'{"msg_type":\n"status", "x": 1}',
    ],
)
def test_scan_is_not_deceived(header):
    assert message_type(header) == json.loads(header)["msg_type"] == "status"
    assert scan(header, b'"msg_type"') in (None, b"status")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b'"msg_type"',
        b"\xff",
        b'{"msg_type": 5}',
        b'{"msg_type": null}',
        b'{"msg_type":5',
        b'{"msg_type": "x',
        b"[" * 100_000,
    ],
)
def test_no_type(header):
    assert message_type(header) == ""


@given(st.binary(max_size=60) | st.text('{}":, \\abmsg_type', max_size=60).map(str.encode))
def test_scans_take_anything(header):
    assert isinstance(message_type(header), str)


@given(
    st.lists(
        st.builds(lambda fields, pack: pack(fields), headers, packers)
        | st.just(Session().pack(Session().msg_header("stream")))
        | st.sampled_from(
            [
                b'{"msg_id": "1", "msg_type": "a", "x": "msg_type"}',
                b'{"x": {"msg_id": "1", "msg_type": "a"}}',
                b'[{"msg_id": "1", "msg_type": "a"}]',
                b'"msg_id": "1", "msg_type": "a"',
                b'{"x": {"msg_id": "1"}, "msg_type": "a"}',
                b'{"msg_id": "\\"", "msg_type": "a"}',
                b'{"msg_id": "1", "msg_type": "a"}\0',
                b"{}",
                b"",
            ]
        ),
        min_size=1,
        max_size=5,
    )
)
def test_names_of_many_are_those_of_each(texts):
    """Whatever one header has twice and another lacks."""
    many = [Message("iopub", [text, b"{}", b"{}", b"{}"]) for text in texts]
    find_names(many)
    for message, text in zip(many, texts, strict=True):
        assert message.type == message_type(text)
        assert message.names in (None, (scan(text, b'"msg_id"'), scan(text, b'"msg_type"')))


def test_names_of_many_are_found_at_once(monkeypatch):
    session = Session()
    sent = [session.msg_header(kind) for kind in ("stream", "status", "stream")]
    many = [Message("iopub", [session.pack(each), b"{}", b"{}", b"{}"]) for each in sent]
    find_names(many)
    monkeypatch.setattr(wire, "scan", None)
    for header, message in zip(sent, many, strict=True):
        assert message.type == header["msg_type"]
        assert message.names == (header["msg_id"].encode(), header["msg_type"].encode())


# -- v1 --------------------------------------------------------------------------------------------


@given(messages())
def test_v1_as_upstream_writes_it(message):
    (data,) = frames(V1, [message])
    ((opcode, payload),) = unframe(data)
    assert opcode == BINARY
    assert payload == serialize_msg_to_ws_v1(message.parts, message.channel)
    assert deserialize_msg_from_ws_v1(payload) == (message.channel, message.parts)
    decoded = V1.decode(payload)
    assert (decoded.channel, decoded.parts) == (message.channel, message.parts)


@pytest.mark.parametrize("size", [0, 100, 65535 - 61 - 6, 65535 - 61 - 5, 65536, 200_000])
def test_v1_of_every_size(size):
    message = Message("iopub", [b"{}", b"{}", b"{}", bytes(size)])
    data = b"".join(frames(V1, [message]))
    ((opcode, payload),) = unframe(data)
    assert (opcode, payload) == (BINARY, serialize_msg_to_ws_v1(message.parts, "iopub"))


@pytest.mark.parametrize(
    "data",
    [
        "text",
        b"",
        b"\0" * 7,
        b"\xff" * 64,
        struct.pack("<3Q", 2, 24, 24),
        struct.pack("<7Q", 6, 56, 56, 56, 56, 56, 57),  # beyond the end
        struct.pack("<7Q", 6, 0, 56, 56, 56, 56, 56),  # channel within the offsets
        struct.pack("<7Q", 6, 56, 56, 56, 0, 56, 56),  # backwards
        struct.pack("<6Q", 6, 56, 56, 56, 56, 56),
    ],
)
def test_not_v1(data):
    with pytest.raises(WireError):
        V1.decode(data)


@given(st.binary(max_size=100))
def test_v1_takes_anything(data):
    try:
        message = V1.decode(data)
    except WireError:
        return
    assert len(message.parts) >= 4


# -- the format without a name ---------------------------------------------------------------------


def upstream_legacy(message: Message) -> str | bytes:
    """As upstream's connection writes it, less dates and versions, which are left as they are."""
    names = ("header", "parent_header", "metadata", "content")
    fields = {name: json.loads(part) for name, part in zip(names, message.parts, strict=False)}
    fields |= {
        "msg_id": fields["header"].get("msg_id"),
        "msg_type": fields["header"].get("msg_type"),
        "buffers": message.parts[4:],
        "channel": message.channel,
    }
    if message.parts[4:]:
        return bytes(serialize_binary_message(fields))
    return json.dumps(fields)


identified = st.builds(
    lambda fields, more: fields | more,
    headers,
    st.fixed_dictionaries({"msg_id": texts, "msg_type": texts}),
)


@given(messages(identified))
def test_legacy_as_upstream_writes_it(message):
    data = b"".join(frames(Legacy, [message]))
    ((opcode, payload),) = unframe(data)
    expected = upstream_legacy(message)
    if isinstance(expected, bytes):
        assert opcode == BINARY
        assert deserialize_binary_message(payload) == deserialize_binary_message(expected)
    else:
        assert opcode == TEXT
        assert json.loads(payload.decode()) == json.loads(expected)
    decoded = Legacy.decode(payload if opcode == BINARY else payload.decode())
    assert decoded.channel == message.channel
    assert decoded.parts[4:] == message.parts[4:]
    for got, sent in zip(decoded.parts[:4], message.parts, strict=False):
        assert json.loads(got) == json.loads(sent)


def test_legacy_text_is_utf8_whatever_a_kernel_sends():
    message = Message("iopub", [b'{"msg_type": "x"}', b"{}", b"{}", b'{"text": "\xff"}'])
    ((opcode, payload),) = unframe(b"".join(frames(Legacy, [message])))
    assert opcode == TEXT
    assert json.loads(payload.decode())["content"] == {"text": "\ufffd"}


def test_legacy_without_channel_is_for_the_shell():
    message = Legacy.decode('{"header": {"msg_type": "x", "date": "\ud800"}, "content": null}')
    assert message.channel == "shell"
    assert message.type == "x"
    assert message.parts[1:] == [b"{}", b"{}", b"{}"]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "{}",
        '{"header": 5}',
        "[" * 100_000,
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        struct.pack("!2I", 1, 9) + b"{}",
        struct.pack("!2I", 1, 4) + b"{}",
        struct.pack("!3I", 2, 12, 11) + b'{"header": {}}',
        struct.pack("!2I", 1, 8) + b"\xff",
        struct.pack("!2I", 2, 8),
        struct.pack("!I", 1),
    ],
)
def test_not_legacy(data):
    with pytest.raises(WireError):
        Legacy.decode(data)


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_legacy_takes_anything(data):
    try:
        message = Legacy.decode(data)
    except WireError:
        return
    assert len(message.parts) >= 4


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_frame_head(length):
    assert unframe(frame_head(TEXT, length) + bytes(length)) == [(TEXT, bytes(length))]


@given(st.lists(messages(identified), max_size=5), st.sampled_from([V1, Legacy]))
def test_frames_of_several_messages(many, wire):
    together_ = b"".join(frames(wire, many))
    assert together_ == b"".join(b"".join(frames(wire, [message])) for message in many)
    assert len(unframe(together_)) == len(many)


@given(st.lists(messages(identified), max_size=5), st.sampled_from([V1, Legacy]))
def test_payloads_are_those_of_the_frames_and_can_be_read_back(many, wire):
    groups = wire.payloads(many)
    payloads = [(payload, text) for text, group in groups for payload in group]
    found = unframe(b"".join(frames(wire, many)))
    assert [(payload, opcode == TEXT) for opcode, payload in found] == payloads
    assert all(a[0] is not b[0] for a, b in pairwise(groups))
    for message, (payload, text) in zip(many, payloads, strict=True):
        read = wire.read_back(payload, text)
        assert read.channel == message.channel
        assert read.parts[1:] == message.parts[1:]
        assert json.loads(read.parts[0]) == json.loads(message.parts[0])


@pytest.mark.parametrize("wire", [V1, Legacy])
def test_what_is_too_much_for_a_parser_is_read_back(wire):
    content = b'{"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b', "long": ' + b"1" * 10_000 + b"}"
    parts = [b'{"msg_id":"a","msg_type":"b"}', b"{}", b"{}", content]
    ((text, (payload,)),) = wire.payloads([Message("shell", parts)])
    read = wire.read_back(payload, text)
    assert (read.channel, read.parts) == ("shell", parts)


@pytest.mark.parametrize(
    "parts",
    [
        [b"{}", b'{"a"', b"{}", b"{}"],
        [b"{}", b"{}", b'"', b"{}"],
        [b"{}", b"{}", b"[", b"{}"],
    ],
)
def test_what_nobody_could_read_is_not_read_back(parts):
    ((text, (payload,)),) = Legacy.payloads([Message("iopub", parts)])
    with pytest.raises(ValueError, match=r"Expecting|delimiter|Unterminated"):
        json.loads(payload)
    with pytest.raises(WireError):
        Legacy.read_back(payload, text)


def test_large_parts_are_not_copied():
    large = bytes(LARGE)
    message = Message("iopub", [b"{}", b"{}", b"{}", b"{}", large, b"small", large])
    chunks = frames(V1, [message, Message("iopub", [b"{}"] * 4)])
    assert [chunk is large for chunk in chunks] == [False, True, False, True, False]
    assert len(unframe(b"".join(chunks))) == 2
    assert together([large]) == [large]


def test_wire_of_a_subprotocol():
    assert wire_of(KERNEL) is V1
    assert wire_of(None) is Legacy
    assert wire_of("") is Legacy


def test_packed_json_is_ascii():
    assert pack_json({"a": "é\ud800"}) == b'{"a":"\\u00e9\\ud800"}'
