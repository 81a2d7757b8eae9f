"""A cell on its way, and what came of it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_token_ws.protocol.kernel_messages import KernelMessage

from .errors import ExecutionError, KernelError, TooLargeError
from .inbox import EndError, Inbox
from .outputs import Outputs

if TYPE_CHECKING:
    from typing_extensions import Self

OnInput = Callable[[str, bool], str | Awaitable[str]]
"""Answers a question of the cell's: its prompt, and whether what is typed is secret. A plain function runs in
a thread."""

NO_STDIN = "StdinNotImplementedError"
"""How ipykernel calls the error of a cell that asks where nobody answers."""

MAX_QUESTIONS = 16
"""Questions of one cell that wait for an answer at once."""

GRACE = 10.0
"""Seconds that an interrupted cell is given to end."""


@dataclass(frozen=True)
class Result:
    """What came of a cell.

    Args:
        status: ``ok``, ``error``, or ``aborted`` where an earlier cell's error kept it from running.
        outputs: as a notebook keeps them (nbformat 4).
        execution_count: the cell's number; ``None`` where it has none.
        error: ``ename``, ``evalue`` and ``traceback`` where it failed.
        reply: the whole content of the kernel's reply.
    """

    status: str
    outputs: list[dict[str, Any]] = field(default_factory=list)
    execution_count: int | None = None
    error: Mapping[str, Any] | None = None
    reply: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def stdout(self) -> str:
        """What it printed."""
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        """What it printed to the error stream."""
        return self._printed("stderr")

    @property
    def text(self) -> str | None:
        """The value of its last expression, as text; ``None`` where it has none."""
        for output in reversed(self.outputs):
            if output["output_type"] == "execute_result":
                data = output["data"]
                value = data.get("text/plain") if isinstance(data, Mapping) else None
                return None if value is None else str(value)
        return None

    def raise_for_status(self) -> Self:
        """Raise ``ExecutionError`` unless all went well; else return the result."""
        if self.status == "ok":
            return self
        if self.status == "aborted":
            raise ExecutionError("the cell was not run, because an earlier one failed", self)
        error = self.error or {}
        what = f"{error.get('ename', self.status)}: {error.get('evalue', '')}".rstrip(": ")
        if error.get("ename") == NO_STDIN:
            what += " (nobody is there to answer: give on_input to server.kernel or to execute)"
        raise ExecutionError(f"the cell failed: {what}", self)

    def _printed(self, name: str) -> str:
        streams = [o for o in self.outputs if o["output_type"] == "stream" and o["name"] == name]
        return "".join(stream["text"] for stream in streams)


class Owner(Protocol):
    """The kernel, as a cell needs it."""

    def wait_for(self, future: asyncio.Future[Any]) -> Awaitable[Any]:
        """Wait for something that only the kernel's messages bring."""

    def has_room(self) -> None:
        """Messages may come again."""

    def answer(self, request: KernelMessage, text: str) -> None:
        """Answer a question."""

    async def interrupt(self) -> None:
        """Interrupt what runs."""

    def forget(self, msg_id: str) -> None:
        """No more of it is to come."""


class Execution:
    """A cell that was sent: ``async for message in execution`` gives its messages as they come, and
    ``await execution`` the result.

    Whoever reads the messages too slowly makes the kernel's connection wait, unless something else is waited
    for. Without a reader they are put together for the result only.
    """

    def __init__(
        self,
        owner: Owner,
        request: KernelMessage,
        *,
        on_input: OnInput | None,
        max_output: int,
        max_waiting: int,
        keep_outputs: bool = True,
    ) -> None:
        self.id = request.id
        self.sent = False
        """Whether the kernel may have got it."""
        self.started = False
        """Whether the kernel was heard about it."""
        self._owner = owner
        self._on_input = on_input
        self._outputs = Outputs(max_output) if keep_outputs else None
        self._too_large: TooLargeError | None = None
        self._reply: Mapping[str, Any] | None = None
        self._error: Mapping[str, Any] | None = None
        self.idle = False
        """Whether all of its output came."""
        self._read = False
        self._inbox: Inbox[KernelMessage] = Inbox(max_waiting, "max_waiting", owner.has_room)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._questions: deque[KernelMessage] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._late = ""

    def __repr__(self) -> str:
        return f"<Execution {self.id} {'done' if self.done else 'under way'}>"

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._ended.done()

    @property
    def replied(self) -> bool:
        """Whether the kernel replied."""
        return self._reply is not None

    @property
    def holds_up(self) -> bool:
        """Whether its reader should have time to read."""
        return self._read and self._inbox.full

    def __aiter__(self) -> AsyncIterator[KernelMessage]:
        """Its messages, those that came already first. Raises at the end what ``result`` raises."""
        self._read = True
        return self._messages()

    async def _messages(self) -> AsyncIterator[KernelMessage]:
        try:
            while True:
                yield await self._inbox.get()
        except EndError:
            return
        finally:
            self._read = False
            self._inbox.close()

    def __await__(self) -> Generator[Any, None, Result]:
        return self.result().__await__()

    async def result(self) -> Result:
        """Wait until the kernel replied and is idle again, so that nothing is missing, and return the result.

        A cell that failed is a result too (``raise_for_status``). Raises ``KernelGoneError``,
        ``RequestLostError``, ``KernelError`` where the kernel was restarted or the time was up,
        ``TooLargeError`` where there was more output than ``max_output``, or what ``on_input`` raised.
        """
        await self._owner.wait_for(self._ended)
        if self._too_large is not None:
            raise self._too_large
        reply = self._reply or {}
        status = str(reply.get("status", "error"))
        error = None
        if status == "error":
            error = self._error or {
                name: reply.get(name) for name in ("ename", "evalue", "traceback")
            }
        count = reply.get("execution_count")
        outputs = [] if self._outputs is None else self._outputs.all()
        return Result(status, outputs, count if isinstance(count, int) else None, error, reply)

    # -- for the kernel ----------------------------------------------------------------------------

    def limit(self, seconds: float) -> None:
        """Interrupt it unless it has ended by then."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._time_is_up, seconds)

    def feed(self, message: KernelMessage) -> None:
        """A message about it."""
        if self.done:
            return
        self.started = True
        self._inbox.put(message, message.size)
        kind = message.type
        if message.channel == "stdin":
            if kind == "input_request":
                self._ask(message)
        elif kind == "execute_reply":
            self._reply = message.content
            self._review()
        elif kind == "status":
            if message.content.get("execution_state") == "idle":
                self.idle = True
                self._review()
        else:
            self._show(message)

    def fail(self, error: Exception) -> None:
        """It ends so."""
        if self.done:
            return
        self._ended.set_exception(error)
        self._ended.exception()  # whoever asks is told; nobody has to
        self._end(error)

    def _show(self, message: KernelMessage) -> None:
        if message.type == "error":
            content = message.content
            self._error = {name: content.get(name) for name in ("ename", "evalue", "traceback")}
        if self._outputs is not None and self._too_large is None:
            try:
                self._outputs.feed(message)
            except TooLargeError as error:
                self._too_large = error

    def _review(self) -> None:
        if self._reply is None or not self.idle:
            return
        if self._late:
            self.fail(KernelError(self._late))
            return
        self._ended.set_result(None)
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._inbox.end(error)
        self._questions.clear()
        if self._timer is not None:
            self._timer.cancel()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._owner.forget(self.id)

    # -- questions ---------------------------------------------------------------------------------

    def _ask(self, request: KernelMessage) -> None:
        if len(self._questions) >= MAX_QUESTIONS:
            self.fail(TooLargeError(f"the cell asks more than {MAX_QUESTIONS} questions at once"))
            self._spawn(self._owner.interrupt())
            return
        self._questions.append(request)
        if len(self._questions) == 1:
            self._spawn(self._answer())

    async def _answer(self) -> None:
        while self._questions:
            request = self._questions[0]
            try:
                text = await self._ask_user(request)
            except Exception as error:  # noqa: BLE001 - it is the callback's, and the result tells it
                self.fail(error)
                await self._owner.interrupt()
                return
            if self._questions:  # else the cell has ended meanwhile
                self._questions.popleft()
                self._owner.answer(request, text)

    async def _ask_user(self, request: KernelMessage) -> str:
        if self._on_input is None:
            raise KernelError("the cell asks a question, and nobody is there to answer (on_input)")
        prompt, password = str(request.content.get("prompt", "")), request.content.get("password")
        answer: Any
        if inspect.iscoroutinefunction(self._on_input):
            answer = self._on_input(prompt, bool(password))
        else:
            answer = await _in_thread(self._on_input, prompt, bool(password))
        return str(await answer if inspect.isawaitable(answer) else answer)

    def _time_is_up(self, seconds: float) -> None:
        self._late = f"the cell took longer than {seconds:g} s (timeout), and was interrupted"
        self._spawn(self._interrupt())

    async def _interrupt(self) -> None:
        try:
            await asyncio.wait_for(self._owner.interrupt(), GRACE)
            await asyncio.sleep(GRACE)
        except asyncio.TimeoutError:
            pass
        except KernelError as error:
            self.fail(error)
        self.fail(KernelError(f"{self._late}; it did not end even so"))

    def _spawn(self, doing: Any) -> None:
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error if isinstance(error, Exception) else KernelError(str(error)))


async def _in_thread(function: OnInput, prompt: str, password: bool) -> Any:
    """Call it in a thread that keeps nothing from ending: whoever is asked may never answer."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Any] = loop.create_future()

    def tell(set_it: Callable[[Any], None], value: Any) -> None:
        if not answered.done():
            set_it(value)

    def ask() -> None:
        try:
            told = answered.set_result, function(prompt, password)
        except Exception as error:  # noqa: BLE001 - handed on
            told = answered.set_exception, error  # type: ignore[assignment]
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, *told)

    threading.Thread(target=ask, daemon=True).start()
    return await answered
