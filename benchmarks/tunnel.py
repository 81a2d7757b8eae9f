"""What a kernel's messages cost over a tunnel, and what idle tunnels and streams do.

A sample of the server with the extension is one of each way: a plain socket, and a stream of a tunnel over
either carrier, in random order. The stock server's stands beside all three.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import servers
from benchmarks.channels import Channels
from benchmarks.kernel import STREAM, TRIP, Flood, Kernel, measure_trips
from benchmarks.pairs import UNLIMITED, Options, alternate
from benchmarks.servers import Server
from benchmarks.stats import LEAST_PAIRS, Comparison, Figure
from benchmarks.streams import EventStreamCarrier, StreamChannels, WebSocketCarrier

SOCKET, WEBSOCKET, EVENTS = "socket", "tunnel", "event stream"

STEP = 20
"""Tunnels, streams or sockets between two looks at the server's memory."""
TUNNELS, STREAMS = 1000, 200

Open = Callable[[Server, str, bool], Kernel]


def _over_websocket(server: Server, kernel_id: str, v1: bool) -> Kernel:
    return StreamChannels(WebSocketCarrier(server), kernel_id, v1=v1)


def _over_events(server: Server, kernel_id: str, v1: bool) -> Kernel:
    return StreamChannels(EventStreamCarrier(server), kernel_id, v1=v1)


def _by_socket(server: Server, kernel_id: str, v1: bool) -> Kernel:
    return Channels(server, kernel_id, v1=v1)


WAYS: dict[str, Open] = {SOCKET: _by_socket, WEBSOCKET: _over_websocket, EVENTS: _over_events}


@dataclass(frozen=True)
class Line:
    """Time and processor time of something that a client does, by each way.

    Attributes:
        figure: what it is.
        unit: of both.
        sample: measures once, by a way.
        limits: of the times; what is compared, what with, and how many times that.
    """

    figure: str
    unit: str
    sample: Callable[[Server, str, Open], Sequence[float]]
    limits: Sequence[tuple[str, str, float | None]]

    def measure(self, options: Options) -> Iterator[Figure]:
        """Yield the times and the processor times."""
        if options.control:
            return  # stock has no tunnels
        source = random.Random(2)

        def sample(server: Server, kernel_id: str) -> Sequence[float]:
            names = [SOCKET] if server.name == "stock" else list(WAYS)
            found = {}
            for name in source.sample(names, len(names)):
                found[name] = self.sample(server, kernel_id, WAYS[name])
            return [value for name in WAYS if name in found for value in found[name]]

        shares = options.shares(LEAST_PAIRS)
        stock, ours = alternate(shares, Server.start_emitter, sample, config=UNLIMITED)
        for index, more in enumerate(("", ": server CPU")):
            columns = {"stock": [each[index] for each in stock]}
            for number, name in enumerate(WAYS):
                columns[name] = [each[2 * number + index] for each in ours]
            for before, after, limit in self.limits:
                yield Comparison(
                    f"{self.figure}{more}",
                    self.unit,
                    columns[before],
                    columns[after],
                    limit=None if index else limit,
                    sides=(before, after),
                )


def _flood(v1: bool) -> Callable[[Server, str, Open], Sequence[float]]:
    flood = Flood(10_000, 100, v1)
    return lambda server, kernel_id, way: flood.by(server, way(server, kernel_id, v1))


def _trips(server: Server, kernel_id: str, way: Open) -> Sequence[float]:
    return measure_trips(server, way(server, kernel_id, True))


OUTPUT = (
    (SOCKET, WEBSOCKET, 1 / 0.7),
    ("stock", WEBSOCKET, 1 / 10),
    (SOCKET, EVENTS, None),
    ("stock", EVENTS, 1 / 5),
)
LARGE = Flood(500, 65536)

LINES = {
    "tunnel-stream": Line(f"{STREAM}, v1", "µs", _flood(True), OUTPUT),
    "tunnel-legacy": Line(f"{STREAM}, legacy", "µs", _flood(False), OUTPUT),
    "tunnel-large": Line(
        "64 KiB messages, v1",
        "µs",
        lambda server, kernel_id, way: LARGE.by(server, way(server, kernel_id, True)),
        [(before, after, None) for before, after, _ in OUTPUT],
    ),
    "tunnel-trip": Line(TRIP, "ms", _trips, [(SOCKET, WEBSOCKET, 1.3), (SOCKET, EVENTS, None)]),
}


# -- what is idle ------------------------------------------------------------------------------------


def measure_memory(options: Options) -> Iterator[Figure]:
    """Yield what idle tunnels and streams cost the server, beside idle sockets."""
    if options.control:
        return
    config = {**UNLIMITED, "TokenWebSocketApp": {"max_tunnels_per_principal": 2 * TUNNELS}}
    tunnels, streams = [], []
    for _ in options.shares(LEAST_PAIRS):
        with servers.both(config) as (_, server):
            tunnels += _idle_tunnels(server)
        with servers.both(config) as (_, server):
            streams += _idle_streams(server)
    for figure, side, found in (
        (f"each of {TUNNELS} idle tunnels on one server", "tunnel", tunnels),
        (f"each of {STREAMS} idle kernel connections on one tunnel", "stream", streams),
    ):
        yield Comparison(
            f"{figure}: server RSS",
            "KiB",
            [each[0] for each in found],
            [each[1] for each in found],
            sides=("kernel's socket", side),
        )


def _grown(server: Server, grow: Callable[[], object]) -> float:
    """KiB that the server takes for each of a step."""
    server.idle_cpu_ns()
    before = server.memory
    for _ in range(STEP):
        grow()
    server.idle_cpu_ns()
    return (server.memory - before) / 1024 / STEP


def _idle_tunnels(server: Server) -> list[tuple[float, float]]:
    kernel_id = server.start_emitter()
    opened: list[Channels | WebSocketCarrier] = []

    def socket() -> None:
        opened.append(Channels(server, kernel_id).__enter__())

    def tunnel() -> None:
        opened.append(WebSocketCarrier(server).__enter__())

    return _pairs(server, socket, tunnel, TUNNELS, opened)


def _idle_streams(server: Server) -> list[tuple[float, float]]:
    kernel_id = server.start_emitter()
    carrier = WebSocketCarrier(server).__enter__()
    opened: list[Channels | WebSocketCarrier] = [carrier]

    def socket() -> None:
        opened.append(Channels(server, kernel_id).__enter__())

    def stream() -> None:
        StreamChannels(carrier, kernel_id).open()

    return _pairs(server, socket, stream, STREAMS, opened)


def _pairs(
    server: Server,
    socket: Callable[[], None],
    other: Callable[[], None],
    count: int,
    opened: Sequence[Channels | WebSocketCarrier],
) -> list[tuple[float, float]]:
    """What a socket takes and what the other does, step by step to so many of either."""
    _grown(server, socket)
    _grown(server, other)
    found = [(_grown(server, socket), _grown(server, other)) for _ in range(STEP, count, STEP)]
    for each in opened:
        each.abandon()
    return found
