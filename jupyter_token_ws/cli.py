"""``jupyter token-ws``: the command line.

Each command is a function from parsed arguments to an exit status. Nothing secret is printed or taken
from the command line's output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ._version import __version__
from .preflight import CommandError, find_server


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

    _add_login(commands)
    _add_run(commands)
    _add_doctor(commands)

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


def _add_login(commands: Any) -> None:
    login = commands.add_parser(
        "login",
        allow_abbrev=False,
        help="get a ticket: a token of short life",
        description="Log in to a server and print a ticket, a token of short life, on standard output."
        " Without an option that says otherwise it asks for the password. No secret is taken as an"
        " argument: other people of this machine can read those.",
    )
    login.add_argument("url", help="the server's address, also one copied from a browser")
    login.add_argument(
        "--max-age", type=seconds, metavar="SECONDS", help="how long it is to be good at most"
    )
    login.add_argument(
        "--single-use", action="store_true", help="it opens one websocket, and nothing at REST"
    )
    login.add_argument(
        "--audience",
        action="append",
        metavar="PATH",
        help="it is good at this path below the server's base and what is below it; may be given"
        " several times",
    )
    login.add_argument(
        "--link",
        action="store_true",
        help="print a link instead, which signs one browser in, where TokenWebSocketApp.link_ticket is on",
    )
    what = login.add_mutually_exclusive_group()
    what.add_argument("--renew", action="store_true", help="print a new ticket in place of one")
    what.add_argument("--revoke", action="store_true", help="revoke a ticket and all its renewals")
    given = login.add_mutually_exclusive_group()
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
    login.set_defaults(run=run_login, parser=login)


def _add_run(commands: Any) -> None:
    from .cli_run import add_arguments

    run = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run code in a kernel of a server",
        description="Run code in a kernel of a server, and show what it shows as it comes. Exit status: 0"
        " well, 1 it failed, 130 after Ctrl-C, which interrupts it. No secret is taken as an argument: other"
        " people of this machine can read those.",
    )
    add_arguments(run)
    run.set_defaults(run=run_code, parser=run)


def _add_doctor(commands: Any) -> None:
    from .cli_doctor import add_arguments

    doctor = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="say what is wrong between here and a server",
        description="Look at a server and at what stands between, and say what is wrong, what it may come"
        " from, and what to change. It takes some seconds and changes nothing. Exit status: 0 where nothing"
        " is broken, 1 where something is.",
    )
    add_arguments(doctor)
    doctor.set_defaults(run=run_doctor, parser=doctor)


def seconds(text: str) -> float:
    """A positive number of seconds; errors name it after this function."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def run_login(arguments: argparse.Namespace) -> int:
    """Get a ticket, renew or revoke one."""
    from .cli_login import login

    return login(arguments)


def run_code(arguments: argparse.Namespace) -> int:
    """Run code in a kernel."""
    from .cli_run import run

    return run(arguments)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Look at a server."""
    from .cli_doctor import doctor

    return doctor(arguments)


def show_capabilities(arguments: argparse.Namespace) -> int:
    """Print a server's capabilities document."""
    document = find_server(arguments.url).capabilities
    print(json.dumps(document, indent=2))  # in ASCII, of which nothing steers a terminal
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from .demo import demo

    return demo(keep=arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
