"""``StreamHandler``: the same coroutine behind a socket of its own and behind a stream of a tunnel."""

from __future__ import annotations

import asyncio
import builtins
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from socket import AF_UNIX
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.websocket import WebSocketClosedError

import jupyter_token_ws
from jupyter_token_ws import (
    MessageStream,
    Refused,
    StreamClosedError,
    StreamHandler,
    StreamInfo,
    TokenWebSocketHandler,
)
from jupyter_token_ws.guard.addresses import UNIX, peer
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.protocol.subprotocols import REASON_MARKER, offer_subprotocols
from tests.support.authorizers import NoStreams
from tests.support.door import Door, errors, refusals
from tests.support.knock import Knock, bearing
from tests.support.tunnel_carriers import FarEvents, FarSocket
from tests.support.tunnel_peer import Link, carrier_request
from tests.support.waiting import auntil

Script = Callable[[MessageStream, StreamInfo], Awaitable[Any]]

BOTH = pytest.mark.parametrize("over", ["socket", "tunnel"])


class Played:
    """A ``StreamHandler`` that plays a script, and what became of each client that came."""

    def __init__(self, door: Door, script: Script, **members: Any) -> None:
        self.door = door
        self.results: list[Any] = []
        self.handlers: list[Any] = []
        played = self

        class Playing(StreamHandler):
            async def on_stream(self, stream: MessageStream, info: StreamInfo) -> None:
                played.handlers.append(self)
                try:
                    played.results.append(await script(stream, info))
                except BaseException as error:
                    played.results.append(error)
                    raise

        self.kind = type("Playing", (Playing,), members)
        door.add("played", self.kind)

    @property
    def handler(self) -> Any:
        (handler,) = self.handlers
        return handler

    async def result(self) -> Any:
        """What the script returned or raised."""
        await auntil(lambda: self.results, "the script's end")
        (result,) = self.results
        await auntil(self.handler._task.done, "the task's end")
        return result


class Far:
    """A client, by either way. The tests' ``visit`` makes one, and closes what it leaves open."""

    def __init__(self, door: Door, over: str) -> None:
        self.door, self.over = door, over
        self.link: Link | None = None
        self.socket: Any = None

    async def open(self, path: str = "played") -> Any:
        if self.over == "socket":
            offer = offer_subprotocols(token=self.door.token)
            self.socket = await self.door.knock(path, offer)
            assert self.socket.status == 101
        else:
            carrier = carrier_request(Authorization=f"token {self.door.token}", Host=self.door.host)
            self.link = Link(self.door.app.web_app, carrier, self.door.base)
            self.socket = await self.link.open(path).wait_open()
            assert self.socket.opened
        return self.socket

    async def leave(self, code: int | None) -> None:
        """Close with a code, or without."""
        if isinstance(self.socket, Knock):
            await self.socket.send(b"" if code is None else code.to_bytes(2, "big"), opcode=8)
        else:
            await self.socket.close(code)

    def cut(self) -> None:
        """Be gone without a word."""
        if self.link is None:
            self.socket.vanish()
        else:
            self.link.server.close_tunnel()
            self.link.streams.moved()

    async def closed(self) -> tuple[int | None, str]:
        await self.socket.wait_closed()
        return self.socket.code, self.socket.reason.partition(":")[0]


@pytest.fixture
def visit(door: Door, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Any:
    made: list[Far] = []

    def visit(over: str) -> Far:
        made.append(Far(door, over))
        return made[-1]

    yield visit
    for far in made:
        if isinstance(far.socket, Knock):
            jp_asyncio_loop.run_until_complete(far.socket.close())


@pytest.fixture
def come(door: Door, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Any:
    """Makes a client of a tunnel over a real carrier, of which nothing stays."""
    made: list[Any] = []

    def come(kind: Any) -> Any:
        made.append(kind(door))
        return made[-1]

    yield come
    for far in made:
        if isinstance(far, FarEvents):
            jp_asyncio_loop.run_until_complete(far.leave())


async def collect(stream: MessageStream, info: StreamInfo) -> Any:
    """All messages, and how the loop ended."""
    heard = []
    try:
        async for message in stream:
            heard.append(message)  # noqa: PERF401 - those before an error count
    except StreamClosedError as error:
        return heard, error.code
    return heard, "end"


async def echo(stream: MessageStream, info: StreamInfo) -> None:
    async for message in stream:
        await stream.send(message)


# -- messages --------------------------------------------------------------------------------------

MESSAGES = ("ä", b"\xff\x00", "", b"", "x" * 1_500_000, b"y" * 600_000)


@BOTH
async def test_messages_arrive_as_they_are_and_in_order(over, door, visit):
    played = Played(door, echo)
    far = visit(over)
    socket = await far.open()
    heard = []
    for message in MESSAGES:
        await socket.send(message)
        heard.append(await socket.wait_message())
    assert heard == list(MESSAGES)
    await far.leave(1000)
    assert await far.closed() == (1000, "")
    assert await played.result() is None
    await door.settled()


@BOTH
async def test_what_is_no_message_is_not_sent(over, door, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> None:
        for wrong in (None, {"a": 1}, 1):
            with pytest.raises(TypeError):
                await stream.send(wrong)  # type: ignore[arg-type]
        await stream.send("done")

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    assert await socket.wait_message() == "done"
    assert await far.closed() == (1000, "")
    assert await played.result() is None


# -- how it ends -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("code", "end"), [(1000, "end"), (None, "end"), (1001, 1001), (4003, 4003), ("cut", 1006)]
)
async def test_the_loop_ends_when_the_client_is_through_and_fails_otherwise(
    over, code, end, door, visit
):
    played = Played(door, collect)
    far = visit(over)
    socket = await far.open()
    for n in range(3):
        await socket.send(str(n))
    await auntil(lambda: played.handlers, "the handler")
    if code == "cut":
        # What came before is read first; that it came at all is certain only where it was answered.
        await auntil(lambda: played.handler._protocol._message_bytes_in == 3, "the messages")
        far.cut()
    else:
        await far.leave(code)
    assert await played.result() == (["0", "1", "2"], end)
    await door.settled()


@BOTH
async def test_what_came_before_a_loss_is_read_first(over, door, visit):
    may_read = asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        await may_read.wait()
        return await collect(stream, info)

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    for n in range(5):
        await socket.send(str(n))
    await far.leave(4001)
    if over == "tunnel":
        await far.closed()
    may_read.set()
    assert await played.result() == ([str(n) for n in range(5)], 4001)


@BOTH
@pytest.mark.parametrize("how", ["leaves", "cut", "closed here"])
async def test_a_write_after_the_end_raises_one_error(over, how, door, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        if how == "closed here":
            await stream.close()
        else:
            with suppress(StreamClosedError):
                async for _ in stream:
                    pass
        codes = []
        for write in (stream.send("late"), stream.send_eof(), stream.send(b"late")):
            with pytest.raises(StreamClosedError) as raised:
                await write
            codes.append(raised.value.code)
        await stream.close("not_found")  # changes nothing
        return codes

    played = Played(door, script)
    far = visit(over)
    await far.open()
    await auntil(lambda: played.handlers, "the handler")
    if how == "leaves":
        await far.leave(1000)
    elif how == "cut":
        far.cut()
    expected = 1006 if how == "cut" else 1000
    assert await played.result() == [expected] * 3
    if how != "cut":
        assert (await far.closed())[0] == 1000


@BOTH
async def test_a_write_that_waits_fails_when_the_client_is_lost(over, door, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        try:
            while True:
                await stream.send(b"x" * 1_000_000)
        except StreamClosedError as error:
            return error.code

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    if over == "tunnel":
        socket.read(False)
    await auntil(lambda: played.handlers and played.handler._protocol.stream.writing(), "a wait")
    far.cut()
    assert await played.result() == 1006


@BOTH
async def test_what_is_not_read_when_it_is_closed_here_is_dropped(over, door, visit):
    closed = asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        await auntil(lambda: stream._message is not None, "a message")
        await stream.close("unavailable", 5)
        closed.set()
        with pytest.raises(StreamClosedError) as raised:
            await stream.__anext__()
        return raised.value.code

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    await socket.send("unread")
    await closed.wait()
    assert await played.result() == 4503
    assert await far.closed() == (4503, "unavailable;retry_after=5")


@BOTH
async def test_who_only_writes_finds_out_too(over, door, visit):
    """Though something is left to read, and nobody reads it."""
    lost = asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        await auntil(lambda: stream._message is not None, "a message")
        await lost.wait()
        await auntil(lambda: played.handler._is_gone, "the client's end")
        codes = []
        for write in (stream.send("late"), stream.send_eof()):
            with pytest.raises(StreamClosedError) as raised:
                await write
            codes.append(raised.value.code)
        return codes

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    await socket.send("unread")
    await auntil(lambda: played.handlers and played.handler._messages._message, "the message")
    far.cut()
    lost.set()
    assert await played.result() == [1006, 1006]


@BOTH
@pytest.mark.parametrize("returns", [False, True])
async def test_what_nobody_reads_does_not_keep_a_socket_from_closing(over, returns, door, visit):
    """The client's answer to the close stands behind it."""
    may_close, may_return = asyncio.Event(), asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> None:
        await may_close.wait()
        if not returns:
            await stream.close()
            await may_return.wait()

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    for n in range(5):
        await socket.send(str(n))
    await auntil(lambda: played.handlers and played.handler._messages._message, "the first")
    may_close.set()
    assert await far.closed() == (1000, "")
    await door.settled()
    assert played.handler.close_code == 1000  # it was answered, and not cut off for want of that
    may_return.set()
    assert await played.result() is None


# -- half-close ------------------------------------------------------------------------------------


async def opened_stream(visit: Any, script: Script) -> tuple[Played, Far, Any]:
    far: Far = visit("tunnel")
    played = Played(far.door, script)
    return played, far, await far.open()


async def test_C7_4_the_client_ends_first(visit):
    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        heard = [message async for message in stream]
        await stream.send(f"got {len(heard)}")
        await stream.send_eof()
        await stream.send_eof()  # once more changes nothing
        return heard

    played, far, socket = await opened_stream(visit, script)
    for message in ("a", "b" * 600_000):
        await socket.send(message)
    socket.end()
    assert await socket.wait_message() == "got 2"
    assert await far.closed() == (None, "")
    assert await played.result() == ["a", "b" * 600_000]
    await far.door.settled()


async def test_C7_4_the_server_ends_first(visit):
    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        await stream.send("hello")
        await stream.send_eof()
        with pytest.raises(StreamClosedError) as raised:
            await stream.send("more")
        return raised.value.code, await collect(stream, info)

    played, far, socket = await opened_stream(visit, script)
    await socket.wait_ended()
    assert list(socket.heard) == ["hello"]
    assert not socket.gone
    await socket.send("1")
    await socket.send("2")
    socket.end()
    assert await played.result() == (None, (["1", "2"], "end"))
    assert await far.closed() == (None, "")


async def test_C7_4_both_end_at_the_same_time(visit):
    begun = asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        await begun.wait()
        await stream.send_eof()
        return await collect(stream, info)

    played, far, socket = await opened_stream(visit, script)
    begun.set()
    socket.end()
    assert await far.closed() == (None, "")
    assert await played.result() == ([], "end")


async def test_one_end_and_the_other_closes(visit):
    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        await stream.send_eof()
        return await collect(stream, info)

    played, _, socket = await opened_stream(visit, script)
    await socket.wait_ended()
    await socket.close(4001)
    assert await played.result() == ([], 4001)


@pytest.mark.parametrize(("code", "expected"), [(1000, 1000), (4001, 4001), ("cut", 1006)])
async def test_the_client_ends_and_then_leaves(code, expected, visit):
    ended = asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        heard = await collect(stream, info)
        ended.set()
        await auntil(lambda: played.handler._is_gone, "the client's end")
        assert await collect(stream, info) == ([], "end")
        with pytest.raises(StreamClosedError) as raised:
            await stream.send("late")
        return heard, raised.value.code

    played, far, socket = await opened_stream(visit, script)
    await socket.send("1")
    socket.end()
    await ended.wait()
    if code == "cut":
        far.cut()
    else:
        await socket.close(code)
    assert await played.result() == ((["1"], "end"), expected)


async def test_C7_4_messages_after_the_end_break_the_protocol(visit):
    played, far, socket = await opened_stream(visit, collect)
    assert far.link is not None
    await socket.send("1")
    client = far.link.client
    client.end(socket.number)
    # A client that does not keep to it: its own state machine would not let it.
    client._streams[socket.number].ending = False
    client._streams[socket.number].state = client.state(socket.number).OPEN
    client.send(socket.number, b"2", text=True)
    with pytest.raises(Exception, match="must not receive DATA"):
        far.link._move()
    far.link.streams.moved()
    assert await played.result() == (["1"], "end")
    assert far.link.server.closed


@pytest.mark.parametrize("cut", [False, True])
async def test_an_ordinary_handler_goes_on_after_the_clients_end(cut, door, visit):
    class Closes(TokenWebSocketHandler):
        def on_message(self, message: str | bytes) -> None:
            self.asked = message

        def on_close(self) -> None:
            codes.append(self.close_code)

    codes: list[int | None] = []
    door.add("ordinary", Closes)
    far = visit("tunnel")
    socket = await far.open("ordinary")
    socket.end()
    if cut:
        await auntil(lambda: far.link.streams._streams[socket.number].ended, "its end")
        far.cut()
    else:
        await socket.close(4007)
        await far.closed()
    await auntil(lambda: codes, "the handler's end")
    assert codes == [None if cut else 4007]  # a cut connection has no code


@BOTH
async def test_an_ordinary_handlers_write_that_waits_fails_with_tornados_error(over, door, visit):
    raised: list[Exception] = []

    class Writes(TokenWebSocketHandler):
        async def open(self, *args: str, **kwargs: str) -> None:
            writing.append(self)
            self.task = asyncio.ensure_future(self.push())

        async def push(self) -> None:
            try:
                while True:
                    await self.write_message(b"x" * 1_000_000, binary=True)
            except Exception as error:  # noqa: BLE001 - which one is the question
                raised.append(error)

    writing: list[Any] = []
    door.add("writes", Writes)
    far = visit(over)
    socket = await far.open("writes")
    if over == "tunnel":
        socket.read(False)
    await auntil(lambda: writing and writing[0].ws_connection.stream.writing(), "a wait")
    far.cut()
    await auntil(lambda: raised, "the error")
    assert isinstance(raised[0], WebSocketClosedError)


async def test_over_a_socket_the_end_is_a_close_frame_after_what_was_sent(door, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> Any:
        await stream.send("x" * 3_000_000)
        await stream.send_eof()
        with pytest.raises(StreamClosedError) as raised:
            await stream.send("more")
        return raised.value.code, await collect(stream, info)

    played = Played(door, script)
    far = visit("socket")
    socket = await far.open()
    await socket.wait_closed(answer=False)
    assert (socket.messages, socket.code) == (["x" * 3_000_000], 1000)
    await socket.send("what was under way")
    await socket.send((1000).to_bytes(2, "big"), opcode=8)
    assert await played.result() == (None, (["what was under way"], "end"))
    await door.settled()


# -- who waits for whom ----------------------------------------------------------------------------

MIB = 2**20


@BOTH
async def test_C7_4_a_client_waits_for_a_handler_that_does_not_read(over, door, visit):
    """Of what is not asked for one message is taken, beside what is under way."""
    may_read = asyncio.Event()
    ahead: list[int] = []

    async def script(stream: MessageStream, info: StreamInfo) -> int:
        await may_read.wait()
        taken = 0
        async for _ in stream:
            taken += 1
            ahead.append(played.handler._protocol._message_bytes_in // MIB - taken)
        return taken

    async def send_all() -> None:
        for _ in range(16):
            await socket.send(b"x" * MIB)
        if over == "tunnel":
            socket.end()
        else:
            await far.leave(1000)

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    sending = asyncio.ensure_future(send_all())
    await auntil(lambda: played.handlers and played.handler._messages._message, "the first")
    if far.link is not None:
        await auntil(lambda: far.link.client.unsent(socket.number) > 14 * MIB, "what waits")
        streams = far.link.streams._streams[socket.number]
        assert len(streams._messages) * MIB < far.link.server._stream_window
    may_read.set()
    assert await played.result() == 16
    assert max(ahead) <= 0
    await sending


async def test_C7_4_small_messages_that_are_not_read_use_up_the_credit(visit):
    may_read = asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> int:
        await may_read.wait()
        return len([message async for message in stream])

    played, far, socket = await opened_stream(visit, script)
    link = far.link
    assert link is not None
    count, size = 2000, 1000
    for _ in range(count):
        await socket.send(b"x" * size)
    socket.end()
    await auntil(lambda: link.client.unsent(socket.number), "what waits")
    window = link.server._stream_window
    unread = link.streams._streams[socket.number]._messages
    await auntil(lambda: (len(unread) + 2) * (size + 10) > window, "a window's worth")
    assert (len(unread) + 1) * (size + 10) <= window
    may_read.set()
    assert await played.result() == count


@BOTH
async def test_C7_4_a_handler_waits_for_a_client_that_does_not_read(over, door, visit):
    sent: list[int] = []

    async def script(stream: MessageStream, info: StreamInfo) -> None:
        for n in range(64):
            await stream.send(b"x" * MIB)
            sent.append(n)

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    if over == "tunnel":
        socket.read(False)
    await auntil(lambda: played.handlers and played.handler._protocol.stream.writing(), "a wait")
    assert len(sent) < 64
    if far.link is not None:
        window = far.link.client._stream_window
        assert len(sent) * MIB <= window
        socket.read()
    for _ in range(64):
        assert len(await socket.wait_message()) == MIB
    assert await far.closed() == (1000, "")
    assert await played.result() is None


@BOTH
async def test_a_message_that_is_too_large_ends_it(over, door, visit):
    played = Played(door, collect, max_message_size=1000)
    far = visit(over)
    socket = await far.open()
    await socket.send("x" * 1000)
    await socket.send("x" * 1001)
    assert (await far.closed())[0] == 1009
    assert await played.result() == (["x" * 1000], 1006)


# -- how the coroutine ends ------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("after", [False, True])
async def test_an_error_is_told_by_its_code_and_the_rest_stays_in_the_log(
    over, after, door, caplog, visit
):
    async def script(stream: MessageStream, info: StreamInfo) -> None:
        if after:
            await stream.send("hello")
        raise ValueError("nobody's business")

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    if after:
        assert await socket.wait_message() == "hello"
    assert await far.closed() == (4500, "internal_error")
    assert "business" not in socket.reason
    assert isinstance(await played.result(), ValueError)
    (told,) = [record for record in caplog.records if record.exc_info]
    assert told.getMessage() == f"Error in the stream {door.base}played"
    assert told.exc_info[1] is played.results[0]
    await door.settled()


@BOTH
async def test_a_refusal_is_told_by_its_reason(over, door, caplog, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> None:
        raise Refused("too_many_connections", 7)

    Played(door, script)
    far = visit(over)
    await far.open()
    assert await far.closed() == (4429, "too_many_connections;retry_after=7")
    assert errors(caplog.records) == []


@BOTH
async def test_a_slug_that_is_not_in_the_table_is_the_authors_error(over, door, caplog, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> None:
        with pytest.raises(ValueError, match="negative"):
            await stream.close("draining", -1)
        await stream.close("no_such_thing")

    played = Played(door, script)
    far = visit(over)
    await far.open()
    assert await far.closed() == (4500, "internal_error")
    assert isinstance(await played.result(), KeyError)


@pytest.mark.parametrize(
    ("offer", "expected"), [([], (None, "")), ([REASON_MARKER], (4404, "not_found"))]
)
async def test_a_client_that_does_not_understand_codes_is_closed_as_stock_closes(
    offer, expected, door
):
    async def script(stream: MessageStream, info: StreamInfo) -> bool:
        await stream.close("not_found")
        return info.opted_in

    played = Played(door, script)
    headers = {"Authorization": f"token {door.token}"}
    socket = await door.refused("played", offer, headers)
    assert (socket.code, socket.slug) == expected
    assert await played.result() is bool(offer)


@BOTH
async def test_that_the_client_is_gone_is_no_error(over, door, caplog, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> None:
        async for _ in stream:
            pass  # raises, and that goes through

    played = Played(door, script)
    far = visit(over)
    await far.open()
    await auntil(lambda: played.handlers, "the handler")
    far.cut()
    assert isinstance(await played.result(), StreamClosedError)
    assert errors(caplog.records) == []


@BOTH
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has groups of exceptions")
@pytest.mark.parametrize("other", [False, True])
async def test_nor_is_it_in_a_group(over, other, door, caplog, visit):
    async def reads(stream: MessageStream) -> None:
        async for _ in stream:
            pass

    async def script(stream: MessageStream, info: StreamInfo) -> None:
        try:
            await reads(stream)
        except StreamClosedError as error:
            inner = [error, ValueError("another")] if other else [error]
            group: Any = vars(builtins)["ExceptionGroup"]
            raise group("of tasks", [group("of some", inner)]) from None

    played = Played(door, script)
    far = visit(over)
    await far.open()
    await auntil(lambda: played.handlers, "the handler")
    far.cut()
    await played.result()
    assert bool(errors(caplog.records)) is other


@BOTH
async def test_to_write_after_its_own_end_is_an_error(over, door, caplog, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> None:
        await stream.send_eof()
        await stream.send("more")

    played = Played(door, script)
    far = visit(over)
    await far.open()
    assert (await far.closed())[0] == (1000 if over == "socket" else 4500)
    assert isinstance(await played.result(), StreamClosedError)
    assert errors(caplog.records) == [f"Error in the stream {door.base}played"]


@BOTH
async def test_a_handler_without_a_coroutine(over, door, caplog, visit):
    door.add("none", StreamHandler)
    far = visit(over)
    await far.open("none")
    assert await far.closed() == (4500, "internal_error")


# -- cancelled -------------------------------------------------------------------------------------


async def busy(stream: MessageStream, info: StreamInfo) -> None:
    await asyncio.Event().wait()


@BOTH
@pytest.mark.parametrize("code", [1000, "cut"])
async def test_who_does_not_notice_is_cancelled(over, code, door, caplog, visit):
    played = Played(door, busy, cancel_after=0.01)
    far = visit(over)
    await far.open()
    await auntil(lambda: played.handlers, "the handler")
    if code == "cut":
        far.cut()
    else:
        await far.leave(code)
    assert isinstance(await played.result(), asyncio.CancelledError)
    assert not played.handler._task.cancelled()
    assert errors(caplog.records) == []


@BOTH
@pytest.mark.parametrize("seconds", [None, 60])
async def test_who_may_go_on_does(over, seconds, door, visit):
    may_end = asyncio.Event()

    async def script(stream: MessageStream, info: StreamInfo) -> str:
        await may_end.wait()
        return "through"

    played = Played(door, script, cancel_after=seconds)
    far = visit(over)
    await far.open()
    await auntil(lambda: played.handlers, "the handler")
    far.cut()
    await auntil(lambda: played.handler._is_gone, "the client's end")
    assert (played.handler._timer is None) is (seconds is None)
    may_end.set()
    assert await played.result() == "through"
    assert played.handler._timer is None or played.handler._timer.cancelled()


@BOTH
async def test_a_client_that_is_lost_with_messages_unread_is_noticed(over, door, visit):
    """Also by who reads none: what is left to read does not hide it."""
    played = Played(door, busy, cancel_after=0.01)
    far = visit(over)
    socket = await far.open()
    for n in range(3):
        await socket.send(f"unread {n}")
    await auntil(lambda: played.handlers and played.handler._messages._message, "the message")
    far.cut()
    assert isinstance(await played.result(), asyncio.CancelledError)
    await door.settled()


@BOTH
async def test_a_server_that_ends_does_not_wait(over, door, visit):
    played = Played(door, busy)
    far = visit(over)
    await far.open()
    await auntil(lambda: played.handlers, "the handler")
    draining = asyncio.ensure_future(door.guard.drain())
    assert (await far.closed()) == (4503, "draining;retry_after=1")
    assert isinstance(await played.result(), asyncio.CancelledError)
    await draining


async def test_who_reads_when_the_server_closes_does_not_wait_for_the_client(door, visit):
    played = Played(door, collect)
    far = visit("socket")
    socket = await far.open()
    await auntil(lambda: played.handlers, "the handler")
    (entry,) = door.guard.registry
    door.guard.registry.close(entry, "token_revoked")
    await socket.wait_closed(answer=False)
    assert await played.result() == ([], 4401)
    assert entry in list(door.guard.registry)  # its client did not answer yet


@BOTH
async def test_who_is_cancelled_by_others_fails(over, door, visit):
    played = Played(door, busy)
    far = visit(over)
    await far.open()
    await auntil(lambda: played.handlers, "the handler")
    played.handler._task.cancel()
    assert await far.closed() == (4500, "internal_error")
    assert isinstance(await played.result(), asyncio.CancelledError)
    assert played.handler._task.cancelled()


@BOTH
async def test_a_send_that_is_cancelled_breaks_nothing(over, door, visit):
    async def script(stream: MessageStream, info: StreamInfo) -> None:
        sending = asyncio.ensure_future(stream.send(b"x" * 20_000_000))
        await auntil(played.handler._protocol.stream.writing, "a wait")
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await stream.send("after it")

    played = Played(door, script)
    far = visit(over)
    socket = await far.open()
    if over == "tunnel":
        socket.read(False)
    await auntil(lambda: played.handlers and played.handler._protocol.stream.writing(), "a wait")
    if over == "tunnel":
        socket.read()
    assert len(await socket.wait_message()) == 20_000_000
    assert await socket.wait_message() == "after it"
    assert await played.result() is None


# -- who it is -------------------------------------------------------------------------------------


async def tell(stream: MessageStream, info: StreamInfo) -> StreamInfo:
    await stream.send("hello")
    return info


async def test_what_is_known_of_the_client(door, come):
    infos = {}
    for name in ("socket", "websocket carrier", "event stream"):
        played = Played(door, tell)
        door.add(name.replace(" ", "-"), played.kind)
        path = name.replace(" ", "-")
        if name == "socket":
            socket = await door.knock(path, offer_subprotocols(token=door.token))
            await socket.wait_closed()
            await socket.close()
        else:
            far = come(FarSocket if name == "websocket carrier" else FarEvents)
            await far.connect()
            await far.attached()
            await far.open(path).wait_closed()
            await far.cut()
        infos[name] = await played.result()
    for info in infos.values():
        assert info.remote_address == "127.0.0.1"
        assert info.local_address == door.host
        assert info.opted_in
        assert not info.tls
        assert info.principal == infos["socket"].principal
        assert info.user is not None
    assert [info.carrier for info in infos.values()] == [
        "websocket",
        "tunnel-websocket",
        "tunnel-eventstream",
    ]
    assert [info.source for info in infos.values()] == [
        CredentialSource.SUBPROTOCOL,
        CredentialSource.SUBPROTOCOL,
        CredentialSource.HEADER,
    ]


@pytest.mark.parametrize("token_ws_config", [{"trusted_proxies": ["127.0.0.1"]}])
@pytest.mark.parametrize(("said", "tls"), [("https", True), ("http", False), ("", False)])
@pytest.mark.parametrize("over", ["socket", "tunnel"])
async def test_that_it_came_encrypted_is_the_proxys_word(over, said, tls, door, come):
    played = Played(door, tell)
    headers = {"X-Forwarded-Proto": said, "Authorization": f"token {door.token}"}
    if over == "socket":
        await door.refused("played", None, headers)
    else:
        far = come(FarSocket)
        await far.connect(door.token, X_Forwarded_Proto=said)
        await far.attached()
        await far.open("played").wait_closed()
        await far.cut()
    assert (await played.result()).tls is tls


@pytest.mark.parametrize("kind", [FarSocket, FarEvents])
async def test_C7_5_where_a_stream_comes_from_is_not_its_clients_word(
    kind, door, http_server, come
):
    """For limits by address and ``tls`` it is where its carrier really comes from."""
    http_server.xheaders = True  # as by `ServerApp.trust_xheaders`
    seen: list[Any] = []

    async def script(stream: MessageStream, info: StreamInfo) -> StreamInfo:
        request = played.handler.request
        seen.append((str(peer(request)), door.guard.proxies.tls(request)))
        return info

    played = Played(door, script)
    far = come(kind)
    said = {"X_Real_Ip": "192.0.2.1", "X_Forwarded_Proto": "https"}
    if kind is FarSocket:
        await far.connect(door.token, **said)
    else:
        get = far.get
        far.get = lambda query: get(query, **said)
        await far.connect()
    await far.attached()
    await far.open("played").wait_closed()
    await far.cut()
    assert (await played.result()).remote_address == "192.0.2.1"  # what `trust_xheaders` is about
    assert seen == [("127.0.0.1", False)]


@pytest.mark.parametrize("token_ws_config", [{"exclude_paths": ["played"]}])
async def test_where_the_guard_is_off(door):
    played = Played(door, tell)
    socket = await door.knock("played", None, {"Authorization": f"token {door.token}"})
    assert await socket.wait_message() == "hello"
    await socket.wait_closed()
    await socket.close()
    info = await played.result()
    assert (info.source, info.carrier) == (CredentialSource.AMBIENT, "websocket")
    assert info.principal == f"user:{info.user.username}"
    assert socket.code == 1000
    assert (await door.refused("played")).status == 403


async def test_who_may_not_enter(door, caplog):
    caplog.set_level("INFO")
    Played(door, tell)
    assert (await door.refused("played")).status == 403
    told = await door.refused("played", [bearing("wrong")])
    assert (told.code, told.slug) == (4403, "token_rejected")
    lines = [line.split()[1] for line in refusals(caplog.records)]
    assert lines == ["credentials_missing", "token_rejected"]


@pytest.mark.parametrize("more_config", [{"ServerApp": {"authorizer_class": NoStreams}}])
@BOTH
async def test_whom_the_authorizer_does_not_let_in(over, door):
    played = Played(door, tell, auth_resource="mine")
    if over == "socket":
        told: Any = await door.refused("played", offer_subprotocols(token=door.token))
    else:
        carrier = carrier_request(Authorization=f"token {door.token}", Host=door.host)
        told = Link(door.app.web_app, carrier, door.base).open("played")
        await told.wait_closed()
    assert told.code == 4403
    assert told.reason.startswith("forbidden")
    assert not played.handlers


async def test_a_function_is_enough(door, visit):
    async def greet(stream: MessageStream, info: StreamInfo) -> None:
        """Says hello."""
        await stream.send("hello")

    kind = StreamHandler.of(greet, auth_resource="greetings")
    assert (kind.__name__, kind.__doc__) == ("greet", "Says hello.")
    assert (kind.__module__, kind.auth_resource) == (__name__, "greetings")
    assert StreamHandler.of(greet).auth_resource == StreamHandler.auth_resource
    door.add("greet", kind)
    for over in ("socket", "tunnel"):
        far = visit(over)
        socket = await far.open("greet")
        assert await socket.wait_message() == "hello"
        assert await far.closed() == (1000, "")


async def test_a_handshake_that_is_none_of_tornados(door):
    Played(door, tell)
    headers = {"Authorization": f"token {door.token}", "Sec-WebSocket-Version": "12"}
    assert (await door.refused("played", None, headers)).status == 426


# -- over carriers that break ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FarSocket, FarEvents])
async def test_C7_6_a_carrier_that_breaks_is_not_noticed(kind, door, come):
    played = Played(door, echo)
    far = come(kind)
    await far.connect()
    await far.attached()
    socket = await far.open("played").wait_open()
    heard = []
    for n in range(6):
        await socket.send(str(n))
        await socket.send(bytes([n]) * 50_000)
        if n % 2 == 0:
            await far.cut()
            await far.connect()
            await asyncio.wait_for(far.attached(), 30)
        heard += [await socket.wait_message(), await socket.wait_message()]
    assert heard == [each for n in range(6) for each in (str(n), bytes([n]) * 50_000)]
    socket.end()
    await socket.wait_closed()
    assert await played.result() is None
    await far.cut()


@pytest.mark.parametrize("token_ws_config", [{"tunnel_resume_window": 0.05}])
@pytest.mark.parametrize("kind", [FarSocket, FarEvents])
async def test_C7_6_one_that_does_not_come_back_in_time_is_a_loss(kind, door, come):
    played = Played(door, collect)
    far = come(kind)
    await far.connect()
    await far.attached()
    socket = await far.open("played").wait_open()
    await socket.send("hello")
    await auntil(lambda: played.handlers and played.handler._protocol._message_bytes_in, "it")
    await far.cut()
    assert await played.result() == (["hello"], 1006)
    await door.settled()


async def test_C7_5_a_stream_of_a_carrier_by_a_unix_socket_comes_by_it_too(door):
    played = Played(door, tell)
    carrier = carrier_request(Authorization=f"token {door.token}", Host=door.host)
    context: Any = SimpleNamespace(address_family=AF_UNIX)
    carrier.connection = cast("Any", SimpleNamespace(context=context))
    link = Link(door.app.web_app, carrier, door.base)
    await link.open("played").wait_closed()
    await played.result()
    assert peer(played.handler.request) == UNIX


def test_the_names_are_public():
    for name in ("StreamHandler", "StreamInfo", "MessageStream", "StreamClosedError"):
        assert name in jupyter_token_ws.__all__
        assert getattr(jupyter_token_ws, name).__name__ == name
