"""How often somebody may be wrong: the tables, beside models of what they promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.guard.limits import Attempts, MemoryAttempts, Pace, Remembered

TIMES = st.floats(0, 8, allow_nan=False)
NAMES = st.sampled_from("abcdefgh")


def test_only_what_differs_counts_and_then_only_so_often():
    table = Attempts(burst=2, window=10)
    assert table.wrong("here", "one", 0) == 0
    assert [table.wrong("here", "one", 1) for _ in range(50)] == [0] * 50
    assert table.wrong("here", "two", 4) == 0
    assert table.wrong("here", "three", 6) == 4  # the first leaves the window at 10
    assert table.wrong("here", "two", 6) == 0  # it was told before
    assert table.wrong("there", "three", 6) == 0
    assert table.wrong("here", "three", 9.5) == 0.5
    assert table.wrong("here", "three", 10) == 0
    assert table.wrong("here", "one", 10) == 4  # long enough ago to be another


def test_the_table_is_bounded_and_forgets_who_was_longest_away():
    table = Attempts(burst=1, window=10, max_addresses=2)
    for address in ("a", "b"):
        assert table.wrong(address, "x", 0) == 0
    assert table.wrong("a", "y", 1) == 9
    assert table.wrong("c", "x", 2) == 0
    assert len(table) == 2
    assert table.wrong("a", "y", 3) == 7
    assert table.wrong("b", "y", 3) == 0


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.lists(st.tuples(NAMES, NAMES, TIMES), max_size=80),
)
def test_attempts_against_a_model(burst, most, asked):
    """The model keeps every time, and forgets nobody; so it is asked only while nobody was forgotten."""
    table = Attempts(burst=burst, window=10, max_addresses=most)
    told: dict[str, dict[str, float]] = {}
    now = 0.0
    for address, credential, later in asked:
        now += later
        wait = table.wrong(address, credential, now)
        assert len(table) <= most
        assert 0 <= wait <= table.window + 1e-9  # times are rounded
        recent = {
            name: time for name, time in told.get(address, {}).items() if now - time < table.window
        }
        assert sum(map(len, table._counted.values())) <= burst * most
        if len(told.keys() | {address}) <= most:
            if credential in recent or len(recent) < burst:
                assert wait == 0
            else:
                assert wait == min(recent.values()) + table.window - now
        if wait == 0:
            recent.setdefault(credential, now)
        told[address] = recent


async def test_the_store_of_one_server_asks_its_clock():
    now = [0.0]
    store = MemoryAttempts(Attempts(1, 10), clock=lambda: now[0])
    assert await store.wrong("a", "x") == 0
    now[0] = 4
    assert await store.wrong("a", "y") == 6
    now[0] = 10
    assert await store.wrong("a", "y") == 0


def test_remembered_for_a_while():
    table = Remembered(seconds=10)
    table.add("a", 0)
    assert table.has("a", 9.9)
    assert not table.has("b", 0)
    assert not table.has("a", 10)
    assert len(table) == 0
    table.add("a", 20)
    table.add("a", 25)
    assert table.has("a", 34)


def test_nothing_is_remembered_for_no_time():
    table = Remembered(seconds=0)
    table.add("a", 0)
    assert not table.has("a", 0)
    assert len(table) == 0


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), NAMES, TIMES), max_size=80))
def test_what_is_remembered_against_a_model(most, asked):
    table = Remembered(seconds=10, most=most)
    added: dict[str, float] = {}
    now = 0.0
    for adds, key, later in asked:
        now += later
        if adds:
            table.add(key, now)
            added.pop(key, None)
            added[key] = now
        newest = list(added)[-most:]
        expected = key in newest and now - added[key] < 10
        # Room that a key left behind may keep an older one alive longer than the model does.
        has = table.has(key, now)
        assert has or not expected
        assert not has or now - added[key] < 10
        assert len(table) <= most


def test_passwords_wait_for_their_turn():
    pace = Pace(burst=3, window=30, longest=15)
    assert [pace.take("a", 0) for _ in range(4)] == [(True, 0), (True, 0), (True, 0), (True, 10)]
    # The next turn is in 20 seconds, which is longer than anybody is kept waiting.
    assert pace.take("a", 0) == (False, 5)
    assert pace.take("a", 5) == (True, 15)
    assert pace.take("b", 5) == (True, 0)


def test_a_right_password_costs_nothing():
    pace = Pace(burst=2, window=20, longest=15)
    for second in range(100):
        assert pace.take("a", second) == (True, 0)
        pace.give_back("a")
    pace.give_back("never seen")
    assert len(pace) == 1


def test_waiting_brings_every_turn_back():
    pace = Pace(burst=2, window=20, longest=15)
    for _ in range(10):
        pace.take("a", 0)
    now = 1000.0
    assert [pace.take("a", now) for _ in range(3)] == [(True, 0), (True, 0), (True, 10)]


def test_the_pace_is_bounded_too():
    pace = Pace(burst=1, window=10, longest=5, max_addresses=2)
    for address in "abc":
        assert pace.take(address, 0) == (True, 0)
    assert len(pace) == 2
    assert pace.take("c", 0) == (False, 5)
    assert pace.take("a", 0) == (True, 0)


@given(
    st.integers(1, 5),
    st.floats(0, 30),
    st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=60),
)
def test_wrong_passwords_are_never_verified_faster_than_the_pace(burst, longest, asked):
    """However attempts come, in parallel or in turn: at most ``burst`` at once, then one every so often."""
    window = 20.0
    pace = Pace(burst, window, longest)
    now, verified = 0.0, []
    for later, right in asked:
        now += later
        goes, wait = pace.take("a", now)
        if not goes:
            assert wait > 0
            continue
        assert 0 <= wait <= longest + 1e-6
        if right:
            pace.give_back("a")
        else:
            verified.append(now + wait)
    every = window / burst
    for first in range(len(verified)):
        for last in range(first + burst, len(verified)):
            least = (last - first - burst + 1) * every
            assert verified[last] - verified[first] >= least - 1e-6


@pytest.mark.parametrize("table", [Attempts(1, 10), Pace(1, 10, 5)])
def test_an_empty_table_holds_nothing(table):
    assert len(table) == 0
