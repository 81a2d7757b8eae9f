"""Changed code and its judges: which changes are tried, by which tests, and what is made of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.mutant_runner import Experience, Measured
from tools.mutant_sameness import same_as_original
from tools.mutation import choose, interval, share_noticed, table

ROOT = Path(__file__).parents[2]

# --- the verdict ----------------------------------------------------------------------------------


def test_survivors_and_what_no_test_reaches_or_finishes_count_against():
    statuses = ["killed"] * 5 + ["timeout", "segfault", "survived", "no tests", "suspicious"]
    assert share_noticed(statuses) == pytest.approx(70)


def test_run_that_changed_nothing_is_no_success():
    with pytest.raises(ValueError, match="nothing was changed"):
        share_noticed([])


def test_unfinished_run_is_no_success():
    with pytest.raises(ValueError, match="1 changes were not tried"):
        share_noticed(["killed", "not checked"])


def test_sample_says_how_sure_it_is():
    low, high = interval(90, 100)
    assert low == pytest.approx(82.6, abs=0.1)
    assert high == pytest.approx(94.5, abs=0.1)
    assert interval(90, 10_000)[0] > 89
    assert interval(100, 50)[1] == pytest.approx(100)


def test_table_has_a_line_for_each_module():
    statuses = {"m.a.x_f__mutmut_1": "killed", "m.a.x_f__mutmut_2": "survived"}
    assert table(statuses | {"m.b.x_f__mutmut_1": "killed"}).splitlines() == [
        "m.a: 2 changes, 1 killed, 1 survived",
        "m.b: 1 changes, 1 killed",
    ]


# --- which changes --------------------------------------------------------------------------------

MUTANTS = [f"m.{module}.x_f__mutmut_{number}" for module in "ab" for number in range(10)]


def test_names_choose_and_order():
    assert choose(MUTANTS, [], 100, seed=1) == MUTANTS
    assert choose(MUTANTS, ["m.b.*", "*_1"], 100, seed=1) == [*MUTANTS[10:], MUTANTS[1]]
    assert choose(MUTANTS, ["other"], 100, seed=1) == []


def test_sample_takes_its_share_of_each_module_and_is_repeatable():
    sample = choose(MUTANTS, [], 25, seed=1)
    assert [sum(f".{module}." in mutant for mutant in sample) for module in "ab"] == [3, 3]
    assert choose(reversed(MUTANTS), [], 25, seed=1) != sample  # in the order given ...
    assert sorted(choose(reversed(MUTANTS), [], 25, seed=1)) == sorted(sample)  # ... but the same
    assert any(choose(MUTANTS, [], 25, seed=seed) != sample for seed in range(2, 6))


MODULE = """
class A:
    async def xǁAǁf__mutmut_orig(self):
        return cast("Any", self.headers["Host"]).encode("utf-8"), "Host"
    async def xǁAǁf__mutmut_1(self):
        return cast(None, self.headers["HOST"]).encode("UTF-8"), "Host"
    async def xǁAǁf__mutmut_2(self):
        return cast("Any", self.headers["Host"]).encode("utf-8"), "HOST"
    async def xǁAǁf__mutmut_3(self):
        return cast("Any", None).encode("utf-8"), "Host"
    async def xǁAǁf__mutmut_4(self):
        return cast("Any", self.headers["XXHostXX"]).encode("utf-8"), "Host"
def x_g__mutmut_orig(headers, other):
    return "A" in headers, "A" in other, headers.get("A", "B"), other.get("A")
def x_g__mutmut_1(headers, other):
    return "a" in headers, "A" in other, headers.get("A", "B"), other.get("A")
def x_g__mutmut_2(headers, other):
    return "A" in headers, "a" in other, headers.get("A", "B"), other.get("A")
def x_g__mutmut_3(headers, other):
    return "A" in headers, "A" in other, headers.get("a", "B"), other.get("A")
def x_g__mutmut_4(headers, other):
    return "A" in headers, "A" in other, headers.get("A", "b"), other.get("A")
def x_g__mutmut_5(headers, other):
    return "A" in headers, "A" in other, headers.get("A", "B"), other.get("a")
"""


def test_changes_without_a_meaning_are_found_and_no_others():
    same = {"xǁAǁf__mutmut_1", "x_g__mutmut_1", "x_g__mutmut_3"}
    assert same_as_original(MODULE) == same


# --- by which tests -------------------------------------------------------------------------------

F, G = "m.a.x_f", "m.a.x_g"
TESTS = {
    "tests/test_b.py::test_quick": Measured(1, [F, G]),
    "tests/test_a.py::test_own": Measured(2, [F, G]),
    "tests/test_b.py::test_slow": Measured(9, [F, G]),
    "tests/test_a.py::test_of_g": Measured(1, [G]),
}
QUICK, OWN, SLOW, OF_G = TESTS


def test_only_tests_that_run_the_function_are_tried_its_modules_own_first():
    assert Experience({}).tests_for(f"{F}__mutmut_1", TESTS, 100) == [OWN, QUICK, SLOW]


def test_who_noticed_a_neighbour_is_tried_first():
    experience = Experience({f"{F}__mutmut_1": SLOW})
    assert experience.tests_for(f"{F}__mutmut_2", TESTS, 100)[0] == SLOW
    assert experience.tests_for(f"{F}__mutmut_2", TESTS, 100) == [SLOW, OWN, QUICK]
    for number in range(1, 4):
        experience.add(f"{G}__mutmut_{number}", QUICK)
    assert experience.tests_for(f"{F}__mutmut_2", TESTS, 100) == [SLOW, QUICK, OWN]
    assert experience.noticed_by[f"{G}__mutmut_1"] == QUICK


def test_tests_that_differ_are_tried_before_those_that_are_run_with_other_values():
    tests = {f"tests/test_b.py::test_{name}": Measured(1, [F]) for name in ("x[1]", "x[2]", "y[1]")}
    one, two, other = tests
    assert Experience({}).tests_for(f"{F}__mutmut_1", tests, 100) == [one, other, two]
    for test in tests.values():
        test.seconds = 0.1
    assert Experience({}).tests_for(f"{F}__mutmut_1", tests, 100) == [one, two, other]


def test_patience_ends_but_not_before_the_first_test():
    experience = Experience({})
    assert experience.tests_for(f"{F}__mutmut_1", TESTS, 3) == [OWN, QUICK]
    assert experience.tests_for(f"{F}__mutmut_1", TESTS, 0.1) == [OWN]
    assert experience.tests_for("m.a.x_h__mutmut_1", TESTS, 100) == []


# --- the whole ------------------------------------------------------------------------------------

PYPROJECT = """
[tool.mutmut]
source_paths = ["thing"]
only_mutate = ["thing/calc.py"]
pytest_add_cli_args_test_selection = ["tests"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist"]
"""
CALC = """
def add(a, b):
    return a + b


def double(a):
    return a * 2


def forgotten(a):
    return a + 1
"""
TEST_CALC = """
from thing.calc import add, double


def test_add():
    assert add(1, 2) == 3


def test_double():
    double(1)
"""


@pytest.fixture
def project(tmp_path):
    """A package with tests that notice little, and a way to judge them."""
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "thing/__init__.py": "",
        "thing/calc.py": CALC,
        "tests/test_calc.py": TEST_CALC,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    # Coverage answers SIGTERM in Python, and a pool's worker that is told to end in the moment before it
    # waits for work then waits for ever. Nothing of what is measured runs here.
    without_coverage = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tools.mutation", "--children=2", *arguments],
            cwd=tmp_path,
            env={**without_coverage, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        return done.returncode, done.stdout + done.stderr

    return tmp_path, run


def test_whole_run_tells_what_was_not_noticed_and_later_looks_again(project):
    place, run = project
    status, said = run("--at-least=50")
    assert status == 1
    assert "thing.calc.x_double__mutmut_1: survived" in said
    assert "thing.calc.x_forgotten__mutmut_1: no tests" in said
    assert "x_add" not in said
    assert "5 of 5 tried, 4 not noticed" in said
    assert "FAILED, 20.0 % of 5 changes noticed" in said

    test = place / "tests" / "test_calc.py"
    test.write_text(f"{TEST_CALC}    assert double(3) == 6\n")
    assert " tried" not in run()[1]
    status, said = run("--again", "--at-least=50")
    assert status == 0
    assert "4 of 4 tried, 2 not noticed" in said
    assert "ok, 60.0 % of 5 changes noticed" in said

    test.write_text(f"{TEST_CALC}    assert False\n")
    status, said = run()
    assert status == 1
    assert "FAILED: the tests fail on unchanged code" in said
