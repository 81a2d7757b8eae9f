"""Change protocol/ and guard/ here and there, run their tests on each change, and judge the share
that a test noticed: `make mutation`.

mutmut does the work (its settings are in pyproject.toml) and keeps its results in ``mutants/``, so an
interrupted run goes on where it stopped, and a later one looks at changed functions only. What
survived is listed; ``.venv/bin/mutmut show NAME`` prints the change.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RESULTS = Path("mutants/mutmut-cicd-stats.json")


NOTICED = ("killed", "timeout", "segfault", "suspicious")
MISSED = ("survived", "no_tests")


def mutmut(*arguments: str) -> None:
    """Run a command of mutmut, its output going where ours goes.

    Raises:
        subprocess.CalledProcessError: it failed, most often because the tests fail unchanged.
    """
    subprocess.run([sys.executable, "-m", "mutmut", *arguments], check=True)


def share_noticed(stats: Mapping[str, int], *, all_tried: bool = True) -> float:
    """Return the percentage of changes that were noticed; a test that hangs or crashes noticed.

    Args:
        stats: counts by outcome, and their ``total``.
        all_tried: whether every change must have an outcome.

    Raises:
        ValueError: there was no change to notice, or some that were not tried.
    """
    noticed = sum(stats[key] for key in NOTICED)
    judged = noticed + sum(stats[key] for key in MISSED)
    untried = stats["total"] - stats["skipped"] - judged
    if judged == 0:
        raise ValueError("nothing was changed: are the paths in [tool.mutmut] right?")
    if all_tried and untried:
        raise ValueError(f"{untried} changes were not tried: run it again to go on")
    return 100 * noticed / judged


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, list what survived and judge; return 1 if too much did."""
    parser = argparse.ArgumentParser(description="Do the tests notice changed code?")
    parser.add_argument("--at-least", type=float, default=90, help="per cent to be noticed")
    parser.add_argument("names", nargs="*", help="only these, e.g. 'jupyter_token_ws.protocol.*'")
    options = parser.parse_args(arguments)
    RESULTS.unlink(missing_ok=True)
    try:
        mutmut("run", *options.names)
        mutmut("export-cicd-stats")
        listed = subprocess.run(
            [sys.executable, "-m", "mutmut", "results"], check=True, capture_output=True, text=True
        ).stdout
        print(*(line for line in listed.splitlines() if "not checked" not in line), sep="\n")
        stats = json.loads(RESULTS.read_text(encoding="utf-8"))
        reached = share_noticed(stats, all_tried=not options.names)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        print(f"mutation: FAILED: {error}")
        return 1
    verdict = "ok" if reached >= options.at_least else "FAILED"
    print(
        f"mutation: {verdict}, {reached:.1f} % noticed of {options.at_least:g} % demanded: {stats}"
    )
    return int(reached < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
