"""A running kernel of a server in a process of its own, and its clients."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from jupyter_token_ws.protocol.subprotocols import KERNEL, REASON_MARKER
from tests.support import inside
from tests.support.knock import knock
from tests.support.live_kernel import Client, install
from tests.support.process import Server
from tests.support.waiting import DEADLINE

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class Served:
    """A kernel by its server and id."""

    server: Server
    id: str

    def path(self, session: str | None) -> str:
        query = "" if session is None else f"?session_id={session}"
        return f"{self.server.base_url}api/kernels/{self.id}/channels{query}"

    async def open(
        self, session: str | None = "s", *, v1: bool = True, opted_in: bool = True
    ) -> Client:
        """Connect; the caller closes."""
        offer = ([KERNEL] if v1 else []) + ([REASON_MARKER] if opted_in else [])
        headers = {"Authorization": f"token {self.server.token}"}
        opened = await knock(self.server.port, self.path(session), offer, headers)
        assert opened.status == 101, opened
        return Client(opened, opened.subprotocol == KERNEL)  # a gateway's kernels have no v1

    @asynccontextmanager
    async def client(self, session: str | None = "s", **options: Any) -> AsyncIterator[Client]:
        """A client, for the time of a block."""
        client = await self.open(session, **options)
        try:
            yield client
        finally:
            await client.knock.close()

    async def ask(self, method: str, path: str = "", body: Any = None) -> Any:
        """What the REST API answers about the kernel; ``None`` where that has no content."""
        answer = await asyncio.to_thread(
            self.server.request, method, f"api/kernels/{self.id}{path}", body
        )
        assert answer.status in (200, 204), answer
        return answer.json() if answer.body else None

    async def becomes(self, deadline: float = DEADLINE, **wanted: Any) -> dict[str, Any]:
        """Wait until the kernel's model says so; it is returned."""
        end = time.monotonic() + deadline
        while True:
            model: dict[str, Any] = await self.ask("GET")
            if wanted.items() <= model.items():
                return model
            assert time.monotonic() < end, (wanted, model)
            await asyncio.sleep(0.05)

    def descriptors(self) -> int:
        """How many the server's process has."""
        count: int = psutil.Process(self.server.pid).num_fds()
        return count


def install_kernel(directory: Path, name: str, argv: list[str], **more: Any) -> None:
    """Install a kernelspec for a server that ``start_server`` starts, or has started, there."""
    install(directory / "server" / "data", name, argv, **more)


def texts(messages: Iterable[dict[str, Any]], kind: str = "stream") -> list[str]:
    """The texts of outputs, in order."""
    contents = [each["content"] for each in messages if each["header"]["msg_type"] == kind]
    return [
        content["text"] if kind == "stream" else content["data"]["text/plain"]
        for content in contents
    ]


def reset(client: Client) -> None:
    """Be gone at once, and whatever is on the way is thrown away: the server gets a reset."""
    raw: socket.socket = client.knock.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.knock.vanish()


async def hear_out(
    client: Client, message_id: str, reply: str = "execute_reply", deadline: float = 300
) -> list[dict[str, Any]]:
    """What is said about a request until its reply is in and the kernel idle, as ``Client.idle``: with one
    deadline for all, so that it is quick with a great many messages."""
    heard: list[dict[str, Any]] = []

    async def listen() -> None:
        left = {"reply", "idle"}
        while left:
            frame = await client.knock.read_frame()
            assert frame is not None, f"the connection ended after {len(heard)} messages"
            opcode, payload = frame
            assert opcode != 8, payload
            if opcode == 9:
                await client.knock.send(payload, opcode=10)
            if opcode not in (1, 2):
                continue
            message = client.read(payload.decode() if opcode == 1 else payload)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            heard.append(message)
            if message["header"]["msg_type"] == reply:
                left.discard("reply")
            if message["content"].get("execution_state") == "idle":
                left.discard("idle")

    await asyncio.wait_for(listen(), deadline)
    return heard


def had(server: Server) -> dict[str, int]:
    """What a server could leave behind: descriptors by their kind, temporary files, tasks and clients. It has
    the extension ``tests.support.inside``."""
    process = psutil.Process(server.pid)
    kinds: dict[str, int] = dict(server.request("GET", inside.PATH).json())
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            kind = re.sub(r"[\d\[\]]+", "", str(path.readlink()).partition(":")[0])
        except OSError:  # closed meanwhile
            continue
        kind = "file" if kind.startswith("/") else kind
        kinds[kind] = kinds.get(kind, 0) + 1
    home = server.log_path.parent
    places = (home / "runtime", home / "tmp")
    kinds["temporary"] = sum(1 for place in places for _ in place.iterdir())
    return kinds


def no_more(now: dict[str, int], before: dict[str, int]) -> bool:
    """Whether nothing is left behind."""
    return all(count <= before.get(kind, 0) for kind, count in now.items())


class Memory:
    """How much a process grows during a block, in bytes of resident memory, looked at again and again."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.peak = 0

    def __enter__(self) -> Self:
        self._before = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.peak = max(self.peak, self._process.memory_info().rss - self._before)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
