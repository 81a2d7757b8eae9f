"""What the checks of one run share: the address, the way there, and what earlier checks found out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from jupyter_token_ws.client.auth import Grant
from jupyter_token_ws.client.tls import TLSIdentity
from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.protocol.auth import AuthPlugin, Request, Response
from jupyter_token_ws.protocol.clients import addresses
from jupyter_token_ws.protocol.versions import API_VERSIONS, HEADER

from .report import Finding, Verdict, plain

MADE_UP = "made-up-by-the-doctor"
"""What stands for a token where a real one has no business: it is nobody's."""

MAX_ANSWER = 1 << 20
"""Bytes of an answer that is read."""


class Guess(Enum):
    """How the given address stands to the server's base."""

    EXACT = "it is"
    PAGE = "a page of it"
    WRONG = "another"


class SkipError(Exception):
    """A check cannot be made; its text says why."""


@dataclass(frozen=True)
class Options:
    """How long things may take, in seconds.

    Args:
        idle: how long the connection is silent that is to survive it.
        deadline: of the whole run.
        slow_round_trip: one that takes longer is slow.
        max_skew: clocks that differ by more are called wrong.
    """

    idle: float = 10.0
    deadline: float = 28.0
    slow_round_trip: float = 1.0
    max_skew: float = 10.0


@dataclass
class Case:
    """The server that is examined, and what is known of it so far.

    ``plugins`` are the ways to sign in, each tried by itself; ``secrets`` are never to be seen in a finding.
    """

    url: str
    transport: Transport
    options: Options
    tls: TLSIdentity | None = None
    unix_socket: str | Path | None = None
    proxied: bool = False
    """Whether a proxy that the environment names is on the way."""
    exposed: bool = False
    """Whether others could read a credential, and nobody allowed that."""
    plugins: Sequence[AuthPlugin[Any]] = ()
    secrets: list[str] = field(default_factory=list)
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What is to be done when the run is over."""

    addresses: Sequence[tuple[str, int]] = ()
    unreachable: str = ""
    """Why nothing is to be asked there."""
    answer: Response | None = None
    """The first, or the one that says why there is no other."""
    base_url: str = ""
    guess: Guess = Guess.EXACT
    said: str = ""
    """The path that a server which was not found thinks it is at."""
    capabilities: Mapping[str, Any] | None = None
    skew: tuple[float, float] | None = None
    """The server's clock less ours, and how far off that may be."""
    front: Mapping[str, str] = field(default_factory=dict)
    """What a proxy in front wants to see in every request."""
    grant: Grant | None = None
    """The credential that is accepted."""
    everybody: bool = False
    """Whether none is needed."""
    upgrades: bool = False
    close: tuple[int, str] | None = None
    """How the server closed the websocket of somebody without a credential."""
    streams: bool = False
    """Whether event streams come as they should."""
    ended_at: float = field(default_factory=lambda: time.monotonic() + 28.0)

    @property
    def parts(self) -> SplitResult:
        """The given address."""
        return urlsplit(self.url)

    @property
    def secure(self) -> bool:
        """Whether it is https."""
        return self.parts.scheme == "https"

    @property
    def host(self) -> str:
        """The host's name."""
        return self.parts.hostname or ""

    @property
    def port(self) -> int:
        """The port."""
        return self.parts.port or (443 if self.secure else 80)

    @property
    def left(self) -> float:
        """Seconds until the whole run has to be over."""
        return max(0.0, self.ended_at - time.monotonic())

    @property
    def sockets_url(self) -> str:
        """What websockets' addresses begin with."""
        return addresses(self.base_url, self.capabilities).ws_url

    def finding(self, verdict: Verdict, seen: str, cause: str = "") -> Finding:
        """A finding of the check that is running; the runner writes its name and time into it."""
        return Finding("", verdict, plain(seen, self.secrets), cause)

    def ok(self, seen: str) -> Finding:
        """All is well."""
        return self.finding(Verdict.OK, seen)

    def slow(self, seen: str, cause: str) -> Finding:
        """It works, and badly."""
        return self.finding(Verdict.SLOW, seen, cause)

    def broken(self, seen: str, cause: str) -> Finding:
        """It does not work."""
        return self.finding(Verdict.BROKEN, seen, cause)

    def authorization(self) -> Grant:
        """The credential that was accepted. Raises ``SkipError`` without one."""
        self.base()
        if self.grant is None:
            raise SkipError("it needs a credential that is accepted")
        return self.grant

    def base(self) -> str:
        """The server's base URL. Raises ``SkipError`` where none was found."""
        if not self.base_url:
            raise SkipError("no server was found")
        return self.base_url

    def part(self, name: str) -> Mapping[str, Any]:
        """An object of the capabilities. Raises ``SkipError`` where the server has none of that name."""
        self.base()
        if self.capabilities is None:
            raise SkipError("the server has no capabilities")
        part = self.capabilities.get(name)
        if not isinstance(part, dict):
            raise SkipError(f"the server's capabilities have no {name!r}")
        return part

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        timeout: float = 5.0,
    ) -> Response:
        """One request, of which no redirect is followed. Raises ``ClientError``, and ``TimeoutError``."""
        usual = {HEADER: API_VERSIONS[0], "Accept": "application/json"}
        shown = {**usual, **self.front, **(headers or {})}
        request = Request(method, url, shown, body)
        # Ahead of the transport's own limit, which raises the error of a lost connection.
        async with limited(min(timeout, self.left)):
            return await self.transport.request(request, timeout=2 * timeout, max_size=MAX_ANSWER)


def stripped(url: str) -> str:
    """An address without user, password, query and fragment: what is left is no secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", "", ""))


def bases_of(url: str) -> Iterator[str]:
    """What may be the base of a page's address: the longest path first."""
    parts = urlsplit(url)
    segments = [segment for segment in parts.path.split("/") if segment]
    for length in range(len(segments), -1, -1):
        path = "/".join(["", *segments[:length], ""])
        yield urlunsplit((parts.scheme, parts.netloc, path, "", ""))


async def within(seconds: float, waiting: Any) -> Any:
    """``asyncio.wait_for``, whose error is the built-in ``TimeoutError`` with every Python."""
    try:
        return await asyncio.wait_for(waiting, seconds)
    except asyncio.TimeoutError:
        raise TimeoutError from None


@asynccontextmanager
async def limited(seconds: float) -> AsyncIterator[None]:
    """Like ``within``, and what is in the block stays in this task, as context managers need that are entered
    there. (``asyncio.timeout`` is not in all Pythons.) Raises ``TimeoutError``."""
    task = asyncio.current_task()
    late = False

    def cancel() -> None:
        nonlocal late
        late = True
        if task is not None:
            task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not late:
            raise
        getattr(task, "uncancel", int)()  # Python 3.11 counts
        raise TimeoutError from None
    finally:
        timer.cancel()
