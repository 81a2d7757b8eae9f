"""Sockets that are open stay honest: they end with the credential that opened them (C6.4, C6.7).

Three things reach a live socket: its ticket's time is over; its ticket, or another of the family, was
revoked, here or on a server that shares the store; and the credential, asked for again from time to time,
admits nobody any more. An error is no verdict: the socket lives on, but no longer than its ticket, or than
``grace`` since somebody knew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.identity import IdentityProvider
from tornado import web

from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.identity import (
    ask,
    asks_handler,
    auth_enabled,
    detach,
    schemes,
)

from .tickets import FamilyChange, FamilyState, StoreUnavailable, TicketError, Unsupported

if TYPE_CHECKING:
    from jupyter_token_ws.guard.core import Guard
    from jupyter_token_ws.guard.registry import OpenSocket

    from .store import TicketStore

AT_ONCE = 10
"""Credentials that are asked for at the same time."""

Shown = tuple[str, str]
"""A request header and its value."""


class Watch:
    """Watches the open sockets of one server.

    Args:
        guard: of the server.
        store: of its tickets.
        interval: seconds between two questions about a credential; 0 asks never.
        grace: seconds that a socket lives on while the questions end in errors.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        guard: Guard,
        store: TicketStore,
        *,
        interval: float,
        grace: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._guard = guard
        self._store = store
        self._interval = interval
        self._grace = grace
        self._clock = clock
        self._log: logging.Logger = guard.log
        self._ends: dict[str, float] = {}  # families that have sockets, and until when these live
        self._doubts: dict[str, float] = {}  # credentials, and since when nobody knows
        self._next_end: asyncio.TimerHandle | None = None
        self._round: asyncio.TimerHandle | asyncio.Task[None] | None = None  # planned or going on
        self._unlisten = store.listen(self._on_change)
        guard.on_opened = self.opened

    def opened(self, socket: OpenSocket) -> None:
        """A socket opened."""
        grant = socket.grant
        if grant is not None:
            known = self._ends.get(grant.family, 0.0)
            self._ends[grant.family] = max(known, grant.expires_at)
            self._plan_end()
            # It may have been revoked since its ticket was looked at, when there was no socket to close.
            self._guard.run(self._check_families({grant.family}))
        if self._round is None:
            self._plan_round()

    def stop(self) -> None:
        """End, once or more often; sockets stay as they are."""
        unlisten, self._unlisten = self._unlisten, lambda: None
        unlisten()
        self._guard.on_opened = lambda _: None
        for running in (self._next_end, self._round):
            if running is not None:
                running.cancel()

    # -- tickets -----------------------------------------------------------------------------------

    def _on_change(self, change: FamilyChange) -> None:
        """Something happened to a family, here or elsewhere."""
        if change.family is None:
            self._guard.run(self._check_families(self._families()))
        elif change.revoked:
            self._close_family(change.family, "token_revoked")
        elif change.family in self._ends:
            self._ends[change.family] = change.expires_at
            self._plan_end()

    def _close_family(self, family: str, slug: str) -> None:
        self._ends.pop(family, None)
        for socket in self._guard.registry.by_family(family):
            self._guard.registry.close(socket, slug)

    def _families(self) -> set[str]:
        """Those that have sockets; of others nothing is kept."""
        found = {socket.grant.family for socket in self._guard.registry if socket.grant}
        for family in self._ends.keys() - found:
            del self._ends[family]
        return found

    def _plan_end(self) -> None:
        if self._next_end is not None:
            self._next_end.cancel()
            self._next_end = None
        if self._ends:
            wait = max(0.0, min(self._ends.values()) - self._clock())
            self._next_end = asyncio.get_running_loop().call_later(wait, self._on_end)

    def _on_end(self) -> None:
        self._next_end = None
        self._guard.run(self._end_expired())

    async def _end_expired(self) -> None:
        """Close what is over, unless it was renewed and nobody told us."""
        families = self._families()
        now = self._clock()
        for family in [each for each in families if self._ends.get(each, now) <= now]:
            state = await self._state(family)
            if state is not None and state.alive and state.expires_at > self._clock():
                self._ends[family] = state.expires_at
            else:
                self._close_family(family, "token_expired")
        self._plan_end()

    async def _state(self, family: str) -> FamilyState | None:
        """What became of a family; ``None`` where nobody can say."""
        try:
            return await self._store.family(family)
        except (StoreUnavailable, Unsupported):
            return None

    async def _check_families(self, families: set[str]) -> None:
        """Ask what became of them: news may have been missed."""
        for family in families:
            state = await self._state(family)
            if state is None:
                continue
            if state.alive:
                self._ends[family] = state.expires_at
            else:
                expired = self._ends.get(family, 0.0) <= self._clock()
                self._close_family(family, "token_expired" if expired else "token_revoked")
        self._plan_end()

    # -- credentials -------------------------------------------------------------------------------

    def _plan_round(self) -> None:
        """The next one, as long as there are sockets."""
        self._round = None
        if self._interval > 0 and len(self._guard.registry):
            loop = asyncio.get_running_loop()
            self._round = loop.call_later(self._interval, self._begin_round)

    def _begin_round(self) -> None:
        self._round = asyncio.ensure_future(self._run_round())

    async def _run_round(self) -> None:
        try:
            await self.check()
        except Exception:  # noqa: BLE001 - whatever it was, there is a next time
            self._log.exception("Cannot check the credentials of open websockets")
        self._plan_round()

    async def check(self) -> None:
        """Ask once for every credential that has sockets, and for every family."""
        await self._check_families(self._families())
        provider: IdentityProvider = self._guard.application.settings["identity_provider"]
        sockets: defaultdict[str, list[OpenSocket]] = defaultdict(list)
        if auth_enabled(provider):
            for socket in self._guard.registry:
                if socket.credential and show(provider, socket):
                    sockets[socket.credential].append(socket)
        for credential in self._doubts.keys() - sockets.keys():
            del self._doubts[credential]
        forget(provider)
        turns = asyncio.Semaphore(AT_ONCE)

        async def check_one(credential: str, theirs: list[OpenSocket]) -> None:
            async with turns:
                self._judge(credential, theirs, await self._admits(provider, theirs[0]))

        await asyncio.gather(*(check_one(*each) for each in sockets.items()))

    async def _admits(self, provider: IdentityProvider, socket: OpenSocket) -> bool | None:
        """Whether a socket's credential is good for the same user as ever; ``None``: nobody knows."""
        try:
            return await asyncio.wait_for(admits(provider, socket), max(1.0, self._interval))
        except Exception as error:  # noqa: BLE001 - a provider may raise anything
            self._log.warning(
                "Cannot ask for the credential of open websockets: %s", type(error).__name__
            )
            return None

    def end(self, sockets: Sequence[OpenSocket], cause: str) -> None:
        """The credential of these is dead: close them, and revoke the tickets that stood for it.

        ``cause`` is a word of the event's schema.
        """
        registry = self._guard.registry
        users = {
            socket.grant.family: socket.user_name
            for socket in sockets
            if socket.grant and socket.ended_by == "client"  # else it was told before
        }
        counts = {
            family: sum(each.socket for each in registry.by_family(family)) for family in users
        }
        for socket in sockets:
            registry.close(socket, "token_revoked")
        for family, user in users.items():
            self._guard.run(self._revoke(family))
            self._guard.events.ticket_revoked(
                family=family, user=user, cause=cause, sockets=counts[family]
            )

    def _judge(self, credential: str, sockets: Sequence[OpenSocket], good: bool | None) -> None:
        if good:
            self._doubts.pop(credential, None)
            return
        if good is None:
            since = self._doubts.setdefault(credential, self._clock())
            if self._clock() - since < self._grace:
                return
        self._doubts.pop(credential, None)
        if good is False:
            self.end(sockets, "credential")
            return
        for socket in sockets:
            self._guard.registry.close(socket, "unavailable")

    async def _revoke(self, family: str) -> None:
        # Where the store cannot, or does not answer, the ticket admits nobody either.
        with suppress(TicketError):
            await self._store.revoke_family(family)


def show(provider: IdentityProvider, socket: OpenSocket) -> list[Shown]:
    """The headers by any of which a socket's credential is shown again; none where there is no such thing:
    a proxy names the user, or the handler itself."""
    handler: Any = socket.handler
    handshake = handler._token_ws_handshake
    grant = socket.grant
    if grant is not None:
        return [(grant.header, grant.value)] if grant.header else []
    if asks_handler(provider, handler):
        return []
    if socket.source is CredentialSource.HEADER and handshake.authorization:
        return [("Authorization", handshake.authorization)]
    if socket.source is CredentialSource.COOKIE:
        return [("Cookie", handler.request.headers.get("Cookie", ""))]
    if socket.source in (CredentialSource.SUBPROTOCOL, CredentialSource.URL):
        token = handshake.ours or handshake.offer.token
        return [("Authorization", f"{each} {token}") for each in schemes(provider, handler)]
    return []


async def admits(provider: IdentityProvider, socket: OpenSocket) -> bool:
    """Whether a socket's credential, shown alone, admits the same user. Raises what the provider raises."""
    for name, value in show(provider, socket):
        handler = detach(socket.handler, None)
        handler.request.headers[name] = value
        try:
            user = await ask(provider, handler)
        except web.HTTPError as error:
            if error.status_code not in (401, 403):
                raise
            continue
        if user is None:
            continue
        # Where users have no names of their own, each answer invents one.
        if socket.principal in (f"user:{user.username}", f"credential:{socket.credential}"):
            return True
    return False


def forget(provider: IdentityProvider) -> None:
    """Let JupyterHub's provider ask the Hub anew: it remembers for minutes what the Hub said."""
    cache: Any = getattr(getattr(provider, "hub_auth", None), "cache", None)
    if cache is not None:
        cache.clear()
