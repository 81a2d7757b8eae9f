"""Prints and writes down what was measured.

A run keeps all its samples as JSON. Those of the run that the documentation tells of are in `RECORD`,
and its tables and its plot are made of them and of nothing else.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import plot
from benchmarks.stats import Comparison, Count, Figure, spread

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks.json"
RECORD = ROOT / "benchmarks" / "record.json"
PAGE = ROOT / "docs" / "explanation" / "performance.md"
PLOT = ROOT / "docs" / "images" / "performance.svg"

PACKAGES = ("jupyter_server", "tornado", "jupyter_client", "pyzmq", "jupyter_token_ws")

SECTIONS = ("handshake", "guessing", "notebook", "client")
"""Benchmarks with a table of their own; the others' stand in one called "kernel", or "tunnel"."""

HEADINGS = (
    "figure",
    "unit",
    "stock",
    "ours",
    "ratio",
    "95 % interval",
    "spread",
    "samples",
    "to reach",
)


@dataclass(frozen=True)
class Entry:
    """What one benchmark found.

    Attributes:
        machine: on what and with what.
        date: of the day.
        load: of the machine when it began.
        figures: in the order of the table.
    """

    machine: str
    date: str
    load: float
    figures: Sequence[Figure] = field(default=())

    @classmethod
    def begin(cls) -> Entry:
        """One that begins now."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return cls(describe_machine(), time.strftime("%Y-%m-%d"), round(load, 1))

    def with_figures(self, figures: Sequence[Figure]) -> Entry:
        """The same with what came of it."""
        return replace(self, figures=figures)


def describe_machine() -> str:
    """Say on what and with what the figures came about."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} cores ({_processor()}), {platform.system()},"
        f" Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


# -- tables ----------------------------------------------------------------------------------------


def row(figure: Figure) -> tuple[str, ...]:
    """Return the cells of one line, as `HEADINGS` names them."""
    return _comparison_row(figure) if isinstance(figure, Comparison) else _count_row(figure)


def _comparison_row(figure: Comparison) -> tuple[str, ...]:
    interval = figure.interval
    first, second = (
        _number(median(samples)) + (f" ({figure.sides[index]})" if figure.sides else "")
        for index, samples in enumerate((figure.stock, figure.ours))
    )
    return (
        figure.figure,
        figure.unit,
        first,
        second,
        f"{interval.ratio:.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}",
        f"{spread(figure.stock):.0%} / {spread(figure.ours):.0%}",
        str(len(figure.ours)),
        _verdict("≤", figure.limit, figure.reached()),
    )


def _count_row(figure: Count) -> tuple[str, ...]:
    sign, limit = ("≥", figure.at_least) if figure.at_most is None else ("≤", figure.at_most)
    return (
        figure.figure,
        figure.unit,
        _range(figure.stock),
        _range(figure.ours),
        "",
        "",
        "",
        str(len(figure.ours)),
        _verdict(sign, limit, figure.reached()),
    )


def _verdict(sign: str, limit: float | None, reached: bool | None) -> str:
    if limit is None:
        return "-"
    said = {True: "ok", False: "MISSED", None: "too few pairs"}[reached]
    # What was set as so many times stock's rate is a fraction of its time.
    short = _number(limit)
    exact = abs(float(short) - limit) < 1e-9
    return f"{sign} {short if exact else f'1/{1 / limit:.3g}'} {said}"


def _range(samples: Sequence[float]) -> str:
    low, high = _number(min(samples)), _number(max(samples))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


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


def format_markdown(title: str, entries: Mapping[str, Entry], control: Sequence[Entry] = ()) -> str:
    """Return a table, the machine and the noise between two comments that name the section.

    Args:
        title: of the section.
        entries: by the names of the benchmarks, as the command line knows them.
        control: of stock against stock.
    """
    loads = [entry.load for entry in entries.values()]
    lines = [
        f"<!-- begin {title}: written by `python -m benchmarks --write` -->",
        "",
        f"| {' | '.join(HEADINGS)} | NAME |",
        "|---|" + "---:|" * (len(HEADINGS) - 1) + "---|",
        *(
            f"| {' | '.join(row(figure))} | `{name}` |"
            for name, entry in entries.items()
            for figure in entry.figures
        ),
        "",
        f'All of it anew: `make bench ARGS="{" ".join(entries)}"`.',
        "",
        *(
            f"{text}."
            for text in dict.fromkeys(f"{each.date}, {each.machine}" for each in entries.values())
        ),
        f"Load of the machine before it began: {_range(loads)}.",
        *_describe_control(control),
        "",
        f"<!-- end {title} -->",
    ]
    return "\n".join(lines)


def _describe_control(entries: Iterable[Entry]) -> list[str]:
    ratios = [
        figure.interval.ratio
        for entry in entries
        for figure in entry.figures
        if isinstance(figure, Comparison) and not figure.sides
    ]
    if not ratios:
        return []
    return [f"Stock against stock, the {len(ratios)} ratios were {_range(ratios)}."]


def put_into(path: Path, title: str, text: str) -> None:
    """Put *text* into the file in place of the same section's older table, else at its end."""
    old = path.read_text() if path.exists() else ""
    begin, end = old.find(f"<!-- begin {title}:"), old.find(f"<!-- end {title} -->")
    if 0 <= begin < end:
        new = old[:begin] + text + old[end + len(f"<!-- end {title} -->") :]
    else:
        new = f"{old.rstrip()}\n\n{text}\n".lstrip()
    path.write_text(new)


# -- samples ---------------------------------------------------------------------------------------


def keep(path: Path, name: str, entry: Entry) -> None:
    """Put what a benchmark found in place of what it found before."""
    entries = load(path)
    entries[name] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line for each figure.
    benchmarks = []
    for key, each in entries.items():
        head = json.dumps({"machine": each.machine, "date": each.date, "load": each.load})
        figures = ",\n".join(json.dumps(_plain(figure)) for figure in each.figures)
        benchmarks.append(f'{json.dumps(key)}: {head[:-1]}, "figures": [\n{figures}]}}')
    path.write_text("{\n" + ",\n".join(benchmarks) + "\n}\n")


def _plain(figure: Figure) -> dict[str, Any]:
    plain = asdict(figure)
    # More digits than the clock means.
    for side in ("stock", "ours"):
        plain[side] = [float(f"{sample:.5g}") for sample in plain[side]]
    return {"kind": type(figure).__name__, **plain}


def load(path: Path) -> dict[str, Entry]:
    """What benchmarks found, by their names; nothing if there is no such file."""
    if not path.exists():
        return {}
    kinds: dict[str, type[Comparison | Count]] = {"Comparison": Comparison, "Count": Count}
    entries = {}
    for name, entry in json.loads(path.read_text()).items():
        figures = [kinds[each.pop("kind")](**each) for each in entry.pop("figures")]
        entries[name] = Entry(**entry, figures=figures)
    return entries


def write_documentation(record: Path = RECORD, page: Path = PAGE, image: Path = PLOT) -> None:
    """Write the tables and the plot of the documentation anew."""
    sections: dict[str, tuple[dict[str, Entry], list[Entry]]] = {}
    for name, entry in load(record).items():
        benchmark = name.removesuffix("-control")
        title = "tunnel" if benchmark.startswith("tunnel-") else "kernel"
        if benchmark in SECTIONS:
            title = benchmark
        measured, control = sections.setdefault(title, ({}, []))
        if name == benchmark:
            measured[name] = entry
        else:
            control.append(entry)
    for title, (entries, control) in sections.items():
        if entries:
            put_into(page, title, format_markdown(title, entries, control))
    figures = [
        figure
        for entries, _ in sections.values()
        for each in entries.values()
        for figure in each.figures
    ]
    image.write_text(plot.draw(figures))
