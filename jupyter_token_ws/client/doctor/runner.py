"""The checks, in which order they are made, and one run of them.

A check begins as soon as those that it builds upon have ended, so that what has nothing to do with each other
is looked at at once. Each has a limit of time of its own, and all of them one together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from websockets.exceptions import WebSocketException

from jupyter_token_ws.client.errors import ClientError, IdentityError
from jupyter_token_ws.client.tls import TLSIdentity
from jupyter_token_ws.client.transport import Transport, UpgradeRefused, is_loopback
from jupyter_token_ws.protocol.auth import AuthPlugin

from . import credentials, network, tunnels, upgrades, web
from .case import Case, Options, SkipError, stripped, within
from .report import Finding, Report, Verdict, plain

Run = Callable[[Case], Awaitable["Finding | list[Finding]"]]


@dataclass(frozen=True)
class Check:
    """One check. ``about`` is what it asks, for people; ``after`` are those that it builds upon; ``limit`` is
    in seconds; ``failed`` is the likely cause where it ends in an error of the network."""

    name: str
    about: str
    run: Run
    after: tuple[str, ...] = ()
    limit: float = 5.0
    failed: str = "too_late"


CHECKS: tuple[Check, ...] = (
    Check("dns", "has the name an address?", network.dns, (), 3, "unknown_name"),
    Check("tcp", "does somebody listen there?", network.tcp, ("dns",), 4, "not_listening"),
    Check(
        "tls",
        "is the certificate for this name, of today, and by somebody who is trusted?",
        network.tls,
        ("tcp",),
        7,
        "not_tls",
    ),
    Check("http", "is there an answer?", web.http, ("tls",), 8, "not_http"),
    Check(
        "server",
        "is it the server that answers, and not who stands before it?",
        web.server,
        ("http",),
    ),
    Check(
        "host", "does the server get, and take, the Host that was asked for?", web.host, ("http",)
    ),
    Check("base_url", "is the URL the server's base, or a page of it?", web.base_url, ("http",)),
    Check("capabilities", "has the server the extension?", web.capabilities, ("http",)),
    Check("versions", "is there a version that both know?", web.versions, ("http",)),
    Check("round_trip", "how long takes a request?", web.round_trip, ("http",), 8),
    Check("clock", "do the clocks agree?", web.clock, ("round_trip",)),
    Check("login", "is each configured credential accepted?", credentials.login, ("http",), 8),
    Check(
        "websocket",
        "does an upgrade get through?",
        upgrades.websocket,
        ("login", "clock"),
        8,
        "no_upgrade",
    ),
    Check(
        "subprotocol",
        "is the token taken from the subprotocol?",
        upgrades.subprotocol,
        ("websocket",),
        8,
    ),
    Check(
        "header", "is the credential taken from the headers?", upgrades.header, ("websocket",), 8
    ),
    Check(
        "url", "does a token in the URL arrive? (a made-up one)", upgrades.url, ("websocket",), 8
    ),
    Check("close_codes", "do the server's reasons arrive?", upgrades.close_codes, ("websocket",)),
    Check(
        "tunnel_websocket",
        "does a tunnel over a websocket answer?",
        tunnels.tunnel_websocket,
        ("websocket",),
        8,
    ),
    Check(
        "event_stream",
        "do events come at once, and one by one?",
        tunnels.event_stream,
        ("websocket",),
        10,
        "held_back",
    ),
    Check(
        "post_size",
        "do bodies of 512 KiB arrive?",
        tunnels.post_size,
        ("event_stream",),
        10,
        "body_limit",
    ),
    Check(
        "token_size",
        "does the longest token arrive? (a made-up one)",
        upgrades.token_size,
        ("websocket",),
        8,
        "header_limit",
    ),
    Check(
        "message_size",
        "does a long message of a websocket arrive?",
        tunnels.message_size,
        ("websocket",),
        10,
        "message_limit",
    ),
    Check("idle", "does a silent connection live?", tunnels.idle, ("websocket",), 120, "idle_cut"),
    Check(
        "resume",
        "does a tunnel go on after a cut?",
        tunnels.resume,
        ("websocket",),
        12,
        "not_resumed",
    ),
)
"""All checks, in the order in which they are told."""

NAMES = tuple(check.name for check in CHECKS)

Progress = Callable[[int, int, Sequence[str]], None]
"""Told how many checks are done, of how many, and the names of those that are under way."""

_ERRORS = (
    ClientError,
    OSError,
    httpx.HTTPError,
    httpx.StreamError,
    WebSocketException,
    tunnels.EndedError,
)
"""By these a check may end; all else is a mistake of ours. (``TimeoutError`` is an ``OSError``.)"""


async def diagnose(
    url: str,
    *,
    plugins: Sequence[AuthPlugin[Any]] = (),
    secrets: Sequence[str] = (),
    tls: TLSIdentity | None = None,
    unix_socket: str | Path | None = None,
    plain_http: bool = False,
    trust_env: bool = True,
    options: Options | None = None,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Look at a server.

    Args:
        url: any page of it; user, query and fragment are not sent.
        plugins: the ways to sign in; each is tried by itself, and the first that is accepted is used.
        secrets: what must not be seen in the report, beside what the plugins get.
        tls: what its certificate is expected to be.
        unix_socket: where it listens, in place of host and port.
        plain_http: whether a credential may go unencrypted to another machine.
        trust_env: whether ``HTTP_PROXY`` and the like count.
        options: how long things may take.
        only: names of checks; those that they build upon are made too. None: all.
        skip: names of checks that are not made.
        progress: is told whenever a check begins or ends.

    Returns:
        What was found. Whatever is wrong with the server is a finding, and no error.
    """
    address = stripped(url)
    local = unix_socket is not None or is_loopback(address)
    # What needs no credential may be looked at over any connection.
    transport = Transport(
        address, tls=tls, unix_socket=unix_socket, plain_http=True, trust_env=trust_env
    )
    case = Case(
        address,
        transport,
        options or Options(),
        tls=tls,
        unix_socket=unix_socket,
        proxied=trust_env and not local and _proxied(address),
        exposed=not (transport.secure or local or plain_http),
        plugins=plugins,
        secrets=list(secrets),
    )
    try:
        return await examine(case, only=only, skip=skip, progress=progress)
    finally:
        for close in case.closing:
            with contextlib.suppress(*_ERRORS):
                await within(1.0, close())
        await transport.aclose()


def _proxied(url: str) -> bool:
    """Whether a proxy of the environment stands before an address."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


async def examine(
    case: Case,
    *,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    progress: Progress | None = None,
    checks: Sequence[Check] = CHECKS,
) -> Report:
    """Make the checks, all of them or some.

    Args:
        case: the server.
        only: names of checks; those that they build upon are made too. None: all.
        skip: names of checks that are not made.
        progress: is told whenever a check begins or ends.
        checks: the table; each comes after those that it builds upon.
    """
    began = time.monotonic()
    case.ended_at = began + case.options.deadline
    table = {check.name: check for check in checks}
    wanted = _with_before(only, table) if only else set(table)
    wanted -= set(skip)
    running: list[str] = []
    made: dict[str, asyncio.Task[list[Finding]]] = {}
    done = 0

    def told() -> None:
        if progress is not None:
            progress(done, len(wanted), tuple(running))

    async def make(check: Check) -> list[Finding]:
        nonlocal done
        before = [made[name] for name in _with_before(check.after, table) if name in made]
        if before:
            await asyncio.wait(before)
        running.append(check.name)
        told()
        try:
            return await _make(check, case)
        finally:
            running.remove(check.name)
            done += 1
            told()

    for check in checks:
        if check.name in wanted:
            made[check.name] = asyncio.create_task(make(check), name=check.name)
    try:
        await asyncio.gather(*made.values())
    finally:
        for task in made.values():
            task.cancel()
        await asyncio.gather(*made.values(), return_exceptions=True)
    findings: list[Finding] = []
    for check in checks:
        if check.name in made:
            findings += made[check.name].result()
        elif check.name in skip:
            findings.append(Finding(check.name, Verdict.SKIPPED, "as you asked"))
    return Report(case.url, case.base_url, findings, time.monotonic() - began)


async def _make(check: Check, case: Case) -> list[Finding]:
    began = time.monotonic()
    limit = min(check.limit, case.left)
    found: Finding | list[Finding]
    try:
        found = await within(limit, check.run(case)) if limit > 0 else _no_time(case)
    except SkipError as error:
        found = case.finding(Verdict.SKIPPED, str(error))
    except UpgradeRefused as error:
        # Whether websockets get through, and by which credential, is for other checks to say.
        seen = f"the websocket for it is refused: {upgrades.refusal(error)}"
        found = case.finding(Verdict.SKIPPED, seen)
    except IdentityError as error:
        found = case.broken(str(error), "certificate_other")
    except TimeoutError:
        found = case.broken(f"no answer in {time.monotonic() - began:.0f} s", "too_late")
    except _ERRORS as error:
        found = case.broken(str(error) or type(error).__name__, check.failed)
    took = time.monotonic() - began
    several = found if isinstance(found, list) else [found]
    if check.name == "http" and several[0].verdict is Verdict.BROKEN:
        case.unreachable = "there is no answer by HTTP"
    return [
        replace(
            each,
            check=each.check or check.name,
            seen=plain(each.seen, case.secrets),
            seconds=took,
        )
        for each in several
    ]


def _no_time(case: Case) -> Finding:
    return case.finding(Verdict.SKIPPED, "no time was left")


def _with_before(names: Collection[str], table: dict[str, Check]) -> set[str]:
    """Checks and those that they build upon."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += table[name].after
    return found
