"""What paired measurements say about a ratio. No I/O."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A ratio and where it lies with a confidence of 95 %."""

    low: float
    ratio: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One figure, measured for both servers in alternated pairs.

    Attributes:
        figure: what was measured, as the table says it.
        unit: of the samples.
        stock: samples of the stock server; the n-th pairs with the n-th of `ours`.
        ours: samples of the server with the extension.
        limit: the upper end of the interval must not exceed it; None if nobody set one.
    """

    figure: str
    unit: str
    stock: Sequence[float]
    ours: Sequence[float]
    limit: float | None = None

    def interval(self) -> Interval:
        """Return ours / stock, of medians."""
        return bootstrap_ratio(self.stock, self.ours)

    def reached(self) -> bool | None:
        """Tell whether the limit holds with confidence; None without a limit."""
        return None if self.limit is None else self.interval().high <= self.limit


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
