"""A tunnel whose client is in the server: for one stream that somebody follows who speaks no frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.protocol.frames import FrameError
from jupyter_token_ws.protocol.tunnel import Closed, Data, Opened, Side, Tunnel

from .streams import Stream, Streams

if TYPE_CHECKING:
    from jupyter_token_ws.guard.core import Guard

    from .tunnels import Origin


class OnlyStream:
    """One stream of one origin.

    Credit is given as what came is consumed, so that the handler behind it waits for its reader.

    Raises ``Refused``, ``bad_request``, for a path that is too long.
    """

    def __init__(
        self, guard: Guard, origin: Origin, path: str, on_moved: Callable[[], None]
    ) -> None:
        self.opened = False
        self._guard, self._origin = guard, origin
        self._client, self._server = Tunnel(Side.CLIENT), Tunnel(Side.SERVER, max_streams=1)
        self._streams = Streams(self._server, self._asked, on_moved)
        self._parts: list[bytes] = []
        self._server.attach()
        self._move()
        try:
            self._number = self._client.open(path)
        except FrameError:
            raise Refused("bad_request") from None

    def _asked(self, stream: Stream) -> None:
        base_url: str = self._guard.application.settings.get("base_url", "/")
        self._origin.serve(stream, self._guard.application, base_url)

    def events(self) -> list[Opened | Data | Closed]:
        """What happened: opened, data, closed."""
        self._move()
        return [
            event for event in self._client.events() if isinstance(event, (Opened, Data, Closed))
        ]

    def whole(self, data: Data) -> str | bytes | None:
        """A whole message, where this was the last of it."""
        self._parts.append(data.payload)
        if not data.last:
            return None
        whole = b"".join(self._parts)
        self._parts.clear()
        return whole.decode("utf-8", "replace") if data.text else whole

    def consumed(self, data: Data) -> None:
        """It was taken; there may come as much again."""
        self._client.consumed(self._number, data.size)

    def leave(self) -> None:
        """Whoever followed is gone."""
        self._client.close_tunnel()
        self._move()

    def _move(self) -> None:
        moved = True
        while moved:
            moved = False
            for one, other in ((self._server, self._client), (self._client, self._server)):
                while (batch := one.take(ack=True)) is not None:
                    other.receive(*batch)
                    moved = True
            self._streams.hear()
