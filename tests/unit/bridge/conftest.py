"""Properties are looked for without a deadline: a busy machine is no fault of the code."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("bridge", deadline=None)
settings.load_profile("bridge")
