import random

import pytest

from benchmarks.stats import LEAST_PAIRS, Comparison, Count, bootstrap_ratio, spread


def _noisy(factor, count=200, seed=7):
    """Pairs whose partners share what slowed the machine, and one is dearer by *factor*."""
    source = random.Random(seed)
    stock, ours = [], []
    for _ in range(count):
        shared = source.uniform(1, 2)
        stock.append(shared * source.uniform(0.95, 1.05))
        ours.append(factor * shared * source.uniform(0.95, 1.05))
    return stock, ours


def test_ratio_of_equal_samples_is_one():
    interval = bootstrap_ratio([2.0] * 30, [2.0] * 30)
    assert (interval.low, interval.ratio, interval.high) == (1.0, 1.0, 1.0)


def test_ratio_is_that_of_medians_not_of_means():
    assert bootstrap_ratio([1, 1, 1, 1, 100], [2, 2, 2, 2, 2]).ratio == 2.0


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1, 3.0])
def test_interval_holds_the_factor_and_is_narrow(factor):
    interval = bootstrap_ratio(*_noisy(factor))
    assert interval.low <= factor <= interval.high
    assert interval.low <= interval.ratio <= interval.high
    assert interval.high - interval.low < 0.25 * factor


def test_interval_misses_a_known_factor_about_as_often_as_it_should():
    wrong = 0
    for seed in range(100):
        interval = bootstrap_ratio(*_noisy(1.2, count=60, seed=seed), resamples=200)
        wrong += not interval.low <= 1.2 <= interval.high
    assert wrong <= 15


def test_more_pairs_narrow_the_interval():
    few, many = (bootstrap_ratio(*_noisy(1.0, count=count)) for count in (30, 1000))
    assert many.high - many.low < few.high - few.low


def test_same_samples_give_the_same_interval():
    assert bootstrap_ratio(*_noisy(1.1)) == bootstrap_ratio(*_noisy(1.1))


@pytest.mark.parametrize(("stock", "ours"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_samples_without_a_partner_are_refused(stock, ours):
    with pytest.raises(ValueError, match="needs pairs"):
        bootstrap_ratio(stock, ours)


def test_limit_is_judged_by_the_upper_bound():
    stock, ours = _noisy(1.08, count=100)
    comparison = Comparison("x", "ms", stock, ours)
    assert comparison.reached() is None
    high = comparison.interval.high
    assert Comparison("x", "ms", stock, ours, limit=high).reached() is True
    between = (comparison.interval.ratio + high) / 2
    assert Comparison("x", "ms", stock, ours, limit=between).reached() is False


def test_spread_is_the_interquartile_range_over_the_median():
    assert spread([1, 2, 3, 4, 5]) == pytest.approx(1.0)
    assert spread([4, 4, 4, 4]) == 0
    assert spread([4]) == 0


def test_nothing_is_concluded_from_few_pairs():
    few = Comparison("x", "ms", [1.0] * (LEAST_PAIRS - 1), [1.0] * (LEAST_PAIRS - 1), limit=2.0)
    enough = Comparison("x", "ms", [1.0] * LEAST_PAIRS, [1.0] * LEAST_PAIRS, limit=2.0)
    assert few.reached() is None
    assert enough.reached() is True


def test_count_is_judged_by_its_worst_sample():
    assert Count("lost", "", [9, 9], [0, 0], at_most=0).reached() is True
    assert Count("lost", "", [9, 9], [0, 1], at_most=0).reached() is False
    assert Count("taken", "", [9, 9], [1000, 1000], at_least=1000).reached() is True
    assert Count("taken", "", [9, 9], [1000, 999], at_least=1000).reached() is False
    assert Count("open", "", [9, 9], [1, 1]).reached() is None
