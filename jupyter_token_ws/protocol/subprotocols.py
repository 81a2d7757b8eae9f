"""What a client offers in ``Sec-WebSocket-Protocol`` and what it is answered (contract section 1).

Parsing, choosing and percent-encoding only. Whether a token is any good is the guard's business.
Sources: RFC 6455 sections 4.1 and 4.2.2, JEP 121 (draft).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

MARKER = "v1.token.websocket.jupyter.org"
"""The marker of JEP 121: "I may send my token as a subprotocol"."""

REASON_MARKER = "v1.reason.websocket.jupyter.org"
"""The reason marker: "I understand close codes: accept me, then close with the reason"."""

KERNEL = "v1.kernel.websocket.jupyter.org"
"""The kernel wire protocol, which exists upstream."""

TUNNEL = "v1.tunnel.websocket.jupyter.org"
"""Many sockets over one connection (contract section 7)."""

MAX_TOKEN_SIZE = 4096
"""The default limit of a token, in bytes as encoded in the header (C1.3)."""

# C1.2: any version, any case, empty included. It is looked for behind anything that cannot be part of
# a name (RFC 9110 section 5.6.2) too: a client that joined its names by blanks, or quoted them, has
# sent a token all the same.
_TOKEN_BEARING = re.compile(
    r"(?<![!#$%&'*+.^_`|~0-9A-Za-z-])v([0-9]+)\.token\.websocket\.jupyter\.org\.(.*)",
    re.IGNORECASE | re.DOTALL,
)
_MARKERS = (MARKER, REASON_MARKER)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Offer:
    """What one handshake offered.

    ``protocols`` is what a handler may see: the offer less both markers and every token-bearing
    entry. ``visible`` is the offer less the token-bearing entries only. ``token`` is the decoded
    token or ``None`` when none was sent; it is kept out of the representation. ``malformed`` is
    true where C1.2 or C1.3 refuse the offer, and then ``token`` is ``None``; ``token_bearing`` says
    that there was an entry for a token, whatever was in it.
    """

    protocols: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()
    marker: bool = False
    reason_marker: bool = False
    token_bearing: bool = False
    token: str | None = field(default=None, repr=False)
    malformed: bool = False


_NOTHING = Offer()


def is_token_bearing(protocol: str) -> bool:
    """Whether an offered name carries a token, whatever its version, case or length (C1.2)."""
    return _TOKEN_BEARING.search(protocol) is not None


def split_header(header: str) -> list[str]:
    """The names in a ``Sec-WebSocket-Protocol`` header, in order; empty elements are passed over.

    Several headers of that name are one list joined by commas (RFC 9110 section 5.3). Every kind of
    white space around a name goes, not only what RFC 9110 calls optional: tornado does the same, and
    what a handler sees must be what was looked at here.
    """
    return [name for name in (part.strip() for part in header.split(",")) if name]


def parse_offer(header: str | Iterable[str], max_token_size: int = MAX_TOKEN_SIZE) -> Offer:
    """Read an offer (C1.2, C1.3).

    ``header`` is the header's value, or the list of names. ``max_token_size`` is in bytes of the
    encoded token. Never raises: what is wrong with the offer stands in ``Offer.malformed``.
    """
    if not header:
        return _NOTHING
    names = split_header(header) if isinstance(header, str) else list(header)
    visible: list[str] = []
    bearing: list[re.Match[str]] = []
    for name in names:
        # Every browser of ours offers the markers; they need not be searched for a token.
        match = None if name in _MARKERS else _TOKEN_BEARING.search(name)
        if match:
            bearing.append(match)
        else:
            visible.append(name)
    token: str | None = None
    malformed = bool(bearing)
    if len(bearing) == 1:
        version, encoded = bearing[0].groups()
        known = version == "1" and bearing[0].start() == 0
        decoded = decode_token(encoded, max_token_size) if known else None
        malformed = decoded is None
        token = decoded or None  # an empty entry: none was sent
    return Offer(
        protocols=tuple([name for name in visible if name not in _MARKERS]),
        visible=tuple(visible),
        marker=MARKER in visible,
        reason_marker=REASON_MARKER in visible,
        token_bearing=bool(bearing),
        token=token,
        malformed=malformed,
    )


def choose(chosen: str | None, offer: Offer, token_accepted: bool) -> str | None:
    """The subprotocol that an accepted socket is answered with (C1.1), or ``None`` for none.

    ``chosen`` is the handler's own choice from ``offer.protocols``. ``token_accepted`` says that
    the subprotocol token was.
    """
    if chosen:
        return chosen
    if offer.marker and token_accepted:
        return MARKER
    if offer.reason_marker:
        return REASON_MARKER
    return None


def choose_refused(offer: Offer) -> str | None:
    """The subprotocol that an accept-then-close refusal is answered with (C3.2), or ``None``.

    Never another offered name: applications put credentials there.
    """
    for name in (REASON_MARKER, KERNEL, MARKER):
        if name in offer.visible:
            return name
    return None


def encode_token(token: str) -> str:
    """A token as it stands in a subprotocol: ``encodeURIComponent`` with ``(`` and ``)`` escaped
    (C1.4).

    Raises ``UnicodeEncodeError`` for a lone surrogate, as JavaScript raises ``URIError``.
    """
    return quote(token, safe="!~*'")


def decode_token(encoded: str, max_token_size: int = MAX_TOKEN_SIZE) -> str | None:
    """The token in an encoded entry, or ``None`` where C1.3 refuses it.

    ``max_token_size`` is in bytes of ``encoded``. Control characters are C0, DEL and C1 (Unicode
    category Cc). What ``encode_token`` would have escaped is taken unescaped too.
    """
    if len(encoded) > max_token_size or not encoded.isascii():
        return None
    if encoded.isalnum():
        return encoded  # as with most tokens there is nothing to decode
    if _BAD_PERCENT.search(encoded):
        return None
    try:
        token = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(token) else token


def offer_subprotocols(
    existing: Iterable[str] = (), token: str | None = None, *, reasons: bool = True
) -> list[str]:
    """The list a client offers (C1.4): existing protocols, marker, token, reason marker.

    ``token`` is the plain token; without one no marker is added. ``reasons=False`` adds no reason
    marker, for a client that does not read close codes. No name is listed twice (RFC 6455 section
    4.1; browsers throw), and ``token`` takes the place of one that ``existing`` carries: two would
    be malformed. Raises ``UnicodeEncodeError`` for a lone surrogate in ``token``.
    """
    offered = list(existing)
    if token:
        offered = [name for name in offered if not is_token_bearing(name)]
        offered += [MARKER, f"{MARKER}.{encode_token(token)}"]
    if reasons:
        offered.append(REASON_MARKER)
    return list(dict.fromkeys(offered))
