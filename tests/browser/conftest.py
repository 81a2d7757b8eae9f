"""Tests of this folder use no loop and no server in this process.

Playwright runs its own loop in this thread for as long as a browser is open, so the fixtures that
pytest-jupyter sets up around every test would meet a loop that is running already.
"""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """None."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """Nothing to clean up."""
