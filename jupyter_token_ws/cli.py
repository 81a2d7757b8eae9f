"""``jupyter token-ws``: the command line.

Each command is a function from parsed arguments to an exit status. Nothing secret is printed or taken
from the command line's output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from ._version import __version__
from .protocol.versions import API_VERSIONS, HEADER

CAPABILITIES_PATH = "api/token-ws/capabilities"
TIMEOUT = 10.0
"""Seconds that a server is given to answer."""

MAX_DOCUMENT_SIZE = 1 << 20
"""Bytes; a larger answer is no capabilities document."""


class CommandError(Exception):
    """Ends a command with one line on standard error and exit status 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 well, 1 failed, 2 wrong arguments."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except CommandError as error:
        print(f"jupyter token-ws: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jupyter token-ws",
        description="Tokens by websocket subprotocol for Jupyter servers.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    capabilities = commands.add_parser(
        "capabilities",
        help="show what a server can do",
        description="Show what a server can do: which ways it takes a token, which reasons it tells.",
    )
    capabilities.add_argument("url", help="the server's address, also one copied from a browser")
    capabilities.set_defaults(run=show_capabilities)

    demo = commands.add_parser(
        "demo",
        help="start servers and open kernel sockets every way",
        description="Start servers and a kernel, open kernel sockets every way, and show what a browser"
        " would see on a stock server and here.",
    )
    demo.add_argument(
        "--keep", action="store_true", help="leave a server running and print its address"
    )
    demo.set_defaults(run=run_demo)
    return parser


def show_capabilities(arguments: argparse.Namespace) -> int:
    """Print a server's capabilities document."""
    document = fetch_capabilities(arguments.url)
    print(json.dumps(document, indent=2, ensure_ascii=False))
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from .demo import demo

    return demo(keep=arguments.keep)


def fetch_capabilities(url: str) -> dict[str, Any]:
    """The capabilities of the server behind an address.

    ``url`` may be any page of the server: its path is shortened until something answers. Query and
    fragment, where a token may be, are not sent. Raises ``CommandError`` with what to do next.
    """
    missing, place = "", ""
    for candidate in _candidates(url):
        place = _place(candidate)
        found = _try(candidate)
        if not isinstance(found, str):
            return found
        missing = found
    raise CommandError(
        f"{place} has no capabilities ({missing}). Is jupyter-token-ws installed and enabled there?"
        " `jupyter server extension list` on that machine tells. If it is: is"
        " TokenWebSocketApp.enabled False in its configuration?"
    )


class _NoDocumentError(Exception):
    """The answer was something else."""


def _try(candidate: str) -> dict[str, Any] | str:
    """The document, or why there is none at this place."""
    try:
        return _fetch(candidate)
    except HTTPError as error:
        error.close()
        if error.code not in (401, 403, 404, 405):
            raise CommandError(f"{candidate} answered {error.code} {error.reason}") from None
        return f"answered {error.code}"
    except _NoDocumentError as error:
        return str(error)
    except (OSError, HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        hint = " Or does it speak http, not https?" if isinstance(reason, SSLError) else ""
        raise CommandError(
            f"no answer from {_place(candidate)}: {reason}. Is the server running, and is that its"
            f" address?{hint}"
        ) from None


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _candidates(url: str) -> Iterator[str]:
    """The places where the document may be, the longest path first."""
    if "://" not in url:
        url = f"http://{url}"
    if url.startswith(("ws://", "wss://")):
        url = f"http{url[2:]}"  # as the capabilities name it
    parts = _split(url)
    if parts is None:
        raise CommandError(
            "that is no address of a server. One looks like http://localhost:8888/ or"
            " https://hub.example.org/user/ann/"
        )
    netloc = parts.netloc.rpartition("@")[2]
    segments = [segment for segment in parts.path.split("/") if segment]
    for length in range(len(segments), -1, -1):
        base = "/".join(["", *segments[:length], ""])
        yield urlunsplit((parts.scheme, netloc, base + CAPABILITIES_PATH, "", ""))


def _split(url: str) -> SplitResult | None:
    """The parts of an address of a server, ``None`` for anything else."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a bad port or a bad IPv6 address
        return None
    return parts if valid else None


def _fetch(address: str) -> dict[str, Any]:
    request = Request(  # noqa: S310 - the scheme was checked
        address, headers={"Accept": "application/json", HEADER: API_VERSIONS[0]}
    )
    with urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
        body = response.read(MAX_DOCUMENT_SIZE + 1)
    try:
        document = json.loads(body[:MAX_DOCUMENT_SIZE])
    except ValueError:
        raise _NoDocumentError("what came was no JSON") from None
    if not isinstance(document, dict) or "api_versions" not in document:
        raise _NoDocumentError("what came was no capabilities document")
    return document


if __name__ == "__main__":
    sys.exit(main())
