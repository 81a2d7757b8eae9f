"""The TypeScript constants are made from the Python tables, and are current."""

from __future__ import annotations

import sys

import pytest

from jupyter_token_ws.protocol.reasons import REASONS
from tools import frontend_constants


@pytest.fixture
def main(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["frontend_constants", *arguments])
        return frontend_constants.main()

    return run


def test_constants_in_the_tree_are_current(main, capsys):
    assert main() == 0, capsys.readouterr().err


def test_stale_constants_are_noticed_and_written_anew(main, monkeypatch, tmp_path, capsys):
    target = tmp_path / "constants.ts"
    target.write_text(frontend_constants.constants().replace("4403", "4405"), encoding="utf-8")
    monkeypatch.setattr(frontend_constants, "FILES", {target: frontend_constants.constants})
    assert main() == 1
    assert "is stale" in capsys.readouterr().err
    assert main("--write") == 0
    assert main() == 0


def test_every_reason_is_there():
    text = frontend_constants.constants()
    for row in REASONS.values():
        assert f"  {row.slug}: {{ code: {row.code}, advice: '{row.advice.value}'," in text


def test_quotes_are_escaped(monkeypatch):
    assert frontend_constants._quoted('it\'s "so" \\') == "'it\\'s \\\"so\\\" \\\\'"
