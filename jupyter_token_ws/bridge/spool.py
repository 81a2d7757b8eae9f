"""A temporary file that nobody else can open, for what a backlog cannot hold in memory.

It is a row of files, so that what was read is given back to the disk: each is unlinked as soon as it
is open, where the system can do that, and in any case readable by nobody else (``tempfile``).
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

SEGMENT = 8 * 2**20
"""Bytes after which the next file begins. So much more than is waiting may be on disk."""


@dataclass
class _Segment:
    file: BinaryIO
    written: int = 0
    read: int = 0
    lengths: deque[int] = field(default_factory=deque)


class FileSpool:
    """Chunks of bytes, first in first out.

    Args:
        directory: where the files are made; the system's temporary directory if ``None``.

    Raises:
        OSError: a file cannot be made or written.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        self._segments: deque[_Segment] = deque()

    def append(self, data: Sequence[bytes]) -> None:
        """Put *data* at the end, as one. What fails leaves nothing behind."""
        if not self._segments or self._segments[-1].written >= SEGMENT:
            made = tempfile.TemporaryFile(buffering=0, dir=self._directory)  # noqa: SIM115
            self._segments.append(_Segment(cast("BinaryIO", made)))
        segment = self._segments[-1]
        segment.file.seek(segment.written)
        for piece in data:
            view = memoryview(piece)
            while view:
                view = view[segment.file.write(view) :]
        length = sum(map(len, data))
        segment.written += length
        segment.lengths.append(length)

    def take(self) -> bytes:
        """Take the oldest chunk.

        Raises:
            OSError: it cannot be read.
            IndexError: there is none.
        """
        segment = self._segments[0]
        length = segment.lengths.popleft()
        segment.file.seek(segment.read)
        pieces = []
        left = length
        while left:
            piece = segment.file.read(left)
            if not piece:
                raise OSError(f"the spool ends {left} bytes too early")
            pieces.append(piece)
            left -= len(piece)
        segment.read += length
        if not segment.lengths:
            self._segments.popleft()
            segment.file.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Give all files back."""
        while self._segments:
            self._segments.popleft().file.close()
