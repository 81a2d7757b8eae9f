"""A network in memory, with a server's tunnels at its end, for the client's tunnel.

What is cut is lost with all that was on its way, as bytes are of a connection: a batch that did not come
whole did not come.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import parse_qs

from jupyter_token_ws.client.auth import Grant
from jupyter_token_ws.client.backoff import Backoff
from jupyter_token_ws.client.carriers import (
    CARRIERS,
    EVENT_STREAM,
    WEBSOCKET,
    Carrier,
    CarrierLostError,
    RefusalError,
    Way,
)
from jupyter_token_ws.client.tunnel import Tunnel
from jupyter_token_ws.protocol.auth import Response
from jupyter_token_ws.protocol.clients import addresses
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.tunnel import Asked, Closed, Data, Drained, Ended, Side
from jupyter_token_ws.protocol.tunnel import Tunnel as Machine


def refusal(slug: str, retry_after: float | None = None) -> Response:
    """What the server answers for this reason."""
    reason = REASONS[slug]
    return Response(reason.http_status, reason=reason, retry_after=retry_after)


class Served:
    """A tunnel at the server, and what answers there.

    Paths are ``echo`` (whose end is answered by an end), ``quiet`` (reads nothing), ``never`` (answers
    nothing); all else is not found.
    """

    def __init__(self, identity: str, hello: dict[str, Any]) -> None:
        self.machine = Machine(Side.SERVER, hello={"tunnel": identity, **hello})
        self.paths: dict[int, str] = {}
        self.closed: dict[int, int | None] = {}
        self.heard: dict[int, int] = {}
        self.messages: dict[int, list[tuple[bytes, bool]]] = {}
        self._parts: dict[int, bytes] = {}
        self._waiting: dict[int, list[int]] = {}

    def hear(self) -> None:
        """Answer what came."""
        machine = self.machine
        for event in machine.events():
            if isinstance(event, Asked):
                self.paths[event.stream] = event.path
                if event.path in ("echo", "quiet"):
                    machine.accept(event.stream, next(iter(event.subprotocols), None))
                elif event.path != "never":
                    reason = REASONS["not_found"]
                    machine.close(event.stream, reason.code, reason.close_reason())
            elif isinstance(event, Data):
                self.heard[event.stream] = self.heard.get(event.stream, 0) + len(event.payload)
                if self.paths[event.stream] == "echo":
                    self._echo(event)
            elif isinstance(event, Drained):
                for size in self._waiting.pop(event.stream, []):
                    machine.consumed(event.stream, size)
            elif isinstance(event, Ended):
                machine.end(event.stream)
            elif isinstance(event, Closed):
                self.closed[event.stream] = event.code

    def _echo(self, data: Data) -> None:
        machine, number = self.machine, data.stream
        self._parts[number] = self._parts.get(number, b"") + data.payload
        if data.last:
            whole = self._parts.pop(number)
            self.messages.setdefault(number, []).append((whole, data.text))
            if not machine.send(number, whole, text=data.text):
                self._waiting.setdefault(number, []).append(data.size)
                return
        machine.consumed(number, data.size)


@dataclass
class Net:
    """The network.

    ``budgets`` are bytes that each next carrier brings up and down before it is cut; when there are none
    left, all. ``answers`` is asked first what a carrier is answered: an exception to raise, or ``None``.
    """

    hello: dict[str, Any] = field(default_factory=dict)
    budgets: list[tuple[float, float]] = field(default_factory=list)
    answers: Callable[[str, str, Grant], Exception | None] = lambda name, query, grant: None
    tunnels: dict[str, Served] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    """Each carrier's name and query, and its grant's generation."""
    generation: int = 1
    judged: list[int] = field(default_factory=list)
    verdict: bool | Exception = False
    lingers: asyncio.Event | None = None
    """What the end of a carrier waits for."""
    sending: list[Exception] = field(default_factory=list)
    """What the next batches that are sent raise."""

    @property
    def newest(self) -> Served:
        """The tunnel that was begun last."""
        return list(self.tunnels.values())[-1]

    @property
    def line(self) -> Line:
        """The newest carrier's connection."""
        return self.lines[-1]

    def serve(self, query: str, grant: Grant) -> Served:
        """The tunnel that is asked for. Raises ``RefusalError``."""
        asked = parse_qs(query.removeprefix("?"))
        if "tunnel" not in asked:
            identity = f"id{len(self.tunnels)}"
            self.tunnels[identity] = served = Served(identity, self.hello)
            served.machine.attach(0)
            return served
        found = self.tunnels.get(asked["tunnel"][0])
        if found is None:
            raise RefusalError(refusal("not_found"), grant)
        found.machine.detach()
        found.machine.attach(int(asked["received"][0]))
        return found

    # -- as an authenticator -----------------------------------------------------------------------

    async def grant(self) -> Grant:
        return Grant({}, "t", self.generation)

    def refresh_in(self) -> float | None:
        return None

    async def judge(self, grant: Grant, response: Response) -> bool:
        self.judged.append(grant.generation)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        self.generation += self.verdict
        return self.verdict


class Line:
    """One carrier's connection."""

    def __init__(self, served: Served, up: float, down: float) -> None:
        self.served = served
        self.left = {"up": up, "down": down}
        self.coming: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self.cut_off = False
        self.stalled = False

    def spend(self, way: str, size: int) -> bool:
        """Whether these bytes get through; else it is cut."""
        self.left[way] -= size
        if self.left[way] < 0:
            self.cut()
        return not self.cut_off

    def cut(self) -> None:
        """Break it."""
        if not self.cut_off:
            self.cut_off = True
            self.coming.put_nowait(None)

    def move(self) -> None:
        """What the server has to say goes to the client."""
        self.served.hear()
        while not (self.cut_off or self.stalled):
            batch = self.served.machine.take(ack=True)
            if batch is None:
                break
            if self.spend("down", len(batch[1])):
                self.coming.put_nowait(batch)


class MemoryCarrier(Carrier):
    """A carrier over a ``Net``."""

    def __init__(self, way: Way, beat: Callable[[], None]) -> None:
        super().__init__(way, beat)
        self.net = cast("Net", way.transport)
        self.line: Line | None = None

    async def connect(self, grant: Grant, query: str) -> None:
        self.net.asked.append((self.name, query, grant.generation))
        answer = self.net.answers(self.name, query, grant)
        if answer is not None:
            raise answer
        served = self.net.serve(query, grant)
        budget = self.net.budgets.pop(0) if self.net.budgets else (math.inf, math.inf)
        self.line = Line(served, *budget)
        self.net.lines.append(self.line)
        self.line.move()

    async def batches(self) -> AsyncGenerator[tuple[int, bytes], None]:
        assert self.line is not None
        while (batch := await self.line.coming.get()) is not None:
            yield batch
        raise CarrierLostError("cut")

    async def send(self, tunnel: str, first: int, data: bytes) -> None:
        assert self.line is not None
        if self.net.sending:
            raise self.net.sending.pop(0)
        if self.line.spend("up", len(data)):
            self.line.served.machine.receive(first, data)
            self.line.move()
        await asyncio.sleep(0)

    async def _ask(self, tunnel: str) -> None:
        self._heard = asyncio.get_running_loop().time()

    async def aclose(self, *, politely: bool = False) -> None:
        if self.line is not None:
            self.line.cut()
        if self.net.lingers is not None:
            await self.net.lingers.wait()


class MemoryWebSocket(MemoryCarrier):
    name = WEBSOCKET


class MemoryEventStream(MemoryCarrier):
    name = EVENT_STREAM

    async def is_held_back(self) -> bool:
        return self.line is not None


def tunnel_over(net: Net, **options: Any) -> Tunnel:
    """The client's tunnel over a network in memory. Only within ``in_memory``."""
    options = {"backoff": Backoff(base=0.001, cap=0.002), "open_timeout": 5.0, **options}
    here = cast("Any", net)
    return Tunnel(here, here, addresses("http://127.0.0.1/", None), None, **options)


@contextmanager
def in_memory() -> Iterator[None]:
    """Carriers are these."""
    carriers = {WEBSOCKET: MemoryWebSocket, EVENT_STREAM: MemoryEventStream}
    with patch.dict(cast("Any", CARRIERS), carriers):
        yield
