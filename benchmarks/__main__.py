"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import handshake, kernel, notebook, report
from benchmarks.stats import Comparison

RESULTS = Path(__file__).resolve().parent.parent / "build" / "benchmarks"


@dataclass(frozen=True)
class Options:
    """What a benchmark is told.

    Attributes:
        pairs: how many alternated pairs to measure for each figure.
        rounds: over how many starts of the servers to spread them, because two processes of the
            same program differ a little for as long as they live.
        control: whether to measure stock against stock.
    """

    pairs: int
    rounds: int
    control: bool


BENCHMARKS: dict[str, Callable[[Options], Iterator[Comparison]]] = {
    "handshake": handshake.measure,
    "kernel": kernel.measure,
    "notebook": notebook.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure beside a stock server, in one run."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--pairs", type=int, default=1000, help="alternated pairs for each figure")
    parser.add_argument(
        "--rounds", type=int, default=5, help="starts of the servers to spread them over"
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="stock against stock: what differs then is the method's error",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if an upper bound exceeds its limit"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="PATH", help="put the tables into this file too"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    told = Options(max(options.pairs, 1), max(options.rounds, 1), options.control)
    machine = report.describe_machine()
    print(machine)
    if told.control:
        print("control: both servers are stock")
    exceeded = []
    for name in options.names or BENCHMARKS:
        comparisons = []
        for comparison in BENCHMARKS[name](told):
            comparisons.append(comparison)
            print(
                f"  {name}: {comparison.figure} ... {comparison.interval().ratio:.3f}", flush=True
            )
        rows = [report.HEADINGS, *map(report.row, comparisons)]
        print(f"\n{report.format_text(rows)}\n")
        written = RESULTS / f"{name}{'-control' if told.control else ''}.json"
        report.write_json(written, comparisons, machine)
        print(f"all samples: {written}")
        if options.markdown:
            report.put_into(options.markdown, name, report.format_markdown(rows, machine, name))
        exceeded += [each.figure for each in comparisons if each.reached() is False]
    for figure in exceeded:
        print(f"limit exceeded: {figure}")
    return 1 if exceeded and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
