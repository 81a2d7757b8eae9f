"""Login on one server: its tickets, and the one rule by which requests that bear a ticket are judged.

The guard asks here what a ticket stands for, for websockets and REST alike; ``handler`` is the REST path
where tickets are had. Where else a user may have a server is a ``Directory``'s to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from jupyter_token_ws.guard.limits import Pace
from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.guard.tickets import Grant
from jupyter_token_ws.protocol.reasons import Feature

from .tickets import BadRequest, Ticket, TicketError, UnknownTicket

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler
    from tornado.httputil import HTTPServerRequest

    from jupyter_token_ws.guard.core import Guard

    from .store import TicketStore

SETTING = "token_ws_login"
"""Key of the login in the web application's settings."""

PATH = "api/token-ws/login"
"""Where tickets are had, below the server's base."""


@dataclass(frozen=True)
class Place:
    """The server of a user: its base URL, and whether it is there to be used."""

    base_url: str
    ready: bool = True


class Directory(Protocol):
    """Knows which server is whose (C6.2)."""

    async def place(self, handler: JupyterHandler, user: Any) -> Place | None:
        """The server of a user who was admitted by the handler's request; ``None``: the one asked."""


class Login:
    """The login of one server.

    Args:
        guard: of the server.
        store: keeps the tickets.
        password_wait: seconds that a password waits for its turn at most.
        directory: knows other servers, if there is one.
    """

    def __init__(
        self,
        guard: Guard,
        store: TicketStore,
        *,
        password_wait: float = 10.0,
        directory: Directory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.guard = guard
        self.store = store
        self.directory = directory
        self._clock = clock
        options = guard.options
        self.pace: Pace | None = None
        if options.attempt_burst > 0 and options.attempt_window > 0:
            self.pace = Pace(options.attempt_burst, options.attempt_window, password_wait)
        application = guard.application
        base: str = application.settings.get("base_url", "/")
        self._base = base
        self._path = f"{base.rstrip('/')}/{PATH}"
        guard.tickets = self
        guard.features |= {Feature.LOGIN}
        guard.login_document = {
            "path": PATH,
            "max_age": store.max_age,
            "revocable": store.revocable,
        }
        application.settings[SETTING] = self

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Login:
        """The login of a web application, by its settings. Raises ``KeyError`` where it has none."""
        found: Login = settings[SETTING]
        return found

    # -- the rule ----------------------------------------------------------------------------------

    async def look_up(self, request: HTTPServerRequest, ticket: str) -> Grant:
        """What a ticket stands for that a request shows. See ``guard.tickets.Tickets``."""
        return grant_of(await self.find(request, ticket))

    async def find(self, request: HTTPServerRequest, ticket: str) -> Ticket:
        """The ticket that a request shows. Raises ``Refused``; one that nobody issued is counted as any
        other wrong token is."""
        try:
            found = await self.store.look_up(ticket)
            if (
                request.path != self._path
            ):  # whoever has it may renew and revoke it, wherever it is good
                found.check_audience(request.path, self._base)
        except UnknownTicket as error:
            wait = await self.guard.throttle.wrong(request, [ticket])
            if wait is not None:
                raise Refused("too_many_attempts", wait) from None
            refuse(error)
        except TicketError as error:
            refuse(error)
        return found

    async def consume(self, request: HTTPServerRequest, ticket: str) -> None:
        """Use up a ticket for a single use. See ``guard.tickets.Tickets``."""
        try:
            await self.store.consume(ticket)
        except TicketError as error:
            refuse(error)

    # -- passwords ---------------------------------------------------------------------------------

    async def take_turn(self, request: HTTPServerRequest) -> Callable[[], None]:
        """Wait until a password may be tried; what is answered with takes the attempt back, for a right one.

        Raises ``Refused`` where too many wait already.
        """
        pace, client = self.pace, self.guard.throttle.client(request)
        if pace is None or client is None:
            return lambda: None
        turn, seconds = pace.take(client, self._clock())
        if not turn:
            raise Refused("too_many_attempts", max(1, round(seconds)))
        if seconds:
            await asyncio.sleep(seconds)
        return lambda: pace.give_back(client)


def grant_of(ticket: Ticket) -> Grant:
    """A ticket as the guard sees it."""
    behind = ticket.credential
    return Grant(ticket.family, ticket.expires_at, ticket.single_use, behind.kind, behind.value)


def name_of(ticket: Ticket) -> str:
    """The user's name, empty where the identity provider names nobody (C2.8)."""
    kind, _, name = ticket.principal.partition(":")
    return name if kind == "user" else ""


def refuse(error: TicketError) -> NoReturn:
    """What is wrong with a ticket, as the guard tells it."""
    text = str(error) if isinstance(error, BadRequest) else ""
    raise Refused(error.slug, error.retry_after, text) from None
