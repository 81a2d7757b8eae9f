"""The routes of a server's websockets, as templates: no path of a request, and nothing that stands in one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tornado import routing, web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.protocol.capabilities import route_template, sorted_templates

FORWARDING_MODULES = ("jupyter_server_proxy",)
"""Packages whose sockets lead to somebody else's program: no token is ever meant for those."""


def socket_templates(application: web.Application) -> tuple[str, ...]:
    """The routes of the server's websockets as templates below its base; proxied apps are left out."""
    base_url = application.settings.get("base_url", "/")
    return sorted_templates(
        route_template(regex.pattern, base_url)
        for regex, kind in _routes(application.default_router)
        if issubclass(kind, WebSocketHandler) and _declared(kind)
    )


def template_of(application: web.Application, kind: type, path: str) -> str | None:
    """The template of the route by which a handler class serves a path; ``None`` where it has none.

    Every route is looked at, so this is for what happens rarely.
    """
    base_url = application.settings.get("base_url", "/")
    for regex, target in _routes(application.default_router):
        if issubclass(kind, target) and regex.match(path):
            return route_template(regex.pattern, base_url)
    return None


def _declared(kind: type) -> bool:
    """Whether a handler's sockets are the server's own; a class may say so by ``token_ws_declared``."""
    said = getattr(kind, "token_ws_declared", None)
    if said is not None:
        return bool(said)
    return not any(base.__module__.split(".")[0] in FORWARDING_MODULES for base in kind.__mro__)


def _routes(router: routing.RuleRouter) -> Iterator[tuple[re.Pattern[str], type]]:
    for rule in router.rules:
        if isinstance(rule.target, routing.RuleRouter):
            yield from _routes(rule.target)
        elif isinstance(rule.target, type) and isinstance(rule.matcher, routing.PathMatches):
            yield rule.matcher.regex, rule.target
