"""The TypeScript packages: their own checks and tests pass, and what is shipped of them is complete."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.plugins.programs import FRONTEND, requires, requires_node_package

LAB = FRONTEND / "lab"


@pytest.fixture
def folder() -> Path:
    """Where the package is that a test is about, if not about each."""
    return FRONTEND


@pytest.fixture
def npm(folder: Path) -> str:
    requires_node_package("vitest", folder / "node_modules")
    return requires("npm", "npm")


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(FRONTEND, id="frontend"),
        pytest.param(LAB, id="lab", marks=pytest.mark.timeout(300)),
    ],
)
def test_types_and_format(folder, npm):
    run(folder, npm, "run", "lint")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("folder", "least"), [(FRONTEND, 200), (LAB, 100)], ids=["frontend", "lab"]
)
def test_its_own_tests_and_their_coverage(folder, least, npm, tmp_path):
    out = str(tmp_path / "coverage")
    run(folder, npm, "test", "--", f"--coverage.reportsDirectory={out}")
    total = json.loads(Path(out, "coverage-summary.json").read_text())["total"]
    # The gate is in vitest.config.ts; this sees that it had something to judge.
    assert total["branches"]["total"] > least
    assert total["branches"]["pct"] >= 95


def test_javascript_runs_without_a_bundler(npm, tmp_path):
    compiler = FRONTEND / "node_modules" / "typescript" / "bin" / "tsc"
    node = requires("node", "nodejs")
    lib = tmp_path / "lib"
    run(FRONTEND, node, str(compiler), "-p", "tsconfig.build.json", "--outDir", str(lib))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    script = f"import {{ MARKER }} from {json.dumps(str(lib / 'index.js'))}; console.log(MARKER)"
    told = run(FRONTEND, node, "--input-type=module", "--eval", script)
    assert told.strip() == "v1.token.websocket.jupyter.org"
    assert {path.stem for path in lib.glob("*.js")} == {
        path.name.removesuffix(".d.ts") for path in lib.glob("*.d.ts")
    }


def test_settings_plugin_brings_along_nothing_that_a_frontend_may_lack():
    # What these import is loaded before the page shows, and one part that is not there is enough to
    # lose the whole.
    for name in ("index.ts", "settings.ts", "bus.ts"):
        lines = (LAB / "src" / name).read_text().splitlines()
        imports = [line for line in lines if " from '@" in line and "import type" not in line]
        for line in imports:
            assert "'@jupyterlab/services'" in line or "'@jupyterlab/coreutils'" in line, line


@pytest.mark.parametrize(
    ("folder", "registry"),
    # Packages of JupyterLab's are called `docregistry` and `settingregistry`. Addresses as such may be there:
    # those of people who take donations.
    [(FRONTEND, "registry"), (LAB, "registry.")],
    ids=["frontend", "lab"],
)
def test_lock_names_no_registry(folder, registry):
    lock = (folder / "package-lock.json").read_text()
    assert '"integrity"' in lock
    assert not [word for word in ('"resolved"', registry, ".tgz", "file:") if word in lock]
