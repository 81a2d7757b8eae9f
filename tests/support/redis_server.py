"""A real redis-server of one's own, on a socket below the test's directory; the machine's is not touched.

    with redis_server(tmp_path) as server:
        ...  # server.url, server.stop(), server.start()

What it holds can be made older (``server.advance``), so that nobody waits for time to pass.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.plugins.programs import requires
from tests.support.process import run
from tests.support.waiting import until

PROGRAM = ("redis-server", "redis-server")
"""The program and the Debian package that has it, for the marker ``requires``."""

# All that our scripts write down is in Redis's own time: the expiry, the scores of sorted sets, and values
# with milliseconds of the epoch, which nothing else is as long as.
_ADVANCE = """
local function older(value)
  if not string.match(value, '^%d%d%d%d%d%d%d%d%d%d%d%d%d$') and
     not string.match(value, '^%d%d%d%d%d%d%d%d%d%d%d%d%d%.%d+$') then return nil end
  return string.format('%.3f', value - ARGV[1])
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local left = redis.call('PTTL', key) - ARGV[1]
  if kind == 'hash' then
    local fields = redis.call('HGETALL', key)
    for at = 1, #fields, 2 do
      if older(fields[at + 1]) then
        redis.call('HSET', key, fields[at], string.format('%.0f', fields[at + 1] - ARGV[1]))
      end
    end
  elseif kind == 'zset' then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -ARGV[1], member)
    end
  else
    local value = redis.call('GET', key)
    redis.call('SET', key, older(value) or value)
  end
  if left > 0 then redis.call('PEXPIRE', key, string.format('%.0f', left)) else redis.call('DEL', key) end
end
"""


class RedisServer:
    """A redis-server that can be stopped and started again. ``url`` is where it is."""

    def __init__(self, home: Path, password: str = "", *, keeps: bool = False) -> None:
        self.home = home
        self.keeps = keeps
        # A path below the test's own directory may be too long for a socket.
        self._directory = tempfile.mkdtemp(prefix="redis-")
        self.socket = Path(self._directory) / "s"
        self.password = password
        self.url = f"unix://{f':{password}@' if password else ''}{self.socket}"
        self._running = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it remembers nothing of what it was before, unless it ``keeps`` it."""
        program = requires(*PROGRAM)
        log = self.home / "redis.log"
        arguments = [program, "--port", "0", "--unixsocket", str(self.socket), "--save", "",
                     "--appendonly", "yes" if self.keeps else "no", "--appendfsync", "always",
                     "--dir", str(self.home)]  # fmt: skip
        if self.password:
            arguments += ["--requirepass", self.password]
        process = self._process = self._running.enter_context(run(arguments, log))
        until(lambda: process.poll() is not None or self._answers(), "redis-server is up", 60)
        assert process.poll() is None, log.read_text("utf-8", "replace")

    def stop(self) -> None:
        """End it."""
        self._running.close()

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        assert self._process is not None
        self._process.kill()
        self.stop()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """For the length of a block it takes connections and questions, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def client(self) -> Any:
        """A client that waits, for what the tests themselves ask."""
        return redis.Redis.from_url(self.url, socket_timeout=60, protocol=2)

    def advance(self, seconds: float) -> None:
        """Make everything older, as if time had passed."""
        with self.client() as client:
            client.eval(_ADVANCE, 0, int(seconds * 1000))

    def dump(self) -> bytes:
        """All that it holds: names and contents."""
        with self.client() as client:
            return b"\n".join(
                part for key in client.scan_iter("*") for part in (key, *_contents(client, key))
            )

    def clear(self) -> None:
        with self.client() as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False


def _contents(client: Any, key: bytes) -> list[bytes]:
    kind = client.type(key)
    if kind == b"hash":
        return [part for pair in client.hgetall(key).items() for part in pair]
    return list(client.zrange(key, 0, -1)) if kind == b"zset" else [client.get(key)]


@contextlib.contextmanager
def redis_server(home: Path, password: str = "", *, keeps: bool = False) -> Iterator[RedisServer]:
    """A running redis-server for the length of a block; ``keeps`` writes all down as it comes."""
    server = RedisServer(home, password, keeps=keeps)
    try:
        server.start()
        yield server
    finally:
        server.remove()
