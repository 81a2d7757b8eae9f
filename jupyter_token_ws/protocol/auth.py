"""Auth plugins of the client, as generators: without I/O, so that any client can drive them.

A plugin is asked by its methods, which are generators: they yield ``Request``, are sent ``Response``, and
return their answer. (The idea is httpx's ``Auth.auth_flow``; order and *ignore* are CouchDB's.)
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

from .clients import within_base
from .errors import AuthError, ClientError
from .reasons import REASONS, Advice, Reason
from .tickets import is_ticket
from .versions import API_VERSIONS, HEADER

__all__ = [
    "CONTINUE",
    "IGNORE",
    "MAX_REFRESH_INTERVAL",
    "MIN_REFRESH_INTERVAL",
    "RETRY",
    "AuthPlugin",
    "BasicAuth",
    "Context",
    "CookieAuth",
    "Endpoint",
    "Fail",
    "Flow",
    "Go",
    "HubAuth",
    "Ignore",
    "NoAuth",
    "Outgoing",
    "Request",
    "Response",
    "Secret",
    "TicketAuth",
    "TokenAuth",
    "Verdict",
    "about_credentials",
    "read_cookies",
    "refused",
    "secret_of",
]
"""What plugins may use; the rest is for the client."""

T = TypeVar("T")

Secret = str | Callable[[], str]
"""A secret, or what returns it whenever it is needed (from a file that is rewritten, say)."""


@dataclass(frozen=True)
class Request:
    """An HTTP request. ``url`` is absolute; ``body`` is bytes, or ``None`` for none."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
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

MAX_REFRESH_INTERVAL = 60.0
"""Seconds to which that doubles, while refreshes fail or what they bring is refused."""

MAX_LASTS = 1e9
"""Seconds from which on a credential counts as one without an end."""

LOGIN_PATH = "api/token-ws/login"
"""Where tickets are had, below a server's base (C6.1)."""


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


Verdict = Go | Fail


class Context:
    """What a plugin knows about one endpoint; plugins make subclasses of it.

    ``generation`` grows with each credential, so that an answer to an older one is told from one to the
    newest.
    """

    generation: int = 0
    refreshed_at: float | None = None
    """When the credential was last refreshed, or that was last tried, by the driver's clock, in seconds."""
    interval: float = MIN_REFRESH_INTERVAL
    """Seconds from then to the next refresh at least."""
    failed: ClientError | None = None
    """Why the last refresh came to nothing."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def base_url(self) -> str:
        """The server that the credential is for: another than was asked where a login led there (C6.2)."""
        return self.endpoint.base_url

    def take_turn(self, now: float, *, refused: bool) -> float:
        """Seconds until the credential may be refreshed; 0: now, and the turn is taken.

        ``refused`` tells that the newest credential was refused. Where that happens again and again, or
        refreshing fails, the turns become rarer.
        """
        since = math.inf if self.refreshed_at is None else now - self.refreshed_at
        if since < self.interval:
            return self.interval - since
        if (refused or self.failed is not None) and since < 2 * self.interval:
            self.interval = min(2 * self.interval, MAX_REFRESH_INTERVAL)
        else:
            self.interval = MIN_REFRESH_INTERVAL
        self.refreshed_at = now
        return 0.0

    def done(self, failed: ClientError | None) -> None:
        """A refresh has come to its end: with a new credential, or with an error, whose wish to be left
        alone for some time is granted."""
        self.failed = failed
        if failed is None:
            self.generation += 1
        elif failed.retry_after is not None:
            self.interval = max(self.interval, failed.retry_after)


@dataclass
class Outgoing:
    """What a request or a handshake is about to be sent with; plugins add to it.

    ``headers`` are the request's own. ``token`` is one for the server: it goes into ``Authorization``, or
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
    servers: tuple[str, ...] = ()
    """Base URLs of the servers that it is for; of all, where there are none."""

    def meant_for(self, endpoint: Endpoint) -> bool:
        """Whether ``servers`` let it be asked about an endpoint."""
        return not self.servers or any(
            within_base(base, endpoint.base_url) for base in self.servers
        )

    def why_not(self, endpoint: Endpoint) -> str:
        """Why ``initialize`` ignores an endpoint, and what to do about it, for people; empty where the plugin
        has no secret, and would do otherwise."""
        return ""

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[C | Ignore]:
        """Make the context for an endpoint, or ``IGNORE`` it: then the next plugin of the list is asked.

        ``now`` is the driver's clock, in seconds. Raises ``ClientError``.
        """
        raise NotImplementedError

    def update_headers(self, context: C, outgoing: Outgoing) -> Flow[None]:
        """Add the credential. Raises ``AuthError`` where there is none."""
        yield from ()

    def concerns(self, response: Response) -> bool:
        """Whether ``handle_response`` is to judge an answer at all; by default, one about credentials."""
        return about_credentials(response)

    def handle_response(
        self, context: C, response: Response, generation: int, now: float
    ) -> Flow[Verdict]:
        """Judge an answer, come at ``now``, to what was sent with the credential of that ``generation``.

        By default an answer that concerns the plugin leads to ``refresh``: not where a newer credential is
        there already, and not within ``MIN_REFRESH_INTERVAL`` of the last.
        """
        if not self.concerns(response):
            return CONTINUE
        if generation < context.generation:
            return RETRY
        wait = context.take_turn(now, refused=True)
        if wait > 0:
            return Fail(refused(context, response, retry_after=wait))
        error = yield from self._ended(context, self.refresh(context, now))
        if error is not None:
            return Fail(error)
        return RETRY if context.failed is None else Fail(refused(context, response))

    def keep_fresh(self, context: C, now: float) -> Flow[None]:
        """Renew the credential where ``refresh_in`` says that it is time. What fails of that is kept in the
        context: what there is may still do, and it is tried again later."""
        left = self.refresh_in(context, now)
        if left is not None and left <= 0 and context.take_turn(now, refused=False) == 0:
            yield from self._ended(context, self.renew(context, now))

    def _ended(self, context: C, flow: Flow[bool]) -> Flow[ClientError | None]:
        """Run a refresh to its end, and return why it could not be done."""
        try:
            got = yield from flow
        except ClientError as error:
            context.done(error)
            return error
        context.done(None if got else AuthError("there is no other credential"))
        return None

    def refresh(self, context: C, now: float) -> Flow[bool]:
        """Get a new credential in place of one that was refused. Whether there is one.

        Raises ``ClientError`` where getting it failed.
        """
        yield from ()
        return False

    def renew(self, context: C, now: float) -> Flow[bool]:
        """Get a new credential in place of one that still is good, but nears its end; as ``refresh``."""
        return (yield from self.refresh(context, now))

    def refresh_in(self, context: C, now: float) -> float | None:
        """Seconds until ``renew`` should be called ahead of the credential's end; ``None``: never."""
        return None

    def cleanup(self, context: C) -> Flow[None]:
        """The endpoint is not needed any more."""
        yield from ()


def about_credentials(response: Response) -> bool:
    """Whether an answer says that another credential may help: by the reason's advice, else by the status."""
    if response.reason is not None:
        return response.reason.advice is Advice.AUTHENTICATE
    return response.status in (401, 403)


def refused(
    context: Context, response: Response, retry_after: float | None = None, *, given: bool = True
) -> AuthError:
    """The error for a credential that the server does not take, or was not given."""
    reason = response.reason
    said = f"{reason.slug}: {reason.text}" if reason else f"status {response.status}"
    why = f" Getting another failed: {context.failed}" if retry_after and context.failed else ""
    text = (
        f"does not take the credential ({said}). Get another one, and see that it is for this server.{why}"
        if given
        else f"wants a credential, and none was given ({said})"
    )
    return AuthError(
        f"{context.base_url} {text}",
        retry_after=response.retry_after if retry_after is None else retry_after,
        slug=reason.slug if reason else None,
    )


def nobody_serves(plugins: Sequence[AuthPlugin[Any]], endpoint: Endpoint) -> AuthError:
    """The error where each of the plugins ignores the endpoint: it says of each why."""
    said = _whys(plugins, endpoint) or "no auth plugin is there"
    return AuthError(f"no credential for {endpoint.base_url}: {said}")


def _whys(plugins: Sequence[AuthPlugin[Any]], endpoint: Endpoint) -> str:
    return "; ".join(
        f"{plugin.name or type(plugin).__name__}: {_why_not(plugin, endpoint)}"
        for plugin in plugins
    )


def _why_not(plugin: AuthPlugin[Any], endpoint: Endpoint) -> str:
    if not plugin.meant_for(endpoint):
        return f"its servers are {', '.join(plugin.servers)}"
    return plugin.why_not(endpoint) or (
        "it has nothing to sign in with here. Is the variable or file set from which it takes that?"
    )


def secret_of(secret: Secret) -> str:
    """The secret as it is now. Raises ``AuthError`` for one that no header can carry."""
    text = secret if isinstance(secret, str) else secret()
    if not text.isprintable():
        raise AuthError("a credential has control characters: is there a line end in its file?")
    return text


# -- none and token ------------------------------------------------------------------------------------


class NoAuth(AuthPlugin[Context]):
    """No credential: for servers that want none, or where a proxy adds it."""

    name = "none"

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[Context | Ignore]:
        """Takes every endpoint."""
        yield from ()
        return Context(endpoint)

    def handle_response(
        self, context: Context, response: Response, generation: int, now: float
    ) -> Flow[Verdict]:
        """Nothing was shown that could be renewed."""
        yield from ()
        if not self.concerns(response):
            return CONTINUE
        return Fail(refused(context, response, given=False))


class TokenContext(Context):
    """A token in use."""

    def __init__(self, endpoint: Endpoint, token: str) -> None:
        super().__init__(endpoint)
        self.token = token


class TokenAuth(AuthPlugin[TokenContext]):
    """A token of the server's, which stays as it is.

    Args:
        token: the token; what returns it may have another one by the time the first is refused.
    """

    name = "token"

    def __init__(self, token: Secret) -> None:
        self._token = token

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[TokenContext | Ignore]:
        """Takes every endpoint, unless there is no token."""
        yield from ()
        token = secret_of(self._token)
        return TokenContext(endpoint, token) if token else IGNORE

    def update_headers(self, context: TokenContext, outgoing: Outgoing) -> Flow[None]:
        """Adds the token."""
        yield from ()
        outgoing.token = context.token

    def refresh(self, context: TokenContext, now: float) -> Flow[bool]:
        """Where the token comes from a function that has another one by now."""
        yield from ()
        token = secret_of(self._token)
        if not token or token == context.token:
            return False
        context.token = token
        return True


class HubAuth(TokenAuth):
    """The token that a JupyterHub gives to what it starts (``JUPYTERHUB_API_TOKEN``).

    Args:
        token: the token.
        base_url: path of the Hub (``JUPYTERHUB_BASE_URL``). Servers that are not of its users or services
            are ignored.
    """

    name = "hub"

    def __init__(self, token: Secret, base_url: str = "/") -> None:
        super().__init__(token)
        self._places = tuple(f"{base_url.rstrip('/')}/{kind}/" for kind in ("user", "services"))

    def why_not(self, endpoint: Endpoint) -> str:
        """Where its path is not of the Hub's."""
        if urlsplit(endpoint.base_url).path.startswith(self._places):
            return ""
        return f"its servers are below {' and '.join(self._places)}"

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[TokenContext | Ignore]:
        """Takes what looks like a server of the Hub's."""
        if self.why_not(endpoint):
            return IGNORE
        return (yield from super().initialize(endpoint, now))


# -- cookie --------------------------------------------------------------------------------------------


class CookieContext(Context):
    """Cookies of a login, and until when they are good, by the driver's clock."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.cookies: dict[str, str] = {}
        self.renew_at: float | None = None


class CookieAuth(AuthPlugin[CookieContext]):
    """Logs in by the server's login page, and shows the cookie that it sets.

    For servers that have no ``api/token-ws/login``; where there is one, ``TicketAuth`` does more. It logs in
    again before the cookie's end.

    Args:
        secret: the password, or the server's token: the page takes either.
    """

    name = "cookie"

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "CookieAuth(…)"

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[CookieContext | Ignore]:
        """Logs in, unless there is no password."""
        if not secret_of(self._secret):
            return IGNORE
        context = CookieContext(endpoint)
        yield from self.refresh(context, now)
        return context

    def update_headers(self, context: CookieContext, outgoing: Outgoing) -> Flow[None]:
        """Adds the cookies, and what shows that no other site's page sends them (XSRF)."""
        yield from ()
        outgoing.headers["Cookie"] = _cookie_header(context.cookies)
        if "_xsrf" in context.cookies:
            outgoing.headers["X-XSRFToken"] = context.cookies["_xsrf"]

    def refresh(self, context: CookieContext, now: float) -> Flow[bool]:
        """Logs in."""
        url = f"{context.base_url}login"
        page = yield Request("GET", url, {"Accept": "text/html"})
        if page.status != 200:
            raise _no_login(url, page)
        cookies, _ = read_cookies(page)
        fields = {"password": secret_of(self._secret)}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
        if "_xsrf" in cookies:
            fields["_xsrf"] = cookies["_xsrf"]
        if cookies:
            headers["Cookie"] = _cookie_header(cookies)
        answer = yield Request("POST", url, headers, urlencode(fields).encode())
        got, lasts = read_cookies(answer)
        if not 300 <= answer.status < 400 or not got.keys() - {"_xsrf"}:
            raise _no_login(url, answer)
        context.cookies = {**cookies, **got}
        context.renew_at = None if lasts is None else now + lasts * 2 / 3
        return True

    def refresh_in(self, context: CookieContext, now: float) -> float | None:
        """When two thirds of the cookie's time are over."""
        return None if context.renew_at is None else context.renew_at - now


def read_cookies(response: Response) -> tuple[dict[str, str], float | None]:
    """The cookies that an answer sets (RFC 6265 section 5.2), and seconds until the first of them ends.

    What is deleted is left out. ``Expires`` is measured by the server's own ``Date``: no clock need be right.
    """
    cookies: dict[str, str] = {}
    lasts: list[float] = []
    for line in response.cookies:
        pair, *rest = line.split(";")
        name, equals, value = (part.strip() for part in pair.partition("="))
        said = {
            key.strip().lower(): text.strip() for key, _, text in (a.partition("=") for a in rest)
        }
        left = _cookie_age(said, response.headers.get("date", ""))
        if not (name and equals and value) or (left is not None and left <= 0):
            continue
        cookies[name] = value
        if left is not None:
            lasts.append(left)
    return cookies, min(lasts, default=None)


def _cookie_age(said: Mapping[str, str], date: str) -> float | None:
    age = said.get("max-age")
    try:
        if age is not None:
            return float(int(age))
        ends = parsedate_to_datetime(said["expires"])
        return (ends - parsedate_to_datetime(date)).total_seconds()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _cookie_header(cookies: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def _no_login(url: str, response: Response) -> ClientError:
    """The error for a login that was not answered with a credential."""
    status, reason = response.status, _reason_of(response)
    said = f"{reason.slug}: {reason.text}" if reason is not None else f"status {status}"
    error: ClientError
    if status in (401, 403):
        error = AuthError(f"{url} does not take the password or token ({said})")
    elif status in (408, 429) or status >= 500:
        error = ClientError(f"{url} cannot log in now ({said})", advice=Advice.RETRY)
    else:
        error = AuthError(f"there is no login at {url} for this ({said})", advice=Advice.STOP)
    error.retry_after, error.slug = response.retry_after, reason.slug if reason else None
    return error


def _reason_of(response: Response) -> Reason | None:
    """The reason that an answer was told with, also where the driver did not look into the body."""
    if response.reason is not None:
        return response.reason
    slug = _read_object(response.body).get("status")
    return REASONS.get(slug) if isinstance(slug, str) else None


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


# -- ticket --------------------------------------------------------------------------------------------


class TicketContext(Context):
    """A ticket, the server that it is for, and when to renew it."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.token = ""
        self.renew_at = math.inf
        self.server = endpoint.base_url

    @property
    def base_url(self) -> str:
        """Where the login led."""
        return self.server


class TicketAuth(AuthPlugin[TicketContext]):
    """Trades a password or token for a ticket (contract section 6), renews that, and revokes it at the end.

    The password or token is sent to the endpoint alone. Where the login leads to another server (C6.2), the
    ticket is good there, if that is below a base URL that the endpoint trusts.

    Args:
        password: the password. One of the two must be there; without either, the endpoint is ignored.
        token: the token.
        max_age: seconds that a ticket is asked to live; the server's own number by default.
    """

    name = "ticket"

    def __init__(
        self, *, password: Secret = "", token: Secret = "", max_age: float | None = None
    ) -> None:
        self._password, self._token, self._max_age = password, token, max_age

    def __repr__(self) -> str:
        return "TicketAuth(…)"

    def why_not(self, endpoint: Endpoint) -> str:
        """Where there is no login."""
        if "login" in (endpoint.capabilities or {}):
            return ""
        lacks = (
            "it has no capabilities"
            if endpoint.capabilities is None
            else "its capabilities name none"
        )
        return (
            f"the server offers no login ({lacks}). Use the cookie plugin, with the same password or"
            " token, or the token plugin"
        )

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[TicketContext | Ignore]:
        """Logs in, where there is a login and something to log in with."""
        if self.why_not(endpoint) or not self._credential():
            return IGNORE
        context = TicketContext(endpoint)
        yield from self.refresh(context, now)
        return context

    def _credential(self) -> dict[str, str]:
        for name, secret in (("password", self._password), ("token", self._token)):
            text = secret_of(secret)
            if text:
                return {name: text}
        return {}

    def update_headers(self, context: TicketContext, outgoing: Outgoing) -> Flow[None]:
        """Adds the ticket."""
        yield from ()
        outgoing.token = context.token

    def concerns(self, response: Response) -> bool:
        """Also that the user's server is another: a login leads there."""
        reason = response.reason
        return super().concerns(response) or (
            reason is not None and reason.advice is Advice.REDIRECT
        )

    def refresh(self, context: TicketContext, now: float) -> Flow[bool]:
        """Logs in, always where it was begun."""
        base_url = context.endpoint.base_url
        answer = yield self._ask(base_url, self._credential())
        if answer.status != 200:
            raise _no_login(f"{base_url}{LOGIN_PATH}", answer)
        self._keep(context, answer, now)
        return True

    def renew(self, context: TicketContext, now: float) -> Flow[bool]:
        """Renews the ticket by itself (C6.4); where that cannot be done any more, logs in."""
        if is_ticket(context.token):
            request = self._ask(context.base_url, {"renew": True})
            shown = {**request.headers, "Authorization": f"token {context.token}"}
            answer = yield replace(request, headers=shown)
            if answer.status == 200:
                self._keep(context, answer, now, renewed=True)
                return True
            if answer.status not in (400, 401, 403):
                raise _no_login(f"{context.base_url}{LOGIN_PATH}", answer)
        return (yield from self.refresh(context, now))

    def _ask(self, base_url: str, body: dict[str, Any]) -> Request:
        if self._max_age is not None:
            body["max_age"] = self._max_age
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            HEADER: API_VERSIONS[0],
        }
        return Request("POST", base_url + LOGIN_PATH, headers, json.dumps(body).encode())

    def _keep(
        self, context: TicketContext, answer: Response, now: float, *, renewed: bool = False
    ) -> None:
        told = _read_object(answer.body)
        token, lasts = told.get("token"), told.get("expires_in")
        if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token):
            raise AuthError(f"{context.endpoint.base_url}{LOGIN_PATH} answered with no ticket")
        if not renewed:
            context.server = _server_of(context.endpoint, told.get("server"))
        seconds = math.inf
        if isinstance(lasts, (int, float)) and 0 < lasts < MAX_LASTS:
            seconds = lasts
        context.token, context.renew_at = token, now + seconds * 2 / 3

    def refresh_in(self, context: TicketContext, now: float) -> float | None:
        """When two thirds of the ticket's time are over."""
        return None if context.renew_at == math.inf else context.renew_at - now

    def cleanup(self, context: TicketContext) -> Flow[None]:
        """Revokes the ticket, and so whatever still is open by it."""
        if is_ticket(context.token):
            shown = {"Authorization": f"token {context.token}", HEADER: API_VERSIONS[0]}
            yield Request("DELETE", context.base_url + LOGIN_PATH, shown)


def _server_of(endpoint: Endpoint, told: object) -> str:
    """The base URL of the server that a ticket is for (C6.2). Raises ``AuthError`` for one nobody trusts."""
    named = told.get("base_url") if isinstance(told, Mapping) else None
    if not isinstance(named, str):
        return endpoint.base_url
    url = named if named.endswith("/") else f"{named}/"
    own = (endpoint.capabilities or {}).get("base_url")
    # A server need not know that a proxy encrypts, nor by which name it is reached.
    encrypted = url.replace("http:", "https:", 1)
    if own == named or any(_same(endpoint.base_url, each) for each in (url, encrypted)):
        return endpoint.base_url
    if any(within_base(base, url) for base in endpoint.trusted):
        return url
    place = url if url.isprintable() and len(url) < 300 else "another server"
    raise AuthError(
        f"the login at {endpoint.base_url} leads to {place}, which is not trusted: name its base URL in"
        " trusted, if it should be",
        advice=Advice.STOP,
    )


def _same(one: str, other: str) -> bool:
    return within_base(one, other) and within_base(other, one)


# -- basic ---------------------------------------------------------------------------------------------


class BasicContext(Context):
    """What stands beside the proxy's password; its credential is the one that is counted."""

    def __init__(self, endpoint: Endpoint, plugin: AuthPlugin[Any], inner: Context) -> None:
        super().__init__(endpoint)
        self.plugin = plugin
        self.inner = inner

    @property
    def generation(self) -> int:  # type: ignore[override]
        """Of the credential beside it."""
        return self.inner.generation


class BasicAuth(AuthPlugin[BasicContext]):
    """User and password for a proxy in front of the server (RFC 7617), beside another plugin.

    Both cannot have ``Authorization``, so the other may be ``cookie`` or ``none``, and no token.

    Args:
        user: without a colon.
        password: for the proxy.
        beside: plugins for the server itself, in their order; none are needed.
    """

    name = "basic"

    def __init__(self, user: str, password: Secret, beside: Sequence[AuthPlugin[Any]] = ()) -> None:
        if ":" in user:
            raise ClientError("a user of basic authentication has no colon in the name")
        self._user, self._password = user, password
        self._beside: tuple[AuthPlugin[Any], ...] = tuple(beside) or (NoAuth(),)

    def __repr__(self) -> str:
        return f"BasicAuth(…, beside={self._beside!r})"

    def alone(self) -> BasicAuth:
        """The same without what is beside it: for who asks the proxy only."""
        return BasicAuth(self._user, self._password)

    def front(self, endpoint: Endpoint) -> dict[str, str]:
        """The header for requests that need no credential of the server's."""
        return self._added(endpoint, {})

    def why_not(self, endpoint: Endpoint) -> str:
        """As those beside it."""
        return _whys(self._beside, endpoint)

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[BasicContext | Ignore]:
        """Takes what one of the plugins beside it takes."""
        for plugin in self._beside:
            if not plugin.meant_for(endpoint):
                continue
            inner = yield from self._through(endpoint, plugin.initialize(endpoint, now))
            if not isinstance(inner, Ignore):
                return BasicContext(endpoint, plugin, inner)
        return IGNORE

    def update_headers(self, context: BasicContext, outgoing: Outgoing) -> Flow[None]:
        """Adds both. Raises ``AuthError`` where both want the same header."""
        yield from self._through(
            context.endpoint, context.plugin.update_headers(context.inner, outgoing)
        )
        if outgoing.token is not None:
            raise _both(context.endpoint)
        outgoing.headers.update(self._added(context.endpoint, outgoing.headers))

    def concerns(self, response: Response) -> bool:
        """Leaves it to ``handle_response`` to ask the other plugin."""
        return True

    def handle_response(
        self, context: BasicContext, response: Response, generation: int, now: float
    ) -> Flow[Verdict]:
        """A challenge is the proxy's; the rest is for the other plugin."""
        challenge = response.headers.get("www-authenticate", "").lower()
        if response.status == 401 and challenge.startswith("basic"):
            return Fail(
                AuthError(f"the proxy before {context.base_url} does not take user and password")
            )
        flow = context.plugin.handle_response(context.inner, response, generation, now)
        return (yield from self._through(context.endpoint, flow))

    def keep_fresh(self, context: BasicContext, now: float) -> Flow[None]:
        """As the other plugin does."""
        yield from self._through(context.endpoint, context.plugin.keep_fresh(context.inner, now))

    def refresh_in(self, context: BasicContext, now: float) -> float | None:
        """As of the other plugin."""
        return context.plugin.refresh_in(context.inner, now)

    def cleanup(self, context: BasicContext) -> Flow[None]:
        """As the other plugin does."""
        yield from self._through(context.endpoint, context.plugin.cleanup(context.inner))

    def _through(self, endpoint: Endpoint, flow: Flow[T]) -> Flow[T]:
        """Run another plugin's generator, whose requests go through the proxy too."""
        try:
            request = next(flow)
            while True:
                added = {}
                if within_base(endpoint.base_url, request.url):
                    added = self._added(endpoint, request.headers)
                said: Response | ClientError
                try:
                    said = yield replace(request, headers={**request.headers, **added})
                except ClientError as error:
                    said = error
                request = flow.throw(said) if isinstance(said, ClientError) else flow.send(said)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            flow.close()

    def _added(self, endpoint: Endpoint, headers: Mapping[str, str]) -> dict[str, str]:
        if any(name.lower() == "authorization" for name in headers):
            raise _both(endpoint)
        pair = f"{self._user}:{secret_of(self._password)}"
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _both(endpoint: Endpoint) -> AuthError:
    return AuthError(
        f"the proxy before {endpoint.base_url} and the server both want Authorization: beside the basic"
        " plugin use the cookie plugin, which does not need it",
        advice=Advice.STOP,
    )
