"""Tickets in a real Redis: several servers, and a Redis that fails."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import suppress

import pytest

from jupyter_token_ws.login.redis import URL_VARIABLE, RedisTicketStore
from jupyter_token_ws.login.tickets import (
    Credential,
    FamilyChange,
    StoreUnavailable,
    TicketRefused,
    UnknownTicket,
    UsedTicket,
)
from tests.support.redis_server import redis_server
from tests.support.waiting import auntil

pytestmark = pytest.mark.requires("redis-server", "redis-server")

CREDENTIAL = Credential("token", "the-token-behind-it")
PATIENCE = 60.0
"""Seconds for what should take milliseconds: the machine may have much else to do."""


@pytest.fixture
def made(request, jp_asyncio_loop):
    """A way to make stores, which are closed in the end."""
    stores: list[RedisTicketStore] = []

    def make(server, **options) -> RedisTicketStore:
        store = RedisTicketStore(**{"url": server.url, "timeout": PATIENCE, **options})
        store.max_age, store.max_renewal = 36000.0, 360000.0
        store.log.propagate = True
        stores.append(store)
        return store

    yield make
    for store in stores:
        jp_asyncio_loop.run_until_complete(store.close())
    jp_asyncio_loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def own_redis(tmp_path):
    """One that a test may stop."""
    with redis_server(tmp_path) as server:
        yield server


async def issue(store, **options):
    return await store.issue("user:ann", {"name": "ann"}, CREDENTIAL, **options)


async def hearing(store) -> list[FamilyChange]:
    """What a store tells, from when it has begun to hear."""
    told: list[FamilyChange] = []
    store.listen(told.append)
    await store.start()
    await auntil(lambda: FamilyChange(None) in told, "it listens", PATIENCE)
    told.clear()
    return told


async def test_C6_4_what_one_server_revokes_the_others_hear_of(redis, made):
    here, there = made(redis), made(redis)
    told = await hearing(there)
    issued = await issue(here)
    await here.revoke(issued.token)
    expected = FamilyChange(issued.ticket.family, revoked=True)
    await auntil(lambda: told == [expected], "it was told", PATIENCE)
    other = await issue(there)
    await here.revoke_family(other.ticket.family)
    expected = FamilyChange(other.ticket.family, revoked=True)
    await auntil(lambda: told[1:] == [expected], "it was told", PATIENCE)


async def test_C6_4_what_one_server_renews_the_others_hear_of_by_their_own_clocks(redis, made):
    here, there = made(redis), made(redis)
    there.clock = lambda: 1_000_000.0
    told = await hearing(there)
    issued = await issue(here, max_age=7200)
    await here.renew(issued.token, max_age=18000)
    await auntil(lambda: told != [], "it was told", PATIENCE)
    (change,) = told
    assert (change.family, change.revoked) == (issued.ticket.family, False)
    assert change.expires_at == pytest.approx(1_018_000, abs=1800)


async def test_one_may_hear_ones_own_changes_twice_but_at_once(redis, made):
    store = made(redis)
    told = await hearing(store)
    issued = await issue(store)
    await store.revoke(issued.token)
    expected = FamilyChange(issued.ticket.family, revoked=True)
    assert expected in told
    await auntil(lambda: told == [expected] * 2, "and once more", PATIENCE)


async def test_servers_with_different_prefixes_are_strangers(redis, made):
    here, there = made(redis, key_prefix="one:"), made(redis, key_prefix="two:")
    told = await hearing(there)
    issued = await issue(here)
    with pytest.raises(UnknownTicket):
        await there.look_up(issued.token)
    assert await there.revoke(issued.token) is None
    await here.revoke(issued.token)
    mine = await issue(there)
    await there.revoke(mine.token)
    await auntil(lambda: len(told) == 2, "its own, twice", PATIENCE)
    assert {change.family for change in told} == {mine.ticket.family}
    with redis.client() as client:
        assert {key.partition(b":")[0] for key in client.keys("*")} == {b"one", b"two"}


async def test_strange_words_on_the_channel_are_passed_over(redis, made, caplog):
    store = made(redis)
    told = await hearing(store)
    with redis.client() as client:
        for words in (b"", b"\xff\xff", b"revoked", b"revoked a b c", b"revoked a 1",
                      b"renewed a -1", b"renewed a x", b"renewed a \xd9\xa3", b"exploded a 0",
                      b"revoked this 0"):  # fmt: skip
            client.publish("jupyter_token_ws:changes", words)
    await auntil(lambda: told != [], "the last one", PATIENCE)
    assert told == [FamilyChange("this", revoked=True)]


async def test_C6_5_who_asks_again_because_the_answer_was_lost_is_told_the_same(redis, made):
    store = made(redis)
    issued = await issue(store, single_use=True)
    (key,) = redis.client().keys("*ticket:*")
    once = [key.decode()], ["jupyter_token_ws:family:", "the-same-mark"]
    first = await store.run(store._get_script, *once)
    assert (await store.run(store._get_script, *once))[:4] == first[:4]
    with pytest.raises(UsedTicket):
        await store.consume(issued.token)


async def test_C6_5_of_two_servers_one_gets_it(redis, made):
    stores = [made(redis) for _ in range(2)]
    for _ in range(10):
        issued = await issue(stores[0], single_use=True)
        uses = [stores[number % 2].consume(issued.token) for number in range(8)]
        outcomes = await asyncio.gather(*uses, return_exceptions=True)
        assert sum(isinstance(outcome, UsedTicket) for outcome in outcomes) == 7


async def test_C6_4_redis_itself_forgets_what_is_over(redis, made):
    store = made(redis)
    store.remembered = 0.0
    store.max_age = store.max_renewal = 0.2
    old = await issue(store)
    await store.renew(old.token)
    with redis.client() as client:
        await auntil(lambda: client.dbsize() == 0, "all of it is gone", PATIENCE)
    with pytest.raises(UnknownTicket):
        await store.look_up(old.token)


async def test_C6_4_nothing_stays_in_redis_for_ever(redis, made):
    store = made(redis)
    for number in range(30):
        issued = await issue(store, single_use=number % 3 == 0)
        if number % 3:
            for _ in range(3):
                issued = await store.renew(issued.token)
        if number % 2:
            await store.revoke(issued.token)
        await store.revoke_family("of nobody")
    with redis.client() as client:
        keys = client.keys("*")
        assert len(keys) > 100
        assert [key for key in keys if client.pttl(key) <= 0] == []


async def test_a_family_does_not_grow_with_its_renewals(redis, made):
    store = made(redis)
    issued = await issue(store)
    for _ in range(20):
        issued = await store.renew(issued.token)
        redis.advance(60)
    with redis.client() as client:
        (family,) = client.keys("*family:*")
        assert client.hlen(family) <= 1 + 3


@pytest.mark.parametrize("what", ["ticket", "family"])
async def test_C6_6_what_redis_forgot_by_itself_is_not_good(redis, made, what):
    """Under memory pressure, for instance: then nothing is left of a revocation either."""
    store = made(redis)
    issued = await issue(store)
    await store.revoke(issued.token)
    with redis.client() as client:
        client.delete(*client.keys(f"*{what}:*"))
    for attempt in (store.look_up, store.consume, store.renew):
        with pytest.raises(UnknownTicket):
            await attempt(issued.token)
    assert not (await store.family(issued.ticket.family)).alive


async def test_C6_6_what_was_changed_in_redis_is_refused(redis, made, caplog):
    store = made(redis)
    once, other = await issue(store, single_use=True), await issue(store)
    with redis.client() as client:
        keys = client.keys("*ticket:*")
        (single,) = [key for key in keys if client.hget(key, "single") == b"1"]
        client.hset(single, "single", "0")
        with pytest.raises(UnknownTicket):
            await store.consume(once.token)
        (plain,) = [key for key in keys if key != single]
        for field, value in (
            ("box", client.hget(single, "box")),
            ("box", b""),
            ("family", once.ticket.family),
        ):
            before = client.hget(plain, field)
            client.hset(plain, field, value)
            with pytest.raises(UnknownTicket):
                await store.look_up(other.token)
            client.hset(plain, field, before)
        await store.look_up(other.token)
        # What does not even look like a ticket is no "yes" either.
        client.hset(plain, "family", b"\xff")
        with pytest.raises(UnknownTicket):
            await store.look_up(other.token)
        assert await store.revoke(other.token) == "\ufffd"
        client.hdel(plain, "box")
        with pytest.raises(UnknownTicket):
            await store.look_up(other.token)
        client.hset(single, "expires", "tomorrow")
        with pytest.raises(StoreUnavailable):
            await store.look_up(once.token)
        client.set(single, "a string")
        with pytest.raises(StoreUnavailable):
            await store.look_up(once.token)
    assert caplog.text.count("not as it was issued") == 4


async def refuse_everything(store, issued) -> None:
    """Nobody is let in, and nobody is told what is wrong with Redis."""
    for attempt in (
        issue(store),
        store.look_up(issued.token),
        store.consume(issued.token),
        store.renew(issued.token),
        store.revoke(issued.token),
        store.revoke_family(issued.ticket.family),
        store.family(issued.ticket.family),
    ):
        with pytest.raises(StoreUnavailable) as refused:
            await attempt
        assert (refused.value.slug, refused.value.retry_after) == ("unavailable", 5)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__
        assert str(refused.value) == "The store of tickets does not answer"


async def test_C6_6_without_redis_nobody_is_let_in_and_afterwards_it_goes_on(
    own_redis, made, caplog
):
    caplog.set_level("INFO")
    store, there = made(own_redis), made(own_redis)
    told = await hearing(store)
    issued = await issue(store)
    own_redis.stop()
    await refuse_everything(store, issued)
    assert [line.levelname for line in caplog.records if "does not answer" in line.message] == [
        "WARNING"
    ]
    own_redis.start()
    # It has forgotten everything: that too is no "yes".
    with pytest.raises(TicketRefused):
        await store.look_up(issued.token)
    assert "answers again" in caplog.text
    # Revocations are heard again, and that some may have been missed.
    await auntil(lambda: FamilyChange(None) in told, "listens again", PATIENCE)
    again = await issue(there)
    await there.revoke(again.token)
    expected = FamilyChange(again.ticket.family, revoked=True)
    await auntil(lambda: expected in told, "heard", PATIENCE)


async def test_C6_6_a_redis_that_hangs_is_waited_for_only_so_long(own_redis, made):
    store = made(own_redis, timeout=0.2)
    await auntil_issued(store)
    issued = await auntil_issued(store)
    with own_redis.frozen():
        begun = time.monotonic()
        await refuse_everything(store, issued)
        # Seven questions; revoking asks twice only where there is an answer to the first.
        assert time.monotonic() - begun < 7 * PATIENCE / 10
    store.timeout = PATIENCE
    assert (await store.look_up(issued.token)).family == issued.ticket.family


async def auntil_issued(store):
    """With a short time limit even a good Redis may be late once."""
    for _ in range(50):
        with suppress(StoreUnavailable):
            return await issue(store)
    raise AssertionError("Redis never answered in time")


async def test_a_redis_that_is_not_there_at_first_is_listened_to_later(own_redis, made, caplog):
    own_redis.stop()
    store = made(own_redis)
    told: list[FamilyChange] = []
    store.listen(told.append)
    await store.start()
    await auntil(lambda: "does not answer" in caplog.text, "it tried", PATIENCE)
    assert told == []
    own_redis.start()
    await auntil(lambda: told == [FamilyChange(None)], "it listens", PATIENCE)


async def test_a_connection_that_is_silent_is_made_anew(own_redis, made, caplog):
    store = made(own_redis, ping_interval=0.05, timeout=0.5)
    told = await hearing(store)
    with own_redis.frozen():
        await auntil(lambda: "does not answer" in caplog.text, "it gave up", PATIENCE)
        assert told == []
    await auntil(lambda: FamilyChange(None) in told, "it listens again", PATIENCE)


async def test_who_stops_waiting_gets_nobody_elses_answer(redis, made):
    """Answers come in the order of the questions: one that nobody waits for must not be read by the next."""
    store = made(redis, max_connections=3)
    issued = [
        await store.issue(f"user:{number}", {}, Credential("token", str(number)))
        for number in range(8)
    ]
    chance = random.Random(5)
    for _ in range(60):
        numbers = [chance.randrange(8) for _ in range(6)]
        tasks = [asyncio.create_task(store.look_up(issued[number].token)) for number in numbers]
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        for task in tasks:
            if chance.random() < 0.5:
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in zip(numbers, outcomes, strict=True):
            if not isinstance(outcome, asyncio.CancelledError):
                assert not isinstance(outcome, BaseException), outcome
                assert outcome.principal == f"user:{number}"


async def test_C6_6_a_redis_without_memory_issues_nothing(own_redis, made):
    store = made(own_redis)
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            await issue(store)
        client.config_set("maxmemory", "0")
    await issue(store)


async def test_a_listener_of_redis_that_fails_goes_on(redis, made, monkeypatch, caplog):
    store = made(redis)
    failures = iter([RuntimeError("of the library")])
    hear = store._hear

    async def fails_once(pubsub):
        for failure in failures:
            raise failure
        await hear(pubsub)

    monkeypatch.setattr(store, "_hear", fails_once)
    await hearing(store)
    assert "trying again" in caplog.text


async def test_a_store_is_closed_also_where_a_cancellation_gets_lost(redis, made):
    store = made(redis)

    async def deaf() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    store._running = [asyncio.create_task(deaf())]
    (task,) = store._running
    await asyncio.sleep(0)  # it has begun
    await asyncio.wait_for(store.close(), PATIENCE)
    assert task.cancelled()


async def test_a_store_is_started_and_closed_as_often_as_one_likes(redis, made):
    store = made(redis)
    for _ in range(2):
        told = await hearing(store)
        await store.start()
        issued = await issue(store)
        await store.revoke(issued.token)
        assert told
        await store.close()
        await store.close()


def test_where_redis_is(monkeypatch):
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    assert RedisTicketStore().url == "redis://localhost:6379/0"
    monkeypatch.setenv(URL_VARIABLE, "redis://elsewhere/3")
    assert RedisTicketStore().url == "redis://elsewhere/3"


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match=r"pip install 'jupyter-token-ws\[redis\]'"):
        RedisTicketStore()
