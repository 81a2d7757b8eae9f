"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from benchmarks import beside, crowd, guessing, handshake, kernel, loss, notebook, report, tunnel
from benchmarks.client import AnswerError
from benchmarks.pairs import Options
from benchmarks.stats import Figure

BENCHMARKS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "handshake": handshake.measure,
    **{name: line.measure for name, line in kernel.LINES.items()},
    "crowd": crowd.Trips(ipykernel=False).measure,
    "crowd-ipykernel": crowd.Trips(ipykernel=True).measure,
    "connects": crowd.measure_connects,
    "connections": crowd.measure_connections,
    "slow-client": loss.measure_slow_client,
    "default-limits": loss.measure_default_limits,
    "paced": loss.measure_paced,
    **{name: line.measure for name, line in tunnel.LINES.items()},
    "tunnel-memory": tunnel.measure_memory,
    "guessing": guessing.measure,
    "notebook": notebook.measure,
    "client": beside.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure beside a stock server, in one run."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="alternated pairs for each figure; default: 30, for handshakes 1000",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="starts of the servers; default: 3"
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="stock against stock: what differs then is the method's error",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a figure misses what is to be reached"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"keep the samples in {report.RECORD.name}, and write the documentation from there",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"measure nothing, write the documentation from {report.RECORD.name}",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if (options.pairs is not None and options.pairs < 1) or options.rounds < 1:
        parser.error("one pair and one round at least")
    if options.write:
        report.write_documentation()
        return 0
    told = Options(options.pairs, options.rounds, options.control)
    print(report.describe_machine())
    if told.control:
        print("control: both servers are stock")
    missed, failed = [], []
    path = report.RECORD if options.record else report.RESULTS
    for name in options.names or BENCHMARKS:
        begun = time.monotonic()
        entry = report.Entry.begin()
        try:
            figures = list(BENCHMARKS[name](told))
        except (OSError, RuntimeError, AnswerError):
            # The others took many minutes, or will.
            traceback.print_exc()
            failed.append(name)
            continue
        print(f"\n{name}, {time.monotonic() - begun:.0f} s")
        print(report.format_text([report.HEADINGS, *map(report.row, figures)]), flush=True)
        report.keep(
            path, f"{name}{'-control' if told.control else ''}", entry.with_figures(figures)
        )
        missed += [each.figure for each in figures if each.reached() is False]
    print(f"\nall samples: {path}")
    for figure in missed:
        print(f"missed: {figure}")
    for name in failed:
        print(f"could not be measured: {name}")
    if options.record:
        report.write_documentation()
    return 1 if failed or (missed and options.check) else 0


if __name__ == "__main__":
    sys.exit(main())
