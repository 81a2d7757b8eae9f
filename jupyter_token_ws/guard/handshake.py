"""What the guard knows of one upgrade request, from its arrival to the end of its socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from jupyter_token_ws.protocol.subprotocols import Offer

from .credentials import CredentialSource, header_token, url_token

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

    from .tickets import Grant


class Stage(Enum):
    """How far a handshake has come."""

    OPENING = auto()
    OPEN = auto()
    REFUSED = auto()
    ENDED = auto()
    """By an answer that was no refusal of the guard's, or because the client left."""


@dataclass(frozen=True)
class Carried:
    """A websocket that has no connection of its own: a stream of a tunnel.

    ``carrier`` names what carries it. ``grant`` is what the ticket stands for by which the tunnel was opened,
    if it was one: the ticket itself may be used up by now, or renewed.
    """

    carrier: str
    grant: Grant | None = None


@dataclass(eq=False)
class Handshake:
    """State of one upgrade request.

    ``user`` is what the identity provider returned, ``by_token`` what it says of how. ``ours`` is
    the token that authenticated, ``credential`` a digest of the credential. ``rejected`` means that
    a subprotocol token was judged and admitted nobody, ``forbidden`` that it is known whose the
    credential is, and that they may not enter, ``unasked`` that authentication is off.
    """

    offer: Offer
    opted_in: bool
    url_token: str | None = field(repr=False)
    header_token: str | None = field(repr=False)
    authorization: str | None = field(repr=False)
    stage: Stage = Stage.OPENING
    judged: bool = False
    user: Any = None
    by_token: bool = False
    token_accepted: bool = False
    rejected: bool = False
    forbidden: bool = False
    unasked: bool = False
    host_refused: bool = False
    wait: int | None = None
    """Seconds, where a wrong credential was one of too many."""
    client: str | None = ""
    """The client's address as limits count it, empty until it was looked for; ``None``: nobody can know."""
    source: CredentialSource = CredentialSource.NONE
    ours: str | None = field(default=None, repr=False)
    grant: Grant | None = None
    """What the client's ticket stands for, where it came by one."""
    credential: str = ""
    principal: str = ""
    answered: str | None = None
    chosen: str | None = None
    carried: Carried | None = None
    """By what it came, where that is no socket of its own."""

    @classmethod
    def begin(cls, request: HTTPServerRequest, offer: Offer, opted_in: bool) -> Handshake:
        """Read what a request carries. The offer's token is out of the request already."""
        authorization = request.headers.get("Authorization")
        in_header = None if authorization is None else header_token(authorization)
        return cls(offer, opted_in, url_token(request), in_header, authorization)

    @property
    def carrier(self) -> str:
        """What brings the messages."""
        return "websocket" if self.carried is None else self.carried.carrier

    @property
    def shown_authorization(self) -> str | None:
        """What stands in ``Authorization`` while the credential is judged, ``None`` for nothing of ours."""
        if self.offer.token is not None:
            return f"token {self.offer.token}"
        if self.source is CredentialSource.URL:
            return f"token {self.url_token}"  # it is out of the URL by now
        return self.authorization

    @property
    def token_presented(self) -> bool:
        """Whether the client sent a token by any way; an empty one is none (C1.3)."""
        sent = self.offer.token is not None or self.offer.malformed
        return bool(sent or self.url_token or self.header_token)

    @property
    def token_unused(self) -> bool:
        """Whether a token was sent, was looked at, and is not what let the client in."""
        used = self.token_accepted or self.ours is not None or self.unasked
        return self.judged and self.token_presented and not used

    @property
    def user_name(self) -> str:
        """The user's name, empty where nobody was named."""
        name = getattr(self.user, "username", self.user)
        if isinstance(name, bytes):  # what tornado's signed cookies give
            name = name.decode("utf-8", "replace")
        return name if isinstance(name, str) else ""

    @property
    def told_name(self) -> str:
        """The user's name for logs and events: none where who judged took the token itself for a name."""
        name = self.user_name
        behind = self.grant.secret if self.grant is not None else None
        for token in (self.offer.token, self.url_token, self.header_token, behind):
            if token and token in name:
                return ""
        return name
