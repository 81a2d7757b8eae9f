"""A pytest plugin for upstream's own suite: forces an extension on, and counts.

`upstream_suite.py` passes it to pytest with `-p` in both of its runs. It does two things:

- with `--upstream-extension NAME`, every server that reaches `ServerApp.init_server_extensions` has
  that extension enabled, whatever configuration the test gave it; afterwards it is looked up
  whether the door really stands in front of the server's router, so that a run in which the
  extension never loaded cannot pass for one in which it did;
- with `--upstream-report FILE`, outcomes by test and the counts are written there as JSON.

It knows nothing of what the outcomes mean; that is left to `upstream_suite.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

_COUNTS = "upstream_counts"

_counts: Counter[str] = Counter()
"""What this process saw; a worker of pytest-xdist hands its own to the controller at the end."""

_outcomes: dict[str, str] = {}
_failures: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("upstream suite")
    group.addoption("--upstream-extension", default="", help="name of the extension to force on")
    group.addoption(
        "--upstream-report", default="", help="file to write outcomes and counts to, as JSON"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Put the counters in place.

    Not at import or in `pytest_configure`: upstream's conftest sets an environment variable that
    must stand before the first import of a Jupyter package.
    """
    _count_servers(str(session.config.getoption("--upstream-extension")))
    _count_upgrades(str(session.config.getoption("--upstream-extension")))


def _count_servers(extension: str) -> None:
    from jupyter_server.serverapp import ServerApp

    init_server_extensions = ServerApp.init_server_extensions
    load_server_extensions = ServerApp.load_server_extensions

    def init_and_force(app: ServerApp) -> None:
        if extension:
            # As upstream does for an extension that it found in a configuration folder.
            app.config.ServerApp.jpserver_extensions.update({extension: True})
            app.jpserver_extensions.update({extension: True})
        init_server_extensions(app)

    def load_and_count(app: ServerApp) -> None:
        load_server_extensions(app)
        _counts["servers"] += 1
        first_rule = app.web_app.default_router.rules[0]
        if any(_is_from(extension, type(part)) for part in (first_rule.matcher, first_rule.target)):
            _counts["servers_with_extension"] += 1

    ServerApp.init_server_extensions = init_and_force  # type: ignore[assignment,method-assign]
    ServerApp.load_server_extensions = load_and_count  # type: ignore[assignment,method-assign]


def _count_upgrades(extension: str) -> None:
    from tornado.websocket import WebSocketHandler

    original = WebSocketHandler.__init__

    def init_and_count(
        handler: WebSocketHandler, application: Any, request: Any, **kwargs: Any
    ) -> None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            _counts["upgrades"] += 1
            if any(_is_from(extension, base) for base in type(handler).__mro__):
                _counts["upgrades_guarded"] += 1
        original(handler, application, request, **kwargs)

    WebSocketHandler.__init__ = init_and_count  # type: ignore[assignment,method-assign]


def _is_from(extension: str, cls: type) -> bool:
    return bool(extension) and cls.__module__.partition(".")[0] == extension


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the worst that the phases of a test came to."""
    outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
    if outcome == "failed" or _outcomes.get(report.nodeid, "passed") == "passed":
        _outcomes[report.nodeid] = outcome
    if outcome == "failed":
        _failures[report.nodeid] = f"{report.when}: {_exception(report.longreprtext)}"


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a module that cannot be collected as a failed test of its own."""
    if report.failed:
        _outcomes[report.nodeid] = "failed"
        _failures[report.nodeid] = f"collection: {_exception(report.longreprtext)}"


def _exception(text: str) -> str:
    """The exception of a traceback: the first line that pytest marks with an E."""
    marked = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (marked or text.strip().splitlines() or ["no traceback"])[0][:300]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """On the controller: add what a worker of pytest-xdist counted."""
    _counts.update(getattr(node, "workeroutput", {}).get(_COUNTS, {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts on, or write everything down."""
    workeroutput = getattr(session.config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput[_COUNTS] = dict(_counts)
        return
    report = str(session.config.getoption("--upstream-report"))
    if report:
        text = json.dumps(
            {"outcomes": _outcomes, "failures": _failures, "counts": dict(_counts)}, indent=1
        )
        Path(report).write_text(text, encoding="utf-8")
