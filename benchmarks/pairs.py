"""Measures the two servers in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks import servers

T = TypeVar("T")

Samples = tuple[list[Sequence[float]], list[Sequence[float]]]
"""Stock's and ours, pair by pair; each has a value for each of several figures."""

UNLIMITED = {"ZMQChannelsWebsocketConnection": {"limit_rate": False}}
"""Configuration: stock's limits on the rate are off, so that both servers pass on the same."""


@dataclass(frozen=True)
class Options:
    """What a benchmark is told.

    Attributes:
        pairs: how many alternated pairs to measure for each figure; None for the benchmark's own
            number.
        rounds: over how many starts of the servers to spread them, because two processes of the
            same program differ a little for as long as they live.
        control: whether to measure stock against stock.
    """

    pairs: int | None
    rounds: int
    control: bool

    def shares(self, default: int) -> Iterable[int]:
        """Yield the number of pairs for each round."""
        pairs = self.pairs or default
        rounds = min(self.rounds, pairs)
        for number in range(rounds):
            yield pairs * (number + 1) // rounds - pairs * number // rounds


def alternate(
    shares: Iterable[int],
    prepare: Callable[[servers.Server], T],
    measure: Callable[[servers.Server, T], Sequence[float]],
    *,
    config: dict[str, Any] | None = None,
    control: bool = False,
    warm_up: int = 2,
) -> Samples:
    """Measure pairs, one server after the other in random order.

    Args:
        shares: how many pairs with each start of the servers.
        prepare: called with each server; what it returns goes to `measure`.
        measure: returns the samples of one measurement.
        config: of both servers.
        control: both servers are stock.
        warm_up: pairs measured and thrown away with each start.
    """
    samples: Samples = ([], [])
    source = random.Random(1)
    for share in shares:
        with servers.both(config, control=control) as both:
            sides = [(index, server, prepare(server)) for index, server in enumerate(both)]
            for number in range(-warm_up, share):
                # Who goes first must not matter: it finds the machine as the other left it.
                source.shuffle(sides)
                for index, server, prepared in sides:
                    sample = measure(server, prepared)
                    if number >= 0:
                        samples[index].append(sample)
    return samples


def column(samples: Samples, index: int) -> tuple[list[float], list[float]]:
    """The values of one figure: stock's and ours."""
    stock, ours = ([sample[index] for sample in side] for side in samples)
    return stock, ours
