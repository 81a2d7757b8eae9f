"""The tunnel as a state machine, for either side, without I/O (contract section 7).

Bytes go in by ``receive``, and what they mean comes out as events; what is to be told to the other side
comes out of ``take``. Carriers come and go by ``attach`` and ``detach``: frames are numbered, and kept until
the other side says that it has them, so that the next carrier goes on where the last one broke.

**Credit.** Whoever receives says how many bytes of ``DATA`` frames, headers included, may be sent in all
since the beginning, for each stream and for the tunnel. Totals can be told twice without harm. That of a
stream grows as its reader takes messages: who does not read is sent a window's worth and no more. That of
the tunnel grows as frames arrive, read or not, so that one stream that nobody reads does not stall the
others. What a sender keeps for a resumption is bounded by itself, whatever it is granted.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from . import frames
from .frames import FIN, FIRST_UNNUMBERED, HEADER_SIZE, MAX_DATA, TEXT, Frame, FrameError, Kind
from .reasons import REASONS

INITIAL_TUNNEL_CREDIT = 256 * 1024
"""Bytes that may be sent for all streams before any credit is told."""

MAX_UNACKNOWLEDGED = 4096
"""Frames other than data that wait to be acknowledged at most; one that is long counts for several."""

ACK_EVERY_FRAMES = 512
"""Frames after which they are acknowledged without delay."""

ACK_EVERY = 256 * 1024
"""Bytes of ``DATA`` after which they are acknowledged without delay: who keeps more for a resumption than
this on its way does not wait."""

BLOCK_COST = 192
"""Bytes of memory that it takes to keep frames, besides their own: else tiny messages would be kept for a
twentieth of what they take."""

_LONG = 256
"""Bytes of a frame that counts for one."""

MIN_FRAGMENT = 4096
"""Bytes: what is longer waits for credit for so many, rather than to go in slivers."""

GOING_AWAY, ABNORMAL = 1001, 1006
"""Close codes (RFC 6455 section 7.4.1): of a tunnel that nobody needs any more, and of streams that were cut
off with their tunnel."""


class Side(Enum):
    """Who one is. Clients open streams."""

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    """Where a stream is, as one side sees it."""

    ASKING = "asking"
    """Client: asked for, not answered."""
    ASKED = "asked"
    """Server: asked for, not answered."""
    OPEN = "open"
    SENT_END = "sent end"
    """No more from here."""
    GOT_END = "got end"
    """No more from there."""
    WITHDRAWING = "withdrawing"
    """Client: given up before it was answered."""
    CLOSING = "closing"
    """Closed here; what the other side sent before it knew is passed over."""
    CLOSING_SENT_END = "closing, sent end"
    CLOSING_GOT_END = "closing, got end"
    GONE = "gone"
    """Closed on both sides; nothing is kept of it."""


class Move(Enum):
    """What can happen to a stream."""

    SEND_OPENED = "send OPENED"
    SEND_DATA = "send DATA"
    SEND_END = "send END"
    SEND_CLOSE = "send CLOSE"
    RECEIVE_OPENED = "receive OPENED"
    RECEIVE_DATA = "receive DATA"
    RECEIVE_END = "receive END"
    RECEIVE_CLOSE = "receive CLOSE"


_S, _M = State, Move

TRANSITIONS: dict[tuple[State, Move], State] = {
    (_S.ASKING, _M.RECEIVE_OPENED): _S.OPEN,
    (_S.ASKING, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.ASKING, _M.SEND_CLOSE): _S.WITHDRAWING,
    (_S.ASKED, _M.SEND_OPENED): _S.OPEN,
    (_S.ASKED, _M.SEND_CLOSE): _S.CLOSING_GOT_END,
    (_S.ASKED, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.OPEN, _M.SEND_DATA): _S.OPEN,
    (_S.OPEN, _M.SEND_END): _S.SENT_END,
    (_S.OPEN, _M.SEND_CLOSE): _S.CLOSING,
    (_S.OPEN, _M.RECEIVE_DATA): _S.OPEN,
    (_S.OPEN, _M.RECEIVE_END): _S.GOT_END,
    (_S.OPEN, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.SENT_END, _M.SEND_CLOSE): _S.CLOSING_SENT_END,
    (_S.SENT_END, _M.RECEIVE_DATA): _S.SENT_END,
    (_S.SENT_END, _M.RECEIVE_END): _S.GONE,
    (_S.SENT_END, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.GOT_END, _M.SEND_DATA): _S.GOT_END,
    (_S.GOT_END, _M.SEND_END): _S.GONE,
    (_S.GOT_END, _M.SEND_CLOSE): _S.CLOSING_GOT_END,
    (_S.GOT_END, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.WITHDRAWING, _M.RECEIVE_OPENED): _S.CLOSING,
    (_S.WITHDRAWING, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.CLOSING, _M.RECEIVE_DATA): _S.CLOSING,
    (_S.CLOSING, _M.RECEIVE_END): _S.CLOSING_GOT_END,
    (_S.CLOSING, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.CLOSING_SENT_END, _M.RECEIVE_DATA): _S.CLOSING_SENT_END,
    (_S.CLOSING_SENT_END, _M.RECEIVE_END): _S.GONE,
    (_S.CLOSING_SENT_END, _M.RECEIVE_CLOSE): _S.GONE,
    (_S.CLOSING_GOT_END, _M.RECEIVE_CLOSE): _S.GONE,
}
"""What may happen when, and what comes of it; all else breaks the protocol.

Whoever receives a ``CLOSE`` answers with one unless it sent one before: only then is the stream gone on both
sides. Where both have sent ``END`` it is gone without. So a ``CLOSE`` that crosses the other's ``END`` may
find the stream gone, and nothing else may."""

_CLOSING = frozenset({_S.WITHDRAWING, _S.CLOSING, _S.CLOSING_SENT_END, _S.CLOSING_GOT_END})
_RECEIVED = {
    Kind.OPENED: _M.RECEIVE_OPENED,
    Kind.DATA: _M.RECEIVE_DATA,
    Kind.END: _M.RECEIVE_END,
    Kind.CLOSE: _M.RECEIVE_CLOSE,
}


class TunnelError(Exception):
    """The other side broke the protocol; the tunnel is over. The text is a constant.

    ``slug`` is one of ``reasons``.
    """

    slug = "bad_request"


class ResumeError(TunnelError):
    """What the other side missed is not there, or it has what was never sent."""

    slug = "resume_failed"


class OutOfOrderError(Exception):
    """Frames came before others that are missing; nothing was taken of them, and they may come again."""


# -- events ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Server: a stream is asked for. Answer by ``accept`` or ``close``."""

    stream: int
    path: str
    subprotocols: tuple[str, ...]


@dataclass(frozen=True)
class Opened:
    """Client: the stream is open."""

    stream: int
    subprotocol: str | None


class Data(NamedTuple):
    """A fragment of a message. Tell ``consumed`` with its ``size`` when it was taken."""

    stream: int
    payload: bytes
    last: bool
    text: bool

    @property
    def size(self) -> int:
        """Bytes of credit that it took."""
        return HEADER_SIZE + len(self.payload)


@dataclass(frozen=True)
class Ended:
    """The other side has no more messages."""

    stream: int


@dataclass(frozen=True)
class Closed:
    """The stream is gone; told once of each, also of one too many, of which nobody was asked. By the other
    side's ``CLOSE``, which may be the answer to one's own; without code where both have ended; ``ABNORMAL``
    where the tunnel is over."""

    stream: int
    code: int | None
    reason: str


@dataclass(frozen=True)
class Drained:
    """Everything that was sent on a stream is on its way, or kept until it is."""

    stream: int


@dataclass(frozen=True)
class Attached:
    """Client: the server's ``HELLO`` came, and what it says."""

    hello: dict[str, Any]


@dataclass(frozen=True)
class TunnelClosed:
    """The other side closed the tunnel."""

    code: int | None
    reason: str


Event = Asked | Opened | Data | Ended | Closed | Drained | Attached | TunnelClosed


# -- what is kept ------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Frames that were made together."""

    first: int  # number of the first
    last: int  # of the last
    data: bytes
    credit: bool  # whether all is data, which took credit


@dataclass(slots=True)
class _Stream:
    """A stream as one side knows it."""

    state: State
    granted: int  # bytes that may come in all
    may_send: int = 0
    sent: int = 0
    received: int = 0
    consumed: int = 0
    pending: deque[tuple[memoryview, int]] = field(default_factory=deque)  # waits for credit
    waiting: int = 0  # bytes of it
    ending: bool = False
    closing: Frame | None = None
    in_message: int | None = None  # flags of a message that has begun to come


class Tunnel:
    """One side of a tunnel.

    Not to be used by two threads. Errors of one's own use raise ``ValueError`` or ``KeyError``, the
    other side's ``TunnelError``; after that the tunnel is over.

    Args:
        side: which one.
        hello: server: what ``HELLO`` says besides ``received``.
        stream_window: bytes that may be under way to, or unread by, the reader of each stream.
        tunnel_window: bytes that may be under way here for all streams.
        max_streams: server: streams at the same time.
        max_kept: bytes of memory for ``DATA`` that is kept until the other side has it. Where that is full
            messages wait, as without credit.
        max_fragment: bytes of a message in one frame, for carriers that let no longer ones through.
    """

    def __init__(
        self,
        side: Side,
        *,
        hello: dict[str, Any] | None = None,
        stream_window: int = 256 * 1024,
        tunnel_window: int = 1024 * 1024,
        max_streams: int = 256,
        max_kept: int = 1024 * 1024,
        max_fragment: int = MAX_DATA,
    ) -> None:
        self.side = side
        self.max_fragment = max(1, min(max_fragment, MAX_DATA))
        """Bytes of a message in one frame; may be set, for frames that are yet to be made."""
        self.closed = False
        """Whether the tunnel is over."""
        self.received = 0
        """Numbered frames that came: the number of the last one, to be named when resuming."""
        self._hello = hello or {}
        self._stream_window = max(stream_window, 4 * MIN_FRAGMENT)
        self._tunnel_window = max(tunnel_window, INITIAL_TUNNEL_CREDIT)
        self._max_streams = max_streams
        self._max_kept = max(max_kept, INITIAL_TUNNEL_CREDIT)
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0
        self._events: list[Event] = []
        # Sending.
        self._attached = False
        self._owes_hello = False
        self._kept: deque[_Block] = deque()
        self._numbered = 0  # frames made so far
        self._given = 0  # of these, given to this carrier
        self._reached = 0  # given to any
        self._acknowledged = 0
        self._kept_data = 0  # memory that takes, as far as it is data
        self._kept_others = 0  # frames kept that are no data, by ``_LONG``
        self._ready: OrderedDict[int, None] = (
            OrderedDict()
        )  # streams with something to send, in turn
        self._sent = 0
        self._may_send = INITIAL_TUNNEL_CREDIT
        # Receiving.
        self._data_received = 0
        self._told_received = 0
        self._told_limit = INITIAL_TUNNEL_CREDIT
        self._ack_below = self._tunnel_window - min(self._tunnel_window // 2, ACK_EVERY)
        self._owes_ack = False
        self._owes_credit: dict[int, None] = {}

    # -- what is asked -----------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def streams(self) -> int:
        """How many there are, those that are closing included."""
        return len(self._streams)

    def state(self, stream: int) -> State:
        """Where a stream is."""
        found = self._streams.get(stream)
        return State.GONE if found is None else found.state

    def unsent(self, stream: int) -> int:
        """Bytes of messages that wait for credit."""
        found = self._streams.get(stream)
        return 0 if found is None else found.waiting

    def sent(self, stream: int) -> int:
        """Bytes of messages that went, or are kept until they do, headers of frames included."""
        found = self._streams.get(stream)
        return 0 if found is None else found.sent

    @property
    def attached(self) -> bool:
        """Whether there is a carrier."""
        return self._attached

    @property
    def kept_bytes(self) -> int:
        """Bytes of frames that are kept until the other side has them."""
        return sum(len(block.data) for block in self._kept)

    @property
    def numbered(self) -> int:
        """Number of the last frame that was made here, given to a carrier or not."""
        return self._numbered

    @property
    def acknowledged(self) -> int:
        """Number of the last frame that the other side said to have."""
        return self._acknowledged

    def kept(self, stream: int) -> Iterator[tuple[int, Frame]]:
        """The ``DATA`` frames of a stream that the other side has not said to have, oldest first, each with
        its number. Also of a stream that is gone, and when the tunnel is over."""
        for block in self._kept:
            if block.credit and frames.HEADER.unpack_from(block.data)[2] == stream:
                for number, frame in enumerate(frames.decode(block.data), block.first):
                    if number > self._acknowledged:
                        yield number, frame

    @property
    def wants_ack(self) -> bool:
        """Whether something came that the other side was not told of; see ``take``."""
        return self.received > self._told_received

    @property
    def has_more(self) -> bool:
        """Whether there is something to ``take`` that is not to wait."""
        owes = self._owes_hello or self._owes_ack or bool(self._owes_credit)
        return self._attached and (owes or self._given < self._numbered)

    # -- carriers ----------------------------------------------------------------------------------

    def attach(self, received: int = 0) -> None:
        """There is a carrier, and the other side has so many numbered frames. (A client's does by
        ``HELLO``.)

        Raises ``ResumeError``; the tunnel stays as it was.
        """
        if not self._acknowledged <= received <= self._reached:
            raise ResumeError("what was missed is not there")
        self._acknowledge(received)
        self._given = received
        self._attached = True
        self._owes_hello = self.side is Side.SERVER
        self._owes_ack = True
        self._owes_credit = dict.fromkeys(self._streams)
        self._pump()

    def detach(self) -> None:
        """The carrier is gone."""
        self._attached = self._owes_hello = False

    def take(self, size: int = MAX_DATA, *, ack: bool = False) -> tuple[int, bytes] | None:
        """What the carrier has to bring to the other side next, at least a frame and about ``size`` bytes at
        most: the number of the first numbered frame in it, and the frames; ``None``: nothing.

        Acknowledgements go with other frames, or alone when much came, or with ``ack``.
        """
        if not self._attached:
            return None
        parts: list[bytes] = []
        more = self._owes_hello or bool(self._owes_credit) or self._given < self._numbered
        if self._owes_hello:
            self._owes_hello = False
            document = {**self._hello, "received": self.received}
            parts.append(frames.encode(frames.hello_frame(document)))
        if self._owes_ack or (self.wants_ack and (ack or more)):
            self._owes_ack = False
            self._told_received = self.received
            self._told_limit = self._data_received + self._tunnel_window
            parts.append(frames.encode(frames.ack_frame(self.received, self._told_limit)))
        for number in self._owes_credit:
            credit = frames.credit_frame(number, self._streams[number].granted)
            parts.append(frames.encode(credit))
        self._owes_credit.clear()
        missing = self._not_given()
        first = missing[0].first if missing else self._given + 1
        length = 0
        for block in missing:
            if length and length + len(block.data) > size:
                break
            parts.append(block.data)
            length += len(block.data)
            self._given = block.last
        self._reached = max(self._reached, self._given)
        return (first, b"".join(parts)) if parts else None

    def beat(self) -> None:
        """Have something to ``take`` though nothing happened: a sign of life."""
        self._owes_ack = True

    def _not_given(self) -> list[_Block]:
        """What is kept and was not given to this carrier, or not all of it: blocks go whole, and the other
        side passes over what it has."""
        latest = reversed(self._kept)
        missing = itertools.takewhile(lambda block: block.last > self._given, latest)
        return list(missing)[::-1]

    # -- what one does -----------------------------------------------------------------------------

    def open(self, path: str, subprotocols: Sequence[str] = ()) -> int:
        """Client: ask for a stream; its number. Raises ``FrameError`` for a path that is too long,
        ``ValueError`` where the tunnel is over."""
        if self.closed:
            raise ValueError("the tunnel is closed")
        number, credit = self._last_stream + 1, self._stream_window
        frame = frames.open_frame(number, path, subprotocols, credit)
        self._last_stream = number
        self._streams[number] = _Stream(State.ASKING, credit)
        self._emit(frame)
        return number

    def accept(self, stream: int, subprotocol: str | None = None) -> None:
        """Server: a stream that was asked for is open. Raises ``KeyError`` where it is gone, ``ValueError``
        where it is answered already."""
        found = self._streams[stream]
        if found.state is not State.ASKED or found.closing:
            raise ValueError("the stream is answered")
        self._move(found, Move.SEND_OPENED)
        self._emit(frames.opened_frame(stream, subprotocol, found.granted))

    def send(self, stream: int, message: bytes, *, text: bool = False) -> bool:
        """Send a message. Whether it is on its way: else ``Drained`` tells when it is, and who has more
        should wait for that. Raises ``KeyError`` for a stream that is gone, ``ValueError`` for one that was
        closed or ended here."""
        found = self._writable(stream)
        flags = TEXT if text else 0
        size = HEADER_SIZE + len(message)
        if found.pending or len(message) > self.max_fragment or size > self._left(found):
            found.pending.append((memoryview(message), flags))
            found.waiting += len(message)
            self._ready[stream] = None
            self._pump()
            return not found.pending
        self._count(found, size)
        header = frames.HEADER.pack(Kind.DATA, flags | FIN, stream, len(message))
        self._keep(header + message, 1, credit=True)
        return True

    def send_small(self, stream: int, messages: Sequence[bytes], *, text: bool = False) -> int:
        """Send as many of some messages as there is credit for, and go together well; how many these are.
        What is over goes by ``send``, or another time. Raises as ``send``."""
        found = self._writable(stream)
        if found.pending:
            return 0
        left = min(self._left(found), MAX_DATA + HEADER_SIZE)
        flags, pack = FIN | (TEXT if text else 0), frames.HEADER.pack
        parts: list[bytes] = []
        size = count = 0
        for message in messages:
            length = len(message)
            if size + HEADER_SIZE + length > left or length > self.max_fragment:
                break
            size += HEADER_SIZE + length
            parts += (pack(Kind.DATA, flags, stream, length), message)
            count += 1
        if count:
            self._count(found, size)
            self._keep(b"".join(parts), count, credit=True)
        return count

    def end(self, stream: int) -> None:
        """No more messages from here; what waits still goes. Raises as ``send``."""
        found = self._writable(stream)
        found.ending = True
        if not found.pending:
            self._send_last(stream, found)

    def close(
        self, stream: int, code: int | None = None, reason: str = "", *, now: bool = False
    ) -> None:
        """Close a stream both ways, after what waits, or ``now`` without it. Closing again, or what is gone,
        changes nothing, unless what waited is not to be waited for any more."""
        found = self._streams.get(stream)
        if found is None or found.state in _CLOSING:
            return
        if found.closing is None:
            found.closing = frames.close_frame(stream, code, reason)
        if now:
            found.pending.clear()
            found.waiting = 0
        if not found.pending:
            self._send_last(stream, found)

    def consumed(self, stream: int, size: int) -> None:
        """So many bytes of what came were taken, and may come again."""
        found = self._streams.get(stream)
        if found is None:
            return
        if found.consumed + size > found.received:
            raise ValueError("more was consumed than came")
        self._consume(stream, found, size)

    def close_tunnel(self, code: int | None = GOING_AWAY, reason: str = "") -> None:
        """Close the tunnel, and with it all streams, at once; what was sent before goes first."""
        if not self.closed:
            self._emit(frames.close_frame(0, code, reason))
            self._over()

    # -- what comes --------------------------------------------------------------------------------

    def receive(self, first: int, data: bytes) -> None:
        """What a carrier brought: frames, and which number the first numbered one of them has. Those that
        came before are passed over.

        Raises ``OutOfOrderError`` where frames before these are missing, and ``TunnelError``.
        """
        if self.closed:
            return
        if first > self.received + 1:
            raise OutOfOrderError("frames are missing before these")
        try:
            self._take_in(first, data)
        except (FrameError, TunnelError) as error:
            broken = error if isinstance(error, TunnelError) else TunnelError(str(error))
            reason = REASONS[broken.slug]
            self.close_tunnel(reason.code, reason.close_reason())
            raise broken from None
        self._pump()

    def _take_in(self, first: int, data: bytes) -> None:
        if first < 1:
            raise TunnelError("frames are numbered from 1")
        number = first
        for frame in frames.decode(data):
            if frame.kind >= FIRST_UNNUMBERED:
                self._on_unnumbered(frame)
                continue
            if number == self.received + 1:
                self.received = number
                self._on_numbered(frame)
                if self.closed:
                    return
                if self._kept_others > MAX_UNACKNOWLEDGED:
                    raise TunnelError("nothing is acknowledged")
            number += 1
        if self.received - self._told_received >= ACK_EVERY_FRAMES:
            self._owes_ack = True

    def _on_numbered(self, frame: Frame) -> None:
        kind, number = frame.kind, frame.stream
        stream = self._streams.get(number)
        if kind is Kind.DATA and stream is not None:
            self._on_data(stream, frame)
        elif kind is Kind.OPEN:
            self._on_open(frame)
        elif number == 0:
            code, reason = frames.read_close(frame.payload)
            self._over()
            self._events.append(TunnelClosed(code, reason))
        elif stream is not None:
            self._on_change(stream, frame)
        elif kind is not Kind.CLOSE or number > self._last_stream:
            raise TunnelError("there is no such stream")

    def _on_open(self, frame: Frame) -> None:
        if self.side is Side.CLIENT or frame.stream <= self._last_stream:
            raise TunnelError("that stream cannot be opened")
        path, offered, credit = frames.read_open(frame.payload)
        number, streams = frame.stream, len(self._streams)
        if streams >= 2 * self._max_streams:
            raise TunnelError("streams are opened that nobody closes")
        self._last_stream = number
        self._streams[number] = _Stream(State.ASKED, self._stream_window, may_send=credit)
        if streams < self._max_streams:
            self._events.append(Asked(number, path, tuple(offered)))
        else:
            reason = REASONS["too_many_connections"]
            self.close(number, reason.code, reason.close_reason())

    def _on_data(self, stream: _Stream, frame: Frame) -> None:
        number, payload, flags = frame.stream, frame.payload, frame.flags
        self._move(stream, Move.RECEIVE_DATA)
        size = HEADER_SIZE + len(payload)
        stream.received += size
        self._data_received += size
        if stream.received > stream.granted or self._data_received > self._told_limit:
            raise TunnelError("more was sent than there was credit for")
        if self._told_limit - self._data_received < self._ack_below:
            self._owes_ack = True
        if stream.state in _CLOSING:
            self._consume(number, stream, size)
            return
        text, last = flags & TEXT, bool(flags & FIN)
        if stream.in_message not in (None, text):
            raise TunnelError("a message is text in part only")
        stream.in_message = None if last else text
        self._events.append(Data(number, payload, last, bool(text)))

    def _on_change(self, stream: _Stream, frame: Frame) -> None:
        """``OPENED``, ``END`` or ``CLOSE`` came."""
        kind, number = frame.kind, frame.stream
        was_closing = stream.state in _CLOSING
        self._move(stream, _RECEIVED[kind])
        code, reason = None, ""
        if kind is Kind.OPENED:
            subprotocol, credit = frames.read_opened(frame.payload)
            stream.may_send = max(stream.may_send, credit)
            if not was_closing:
                self._events.append(Opened(number, subprotocol))
        elif kind is Kind.END:
            if stream.in_message is not None and not was_closing:
                raise TunnelError("a message has no end")
            if not was_closing:
                self._events.append(Ended(number))
        else:
            code, reason = frames.read_close(frame.payload)
            if not was_closing:
                self._emit(frames.close_frame(number, code))
        if stream.state is State.GONE:
            self._forget(number, code, reason)

    def _on_unnumbered(self, frame: Frame) -> None:
        if frame.kind is Kind.ACK:
            received, limit = frames.read_ack(frame.payload)
            if received > self._reached:
                raise TunnelError("frames were acknowledged that were never sent")
            self._acknowledge(max(received, self._acknowledged))
            self._may_send = max(self._may_send, limit)
        elif frame.kind is Kind.CREDIT:
            limit = frames.read_credit(frame.payload)
            stream = self._streams.get(frame.stream)
            if stream is not None:
                stream.may_send = max(stream.may_send, limit)
                if stream.pending:
                    self._ready[frame.stream] = None
        else:
            self._on_hello(frames.read_hello(frame.payload))

    def _on_hello(self, document: dict[str, Any]) -> None:
        if self.side is Side.SERVER or self._attached:
            raise TunnelError("that is no time for HELLO")
        self.attach(frames.received_of(document))
        self._events.append(Attached(document))

    # -- within ------------------------------------------------------------------------------------

    def _writable(self, stream: int) -> _Stream:
        found = self._streams[stream]
        if found.ending or found.closing or (found.state, Move.SEND_DATA) not in TRANSITIONS:
            raise ValueError("the stream is not open for sending")
        return found

    def _move(self, stream: _Stream, move: Move) -> None:
        state = TRANSITIONS.get((stream.state, move))
        if state is None:
            raise TunnelError(f"a stream that is {stream.state.value} must not {move.value}")
        stream.state = state

    def _left(self, stream: _Stream) -> int:
        """Bytes that may go at once."""
        return min(
            stream.may_send - stream.sent,
            self._may_send - self._sent,
            self._max_kept - self._kept_data - BLOCK_COST,
        )

    def _count(self, stream: _Stream, size: int) -> None:
        stream.sent += size
        self._sent += size

    def _consume(self, number: int, stream: _Stream, size: int) -> None:
        stream.consumed += size
        limit = stream.consumed + self._stream_window
        if 2 * (limit - stream.granted) >= self._stream_window:  # it is worth a frame
            stream.granted = limit
            self._owes_credit[number] = None

    def _pump(self) -> None:
        """Send what waits, as far as there is credit: a fragment of each stream in turn."""
        ready = self._ready
        while ready:
            number = next(iter(ready))
            stream = self._streams[number]
            rest, _ = stream.pending[0]
            wanted = HEADER_SIZE + min(len(rest), MIN_FRAGMENT)
            if stream.may_send - stream.sent < wanted:
                del ready[number]  # its own credit will call it again
                continue
            left = self._left(stream)
            if left < wanted:
                return  # all wait for the tunnel; the turn stays
            self._send_fragment(number, stream, left - HEADER_SIZE)
            if stream.pending:
                ready.move_to_end(number)
            else:
                self._events.append(Drained(number))
                self._send_last(number, stream)

    def _send_fragment(self, number: int, stream: _Stream, left: int) -> None:
        """Send of the first message that waits as much as may go."""
        rest, flags = stream.pending[0]
        size = min(left, len(rest), self.max_fragment)
        last = size == len(rest)
        self._count(stream, HEADER_SIZE + size)
        stream.waiting -= size
        self._emit(Frame(Kind.DATA, number, bytes(rest[:size]), flags | (FIN if last else 0)))
        if last:
            stream.pending.popleft()
        else:
            stream.pending[0] = (rest[size:], flags)

    def _send_last(self, number: int, stream: _Stream) -> None:
        """Nothing waits any more: send ``CLOSE`` or ``END``, if it is time for one."""
        self._ready.pop(number, None)
        if stream.closing is not None:
            self._move(stream, Move.SEND_CLOSE)
            self._emit(stream.closing)
        elif stream.ending:
            self._move(stream, Move.SEND_END)
            self._emit(Frame(Kind.END, number))
        if stream.state is State.GONE:
            self._forget(number, None, "")

    def _emit(self, frame: Frame) -> None:
        self._keep(frames.encode(frame), 1, credit=frame.kind is Kind.DATA)

    def _keep(self, data: bytes, count: int, *, credit: bool) -> None:
        first, self._numbered = self._numbered + 1, self._numbered + count
        self._kept.append(_Block(first, self._numbered, data, credit))
        if credit:
            self._kept_data += len(data) + BLOCK_COST
        else:
            self._kept_others += 1 + len(data) // _LONG

    def _acknowledge(self, received: int) -> None:
        kept = self._kept
        self._acknowledged = received
        while kept and kept[0].last <= received:
            block = kept.popleft()
            if block.credit:
                self._kept_data -= len(block.data) + BLOCK_COST
            else:
                self._kept_others -= 1 + len(block.data) // _LONG

    def _forget(self, number: int, code: int | None, reason: str) -> None:
        del self._streams[number]
        self._owes_credit.pop(number, None)
        self._ready.pop(number, None)
        self._events.append(Closed(number, code, reason))

    def _over(self) -> None:
        self.closed = True
        for number in list(self._streams):
            self._forget(number, ABNORMAL, "")
