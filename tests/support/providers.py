"""Servers by who says who is there: every kind of identity provider, and what each of them takes.

A ``Kind`` tells how to configure a server and which credentials are good there. ``expected`` says
what the contract makes of a mixture of them; it knows nothing of how the guard is built.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.auth.login import LegacyLoginHandler
from jupyter_server.auth.security import passwd
from tornado import web
from tornado.web import create_signed_value

from jupyter_token_ws.protocol.subprotocols import offer_subprotocols

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

TOKEN = "goodtoken-0123456789"
BAD = "wrongtoken-987654321"
USER = "ann"
SESSION = "session=of-ann"
"""The cookie of the providers that keep sessions of their own."""


def session_user(handler: web.RequestHandler) -> User | None:
    return User(USER) if handler.get_cookie("session") == "of-ann" else None


class HeaderProvider(IdentityProvider):
    """A proxy names the user; tokens and cookies mean nothing."""

    def get_user(self, handler: web.RequestHandler) -> User | None:
        name = handler.request.headers.get("X-Remote-User")
        return User(name) if name else None


class BearerProvider(IdentityProvider):
    """Takes ``Bearer`` only, or a session; says of nobody that it was by token."""

    def known(self, token: str) -> User | None:
        return User(USER) if token == TOKEN else None

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        scheme, _, token = handler.request.headers.get("Authorization", "").partition(" ")
        return (self.known(token) if scheme == "Bearer" else None) or session_user(handler)


class RaisingProvider(BearerProvider):
    """Answers a token that it does not know by an error of its own."""

    def known(self, token: str) -> User | None:
        if token != TOKEN:
            raise web.HTTPError(401, "unknown token")
        return User(USER)


class FlagProvider(IdentityProvider):
    """Takes tokens as upstream does, names users, and says that it was by token."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        if self.get_token(handler) == TOKEN:
            handler._token_authenticated = True  # type: ignore[attr-defined]
            return User(USER)
        return session_user(handler)


class HubProvider(IdentityProvider):
    """As JupyterHub's: keeps its verdict on the handler, and goes by ``Sec-Fetch-Mode``."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        kept: Any = handler
        if not hasattr(kept, "_kept_user"):
            kept._kept_user = None
            kept._kept_user = self.look(handler)
        user: User | None = kept._kept_user
        return user

    def look(self, handler: web.RequestHandler) -> User | None:
        socket = handler.request.headers.get("Sec-Fetch-Mode") == "websocket"
        token = handler.get_argument("token", "") if socket else ""
        if not token:
            match = self.auth_header_pat.match(handler.request.headers.get("Authorization", ""))
            token = match[2] if match else ""
        if token == TOKEN:
            handler._token_authenticated = True  # type: ignore[attr-defined]
            return User(USER)
        return session_user(handler)


class LegacyLogin(LegacyLoginHandler):
    """A login handler of the time before identity providers, with users of its own."""

    @classmethod
    def get_user(cls, handler: Any) -> str | None:
        if cls.get_token(handler) == TOKEN:
            handler._token_authenticated = True
            return USER
        user = session_user(handler)
        return user.username if user else None


class PlainLegacyLogin(LegacyLoginHandler):
    """A login handler of that time which changed the page only."""


class OldWay(web.RequestHandler):
    """Overrides ``get_current_user``, which upstream lets pass under the base provider."""

    def get_current_user(self) -> Any:
        if self.request.headers.get("Authorization") == f"Bearer {TOKEN}":
            return USER
        return USER if session_user(self) else None


@dataclass(frozen=True)
class Kind:
    """One way to run a server.

    ``takes_token`` says whether a token can be good there at all, ``schemes`` under which schemes
    of ``Authorization``, ``in_url`` whether in the URL, where it hides one in the header. ``names``
    says that users have names, ``raises`` that a wrong token is an error, ``off`` that there is no
    authentication.
    """

    name: str
    config: dict[str, dict[str, Any]]
    takes_token: bool = True
    schemes: tuple[str, ...] = ("token", "Bearer")
    in_url: bool = True
    names: bool = True
    login: str = "session"
    """``session``: our own cookie; ``stock``, ``legacy``: upstream's login cookie; empty: none."""
    remote_user: bool = False
    raises: bool = False
    off: bool = False

    def __str__(self) -> str:
        return self.name

    def good_cookie(self, app: ServerApp, port: int) -> str:
        """A ``Cookie`` header of somebody who signed in."""
        if self.login == "session":
            return SESSION
        name = f"username-127-0-0-1-{port}"
        user = dict.fromkeys(("username", "name", "display_name", "initials"), USER)
        value = (
            USER if self.login == "legacy" else json.dumps({**user, "color": "", "avatar_url": ""})
        )
        signed = create_signed_value(app.web_app.settings["cookie_secret"], name, value)
        return f"{name}={signed.decode()}"

    def bad_cookie(self, port: int) -> str:
        """One that is not worth anything (any more)."""
        return f"session=of-nobody; username-127-0-0-1-{port}=nonsense"


def _provider(kind: type[IdentityProvider], **traits: Any) -> dict[str, dict[str, Any]]:
    return {"ServerApp": {"identity_provider_class": kind}, kind.__name__: traits}


HASH = passwd("a password", algorithm="sha1")

STOCK = Kind("stock", {"IdentityProvider": {"token": TOKEN}}, names=False, login="stock")
PASSWORD = Kind(
    "password",
    {"PasswordIdentityProvider": {"token": "", "hashed_password": HASH}},
    takes_token=False,
    names=False,
    login="stock",
)
PASSWORD_AND_TOKEN = Kind(
    "password+token",
    {"PasswordIdentityProvider": {"token": TOKEN, "hashed_password": HASH}},
    names=False,
    login="stock",
)
LEGACY = Kind(
    "legacy",
    {"ServerApp": {"login_handler_class": LegacyLogin}, "IdentityProvider": {"token": TOKEN}},
    schemes=("token",),
)
PLAIN_LEGACY = Kind(
    "legacy, login page only",
    {"ServerApp": {"login_handler_class": PlainLegacyLogin}, "IdentityProvider": {"token": TOKEN}},
    schemes=("token",),
    names=False,
    login="legacy",
)
HEADER = Kind(
    "header",
    _provider(HeaderProvider),
    takes_token=False,
    login="",
    remote_user=True,
)
BEARER = Kind("bearer", _provider(BearerProvider), schemes=("Bearer",), in_url=False)
RAISING = Kind(
    "raising", _provider(RaisingProvider), schemes=("Bearer",), in_url=False, raises=True
)
FLAG = Kind("flag", _provider(FlagProvider))
HUB = Kind("hub", _provider(HubProvider))
OFF = Kind(
    "off",
    {"PasswordIdentityProvider": {"token": "", "hashed_password": ""}},
    takes_token=False,
    names=False,
    off=True,
)
BASE = Kind(
    "base provider",
    _provider(IdentityProvider, token=TOKEN),
    names=False,
    login="stock",
)

KINDS = (
    STOCK,
    BASE,
    PASSWORD,
    PASSWORD_AND_TOKEN,
    LEGACY,
    PLAIN_LEGACY,
    HEADER,
    BEARER,
    RAISING,
    FLAG,
    HUB,
    OFF,
)


@dataclass(frozen=True)
class Sent:
    """What a client sends: ``none``, ``good`` or ``bad`` by each way."""

    subprotocol: str = "none"
    url: str = "none"
    header: str = "none"
    cookie: str = "none"
    remote_user: str = "none"
    scheme: str = "token"

    def path(self, path: str) -> str:
        return path if self.url == "none" else f"{path}?token={_token(self.url)}"

    def offer(self, *others: str) -> list[str]:
        token = None if self.subprotocol == "none" else _token(self.subprotocol)
        return offer_subprotocols(others, token)

    def headers(self, kind: Kind, app: ServerApp, port: int) -> dict[str, str]:
        headers = {"Sec-Fetch-Mode": "websocket"}
        if self.header != "none":
            headers["Authorization"] = f"{self.scheme} {_token(self.header)}"
        if self.cookie != "none":
            good = self.cookie == "good"
            headers["Cookie"] = kind.good_cookie(app, port) if good else kind.bad_cookie(port)
        if self.remote_user != "none":
            headers["X-Remote-User"] = USER
        return headers


def _token(which: str) -> str:
    return TOKEN if which == "good" else BAD


@dataclass(frozen=True)
class Expected:
    """What must come of it: the source of an accepted client, or the slug of a refusal."""

    source: str = ""
    slug: str = ""


def expected(kind: Kind, sent: Sent, *, allow_url: bool = True) -> Expected:
    """What contract section 2 says."""
    if kind.off:
        return Expected("none")  # C2.2: tokens are ignored
    if sent.subprotocol != "none":
        # C2.2: alone. Where tokens mean nothing, whom the proxy names is admitted.
        named = kind.remote_user and sent.remote_user != "none"
        if named or (sent.subprotocol == "good" and kind.takes_token):
            return Expected("subprotocol")
        return Expected(slug="token_rejected")
    # The rest is upstream's (C2.1): URL, header, cookie.
    nobody = "credentials_missing"
    if sent.url != "none" and not allow_url:
        nobody = "url_token_refused"
    elif sent.url != "none" or sent.header != "none":
        nobody = "token_rejected"
    url = sent.url if kind.in_url and allow_url else "none"
    header = sent.header if sent.scheme in kind.schemes else "none"
    if kind.raises and header == "bad":
        return Expected(slug=nobody)  # its own error comes before its cookie
    if kind.takes_token and url == "good":
        return Expected("url")
    if kind.takes_token and header == "good" and url == "none":
        return Expected("header")
    if kind.remote_user and sent.remote_user != "none":
        return Expected("ambient")
    if kind.login and sent.cookie == "good":
        return Expected("cookie")
    return Expected(slug=nobody)
