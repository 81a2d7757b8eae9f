"""The client for scripts without asyncio: the same names, without ``await``.

    with connect("http://localhost:8888/", auth=token) as server:
        print(server.request("GET", "api/kernels").body)

One thread runs the asyncio client; it ends with the server's ``close``. Several threads may use it at once,
as several tasks may use the asyncio client.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from jupyter_token_ws.protocol.auth import Response
from jupyter_token_ws.protocol.reasons import Advice

from . import server as _server
from . import sockets as _sockets
from .errors import NoConnectionError, SocketClosedError
from .execution import OnInput
from .kernel import Limits
from .server import MAX_MESSAGE_SIZE
from .sync_kernel import Comm, Execution, Kernel

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Comm", "Execution", "Kernel", "Server", "Socket", "connect"]

T = TypeVar("T")
P = ParamSpec("P")

CANCEL_DEADLINE = 5.0
"""Seconds that what was interrupted has to end."""


class Loop:
    """A thread with an event loop, in which coroutines are run for the threads that call."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="jupyter_token_ws.client", daemon=True
        )
        self._closing = threading.Lock()
        self._closed = False
        self._thread.start()

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for it. Ctrl-C, and whatever else interrupts the wait, cancels it."""
        ended = threading.Event()
        with self._closing:  # what came before the end is ended with it, and nothing comes after
            if self._closed or threading.current_thread() is self._thread:
                doing.close()
                raise NoConnectionError(
                    "the connection to the server is closed", advice=Advice.STOP
                )
            future: Future[T] = asyncio.run_coroutine_threadsafe(_noting(doing, ended), self._loop)
        try:
            return future.result()
        except BaseException:
            # What was interrupted is over before anything else happens: nothing half open is left.
            if future.cancel():
                ended.wait(CANCEL_DEADLINE)
            raise

    def close(self) -> None:
        """End what still runs, and the thread. Closing again changes nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # All of it in that thread: this one may have a loop that runs, as notebooks do.
        asyncio.run_coroutine_threadsafe(_end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _noting(doing: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    try:
        return await doing
    finally:
        ended.set()


async def _end() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


class Socket:
    """``client.Socket`` without ``await``; iterate over it for its messages."""

    def __init__(self, loop: Loop, socket: _sockets.Socket) -> None:
        self._loop = loop
        self._socket = socket

    @property
    def subprotocol(self) -> str | None:
        """What the server chose of the offer."""
        return self._socket.subprotocol

    @property
    def close_code(self) -> int | None:
        """Once closed: its code; 1006 for a lost connection."""
        return self._socket.close_code

    @property
    def reason(self) -> str | None:
        """Once closed: the reason's slug, or the bare text."""
        return self._socket.reason

    @property
    def advice(self) -> Advice | None:
        """Once closed: what to do next."""
        return self._socket.advice

    @property
    def retry_after(self) -> float | None:
        """Once closed: seconds to wait before the next try, where the server said so."""
        return self._socket.retry_after

    def send(self, message: str | bytes) -> None:
        """Send a message. Raises ``SocketClosedError``."""
        self._loop.run(self._socket.send(message))

    def send_eof(self) -> None:
        """Say that no more will be sent, where the carrier can. Raises ``UnsupportedError``."""
        self._loop.run(self._socket.send_eof())

    def recv(self, timeout: float | None = None) -> str | bytes:
        """The next message. Raises ``SocketClosedError``, and ``TimeoutError`` after so many seconds."""
        try:
            return self._loop.run(asyncio.wait_for(self._socket.recv(), timeout))
        except asyncio.TimeoutError:
            raise TimeoutError(f"nothing came within {timeout:g} s") from None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close; what was sent goes first."""
        self._loop.run(self._socket.close(code, reason))

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                message = self.recv()
            except SocketClosedError as error:
                if error.code in _sockets.DONE:
                    return
                raise
            yield message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Server:
    """``client.Server`` without ``await``; ``with`` closes it."""

    def __init__(self, loop: Loop, server: _server.Server) -> None:
        self._loop = loop
        self._server = server

    @property
    def base_url(self) -> str:
        """The server's base URL, which ends in ``/``."""
        return self._server.base_url

    @property
    def capabilities(self) -> Mapping[str, Any] | None:
        """Its document (contract section 4), ``None`` for a server without the extension."""
        return self._server.capabilities

    @property
    def api_version(self) -> str | None:
        """What both sides speak."""
        return self._server.api_version

    @property
    def carrier(self) -> str:
        """What carries new websockets."""
        return self._server.carrier

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        ok: Sequence[int] = (),
    ) -> Response:
        """``client.Server.request``."""
        return self._loop.run(
            self._server.request(
                method, path, json=json, body=body, headers=headers, timeout=timeout, ok=ok
            )
        )

    def websocket(
        self,
        path: str,
        subprotocols: Sequence[str] = (),
        *,
        max_size: int = MAX_MESSAGE_SIZE,
        timeout: float | None = None,
    ) -> Socket:
        """``client.Server.websocket``."""
        opened = self._loop.run(
            self._server.websocket(path, subprotocols, max_size=max_size, timeout=timeout)
        )
        return Socket(self._loop, opened)

    def kernel(
        self,
        name_or_id: str | None = None,
        *,
        id: str | None = None,  # noqa: A002 - so the server calls it
        path: str | None = None,
        on_input: OnInput | None = None,
        limits: Limits | None = None,
        open_timeout: float = 60.0,
        reconnect_timeout: float = 300.0,
    ) -> Kernel:
        """``client.Server.kernel``: the kernel, which answers already; ``with`` closes it."""
        opening = self._server.kernel(
            name_or_id,
            id=id,
            path=path,
            on_input=on_input,
            limits=limits,
            open_timeout=open_timeout,
            reconnect_timeout=reconnect_timeout,
        )
        return Kernel(self._loop, opening)

    def close(self) -> None:
        """Close what is open, and end the thread. Closing again changes nothing."""
        try:
            self._loop.run(self._server.aclose())
        except NoConnectionError:
            return  # closed before
        finally:
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _options_of(
    twin: Callable[P, object],
) -> Callable[[Callable[..., Server]], Callable[P, Server]]:
    """Gives a function the parameters of its twin, for type checkers."""

    def same(function: Callable[..., Server]) -> Callable[P, Server]:
        return function

    return same


@_options_of(_server.connect)
def connect(*arguments: Any, **options: Any) -> Server:
    """``client.connect`` for scripts; the options are the same. Raises the same errors."""
    connecting = _server.connect(*arguments, **options)
    loop = Loop()
    try:
        return Server(loop, loop.run(connecting.opened()))
    except BaseException:
        loop.close()
        raise
