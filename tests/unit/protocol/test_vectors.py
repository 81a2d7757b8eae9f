"""Every group of the shared vectors is run by a test here, and is described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import vectors as support
from tests.support.vectors import VECTORS, load, vectors

GROUPS = {(path.stem, group) for path in VECTORS.glob("*.json") for group in load(path.stem)}


def test_there_are_vectors():
    assert len(GROUPS) >= 16


def test_every_group_is_run_and_nothing_else():
    modules = Path(__file__).parent.glob("*.py")
    sources = "".join(path.read_text(encoding="utf-8") for path in modules)
    run = re.findall(r'^@vectors\("(\w+)", "(\w+)"\)$', sources, re.MULTILINE)
    assert len(run) == len(set(run))
    assert set(run) == GROUPS


def test_every_group_is_described():
    text = (VECTORS / "README.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)\.json` `(\w+)` \|", text, re.MULTILINE)
    assert len(described) == len(set(described))
    assert set(described) == GROUPS


@pytest.mark.parametrize(
    ("cases", "problem"),
    [
        ("[]", "no cases"),
        ('[{"name": "a"}, {"name": "a"}]', "two of one name"),
        (r'[{"name": "a\\b"}]', "not plain"),
        (r'[{"name": "a\tb"}]', "not plain"),
        (r'[{"name": "\u00fc"}]', "not plain"),
    ],
    ids=["empty", "ambiguous", "backslash", "tab", "not ASCII"],
)
def test_group_without_cases_or_with_odd_names_is_an_error(tmp_path, monkeypatch, cases, problem):
    (tmp_path / "broken.json").write_text(f'{{"group": {cases}}}', encoding="ascii")
    monkeypatch.setattr(support, "VECTORS", tmp_path)
    with pytest.raises(ValueError, match=problem):
        vectors("broken", "group")


def test_group_that_is_not_there_is_an_error():
    with pytest.raises(KeyError):
        vectors("versions", "nothing")
