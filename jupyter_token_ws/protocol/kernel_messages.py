"""Kernel messages on a websocket: both wire formats, and what a client makes of them. No I/O.

``v1.kernel.websocket.jupyter.org`` has offsets and parts; the older format, which has no name, has JSON text,
or where there are buffers offsets, JSON and the buffers. The splitting is the same for server and client; the
bridge goes on with bytes, a client with ``KernelMessage``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from struct import error, pack, unpack_from
from typing import Any
from uuid import uuid4

from .subprotocols import KERNEL

PROTOCOL_VERSION = "5.4"
"""Of Jupyter messaging, as our headers name it."""

MAX_PARTS = 1 << 18
"""Of a message. Nobody sends so many buffers, and lists of empty ones take a multiple of their bytes."""

_PARTS = ("header", "parent_header", "metadata", "content")


class WireError(ValueError):
    """What came is no kernel message."""


def pack_json(value: Any) -> bytes:
    """A part of a message. Letters outside ASCII are escaped, so that any string can be packed."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def split_v1(data: bytes | str) -> tuple[str, list[bytes]]:
    """The channel and the parts (header, parent header, metadata, content, buffers) of a message of v1.

    Numbers have 8 bytes, little-endian; offsets count from the beginning of the message. What is taken
    apart is never more than what came.

    Raises:
        WireError: it is not of this format, or has more than ``MAX_PARTS``.
    """
    if isinstance(data, str):
        raise WireError("text instead of binary")
    try:
        (count,) = unpack_from("<Q", data)
        # A channel and at least four parts have seven ends; each takes eight bytes.
        if not 6 <= count <= min(len(data) // 8, MAX_PARTS):
            raise WireError(f"{count} offsets in {len(data)} bytes")
        offsets = unpack_from(f"<{count}Q", data, 8)
    except error as short:
        raise WireError(str(short)) from None
    if offsets[0] < 8 * (count + 1) or offsets[-1] > len(data) or list(offsets) != sorted(offsets):
        raise WireError("offsets out of order")
    channel = data[offsets[0] : offsets[1]].decode("utf-8", "replace")
    return channel, [data[start:end] for start, end in pairwise(offsets[1:])]


def join_v1(channel: str, parts: Sequence[bytes]) -> list[bytes]:
    """The pieces of a message of v1."""
    name = channel.encode()
    at = 8 * (len(parts) + 3)
    numbers = [len(parts) + 2, at]
    at += len(name)
    numbers.append(at)
    for part in parts:
        at += len(part)
        numbers.append(at)
    return [pack(f"<{len(numbers)}Q", *numbers), name, *parts]


def split_legacy(data: bytes) -> list[bytes]:
    """Text and buffers of a binary message of the older format.

    Numbers have 4 bytes, big-endian; offsets count from the beginning of the message.

    Raises:
        WireError: it is not of this format, or has more than ``MAX_PARTS``.
    """
    try:
        (count,) = unpack_from("!I", data)
        if not 1 <= count <= min(len(data) // 4, MAX_PARTS):
            raise WireError(f"{count} offsets in {len(data)} bytes")
        offsets = [*unpack_from(f"!{count}I", data, 4), len(data)]
    except error as short:
        raise WireError(str(short)) from None
    if offsets[0] < 4 * (count + 1) or offsets != sorted(offsets):
        raise WireError("offsets out of order")
    return [data[start:end] for start, end in pairwise(offsets)]


def join_legacy(text: bytes, buffers: Sequence[bytes]) -> list[bytes]:
    """The pieces of a binary message of the older format."""
    parts = [text, *buffers]
    at = 4 * (len(parts) + 1)
    numbers = [len(parts)]
    for part in parts:
        numbers.append(at)
        at += len(part)
    return [pack(f"!{len(numbers)}I", *numbers), *parts]


@dataclass(frozen=True)
class KernelMessage:
    """A message to or from a kernel (Jupyter messaging, "general message format")."""

    channel: str
    header: Mapping[str, Any]
    parent_header: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    buffers: tuple[bytes, ...] = ()
    size: int = field(default=0, compare=False, repr=False)
    """Bytes that it had on the wire; 0 for one that was made here."""

    @property
    def type(self) -> str:
        """Its ``msg_type``; empty where the header has none."""
        return _text(self.header, "msg_type")

    @property
    def id(self) -> str:
        """Its ``msg_id``; empty where the header has none."""
        return _text(self.header, "msg_id")

    @property
    def parent_id(self) -> str:
        """The ``msg_id`` of the request that it is about; empty where there is none."""
        return _text(self.parent_header, "msg_id")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def new_message(
    channel: str,
    kind: str,
    content: Mapping[str, Any],
    session: str,
    *,
    parent: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    buffers: Sequence[bytes] = (),
) -> KernelMessage:
    """A message with a header of its own."""
    header = {
        "msg_id": uuid4().hex,
        "msg_type": kind,
        "session": session,
        "username": "",
        "date": datetime.now(timezone.utc).isoformat(),
        "version": PROTOCOL_VERSION,
    }
    return KernelMessage(channel, header, parent or {}, metadata or {}, content, tuple(buffers))


def encode(message: KernelMessage, subprotocol: str | None) -> str | bytes:
    """A message as a websocket answered with that subprotocol takes it.

    Raises:
        TypeError: a part of it cannot be written as JSON.
    """
    fields: dict[str, Any] = {name: getattr(message, name) for name in _PARTS}
    if subprotocol == KERNEL:
        parts = [pack_json(fields[name]) for name in _PARTS]
        return b"".join(join_v1(message.channel, [*parts, *message.buffers]))
    text = pack_json({"channel": message.channel, **fields, "buffers": []})
    if not message.buffers:
        return text.decode()
    return b"".join(join_legacy(text, message.buffers))


def decode(data: str | bytes, subprotocol: str | None) -> KernelMessage:
    """The message that came on a websocket answered with that subprotocol.

    Raises:
        WireError: it is none.
    """
    if subprotocol == KERNEL:
        channel, parts = split_v1(data)
        fields = dict(zip(_PARTS, map(_object, parts), strict=False))
        return KernelMessage(channel, **fields, buffers=tuple(parts[4:]), size=len(data))
    text: str | bytes = data
    buffers: list[bytes] = []
    if isinstance(data, bytes):
        text, *buffers = split_legacy(data)
    whole = _object(text)
    named = {name: whole.get(name) or {} for name in _PARTS}
    if not all(isinstance(value, dict) for value in named.values()) or not named["header"]:
        raise WireError("a part is missing, or is no object")
    channel = _text(whole, "channel")
    if not channel:
        raise WireError("no channel")
    return KernelMessage(channel, **named, buffers=tuple(buffers), size=len(data))


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise WireError(f"no JSON: {type(wrong).__name__}") from None
    if not isinstance(read, dict):
        raise WireError("no object")
    return read
