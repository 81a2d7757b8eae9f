"""What every store of tickets does, and how those that keep something do it (contract section 6).

A store issues tickets, looks them up, renews, revokes and uses them up. It does not judge the credential
behind one, nor check an audience: whoever asks does that between looking up and using.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from traitlets import Float, TraitError, validate
from traitlets.config import LoggingConfigurable

from jupyter_token_ws.protocol.tickets import (
    RENEWAL_GRACE,
    SECRET_SIZE,
    Lifetimes,
    read_audience,
    read_ticket,
    write_ticket,
)

from . import secrecy
from .denials import Denials
from .tickets import (
    BadRequest,
    Credential,
    ExpiredTicket,
    FamilyChange,
    FamilyState,
    Issued,
    RenewalRefused,
    Ticket,
    TicketTooLarge,
    UnknownTicket,
    Unsupported,
    dump_ticket,
    load_ticket,
)

if TYPE_CHECKING:
    from jupyter_token_ws.guard.throttle import Throttle

Listener = Callable[[FamilyChange], None]


class TicketStore(LoggingConfigurable):
    """One interface for all stores.

    Every method may raise ``StoreUnavailable``: then nothing is known, and nobody is let in.
    """

    single_use = True
    """Whether there are tickets for one use."""
    revocable = True
    """Whether a ticket can be revoked, and an old one ended by its renewal."""
    grace = RENEWAL_GRACE
    """Seconds that a ticket outlives its renewal at most."""
    remembered = 300.0
    """Seconds that a dead ticket is remembered at most, so that who shows it is told what became of it."""

    max_age = Float(
        Lifetimes.max_age,
        help="Seconds that a ticket lives at most, and where a login asks for nothing else.",
    ).tag(config=True)
    max_renewal = Float(
        Lifetimes.max_renewal,
        help="Seconds from a login to the end of the last renewal of its ticket, if what was logged in with"
        " does not expire before.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        self.clock: Callable[[], float] = time.time
        self._listeners: list[Listener] = []
        self.denials = Denials(lambda: self.clock())  # noqa: PLW0108 - which may be replaced
        """Cookies that are denied, wherever the store's tickets are good."""
        super().__init__(**kwargs)

    @validate("max_age", "max_renewal")
    def _positive(self, proposal: Any) -> Any:
        if not 0 < proposal["value"] < math.inf:
            name = f"{type(self).__name__}.{proposal['trait'].name}"
            raise TraitError(f"{name} must be positive and finite: {proposal['value']}")
        return proposal["value"]

    @property
    def lifetimes(self) -> Lifetimes:
        """How long tickets live."""
        return Lifetimes(self.max_age, self.max_renewal)

    async def start(self) -> None:
        """Begin to listen for what other servers do. Does not fail where the store is down."""

    async def close(self) -> None:
        """Let go of what the store holds open. It may be started again."""

    def share_limits(self, throttle: Throttle) -> None:
        """Count wrong credentials and passwords where tickets are kept, if that is for several servers."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every change of a family, here or on another server; some twice.

        Answers with what ends that. One's own changes are told before the method that made them returns.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self, change: FamilyChange) -> None:
        for listener in list(self._listeners):
            try:
                listener(change)
            except Exception:  # noqa: PERF203 - one that fails must not keep others from closing their sockets
                self._logger.exception("A listener failed at a change of a family of tickets")

    @property
    def _logger(self) -> logging.Logger:
        log: logging.Logger = self.log
        return log

    def _age(self, ticket: Ticket, max_age: object) -> float:
        """The seconds that a renewal of a ticket gets."""
        try:
            return self.lifetimes.age(ticket.lifetime if max_age is None else max_age)
        except ValueError as error:
            raise BadRequest(str(error)) from None

    async def issue(
        self,
        principal: str,
        user: Mapping[str, Any],
        credential: Credential,
        *,
        max_age: object = None,
        audience: object = None,
        single_use: object = False,
        credential_ends_at: float | None = None,
    ) -> Issued:
        """A ticket that stands for a credential, the first of a new family.

        ``max_age`` (seconds), ``audience`` and ``single_use`` are options of C6.1 as they came. More than
        the longest age is cut to it. ``credential_ends_at``, in seconds since the epoch, is when the
        credential expires, if anybody knows.

        Raises ``BadRequest`` for options that make no sense, ``Unsupported`` where this store has no
        tickets for one use, ``TicketTooLarge``, ``ExpiredTicket`` for a credential that is, ``StoreFull``.
        """
        now, lifetimes = self.clock(), self.lifetimes
        try:
            prefixes, lifetime = read_audience(audience), lifetimes.age(max_age)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        if not isinstance(single_use, bool):
            raise BadRequest("single_use must be true or false")
        if single_use and not self.single_use:
            raise Unsupported("this server has no tickets for one use")
        ends_at = lifetimes.family_ends_at(now, credential_ends_at)
        if ends_at <= now:
            raise ExpiredTicket
        drafted = Ticket(
            principal=principal,
            user=user,
            credential=credential,
            audience=prefixes,
            single_use=single_use,
            family=secrets.token_hex(16),
            lifetime=lifetime,
            issued_at=now,
            expires_at=min(now + lifetime, ends_at),
            family_ends_at=ends_at,
        )
        return await self._issue(drafted)

    @abstractmethod
    async def _issue(self, drafted: Ticket) -> Issued:
        """A new ticket, the first of its family. Raises ``TicketTooLarge``, ``StoreFull``."""

    @abstractmethod
    async def look_up(self, token: str) -> Ticket:
        """The ticket, if it is good now; one for a single use is still good afterwards.

        Raises ``TicketRefused``.
        """

    @abstractmethod
    async def consume(self, token: str) -> Ticket:
        """The same, and one for a single use is used up: of all that try, here and on other servers, one
        gets it (C6.5). To be called when nothing else can refuse the socket any more.

        Raises ``TicketRefused``.
        """

    @abstractmethod
    async def renew(self, token: str, *, max_age: object = None) -> Issued:
        """A new ticket in place of a good one: same audience, same family (C6.4).

        ``max_age`` in seconds; without it as long as the old one was issued for. The old one lives
        for 30 s at most, and may be renewed again meanwhile: an answer can be lost.

        Raises ``TicketRefused``, ``RenewalRefused``, ``BadRequest``.
        """

    @abstractmethod
    async def revoke(self, token: str) -> str | None:
        """Revoke a ticket and all of its family. Answers with the family, or ``None`` for what is not
        known any more, which is no error.

        Raises ``Unsupported`` where the store cannot.
        """

    @abstractmethod
    async def revoke_family(self, family: str) -> None:
        """Revoke a family that was not revoked, for whoever found its credential dead.

        Raises ``Unsupported`` where the store cannot.
        """

    @abstractmethod
    async def family(self, family: str) -> FamilyState:
        """What became of a family, for whoever has sockets that it opened.

        Raises ``Unsupported`` where the store keeps nothing.
        """


@dataclass(frozen=True)
class Held:
    """What a store answers about a good ticket: ``box`` is its message, and the seconds that are left, to
    it, to the renewals of its family and to the last of its tickets so far, are by the store's own clock.
    """

    family: str
    box: bytes
    single_use: bool
    left: float
    family_left: float
    latest_left: float = 0.0


class KeepingStore(TicketStore):
    """A store that keeps tickets: by their names, and encrypted under them (C6.6), by ``cipher``.

    Subclasses keep them; how long one lives is by the clock of whoever does, so that servers which share
    a store need no common one.
    """

    cipher: secrecy.Cipher

    @abstractmethod
    async def _put(
        self, name: str, held: Held, *, retire: str | None = None, grace: float = 0.0
    ) -> Held:
        """Keep a ticket under a name; answers with what is kept.

        With ``retire`` it renews the one of that name, atomically: that must be good and not for one use;
        ``left`` is cut to what is left of the family, and the old one lives for ``grace`` seconds at most.
        Raises ``TicketRefused`` and ``RenewalRefused``.
        """

    @abstractmethod
    async def _get(self, name: str, use: bool) -> Held:
        """A good ticket, with ``use`` for the only time if it is for one. Raises ``TicketRefused``: a
        revoked one is revoked, then an expired one is expired, then a used one is used."""

    @abstractmethod
    async def _revoke(self, name: str) -> str | None:
        """Revoke the family of a name; answers with it unless it is unknown."""

    async def _issue(self, drafted: Ticket) -> Issued:
        return (await self._keep(drafted))[0]

    async def _keep(self, ticket: Ticket, retire: str | None = None) -> tuple[Issued, float]:
        """Make a ticket and keep it; with the seconds that are left to the last of its family."""
        secret = secrets.token_bytes(SECRET_SIZE)
        message = dump_ticket(ticket)
        if len(message) > secrecy.MAX_SIZE:
            raise TicketTooLarge
        now = ticket.issued_at
        held = Held(
            ticket.family,
            self.cipher.encrypt(secret, message),
            ticket.single_use,
            ticket.expires_at - now,
            ticket.family_ends_at - now,
        )
        held = await self._put(secrecy.name_of(secret), held, retire=retire, grace=self.grace)
        ticket = replace(ticket, expires_at=now + held.left, family_ends_at=now + held.family_left)
        return Issued(ticket, write_ticket(secret)), held.latest_left

    async def look_up(self, token: str) -> Ticket:
        """The ticket, if it is good."""
        return await self._find(token, use=False)

    async def consume(self, token: str) -> Ticket:
        """The ticket, if it is good, and for the last time if it is for one use."""
        return await self._find(token, use=True)

    async def _find(self, token: str, use: bool) -> Ticket:
        secret = read_ticket(token)
        if secret is None:
            raise UnknownTicket
        held = await self._get(secrecy.name_of(secret), use)
        now = self.clock()
        try:
            message = self.cipher.decrypt(secret, held.box)
        except secrecy.Tampered:
            self._logger.warning("A ticket in the store is not as it was issued: it is refused")
            raise UnknownTicket from None
        ticket = load_ticket(message, now + held.left, now + held.family_left)
        if (ticket.family, ticket.single_use) != (held.family, held.single_use):
            self._logger.warning("A ticket in the store is not as it was issued: it is refused")
            raise UnknownTicket
        return ticket

    async def renew(self, token: str, *, max_age: object = None) -> Issued:
        """A new ticket of the family."""
        ticket = await self.look_up(token)
        if ticket.single_use:
            raise RenewalRefused
        lifetime = self._age(ticket, max_age)
        now = self.clock()
        renewed = replace(ticket, issued_at=now, lifetime=lifetime, expires_at=now + lifetime)
        name = secrecy.name_of(read_ticket(token) or b"")
        issued, latest_left = await self._keep(renewed, name)
        self._tell(FamilyChange(ticket.family, expires_at=now + latest_left))
        return issued

    async def revoke(self, token: str) -> str | None:
        """Revoke the ticket's family."""
        secret = read_ticket(token)
        family = None if secret is None else await self._revoke(secrecy.name_of(secret))
        if family is not None:
            self._tell(FamilyChange(family, revoked=True))
        return family
