"""Processes that tests start: measured by coverage where a test asks for it, and only there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from coverage import CoverageData

ROOT = Path(__file__).parent.parent.parent
CONFIG = "[run]\nsource_pkgs = thing\nparallel = true\npatch = subprocess\nsigterm = true\n"
TESTS = """
import subprocess, sys
import pytest

def start(module):
    subprocess.run([sys.executable, "-c", f"import thing.{module}"], check=True)

@pytest.fixture(scope="module")
def shared():
    start("by_a_fixture")

def test_before():
    import thing.own
    start("before")

@pytest.mark.measured
def test_asks(shared):
    start("asked")

def test_after(shared):
    start("after")
"""


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_only_processes_of_tests_that_ask_are_measured(pytester, monkeypatch, workers):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{pytester.path}")
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START", "COVERAGE_FILE"):
        monkeypatch.delenv(name, raising=False)
    thing = pytester.mkpydir("thing")
    for name in ("own", "before", "asked", "by_a_fixture", "after"):
        (thing / f"{name}.py").write_text("done = True\n")
    (pytester.path / ".coveragerc").write_text(CONFIG)
    pytester.makepyfile(TESTS)
    command = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        "-m",
        "pytest",
        "-p",
        "tests.plugins.measured",
    ]
    subprocess.run([*command, "--strict-markers", *workers], cwd=pytester.path, check=True)
    measured = CoverageData(str(pytester.path / ".coverage.all"))
    for path in pytester.path.glob(".coverage.*"):
        part = CoverageData(str(path))
        part.read()
        measured.update(part)
    names = {Path(file).stem for file in measured.measured_files() if measured.lines(file)}
    assert names - {"__init__"} == {"own", "asked", "by_a_fixture"}
