"""What is lost, and what a client that does not read costs the server and the others.

What a kernel sends is numbered, and the client looks at every number that comes: lost is what did not.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import quantiles

from benchmarks import client
from benchmarks.channels import Channels, Message
from benchmarks.pairs import UNLIMITED, Options, alternate, column
from benchmarks.servers import Server
from benchmarks.stats import LEAST_PAIRS, Comparison, Count, Figure

OUTPUTS, SIZE = 2000, 100_000
FLOOD = json.dumps({"count": OUTPUTS, "size": SIZE})
FLOOD_NAME = f"{OUTPUTS * SIZE / 1e6:.0f} MB to a client that does not read"
MOST_MEMORY = 64
"""MB that the server may take for it."""

LINES_PRINTED = 200_000
PRINT = (
    f"for number in range({LINES_PRINTED}):\n"
    '    print(f"#{number:08d} of the lines that somebody prints in a loop, as people do")'
)

PACED = 60_000
RATE = 30_000
"""Messages per second."""

PATIENCE = 2.0
"""Seconds of silence, after a cell is over, after which nothing more is expected."""

_NUMBER = re.compile(rb"#(\d{8})")
_RATE = re.compile(rb'"rate": ?([\d.]+)')


def read_cell(messages: Iterable[Message], count: int, message_id: bytes) -> tuple[int, bytes]:
    """Read to the end of a cell; return how many of its numbers did not come, and the reply.

    The end is its idle state. Where that is lost too, it is silence after the reply.

    Raises:
        client.AnswerError: some came twice, or in another order.
        TimeoutError: not even a reply came.
    """
    numbers: list[int] = []
    reply = b""
    idle = False
    try:
        for _, message in messages:
            numbers.extend(map(int, _NUMBER.findall(message)))
            if message_id in message:
                reply = message if b'"execute_reply"' in message else reply
                idle = idle or b'"idle"' in message
                if reply and idle:
                    break
    except TimeoutError:
        if not reply:
            raise
    if any(after <= before for before, after in pairwise(numbers)):
        raise client.AnswerError("what came was doubled or in disorder")
    return count - len(numbers), reply


def measure_slow_client(options: Options) -> Iterator[Figure]:
    """Yield what a client that does not read costs, and what it misses when it reads again.

    Another client executes something on an ipykernel meanwhile, and as often when all is quiet.
    """

    def start(server: Server) -> tuple[str, str]:
        return server.start_emitter(), server.start_kernel()

    def sample(server: Server, kernels: tuple[str, str]) -> Sequence[float]:
        with Channels(server, kernels[0]) as sleeper, Channels(server, kernels[1]) as other:
            sleeper.settle()
            other.settle()
            server.idle_cpu_ns()
            server.forget_peak()
            memory = server.memory
            message_id = sleeper.ask("execute_request", FLOOD)
            server.await_state(kernels[0], "busy")
            meanwhile = run_trips(other, lambda _: server.state(kernels[0]) != "idle")
            server.idle_cpu_ns()
            grown = server.memory_peak - memory
            lost, _ = read_cell(sleeper.messages(PATIENCE), OUTPUTS, message_id)
            server.idle_cpu_ns()
            quiet = run_trips(
                other, lambda done: server.state(kernels[0]) and done < len(meanwhile)
            )
        return grown / 1e6, lost, percentile(quiet), percentile(meanwhile)

    samples = alternate(
        options.shares(LEAST_PAIRS),
        start,
        sample,
        config=UNLIMITED,
        control=options.control,
        warm_up=0,
    )
    yield Count(f"{FLOOD_NAME}: server RSS", "MB", *column(samples, 0), at_most=MOST_MEMORY)
    yield Count(f"{FLOOD_NAME}: lost, limits off", "outputs", *column(samples, 1), at_most=0)
    quiet, meanwhile = column(samples, 2), column(samples, 3)
    for index, (name, limit) in enumerate((("stock", None), ("ours", 2.0))):
        yield Comparison(
            f"another client's p99 meanwhile, {name}",
            "ms",
            quiet[index],
            meanwhile[index],
            limit=limit,
            sides=("quiet", "meanwhile"),
        )


def percentile(times: Sequence[int]) -> float:
    """The 99th, in milliseconds."""
    return quantiles(times, n=100, method="inclusive")[98] / 1e6


def run_trips(channels: Channels, more: Callable[[int], object]) -> list[int]:
    """Execute until *more*, which is told how often it was, says no; return the nanoseconds of each.

    It is asked between two, and by this thread: what it costs is part of none.
    """
    times: list[int] = []
    while len(times) < 2 or more(len(times)):
        begun = time.perf_counter_ns()
        message_id = channels.ask("execute_request", "1")
        times.append(channels.until(message_id, b'"execute_reply"') - begun)
    return times


def measure_default_limits(options: Options) -> Iterator[Figure]:
    """Yield what is lost as servers are configured when nobody configures them."""

    def start(server: Server) -> tuple[str, str]:
        return server.start_emitter(), server.start_kernel()

    def sample(server: Server, kernels: tuple[str, str]) -> Sequence[float]:
        with Channels(server, kernels[0]) as sleeper:
            sleeper.settle()
            message_id = sleeper.ask("execute_request", FLOOD)
            server.await_state(kernels[0], "busy")
            server.await_state(kernels[0], "idle")
            server.idle_cpu_ns()
            asleep, _ = read_cell(sleeper.messages(PATIENCE), OUTPUTS, message_id)
        with Channels(server, kernels[1], whole=True) as reader:
            reader.settle()
            message_id = reader.ask("execute_request", PRINT)
            printed, _ = read_cell(reader.messages(client.TIMEOUT), LINES_PRINTED, message_id)
        return asleep, printed

    samples = alternate([1] * options.rounds, start, sample, control=options.control, warm_up=0)
    yield Count(f"{FLOOD_NAME}: lost", "outputs", *column(samples, 0), at_most=0)
    yield Count(f"{LINES_PRINTED:,} printed lines: lost", "lines", *column(samples, 1), at_most=0)


def measure_paced(options: Options) -> Iterator[Figure]:
    """Yield what is lost of what a kernel sends at a steady rate, with the usual high-water mark."""
    code = json.dumps({"count": PACED, "size": 100, "rate": RATE})

    def start(server: Server) -> str:
        return server.start_emitter("--pub")

    def sample(server: Server, kernel_id: str) -> Sequence[float]:
        with Channels(server, kernel_id, whole=True) as channels:
            channels.settle()
            message_id = channels.ask("execute_request", code)
            lost, reply = read_cell(channels.messages(PATIENCE), PACED, message_id)
        return lost, float(_RATE.findall(reply)[0])

    samples = alternate(
        [1] * options.rounds,
        start,
        sample,
        config=UNLIMITED,
        control=options.control,
        warm_up=0,
    )
    name = f"{PACED:,} messages at {RATE:,} a second"
    yield Count(f"{name}: lost", "messages", *column(samples, 0), at_most=0)
    yield Count(f"{name}: what the kernel came to", "1/s", *column(samples, 1), at_least=0.9 * RATE)
