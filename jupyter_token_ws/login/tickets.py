"""What is known of a ticket, and what can be wrong with one (contract section 6).

The errors::

    TicketError
        TicketRefused               whoever shows the ticket is not let in
            UnknownTicket           no such ticket, or no longer remembered
            ExpiredTicket           its time is over, or its credential's
            RevokedTicket           it, or another of its family, was revoked
            UsedTicket              it was for one use
            WrongAudience           it is for other paths
        BadRequest                  an option that makes no sense (also a ValueError)
            RenewalRefused          it does not renew, or not yet
            Unsupported             this store cannot do that
            TicketTooLarge          what is behind it does not fit
        StoreUnavailable            nobody knows whether a ticket is good: never "yes"
            StoreFull               there is no room for another
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyter_token_ws.protocol.tickets import covers


class TicketError(Exception):
    """Something is wrong with a ticket, or with what was asked for.

    ``slug`` names the reason in the table of ``protocol.reasons``; ``retry_after`` is in seconds where
    trying again then may help. Texts are constants and numbers: never a ticket, a credential or a name.
    """

    slug = "internal_error"

    def __init__(self, text: str = "", retry_after: int | None = None) -> None:
        super().__init__(text or (type(self).__doc__ or "").partition("\n")[0].rstrip("."))
        self.retry_after = retry_after


class TicketRefused(TicketError):  # noqa: N818 - it says what it is
    """Whoever shows this ticket is not let in."""

    slug = "token_rejected"


class UnknownTicket(TicketRefused):
    """There is no such ticket, or it is no longer remembered."""


class ExpiredTicket(TicketRefused):
    """The time of the ticket, or of the credential behind it, is over."""

    slug = "token_expired"


class RevokedTicket(TicketRefused):
    """The ticket was revoked, or another of its family."""

    slug = "token_revoked"


class UsedTicket(TicketRefused):
    """The ticket was for one use, and was used."""


class WrongAudience(TicketRefused):
    """The ticket is for other paths."""

    slug = "wrong_audience"


class BadRequest(TicketError, ValueError):  # noqa: N818 - it says what it is
    """What was asked for makes no sense."""

    slug = "bad_request"


class RenewalRefused(BadRequest):
    """The ticket does not renew: it is for one use, or it is too early."""


class Unsupported(BadRequest):
    """This store of tickets cannot do that."""


class TicketTooLarge(BadRequest):
    """The credential and the user's description are too large for a ticket."""


class StoreUnavailable(TicketError):  # noqa: N818 - it says what it is
    """The store of tickets does not answer."""

    slug = "unavailable"


class StoreFull(StoreUnavailable):
    """The store of tickets is full."""


@dataclass(frozen=True)
class Credential:
    """What a ticket stands for (C6.3).

    ``kind`` says how to show it to the identity provider: in the header ``Authorization`` or ``Cookie``; the
    stores do not look at it. ``value`` is what stands there, the secret. Both are empty where
    authentication is off.
    """

    kind: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class Ticket:
    """What is known of a ticket. Times are in seconds since the epoch, by this server's clock.

    Args:
        principal: who it is for, as whatever belongs to a user is keyed (C2.8).
        user: the user as the identity provider described them, as JSON.
        credential: what it stands for.
        audience: route prefixes below the base URL, ``None`` for all of the server.
        single_use: whether it opens one socket only.
        family: what it has in common with its renewals, 32 hexadecimal digits. No secret.
        lifetime: the seconds that it was issued for, and that a renewal gets.
        issued_at: when.
        expires_at: when it is over.
        family_ends_at: when all its renewals are over (C6.4).
    """

    principal: str
    user: Mapping[str, Any] = field(repr=False)
    credential: Credential
    audience: tuple[str, ...] | None
    single_use: bool
    family: str
    lifetime: float
    issued_at: float
    expires_at: float
    family_ends_at: float

    def check_audience(self, path: str, base_url: str = "/") -> None:
        """Raise ``WrongAudience`` unless the ticket is for this path: see ``protocol.tickets.covers``."""
        if not covers(self.audience, path, base_url):
            raise WrongAudience


@dataclass(frozen=True)
class Issued:
    """A new ticket: ``token`` is the ticket itself, which nobody keeps but whom it was issued to."""

    ticket: Ticket
    token: str = field(repr=False)


@dataclass(frozen=True)
class FamilyState:
    """What became of a family: whether any of its tickets is good, and until when (seconds since the
    epoch, by this server's clock)."""

    alive: bool
    expires_at: float = 0.0


@dataclass(frozen=True)
class FamilyChange:
    """Something happened to a family, on this server or on another that shares the store.

    ``revoked``: its sockets close (C6.4). Otherwise it was renewed: they live until ``expires_at``. Without
    ``family`` news may have been missed: whoever has sockets of families asks for each again.
    """

    family: str | None
    revoked: bool = False
    expires_at: float = 0.0


def dump_ticket(ticket: Ticket) -> bytes:
    """All of a ticket but the times that a store keeps. Raises ``BadRequest`` for a user that is no JSON."""
    try:
        return json.dumps(
            {
                "principal": ticket.principal,
                "user": dict(ticket.user),
                "credential": [ticket.credential.kind, ticket.credential.value],
                "audience": ticket.audience,
                "single_use": ticket.single_use,
                "family": ticket.family,
                "lifetime": ticket.lifetime,
                "issued_at": ticket.issued_at,
            },
            separators=(",", ":"),
            allow_nan=False,
        ).encode()
    except (TypeError, ValueError):
        # Not chained: the error may show what it could not write.
        raise BadRequest("the user's description is no JSON") from None


def load_ticket(data: bytes, expires_at: float, family_ends_at: float) -> Ticket:
    """The ticket that ``dump_ticket`` wrote. For what nobody could have changed: it is not checked."""
    values = json.loads(data)
    audience = values.pop("audience")
    return Ticket(
        credential=Credential(*values.pop("credential")),
        audience=None if audience is None else tuple(audience),
        expires_at=expires_at,
        family_ends_at=family_ends_at,
        **values,
    )
