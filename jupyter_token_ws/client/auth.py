"""Drives auth plugins, for all requests and websockets of one server together.

However many of them are refused at once: the credential is refreshed once, and the others wait for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
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
    nobody_serves,
)
from jupyter_token_ws.protocol.reasons import Advice

from .errors import AuthError, ClientError

T = TypeVar("T")

_logger = logging.getLogger(__name__)

KEEPER_REST = 1.0
"""Seconds between two looks at least at whether a credential is to be renewed."""

Exchange = Callable[[Request], Awaitable[Response]]


async def drive(flow: Flow[T], exchange: Exchange) -> T:
    """Run a plugin's generator: what it yields is sent, and it is told the answer, or the error."""
    try:
        request = next(flow)
        while True:
            said = await _asked(exchange, request)
            request = flow.throw(said) if isinstance(said, ClientError) else flow.send(said)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()


async def _asked(exchange: Exchange, request: Request) -> Response | ClientError:
    try:
        return await exchange(request)
    except ClientError as error:
        return error


def drive_sync(flow: Flow[T], exchange: Callable[[Request], Response]) -> T:
    """``drive`` for programs without a loop."""
    try:
        request = next(flow)
        while True:
            said: Response | ClientError
            try:
                said = exchange(request)
            except ClientError as error:
                said = error
            request = flow.throw(said) if isinstance(said, ClientError) else flow.send(said)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()


@dataclass(frozen=True)
class Grant:
    """What one request or handshake is sent with.

    ``headers`` are those besides the token; ``token`` goes into ``Authorization``, or into the subprotocol of
    a handshake. ``generation`` tells which credential it is. ``base_url`` is the server that it is for: where
    that is another than was connected to, a login led there (C6.2), and the grant is sent nowhere else.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)
    generation: int = 0
    base_url: str = ""

    def for_http(self) -> dict[str, str]:
        """All of it as headers of a request."""
        if self.token is None:
            return dict(self.headers)
        return {**self.headers, "Authorization": f"token {self.token}"}


class Authenticator:
    """The first plugin of a list that does not ignore the endpoint, and its one context.

    A credential is got, refreshed and renewed in tasks of the authenticator's own: a caller that is cancelled
    takes nothing from the others that wait for the same.

    Args:
        plugins: in the order in which they are asked.
        endpoint: whom the credentials are for.
        exchange: sends a plugin's own request; of another server only where ``endpoint`` trusts it.
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
        self._serving: tuple[AuthPlugin[Any], Context] | None = None
        self._refused: tuple[float, ClientError] | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def plugin(self) -> AuthPlugin[Any] | None:
        """The plugin that serves, once there was a need of it."""
        return None if self._serving is None else self._serving[0]

    @property
    def base_url(self) -> str:
        """The server that the credential is for, as in ``Grant``."""
        return self.endpoint.base_url if self._serving is None else self._serving[1].base_url

    async def grant(self) -> Grant:
        """What to send the next request with; the credential is got or renewed first where that is due.

        Raises ``ClientError`` where none is to be had.
        """
        if self._closed:
            raise _closed()
        if self._serving is None:
            await self._apart(self._initialize(self._clock()))
        elif self._due():
            await self._apart(self._keep_fresh(self._clock()))
        plugin, context = self._served()
        generation = context.generation
        outgoing = Outgoing()
        await drive(plugin.update_headers(context, outgoing), self._exchange)
        return Grant(outgoing.headers, outgoing.token, generation, context.base_url)

    async def judge(self, grant: Grant, response: Response) -> bool:
        """Whether to send again, with another grant, what was answered so; ``False``: it is not about the
        credential. Raises ``ClientError`` where no other credential is to be had."""
        plugin, _ = self._served()
        if not plugin.concerns(response):
            return False
        return await self._apart(self._judge(grant, response, self._clock()))

    def refresh_in(self) -> float | None:
        """Seconds until the credential will be renewed ahead of its end; ``None``: never."""
        if self._serving is None:
            return None
        plugin, context = self._serving
        return plugin.refresh_in(context, self._clock())

    async def aclose(self) -> None:
        """Let the plugin clean up; what fails of that is passed over, for nobody can do anything about it."""
        self._closed = True
        tasks = {*self._tasks, *({self._keeper} if self._keeper else ())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        serving, self._serving = self._serving, None
        if serving is not None:
            plugin, context = serving
            with contextlib.suppress(ClientError):
                await drive(plugin.cleanup(context), self._exchange)

    # -- in tasks of our own -----------------------------------------------------------------------

    async def _apart(self, doing: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        await asyncio.wait({task})  # which leaves the task alone when the caller is cancelled
        if task.cancelled():
            raise _closed()
        return task.result()

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it, or was cancelled

    async def _initialize(self, now: float) -> None:
        async with self._lock:
            if self._serving is not None:
                return
            if self._refused is not None and now - self._refused[0] < MIN_REFRESH_INTERVAL:
                raise self._refused[1].with_traceback(None)
            try:
                self._serving = await self._first()
            except ClientError as error:
                # The next ones to come need not be told no by the server; but one that was not there may
                # be there now.
                if error.advice is not Advice.RETRY:
                    self._refused = (self._clock(), error)
                raise
            self._refused = None
            if self.refresh_in() is not None:
                self._keeper = asyncio.ensure_future(self._keep())

    async def _first(self) -> tuple[AuthPlugin[Any], Context]:
        for plugin in self._plugins:
            if not plugin.meant_for(self.endpoint):
                continue
            context = await drive(plugin.initialize(self.endpoint, self._clock()), self._exchange)
            if not isinstance(context, Ignore):
                return plugin, context
        raise nobody_serves(self._plugins, self.endpoint)

    async def _judge(self, grant: Grant, response: Response, now: float) -> bool:
        async with self._lock:
            plugin, context = self._served()
            verdict = await drive(
                plugin.handle_response(context, response, grant.generation, now), self._exchange
            )
        if isinstance(verdict, Fail):
            raise verdict.error.with_traceback(None)
        return verdict is RETRY

    async def _keep_fresh(self, now: float) -> None:
        async with self._lock:
            plugin, context = self._served()
            await drive(plugin.keep_fresh(context, now), self._exchange)

    async def _keep(self) -> None:
        """Renew the credential when it is time, also while nothing is asked: open sockets live on by it."""
        while (left := self.refresh_in()) is not None:
            await asyncio.sleep(max(left, KEEPER_REST))
            if self._due():
                try:
                    await self._keep_fresh(self._clock())
                except Exception as error:  # noqa: BLE001 - a plugin's; who asks for the credential is told
                    _logger.warning("A credential was not renewed ahead: %s", type(error).__name__)

    def _served(self) -> tuple[AuthPlugin[Any], Context]:
        if self._serving is None:
            raise _closed()
        return self._serving

    def _due(self) -> bool:
        left = self.refresh_in()
        return left is not None and left <= 0


def _closed() -> AuthError:
    return AuthError("the connection to the server is closed", advice=Advice.STOP)
