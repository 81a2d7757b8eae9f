"""How long the right token takes to enter while somebody guesses, and when nobody does.

Guesses come from one address, ten thousand a minute, by every way that a token or password can take. The
right token comes from that address and from another, by REST and by websocket, as often in either case.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING

from jupyter_server.auth.security import passwd

from benchmarks import servers
from benchmarks.client import AnswerError
from benchmarks.loss import percentile
from benchmarks.pairs import Options
from benchmarks.servers import Server
from benchmarks.stats import LEAST_PAIRS, Comparison
from tests.support.guessing import ALL, by_handshake, by_rest, timed

if TYPE_CHECKING:
    from typing_extensions import Self

LIMIT = 2.0
"""Times the quiet 99th percentile."""

GUESSER, OTHER = "127.0.0.2", "127.0.0.3"
A_MINUTE = 10_000
"""Guesses."""
SECONDS = 3.0
"""Of guesses, and of quiet, in one sample."""
PAUSE = 0.01
"""Seconds between two rounds of the right token."""

HASHED: str = passwd("nobody guesses this")  # type: ignore[no-untyped-call]
CONFIG = {
    "TokenWebSocketApp": {"close_reasons": "never"},
    "PasswordIdentityProvider": {"hashed_password": HASHED},
}


class Guesser:
    """Somebody who guesses while told to, in a process of its own.

    Args:
        server: at which.
    """

    def __init__(self, server: Server) -> None:
        context = multiprocessing.get_context("spawn")
        self._going_on = context.Event()
        self._process = context.Process(
            target=run_guesses, args=(server.port, self._going_on), daemon=True
        )

    def __enter__(self) -> Self:
        """Be there, quiet."""
        self._process.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Be gone."""
        self._process.terminate()
        self._process.join()

    @contextlib.contextmanager
    def guesses(self) -> Iterator[None]:
        """For the length of a block."""
        self._going_on.set()
        try:
            yield
        finally:
            self._going_on.clear()


def run_guesses(port: int, going_on: Event) -> None:
    """Guess for ever, while it is going on."""
    asyncio.run(_guess(port, going_on))


async def _guess(port: int, going_on: Event) -> None:
    loop = asyncio.get_running_loop()
    running: set[asyncio.Future[int]] = set()
    number, due = 0, loop.time()

    def forget(guess: asyncio.Future[int]) -> None:
        running.discard(guess)
        guess.exception()  # the server may have ended

    while True:
        if not going_on.is_set():
            await asyncio.sleep(PAUSE)
            due = loop.time()
            continue
        guess = asyncio.ensure_future(ALL[number % len(ALL)](port, GUESSER, f"guess-{number}"))
        running.add(guess)
        guess.add_done_callback(forget)
        number += 1
        due += 60 / A_MINUTE
        await asyncio.sleep(max(0.0, due - loop.time()))


async def enter(server: Server) -> list[int]:
    """Enter by both ways from both addresses, again and again; return the nanoseconds of each.

    Raises:
        AnswerError: once it was not let in.
    """
    loop = asyncio.get_running_loop()
    times: list[int] = []
    over = loop.time() + SECONDS
    while loop.time() < over:
        for source in (GUESSER, OTHER):
            for way, expected in ((by_rest, 200), (by_handshake, 101)):
                status, seconds = await timed(way, server.port, source, server.token)
                if status != expected:
                    raise AnswerError(f"{server.name}: {status} instead of {expected}")
                times.append(int(seconds * 1e9))
        await asyncio.sleep(PAUSE)
    return times


def measure(options: Options) -> Iterator[Comparison]:
    """Yield the 99th percentile with guesses beside that without.

    Of our server alone: at a stock one passwords are tried as they come, until it answers nobody any more.
    """
    source = random.Random(1)
    times: dict[bool, list[float]] = {False: [], True: []}
    for share in options.shares(LEAST_PAIRS):
        with servers.both(CONFIG) as (_, ours), Guesser(ours) as guesser:
            for number in range(-1, share):
                for guessed in source.sample((False, True), 2):
                    with guesser.guesses() if guessed else contextlib.nullcontext():
                        found = percentile(asyncio.run(enter(ours)))
                    ours.idle_cpu_ns()
                    if number >= 0:
                        times[guessed].append(found)
    yield Comparison(
        f"right token's p99 among {A_MINUTE:,} guesses a minute",
        "ms",
        times[False],
        times[True],
        limit=LIMIT,
        sides=("quiet", "guesses"),
    )
