"""What a handshake costs: accepted and refused, by every way of sending a token.

Time is the client's: from before the TCP connection until it knows its answer, which is the end of
the HTTP header, or the close frame where a refusal is told by one. Processor time is the server's,
from before the handshake until the connection is gone and the server idle again, so that what is
put off until later counts too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks import client, servers
from benchmarks.pairs import Options
from benchmarks.stats import Comparison
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER

LIMIT = 1.1
"""Times stock's: what a handshake may take."""

PAIRS = 1000
LEAST_PAIRS = 200
"""Of fewer nothing is concluded: what is to be seen is small."""
WARM_UP = 20
"""Pairs measured and thrown away."""

EVENTS = "/api/events/subscribe"
KERNEL_CHANNELS = "/api/kernels/{kernel_id}/channels"
NO_KERNEL = "/api/kernels/00000000-0000-0000-0000-000000000000/channels"
WRONG = "0" * 48

CONFIG = {
    # The same refusal thousands of times from one address: the brake on storms, which answers
    # with plain HTTP, is not what is measured.
    "TokenWebSocketApp": {"refusal_burst": 10_000_000},
}


@dataclass(frozen=True)
class Side:
    """What a client sends to one of the servers, and what must come back.

    Attributes:
        expected: HTTP status, or close code.
        token: as Authorization header: "right", "wrong" or "".
        subprotocols: offered; {token} stands for the server's own.
    """

    expected: int
    token: str = ""
    subprotocols: tuple[str, ...] = ()

    def shake_hands(self, server: servers.Server, path: str) -> int:
        """Do it once; return nanoseconds.

        Raises:
            client.AnswerError: the answer was not the expected one.
        """
        token = {"right": server.token, "wrong": WRONG, "": ""}[self.token]
        connection = client.Socket(
            server.port,
            path.format(kernel_id=server.kernel_id),
            token,
            [name.format(token=server.token) for name in self.subprotocols],
            await_close=self.expected >= 4000,
        )
        with connection as answer:
            got = answer.close_code or answer.status
        if got != self.expected:
            raise client.AnswerError(f"{server.name}: {path}: {got} instead of {self.expected}")
        return answer.nanoseconds


@dataclass(frozen=True)
class Case:
    """One row: the same purpose on both servers."""

    figure: str
    path: str
    stock: Side
    ours: Side


BY_HEADER = Side(101, "right")
BY_SUBPROTOCOL = Side(101, "", (MARKER, f"{MARKER}.{{token}}"))
KERNEL_BY_HEADER = Side(101, "right", (KERNEL,))
KERNEL_BY_SUBPROTOCOL = Side(101, "", (KERNEL, MARKER, f"{MARKER}.{{token}}", REASON_MARKER))
TOLD_WRONG = Side(4403, "", (MARKER, f"{MARKER}.{WRONG}", REASON_MARKER))
TOLD_MISSING = Side(4401, "", (REASON_MARKER,))

CASES = (
    Case("accepted, events, token by header", EVENTS, BY_HEADER, BY_HEADER),
    Case("accepted, events, header / subprotocol", EVENTS, BY_HEADER, BY_SUBPROTOCOL),
    Case("accepted, kernel, token by header", KERNEL_CHANNELS, KERNEL_BY_HEADER, KERNEL_BY_HEADER),
    Case(
        "accepted, kernel, header / subprotocol",
        KERNEL_CHANNELS,
        KERNEL_BY_HEADER,
        KERNEL_BY_SUBPROTOCOL,
    ),
    Case("refused, no token: 403 / 403", EVENTS, Side(403), Side(403)),
    Case(
        "refused, wrong token by header: 403 / 403", EVENTS, Side(403, "wrong"), Side(403, "wrong")
    ),
    Case("refused, no such kernel: 404 / 404", NO_KERNEL, Side(404, "right"), Side(404, "right")),
    Case("refused, no token: 403 / close 4401", EVENTS, Side(403), TOLD_MISSING),
    Case("refused, wrong token: 403 / close 4403", EVENTS, Side(403, "wrong"), TOLD_WRONG),
)


def measure(options: Options) -> Iterator[Comparison]:
    """Yield time and processor time of every case.

    Args:
        options: with `control` both servers are stock and asked the same.
    """
    cases = [replace(case, ours=case.stock) if options.control else case for case in CASES]
    samples = {case: Samples() for case in cases}
    for share in options.shares(PAIRS):
        with servers.both(CONFIG, control=options.control, kernel=True, pinned=True) as (
            stock,
            ours,
        ):
            for case in cases:
                samples[case].add(case, stock, ours, share)
    for case in cases:
        yield Comparison(case.figure, "ms", *samples[case].times, limit=LIMIT, least=LEAST_PAIRS)
        yield Comparison(f"{case.figure}: server CPU", "ms", *samples[case].cpu)


class Samples:
    """What was measured for one case: stock first, ours second, pair by pair."""

    def __init__(self) -> None:
        self.times: tuple[list[float], list[float]] = ([], [])
        self.cpu: tuple[list[float], list[float]] = ([], [])

    def add(self, case: Case, stock: servers.Server, ours: servers.Server, pairs: int) -> None:
        """Measure *pairs* pairs, after some to warm up."""
        source = random.Random(case.figure)
        sides = [(0, stock, case.stock), (1, ours, case.ours)]
        for number in range(-WARM_UP, pairs):
            # Who goes first must not matter: it finds the caches as the other left them.
            source.shuffle(sides)
            for index, server, side in sides:
                before = server.idle_cpu_ns()
                nanoseconds = side.shake_hands(server, case.path)
                spent = server.idle_cpu_ns() - before
                if number >= 0:
                    self.times[index].append(nanoseconds / 1e6)
                    self.cpu[index].append(spent / 1e6)
