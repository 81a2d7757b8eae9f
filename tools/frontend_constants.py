"""Writes the TypeScript constants from the Python tables: one table, many uses.

``python -m tools.frontend_constants`` says whether the files are current, ``--write`` makes them so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.reasons import MAX_REASON_SIZE, REASONS, Advice
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER, TUNNEL
from jupyter_token_ws.protocol.versions import API_VERSIONS

SOURCES = Path(__file__).resolve().parent.parent / "frontend" / "src"


def frame_constants() -> str:
    """What frames of a tunnel are made of. No page loads it yet, so it is a file of its own."""
    kinds = ",\n".join(f"  {kind.name}: {int(kind)}" for kind in frames.Kind)
    return f"""/**
 * Made by tools/frontend_constants.py from the Python tables. Do not edit.
 */

export const TUNNEL = '{TUNNEL}';

/** Kinds of frames. */
export const KIND = {{
{kinds}
}} as const;

/** This kind and those above have no number. */
export const FIRST_UNNUMBERED = {int(frames.FIRST_UNNUMBERED)};

export const HEADER_SIZE = {frames.HEADER_SIZE};
export const MAX_DATA = {frames.MAX_DATA};
export const MAX_TEXT = {frames.MAX_TEXT};
export const MAX_STREAM = {frames.MAX_STREAM};
export const MAX_REASON_SIZE = {MAX_REASON_SIZE};
export const FIN = {frames.FIN};
export const TEXT = {frames.TEXT};
"""


def constants() -> str:
    """Those of subprotocols and reasons."""
    advice = " | ".join(f"'{advice.value}'" for advice in Advice)
    rows = "\n".join(
        f"  {row.slug}: {{ code: {row.code}, advice: '{row.advice.value}', text: {_quoted(row.text)} }},"
        for row in REASONS.values()
    ).rstrip(",")
    versions = ", ".join(f"'{version}'" for version in API_VERSIONS)
    return f"""/**
 * Made by tools/frontend_constants.py from the Python tables. Do not edit.
 */

export const MARKER = '{MARKER}';
export const REASON_MARKER = '{REASON_MARKER}';
export const KERNEL = '{KERNEL}';
export const API_VERSIONS = [{versions}] as const;

/** What a client should do next. */
export type Advice = {advice};

export interface Reason {{
  readonly code: number;
  readonly advice: Advice;
  readonly text: string;
}}

const TABLE = {{
{rows}
}} as const;

export type Slug = keyof typeof TABLE;

/** Every reason, those that only logs show included. */
export const REASONS: Readonly<Record<Slug, Reason>> = TABLE;
"""


def _quoted(text: str) -> str:
    return "'" + json.dumps(text)[1:-1].replace("'", "\\'") + "'"


FILES: dict[Path, Callable[[], str]] = {
    SOURCES / "constants.ts": constants,
    SOURCES / "frame-constants.ts": frame_constants,
}


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the files")
    write = parser.parse_args().write
    if write:
        for target, make in FILES.items():
            target.write_text(make(), encoding="utf-8")
    stale = [target for target, make in FILES.items() if target.read_text("utf-8") != make()]
    for target in stale:
        print(f"{target} is stale: python -m tools.frontend_constants --write", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
