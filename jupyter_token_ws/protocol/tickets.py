"""What a ticket looks like, where it is good and how long it lives (contract section 6). Pure functions.

Who keeps tickets, and what stands behind one, is the login room's business.
"""

from __future__ import annotations

import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

PREFIX = "jtws_"
"""What every ticket begins with, and by which one is told from any other token.

All of a ticket is of characters that need no encoding in ``Authorization`` (token68, RFC 9110 section
11.2), in a subprotocol (token, RFC 9110 section 5.6.2) and in a URL (unreserved, RFC 3986 section 2.3).
"""

SECRET_SIZE = 32
"""Bytes of a ticket that are random: 256 bits, which nobody guesses."""

RENEWAL_GRACE = 30.0
"""Seconds that a ticket outlives its renewal at most (C6.4): long enough for whoever has not heard of
the new one yet."""

MAX_SKEW = 60.0
"""Seconds that clocks may differ. A ticket that seems to have been issued later than that from now is not
taken: a clock was set back, and would let expired tickets live again."""

MAX_AUDIENCE = 32
"""Route prefixes of one ticket at most."""

MAX_AUDIENCE_SIZE = 2048
"""Characters of all of them together at most."""

SIGN_IN = "api/token-ws/sign-in"
"""Where a link leads that signs a browser in, below the server's base. A ticket for one use whose whole
audience is this path signs in there, and is good for nothing else."""

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_NOT_IN_A_PATH = re.compile(r"[^!$&'()*+,./0-9:;=@A-Z_a-z~%-]")
_SEPARATORS = re.compile(rb"[/\\]")


def is_ticket(token: str) -> bool:
    """Whether a token is to be judged as a ticket, be it a good one or not."""
    return token.startswith(PREFIX)


def write_ticket(secret: bytes) -> str:
    """The ticket of ``SECRET_SIZE`` random bytes. Raises ``ValueError`` for another number of them."""
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"a ticket has {SECRET_SIZE} random bytes")
    return PREFIX + urlsafe_b64encode(secret).rstrip(b"=").decode()


def read_ticket(ticket: str) -> bytes | None:
    """The random bytes of a ticket, or ``None`` for what ``write_ticket`` does not write.

    A ticket is written in one way only: what merely decodes to the same bytes is none.
    """
    encoded = ticket.removeprefix(PREFIX)
    if not is_ticket(ticket) or not _SECRET.fullmatch(encoded):
        return None
    secret = urlsafe_b64decode(encoded + "=")
    return secret if write_ticket(secret) == ticket else None


def read_audience(asked: object) -> tuple[str, ...] | None:
    """The audience that a login asked for (C6.1): route prefixes below the base URL, without slashes
    around them, each once; ``None``, all of the server, for ``None``.

    Raises ``ValueError`` for anything but a list of paths. An empty list is none either: whoever sends it
    may mean everything or nothing.
    """
    if asked is None:
        return None
    if not isinstance(asked, (list, tuple)) or not asked or len(asked) > MAX_AUDIENCE:
        raise ValueError(f"audience must be a list of 1 to {MAX_AUDIENCE} route prefixes")
    prefixes = []
    for prefix in asked:
        path = prefix.strip("/") if isinstance(prefix, str) else ""
        if not path or _NOT_IN_A_PATH.search(path) or "//" in path or _climbs(_decoded(path)):
            raise ValueError("each prefix of audience must be a path below the base URL")
        prefixes.append(path)
    if sum(map(len, prefixes)) > MAX_AUDIENCE_SIZE:
        raise ValueError(f"audience must have at most {MAX_AUDIENCE_SIZE} characters")
    return tuple(dict.fromkeys(prefixes))


def covers(audience: Sequence[str] | None, path: str, base_url: str = "/") -> bool:
    """Whether a ticket's audience has a path of a request in it (C6.1).

    ``path`` is as in the request line, without the query; ``base_url`` is the server's. Prefixes end at
    ``/``. A path that climbs (``..``), however it is encoded, is in no audience: what is behind the route
    may follow it elsewhere. Renewing and revoking a ticket is no question of its audience.
    """
    if audience is None:
        return True
    segments = _decoded(path.removeprefix("/"))
    if _climbs(segments):
        return False
    base = _decoded(base_url.strip("/")) if base_url.strip("/") else []
    for prefix in audience:
        wanted = base + _decoded(prefix)
        if segments[: len(wanted)] == wanted:
            return True
    return False


def climbs(path: str) -> bool:
    """Whether a path has a segment that leads up, however it is encoded."""
    return _climbs(_decoded(path))


def _decoded(path: str) -> list[bytes]:
    # Bytes: text that is no UTF-8 would be replaced, and then equal to other such text.
    return [unquote_to_bytes(part) for part in path.encode("utf-8", "surrogatepass").split(b"/")]


def _climbs(segments: Sequence[bytes]) -> bool:
    return any(map(_leads_up, segments))


def _leads_up(segment: bytes) -> bool:
    """Whether a segment is ``.`` or ``..`` for anybody who decodes it once more, takes a backslash for a
    slash, or has parameters behind ``;`` (RFC 3986 section 3.3)."""
    for _ in range(3):
        if any(part.partition(b";")[0] in (b".", b"..") for part in _SEPARATORS.split(segment)):
            return True
        decoded = unquote_to_bytes(segment)
        if decoded == segment:
            return False
        segment = decoded
    return True  # encoded over and over: there is no good reason for that


def is_current(issued_at: float, expires_at: float, now: float) -> bool:
    """Whether a ticket is within its time. All in seconds since the epoch; at ``expires_at`` it is over."""
    return issued_at <= now + MAX_SKEW and now < expires_at


@dataclass(frozen=True)
class Lifetimes:
    """How long tickets live, in seconds.

    ``max_age`` is for one ticket, and what one gets that asked for nothing else; ``max_renewal`` for a
    ticket and all its renewals together.
    """

    max_age: float = 300.0
    max_renewal: float = 28800.0

    def age(self, asked: object = None) -> float:
        """The seconds that a ticket gets which asked for so many: never more than ``max_age``.

        Raises ``ValueError`` for what is no positive number.
        """
        if asked is None:
            return self.max_age
        if (
            isinstance(asked, bool)
            or not isinstance(asked, (int, float))
            or not 0 < asked < math.inf
        ):
            raise ValueError("max_age must be a positive number of seconds")
        return float(min(asked, self.max_age))

    def family_ends_at(self, now: float, credential_ends_at: float | None = None) -> float:
        """When a ticket issued now, and all its renewals, are over (C6.4).

        ``credential_ends_at`` is when the credential behind it expires, ``None`` where nobody knows.
        """
        ends_at = now + self.max_renewal
        return ends_at if credential_ends_at is None else min(ends_at, credential_ends_at)
