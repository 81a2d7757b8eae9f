"""Which server a user belongs to, and a credential for it (C6.2; the sequence is that of Matrix MSC1730).

Somebody logs in at a portal and works on a server of their own. A directory says where that is and
whether it answers, and gets a credential that is good there. What the client logged in with never goes
there, and the other server is asked nothing but by the portal's own credential for it.

Whom a directory asks is slow, wrong or hostile: only configured addresses are asked, no redirect is
followed, an answer has little time and little room, and what is odd is no answer.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from traitlets import Dict, Float, TraitError, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from jupyter_token_ws.protocol import versions
from jupyter_token_ws.protocol.clients import within_base
from jupyter_token_ws.protocol.subprotocols import MAX_TOKEN_SIZE
from jupyter_token_ws.protocol.tickets import Lifetimes

from .tickets import BadRequest, TicketError, Unsupported

MAX_ANSWER = 65_536
"""Bytes of an answer at most, and as many of its headers."""

MAX_REMEMBERED = 10_000
"""Users of whom it is remembered at once whether they are elsewhere."""

RETRY_AFTER = 5
"""Seconds. Whoever was asked may be starting."""

_MAX_RETRY_AFTER = 3600
_MAX_CLIENTS = 64
_TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN_SIZE}}}")
_LOGIN = "api/token-ws/login"
_CAPABILITIES = "api/token-ws/capabilities"


class DirectoryError(TicketError):
    """Where the caller belongs cannot be told, or no credential for it be had."""


class DirectoryUnavailable(DirectoryError):  # noqa: N818 - it says what it is
    """Whoever knows where users belong does not answer."""

    slug = "unavailable"

    def __init__(self, text: str = "", retry_after: int | None = RETRY_AFTER) -> None:
        super().__init__(text, retry_after)


class CallerUnknown(DirectoryError):  # noqa: N818 - it says what it is
    """The credential that the caller logged in with is not good any more."""

    slug = "token_rejected"


class CallerRefused(DirectoryError):  # noqa: N818 - it says what it is
    """The caller may not have what was asked for."""

    slug = "forbidden"


@dataclass(frozen=True)
class Caller:
    """Who asks. ``user`` is the name by which the identity provider knows them; ``token`` is what they were
    admitted with, under a Hub also where it came in a cookie."""

    user: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Place:
    """A server that is not the one asked.

    ``base_url`` is absolute and ends in ``/``; ``ready`` says whether it answers now. ``name`` is the
    directory's own name for it.
    """

    base_url: str
    ready: bool
    name: str = ""


@dataclass(frozen=True)
class Granted:
    """A credential for another server, a bearer token. ``expires_at`` is in seconds since the epoch by this
    server's clock, ``expires_in`` in seconds from now."""

    token: str = field(repr=False)
    expires_in: float
    expires_at: float


class ServerDirectory(LoggingConfigurable):
    """Knows of no other server: everybody belongs here. What others do stands in the subclasses.

    ``base_url`` is the path of this server. ``lifetimes`` are those of its tickets.
    """

    timeout = Float(
        2.0, min=0.01, help="Seconds that whoever is asked has for an answer, connecting included."
    ).tag(config=True)
    memory = Float(
        10.0,
        min=0.0,
        help="Seconds for which it is remembered whether a user's websockets belong to another server.",
    ).tag(config=True)

    @validate("timeout", "memory")
    def _finite(self, proposal: Any) -> Any:
        if not math.isfinite(proposal["value"]):
            name = f"{type(self).__name__}.{proposal['trait'].name}"
            raise TraitError(f"{name} must be finite: {proposal['value']}")
        return proposal["value"]

    def __init__(self, **kwargs: Any) -> None:
        self.base_url = "/"
        self.lifetimes = Lifetimes()
        self.clock: Callable[[], float] = time.time
        self.monotonic: Callable[[], float] = time.monotonic
        self._client: SimpleAsyncHTTPClient | None = None
        self._known: OrderedDict[str, tuple[float, bool]] = OrderedDict()
        super().__init__(**kwargs)

    async def locate(self, caller: Caller) -> Place | None:
        """Where the caller belongs, ``None`` for this server.

        Raises ``DirectoryError``.
        """
        return None

    async def belongs_elsewhere(self, caller: Caller) -> bool:
        """Whether the caller's websockets belong to another server (4421), as of a moment ago.

        Raises ``DirectoryError``.
        """
        now = self.monotonic()
        since, elsewhere = self._known.get(caller.user, (-math.inf, False))
        if now - since >= self.memory:
            elsewhere = await self._is_elsewhere(caller)
            self._known[caller.user] = now, elsewhere
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return elsewhere

    async def _is_elsewhere(self, caller: Caller) -> bool:
        return await self.locate(caller) is not None

    async def log_in(
        self,
        caller: Caller,
        place: Place,
        *,
        max_age: object = None,
        audience: object = None,
        single_use: object = False,
    ) -> Granted:
        """A credential for the caller at a place that ``locate`` named. Options are those of C6.1, as they
        came.

        Raises ``DirectoryError``; ``BadRequest`` for options that make no sense or cannot be had there.
        """
        raise Unsupported("this server knows of no other")

    def close(self) -> None:
        """Let go of connections. It may be used again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- asking ------------------------------------------------------------------------------------

    async def _ask(
        self, url: str, token: str | None = None, body: Mapping[str, Any] | None = None
    ) -> HTTPResponse:
        """The answer to a ``GET``, or with ``body`` to a ``POST``, whatever its status.

        Raises ``DirectoryUnavailable``, which does not show what was asked.
        """
        if self._client is None:
            # Not `AsyncHTTPClient`, which a server's configuration may make of curl: that knows other
            # limits, and proxies in the environment.
            self._client = SimpleAsyncHTTPClient(
                force_instance=True,
                max_clients=_MAX_CLIENTS,
                max_body_size=MAX_ANSWER,
                max_header_size=MAX_ANSWER,
            )
        request = HTTPRequest(
            url,
            method="GET" if body is None else "POST",
            headers={"Accept": "application/json", "User-Agent": "jupyter_token_ws"},
            body=None if body is None else json.dumps(body),
            connect_timeout=self.timeout,
            request_timeout=self.timeout,
            follow_redirects=False,
            decompress_response=False,  # the limit would be on what it is compressed to
        )
        if token is not None:
            request.headers["Authorization"] = f"token {token}"
        if body is not None:
            request.headers["Content-Type"] = "application/json"
            request.headers[versions.HEADER] = versions.API_VERSIONS[0]
        try:
            return await self._client.fetch(request, raise_error=False)
        except Exception as error:  # noqa: BLE001 - whatever an odd answer makes of the client
            raise self._no_answer(url, type(error).__name__) from None

    def _no_answer(
        self, url: str, problem: object, retry_after: int = RETRY_AFTER
    ) -> DirectoryUnavailable:
        """What to raise for an answer that is none; the log says whose."""
        self.log.warning("Asked %s where a user belongs: %s", url, problem)
        return DirectoryUnavailable(retry_after=retry_after)

    def _read(self, url: str, answer: HTTPResponse) -> dict[str, Any]:
        """The JSON object of an answer."""
        try:
            said = json.loads(answer.body)
        except (ValueError, RecursionError):
            raise self._no_answer(url, "an answer that is no JSON") from None
        if not isinstance(said, dict):
            raise self._no_answer(url, "an answer that is no object")
        return said

    def _age(self, max_age: object) -> float:
        try:
            return self.lifetimes.age(max_age)
        except ValueError as error:
            raise BadRequest(str(error)) from None


def base_url_of(url: str) -> str:
    """An absolute base URL with a slash at its end, as it can be asked and compared.

    Raises ``ValueError`` for what no two parsers need agree on, and for queries and fragments.
    """
    whole = url if url.endswith("/") else f"{url}/"
    if (
        not whole.lower().startswith(("http://", "https://"))
        or not within_base(whole, whole)
        or "?" in whole
        or "#" in whole
    ):
        raise ValueError("it must be http:// or https://, a host and a path")
    return whole


class StaticServerDirectory(ServerDirectory):
    """Each user's server stands in the configuration, and so does a token for it that this server has."""

    servers = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="The base URL of the server of each user who belongs to another. Who is not here belongs here.",
    ).tag(config=True)
    tokens_file = Unicode(
        help="File with the tokens by which this server asks the others for tickets: JSON, an object of user"
        " and token, each good at that user's server only. Nobody else should be able to read it. It is"
        " read at each login.",
    ).tag(config=True)

    @validate("servers")
    def _valid_servers(self, proposal: Any) -> Any:
        try:
            return {user: base_url_of(url) for user, url in proposal["value"].items()}
        except ValueError as error:
            raise TraitError(f"StaticServerDirectory.servers: {error}") from None

    async def locate(self, caller: Caller) -> Place | None:
        """Where the caller belongs; ``ready`` if its capabilities can be had."""
        base_url = self.servers.get(caller.user)
        if base_url is None:
            return None
        return Place(base_url, await self._is_ready(base_url), caller.user)

    async def _is_elsewhere(self, caller: Caller) -> bool:
        return caller.user in self.servers

    async def _is_ready(self, base_url: str) -> bool:
        url = base_url + _CAPABILITIES
        try:
            answer = await self._ask(url)
            return answer.code == 200 and "api_versions" in self._read(url, answer)
        except DirectoryUnavailable:
            return False

    async def log_in(
        self,
        caller: Caller,
        place: Place,
        *,
        max_age: object = None,
        audience: object = None,
        single_use: object = False,
    ) -> Granted:
        """A ticket of the other server."""
        token = self._token_for(caller.user)
        asked = {"max_age": max_age, "audience": audience, "single_use": single_use or None}
        options = {name: value for name, value in asked.items() if value is not None}
        url = place.base_url + _LOGIN
        answer = await self._ask(url, token, options)
        if answer.code == 400:
            raise BadRequest("the user's server does not understand the options")
        if answer.code != 200:
            later = answer.headers.get("Retry-After", "")
            wait = int(later) if re.fullmatch("[0-9]{1,4}", later) else RETRY_AFTER
            raise self._no_answer(url, f"status {answer.code}", max(1, min(wait, _MAX_RETRY_AFTER)))
        said = self._read(url, answer)
        return self._granted(url, said.get("token"), said.get("expires_in"))

    def _granted(self, url: str, token: object, expires_in: object) -> Granted:
        if (
            not isinstance(token, str)
            or not _TOKEN.fullmatch(token)
            or isinstance(expires_in, bool)
            or not isinstance(expires_in, (int, float))
            or not 0 < expires_in < math.inf
        ):
            raise self._no_answer(url, "an answer without a ticket")
        return Granted(token, expires_in, self.clock() + expires_in)

    def _token_for(self, user: str) -> str:
        path = Path(self.tokens_file)
        token: object = None
        mode, problem = 0, "no token"
        try:
            text, mode = path.read_text("utf-8"), path.stat().st_mode
            token = json.loads(text)[user]
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            problem = type(error).__name__  # its text may show what stands in the file
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            self.log.error("No token for a user in StaticServerDirectory.tokens_file: %s", problem)
            raise DirectoryUnavailable("there is no token for the user's server")
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            self.log.warning("Others can get at the tokens for servers: chmod 600 %s", path)
        return token


class HubServerDirectory(ServerDirectory):
    """JupyterHub knows where its users' servers are. It is asked as the caller, with the caller's own token.

    For a portal beside the users' servers. On one of these nobody is sent elsewhere: the Hub decides who
    may use it, and that can be others than its user.
    """

    hub_api_url = Unicode(
        help="Address of the Hub's API, such as http://10.0.0.1:8081/hub/api. Default: the environment"
        " variable JUPYTERHUB_API_URL, which the Hub sets for what it starts.",
    ).tag(config=True)
    public_url = Unicode(
        help="Where clients reach the Hub, such as https://hub.example, for a Hub that is not told"
        " (JupyterHub.public_url) and then names its servers by path alone.",
    ).tag(config=True)
    server_name = Unicode(
        help="Which of a user's servers, where there are several; empty is the default server."
        " A user without that one is sent to one that is ready.",
    ).tag(config=True)

    @default("hub_api_url")
    def _default_hub_api_url(self) -> str:
        return os.environ.get("JUPYTERHUB_API_URL", "")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("hub_api_url", "public_url"):
            url = getattr(self, name)
            try:
                setattr(self, name, base_url_of(url) if url or name == "hub_api_url" else "")
            except ValueError as error:
                raise TraitError(f"HubServerDirectory.{name}: {error}") from None
        user, service = (os.environ.get(f"JUPYTERHUB_{name}") for name in ("USER", "SERVICE_NAME"))
        self._is_users = bool(user and not service)  # a service may be run as a user

    async def locate(self, caller: Caller) -> Place | None:
        """Where the caller's server is, running or not."""
        if self._is_users:
            return None
        url = f"{self.hub_api_url}user?include_stopped_servers=1"
        answer = await self._ask(url, self._token_of(caller))
        if answer.code in (401, 403):
            raise CallerUnknown
        if answer.code != 200:
            raise self._no_answer(url, f"status {answer.code}")
        said = self._read(url, answer)
        if said.get("kind") == "service":
            return None
        if said.get("name") != caller.user:
            raise CallerUnknown
        if "servers" not in said:
            raise CallerRefused("the Hub does not tell by this token where servers are")
        return self._choose(url, said["servers"])

    def _choose(self, url: str, servers: object) -> Place | None:
        if not isinstance(servers, dict) or not all(isinstance(s, dict) for s in servers.values()):
            raise self._no_answer(url, "an answer with servers of another kind")
        if not servers:
            return None
        ready = {name: server.get("ready") is True for name, server in servers.items()}
        name = min(servers, key=lambda name: (name != self.server_name, not ready[name], name))
        base_url = self._address(url, servers[name])
        if unquote(urlsplit(base_url).path) == unquote(self.base_url):
            return None
        return Place(base_url, ready[name], name)

    def _address(self, url: str, server: Mapping[str, Any]) -> str:
        address = server.get("full_url") or server.get("url")
        if isinstance(address, str) and re.match("/(?!/)", address):
            if not self.public_url:
                raise self._no_answer(
                    url,
                    "it names servers by path alone. Set JupyterHub.public_url, or"
                    " HubServerDirectory.public_url",
                )
            origin = urlsplit(self.public_url)
            address = f"{origin.scheme}://{origin.netloc}{address}"
        try:
            return base_url_of(address if isinstance(address, str) else "")
        except ValueError:
            raise self._no_answer(url, "an answer with an address that is none") from None

    async def log_in(
        self,
        caller: Caller,
        place: Place,
        *,
        max_age: object = None,
        audience: object = None,
        single_use: object = False,
    ) -> Granted:
        """A token of the Hub's that is good for this server of the caller's and for nothing else."""
        if audience is not None or single_use is not False:
            raise Unsupported("tokens of the Hub have no audience and no single use")
        seconds = max(1, math.floor(self._age(max_age)))
        url = f"{self.hub_api_url}users/{quote(caller.user, '', errors='surrogatepass')}/tokens"
        answer = await self._ask(
            url,
            self._token_of(caller),
            {
                "note": "jupyter_token_ws login",
                "expires_in": seconds,
                "scopes": [f"access:servers!server={caller.user}/{place.name}"],
            },
        )
        if answer.code == 401:
            raise CallerUnknown
        if answer.code in (400, 403, 404):
            self.log.warning("The Hub gives no token for a user's server: status %d", answer.code)
            raise CallerRefused("the Hub gives no token for this server")
        if answer.code != 201:
            raise self._no_answer(url, f"status {answer.code}")
        said = self._read(url, answer)
        token = said.get("token")
        # One that never expires is none that was asked for.
        if not isinstance(token, str) or not _TOKEN.fullmatch(token) or not said.get("expires_at"):
            raise self._no_answer(url, "an answer without a token that expires")
        return Granted(token, seconds, self.clock() + seconds)

    def _token_of(self, caller: Caller) -> str:
        if caller.token is None or not _TOKEN.fullmatch(caller.token):
            raise CallerUnknown("there is no token of the caller's to ask the Hub with")
        return caller.token
