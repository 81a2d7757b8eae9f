"""An environment with the oldest frontends that the labextension is built for: JupyterLab 4.4.

They are pinned in requirements/old-frontends.txt, which says how it is made. Our own package is not
installed there: the tests that use it put the checkout on the path and link the built labextension,
as they do for the newest frontends.

    .venv/bin/python -m tools.old_frontends     prints the interpreter, and is quick the second time
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.bootstrap import ROOT, Environment, SetupError, only_one, say
from tools.labextension import digest

REQUIREMENTS = ROOT / "requirements" / "old-frontends.txt"
WORK = ROOT / "build" / "old-frontends"


def prepare() -> Path:
    """Make the environment; return its interpreter.

    Raises:
        SetupError: it cannot be made.
    """
    environment = Environment(WORK / "venv-{}.{}".format(*sys.version_info))
    environment.path.parent.mkdir(parents=True, exist_ok=True)
    with only_one():
        environment.create()
        wanted = digest(REQUIREMENTS)
        if not environment.is_current("installed", wanted):
            environment.pip(["install", "-r", REQUIREMENTS], "installing the oldest frontends")
            environment.pip(["check"], "checking that they go together")
            environment.stamp("installed").write_text(wanted)
    return environment.python


def main() -> int:
    """Prepare; return the exit status."""
    try:
        print(prepare())
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
