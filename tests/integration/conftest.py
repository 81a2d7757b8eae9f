"""Servers as processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import process, proxied_app
from tests.support.process import Server, start_server
from tests.support.waiting import until

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start_server`` whose servers end with the test."""
    with contextlib.ExitStack() as running:

        def start(**options: Any) -> Server:
            return running.enter_context(start_server(tmp_path, **options))

        yield start


@dataclass
class Proxied:
    """A running application to stand behind jupyter-server-proxy."""

    port: int
    record: Path

    @property
    def received(self) -> str:
        """Everything that reached it: one line of JSON a request."""
        return self.record.read_text("utf-8")


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    port, record = process.free_port(), tmp_path / "proxied.jsonl"
    command = [sys.executable, proxied_app.__file__, str(port), str(record)]
    with process.run(command, tmp_path / "proxied.log") as app:
        until(lambda: record.exists() or app.poll() is not None, "the application")
        assert app.poll() is None
        yield Proxied(port, record)
