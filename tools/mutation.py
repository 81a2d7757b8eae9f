"""Change protocol/ and guard/ here and there, run their tests on each change, and judge the share
that a test noticed: `make mutation`.

mutmut makes the changes (its settings are in pyproject.toml), ``mutant_runner`` runs the tests.
Outcomes stay in ``mutants/``: an interrupted run goes on where it stopped, and a later one tries
changed functions only. Names, ``--again`` (what was not noticed, once more) and ``--sample`` say
which changes to judge. What was not noticed is listed; ``.venv/bin/mutmut show NAME`` prints it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections import Counter
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from mutmut.stats import status_by_exit_code

from tools import mutant_runner
from tools.mutant_runner import Experience, Loop, module_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MISSED = ("survived", "no tests", "suspicious")
"""All other outcomes are noticed changes; a test that hangs or crashes noticed too."""

PROGRESS_EVERY = 15
"""Seconds."""


def choose(mutants: Iterable[str], names: Sequence[str], percent: float, seed: int) -> list[str]:
    """Return the mutants that match one of the names, in the names' order; a share of each module's.

    Args:
        mutants: all there are.
        names: shell patterns; none is all.
        percent: how many of each module, chosen at random; 100 is all.
        seed: the same seed chooses the same mutants.
    """
    everything = list(mutants)
    by_module: dict[str, list[str]] = {}
    for name in names or ["*"]:
        for mutant in everything:
            if fnmatch(mutant, name):
                by_module.setdefault(module_of(mutant), []).append(mutant)
    chosen: list[str] = []
    for module, of_module in by_module.items():
        unique = list(dict.fromkeys(of_module))
        size = math.ceil(len(unique) * percent / 100)
        picked = set(random.Random(f"{seed} {module}").sample(sorted(unique), size))
        chosen += [mutant for mutant in unique if mutant in picked]
    return chosen


def share_noticed(statuses: Iterable[str]) -> float:
    """Return the percentage of changes that were noticed.

    Raises:
        ValueError: there was no change to notice, or one that was not tried.
    """
    counts = Counter(statuses)
    if not counts:
        raise ValueError("nothing was changed: are the paths in [tool.mutmut] and the names right?")
    if counts["not checked"]:
        raise ValueError(f"{counts['not checked']} changes were not tried: run it again to go on")
    missed = sum(counts[status] for status in MISSED)
    return 100 * (1 - missed / counts.total())


def interval(percent: float, size: int) -> tuple[float, float]:
    """Return between which percentages of all the share lies of which a sample shows ``percent``.

    With 95 % confidence; Wilson's score interval.
    """
    z, share = 1.96, percent / 100
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2)
    return 100 * (middle - half), 100 * min(1.0, middle + half)


def table(status_of: Mapping[str, str]) -> str:
    """Return how the changes of each module fared, one line each."""
    modules: dict[str, Counter[str]] = {}
    for mutant, status in status_of.items():
        modules.setdefault(module_of(mutant), Counter())[status] += 1
    return "\n".join(
        f"{module}: {counts.total()} changes, "
        + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        for module, counts in modules.items()
    )


def _run(options: argparse.Namespace) -> dict[str, str]:
    """Try what is to be tried; return the outcome of each change that is to be judged."""
    mutant_runner.make_mutants(options.children)
    print("mutation: running the tests on the code as it is, where they changed", flush=True)
    tests = mutant_runner.measure_tests()
    records = mutant_runner.outcomes()
    chosen = choose(records, options.names, options.sample, options.seed)

    def outcome_of(mutant: str) -> int | None:
        outcome: int | None = records[mutant].exit_code_by_key[mutant]
        return outcome

    def status_of(mutant: str) -> str:
        return str(status_by_exit_code[outcome_of(mutant)])

    todo = [mutant for mutant in chosen if outcome_of(mutant) is None]
    if options.again:
        todo += [mutant for mutant in chosen if status_of(mutant) in MISSED]
    noticed_by: dict[str, str] = {}
    if mutant_runner.NOTICED_BY.exists():
        noticed_by = json.loads(mutant_runner.NOTICED_BY.read_text(encoding="utf-8"))
    experience = Experience(noticed_by)
    started = told = time.monotonic()
    done = missed = 0

    def heard(mutant: str, outcome: int, test: str) -> None:
        nonlocal done, missed, told
        records[mutant].exit_code_by_key[mutant] = outcome
        records[mutant].save()
        done += 1
        missed += status_of(mutant) in MISSED
        if test:
            experience.add(mutant, test)
        now = time.monotonic()
        if now - told > PROGRESS_EVERY or done == len(todo):
            told = now
            left = (now - started) / done * (len(todo) - done) / 60
            print(
                f"mutation: {done} of {len(todo)} tried, {missed} not noticed, about {left:.0f} min left",
                file=sys.__stdout__,  # not where pytest writes at the moment
                flush=True,
            )
            mutant_runner.NOTICED_BY.write_text(
                json.dumps(experience.noticed_by, indent=0), encoding="utf-8"
            )

    if todo:
        mutant_runner.try_mutants(
            Loop(todo, tests, experience, heard, options.patience, options.children)
        )
    return {mutant: status_of(mutant) for mutant in chosen}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, list what was not noticed and judge; return 1 if that was too much."""
    parser = argparse.ArgumentParser(description="Do the tests notice changed code?")
    parser.add_argument("--at-least", type=float, default=90, help="per cent to be noticed")
    parser.add_argument("--sample", type=float, default=100, help="per cent of each module to try")
    parser.add_argument("--seed", type=int, default=1, help="another one is another sample")
    parser.add_argument("--again", action="store_true", help="try what was not noticed once more")
    parser.add_argument(
        "--patience", type=float, default=20, help="seconds of tests before a change is unnoticed"
    )
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("names", nargs="*", help="only these, e.g. 'jupyter_token_ws.protocol.*'")
    options = parser.parse_args(arguments)
    try:
        status_of = _run(options)
        reached = share_noticed(status_of.values())
    except (RuntimeError, ValueError) as error:
        print(f"mutation: FAILED: {error}")
        return 1
    print(
        *(f"{mutant}: {status}" for mutant, status in status_of.items() if status in MISSED),
        sep="\n",
    )
    print(table(status_of))
    if options.sample < 100:
        low, high = interval(reached, len(status_of))
        print(f"mutation: of all changes, between {low:.1f} and {high:.1f} % (95 % confidence)")
    verdict = "ok" if reached >= options.at_least else "FAILED"
    print(
        f"mutation: {verdict}, {reached:.1f} % of {len(status_of)} changes noticed"
        f" of {options.at_least:g} % demanded"
    )
    return int(reached < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
