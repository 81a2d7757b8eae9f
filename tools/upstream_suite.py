"""Run upstream's own test suite twice: as it is, and with this extension forced on everywhere.

The tests are those of the source distribution of jupyter_server. They run against the installed
jupyter_server in an environment of their own, under build/upstream. The stock run cannot see this
package at all; in the other run a plugin (upstream_plugin.py) enables the extension for every
server that a test starts, and counts them.

    make test-upstream                                                      both, compared
    .venv/bin/python tools/upstream_suite.py --only-ours -- -k kernel -x    as you like it

What stands after `--` goes to pytest. Each run takes about 90 seconds on four cores.

The exit status is 0 when every server had the extension on and no test fails that passes without
it, but for those listed in `EXPECTED_TO_DIFFER`. A few upstream tests count on a quiet machine: one
that fails, in either run, is tried once more on its own, and reported as unsteady, by name, if it
then passes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bootstrap import LOCK, ROOT, Environment, SetupError, say
from tools.labextension import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "2.21.1"
EXTENSION = "jupyter_token_ws"

WORK = ROOT / "build" / "upstream"
REQUIREMENTS = ROOT / "requirements" / "upstream.txt"

LEAST_PASSED = 1000
"""The whole suite has 1,150 tests that pass; far fewer means that it was not found."""

MOST_TRIED_AGAIN = 10
"""More failures than this are no accident of timing."""

TIMEOUT = 1500
"""Seconds for one run; single tests have upstream's own limit of 100."""

LEFT_OUT = {
    "tests/extension/test_launch.py": (
        "starts servers as root without --allow-root: fails without the extension too, and what it"
        " leaves behind makes later tests fail"
    ),
}
"""Files that do not run at all, and why."""

IGNORED_WARNINGS = (
    # tornado 6.6 deprecates how upstream's own tests construct their requests.
    "ignore:The method, uri, and version arguments to HTTPServerRequest:DeprecationWarning",
    "ignore:The start_line argument to HTTPServerRequest:DeprecationWarning",
)

EXPECTED_TO_DIFFER = {
    "tests/extension/test_app.py::test_stop_extension": (
        "asserts the exact set of extensions and the exact log lines of their end"
    ),
}
"""Tests that may fail with the extension on, and why."""


class RunError(Exception):
    """pytest did not get as far as results; the text says what to look at."""


@dataclass
class Result:
    """What one run came to."""

    name: str
    outcomes: dict[str, str]
    """Test id to `passed`, `failed`, `skipped` or `xfailed`."""
    failures: dict[str, str]
    """Test id to the phase and the first line of the exception."""
    counts: dict[str, int]
    seconds: float

    def number(self, outcome: str) -> int:
        """Count the tests with *outcome*."""
        return Counter(self.outcomes.values())[outcome]

    def failed(self) -> set[str]:
        """Return the ids of the tests that failed."""
        return {test for test, outcome in self.outcomes.items() if outcome == "failed"}


def prepare_environment() -> Environment:
    """Make the environment: jupyter_server with its test extras, without this package."""
    environment = Environment(WORK / "venv")
    environment.path.parent.mkdir(parents=True, exist_ok=True)
    environment.create()
    wanted = digest(LOCK, REQUIREMENTS, VERSION)
    if not environment.is_current("upstream", wanted):
        environment.pip(
            ["install", f"jupyter_server[test]=={VERSION}", "-r", REQUIREMENTS, "-c", LOCK],
            f"installing jupyter_server {VERSION} and what its tests need",
        )
        environment.stamp("upstream").write_text(wanted)
    return environment


def prepare_suite(environment: Environment) -> Path:
    """Fetch the source distribution and unpack its tests; return the folder they stand in.

    Only the tests: with the sources beside them pytest would import those, not what is installed.
    """
    suite = WORK / f"suite-{VERSION}"
    if suite.is_dir():
        return suite
    downloads = WORK / "downloads"
    if not list(downloads.glob("*.tar.gz")):
        environment.pip(
            [
                *("download", "--no-deps", "--no-binary", "jupyter_server", "-d"),
                *(downloads, f"jupyter_server=={VERSION}"),
            ],
            f"downloading the source distribution of jupyter_server {VERSION}",
        )
    (archive,) = downloads.glob("*.tar.gz")
    unpacked = WORK / "unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as source:
        top = Path(source.getnames()[0]).parts[0]
        kept = [f"{top}/tests/", f"{top}/pyproject.toml"]
        members = [member for member in source if member.name.startswith(tuple(kept))]
        source.extractall(unpacked, members=members, filter="data")
    (unpacked / top).rename(suite)
    unpacked.rmdir()
    return suite


def prepare_package(environment: Environment) -> Path:
    """Build and install this package into a folder that only our run has on its path."""
    site = WORK / "site"
    shutil.rmtree(site, ignore_errors=True)
    environment.pip(
        ["install", "--no-deps", "--target", site, ROOT], "installing jupyter_token_ws beside it"
    )
    return site


def run_suite(
    name: str,
    environment: Environment,
    suite: Path,
    *,
    site: Path | None,
    jobs: int,
    arguments: Sequence[str],
) -> Result:
    """Run the tests once.

    Args:
        name: what to call the run.
        environment: where jupyter_server is installed.
        suite: the folder with upstream's `tests`.
        site: the folder with this package, to force it on; None for a stock run.
        jobs: processes of pytest-xdist; 0 runs without it.
        arguments: for pytest, in addition to ours.

    Raises:
        RunError: pytest ended without results.
    """
    report = WORK / f"{name}.json"
    report.unlink(missing_ok=True)
    command: list[str | Path] = [environment.python, "-m", "pytest", "-p", "upstream_plugin"]
    command += ["--upstream-report", report]
    if site is not None:
        command += ["--upstream-extension", EXTENSION]
    # By file: tests of one module share fixed ports, and the results are those of a serial run.
    command += ["-n", str(jobs), "--dist", "loadfile"] if jobs else ["-p", "no:xdist"]
    command += ["-q", "--color=no", "--no-showlocals", "--tb=short", "-p", "no:cacheprovider"]
    command += [option for path in LEFT_OUT for option in ("--ignore", path)]
    command += [option for warning in IGNORED_WARNINGS for option in ("-W", warning)]
    command += arguments
    if not any(argument.startswith("tests") for argument in arguments):
        command.append("tests")
    output = WORK / f"{name}.log"
    say(f"upstream's tests, {name}, in {jobs or 1} process(es); output in {output} ...")
    begun = time.monotonic()
    with output.open("w") as log:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=suite,
            env=clean_environ(environment, site),
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
    if done.returncode not in {0, 1} or not report.is_file():
        tail = "\n".join(output.read_text(errors="replace").splitlines()[-30:])
        raise RunError(f"pytest ended with status {done.returncode}, see {output}:\n{tail}")
    found = json.loads(report.read_text())
    return Result(
        name,
        outcomes=found["outcomes"],
        failures=found["failures"],
        counts=found["counts"],
        seconds=time.monotonic() - begun,
    )


def clean_environ(environment: Environment, site: Path | None) -> dict[str, str]:
    """Return environment variables for a run, without the caller's Jupyter and pytest settings."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "PYTEST", "COVERAGE", "PYTHONPATH", "PYTHONWARNINGS"))
    }
    # Upstream's tests call `jupyter server ...` by name.
    environ["PATH"] = os.pathsep.join([str(environment.python.parent), environ.get("PATH", "")])
    path = [ROOT / "tools"] if site is None else [ROOT / "tools", site]
    environ["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return environ


def try_again(
    result: Result, suspects: set[str], environment: Environment, suite: Path, site: Path | None
) -> set[str]:
    """Run *suspects* on their own; take over what they come to; return those that now pass."""
    if not suspects or len(suspects) > MOST_TRIED_AGAIN:
        return set()
    again = run_suite(
        f"{result.name}-again",
        environment,
        suite,
        site=site,
        jobs=0,
        arguments=sorted(suspects),
    )
    unsteady = {test for test in suspects if again.outcomes.get(test) == "passed"}
    for test in unsteady:
        result.outcomes[test] = "passed"
    return unsteady


def print_table(results: Sequence[Result]) -> None:
    """Print what the runs came to, a line each."""
    columns = ("passed", "failed", "skipped", "xfailed")
    counts = {
        "servers": "servers",
        "with it on": "servers_with_extension",
        "upgrades": "upgrades",
        "guarded": "upgrades_guarded",
    }
    print(f"\nUpstream's own tests, jupyter_server {VERSION}")
    print(f"{'':8}" + "".join(f"{title:>12}" for title in (*columns, *counts, "seconds")))
    for result in results:
        numbers: list[int] = [result.number(column) for column in columns]
        numbers += [result.counts.get(key, 0) for key in counts.values()]
        cells = "".join(f"{number:>12,}" for number in (*numbers, round(result.seconds)))
        print(f"{result.name:8}{cells}")


def judge_coverage(ours: Result) -> list[str]:
    """Say what is wrong if the extension did not stand where it should have."""
    servers = ours.counts.get("servers", 0)
    extended = ours.counts.get("servers_with_extension", 0)
    problems = []
    if not servers or extended != servers:
        problems.append(f"the extension was on for {extended} of {servers} servers")
    if ours.counts.get("upgrades", 0) and not ours.counts.get("upgrades_guarded", 0):
        problems.append("no websocket handler was guarded")
    return problems


def find_differing(stock: Result | None, ours: Result) -> set[str]:
    """Return the tests that came to something else; without a stock run, those that failed."""
    if stock is None:
        return ours.failed()
    return {
        test
        for test in {*stock.outcomes, *ours.outcomes}
        if stock.outcomes.get(test) != ours.outcomes.get(test)
    }


def judge(stock: Result | None, ours: Result | None, unsteady: set[str], *, whole: bool) -> int:
    """Print the tests that differ and what follows; return the exit status."""
    done = [result for result in (stock, ours) if result]
    print_table(done)
    problems = [
        f"{result.name}: only {result.number('passed')} tests passed"
        for result in done
        if whole and result.number("passed") < LEAST_PASSED
    ]
    if ours is None:
        return finish(problems + [f"stock fails {test}" for test in sorted(stock_failed(stock))])
    problems += judge_coverage(ours)
    differing = find_differing(stock, ours) | unsteady
    if differing:
        print("\nTests that differ")
    for test in sorted(differing):
        before = stock.outcomes.get(test, "absent") if stock else "not run"
        now = ours.outcomes.get(test, "absent")
        print(f"  {test}: stock {before}, ours {now}")
        for result in done:
            if test in result.failures:
                print(f"      {result.name}: {result.failures[test]}")
        if test in unsteady:
            print("      unsteady: failed once among the others, passed on its own")
        elif test in EXPECTED_TO_DIFFER:
            print(f"      expected: it {EXPECTED_TO_DIFFER[test]}")
        elif now != "passed" and before != "failed":
            problems.append(f"ours: {test} {now}")
    return finish(problems)


def stock_failed(stock: Result | None) -> set[str]:
    """Return the tests that fail without the extension, if it was tried."""
    return stock.failed() if stock else set()


def finish(problems: Sequence[str]) -> int:
    """Print the verdict."""
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("\nupstream suite:", "failed" if problems else "ok")
    return 1 if problems else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, run, compare."""
    parser = argparse.ArgumentParser(
        description="Run upstream's own tests as they are and with the extension on everywhere.",
        epilog="What stands after -- goes to pytest.",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only-stock", action="store_true", help="run without the extension only")
    only.add_argument("--only-ours", action="store_true", help="run with the extension only")
    jobs = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=jobs, help="processes; 0: no pytest-xdist")
    parser.add_argument("pytest", nargs="*", metavar="PYTEST_ARGUMENT")
    options = parser.parse_args(arguments)
    try:
        environment = prepare_environment()
        suite = prepare_suite(environment)
        stock = ours = None
        unsteady: set[str] = set()
        if not options.only_ours:
            stock = run_suite(
                "stock",
                environment,
                suite,
                site=None,
                jobs=options.jobs,
                arguments=options.pytest,
            )
        if not options.only_stock:
            site = prepare_package(environment)
            ours = run_suite(
                "ours",
                environment,
                suite,
                site=site,
                jobs=options.jobs,
                arguments=options.pytest,
            )
            suspects = ours.failed() - set(EXPECTED_TO_DIFFER)
            unsteady |= try_again(ours, suspects, environment, suite, site)
        if stock:
            # One that stock fails by accident must not excuse a failure of ours.
            unsteady |= try_again(stock, stock.failed(), environment, suite, None)
    except (SetupError, RunError, subprocess.TimeoutExpired) as error:
        say(str(error))
        return 2
    return judge(stock, ours, unsteady, whole=not options.pytest)


if __name__ == "__main__":
    sys.exit(main())
