"""Whether websockets get through, how a token reaches the server by them, whether its reasons come back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from jupyter_token_ws.client.auth import Grant
from jupyter_token_ws.client.errors import ClientError, NoConnectionError
from jupyter_token_ws.client.transport import UpgradeRefused
from jupyter_token_ws.protocol.reasons import REASONS, Reason, parse_close
from jupyter_token_ws.protocol.subprotocols import (
    MARKER,
    MAX_TOKEN_SIZE,
    REASON_MARKER,
    offer_subprotocols,
)

from .case import MADE_UP, Case, SkipError, within
from .report import Finding

SOCKET = "api/events/subscribe"
"""A websocket that every server has, at which nobody is disturbed."""

PATIENCE = 3.0
"""Seconds for what should come at once: a close, a pong."""

_TOLD = re.compile(rb"([a-z_]+): ")
EVERYBODY = "this server lets everybody in"


@asynccontextmanager
async def opened(
    case: Case,
    path: str,
    offer: Sequence[str],
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[ClientConnection]:
    """A websocket below the base. Raises ``UpgradeRefused`` and ``NoConnectionError``."""
    socket = await case.transport.websocket(
        case.sockets_url + path,
        subprotocols=list(offer),
        headers=dict(headers or {}),
        max_size=1 << 21,
        timeout=min(5.0, case.left),
    )
    try:
        yield socket
    finally:
        socket.transport.abort()
        await socket.wait_closed()


async def closed(socket: ClientConnection) -> tuple[int, str] | None:
    """Code and reason where it closes soon; ``None`` for one that stays open."""
    try:
        await within(PATIENCE, socket.recv())
    except ConnectionClosed as error:
        return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
    except TimeoutError:
        pass
    return None


async def alive(socket: ClientConnection) -> tuple[int, str] | None:
    """``None`` for one that answers a ping; else how it was closed. A refusal comes before the pong. Raises
    ``TimeoutError``."""
    try:
        await within(PATIENCE, await socket.ping())
    except ConnectionClosed as error:
        return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
    return None


def told(refused: UpgradeRefused) -> Reason | None:
    """The reason that this server gives to an upgrade that it refuses by plain HTTP. What reached it without
    its Upgrade headers it answers otherwise: with a page."""
    match = _TOLD.match(bytes(refused.response.body))
    row = REASONS.get(match[1].decode()) if match else None
    return row if row and row.http_status == refused.response.status else None


def shown(close: tuple[int, str]) -> str:
    """Code and reason, as one reads them."""
    code, reason = close
    return "the connection was cut" if (code, reason) == (1006, "") else f"{code} {reason}".rstrip()


def for_front(grant: Grant) -> dict[str, str]:
    """What a proxy in front wants to see, without a cookie of the server's."""
    return {name: value for name, value in grant.headers.items() if name.lower() != "cookie"}


# -- the checks ----------------------------------------------------------------------------------------


async def websocket(case: Case) -> Finding:
    """An upgrade gets through. It brings no credential, unless the server gives no reasons."""
    case.base()
    headers = case.front
    if case.capabilities is None:
        headers = case.authorization().for_http()
    elif case.grant is not None:
        headers = for_front(case.grant)
    try:
        async with opened(case, SOCKET, [REASON_MARKER], headers) as socket:
            case.close = await closed(socket) if case.capabilities is not None else None
            if case.close is not None and case.close[0] == 1006:
                return case.broken(f"101, and then {shown(case.close)}", "cut_after_101")
            case.upgrades = True
            seen = (
                "101" if case.close is None else f"101, then {shown(case.close)}, as it should be"
            )
            return case.ok(seen)
    except UpgradeRefused as refused:
        answer, reason = refused.response, told(refused)
        if reason is not None:
            case.upgrades = True
            return case.ok(f"it reaches the server, which says {answer.status} {reason.slug}")
        software = answer.headers.get("server", "")
        return case.broken(f"{answer.status} {software} in place of 101", "no_upgrade")
    except NoConnectionError as error:
        return case.broken(str(error), "no_upgrade")


def needs_upgrades(case: Case) -> None:
    """Raises ``SkipError`` where no websocket gets through."""
    case.base()
    if not case.upgrades:
        raise SkipError("no websocket gets through")


async def close_codes(case: Case) -> Finding:
    """The server's close codes arrive as they were sent."""
    needs_upgrades(case)
    case.part("reasons")
    if case.everybody:
        raise SkipError(EVERYBODY)
    if case.close is None:
        raise SkipError("the refusal was none by close code")
    if parse_close(*case.close) is None:
        return case.broken(f"{shown(case.close)}, and no reason of the server's", "close_code_lost")
    return case.ok(shown(case.close))


async def subprotocol(case: Case) -> Finding:
    """The token is taken from the subprotocol."""
    needs_upgrades(case)
    case.part("token")
    grant = case.authorization()
    if not grant.token:
        raise SkipError("this credential is no token")
    headers = for_front(grant)
    try:
        async with opened(case, SOCKET, offer_subprotocols([], grant.token), headers) as socket:
            close = await alive(socket)
            if close is not None:
                return case.broken(shown(close), "subprotocol_lost")
            if socket.subprotocol != MARKER:
                return case.broken(f"answered with {socket.subprotocol}", "subprotocol_lost")
    except UpgradeRefused as refused:
        return case.broken(refusal(refused), "subprotocol_lost")
    return case.ok("open, answered with the marker")


async def header(case: Case) -> Finding:
    """The credential is taken from the headers."""
    needs_upgrades(case)
    grant = case.authorization()
    try:
        async with opened(case, SOCKET, [REASON_MARKER], grant.for_http()) as socket:
            close = await alive(socket)
            if close is not None:
                return case.broken(shown(close), "authorization_lost")
    except UpgradeRefused as refused:
        return case.broken(refusal(refused), "authorization_lost")
    return case.ok("open")


async def url(case: Case) -> Finding:
    """What a browser without subprotocols would send reaches the server. Made up: no token of anybody's is
    put into an address (contract 2.9)."""
    needs_upgrades(case)
    taken = case.part("token").get("in_url") is True
    if case.everybody:
        raise SkipError(EVERYBODY)
    slug = await _refused(case, f"{SOCKET}?token={MADE_UP}", [REASON_MARKER])
    if slug == "credentials_missing":
        return case.broken("a token in the address does not arrive", "query_lost")
    if slug in ("token_rejected", "url_token_refused", "too_many_attempts"):
        takes = "" if taken else "; the server takes none from there"
        return case.ok(f"a made-up token arrives, and is refused{takes}")
    raise SkipError(f"a made-up token came to {slug or 'nothing'}")


async def token_size(case: Case) -> Finding:
    """A token of the greatest length arrives. It is made up."""
    needs_upgrades(case)
    told_size = case.part("token").get("max_size")
    if case.everybody:
        raise SkipError(EVERYBODY)
    size = told_size if isinstance(told_size, int) else MAX_TOKEN_SIZE
    size = min(size, 4 * MAX_TOKEN_SIZE)
    offer = offer_subprotocols([], MADE_UP.ljust(size, "x"))
    try:
        slug = await _refused(case, SOCKET, offer)
    except ClientError as error:
        return case.broken(f"a token of {size:,} bytes: {error}", "header_limit")
    if slug in ("token_rejected", "too_many_attempts"):
        return case.ok(f"{size:,} bytes arrive")
    if slug == "credentials_missing":
        raise SkipError("the subprotocol does not arrive")
    return case.broken(f"a token of {size:,} bytes came to {slug or 'nothing'}", "header_limit")


async def _refused(case: Case, path: str, offer: Sequence[str]) -> str:
    """The slug by which a made-up token is refused, or what else was seen; empty where it stays open."""
    try:
        async with opened(case, path, offer, case.front) as socket:
            close = await alive(socket)
    except UpgradeRefused as refused:
        reason = told(refused)
        return reason.slug if reason else str(refused.response.status)
    if close is None:
        return ""
    row = parse_close(*close)
    return row.reason.slug if row else shown(close)


def refusal(refused: UpgradeRefused) -> str:
    """What a handshake was answered, as one reads it."""
    reason = told(refused)
    return f"{refused.response.status} {reason.slug if reason else ''}".rstrip()
