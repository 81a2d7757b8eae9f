"""Runs the tests on changed code: the engine of ``tools.mutation``.

mutmut makes the changes ("mutants") and keeps their outcomes in ``mutants/``, so its own commands
(``show``, ``browse``) know them. Its runner collects the tests anew for every mutant and lets a
survivor meet every test that runs the changed function, which here are hundreds that start a server.
This one collects once, forks a process per mutant, and begins with the tests that are likeliest to
notice. It gives up after ``patience`` seconds' worth of tests: a mutant it calls unnoticed may be
noticed by a test that did not get its turn, never the other way round.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import multiprocessing
import os
import resource
import select
import signal
import sys
import time
from collections import Counter, defaultdict
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mutmut.__main__ import create_mutants
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import (
    change_cwd,
    copy_also_copy_files,
    copy_src_dir,
    setup_source_paths,
    walk_mutatable_files,
)

from tools.mutant_sameness import same_as_original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PLACE = Path("mutants")
MEASURED = PLACE / "measured-tests.json"
NOTICED_BY = PLACE / "noticed-by.json"

UNNOTICED, NOTICED, NO_TESTS, SKIPPED, BROKEN, HUNG = 0, 1, 33, 34, 35, -signal.SIGXCPU
"""Outcomes, in mutmut's numbers. ``BROKEN``: not the test failed but what runs it."""

TEST_TIMEOUT = 5
"""Seconds for one test besides ten times what it takes, by the clock and of computing. A change may
make a test wait for ever, and those that wait for something wait long."""


@dataclass
class Measured:
    """What is known of a test: how long it takes, in seconds, and which functions it runs."""

    seconds: float = 0
    functions: list[str] = field(default_factory=list)


def function_of(mutant: str) -> str:
    """The function that a mutant changes, by mutmut's name for it."""
    return mutant.partition("__mutmut_")[0]


def module_of(mutant: str) -> str:
    """The module that a mutant changes."""
    return function_of(mutant).rpartition(".")[0]


class Experience:
    """Which test noticed which mutant so far: what noticed one will likely notice its neighbour."""

    def __init__(self, noticed_by: Mapping[str, str]) -> None:
        self.noticed_by = dict(noticed_by)
        self._by_function: Counter[tuple[str, str]] = Counter()
        self._by_module: Counter[tuple[str, str]] = Counter()
        for mutant, test in noticed_by.items():
            self._count(mutant, test)

    def add(self, mutant: str, test: str) -> None:
        """A test noticed a mutant."""
        self.noticed_by[mutant] = test
        self._count(mutant, test)

    def _count(self, mutant: str, test: str) -> None:
        self._by_function[function_of(mutant), test] += 1
        self._by_module[module_of(mutant), test] += 1

    def tests_for(self, mutant: str, tests: Mapping[str, Measured], patience: float) -> list[str]:
        """The tests to try, the likeliest first, as many as ``patience`` seconds allow."""
        function, module = function_of(mutant), module_of(mutant)
        own = f"test_{module.rpartition('.')[2]}.py::"

        def cost(test: str) -> float:
            seconds = tests[test].seconds / (1 + self._by_module[module, test])
            return seconds if own in test else 4 * seconds

        # A second's worth of each kind before more of any: what a test is run with matters less than
        # what it does.
        rank: dict[str, tuple[int, int]] = {}
        kinds: defaultdict[str, float] = defaultdict(float)
        for test in sorted((t for t in tests if function in tests[t].functions), key=cost):
            kind = test.partition("[")[0]
            rank[test] = -self._by_function[function, test], int(kinds[kind])
            kinds[kind] += tests[test].seconds
        chosen: list[str] = []
        spent = 0.0
        for test in sorted(rank, key=rank.__getitem__):
            if chosen and spent + tests[test].seconds > patience:
                break
            chosen.append(test)
            spent += tests[test].seconds
        return chosen


def make_mutants(children: int) -> None:
    """Make or bring up to date the changed copy of the project in ``mutants/``."""
    set_mutant_under_test("mutant_generation")
    PLACE.mkdir(exist_ok=True)
    with redirect_stdout(io.StringIO()):
        copy_src_dir()
        copy_also_copy_files()
        setup_source_paths()
        create_mutants(children)


def outcomes() -> dict[str, SourceFileMutationData]:
    """The record that each mutant's outcome is kept in, of those that can be noticed at all."""
    found: dict[str, SourceFileMutationData] = {}
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        same = same_as_original((PLACE / path).read_text(encoding="utf-8"))
        for mutant in data.exit_code_by_key:
            if mutant.rpartition(".")[2] in same:
                data.exit_code_by_key[mutant] = SKIPPED
            else:
                found[mutant] = data
        data.save()
    return found


def _pytest(arguments: Sequence[str], plugin: object) -> int:
    """Run pytest on the changed copy; what it prints is shown if it fails."""
    printed = io.StringIO()
    with change_cwd(PLACE), redirect_stdout(printed), redirect_stderr(printed):
        status = int(
            pytest.main(["--rootdir=.", *config().pytest_add_cli_args, *arguments], [plugin])
        )
    if status != 0:
        print(printed.getvalue())
    return status


# -- what the tests do on unchanged code -----------------------------------------------------------


class _Measure:
    """Plugin: notes of each test what is to be known."""

    def __init__(self) -> None:
        self.tests: dict[str, Measured] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests.setdefault(report.nodeid, Measured()).seconds += report.duration

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.tests[nodeid].functions = sorted(state()._stats)
        state()._stats.clear()


def measure_tests() -> dict[str, Measured]:
    """Run the tests on unchanged code, those in changed files only if others were measured before.

    Raises:
        RuntimeError: a test failed.
    """
    known: dict[str, Any] = {"files": {}, "tests": {}}
    if MEASURED.exists():
        known = json.loads(MEASURED.read_text(encoding="utf-8"))
    files = {
        str(path): hashlib.sha256((PLACE / path).read_bytes()).hexdigest()
        for place in config().pytest_add_cli_args_test_selection
        for path in sorted(Path(place).rglob("test_*.py"))
    }
    tests = {
        test: Measured(**measured)
        for test, measured in known["tests"].items()
        if known["files"].get(_file_of(test)) == files.get(_file_of(test), "gone")
    }
    stale = [path for path, digest in files.items() if known["files"].get(path) != digest]
    if stale:

        def work() -> int:
            set_mutant_under_test("stats")
            plugin = _Measure()
            status = _pytest(stale, plugin)
            new = {test: asdict(measured) for test, measured in (tests | plugin.tests).items()}
            if status == 0:
                MEASURED.write_text(json.dumps({"files": files, "tests": new}), encoding="utf-8")
            return status

        # In a process of its own: what tests leave behind must not be in those forked later.
        if _in_fork(work) != 0:
            raise RuntimeError("the tests fail on unchanged code")
        stored = json.loads(MEASURED.read_text(encoding="utf-8"))["tests"]
        tests = {test: Measured(**measured) for test, measured in stored.items()}
    return tests


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _in_fork(work: Callable[[], int]) -> int:
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(work()))
    process.start()
    process.join()
    return process.exitcode or 0


# -- what they do on changed code ------------------------------------------------------------------


@dataclass
class _Child:
    """A process that tries one mutant; its pipe tells which test noticed, and ends with it."""

    mutant: str
    pid: int
    pipe: int
    deadline: float


@dataclass(eq=False)
class Loop:
    """Plugin: instead of running the collected tests once, runs some of them for each mutant.

    ``heard`` is called after each, in the project's directory, with mutant, outcome and the test
    that noticed. ``works`` tells afterwards that a change which cannot be overlooked was noticed and
    that none was seen where there was none.
    """

    mutants: Sequence[str]
    tests: Mapping[str, Measured]
    experience: Experience
    heard: Callable[[str, int, str], None]
    patience: float
    children: int
    works: bool = False
    _items: dict[str, pytest.Item] = field(default_factory=dict)
    _pipe: int | None = None

    def pytest_configure(self) -> None:
        """Take the first example that fails: it need not be made small."""
        from hypothesis import Phase, settings  # pytest must be there first, to rewrite it

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", phases=phases, database=None, deadline=None)
        settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One failure is enough; in a process that tries a mutant, which may never end by itself."""
        if report.failed and self._pipe is not None:
            os.write(self._pipe, report.nodeid.encode())
            os._exit(NOTICED)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's loop."""
        self._items = {item.nodeid: item for item in session.items if item.nodeid in self.tests}
        gc.freeze()
        reaching = [test for test in self._items if self.tests[test].functions]
        # mutmut's name for "every function raises", and a name that it has for nothing.
        controls = [self._ended([self._start(name, reaching[:20])])[1] for name in ("fail", "")]
        self.works = controls == [NOTICED, UNNOTICED]
        if self.works:
            for mutant, outcome, test in self._try_all():
                with change_cwd(session.startpath.parent):
                    self.heard(mutant, outcome, test)
        return True

    def _try_all(self) -> Iterator[tuple[str, int, str]]:
        running: list[_Child] = []
        available = {test: self.tests[test] for test in self._items}
        try:
            for mutant in self.mutants:
                chosen = self.experience.tests_for(mutant, available, self.patience)
                if not chosen:
                    yield mutant, NO_TESTS, ""
                    continue
                if len(running) == self.children:
                    yield self._ended(running)
                running.append(self._start(mutant, chosen))
            while running:
                yield self._ended(running)
        finally:
            for child in running:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)

    def _ended(self, running: list[_Child]) -> tuple[str, int, str]:
        """Wait for one child; what takes far longer than its tests do is killed."""
        over: list[int] = []
        while not over:
            over, _, _ = select.select([child.pipe for child in running], [], [], 1)
            for child in running:
                if time.monotonic() > child.deadline:
                    os.kill(child.pid, signal.SIGKILL)
        child = next(child for child in running if child.pipe in over)
        running.remove(child)
        with open(child.pipe, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor
            test = pipe.read()
        outcome = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        return child.mutant, HUNG if outcome == -signal.SIGKILL else outcome, test

    def _start(self, mutant: str, tests: Sequence[str]) -> _Child:
        allowed = 10 * sum(self.tests[test].seconds for test in tests) + 20 * TEST_TIMEOUT
        end, pipe = os.pipe()
        pid = os.fork()
        if pid == 0:
            outcome = BROKEN
            try:
                self._pipe = pipe
                outcome = self._try_one(mutant, tests)
            finally:
                os._exit(outcome)
        os.close(pipe)
        return _Child(mutant, pid, end, time.monotonic() + allowed)

    def _try_one(self, mutant: str, tests: Sequence[str]) -> int:
        set_mutant_under_test(mutant)
        for standard in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), standard)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        items = [self._items[test] for test in tests]
        for item, following in zip(items, [*items[1:], None], strict=True):
            allowed = TEST_TIMEOUT + 10 * self.tests[item.nodeid].seconds
            item.add_marker(pytest.mark.timeout(allowed), append=False)
            computed = int(time.process_time() + allowed) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (computed, most))
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return UNNOTICED


def try_mutants(loop: Loop) -> None:
    """Try the mutants of a loop.

    Raises:
        RuntimeError: the tests cannot be collected, or do not run the changed code at all.
    """
    set_mutant_under_test("")  # the code as it was, while collecting
    # What processes share a file for would be mixed up, so nothing is captured in files.
    arguments = ["--capture=sys", *config().pytest_add_cli_args_test_selection]
    if _pytest(arguments, loop) != 0:
        raise RuntimeError("the tests cannot be collected")
    if not loop.works:
        raise RuntimeError("changed code does not fail, or unchanged code does")
