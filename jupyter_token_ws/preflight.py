"""Finds the server behind whatever address somebody copied, and asks what it can do. For the command line.

Nothing secret is sent here: no query, no fragment, no user and no password of the address.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from ssl import SSLError
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import SplitResult, parse_qs, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from .protocol.tickets import is_ticket
from .protocol.versions import API_VERSIONS, HEADER

CAPABILITIES_PATH = "api/token-ws/capabilities"
TIMEOUT = 10.0
"""Seconds that a server is given to answer."""

MAX_DOCUMENT_SIZE = 1 << 20
"""Bytes; a larger answer is no capabilities document."""


LEFT_OUT = "..."
"""What jupyter_server prints in place of a token from its configuration."""


class CommandError(Exception):
    """Ends a command with one line on standard error and exit status 1."""


@dataclass(frozen=True)
class Found:
    """A server: its base URL, which ends in ``/``, and its capabilities document."""

    base_url: str
    capabilities: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a request was answered; ``location`` is where a redirect, which is not followed, leads."""

    status: int
    reason: str
    body: bytes
    location: str = ""

    def json(self) -> Mapping[str, Any]:
        """The object in the body, empty where there is none."""
        try:
            read = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return read if isinstance(read, dict) else {}


class _NoRedirect(HTTPRedirectHandler):
    """Where a server sends somebody is for them to decide, who may have a credential with them."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def printable(text: str) -> str:
    """What a server said, as it may stand on a terminal: one line, not too long, and steering nothing."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])


def place_of(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own, by its host's name."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True  # RFC 6761 section 6.3
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _opener(url: str) -> OpenerDirector:
    # What is meant for this machine is shown to no proxy.
    ways = [ProxyHandler({})] if is_loopback(url) else []
    return build_opener(_NoRedirect, *ways)


def send(request: Request, timeout: float = TIMEOUT) -> Answer:
    """One request and its answer, of whatever status; redirects are not followed.

    ``timeout`` in seconds. Raises ``CommandError`` where nobody answers.
    """
    url = request.full_url
    try:
        try:
            with _opener(url).open(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.reason, answer.read(MAX_DOCUMENT_SIZE + 1))
        except HTTPError as error:
            with error:
                location = error.headers.get("Location", "")
                body = error.read(MAX_DOCUMENT_SIZE + 1)
            return Answer(error.code, str(error.reason), body, location)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        hint = " Or does it speak http, not https?" if isinstance(reason, SSLError) else ""
        raise CommandError(
            f"no answer from {place_of(url)}: {reason}. Is the server running, and is that its"
            f" address?{hint}"
        ) from None


def find_server(url: str) -> Found:
    """The server behind an address.

    ``url`` may be any page of the server: its path is shortened until something answers. Query and
    fragment, where a token may be, are not sent. Raises ``CommandError`` with what to do next.
    """
    missing, place = "", ""
    for base_url in bases_of(url):
        place = place_of(base_url)
        found = _ask(base_url)
        if not isinstance(found, str):
            return Found(base_url, found)
        missing = found
    raise CommandError(
        f"{place} has no capabilities ({missing}). Is jupyter-token-ws installed and enabled there?"
        " `jupyter server extension list` on that machine tells. If it is: is"
        " TokenWebSocketApp.enabled False in its configuration?"
    )


def _ask(base_url: str) -> dict[str, Any] | str:
    """The document, or why there is none at this place."""
    address = base_url + CAPABILITIES_PATH
    answer = send(
        Request(  # noqa: S310 - the scheme was checked
            address, headers={"Accept": "application/json", HEADER: API_VERSIONS[0]}
        )
    )
    if 300 <= answer.status < 400:
        other = place_of(urljoin(address, answer.location))
        if other != place_of(address):
            raise CommandError(
                f"{place_of(address)} sends on to {printable(other)}: give that address, if you trust it"
            )
    if 300 <= answer.status < 400 or answer.status in (401, 403, 404, 405):
        return f"answered {answer.status}"
    if answer.status != 200:
        raise CommandError(f"{address} answered {answer.status} {printable(answer.reason)}")
    try:
        document = json.loads(answer.body[:MAX_DOCUMENT_SIZE])
    except (ValueError, RecursionError):
        return "what came was no JSON"
    if not isinstance(document, dict) or "api_versions" not in document:
        return "what came was no capabilities document"
    return document


def bases_of(url: str) -> Iterator[str]:
    """What may be the server's base URL, the longest path first. Raises ``CommandError`` for no address."""
    parts = split(url)
    netloc = parts.netloc.rpartition("@")[2]
    segments = [segment for segment in parts.path.split("/") if segment]
    for length in range(len(segments), -1, -1):
        base = "/".join(["", *segments[:length], ""])
        yield urlunsplit((parts.scheme, netloc, base, "", ""))


def split(url: str) -> SplitResult:
    """The parts of an address of a server; raises ``CommandError`` for anything else."""
    if "://" not in url:
        url = f"http://{url}"
    if url.startswith(("ws://", "wss://")):
        url = f"http{url[2:]}"  # as the capabilities name it
    parts = _parts(url)
    if parts is None:
        raise CommandError(
            "that is no address of a server. One looks like http://localhost:8888/ or"
            " https://hub.example.org/user/ann/"
        )
    return parts


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a bad port or a bad IPv6 address
        return None
    return parts if valid else None


def token_in(url: str) -> str:
    """The token in an address that somebody copied, empty for none. Raises ``CommandError`` for a ticket."""
    parts = split(url)
    for part in (parts.query, parts.fragment):
        for token in parse_qs(part).get("token", []):
            if is_ticket(token):
                raise CommandError(
                    "that address has a ticket in it: it is for a browser, and gives no other ticket"
                )
            return token
    return ""


def read_line() -> str:
    """A secret from standard input. Raises ``CommandError``."""
    try:
        return sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        raise CommandError("what is on standard input is no text") from None


def local_server(base_url: str) -> tuple[str, str]:
    """A server of this machine and user: the base URL that it says it has, and its token. It leaves both in
    a file that only this user can read. Raises ``CommandError``."""
    if not is_loopback(base_url):
        raise CommandError(
            "--local is for a server of this machine, such as http://localhost:8888/"
        )
    from jupyter_server.serverapp import list_running_servers

    parts = urlsplit(base_url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    asked = (parts.scheme, port, unquote(parts.path))
    for server in list_running_servers():
        secure = "https" if server.get("secure") else "http"
        there = (secure, server.get("port"), unquote(str(server.get("base_url"))))
        if there == asked and not server.get("sock"):
            if not server.get("token"):
                raise CommandError(
                    f"the server at {base_url} has no token: log in with the password"
                )
            # `localhost` has two addresses, and at the other one there may be another user's server.
            url = str(server.get("url"))
            return url if is_loopback(url) else base_url, str(server["token"])
    raise CommandError(
        f"you run no server at {base_url} that `jupyter server list` shows: is it another user's?"
    )
