"""The last step of `make test`: it must be able to fail in every way it knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import coverage_gate

FULL = "thing/inner/*"
CONFIG = """
[run]
branch = true
source = thing
parallel = true
"""
INNER = "def sign(n):\n    if n < 0:\n        return -1\n    return 1\n"
OUTER = "from thing.inner.a import sign\ndef unused():\n    return 1\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package with a room to be covered wholly, and a way to run code in it under coverage."""
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START", "COVERAGE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thing" / "inner").mkdir(parents=True)
    (tmp_path / ".coveragerc").write_text(CONFIG)
    (tmp_path / "thing" / "__init__.py").write_text("")
    (tmp_path / "thing" / "inner" / "__init__.py").write_text("")
    (tmp_path / "thing" / "inner" / "a.py").write_text(INNER)
    (tmp_path / "thing" / "outer.py").write_text(OUTER)

    def run(code: str) -> None:
        Path("script.py").write_text(code)
        subprocess.run([sys.executable, "-m", "coverage", "run", "script.py"], check=True)

    return run


ALL = "from thing import outer\nouter.sign(1), outer.sign(-1), outer.unused()\n"


def judge(whole: float = 95, full: str = FULL) -> int:
    return coverage_gate.main(["--full", full, "--whole", str(whole)])


def test_passes_and_prints_both_figures(project, capsys):
    project(ALL)
    assert judge() == 0
    out = capsys.readouterr().out
    assert f"coverage: ok, {FULL}: 100.00 % of 100 % demanded" in out
    assert "coverage: ok, whole package: 100.00 % of 95 % demanded" in out


def test_data_of_several_processes_is_put_together(project):
    project("from thing import outer\nouter.sign(1)\n")
    project("from thing import outer\nouter.sign(-1), outer.unused()\n")
    assert judge() == 0


def test_one_branch_short_fails(project, capsys):
    project("from thing import outer\nouter.sign(1), outer.unused()\n")
    assert judge(whole=10) == 1
    out = capsys.readouterr().out
    assert f"coverage: FAILED, {FULL}: " in out
    assert "coverage: ok, whole package: " in out


def test_whole_short_fails(project, capsys):
    project("from thing import outer\nouter.sign(1), outer.sign(-1)\n")
    assert judge() == 1
    out = capsys.readouterr().out
    assert f"coverage: ok, {FULL}: " in out
    assert "coverage: FAILED, whole package: " in out


def test_no_data_fails(project, capsys):
    assert judge() == 1
    assert "coverage: FAILED, no data" in capsys.readouterr().out


def test_pattern_that_matches_nothing_fails(project, capsys):
    project(ALL)
    assert judge(full=f"{FULL},thing/elsewhere/*") == 1
    assert "coverage: FAILED, no file matches thing/elsewhere/*" in capsys.readouterr().out


def test_module_that_was_never_imported_fails(project, capsys):
    Path("thing/inner/late.py").write_text("x = 1\n")
    project(ALL)
    assert judge(whole=10) == 1
    assert "thing/inner/late.py" in capsys.readouterr().out


def test_room_below_a_room_counts(project):
    Path("thing/inner/deep").mkdir()
    Path("thing/inner/deep/__init__.py").write_text("x = 1\n")
    project(ALL)
    assert judge(whole=10) == 1
