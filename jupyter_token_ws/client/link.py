"""The websocket of a kernel, opened again with the same session whenever it is lost.

What the kernel said meanwhile comes from the server's backlog. What was sent when the connection broke may
have arrived or not: it is not sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import quote
from uuid import uuid4

from jupyter_token_ws.protocol.auth import Response
from jupyter_token_ws.protocol.kernel_messages import KernelMessage, WireError, decode, encode
from jupyter_token_ws.protocol.reasons import Advice
from jupyter_token_ws.protocol.subprotocols import KERNEL

from .backoff import Backoff
from .errors import (
    AuthError,
    ClientError,
    KernelError,
    KernelGoneError,
    RefusedError,
    SocketClosedError,
    TooLargeError,
)
from .sockets import Socket

KNOWN = 20_000
"""Messages that are known again if they come twice: after a tunnel that could not be resumed the server sends
what it has no receipt of."""


MAX_ID = 200
"""Characters of a message's name that are kept as they are."""

STEADY = 5.0
"""Seconds after which a connection without a message was one too; those that end before come back slower
each time."""


class Host(Protocol):
    """The server, as a kernel needs it."""

    capabilities: Mapping[str, Any] | None

    async def request(
        self, method: str, path: str, *, json: Any = None, ok: Sequence[int] = ()
    ) -> Response:
        """Send an HTTP request."""

    async def websocket(
        self, path: str, subprotocols: Sequence[str] = (), *, max_size: int = 0
    ) -> Socket:
        """Open a websocket."""

    async def refused(self, error: ClientError) -> None:
        """Prepare for another try after this."""


class Link:
    """The connection.

    Args:
        host: the server.
        kernel_id: the kernel's.
        on_message: is given each message, once and in order; the next waits until it returns.
        on_back: is told that the connection is another, and whether the server gives what was missed.
        on_end: is told why there will be no other connection.
        max_message: bytes of a message that may come.
        max_unsent: bytes that may wait to be sent.
        reconnect_timeout: seconds for which a lost connection is tried to be opened again.
    """

    def __init__(
        self,
        host: Host,
        kernel_id: str,
        *,
        on_message: Callable[[KernelMessage], Awaitable[None]],
        on_back: Callable[[bool], None],
        on_end: Callable[[ClientError], None],
        max_message: int,
        max_unsent: int,
        reconnect_timeout: float,
    ) -> None:
        self.session = uuid4().hex
        self._host = host
        self._kernel_id = kernel_id
        self._path = f"api/kernels/{quote(kernel_id, safe='')}/channels?session_id={self.session}"
        self._on_message, self._on_back, self._on_end = on_message, on_back, on_end
        self._max_message, self._max_unsent = max_message, max_unsent
        self._reconnect_timeout = reconnect_timeout
        self._unsent: deque[tuple[KernelMessage, str | bytes, Callable[[], None]]] = deque()
        self._unsent_size = 0
        self._sending = False
        self._subprotocol: str | None = KERNEL
        self._work = asyncio.Event()
        self._socket: Socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._backoff = Backoff()
        self._since: float | None = None  # when a connection was lost that was worth something
        self._moved = False
        self._closing = False
        self.ended: ClientError | None = None
        """Why there is no connection any more."""

    async def open(self) -> None:
        """Connect. Raises ``KernelGoneError`` where there is no such kernel, else as ``websocket`` does."""
        try:
            socket = await self._connect()
        except ClientError as error:
            raise gone(error, unheard_of=self._kernel_id) or error from None
        self._task = asyncio.ensure_future(self._run(socket))

    def send(self, message: KernelMessage, on_sent: Callable[[], None] = lambda: None) -> None:
        """Send a message, now or when there is a connection again.

        ``on_sent`` is called before the first byte leaves. Raises ``TooLargeError``, ``TypeError`` for what
        is no JSON, and the error with which all ended.
        """
        if self.ended is not None:
            raise self.ended
        data = encode(message, self._subprotocol)
        if self._unsent_size + len(data) > self._max_unsent:
            raise TooLargeError(
                f"more than {self._max_unsent} bytes would wait to be sent to the kernel (max_unsent)"
            )
        self._unsent.append((message, data, on_sent))
        self._unsent_size += len(data)
        self._work.set()

    async def aclose(self) -> None:
        """Send what waits, and close."""
        task = self._task
        self.ended = self.ended or KernelError("the connection to the kernel is closed")
        self._task, self._closing = None, True
        if task is None:
            return
        try:
            if self._socket is not None and self._socket.close_code is None:
                with suppress(ClientError, asyncio.TimeoutError):
                    await asyncio.wait_for(self._flush(), 5.0)
        finally:
            task.cancel()
            try:
                await asyncio.wait({task})
            finally:
                if self._socket is not None:
                    with suppress(ClientError):
                        await self._socket.close()

    # -- the connection ----------------------------------------------------------------------------

    async def _connect(self) -> Socket:
        socket = await self._host.websocket(self._path, (KERNEL,), max_size=self._max_message)
        self._socket = socket
        if socket.subprotocol != self._subprotocol:
            self._subprotocol = socket.subprotocol
            again = [(message, on_sent) for message, _, on_sent in self._unsent]
            self._unsent = deque((m, encode(m, self._subprotocol), on) for m, on in again)
            self._unsent_size = sum(len(data) for _, data, _ in self._unsent)
        return socket

    async def _run(self, socket: Socket) -> None:
        try:
            clock = asyncio.get_running_loop().time
            while True:
                begun = clock()
                error = await self._serve(socket)
                if self._closing:  # ending may have been passed over where two tasks ended at once
                    return
                if self._moved or clock() - begun > STEADY:
                    self._backoff, self._since = Backoff(), None
                socket = await self._reconnect(error)
        except ClientError as error:
            self._end(gone(error) or error)
        except Exception as error:  # noqa: BLE001 - told
            # Nobody waits for this task: whoever waits for the kernel is told.
            told = KernelError(f"reading the kernel's messages failed: {error!r}")
            told.__cause__ = error
            self._end(told)
        finally:
            self._unsent.clear()
            self._unsent_size = 0
            self._work.set()

    def _end(self, error: ClientError) -> None:
        self.ended = self.ended or error
        self._on_end(self.ended)

    async def _serve(self, socket: Socket) -> SocketClosedError:
        """Until the socket ends; why it did."""
        self._moved = False
        writing = asyncio.ensure_future(self._write(socket))
        try:
            while True:
                try:
                    data = await socket.recv()
                except SocketClosedError as error:
                    return error
                try:
                    message = decode(data, socket.subprotocol)
                except WireError as wrong:
                    await socket.close(1002)
                    raise KernelError(f"what came is no kernel message: {wrong}") from None
                fresh = self._fresh(message)
                if fresh is not None:
                    self._moved = True
                    await self._on_message(fresh)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    async def _write(self, socket: Socket) -> None:
        while True:
            while not self._unsent:
                self._work.clear()
                await self._work.wait()
            if socket.close_code is not None:
                return  # what waits, waits for the next
            _, data, on_sent = self._unsent.popleft()
            self._unsent_size -= len(data)
            on_sent()
            self._sending = True
            try:
                await socket.send(data)
            except SocketClosedError:
                return
            finally:
                self._sending = False
                self._work.set()

    async def _flush(self) -> None:
        while self._unsent or self._sending:
            self._work.clear()
            await self._work.wait()

    async def _reconnect(self, error: ClientError) -> Socket:
        loop = asyncio.get_running_loop()
        if self._since is None:
            self._since = loop.time()
        end = self._since + self._reconnect_timeout
        complete = error.slug != "backlog_full"
        while True:
            if not may_return(error):
                raise error
            delay = self._backoff.delay(error.retry_after)
            if loop.time() + delay > end:
                raise error
            await asyncio.sleep(delay)
            try:
                await self._prepare(error)
                socket = await self._connect()
            except ClientError as refused:
                error = refused
                complete = complete and error.slug != "backlog_full"
                continue
            self._on_back(complete and keeps_backlogs(self._host.capabilities))
            return socket

    async def _prepare(self, error: ClientError) -> None:
        """Get another credential, where that is the advice."""
        if isinstance(error, AuthError):
            return  # it is that which failed; opening tries it anew
        try:
            await self._host.refused(error)
        except AuthError as failed:
            if failed.retry_after is None:
                raise
            # There was one lately: it may have been an older one that was refused.

    def _fresh(self, message: KernelMessage) -> KernelMessage | None:
        """The message, less what of it was heard before; ``None`` where that is all."""
        printed = message.content.get("text") if message.type == "stream" else None
        length = len(printed) if isinstance(printed, str) else 0
        name = message.id
        if not name:
            return message
        if len(name) > MAX_ID:  # so many of any length would be kept
            name = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        before = self._heard.get(name)
        self._heard[name] = length
        while len(self._heard) > KNOWN:
            self._heard.popitem(last=False)
        if before is None:
            return message
        if not isinstance(printed, str) or length <= before:
            return None
        # The server has put it together with what was printed after it.
        return replace(message, content={**message.content, "text": printed[before:]})


def may_return(error: ClientError) -> bool:
    """Whether another connection may do, after one ended, or could not be opened, with this error."""
    if isinstance(error, AuthError):
        return error.retry_after is not None  # else no plugin has anything better
    if isinstance(error, SocketClosedError) and error.code == 1000:
        return True  # a stock server ends so; whether the kernel is there the next handshake tells
    return error.advice is not Advice.STOP


def gone(error: ClientError, *, unheard_of: str | None = None) -> KernelGoneError | None:
    """The error for a kernel that is not there, if that is what was told; ``unheard_of`` is the id of one to
    which there never was a connection."""
    status = error.status if isinstance(error, RefusedError) else None
    if error.slug not in ("gone", "not_found") and (error.slug or status not in (404, 410)):
        return None
    text = "there is no such kernel any more: it was shut down. Start another"
    if unheard_of is not None and error.slug != "gone" and status != 410:
        text = (
            f"the server knows no kernel {unheard_of[:MAX_ID]!r}: the id is wrong, of another server, or of a"
            " kernel that was shut down. GET api/kernels lists those that run; without an id one is started"
        )
    return KernelGoneError(text, slug=error.slug)


def keeps_backlogs(capabilities: Mapping[str, Any] | None) -> bool:
    """Whether the server keeps for a client what it misses: then it says so when it cannot."""
    reasons = (capabilities or {}).get("reasons")
    codes = reasons.get("codes") if isinstance(reasons, Mapping) else None
    row = codes.get("4507") if isinstance(codes, Mapping) else None
    return isinstance(row, Mapping) and "backlog_full" in row
