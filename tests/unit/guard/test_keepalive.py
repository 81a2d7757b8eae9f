"""The keepalive: its rule by clocks of our own, and its pings on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.keepalive import TICK, Keepalive, Pulse, Reading
from jupyter_token_ws.guard.registry import OpenSocket, Registry
from jupyter_token_ws.protocol.subprotocols import MARKER
from tests.support.knock import TIMEOUT, Knock, bearing, knock
from tests.support.waiting import auntil

# --- the rule, by clocks and readings of our own --------------------------------------------------


@dataclass(eq=False)
class Line:
    """A connection as the timer sees it: stream and protocol in one."""

    ws_connection: Any = None
    pings: list[float] = field(default_factory=list)
    dropped_at: float = 0
    """0 is never."""
    world: Any = None
    error: Exception | None = None
    _wire_bytes_in: int = 0
    _read_buffer_size: int = 0
    _total_write_done_index: int = 0
    blocked: bool = False
    waits_for_client: bool = True

    def writing(self) -> bool:
        return self.blocked

    def reading(self) -> bool:
        return self.waits_for_client

    def closed(self) -> bool:
        return self.dropped_at != 0

    def close(self) -> None:
        self.dropped_at = self.world.now

    def write_ping(self, data: bytes) -> None:
        assert data == b""
        if self.error is not None:
            raise self.error
        self.pings.append(self.world.now)


class World:
    """A keepalive whose time is ours."""

    def __init__(self, interval: float, timeout: float) -> None:
        self.now, self.wall = 1000.0, 5000.0
        self.registry = Registry()
        self.drops: list[tuple[OpenSocket, float]] = []
        self.ticks = 0
        self.keepalive = Keepalive(
            self.registry,
            interval,
            timeout,
            on_tick=self._count,
            on_drop=lambda socket, silence: self.drops.append((socket, silence)),
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    def _count(self) -> None:
        self.ticks += 1

    def connect(self, **options: Any) -> Line:
        line = Line(world=self, **options)
        line.ws_connection = line
        socket = OpenSocket(
            handler=cast("Any", line),
            path="/socket",
            principal="user:ann",
            credential="",
            source=CredentialSource.NONE,
            opted_in=False,
            stream=line,
        )
        self.registry.add(socket)
        return line

    def tick(self, step: float | None = None, wall: float | None = None) -> None:
        """One look, ``step`` seconds after the last."""
        step = self.keepalive.tick_interval if step is None else step
        self.now += step
        self.wall += step if wall is None else wall
        self.keepalive.tick()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.tick()


def reading(received: int = 0, drained: int = 0, *, blocked: bool = False, waits: bool = True):
    return Reading((received, 0), drained, blocked, waits)


@pytest.mark.parametrize(
    ("first", "then", "alive"),
    [
        pytest.param(reading(), reading(), False, id="nothing moved"),
        pytest.param(reading(), reading(received=1), True, id="a byte came"),
        pytest.param(
            reading(blocked=True), reading(drained=1, blocked=True), True, id="drains slowly"
        ),
        pytest.param(reading(blocked=True), reading(drained=9), True, id="drained"),
        pytest.param(
            reading(blocked=True), reading(blocked=True), False, id="stuck with a full buffer"
        ),
        # Bytes that the system took into its own buffer prove nothing about the client.
        pytest.param(reading(), reading(drained=9), False, id="written into the system's buffer"),
        pytest.param(reading(), reading(waits=False), True, id="held back by the handler"),
        pytest.param(reading(waits=False), reading(), False, id="read from again, and silent"),
    ],
)
def test_what_counts_as_moving(first, then, alive):
    pulse = Pulse(first, alive_at=0, pinged_at=0, asked_at=5)
    pulse.observe(10, then)
    assert (pulse.alive_at == 10) is alive
    assert (pulse.asked_at is None) is alive
    assert pulse.last is then


@pytest.mark.parametrize(
    ("alive_at", "asked_at", "now", "dead"),
    [
        pytest.param(0, None, 1000, False, id="never asked"),
        pytest.param(0, 25, 74.9, False, id="not silent for long enough"),
        pytest.param(0, 25, 75, True, id="silent for the timeout"),
        pytest.param(0, 60, 75, False, id="silent, but had no time to answer"),
        pytest.param(0, 60, 85, True, id="silent, and had the time to answer"),
    ],
)
def test_when_a_socket_is_dead(alive_at, asked_at, now, dead):
    pulse = Pulse(reading(), alive_at, alive_at, asked_at)
    assert pulse.dead(now, timeout=75, patience=25) is dead


def test_the_first_unanswered_ping_counts():
    pulse = Pulse(reading(), 0, 0)
    pulse.pinged(25)
    pulse.pinged(50)
    assert (pulse.pinged_at, pulse.asked_at) == (50, 25)


@pytest.mark.parametrize(
    ("interval", "timeout", "tick"),
    [
        (25, 75, TICK),
        (1, 75, 0.2),
        (25, 1, 0.2),  # not looked at less often than somebody is given to answer
        (25, 0.5, 0.1),
        (25, 0, TICK),
        (0, 75, TICK),
        (0, 0, TICK),
    ],
)
def test_how_often_it_looks(interval, timeout, tick):
    assert Keepalive(Registry(), interval, timeout).tick_interval == pytest.approx(tick)


def test_pings_once_an_interval():
    world = World(25, 75)
    line = world.connect()
    for second in range(200):
        line._wire_bytes_in = second
        world.tick()
    gaps = [later - earlier for earlier, later in zip(line.pings, line.pings[1:], strict=False)]
    assert gaps == [25] * 6
    assert not line.closed()


def test_silence_is_dropped_after_the_timeout():
    world = World(25, 75)
    line = world.connect()
    start = world.now
    world.run(120)
    assert line.dropped_at == start + 1 + 75
    assert [(socket.stream, silence) for socket, silence in world.drops] == [(line, 75)]
    assert line.pings == [start + 26, start + 51]


def test_timeout_below_the_interval():
    """Asked first, then given the timeout to answer."""
    world = World(25, 5)
    line = world.connect()
    start = world.now
    world.run(60)
    assert line.dropped_at == start + 1 + 25 + 5
    answering = world.connect()
    for _ in range(200):
        world.tick()
        answering._wire_bytes_in = len(answering.pings)
    assert not answering.closed()


def test_timeout_zero_drops_nobody():
    world = World(1, 0)
    line = world.connect()
    world.run(1000)
    assert not line.closed()
    assert len(line.pings) > 800


def test_interval_zero_pings_and_drops_nobody():
    world = World(0, 5)
    line = world.connect()
    world.run(1000)
    assert (line.pings, line.closed()) == ([], False)
    assert world.ticks == 1000  # what else wants to be looked at is


def test_no_callbacks_no_harm():
    """Both callbacks may be left out."""
    world = World(1, 1)
    world.keepalive = Keepalive(
        world.registry, 1, 1, clock=lambda: world.now, wall=lambda: world.wall
    )
    line = world.connect()
    world.run(5)
    assert line.closed()


def test_slow_reader_that_drains_is_not_silent():
    world = World(5, 10)
    line = world.connect(blocked=True)
    for n in range(500):
        line._total_write_done_index = n // 8  # something every eight seconds
        world.tick()
    assert not line.closed()
    world.run(20)  # and now nothing more
    assert line.closed()


def test_a_message_that_is_still_arriving_is_not_silence():
    world = World(5, 10)
    line = world.connect()
    for n in range(200):
        line._read_buffer_size = n
        world.tick()
    assert not line.closed()


@pytest.mark.parametrize("what", ["opening", "handler at work"])
def test_not_judged_while_the_server_does_not_read(what):
    """While it opens, and while its handler awaits something, nobody waits for the client."""
    world = World(1, 2)
    line = world.connect(waits_for_client=False)
    world.run(100)
    assert not line.closed()
    assert len(line.pings) > 90  # pinged all the same: proxies in between must not cut it
    line.waits_for_client = True
    back = world.now
    world.run(1.8)
    assert not line.closed()
    world.run(5)
    assert line.closed()
    assert line.dropped_at - back == pytest.approx(2, abs=1.3)


def test_a_closing_socket_is_left_alone():
    world = World(1, 2)
    line = world.connect()
    line.ws_connection = None
    world.run(100)
    assert (line.pings, line.closed()) == ([], False)


def test_a_socket_without_a_stream_of_its_own_is_left_alone():
    world = World(1, 2)
    line = world.connect()
    for socket in world.registry:
        socket.stream = None
    world.run(100)
    assert (line.pings, line.closed()) == ([], False)


def test_an_ended_stream_leaves_the_list():
    """Its handler is stuck somewhere and will not tell us."""
    world = World(1, 2)
    line = world.connect()
    line.close()
    world.tick()
    assert len(world.registry) == 0
    assert world.drops == []


@pytest.mark.parametrize("error", [WebSocketClosedError(), StreamClosedError()])
def test_a_ping_that_cannot_be_sent_is_no_question(error):
    world = World(1, 2)
    line = world.connect(error=error)
    other = world.connect()
    world.run(100)
    assert not line.closed()
    assert other.closed()


@pytest.mark.parametrize("clock", ["monotonic", "wall"])
@pytest.mark.parametrize("interval, timeout", [(25, 75), (25, 5), (5, 5), (1, 1000)])  # noqa: PT006
@pytest.mark.parametrize("asleep", [100, 10_000, 1e6])
def test_after_the_machine_slept_ping_first(clock, interval, timeout, asleep):
    """Where the monotonic clock stands still during a sleep, the wall clock tells."""
    world = World(interval, timeout)
    line = world.connect()
    world.run(interval + 2 * world.keepalive.tick_interval)
    assert len(line.pings) == 1
    if clock == "monotonic":
        world.tick(asleep, wall=0)  # and a wall clock that is being set back
    else:
        world.tick(wall=asleep)
    woke = world.now
    assert not line.closed()
    assert line.pings[-1] == woke
    line._wire_bytes_in += 1  # the pong
    world.tick()
    world.run(0.9 * timeout)
    assert not line.closed()
    world.run(interval + timeout)
    assert line.closed()  # and from then on as ever


def test_a_wall_clock_set_back_is_no_sleep():
    world = World(25, 75)
    line = world.connect()
    world.tick()
    world.tick(wall=-3600)
    assert line.pings == []


@pytest.mark.parametrize(("interval", "timeout"), [(25, 75), (25, 5), (10, 0)])
@pytest.mark.parametrize(("share", "slept"), [(0.4, False), (0.6, True)])
def test_a_hiccup_of_the_loop_is_a_sleep_from_half_the_time_to_answer(
    interval, timeout, share, slept
):
    world = World(interval, timeout)
    line = world.connect()
    world.tick()
    world.tick()
    patience = min(interval, timeout) if timeout else interval
    world.tick(world.keepalive.tick_interval + share * patience)
    assert bool(line.pings) is slept


TIMES = st.tuples(
    st.floats(0.5, 60).map(lambda x: round(x, 2)), st.floats(0.5, 180).map(lambda x: round(x, 2))
)
JITTER = st.floats(1, 1.5)


@given(
    times=TIMES,
    jitter=st.lists(JITTER, min_size=1, max_size=20),
    gaps=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=20),
    how=st.sampled_from(["received", "arriving", "drained"]),
)
def test_never_drops_what_moved_within_the_timeout(times, jitter, gaps, how):
    """Whatever counts as moving, as seldom as the timeout allows."""
    interval, timeout = times
    world = World(interval, timeout)
    line = world.connect(blocked=how == "drained")
    tick = world.keepalive.tick_interval
    moved = world.now
    count = 0
    for n in range(400):
        if world.now - moved >= gaps[n % len(gaps)] * (timeout - 2 * tick):
            count += 1
            moved = world.now
            name = {
                "received": "_wire_bytes_in",
                "arriving": "_read_buffer_size",
                "drained": "_total_write_done_index",
            }[how]
            setattr(line, name, count)
        world.tick(tick * jitter[n % len(jitter)])
        assert not line.closed()


@given(
    times=TIMES,
    jitter=st.lists(JITTER, min_size=1, max_size=20),
    active=st.integers(0, 200),
    blocked=st.booleans(),
)
def test_always_drops_the_silent(times, jitter, active, blocked):
    """Within timeout and interval, and the ticks until it is seen; and never before the timeout."""
    interval, timeout = times
    world = World(interval, timeout)
    line = world.connect(blocked=blocked)
    tick = world.keepalive.tick_interval
    for n in range(active):
        line._wire_bytes_in += 1
        world.tick(tick * jitter[n % len(jitter)])
    silent = world.now
    latest = silent + timeout + interval + 3 * 1.5 * tick
    n = active
    while not line.closed():
        assert world.now <= latest
        n += 1
        world.tick(tick * jitter[n % len(jitter)])
    assert line.dropped_at - silent >= timeout - 1e-6 - (0 if active == 0 else 1.5 * tick)
    asked = [ping for ping in line.pings if ping >= silent]
    assert asked, "nobody is dropped who was not asked"
    assert line.dropped_at - asked[0] >= min(interval, timeout) - 1e-6


@given(
    times=TIMES,
    before=st.floats(0, 3),
    gap=st.floats(0, 5),
    delay=st.floats(0, 0.25),
)
def test_never_drops_what_answers_though_the_loop_was_blocked(times, before, gap, delay):
    """An answer that came while nobody could read it counts when it can be read."""
    interval, timeout = times
    world = World(interval, timeout)
    line = world.connect()
    tick = world.keepalive.tick_interval
    steps = math.ceil(min(before * interval + 4 * (interval + timeout), 500 * tick) / tick)
    blocked_at = int(before * interval / tick)
    pings_answered = 0
    for n in range(steps):
        long = n == blocked_at
        world.tick(tick + gap * min(interval, timeout) if long else tick)
        due = [ping for ping in line.pings if ping + delay * min(interval, timeout) <= world.now]
        if len(due) > pings_answered:
            # Seen at the next look: the timer may run before the reader.
            pings_answered = len(due)
            line._wire_bytes_in = pings_answered
        assert not line.closed()


# --- the timer itself -----------------------------------------------------------------------------


async def test_the_timer_ends_with_the_last_socket():
    world = World(0.05, 5)
    keepalive = world.keepalive
    line = world.connect()
    keepalive.start()
    timer = keepalive._timer
    keepalive.start()  # already running
    assert timer is not None
    assert keepalive._timer is timer
    await auntil(lambda: world.ticks > 2, "ticks")
    assert not line.closed()
    world.registry.discard(cast("Any", line))
    await auntil(lambda: keepalive._timer is None, "the timer's end")
    keepalive.stop()  # not running
    assert not timer.is_running()


async def test_starting_again_is_no_sleep():
    """Nobody was connected meanwhile, so nobody slept."""
    world = World(5, 10)
    world.now += 1000
    world.keepalive.start()
    line = world.connect()
    world.tick()
    world.tick()
    assert line.pings == []
    world.keepalive.stop()


# --- real sockets ---------------------------------------------------------------------------------

INTERVAL = 0.3


class PlainSocket(WebSocketHandler):
    """Of no framework, registered late, with no ping of its own."""

    opened: list[PlainSocket]
    hold: asyncio.Event | None = None

    def initialize(self, opened: list[PlainSocket]) -> None:
        self.opened = opened

    def check_origin(self, origin: str) -> bool:
        return True

    def open(self, *args: str, **kwargs: str) -> None:
        self.opened.append(self)

    async def on_message(self, message: str | bytes) -> None:
        if self.hold is not None:
            await self.hold.wait()
        await self.write_message(message)


class StuckSocket(PlainSocket):
    """Opens for ever."""

    async def open(self, *args: str, **kwargs: str) -> None:  # type: ignore[override]
        self.opened.append(self)
        self.end = asyncio.Event()  # who waits for what nobody else knows may be thrown away
        await self.end.wait()


@pytest.fixture
def plain(jp_serverapp, jp_base_url):
    opened: list[PlainSocket] = []
    jp_serverapp.web_app.add_handlers(
        ".*$",
        [
            (f"{jp_base_url}plain", PlainSocket, {"opened": opened}),
            (f"{jp_base_url}stuck", StuckSocket, {"opened": opened}),
        ],
    )
    return opened


async def pings(socket: Knock, count: int, *, pong: bool = True) -> list[float]:
    """When the next ``count`` pings came; messages in between are dropped."""
    times: list[float] = []
    while len(times) < count:
        frame = await asyncio.wait_for(socket.read_frame(), TIMEOUT)
        assert frame is not None, "the server left"
        assert frame[0] != 8, frame
        if frame[0] == 9:
            times.append(time.monotonic())
            if pong:
                await socket.send(frame[1], opcode=10)
    return times


async def paths_of_every_kind(jp_serverapp, jp_base_url) -> dict[str, str]:
    kernel_id = await jp_serverapp.kernel_manager.start_kernel()
    terminal = jp_serverapp.web_app.settings["terminal_manager"].create()["name"]
    return {
        "events": f"{jp_base_url}api/events/subscribe",
        "terminal": f"{jp_base_url}terminals/websocket/{terminal}",
        "kernel": f"{jp_base_url}api/kernels/{kernel_id}/channels?session_id=abc",
        "plain": f"{jp_base_url}plain",
    }


def upstream_pingers(handler: WebSocketHandler) -> tuple[bool, bool]:
    """Whether jupyter_server's mixin and tornado (by its name before 6.5 or since) ping a socket."""
    connection = cast("Any", handler.ws_connection)
    return getattr(handler, "ping_callback", None) is not None, any(
        getattr(connection, name, None) is not None for name in ("_ping_coroutine", "ping_callback")
    )


UPSTREAM_PINGS = {
    # In milliseconds for jupyter_server's own, in seconds for tornado's.
    "tornado_settings": {
        "ws_ping_interval": 1000 * INTERVAL,
        "websocket_ping_interval": INTERVAL,
        "websocket_ping_timeout": 30 * INTERVAL,
    }
}


@pytest.fixture
def upstream_pings() -> bool:
    return False


@pytest.fixture
def jp_server_config(jp_server_config, upstream_pings):
    if upstream_pings:
        jp_server_config["ServerApp"].update(UPSTREAM_PINGS)
    return jp_server_config


@pytest.mark.parametrize("upstream_pings", [True])
@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": INTERVAL}])
async def test_one_ping_an_interval_on_every_kind_of_socket(
    jp_serverapp, http_server, jp_http_port, jp_base_url, guard, plain
):
    """Also where upstream has none, and never upstream's own beside it though it is told to ping."""
    paths = await paths_of_every_kind(jp_serverapp, jp_base_url)
    offer = [MARKER, bearing(jp_serverapp.identity_provider.token)]
    # Two pingers would need half the time; how late it may get is the machine's business.
    least = 4.5 * INTERVAL

    async def measure(path: str) -> float:
        async with await knock(jp_http_port, path, offer) as socket:
            assert socket.status == 101
            times = await pings(socket, 6)
            # The first that came late makes it shorter. A second pinger makes every six too quick.
            while times[-1] - times[-6] < least and len(times) < 60:
                times += await pings(socket, 1)
            [handler] = [entry.handler for entry in guard.registry if entry.path in path]
            assert upstream_pingers(handler) == (False, False)
            return times[-1] - times[-6]

    spans = await asyncio.gather(*map(measure, paths.values()))
    for kind, span in zip(paths, spans, strict=True):
        assert span >= least, kind


@pytest.mark.parametrize("upstream_pings", [True])
@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0}])
async def test_interval_zero_leaves_pings_to_upstream(
    jp_serverapp, http_server, jp_http_port, jp_base_url, guard, plain
):
    paths = await paths_of_every_kind(jp_serverapp, jp_base_url)
    offer = [MARKER, bearing(jp_serverapp.identity_provider.token)]

    async def look(kind: str) -> tuple[bool, bool]:
        async with await knock(jp_http_port, paths[kind], offer) as socket:
            assert socket.status == 101
            await pings(socket, 2)
            [handler] = [entry.handler for entry in guard.registry if entry.path in paths[kind]]
            return upstream_pingers(handler)

    assert await look("events") == (False, True)
    assert await look("plain") == (False, True)
    assert (await look("kernel"))[0]
    assert (await look("terminal"))[0]


SHORT = {"keepalive_interval": 0.1, "keepalive_timeout": 0.4}


@pytest.mark.parametrize("token_ws_config", [SHORT])
async def test_who_answers_stays_and_who_does_not_is_dropped(
    jp_serverapp, http_server, jp_http_port, jp_base_url, guard, plain, caplog
):
    path = f"{jp_base_url}plain"
    offer = [MARKER, bearing(jp_serverapp.identity_provider.token)]
    started = time.monotonic()
    async with (
        await knock(jp_http_port, path, offer) as good,
        await knock(jp_http_port, path, offer) as silent,
    ):
        await auntil(lambda: len(guard.registry) == 2)
        answering = asyncio.ensure_future(pings(good, 1000))
        await silent.wait_closed(pong=False)
        assert silent.code is None  # nobody there to tell
        assert time.monotonic() - started >= SHORT["keepalive_timeout"]
        await auntil(lambda: len(guard.registry) == 1)
        assert not answering.done()
        answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        await good.send("still there")
        assert await good.wait_message() == "still there"
    assert "of silence" in caplog.text
    assert path in caplog.text


@pytest.mark.parametrize("token_ws_config", [SHORT])
async def test_messages_are_as_good_as_pongs(
    jp_serverapp, http_server, jp_http_port, jp_base_url, guard, plain
):
    offer = [MARKER, bearing(jp_serverapp.identity_provider.token)]
    async with await knock(jp_http_port, f"{jp_base_url}plain", offer) as socket:
        pings_seen = 0
        while pings_seen < 10:
            frame = await asyncio.wait_for(socket.read_frame(), TIMEOUT)
            assert frame is not None
            if frame[0] == 9:
                pings_seen += 1
                await socket.send("no pong, but alive")
        assert len(guard.registry) == 1


@pytest.mark.parametrize("token_ws_config", [SHORT])
async def test_not_dropped_while_its_handler_is_at_work_or_opening(
    jp_serverapp, http_server, jp_http_port, jp_base_url, guard, plain
):
    """The server does not read from it then, so nothing can be received."""
    offer = [MARKER, bearing(jp_serverapp.identity_provider.token)]
    hold = asyncio.Event()
    async with (
        await knock(jp_http_port, f"{jp_base_url}plain", offer) as held,
        await knock(jp_http_port, f"{jp_base_url}stuck", offer) as stuck,
    ):
        await auntil(lambda: len(plain) == 2)
        for handler in plain:
            handler.hold = hold
        await held.send("wait")
        # Far longer than the timeout, measured by the pings that go on.
        await pings(held, 12, pong=False)
        await pings(stuck, 12, pong=False)
        assert len(guard.registry) == 2
        hold.set()
        assert await held.wait_message() == "wait"
        await held.wait_closed(pong=False)
    # The stuck one is noticed once its connection ended, though its handler never tells.
    await auntil(lambda: len(guard.registry) == 0, "the stuck socket's end")


@pytest.mark.parametrize("token_ws_config", [SHORT])
async def test_a_slow_reader_that_still_drains_stays(
    jp_serverapp, http_server, jp_http_port, jp_base_url, guard, plain
):
    """Its pongs wait behind its own output, so what drains must count."""
    offer = [MARKER, bearing(jp_serverapp.identity_provider.token)]
    async with await knock(jp_http_port, f"{jp_base_url}plain", offer) as socket:
        await auntil(lambda: len(plain) == 1)
        [handler] = plain
        [entry] = guard.registry
        sent = handler.write_message(b"x" * 60_000_000, binary=True)
        assert entry.stream.writing()
        started = time.monotonic()
        received = 0
        # Reads, never answers a ping, and takes several timeouts for it all.
        while time.monotonic() - started < 5 * SHORT["keepalive_timeout"] and not sent.done():
            chunk = await asyncio.wait_for(socket.reader.read(400_000), TIMEOUT)
            assert chunk, "dropped though it was draining"
            received += len(chunk)
            await asyncio.sleep(0.01)  # what makes it slow
        assert len(guard.registry) == 1
        assert received
        socket.vanish()
    await auntil(lambda: len(guard.registry) == 0)
