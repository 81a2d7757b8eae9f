"""The errors of the client, one tree::

ClientError                     advice, retry_after, slug
├── AuthError                   a plugin could get no credential, or the server takes none of them
├── IdentityError               the server is not the one that was expected: nothing was sent to it
├── PlainHttpError              unencrypted, to another machine, and nobody allowed it
├── UnsupportedError            no version, carrier or option in common
├── NoConnectionError           nobody answered, or the connection was lost
│   ├── UpgradeBlockedError     HTTP gets through, and no websocket
│   └── HeldBackError           a proxy holds the event stream back
├── RefusedError                the server said no: status and, where it told one, the reason
├── SocketClosedError           a websocket is over: code, reason
│   └── TunnelEndedError        with the tunnel that carried it
├── KernelError                 of a kernel
│   ├── ExecutionError          a cell failed; its result is there
│   ├── KernelGoneError         it is shut down, or died, or never was
│   └── RequestLostError        whether it ran, or what it said, is not to be known
└── TooLargeError               more than a limit of ours allows
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_token_ws.protocol.errors import AuthError, ClientError
from jupyter_token_ws.protocol.reasons import Advice, Closed, parse_close

if TYPE_CHECKING:
    from .execution import Result

__all__ = [
    "AuthError",
    "ClientError",
    "ExecutionError",
    "HeldBackError",
    "IdentityError",
    "KernelError",
    "KernelGoneError",
    "NoConnectionError",
    "PlainHttpError",
    "RefusedError",
    "RequestLostError",
    "SocketClosedError",
    "TooLargeError",
    "TunnelEndedError",
    "UnsupportedError",
    "UpgradeBlockedError",
]


class IdentityError(ClientError):
    """The server's certificate is not the one that was expected. Nothing was sent to it."""


class PlainHttpError(ClientError):
    """The address is ``http``, not of this machine, and ``plain_http`` was not given. Nothing was sent."""


class UnsupportedError(ClientError):
    """This server and this client have no version, carrier or option in common."""


class NoConnectionError(ClientError):
    """Nobody answered, not in time, or the connection was lost on the way."""

    advice = Advice.RETRY


class UpgradeBlockedError(NoConnectionError):
    """The server answers HTTP, but no websocket came about, and no reason of its own was given: something
    between does not let them through."""

    advice = Advice.STOP


class HeldBackError(NoConnectionError):
    """The event stream was begun, and nothing of it came in time: something between holds it back."""

    advice = Advice.STOP


class RefusedError(ClientError):
    """The server said no.

    Args:
        status: the HTTP status; of a refusal by close code, that code less 4000.
        reason: what it said, without anything secret.
        retry_after: seconds.
        slug: the reason's name, where there was one.
        advice: what to do next; without one it follows from the status: 401 and 403 are about the
            credential, 408, 429, 502, 503 and 504 may pass, all else stays as it is.
    """

    def __init__(
        self,
        message: str,
        status: int,
        *,
        reason: str = "",
        retry_after: float | None = None,
        slug: str | None = None,
        advice: Advice | None = None,
    ) -> None:
        super().__init__(
            message, advice=advice or advice_of(status), retry_after=retry_after, slug=slug
        )
        self.status = status
        self.reason = reason


class SocketClosedError(ClientError):
    """A websocket is closed.

    Args:
        code: the close code (RFC 6455 section 7.4), 1006 where the connection was lost.
        reason: the text of the close frame.
    """

    def __init__(self, message: str, code: int, reason: str = "") -> None:
        self.closed: Closed | None = parse_close(code, reason)
        advice, retry_after, slug = advice_of_close(code, reason)
        super().__init__(message, advice=advice, retry_after=retry_after, slug=slug)
        self.code = code
        self.reason = reason
        self.generation: int | None = None
        """Which credential the websocket was opened with (``Grant.generation``), where that is known."""


class TunnelEndedError(SocketClosedError):
    """The tunnel that carried the websocket is over, and could not be resumed."""


class KernelError(ClientError):
    """Of a kernel."""


class ExecutionError(KernelError):
    """A cell failed. ``result`` has its outputs and the error."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class KernelGoneError(KernelError):
    """The kernel was shut down, or died, or the server knows none of that id."""


class RequestLostError(KernelError):
    """A request was cut off, and whether it was done, or what came of it, can no longer be known. It is not
    sent again: a cell must not run twice unasked."""


class TooLargeError(ClientError):
    """More than a limit of the client allows; the message names the option."""


def advice_of(status: int) -> Advice:
    """What to do after an HTTP status that came without a reason."""
    if status in (401, 403):
        return Advice.AUTHENTICATE
    if status in (408, 429, 502, 503, 504):
        return Advice.RETRY
    return Advice.STOP


_GOING_ON = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014})
"""Codes (RFC 6455 section 7.4.1 and IANA's registry) after which another connection may do."""


def advice_of_close(code: int, reason: str) -> tuple[Advice, float | None, str | None]:
    """Advice, seconds to wait, and slug, after a close frame."""
    closed = parse_close(code, reason)
    if closed is not None:
        return closed.reason.advice, closed.retry_after, closed.reason.slug
    return (Advice.RETRY if code in _GOING_ON else Advice.STOP), None, None
