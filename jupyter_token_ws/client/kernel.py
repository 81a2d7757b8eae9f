"""A kernel of a server: cells, questions, comms, interrupts, and what becomes of them when it is lost.

By the websocket that ``link`` keeps open. A kernel answers one request after the other: what has no answer
when a later one is answered was lost with a connection.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from jupyter_token_ws.protocol.kernel_messages import KernelMessage, new_message

from .comm import Comm
from .errors import (
    ClientError,
    KernelError,
    KernelGoneError,
    NoConnectionError,
    RefusedError,
    RequestLostError,
    TooLargeError,
)
from .execution import Execution, OnInput
from .link import Host, Link

T = TypeVar("T")

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

ASK_INTERVAL = 2.0
"""Seconds after which a kernel that was started anew is asked again: it may have been too early."""

MEET_AFTER = 0.1
"""Seconds that a running kernel has for a first cell before it is asked what it is."""


STATES = frozenset({"starting", "idle", "busy", "restarting", "dead"})
"""What a kernel, or its server, says of it (messaging protocol, "Kernel status"); all else is passed over."""

CLEAN_UP = 5.0
"""Seconds for which who is cancelled waits for a kernel that is being started, to shut it down again."""


@dataclass(frozen=True)
class Limits:
    """What a kernel's client keeps at most.

    Args:
        max_message: bytes of one message that may come.
        max_output: bytes of a cell's outputs.
        max_waiting: bytes of messages that wait for the reader of a cell, or of a comm.
        max_unsent: bytes that wait to be sent.
        max_requests: requests under way.
        max_comms: comms that are open.
    """

    max_message: int = 256 * 2**20
    max_output: int = 256 * 2**20
    max_waiting: int = 16 * 2**20
    max_unsent: int = 64 * 2**20
    max_requests: int = 1000
    max_comms: int = 1000


@dataclass
class _Asked:
    """A request that is no cell."""

    id: str
    reply: asyncio.Future[Mapping[str, Any]]
    sent: bool = False
    started: bool = False
    before: tuple[str, ...] = ()
    """Requests that must have been answered before this one, or else are lost."""
    replied: bool = False
    idle: bool = False

    def fail(self, error: Exception) -> None:
        """It ends so."""
        if not self.reply.done():
            self.reply.set_exception(error)
            self.reply.exception()


class Kernel:
    """A running kernel. ``server.kernel(…)`` makes one.

    ``id`` is the server's name for it; ``info`` what it says of itself (``kernel_info_reply``), empty until
    it has; ``state`` is ``starting``, ``idle``, ``busy``, ``restarting`` or ``dead``.
    """

    def __init__(
        self,
        host: Host,
        kernel_id: str,
        *,
        on_input: OnInput | None = None,
        limits: Limits | None = None,
        reconnect_timeout: float = 300.0,
    ) -> None:
        self.id = kernel_id
        self.info: Mapping[str, Any] = {}
        self._meeting: asyncio.Future[None] | None = None
        self.state = "starting"
        self.restarts = 0
        """How often it died, and the server started it anew, since we are connected."""
        self._host = host
        self._on_input = on_input
        self._limits = limits or Limits()
        self._link = Link(
            host,
            kernel_id,
            on_message=self._on_message,
            on_back=self._on_back,
            on_end=self._on_end,
            max_message=self._limits.max_message,
            max_unsent=self._limits.max_unsent,
            reconnect_timeout=reconnect_timeout,
        )
        self._pending: dict[str, Execution | _Asked] = {}
        self._comms: dict[str, Comm] = {}
        self._targets: dict[str, Callable[[Comm], None]] = {}
        self._waiting = 0
        self._room = asyncio.Event()
        self._dead: KernelGoneError | None = None

    def __repr__(self) -> str:
        return f"<Kernel {self.id} {self.state}>"

    # -- cells -------------------------------------------------------------------------------------

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
        """Send a cell. ``await`` what is returned for its result, or iterate over its messages.

        Args:
            code: the cell.
            silent: show nothing, count nothing.
            store_history: keep it in the kernel's history.
            stop_on_error: after an error, abort the cells that were sent already.
            allow_stdin: whether the cell may ask questions; by default where there is somebody to answer.
            on_input: answers questions, in place of the kernel's own.
            timeout: seconds after which it is interrupted.
            keep_outputs: put its outputs together for the result. Who reads the messages of a cell that
                shows more than ``max_output`` does without.

        Raises ``TooLargeError`` where too much waits to be sent, ``KernelGoneError``, and the error with
        which the connection ended.
        """
        answers = on_input or self._on_input
        request = self._message(
            "shell",
            "execute_request",
            {
                "code": code,
                "silent": silent,
                "store_history": store_history and not silent,
                "user_expressions": {},
                "allow_stdin": answers is not None if allow_stdin is None else allow_stdin,
                "stop_on_error": stop_on_error,
            },
        )
        execution = Execution(
            self,
            request,
            on_input=answers,
            max_output=self._limits.max_output,
            max_waiting=self._limits.max_waiting,
            keep_outputs=keep_outputs,
        )
        self._submit(request, execution)
        if timeout is not None:
            execution.limit(timeout)
        return execution

    async def complete(self, code: str, cursor: int | None = None) -> Mapping[str, Any]:
        """What may follow at the cursor (``complete_reply``)."""
        return await self._position("complete_request", code, cursor)

    async def inspect(
        self, code: str, cursor: int | None = None, *, detail: int = 0
    ) -> Mapping[str, Any]:
        """What is known of what stands at the cursor (``inspect_reply``)."""
        return await self._position("inspect_request", code, cursor, detail_level=detail)

    async def is_complete(self, code: str) -> Mapping[str, Any]:
        """Whether the code is a whole cell (``is_complete_reply``)."""
        return await self.ask("is_complete_request", {"code": code})

    async def history(self, count: int = 100, *, output: bool = False) -> Mapping[str, Any]:
        """The last cells of the kernel's history (``history_reply``)."""
        content = {"hist_access_type": "tail", "n": count, "output": output, "raw": True}
        return await self.ask("history_request", content)

    async def ask(self, kind: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send any other request on the shell channel, and return the content of its reply.

        Raises ``RequestLostError``, ``KernelGoneError``, ``KernelError`` where the kernel was restarted.
        """
        return await self.wait_for(self._ask(kind, content).reply)

    # -- the kernel --------------------------------------------------------------------------------

    async def interrupt(self) -> None:
        """Interrupt what runs. Raises ``KernelGoneError``."""
        await self._rest("POST", "/interrupt")

    async def restart(self, timeout: float = 60.0) -> None:
        """Start it anew, and wait until it answers. What runs ends with ``KernelError``, or, as servers
        interrupt first, with ``KeyboardInterrupt``.

        Args:
            timeout: seconds.

        Raises ``KernelGoneError``, ``KernelError`` where it does not answer in time.
        """
        under_way = [pending for pending in self._pending.values() if pending.sent]
        await self._rest("POST", "/restart")
        self._restarted(under_way)
        await self._answers(timeout)
        self._sound()  # what was sent meanwhile may have gone with the process

    async def shutdown(self) -> None:
        """Shut it down. Raises nothing where it is gone already."""
        await self._host.request("DELETE", self._path(), ok=(404,))
        self._on_end(KernelGoneError("the kernel was shut down"))

    async def aclose(self) -> None:
        """Let go of it; it runs on."""
        if self._meeting is not None:
            self._meeting.cancel()
            await asyncio.wait({self._meeting})
        await self._link.aclose()
        self._on_end(KernelError("the connection to the kernel was closed meanwhile"))

    # -- comms -------------------------------------------------------------------------------------

    def open_comm(
        self, target: str, data: Mapping[str, Any] | None = None, buffers: Sequence[bytes] = ()
    ) -> Comm:
        """Open a comm to a target that is registered in the kernel.

        Raises ``TooLargeError`` where ``max_comms`` are open.
        """
        if len(self._comms) >= self._limits.max_comms:
            raise TooLargeError(f"{self._limits.max_comms} comms are open (max_comms)")
        comm = self._comm(uuid4().hex, target)
        content = {"comm_id": comm.id, "target_name": target, "data": data or {}}
        self.send_comm("comm_open", content, buffers, None)
        self._comms[comm.id] = comm
        return comm

    def on_comm(self, target: str, callback: Callable[[Comm], None]) -> None:
        """Have the callback called with each comm that the kernel opens to that target.

        Those to other targets are left to other clients.
        """
        self._targets[target] = callback

    # -- for cells, comms and the connection -------------------------------------------------------

    async def open(self, timeout: float | None) -> None:
        """Connect, and wait until the kernel answers, ``timeout`` seconds at most; ``None``: one that runs
        need not be waited for, and may be busy for long."""
        await self._link.open()
        if timeout is None:
            self._meeting = asyncio.ensure_future(self._meet())
        else:
            await self._answers(timeout)

    async def _meet(self) -> None:
        """Ask what it is, beside what it is busy with. A first cell that is sent at once need not share
        the kernel with that question: it took a quarter longer."""
        await asyncio.sleep(MEET_AFTER)
        with suppress(ClientError):
            asked = self._ask("kernel_info_request", {}, channel="control")
            try:
                self.info = await asked.reply
            finally:
                self.forget(asked.id)
                asked.reply.cancel()

    async def wait_for(self, future: asyncio.Future[T]) -> T:
        """Wait for something that only messages bring: then no reader holds them up."""
        self._waiting += 1
        self._room.set()
        try:
            return await asyncio.shield(future)
        finally:
            self._waiting -= 1

    def has_room(self) -> None:
        """A reader has read on."""
        self._room.set()

    def answer(self, request: KernelMessage, text: str) -> None:
        """Answer a question of a cell."""
        content = {"value": text, "status": "ok"}
        message = new_message(
            "stdin", "input_reply", content, self._link.session, parent=request.header
        )
        self._link.send(message)

    def forget(self, msg_id: str) -> None:
        """A request has ended."""
        self._pending.pop(msg_id, None)
        self._room.set()

    def send_comm(
        self, kind: str, content: Mapping[str, Any], buffers: Sequence[bytes], metadata: Any
    ) -> None:
        """Send a comm's message."""
        self._check()
        message = new_message(
            "shell", kind, content, self._link.session, metadata=metadata, buffers=buffers
        )
        self._link.send(message)

    def forget_comm(self, comm_id: str) -> None:
        """A comm is closed."""
        self._comms.pop(comm_id, None)

    # -- requests ----------------------------------------------------------------------------------

    def _message(self, channel: str, kind: str, content: Mapping[str, Any]) -> KernelMessage:
        return new_message(channel, kind, content, self._link.session)

    def _check(self) -> None:
        if self._dead is not None:
            raise self._dead

    def _submit(self, request: KernelMessage, pending: Execution | _Asked) -> None:
        self._check()
        if len(self._pending) >= self._limits.max_requests:
            raise TooLargeError(
                f"{self._limits.max_requests} requests are under way (max_requests)"
            )

        def on_sent() -> None:
            pending.sent = True

        self._link.send(request, on_sent)
        self._pending[request.id] = pending

    def _ask(
        self,
        kind: str,
        content: Mapping[str, Any],
        *,
        channel: str = "shell",
        before: tuple[str, ...] = (),
    ) -> _Asked:
        request = self._message(channel, kind, content)
        asked = _Asked(request.id, asyncio.get_running_loop().create_future(), before=before)
        self._submit(request, asked)
        return asked

    async def _position(
        self, kind: str, code: str, cursor: int | None, **more: Any
    ) -> Mapping[str, Any]:
        at = len(code) if cursor is None else cursor
        return await self.ask(kind, {"code": code, "cursor_pos": at, **more})

    async def _answers(self, timeout: float) -> None:
        """Wait until the kernel answers; a busy one does so on the control channel only."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        asked: list[_Asked] = []
        try:
            while (left := end - loop.time()) > 0:
                asked += [
                    self._ask("kernel_info_request", {}, channel=channel)
                    for channel in ("shell", "control")
                ]
                replies = [each.reply for each in asked]
                done, _ = await asyncio.wait(
                    replies,
                    timeout=min(left, ASK_INTERVAL),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for future in done:
                    error = future.exception()
                    if isinstance(error, KernelGoneError) or not isinstance(
                        error, KernelError | None
                    ):
                        raise error
                    if error is None and future.result().get("status") != "aborted":
                        self.info = future.result()
                        return
                asked = [each for each in asked if not each.reply.done()]
        finally:
            for each in asked:
                self.forget(each.id)
                each.reply.cancel()
        raise KernelError(f"the kernel did not answer within {timeout:g} s (open_timeout)")

    def _path(self, more: str = "") -> str:
        return f"api/kernels/{quote(self.id, safe='')}{more}"

    async def _rest(self, method: str, more: str) -> None:
        answer = await self._host.request(method, self._path(more), ok=(404,))
        if answer.status == 404:
            raise KernelGoneError("there is no such kernel any more: it was shut down")

    # -- what comes --------------------------------------------------------------------------------

    async def _on_message(self, message: KernelMessage) -> None:
        pending = self._pending.get(message.parent_id)
        kind = message.type
        if kind == "status":
            self._on_state(str(message.content.get("execution_state")))
        elif kind == "shutdown_reply" and message.channel == "iopub":
            if message.content.get("restart"):
                self._restarted([each for each in self._pending.values() if each.sent])
        elif kind.startswith("comm_") and message.channel == "iopub":
            self._on_comm_message(message)
        if isinstance(pending, _Asked):
            self._on_answer(pending, message)
        elif pending is not None:
            pending.feed(message)
            while pending.holds_up and not self._waiting:
                self._room.clear()
                await self._room.wait()

    def _on_answer(self, asked: _Asked, message: KernelMessage) -> None:
        asked.started = True
        if message.channel in ("shell", "control"):
            asked.replied = True
            if not asked.reply.done():
                asked.reply.set_result(message.content)
        elif message.content.get("execution_state") == "idle":
            asked.idle = True
        else:
            return
        # Replies are in order among themselves, and so are outputs; neither waits for the other.
        for each in [self._pending[each] for each in asked.before if each in self._pending]:
            if isinstance(each, _Asked):
                lost = asked.replied
            else:
                lost = (asked.replied and not each.replied) or (asked.idle and not each.idle)
            if lost:
                self._lose(each)
        if asked.replied and (asked.idle or not asked.before):
            self.forget(asked.id)

    def _on_state(self, state: str) -> None:
        if state not in STATES:
            return
        self.state = state
        if state == "restarting":
            self.restarts += 1
            self._restarted([each for each in self._pending.values() if each.sent])
        elif state == "starting":
            # Somebody started it anew, or it is just up: what it had begun is gone, the rest it may do yet.
            self._restarted([each for each in self._pending.values() if each.started])
            self._sound()
        elif state == "dead":
            self._dead = KernelGoneError(
                "the kernel died, and could not be started anew: restart it, or start another"
            )
            self._fail_all(self._dead)

    def _restarted(self, under_way: Sequence[Execution | _Asked]) -> None:
        """What was under way went with the process."""
        self._dead = None
        error = KernelError(
            "the kernel was started anew: what ran in it, and its variables, are gone"
        )
        for pending in under_way:
            self._end(pending, error)
        for comm in list(self._comms.values()):
            comm.end(error)

    def _on_back(self, complete: bool) -> None:
        """There is another connection."""
        if not complete:
            for pending in [each for each in self._pending.values() if each.sent]:
                self._lose(pending)
        self._sound()

    def _sound(self) -> None:
        """Find out which of the requests under way the kernel does not know, or was not heard about."""
        before = tuple(each.id for each in self._pending.values() if each.sent)
        if before:
            with suppress(ClientError):  # who waits is told by other ways
                self._ask("kernel_info_request", {}, before=before)

    def _lose(self, pending: Execution | _Asked) -> None:
        self._end(
            pending,
            RequestLostError(
                "the connection was lost, and with it what the kernel answered: the request may have been"
                " done or not. It was not sent again"
            ),
        )

    def _end(self, pending: Execution | _Asked, error: Exception) -> None:
        pending.fail(error)
        self.forget(pending.id)

    def _on_end(self, error: ClientError) -> None:
        if isinstance(error, KernelGoneError):
            self.state, self._dead = "dead", error
        self._fail_all(error)

    def _fail_all(self, error: ClientError) -> None:
        for pending in list(self._pending.values()):
            self._end(pending, error)
        for comm in list(self._comms.values()):
            comm.end(error)

    # -- comms that come ---------------------------------------------------------------------------

    def _comm(self, comm_id: str, target: str, opened_with: KernelMessage | None = None) -> Comm:
        return Comm(
            self,
            comm_id,
            target,
            max_waiting=self._limits.max_waiting,
            opened_with=opened_with,
        )

    def _on_comm_message(self, message: KernelMessage) -> None:
        comm_id = str(message.content.get("comm_id"))
        if message.type == "comm_open":
            self._on_comm_open(message, comm_id)
            return
        comm = self._comms.get(comm_id)
        if comm is None:
            return
        if message.type == "comm_msg":
            comm.feed(message)
        elif message.type == "comm_close":
            comm.end()

    def _on_comm_open(self, message: KernelMessage, comm_id: str) -> None:
        target = str(message.content.get("target_name"))
        callback = self._targets.get(target)
        if callback is None or comm_id in self._comms:
            return
        comm = self._comm(comm_id, target, message)
        if len(self._comms) >= self._limits.max_comms:
            with suppress(ClientError):
                comm.close()
            return
        self._comms[comm_id] = comm
        try:
            callback(comm)
        except Exception as error:  # noqa: BLE001 - the messages of others are not to end by it
            context = {"message": f"on_comm({target!r}) failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


class Opening:
    """What ``server.kernel`` returns: ``async with`` it, or ``await`` it and close the kernel yourself."""

    def __init__(
        self,
        host: Host,
        name: str | None,
        kernel_id: str | None,
        path: str | None,
        timeout: float,
        options: Mapping[str, Any],
    ) -> None:
        self._host, self._name, self._id, self._path = host, name, kernel_id, path
        self._timeout = timeout
        self._options = options
        self._own = kernel_id is None
        self._kernel: Kernel | None = None

    def __await__(self) -> Generator[Any, None, Kernel]:
        return self._open().__await__()

    async def __aenter__(self) -> Kernel:
        self._kernel = await self._open()
        return self._kernel

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            # What ended the block is what is to be told.
            with suppress(*() if error is None else (ClientError,)):
                await self._close(kernel)

    async def _open(self) -> Kernel:
        kernel_id = self._id if self._id is not None else await self._started()
        kernel = Kernel(self._host, kernel_id, **self._options)
        try:
            await kernel.open(self._timeout if self._own else None)
        except BaseException:
            with suppress(ClientError):  # what is to be told is why it was not opened
                await self._close(kernel)
            raise
        return kernel

    async def _started(self) -> str:
        """``_start``; who is cancelled meanwhile leaves no kernel behind."""
        starting = asyncio.ensure_future(self._start())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait({starting}, timeout=CLEAN_UP)
            if starting.cancel() or starting.cancelled() or starting.exception() is not None:
                raise
            kernel = Kernel(self._host, starting.result())
            with suppress(ClientError, asyncio.TimeoutError):
                await asyncio.wait_for(kernel.shutdown(), CLEAN_UP)
            raise

    async def _start(self) -> str:
        """Have the server start one. Raises ``KernelError`` where what it answers is none."""
        wanted = {"name": self._name, "path": self._path}
        asked = {key: value for key, value in wanted.items() if value is not None}
        try:
            answer = await self._host.request("POST", "api/kernels", json=asked)
        except RefusedError as error:
            if error.status != 500:
                raise
            raise RefusedError(
                f"the server could not start the kernel {self._name or '(its default)'} (status 500):"
                " is there a kernelspec of that name? The server's log says more",
                500,
                slug=error.slug,
                advice=error.advice,
            ) from None
        try:
            kernel_id = json.loads(answer.body)["id"]
        except (ValueError, LookupError, TypeError, RecursionError):
            kernel_id = None
        if not isinstance(kernel_id, str):
            raise KernelError("the server answered with no kernel")
        return kernel_id

    async def _close(self, kernel: Kernel) -> None:
        await kernel.aclose()
        if self._own:
            with suppress(
                NoConnectionError
            ):  # it cannot be told; a kernel without clients is culled
                await kernel.shutdown()


def open_kernel(
    host: Host,
    name_or_id: str | None = None,
    *,
    id: str | None = None,  # noqa: A002 - so the server calls it
    path: str | None = None,
    on_input: OnInput | None = None,
    limits: Limits | None = None,
    open_timeout: float = 60.0,
    reconnect_timeout: float = 300.0,
) -> Opening:
    """What ``Server.kernel`` returns, with its arguments."""
    name = name_or_id
    if id is None and name is not None and _UUID.fullmatch(name):
        id, name = name, None  # noqa: A001
    options = {"on_input": on_input, "limits": limits, "reconnect_timeout": reconnect_timeout}
    return Opening(host, name, id, path, open_timeout, options)
