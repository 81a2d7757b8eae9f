"""What servers share in a real Redis besides tickets: who signed out (contract 6.7), and how often somebody
was wrong (contract 3, 4429)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_token_ws.guard.credentials import Digester
from jupyter_token_ws.guard.limits import Attempts, MemoryAttempts, MemoryPace, Pace
from jupyter_token_ws.login import redis_shared
from jupyter_token_ws.login.denials import Denied, digest_of
from jupyter_token_ws.login.redis import RedisTicketStore
from jupyter_token_ws.login.redis_shared import SharedAttempts, SharedPace, _Counts
from jupyter_token_ws.login.tickets import StoreUnavailable
from tests.support.redis_server import redis_server
from tests.support.waiting import auntil
from tests.unit.login.test_redis import PATIENCE, hearing, made, own_redis

__all__ = ["made", "own_redis"]  # fixtures

pytestmark = pytest.mark.requires("redis-server", "redis-server")

DAY = 24 * 3600.0
PREFIX = "jupyter_token_ws:"


def cookie(number: int) -> tuple[str, str]:
    return "name", f"2|1:0|10:1800000000|4:name|{number}"


def deny(*numbers: int, days: float = 31) -> Denied:
    return Denied({digest_of(*cookie(number)): days * DAY for number in numbers})


def denied(store: RedisTicketStore) -> set[int]:
    return {number for number in range(50) if store.denials.denies(*cookie(number))}


async def knows(store: RedisTicketStore, *numbers: int) -> None:
    await auntil(lambda: denied(store) == set(numbers), f"{numbers} are denied", PATIENCE)


def keys(server: Any) -> dict[str, int]:
    """The names of all keys, less the prefix, and the milliseconds that they have left."""
    with server.client() as client:
        return {key.decode().removeprefix(PREFIX): client.pttl(key) for key in client.keys("*")}


# -- who signed out --------------------------------------------------------------------------------------


async def test_C6_7_what_one_server_denies_the_others_hear_of(redis, made):
    here, there = made(redis), made(redis)
    await hearing(here)
    await hearing(there)
    here.denials.deny(deny(1))
    await knows(there, 1)
    there.denials.deny(Denied(before=1_800_000_001, seconds=DAY))
    await auntil(lambda: here.denials.before == 1_800_000_001, "the new password", PATIENCE)
    there.denials.deny(Denied(before=1_700_000_000, seconds=DAY))
    there.denials.deny(deny(2))
    await auntil(lambda: here.denials.denies(*cookie(2)), "the next", PATIENCE)
    assert here.denials.before == 1_800_000_001


async def test_C6_7_a_new_server_knows_it_when_it_has_begun(redis, made):
    here = made(redis)
    await hearing(here)
    here.denials.deny(deny(1))
    here.denials.deny(deny(2, days=1))
    here.denials.deny(Denied(before=5, seconds=DAY))
    await auntil(lambda: set(keys(redis)) == {"denied", "cookies-before"}, "all are told", PATIENCE)
    with redis.client() as client:
        await auntil(lambda: client.zcard(f"{PREFIX}denied") == 2, "all are told", PATIENCE)
    there = made(redis)
    news: list[None] = []
    there.denials.on_news = lambda: news.append(None)
    await there.start()
    assert denied(there) == {1, 2}
    assert there.denials.before == 5
    assert news == [None]
    left = there.denials.all()
    assert left.seconds == pytest.approx(DAY, rel=0.05)
    assert sorted(left.cookies.values()) == pytest.approx([DAY, 31 * DAY], rel=0.05)


async def test_C6_7_redis_forgets_it_when_the_cookie_is_over(redis, made):
    here = made(redis)
    await here.start()
    here.denials.deny(deny(1, days=1))
    here.denials.deny(deny(2, days=3))
    here.denials.deny(Denied(before=5, seconds=DAY))
    with redis.client() as client:
        await auntil(lambda: client.zcard(f"{PREFIX}denied") == 2, "all are told", PATIENCE)
    left = keys(redis)
    assert left["denied"] == pytest.approx(3 * DAY * 1000, rel=0.05)
    assert left["cookies-before"] == pytest.approx(DAY * 1000, rel=0.05)
    redis.advance(2 * DAY)
    there = made(redis)
    await there.start()
    assert denied(there) == {2}
    assert there.denials.before == 0
    redis.advance(2 * DAY)
    assert keys(redis) == {}


async def test_C6_7_what_redis_was_not_told_it_is_told_when_it_is_back(own_redis, made):
    here, there = made(own_redis, timeout=1), made(own_redis, timeout=1)
    await hearing(here)
    await hearing(there)
    here.denials.deny(deny(1))
    await knows(there, 1)
    own_redis.stop()  # and it forgets
    with pytest.raises(StoreUnavailable):
        await here.issue("user:ann", {}, SimpleNamespace(kind="", value=""))
    here.denials.deny(deny(2))
    there.denials.deny(deny(3))
    there.denials.deny(Denied(before=7, seconds=DAY))
    assert denied(here) == {1, 2}
    own_redis.start()
    await knows(here, 1, 2, 3)
    await knows(there, 1, 2, 3)
    await auntil(lambda: here.denials.before == 7, "the new password", PATIENCE)
    another = made(own_redis)
    await another.start()
    assert denied(another) == {1, 2, 3}


async def test_a_server_starts_without_redis_and_hears_of_it_later(own_redis, made):
    own_redis.stop()
    here = made(own_redis, timeout=0.5)
    await here.start()
    here.denials.deny(deny(1))
    own_redis.start()
    there = made(own_redis)
    await there.start()
    await knows(there, 1)


async def test_only_so_many_are_kept_and_nobody_goes_on_about_the_rest(redis, made):
    """What one server pushed out another must not push back in, for ever."""
    stores = [made(redis), made(redis)]
    for store in stores:
        store.denials.most = 10
        await hearing(store)
    for number in range(40):
        stores[number % 2].denials.deny(deny(number))
    with redis.client() as client:
        await auntil(lambda: client.zcard(f"{PREFIX}denied") == 10, "they are told", PATIENCE)
        for store in stores:
            await auntil(lambda: not store._shared._untold, "all is told", PATIENCE)  # noqa: B023
            await store._shared.sync()
        heard = client.info("stats")["total_commands_processed"]
        for store in stores:
            store._shared.compare()
            await auntil(lambda: not store._shared._compare, "it is compared", PATIENCE)  # noqa: B023
        for store in stores:  # whatever was published has come
            await store.family("none")
        assert client.zcard(f"{PREFIX}denied") == 10
        assert client.info("stats")["total_commands_processed"] - heard < 200
    assert all(len(denied(store)) <= 10 for store in stores)


async def test_an_error_in_telling_is_not_the_last_word(redis, made, monkeypatch, caplog):
    here, there = made(redis), made(redis)
    await hearing(there)
    await hearing(here)
    tell = here._shared._sync
    failed: list[None] = []

    async def fails(*args: Any, **options: Any) -> None:
        if not failed:
            failed.append(None)
            raise LookupError("on purpose")
        await tell(*args, **options)

    monkeypatch.setattr(here._shared, "_sync", fails)
    here.denials.deny(deny(1))
    await knows(there, 1)
    assert "who signed out failed, trying again" in caplog.text


async def test_C6_6_redis_holds_no_cookie(redis, made):
    here = made(redis)
    await here.start()
    name, value = cookie(1)
    here.denials.deny(deny(1))
    await auntil(lambda: "denied" in keys(redis), "it is told", PATIENCE)
    assert value.encode() not in redis.dump()
    assert b"1800000000" not in redis.dump()
    assert digest_of(name, value).encode() in redis.dump()


async def test_strange_words_about_it_are_passed_over(redis, made, caplog):
    here = made(redis)
    await hearing(here)
    before = here.denials.all()
    with redis.client() as client:
        for words in (b"denied", b"denied a", b"denied a x", b"denied a -1", b"denied a 1 2",
                      b"before", b"before x 1", b"before 1 x", b"before 1",
                      b"before 99999999999999999999 1", b"denied a \xd9\xa3"):  # fmt: skip
            client.publish(f"{PREFIX}changes", words)
        client.publish(f"{PREFIX}changes", b"before 3 1000")
    await auntil(lambda: here.denials.before == 3, "the last one", PATIENCE)
    assert here.denials.all().cookies == before.cookies == {}


# -- how often somebody was wrong ------------------------------------------------------------------------


def attempts(store: RedisTicketStore, burst: int = 3, window: float = 600) -> SharedAttempts:
    return SharedAttempts(store, MemoryAttempts(Attempts(burst, window)))


def pace(store: RedisTicketStore, burst: int = 2, longest: float = 0) -> SharedPace:
    return SharedPace(store, MemoryPace(Pace(burst, 600, longest)))


async def test_wrong_credentials_are_counted_for_all(redis, made):
    here, there = attempts(made(redis)), attempts(made(redis))
    assert [await here.wrong("a", "1"), await there.wrong("a", "2")] == [0, 0]
    assert await here.wrong("a", "1") == 0  # no other one
    assert await here.wrong("a", "3") == 0
    waits = [await here.wrong("a", "4"), await there.wrong("a", "5")]
    assert waits == pytest.approx([600, 600], rel=0.2)
    assert await there.wrong("a", "2") == 0  # told already
    assert await there.wrong("b", "5") == 0
    assert set(keys(redis)) == {"wrong", "wrong:a", "wrong:b"}
    assert all(0 < left <= 600_000 for left in keys(redis).values())
    redis.advance(600)
    assert keys(redis) == {}
    assert await attempts(made(redis)).wrong("a", "6") == 0


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ab"), st.sampled_from("123456"), st.integers(0, 1)),
        st.integers(1, 90).map(float),
    ),
    max_size=30,
)


@given(_STEPS)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_of_any_number_of_servers_it_is_one_table(redis, steps):
    """As far as whether: the table in memory is the model, with time that stands still but for ours."""
    redis.clear()
    loop = asyncio.new_event_loop()
    stores = [RedisTicketStore(url=redis.url, timeout=PATIENCE) for _ in range(2)]
    now, model = 0.0, Attempts(3, 100_000)
    servers = [attempts(store) for store in stores]
    for server in servers:  # what they know by themselves is no matter here
        server._local = SimpleNamespace(table=Attempts(3, 100_000), wrong=_nothing)  # type: ignore[assignment]
    try:
        for step in steps:
            if isinstance(step, float):
                now += step * 1000
                redis.advance(step * 1000)
                continue
            address, credential, number = step
            wait = loop.run_until_complete(servers[number].wrong(address, credential))
            expected = model.wrong(address, credential, now)
            assert (wait > 0) is (expected > 0)
            assert wait == pytest.approx(expected, abs=PATIENCE)
    finally:
        for store in stores:
            loop.run_until_complete(store.close())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


async def _nothing(address: str, credential: str) -> float:
    return 0


async def test_only_so_many_addresses_are_kept(redis, made, monkeypatch):
    monkeypatch.setattr(redis_shared, "MAX_ADDRESSES", 3)
    counts, turns = attempts(made(redis)), pace(made(redis))
    for address in "abcde":
        await counts.wrong(address, "1")
        await turns.take(address)
    kept = {key for key in keys(redis) if ":" in key}
    assert len([key for key in kept if key.startswith("wrong:")]) == 3
    assert len([key for key in kept if key.startswith("turn:")]) == 3
    assert "wrong:e" in kept


async def test_C6_6_redis_holds_no_wrong_token(redis, made):
    digest = Digester()("nearly-the-right-one")
    await attempts(made(redis)).wrong("a", digest)
    assert b"nearly" not in redis.dump()


async def test_passwords_take_turns_for_all(redis, made):
    here, there = pace(made(redis)), pace(made(redis))
    assert await here.take("a") == (True, 0)
    assert await there.take("a") == (True, 0)
    for server in (here, there):
        turn, wait = await server.take("a")
        assert not turn
        assert wait == pytest.approx(300, rel=0.2)
    assert (await there.take("b")) == (True, 0)
    there.give_back("a")
    await auntil(lambda: not there._giving, "it is given back", PATIENCE)
    assert (await here.take("a"))[0]
    here.give_back("c")  # which is not there any more
    await auntil(lambda: not here._giving, "nothing", PATIENCE)
    redis.advance(600)
    assert keys(redis) == {}


async def test_a_turn_that_is_not_far_is_waited_for(redis, made):
    here, there = pace(made(redis), longest=400), pace(made(redis), longest=400)
    for server in (here, there):
        assert await server.take("a") == (True, 0)
    turn, wait = await here.take("a")
    assert turn
    assert wait == pytest.approx(300, rel=0.2)
    turn, wait = await there.take("a")
    assert not turn
    assert wait == pytest.approx(200, rel=0.4)
    # What was not to be had there is not taken here either.
    assert await there._local.take("a") == (True, 0)


@pytest.mark.parametrize("frozen", [False, True])
async def test_without_redis_each_counts_for_itself_and_asks_no_more_for_a_while(
    tmp_path, made, frozen
):
    with redis_server(tmp_path) as server:
        counts, turns = attempts(made(server)), pace(made(server))
        assert await counts.wrong("a", "1") == 0
        assert await turns.take("a") == (True, 0)
        if frozen:
            with server.frozen():
                await _alone(counts, turns)
        else:
            server.stop()
            await _alone(counts, turns)


async def _alone(counts: SharedAttempts, turns: SharedPace) -> None:
    assert [await counts.wrong("a", each) for each in "23"] == [0, 0]
    assert await counts.wrong("a", "4") > 0
    assert (await turns.take("a"))[0]
    assert not (await turns.take("a"))[0]
    for asks in (counts._counts, turns._counts):
        assert asks._silent_until > asks._clock()
        asks.redis = None  # type: ignore[assignment] # nobody is asked
        assert await asks.ask(None, [], []) is None


async def test_redis_is_asked_for_only_so_much_at_once():
    answers = asyncio.Event()

    class Slow:
        async def run(self, *_: Any) -> int:
            await answers.wait()
            return 7

    counts = _Counts(Slow())  # type: ignore[arg-type]
    asked = [
        asyncio.ensure_future(counts.ask(None, [], [])) for _ in range(redis_shared.LIMITS_AT_ONCE)
    ]
    await asyncio.sleep(0)
    assert await counts.ask(None, [], []) is None
    answers.set()
    assert await asyncio.gather(*asked) == [7] * redis_shared.LIMITS_AT_ONCE
    assert await counts.ask(None, [], []) == 7


def test_limits_that_are_off_are_not_shared(redis, made):
    store = made(redis)
    throttle: Any = SimpleNamespace(store=object(), pace=None)
    other = throttle.store
    store.share_limits(throttle)
    assert throttle.store is other
    assert throttle.pace is None


def test_limits_are_shared_where_there_are_any(redis, made):
    store = made(redis)
    throttle: Any = SimpleNamespace(
        store=MemoryAttempts(Attempts(1, 1)), pace=MemoryPace(Pace(1, 1, 1))
    )
    store.share_limits(throttle)
    assert isinstance(throttle.store, SharedAttempts)
    assert isinstance(throttle.pace, SharedPace)
