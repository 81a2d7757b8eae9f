"""Frames of a tunnel (contract section 7), encoded and decoded. Pure functions.

What frames mean, and in which order they may come, is ``tunnel``'s business. The layout is specified in
docs/reference/tunnel.md, with vectors that every implementation runs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Any, NamedTuple

from .reasons import MAX_REASON_SIZE

HEADER = struct.Struct(">BBII")
"""What a frame begins with: kind, flags, stream, bytes of payload (network byte order)."""

HEADER_SIZE = HEADER.size
"""Bytes of it. They count as data too, so that empty messages are not for nothing."""

MAX_DATA = 256 * 1024
"""Bytes of a message in one frame at most; what is longer goes in fragments."""

MAX_TEXT = 16 * 1024
"""Bytes of the payload of any other frame at most."""

MAX_STREAM = 2**31 - 1
"""The highest number of a stream."""

FIN = 1
"""Flag of ``DATA``: the last fragment of a message."""

TEXT = 2
"""Flag of ``DATA``: the message is text in UTF-8, on every fragment; else it is bytes."""


class Kind(IntEnum):
    """What a frame is. Those below 16 are numbered: each comes exactly once, and in order."""

    OPEN = 1
    """Client: opens a stream. JSON ``{"path", "subprotocols", "credit"}``."""
    OPENED = 2
    """Server: the websocket is open. JSON ``{"subprotocol", "credit"}``."""
    DATA = 3
    """A message, or a fragment of one."""
    END = 4
    """The sender has no more messages for the stream."""
    CLOSE = 5
    """The stream closes both ways, or by stream 0 the tunnel: nothing, or 2 bytes of code and a reason."""
    HELLO = 16
    """Server, first on each carrier: JSON object, see ``tunnel.Hello``."""
    ACK = 17
    """How many numbered frames came, and how many bytes of ``DATA`` may be sent in all: 8 bytes each."""
    CREDIT = 18
    """How many bytes of ``DATA`` may be sent for the stream, in all: 8 bytes."""


FIRST_UNNUMBERED = Kind.HELLO
"""This and what is above needs no number: to lose it, or to hear it twice, changes nothing."""

_KINDS = {int(kind): kind for kind in Kind}
_NUMBER = struct.Struct(">Q")
_NUMBERS = struct.Struct(">QQ")
_CODE = struct.Struct(">H")
_SIZES = {Kind.END: 0, Kind.ACK: _NUMBERS.size, Kind.CREDIT: _NUMBER.size}
_OF_TUNNEL = frozenset({Kind.HELLO, Kind.ACK})


class FrameError(ValueError):
    """What came is no frame. The text is a constant."""


class Frame(NamedTuple):
    """One frame; ``flags`` are of ``DATA`` only."""

    kind: Kind
    stream: int
    payload: bytes = b""
    flags: int = 0


def encode(frame: Frame) -> bytes:
    """A frame's bytes. What ``decode`` would refuse must not be given."""
    kind, stream, payload, flags = frame
    return HEADER.pack(kind, flags, stream, len(payload)) + payload


def decode(data: bytes) -> Iterator[Frame]:
    """The frames in some bytes, which must be whole.

    Raises ``FrameError`` for what is none, when its turn comes.
    """
    unpack, at, end = HEADER.unpack_from, 0, len(data)
    while at < end:
        if end - at < HEADER_SIZE:
            raise FrameError("a frame's header is cut")
        number, flags, stream, size = unpack(data, at)
        kind = _KINDS.get(number)
        at += HEADER_SIZE
        if kind is None:
            raise FrameError("there is no such kind of frame")
        if end - at < size:
            raise FrameError("a frame's payload is cut")
        if kind is Kind.DATA:
            if size > MAX_DATA or flags > FIN | TEXT or not 0 < stream <= MAX_STREAM:
                raise FrameError("the frame is no data")
        elif (
            flags
            or stream > MAX_STREAM
            or size > MAX_TEXT
            or size != _SIZES.get(kind, size)
            or (kind is not Kind.CLOSE and (stream == 0) is not (kind in _OF_TUNNEL))
        ):
            raise FrameError("the frame is not as its kind is")
        yield Frame(kind, stream, data[at : at + size], flags)
        at += size


# -- what frames other than DATA carry ---------------------------------------------------------------


def open_frame(stream: int, path: str, subprotocols: Sequence[str], credit: int) -> Frame:
    """Ask for a stream: a path below the server's base, with its query; what is offered there; and the bytes
    of ``DATA`` that may be sent for it.

    Raises ``FrameError`` for more than fits.
    """
    payload = _write({"path": path, "subprotocols": list(subprotocols), "credit": credit})
    if len(payload) > MAX_TEXT:
        raise FrameError("path and subprotocols are too long")
    return Frame(Kind.OPEN, stream, payload)


def read_open(payload: bytes) -> tuple[str, list[str], int]:
    """Path, subprotocols and credit of an ``OPEN``. Raises ``FrameError``."""
    read = _read(payload, {"path", "subprotocols", "credit"})
    path, offered = read["path"], read["subprotocols"]
    if (
        not isinstance(path, str)
        or not isinstance(offered, list)
        or not all(isinstance(each, str) for each in offered)
    ):
        raise FrameError("that opens no stream")
    return path, offered, _count(read["credit"])


def opened_frame(stream: int, subprotocol: str | None, credit: int) -> Frame:
    """A stream is open, with a subprotocol or none; and the bytes of ``DATA`` that may be sent for it."""
    return Frame(Kind.OPENED, stream, _write({"subprotocol": subprotocol, "credit": credit}))


def read_opened(payload: bytes) -> tuple[str | None, int]:
    """Subprotocol and credit of an ``OPENED``. Raises ``FrameError``."""
    read = _read(payload, {"subprotocol", "credit"})
    subprotocol = read["subprotocol"]
    if not (subprotocol is None or isinstance(subprotocol, str)):
        raise FrameError("that is no subprotocol")
    return subprotocol, _count(read["credit"])


def close_frame(stream: int, code: int | None, reason: str = "") -> Frame:
    """A stream closes, or the tunnel. ``code`` is a close code (RFC 6455 section 7.4); ``None``: without one,
    and then without reason. Of a reason that is too long the beginning is told."""
    if code is None:
        return Frame(Kind.CLOSE, stream)
    told = reason.encode()[:MAX_REASON_SIZE].decode(errors="ignore")
    return Frame(Kind.CLOSE, stream, _CODE.pack(code) + told.encode())


def read_close(payload: bytes) -> tuple[int | None, str]:
    """Close code and reason of a ``CLOSE``. Raises ``FrameError``."""
    if not payload:
        return None, ""
    if not _CODE.size <= len(payload) <= _CODE.size + MAX_REASON_SIZE:
        raise FrameError("that is no close code")
    (code,) = _CODE.unpack_from(payload)
    if not 1000 <= code <= 4999:
        raise FrameError("that is no close code")
    try:
        return code, payload[_CODE.size :].decode()
    except UnicodeDecodeError:
        raise FrameError("the reason is no text") from None


def hello_frame(document: dict[str, Any]) -> Frame:
    """What the server says first on a carrier."""
    return Frame(Kind.HELLO, 0, _write(document))


def read_hello(payload: bytes) -> dict[str, Any]:
    """The document of a ``HELLO``. Raises ``FrameError``."""
    return _read(payload, {"received"})


def received_of(hello: dict[str, Any]) -> int:
    """What the server has, by its ``HELLO``. Raises ``FrameError``."""
    return _count(hello["received"])


def ack_frame(received: int, limit: int) -> Frame:
    """So many numbered frames came, and so many bytes of ``DATA`` may be sent in all."""
    return Frame(Kind.ACK, 0, _NUMBERS.pack(received, limit))


def read_ack(payload: bytes) -> tuple[int, int]:
    """What ``ack_frame`` was given."""
    received, limit = _NUMBERS.unpack(payload)
    return received, limit


def credit_frame(stream: int, limit: int) -> Frame:
    """So many bytes of ``DATA`` may be sent for the stream in all."""
    return Frame(Kind.CREDIT, stream, _NUMBER.pack(limit))


def read_credit(payload: bytes) -> int:
    """What ``credit_frame`` was given."""
    (limit,) = _NUMBER.unpack(payload)
    return int(limit)


def _write(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _read(payload: bytes, keys: AbstractSet[str]) -> dict[str, Any]:
    """A JSON object that has some keys; what else is in it is for newer versions."""
    try:
        read = json.loads(payload.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise FrameError("the payload is no JSON") from None
    if not isinstance(read, dict) or not read.keys() >= keys:
        raise FrameError("the payload is no object, or lacks something")
    return read


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # Python reads NaN and Infinity, which are no JSON


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise FrameError("that is no number")
    return value
