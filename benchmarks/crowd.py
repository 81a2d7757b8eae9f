"""Many clients at once: how long each waits, and what each costs the server."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks import client, servers
from benchmarks.channels import Channels
from benchmarks.pairs import UNLIMITED, Options, Samples, alternate, column
from benchmarks.servers import Server
from benchmarks.stats import LEAST_PAIRS, Comparison, Count, Figure

CLIENTS = 50
KERNELS = 10
TRIPS = 10
"""Requests of each client in one sample."""
IPYKERNEL_PAIRS = 10
"""Fewer, as they take long and nothing is to be reached with them."""

CONNECTS = 20

STEP = 20
"""Connections opened between two looks at the server's memory."""
WANTED = 1000
"""Connections to one kernel."""


@dataclass(frozen=True)
class Trips:
    """Fifty clients of ten kernels execute something, again as soon as they have their reply.

    Attributes:
        ipykernel: of what kind the kernels are.
    """

    ipykernel: bool

    def start(self, server: Server) -> Sequence[str]:
        """Start the kernels."""
        start = server.start_kernel if self.ipykernel else server.start_emitter
        with ThreadPoolExecutor(KERNELS) as pool:
            return list(pool.map(lambda _: start(), range(KERNELS)))

    def sample(self, server: Server, kernels: Sequence[str]) -> Sequence[float]:
        """Milliseconds from request to reply, median and 99th percentile; processor time of each."""
        with ExitStack() as stack:
            crowd = [
                stack.enter_context(Channels(server, kernels[number % KERNELS]))
                for number in range(CLIENTS)
            ]
            for each in crowd:
                each.settle()
            before = server.idle_cpu_ns()
            times = run_trips(crowd, TRIPS)
            cpu = server.idle_cpu_ns() - before
        return median(times) / 1e6, quantiles(times, n=100)[98] / 1e6, cpu / len(times) / 1e6

    def measure(self, options: Options) -> Iterator[Figure]:
        """Yield both percentiles, and the processor time."""
        samples = alternate(
            options.shares(IPYKERNEL_PAIRS if self.ipykernel else LEAST_PAIRS),
            self.start,
            self.sample,
            config=UNLIMITED,
            control=options.control,
            warm_up=1,
        )
        name = f"{CLIENTS} clients on {KERNELS} {'ipykernels' if self.ipykernel else 'kernels'}"
        # Ten ipykernels want more of the machine than the server does: that is their time.
        limit = None if self.ipykernel else 0.7
        yield Comparison(f"{name}, p50", "ms", *column(samples, 0), limit=limit)
        yield Comparison(f"{name}, p99", "ms", *column(samples, 1), limit=limit)
        yield Comparison(f"{name}: server CPU", "ms", *column(samples, 2))


def run_trips(crowd: Sequence[Channels], trips: int) -> list[int]:
    """Let each execute *trips* times; return the nanoseconds of all."""
    times = []
    with selectors.DefaultSelector() as selector:
        asked = {}
        left = dict.fromkeys(crowd, trips)
        for each in crowd:
            selector.register(each, selectors.EVENT_READ, each)
            asked[each] = time.perf_counter_ns(), each.ask("execute_request", "1")
        while left:
            for key, _ in selector.select():
                each = key.data
                begun, message_id = asked[each]
                for _, message in each.read():
                    if b'"execute_reply"' not in message or message_id not in message:
                        continue
                    times.append(time.perf_counter_ns() - begun)
                    left[each] -= 1
                    if left[each]:
                        asked[each] = time.perf_counter_ns(), each.ask("execute_request", "1")
                    else:
                        del left[each]
    return times


def measure_connects(options: Options) -> Iterator[Figure]:
    """Yield how long twenty clients take that connect at once, each with a thread of its own."""

    def start(server: Server) -> str:
        return server.start_kernel()

    def connect(server: Server, kernel_id: str) -> int:
        with Channels(server, kernel_id) as channels:
            message_id = channels.ask("kernel_info_request")
            return channels.until(message_id, b'"kernel_info_reply"')

    def sample(server: Server, kernel_id: str) -> Sequence[float]:
        before = server.idle_cpu_ns()
        begun = time.perf_counter_ns()
        ended = pool.map(connect, [server] * CONNECTS, [kernel_id] * CONNECTS)
        spent = max(ended) - begun
        return spent / 1e6, (server.idle_cpu_ns() - before) / 1e6

    with ThreadPoolExecutor(CONNECTS) as pool:
        samples = alternate(
            options.shares(LEAST_PAIRS), start, sample, config=UNLIMITED, control=options.control
        )
    name = f"{CONNECTS} connects at once, ipykernel"
    yield Comparison(name, "ms", *column(samples, 0), limit=1 / 1.8)
    yield Comparison(f"{name}: server CPU", "ms", *column(samples, 1))


def measure_connections(options: Options) -> Iterator[Figure]:
    """Yield what an idle connection costs, and how many a kernel takes."""
    costs: Samples = ([], [])
    counts: tuple[list[float], list[float]] = ([], [])
    for share in options.shares(LEAST_PAIRS):
        with (
            ThreadPoolExecutor(STEP) as pool,
            servers.both(UNLIMITED, control=options.control) as both,
        ):
            crowds = [Crowd(server, pool) for server in both]
            for number in range(-1, share):
                for index, crowd in enumerate(crowds):
                    cost = crowd.grow()
                    if number >= 0:
                        costs[index].append(cost)
            for crowd, count in zip(crowds, counts, strict=True):
                while len(crowd.connections) < WANTED and not crowd.failed:
                    crowd.grow()
                count.append(crowd.count_served())
                crowd.close()
    yield Comparison("idle connection: server RSS", "KiB", *column(costs, 0), limit=1.05)
    yield Count("idle connection: descriptors", "", *column(costs, 1))
    yield Count("connections to one kernel", "", *counts, at_least=WANTED)


class Crowd:
    """Clients of one kernel that do nothing.

    Args:
        server: where they are.
        pool: of threads, one for each client of a step.
    """

    def __init__(self, server: Server, pool: ThreadPoolExecutor) -> None:
        self._server = server
        self._pool = pool
        self._kernel_id = server.start_emitter()
        self.connections: list[Channels] = []
        self.failed = False

    def grow(self) -> Sequence[float]:
        """Open some more; return what each takes: KiB of memory, and descriptors."""
        server = self._server
        server.idle_cpu_ns()
        memory, descriptors = server.memory, server.descriptors
        opened = [each for each in self._pool.map(self._open, range(STEP)) if each is not None]
        self.failed = len(opened) < STEP
        self.connections += opened
        server.idle_cpu_ns()
        return (server.memory - memory) / 1024 / STEP, (server.descriptors - descriptors) / STEP

    def _open(self, _: int) -> Channels | None:
        channels = Channels(self._server, self._kernel_id)
        try:
            return channels.__enter__()
        except (client.AnswerError, OSError):
            return None

    def count_served(self) -> int:
        """How many are told of a request that one of them sends."""
        message_id = self.connections[0].ask("kernel_info_request")
        return sum(self._pool.map(lambda each: self._is_told(each, message_id), self.connections))

    @staticmethod
    def _is_told(channels: Channels, message_id: bytes) -> bool:
        try:
            channels.until(message_id, b'"idle"')
        except (client.AnswerError, OSError):
            return False
        return True

    def close(self) -> None:
        """Hang up."""
        for each in self.connections:
            each.abandon()
