"""Somebody guesses at a real server from one address; the right token enters from there and elsewhere."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import psutil
import pytest

from jupyter_token_ws.guard.core import GuardOptions
from tests.integration.conftest import Start
from tests.support.guessing import by_rest, by_socket, guess, guess_at
from tests.support.process import Server

GUESSER, OTHER = "127.0.0.2", "127.0.0.3"
BURST, WINDOW = GuardOptions().attempt_burst, GuardOptions().attempt_window
PLAIN = {"TokenWebSocketApp": {"close_reasons": "never"}}
SECONDS, RATE = 60.0, 10_000 / 60


@dataclass
class Good:
    """How long the right token takes to enter, in seconds."""

    times: list[float] = field(default_factory=list)

    async def enter(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        for source in (GUESSER, OTHER):
            for way, expected in ((by_rest, 200), (by_socket, 101)):
                began = loop.time()
                assert await way(server.port, source, server.token) == expected
                self.times.append(loop.time() - began)

    async def enter_for(self, server: Server, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            await self.enter(server)
            await asyncio.sleep(0.05)  # as often with guesses as without

    @property
    def p99(self) -> float:
        return sorted(self.times)[int(len(self.times) * 0.99)]


async def test_guesses_are_cut_and_the_right_token_enters(start: Start):
    server = start(config=PLAIN)
    ends: Counter[int] = Counter()
    good = Good()
    for n in range(100):
        ends[await guess(server.port, GUESSER, n)] += 1
        if n % 10 == 9:
            await good.enter(server)
    assert ends == {403: BURST, 429: 100 - BURST}
    # Nobody else is told to wait, not even for a wrong one.
    assert await by_rest(server.port, OTHER, "wrong") == 403
    assert "guess-" not in server.log()


@pytest.mark.heavy
@pytest.mark.timeout(900)
async def test_ten_thousand_guesses_a_minute(start: Start):
    """Told so at the configured rate, bounded memory, and the right token in no more than twice its time."""
    server = start(config=PLAIN)
    process = psutil.Process(server.pid)
    quiet, busy = Good(), Good()
    await quiet.enter_for(server, SECONDS / 2)
    idle = process.memory_info().rss
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
        guessing = loop.run_in_executor(elsewhere, guess_at, server.port, GUESSER, RATE, SECONDS)
        await busy.enter_for(server, SECONDS)
        ends = await guessing
    more = process.memory_info().rss - idle
    print(
        f"\n{sum(ends.values())} guesses: {dict(ends)}; {len(busy.times)} good ones, p99 "
        f"{busy.p99 * 1000:.1f} ms (quiet {quiet.p99 * 1000:.1f} ms); {more >> 20} MB more"
    )
    assert set(ends) == {403, 429}
    assert sum(ends.values()) == int(SECONDS * RATE)
    # Two windows at most begin while it lasts, and a third where the machine was slow.
    assert BURST <= ends[403] <= 3 * BURST
    assert more <= 30 * 2**20
    assert busy.p99 <= 2 * quiet.p99
