"""What is in the wheel and the source distribution, and that installing is enabling."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.plugins.programs import requires
from tools.labextension import SHARED, LabExtension

ROOT = Path(__file__).parent.parent.parent
CONFIG = "etc/jupyter/jupyter_server_config.d/jupyter_token_ws.json"


def run_build(
    source: Path, target: str, into: Path, *, node: bool = True
) -> subprocess.CompletedProcess[str]:
    """Build one distribution as a build frontend without isolation does."""
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)],
        cwd=source,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ if node else {**os.environ, "PATH": str(into)},
    )


def build(source: Path, target: str, into: Path, *, node: bool = True) -> Path:
    done = run_build(source, target, into, node=node)
    assert done.returncode == 0, done.stderr
    (built,) = into.iterdir()
    return built


def unpack(sdist: Path, into: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    (source,) = into.iterdir()
    return source


@pytest.fixture(scope="module", autouse=True)
def lab_extension():
    """The part for JupyterLab, which wheel and sdist carry: built, or to be had by building."""
    extension = LabExtension()
    if not extension.is_current():
        requires("node", "nodejs")
        requires("npm", "npm")
    return extension


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture
def installed(wheel, tmp_path):
    """A prefix with what the wheel installs, and nothing else."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--ignore-installed", "--root-user-action=ignore",
         "--no-warn-script-location", "--prefix", str(tmp_path), str(wheel)],
        check=True,
    )  # fmt: skip
    return tmp_path


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def names_in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def metadata(wheel: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(name).decode())
    return {key: message.get_all(key, []) for key in set(message.keys())}


def test_wheel_has_the_whole_package_with_types_and_schemas(wheel):
    names = names_in_wheel(wheel)
    package = ROOT / "jupyter_token_ws"
    assert {
        "jupyter_token_ws/py.typed",
        "jupyter_token_ws/protocol/capabilities.schema.json",
        "jupyter_token_ws/guard/event_schemas/socket_refused/v1.yaml",
    } <= names
    sources = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "*.json", "*.yaml")
        for path in package.rglob(pattern)
        if package / "labextension" not in path.parents
    }
    assert sources <= names


def test_wheel_has_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in names_in_wheel(wheel)}
    stem = "-".join(wheel.name.split("-")[:2])
    assert tops == {"jupyter_token_ws", f"{stem}.dist-info", f"{stem}.data"}


def test_wheel_has_the_part_for_jupyterlab_where_jupyterlab_looks(wheel, lab_extension):
    names = names_in_wheel(wheel)
    stem = "-".join(wheel.name.split("-")[:2])
    carried = {name.partition(f"{stem}.data/data/{SHARED}/")[2] for name in names if SHARED in name}
    built = {
        file.relative_to(lab_extension.built).as_posix()
        for file in lab_extension.built.rglob("*")
        if file.is_file()
    }
    assert carried == built
    assert {"install.json", "package.json", "schemas/jupyter_token_ws/ui.json"} <= carried
    entry = json.loads((lab_extension.built / "package.json").read_text())["jupyterlab"]["_build"]
    assert entry["load"] in carried
    # Once is enough.
    assert [name for name in names if name.startswith("jupyter_token_ws/labextension")] == []


def test_installing_the_wheel_enables_the_extension(installed):
    config = json.loads((installed / CONFIG).read_text())
    assert config == {"ServerApp": {"jpserver_extensions": {"jupyter_token_ws": True}}}
    scripts = [
        p.name for p in installed.rglob("jupyter-token-ws*") if p.parent.name != "site-packages"
    ]
    assert scripts == ["jupyter-token-ws"]


def test_jupyterlab_lists_what_the_wheel_installed(installed):
    pytest.importorskip("jupyterlab", reason="it is not among the oldest versions")
    environment = {name: value for name, value in os.environ.items() if "JUPYTER" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "list", "--verbose"],
        env={**environment, "JUPYTER_PATH": str(installed / "share/jupyter"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = done.stdout + done.stderr
    ours = told[told.index(str(installed)) :]
    line = next(line for line in ours.splitlines() if "jupyter_token_ws v" in line)
    assert [
        word for word in ("enabled", "OK", "python, jupyter_token_ws") if word not in line
    ] == []


def test_extension_is_enabled_where_the_tests_run():
    assert json.loads((Path(sys.prefix) / CONFIG).read_text())


def test_metadata_names_version_licence_and_little_else_to_install(wheel):
    found = metadata(wheel)
    namespace: dict[str, str] = {}
    exec((ROOT / "jupyter_token_ws" / "_version.py").read_text(), namespace)
    assert found["Version"] == [namespace["__version__"]]
    assert found["License-Expression"] == ["BSD-3-Clause"]
    assert found["License-File"] == ["LICENSE"]
    assert found["Requires-Python"] == [">=3.10"]
    plain = [line for line in found["Requires-Dist"] if "extra ==" not in line]
    # Only what a Jupyter server brings along anyway.
    allowed = ("jupyter-server", "jupyter_server", "tornado", "traitlets", "jupyter-core")
    assert plain
    assert all(line.startswith(allowed) for line in plain), plain


@pytest.mark.parametrize(
    ("extra", "packages"),
    [("demo", {"ipykernel"}), ("redis", {"cryptography", "redis"}), ("sealed", {"cryptography"})],
)
def test_metadata_names_what_an_extra_brings(wheel, extra, packages):
    found = metadata(wheel)
    assert extra in found["Provides-Extra"]
    lines = [line for line in found["Requires-Dist"] if f"extra == '{extra}'" in line]
    assert {re.split(r"[<>=!~; ]", line)[0] for line in lines} == packages


def test_sdist_has_what_packagers_need(sdist):
    names = names_in_sdist(sdist)
    expected = {
        "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO", "README.md",
        "docs/reference/conformance.md", "frontend/package-lock.json", "frontend/src/index.ts",
        "frontend/lab/build.cjs", "frontend/lab/package-lock.json", "frontend/lab/src/index.ts",
        "pyproject.toml", "requirements/dev.lock",
        "jupyter-config/jupyter_server_config.d/jupyter_token_ws.json", "tests/conftest.py",
        "tests/node/package-lock.json", "tests/unit/test_packaging.py", "tools/bootstrap.py",
    }  # fmt: skip
    assert expected <= names


def test_sdist_has_nothing_that_is_made(sdist):
    made = (
        "/node_modules/",
        "frontend/lib/",
        "frontend/coverage/",
        "frontend/lab/lib/",
        "frontend/lab/coverage/",
        "/__pycache__/",
        "docs/_build/",
        ".venv",
        ".pyc",
        ".coverage",
    )
    assert [name for name in names_in_sdist(sdist) if any(part in name for part in made)] == []


def test_wheel_built_from_the_sdist_is_the_same_and_needs_no_node(wheel, sdist, tmp_path):
    source = unpack(sdist, tmp_path / "source")
    again = build(source, "wheel", tmp_path / "wheel", node=False)
    assert names_in_wheel(again) == names_in_wheel(wheel)


def test_sdist_carries_what_was_built_wherever_it_is_linked_to(sdist, tmp_path):
    source = unpack(sdist, tmp_path / "source")
    link = source / "build" / "environment" / SHARED
    link.parent.mkdir(parents=True)
    link.symlink_to(source / "jupyter_token_ws" / "labextension")
    again = build(source, "sdist", tmp_path / "sdist", node=False)
    assert names_in_sdist(again) == names_in_sdist(sdist)


def test_checkout_without_node_installs_the_server_part_with_one_warning(wheel, sdist, tmp_path):
    source = unpack(sdist, tmp_path / "source")
    for file in sorted((source / "jupyter_token_ws" / "labextension").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    done = run_build(source, "wheel", tmp_path / "wheel", node=False)
    assert done.returncode == 0, done.stderr
    (built,) = (tmp_path / "wheel").iterdir()
    left_out = {name for name in names_in_wheel(wheel) if SHARED in name}
    assert names_in_wheel(built) == names_in_wheel(wheel) - left_out
    (warning,) = [line for line in done.stderr.splitlines() if "jupyter_token_ws:" in line]
    assert "node is missing (Debian packages nodejs and npm)" in warning
    assert "left out" in warning

    refused = run_build(source, "sdist", tmp_path / "sdist", node=False)
    assert refused.returncode != 0
    assert "must carry what is built" in refused.stderr


def test_checkout_without_node_carries_what_was_built_before(wheel, sdist, tmp_path):
    source = unpack(sdist, tmp_path / "source")
    changed = source / "frontend" / "lab" / "src" / "index.ts"
    changed.write_text(changed.read_text() + "// changed\n")
    done = run_build(source, "wheel", tmp_path / "wheel", node=False)
    assert "is not the newest" in done.stderr
    (built,) = (tmp_path / "wheel").iterdir()
    assert names_in_wheel(built) == names_in_wheel(wheel)


def test_part_for_jupyterlab_has_the_version_of_the_package(lab_extension):
    namespace: dict[str, str] = {}
    exec((ROOT / "jupyter_token_ws" / "_version.py").read_text(), namespace)
    for package in (ROOT / "frontend", lab_extension.package):
        version = json.loads((package / "package.json").read_text())["version"]
        assert namespace["__version__"].partition(".dev")[0] == version


def test_lock_files_name_no_host_and_no_path():
    for file in ("requirements/dev.lock", "tests/node/package-lock.json"):
        text = (ROOT / file).read_text()
        assert "==" in text or '"integrity"' in text
        text = re.sub(
            r'"url": "https://[^"]+"', "", text
        )  # whom a package's authors ask to be funded by
        assert not [word for word in ("://", "file:", "--index", "--find-links") if word in text], (
            file
        )
