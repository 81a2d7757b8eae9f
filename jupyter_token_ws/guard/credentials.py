"""Which credential a request carries, and how the request looks while that credential is judged.

The request is changed here and nowhere else, and every change of the moment is undone in a
``finally`` (C2.3). Who judges is ``identity``'s business.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from enum import Enum
from typing import Any, cast
from urllib.parse import parse_qs, unquote_plus

from tornado.httputil import HTTPServerRequest

# Other schemes than these two are somebody else's (C2.1).
_TOKEN_HEADER = re.compile(r"(?:token|bearer)\s+(.+)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")


class CredentialSource(str, Enum):
    """Where the credential that was accepted came from."""

    SUBPROTOCOL = "subprotocol"
    URL = "url"
    HEADER = "header"
    COOKIE = "cookie"
    AMBIENT = "ambient"
    """The provider, or the handler itself, named the user by something else, such as a proxy's header."""
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


def header_token(value: str) -> str | None:
    """The token in a value of ``Authorization``: ``token X`` or ``Bearer X``."""
    match = _TOKEN_HEADER.match(value)
    return match[1] if match else None


def carried_tokens(request: HTTPServerRequest, most: int = 4) -> list[str]:
    """Every token that a request still carries, wherever; ``most`` at most."""
    headers, arguments = request.headers, request.query_arguments
    if not ("Authorization" in headers or "Referer" in headers or "token" in arguments):
        return []
    found = [header_token(line) for line in request.headers.get_list("Authorization")]
    found += [
        _cleaned(value.decode("utf-8", "replace"))
        for value in request.query_arguments.get("token", [])
    ]
    if "Referer" in request.headers:
        found += parse_qs(request.headers["Referer"].partition("?")[2]).get("token", [])
    return [token for token in dict.fromkeys(found) if token][:most]


def url_token(request: HTTPServerRequest) -> str | None:
    """The URL parameter ``token`` as upstream reads it: the last one, cleaned; empty is none."""
    values = request.query_arguments.get("token")
    return (_cleaned(values[-1].decode("utf-8", "replace")) or None) if values else None


def _cleaned(value: str) -> str:
    # As tornado does with every argument.
    return _CONTROL.sub(" ", value).strip()


def remove_url_token(request: HTTPServerRequest, token: str | None = None) -> None:
    """Take the parameter ``token`` out of URI and arguments: every one, or those that equal ``token``.

    The other parameters stay to the letter.
    """
    if "token" not in request.arguments and "token" not in request.query_arguments:
        return
    path, _, query = (request.uri or "").partition("?")
    left = "&".join(part for part in query.split("&") if not _is_token(part, token))
    if left != query:
        request.query, request.uri = left, f"{path}?{left}" if left else path
    for arguments in (request.arguments, request.query_arguments):
        values = arguments.pop("token", [])
        others = [value for value in values if token is not None and not _equals(value, token)]
        if others:
            arguments["token"] = others


def _is_token(part: str, token: str | None) -> bool:
    name, _, value = part.partition("=")
    if unquote_plus(name) != "token":
        return False
    return token is None or same_secret(_cleaned(unquote_plus(value)), token)


def _equals(value: bytes, token: str) -> bool:
    return same_secret(_cleaned(value.decode("utf-8", "replace")), token)


def remove_from_referer(request: HTTPServerRequest, token: str) -> None:
    """Take a token out of the ``Referer``, where the page's own address carried it."""
    if "Referer" not in request.headers:
        return
    page, _, query = request.headers["Referer"].partition("?")
    kept = [part for part in query.split("&") if not _carries(part, token)]
    if "&".join(kept) != query:
        request.headers["Referer"] = f"{page}?{'&'.join(kept)}" if kept else page


def _carries(part: str, token: str) -> bool:
    """Whether a parameter is the token, or an address that has it as its own (``next=...``)."""
    value = part.partition("=")[2]
    for _ in range(3):  # a login page may be sent to a login page
        value = unquote_plus(value)
        if same_secret(value, token) or f"token={token}" in value:
            return True
    return False


def remove_ours(request: HTTPServerRequest, ours: str | None) -> None:
    """Take the token that authenticated out of wherever the request carries it; no other (C2.3)."""
    if ours is None:
        return
    remove_url_token(request, ours)
    lines = request.headers.get_list("Authorization")
    kept = [line for line in lines if not same_secret(header_token(line), ours)]
    if len(kept) != len(lines):
        del request.headers["Authorization"]
        for line in kept:
            request.headers.add("Authorization", line)
    remove_from_referer(request, ours)


class Shown:
    """For the length of a block, the request as the judge sees it; afterwards it is as it was, whatever
    happened.

    ``authorization`` is the value of ``Authorization``, ``None`` for no such header; ``cookie`` that of
    ``Cookie`` where its own are not kept. Not a generator: every handshake comes through here, and those
    take their time.
    """

    __slots__ = (
        "_authorization",
        "_cookie",
        "_keep_cookies",
        "_keep_url_token",
        "_request",
        "_undo",
    )

    def __init__(
        self,
        request: HTTPServerRequest,
        *,
        authorization: str | None,
        keep_url_token: bool,
        keep_cookies: bool,
        cookie: str | None = None,
    ) -> None:
        self._request = request
        self._cookie = cookie
        self._authorization = authorization
        self._keep_url_token = keep_url_token
        self._keep_cookies = keep_cookies
        self._undo: Callable[[], None] | None = None

    def __enter__(self) -> None:
        """Change what must be changed."""
        request, authorization = self._request, self._authorization
        headers = request.headers
        # Asked first: tornado's headers take their time over one that is not there.
        before = headers["Authorization"] if "Authorization" in headers else None  # noqa: SIM401
        hide_url = not self._keep_url_token and "token" in request.arguments
        keeps = self._keep_cookies or ("Cookie" not in headers and self._cookie is None)
        if not hide_url and keeps:
            # As with most requests there is nothing to change, or one header to lend.
            if authorization == before:
                return
            if before is None:
                headers["Authorization"] = cast("str", authorization)
                self._undo = self._take_back
                return
        self._undo = _restore(request)
        if authorization is not None:
            headers["Authorization"] = authorization
        elif before is not None:
            del headers["Authorization"]
        # tornado parses cookies once: what was parsed before must not be seen now, nor what is
        # parsed now afterwards.
        if not self._keep_cookies:
            headers.pop("Cookie", None)
            vars(request).pop("_cookies", None)
            if self._cookie is not None:
                headers["Cookie"] = self._cookie
        if hide_url:
            request.arguments = dict(request.arguments)
            request.query_arguments = dict(request.query_arguments)
            remove_url_token(request)

    def __exit__(self, *exception: object) -> None:
        """Change it back."""
        if self._undo is not None:
            self._undo()

    def _take_back(self) -> None:
        headers = self._request.headers
        if "Authorization" in headers:
            del headers["Authorization"]


def _restore(request: HTTPServerRequest) -> Callable[[], None]:
    """What makes a request again what it is now."""
    headers, state = request.headers, vars(request)
    saved_headers = {name: headers.get_list(name) for name in ("Authorization", "Cookie")}
    saved: dict[str, Any] = {
        name: state[name]
        for name in ("uri", "query", "arguments", "query_arguments", "_cookies")
        if name in state
    }

    def restore() -> None:
        state.pop("_cookies", None)
        state.update(saved)
        for name, values in saved_headers.items():
            if name in headers:
                del headers[name]
            for value in values:
                headers.add(name, value)

    return restore
