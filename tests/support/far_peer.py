"""A client of a tunnel over the real network, for tests: either carrier, changed in the middle if one likes,
and whatever is lost is resumed.

    async with FarPeer(server.url, server.token, carrier=EVENT_STREAM) as peer:
        stream = await peer.open("echo")
        await stream.send("hello")
        assert await stream.receive() == "hello"
        peer.change(WEBSOCKET)

The protocol is ``protocol.tunnel``'s; this is only what a state machine needs to be used.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from jupyter_token_ws.protocol.frames import MAX_DATA
from jupyter_token_ws.protocol.reasons import parse_close
from jupyter_token_ws.protocol.subprotocols import TUNNEL, offer_subprotocols
from jupyter_token_ws.protocol.tunnel import (
    Attached,
    Closed,
    Data,
    Drained,
    Ended,
    Event,
    Opened,
    Side,
    Tunnel,
    TunnelClosed,
    TunnelError,
)
from jupyter_token_ws.tunnel.tunnels import EVENT_STREAM, PATH, WEBSOCKET

if TYPE_CHECKING:
    from typing_extensions import Self

TIMEOUT = 240.0
"""Seconds in which something happens on a stream, whatever is cut, or the test has failed."""

CONNECT_TIMEOUT = 10.0
"""Seconds that a carrier may take to be there, and a POST to be answered."""

PAUSE = 0.05
"""Seconds before whatever failed is tried again."""

ACK_DELAY = 0.1
"""Seconds that an acknowledgement waits for something to go with."""

_NUMBER = struct.Struct(">Q")
_LOST = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


class TunnelOverError(Exception):
    """The server ended the tunnel, or does not know it. ``slug`` is one of ``protocol.reasons``, or empty."""

    def __init__(self, slug: str) -> None:
        super().__init__(slug or "the tunnel is over")
        self.slug = slug


class _Message(NamedTuple):
    payload: str | bytes
    size: int


@dataclass
class Counts:
    """What happened to carriers."""

    carriers: int = 0
    """That said HELLO."""
    lost: int = 0
    """That broke, or never were."""
    posts: int = 0
    """That were answered."""
    posted_again: int = 0
    largest_post: int = 0
    """Bytes of a body."""
    keepalives: int = 0
    """Of event streams; websockets have pings."""


class FarStream:
    """A stream, at the client."""

    def __init__(self, peer: FarPeer, number: int) -> None:
        self._peer = peer
        self._machine = peer.machine
        self.number = number
        self.opened: Opened | None = None
        self.closed: Closed | None = None
        self.ended = False
        self._parts: list[bytes] = []
        self._messages: deque[_Message] = deque()
        self._drained = True
        self._moved = asyncio.Event()

    @property
    def subprotocol(self) -> str | None:
        """What was answered."""
        return None if self.opened is None else self.opened.subprotocol

    @property
    def slug(self) -> str:
        """Why it was closed or refused, empty without a reason of ours."""
        closed = self.closed
        told = None if closed is None else parse_close(closed.code or 0, closed.reason)
        return "" if told is None else told.reason.slug

    async def send(self, message: str | bytes) -> None:
        """Send a message; returns when there was credit for all of it. Raises
        ``ConnectionError`` or ``TunnelOverError``."""
        text = isinstance(message, str)
        payload = message.encode() if isinstance(message, str) else message
        try:
            self._drained = self._machine.send(self.number, payload, text=text)
        except (KeyError, ValueError):
            raise self._error() from None
        self._peer.wake()
        await self.until(lambda: self._drained or self.closed)
        if not self._drained:
            raise self._error()

    async def receive(self) -> str | bytes | None:
        """The next message; ``None`` where there will be none: the stream has ended, or is closed."""
        await self.until(lambda: self._messages or self.ended or self.closed)
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._machine.consumed(self.number, message.size)
        self._peer.wake()
        return message.payload

    async def wait_message(self) -> str | bytes:
        """The next message, as ``Knock`` gives it."""
        message = await self.receive()
        assert message is not None, self.closed
        return message

    async def end(self) -> None:
        """No more messages from here."""
        self._machine.end(self.number)
        self._peer.wake()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close it both ways, and wait until it is gone."""
        self._machine.close(self.number, code, reason)
        self._peer.wake()
        await self.until(lambda: self.closed)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so of this stream."""

        async def wait() -> None:
            while not condition():
                self._moved.clear()
                await self._moved.wait()

        try:
            await asyncio.wait_for(wait(), TIMEOUT)
        except asyncio.TimeoutError:
            raise AssertionError(f"nothing happens on {self}") from None

    def __repr__(self) -> str:
        peer, machine = self._peer, self._machine
        return (
            f"stream {self.number}, {machine.state(self.number).value}, {machine.unsent(self.number)} unsent;"
            f" {peer.carrier} {'there' if peer._carrying else 'gone'}, {machine.received} frames heard,"
            f" {machine.kept_bytes} bytes kept, {peer.counts}"
        )

    def _error(self) -> Exception:
        return self._peer.over or ConnectionError(f"the stream is closed: {self.closed}")

    def on_event(self, event: Event) -> None:
        """Something came."""
        if isinstance(event, Opened):
            self.opened = event
        elif isinstance(event, Data):
            self._parts.append(event.payload)
            if event.last:
                whole = b"".join(self._parts)
                self._parts = []
                self._messages.append(_Message(whole.decode() if event.text else whole, event.size))
            else:  # a message may be longer than the window
                self._machine.consumed(self.number, event.size)
        elif isinstance(event, Ended):
            self.ended = True
        elif isinstance(event, Drained):
            self._drained = True
        elif isinstance(event, Closed):
            self.closed = event
        self._moved.set()


class FarPeer:
    """A tunnel, at the client.

    Args:
        url: of the server, or of a proxy before it, with the base's slash at the end. It may be changed:
            the next carrier goes there.
        token: by which every carrier and every POST comes.
        carrier: the first one.
        address: which of this machine's each connection comes from; it may be changed too.
        silence: seconds without any sign of the server after which a carrier is lost. An event stream's are
            the server's to say.
        windows: of the state machine.
    """

    def __init__(
        self,
        url: str,
        token: str,
        carrier: str = WEBSOCKET,
        *,
        address: str | None = None,
        silence: float = 10,
        **windows: Any,
    ) -> None:
        self.url = url
        self.token = token
        self.carrier = carrier
        self.address = address
        self.silence = silence
        self.machine = Tunnel(Side.CLIENT, **windows)
        self.hello: dict[str, Any] = {}
        self.over: TunnelOverError | None = None
        self.counts = Counts()
        self._streams: dict[int, FarStream] = {}
        self._carrying: asyncio.Task[None] | None = None
        self._newest: asyncio.Task[None] | None = None
        self._greeted = False
        self._changed = asyncio.Event()
        self._woken = asyncio.Event()
        self._attached = asyncio.Event()
        self._ack_due = False
        self._ack_timer: asyncio.TimerHandle | None = None

    # -- for tests ---------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The tunnel's."""
        identity: str = self.hello.get("tunnel", "")
        return identity

    async def open(self, path: str, subprotocols: Sequence[str] = ()) -> FarStream:
        """A stream; returns when it is open or refused. Raises ``TunnelOverError``."""
        if self.over is not None:
            raise self.over
        number = self.machine.open(path, subprotocols)
        self._streams[number] = stream = FarStream(self, number)
        self.wake()
        await stream.until(lambda: stream.opened or stream.closed)
        return stream

    def change(self, carrier: str | None = None) -> None:
        """Go over to a new carrier, of the same kind or another. The one there is is kept until then."""
        self.carrier = carrier or self.carrier
        self._changed.set()

    async def attached(self, count: int = 1) -> None:
        """Wait until so many carriers have said HELLO, and the newest that is wanted is there. Raises
        ``TunnelOverError``."""

        def is_there() -> bool:
            newest = self._carrying is self._newest and self._greeted
            return newest and not self._changed.is_set() and self.counts.carriers >= count

        async def wait() -> None:
            while not is_there():
                if self.over is not None:
                    raise self.over
                self._attached.clear()
                await self._attached.wait()

        await asyncio.wait_for(wait(), TIMEOUT)

    async def finished(self) -> TunnelOverError:
        """Wait until the server has ended the tunnel; why."""
        await asyncio.wait_for(asyncio.wait({self._running}), TIMEOUT)
        assert self.over is not None
        return self.over

    async def __aenter__(self) -> Self:
        self._running = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.machine.close_tunnel()
        self.wake()
        if kind is None:
            # The carrier ends when it has told that the tunnel is over.
            await asyncio.wait({self._running}, timeout=CONNECT_TIMEOUT)
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    # -- for carriers ------------------------------------------------------------------------------

    def heard(self, first: int, data: bytes) -> None:
        """Something came. Raises ``TunnelOverError``."""
        try:
            self.machine.receive(first, data)
        except TunnelError as error:
            self.over = TunnelOverError(f"{error.slug}: {error}")
        self.wake()
        if self.over is not None:
            raise self.over
        if self._ack_timer is None and self.machine.wants_ack:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_DELAY, self._acknowledge)

    async def take(self) -> tuple[int, bytes] | None:
        """What is to be brought next, when there is something; ``None``: nothing more, ever."""
        while True:
            due, self._ack_due = self._ack_due, False
            batch = self.machine.take(MAX_DATA, ack=due)
            if batch is not None or self.machine.closed:
                return batch
            self._woken.clear()
            await self._woken.wait()

    def wake(self) -> None:
        """Something was done to the machine."""
        for event in self.machine.events():
            self._on_event(event)
        self._woken.set()

    def _acknowledge(self) -> None:
        self._ack_timer = None
        self._ack_due = True
        self._woken.set()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Attached):
            self.hello = event.hello
            self.counts.carriers += 1
            self._greeted = True
            self._attached.set()
        elif isinstance(event, TunnelClosed):
            self.over = TunnelOverError(_slug(event.code, event.reason))
        else:
            self._streams[event.stream].on_event(event)
            if isinstance(event, Closed):
                del self._streams[event.stream]

    # -- one carrier after the other ---------------------------------------------------------------

    async def _run(self) -> None:
        lives: list[asyncio.Task[None]] = []
        try:
            while True:
                self._changed.clear()
                life = self._newest = asyncio.create_task(self._live())
                lives.append(life)
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({life, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if life is self._carrying and not life.done():
                    continue  # the next one ends it when it is there
                lives.remove(life)
                if not life.done():  # it is not there yet, and another is wanted
                    life.cancel()
                    await asyncio.wait({life})
                    continue
                try:
                    life.result()
                except _LOST:
                    self.counts.lost += 1
                if self.machine.closed:
                    return
                await asyncio.sleep(PAUSE)
        except TunnelOverError as over:
            self.over = over
        finally:
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)
            if self._ack_timer is not None:
                self._ack_timer.cancel()
            self.machine.close_tunnel()
            self.wake()
            self._attached.set()

    async def _live(self) -> None:
        """A carrier's life. Raises ``TunnelOverError``, or one of ``_LOST``."""
        local = None if self.address is None else (self.address, 0)
        connector = aiohttp.TCPConnector(local_addr=local)
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        async with aiohttp.ClientSession(connector=connector, timeout=limits) as session:
            # A carrier that is still there may be heard until the next one is. But from now on it says
            # nothing: what it acknowledged beyond what the server is told here, the server would not have
            # any more. And it does not begin only now.
            if self._carrying is not None and not self._greeted:
                self._carrying.cancel()
                await asyncio.wait({self._carrying})
            self.machine.detach()
            carrier = _CARRIERS[self.carrier](self, session)
            await asyncio.wait_for(carrier.connect(), CONNECT_TIMEOUT)
            before, self._carrying = self._carrying, asyncio.current_task()
            self._greeted = False
            if before is not None:
                before.cancel()
            try:
                await carrier.carry()
            finally:
                await carrier.leave()
                if self._carrying is asyncio.current_task():
                    self._carrying = None
                    self.machine.detach()


def _slug(code: int | None, reason: str) -> str:
    told = parse_close(code or 0, reason)
    return "" if told is None else told.reason.slug


def _ended(slug: str) -> Exception:
    """What it means that a carrier was ended for a reason, or for none."""
    return TunnelOverError(slug) if slug not in ("", "replaced") else ConnectionError("lost")


def _refused(status: int, slug: str) -> Exception:
    """What it means that a carrier was refused. Proxies say 5xx while no server is there."""
    return TunnelOverError(slug or str(status)) if status < 500 else ConnectionError("lost")


class _Carrier:
    """What brings frames. Either method raises ``TunnelOverError``, or one of ``_LOST``."""

    def __init__(self, peer: FarPeer, session: aiohttp.ClientSession) -> None:
        self.peer = peer
        self.session = session
        self.url = peer.url + PATH
        self.query = {"tunnel": peer.id, "received": str(peer.machine.received)} if peer.id else {}

    async def connect(self) -> None:
        """Until the server has said yes."""
        raise NotImplementedError

    async def carry(self) -> None:
        """Until the tunnel is over and the server knows that. Raises when the carrier ends before."""
        hearing, telling = tasks = [
            asyncio.create_task(self.hear()),
            asyncio.create_task(self.tell()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if telling.done() and not telling.exception():
                # The server ends the carrier when it has heard that. Who ends it first, with something
                # unread, resets the connection, and what is on its way is lost.
                await asyncio.wait({hearing}, timeout=CONNECT_TIMEOUT)
                return
            for done in (hearing, telling):
                if done.done():
                    done.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self) -> None:
        """End it, whatever it was."""
        raise NotImplementedError

    async def hear(self) -> None:
        """Take what comes."""
        raise NotImplementedError

    async def tell(self) -> None:
        """Bring what is to be brought; returns when that is all."""
        raise NotImplementedError


class _Socket(_Carrier):
    async def connect(self) -> None:
        try:
            self.socket = await self.session.ws_connect(
                self.url,
                params=self.query,
                protocols=offer_subprotocols([TUNNEL], self.peer.token),
                heartbeat=self.peer.silence,
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=1),
            )
        except aiohttp.WSServerHandshakeError as refused:
            raise _refused(refused.status, "") from None

    async def leave(self) -> None:
        await self.socket.close()

    async def hear(self) -> None:
        while True:
            message = await self.socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                (first,) = _NUMBER.unpack_from(message.data)
                self.peer.heard(first, message.data[_NUMBER.size :])
            elif message.type is aiohttp.WSMsgType.CLOSE:
                raise _ended(_slug(message.data, message.extra or ""))
            else:
                raise ConnectionError("lost")

    async def tell(self) -> None:
        while (batch := await self.peer.take()) is not None:
            first, data = batch
            await self.socket.send_bytes(_NUMBER.pack(first) + data)


class _EventStream(_Carrier):
    async def connect(self) -> None:
        self.headers = {"Authorization": f"Bearer {self.peer.token}"}
        self.answer = await self.session.get(self.url, params=self.query, headers=self.headers)
        await self._accepted(self.answer)
        assert self.answer.content_type == "text/event-stream"

    async def leave(self) -> None:
        self.answer.close()

    async def hear(self) -> None:
        peer = self.peer
        async for event in self._events():
            kind, data = event.get("event", "message"), event["data"]
            if kind == "message":
                peer.heard(int(event["id"]), base64.b64decode(data, validate=True))
            elif kind == "keepalive":
                peer.counts.keepalives += 1
                peer.machine._owes_ack = True  # even if nothing came: it is a sign of life
                peer.wake()
            elif kind == "end":
                raise _ended(json.loads(data).get("status", ""))
        raise ConnectionError("lost")

    async def tell(self) -> None:
        while (batch := await self.peer.take()) is not None:
            await self._post(*batch)

    async def _post(self, first: int, data: bytes) -> None:
        """Until it has arrived: what arrives twice applies once."""
        body = json.dumps({"first": first, "frames": base64.b64encode(data).decode()}).encode()
        counts = self.peer.counts
        counts.largest_post = max(counts.largest_post, len(body))
        while not await self._posted(body):
            counts.posted_again += 1
            await asyncio.sleep(PAUSE)
        counts.posts += 1

    async def _posted(self, body: bytes) -> bool:
        url = f"{self.url}/{self.peer.id}"
        headers = {**self.headers, "Content-Type": "application/json"}
        limit = aiohttp.ClientTimeout(total=CONNECT_TIMEOUT)
        try:
            async with self.session.post(url, data=body, headers=headers, timeout=limit) as answer:
                await self._accepted(answer)
        except _LOST:
            return False
        return True

    @staticmethod
    async def _accepted(answer: aiohttp.ClientResponse) -> None:
        """Raises what it means if the answer is no 200."""
        if answer.status == 200:
            return
        slug = ""
        with suppress(ValueError, aiohttp.ContentTypeError):
            slug = (await answer.json())["status"]
        raise _refused(answer.status, slug)

    @property
    def _silence(self) -> float:
        """Seconds without anything after which the server, or the way to it, is gone."""
        said: float | None = self.peer.hello.get("keepalive", {}).get("timeout")
        return said or self.peer.silence

    async def _events(self) -> AsyncIterator[dict[str, str]]:
        """Fields of each event (HTML standard, section 9.2.6), as plainly as this server writes them."""
        fields: dict[str, str] = {}
        rest = b""
        while chunk := await asyncio.wait_for(self.answer.content.readany(), self._silence):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    name, _, value = line.decode().partition(": ")
                    fields[name] = value
                elif fields:
                    yield fields
                    fields = {}


_CARRIERS: dict[str, Callable[[FarPeer, aiohttp.ClientSession], _Carrier]] = {
    WEBSOCKET: _Socket,
    EVENT_STREAM: _EventStream,
}
