"""Fail a test run in which a rule of the contract or of JEP 121 was not proved.

``pytest --conformance=docs/reference/conformance.md`` belongs to a run of the whole suite. A rule
is proved when at least one test that names it passed in this very run: a skipped, deselected or
expectedly failing test proves nothing. The page itself must agree with the tests, see
tools/conformance.py.

Under pytest-xdist the workers collect and the controller judges: it sees all reports, and each
worker hands over what it collected.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools.conformance import Proof, by_rule, problems_of_page, rows

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

_KEY = "conformance_collected"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("conformance").addoption(
        "--conformance",
        metavar="FILE",
        type=Path,
        help="fail unless every rule listed in FILE was proved by a test that passed",
    )


def pytest_configure(config: pytest.Config) -> None:
    page = config.getoption("--conformance")
    if page is None:
        return
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_Worker(config), "conformance-worker")
    elif not config.getoption("collectonly"):
        config.pluginmanager.register(_Judge(page), "conformance-judge")


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

    def __init__(self, page: Path) -> None:
        self._page = page
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
        self._problems = self._judge()
        if self._problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _judge(self) -> list[str]:
        try:
            text = self._page.read_text(encoding="utf-8")
        except OSError as error:
            return [f"cannot read the page: {error}"]
        problems = problems_of_page(text, {Proof.from_nodeid(name) for name in self._collected})
        proved = by_rule(Proof.from_nodeid(name) for name in self._passed - self._spoilt)
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
