"""How a refusal is told: accept, close with the reason, be gone (contract section 3)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tornado import web
from tornado.websocket import WebSocketHandler, WebSocketProtocol

from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import choose_refused

if TYPE_CHECKING:
    from jupyter_token_ws.protocol.reasons import Reason
    from jupyter_token_ws.protocol.subprotocols import Offer

TLS_UPGRADE = "TLS/1.2, HTTP/1.1"
"""What a client is to change to (RFC 9110 section 15.5.22 asks for it, RFC 2817 section 4.2 says how)."""

MAX_CONTROL_FRAME = 125
"""Bytes. Nothing but control frames is taken from somebody who was refused."""


class Refused(web.HTTPError):
    """Raise it in ``prepare`` or ``get`` to refuse a socket with a reason of the table.

    ``slug`` is one of ``jupyter_token_ws.protocol.reasons.REASONS``; ``KeyError`` for any other.
    ``retry_after`` is in seconds; ``ValueError`` for a negative one. Clients that opted in get the
    close code, others the HTTP status. ``text`` says more to who reads JSON: a constant.
    """

    def __init__(self, slug: str, retry_after: int | None = None, text: str = "") -> None:
        REASONS[slug].close_reason(retry_after)  # raises for what cannot be told
        self.slug = slug
        self.retry_after = retry_after
        self.text = text or REASONS[slug].text
        super().__init__(REASONS[slug].http_status)


def refusal_headers(reason: Reason, retry_after: int | None = None) -> dict[str, str]:
    """What a refusal by plain HTTP says beside its status. ``retry_after`` is in seconds."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if reason.http_status == HTTPStatus.UPGRADE_REQUIRED:
        headers |= {"Upgrade": TLS_UPGRADE, "Connection": "Upgrade"}
    return headers


class RefusalBudget:
    """Keeps refusals cheap (C3.5).

    ``max_open`` refused sockets may be open at once. A key (address, route, credential digest) is
    told ``burst`` times in ``window`` seconds, then no more until it calms down. ``max_keys``
    bounds the table.
    """

    def __init__(self, max_open: int, burst: int, window: float, max_keys: int = 4096) -> None:
        self.max_open = max_open
        self.burst = burst
        self.window = window
        self.max_keys = max_keys
        self.open = 0
        self._told: OrderedDict[tuple[str, str, str], deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._told)

    def allow(self, key: tuple[str, str, str], now: float | None = None) -> bool:
        """Whether one more refusal may be told to ``key``; counts it if so."""
        if now is None:
            now = time.monotonic()
        if self.open >= self.max_open:
            return False
        times = self._told.setdefault(key, deque())
        self._told.move_to_end(key)
        if len(self._told) > self.max_keys:
            self._told.popitem(last=False)
        while times and now - times[0] >= self.window:
            times.popleft()
        if len(times) >= self.burst:
            return False
        times.append(now)
        return True


def carried_protocol(
    handler: WebSocketHandler, stock: WebSocketProtocol | None
) -> WebSocketProtocol | None:
    """What stands for a handler's ``stock`` protocol where no socket carries the connection: a connection may
    have a method ``websocket_protocol``, which is given the handler. Who accepts nothing accepts no carried
    connection either."""
    make: Any = getattr(handler.request.connection, "websocket_protocol", None)
    return stock if make is None or stock is None else make(handler)


class RefusalHandler(WebSocketHandler):
    """Completes the handshake and closes with a reason. Accepts no data.

    ``linger`` seconds are left for the client's close frame, then the connection is cut. The place
    in the budget is taken from the start: many may be refused before the first of them is open.
    """

    def initialize(
        self,
        reason: Reason,
        retry_after: int | None,
        offer: Offer,
        budget: RefusalBudget,
        linger: float,
    ) -> None:
        """Arguments by tornado's way."""
        self._close_with = reason
        self._retry_after = retry_after
        self._offer = offer
        self._budget = budget
        self._linger = linger
        self._timer: asyncio.TimerHandle | None = None
        self._placed = True
        budget.open += 1

    @property
    def ping_interval(self) -> float:
        """No pings for somebody who is leaving."""
        return 0

    @property
    def max_message_size(self) -> int:
        """Control frames only."""
        return MAX_CONTROL_FRAME

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Tornado's, or that of what carries the connection."""
        return carried_protocol(self, super().get_websocket_protocol())

    def check_origin(self, origin: str) -> bool:
        """The origin was looked at before it was settled what may be told."""
        return True

    def _check_cross_origin(self, check: Callable[[str], bool]) -> str | None:
        """The same for tornado 6.6 and later, which does not ask ``check_origin`` in every case."""
        return None

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """C3.2."""
        return choose_refused(self._offer)

    def open(self, *args: str, **kwargs: str) -> None:
        """Close at once."""
        connection: Any = self.ws_connection
        stream = connection.stream
        self._timer = asyncio.get_running_loop().call_later(self._linger, stream.close)
        self.close(self._close_with.code, self._close_with.close_reason(self._retry_after))

    def on_message(self, message: str | bytes) -> None:
        """What a refused client says is not heard."""

    def on_finish(self) -> None:
        """A handshake that tornado found wanting ends with its 400 or 426."""
        if self.get_status() != 101:
            self._leave()

    def on_close(self) -> None:
        """The connection ended."""
        self._leave()

    def _leave(self) -> None:
        """The place is free again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._placed:
            self._placed = False
            self._budget.open -= 1
