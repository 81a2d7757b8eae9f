"""The REST part: capabilities, their schema, and ``OPTIONS`` of websocket paths (contract sections 4, 5).

And one page for people, where signing in ends that a page with refused websockets asked for.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any, cast

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web

from jupyter_token_ws.protocol import versions
from jupyter_token_ws.protocol.capabilities import (
    Facts,
    capabilities_document,
    capabilities_schema,
)
from jupyter_token_ws.protocol.reasons import REASONS, error_document, slug_for_status

from . import metrics
from .bearer import by_ticket
from .core import Guard
from .refusal import Refused, refusal_headers
from .routes import socket_templates

API = "api/token-ws"
CAPABILITIES = f"{API}/capabilities"
SCHEMA = f"{API}/capabilities.schema.json"
SIGNED_IN = f"{API}/signed-in"
PAGE_CONFIG = "tokenWebSocket"
"""Under which name JupyterLab and Notebook pages carry the document."""

_PLACEHOLDER = re.compile(r"\{\w+\}")
_TEXTS: dict[int, str] = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is too large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "a body must be JSON, with Content-Type: application/json",
}
"""What to say of a status of which the table of reasons knows only that something was not understood."""

_ANSWER_HEADERS = ", ".join(
    (versions.HEADER, versions.SUPPORTED_HEADER, "ETag", "Link", "Retry-After")
)


def capabilities_of(handler: web.RequestHandler) -> dict[str, Any]:
    """The document as this request's client must see it: absolute addresses by its own Host."""
    guard = Guard.of(handler.application)
    options, request, settings = guard.options, handler.request, handler.settings
    base_path = settings.get("base_url", "/")
    base_url = f"{request.protocol}://{request.host}{base_path}"
    ws_url = settings.get("websocket_url") or ""
    if not ws_url.startswith(("ws://", "wss://")):
        ws_url = f"ws{base_url.removeprefix('http')}"
    elif not ws_url.rstrip("/").endswith(base_path.rstrip("/")):
        ws_url = url_path_join(ws_url, base_path)
    return capabilities_document(
        Facts(
            base_url=base_url,
            ws_url=ws_url.rstrip("/") + "/",
            token_in_url=options.allow_token_in_url,
            max_token_size=options.max_token_size,
            close_reasons=options.close_reasons,
            sockets=tuple(
                template
                for template in socket_templates(handler.application)
                if guard.covers(base_path + _PLACEHOLDER.sub("x", template))
            ),
            keepalive_interval=options.keepalive_interval,
            keepalive_timeout=options.keepalive_timeout,
            features=guard.features,
            login=guard.login_document,
            tunnel=guard.tunnel_document,
        )
    )


class PageConfigHook:
    """A ``page_config_hook`` that adds the document and then asks the one that was there before."""

    def __init__(self, previous: Any) -> None:
        self._previous = previous

    def __call__(self, handler: Any, page_config: dict[str, Any]) -> dict[str, Any]:
        """What JupyterLab and Notebook call for each page."""
        page_config[PAGE_CONFIG] = capabilities_of(handler)
        if self._previous is not None:
            page_config = self._previous(handler, page_config)
        if by_ticket(handler) and page_config.get("token"):
            # The server's own, which outlives a ticket and is for more. The object is all pages'.
            page_config = {**page_config, "token": ""}
        return page_config


def add_to_pages(settings: dict[str, Any]) -> None:
    """Let pages carry the document. May be called again after others took the hook for themselves."""
    previous = settings.get("page_config_hook")
    if not isinstance(previous, PageConfigHook):
        settings["page_config_hook"] = PageConfigHook(previous)


class ApiHandler(JupyterHandler):
    """What our REST paths have in common: versions, JSON errors, CORS as the server's."""

    _version = versions.API_VERSIONS[0]
    _needs_tls = False
    """Whether credentials are exchanged here, which ``require_tls`` is about."""

    async def prepare(self) -> None:  # type: ignore[override] # upstream's argument is for websockets
        """Negotiate the version. The method comes first: which there are is no secret, so strangers
        are not told to sign in for one that there is not."""
        supported = versions.negotiate(self.request.headers.get(versions.HEADER))
        if supported is not None:
            self._version = supported
        if self.request.method not in self._methods():
            raise web.HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)
        if self._needs_tls and Guard.of(self.application).lacks_tls(self.request):
            raise Refused("tls_required")
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if self._carries_body() and kind != "application/json":
            raise web.HTTPError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        await super().prepare()
        self._common_headers()
        if supported is None:
            self.set_status(HTTPStatus.UNPROCESSABLE_ENTITY)
            self.set_header(versions.SUPPORTED_HEADER, ", ".join(versions.API_VERSIONS))
            self.finish(versions.unsupported_document())

    def _carries_body(self) -> bool:
        return bool(self.request.body)

    def bound_body(self, size: int) -> None:
        """For who takes a body as it comes: refuse one of more than so many bytes before it is read."""
        length = self.request.headers.get("Content-Length", "0")
        if length.isdigit() and (len(length) > 9 or int(length) > size):
            raise web.HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        cast("Any", self.request.connection).set_max_body_size(size)  # of what comes in parts

    def _methods(self) -> list[str]:
        """What the handler has, among what a request may ask for."""
        return [
            method
            for method in self.SUPPORTED_METHODS
            if getattr(type(self), method.lower())
            is not getattr(web.RequestHandler, method.lower())
        ]

    def _common_headers(self) -> None:
        self.set_header(versions.HEADER, self._version)
        self.set_header("Vary", "Host, Origin")
        self._extend_header("Access-Control-Expose-Headers", _ANSWER_HEADERS)

    def _extend_header(self, name: str, ours: str, default: str = "") -> None:
        """Add to what the server's configuration says of a header."""
        configured = self.settings.get("headers", {}).get(name, default)
        self.set_header(name, f"{configured}, {ours}" if configured else ours)

    @property
    def content_security_policy(self) -> str:
        """Data, not a page."""
        return f"{super().content_security_policy}; default-src 'none'"

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Errors are JSON: ``{"status": slug, "message": text}``."""
        error = kwargs.get("exc_info", (None, None))[1]
        retry_after, text = None, ""
        if isinstance(error, Refused):
            slug, retry_after, text = error.slug, error.retry_after, error.text
            metrics.request_refused(error)
        else:
            slug = "forbidden" if status_code in (401, 403) else slug_for_status(status_code)
            text = _TEXTS.get(status_code, "")
        self._common_headers()
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self._methods()))
        for name, value in refusal_headers(REASONS[slug], retry_after).items():
            self.set_header(name, value)
        self.finish(error_document(REASONS[slug], retry_after, text))

    @allow_unauthenticated
    def options(self, *args: Any, **kwargs: Any) -> None:
        """The preflight of a page on another origin."""
        self.set_header("Access-Control-Allow-Methods", ", ".join(self._methods()))
        self._extend_header(
            "Access-Control-Allow-Headers",
            versions.HEADER.lower(),
            default="accept, content-type, authorization, x-xsrftoken",
        )
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class CapabilitiesHandler(ApiHandler):
    """``GET api/token-ws/capabilities``, open to all."""

    @allow_unauthenticated
    def get(self) -> None:
        """The document."""
        self.set_header("Cache-Control", "private, max-age=300")
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(capabilities_of(self)))

    head = get


class SchemaHandler(ApiHandler):
    """``GET api/token-ws/capabilities.schema.json``, open to all."""

    @allow_unauthenticated
    def get(self) -> None:
        """The JSON Schema of the document."""
        self.set_header("Cache-Control", "private, max-age=300")
        self.set_header("Content-Type", "application/schema+json")
        self.finish(json.dumps(capabilities_schema()))

    head = get


class SocketOptionsHandler(ApiHandler):
    """``OPTIONS`` on the path of a websocket whose handler has none of its own."""

    @allow_unauthenticated
    def options(self, *args: Any, **kwargs: Any) -> None:
        """204, what is allowed, and where the capabilities are."""
        link = url_path_join(self.base_url, CAPABILITIES)
        self.set_header("Allow", "GET, OPTIONS")
        self.set_header("Link", f'<{link}>; rel="service-desc"')
        super().options()


_SIGNED_IN_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Signed in</title>
</head>
<body>
<h1>You are signed in</h1>
<p>Close this tab and go on where you were: that page connects again by itself.</p>
</body>
</html>
"""


class SignedInHandler(JupyterHandler):
    """``GET api/token-ws/signed-in``: small, and only for who is signed in.

    Who is not is sent to whatever login the identity provider has, and comes back here.
    """

    @web.authenticated
    def get(self) -> None:
        """The page."""
        self.set_header("Cache-Control", "no-store")
        self.finish(_SIGNED_IN_PAGE)

    @property
    def content_security_policy(self) -> str:
        """Nothing but text."""
        return f"{super().content_security_policy}; default-src 'none'"


def handlers() -> list[tuple[str, type[JupyterHandler]]]:
    """Our routes, below the server's base."""
    return [
        (f"/{CAPABILITIES}", CapabilitiesHandler),
        (f"/{SCHEMA.replace('.', chr(92) + '.')}", SchemaHandler),
        (f"/{SIGNED_IN}", SignedInHandler),
    ]
