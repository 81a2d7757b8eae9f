"""What it costs to pass messages between a kernel and one client.

Time is the client's: from the third message of a flood to the idle status that ends it, or from a request
to its reply. Processor time is the server's, of all its threads, from before the request until it is
idle again, so that what is put off until later counts too. Stock's limits on the rate are off.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Protocol

from benchmarks import client
from benchmarks.channels import Channels, Message
from benchmarks.pairs import UNLIMITED, Options, alternate, column
from benchmarks.servers import Server
from benchmarks.stats import LEAST_PAIRS, Comparison

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

TRIPS = 10
"""Requests of one sample, one after the other."""


class Kernel(Protocol):
    """A way to a kernel: its socket, or what stands for one. Opens on entry."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    def ask(self, kind: str, code: str = "") -> bytes:
        """See ``Channels``, as for the others."""

    def messages(self) -> Iterator[Message]:
        """What comes."""

    def until(self, message_id: bytes, what: bytes) -> int:
        """Read until it comes."""

    def settle(self) -> None:
        """Wait until the kernel answers."""


@dataclass(frozen=True)
class Flood:
    """What the emitter is told."""

    count: int
    size: int
    v1: bool = True
    buffer: int = 0
    kind: str = "stream"

    def __call__(self, server: Server, kernel_id: str) -> Sequence[float]:
        """Microseconds of time and of processor time for a message."""
        return self.by(server, Channels(server, kernel_id, v1=self.v1))

    def by(self, server: Server, way: Kernel) -> Sequence[float]:
        """The same, by a way that is not open yet."""
        names = ("count", "size", "buffer", "kind")
        code = json.dumps({name: getattr(self, name) for name in names})
        with way as channels:
            channels.settle()
            before = server.idle_cpu_ns()
            message_id = channels.ask("execute_request", code)
            begun = 0
            total = 0
            for count, (size, message) in enumerate(channels.messages(), 1):
                total += size
                if count == 3:
                    begun = time.perf_counter_ns()
                if b'"idle"' in message and message_id in message:
                    break
            spent = time.perf_counter_ns() - begun
            # Neighbouring text may come in fewer messages, but not in fewer bytes.
            if total < self.count * (self.size + self.buffer):
                raise client.AnswerError(f"{server.name}: {total} bytes in {count} messages")
            cpu = server.idle_cpu_ns() - before
        return spent / self.count / 1e3, cpu / self.count / 1e3


def make_round_trips(server: Server, kernel_id: str) -> Sequence[float]:
    """Milliseconds from an execute_request to its reply, of many the median; processor time of each."""
    return measure_trips(server, Channels(server, kernel_id))


def measure_trips(server: Server, way: Kernel) -> Sequence[float]:
    """The same, by a way that is not open yet."""
    with way as channels:
        channels.settle()
        before = server.idle_cpu_ns()
        times = []
        for _ in range(TRIPS):
            begun = time.perf_counter_ns()
            message_id = channels.ask("execute_request", "1")
            times.append(channels.until(message_id, b'"execute_reply"') - begun)
        cpu = server.idle_cpu_ns() - before
    return median(times) / 1e6, cpu / TRIPS / 1e6


def connect(server: Server, kernel_id: str) -> Sequence[float]:
    """Milliseconds from before the handshake to the reply to a first kernel_info_request."""
    before = server.idle_cpu_ns()
    begun = time.perf_counter_ns()
    with Channels(server, kernel_id) as channels:
        message_id = channels.ask("kernel_info_request")
        spent = channels.until(message_id, b'"kernel_info_reply"') - begun
    return spent / 1e6, (server.idle_cpu_ns() - before) / 1e6


@dataclass(frozen=True)
class Line:
    """Time and processor time of something that one client does.

    Attributes:
        figure: what it is.
        unit: of both.
        start: starts the kernel.
        sample: measures once.
        limit: times stock's.
        cpu_limit: times stock's.
    """

    figure: str
    unit: str
    start: Callable[[Server], str]
    sample: Callable[[Server, str], Sequence[float]]
    limit: float
    cpu_limit: float | None = None

    def measure(self, options: Options) -> Iterator[Comparison]:
        """Yield both figures."""
        samples = alternate(
            options.shares(LEAST_PAIRS),
            self.start,
            self.sample,
            config=UNLIMITED,
            control=options.control,
        )
        yield Comparison(self.figure, self.unit, *column(samples, 0), limit=self.limit)
        yield Comparison(
            f"{self.figure}: server CPU", self.unit, *column(samples, 1), limit=self.cpu_limit
        )


EMITTER, IPYKERNEL = Server.start_emitter, Server.start_kernel
STREAM, TRIP = "100-byte stream messages", "execute round trip"
CONNECT = "connect to first kernel_info_reply"
LARGE = Flood(500, 65536), Flood(500, 65536, v1=False)
BUFFERS = Flood(50, 10, True, 2**20, "display_data"), Flood(50, 10, False, 2**20, "display_data")

LINES = {
    "stream-v1": Line(f"{STREAM}, v1", "µs", EMITTER, Flood(5000, 100), 1 / 15, 1 / 10),
    "stream-legacy": Line(
        f"{STREAM}, legacy", "µs", EMITTER, Flood(5000, 100, v1=False), 1 / 12, 1 / 10
    ),
    "large-v1": Line("64 KiB messages, v1", "µs", EMITTER, LARGE[0], 1 / 2.5),
    "large-legacy": Line("64 KiB messages, legacy", "µs", EMITTER, LARGE[1], 1 / 3),
    "buffers-v1": Line("1 MiB buffers, v1", "µs", EMITTER, BUFFERS[0], 1 / 1.2),
    "buffers-legacy": Line("1 MiB buffers, legacy", "µs", EMITTER, BUFFERS[1], 1 / 1.2),
    "trip": Line(TRIP, "ms", EMITTER, make_round_trips, 0.10),
    "trip-ipykernel": Line(f"{TRIP}, ipykernel", "ms", IPYKERNEL, make_round_trips, 0.20),
    "connect": Line(CONNECT, "ms", EMITTER, connect, 0.20),
    "connect-ipykernel": Line(f"{CONNECT}, ipykernel", "ms", IPYKERNEL, connect, 0.20),
}
