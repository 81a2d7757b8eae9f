"""What paired measurements say about a ratio. No I/O."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median, quantiles

CONFIDENCE = 0.95
RESAMPLES = 2000
LEAST_PAIRS = 30
"""Of fewer pairs an interval says little."""


@dataclass(frozen=True)
class Interval:
    """A ratio and where it lies with a confidence of 95 %."""

    low: float
    ratio: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A figure of which the ratio counts, measured for both sides in alternated pairs.

    Attributes:
        figure: what was measured, as the table says it.
        unit: of the samples.
        stock: samples of the stock server; the n-th pairs with the n-th of `ours`.
        ours: samples of the server with the extension.
        limit: the upper end of the interval must not exceed it; None if nobody set one.
        least: so many pairs at least before anything is said about the limit.
        sides: what the two are, where it is something else than the two servers.
    """

    figure: str
    unit: str
    stock: Sequence[float]
    ours: Sequence[float]
    limit: float | None = None
    least: int = LEAST_PAIRS
    sides: Sequence[str] = ()

    @cached_property
    def interval(self) -> Interval:
        """Ours / stock, of medians."""
        return bootstrap_ratio(self.stock, self.ours)

    def reached(self) -> bool | None:
        """Tell whether the limit holds with confidence; None without a limit or with too few pairs."""
        if self.limit is None or len(self.ours) < self.least:
            return None
        return self.interval.high <= self.limit


@dataclass(frozen=True)
class Count:
    """A figure that counts by itself, and of which the worst sample counts.

    Attributes:
        figure: what was measured, as the table says it.
        unit: of the samples.
        stock: samples of the stock server.
        ours: samples of the server with the extension.
        at_most: no sample of ours may exceed it; None if nobody set such a limit.
        at_least: no sample of ours may be less; likewise.
    """

    figure: str
    unit: str
    stock: Sequence[float]
    ours: Sequence[float]
    at_most: float | None = None
    at_least: float | None = None

    def reached(self) -> bool | None:
        """Tell whether the limits hold; None without any."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or max(self.ours) <= self.at_most) and (
            self.at_least is None or min(self.ours) >= self.at_least
        )


Figure = Comparison | Count


def bootstrap_ratio(
    stock: Sequence[float], ours: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 1
) -> Interval:
    """Return the ratio of medians, ours / stock, with its percentile bootstrap interval.

    Pairs are drawn, not single samples: what slowed the machine at some moment slowed both
    partners, and drawing them together keeps that.

    Args:
        stock: positive samples.
        ours: as many, in the same order.
        resamples: how often to draw anew.
        seed: of the drawing, so that the same samples give the same answer.

    Raises:
        ValueError: there are no samples, or not as many on one side as on the other.
    """
    if len(stock) != len(ours) or not stock:
        raise ValueError(f"needs pairs, not {len(stock)} and {len(ours)} samples")
    pairs = list(zip(stock, ours, strict=True))
    source = random.Random(seed)
    ratios = sorted(
        _ratio_of_medians(source.choices(pairs, k=len(pairs))) for _ in range(resamples)
    )
    tail = (1 - CONFIDENCE) / 2
    return Interval(
        low=ratios[int(tail * resamples)],
        ratio=_ratio_of_medians(pairs),
        high=ratios[min(int((1 - tail) * resamples), resamples - 1)],
    )


def _ratio_of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    return median(ours for _, ours in pairs) / median(stock for stock, _ in pairs)


def spread(samples: Sequence[float]) -> float:
    """Return the interquartile range as a part of the median: 0 if all are alike."""
    if len(samples) < 2:
        return 0.0
    lower, middle, upper = quantiles(samples, n=4)
    return (upper - lower) / middle
