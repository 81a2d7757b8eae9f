"""Kernels for scripts without asyncio: the same names, without ``await``. ``sync`` has the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jupyter_token_ws.protocol.kernel_messages import KernelMessage

from . import comm as _comm
from . import execution as _execution
from . import kernel as _kernel
from .execution import OnInput, Result

if TYPE_CHECKING:
    from typing_extensions import Self

    from .sync import Loop

T = TypeVar("T")


def call(loop: Loop, function: Callable[[], T]) -> T:
    """Call something in the loop's thread."""

    async def calling() -> T:
        return function()

    return loop.run(calling())


class Execution:
    """``client.Execution`` without ``await``; iterate over it for its messages."""

    def __init__(self, loop: Loop, execution: _execution.Execution) -> None:
        self._loop = loop
        self._execution = execution

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._execution.done

    def result(self) -> Result:
        """Wait for the result. Raises as ``client.Execution.result``."""
        return self._loop.run(self._execution.result())

    def __iter__(self) -> Iterator[KernelMessage]:
        messages = self._execution.__aiter__()

        async def following() -> KernelMessage | None:
            async for message in messages:
                return message
            return None

        while (message := self._loop.run(following())) is not None:
            yield message


class Comm:
    """``client.Comm`` without ``await``; iterate over it for its messages."""

    def __init__(self, loop: Loop, comm: _comm.Comm) -> None:
        self._loop = loop
        self._comm = comm

    @property
    def id(self) -> str:
        """Its name."""
        return self._comm.id

    @property
    def closed(self) -> bool:
        """Whether either side closed it."""
        return self._comm.closed

    @property
    def opened_with(self) -> KernelMessage | None:
        """The kernel's ``comm_open`` where the kernel opened it."""
        return self._comm.opened_with

    def send(
        self,
        data: Mapping[str, Any],
        buffers: Sequence[bytes] = (),
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Send data."""
        call(self._loop, lambda: self._comm.send(data, buffers, metadata=metadata))

    def recv(self) -> KernelMessage:
        """The next message."""
        return self._loop.run(self._comm.recv())

    def close(self, data: Mapping[str, Any] | None = None) -> None:
        """Close it, and tell the kernel."""
        call(self._loop, lambda: self._comm.close(data))

    def __iter__(self) -> Iterator[KernelMessage]:
        async def following() -> KernelMessage | None:
            async for message in self._comm:
                return message
            return None

        while (message := self._loop.run(following())) is not None:
            yield message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Kernel:
    """``client.Kernel`` without ``await``; ``with`` closes it, and shuts down one that was started for it."""

    def __init__(self, loop: Loop, opening: _kernel.Opening) -> None:
        self._loop = loop
        self._opening = opening
        self._kernel = loop.run(opening.__aenter__())

    @property
    def id(self) -> str:
        """The server's name for it."""
        return self._kernel.id

    @property
    def info(self) -> Mapping[str, Any]:
        """What it says of itself."""
        return self._kernel.info

    @property
    def state(self) -> str:
        """``starting``, ``idle``, ``busy``, ``restarting`` or ``dead``."""
        return self._kernel.state

    @property
    def restarts(self) -> int:
        """How often it died, and the server started it anew, since we are connected."""
        return self._kernel.restarts

    def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        stop_on_error: bool = True,
        allow_stdin: bool | None = None,
        on_input: OnInput | None = None,
        timeout: float | None = None,
        keep_outputs: bool = True,
    ) -> Execution:
        """``client.Kernel.execute``; ``result()`` of what is returned waits."""

        def execute() -> _execution.Execution:
            return self._kernel.execute(
                code,
                silent=silent,
                store_history=store_history,
                stop_on_error=stop_on_error,
                allow_stdin=allow_stdin,
                on_input=on_input,
                timeout=timeout,
                keep_outputs=keep_outputs,
            )

        return Execution(self._loop, call(self._loop, execute))

    def complete(self, code: str, cursor: int | None = None) -> Mapping[str, Any]:
        """What may follow at the cursor."""
        return self._loop.run(self._kernel.complete(code, cursor))

    def inspect(
        self, code: str, cursor: int | None = None, *, detail: int = 0
    ) -> Mapping[str, Any]:
        """What is known of what stands at the cursor."""
        return self._loop.run(self._kernel.inspect(code, cursor, detail=detail))

    def is_complete(self, code: str) -> Mapping[str, Any]:
        """Whether the code is a whole cell."""
        return self._loop.run(self._kernel.is_complete(code))

    def history(self, count: int = 100, *, output: bool = False) -> Mapping[str, Any]:
        """The last cells of the kernel's history."""
        return self._loop.run(self._kernel.history(count, output=output))

    def interrupt(self) -> None:
        """Interrupt what runs."""
        self._loop.run(self._kernel.interrupt())

    def restart(self, timeout: float = 60.0) -> None:
        """Start it anew, and wait until it answers."""
        self._loop.run(self._kernel.restart(timeout))

    def shutdown(self) -> None:
        """Shut it down."""
        self._loop.run(self._kernel.shutdown())

    def open_comm(
        self, target: str, data: Mapping[str, Any] | None = None, buffers: Sequence[bytes] = ()
    ) -> Comm:
        """Open a comm to a target that is registered in the kernel."""
        opened = call(self._loop, lambda: self._kernel.open_comm(target, data, buffers))
        return Comm(self._loop, opened)

    def on_comm(self, target: str, callback: Callable[[Comm], None]) -> None:
        """Have the callback called with each comm that the kernel opens to that target.

        It is called in the client's own thread: it puts the comm where another thread finds it, and asks
        nothing of the client itself.
        """

        def called(comm: _comm.Comm) -> None:
            callback(Comm(self._loop, comm))

        call(self._loop, lambda: self._kernel.on_comm(target, called))

    def close(self) -> None:
        """Let go of it; one that was started for this is shut down. Closing again changes nothing."""
        self._loop.run(self._opening.__aexit__(None, None, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._loop.run(self._opening.__aexit__(kind, error, trace))
