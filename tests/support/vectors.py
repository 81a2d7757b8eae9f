"""The shared test vectors as pytest parameters; tests/vectors/README.md describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).parent.parent / "vectors"


def load(file: str) -> dict[str, list[dict[str, Any]]]:
    """The groups of a file, which is named without its ending."""
    groups: dict[str, list[dict[str, Any]]] = json.loads(
        (VECTORS / f"{file}.json").read_text(encoding="ascii")
    )
    return groups


def vectors(file: str, group: str) -> pytest.MarkDecorator:
    """Parametrize a test by ``case``, over the cases of a group.

    Raises:
        KeyError: the file has no such group.
        ValueError: the group is empty, or two of its cases have the same name, or one a name that
            pytest would change (and change again when it collects again: mutmut makes it do so).
    """
    cases = load(file)[group]
    names = [case["name"] for case in cases]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{file}.json, {group}: no cases, or two of one name")
    if not all(name.isascii() and name.isprintable() and "\\" not in name for name in names):
        raise ValueError(f"{file}.json, {group}: a name is not plain")
    return pytest.mark.parametrize("case", cases, ids=names)
