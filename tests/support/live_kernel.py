"""Running kernels of a server in this process, and their clients."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

from jupyter_server.serverapp import ServerApp

from jupyter_token_ws.bridge.hub import Hub
from jupyter_token_ws.bridge.server import SETTING, Bridge
from jupyter_token_ws.protocol.subprotocols import KERNEL, REASON_MARKER
from tests.support.door import Door
from tests.support.knock import TIMEOUT, Knock

PARTS = ("header", "parent_header", "metadata", "content")

PATIENCE = 2 * TIMEOUT
"""Seconds after which a kernel that goes on talking will not say any more what is waited for."""


def install(data: Path, name: str, argv: list[str], **more: Any) -> None:
    """Install a kernelspec."""
    folder = data / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"argv": argv, "display_name": name, "language": "python", **more}
    (folder / "kernel.json").write_text(json.dumps(spec))


def odd(habit: str) -> list[str]:
    """The command of an odd kernel."""
    return [sys.executable, "-m", "tests.support.odd_kernel", habit, "{connection_file}"]


def once(path: Path, code: str) -> str:
    """Code for a kernel of Python that is run as soon as there is such a file."""
    return f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(.01)\n{code}"


@dataclass
class Client:
    """A client of a kernel, by either format."""

    knock: Knock
    v1: bool
    session: str = field(default_factory=lambda: uuid4().hex)
    heard: list[dict[str, Any]] = field(default_factory=list)

    def frame(
        self, channel: str, kind: str, content: Any, buffers: list[bytes], **header: Any
    ) -> tuple[str, str | bytes]:
        message_id = uuid4().hex
        whole = {
            "msg_id": message_id,
            "msg_type": kind,
            "session": self.session,
            "username": "test",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
            **header,
        }
        fields = {"header": whole, "parent_header": {}, "metadata": {}, "content": content}
        if self.v1:
            blobs = [channel.encode(), *(json.dumps(fields[name]).encode() for name in PARTS)]
            blobs += buffers
            offsets = [8 * (len(blobs) + 2)]
            for blob in blobs:
                offsets.append(offsets[-1] + len(blob))
            numbers = struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets)
            return message_id, numbers + b"".join(blobs)
        text = json.dumps({"channel": channel, "buffers": [], **fields})
        if not buffers:
            return message_id, text
        blobs = [text.encode(), *buffers]
        starts = [4 * (len(blobs) + 1)]
        for blob in blobs[:-1]:
            starts.append(starts[-1] + len(blob))
        return message_id, struct.pack(f"!{len(starts) + 1}I", len(blobs), *starts) + b"".join(
            blobs
        )

    async def send(
        self,
        channel: str,
        kind: str,
        content: Any = None,
        buffers: list[bytes] | None = None,
        **header: Any,
    ) -> str:
        """Send a message; returns its id."""
        message_id, frame = self.frame(channel, kind, content or {}, buffers or [], **header)
        await self.knock.send(frame)
        return message_id

    async def execute(self, code: str, *, stdin: bool = False, **header: Any) -> str:
        content = {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": stdin,
            "stop_on_error": False,
        }
        return await self.send("shell", "execute_request", content, **header)

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        frame = await self.knock.wait_message()
        message = self.read(frame)
        self.heard.append(message)
        return message

    def read(self, frame: str | bytes) -> dict[str, Any]:
        if isinstance(frame, str):
            message: dict[str, Any] = json.loads(frame)
            return message
        if self.v1:
            (count,) = struct.unpack_from("<Q", frame)
            offsets = struct.unpack_from(f"<{count}Q", frame, 8)
            blobs = [frame[start:end] for start, end in pairwise(offsets)]
            fields = zip(PARTS, map(json.loads, blobs[1:5]), strict=True)
            return {"channel": blobs[0].decode(), **dict(fields), "buffers": blobs[5:]}
        (count,) = struct.unpack_from("!I", frame)
        starts = [*struct.unpack_from(f"!{count}I", frame, 4), len(frame)]
        blobs = [frame[start:end] for start, end in pairwise(starts)]
        return {**json.loads(blobs[0]), "buffers": blobs[1:]}

    async def until(self, kind: str, message_id: str | None = None, **content: Any) -> Any:
        """Hear until such a message came, which is returned."""

        async def listen() -> dict[str, Any]:
            while True:
                message = await self.hear()
                if (
                    message["header"]["msg_type"] == kind
                    and message_id in (None, message["parent_header"].get("msg_id"))
                    and content.items() <= message["content"].items()
                ):
                    return message

        return await asyncio.wait_for(listen(), PATIENCE)

    async def idle(self, message_id: str, reply: str = "execute_reply") -> list[dict[str, Any]]:
        """Hear until the kernel is done with a request: its reply is in and it is idle. Returns all that
        was heard about it."""

        async def listen() -> None:
            # The two come on different channels, in any order.
            replied = any(is_reply(message, message_id, reply) for message in self.heard)
            idle = any(is_idle(message, message_id) for message in self.heard)
            while not (replied and idle):
                message = await self.hear()
                replied = replied or is_reply(message, message_id, reply)
                idle = idle or is_idle(message, message_id)

        await asyncio.wait_for(listen(), PATIENCE)
        return [m for m in self.heard if m["parent_header"].get("msg_id") == message_id]

    async def run(self, code: str) -> str:
        """Run code; returns what it printed."""
        return printed(await self.idle(await self.execute(code)))


def is_reply(message: dict[str, Any], message_id: str, kind: str) -> bool:
    return (
        message["parent_header"].get("msg_id") == message_id
        and message["header"]["msg_type"] == kind
    )


def is_idle(message: dict[str, Any], message_id: str) -> bool:
    return (
        message["parent_header"].get("msg_id") == message_id
        and message["content"].get("execution_state") == "idle"
    )


def printed(messages: list[dict[str, Any]]) -> str:
    """What was printed, stdout and stderr together."""
    return "".join(
        message["content"]["text"]
        for message in messages
        if message["header"]["msg_type"] == "stream"
    )


@dataclass
class Live:
    """A running kernel."""

    door: Door
    id: str

    @property
    def app(self) -> ServerApp:
        return self.door.app

    @property
    def manager(self) -> Any:
        return self.app.kernel_manager

    @property
    def kernel(self) -> Any:
        return self.manager.get_kernel(self.id)

    @property
    def bridge(self) -> Bridge:
        bridge: Bridge = self.app.web_app.settings[SETTING]
        return bridge

    @property
    def hub(self) -> Hub:
        hub = self.bridge.find(self.id)
        assert hub is not None
        return hub

    @property
    def connections(self) -> int:
        count: int = self.manager._kernel_connections.get(self.id, 0)
        return count

    def path(self, session: str | None) -> str:
        query = "" if session is None else f"?session_id={session}"
        return f"api/kernels/{self.id}/channels{query}"

    async def open(
        self,
        session: str | None = "s",
        *,
        v1: bool = True,
        opted_in: bool = True,
        headers: dict[str, str] | None = None,
    ) -> Client:
        """Connect; the caller closes."""
        offer = ([KERNEL] if v1 else []) + ([REASON_MARKER] if opted_in else [])
        lines = {"Authorization": f"token {self.door.token}", **(headers or {})}
        knock = await self.door.knock(self.path(session), offer, lines)
        assert knock.status == 101, knock
        return Client(knock, v1)

    @asynccontextmanager
    async def client(self, session: str | None = "s", **options: Any) -> AsyncIterator[Client]:
        """A client, for the time of a block."""
        client = await self.open(session, **options)
        try:
            yield client
        finally:
            await client.knock.close()
