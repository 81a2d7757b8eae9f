"""Auth plugins of the client, as generators: without I/O, so that any client can drive them.

A plugin is asked by its methods, which are generators: they yield ``Request``, are sent ``Response``, and
return their answer. (The idea is httpx's ``Auth.auth_flow``; order and *ignore* are CouchDB's.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar, Union

from .errors import AuthError, ClientError
from .reasons import Advice, Reason

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """An HTTP request. ``url`` is absolute; ``body`` is bytes, or ``None`` for none."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Response:
    """The answer to a request, or what a websocket's handshake or close said.

    ``headers`` are by lower-case name; ``cookies`` are the values of ``Set-Cookie``, each whole.
    ``status`` is the HTTP status; of a close code 44xx it is that less 4000. ``reason`` is the row of the
    table that was told, if any.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    cookies: tuple[str, ...] = field(default=(), repr=False)
    reason: Reason | None = None
    retry_after: float | None = None


Flow = Generator[Request, Response, T]

MIN_REFRESH_INTERVAL = 5.0
"""Seconds between two refreshes of one credential at least: a server that takes none is not stormed."""


@dataclass(frozen=True)
class Endpoint:
    """Whom a credential is for.

    Args:
        base_url: the server's base URL, which ends in ``/``.
        capabilities: its document, ``None`` for a server without the extension.
        trusted: base URLs of other servers to which a login may lead.
    """

    base_url: str
    capabilities: Mapping[str, Any] | None = None
    trusted: tuple[str, ...] = ()


class Ignore(Enum):
    """What ``initialize`` answers where the plugin is not meant."""

    IGNORE = "ignore"


IGNORE = Ignore.IGNORE


class Go(Enum):
    """What comes after an answer."""

    CONTINUE = "continue"
    """It is not about the credential: the caller deals with it."""
    RETRY = "retry"
    """Send it again, with what the plugin gives now."""


CONTINUE, RETRY = Go.CONTINUE, Go.RETRY


@dataclass(frozen=True)
class Fail:
    """What comes after an answer: nothing will do, and this error says why."""

    error: ClientError


Verdict = Union[Go, Fail]


class Context:
    """What a plugin knows about one endpoint; plugins make subclasses of it.

    ``generation`` grows with each credential, so that an answer to an older one is told from one to the
    newest.
    """

    generation: int = 0
    refreshed_at: float | None = None
    """When the credential was last refreshed, or that was last tried, by the driver's clock, in seconds."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint


@dataclass
class Outgoing:
    """What a request or a handshake is about to be sent with; plugins add to it.

    ``headers`` are the request's own. ``token`` is a token of the server's: it goes into ``Authorization``, or
    into the subprotocol of a handshake (C2.9).
    """

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)


C = TypeVar("C", bound=Context)


class AuthPlugin(Generic[C]):
    """The base of plugins. Each method is a generator that yields ``Request`` and is sent ``Response``.

    One object may serve several endpoints; what is about one of them belongs into its ``Context``.
    """

    name: str = ""
    """As it is called in configuration."""

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[C | Ignore]:
        """Make the context for an endpoint, or ``IGNORE`` it: then the next plugin of the list is asked.

        ``now`` is the driver's clock, in seconds. Raises ``ClientError``.
        """
        raise NotImplementedError

    def update_headers(self, context: C, outgoing: Outgoing) -> Flow[None]:
        """Add the credential. Raises ``AuthError`` where there is none."""
        yield from ()

    def handle_response(
        self, context: C, response: Response, generation: int, now: float
    ) -> Flow[Verdict]:
        """Judge an answer to what was sent with the credential of that ``generation``.

        By default an answer about credentials leads to ``refresh``: not where a newer one is there already,
        and not within ``MIN_REFRESH_INTERVAL`` of the last.
        """
        if not about_credentials(response):
            return CONTINUE
        if generation < context.generation:
            return RETRY
        since = None if context.refreshed_at is None else now - context.refreshed_at
        if since is not None and since < MIN_REFRESH_INTERVAL:
            return Fail(refused(context, response, retry_after=MIN_REFRESH_INTERVAL - since))
        context.refreshed_at = now
        if not (yield from self.refresh(context, now)):
            return Fail(refused(context, response))
        context.generation += 1
        return RETRY

    def refresh(self, context: C, now: float) -> Flow[bool]:
        """Get a new credential in place of one that was refused or nears its end. Whether there is one.

        Raises ``ClientError`` where getting it failed.
        """
        yield from ()
        return False

    def refresh_in(self, context: C, now: float) -> float | None:
        """Seconds until ``refresh`` should be called ahead of the credential's end; ``None``: never."""
        return None

    def cleanup(self, context: C) -> Flow[None]:
        """The endpoint is not needed any more."""
        yield from ()


def about_credentials(response: Response) -> bool:
    """Whether an answer says that another credential may help: by the reason's advice, else by the status."""
    if response.reason is not None:
        return response.reason.advice is Advice.AUTHENTICATE
    return response.status in (401, 403)


def refused(context: Context, response: Response, retry_after: float | None = None) -> AuthError:
    """The error for a credential that the server does not take."""
    reason = response.reason
    said = f"{reason.slug}: {reason.text}" if reason else f"status {response.status}"
    return AuthError(
        f"{context.endpoint.base_url} does not take the credential ({said}). Get another one, and see that"
        " it is for this server",
        retry_after=retry_after if retry_after is not None else response.retry_after,
        slug=reason.slug if reason else None,
    )


class NoAuth(AuthPlugin[Context]):
    """No credential: for servers that want none, or where a proxy adds it."""

    name = "none"

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[Context | Ignore]:
        """Takes every endpoint."""
        yield from ()
        return Context(endpoint)


class TokenContext(Context):
    """A token in use."""

    def __init__(self, endpoint: Endpoint, token: str) -> None:
        super().__init__(endpoint)
        self.token = token


class TokenAuth(AuthPlugin[TokenContext]):
    """A token of the server's, which stays as it is.

    Args:
        token: the token, or what returns it whenever it is asked for (from a file that is rewritten, say).
    """

    name = "token"

    def __init__(self, token: str | Callable[[], str]) -> None:
        self._token = token

    def __repr__(self) -> str:
        return "TokenAuth(…)"

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[TokenContext | Ignore]:
        """Takes every endpoint."""
        yield from ()
        return TokenContext(endpoint, self._now())

    def update_headers(self, context: TokenContext, outgoing: Outgoing) -> Flow[None]:
        """Adds the token."""
        yield from ()
        outgoing.token = context.token

    def refresh(self, context: TokenContext, now: float) -> Flow[bool]:
        """Where the token comes from a function that has another one by now."""
        yield from ()
        before, context.token = context.token, self._now()
        return context.token != before

    def _now(self) -> str:
        return self._token() if callable(self._token) else self._token
