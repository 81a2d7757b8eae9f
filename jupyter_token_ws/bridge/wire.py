"""Kernel messages and how they look on a websocket. No I/O.

A message comes from ZMQ as byte strings, and most leave as the very same byte strings: what is
needed on the way is found by a scan that either is sure of what it found or says that it is not, and
then the header is parsed. Two formats are spoken: ``v1.kernel.websocket.jupyter.org`` (offsets and
parts) and the older one without a name (JSON text, or offsets, JSON and buffers).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct, pack
from typing import Any

from jupyter_token_ws.protocol.kernel_messages import (
    WireError,
    join_legacy,
    join_v1,
    pack_json,
    split_legacy,
    split_v1,
)
from jupyter_token_ws.protocol.subprotocols import KERNEL

DELIMITER = b"<IDS|MSG>"
"""Ends the routing prefix of a ZMQ message (Jupyter messaging, the wire protocol)."""

OVERHEAD = 600
"""Bytes that Python needs for a message of four parts beside its content, by ``sys.getsizeof``: the
objects of parts, list and message. Counted, so that a bound on many small messages is one on memory."""

LARGE = 32 * 1024
"""Bytes from which on a part is handed on as it is: copying it together with its neighbours, into memory
that is fresh each time, costs more than one more system call."""

TEXT, BINARY = 0x1, 0x2
"""Opcodes of RFC 6455 section 5.2."""

_TYPE, _ID = b'"msg_type"', b'"msg_id"'
_COLONS = {b":", b": "}
_NAMES = re.compile(rb'"msg_id": ?"([^"]*)", ?"msg_type": ?"([^"]*)"')

_HEAD4 = Struct("<BBH7Q5s").pack  # the frame's own length is big-endian, see _head4
_NUMBERS4 = Struct("<7Q5s").pack
_OFFSETS4 = 8 * (1 + 1 + 4 + 1)

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],]', re.DOTALL)
_LEGACY_KEYS = (b"header", b"msg_id", b"msg_type", b"parent_header", b"metadata")

Payloads = list[tuple[bool, list[bytes]]]
"""Payloads of websocket messages in their order; neighbours together that all are text, or all are not."""


class Message:
    """One message: its channel and its parts (header, parent header, metadata, content, buffers).

    Large buffers may be views of memory that is ZMQ's. ``signature`` is the kernel's, for who wants to
    check it. ``size`` is what holding it costs, in bytes.
    """

    __slots__ = ("_sure", "_type", "channel", "parts", "signature", "size")

    def __init__(self, channel: str, parts: list[bytes], signature: bytes = b"") -> None:
        self.channel = channel
        self.parts = parts
        self.signature = signature
        self.size = OVERHEAD + sum(map(len, parts))
        self._type: str | None = None
        self._sure = False  # that _NAMES finds the names

    def __repr__(self) -> str:
        return f"<{self.channel} {self.type or '?'} {self.size} bytes>"

    @property
    def type(self) -> str:
        """Its ``msg_type``; empty if the header has none."""
        if self._type is None:
            self._type = message_type(self.parts[0])
        return self._type

    @property
    def names(self) -> tuple[bytes, bytes] | None:
        """Its ``msg_id`` and ``msg_type`` as they stand in the header; ``None`` where that is not sure."""
        header = self.parts[0]
        if self._sure and (found := _NAMES.search(header)):
            return found[1], found[2]
        identity, kind = scan(header, _ID), scan(header, _TYPE)
        return None if identity is None or kind is None else (identity, kind)


def from_zmq(channel: str, raw: list[bytes]) -> Message:
    """A message as ZMQ delivered it, with routing prefix and signature.

    Raises:
        WireError: it has no delimiter or not all parts.
    """
    try:
        start = raw.index(DELIMITER) + 1
    except ValueError:
        raise WireError("no delimiter") from None
    if len(raw) < start + 5:
        raise WireError(f"{len(raw) - start} parts after the delimiter instead of 5 or more")
    if DELIMITER in raw[start : start + 5]:
        raise WireError("a second delimiter")
    return Message(channel, raw[start + 1 :], raw[start])


def scan(header: bytes, key: bytes) -> bytes | None:
    """The string that a header has under *key*, which is given with its quotation marks.

    ``None`` where that is not sure. A key's letters with quotes around them cannot stand within a string
    unless a backslash stands there too; with one opening brace there is no object within the header;
    and of a key given twice nothing is said. So where there is an answer, a parser would find the same,
    and it may be put into JSON as it is.
    """
    at = header.find(key)
    after = at + len(key)
    if at <= 0 or b"\\" in header or header.count(b"{") != 1 or header.find(key, after) >= 0:
        return None
    begin = header.find(b'"', after)
    end = header.find(b'"', begin + 1)
    if begin < 0 or end < 0 or header[after:begin] not in _COLONS:
        return None
    return header[begin + 1 : end]


def find_names(messages: Sequence[Message]) -> None:
    """Find ids and types of many messages: as ``scan`` does, but most of it in all headers at once.

    Where the two do not follow upon each other, or something is not sure, nothing is found in any of
    these messages; then each is scanned when somebody asks.
    """
    headers = b"\0".join([message.parts[0] for message in messages])
    count = len(messages)
    once = (b"{", _ID, _TYPE)
    if (
        b"\\" in headers
        or headers.count(b"\0") != count - 1
        or any(headers.count(each) != count for each in once)
    ):
        return
    kinds = []
    for message in messages:
        header = message.parts[0]
        found = _NAMES.search(header)
        if found is None or not header.startswith(b"{"):
            return
        kinds.append(_text(found[2]))
    # None is without, and there are not more than messages: each has each once.
    for message, kind in zip(messages, kinds, strict=True):
        message._sure, message._type = True, kind


@lru_cache(maxsize=1000)  # kernels have some twenty types
def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def message_type(header: bytes) -> str:
    """The ``msg_type`` of a header; empty if it has none."""
    found = scan(header, _TYPE)
    if found is not None:
        return _text(found)
    value = parse_header(header).get("msg_type")
    return value if isinstance(value, str) else ""


def message_id(header: bytes) -> bytes:
    """The ``msg_id`` of a header, as it stands there; empty where that is not sure."""
    return scan(header, _ID) or b""


def parse_header(header: bytes) -> dict[str, Any]:
    """A header as a dictionary; empty for what is none."""
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def frame_head(opcode: int, length: int) -> bytes:
    """The beginning of an unmasked, final frame (RFC 6455 section 5.2)."""
    if length < 126:
        return pack("!BB", 0x80 | opcode, length)
    if length < 65536:
        return pack("!BBH", 0x80 | opcode, 126, length)
    return pack("!BBQ", 0x80 | opcode, 127, length)


class V1:
    """``v1.kernel.websocket.jupyter.org``: a count, offsets, the channel's name, the parts.

    Numbers have 8 bytes, little-endian; offsets count from the beginning of the message.
    """

    subprotocol: str | None = KERNEL

    @staticmethod
    def payload(message: Message) -> tuple[int, list[bytes]]:
        """The pieces of the websocket message: the opcode and the pieces."""
        return BINARY, join_v1(message.channel, message.parts)

    @staticmethod
    def frames(messages: Iterable[Message]) -> list[bytes]:
        """The pieces of the frames of *messages*, one after the other."""
        pieces: list[bytes] = []
        one = _OFFSETS4 + 5
        for message in messages:
            parts = message.parts
            if len(parts) == 4 and message.channel == "iopub":
                header, parent, metadata, content = parts
                two = one + len(header)
                three = two + len(parent)
                four = three + len(metadata)
                end = four + len(content)
                if 126 <= end < 65536:
                    size = (end & 0xFF) << 8 | end >> 8
                    head = _HEAD4(
                        0x80 | BINARY, 126, size, 6, _OFFSETS4, one, two, three, four, end, b"iopub"
                    )
                    pieces += (head, header, parent, metadata, content)
                    continue
            pieces += _frame(V1.payload(message))
        return pieces

    @staticmethod
    def payloads(messages: Iterable[Message]) -> Payloads:
        """*messages* as payloads of websocket messages."""
        made: list[bytes] = []
        one, join = _OFFSETS4 + 5, b"".join
        for message in messages:
            parts = message.parts
            if len(parts) == 4 and message.channel == "iopub":
                header, parent, metadata, content = parts
                two = one + len(header)
                three = two + len(parent)
                four = three + len(metadata)
                end = four + len(content)
                numbers = _NUMBERS4(6, _OFFSETS4, one, two, three, four, end, b"iopub")
                made.append(join((numbers, header, parent, metadata, content)))
            else:
                made.append(join(V1.payload(message)[1]))
        return [(False, made)]

    @staticmethod
    def read_back(payload: bytes, text: bool) -> Message:
        """The message of which such a payload was made, less its signature."""
        return V1.decode(payload)

    @staticmethod
    def decode(data: bytes | str) -> Message:
        """What a client sent.

        Raises:
            WireError: it is not of this format.
        """
        return Message(*split_v1(data))


class Legacy:
    """The format without a name: JSON text; where there are buffers, offsets, JSON and the buffers.

    Numbers have 4 bytes, big-endian; offsets count from the beginning of the message.
    """

    subprotocol: str | None = None

    @staticmethod
    def payload(message: Message) -> tuple[int, list[bytes]]:
        """The pieces of the websocket message: the opcode and the pieces.

        The header says nothing that is not handed on, and metadata and content are the kernel's
        bytes; they are JSON, as ever they came.
        """
        header, parent, metadata, content, *buffers = message.parts
        names = message.names
        if names is None:
            parsed = parse_header(header)
            header = pack_json(parsed)
            names = pack_json(parsed.get("msg_id")), pack_json(parsed.get("msg_type"))
        else:
            names = b'"%b"' % names[0], b'"%b"' % names[1]
        text = (
            b'{"header":%b,"msg_id":%b,"msg_type":%b,"parent_header":%b,"metadata":%b,"content":%b,'
            b'"channel":"%b"%b}'
        ) % (
            header,
            *names,
            parent,
            metadata,
            content,
            message.channel.encode(),
            b"" if buffers else b',"buffers":[]',
        )
        if not text.isascii():  # a text frame of anything but UTF-8 ends the connection
            text = text.decode("utf-8", "replace").encode()
        if not buffers:
            return TEXT, [text]
        return BINARY, join_legacy(text, buffers)

    @staticmethod
    def frames(messages: Iterable[Message]) -> list[bytes]:
        """The pieces of the frames of *messages*, one after the other."""
        return [piece for message in messages for piece in _frame(Legacy.payload(message))]

    @staticmethod
    def payloads(messages: Iterable[Message]) -> Payloads:
        """*messages* as payloads of websocket messages."""
        made: Payloads = []
        for message in messages:
            opcode, pieces = Legacy.payload(message)
            text = opcode == TEXT
            if not made or made[-1][0] is not text:
                made.append((text, []))
            made[-1][1].append(b"".join(pieces))
        return made

    @staticmethod
    def read_back(payload: bytes, text: bool) -> Message:
        """The message of which such a payload was made, with its parts as they were, less its signature.

        Raises:
            WireError: the parts were no JSON, and nobody could read it.
        """
        buffers: list[bytes] = []
        if not text:
            payload, *buffers = split_legacy(payload)
        parts, at = [], 1
        for key in _LEGACY_KEYS:
            start = at + len(key) + len(b'"":')
            if payload[at:start] != b'"%b":' % key:
                raise WireError("not in its order")
            at = _end_of_value(payload, start)
            parts.append(payload[start:at])
            at += 1
        header, _, _, parent, metadata = parts
        end = payload.rfind(b',"channel":"')
        content = payload[at + len(b'"content":') : end]
        channel = payload[end:].split(b'"', 4)[3].decode()
        return Message(channel, [header, parent, metadata, content, *buffers])

    @staticmethod
    def decode(data: bytes | str) -> Message:
        """What a client sent. Without a channel it is for the shell.

        Raises:
            WireError: it is not of this format.
        """
        buffers: list[bytes] = []
        text: bytes | str = data
        if isinstance(data, bytes):
            text, *buffers = split_legacy(data)
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as wrong:
            raise WireError(f"no JSON: {type(wrong).__name__}") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("header"), dict):
            raise WireError("no header")
        channel = fields.get("channel")
        names = ("header", "parent_header", "metadata", "content")
        parts = [pack_json(fields.get(name) or {}) for name in names]
        return Message("shell" if channel is None else str(channel), parts + buffers)


def _end_of_value(text: bytes, at: int) -> int:
    """Where the comma is behind the value of a JSON object's member that begins at *at*."""
    depth = 0
    for found in _TOKEN.finditer(text, at):
        token = found[0]
        if token in {b"{", b"["}:
            depth += 1
        elif token in {b"}", b"]"}:
            depth -= 1
        elif token == b"," and not depth:
            return found.start()
    raise WireError("no end")


Wire = type[V1] | type[Legacy]


def wire_of(subprotocol: str | None) -> Wire:
    """The format that a client speaks after it was answered with *subprotocol*."""
    return V1 if subprotocol == V1.subprotocol else Legacy


def _frame(payload: tuple[int, list[bytes]]) -> list[bytes]:
    opcode, parts = payload
    return [frame_head(opcode, sum(map(len, parts))), *parts]


def frames(wire: Wire, messages: Sequence[Message]) -> list[bytes]:
    """The frames of *messages*, to be written one after the other: small pieces are together in one."""
    pieces = wire.frames(messages)
    if any(message.size >= LARGE for message in messages):
        return together(pieces)
    return [b"".join(pieces)]


class Batch:
    """Messages on their way out together, and their frames, made once for all clients."""

    __slots__ = ("_chunks", "_payloads", "messages")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self._chunks: dict[Wire, list[bytes]] = {}
        self._payloads: dict[Wire, Payloads] = {}

    def chunks(self, wire: Wire) -> list[bytes]:
        """The frames, in few pieces."""
        found = self._chunks.get(wire)
        if found is None:
            found = self._chunks[wire] = frames(wire, self.messages)
        return found

    def payloads(self, wire: Wire) -> Payloads:
        """The payloads of the frames, for who makes frames of another kind."""
        found = self._payloads.get(wire)
        if found is None:
            found = self._payloads[wire] = wire.payloads(self.messages)
        return found


def together(pieces: Sequence[bytes]) -> list[bytes]:
    """Join small neighbours, and leave large pieces as they are."""
    joined: list[bytes] = []
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < LARGE:
            small.append(piece)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(piece)
    if small:
        joined.append(b"".join(small))
    return joined
