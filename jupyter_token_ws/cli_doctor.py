"""``jupyter token-ws doctor``: looks at a server and at what is between, and says what is wrong.

The findings go to standard output, as text or as JSON; how far it is goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from .cli_access import Access, add_access, needed, positive, read_access

if TYPE_CHECKING:
    from .client.doctor import Report

DEFAULT_IDLE = 10.0
"""Seconds of silence."""

MAX_IDLE = 3600.0

DEADLINE = 28.0
"""Seconds of the whole run, without a longer silence, where nobody says otherwise."""

_TUNNELS = ("event_stream", "post_size")
_OTHERS: dict[str, tuple[str, ...]] = {
    "websocket": ("tunnel_websocket", "message_size", "resume", *_TUNNELS),
    "tunnel-websocket": _TUNNELS,
    "tunnel-eventstream": (
        "websocket",
        "subprotocol",
        "header",
        "url",
        "close_codes",
        "tunnel_websocket",
        "token_size",
        "message_size",
    ),
}
"""Checks that are about other carriers than the one that was asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("url", help="the server's address, also one copied from a browser")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--idle",
        type=_idle,
        default=DEFAULT_IDLE,
        metavar="SECONDS",
        help="how long the connection is silent that is to survive it (default: 10)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CHECK",
        help="make this check, and those that it builds upon; may be given several times",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="CHECK",
        help="leave this check out; may be given several times",
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        metavar="SECONDS",
        help="how long all of it may take (default: 28, and more by as much as --idle is above 10)",
    )
    add_access(parser)


def _idle(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= MAX_IDLE:
        raise argparse.ArgumentTypeError(f"it is a number of seconds from 0 to {MAX_IDLE:g}")
    return number


def doctor(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status: 0 nothing is broken, 1 something is. Raises
    ``CommandError``."""
    needed()
    from .client.doctor import NAMES

    parser: argparse.ArgumentParser = arguments.parser
    for name in [*arguments.only, *arguments.skip]:
        if name not in NAMES:
            parser.error(f"there is no check {name!r}; there are {', '.join(NAMES)}")
    access = read_access(arguments)
    progress = Progress(sys.stderr)
    try:
        report = asyncio.run(_examine(arguments, access, progress))
    finally:
        progress.end()
    print(json.dumps(report.document(), indent=2) if arguments.json else report.text())
    return report.exit_code


async def _examine(arguments: argparse.Namespace, access: Access, progress: Progress) -> Report:
    from .client.doctor import Options, diagnose

    deadline = arguments.timeout or DEADLINE + max(0.0, arguments.idle - DEFAULT_IDLE)
    return await diagnose(
        access.url,
        plugins=access.plugins,
        secrets=access.secrets,
        tls=access.tls,
        unix_socket=access.unix_socket,
        plain_http=access.plain_http,
        options=Options(idle=arguments.idle, deadline=deadline),
        only=arguments.only,
        skip=[*arguments.skip, *_OTHERS.get(access.carrier, ())],
        progress=progress,
    )


class Progress:
    """Says how far it is: on a terminal in one line that changes, else in a line for each check that ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._changes = stream.isatty()
        self._running: Sequence[str] = ()
        self._shown = False

    def __call__(self, done: int, total: int, running: Sequence[str]) -> None:
        """So many checks are done, and these are under way."""
        ended = [name for name in self._running if name not in running]
        self._running = running
        if self._changes:
            line = f"{done} of {total}: {', '.join(running)}"
            self._write(f"\r\x1b[K{line[:78]}")
            self._shown = True
        else:
            for name in ended:
                self._write(f"{done} of {total}: {name}\n")

    def end(self) -> None:
        """Leave an empty line for what follows."""
        if self._shown:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
