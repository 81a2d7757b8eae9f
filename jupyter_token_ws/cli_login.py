"""``jupyter token-ws login``: gets a ticket, renews and revokes one (contract section 6).

What is printed on standard output is the ticket alone. A credential is sent to the server that was named
and to no other: no redirect is followed, and where the answer names another server it stays unsent there.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request

from .preflight import (
    LEFT_OUT,
    Answer,
    CommandError,
    find_server,
    is_loopback,
    local_server,
    place_of,
    printable,
    read_line,
    send,
    token_in,
)
from .protocol.reasons import REASONS
from .protocol.tickets import PREFIX, SIGN_IN, is_ticket
from .protocol.versions import API_VERSIONS, HEADER

if TYPE_CHECKING:
    import argparse

PATH = "api/token-ws/login"
PATIENCE = 60.0
"""Seconds that a server is given: passwords wait for their turn there, and a Hub may have to be asked."""

SILENCE = 2.0
"""Seconds without an answer after which one is told what is waited for."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

_WRONG = {"password": "that password is wrong", "token": "that token is not valid there"}


def login(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status. Raises ``CommandError``."""
    given = token_in(arguments.url)
    _check(arguments, given)
    found = find_server(arguments.url)
    base_url, local = local_server(found.base_url) if arguments.local else (found.base_url, "")
    if not isinstance(found.capabilities.get("login"), Mapping):
        raise CommandError(
            f"there is no login at {base_url}: TokenWebSocketApp.login is False there, or the extension is"
            " older than that"
        )
    if base_url.startswith("http:") and not is_loopback(base_url):
        _say(
            f"warning: {place_of(base_url)} is not encrypted: whoever is on the way can read along"
        )
    if arguments.link:
        _see_that_it_signs_in(base_url)
    kind, secret = _credential(arguments, base_url, given, local)
    if arguments.revoke:
        _send("DELETE", base_url, kind, bearer=secret)
        _say("revoked, with all its renewals")
        return 0
    body = _options(arguments)
    if arguments.renew:
        answer = _send("POST", base_url, kind, body={**body, "renew": True}, bearer=secret)
    else:
        answer = _send("POST", base_url, kind, body={**body, kind: secret})
    _tell(answer, base_url, link=arguments.link)
    return 0


def _check(arguments: argparse.Namespace, in_url: str) -> None:
    """Refuse options that do not go together, with exit status 2."""
    parser: argparse.ArgumentParser = arguments.parser
    on_ticket = "--renew" if arguments.renew else "--revoke" if arguments.revoke else ""
    if on_ticket and not (arguments.token_env or arguments.token_stdin):
        parser.error(f"{on_ticket} needs the ticket, by --token-env or --token-stdin")
    if on_ticket and (arguments.single_use or arguments.audience or arguments.link):
        parser.error(f"a ticket stays what it is: {on_ticket} takes no option for a new one")
    if arguments.revoke and arguments.max_age:
        parser.error("--revoke takes no --max-age")
    by_token = arguments.token_env or arguments.token_stdin or arguments.local or in_url
    if arguments.link and (arguments.password_stdin or not by_token):
        parser.error("--link needs a token, by --local, --token-env or --token-stdin")
    if arguments.link and arguments.audience:
        parser.error("--link takes no --audience")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a login, as its body has them."""
    if arguments.link:
        options: dict[str, Any] = {"single_use": True, "audience": [SIGN_IN]}
    else:
        options = {"single_use": True} if arguments.single_use else {}
        if arguments.audience:
            options["audience"] = arguments.audience
    if arguments.max_age:
        options["max_age"] = arguments.max_age
    return options


# -- what to log in with -------------------------------------------------------------------------


def _credential(
    arguments: argparse.Namespace, base_url: str, in_url: str, local: str
) -> tuple[str, str]:
    """What the login is by, ``password`` or ``token``, and that itself."""
    kind = "token"
    if arguments.token_env:
        secret = os.environ.get(arguments.token_env, "")
        whence = f"the environment variable {arguments.token_env}"
    elif arguments.token_stdin:
        secret, whence = read_line(), "standard input"
    elif arguments.password_stdin:
        kind, secret, whence = "password", read_line(), "standard input"
    elif arguments.local:
        secret, whence = local, "what that server tells"
    elif in_url:
        secret, whence = in_url, "that address"
        if secret == LEFT_OUT:
            raise CommandError(
                "that address does not show the token: it is in the server's configuration. Give it by"
                " --token-stdin or --token-env"
            )
        _say(
            "warning: the token in that address is now in your shell's history: --token-stdin or"
            " --token-env keep it out"
        )
    else:
        kind, secret, whence = "password", _ask_password(base_url), "what you typed"
    if not secret:
        raise CommandError(f"there is no {kind} in {whence}")
    if _CONTROL.search(secret):
        raise CommandError(f"what is in {whence} is no {kind}: it has control characters")
    if (arguments.renew or arguments.revoke) and not (is_ticket(secret) and secret.isascii()):
        raise CommandError(f"what is in {whence} is no ticket: one begins with {PREFIX}")
    if is_ticket(secret) and kind == "token" and not (arguments.renew or arguments.revoke):
        raise CommandError("a ticket gives no other ticket: --renew puts a new one in its place")
    return kind, secret


def _ask_password(base_url: str) -> str:
    try:
        with warnings.catch_warnings():
            # Rather none than one that is shown while it is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(f"Password for {base_url}: ")
    except (getpass.GetPassWarning, EOFError, OSError):
        raise CommandError(
            "there is no terminal to ask for the password at: use --password-stdin, --token-stdin or"
            " --token-env"
        ) from None


# -- the request -------------------------------------------------------------------------------------


def _send(
    method: str,
    base_url: str,
    kind: str,
    *,
    body: Mapping[str, Any] | None = None,
    bearer: str = "",
) -> Mapping[str, Any]:
    """One request of the login and what it was answered. Raises ``CommandError`` for a refusal."""
    headers = {"Accept": "application/json", HEADER: API_VERSIONS[0]}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(  # noqa: S310 - the scheme was checked
        base_url + PATH, data=data, headers=headers, method=method
    )
    with _told_to_wait(f"waiting for {place_of(base_url)} to answer"):
        answer = send(request, PATIENCE)
    if answer.status in (200, 204):
        return answer.json()
    raise _refusal(answer, base_url, kind, renewing=bool(bearer))


@contextmanager
def _told_to_wait(text: str) -> Iterator[None]:
    """Say what is waited for, if that takes long."""
    timer = threading.Timer(SILENCE, _say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _refusal(answer: Answer, base_url: str, kind: str, *, renewing: bool) -> CommandError:
    """Why there is no ticket, and what to do."""
    document = answer.json()
    slug, message = document.get("status"), document.get("message")
    said = printable(message) if isinstance(message, str) else ""
    retry_after = document.get("retry_after")
    wait = f" Try again in {retry_after} s." if isinstance(retry_after, int) else ""
    place = place_of(base_url)
    texts = {
        "token_rejected": "that ticket is not valid there: it was issued by nobody, or is long dead"
        if renewing
        else _WRONG[kind],
        "malformed_credentials": f"that is no {kind}: it is too long, or has characters that no {kind} has",
        "too_many_attempts": f"too many wrong {kind}s came from here.{wait}",
        "unavailable": f"{place} cannot answer now: a part of it is not available.{wait}",
        "tls_required": f"{place} takes logins by https only: give that address",
        "token_expired": "that ticket has expired: log in again",
        "token_revoked": "that ticket was revoked, or what it stood for is not valid any more: log in again",
        "forbidden": f"you may not log in at {place} like this: {said}",
        "bad_request": f"{place} does not do that: {said}.{wait}",
        "unsupported_api_version": f"{place} speaks another version of this: is jupyter-token-ws up to date?",
    }
    if 300 <= answer.status < 400:
        text = f"{place} sends logins elsewhere, where this does not follow: give the server's own address"
    elif answer.status in (404, 405):
        text = f"there is no login at {base_url}"
    elif isinstance(slug, str) and slug in texts:
        text = texts[slug]
    elif isinstance(slug, str) and slug in REASONS:
        text = f"{place} refused: {REASONS[slug].text}.{wait}"
    else:
        text = f"{place} answered {answer.status} {printable(answer.reason)}"
    return CommandError(text)


# -- the answer ----------------------------------------------------------------------------------------


def _tell(answer: Mapping[str, Any], base_url: str, *, link: bool) -> None:
    """Print the ticket, and on standard error for how long it is good and where."""
    token, expires_in, server = answer.get("token"), answer.get("expires_in"), answer.get("server")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise CommandError(f"{place_of(base_url)} answered with no ticket")
    there = server.get("base_url") if isinstance(server, Mapping) else None
    elsewhere = isinstance(there, str) and _at(there) != _at(base_url)
    if link:
        if elsewhere:
            raise CommandError(f"your server is {printable(str(there))}: ask there for a link")
        print(f"{base_url}{SIGN_IN}#token={token}")
    else:
        print(token)
    sys.stdout.flush()
    seconds = f"{expires_in:.0f} s" if isinstance(expires_in, (int, float)) else "a while"
    what = "opens one browser" if link else "is good"
    where = f" at {printable(str(there))}" if elsewhere else ""
    _say(f"it {what} for {seconds}{where}")
    if elsewhere:
        _say("your server is there, not where you logged in; your credential was not sent to it")
        if isinstance(server, Mapping) and server.get("ready") is False:
            _say("it is not running: start it first")


def _at(url: str) -> tuple[str, str]:
    """Where a server is, less http or https: it may not know that a proxy encrypts."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", url
    return parts.netloc.lower(), parts.path.rstrip("/")


def _see_that_it_signs_in(base_url: str) -> None:
    request = Request(base_url + SIGN_IN, headers={"Accept": "text/html"})  # noqa: S310 - checked
    if send(request).status != 200:
        raise CommandError(
            f"{place_of(base_url)} signs no browser in by a link: TokenWebSocketApp.link_ticket is False"
            " there"
        )


def _say(text: str) -> None:
    print(f"jupyter token-ws: {text}", file=sys.stderr, flush=True)
