"""What is in the wheel and the source distribution, and that installing is enabling."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CONFIG = "etc/jupyter/jupyter_server_config.d/jupyter_token_ws.json"


def build(source: Path, target: str, into: Path) -> Path:
    """Build one distribution as a build frontend without isolation does."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


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


def test_wheel_has_the_whole_package_with_types_and_schema(wheel):
    names = names_in_wheel(wheel)
    assert {
        "jupyter_token_ws/py.typed",
        "jupyter_token_ws/protocol/capabilities.schema.json",
    } <= names
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "jupyter_token_ws").rglob("*.py")}
    assert sources
    assert sources <= names


def test_wheel_has_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in names_in_wheel(wheel)}
    stem = "-".join(wheel.name.split("-")[:2])
    assert tops == {"jupyter_token_ws", f"{stem}.dist-info", f"{stem}.data"}


def test_installing_the_wheel_enables_the_extension(wheel, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--ignore-installed", "--root-user-action=ignore",
         "--no-warn-script-location", "--prefix", str(tmp_path), str(wheel)],
        check=True,
    )  # fmt: skip
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config == {"ServerApp": {"jpserver_extensions": {"jupyter_token_ws": True}}}
    scripts = [
        p.name for p in tmp_path.rglob("jupyter-token-ws*") if p.parent.name != "site-packages"
    ]
    assert scripts == ["jupyter-token-ws"]


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


def test_sdist_has_what_packagers_need(sdist):
    names = names_in_sdist(sdist)
    expected = {
        "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO", "README.md",
        "docs/reference/conformance.md", "frontend/package-lock.json", "frontend/src/index.ts",
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
        "/__pycache__/",
        "docs/_build/",
        ".venv",
        ".pyc",
        ".coverage",
    )
    assert [name for name in names_in_sdist(sdist) if any(part in name for part in made)] == []


def test_wheel_built_from_the_sdist_is_the_same(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = build(source, "wheel", tmp_path / "wheel")
    assert names_in_wheel(again) == names_in_wheel(wheel)


def test_lock_files_name_no_host_and_no_path():
    for file in ("requirements/dev.lock", "tests/node/package-lock.json"):
        text = (ROOT / file).read_text()
        assert "==" in text or '"integrity"' in text
        assert not [word for word in ("://", "file:", "--index", "--find-links") if word in text], (
            file
        )
