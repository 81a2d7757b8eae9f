"""Wrong credentials of requests: counted by address, remembered for a moment (contract section 3, 4429).

A request comes here after it was judged and nobody was admitted, never before; so what is right is not
refused for what others got wrong. Passwords alone come before they are judged, to wait for their turn.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .addresses import Proxies, limit_key, peer
from .limits import (
    Attempts,
    AttemptStore,
    MemoryAttempts,
    MemoryPace,
    Pace,
    PaceStore,
    Remembered,
)
from .refusal import Refused

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

    from .credentials import Digester

NO_PROXY_NAMED = (
    "A wrong credential came with the header of a proxy, and TokenWebSocketApp.trusted_proxies names none:"
    " where such clients are cannot be known, so how often they try is not limited by address, and"
    " passwords of all of them wait in one queue"
)


class Throttle:
    """How often the clients of one server may be wrong.

    ``burst`` wrong credentials of an address are told so in ``window`` seconds, 0 is any number.
    ``memory`` is in seconds, and so is ``longest``, which a password waits for its turn at most.
    ``store`` counts elsewhere than here.
    """

    def __init__(
        self,
        proxies: Proxies,
        digest: Digester,
        log: logging.Logger,
        *,
        burst: int,
        window: float,
        memory: float,
        longest: float = 10,
        store: AttemptStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.proxies = proxies
        self.store = store or MemoryAttempts(Attempts(burst, window), clock)
        self.remembered = Remembered(memory)
        self.pace: PaceStore | None = None
        if burst > 0 and window > 0:
            self.pace = MemoryPace(Pace(burst, window, longest), clock)
        self._digest = digest
        self._log = log
        self._limited = burst > 0
        self._clock = clock
        self._warned = False

    @property
    def active(self) -> bool:
        """Whether anything is counted or remembered."""
        return self._limited or self.remembered.seconds > 0

    def client(self, request: HTTPServerRequest) -> str | None:
        """The address as which a client is counted; ``None`` where nobody can know it, with one warning."""
        address = self.proxies.client(request)
        if address is None:
            self._warn()
        return address

    async def wrong(self, request: HTTPServerRequest, tokens: Iterable[str]) -> int | None:
        """These tokens of a request, one at least, admitted nobody. Seconds to wait, if too many were."""
        if not self._limited:
            return None
        address = self.client(request)
        if address is None:
            return None
        waits = [await self.store.wrong(address, self._digest(token)) for token in set(tokens)]
        return math.ceil(max(waits)) or None

    async def take_turn(self, request: HTTPServerRequest) -> Callable[[], None]:
        """Wait until a password may be tried; what is answered with takes the attempt back, for a right one.

        Raises ``Refused`` where too many wait already.
        """
        pace = self.pace
        if pace is None:
            return lambda: None
        # Anybody can make up the header of a proxy, and a password can be guessed: then all who come by
        # one connection's address wait together.
        client = self.client(request) or limit_key(peer(request))
        turn, seconds = await pace.take(client)
        if not turn:
            raise Refused("too_many_attempts", max(1, math.ceil(seconds)))
        if seconds:
            await asyncio.sleep(seconds)
        return lambda: pace.give_back(client)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            self._log.warning(NO_PROXY_NAMED)

    def _key(self, request: HTTPServerRequest, *shown: str | None) -> str:
        # How it was shown counts too: a provider may take a token one way and not another, and
        # JupyterHub's takes some by what the browser says that a request is for.
        ways = [request.headers.get(name, "") for name in ("Upgrade", "Sec-Fetch-Mode")]
        return self._digest("\0".join([*ways, *(part or "" for part in shown)]))

    def remember(self, request: HTTPServerRequest, *shown: str | None) -> None:
        """Credentials, shown to the provider in these ways, admitted nobody just now."""
        self.remembered.add(self._key(request, *shown), self._clock())

    def remembers(self, request: HTTPServerRequest, *shown: str | None) -> bool:
        """Whether credentials shown in the same ways admitted nobody a moment ago."""
        if not len(self.remembered):
            return False  # as with nearly every request
        return self.remembered.has(self._key(request, *shown), self._clock())
