"""Writes the TypeScript constants from the Python tables: one table, many uses.

``python -m tools.frontend_constants`` says whether the file is current, ``--write`` makes it so.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from jupyter_token_ws.protocol.reasons import REASONS, Advice
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from jupyter_token_ws.protocol.versions import API_VERSIONS

TARGET = Path(__file__).resolve().parent.parent / "frontend" / "src" / "constants.ts"


def constants() -> str:
    """The file's text."""
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


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the file")
    if parser.parse_args().write:
        TARGET.write_text(constants(), encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") == constants():
        return 0
    print(f"{TARGET} is stale: python -m tools.frontend_constants --write", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
