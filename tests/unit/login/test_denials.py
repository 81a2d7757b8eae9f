"""Which cookies are denied: one table, and tables that hear of each other (contract 6.7)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.login.denials import Denials, Denied, digest_of

HOUR = 3600.0
EVER = 1000 * HOUR


def cookie(number: int, signed: int = 1_800_000_000) -> tuple[str, str]:
    return "name", f"2|1:0|10:{signed}|4:name|{number}"


def deny(number: int, seconds: float = EVER) -> Denied:
    return Denied({digest_of(*cookie(number)): seconds})


LATER = 1_900_000_000


_DENIED = st.one_of(
    st.builds(deny, st.integers(0, 5), st.integers(1, 5).map(lambda n: n * HOUR)),
    st.builds(lambda before: Denied(before=before, seconds=EVER), st.integers(0, 9)),
)


@given(st.lists(_DENIED), st.randoms(use_true_random=False))
def test_C6_7_in_any_order_and_any_number_of_times_it_is_the_same(told, chance: random.Random):
    """Told at one moment, which is why the longest of two would be another rule."""
    first = {digest: seconds for each in reversed(told) for digest, seconds in each.cookies.items()}
    told = [Denied({key: first[key] for key in each.cookies}, each.before, EVER) for each in told]
    one, other = Denials(lambda: 0.0), Denials(lambda: 0.0)
    again = told + chance.sample(told, len(told) // 2)
    chance.shuffle(again)
    for each in told:
        one.deny(each)
    for each in again:
        other.learn(each)
    assert one.all() == other.all()
    assert one.any == other.any == bool(told and one.all() != Denied())


@given(st.lists(st.tuples(st.sampled_from(["deny", "before", "wait"]), st.integers(0, 5))))
def test_C6_7_against_a_model(steps):
    now = 1_800_000_000.0
    denials = Denials(lambda: now)
    until: dict[int, float] = {}
    before = 0
    news = 0
    heard: list[None] = []
    denials.on_news = lambda: heard.append(None)
    for step, number in steps:
        if step == "deny":
            news += until.get(number, 0) <= now
            if until.get(number, 0) <= now:
                until[number] = now + (number + 1) * HOUR
            denials.deny(Denied({digest_of(*cookie(number, LATER)): (number + 1) * HOUR}))
        elif step == "before":
            news += int(now) + number > before
            before = max(before, int(now) + number)
            denials.deny(Denied(before=int(now) + number, seconds=HOUR))
        else:
            now += number * HOUR
        assert len(heard) == news
        for each in range(6):
            expected = now < until.get(each, 0)
            assert denials.denies(*cookie(each, LATER)) is expected
            assert denials.denies(*cookie(each, 0)) is (before > 0)
        assert len(denials.all().cookies) == sum(now < end for end in until.values())


def test_only_so_many_are_remembered_and_the_newest_of_them():
    denials = Denials(lambda: 0.0, most=3)
    for number in range(5):
        denials.deny(deny(number))
    assert [denials.denies(*cookie(number)) for number in range(5)] == [False] * 2 + [True] * 3


def test_what_is_over_is_not_learned():
    denials = Denials(lambda: 0.0)
    denials.learn(deny(1, -1))
    denials.learn(deny(2, 0))
    assert not denials.any


def test_what_is_denied_here_is_shared_and_what_is_heard_is_not():
    shared: list[Denied] = []
    denials = Denials()
    denials.share = shared.append
    denials.learn(deny(1))
    assert shared == []
    denials.deny(deny(2))
    assert shared == [deny(2)]


@pytest.mark.parametrize("value", ["", "x", "2|1:0|10:1800000000|4:name|x"])
def test_C6_6_a_digest_shows_nothing_of_its_cookie(value):
    digest = digest_of("name", value)
    assert len(digest) == 32
    assert int(digest, 16) >= 0
    assert digest != digest_of("other", value) != digest_of("name", value + "x")
