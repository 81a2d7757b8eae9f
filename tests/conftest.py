"""What all tests share: pytest-jupyter's in-process server and this project's own plugins."""

from __future__ import annotations

pytest_plugins = [
    # Runs coroutine tests and gives jp_serverapp, jp_fetch and jp_ws_fetch.
    "pytest_jupyter.jupyter_server",
    "pytester",
    "tests.plugins.conformance",
    "tests.plugins.programs",
]
