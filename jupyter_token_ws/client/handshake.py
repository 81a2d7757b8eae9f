"""Opens a websocket of its own: the offer, the token in it, and what a refusal says (contract 1 to 3)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import suppress

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from jupyter_token_ws.protocol.auth import Response
from jupyter_token_ws.protocol.clients import TokenRoute
from jupyter_token_ws.protocol.reasons import REASONS, Advice, Reason, parse_close
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER, offer_subprotocols

from .auth import Grant
from .errors import ClientError, NoConnectionError, RefusedError, UpgradeBlockedError, advice_of
from .sockets import PlainSocket
from .transport import Transport, UpgradeRefused

LOOK_EVERY = 0.05
"""Seconds between two looks at whether a new websocket is full of messages already."""

_SLUG = re.compile(rb"([a-z_]{1,64}): ")


class Refusal(Exception):  # noqa: N818 - never leaves the client: the callers judge it first
    """The server, or something before it, did not open a websocket.

    ``blocked`` is whether it looks as if websockets do not get through at all: no reason was given.
    """

    def __init__(self, place: str, response: Response, *, blocked: bool) -> None:
        super().__init__(f"{place} refused")
        self.place = place
        self.response = response
        self.blocked = blocked

    def error(self) -> ClientError:
        """The error for callers."""
        response = self.response
        if self.blocked:
            return UpgradeBlockedError(
                f"{self.place} opens no websocket: something before the server answered"
                f" {response.status}. Use the carrier tunnel-eventstream, or let `Upgrade` through there",
                advice=Advice.RETRY if advice_of(response.status) is Advice.RETRY else Advice.STOP,
            )
        return refused_error(self.place, response)


def refused_error(what: str, response: Response) -> RefusedError:
    """The error for an answer that says no. ``what`` is what was asked for, without anything secret."""
    reason = response.reason
    said = f"{reason.slug}: {reason.text}" if reason else f"status {response.status}"
    return RefusedError(
        f"{what} was refused ({said})",
        response.status,
        reason=reason.text if reason else "",
        retry_after=response.retry_after,
        slug=reason.slug if reason else None,
        advice=reason.advice if reason else None,
    )


def told_reason(response: Response) -> Response:
    """The answer with the row of the table that its body names: as JSON (section 5), or as one line of text.

    A slug counts only if its row is of that status.
    """
    slug = ""
    if response.body.startswith(b"{"):
        try:
            slug = str(json.loads(response.body).get("status"))
        except (ValueError, AttributeError, RecursionError):
            return response
    elif match := _SLUG.match(response.body):
        slug = match[1].decode()
    reason = REASONS.get(slug)
    if reason is None or response.status not in (reason.http_status, reason.code - 4000):
        return response
    return Response(
        response.status,
        response.headers,
        response.body,
        response.cookies,
        reason,
        response.retry_after,
    )


def response_of_close(code: int, text: str) -> Response:
    """What a close frame of ours says, as an answer (code less 4000)."""
    closed = parse_close(code, text)
    reason: Reason | None = closed.reason if closed else None
    after = closed.retry_after if closed else None
    return Response(code - 4000, reason=reason, retry_after=after)


async def open_websocket(
    transport: Transport,
    url: str,
    subprotocols: Sequence[str],
    grant: Grant,
    route: TokenRoute,
    *,
    keepalive: float,
    max_size: int | None,
    timeout: float,
) -> PlainSocket:
    """Open a websocket.

    Args:
        transport: by which.
        url: where, ``ws`` or ``wss``, without any token.
        subprotocols: the caller's own.
        grant: the credential.
        route: how the token travels: by subprotocol or by header, never otherwise.
        keepalive: seconds of silence after which the socket counts as lost.
        max_size: bytes of a message that may come.
        timeout: seconds for all of it.

    Raises ``Refusal``, ``NoConnectionError``, ``IdentityError``.
    """
    by_subprotocol = route is TokenRoute.SUBPROTOCOL and grant.token is not None
    headers = dict(grant.headers) if by_subprotocol else grant.for_http()
    offered = offer_subprotocols(subprotocols, grant.token if by_subprotocol else None)
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    try:
        connection = await transport.websocket(
            url, subprotocols=offered, headers=headers, max_size=max_size, timeout=timeout
        )
    except UpgradeRefused as error:
        raise _refusal(
            transport.place,
            error.response,
            extended=route is TokenRoute.SUBPROTOCOL,
            by_subprotocol=by_subprotocol,
        ) from None
    try:
        if connection.subprotocol == REASON_MARKER:
            # It may be open only to be closed with the reason (C3.2): what answers is a socket.
            await _answers(transport.place, connection, max(0.1, end - loop.time()))
        return PlainSocket(connection, _chosen(connection), keepalive)
    except BaseException:
        connection.transport.abort()
        raise


def _chosen(connection: ClientConnection) -> str | None:
    chosen = connection.subprotocol
    return None if chosen in (REASON_MARKER, MARKER) else chosen


async def _answers(place: str, connection: ClientConnection, timeout: float) -> None:
    loop, transport = asyncio.get_running_loop(), connection.transport
    end = loop.time() + timeout
    with suppress(ConnectionClosed):
        answered = asyncio.ensure_future(await connection.ping())
        while not answered.done():
            if not (transport.is_reading() or transport.is_closing()):
                return  # so many messages came at once that the answer waits behind them
            left = end - loop.time()
            if left <= 0:
                raise NoConnectionError(f"{place} opened a websocket and said nothing on it")
            await asyncio.wait({answered}, timeout=min(left, LOOK_EVERY))
        answered.result()
    if connection.close_code is None:
        return
    code, text = connection.close_code, connection.close_reason or ""
    if code == 1006:
        raise NoConnectionError(f"{place} opened a websocket and cut it off at once")
    if parse_close(code, text) is None:
        return  # the handler was done at once; what it said is there to be read
    raise Refusal(place, response_of_close(code, text), blocked=False)


# What proxies, and servers that were not told of the upgrade, answer; a reason of ours is none of these.
_BLOCKED = frozenset({200, 400, 405, 421, 426, 501, 502, 505})
# A server without reasons may itself answer so.
_NOT_OURS = frozenset({404, 500})


def _refusal(place: str, response: Response, *, extended: bool, by_subprotocol: bool) -> Refusal:
    """What it means that a handshake was not answered by 101. ``extended``: the server gives reasons.

    A proxy that leaves the upgrade out makes a plain ``GET`` of it, in which nobody looks for a token among
    the subprotocols: no credential came, or the handler says 403 by itself, without the reason that our
    server's refusals have.
    """
    told = told_reason(response)
    slug = told.reason.slug if told.reason else None
    blocked = slug is None and told.status in (_BLOCKED | _NOT_OURS if extended else _BLOCKED)
    if by_subprotocol:
        stripped = told.status == 403 and slug is None
        blocked = blocked or stripped or slug == "credentials_missing"
    return Refusal(place, told, blocked=blocked)
