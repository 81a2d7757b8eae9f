"""Tests that need system programs: skipped and counted without them, failing under REQUIRE_ALL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.programs import requires, requires_node_package

ROOT = Path(__file__).parent.parent.parent

TESTS = """
import pytest
from tests.plugins.programs import requires, requires_node_package

@pytest.mark.requires("no-such-program", "some-package")
def test_by_marker(): pass

def test_by_call(): requires("no-such-program", "some-package")

@pytest.fixture
def node(): return requires_node_package("no-such-package-of-node")

def test_by_fixture(node): pass

@pytest.mark.requires("sh", "dash")
def test_with_shell(): assert requires("sh", "dash").endswith("/sh")

def test_of_something_else(): pytest.skip("missing: the will")
"""


@pytest.fixture(params=[[], ["-n", "2"]], ids=["alone", "xdist"])
def run(request, pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START", "REQUIRE_ALL"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(TESTS)

    def run() -> pytest.RunResult:
        run = pytester.runpytest_subprocess if request.param else pytester.runpytest_inprocess
        return run("-p", "tests.plugins.programs", "--strict-markers", *request.param)

    return run


TABLE = [
    "*missing system programs*",
    "program *tests without it*",
    "no-such-program *2  apt-get install some-package",
]


@pytest.mark.parametrize("value", [None, "0"])
def test_missing_program_skips_and_is_counted(run, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("REQUIRE_ALL", value)
    result = run()
    result.assert_outcomes(passed=1, skipped=4)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(TABLE)
    result.stdout.no_fnmatch_line("*the will *1*")


def test_missing_program_fails_when_all_is_required(run, monkeypatch):
    monkeypatch.setenv("REQUIRE_ALL", "1")
    result = run()
    outcomes = result.parseoutcomes()
    # A test that fails in its set-up is an error to pytest.
    assert outcomes["failed"] + outcomes["errors"] == 3
    assert (outcomes["passed"], outcomes["skipped"]) == (1, 1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(TABLE)


def test_nothing_missing_means_no_table(pytester):
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_inprocess("-p", "tests.plugins.programs")
    result.stdout.no_fnmatch_line("*missing system programs*")


def test_skip_names_program_and_package(monkeypatch):
    monkeypatch.delenv("REQUIRE_ALL", raising=False)
    with pytest.raises(
        pytest.skip.Exception, match=r"no-such-program.*apt-get install the-package"
    ):
        requires("no-such-program", "the-package")


@pytest.mark.requires("node", "nodejs")
def test_node_packages_of_the_tests_are_installed():
    assert (requires_node_package("ws") / "ws").is_dir()
