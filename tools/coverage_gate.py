"""Combine the coverage data of a test run, report it and judge it: the last step of `make test`.

Two demands, each printed with its figure: every branch of the rooms named by ``--full``, and a
share of the whole package. Missing data and a pattern that matches no file are failures too: a gate
that has nothing to judge must not pass. (That modules which were never imported count as uncovered
is coverage's own doing, by ``source_pkgs``.)
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coverage import Coverage
from coverage.exceptions import CoverageException, NoDataError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report and the verdict; return 1 if a demand is not met."""
    parser = argparse.ArgumentParser(description="Judge the coverage of the last test run.")
    parser.add_argument("--full", required=True, help="patterns to be covered wholly, by commas")
    parser.add_argument("--whole", type=float, required=True, help="per cent of everything")
    options = parser.parse_args(arguments)
    patterns = options.full.split(",")
    for pattern in patterns:
        if not any(path.suffix == ".py" for path in Path().glob(pattern)):
            print(f"coverage: FAILED, no file matches {pattern}")
            return 1
    coverage = Coverage()
    try:
        if any(Path().glob(".coverage.*")):
            coverage.combine()
            coverage.save()
        else:
            coverage.load()
        whole = coverage.report(file=sys.stdout)
        full = coverage.report(include=patterns, file=io.StringIO())
    except NoDataError as error:
        print(f"coverage: FAILED, no data: {error}. Run `make test`.")
        return 1
    except CoverageException as error:
        print(f"coverage: FAILED: {error}")
        return 1
    failed = False
    for label, reached, demanded in (
        (options.full, full, 100.0),
        ("whole package", whole, options.whole),
    ):
        verdict = "ok" if reached >= demanded else "FAILED"
        print(f"coverage: {verdict}, {label}: {reached:.2f} % of {demanded:g} % demanded")
        failed = failed or reached < demanded
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
