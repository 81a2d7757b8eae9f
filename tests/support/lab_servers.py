"""Servers with JupyterLab and Notebook 7, with exactly the parts that a test names.

What happens to be installed beside them stays out: extensions of the server are named one by one, and
labextensions are linked into a folder that the test owns.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import page_config
from tests.support.process import PROJECT, TOKEN, Server, start_server

BUILT = PROJECT / "jupyter_token_ws" / "labextension"
WIDGETS = "@jupyter-widgets/jupyterlab-manager"

# No questions to servers elsewhere, and none to the user about them.
_ANNOUNCEMENTS = "@jupyterlab/apputils-extension:announcements"
_SILENT = {
    "news_url": None,
    "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    "extension_manager": "readonly",
}


def labextension_name() -> str:
    """The name of our labextension. Fails where it has not been built."""
    package = BUILT / "package.json"
    if not package.is_file():
        pytest.fail("the labextension is not built: make env, which needs node", pytrace=False)
    name: str = json.loads(package.read_text("utf-8"))["name"]
    return name


def start_lab(
    directory: Path,
    *,
    server_part: bool = True,
    page_part: bool = True,
    page: Mapping[str, Any] | None = None,
    labextensions: Iterable[str] = (),
    extensions: Mapping[str, bool] | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    token: str = TOKEN,
    port: int | None = None,
    python: str | Path = sys.executable,
    name: str = "lab",
) -> Server:
    """Start a server with both frontends.

    Args:
        directory: see ``start_server``, as for ``token``, ``port``, ``python`` and ``name``.
        server_part: whether our server extension is on.
        page_part: whether our labextension is there.
        page: put into the page's configuration, for instance ``{"disabledExtensions": [...]}``.
        labextensions: others that are there, of the interpreter's environment.
        extensions: server extensions that are on beside.
        config: traits by class, beside those that are needed here.
    """
    folder = directory / name / "labextensions"
    folder.mkdir(parents=True, exist_ok=True)
    installed = Path(python).parent.parent / "share" / "jupyter" / "labextensions"
    wanted = {other: installed / other for other in labextensions}
    if page_part and not (folder / labextension_name()).is_dir():
        # A copy: whoever builds it anew meanwhile shall not change it under the page.
        shutil.copytree(BUILT, folder / labextension_name())
    for other, place in wanted.items():
        assert (place / "package.json").is_file(), f"no labextension in {place}"
        link = folder / other
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(place)
    only: dict[str, Any] = {"labextensions_path": [str(folder)], "extra_labextensions_path": []}
    disabled = [_ANNOUNCEMENTS, *(page or {}).get("disabledExtensions", ())]
    on_page = {**(page or {}), "disabledExtensions": disabled}
    traits: dict[str, dict[str, Any]] = {
        "LabApp": {**only, **_SILENT},
        "JupyterNotebookApp": dict(only),
        "ServerApp": {"tornado_settings": {page_config.SETTING: on_page}},
    }
    for section, values in (config or {}).items():
        traits.setdefault(section, {}).update(values)
    mine = {
        "jupyterlab": True,
        "notebook": True,
        "notebook_shim": True,
        page_config.__name__: True,
    }
    server = start_server(
        directory,
        stock=not server_part,
        extensions={**mine, **(extensions or {})},
        config=traits,
        token=token,
        port=port,
        python=python,
        name=name,
    )
    # These tests are about pages. Asked to end while one of them is loading, or while a terminal or a
    # kernel has just begun, a server now and then needs longer than anybody waits.
    server.abruptly = True
    return server
