"""Tickets in Redis, for several servers of one trust domain. They outlive the servers.

Each step is one script, so that it happens as a whole or not at all, and time is Redis's own: servers whose
clocks differ agree about what has expired. All can be tried again safely, which the client does once when a
connection turns out to be dead.

A ticket is good only while its family is there too. So whatever Redis forgets by itself, under memory
pressure or in a restart, makes tickets invalid, never valid.

Keys, below ``key_prefix``: ``ticket:{name}`` and ``family:{family}``, both hashes, both with an expiry. A
family has fields of its own, and one for each of its tickets: until when that is good. ``changes`` is the
channel where revocations, renewals and logouts are announced. What else servers share: ``redis_shared``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from traitlets import Float, Integer, TraitError, Unicode, default, validate

from jupyter_token_ws.guard.limits import MemoryAttempts, MemoryPace

from .redis_shared import (
    CLOCK,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SharedAttempts,
    SharedDenials,
    SharedPace,
)
from .secrecy import AesGcm
from .store import Held, KeepingStore
from .tickets import (
    ExpiredTicket,
    FamilyChange,
    FamilyState,
    RenewalRefused,
    RevokedTicket,
    StoreUnavailable,
    TicketError,
    UnknownTicket,
    UsedTicket,
)

if TYPE_CHECKING:
    from jupyter_token_ws.guard.throttle import Throttle

URL_VARIABLE = "JUPYTER_TOKEN_WS_REDIS_URL"
"""The environment variable with the address of Redis, for those who keep its password there."""

_MISSING = (
    "Tickets in Redis need the packages redis and cryptography: pip install 'jupyter-token-ws[redis]'."
    " Without it there is the store in memory."
)

_NOW = (
    CLOCK
    + """
local function left_of(family)
  local left, fields = 0, redis.call('HGETALL', family)
  for at = 1, #fields, 2 do
    if fields[at] ~= 'ends' and fields[at] ~= 'revoked' then
      if fields[at + 1] - now <= 0 then redis.call('HDEL', family, fields[at]) end
      left = math.max(left, fields[at + 1] - now)
    end
  end
  return left
end
"""
)

# KEYS: ticket. ARGV: prefix of families, a mark of who uses it, or nothing to look only.
_GET = (
    _NOW
    + """
local kept = redis.call('HMGET', KEYS[1], 'family', 'expires', 'single', 'used', 'box')
if not kept[1] or not kept[5] then return {'unknown'} end
local family = redis.call('HMGET', ARGV[1] .. kept[1], 'ends', 'revoked')
if not family[1] then return {'unknown'} end
if family[2] then return {'revoked'} end
if kept[2] - now <= 0 then return {'expired'} end
if kept[4] and kept[4] ~= ARGV[2] then return {'used'} end
if kept[3] == '1' and ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'used', ARGV[2]) end
return {'good', kept[1], kept[5], kept[3], kept[2] - now, family[1] - now}
"""
)

# KEYS: ticket, family, the ticket that is renewed if one is. ARGV: family, box, single, milliseconds of the
# ticket, of the family, of grace, of remembrance; channel.
_PUT = (
    _NOW
    + """
local left, ends, remembered = tonumber(ARGV[4]), now + ARGV[5], tonumber(ARGV[7])
local function keep_until(key, expires)
  redis.call('HSET', key, 'expires', whole(expires))
  redis.call('PEXPIREAT', key, whole(expires + remembered))
  redis.call('HSET', KEYS[2], key, whole(expires))
end
if KEYS[3] then
  local old = redis.call('HMGET', KEYS[3], 'family', 'expires', 'single')
  local family = redis.call('HMGET', KEYS[2], 'ends', 'revoked')
  if old[1] ~= ARGV[1] or not family[1] then return {'unknown'} end
  if family[2] then return {'revoked'} end
  if old[2] - now <= 0 then return {'expired'} end
  if old[3] == '1' then return {'single'} end
  ends = tonumber(family[1])
  left = math.min(left, ends - now)
  keep_until(KEYS[3], math.min(old[2], now + ARGV[6]))
end
redis.call('HSET', KEYS[1], 'family', ARGV[1], 'box', ARGV[2], 'single', ARGV[3])
keep_until(KEYS[1], now + left)
redis.call('HSET', KEYS[2], 'ends', whole(ends))
redis.call('PEXPIREAT', KEYS[2], whole(ends + remembered))
local latest = left_of(KEYS[2])
if KEYS[3] then redis.call('PUBLISH', ARGV[8], 'renewed ' .. ARGV[1] .. ' ' .. whole(latest)) end
return {'good', left, ends - now, latest}
"""
)

# KEYS: family. ARGV: family, channel.
_REVOKE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'revoked', '1')
redis.call('PUBLISH', ARGV[2], 'revoked ' .. ARGV[1] .. ' 0')
return 1
"""

# KEYS: family.
_FAMILY = (
    _NOW
    + """
if redis.call('HEXISTS', KEYS[1], 'revoked') == 1 then return 0 end
return left_of(KEYS[1])
"""
)

_REFUSED: Mapping[bytes, type[TicketError]] = {
    b"unknown": UnknownTicket,
    b"revoked": RevokedTicket,
    b"expired": ExpiredTicket,
    b"used": UsedTicket,
    b"single": RenewalRefused,
}

_RETRY_AFTER = 5

_TOLD_AGAIN = 0.1
"""Seconds after which a task that was to end is told again."""


class RedisTicketStore(KeepingStore):
    """Keeps tickets in Redis 5 or newer: one Redis with its replicas, not Redis Cluster.

    Raises ``ImportError`` where the package redis or cryptography is missing.
    """

    url = Unicode(
        help="Where Redis is: redis://, rediss:// (TLS) or unix://, with user and password if it wants them."
        f" Default: the environment variable {URL_VARIABLE}, else redis://localhost:6379/0. Only for"
        " servers that trust each other: whoever can write there can revoke tickets and prolong their own.",
    ).tag(config=True)
    key_prefix = Unicode(
        "jupyter_token_ws:",
        help="What the names of all keys and of the channel begin with. Servers with the same prefix take"
        " each other's tickets.",
    ).tag(config=True)
    timeout = Float(
        2.0,
        min=0.01,
        help="Seconds that Redis has for an answer, connecting included; then 503.",
    ).tag(config=True)
    max_connections = Integer(
        16,
        min=2,
        help="Connections to Redis at most, one of them for hearing of changes.",
    ).tag(config=True)
    ping_interval = Float(
        10.0,
        min=0.01,
        help="Seconds of silence after which it is asked whether the connection that hears of revocations"
        " still stands; after as many more it is made anew.",
    ).tag(config=True)

    @validate("timeout", "ping_interval")
    def _seconds(self, proposal: Any) -> Any:
        return self._positive(proposal)

    @default("url")
    def _default_url(self) -> str:
        return os.environ.get(URL_VARIABLE) or "redis://localhost:6379/0"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            self.cipher = AesGcm()
            library: Any = import_module("redis.asyncio")
            retry: Any = import_module("redis.asyncio.retry")
            backoff: Any = import_module("redis.backoff")
            exceptions: Any = import_module("redis.exceptions")
        except ImportError as error:
            raise ImportError(_MISSING) from error
        self._errors = (exceptions.RedisError, OSError, asyncio.TimeoutError)
        try:
            pool = library.BlockingConnectionPool.from_url(
                self.url,
                max_connections=self.max_connections,
                timeout=self.timeout,
                socket_timeout=self.timeout,
                socket_connect_timeout=self.timeout,
                retry=retry.Retry(backoff.NoBackoff(), 1),
                protocol=2,
            )
            pool.connection_class(**pool.connection_kwargs)  # what it does not know is refused here
        except (TypeError, ValueError):
            # What the library says of it may show a part of the password.
            raise TraitError(
                "RedisTicketStore.url is no address that the package redis understands. One looks like"
                " redis://localhost:6379/0 or unix:///run/redis/redis-server.sock"
            ) from None
        self._redis: Any = library.Redis(connection_pool=pool)
        self._pool: Any = pool
        self._get_script, self._put_script, self._revoke_script, self._family_script = (
            self.script(text) for text in (_GET, _PUT, _REVOKE, _FAMILY)
        )
        self._down = False
        self._shared = SharedDenials(self, self.denials, self._channel, self._logger)
        self._running: list[asyncio.Task[None]] = []

    def _ticket_key(self, name: str) -> str:
        return f"{self.key_prefix}ticket:{name}"

    def _family_key(self, family: str = "") -> str:
        return f"{self.key_prefix}family:{family}"

    @property
    def _channel(self) -> str:
        return f"{self.key_prefix}changes"

    async def start(self) -> None:
        """Begin to listen for what other servers do; who signed out there is known then, if Redis answers."""
        if not self._running:
            with suppress(StoreUnavailable):
                await self._shared.sync()
            self._running = [
                asyncio.create_task(each) for each in (self._listen(), self._shared.keep_telling())
            ]

    async def close(self) -> None:
        """Give the connections back."""
        running, self._running = self._running, []
        for task in running:
            # Before Python 3.12 ``wait_for`` loses a cancellation that comes just when what it waited for
            # is done (cpython issue 86296): then the task goes on, and has to be told again.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=_TOLD_AGAIN)
        with suppress(*self._errors):
            await self._redis.aclose()
            await self._pool.disconnect()

    def share_limits(self, throttle: Throttle) -> None:
        """Count wrong credentials and passwords for all servers that share this Redis."""
        if isinstance(throttle.store, MemoryAttempts):
            throttle.store = SharedAttempts(self, throttle.store)
        if isinstance(throttle.pace, MemoryPace):
            throttle.pace = SharedPace(self, throttle.pace)

    def script(self, text: str) -> Any:
        """A script, to be run with ``run``."""
        return self._redis.register_script(text)

    async def run(
        self,
        script: Any,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        within: float | None = None,
    ) -> Any:
        """What a script answers. Raises ``StoreUnavailable``, after ``within`` or ``timeout`` seconds at the
        latest."""
        return await self._ask(lambda: script(keys=list(keys), args=list(args)), within)

    async def _ask(
        self, question: Callable[[], Awaitable[Any]], within: float | None = None
    ) -> Any:
        """An answer of Redis. Raises ``StoreUnavailable``."""
        seconds = self.timeout if within is None else min(within, self.timeout)
        try:
            answer = await asyncio.wait_for(question(), seconds)
        except self._errors as error:
            if within is None:
                self._is_down(error)
            # Not chained: whoever shows the error to a client shows nothing of the network.
            raise StoreUnavailable(retry_after=_RETRY_AFTER) from None
        if self._down:
            self._down = False
            self._logger.info("Redis, which keeps the tickets, answers again")
        return answer

    def _is_down(self, error: BaseException) -> None:
        if not self._down:
            self._down = True
            self._logger.warning(
                "Redis, which keeps the tickets, does not answer: no ticket is good until it does (%s)",
                type(error).__name__,
            )

    async def _put(
        self, name: str, held: Held, *, retire: str | None = None, grace: float = 0.0
    ) -> Held:
        keys = [self._ticket_key(name), self._family_key(held.family)]
        if retire is not None:
            keys.append(self._ticket_key(retire))
        seconds = (held.left, held.family_left, grace, self.remembered)
        times = [max(0, int(1000 * number)) for number in seconds]
        single = int(held.single_use)
        answer = await self.run(
            self._put_script, keys, [held.family, held.box, single, *times, self._channel]
        )
        if answer[0] != b"good":
            _refuse(answer[0])
        left, family_left, latest_left = (number / 1000 for number in answer[1:])
        return replace(held, left=left, family_left=family_left, latest_left=latest_left)

    async def _get(self, name: str, use: bool) -> Held:
        # The mark is the caller's own: asked twice, for the first answer was lost, Redis says yes twice.
        mark = secrets.token_hex(8) if use else ""
        answer = await self.run(
            self._get_script, [self._ticket_key(name)], [self._family_key(), mark]
        )
        if answer[0] != b"good":
            _refuse(answer[0])
        _, family, box, single, left, family_left = answer
        family = family.decode("utf-8", "replace")
        return Held(family, box, single == b"1", left / 1000, family_left / 1000)

    async def _revoke(self, name: str) -> str | None:
        family = await self._ask(lambda: self._redis.hget(self._ticket_key(name), "family"))
        if family is None:
            return None
        name = str(family.decode("utf-8", "replace"))
        await self._revoke_there(name)
        return name

    async def _revoke_there(self, family: str) -> bool:
        return bool(
            await self.run(self._revoke_script, [self._family_key(family)], [family, self._channel])
        )

    async def revoke_family(self, family: str) -> None:
        """Revoke a family."""
        if await self._revoke_there(family):
            self._tell(FamilyChange(family, revoked=True))

    async def family(self, family: str) -> FamilyState:
        """What became of a family."""
        left = await self.run(self._family_script, [self._family_key(family)])
        return FamilyState(left > 0, self.clock() + left / 1000 if left else 0.0)

    async def _listen(self) -> None:
        """Hear of changes as long as the store is used, whatever happens to the connection."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await asyncio.wait_for(pubsub.subscribe(self._channel), self.timeout)
                    pause = FIRST_PAUSE
                    await self._hear(pubsub)
            except self._errors as error:
                self._is_down(error)
            except Exception:  # or nobody would ever hear of a revocation again
                self._logger.exception("Listening for changes of tickets failed, trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _hear(self, pubsub: Any) -> NoReturn:
        """Pass on what the channel says. Ends with an error only."""
        asked = False
        while True:
            message = await pubsub.get_message(timeout=self.ping_interval)
            if message is None:
                if asked:
                    raise ConnectionError("Redis is silent")
                await asyncio.wait_for(pubsub.ping(), self.timeout)
            elif message["type"] == "subscribe":
                # Also when the library connects anew by itself: nobody knows what was said meanwhile.
                self._tell(FamilyChange(None))
                self._shared.compare()
            elif message["type"] == "message":
                self._told(message["data"])
            asked = message is None

    def _told(self, data: bytes) -> None:
        words = data.decode("utf-8", "replace").split(" ")
        match words:
            case ["revoked", family, "0"]:
                self._tell(FamilyChange(family, revoked=True))
            case ["renewed", family, left] if left.isascii() and left.isdigit():
                self._tell(FamilyChange(family, expires_at=self.clock() + int(left) / 1000))
            case _ if self._shared.told(words):
                pass
            case _:  # of a newer version of ours, perhaps
                self._logger.debug("Something on the channel of changes that is not understood")


def _refuse(word: bytes) -> NoReturn:
    error = _REFUSED[word]
    raise error
