"""What the benchmarks count must be what came."""

import json
import socket
import struct
from unittest.mock import Mock

import pytest
from jupyter_client.session import Session

from benchmarks import channels, client
from benchmarks.channels import HEAD, Channels
from benchmarks.emitter import make_output, read_code
from benchmarks.loss import read_cell

ASKED = b"0123456789abcdef"
REPLY = b'"execute_reply" ' + ASKED
IDLE = b'"idle" ' + ASKED


def _cell(*messages):
    return ((len(message), message) for message in messages)


def _cell_without_end(*messages):
    yield from _cell(*messages)
    raise TimeoutError


def test_what_did_not_come_is_lost():
    messages = (b"#00000000 #00000001", b"#00000004", REPLY, IDLE)
    assert read_cell(_cell(*messages), 6, ASKED) == (3, REPLY)


def test_idle_state_may_come_before_the_reply():
    assert read_cell(_cell(b"#00000000", IDLE, REPLY), 1, ASKED) == (0, REPLY)


def test_silence_is_the_end_after_the_reply_only():
    assert read_cell(_cell_without_end(REPLY, b"#00000000"), 2, ASKED)[0] == 1
    with pytest.raises(TimeoutError):
        read_cell(_cell_without_end(b"#00000000"), 2, ASKED)


@pytest.mark.parametrize("numbers", [b"#00000001 #00000000", b"#00000001 #00000001"])
def test_disorder_and_doubles_are_no_result(numbers):
    with pytest.raises(client.AnswerError):
        read_cell(_cell(numbers, REPLY, IDLE), 2, ASKED)


def _frame(payload, opcode=2):
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, size) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


@pytest.fixture(name="ends")
def _ends():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname(), 10)
        there, _ = listener.accept()
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with here, there:
        yield here, there


def _channels(here, *, whole=False):
    made = Channels(Mock(port=1, token=""), "id", whole=whole)
    made._socket.close()
    made._socket = here
    return made


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("cut", [1, 3, 7, 4096])
def test_messages_are_read_however_they_are_cut(ends, whole, cut):
    here, there = ends
    payloads = [bytes([number]) * size for number, size in enumerate((2, 125, 126, 5000, 70000, 9))]
    data = b"".join(map(_frame, payloads))
    reader = _channels(here, whole=whole)
    got = []
    for at in range(0, len(data), cut):
        there.sendall(data[at : at + cut])
        got += reader.read()
    while len(got) < len(payloads):
        got += reader.read()
    kept = [payload if whole else payload[:HEAD] for payload in payloads]
    assert got == list(zip(map(len, payloads), kept, strict=True))


def test_close_frame_is_no_message(ends):
    here, there = ends
    there.sendall(_frame(struct.pack("!H", 1000), channels._CLOSE))
    with pytest.raises(client.AnswerError):
        _channels(here).read()


@pytest.mark.parametrize("kind", ["stream", "display_data"])
def test_emitter_numbers_and_signs_what_it_sends(kind):
    session = Session(key=b"secret")
    asked = session.msg("execute_request")
    made = list(make_output(session, asked, 3, 50, kind=kind, buffer=4))
    messages = []
    for message in made:
        _, parts = session.feed_identities(message)
        messages.append(session.deserialize(parts))
    assert len({each["header"]["msg_id"] for each in messages}) == 3
    for number, each in enumerate(messages):
        content = each["content"]
        text = content["text"] if kind == "stream" else content["data"]["text/plain"]
        assert text.startswith(f"#{number:08d}")
        assert len(text) == 50
        assert bytes(each["buffers"][0]) == bytes(4)
        assert each["msg_type"] == kind


def test_emitter_takes_other_code_for_nothing():
    assert read_code({"content": {"code": json.dumps({"count": 1})}}) == {"count": 1}
    assert read_code({"content": {"code": "1"}}) == {}
    assert read_code({"content": {"code": "print()"}}) == {}
