"""Drives auth plugins, for all requests and websockets of one server together.

However many of them are refused at once: the credential is refreshed once, and the others wait for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jupyter_token_ws.protocol.auth import (
    MIN_REFRESH_INTERVAL,
    RETRY,
    AuthPlugin,
    Context,
    Endpoint,
    Fail,
    Flow,
    Ignore,
    Outgoing,
    Request,
    Response,
    about_credentials,
)

from .errors import AuthError, ClientError

T = TypeVar("T")

Exchange = Callable[[Request], Awaitable[Response]]


async def drive(flow: Flow[T], exchange: Exchange) -> T:
    """Run a plugin's generator: what it yields is sent, and it is told the answer, or the error."""
    try:
        request = next(flow)
        while True:
            try:
                response = await exchange(request)
            except ClientError as error:
                request = flow.throw(error)
            else:
                request = flow.send(response)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()


@dataclass(frozen=True)
class Grant:
    """What one request or handshake is sent with.

    ``headers`` are those besides the token; ``token`` goes into ``Authorization``, or into the subprotocol of
    a handshake. ``generation`` tells which credential it is.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)
    generation: int = 0

    def for_http(self) -> dict[str, str]:
        """All of it as headers of a request."""
        if self.token is None:
            return dict(self.headers)
        return {**self.headers, "Authorization": f"token {self.token}"}


class Authenticator:
    """The first plugin of a list that does not ignore the endpoint, and its one context.

    Args:
        plugins: in the order in which they are asked.
        endpoint: whom the credentials are for.
        exchange: sends a plugin's own request.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        plugins: Sequence[AuthPlugin[Any]],
        endpoint: Endpoint,
        exchange: Exchange,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plugins = tuple(plugins)
        self.endpoint = endpoint
        self._exchange = exchange
        self._clock = clock
        self._plugin: AuthPlugin[Any] | None = None
        self._context: Context | None = None
        self._lock = asyncio.Lock()

    @property
    def plugin(self) -> AuthPlugin[Any] | None:
        """The plugin that serves, once there was a need of it."""
        return self._plugin

    async def grant(self) -> Grant:
        """What to send the next request with; the credential is got or renewed first where that is due.

        Raises ``ClientError`` where none is to be had.
        """
        if self._plugin is None or self._due():
            async with self._lock:
                await self._ready()
        plugin, context = self._serving()
        generation = context.generation
        outgoing = Outgoing()
        await drive(plugin.update_headers(context, outgoing), self._exchange)
        return Grant(outgoing.headers, outgoing.token, generation)

    async def judge(self, grant: Grant, response: Response) -> bool:
        """Whether to send again, with another grant, what was answered so; ``False``: it is not about the
        credential. Raises ``ClientError`` where no other credential is to be had."""
        if not about_credentials(response):
            return False
        async with self._lock:
            plugin, context = self._serving()
            verdict = await drive(
                plugin.handle_response(context, response, grant.generation, self._clock()),
                self._exchange,
            )
        if isinstance(verdict, Fail):
            raise verdict.error
        return verdict is RETRY

    def refresh_in(self) -> float | None:
        """Seconds until the credential should be renewed ahead of its end; ``None``: never."""
        if self._plugin is None or self._context is None:
            return None
        return self._plugin.refresh_in(self._context, self._clock())

    async def aclose(self) -> None:
        """Let the plugin clean up; what fails of that is passed over, for nobody can do anything about it."""
        async with self._lock:
            plugin, context = self._plugin, self._context
            self._plugin = self._context = None
            if plugin is not None and context is not None:
                try:
                    await drive(plugin.cleanup(context), self._exchange)
                except ClientError:
                    return

    def _serving(self) -> tuple[AuthPlugin[Any], Context]:
        if self._plugin is None or self._context is None:
            raise AuthError("the connection to the server is closed")
        return self._plugin, self._context

    def _due(self) -> bool:
        left = self.refresh_in()
        return left is not None and left <= 0

    async def _ready(self) -> None:
        if self._plugin is None:
            await self._initialize()
        elif self._due():
            await self._renew(*self._serving())

    async def _initialize(self) -> None:
        for plugin in self._plugins:
            context = await drive(plugin.initialize(self.endpoint, self._clock()), self._exchange)
            if not isinstance(context, Ignore):
                self._plugin, self._context = plugin, context
                return
        names = ", ".join(plugin.name for plugin in self._plugins) or "none"
        raise AuthError(
            f"no credential for {self.endpoint.base_url}: of the auth plugins given ({names}) none is for it"
        )

    async def _renew(self, plugin: AuthPlugin[Any], context: Context) -> None:
        """Ahead of the end: what there is may still do, so that a failure is only tried again later."""
        now = self._clock()
        last = context.refreshed_at
        if last is not None and now - last < MIN_REFRESH_INTERVAL:
            return
        context.refreshed_at = now
        try:
            if await drive(plugin.refresh(context, now), self._exchange):
                context.generation += 1
        except ClientError:
            return
