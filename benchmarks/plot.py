"""Draws ratios: where each lies, how sure that is, and what is to be reached. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from math import floor, log10

from benchmarks.stats import Comparison, Figure

WIDTH, LEFT, RIGHT, TOP, LINE = 860, 380, 30, 76, 24

TITLE = "What it takes, in parts of what stock takes"
LEGEND = "Blue: ratio of medians and its 95 % interval. Red: to be reached. Further left is better."
STYLE = """
    .page { fill: #ffffff; stroke: #c9ced6 }
    text { fill: #1c2430; font: 13px system-ui, sans-serif }
    .title { font-weight: 600 }
    .dim { fill: #5b6675 }
    .grid { stroke: #e3e6ea }
    .stock { stroke: #5b6675 }
    .interval { stroke: #1f6feb; stroke-width: 3 }
    .ratio { fill: #1f6feb }
    .limit { stroke: #c2410c; stroke-width: 2 }
    @media (prefers-color-scheme: dark) {
      .page { fill: #161b22; stroke: #3a4450 }
      text { fill: #e6eaf0 }
      .dim { fill: #a5b0bf }
      .grid { stroke: #2b333d }
      .stock { stroke: #a5b0bf }
      .interval { stroke: #6cb0ff }
      .ratio { fill: #6cb0ff }
      .limit { stroke: #ff9d6b }
    }
"""


def draw(figures: Iterable[Figure]) -> str:
    """Return an SVG of all comparisons with a limit; the axis is logarithmic."""
    shown = [
        (figure, figure.interval, figure.limit)
        for figure in figures
        if isinstance(figure, Comparison) and figure.limit is not None and not figure.sides
    ]
    lowest = min((min(interval.low, limit) for _, interval, limit in shown), default=0.1)
    highest = max((max(interval.high, limit) for _, interval, limit in shown), default=1.0)
    ticks = [
        step * 10.0**power
        for power in range(floor(log10(lowest)), floor(log10(highest)) + 1)
        for step in (1, 2, 5)
    ]
    least = max((tick for tick in ticks if tick <= lowest), default=lowest)
    most = max(highest * 1.1, 1.2)
    height = TOP + LINE * len(shown) + 20

    def across(ratio: float) -> str:
        share = log10(ratio / least) / log10(most / least)
        return f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}"

    description = "; ".join(f"{each.figure}: {found.ratio:.3f}" for each, found, _ in shown)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        f'  width="{WIDTH}" height="{height}" role="img" aria-labelledby="title desc">',
        f'  <title id="title">{TITLE}</title>',
        f'  <desc id="desc">{escape(description)}</desc>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'  <text class="title" x="20" y="28">{TITLE}</text>',
        f'  <text class="dim" x="20" y="48">{LEGEND}</text>',
    ]
    for tick in ticks:
        if least <= tick <= most:
            x = across(tick)
            kind = "stock" if tick == 1 else "grid"
            lines += [
                f'  <line class="{kind}" x1="{x}" y1="{TOP}" x2="{x}" y2="{height - 14}"/>',
                f'  <text class="dim" x="{x}" y="{TOP - 6}" text-anchor="middle">{tick:g}</text>',
            ]
    for number, (figure, interval, limit) in enumerate(shown):
        y = TOP + LINE * number + LINE // 2
        left, right, at = map(across, (interval.low, interval.high, limit))
        lines += [
            f'  <text x="20" y="{y + 4}">{escape(figure.figure)}</text>',
            f'  <line class="limit" x1="{at}" y1="{y - 8}" x2="{at}" y2="{y + 8}"/>',
            f'  <line class="interval" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>',
            f'  <circle class="ratio" cx="{across(interval.ratio)}" cy="{y}" r="4"/>',
        ]
    return "\n".join([*lines, "</svg>", ""])
