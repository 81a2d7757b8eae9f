"""The one table of reasons: close codes, slugs and advice (contract section 3).

The server's refusals, the capabilities document, the reference page, metric labels and the clients'
constants are made from it. Close codes are 4000 + the HTTP status that says the same (RFC 6455
section 7.4.2 leaves 4000-4999 to applications).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

MAX_REASON_SIZE = 123
"""What fits into a close frame beside the code, in bytes of UTF-8 (RFC 6455 section 5.5)."""


class Advice(str, Enum):
    """What a client that received a reason should do next."""

    STOP = "stop"
    """Trying again cannot help."""
    AUTHENTICATE = "authenticate"
    """Get another credential, then reconnect."""
    REDIRECT = "redirect"
    """Ask the server where to go."""
    RETRY = "retry"
    """Reconnect with backoff."""
    RETRY_AFTER = "retry_after"
    """Reconnect with backoff, and not before ``retry_after`` seconds where they were given."""


class Feature(str, Enum):
    """Which part of the server can send a reason; what is off is not published."""

    GUARD = "guard"
    TLS = "tls"
    BRIDGE = "bridge"
    LOGIN = "login"
    TUNNEL = "tunnel"


@dataclass(frozen=True)
class Reason:
    """One row of the table.

    ``code`` is the close code, ``text`` a constant sentence for people, ``told`` is false for
    reasons that stand in logs and metrics only.
    """

    slug: str
    code: int
    advice: Advice
    text: str
    feature: Feature = Feature.GUARD
    told: bool = True

    @property
    def http_status(self) -> int:
        """The status of the plain HTTP refusal (C3.3): unauthenticated is 403, as upstream."""
        status = self.code - 4000
        return 403 if status == 401 else status

    def close_reason(self, retry_after: int | None = None) -> str:
        """``slug[;retry_after=N]: text``, the reason of the close frame, at most 123 bytes.

        ``retry_after`` is in seconds. Raises ``ValueError`` for a negative one.
        """
        if retry_after is None:
            return f"{self.slug}: {self.text}"
        if retry_after < 0:
            raise ValueError("retry_after must not be negative")
        # The digits are bounded so that the whole always fits; a day says enough.
        return f"{self.slug};retry_after={min(retry_after, 86400)}: {self.text}"


def _table() -> dict[str, Reason]:
    stop, authenticate, retry = Advice.STOP, Advice.AUTHENTICATE, Advice.RETRY
    redirect, later = Advice.REDIRECT, Advice.RETRY_AFTER
    bridge, login, tunnel = Feature.BRIDGE, Feature.LOGIN, Feature.TUNNEL
    rows = [
        Reason("malformed_credentials", 4400, stop, "the token could not be read"),
        Reason("bad_request", 4400, stop, "the request was not understood"),
        Reason("credentials_missing", 4401, authenticate, "sign in first"),
        Reason("token_expired", 4401, authenticate, "the token has expired", login),
        Reason("token_revoked", 4401, authenticate, "the token was revoked", login),
        Reason("url_token_refused", 4401, authenticate, "this server takes no token from the URL"),
        Reason("token_rejected", 4403, authenticate, "the token is not valid here"),
        Reason("forbidden", 4403, stop, "you may not use this"),
        Reason("wrong_audience", 4403, stop, "the token is for another path", login),
        Reason("origin_refused", 4403, stop, "the page's origin is not allowed", told=False),
        Reason("not_found", 4404, stop, "there is nothing here by that name"),
        Reason("unsupported_version", 4406, stop, "no version in common", tunnel),
        Reason("open_timeout", 4408, retry, "it took too long to open"),
        Reason("replaced", 4409, stop, "the same session connected again"),
        Reason("out_of_order", 4409, retry, "what came before this is missing", tunnel, told=False),
        Reason("gone", 4410, stop, "the kernel was shut down"),
        Reason("resume_failed", 4410, retry, "what was missed is lost", tunnel),
        Reason("other_server", 4421, redirect, "this belongs to another server", login),
        Reason("tls_required", 4426, stop, "use an encrypted connection", Feature.TLS),
        Reason("too_many_attempts", 4429, later, "too many wrong credentials"),
        Reason("too_many_connections", 4429, later, "too many connections"),
        Reason("internal_error", 4500, retry, "the server failed"),
        Reason("draining", 4503, later, "the server is shutting down"),
        Reason("unavailable", 4503, later, "a part of the server is not available"),
        Reason("kernel_unresponsive", 4504, retry, "the kernel does not answer"),
        Reason("backlog_full", 4507, retry, "output was cut", bridge),
    ]
    return {row.slug: row for row in rows}


REASONS: Mapping[str, Reason] = MappingProxyType(_table())
"""Every reason by slug. Slugs are stable."""

TOKEN_SLUGS = frozenset(
    slug
    for slug in REASONS
    if slug.startswith("token_")
    or slug in ("malformed_credentials", "wrong_audience", "url_token_refused")
)
"""What a rejected token is told across origins (C3.4)."""

# The slug for an error that a handler raised without knowing of this table. The statuses 401 and
# 403 are absent: the guard knows which credential was given and decides.
_BY_STATUS = {
    404: "not_found",
    408: "open_timeout",
    410: "gone",
    429: "too_many_connections",
    503: "unavailable",
    504: "kernel_unresponsive",
}


def slug_for_status(status: int) -> str:
    """The slug that stands for an HTTP error of a handler."""
    slug = _BY_STATUS.get(status)
    if slug is None:
        slug = "internal_error" if status >= 500 else "bad_request"
    return slug


def published(features: frozenset[Feature]) -> dict[str, dict[str, str]]:
    """``{code: {slug: advice}}`` of what a server with these features can tell, for the capabilities."""
    codes: dict[str, dict[str, str]] = {}
    for row in REASONS.values():
        if row.told and row.feature in features:
            codes.setdefault(str(row.code), {})[row.slug] = row.advice.value
    return codes


@dataclass(frozen=True)
class Closed:
    """What a client learned from a close frame: the row of the table and ``retry_after`` in seconds."""

    reason: Reason
    retry_after: int | None = None


_CLOSE_REASON = re.compile(r"([a-z_]+)(?:;retry_after=([0-9]{1,9}))?(?:: .*)?", re.DOTALL)


def parse_close(code: int, reason: str) -> Closed | None:
    """Read a close frame as a client: the row, or ``None`` where the frame is not one of ours.

    A slug counts only if it belongs to the code: proxied applications use 44xx too (contract
    section 3).
    """
    match = _CLOSE_REASON.fullmatch(reason)
    row = REASONS.get(match[1]) if match else None
    if match is None or row is None or row.code != code:
        return None
    return Closed(row, int(match[2]) if match[2] else None)


def error_document(
    reason: Reason, retry_after: int | None = None, text: str = ""
) -> dict[str, Any]:
    """The JSON body of an error on our REST paths: ``status``, ``message``, ``retry_after`` (section 5).

    ``text`` is a message that says more than the reason's own.
    """
    document: dict[str, Any] = {"status": reason.slug, "message": text or reason.text}
    if retry_after is not None:
        document["retry_after"] = retry_after
    return document
