"""What the tests of tickets share: a clock that stands still until it is told to go on, and one
redis-server for all of them.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support.playing import Other, playing
from tests.support.redis_server import RedisServer, redis_server
from tests.unit.guard.conftest import door, guard, jp_server_config, token_ws_config

__all__ = ["door", "guard", "jp_server_config", "token_ws_config"]  # fixtures of the guard's tests


class Clock:
    """Seconds since the epoch, as far as anybody here knows."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def one_redis(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(one_redis) -> RedisServer:
    """A redis-server that holds nothing, which goes on running."""
    one_redis.clear()
    return one_redis


@pytest.fixture
def other(jp_asyncio_loop):
    """A server that plays another one."""
    with ExitStack() as stack:

        async def play() -> Other:
            return stack.enter_context(playing())

        yield jp_asyncio_loop.run_until_complete(play())
