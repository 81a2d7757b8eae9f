"""A server extension that puts things into the configuration of JupyterLab's and Notebook's pages: what
files on disk, or a hub, would put there.

Imports nothing, so that it runs in any environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

SETTING = "page_config_of_tests"
"""The key of tornado's settings that has them."""


def _load_jupyter_server_extension(app: ServerApp) -> None:
    settings = app.web_app.settings

    def hook(_handler: object, page: dict[str, Any]) -> dict[str, Any]:
        return {**page, **settings[SETTING]}

    settings["page_config_hook"] = hook


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]
