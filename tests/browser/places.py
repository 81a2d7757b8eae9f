"""Where the scenarios of the labextension are seen: the frontends, and the environments they come from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab_servers import WIDGETS, start_lab
from tests.support.process import Server
from tools import old_frontends


@dataclass(frozen=True)
class Place:
    """A frontend of one version.

    Attributes:
        name: of the place.
        frontend: how to use it, a key of ``FRONTENDS``.
        python: the interpreter of the environment that has it.
    """

    name: str
    frontend: str
    python: Path

    def start(self, directory: Path, **options: Any) -> Server:
        """Start a server of that environment; see ``start_lab``."""
        return start_lab(
            directory, **{"python": self.python, "labextensions": [WIDGETS], **options}
        )


HEAVY = pytest.mark.heavy
LAB = pytest.param("lab", id="lab")
NOTEBOOK = pytest.param("notebook", id="notebook")
LAB_4_4 = pytest.param("lab-4.4", id="lab-4.4", marks=HEAVY)
PLACES = [LAB, NOTEBOOK, LAB_4_4]
"""Parameters for the fixture ``place``."""
HEAVY_BUT_LAB = [LAB, pytest.param("notebook", id="notebook", marks=HEAVY), LAB_4_4]
"""The same where one of them has to do for `make test`."""


@cache
def get(name: str) -> Place:
    """The place of that name; its environment is made where it is not there yet."""
    frontend, _, version = name.partition("-")
    python = old_frontends.prepare() if version else Path(sys.executable)
    return Place(name, frontend, python)
