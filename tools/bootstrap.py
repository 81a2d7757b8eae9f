"""Make the environment the Makefile's targets run in: `.venv` and the node packages of the tests.

Runs under whatever Python starts it and uses the standard library only. Every step leaves a stamp
that names what it was made from, so a second run is quick and a changed lock file, a changed
project file, another Python or a moved checkout repeats just the steps that it concerns.

    python -m tools.bootstrap demo   the package and a kernel
    python -m tools.bootstrap dev    everything in requirements/dev.lock, the node packages, and the part
                                     for JupyterLab and Notebook
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tools.labextension import INSTALL, digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
MINIMUM = (3, 10)
LOCK = ROOT / "requirements" / "dev.lock"
NODE = (ROOT / "tests" / "node", ROOT / "frontend", ROOT / "frontend" / "lab")


class SetupError(Exception):
    """Set-up cannot go on; the text says what to do."""


def say(text: str) -> None:
    """Tell the person who waits what is happening."""
    print(f"[set-up] {text}", flush=True)


def run(command: Sequence[str | Path], what: str) -> None:
    """Run *command*, saying *what* it is for and how long it took.

    Raises:
        SetupError: the command failed.
    """
    say(f"{what} ...")
    begun = time.monotonic()
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if done.returncode:
        raise SetupError(f"{what} failed (exit status {done.returncode}), see above")
    say(f"{what}: done in {time.monotonic() - begun:.0f} s")


class Environment:
    """A virtual environment whose steps are remembered by stamps inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python = path / scripts / ("python.exe" if os.name == "nt" else "python")
        # An interpreter upgraded in place and a checkout moved elsewhere both break a venv.
        self.origin = f"{sys.version}|{sys.base_prefix}|{path}"

    def stamp(self, name: str) -> Path:
        """Return the file that remembers the step called *name*."""
        return self.path / f".stamp-{name}"

    def is_current(self, name: str, value: str) -> bool:
        """Tell whether the step called *name* was last done for *value*."""
        stamp = self.stamp(name)
        return stamp.is_file() and stamp.read_text() == value

    def create(self) -> None:
        """Create the environment, anew if it was made by another Python or for another place."""
        if self.python.exists() and self.is_current("origin", self.origin):
            return
        if self.path.exists():
            say("the environment was made by another Python or elsewhere: making it anew")
            shutil.rmtree(self.path)
        version = ".".join(map(str, sys.version_info[:3]))
        try:
            run([sys.executable, "-m", "venv", self.path], f"creating {self.path.name} ({version})")
        except SetupError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise SetupError(
                f"{error}; on Debian and Ubuntu install the package python3-venv"
            ) from None
        self.stamp("origin").write_text(self.origin)

    def pip(self, arguments: Sequence[str | Path], what: str) -> None:
        """Run pip inside the environment."""
        options = ["--disable-pip-version-check", "--no-input", "--quiet"]
        run([self.python, "-m", "pip", *options, *arguments], what)

    def install_locked(self) -> None:
        """Install everything that the lock names."""
        wanted = digest(LOCK)
        if self.is_current("locked", wanted):
            return
        self.stamp("locked").unlink(missing_ok=True)
        self.pip(["install", "-r", LOCK], "installing the locked packages")
        self.stamp("locked").write_text(wanted)

    def install_package(self) -> None:
        """Install the package, editable, and what it needs for the demo, with the lock's versions."""
        # What the metadata and the shared data of an editable install are made from.
        wanted = digest(
            LOCK,
            ROOT / "pyproject.toml",
            ROOT / "jupyter_token_ws" / "_version.py",
            ROOT / "tools" / "labextension.py",  # the build hook
            *sorted((ROOT / "jupyter-config").rglob("*.json")),
        )
        if self.is_current("package", wanted):
            return
        self.stamp("package").unlink(missing_ok=True)
        # Without build isolation, so that the backend is of the locked version too.
        self.pip(["install", "-c", LOCK, "hatchling", "editables"], "installing the build backend")
        self.pip(
            ["install", "-c", LOCK, "--no-build-isolation", "-e", f"{ROOT}[demo]"],
            "installing jupyter_token_ws",
        )
        self.stamp("package").write_text(wanted)


def install_node_packages() -> None:
    """Install the node packages that tests and frontend use as they are locked; without npm, say so.

    The tests that need them are then skipped, or fail under REQUIRE_ALL=1.
    """
    npm = shutil.which("npm")
    if npm is None:
        say(
            "npm is missing (Debian package npm): tests that run node will be skipped, and the part"
            " for JupyterLab and Notebook is not built"
        )
        return
    for place in NODE:
        stamp = place / "node_modules" / ".stamp"
        wanted = digest(place / "package-lock.json")
        if stamp.is_file() and stamp.read_text() == wanted:
            continue
        run(
            [npm, *INSTALL, "--prefix", place],
            f"installing the node packages of {place.relative_to(ROOT)}",
        )
        stamp.write_text(wanted)


def install_lab_extension(environment: Environment) -> None:
    """Build the part for JupyterLab and Notebook if its sources changed, and link it in."""
    if shutil.which("npm") is not None:
        program = ROOT / "tools" / "labextension.py"
        command = [environment.python, program, "--link", environment.path]
        if subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode:
            raise SetupError("building the part for JupyterLab and Notebook failed, see above")


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Let one set-up at a time work on this checkout: `make` may be called twice at once."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock, no harm but in a race
        yield
        return
    with (ROOT / ".setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another set-up of this checkout")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring the environment up to date."""
    parser = argparse.ArgumentParser(description="Make .venv ready; quick when it is.")
    parser.add_argument("kind", choices=["demo", "dev"])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    options = parser.parse_args(arguments)
    if sys.version_info < MINIMUM:
        say(f"Python {'.'.join(map(str, MINIMUM))} or newer is needed: make PYTHON=python3.11 ...")
        return 1
    try:
        with only_one():
            environment = Environment(options.venv.resolve())
            environment.create()
            if options.kind == "dev":
                environment.install_locked()
            environment.install_package()
            if options.kind == "dev":
                install_node_packages()
                install_lab_extension(environment)
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
