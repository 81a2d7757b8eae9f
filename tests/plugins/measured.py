"""Which of the processes that tests start are measured by coverage: those of tests that ask for it.

    @pytest.mark.measured       # a test, or with ``pytestmark`` a module
    def test_command_line(): ...

To measure makes a process slower by a third and more, and a suite of servers and kernels by minutes, while
nearly all that runs there has run in a test's own process before. So a test asks where it alone runs
something: start-up, command lines, what ends a process. The process of the tests themselves is always
measured. Without coverage none of this does anything.
"""

from __future__ import annotations

import os

import pytest

# What the file that coverage puts beside the packages looks for when an interpreter starts.
NAMES = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")

_environment = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "measured: coverage measures the processes that this test starts"
    )
    config.stash[_environment] = {}
    # The process that only starts others which run tests leaves it to them.
    if hasattr(config, "workerinput") or not config.getoption("tx", default=None):
        taken = {name: os.environ.pop(name) for name in NAMES if name in os.environ}
        config.stash[_environment] = taken


def pytest_unconfigure(config: pytest.Config) -> None:
    kept: dict[str, str] = config.stash[_environment]
    os.environ.update(kept)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: also those that several tests share are for who comes first."""
    if item.get_closest_marker("measured"):
        kept: dict[str, str] = item.config.stash[_environment]
        os.environ.update(kept)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    for name in item.config.stash[_environment]:
        os.environ.pop(name, None)
