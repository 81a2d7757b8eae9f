"""The options of commands by which a server is reached and signed in to, once for all of them.

No secret is taken as an argument: other people of this machine can read those.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlunsplit

from .preflight import LEFT_OUT, CommandError, local_server, read_line, split, token_in

if TYPE_CHECKING:
    from .client.server import Carrier
    from .client.tls import TLSIdentity
    from .protocol.auth import AuthPlugin

CARRIERS = ("auto", "websocket", "tunnel-websocket", "tunnel-eventstream")


@dataclass(frozen=True)
class Access:
    """How a server is to be reached.

    Args:
        url: the address as it was given, without user, query and fragment.
        plugins: ways to sign in, in their order; empty where none was given.
        secrets: what must not be printed.
        carrier: one of ``CARRIERS``.
        tls: who the server must be; ``None``: whoever the system trusts.
        unix_socket: path of the server's socket.
        plain_http: whether ``http`` to other machines was allowed.
    """

    url: str
    plugins: tuple[AuthPlugin[Any], ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    carrier: Carrier = "auto"
    tls: TLSIdentity | None = None
    unix_socket: Path | None = None
    plain_http: bool = False


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command's parser; ``read_access`` reads them."""
    given = parser.add_argument_group("signing in").add_mutually_exclusive_group()
    given.add_argument(
        "--token-env", metavar="NAME", help="the token or ticket is in this environment variable"
    )
    given.add_argument(
        "--token-stdin", action="store_true", help="the token or ticket is on standard input"
    )
    given.add_argument(
        "--password-stdin", action="store_true", help="the password is on standard input"
    )
    given.add_argument(
        "--local",
        action="store_true",
        help="the token is that of a server which you run on this machine, as `jupyter server list` shows",
    )
    given.add_argument(
        "--auth",
        metavar="NAMES",
        help="auth plugins, with commas between them, in place of those of JUPYTER_TOKEN_WS_AUTH",
    )
    way = parser.add_argument_group("the connection")
    way.add_argument(
        "--carrier",
        choices=CARRIERS,
        default="auto",
        help="what carries websockets (default: auto)",
    )
    way.add_argument(
        "--ca", type=Path, metavar="FILE", help="certificates that may sign the server's"
    )
    way.add_argument("--cert", type=Path, metavar="FILE", help="our own certificate")
    way.add_argument("--key", type=Path, metavar="FILE", help="its key")
    way.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="sha256/BASE64",
        help="the server's public key; may be given several times",
    )
    way.add_argument("--unix-socket", type=Path, metavar="PATH", help="where the server listens")
    way.add_argument(
        "--plain-http", action="store_true", help="allow http to another machine: all can be read"
    )


def positive(text: str) -> float:
    """A number of seconds above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"it is a number of seconds above 0, not {text!r}")
    return number


def uses_stdin(arguments: argparse.Namespace) -> bool:
    """Whether a secret is read from standard input."""
    return bool(arguments.token_stdin or arguments.password_stdin)


def read_access(arguments: argparse.Namespace) -> Access:
    """What the options say; reads the secret they name. Raises ``CommandError``."""
    needed()
    from .client.errors import ClientError

    parts = split(arguments.url)
    netloc = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme, netloc, parts.path or "/", "", ""))
    if arguments.local:
        url, token = local_server(url if url.endswith("/") else f"{url}/")
        return _access(arguments, url, *_by_token(token, "what that server tells"))
    try:
        return _access(arguments, url, *_plugins(arguments))
    except ClientError as error:
        raise CommandError(str(error)) from None


def needed() -> None:
    """See that what the client needs is installed. Raises ``CommandError`` with how to."""
    try:
        import cryptography
        import httpx
        import websockets  # noqa: F401 - whether they are there
    except ModuleNotFoundError as error:
        raise CommandError(
            f"this needs {error.name}: pip install 'jupyter-token-ws[client]'"
        ) from None
    del cryptography, httpx


Given = tuple[tuple["AuthPlugin[Any]", ...], tuple[str, ...]]
"""Plugins and the secrets in them."""


def _access(
    arguments: argparse.Namespace,
    url: str,
    plugins: tuple[AuthPlugin[Any], ...],
    secrets: tuple[str, ...],
) -> Access:
    return Access(
        url,
        plugins,
        secrets,
        arguments.carrier,
        _tls(arguments),
        arguments.unix_socket,
        arguments.plain_http,
    )


def _tls(arguments: argparse.Namespace) -> TLSIdentity | None:
    if arguments.key and not arguments.cert:
        raise CommandError("--key is of no use without --cert")
    if not (arguments.ca or arguments.cert or arguments.pin):
        return None
    from .client.tls import TLSIdentity

    return TLSIdentity(
        ca_bundle=arguments.ca,
        certificate=arguments.cert,
        key=arguments.key,
        pins=tuple(arguments.pin),
    )


def _plugins(arguments: argparse.Namespace) -> Given:
    """The ways to sign in that the options name; else those of the configuration."""
    if arguments.token_env:
        secret = os.environ.get(arguments.token_env, "")
        return _by_token(secret, f"the environment variable {arguments.token_env}")
    if arguments.token_stdin:
        return _by_token(read_line(), "standard input")
    if arguments.password_stdin:
        return _by_password(read_line())
    in_url = "" if arguments.auth else token_in(arguments.url)
    if in_url == LEFT_OUT:
        raise CommandError(
            "that address does not show the token: give it by --token-stdin or --token-env"
        )
    if in_url:
        return _by_token(in_url, "that address")
    return _configured(arguments.auth), ()


def _by_token(token: str, whence: str) -> Given:
    from .protocol.auth import TokenAuth

    return (TokenAuth(_checked(token, "token", whence)),), (token,)


def _checked(secret: str, kind: str, whence: str) -> str:
    if not secret:
        raise CommandError(f"there is no {kind} in {whence}")
    if not secret.isprintable():
        raise CommandError(f"what is in {whence} is no {kind}: it has control characters")
    return secret


def _by_password(password: str) -> Given:
    from .protocol.auth import CookieAuth, TicketAuth

    _checked(password, "password", "standard input")
    return (TicketAuth(password=password), CookieAuth(password)), (password,)


def _configured(names: str | None) -> tuple[AuthPlugin[Any], ...]:
    """Those that were named; else those of the environment's, or of the file's."""
    from .client.config import plugins_by_name, plugins_of

    return plugins_of() if names is None else plugins_by_name(names)
