"""Somebody guesses at a real server from one address; who is right enters from there and elsewhere.

How long that takes is a benchmark's to say: ``make bench ARGS=guessing``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest
from jupyter_server.auth.security import passwd

from jupyter_token_ws.guard.core import GuardOptions
from tests.integration.conftest import Start
from tests.support.guessing import (
    PASSWORDS,
    TOKENS,
    by_form,
    by_handshake,
    by_login,
    by_password,
    by_rest,
    by_subprotocol,
    guess_at,
)
from tests.support.process import Server

GUESSER, OTHER = "127.0.0.2", "127.0.0.3"
BURST, WINDOW = GuardOptions().attempt_burst, GuardOptions().attempt_window
PASSWORD = "of-all-people"
CONFIG = {
    "TokenWebSocketApp": {"close_reasons": "never"},
    "PasswordIdentityProvider": {"hashed_password": passwd(PASSWORD)},
}
SECONDS, RATE = 60.0, 10_000 / 60
MOST_MEMORY = 30 * 2**20


async def enter(server: Server) -> None:
    """Whoever is right is let in: by a token from everywhere, by a password from where nobody guesses."""
    for source in (GUESSER, OTHER):
        for way in TOKENS:
            expected = 101 if way in (by_handshake, by_subprotocol) else 200
            assert await way(server.port, source, server.token) == expected, (source, way)
    assert await by_password(server.port, OTHER, PASSWORD) == 200
    assert await by_form(server.port, OTHER, PASSWORD) == 302


async def test_guesses_are_cut_and_the_right_token_enters(start: Start):
    server = start(config=CONFIG)
    ends: Counter[int] = Counter()
    for n in range(100):
        way = TOKENS[n % len(TOKENS)]
        ends[await way(server.port, GUESSER, f"guess-{n}")] += 1
        if n % 10 == 9:
            await enter(server)
    assert ends == {403: BURST, 429: 100 - BURST}
    # Nobody else is told to wait, not even for a wrong one.
    for way in (by_rest, by_login, by_password):
        assert await way(server.port, OTHER, "wrong") == 403
    assert "guess-" not in server.log()


@pytest.mark.heavy
@pytest.mark.timeout(900)
async def test_ten_thousand_guesses_a_minute(start: Start):
    """By every way in turn: told so at the configured rate, with bounded memory, and who is right enters."""
    server = start(config=CONFIG)
    process = psutil.Process(server.pid)
    for _ in range(10):
        await enter(server)
    idle = process.memory_info().rss
    entered = 0
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
        guessing = loop.run_in_executor(elsewhere, guess_at, server.port, GUESSER, RATE, SECONDS)
        while not guessing.done():
            await enter(server)
            entered += 1
            await asyncio.sleep(0.2)  # what is measured is not how fast this client is
        guesses = await guessing
    more = process.memory_info().rss - idle
    print(f"\n{guesses}; entered {entered} times; {more >> 20} MB more")
    answered = guesses.count(TOKENS, 403, 429) + guesses.count(PASSWORDS, 401, 403, 429)
    assert answered == sum(guesses.ends.values()) == int(SECONDS * RATE)
    assert BURST <= guesses.count(TOKENS, 403) <= BURST * (1 + guesses.seconds // WINDOW)
    judged = guesses.count(PASSWORDS, 401, 403)
    assert BURST <= judged <= BURST * (1 + guesses.seconds / WINDOW) + 1
    assert entered >= 10
    assert more <= MOST_MEMORY
    assert "guess-" not in server.log()
