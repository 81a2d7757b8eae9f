"""What all tests share: pytest-jupyter's in-process server and this project's own plugins."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = [
    # Runs coroutine tests and gives jp_serverapp, jp_fetch and jp_ws_fetch.
    "pytest_jupyter.jupyter_server",
    "pytester",
    "tests.plugins.conformance",
    "tests.plugins.measured",
    "tests.plugins.programs",
]

# A busy machine is no fault of the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# What a shell starts in the background ignores SIGINT, and so does whatever that starts: the servers that
# tests interrupt. A handler, unlike that, is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
