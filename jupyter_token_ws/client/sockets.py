"""What a websocket looks like to who uses it, whatever carries it.

``PlainSocket`` is one connection of its own; ``tunnel.TunnelSocket`` is a stream of a tunnel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from jupyter_token_ws.protocol.reasons import Advice

from .errors import SocketClosedError, advice_of_close


class Socket(ABC):
    """An open websocket of a server. Messages are ``str`` (text) or ``bytes`` (binary).

    ``async for message in socket`` ends when the other side said that it is done, by a close with 1000 or
    1001, or by the end of its direction; it raises ``SocketClosedError`` when it was closed otherwise.
    """

    subprotocol: str | None
    """What the server chose of the offer, the markers left out."""
    close_code: int | None = None
    """Once closed: its code; 1006 for a lost connection."""
    close_text: str = ""
    """Once closed: the text of the close frame."""

    @property
    def advice(self) -> Advice | None:
        """Once closed: what to do next (contract section 3)."""
        if self.close_code is None:
            return None
        return advice_of_close(self.close_code, self.close_text)[0]

    @property
    def reason(self) -> str | None:
        """Once closed: the reason's slug, or the bare text where it is none of the table."""
        if self.close_code is None:
            return None
        return advice_of_close(self.close_code, self.close_text)[2] or self.close_text

    @property
    def retry_after(self) -> float | None:
        """Once closed: seconds to wait before the next try, where the server said so."""
        if self.close_code is None:
            return None
        return advice_of_close(self.close_code, self.close_text)[1]

    @abstractmethod
    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the way is full. Raises ``SocketClosedError``."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Say that no more will be sent, and go on receiving. Only a tunnel's stream can: others raise
        ``UnsupportedError``."""

    @abstractmethod
    async def recv(self) -> str | bytes:
        """The next message. Raises ``SocketClosedError`` when there is none any more."""

    @abstractmethod
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close; what was sent goes first. Closing again changes nothing."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[str | bytes]: ...

    def _closed_error(self) -> SocketClosedError:
        code, text = self.close_code or 1006, self.close_text
        return SocketClosedError(f"the websocket is closed: {code} {text}".rstrip(), code, text)
