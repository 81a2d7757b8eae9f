"""Authorizers for server processes: named in configuration, so they live in a module of their own."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth.authorizer import Authorizer


class NoEvents(Authorizer):
    """Everything but events."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource != "events"
