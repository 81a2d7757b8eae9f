"""A path is told by the route that serves it."""

from __future__ import annotations

import pytest
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard.handler import guarded_class
from jupyter_token_ws.guard.routes import template_of


class One(WebSocketHandler):
    """At two routes."""


class Two(WebSocketHandler):
    """At a route that would match all others' paths too, and one that is no plain path."""


class Nowhere(WebSocketHandler):
    """At no route."""


APPLICATION = web.Application(
    [
        (r"/base/a+/odd", Two),
        (r"/base/(.*)", Two),
        (r"/base/one/([^/]+)", One),
        (r"/base/other/(?P<kernel_id>\w+)/channels", One),
        (r"/elsewhere/(\w+)", One),
    ],
    base_url="/base/",
)


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        (One, "/base/one/secret", "one/{name}"),
        (One, "/base/other/secret/channels", "other/{id}/channels"),
        (One, "/elsewhere/secret", None),
        (One, "/base/three/secret", None),
        (Two, "/base/one/secret", "{name}"),
        (Two, "/base/a/odd", None),
        (Nowhere, "/base/one/secret", None),
    ],
)
def test_the_route_of_a_path_is_that_of_its_handler(kind, path, expected):
    assert template_of(APPLICATION, kind, path) == expected
    assert template_of(APPLICATION, guarded_class(kind), path) == expected
