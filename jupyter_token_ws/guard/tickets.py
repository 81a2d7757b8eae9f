"""The seam for tickets: tokens that this server made itself, which stand for another credential (C6.3).

The guard tells one by its form and asks whoever keeps them what it stands for. From there on the request
is judged as if it showed that and nothing else: identity providers know nothing of tickets.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from jupyter_token_ws.protocol.tickets import is_ticket

from .credentials import Shown, carried_tokens, header_token, remove_ours

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest


@dataclass(frozen=True)
class Grant:
    """What a good ticket stands for.

    ``header`` names the request header that is shown to the identity provider, ``Authorization`` or
    ``Cookie``, and ``value`` is what stands in it; both are empty where authentication is off. ``family``
    is what the ticket has in common with its renewals, no secret. ``expires_at`` is in seconds since the
    epoch. One for a ``single_use`` opens one websocket. ``audience`` is the route prefixes below the base
    URL that it is for, ``None`` for all.
    """

    family: str
    expires_at: float
    single_use: bool
    header: str
    value: str = field(repr=False)
    audience: tuple[str, ...] | None = None

    @property
    def secret(self) -> str:
        """The credential itself: a token, or the cookies."""
        if self.header == "Authorization":
            return header_token(self.value) or self.value
        return self.value

    def shown(self, request: HTTPServerRequest) -> Shown:
        """For the length of a block, a request with this credential and no other."""
        return Shown(
            request,
            authorization=self.value if self.header == "Authorization" else None,
            keep_url_token=False,
            keep_cookies=False,
            cookie=self.value if self.header == "Cookie" else None,
        )


class Tickets(Protocol):
    """Who keeps tickets. All raise ``Refused``, with the reason why a ticket is not taken."""

    def look_up(self, request: HTTPServerRequest, ticket: str) -> Awaitable[Grant]:
        """What a ticket stands for that a request shows; it is not used up by that."""

    def pass_on(self, request: HTTPServerRequest, grant: Grant) -> Grant:
        """What a ticket that opened a tunnel stands for at one of its streams: no second use of it (C7.5)."""

    def consume(self, request: HTTPServerRequest, ticket: str) -> Awaitable[None]:
        """Use up a ticket for a single use, when nothing else can refuse the socket any more (C6.5)."""


def remove_tickets(request: HTTPServerRequest) -> None:
    """Take every ticket out of a request, good or not: it concerns nobody else (C2.3)."""
    for token in carried_tokens(request):
        if is_ticket(token):
            remove_ours(request, token)
