"""Judges a request by one credential and nothing else, for REST paths that take no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tornado import web

from jupyter_token_ws.protocol.subprotocols import parse_offer

from .core import Guard
from .credentials import CredentialSource
from .handshake import Handshake
from .identity import Judge, detach, says_nobody
from .refusal import Refused

if TYPE_CHECKING:
    from jupyter_server.auth.identity import IdentityProvider, User


@dataclass(frozen=True)
class Judged:
    """A request that was judged: what is known of it, on which handler, and whom it is from."""

    handshake: Handshake
    handler: web.RequestHandler
    user: User


def judge_of(handler: web.RequestHandler) -> Judge:
    """A judge of a request's header and cookie: nothing in the URL logs anybody in."""
    guard = Guard.of(handler.application)
    handshake = Handshake.begin(handler.request, parse_offer("", 0), opted_in=False)
    return Judge(
        handshake, guard.digest, guard.throttle, allow_token_in_url=False, tickets=guard.tickets
    )


async def judge_request(
    judge: Judge, provider: IdentityProvider, handler: web.RequestHandler
) -> Judged:
    """Whom a handler's request is from. Raises ``Refused``, and what the provider raises."""
    handshake = judge.handshake
    try:
        user = await judge.judge(provider, handler)
    except web.HTTPError as error:
        if not says_nobody(error):
            raise
        user = None
    if user is not None:
        return Judged(handshake, handler, user)
    if handshake.wait is not None:
        raise Refused("too_many_attempts", handshake.wait)
    if handshake.forbidden:
        raise Refused("forbidden")
    if handshake.header_token:
        raise Refused("token_rejected")
    raise Refused("url_token_refused" if handshake.url_token else "credentials_missing")


async def judge_alone(
    handler: web.RequestHandler, provider: IdentityProvider, header: str, value: str
) -> Judged:
    """Whom a request is from that has this header, ``Authorization`` or ``Cookie``, and no other credential;
    an empty one is none.

    Raises as ``judge_request``.
    """
    shown = detach(handler, (value or None) if header == "Authorization" else None)
    if header == "Cookie":
        shown.request.headers["Cookie"] = value
    found = await judge_request(judge_of(shown), provider, shown)
    if found.handshake.source is CredentialSource.AMBIENT:
        raise Refused("token_rejected")  # admitted by something else, whatever was shown
    return found
