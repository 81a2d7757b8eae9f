"""The conformance page and the pytest plugin that holds a run to it, failures above all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.conformance import (
    Proof,
    by_rule,
    demanded_rules,
    problems_of_page,
    render,
    rows,
    rules_in_name,
)

ROOT = Path(__file__).parent.parent.parent
FILE = "test_rules.py"

TESTS = """
import pytest

@pytest.mark.xdist_group("one")
def test_C1_1_first(): pass
@pytest.mark.parametrize("n", [1, 2])
def test_C1_2_C1_1_second(n): pass
class TestGroup:
    def test_J1_third(self): pass
def test_without_rule(): pass
"""


def page(*, rules: str = "C1.1-C1.2, J1-J1", leave_out: str = "", tests: str = TESTS) -> str:
    """Return a page that agrees with TESTS, less one row."""
    text = f"# Page\n\nRules: {rules}\n\n| rule | in short | tests |\n|---|---|---|\n"
    for rule in ("C1.1", "C1.2", "J1"):
        if rule != leave_out:
            text += f"| {rule} | text | |\n"
    proofs = [
        Proof(FILE, "test_C1_1_first"),
        Proof(FILE, "test_C1_2_C1_1_second"),
        Proof(FILE, "TestGroup::test_J1_third"),
    ]
    return render(text, by_rule(proofs))


@pytest.fixture
def judged(pytester, monkeypatch):
    """Run a suite against a page, in this process or, for xdist, in others."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)

    def run(tests: str, text: str | None, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(**{FILE.removesuffix(".py"): tests})
        if text is not None:
            (pytester.path / "page.md").write_text(text, encoding="utf-8")
        run = pytester.runpytest_subprocess if "-n" in arguments else pytester.runpytest_inprocess
        options = ["-p", "tests.plugins.conformance", "--conformance", "page.md"]
        return run(*options, *arguments)

    return run


both_ways = pytest.mark.parametrize(
    "how", [[], ["-n", "2", "--dist", "loadgroup"]], ids=["alone", "xdist"]
)


@both_ways
def test_page_that_agrees_passes(judged, how):
    result = judged(TESTS, page(), *how)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*FAILED conformance*")


@pytest.mark.parametrize(
    ("tests", "text", "complaint"),
    [
        pytest.param(
            TESTS.replace(
                "test_C1_1_first(): pass", "test_C1_1_first(): pytest.skip('no')"
            ).replace(
                "test_C1_2_C1_1_second(n): pass", "test_C1_2_C1_1_second(n): pytest.skip('no')"
            ),
            page(),
            "C1.1 was not proved*",
            id="skipped",
        ),
        pytest.param(
            TESTS.replace("    def test_J1", "    @pytest.mark.xfail\n    def test_J1"),
            page(),
            "J1 was not proved*",
            id="unexpectedly-passing",
        ),
        pytest.param(
            TESTS.replace("def test_J1_third(self)", "def test_J1_third(self, broken)")
            + "\n@pytest.fixture\ndef broken():\n    yield\n    raise OSError\n",
            page(),
            "J1 was not proved*",
            id="teardown-failed",
        ),
        pytest.param(
            TESTS.replace("test_J1_third", "test_third"),
            page(),
            "J1: test_rules.py::TestGroup::test_J1_third does not exist",
            id="test-renamed",
        ),
        pytest.param(TESTS, page(leave_out="C1.2"), "C1.2 has no row", id="row-missing"),
        pytest.param(
            TESTS, page(rules="C1.1-C1.2"), "J1 has a row but is no rule", id="row-of-no-rule"
        ),
        pytest.param(
            TESTS, page(rules="C1.1-C1.3, J1-J1"), "C1.3 has no row", id="rule-without-row"
        ),
        pytest.param(
            TESTS + "def test_C9_9_x(): pass\n",
            page(),
            "test_rules.py::test_C9_9_x names C9.9, which is no rule",
            id="unknown-rule",
        ),
        pytest.param(TESTS, None, "cannot read*", id="page-missing"),
        pytest.param(TESTS, "# empty\n", "the page needs one line*", id="page-empty"),
        pytest.param("", page(), "J1 was not proved*", id="no-tests"),
    ],
)
def test_what_is_not_proved_fails_the_run(judged, tests, text, complaint):
    result = judged(tests, text)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"FAILED conformance: {complaint}"])


@both_ways
def test_failed_and_unlisted_tests_fail_the_run(judged, how):
    tests = TESTS.replace("third(self): pass", "third(self): assert 0")
    result = judged(tests + "def test_C1_1_new(): pass\n", page(), *how)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "FAILED conformance: C1.1: test_rules.py::test_C1_1_new is not on the page",
            "FAILED conformance: J1 was not proved*",
        ]
    )


@both_ways
def test_deselected_test_exists_but_proves_nothing(judged, how):
    result = judged(TESTS, page(), "-k", "not J1", *how)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED conformance: J1 was not proved*"])
    result.stdout.no_fnmatch_line("*does not exist*")


@both_ways
def test_several_runs_are_judged_together(judged, pytester, how):
    record = ["-p", "tests.plugins.conformance", "--conformance-record", "build/first.json"]
    run = pytester.runpytest_subprocess if how else pytester.runpytest_inprocess
    (pytester.path / FILE).write_text(TESTS, encoding="utf-8")
    assert run(*record, "-k", "first", *how).ret == pytest.ExitCode.OK
    record[-1] = "build/second.json"
    assert run(*record, "-k", "second", *how).ret == pytest.ExitCode.OK
    second = [*how, "-k", "third"]
    earlier = [f"--conformance-recorded=build/{name}.json" for name in ("first", "second")]
    together = judged(TESTS, page(), *second, *earlier)
    assert together.ret == pytest.ExitCode.OK
    alone = judged(TESTS, page(), *second)
    alone.stdout.fnmatch_lines(["*FAILED conformance: C1.1 was not proved*"])
    missing = judged(TESTS, page(), *second, "--conformance-recorded", "build/none.json")
    missing.stdout.fnmatch_lines(["*FAILED conformance: cannot read*"])
    assert missing.ret == alone.ret == pytest.ExitCode.TESTS_FAILED


def test_without_the_option_nothing_is_judged(pytester):
    pytester.makepyfile(test_rules=TESTS)
    result = pytester.runpytest_inprocess("-p", "tests.plugins.conformance", "-k", "first")
    assert result.ret == pytest.ExitCode.OK


def test_collecting_only_judges_nothing(judged):
    result = judged(TESTS, page(leave_out="J1"), "--collect-only")
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("test_C1_1_x", ["C1.1"]),
        ("test_C2_3_C2_5_header", ["C2.3", "C2.5"]),
        ("test_C3_1_J10_status", ["C3.1", "J10"]),
        ("TestGroup::test_J7_x", ["J7"]),
        ("test_C2_12", ["C2.12"]),
        ("TestC1_1::test_x", []),
        ("test_ABC1_1_x", []),
        ("test_C1_1x", []),
        ("test_JSON", []),
    ],
)
def test_rules_are_read_from_the_name_of_the_function(name, rules):
    assert rules_in_name(name) == rules


@pytest.mark.parametrize("line", ["Rules: C1.3-C1.1", "Rules: C1.1-C2.2", "Rules: everything", ""])
def test_line_of_rules_must_be_of_ranges(line):
    with pytest.raises(ValueError, match=r"rules|Rules"):
        demanded_rules(f"# Page\n{line}\n")


def test_double_row_is_a_problem():
    text = page()
    assert problems_of_page(text + "| J1 | again | |\n", []).count("J1 has two rows") == 1


def test_writing_twice_changes_nothing():
    proofs = {"C1.1": [Proof("a.py", "test_C1_1_a"), Proof("b.py", "test_C1_1_b")]}
    once = render(page(), proofs)
    assert render(once, proofs) == once
    assert dict(rows(once)) == {"C1.2": [], "J1": [], **proofs}


def test_page_has_every_clause_of_sections_1_to_5_and_all_of_jep_121():
    # Told apart from the page on purpose: rules cannot be dropped there without being dropped here.
    sections = {"C1.": 4, "C2.": 9, "C3.": 6, "C4.": 6, "C5.": 4, "J": 15}
    rules = {f"{name}{n}" for name, last in sections.items() for n in range(1, last + 1)}
    text = (ROOT / "docs/reference/conformance.md").read_text(encoding="utf-8")
    assert set(demanded_rules(text)) >= rules
    assert {rule for rule, _ in rows(text)} >= rules
