"""System programs that a test needs: skipped without, counted at the end, demanded by CI.

    @pytest.mark.requires("chromium", "chromium")   # program, Debian package
    def test_browser(): ...

    path = requires("node", "nodejs")               # in a test or a fixture

A missing program skips the test and names the package to install. With ``REQUIRE_ALL=1`` in the
environment it fails the test instead: a check on a machine that has everything must not pass by
leaving things out.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

_REASON = re.compile(r"missing: (.+?), to be had by: (.+?)\.(?=\W|$)")
_ROOT = Path(__file__).parent.parent.parent
_NODE_MODULES = _ROOT / "tests" / "node" / "node_modules"
FRONTEND = _ROOT / "frontend"


def _missing(what: str, remedy: str) -> None:
    reason = f"missing: {what}, to be had by: {remedy}."
    if os.environ.get("REQUIRE_ALL", "0") not in ("", "0"):
        pytest.fail(f"{reason} REQUIRE_ALL is set, so this is a failure", pytrace=False)
    pytest.skip(reason)


def requires(program: str, package: str) -> str:
    """Return the path of a system program, or skip (fail under ``REQUIRE_ALL=1``) the running test.

    Args:
        program: its name, looked up on the search path.
        package: the Debian package that has it.
    """
    path = shutil.which(program)
    if path is None:
        _missing(program, f"apt-get install {package}")
    return str(path)


def requires_node_package(name: str, modules: Path = _NODE_MODULES) -> Path:
    """Return ``tests/node/node_modules``, or skip the running test unless it has package *name*.

    Needs ``node`` too. To be used as a script's ``NODE_PATH``, or as the place above its imports.
    ``modules`` is another such folder.
    """
    requires("node", "nodejs")
    if not (modules / name / "package.json").is_file():
        _missing(f"node package {name}", "make env, which needs npm: apt-get install npm")
    return modules


def requires_python_package(name: str) -> None:
    """Skip the running test unless the Python package *name* is installed."""
    if importlib.util.find_spec(name) is None:
        _missing(f"Python package {name}", f"make env, or pip install {name}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "requires(program, package): skip, or fail under REQUIRE_ALL=1, without a system program",
    )
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table(), "missing-programs")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        requires(*marker.args, **marker.kwargs)


class _Table:
    """Counts the tests that went without, and says so at the end."""

    def __init__(self) -> None:
        self._tests: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.longrepr is None or report.passed:
            return
        match = _REASON.search(str(report.longrepr))
        if match is not None:
            self._tests[match[1], match[2]] += 1

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        if not self._tests:
            return
        terminalreporter.section("missing system programs", sep="=", yellow=True)
        terminalreporter.line(f"{'program':<24}{'tests without it':>16}  to be had by")
        for (program, remedy), count in sorted(self._tests.items()):
            terminalreporter.line(f"{program:<24}{count:>16}  {remedy}")
