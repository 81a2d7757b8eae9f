"""What servers share in Redis besides tickets: who signed out, and how often somebody was wrong.

Of neither is Redis asked while a good request waits. What is denied every server knows by itself, and tells
the others; how often somebody was wrong it counts for itself, and asks the common count about what is left.
So without Redis each server goes on alone.

Keys, below the store's ``key_prefix``: ``denied``, the digests of cookies by when they expire, and
``cookies-before``; ``wrong:{address}`` and ``turn:{address}``, each with an index of its addresses, by which
there are only so many. All have an expiry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_token_ws.guard.limits import MAX_ADDRESSES, MemoryAttempts, MemoryPace

from .denials import Denied
from .tickets import StoreUnavailable

if TYPE_CHECKING:
    from .denials import Denials

CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(number) return string.format('%.0f', number) end
"""
"""Milliseconds of Redis's clock, which every script reads once."""

LIMITS_TIMEOUT = 0.5
"""Seconds that Redis has for a count at most."""

LIMITS_AT_ONCE = 4
"""Counts that Redis is asked for at once; beyond that this server's own has to do."""

LIMITS_PAUSE = 5.0
"""Seconds for which Redis is asked for no count after it did not answer."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before something is tried again, at first and at most."""

# KEYS: denied, cookies-before. ARGV: channel, how many at most, whether all is asked for; the time before
# which cookies are denied and for how many milliseconds; how many of the digests that follow the others
# have not been told of; digests, each with milliseconds.
_DENY = (
    CLOCK
    + """
local new = 7 + 2 * ARGV[6]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
for at = 7, #ARGV, 2 do
  if not redis.call('ZSCORE', KEYS[1], ARGV[at]) then
    redis.call('ZADD', KEYS[1], whole(now + ARGV[at + 1]), ARGV[at])
    if at < new then redis.call('PUBLISH', ARGV[1], 'denied ' .. ARGV[at] .. ' ' .. ARGV[at + 1]) end
  end
end
local over = redis.call('ZCARD', KEYS[1]) - ARGV[2]
if over > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, over - 1) end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] then redis.call('PEXPIREAT', KEYS[1], last[2]) end
local before = tonumber(redis.call('GET', KEYS[2]) or 0)
if ARGV[4] - before > 0 then
  before = tonumber(ARGV[4])
  redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  redis.call('PUBLISH', ARGV[1], 'before ' .. ARGV[4] .. ' ' .. ARGV[5])
end
if ARGV[3] == '0' then return {} end
local kept = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
return {now, before, redis.call('PTTL', KEYS[2]), kept}
"""
)

# Keep a key for so many milliseconds, and no more keys than that: who would go first goes.
_KEEP = """
local function keep(key, index, milliseconds, most)
  redis.call('PEXPIRE', key, milliseconds)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', whole(now))
  redis.call('ZADD', index, whole(now + milliseconds), key)
  if redis.call('PTTL', index) - milliseconds < 0 then redis.call('PEXPIRE', index, milliseconds) end
  if redis.call('ZCARD', index) - most > 0 then redis.call('DEL', redis.call('ZPOPMIN', index)[1]) end
end
"""

# KEYS: wrong of the address, index. ARGV: digest, burst, milliseconds of the window, addresses at most.
_WRONG = (
    CLOCK
    + _KEEP
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - ARGV[3]))
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
if redis.call('ZCARD', KEYS[1]) - ARGV[2] >= 0 then
  return redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] + ARGV[3] - now
end
redis.call('ZADD', KEYS[1], whole(now), ARGV[1])
keep(KEYS[1], KEYS[2], tonumber(ARGV[3]), ARGV[4])
return 0
"""
)

# KEYS: turn of the address, index. ARGV: milliseconds from one turn to the next, of turns ahead, of the
# longest wait; addresses at most. The value is when all turns are back, as in `limits.Pace`.
_TAKE = (
    CLOCK
    + _KEEP
    + """
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = math.max(0, full - ARGV[2] - now)
if wait - ARGV[3] > 0 then return {0, math.ceil(wait - ARGV[3])} end
full = full + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.3f', full))
keep(KEYS[1], KEYS[2], math.ceil(full - now), ARGV[4])
return {1, math.ceil(wait)}
"""
)

# KEYS: turn of the address. ARGV: milliseconds from one turn to the next.
_GIVE_BACK = """
local left = redis.call('PTTL', KEYS[1])
if left <= 0 then return 0 end
local full = redis.call('GET', KEYS[1]) - ARGV[1]
redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', left)
return 1
"""


class Redis(Protocol):
    """The Redis of a store of tickets, as far as it is needed here."""

    key_prefix: str

    def script(self, text: str) -> Any:
        """A script, to be run with ``run``."""

    async def run(
        self,
        script: Any,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        within: float | None = None,
    ) -> Any:
        """What a script answers. Raises ``StoreUnavailable``, at the latest after ``within`` seconds."""


class SharedDenials:
    """Tells the other servers what this one denies, and this one what they do.

    What Redis forgot, or was not told while it was down, it gets from whoever knows it still.
    """

    def __init__(self, redis: Redis, denials: Denials, channel: str, log: logging.Logger) -> None:
        self._redis = redis
        self._denials = denials
        self._channel = channel
        self._log = log
        self._keys = [f"{redis.key_prefix}{name}" for name in ("denied", "cookies-before")]
        self._script = redis.script(_DENY)
        self._untold: dict[str, None] = {}  # in order
        self._compare = True
        self._due = asyncio.Event()
        denials.share = self._share

    def _share(self, denied: Denied) -> None:
        self._add(denied.cookies)
        self._due.set()

    def _add(self, digests: Iterable[str]) -> None:
        self._untold.update(dict.fromkeys(digests))
        while len(self._untold) > self._denials.most:  # the table has forgotten as many
            del self._untold[next(iter(self._untold))]

    def compare(self) -> None:
        """Something may have been missed, by this server or by Redis."""
        self._compare = True
        self._due.set()

    async def sync(self) -> None:
        """Tell what was not told yet. Raises ``StoreUnavailable``: then it is still to be told."""
        untold, compare = list(self._untold), self._compare
        self._untold.clear()
        self._compare = False
        try:
            await self._sync(untold, compare=compare)
        except BaseException:
            self._add(untold)
            self._compare = True
            raise

    async def _sync(self, untold: Sequence[str], *, compare: bool) -> None:
        ours = self._denials.all(untold)
        args: list[Any] = [
            self._channel,
            self._denials.most,
            int(compare),
            ours.before,
            max(1, int(1000 * ours.seconds)),
            len(ours.cookies),
            *_pairs(ours.cookies),
        ]
        if compare:
            others = self._denials.all().cookies
            args += _pairs({key: others[key] for key in others.keys() - ours.cookies.keys()})
        answer = await self._redis.run(self._script, self._keys, args)
        if not answer:
            return
        now, before, left, kept = answer
        cookies = {
            digest.decode("ascii", "replace"): (float(ends) - now) / 1000
            for digest, ends in zip(kept[::2], kept[1::2], strict=True)
        }
        self._denials.learn(Denied(cookies, before, max(0, left) / 1000))

    async def keep_telling(self) -> None:
        """Tell whatever is to be told, and again where it fails. Ends only when it is cancelled."""
        pause = FIRST_PAUSE
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.sync()
            except Exception as error:  # noqa: BLE001 - or nobody would ever be told of a logout again
                if not isinstance(error, StoreUnavailable):
                    self._log.exception("Telling other servers who signed out failed, trying again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self.compare()
            else:
                pause = FIRST_PAUSE

    def told(self, words: Sequence[str]) -> bool:
        """Something on the channel of changes; whether it was for here."""
        match words:
            case ["denied", digest, left] if _is_number(left):
                self._denials.learn(Denied({digest: int(left) / 1000}))
            case ["before", before, left] if _is_number(before) and _is_number(left):
                self._denials.learn(Denied(before=int(before), seconds=int(left) / 1000))
            case _:
                return False
        return True


def _pairs(cookies: Mapping[str, float]) -> list[Any]:
    return [part for digest, left in cookies.items() for part in (digest, max(1, int(1000 * left)))]


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 16


class _Counts:
    """Asks Redis for counts: not for long, not often at once, and not for a while after it failed."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self.redis = redis
        self._clock = clock
        self._asking = 0
        self._silent_until = float("-inf")

    async def ask(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """The answer, or ``None``."""
        if self._asking >= LIMITS_AT_ONCE or self._clock() < self._silent_until:
            return None
        self._asking += 1
        try:
            return await self.redis.run(script, keys, args, LIMITS_TIMEOUT)
        except StoreUnavailable:
            self._silent_until = self._clock() + LIMITS_PAUSE
            return None
        finally:
            self._asking -= 1


class SharedAttempts:
    """Counts wrong credentials for several servers; without Redis for this one alone.

    Each server has digests of its own, which mean nothing to who reads Redis; so a wrong token that is shown
    to two of them counts twice.
    """

    def __init__(self, redis: Redis, local: MemoryAttempts) -> None:
        self._local = local
        self._counts = _Counts(redis)
        self._script = redis.script(_WRONG)
        self._index = f"{redis.key_prefix}wrong"

    async def wrong(self, address: str, credential: str) -> float:
        """See ``guard.limits.AttemptStore``."""
        wait = await self._local.wrong(address, credential)
        if wait > 0:
            return wait
        table = self._local.table
        answer = await self._counts.ask(
            self._script,
            [f"{self._index}:{address}", self._index],
            [credential, table.burst, _milliseconds(table.window), MAX_ADDRESSES],
        )
        return 0 if answer is None else float(answer) / 1000


class SharedPace:
    """Paces passwords for several servers; without Redis for this one alone."""

    def __init__(self, redis: Redis, local: MemoryPace) -> None:
        self._local = local
        self._counts = _Counts(redis)
        self._take, self._give_back = redis.script(_TAKE), redis.script(_GIVE_BACK)
        self._index = f"{redis.key_prefix}turn"
        self._giving: set[asyncio.Future[Any]] = set()

    async def take(self, address: str) -> tuple[bool, float]:
        """See ``guard.limits.PaceStore``."""
        turn, wait = await self._local.take(address)
        if not turn:
            return turn, wait
        pace = self._local.table
        times = [1000 * seconds for seconds in (pace.every, pace.ahead, pace.longest)]
        answer = await self._counts.ask(
            self._take, [f"{self._index}:{address}", self._index], [*times, MAX_ADDRESSES]
        )
        if answer is None:
            return turn, wait
        there, seconds = bool(answer[0]), answer[1] / 1000
        if not there:
            self._local.give_back(address)
            return False, seconds
        return True, max(wait, seconds)

    def give_back(self, address: str) -> None:
        """See ``guard.limits.PaceStore``."""
        self._local.give_back(address)
        asked = self._counts.ask(
            self._give_back, [f"{self._index}:{address}"], [1000 * self._local.table.every]
        )
        giving = asyncio.ensure_future(asked)
        self._giving.add(giving)
        giving.add_done_callback(self._giving.discard)


def _milliseconds(seconds: float) -> int:
    return max(1, int(1000 * seconds))
