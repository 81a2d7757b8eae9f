"""Many websockets over one connection, which is resumed under their feet.

``Tunnel`` begins one when a socket is asked for, and another when that is over; ``TunnelSocket`` is a stream
of it. What goes over the wire is ``protocol.tunnel``'s to say, what brings it ``carriers``'.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from jupyter_token_ws.protocol.clients import Addresses
from jupyter_token_ws.protocol.frames import MAX_DATA, FrameError
from jupyter_token_ws.protocol.reasons import REASONS, Advice, Reason, parse_close
from jupyter_token_ws.protocol.tunnel import (
    ABNORMAL,
    GOING_AWAY,
    Attached,
    Closed,
    Data,
    Drained,
    Ended,
    Event,
    Opened,
    OutOfOrderError,
    Side,
    TunnelClosed,
    TunnelError,
)
from jupyter_token_ws.protocol.tunnel import Tunnel as Machine

from .auth import Authenticator
from .backoff import Backoff
from .carriers import (
    CARRIERS,
    EVENT_STREAM,
    JUDGED,
    WEBSOCKET,
    Carrier,
    CarrierEndedError,
    CarrierLostError,
    Limits,
    RefusalError,
    Way,
    seconds_of,
)
from .errors import (
    AuthError,
    ClientError,
    HeldBackError,
    NoConnectionError,
    RefusedError,
    SocketClosedError,
    TooLargeError,
    TunnelEndedError,
    UnsupportedError,
)
from .sockets import Socket, check_code
from .tasks import stop
from .transport import Transport

MAX_MESSAGE = 128 * 1024 * 1024
"""Bytes of a message that is received at most."""

ACK_DELAY = 0.1
"""Seconds that an acknowledgement waits for something that it can go with."""

LINGER = 1.0
"""Seconds that the reason of a tunnel's end may come later than the refusal of what was sent to it."""

STOP_TIMEOUT = 1.0
"""Seconds that a tunnel's own task may take to clean up before it is told again to end."""

CLOSE_TIMEOUT = 5.0
"""Seconds that a close waits for the other side's."""

FRAGMENT = 16 * 1024
"""Bytes of a message in one frame where it may come to ``POST``s: some proxies allow few bytes in one."""

GRACE = 75.0
"""Seconds that a server may take to miss a carrier; only then its window begins."""

RENEW_EVERY = 5.0
"""Seconds after which a live tunnel's credential is looked at, whether it is to be renewed."""

_logger = logging.getLogger(__name__)
_AGAIN = (Advice.RETRY, Advice.RETRY_AFTER)
_ID = re.compile(r"[A-Za-z0-9_.~-]{1,200}")


class TunnelSocket(Socket):
    """A stream of a tunnel. Made by ``Tunnel.open``."""

    def __init__(self, life: _Life, number: int, max_size: int) -> None:
        self.subprotocol = None
        self.error: ClientError | None = None
        """Why it is over, where its tunnel was."""
        self._life = life
        self._machine = life.machine
        self._number = number
        self._max_size = max_size
        self._opened = False
        self._queue: deque[tuple[str | bytes, int]] = (
            deque()
        )  # messages, and credit to give for each
        self._parts = bytearray()  # one piece: slivers would cost more than their bytes
        self._owed = 0  # credit that fragments of a message have taken
        self._got_end = False
        self._sent_end = False
        self._came = asyncio.Event()  # something to receive, or the end
        self._drained = asyncio.Event()  # nothing waits to be sent, or the end
        self._drained.set()
        self._gone = asyncio.Event()
        self._sending = asyncio.Lock()

    # -- for who uses it ---------------------------------------------------------------------------

    @property
    def advice(self) -> Advice | None:
        """See ``Socket``."""
        return super().advice if self.error is None else self.error.advice

    @property
    def retry_after(self) -> float | None:
        """See ``Socket``."""
        return super().retry_after if self.error is None else self.error.retry_after

    async def send(self, message: str | bytes) -> None:
        """See ``Socket``: returns when there was credit for all of it. One that is cancelled may still go."""
        text = isinstance(message, str)
        payload = message.encode() if isinstance(message, str) else bytes(message)
        async with self._sending:
            await self._until_drained()  # of a send that was cancelled
            if self._sent_end:
                raise ClientError("nothing can be sent after send_eof")
            try:
                if not self._machine.send(self._number, payload, text=text):
                    self._drained.clear()
            except (KeyError, ValueError):
                raise self._closed_error() from None
            self._life.wake()
            await self._until_drained()

    async def _until_drained(self) -> None:
        await self._drained.wait()
        if self.close_code is not None:
            raise self._closed_error()

    async def send_eof(self) -> None:
        """See ``Socket``. What was sent before goes first."""
        async with self._sending:
            if self.close_code is not None:
                raise self._closed_error()
            if not self._sent_end:
                self._sent_end = True
                with suppress(
                    KeyError, ValueError
                ):  # it is gone, and that is told where it is used
                    self._machine.end(self._number)
                self._life.wake()

    async def recv(self) -> str | bytes:
        """See ``Socket``. What came before the end is given first."""
        while not self._queue:
            if self._got_end or self.close_code is not None:
                raise self._closed_error()
            self._came.clear()
            await self._came.wait()
        message, size = self._queue.popleft()
        if not self._queue:  # the next one may come, however long it is
            size, self._owed = size + self._owed, 0
        self._machine.consumed(self._number, size)
        if self._machine.has_more:
            self._life.wake()
        return message

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """See ``Socket``."""
        while True:
            try:
                message = await self.recv()
            except TunnelEndedError:
                raise
            except SocketClosedError as closed:
                if closed.code in (1000, GOING_AWAY):
                    return
                raise
            yield message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See ``Socket``. Waits for the other side's close, for so long as ``CLOSE_TIMEOUT`` says."""
        check_code(code)
        if self.close_code is None:
            self._machine.close(self._number, code, reason)
            self._life.wake()
            try:
                await asyncio.wait_for(self._gone.wait(), CLOSE_TIMEOUT)
            except asyncio.TimeoutError:
                self.cut(code, reason)

    def _closed_error(self) -> SocketClosedError:
        if isinstance(self.error, SocketClosedError):
            return self.error.with_traceback(None)
        if self._got_end and self.close_code is None:
            return SocketClosedError("the other side has sent all that it had", 1000)
        return super()._closed_error()

    # -- for its tunnel ----------------------------------------------------------------------------

    def cut(self, code: int, reason: str = "") -> None:
        """Close it without waiting for anything."""
        self._machine.close(self._number, code, reason, now=True)
        self._over(code, reason)
        self._life.wake()

    def end(self, error: ClientError, code: int, reason: str) -> None:
        """Its tunnel is over."""
        if self.close_code is None:
            self.error = error
        self._over(code, reason)

    def on_event(self, event: Event) -> None:
        """Something happened to it."""
        if isinstance(event, Data):
            self._on_data(event)
        elif isinstance(event, Drained):
            self._drained.set()
        elif isinstance(event, Opened):
            self._opened, self.subprotocol = True, event.subprotocol
            self._came.set()
        elif isinstance(event, Ended):
            self._got_end = True
            self._came.set()
        elif isinstance(event, Closed):
            # Without a code where both have said that they have no more, or nothing at all.
            code = event.code or (1000 if self._got_end and self._sent_end else 1005)
            self._over(code, event.reason)

    def _on_data(self, data: Data) -> None:
        if self.close_code is not None:
            return
        self._owed += data.size
        if len(self._parts) + len(data.payload) > self._max_size:
            self._parts.clear()
            self.cut(1009, "a message is longer than max_size")
        elif data.last:
            whole = bytes(self._parts) + data.payload if self._parts else data.payload
            self._parts.clear()
            try:
                message = whole.decode() if data.text else whole
            except UnicodeDecodeError:
                self.cut(1007, "a text message is no UTF-8")
                return
            self._queue.append((message, self._owed))
            self._owed = 0
            self._came.set()
        else:
            self._parts += data.payload
            if not self._queue:
                # A message may be longer than the window; one that nobody waits for is not.
                self._machine.consumed(self._number, self._owed)
                self._owed = 0

    def _over(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_text = code, reason
        self._parts.clear()
        for told in (self._came, self._drained, self._gone):
            told.set()

    async def answered(self) -> None:
        """Until it is open. Raises ``RefusedError``, or what ended the tunnel."""
        while not self._opened:
            if self.error is not None:
                raise self.error.with_traceback(None)
            if self.close_code is not None:
                raise _refused(self.close_code, self.close_text)
            self._came.clear()
            await self._came.wait()


def _slug_of(error: RefusedError) -> str | None:
    """Why a tunnel that there was is over: what the server does not know is lost, and may be had anew."""
    return "resume_failed" if error.status in (404, 410) else error.slug


def _refused(code: int, text: str) -> RefusedError:
    """A ``CLOSE`` without ``OPENED``."""
    told, status = parse_close(code, text), code - 4000 if code > 4000 else 500
    why = told.reason.text if told else text or f"code {code}"
    return RefusedError(
        f"the server refuses the websocket: {why}",
        status,
        reason=why,
        retry_after=told.retry_after if told else None,
        slug=told.reason.slug if told else None,
        advice=told.reason.advice if told else None,
    )


class _Life:
    """One tunnel, from its first carrier to its end."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        limits = tunnel.way.limits
        self.machine = Machine(Side.CLIENT, max_fragment=limits.fragment)
        self.error: ClientError | None = None
        """Why it is over."""
        self.trouble: ClientError | None = None
        """Why there is no carrier yet."""
        self.carrier: Carrier | None = None
        self.carriers = 0
        """That said ``HELLO``."""
        self.hello: dict[str, Any] = {}
        self.id = ""
        """From the first ``HELLO`` on."""
        self.sockets: dict[int, TunnelSocket] = {}
        self._leaving = False
        self._closed: TunnelClosed | None = None  # by the server
        self._broken: TunnelClosed | None = None  # by what the server sent
        self._batches: AsyncGenerator[tuple[int, bytes], None]
        self._told = asyncio.Event()  # why it was closed
        self._woken = asyncio.Event()
        self._ack_due = False
        self._ack_timer: asyncio.TimerHandle | None = None
        self._latest = tunnel.carriers[0]
        self._moved = 0
        self.task = asyncio.create_task(self._run())

    @property
    def over(self) -> bool:
        """Whether nothing can be done with it any more."""
        return self.machine.closed or self.task.done()

    @property
    def max_streams(self) -> int:
        """That the server allows at a time."""
        said = self.hello.get("max_streams", 256)
        return said if isinstance(said, int) else 256

    async def open(
        self, path: str, subprotocols: Sequence[str], max_size: int, timeout: float
    ) -> TunnelSocket:
        """See ``Tunnel.open``. Raises ``TunnelEndedError`` where it ended meanwhile."""
        if self.machine.streams >= self.max_streams:
            raise _too_many(self.max_streams)
        try:
            number = self.machine.open(path, subprotocols)
        except FrameError as error:
            raise TooLargeError(f"the websocket cannot be asked for: {error}") from None
        socket = self.sockets[number] = TunnelSocket(self, number, max_size)
        self.wake()
        try:
            await asyncio.wait_for(socket.answered(), timeout)
        except asyncio.TimeoutError:
            why = f"; {self.trouble}" if self.trouble else ""
            raise NoConnectionError(
                f"the websocket was not open after {timeout:.3g} s{why}"
            ) from self.trouble
        finally:
            if not socket._opened or socket.close_code is not None:
                socket.cut(GOING_AWAY)
        return socket

    async def aclose(self) -> None:
        """Say goodbye where there is somebody to hear it, and end."""
        self._leaving = True
        try:
            if not self.machine.closed:
                self.machine.close_tunnel(GOING_AWAY)
                self.wake()
            if self.carrier is not None:
                await asyncio.wait({self.task}, timeout=CLOSE_TIMEOUT)
        finally:
            await stop(self.task, again=STOP_TIMEOUT)

    # -- between its sockets and its carrier -------------------------------------------------------

    def wake(self) -> None:
        """Something was done to the machine."""
        for event in self.machine.events():
            if isinstance(event, Attached):
                self._on_hello(event.hello)
            elif isinstance(event, TunnelClosed):
                self._closed = event
                self._told.set()
            elif isinstance(event, Closed) and event.code == ABNORMAL and self.machine.closed:
                continue  # they are told why when it has ended
            else:
                socket = self.sockets.get(event.stream)
                if isinstance(event, Closed):
                    self.sockets.pop(event.stream, None)
                if socket is not None:
                    socket.on_event(event)
        if self.machine.has_more or self.machine.closed:
            self._woken.set()

    def _on_hello(self, hello: dict[str, Any]) -> None:
        self.hello = hello
        self.carriers += 1
        most = hello.get("max_post_size")
        if isinstance(most, int):
            self.tunnel.way.limits.allow(most)
        self.machine.max_fragment = min(self.machine.max_fragment, self.tunnel.way.limits.fragment)

    def _heard(self, first: int, data: bytes) -> None:
        try:
            self.machine.receive(first, data)
        except OutOfOrderError:
            raise CarrierLostError("frames are missing") from None
        except TunnelError as error:
            reason = REASONS[error.slug]
            self._broken = TunnelClosed(reason.code, reason.close_reason())
        self.wake()
        if self._ack_timer is None and self.machine.wants_ack:
            loop = asyncio.get_running_loop()
            self._ack_timer = loop.call_later(ACK_DELAY, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        self._ack_due = True
        self._woken.set()

    def _beat(self) -> None:
        self.machine.beat()
        self._woken.set()

    # -- one carrier after the other ---------------------------------------------------------------

    async def _run(self) -> None:
        error: ClientError | None = None
        try:
            while not self.machine.closed:
                self.carrier = await self._reach()
                await self._carry(self.carrier)
        except CarrierEndedError as ended:
            self._closed = TunnelClosed(ended.code, ended.reason)
        except ClientError as ended:
            error = ended
        except Exception as unexpected:  # noqa: BLE001 - nobody waits for this task: the sockets are told
            error = ClientError(f"the tunnel failed: {unexpected!r}")
            error.__cause__ = unexpected
        finally:
            if self._ack_timer is not None:
                self._ack_timer.cancel()
            self.machine.close_tunnel()
            self._end(error)

    def _end(self, error: ClientError | None) -> None:
        """Tell all sockets why."""
        if self._leaving:
            code, text = GOING_AWAY, ""
            error = SocketClosedError("the tunnel was closed here", code)
        else:
            code, text = 1006, ""
            closed = self._closed or self._broken
            if closed is not None:
                code, text = closed.code or 1005, closed.reason
            elif isinstance(error, RefusedError) and (slug := _slug_of(error)):
                reason = REASONS[slug]
                later = None if error.retry_after is None else int(error.retry_after)
                code, text = reason.code, reason.close_reason(later)
            if self.carriers or error is None:
                cause = error
                error = TunnelEndedError(
                    f"the tunnel is over: {cause or f'{code} {text}'}", code, text
                )
                error.__cause__ = cause
                if cause is not None and not isinstance(cause, RefusedError):  # whose slug is told
                    error.advice, error.retry_after = cause.advice, cause.retry_after
        self.wake()
        self.error = error
        for socket in self.sockets.values():
            socket.end(error, code, text)
        self.sockets.clear()

    async def _carry(self, carrier: Carrier) -> None:
        """Until it breaks, or the tunnel is over; raises where it cannot be resumed."""
        self._moved = self.machine.received + self.machine.acknowledged
        begun = asyncio.get_running_loop().time()
        hearing = asyncio.create_task(self._hear())
        tasks = [hearing] + [
            asyncio.create_task(work)
            for work in (self._tell(carrier), carrier.watch(self.id), self._renew())
        ]
        politely = False
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            try:
                for task in done:
                    task.result()
            except RefusalError as refusal:
                # Where the server has ended the tunnel, the reason is about to be heard.
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._told.wait(), LINGER)
                if self._closed is None:
                    if hearing.done():
                        hearing.result()
                    raise refusal.told() from None
            politely = True
        except (CarrierLostError, NoConnectionError) as lost:
            _logger.info("A tunnel's carrier is lost: %s", lost)
        except AuthError as error:
            if error.advice not in _AGAIN:
                raise
            _logger.info("A tunnel's credential is not to be had at the moment: %s", error)
        finally:
            self.carrier = None
            await stop(*tasks)
            self.machine.detach()
            await self._batches.aclose()
            await carrier.aclose(politely=politely)
        if self.machine.closed:
            return
        if self.machine.received + self.machine.acknowledged > self._moved or self._held(begun):
            self.tunnel.backoff.reset()
        if self.hello.get("resume_window") == 0:
            raise NoConnectionError("the connection was lost, and this tunnel cannot be resumed")

    @staticmethod
    def _held(begun: float) -> bool:
        return asyncio.get_running_loop().time() - begun > 5

    async def _hear(self) -> None:
        """Take what comes; the carrier's first batch was taken already. When the tunnel is over it is ended
        by who tells: a generator that is left before its end would leave others behind."""
        async for first, data in self._batches:
            self._heard(first, data)

    async def _tell(self, carrier: Carrier) -> None:
        """Bring what is to be brought; returns when that is all, ever."""
        while True:
            due, self._ack_due = self._ack_due, False
            batch = self.machine.take(carrier.size, ack=due)
            if batch is not None:
                await carrier.send(self.id, *batch)
            elif self.machine.closed:
                return
            else:
                self._woken.clear()
                await self._woken.wait()

    async def _renew(self) -> None:
        """Keep the credential alive, which the tunnel lives by."""
        authenticator = self.tunnel.way.authenticator
        while True:
            left = authenticator.refresh_in()
            wait = RENEW_EVERY if left is None else min(left, RENEW_EVERY)
            await asyncio.sleep(max(wait, RENEW_EVERY / 10))
            with suppress(ClientError):  # it may hold for a while; the server says when it is over
                await authenticator.grant()

    async def _reach(self) -> Carrier:
        """A carrier that said ``HELLO``. Raises what makes it hopeless, or the last trouble where it takes
        too long."""
        tunnel, clock = self.tunnel, asyncio.get_running_loop().time
        fresh = not self.carriers
        until = clock() + (tunnel.open_timeout if fresh else self._window)
        if self.carriers:
            await asyncio.sleep(tunnel.backoff.delay())
        while True:
            found = await self._round()
            if isinstance(found, Carrier):
                self._latest, self.trouble = found.name, None
                return found
            trouble = self.trouble = found[0]
            if fresh and all(each.advice not in _AGAIN for each in found):
                raise trouble
            delay = tunnel.backoff.delay(trouble.retry_after)
            if clock() + delay >= until:
                raise trouble
            _logger.info("A tunnel is tried again in %.1f s: %s", delay, trouble)
            await asyncio.sleep(delay)

    async def _round(self) -> Carrier | list[ClientError]:
        """Each carrier once: the first that comes about, or why none did, the newest reason first. Raises
        what is no use to try again."""
        troubles: list[ClientError] = []
        for name in self._order():
            found = await self._try(name)
            if isinstance(found, Carrier):
                return found
            troubles.insert(0, found)
            if not isinstance(found, NoConnectionError):
                if found.advice not in _AGAIN:
                    raise found
                break  # there is a reason, and it is not the carrier's
        return troubles

    @property
    def _window(self) -> float:
        """Seconds for which there is something to come back to: from when the server misses the carrier."""
        return seconds_of(self.hello.get("resume_window"), 60) + GRACE

    def _order(self) -> list[str]:
        """The carrier that worked, then the others."""
        return sorted(self.tunnel.carriers, key=lambda name: name != self._latest)

    async def _try(self, name: str) -> Carrier | NoConnectionError | AuthError | RefusedError:
        """A carrier that said ``HELLO``, or why there is none. Raises what is no use to try again."""
        try:
            return await self._connect(name)
        except (NoConnectionError, AuthError, RefusedError) as error:
            return error

    async def _connect(self, name: str) -> Carrier:
        way = self.tunnel.way
        for left in range(JUDGED)[::-1]:
            grant = await way.authenticator.grant()
            self.machine.detach()
            carrier = CARRIERS[name](way, self._beat)
            there = False
            query = ""
            if self.id:
                query = f"?tunnel={self.id}&received={self.machine.received}"
            try:
                await asyncio.wait_for(carrier.connect(grant, query), way.patience)
                self._batches = carrier.batches()
                try:
                    await self._greeted()
                    there = True
                finally:
                    if not there:
                        await self._batches.aclose()
            except asyncio.TimeoutError:
                raise await self._too_late(carrier) from None
            except CarrierLostError as lost:
                raise NoConnectionError(f"no tunnel by {name}: {lost}") from None
            except RefusalError as refusal:
                # Closed before another is tried, and outside of what may raise.
                if not left or not await way.authenticator.judge(grant, refusal.response):
                    raise refusal.told() from None
            finally:
                if not there:
                    await carrier.aclose()
            if there:
                return carrier
        raise AssertionError("the last refusal is raised")  # pragma: no cover

    async def _too_late(self, carrier: Carrier) -> NoConnectionError:
        patience = self.tunnel.way.patience
        if await carrier.is_held_back():
            return HeldBackError(
                f"of the event stream nothing came within {patience:g} s, while the server answers otherwise:"
                " something between holds it back. Switch the buffering of answers off there"
            )
        return NoConnectionError(f"no tunnel by {carrier.name} within {patience:g} s")

    async def _greeted(self) -> None:
        """Wait for ``HELLO``, which is the first thing that comes."""
        first, data = await asyncio.wait_for(_next(self._batches), self.tunnel.way.patience)
        self._heard(first, data)
        if self.machine.closed:
            return
        if not self.machine.attached:
            raise CarrierLostError("what came first is no HELLO")
        identity = self.hello.get("tunnel")
        if not (isinstance(identity, str) and _ID.fullmatch(identity)):
            raise UnsupportedError("what answers gives its tunnel no id that can be asked for")
        self.id = identity


async def _next(batches: AsyncIterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    return await batches.__anext__()


def _too_many(most: int) -> RefusedError:
    reason: Reason = REASONS["too_many_connections"]
    return RefusedError(
        f"a tunnel to this server carries {most} websockets at most",
        reason.http_status,
        reason=reason.text,
        slug=reason.slug,
        advice=reason.advice,
    )


class Tunnel:
    """Websockets of a server, over a connection that they share.

    A tunnel is begun when one is asked for; after it has ended, another. It is resumed over any of the
    carriers where it can be, and its sockets notice nothing but a pause.

    Args:
        transport: by which requests go.
        authenticator: which has the credential.
        addresses: of the server.
        capabilities: its document (contract section 4), or ``None``.
        carriers: ``"websocket"`` and ``"eventstream"``, in the order in which they are tried: the next one
            where none came about and the server gave no reason of its own.
        keepalive: seconds within which a connection that is dead is noticed.
        open_timeout: seconds that a socket, and the tunnel for it, may take to be open.
        patience: seconds after which a carrier has not come about.
        backoff: between tries.
    """

    def __init__(
        self,
        transport: Transport,
        authenticator: Authenticator,
        addresses: Addresses,
        capabilities: Mapping[str, Any] | None = None,
        carriers: Sequence[str] = (WEBSOCKET, EVENT_STREAM),
        *,
        keepalive: float = 25.0,
        open_timeout: float = 30.0,
        patience: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        if not carriers or not set(carriers) <= set(CARRIERS):
            raise UnsupportedError(f"carriers of a tunnel are {', '.join(CARRIERS)}")
        self.carriers = tuple(carriers)
        self.open_timeout = open_timeout
        self.backoff = backoff or Backoff()
        limits = Limits(fragment=FRAGMENT if EVENT_STREAM in carriers else MAX_DATA)
        self.way = Way(
            transport,
            authenticator,
            addresses,
            capabilities,
            keepalive=keepalive,
            patience=min(patience, open_timeout),
            limits=limits,
        )
        self._life: _Life | None = None
        self._ending: list[_Life] = []
        self._closed = False

    @property
    def carrier(self) -> str | None:
        """What carries it at the moment."""
        carrier = self._life.carrier if self._life else None
        return carrier.name if carrier else None

    @property
    def resumed(self) -> int:
        """How often the tunnel there is was resumed."""
        return max(0, self._life.carriers - 1) if self._life else 0

    async def open(
        self,
        path: str,
        subprotocols: Sequence[str] = (),
        *,
        max_size: int = MAX_MESSAGE,
        timeout: float | None = None,
    ) -> TunnelSocket:
        """Open a websocket of the server.

        Args:
            path: below the server's base, with its query.
            subprotocols: offered there.
            max_size: bytes of a message that comes; one that is longer closes the socket, with 1009.
            timeout: seconds; ``open_timeout`` without.

        Raises:
            RefusedError: the server refuses the socket, or the tunnel.
            NoConnectionError: it was not there in time.
            AuthError: there is no credential for it.
            TunnelEndedError: the tunnel ended meanwhile, and will not come back in time.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + (self.open_timeout if timeout is None else timeout)
        while True:
            if self._closed:
                raise ClientError("the tunnel was closed here")
            if self._life is None or self._life.over:
                self._ending = [life for life in self._ending if not life.task.done()]
                if self._life is not None:
                    self._ending.append(self._life)  # its carrier may take a while to end
                self._life = _Life(self)
            life = self._life
            try:
                left = max(until - clock(), 0.01)
                return await life.open(path.lstrip("/"), subprotocols, max_size, left)
            except TunnelEndedError as error:  # before the socket was there
                delay = self.backoff.delay(error.retry_after)
                if error.advice not in _AGAIN or clock() + delay >= until:
                    raise
                await asyncio.sleep(delay)

    async def aclose(self) -> None:
        """Close all sockets, with 1001, and the tunnel. Closing again changes nothing."""
        self._closed = True
        life, self._life = self._life, None
        ending, self._ending = self._ending, []
        try:
            if life is not None:
                await life.aclose()
        finally:
            await stop(*(each.task for each in ending), again=STOP_TIMEOUT)
