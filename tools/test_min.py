"""Run the unit tests against the oldest versions that we say we work with.

They are pinned in requirements/min.txt, which says how it is made from min.in. The oldest Python
there is on this machine is used, because that is what such installations have; what was newer than
3.11 when those versions came out has no wheels of them.

    make test-min
    .venv/bin/python tools/test_min.py tests/unit/guard -x     arguments go to pytest
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bootstrap import ROOT, Environment, SetupError, say
from tools.labextension import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUIREMENTS = ROOT / "requirements" / "min.txt"
WORK = ROOT / "build" / "min"

PYTHONS = ("3.10", "3.11")
"""The Pythons that the oldest versions run on, oldest first."""

IGNORED_WARNINGS = (
    # Old packages on newer ones say so at length. All else stays an error.
    "ignore::DeprecationWarning",
    "ignore::PendingDeprecationWarning",
)


def version_of(python: str) -> str:
    """Return "3.10" and the like for an interpreter, or "" if it does not run.

    A command may be there and not run: version managers put stand-ins on the path.
    """
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def find_python() -> str:
    """Return the oldest interpreter on the path that we support, else the running one.

    Raises:
        SetupError: there is none that the oldest versions run on.
    """
    for version in PYTHONS:
        candidate = shutil.which(f"python{version}")
        if candidate and version_of(candidate) == version:
            return candidate
    if version_of(sys.executable) in PYTHONS:
        return sys.executable
    raise SetupError(f"needs Python {' or '.join(PYTHONS)} on the path (Debian: python3.11)")


def prepare() -> Environment:
    """Make the environment with the pinned versions and this package, editable.

    Raises:
        SetupError: it cannot be made.
    """
    environment = Environment(WORK / "venv-{}.{}".format(*sys.version_info))
    environment.path.parent.mkdir(parents=True, exist_ok=True)
    environment.create()
    wanted = digest(REQUIREMENTS)
    if not environment.is_current("min", wanted):
        environment.pip(["install", "-r", REQUIREMENTS], "installing the oldest versions")
        environment.stamp("min").write_text(wanted)
    # Every time, so that our own bounds are held against the pins.
    environment.pip(
        ["install", "--no-build-isolation", "-c", REQUIREMENTS, "-e", ROOT],
        "installing jupyter_token_ws beside them",
    )
    environment.pip(["check"], "checking that they go together")
    return environment


def run_tests(environment: Environment, arguments: Sequence[str]) -> int:
    """Run the tests; return pytest's exit status."""
    command: list[str | Path] = [environment.python, "-m", "pytest", "-p", "no:cacheprovider"]
    command += [option for warning in IGNORED_WARNINGS for option in ("-W", warning)]
    if not any(argument.startswith("tests") for argument in arguments):
        command += ["-n", "auto", "--dist", "loadscope", "tests/unit"]
    command += arguments
    say("the unit tests under Python {}.{}.{} ...".format(*sys.version_info))
    return subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Go over to the oldest Python, prepare and run the tests; return the exit status."""
    try:
        python = find_python()
        if version_of(python) != "{}.{}".format(*sys.version_info):
            again = [python, "-m", "tools.test_min", *arguments]
            return subprocess.run(again, cwd=ROOT, check=False).returncode
        return run_tests(prepare(), arguments)
    except SetupError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
