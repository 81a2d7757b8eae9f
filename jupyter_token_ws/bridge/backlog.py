"""What a client has not taken yet, bounded in bytes. No I/O: the file is an argument.

A kernel cannot be made to wait: what is not read from it at once it throws away, the message that
says that it is idle among it. So everything is read, and what a client does not take waits here, in
the order in which it came:

1. in memory, where neighbouring pieces of printed text become one message;
2. beyond half of ``Limits.memory`` in a spool, ``Limits.disk`` bytes at most;
3. beyond that, output (``DROPPABLE``) is cut and a notice with the count stands in its place. One
   eighth of the room is kept for everything else, which is never cut: when that is full too,
   ``overflowed`` says that this client cannot be served without loss, and it is to be told so: by the
   end of its connection or, if it has none, by a notice for all that was lost once it is back.

Where the spool cannot be written, memory is all the room there is.

A single message may exceed the bound in memory: it has to be there to be sent.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Protocol

from .metrics import MESSAGES_CUT
from .wire import OVERHEAD, Message, message_id, together

DROPPABLE = frozenset({"stream", "display_data", "update_display_data", "clear_output"})
"""Message types that may be cut: output, and what only clears output."""

MERGED_MAX = 64 * 1024
"""Bytes of text up to which neighbours are merged: what merging saves is the cost of each message."""

NOTICE_SIZE = OVERHEAD + 1024
"""Bytes counted for a notice before it is written."""

CHUNK = 256 * 1024
"""Bytes that are written to the spool, and read again, at a time: less than a millisecond of work."""

PARENTS_MAX = 16
"""Parents that one cut tells apart; more of them begin another one."""

AGAIN, OUTPUT, ALL = 6, 7, 8
"""Eighths of the room that may be full: for output to be kept again, for output, for everything else."""

_STREAM = re.compile(rb'(\{"name": ?"std(?:out|err)", ?"text": ?")(.*)"\}', re.DOTALL)
_STRING = re.compile(rb'(?:[^"\\]|\\.)*', re.DOTALL)
_LENGTH = Struct("<Q")


@dataclass(frozen=True)
class Limits:
    """Bytes that a backlog may hold in memory and on disk; ``close`` instead of cutting."""

    memory: int = 16 * 2**20
    disk: int = 2**30
    close: bool = False


class Spool(Protocol):
    """A file, first in first out."""

    def append(self, data: Sequence[bytes]) -> None:
        """Put *data* at the end, as one. Raises ``OSError`` where that fails; then nothing was put there."""

    def take(self) -> bytes:
        """Take what was put there by the oldest ``append``."""

    def close(self) -> None:
        """Give everything back."""


class Quota:
    """Bytes that all backlogs of a server may hold on disk together.

    Args:
        limit: so many.
        on_full: called when something finds no room, and not again before output is kept again.
    """

    def __init__(self, limit: int, on_full: Callable[[], None] = lambda: None) -> None:
        self.limit = limit
        self.used = 0
        self._on_full = on_full
        self._full = False

    def has_room(self, size: int, eighths: int) -> bool:
        """Whether *size* bytes more fit into so many eighths of it."""
        if self.used + size <= self.limit * eighths // 8:
            return True
        # That what is cut goes on to be cut is no news.
        if eighths > AGAIN and not self._full:
            self._full = True
            self._on_full()
        return False

    def release(self, size: int) -> None:
        """Give *size* bytes back."""
        self.used -= size
        if self.used <= self.limit * AGAIN // 8:
            self._full = False


class _Cut:
    """What was cut at one place: parent header, count and bytes, by the request."""

    __slots__ = ("parents",)

    def __init__(self) -> None:
        self.parents: dict[bytes, tuple[bytes, int, int]] = {}

    @property
    def size(self) -> int:
        return NOTICE_SIZE * len(self.parents)

    @staticmethod
    def key(parent: bytes) -> bytes:
        """Tells requests apart: one kernel writes the same header in different orders."""
        return message_id(parent) or parent

    def count(self, parent: bytes, count: int, size: int) -> None:
        """Add messages of a request."""
        key = self.key(parent)
        first, before, bytes_before = self.parents.get(key, (parent, 0, 0))
        self.parents[key] = first, before + count, bytes_before + size


class _Printed:
    """Neighbouring pieces of printed text."""

    __slots__ = ("first", "prefix", "size", "texts")

    def __init__(self, first: Message, prefix: bytes, text: bytes) -> None:
        self.first, self.prefix, self.texts = first, prefix, [text]
        self.size = first.size

    def message(self) -> Message:
        """All of them as one message, with the header of the first."""
        content = b'%b%b"}' % (self.prefix, b"".join(self.texts))
        return Message(self.first.channel, [*self.first.parts[:3], content])


_Entry = Message | _Cut | _Printed

Notice = Callable[[bytes, int, int], Message]
"""Makes the notice from parent header, count and bytes of what was cut."""


class Backlog:
    """The messages that one client has not taken.

    Args:
        limits: see there.
        notice: makes the message that stands where output was cut.
        open_spool: called when memory no longer does.
        quota: what all backlogs share.
        on_spool_error: called when the spool cannot be written.
    """

    def __init__(
        self,
        limits: Limits,
        notice: Notice,
        open_spool: Callable[[], Spool],
        quota: Quota | None = None,
        on_spool_error: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self.limits = limits
        self.overflowed = False
        self.cut_count = 0
        self._notice = notice
        self._open_spool = open_spool
        self._quota = quota or Quota(limits.disk)
        self._on_spool_error = on_spool_error
        self._spool: Spool | None = None
        self._broken = False  # the spool, until nothing waits behind it
        self._lost: tuple[bytes, int, int] = b"{}", 0, 0  # since it overflowed
        # Oldest first: what is in `_head`, what is in the spool, what is in `_tail`. Without
        # spool there is no tail.
        self._head: deque[_Entry] = deque()
        self._tail: deque[_Entry] = deque()
        self._chunks: deque[tuple[int, int]] = deque()  # bytes and messages of those in the spool
        self._head_size = self._tail_size = 0
        self._disk_size = 0  # tail and spool
        self._cutting = False

    def __len__(self) -> int:
        """Entries in memory and chunks on disk: 0 if and only if nothing waits."""
        return len(self._head) + len(self._chunks) + len(self._tail)

    @property
    def memory_size(self) -> int:
        """Bytes held in memory."""
        return self._head_size + self._tail_size

    @property
    def size(self) -> int:
        """Bytes held, in memory or on disk."""
        return self._head_size + self._disk_size

    @property
    def spooling(self) -> bool:
        """Whether something waits, or is about to wait, on disk."""
        return bool(self._chunks or self._tail)

    # -- in ----------------------------------------------------------------------------------------

    def push(self, message: Message) -> None:
        """Put a message at the end. After ``overflowed`` it is only counted."""
        if self.overflowed:
            self._lose(message)
            return
        if message.type in DROPPABLE and message.channel == "iopub":
            if self._cutting and self._has_room(message.size, AGAIN):
                self._cutting = False
            if self._cutting or not self._has_room(message.size, OUTPUT):
                self._cut(message)
                return
            if message.type == "stream" and self._merge(message):
                return
        elif not self._has_room(message.size, ALL):
            self.overflow()
            self._lose(message)
            return
        self._append(message)

    def _has_room(self, size: int, eighths: int) -> bool:
        """Whether *size* bytes more fit into so many eighths of what there is."""
        memory, disk = self.limits.memory, self.limits.disk
        if not self.spooling and not self._head:
            return True  # one message has to go through whatever the bound
        if not self.spooling and self._head_size + size <= self._head_limit * eighths // 8:
            return True
        if disk == 0:
            # What comes behind a message larger than that must have room.
            excess = max(0, self._head[0].size - memory * AGAIN // 8)
            return self._head_size - excess + size <= memory * eighths // 8
        if self._broken and self._tail_size + size > self._head_limit * eighths // 8:
            return False
        return self._quota.has_room(size, eighths) and self._disk_size + size <= disk * eighths // 8

    @property
    def _head_limit(self) -> int:
        return self.limits.memory // 2 if self.limits.disk else self.limits.memory

    def _append(self, entry: _Entry) -> None:
        in_head = not self.spooling and (
            not self._head
            or self.limits.disk == 0
            or self._head_size + entry.size <= self._head_limit
        )
        if in_head:
            self._head.append(entry)
            self._head_size += entry.size
            return
        self._tail.append(entry)
        self._grow_tail(entry.size)
        self._spill()

    def _grow_tail(self, size: int) -> None:
        self._tail_size += size
        self._disk_size += size
        self._quota.used += size  # asked for by _has_room

    def _merge(self, message: Message) -> bool:
        """Add printed text to the text before it, if that is of the same cell and stream."""
        queue = self._tail if self.spooling else self._head
        if not queue:
            return False
        last = queue[-1]
        if last.size + message.size > MERGED_MAX + OVERHEAD:
            return False
        if isinstance(last, Message):
            if last.type != "stream":
                return False
            read = _printed(last)
            if read is None:
                return False
            last = _Printed(last, *read)
        elif isinstance(last, _Cut):
            return False
        first = last.first
        if message.parts[1] != first.parts[1] or message.parts[2] != first.parts[2]:
            return False
        read = _printed(message)
        if read is None or read[0] != last.prefix:
            return False
        queue[-1] = last
        last.texts.append(read[1])
        grown = len(read[1])
        last.size += grown
        if queue is self._tail:
            self._grow_tail(grown)
            self._spill()
        else:
            self._head_size += grown
        return True

    def _cut(self, message: Message) -> None:
        """Count a message instead of keeping it."""
        if self.limits.close:
            self.overflow()
            self._lose(message)
            return
        self._cutting = True
        parent, cut = message.parts[1], message.size - OVERHEAD
        queue = self._tail if self.spooling else self._head
        last = queue[-1] if queue else None
        if isinstance(last, _Cut) and last.key(parent) in last.parents:
            last.count(parent, 1, cut)
        elif not self._has_room(NOTICE_SIZE, ALL):
            self.overflow()
            self._lose(message)
            return
        elif isinstance(last, _Cut) and len(last.parents) < PARENTS_MAX:
            last.count(parent, 1, cut)
            if queue is self._tail:
                self._grow_tail(NOTICE_SIZE)
            else:
                self._head_size += NOTICE_SIZE
        else:
            made = _Cut()
            made.count(parent, 1, cut)
            self._append(made)
        self._count_cut(1)

    def overflow(self) -> None:
        """Give up: what is held is counted and let go, and so is what comes."""
        self.overflowed = True
        memory = sum(map(_count, self._head)) + sum(map(_count, self._tail))
        count = memory + sum(messages for _, messages in self._chunks)
        self._lost = b"{}", count, max(0, self.size - OVERHEAD * count)
        self.clear()

    def _lose(self, message: Message) -> None:
        _, count, size = self._lost
        self._lost = message.parts[1], count + 1, size + message.size - OVERHEAD

    def resume(self) -> None:
        """Begin anew after an overflow, with a notice for all that was lost."""
        parent, count, size = self._lost
        self.overflowed = False
        made = _Cut()
        made.count(parent, count, size)
        self._append(made)
        self._count_cut(count)

    def _count_cut(self, count: int) -> None:
        self.cut_count += count
        MESSAGES_CUT.count += count

    # -- the spool ---------------------------------------------------------------------------------

    def _spill(self) -> None:
        """Write the tail to the spool once it is large enough to be worth it."""
        if self._broken or self._tail_size < min(self.limits.memory // 4, CHUNK):
            return
        data = together(
            [
                piece
                for entry in self._tail
                for message in self._told(entry)
                for piece in _record(message)
            ]
        )
        try:
            if self._spool is None:
                self._spool = self._open_spool()
            self._spool.append(data)
        except OSError as error:
            self._broken = True
            self._on_spool_error(error)
            return
        self._chunks.append((self._tail_size, sum(map(_count, self._tail))))
        self._tail.clear()
        self._tail_size = 0

    def _load(self) -> None:
        """Fetch the next of what waits behind an empty head."""
        if self._chunks and self._spool is not None:
            size, _ = self._chunks.popleft()
            self._head.extend(_messages(self._spool.take()))
            self._head_size = sum(entry.size for entry in self._head)
            self._shrink_disk(size)
        elif self._tail:
            self._head, self._tail = self._tail, self._head
            self._head_size = self._tail_size
            self._shrink_disk(self._tail_size)
            self._tail_size = 0
        if not self.spooling:
            self._close_spool()

    def _close_spool(self) -> None:
        self._broken = False
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _shrink_disk(self, size: int) -> None:
        self._disk_size -= size
        self._quota.release(size)

    # -- out ---------------------------------------------------------------------------------------

    def take(self, budget: int) -> list[Message]:
        """Take the oldest messages: one, and further ones while they fit into *budget* bytes."""
        taken: list[Message] = []
        while True:
            if not self._head:
                self._load()
                if not self._head:
                    return taken
            entry = self._head[0]
            budget -= entry.size
            if taken and budget < 0:
                return taken
            self._head.popleft()
            self._head_size -= entry.size
            taken.extend(self._told(entry))

    def give_back(self, messages: Iterable[Message]) -> None:
        """Put messages that were taken, but did not get out, to the front again."""
        returned = list(messages)
        if self.overflowed:
            parent, count, size = self._lost
            size += sum(message.size - OVERHEAD for message in returned)
            self._lost = parent, count + len(returned), size
            return
        self._head.extendleft(reversed(returned))
        self._head_size += sum(message.size for message in returned)

    def clear(self) -> None:
        """Forget everything, and close the spool."""
        self._head.clear()
        self._tail.clear()
        self._chunks.clear()
        self._shrink_disk(self._disk_size)
        self._head_size = self._tail_size = 0
        self._close_spool()

    def _told(self, entry: _Entry) -> list[Message]:
        """The messages of an entry."""
        if isinstance(entry, Message):
            return [entry]
        if isinstance(entry, _Printed):
            return [entry.message()]
        return [self._notice(*counted) for counted in entry.parents.values()]


def _count(entry: _Entry) -> int:
    """How many messages of the kernel an entry stands for."""
    if isinstance(entry, Message):
        return 1
    if isinstance(entry, _Printed):
        return len(entry.texts)
    return sum(count for _, count, _ in entry.parents.values())


def _printed(message: Message) -> tuple[bytes, bytes] | None:
    """What stands before the text of a stream message, and the text, as they are in its JSON.

    ``None`` for a message that is written in another way, or carries more.
    """
    if len(message.parts) != 4:
        return None
    found = _STREAM.fullmatch(message.parts[3])
    if found is None:
        return None
    prefix, text = found.groups()
    # With a bare quotation mark in it this is more than one string.
    if (b'"' in text or text.endswith(b"\\")) and _STRING.fullmatch(text) is None:
        return None
    return prefix, text


def _record(message: Message) -> list[bytes]:
    """A message as it is spooled: the number of pieces, their lengths, and the pieces."""
    pieces = [message.channel.encode(), message.signature, *message.parts]
    lengths = [_LENGTH.pack(len(piece)) for piece in pieces]
    return [_LENGTH.pack(len(pieces)), *lengths, *pieces]


def _messages(data: bytes) -> list[Message]:
    """The messages of what ``_record`` made."""
    messages = []
    at = 0
    while at < len(data):
        (count,) = _LENGTH.unpack_from(data, at)
        at += 8
        lengths = [_LENGTH.unpack_from(data, at + 8 * index)[0] for index in range(count)]
        at += 8 * count
        pieces = []
        for length in lengths:
            pieces.append(data[at : at + length])
            at += length
        messages.append(Message(pieces[0].decode(), pieces[2:], pieces[1]))
    return messages
