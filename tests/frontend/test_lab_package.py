"""The TypeScript of the part for JupyterLab and Notebook: its own checks and tests pass."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.plugins.programs import FRONTEND, requires, requires_node_package

LAB = FRONTEND / "lab"


@pytest.fixture
def npm() -> str:
    requires_node_package("vitest", LAB / "node_modules")
    return requires("npm", "npm")


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=LAB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_types_and_format(npm):
    run(npm, "run", "lint")


@pytest.mark.timeout(300)
def test_its_own_tests_and_their_coverage(npm, tmp_path):
    out = str(tmp_path / "coverage")
    run(npm, "test", "--", f"--coverage.reportsDirectory={out}")
    total = json.loads(Path(out, "coverage-summary.json").read_text())["total"]
    # The gate is in vitest.config.ts; this sees that it had something to judge.
    assert total["branches"]["total"] > 100
    assert total["branches"]["pct"] >= 95


def test_settings_plugin_brings_along_nothing_that_a_frontend_may_lack():
    # What these import is loaded before the page shows, and one part that is not there is enough to
    # lose the whole.
    for name in ("index.ts", "settings.ts", "bus.ts"):
        lines = (LAB / "src" / name).read_text().splitlines()
        imports = [line for line in lines if " from '@" in line and "import type" not in line]
        for line in imports:
            assert "'@jupyterlab/services'" in line or "'@jupyterlab/coreutils'" in line, line


def test_lock_names_no_registry():
    lock = (LAB / "package-lock.json").read_text()
    assert '"integrity"' in lock
    assert not [word for word in ('"resolved"', "registry.", ".tgz", "file:") if word in lock]
