"""A client that reconnects at once after every refusal soon gets plain HTTP (C3.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.guard.refusal import RefusalBudget
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS
from tests.support.knock import bearing

ONE = {"refusal_burst": 1, "refusal_window": 1000}
"""However long it takes until they are counted."""

A, B = ("address", "route", "credential"), ("address", "route", "another")


async def test_C3_5_told_five_times_then_plain_until_it_calms_down(door):
    offer = [MARKER, bearing("wrong"), REASON_MARKER]
    statuses = [(await door.refused(EVENTS, offer)).status for _ in range(8)]
    assert statuses == [101] * 5 + [403] * 3
    assert (door.guard.options.refusal_burst, door.guard.options.refusal_window) == (5, 10)


@pytest.mark.parametrize("token_ws_config", [ONE])
async def test_C3_5_address_route_and_credential_are_counted_apart(door):
    async def told(path, token=None, **headers):
        offer = [MARKER, bearing(token), REASON_MARKER] if token else [REASON_MARKER]
        return (await door.refused(path, offer, headers)).status == 101

    terminal = "terminals/websocket/1"
    assert await told(EVENTS, "wrong")
    assert not await told(EVENTS, "wrong")
    assert await told(EVENTS, "another")
    assert await told(terminal, "wrong")
    assert await told(EVENTS)
    assert not await told(EVENTS)
    assert await told(EVENTS, Cookie="a=b")
    assert not await told(EVENTS, Cookie="a=b")
    assert await told(f"{EVENTS}?token=wrong-in-url")
    assert not await told(f"{EVENTS}?token=wrong-in-url&x=1")
    assert await told(EVENTS, Authorization="token wrong-in-header")
    assert not await told(EVENTS, Authorization="token wrong-in-header")
    # The same token by another way is the same credential, and a route's paths are one route
    # for strangers.
    assert not await told(f"{EVENTS}?token=wrong")
    assert not await told("terminals/websocket/2", "wrong")


@pytest.mark.parametrize("token_ws_config", [ONE])
async def test_C3_5_who_is_known_is_told_of_each_path(door):
    """A page asks for all its kernels at once where the server was started anew."""
    offer = [MARKER, bearing(door.token), REASON_MARKER]
    kernels = [f"api/kernels/00000000-0000-0000-0000-00000000000{n}/channels" for n in range(8)]
    slugs = [(await door.refused(path, offer)).slug for path in kernels]
    assert slugs == ["not_found"] * 8
    assert (await door.refused(kernels[0], offer)).status == 404


@pytest.mark.parametrize("token_ws_config", [ONE])
async def test_C3_5_one_address_does_not_use_up_what_another_is_told(door, http_server):
    http_server.xheaders = True  # as behind a proxy, which says where a client is
    statuses = [
        (await door.refused(EVENTS, [REASON_MARKER], {"X-Real-Ip": address})).status
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2")
    ]
    assert statuses == [101, 403, 101, 403]


@pytest.mark.parametrize("token_ws_config", [ONE])
async def test_C3_5_a_storm_does_not_keep_the_good_out(door):
    for _ in range(3):
        await door.refused(EVENTS, [REASON_MARKER])
    async with await door.knock(EVENTS, [MARKER, bearing(door.token), REASON_MARKER]) as socket:
        assert socket.status == 101


@pytest.mark.parametrize("token_ws_config", [{"refusal_burst": 0}])
async def test_C3_5_a_burst_of_nothing_tells_nobody(door):
    assert (await door.refused(EVENTS, [REASON_MARKER])).status == 403


def test_C3_5_the_window_moves():
    budget = RefusalBudget(max_open=100, burst=2, window=10)
    assert budget.allow(A, now=0)
    assert budget.allow(A, now=6)
    assert not budget.allow(A, now=9.9)
    assert budget.allow(A, now=10)  # the first is forgotten
    assert not budget.allow(A, now=15.9)
    assert budget.allow(A, now=16)
    assert budget.allow(A, now=100)


def test_C3_5_keys_do_not_meet():
    budget = RefusalBudget(max_open=100, burst=1, window=10)
    assert budget.allow(A, now=0)
    assert budget.allow(B, now=0)
    assert not budget.allow(A, now=0)
    assert not budget.allow(B, now=0)


def test_C3_5_what_could_not_be_told_is_not_counted():
    budget = RefusalBudget(max_open=1, burst=1, window=10)
    budget.open = 1
    assert not budget.allow(A, now=0)
    assert len(budget) == 0
    budget.open = 0
    assert budget.allow(A, now=0)


def test_C3_5_the_table_is_bounded_and_forgets_the_least_recent():
    budget = RefusalBudget(max_open=100, burst=1, window=10, max_keys=3)
    keys = [("address", "route", str(number)) for number in range(4)]
    for key in keys[:3]:
        assert budget.allow(key, now=0)
    assert not budget.allow(keys[0], now=1)  # a look at it keeps it
    assert budget.allow(keys[3], now=2)  # number 1 goes
    assert len(budget) == 3
    assert not budget.allow(keys[0], now=3)
    assert not budget.allow(keys[3], now=3)
    assert budget.allow(keys[1], now=3)


def test_C3_5_the_clock_is_the_systems_own():
    budget = RefusalBudget(max_open=1, burst=1, window=1000)
    assert budget.allow(A)
    assert not budget.allow(A)


@given(
    st.integers(0, 5),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 5)), max_size=80),
)
def test_C3_5_never_more_than_the_burst_in_a_window(burst, max_keys, asked):
    budget = RefusalBudget(max_open=1, burst=burst, window=10, max_keys=max_keys)
    only = RefusalBudget(max_open=1, burst=burst, window=10)
    now, told = 0.0, []
    for number, later in asked:
        now += later
        budget.allow(("a", "r", str(number)), now)
        assert len(budget) <= max_keys
        if only.allow(A, now):
            told.append(now)
            assert sum(now - moment < 10 for moment in told) <= burst
        else:
            assert sum(now - moment < 10 for moment in told) == burst
