"""The streams of one tunnel, at the server: between the state machine and what is behind each stream.

Carriers feed the state machine and empty it; here its events become messages, and messages become frames.
Nothing here knows how frames travel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tornado import iostream

from jupyter_token_ws.protocol.frames import FIN, TEXT
from jupyter_token_ws.protocol.tunnel import (
    ABNORMAL,
    Asked,
    Closed,
    Data,
    Drained,
    Ended,
    Event,
    State,
    Tunnel,
    TunnelClosed,
)

MAX_WRITERS = 100
"""Messages that wait for credit where who sends them waits as well, and more."""


class StreamClosedError(iostream.StreamClosedError, ConnectionError):
    """The stream is gone, or closed: nothing can be sent or received on it any more.

    ``code`` and ``reason`` are of the other side's closing; ``ABNORMAL`` (1006) where the tunnel ended.
    """

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__()
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Message:
    """A whole message; ``size`` is the credit that it took, in bytes."""

    payload: bytes
    text: bool
    size: int


@dataclass
class _Long:
    """A message that did not go at once, and maybe in parts: by its frames alone it cannot be told any more
    when some of them are acknowledged."""

    payload: bytes
    text: bool
    after: int  # its frames have higher numbers
    last: int | None = None  # and this one at most, once all are made


class MessageTooLargeError(Exception):
    """A message is longer than its reader takes."""


class Stream:
    """One stream, as what is behind it sees it."""

    def __init__(self, streams: Streams, number: int, path: str, offered: tuple[str, ...]) -> None:
        self.number = number
        self.path = path
        self.offered = offered
        self.closed: Closed | None = None
        """How it ended, if it has."""
        self.ended = False
        """Whether the client has no more messages."""
        self.max_message_size = 10 * 1024 * 1024
        """Bytes of a message at most."""
        self.over = False
        """Whether it ended and who reads has found out: until then there may be messages to read."""
        self._when_closed: list[Callable[[], None]] = []
        self._streams = streams
        self._machine = streams.machine
        self._begun = bytearray()  # of a message that has begun to come
        self._begun_credit = 0  # that it took, and was not given back yet
        self._too_large = False
        self._messages: deque[Message] = deque()
        self._unread = 0  # messages that came and were not taken in yet
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._long: deque[_Long] = deque()

    # -- for what is behind it ---------------------------------------------------------------------

    def accept(self, subprotocol: str | None) -> None:
        """It is open. Raises ``StreamClosedError`` where it is gone meanwhile."""
        if self.closed is not None or self._machine.state(self.number) is not State.ASKED:
            raise self._error()
        self._machine.accept(self.number, subprotocol)
        self._streams.moved()

    async def receive(self) -> Message | None:
        """The next message, ``None`` where the client has no more. Tell ``done`` when it was taken in.

        Raises ``StreamClosedError``, after the last message that came before; and ``MessageTooLargeError``.
        """
        while not self._messages:
            if self._too_large:
                raise MessageTooLargeError
            if self.ended:
                return None  # it came before whatever became of the stream since
            if self.closed is not None:
                self.over = True
                raise self._error()
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._messages.popleft()

    def done(self, message: Message) -> None:
        """A message was taken in; there may come as much again."""
        self._machine.consumed(self.number, message.size)
        self._unread -= 1
        self._let_go_on()
        self._streams.moved()

    def send(self, payload: bytes, *, text: bool, keep: bool = False) -> asyncio.Future[None]:
        """Send a message; the future tells when it is on its way: when there was credit for all of it.

        Args:
            payload: of the message.
            text: whether it is text, in UTF-8.
            keep: for ``unacknowledged``. Then it is to be waited for before there is another.

        Raises ``StreamClosedError``, as the future does.
        """
        before = self._machine.numbered
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            went = self._machine.send(self.number, payload, text=text)
        except (KeyError, ValueError):
            raise self._error() from None
        made = self._machine.numbered
        if keep and (not went or made > before + 1):
            self._long.append(_Long(payload, text, before, made if went else None))
            self._streams.keeping.add(self)
        if went:
            sent.set_result(None)
        else:
            self._writers.append(sent)
        self._streams.moved()
        return sent

    def send_small(self, payloads: Sequence[bytes], *, text: bool) -> int:
        """Send as many of some messages as may go at once; how many these are.

        Raises ``StreamClosedError``.
        """
        if self._long and self._long[-1].last is None:
            return 0
        try:
            count = self._machine.send_small(self.number, payloads, text=text)
        except (KeyError, ValueError):
            raise self._error() from None
        if count:
            self._streams.moved()
        return count

    def unacknowledged(self) -> list[tuple[bytes, bool]]:
        """The messages that the client has not said to have, oldest first, each with whether it is text. Also
        when the tunnel is over; but only where all were sent by ``send_small``, or by ``send`` with ``keep``.

        They are read out of the frames that the tunnel keeps for a resumption: there is no other copy.
        """
        found: list[tuple[bytes, bool]] = []
        long = deque(self._long)
        within = False
        for number, frame in self._machine.kept(self.number):
            while long and long[0].last is not None and long[0].last < number:
                long.popleft()
            whole = bool(frame.flags & FIN)
            if long and number > long[0].after:
                if not within:
                    found.append((long[0].payload, long[0].text))
                within = not whole
                if whole:
                    long.popleft()
            elif whole:
                found.append((frame.payload, bool(frame.flags & TEXT)))
        if within:
            long.popleft()
        found += [(each.payload, each.text) for each in long if each.last is None]
        return found

    def forget_acknowledged(self) -> bool:
        """Forget the long messages that the client has; whether there are others."""
        long, acknowledged = self._long, self._machine.acknowledged
        while long and long[0].last is not None and long[0].last <= acknowledged:
            long.popleft()
        return bool(long)

    def end(self) -> None:
        """No more messages from here."""
        try:
            self._machine.end(self.number)
        except (KeyError, ValueError):
            raise self._error() from None
        self._streams.moved()

    def close(self, code: int | None = None, reason: str = "", *, now: bool = False) -> None:
        """Close it, after what was sent, or ``now``; what is closed stays so."""
        self._machine.close(self.number, code, reason, now=now)
        self._streams.moved()

    def abort(self) -> None:
        """Cut it off: for who is behind it, it is gone at once."""
        self.close(ABNORMAL, now=True)
        if self.closed is None:
            self._gone(Closed(self.number, ABNORMAL, ""))

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call it when the stream is gone; where it is gone already, never."""
        self._when_closed.append(callback)

    @property
    def unsent(self) -> int:
        """Bytes of messages that wait for credit."""
        return self._machine.unsent(self.number)

    @property
    def sent(self) -> int:
        """Bytes of messages for which there was credit."""
        return self._machine.sent(self.number)

    @property
    def neglected(self) -> bool:
        """Whether many messages wait for the client though there is one: who sends them does not wait, and
        would send on for ever."""
        return len(self._writers) > MAX_WRITERS and self._machine.attached

    def _error(self) -> StreamClosedError:
        closed = self.closed
        return (
            StreamClosedError() if closed is None else StreamClosedError(closed.code, closed.reason)
        )

    # -- for the tunnel ----------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Something came."""
        if isinstance(event, Data):
            self._on_data(event)
        elif isinstance(event, Drained):
            for each in self._long:
                each.last = each.last or self._machine.numbered
            self._release(None)
        elif isinstance(event, Ended):
            self.ended = True
            self._wake()
        elif isinstance(event, Closed) and self.closed is None:
            self._gone(event)

    def _gone(self, closed: Closed) -> None:
        self.closed = closed
        self._streams.keeping.discard(self)
        self._release(self._error())
        self._wake()
        called, self._when_closed = self._when_closed, []
        for callback in called:
            callback()

    def _on_data(self, data: Data) -> None:
        self._begun_credit += data.size
        if self._too_large or len(self._begun) + len(data.payload) > self.max_message_size:
            self._too_large = True  # it will be refused; what else comes is not kept
            self._begun.clear()
            self._wake()
        elif data.last:
            whole = bytes(self._begun) + data.payload if self._begun else data.payload
            self._messages.append(Message(whole, data.text, self._begun_credit))
            self._unread += 1
            self._begun_credit = 0
            self._begun.clear()
            self._wake()
        else:
            self._begun += data.payload
            self._let_go_on()

    def _let_go_on(self) -> None:
        """A message may be longer than the window: where no other is before it, its parts are taken as they
        come."""
        if self._begun_credit and not self._unread:
            self._machine.consumed(self.number, self._begun_credit)
            self._begun_credit = 0

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _release(self, error: StreamClosedError | None) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            if writer.done():
                continue
            if error is None:
                writer.set_result(None)
            else:
                writer.set_exception(error)
                writer.exception()  # who does not wait for it is not told in the log


class Streams:
    """All streams of one tunnel.

    Args:
        machine: the tunnel's.
        on_asked: is given each stream that is asked for, and sees to it.
        on_moved: told whenever there may be something for the carrier to take.
        on_over: told once when the tunnel is over.
    """

    def __init__(
        self,
        machine: Tunnel,
        on_asked: Callable[[Stream], None],
        on_moved: Callable[[], None] = lambda: None,
        on_over: Callable[[], None] = lambda: None,
    ) -> None:
        self.machine = machine
        self._on_asked = on_asked
        self._on_moved = on_moved
        self._on_over = on_over
        self.keeping: set[Stream] = set()
        """Those that keep long messages until the client has them."""
        self._streams: dict[int, Stream] = {}
        self.closed_with: tuple[int | None, str] | None = None
        """Code and reason, where the client closed the tunnel."""
        self._hearing = False
        self._over = False

    def __len__(self) -> int:
        return len(self._streams)

    def moved(self) -> None:
        """Something was done to the machine."""
        self.hear()
        self._on_moved()

    def hear(self) -> None:
        """Hand out what happened. What that causes comes after it, in order."""
        if self._hearing:
            return
        self._hearing = True
        try:
            while events := self.machine.events():
                for event in events:
                    self._on_event(event)
        finally:
            self._hearing = False
        if self.keeping:
            self.keeping = {stream for stream in self.keeping if stream.forget_acknowledged()}
        if self.machine.closed and not self._over:
            self._over = True
            self._on_over()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Asked):
            stream = Stream(self, event.stream, event.path, event.subprotocols)
            self._streams[event.stream] = stream
            self._on_asked(stream)
        elif isinstance(event, TunnelClosed):
            self.closed_with = (event.code, event.reason)
        else:
            stream_number: int = event.stream  # type: ignore[union-attr] # no other has none at the server
            found = self._streams.get(stream_number)
            if isinstance(event, Closed):
                self._streams.pop(stream_number, None)
            if found is not None:
                found.on_event(event)


__all__ = ["ABNORMAL", "Message", "MessageTooLargeError", "Stream", "StreamClosedError", "Streams"]
