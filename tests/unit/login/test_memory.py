"""Tickets in memory: bounded, and what happens when there is no room."""

from __future__ import annotations

import pytest

from jupyter_token_ws.login.memory import MemoryTicketStore
from jupyter_token_ws.login.tickets import (
    Credential,
    ExpiredTicket,
    StoreFull,
    UnknownTicket,
)

CREDENTIAL = Credential("token", "the-token-behind-it")


@pytest.fixture
def store(clock):
    store = MemoryTicketStore(max_tickets=3, max_age=100.0, max_renewal=1000.0)
    store.clock = clock
    return store


async def issue(store, **options):
    return await store.issue("p", {}, CREDENTIAL, **options)


async def test_C6_6_a_full_store_refuses_rather_than_forgets(store, clock):
    kept = [await issue(store, max_age=age) for age in (50, 20.5, 80)]
    with pytest.raises(StoreFull) as refused:
        await issue(store)
    assert (refused.value.slug, refused.value.retry_after) == ("unavailable", 21)
    for issued in kept:
        await store.look_up(issued.token)
    assert len(store) == 3
    clock.now += 20.5
    await issue(store)
    assert len(store) == 3


async def test_what_is_dead_makes_room_and_goes_longest_dead_first(store, clock):
    first, second = await issue(store, max_age=20), await issue(store, max_age=10)
    await issue(store)
    clock.now += 30
    # Both are dead, and remembered as long as nobody needs the room.
    for issued in (first, second):
        with pytest.raises(ExpiredTicket):
            await store.look_up(issued.token)
    assert len(store) == 3
    await issue(store)
    for issued in (first, second):
        with pytest.raises(UnknownTicket):
            await store.look_up(issued.token)
    assert len(store) == 2


async def test_revoked_ones_make_room(store):
    kept = [await issue(store) for _ in range(3)]
    await store.revoke(kept[1].token)
    await issue(store)
    await store.look_up(kept[0].token)
    await store.look_up(kept[2].token)
    with pytest.raises(UnknownTicket):
        await store.look_up(kept[1].token)


async def test_C6_4_a_renewal_in_a_full_store_takes_the_place_of_the_old_one(store):
    kept = [await issue(store) for _ in range(3)]
    renewed = await store.renew(kept[0].token)
    assert len(store) == 3
    with pytest.raises(UnknownTicket):
        await store.look_up(kept[0].token)
    for issued in (renewed, *kept[1:]):
        await store.look_up(issued.token)
    assert renewed.ticket.family_ends_at == kept[0].ticket.family_ends_at
    assert (await store.family(renewed.ticket.family)).alive


async def test_nothing_grows_with_what_is_over(store, clock):
    """However often tickets are issued and renewed."""
    store.max_tickets = 50
    issued = await issue(store)
    for _ in range(40):
        issued = await issue(store)
        for _ in range(20):
            issued = await store.renew(issued.token)
        await store.revoke(issued.token)
        clock.now += 1
    assert len(store) <= 50
    assert len(store._deaths) <= 2 * 50 + 64 + 1
    assert len(store._families) <= 50
    clock.now += 10_000
    await issue(store)
    with pytest.raises(UnknownTicket):
        await store.look_up(issued.token)
    assert (len(store), len(store._deaths), len(store._families)) == (1, 1, 1)


async def test_C6_4_a_clock_that_was_set_back_revives_nothing(store, clock):
    issued = await issue(store)
    clock.now -= 3600
    with pytest.raises(ExpiredTicket):
        await store.look_up(issued.token)


@pytest.mark.parametrize("number", [0, -1])
def test_a_store_has_room_for_one_at_least(number):
    with pytest.raises(Exception, match="max_tickets"):
        MemoryTicketStore(max_tickets=number)
