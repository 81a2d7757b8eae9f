"""`.ci/run` on a machine that lacks things: stand-ins for apt-get and make write down what they are
asked for, since this machine's own programs cannot be taken away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / ".ci" / "run"


@pytest.fixture
def machine(tmp_path):
    """A search path with next to nothing on it, and a way to run the script there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    said = tmp_path / "said"

    def add(name: str, text: str | None = None) -> None:
        program = programs / name
        program.unlink(missing_ok=True)
        if text is None:
            found = shutil.which(name)
            assert found
            program.symlink_to(found)
        else:
            program.write_text(f"#!{shutil.which('bash')}\n{text}\n")
            program.chmod(0o755)

    for name in ("bash", "dirname"):
        add(name)
    add("id", "echo 0")
    add("python3", f'exec "{sys.executable}" "$@"')
    add("apt-get", f'echo "apt-get $*" >> "{said}"')
    add("make", f'echo "make $1 REQUIRE_ALL=$REQUIRE_ALL" >> "{said}"; cat; exit ${{FAIL:-0}}')
    add("cat")

    def run(**environment: str) -> tuple[int, list[str]]:
        said.unlink(missing_ok=True)
        done = subprocess.run(
            [SCRIPT],
            env={"PATH": str(programs), **environment},
            stdin=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        return done.returncode, said.read_text().splitlines() if said.exists() else []

    run.add = add  # type: ignore[attr-defined]
    return run


PROGRAMS = ("caddy", "chromium", "curl", "haproxy", "nginx", "node", "npm", "redis-server")
MAKE = ["make test REQUIRE_ALL=1", "make test-all REQUIRE_ALL=1"]


def test_what_is_missing_is_installed_first(machine):
    status, said = machine()
    assert status == 0
    packages = "caddy chromium curl haproxy nginx nodejs npm redis-server"
    assert said == [
        "apt-get update -qq",
        f"apt-get install -qq -y --no-install-recommends {packages}",
        *MAKE,
    ]


def test_nothing_is_installed_where_nothing_is_missing(machine):
    for name in PROGRAMS:
        machine.add(name, "")
    assert machine() == (0, MAKE)


def test_without_root_nothing_is_installed(machine):
    machine.add("id", "echo 1000")
    status, said = machine()
    assert (status, said) == (0, MAKE)


def test_failure_stops_the_run(machine):
    for name in PROGRAMS:
        machine.add(name, "")
    status, said = machine(FAIL="2")
    assert status == 2
    assert said == MAKE[:1]


def test_script_may_be_run():
    assert os.access(SCRIPT, os.X_OK)
