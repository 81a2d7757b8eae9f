"""The part for JupyterLab: built when its sources changed, linked where it is asked for."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.plugins.programs import requires, requires_node_package
from tools import labextension
from tools.labextension import ROOT, LabExtension, NoNodeError


@pytest.fixture
def checkout(tmp_path):
    """A copy of the sources, with the node packages of this checkout."""
    extension = LabExtension(tmp_path / "checkout")
    for source in LabExtension().sources():
        copy = extension.root / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    (extension.root / labextension.NAME).mkdir()
    return extension


@pytest.fixture
def buildable(checkout):
    modules = requires_node_package("@jupyterlab/builder", LabExtension().package / "node_modules")
    requires("npm", "npm")
    (checkout.package / "node_modules").symlink_to(modules)
    return checkout


@pytest.mark.timeout(300)
def test_it_is_built_once_and_again_when_a_source_changed(buildable):
    assert not buildable.exists()
    assert buildable.build()
    assert buildable.exists()
    assert buildable.is_current()
    assert not buildable.build()
    entry = json.loads((buildable.built / "package.json").read_text())["jupyterlab"]["_build"]
    assert (buildable.built / entry["load"]).is_file()
    # What cannot be built is not taken for built, and says so.
    source = buildable.package / "src" / "index.ts"
    source.write_text(source.read_text() + "const wrong: number = 'text';\n")
    assert not buildable.is_current()
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            buildable.build()


@pytest.fixture(scope="module")
def current():
    extension = LabExtension()
    if not extension.is_current():
        requires("npm", "npm")
        extension.build()
    return extension


def test_a_page_fetches_one_file_before_it_begins(current):
    static = current.built / "static"
    (entry,) = static.glob("remoteEntry.*.js")
    (later,) = set(static.glob("*.js")) - {entry, static / "style.js"}
    assert "jupyter_token_ws:server-settings" in entry.read_text()
    assert "jupyter_token_ws:server-settings" not in later.read_text()


def test_versions_it_asks_for_are_our_own_ranges(current):
    wanted = json.loads((current.package / "package.json").read_text())["peerDependencies"]
    (entry_file,) = (current.built / "static").glob("remoteEntry.*.js")
    entry = entry_file.read_text()
    asked = {name for name in wanted if f'"{name}"' in entry}
    assert "@jupyterlab/services" in asked
    for name in asked:
        numbers = ",".join(wanted[name].removeprefix("^").split("."))
        assert f'"{name}",!1,[1,{numbers}]' in entry, name


def test_without_node_it_says_what_is_missing(checkout, tmp_path, monkeypatch):
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(NoNodeError, match="node is missing"):
        checkout.build()
    (empty / "node").write_text("#!/bin/sh\n")
    (empty / "node").chmod(0o755)
    with pytest.raises(NoNodeError, match="npm is missing"):
        checkout.build()
    (empty / "npm").write_text("#!/bin/sh\nexit 3\n")
    (empty / "npm").chmod(0o755)
    with pytest.raises(NoNodeError, match=r"npm could not get the packages \(status 3\)"):
        checkout.build()


def test_link_takes_the_place_of_what_was_there(tmp_path):
    extension = LabExtension(tmp_path / "checkout")
    extension.built.mkdir(parents=True)
    place = tmp_path / "environment" / labextension.SHARED
    (place / "old").mkdir(parents=True)
    for _ in range(2):
        extension.link(tmp_path / "environment")
        assert place.is_symlink()
        assert place.resolve() == extension.built
    other = LabExtension(tmp_path / "moved")
    other.built.mkdir(parents=True)
    other.link(tmp_path / "environment")
    assert place.resolve() == other.built


def test_program_links_what_it_built(tmp_path, monkeypatch, capsys):
    built: list[LabExtension] = []

    def build(self: LabExtension) -> None:
        built.append(self)

    monkeypatch.setattr(LabExtension, "build", build)
    assert labextension.main(["--link", str(tmp_path)]) == 0
    assert len(built) == 1
    assert (tmp_path / labextension.SHARED).is_symlink()

    def fail(_self: LabExtension) -> None:
        raise NoNodeError("there is none")

    monkeypatch.setattr(LabExtension, "build", fail)
    assert labextension.main([]) == 1
    assert "is not built: there is none" in capsys.readouterr().err
