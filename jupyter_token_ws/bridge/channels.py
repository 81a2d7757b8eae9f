"""ZMQ sockets of a kernel: many messages received per wake-up, and few handed to ZMQ at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from jupyter_token_ws.protocol.kernel_messages import WireError

from .inlet import Inlet, Sender
from .wire import DELIMITER, LARGE, Message, from_zmq

DRAIN_MESSAGES = 200
"""Messages taken from one channel before others have their turn."""

DRAIN_BYTES = 256 * 1024
"""Bytes taken from one channel before others have their turn. What was received still lies in the processor's
cache then when it is handed on, and the next takes the memory that it leaves: two megabytes at a time cost
twice as much, most of it for fresh pages, and kept other clients waiting."""

PIPE = 4
"""Messages that ZMQ may hold for a kernel that does not take them. It counts messages, and a client's may
have megabytes; by itself it would hold a thousand."""

BURST_BYTES = 32 * 1024 * 1024
"""Bytes that ZMQ may take from the kernel while this process is busy with something else. It counts
messages, and by itself takes a thousand. Then the kernel does as well, and throws away what comes after:
at 30,000 messages a second a twentieth of a second is enough for that."""

BURST_FIRST = 32 * 1024
"""Messages that ZMQ may take before it is known how large they are. A power of two, as the other two."""

BURST_LEAST = 32
"""Messages that ZMQ may take however large they are."""

MARK_MOST = 2**31 - 1
"""ZMQ's own limit of a mark."""

_NOBLOCK = int(zmq.NOBLOCK)  # as an enum it would be looked up for every part


def part_of(frame: Any) -> Any:
    """What is in a frame of ZMQ's: bytes, or, if they are many, a view of them where they lie."""
    return frame.bytes if len(frame) < LARGE else frame.buffer


def drain(
    socket: Any, channel: str, log: logging.Logger, messages: int, size: int
) -> list[Message]:
    """Receive what is there, up to so many messages or bytes.

    ZMQ hands over a message in whole or not at all, and after the delimiter there are five parts or
    more; so only behind those is asked whether there is another, and the frame of the last one knows:
    to ask the socket takes longer than to receive a part. A message that is short of a part shows by the
    delimiter of the next one in a place where none belongs.
    """
    recv = socket.recv
    drained: list[Message] = []
    while len(drained) < messages and size > 0:
        try:
            part = recv(_NOBLOCK)
            while part != DELIMITER:
                part = recv(_NOBLOCK)
            signature = recv(_NOBLOCK)
            parts = [recv(_NOBLOCK), recv(_NOBLOCK), recv(_NOBLOCK)]
            last = recv(_NOBLOCK, False)
            parts.append(last.bytes)
            while last.more:
                last = recv(_NOBLOCK, False)
                parts.append(part_of(last))
        except zmq.Again:
            break
        if signature == DELIMITER or DELIMITER in parts[:4]:
            log.error("A message of the kernel on %s is short of parts", channel)
            continue
        message = Message(channel, parts, signature)
        drained.append(message)
        size -= message.size
    return drained


class Burst:
    """How many messages ZMQ may take from the kernel: ``BURST_BYTES``, by the size of the last ones.

    ZMQ's reader tells a writer that waits whenever the number of all messages read passes a multiple of half
    the mark. Such a multiple has to lie among what the writer has written when it waits: else the reader
    runs dry before, and the two wait for each other for ever. It does

    - where the mark is doubled after as many messages as it allows;
    - where it is lowered, and of what was read no more than half the new mark is still to be told. Is it
      more, the mark is first set so that the next message tells it.

    Args:
        socket: that receives, and has not yet. Its mark is that of its making, see ``bursts``, and a power of
            two when nothing is to be told first.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._read = self._told = 0
        self._allow(1 << (socket.rcvhwm.bit_length() - 1))

    def _allow(self, mark: int) -> None:
        self._socket.rcvhwm = self._mark = mark
        self._received = 0

    def received(self, messages: int, size: int) -> None:
        """So many messages were received, the last one of so many bytes."""
        before, self._read = self._read, self._read + messages
        self._received += messages
        multiple = self._read - self._read % (self._mark // 2)
        if multiple > before:
            self._told = multiple
        wanted = max(BURST_LEAST, BURST_BYTES >> size.bit_length())
        if wanted < self._mark:
            untold, next_tells = 2 * (self._read - self._told), 2 * (self._read + 1)
            if untold > wanted:
                wanted = next_tells if next_tells <= MARK_MOST else untold
            self._allow(wanted)
        elif wanted > self._mark <= self._received:
            self._allow(self._mark * 2)


@contextmanager
def bursts(kernel: Any) -> Iterator[None]:
    """Within it, sockets of a kernel are made with the mark ``BURST_FIRST``, as it cannot be raised to that
    later."""
    context = getattr(kernel, "context", None)
    if not isinstance(context, zmq.Context):
        yield
        return
    before = context.sockopts
    context.sockopts = {**before, zmq.RCVHWM: BURST_FIRST}
    try:
        yield
    finally:
        context.sockopts = before


class Channel:
    """One channel.

    Args:
        name: of the channel.
        stream: connected to it.
        on_messages: gets what arrives in one wake-up.
        on_low: see ``Inlet``.
        before: the same channel with the socket that it had before, whose messages that wait are sent
            here; it is closed.
    """

    def __init__(
        self,
        name: str,
        stream: Any,
        on_messages: Callable[[list[Message]], None],
        on_low: Callable[[Any], None],
        log: logging.Logger,
        before: Channel | None = None,
    ) -> None:
        self.name = name
        self._stream = stream
        self._on_messages = on_messages
        self._log = log
        self._burst = Burst(stream.socket) if name == "iopub" else None
        self._inlet: Inlet[Any] = Inlet(stream.send_multipart, on_low)
        stream.socket.sndhwm = PIPE
        stream.on_recv(self._receive, copy=False)
        stream.on_send(self._sent)
        if before is not None:
            self._inlet.take_over(before._inlet)
            before.close()

    def _receive(self, raw: list[zmq.Frame]) -> None:
        """The stream woke up with a first message: take the others too."""
        messages: list[Message] = []
        try:
            message = from_zmq(self.name, [part_of(frame) for frame in raw])
            message.parts[:4] = map(bytes, message.parts[:4])  # only buffers are handed on unread
            messages.append(message)
        except WireError as wrong:
            self._log.error("What the kernel sent on %s is no message: %s", self.name, wrong)
        left = DRAIN_BYTES - sum(message.size for message in messages)
        messages += drain(self._stream.socket, self.name, self._log, DRAIN_MESSAGES, left)
        if messages:
            self._hand_on(messages)

    def _hand_on(self, messages: list[Message]) -> None:
        if self._burst is not None:
            self._burst.received(len(messages), messages[-1].size)
        try:
            self._on_messages(messages)
        except Exception:  # noqa: BLE001 - whatever comes of it
            # After an error the stream would not look whether there is more, and ZMQ tells but once.
            self._log.exception("Cannot hand on %d messages of %s", len(messages), self.name)

    def flush(self) -> None:
        """Receive all that is there already."""
        while not self._stream.closed():
            messages = drain(self._stream.socket, self.name, self._log, DRAIN_MESSAGES, DRAIN_BYTES)
            if not messages:
                return
            self._hand_on(messages)

    def send(self, sender: Sender, raw: list[bytes]) -> bool:
        """Send a message, in its turn; whether the client may send more."""
        return self._inlet.put(sender, raw)

    def waiting(self, sender: Sender) -> int:
        """Bytes of a client that wait here."""
        return self._inlet.waiting(sender)

    def drop(self, sender: Sender) -> None:
        """Forget what waits of a client that will not come back."""
        self._inlet.drop(sender)

    def send_own(self, raw: list[bytes]) -> None:
        """Send a message of the hub's own, at once."""
        self._inlet.put_first(raw)

    def hold(self) -> None:
        """Let what clients send wait."""
        self._inlet.hold()

    def release(self) -> None:
        """Let it go on."""
        self._inlet.release()

    def _sent(self, message: object, status: object) -> None:
        self._inlet.taken()

    def close(self) -> None:
        """Close the socket; what it was given and has not sent may still go out (ZMQ's linger)."""
        if not self._stream.closed():
            self._stream.on_recv(None)
            self._stream.on_send(None)
            self._stream.close()
        self._inlet.clear()
