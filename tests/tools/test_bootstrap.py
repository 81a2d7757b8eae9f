"""Set-up: what is repeated when something changed, what is not, and how it fails."""

from __future__ import annotations

import subprocess
import threading

import pytest

from tools import bootstrap
from tools.labextension import digest


@pytest.fixture
def environment(tmp_path):
    return bootstrap.Environment(tmp_path / "venv")


def test_environment_is_made_once_and_anew_for_another_python(environment):
    environment.create()
    version = subprocess.run(
        [environment.python, "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("Python 3.")
    mark = environment.path / "mark"
    mark.touch()
    environment.create()
    assert mark.exists()
    environment.origin += " of another place"
    environment.create()
    assert not mark.exists()
    assert environment.python.exists()


def test_locked_packages_are_installed_again_when_the_lock_changed(
    environment, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    lock = tmp_path / "dev.lock"
    monkeypatch.setattr(bootstrap, "LOCK", lock)
    environment.create()
    lock.write_text("# nothing\n")
    environment.install_locked()
    capfd.readouterr()
    environment.install_locked()
    assert capfd.readouterr().out == ""
    lock.write_text("no-such-package-anywhere==1\n")
    for _ in range(2):  # what failed is not taken for done
        with pytest.raises(bootstrap.SetupError, match="installing the locked packages failed"):
            environment.install_locked()


def test_digest_depends_on_every_part_and_its_bounds(tmp_path):
    file = tmp_path / "file"
    file.write_text("ab")
    assert digest(file) == digest("ab")
    assert len({digest(*p) for p in (["ab", "c"], ["a", "bc"], ["abc"], ["ab"])}) == 4


def test_old_python_is_told_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "MINIMUM", (99, 0))
    assert bootstrap.main(["demo"]) == 1
    assert "Python 99.0 or newer is needed" in capsys.readouterr().out


def test_failure_is_told_in_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.touch()
    assert bootstrap.main(["demo", "--venv", str(blocked / "venv")]) == 1
    assert "python3-venv" in capsys.readouterr().out.splitlines()[-1]


def test_missing_npm_is_no_failure(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    bootstrap.install_node_packages()
    assert "npm is missing (Debian package npm)" in capsys.readouterr().out


def test_two_set_ups_at_once_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    waits, entered = threading.Event(), threading.Event()
    monkeypatch.setattr(bootstrap, "say", lambda text: waits.set())

    def second() -> None:
        with bootstrap.only_one():
            entered.set()

    thread = threading.Thread(target=second)
    with bootstrap.only_one():
        thread.start()
        assert waits.wait(10)
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()
