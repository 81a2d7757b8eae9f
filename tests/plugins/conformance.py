"""Fail a test run in which a rule of the contract or of JEP 121 was not proved.

``pytest --conformance=docs/reference/conformance.md`` belongs to a run of the whole suite. A rule
is proved when at least one test that names it passed in this very run: a skipped, deselected or
expectedly failing test proves nothing. The page itself must agree with the tests, see
tools/conformance.py.

A suite that needs several runs is judged in the last: ``--conformance-record=FILE`` makes one of them
leave what it collected and what passed in FILE, and ``--conformance-recorded=FILE``, once for each
before, adds that to the last one's own.

Under pytest-xdist the workers collect and the controller judges: it sees all reports, and each
worker hands over what it collected.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools.conformance import Proof, by_rule, problems_of_page, rows

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

_KEY = "conformance_collected"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    for option, action, text in (
        ("", "store", "fail unless every rule listed in FILE was proved by a test that passed"),
        ("-record", "store", "leave in FILE what this run collected and what passed in it"),
        ("-recorded", "append", "count what an earlier run left in FILE too; may be repeated"),
    ):
        group.addoption(
            f"--conformance{option}", metavar="FILE", type=Path, action=action, help=text
        )


def pytest_configure(config: pytest.Config) -> None:
    page, record = config.getoption("--conformance"), config.getoption("--conformance-record")
    if page is None and record is None:
        return
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_Worker(config), "conformance-worker")
    elif not config.getoption("collectonly"):
        judge = _Judge(page, record, config.getoption("--conformance-recorded") or [])
        config.pluginmanager.register(judge, "conformance-judge")


class _Worker:
    """In an xdist worker: hand over the names of the collected tests."""

    def __init__(self, config: pytest.Config) -> None:
        self._config: Any = config
        self._collected: set[str] = set()

    # Called before -m and -k deselect anything: the page may list tests that this run leaves out.
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self._collected.add(item.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._config.workeroutput[_KEY] = sorted(self._collected)


class _Judge:
    """In the process that reports: gather what was collected and what passed, and judge."""

    def __init__(self, page: Path | None, record: Path | None, recorded: list[Path]) -> None:
        self._page = page
        self._record = record
        self._recorded = recorded
        self._collected: set[str] = set()
        self._passed: set[str] = set()
        self._spoilt: set[str] = set()
        self._problems: list[str] = []

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self._collected.add(item.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A worker that crashed has no output; the others collected the same.
        self._collected.update(getattr(node, "workeroutput", {}).get(_KEY, ()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._spoilt.add(report.nodeid)
        elif report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
            self._passed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus not in (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            return
        passed = self._passed - self._spoilt
        if self._record is not None:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            found = {"collected": sorted(self._collected), "passed": sorted(passed)}
            self._record.write_text(json.dumps(found), encoding="utf-8")
        if self._page is not None:
            self._problems = self._judge(self._page, passed)
        if self._problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _judge(self, page: Path, passed: set[str]) -> list[str]:
        collected = set(self._collected)
        try:
            text = page.read_text(encoding="utf-8")
            for recorded in self._recorded:
                earlier = json.loads(recorded.read_text(encoding="utf-8"))
                collected.update(earlier["collected"])
                passed = passed.union(earlier["passed"])
        except OSError as error:
            return [f"cannot read: {error}"]
        problems = problems_of_page(text, {Proof.from_nodeid(name) for name in collected})
        proved = by_rule(Proof.from_nodeid(name) for name in passed)
        problems += [
            f"{rule} was not proved: no test of that name passed in this run"
            for rule, _ in rows(text)
            if rule not in proved
        ]
        return problems

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        if not self._problems:
            return
        terminalreporter.section("conformance", sep="=", red=True)
        for problem in self._problems:
            terminalreporter.line(f"FAILED conformance: {problem}")
        terminalreporter.line("`make conformance` writes the names of tests into the page.")
