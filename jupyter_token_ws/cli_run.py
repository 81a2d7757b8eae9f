"""``jupyter token-ws run``: runs code in a kernel of a server, and shows what it shows as it comes.

What it prints goes to standard output and standard error as it would here, values of expressions and other
outputs as text to standard output, an error's traceback to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .cli_access import Access, add_access, positive, read_access, uses_stdin
from .preflight import CommandError, bases_of, printable

if TYPE_CHECKING:
    from .client import Kernel, Server
    from .protocol.kernel_messages import KernelMessage

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

DEFAULT_TIMEOUT = 30.0
"""Seconds that a connection may take."""

MAX_CODE = 16 * 2**20
"""Bytes of code that is read from a file or standard input."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("url", help="the server's address, also one copied from a browser")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("code", nargs="?", help="what to run; - for standard input")
    what.add_argument("--file", type=Path, metavar="PATH", help="run what is in this file")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--kernel", metavar="NAME", help="start such a kernel (default: the server's own default)"
    )
    which.add_argument(
        "--kernel-id", metavar="ID", help="run it in this kernel, which goes on afterwards"
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long a connection may take (default: 30)",
    )
    add_access(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status: 0 well, 1 the code failed, 2 wrong arguments, 130 Ctrl-C.

    Raises ``CommandError`` where it did not come to an end.
    """
    parser: argparse.ArgumentParser = arguments.parser
    if arguments.code == "-" and uses_stdin(arguments):
        parser.error("standard input cannot be both the code and a secret")
    access = read_access(arguments)
    code = _code(arguments)
    taken = arguments.code == "-" or uses_stdin(arguments)
    from .client.errors import ClientError

    try:
        return asyncio.run(Running(access, None if taken else Answers()).run(code, arguments))
    except ClientError as error:
        raise CommandError(printable(str(error))) from None
    except EOFError:
        raise CommandError("the code asks for input, and there is no more") from None


def _code(arguments: argparse.Namespace) -> str:
    try:
        if arguments.file is not None:
            with arguments.file.open("rb") as file:
                data = file.read(MAX_CODE + 1)
        elif arguments.code == "-":
            data = sys.stdin.buffer.read(MAX_CODE + 1)
        else:
            return str(arguments.code)
        if len(data) > MAX_CODE:
            raise CommandError(f"that is more than {MAX_CODE} bytes of code")
        return str(data.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the code cannot be read: {error}") from None


class Running:
    """One run of the command.

    Args:
        access: how the server is reached.
        answers: what answers questions; ``None``: nobody.
    """

    def __init__(self, access: Access, answers: Answers | None) -> None:
        self._access = access
        self._answers = answers
        self._interrupted = False
        self._kernel: Kernel | None = None
        self._main: asyncio.Task[Any] | None = None
        self._interrupting: set[asyncio.Future[Any]] = set()

    async def run(self, code: str, arguments: argparse.Namespace) -> int:
        """Run the code; the exit status. Raises ``ClientError``."""
        self._main = asyncio.current_task()
        with suppress(NotImplementedError):  # Windows: Ctrl-C ends all at once
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.interrupt)
        try:
            return await self._run(code, arguments)
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            return INTERRUPTED

    def interrupt(self) -> None:
        """Ctrl-C: the first one is for the code, the next for this command."""
        if self._kernel is not None and not self._interrupted:
            interrupting = asyncio.ensure_future(self._interrupt(self._kernel))
            self._interrupting.add(interrupting)
        elif self._main is not None:
            self._main.cancel()
        self._interrupted = True

    async def _interrupt(self, kernel: Kernel) -> None:
        from .client.errors import ClientError

        try:
            await kernel.interrupt()
        except ClientError:
            if self._main is not None:
                self._main.cancel()

    async def _run(self, code: str, arguments: argparse.Namespace) -> int:
        from .client.execution import NO_STDIN

        on_input = None if self._answers is None else self._answers.ask
        async with (
            await self._connect(arguments.timeout) as server,
            server.kernel(arguments.kernel, id=arguments.kernel_id, on_input=on_input) as kernel,
        ):
            self._kernel = kernel
            cell = kernel.execute(code, keep_outputs=False)
            async for message in cell:
                show(message)
            # Where the reader stopped for the result's sake, what it says is what counts.
            result = await cell.result()
            self._kernel = None
            if self._interrupted:
                return INTERRUPTED
            if self._answers is None and (result.error or {}).get("ename") == NO_STDIN:
                raise CommandError(
                    "the code asks for input, and standard input has the code or a secret: give that by"
                    " --file or --token-env"
                )
            return 0 if result.status == "ok" else 1

    async def _connect(self, timeout: float) -> Server:
        """The server at the address, or above it: a page of the server's will do."""
        from .client import connect
        from .client.errors import RefusedError

        access = self._access
        bases = list(bases_of(access.url))
        while True:
            base_url = bases.pop(0)
            try:
                return await connect(
                    base_url,
                    auth=access.plugins,
                    carrier=access.carrier,
                    tls=access.tls,
                    unix_socket=access.unix_socket,
                    plain_http=access.plain_http,
                    open_timeout=timeout,
                )
            except RefusedError:
                if not bases:
                    raise


def show(message: KernelMessage) -> None:
    """Show an output."""
    content = message.content
    if message.channel != "iopub":
        return
    if message.type == "stream":
        out = sys.stderr if content.get("name") == "stderr" else sys.stdout
        _write(out, str(content.get("text", "")))
    elif message.type in ("execute_result", "display_data"):
        data = content.get("data")
        text = data.get("text/plain") if isinstance(data, dict) else None
        if text is not None:
            _write(sys.stdout, f"{text}\n")
    elif message.type == "error":
        lines = content.get("traceback")
        if not (isinstance(lines, list) and lines):
            lines = [f"{content.get('ename')}: {content.get('evalue')}"]
        text = "\n".join(map(str, lines))
        _write(sys.stderr, (text if sys.stderr.isatty() else _COLOURS.sub("", text)) + "\n")


def _write(out: TextIO, text: str) -> None:
    # What this terminal's encoding lacks is no reason to end.
    encoding = out.encoding or "utf-8"
    out.write(text.encode(encoding, "replace").decode(encoding))
    out.flush()


class Answers:
    """Lines of standard input, read when they are asked for and not before. (By a thread, one that waits for
    its line would keep the command from ending.)"""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._read = b""

    async def ask(self, prompt: str, password: bool) -> str:
        """Ask at the terminal. Raises ``EOFError``."""
        descriptor = sys.stdin.fileno() if self._descriptor is None else self._descriptor
        _write(sys.stdout, prompt)
        restore = _without_echo(descriptor) if password and os.isatty(descriptor) else None
        try:
            while b"\n" not in self._read:
                await _readable(descriptor)
                more = os.read(descriptor, 4096)
                if not more and not self._read:
                    raise EOFError
                self._read += more or b"\n"
        finally:
            if restore is not None:
                restore()
                _write(sys.stdout, "\n")
        line, _, self._read = self._read.partition(b"\n")
        return line.rstrip(b"\r").decode(errors="replace")


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, _set, ready)
    except (NotImplementedError, PermissionError):
        return  # a file, which does not wait, or Windows, where nothing else happens meanwhile
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _without_echo(descriptor: int) -> Callable[[], None]:
    """Have the terminal not show what is typed; what is returned undoes it."""
    try:
        import termios
    except ModuleNotFoundError:  # Windows
        raise CommandError(
            "the code asks for a password, and what is typed here is shown"
        ) from None
    before = termios.tcgetattr(descriptor)
    changed = list(before)
    changed[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)
    return lambda: termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
