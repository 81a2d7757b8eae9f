"""Looks at a server, and at what stands between, and says what is wrong: ``jupyter token-ws doctor``.

``report`` has what was found, ``causes`` what it may come from and what to change, ``runner`` the checks and
a run of them; each other module has some checks.
"""

from __future__ import annotations

from .case import Case, Options
from .causes import CAUSES, Cause
from .report import Finding, Report, Verdict
from .runner import CHECKS, NAMES, Check, diagnose, examine

__all__ = [
    "CAUSES",
    "CHECKS",
    "NAMES",
    "Case",
    "Cause",
    "Check",
    "Finding",
    "Options",
    "Report",
    "Verdict",
    "diagnose",
    "examine",
]
