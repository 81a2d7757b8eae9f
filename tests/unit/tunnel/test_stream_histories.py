"""Whatever a client and a ``StreamHandler`` do, in whatever order: what arrives is what was sent, in order;
who reads knows whether it was all; and nothing is left."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_token_ws import MessageStream, StreamClosedError, StreamHandler, StreamInfo
from jupyter_token_ws.protocol.tunnel import TRANSITIONS, Move
from tests.support.door import Door
from tests.support.knock import TIMEOUT
from tests.support.tunnel_peer import Link, carrier_request

WINDOW = 16 * 1024

SIZES = st.sampled_from([0, 1, 1000, 5000, WINDOW - 10, WINDOW, 40_000])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("client sends"), SIZES, st.booleans()),
        st.tuples(st.just("client ends")),
        st.tuples(st.just("client reads"), st.booleans()),
        st.tuples(st.just("client closes"), st.sampled_from([None, 1000, 1001, 4001])),
        st.tuples(st.just("cut")),
        st.tuples(st.just("handler reads"), st.integers(1, 4)),
        st.tuples(st.just("handler sends"), SIZES, st.booleans()),
        st.tuples(st.just("handler ends")),
        st.tuples(st.just("handler closes"), st.sampled_from([None, "unavailable"])),
        st.tuples(st.just("handler returns")),
        st.tuples(st.just("pause"), st.integers(1, 4)),
    ),
    max_size=30,
)


def message(number: int, size: int, text: bool) -> str | bytes:
    whole = f"{number:04}".ljust(size, "x")[: max(size, 4)]
    return whole if text else whole.encode()


class History:
    """One client and one handler, and what each of them knows."""

    def __init__(self, door: Door) -> None:
        self.sent: list[str | bytes] = []
        self.read: list[str | bytes] = []
        self.end: int | str | None = "none"
        self.told: list[str | bytes] = []  # what the handler sends, from when it began to
        self.gone: list[str | bytes] = []  # of it, what `send` returned for
        self.may_read = asyncio.Semaphore(0)
        self.to_send: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.returned = asyncio.Event()
        self.stream: MessageStream | None = None
        self.task: asyncio.Task[None] | None = None
        carrier = carrier_request(Authorization=f"token {door.token}", Host=door.host)
        self.link = Link(
            door.app.web_app, carrier, door.base, stream_window=WINDOW, tunnel_window=WINDOW
        )

    async def serve(self, handler: Any, stream: MessageStream) -> None:
        self.stream, self.task = stream, handler._task
        tasks = [asyncio.ensure_future(each(stream)) for each in (self._read, self._send)]
        await self.returned.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _read(self, stream: MessageStream) -> None:
        try:
            await self.may_read.acquire()
            async for message in stream:
                self.read.append(message)
                await self.may_read.acquire()
            self.end = "end"
        except StreamClosedError as error:
            self.end = error.code

    async def _send(self, stream: MessageStream) -> None:
        while True:
            kind, *what = await self.to_send.get()
            try:
                if kind == "sends":
                    self.told.append(what[0])
                    await stream.send(what[0])
                    self.gone.append(what[0])
                else:
                    await stream.send_eof()
            except StreamClosedError:
                if kind == "sends":
                    self.told.pop()

    async def step(self, number: int, kind: str, *what: Any) -> None:
        link, socket = self.link, self.socket
        match kind:
            case "client sends" if self._client_may(Move.SEND_DATA):
                whole = message(number, *what)
                self.sent.append(whole)
                await socket.send(whole)
            case "client ends" if self._client_may(Move.SEND_END):
                socket.end()
            case "client reads":
                socket.read(*what)
            case "client closes":
                await socket.close(*what)
            case "cut":
                link.server.close_tunnel()
                link.streams.moved()
            case "handler reads":
                for _ in range(what[0]):
                    self.may_read.release()
            case "handler sends":
                self.to_send.put_nowait(("sends", message(number, *what)))
            case "handler ends":
                self.to_send.put_nowait(("ends",))
            case "handler closes":
                assert self.stream is not None
                await self.stream.close(*what)
            case "handler returns":
                self.returned.set()
            case "pause":
                for _ in range(what[0]):
                    await asyncio.sleep(0)

    def _client_may(self, move: Move) -> bool:
        client, number = self.link.client, self.socket.number
        found = client._streams.get(number)
        if client.closed or found is None or found.ending or found.closing is not None:
            return False
        return (found.state, move) in TRANSITIONS

    async def play(self, steps: list[tuple[Any, ...]]) -> None:
        self.socket = await self.link.open("history").wait_open()
        while self.stream is None:
            await asyncio.sleep(0)
        for number, step in enumerate(steps):
            await self.step(number, *step)
        # Then everybody reads what there is, and the client has had enough.
        for _ in range(len(self.sent) + 1):
            self.may_read.release()
        self.socket.read()
        if self._client_may(Move.SEND_END):
            self.socket.end()
        while self.end == "none" and not self.returned.is_set():
            await asyncio.sleep(0)
        while not self.to_send.empty() and not self.returned.is_set():
            await asyncio.sleep(0)
        self.returned.set()
        assert self.task is not None
        await self.task
        await self.socket.wait_closed()
        while self.link._moving:
            await asyncio.sleep(0)

    def check(self, steps: list[tuple[Any, ...]]) -> None:
        heard = list(self.socket.heard)
        assert self.read == self.sent[: len(self.read)]
        assert heard == self.told[: len(heard)]
        closes = any(step[0] in ("handler closes", "handler returns", "cut") for step in steps)
        if self.end == "end":
            assert self.read == self.sent
        if not closes and not any(step[0] == "client closes" for step in steps):
            assert self.end == "end"
            assert heard[: len(self.gone)] == self.gone
        for side in (self.link.client, self.link.server):
            assert side.streams == 0
        assert not len(self.link.streams)


@pytest.fixture
def histories(door: Door) -> deque[History]:
    playing: deque[History] = deque()

    class Handler(StreamHandler):
        async def on_stream(self, stream: MessageStream, info: StreamInfo) -> None:
            await playing.pop().serve(self, stream)

    door.add("history", Handler)
    return playing


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_C7_4_every_history_ends_and_what_arrived_was_sent(steps, histories, door, jp_asyncio_loop):
    async def play() -> None:
        history = History(door)
        histories.append(history)
        await asyncio.wait_for(history.play(steps), TIMEOUT)
        history.check(steps)
        await door.settled()

    jp_asyncio_loop.run_until_complete(play())
