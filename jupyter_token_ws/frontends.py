"""Whether JupyterLab and Notebook, where they run in this server, find the part that is for them.

A package that was built without Node lacks it, and the installer keeps to itself what the build said.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

NAME = "jupyter_token_ws"
"""Of the labextension."""

MISSING = (
    "The part of jupyter_token_ws for JupyterLab and Notebook is not installed: their pages work as"
    " without the extension. A package that was built without Node lacks it: install Node 20, then the"
    " package again (pip install --force-reinstall --no-deps)."
)


def _places(app: Any) -> list[Path]:
    """Where a frontend of the server looks for labextensions; nowhere if it is none."""
    found = [
        *getattr(app, "extra_labextensions_path", ()),
        *getattr(app, "labextensions_path", ()),
    ]
    return [Path(folder) for folder in found]


def lack_their_part(server: ServerApp) -> bool:
    """Whether a frontend of this server looks for labextensions and does not find ours."""
    apps = (app for apps in server.extension_manager.extension_apps.values() for app in apps)
    return any(
        not any((place / NAME / "package.json").is_file() for place in places)
        for places in map(_places, apps)
        if places
    )
