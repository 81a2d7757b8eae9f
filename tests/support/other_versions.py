"""A server extension that makes the server one of another version: its table is in ``OTHER_VERSIONS``."""

from __future__ import annotations

import os
from typing import Any

from jupyter_token_ws.guard import rest
from jupyter_token_ws.protocol import capabilities, versions

VARIABLE = "OTHER_VERSIONS"


def _load_jupyter_server_extension(serverapp: Any) -> None:
    table = tuple(os.environ[VARIABLE].split())
    for function in (versions.negotiate, versions.unsupported_document):
        function.__defaults__ = (table,)
    for module in (versions, capabilities):
        module.API_VERSIONS = table  # type: ignore[attr-defined]
    rest.ApiHandler._version = table[0]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]
