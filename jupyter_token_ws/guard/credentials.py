"""Which credential a request carries, and how the request looks while that credential is judged.

The request is changed here and nowhere else, and every change of the moment is undone in a
``finally`` (C2.3). Who judges is ``identity``'s business.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from tornado.httputil import HTTPServerRequest

# Other schemes than these two are somebody else's (C2.1).
_TOKEN_HEADER = re.compile(r"(?:token|bearer)\s+(.+)", re.IGNORECASE)


class CredentialSource(str, Enum):
    """Where the credential that was accepted came from."""

    SUBPROTOCOL = "subprotocol"
    URL = "url"
    HEADER = "header"
    COOKIE = "cookie"
    AMBIENT = "ambient"
    """The identity provider named the user by something else, such as a proxy's header."""
    NONE = "none"
    """Nobody was named: authentication is off, or the handler is open to all."""


class Digester:
    """Makes digests of credentials that mean nothing outside this process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def __call__(self, credential: str) -> str:
        """The digest, 32 hexadecimal digits."""
        data = credential.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, key=self._key, digest_size=16).hexdigest()


def same_secret(one: str | None, other: str | None) -> bool:
    """Whether two secrets are equal, in a time that does not depend on where they differ."""
    if one is None or other is None:
        return False
    return secrets.compare_digest(
        one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape")
    )


def header_token(request: HTTPServerRequest) -> str | None:
    """The token in ``Authorization: token X`` or ``Bearer X``."""
    match = _TOKEN_HEADER.match(request.headers.get("Authorization", ""))
    return match[1] if match else None


def url_token(request: HTTPServerRequest) -> str | None:
    """The URL parameter ``token`` as upstream reads it: the last one, stripped; empty is none."""
    values = request.query_arguments.get("token")
    return (values[-1].decode("utf-8", "replace").strip() or None) if values else None


def without_token(query: str) -> str:
    """A query string less every parameter named ``token``; the others stay to the letter."""
    return "&".join(
        part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != "token"
    )


def remove_url_token(request: HTTPServerRequest) -> None:
    """Take the parameter ``token`` out of URI and arguments, for good."""
    path, _, query = (request.uri or "").partition("?")
    request.query = without_token(query)
    request.uri = f"{path}?{request.query}" if request.query else path
    request.arguments.pop("token", None)
    request.query_arguments.pop("token", None)


def remove_from_referer(request: HTTPServerRequest, token: str) -> None:
    """Take a token out of the ``Referer``, where the page's own address carried it."""
    referer = request.headers.get("Referer")
    if not referer:
        return
    parts = urlsplit(referer)
    carried = [unquote_plus(part.partition("=")[2]) for part in parts.query.split("&")]
    if any(same_secret(value, token) for value in carried):
        request.headers["Referer"] = urlunsplit(parts._replace(query=without_token(parts.query)))


def remove_ours(request: HTTPServerRequest, ours: str | None) -> None:
    """Take the token that authenticated out of wherever the request carries it; no other (C2.3)."""
    if ours is None:
        return
    if same_secret(url_token(request), ours):
        remove_url_token(request)
    if same_secret(header_token(request), ours):
        del request.headers["Authorization"]
    remove_from_referer(request, ours)


@contextmanager
def shown(
    request: HTTPServerRequest,
    *,
    authorization: str | None,
    keep_url_token: bool,
    keep_cookies: bool,
) -> Iterator[None]:
    """The request as the judge sees it; afterwards it is as it was, whatever happened.

    ``authorization`` is the value of ``Authorization``, or ``None`` to leave that header alone.
    """
    headers = request.headers
    saved_headers = {
        name: headers.get_list(name) for name in ("Authorization", "Cookie") if name in headers
    }
    saved_uri, saved_query = request.uri, request.query
    saved_arguments, saved_query_arguments = request.arguments, request.query_arguments
    try:
        if authorization is not None:
            headers["Authorization"] = authorization
        if not keep_cookies:
            headers.pop("Cookie", None)
        if not keep_url_token:
            request.arguments = dict(saved_arguments)
            request.query_arguments = dict(saved_query_arguments)
            remove_url_token(request)
        yield
    finally:
        request.uri, request.query = saved_uri, saved_query
        request.arguments, request.query_arguments = saved_arguments, saved_query_arguments
        for name in ("Authorization", "Cookie"):
            headers.pop(name, None)
            for value in saved_headers.get(name, ()):
                headers.add(name, value)
