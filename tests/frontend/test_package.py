"""The TypeScript package: its own checks and tests pass, and what it ships is complete."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.plugins.programs import FRONTEND, requires, requires_node_package


@pytest.fixture
def npm() -> str:
    requires_node_package("vitest", FRONTEND / "node_modules")
    return requires("npm", "npm")


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=FRONTEND, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def test_types_and_format(npm):
    run(npm, "run", "lint")


@pytest.mark.timeout(300)
def test_its_own_tests_and_their_coverage(npm, tmp_path):
    out = str(tmp_path / "coverage")
    run(npm, "test", "--", f"--coverage.reportsDirectory={out}")
    total = json.loads(Path(out, "coverage-summary.json").read_text())["total"]
    # The gate is in vitest.config.ts; this sees that it had something to judge.
    assert total["branches"]["total"] > 200
    assert total["branches"]["pct"] >= 95


def test_javascript_runs_without_a_bundler(npm, tmp_path):
    compiler = FRONTEND / "node_modules" / "typescript" / "bin" / "tsc"
    node = requires("node", "nodejs")
    lib = tmp_path / "lib"
    run(node, str(compiler), "-p", "tsconfig.build.json", "--outDir", str(lib))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    script = f"import {{ MARKER }} from {json.dumps(str(lib / 'index.js'))}; console.log(MARKER)"
    told = run(node, "--input-type=module", "--eval", script)
    assert told.strip() == "v1.token.websocket.jupyter.org"
    assert {path.stem for path in lib.glob("*.js")} == {
        path.name.removesuffix(".d.ts") for path in lib.glob("*.d.ts")
    }


def test_lock_names_no_registry():
    lock = (FRONTEND / "package-lock.json").read_text()
    assert '"integrity"' in lock
    # The addresses in it are those of people who take donations.
    assert not [word for word in ('"resolved"', "registry", ".tgz", "file:") if word in lock]
