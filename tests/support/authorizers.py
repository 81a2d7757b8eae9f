"""Authorizers for server processes: named in configuration, so they live in a module of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_server.auth.authorizer import Authorizer

from jupyter_token_ws import Refused


class NoEvents(Authorizer):
    """Everything but events."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource != "events"


class RefusesFor(Authorizer):
    """Refuses kernel websockets for the reason in the file ``reason`` beside the server's root, for as long
    as it is there: a slug, and the seconds to wait where there are some."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        file = Path(handler.settings["server_root_dir"]).expanduser().parent / "reason"
        if action == "execute" and resource == "kernels" and file.exists():
            slug, _, seconds = file.read_text("utf-8").partition(" ")
            raise Refused(slug, int(seconds) if seconds else None)
        return True


class NoStreams(Authorizer):
    """Nothing that is asked as ``execute`` on ``mine``."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return (action, resource) != ("execute", "mine")
