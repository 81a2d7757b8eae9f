"""Tests of this folder use no loop and no server in this process.

Playwright runs its own loop in this thread for as long as a browser is open, so the fixtures that
pytest-jupyter sets up around every test would meet a loop that is running already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser import places
from tests.support.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """None."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """Nothing to clean up."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module; each has its own cookies."""
    with chromium() as running:
        yield running


@pytest.fixture
def place(request: pytest.FixtureRequest) -> places.Place:
    """A frontend; parametrized by its name."""
    return places.get(request.param)
