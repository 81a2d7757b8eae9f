"""Build what JupyterLab and Notebook load: `jupyter_token_ws/labextension`, from `frontend/`.

    python tools/labextension.py                 build it if its sources changed
    python tools/labextension.py --link .venv    and let JupyterLab of this environment load it

The same file is hatch's build hook (pyproject.toml), so it uses the standard library only:

- a wheel carries the extension where JupyterLab looks, and is built without, with a warning, where
  there is no Node;
- a source distribution carries it as it was built, so that installing from there needs no Node;
- an editable install has nothing to carry: `make env` links the folder into the environment.

What was built names the sources it was built from, by their digest: it is not built again before one
of them changes, wherever it went meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    _Hook = BuildHookInterface[Any]
else:
    try:
        from hatchling.builders.hooks.plugin.interface import BuildHookInterface as _Hook
    except ImportError:  # as a program it needs none of that
        _Hook = object

ROOT = Path(__file__).resolve().parent.parent
NAME = "jupyter_token_ws"
SHARED = f"share/jupyter/labextensions/{NAME}"
"""Where JupyterLab looks, below an environment."""

_SOURCES = (
    "frontend/package.json",
    "frontend/tsconfig*.json",
    "frontend/src/**/*.ts",
    "frontend/lab/package*.json",
    "frontend/lab/install.json",
    "frontend/lab/tsconfig*.json",
    "frontend/lab/*.cjs",
    "frontend/lab/src/**/*",
    "frontend/lab/schema/**/*",
    "frontend/lab/style/**/*",
)
_DIGEST = "sources"
"""The member of the built package.json that names what it was built from."""

# Not `npm ci`: it wants the lock to name the packages of every other platform, which npm leaves out
# where the registry does not have them. The versions are the lock's all the same.
INSTALL = ("install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts")


class NoNodeError(Exception):
    """It cannot be built on this machine; the text says what is missing."""


def digest(*parts: str | Path) -> str:
    """Sum up texts and the contents of files, in order."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


class LabExtension:
    """The extension of one checkout, or of an unpacked source distribution."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.package = root / "frontend" / "lab"
        self.built = root / NAME / "labextension"

    def sources(self) -> list[Path]:
        """The files it is made from, in an order that is always the same."""
        found = {file for pattern in _SOURCES for file in self.root.glob(pattern) if file.is_file()}
        return sorted(found)

    def _sum(self) -> str:
        names = (file.relative_to(self.root).as_posix() for file in self.sources())
        return digest(*(part for name in names for part in (name, self.root / name)))

    def exists(self) -> bool:
        """Whether there is one, of whatever sources."""
        return (self.built / "package.json").is_file()

    def is_current(self) -> bool:
        """Whether there is one of just these sources."""
        try:
            known = json.loads((self.built / "package.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return bool(known.get(_DIGEST) == self._sum())

    def build(self) -> bool:
        """Make it current; whether that took any work.

        Raises:
            NoNodeError: node or npm is missing, or npm could not get the packages.
            subprocess.CalledProcessError: the sources cannot be built.
        """
        if self.is_current():
            return False
        with _only_one(self.root):
            if self.is_current():  # by now
                return False
            wanted = self._sum()
            node, npm = shutil.which("node"), shutil.which("npm")
            if node is None or npm is None:
                missing = "npm" if node else "node"
                raise NoNodeError(f"{missing} is missing (Debian packages nodejs and npm)")
            print("building the part for JupyterLab and Notebook ...", file=sys.stderr, flush=True)
            self.install(npm)
            subprocess.run([node, "build.cjs"], cwd=self.package, check=True, stdout=sys.stderr)
            file = self.built / "package.json"
            known = json.loads(file.read_text("utf-8"))
            # Last, so that what was interrupted does not look finished.
            text = json.dumps({**known, _DIGEST: wanted}, indent=2) + "\n"
            file.write_text(text, "utf-8", newline="\n")
        return True

    def install(self, npm: str) -> None:
        """Get the node packages that it is built with, by the lock's versions.

        Raises:
            NoNodeError: npm could not.
        """
        lock = digest(self.package / "package-lock.json")
        stamp = self.package / "node_modules" / ".stamp"
        if stamp.is_file() and stamp.read_text() == lock:
            return
        try:
            subprocess.run([npm, *INSTALL], cwd=self.package, check=True, stdout=sys.stderr)
        except subprocess.CalledProcessError as error:
            raise NoNodeError(
                f"npm could not get the packages (status {error.returncode})"
            ) from None
        stamp.write_text(lock)

    def link(self, prefix: Path) -> None:
        """Let JupyterLab of the environment at ``prefix`` load it from here, as it is at any time."""
        place = prefix / SHARED
        if place.is_symlink() and place.resolve() == self.built.resolve():
            return
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(self.built, target_is_directory=True)


class LabExtensionHook(_Hook):
    """What hatch calls before it builds a distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the extension, and name it as a part of what is built."""
        extension = LabExtension(Path(self.root))
        if self.target_name == "sdist":
            # One without it could be installed with Node only, and would not say so.
            try:
                extension.build()
            except NoNodeError as error:
                self.app.abort(f"{NAME}: {error}: a source distribution must carry what is built")
            # Not as an artifact: hatch looks at each folder once, under whatever link it comes first.
            build_data["force_include"][str(extension.built)] = f"{NAME}/labextension"
        elif self.target_name == "wheel" and version != "editable":
            try:
                extension.build()
            except NoNodeError as error:
                what = "is not the newest" if extension.exists() else "is left out"
                self.app.display_warning(
                    f"{NAME}: {error}: the part for JupyterLab and Notebook {what}, the server's is"
                    " complete."
                )
            if extension.exists():
                build_data["shared_data"][str(extension.built)] = SHARED


@contextlib.contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Let one build at a time work on these sources: tests build distributions side by side."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock, no harm but in a race
        yield
        return
    with (root / ".labextension.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Build it."""
    parser = argparse.ArgumentParser(description="Build what JupyterLab loads; quick when it is.")
    parser.add_argument("--link", type=Path, metavar="ENVIRONMENT")
    options = parser.parse_args(arguments)
    extension = LabExtension()
    try:
        extension.build()
    except (NoNodeError, subprocess.CalledProcessError) as error:
        print(f"the part for JupyterLab and Notebook is not built: {error}", file=sys.stderr)
        return 1
    if options.link:
        extension.link(options.link)
    return 0


if __name__ == "__main__":
    sys.exit(main())
