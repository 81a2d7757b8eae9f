"""Kernel messages as a client writes and reads them, in both wire protocols.

Written from the documentation of the protocols and independent of the server's own functions, so
that a test does not compare the server with itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any
from uuid import uuid4

from jupyter_token_ws.protocol.subprotocols import KERNEL

_PARTS = ("header", "parent_header", "metadata", "content")


@dataclass(frozen=True)
class Request:
    """A message to a kernel, on the shell channel."""

    kind: str
    content: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid4().hex)

    def frame(self, subprotocol: str | None) -> str | bytes:
        """As the socket wants it: binary under the kernel subprotocol, else the older JSON."""
        header = {
            "msg_id": self.id,
            "msg_type": self.kind,
            "session": self.id,
            "username": "test",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        parts = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": dict(self.content),
        }
        if subprotocol != KERNEL:
            return json.dumps({"channel": "shell", "buffers": [], **parts})
        blobs = [b"shell", *(json.dumps(parts[name]).encode() for name in _PARTS)]
        offsets = [8 * (len(blobs) + 2)]
        for blob in blobs:
            offsets.append(offsets[-1] + len(blob))
        return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(blobs)


def execute(code: str) -> Request:
    """A request to run a cell."""
    return Request(
        "execute_request",
        {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        },
    )


def read(frame: str | bytes) -> dict[str, Any]:
    """A message from a kernel: ``channel``, ``header``, ``parent_header``, ``metadata``, ``content``."""
    if isinstance(frame, str):
        message: dict[str, Any] = json.loads(frame)
        return message
    (count,) = struct.unpack_from("<Q", frame)
    offsets = struct.unpack_from(f"<{count}Q", frame, 8)
    blobs = [frame[start:end] for start, end in pairwise(offsets)]
    channel, *rest = blobs[: 1 + len(_PARTS)]
    return {"channel": channel.decode(), **dict(zip(_PARTS, map(json.loads, rest), strict=True))}
