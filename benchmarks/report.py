"""Prints and writes down what was measured."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.stats import Comparison, spread

PACKAGES = ("jupyter_server", "tornado", "jupyter_client", "pyzmq", "jupyter_token_ws")

HEADINGS = ("figure", "unit", "stock", "ours", "ratio", "95 % interval", "spread", "pairs", "limit")


def describe_machine() -> str:
    """Say on what and with what the figures came about."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{os.cpu_count()} cores ({_processor()}), load {load} at the start,"
        f" {platform.system()}, Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def row(comparison: Comparison) -> tuple[str, ...]:
    """Return the cells of one line, as `HEADINGS` names them."""
    interval = comparison.interval()
    limit = "-"
    if comparison.limit is not None:
        limit = f"{comparison.limit:g} {'ok' if comparison.reached() else 'EXCEEDED'}"
    return (
        comparison.figure,
        comparison.unit,
        f"{median(comparison.stock):.3f}",
        f"{median(comparison.ours):.3f}",
        f"{interval.ratio:.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}",
        f"{spread(comparison.stock):.0%} / {spread(comparison.ours):.0%}",
        str(len(comparison.ours)),
        limit,
    )


def format_text(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows for a terminal: the first column to the left, the others to the right."""
    widths = [max(len(cells[index]) for cells in rows) for index in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in rows
    )


def format_markdown(rows: Iterable[Sequence[str]], machine: str, title: str) -> str:
    """Return the table and the machine between two comments that name the benchmark."""
    headings, *rest = rows
    lines = [
        f"<!-- begin {title}: written by `python -m benchmarks {title} --markdown` -->",
        "",
        f"| {' | '.join(headings)} |",
        "|---|" + "---:|" * (len(headings) - 1),
        *(f"| {' | '.join(cells)} |" for cells in rest),
        "",
        f"{time.strftime('%Y-%m-%d')}, {machine}.",
        "Medians; spread is the interquartile range over the median, stock / ours.",
        "",
        f"<!-- end {title} -->",
    ]
    return "\n".join(lines)


def put_into(path: Path, title: str, text: str) -> None:
    """Put *text* into the file in place of the same benchmark's older table, else at its end."""
    old = path.read_text() if path.exists() else ""
    begin, end = old.find(f"<!-- begin {title}:"), old.find(f"<!-- end {title} -->")
    if 0 <= begin < end:
        new = old[:begin] + text + old[end + len(f"<!-- end {title} -->") :]
    else:
        new = f"{old.rstrip()}\n\n{text}\n".lstrip()
    path.write_text(new)


def write_json(path: Path, comparisons: Sequence[Comparison], machine: str) -> None:
    """Write all samples, so that they can be judged in another way later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = []
    for comparison in comparisons:
        interval = comparison.interval()
        figures.append(
            {
                "figure": comparison.figure,
                "unit": comparison.unit,
                "ratio": interval.ratio,
                "low": interval.low,
                "high": interval.high,
                "limit": comparison.limit,
                "stock": list(comparison.stock),
                "ours": list(comparison.ours),
            }
        )
    path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1))
