"""Kernels of the client, over sockets in memory that end, repeat and withhold at the right moment."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from jupyter_token_ws.client import execution as execution_module
from jupyter_token_ws.client import kernel as kernel_module
from jupyter_token_ws.client.errors import (
    AuthError,
    ExecutionError,
    KernelError,
    KernelGoneError,
    NoConnectionError,
    RefusedError,
    RequestLostError,
    SocketClosedError,
    TooLargeError,
)
from jupyter_token_ws.client.kernel import Limits, open_kernel
from jupyter_token_ws.client.link import KNOWN, Link
from jupyter_token_ws.protocol.auth import Response
from jupyter_token_ws.protocol.reasons import REASONS, Advice
from jupyter_token_ws.protocol.subprotocols import KERNEL
from tests.support.fake_kernel import BRIDGED, MemoryHost, kernel_model
from tests.support.waiting import auntil

ID = "12345678-1234-1234-1234-123456789abc"


class Quick:
    def delay(self, retry_after=None):
        return retry_after or 0.0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Tries follow upon each other at once."""
    monkeypatch.setattr("jupyter_token_ws.client.link.Backoff", Quick)
    monkeypatch.setattr(execution_module, "GRACE", 0.05)
    monkeypatch.setattr(kernel_module, "ASK_INTERVAL", 0.05)
    monkeypatch.setattr(kernel_module, "MEET_AFTER", 0)


@asynccontextmanager
async def running(host=None, **options):
    """A kernel that is there, its server, and its socket."""
    host = host or MemoryHost()
    opening = open_kernel(host, ID, **options)

    async def begin():
        socket = await host.next()
        socket.done(await socket.heard("kernel_info_request"), implementation="memory")
        return socket

    beginning = asyncio.ensure_future(begin())
    async with opening as kernel:
        socket = await beginning
        await auntil(lambda: kernel.info, "it was told what kernel that is")
        yield kernel, host, socket


async def wait(awaitable):
    return await asyncio.wait_for(awaitable, 10)


@pytest.mark.parametrize("subprotocol", [KERNEL, None])
async def test_a_cell_in_either_format(subprotocol):
    async with running(MemoryHost(subprotocol=subprotocol)) as (kernel, host, socket):
        assert kernel.info["implementation"] == "memory"
        assert f"/{ID}/channels?session_id=" in host.paths[0]
        cell = kernel.execute("1 + 1")
        request = await socket.heard("execute_request")
        assert request.content["code"] == "1 + 1"
        assert request.content["allow_stdin"] is False
        socket.status(request, "busy")
        socket.say("stream", request, name="stdout", text="a")
        socket.say("stream", request, name="stdout", text="b")
        socket.say("stream", request, name="stderr", text="c")
        socket.say("execute_result", request, execution_count=3, data={"text/plain": "2"})
        socket.status(request, "idle")
        assert not cell.done
        socket.reply(request, execution_count=3)
        kinds = [message.type async for message in cell]
        assert kinds[0] == "status"
        assert kinds[-1] == "execute_reply"
        result = await wait(cell)
        assert result is not await cell.result()
        assert (result.status, result.execution_count, result.error) == ("ok", 3, None)
        assert (result.stdout, result.stderr, result.text) == ("ab", "c", "2")
        assert result.outputs == [
            {"output_type": "stream", "name": "stdout", "text": "ab"},
            {"output_type": "stream", "name": "stderr", "text": "c"},
            {
                "output_type": "execute_result",
                "execution_count": 3,
                "data": {"text/plain": "2"},
                "metadata": {},
            },
        ]
        assert result.raise_for_status() is result
        assert cell.done
        assert "done" in repr(cell)
        assert kernel.state == "idle"
        assert ID in repr(kernel)
    assert not [request for request in host.requests if request[0] == "DELETE"]


async def test_a_result_waits_for_the_last_of_reply_and_idle():
    async with running() as (kernel, _, socket):
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        waiting = asyncio.ensure_future(cell.result())
        socket.reply(request)
        socket.say("stream", request, name="stdout", text="late")
        socket.status(request, "idle")
        socket.say("stream", request, name="stdout", text="too late")
        assert (await wait(waiting)).stdout == "late"


async def test_a_cell_that_fails_is_a_result():
    async with running() as (kernel, _, socket):
        cell = kernel.execute("1/0")
        request = await socket.heard("execute_request")
        error = {"ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": ["t"]}
        socket.say("error", request, **error)
        socket.done(request, status="error", **error)
        result = await wait(cell)
        assert result.error == error
        assert result.outputs == [{"output_type": "error", **error}]
        with pytest.raises(ExecutionError, match="ZeroDivisionError: division by zero") as raised:
            result.raise_for_status()
        assert raised.value.result is result
        aborted = kernel.execute("x")
        socket.done(await socket.heard("execute_request"), status="aborted")
        with pytest.raises(ExecutionError, match="was not run"):
            (await wait(aborted)).raise_for_status()
        asking = kernel.execute("input()")
        evalue = "this frontend does not support input requests."
        failed = {"status": "error", "ename": "StdinNotImplementedError", "evalue": evalue}
        socket.done(await socket.heard("execute_request"), **failed)
        with pytest.raises(ExecutionError, match=r"requests\. \(nobody.*give on_input"):
            (await wait(asking)).raise_for_status()
        hidden = kernel.execute("x")
        socket.done(await socket.heard("execute_request"), status="error", ename="E")
        assert (await wait(hidden)).error == {"ename": "E", "evalue": None, "traceback": None}


async def test_questions():
    asked = []

    def answer(prompt, password):
        asked.append((prompt, password))
        return "typed"

    async def later(prompt, password):
        return "later"

    async with running(on_input=answer) as (kernel, _, socket):
        cell = kernel.execute("input()")
        request = await socket.heard("execute_request")
        assert request.content["allow_stdin"] is True
        question = socket.say(
            "input_request", request, channel="stdin", prompt="name", password=True
        )
        reply = await socket.heard("input_reply")
        assert (reply.channel, reply.content["value"]) == ("stdin", "typed")
        assert reply.parent_id == question.id
        socket.done(request)
        await wait(cell)
        assert asked == [("name", True)]
        cell = kernel.execute("input()", on_input=later)
        request = await socket.heard("execute_request")
        socket.say("input_request", request, channel="stdin", prompt="")
        assert (await socket.heard("input_reply")).content["value"] == "later"
        socket.done(request)
        await wait(cell)


async def test_a_question_that_nobody_can_answer():
    def fails(prompt, password):
        raise RuntimeError("no")

    async with running(on_input=fails) as (kernel, host, socket):
        for on_input, error in ((None, RuntimeError), (fails, RuntimeError)):
            cell = kernel.execute("input()", on_input=on_input)
            request = await socket.heard("execute_request")
            socket.say("input_request", request, channel="stdin")
            with pytest.raises(error):
                await wait(cell)
        assert ("POST", f"api/kernels/{ID}/interrupt", None) in host.requests
    async with running() as (kernel, _, socket):
        cell = kernel.execute("input()")
        request = await socket.heard("execute_request")
        socket.say("input_request", request, channel="stdin")
        with pytest.raises(KernelError, match="on_input"):
            await wait(cell)


async def test_a_storm_of_questions_is_bounded():
    never = asyncio.Event()

    async def wait_for_ever(prompt, password):
        await never.wait()

    async with running(on_input=wait_for_ever) as (kernel, host, socket):
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        for _ in range(execution_module.MAX_QUESTIONS + 1):
            socket.say("input_request", request, channel="stdin")
        with pytest.raises(TooLargeError, match="16 questions"):
            await wait(cell)
        await asyncio.sleep(0)
        assert any(path.endswith("/interrupt") for _, path, _ in host.requests)


# -- limits ----------------------------------------------------------------------------------------


async def test_outputs_are_bounded():
    async with running(limits=Limits(max_output=2000)) as (kernel, _, socket):
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        for _ in range(3):
            socket.say("stream", request, name="stdout", text="x" * 1000)
        socket.done(request)
        with pytest.raises(TooLargeError, match="more than 2000 bytes"):
            await wait(cell)


async def test_outputs_that_are_read_and_not_kept():
    async with running(limits=Limits(max_output=1000)) as (kernel, _, socket):
        cell = kernel.execute("x", keep_outputs=False)
        request = await socket.heard("execute_request")
        for number in range(100):
            socket.say("stream", request, name="stdout", text=f"{number} ".ljust(100))
        socket.say("error", request, ename="E", evalue="v", traceback=[])
        socket.done(request, status="error")
        printed = [m.content["text"].strip() async for m in cell if m.type == "stream"]
        assert printed == [str(number) for number in range(100)]
        result = await wait(cell)
        assert (result.outputs, result.error["ename"]) == ([], "E")


async def test_messages_that_nobody_reads_are_bounded_and_the_result_is_there():
    async with running(limits=Limits(max_waiting=2000)) as (kernel, _, socket):
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        for _ in range(10):
            socket.say("stream", request, name="stdout", text="x" * 1000)
        socket.done(request)
        assert len((await wait(cell)).stdout) == 10_000
        with pytest.raises(TooLargeError, match="max_waiting"):
            async for _ in cell:
                pass


async def test_a_slow_reader_holds_up_the_messages_and_gets_all():
    async with running(limits=Limits(max_waiting=2000)) as (kernel, _, socket):
        cell = kernel.execute("x")
        reading = aiter(cell)
        request = await socket.heard("execute_request")
        for _ in range(50):
            socket.say("stream", request, name="stdout", text="x" * 1000)
        socket.done(request)
        assert (await wait(anext(reading))).type == "stream"
        count = 1
        async for _ in reading:
            count += 1
        assert count == 52
        assert len((await wait(cell)).stdout) == 50_000


async def test_who_waits_for_a_result_is_not_held_up_by_its_own_reading():
    async with running(limits=Limits(max_waiting=2000)) as (kernel, _, socket):
        cell = kernel.execute("x")
        reading = aiter(cell)
        request = await socket.heard("execute_request")
        for _ in range(50):
            socket.say("stream", request, name="stdout", text="x" * 1000)
        socket.done(request)
        await wait(anext(reading))
        assert len((await wait(cell)).stdout) == 50_000


async def test_who_stops_reading_holds_up_nothing():
    async with running(limits=Limits(max_waiting=2000)) as (kernel, _, socket):
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        reading = aiter(cell)
        for _ in range(50):
            socket.say("stream", request, name="stdout", text="x" * 1000)
        await wait(anext(reading))
        await reading.aclose()
        socket.done(request)
        other = kernel.execute("y")
        socket.done(await socket.heard("execute_request"))
        await wait(other)
        assert len((await wait(cell)).stdout) == 50_000


async def test_requests_are_bounded():
    async with running(limits=Limits(max_requests=2, max_unsent=1000)) as (kernel, _, _socket):
        with pytest.raises(TooLargeError, match="max_unsent"):
            kernel.execute("x" * 1000)
        kernel.execute("x")
        kernel.execute("x")
        with pytest.raises(TooLargeError, match="max_requests"):
            kernel.execute("x")


# -- other requests --------------------------------------------------------------------------------


async def test_other_requests():
    async with running() as (kernel, host, socket):
        for doing, kind, content in (
            (kernel.complete("ab", 1), "complete_request", {"code": "ab", "cursor_pos": 1}),
            (
                kernel.inspect("ab"),
                "inspect_request",
                {"code": "ab", "cursor_pos": 2, "detail_level": 0},
            ),
            (kernel.is_complete("ab"), "is_complete_request", {"code": "ab"}),
            (
                kernel.history(3),
                "history_request",
                {"hist_access_type": "tail", "n": 3, "output": False, "raw": True},
            ),
        ):
            asking = asyncio.ensure_future(doing)
            request = await socket.heard(kind)
            assert request.content == content
            socket.done(request, answer=kind)
            assert (await wait(asking))["answer"] == kind
        await kernel.interrupt()
        assert host.requests == [("POST", f"api/kernels/{ID}/interrupt", None)]
        host.answers[f"POST api/kernels/{ID}/interrupt"] = Response(404)
        with pytest.raises(KernelGoneError):
            await kernel.interrupt()


async def test_time_is_up():
    async with running() as (kernel, host, socket):
        cell = kernel.execute("x", timeout=0.01)
        request = await socket.heard("execute_request")
        with pytest.raises(KernelError, match=r"longer than 0.01 s.*did not end even so"):
            await wait(cell)
        assert host.requests == [("POST", f"api/kernels/{ID}/interrupt", None)]
        cell = kernel.execute("x", timeout=0.01)
        request = await socket.heard("execute_request")
        while len(host.requests) < 2:
            await asyncio.sleep(0)
        socket.done(request, status="error")
        with pytest.raises(KernelError, match=r"interrupted$"):
            await wait(cell)
        host.answers[f"POST api/kernels/{ID}/interrupt"] = Response(404)
        with pytest.raises(KernelGoneError):
            await wait(kernel.execute("x", timeout=0.01))


# -- restarts and ends -----------------------------------------------------------------------------


async def test_restart_ends_what_runs_and_waits_until_the_kernel_answers():
    async with running() as (kernel, host, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        restarting = asyncio.ensure_future(kernel.restart())
        with pytest.raises(KernelError, match="started anew") as raised:
            await wait(cell)
        assert not isinstance(raised.value, KernelGoneError)
        await socket.sent.get()  # the first question is lost with the old process
        request = await socket.heard("kernel_info_request")
        socket.done(request, implementation="new")
        await wait(restarting)
        assert kernel.info["implementation"] == "new"
        assert host.requests == [("POST", f"api/kernels/{ID}/restart", None)]
        with pytest.raises(KernelError, match=r"within 0\.01 s"):
            await kernel.restart(0.01)


async def test_one_that_died_is_noticed():
    async with running() as (kernel, _, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        comm = kernel.open_comm("t")
        socket.status(None, "restarting")
        with pytest.raises(KernelError, match="started anew"):
            await wait(cell)
        with pytest.raises(KernelError, match="started anew"):
            await wait(comm.recv())
        assert (kernel.restarts, kernel.state) == (1, "restarting")
        cell = kernel.execute("y")
        socket.done(await socket.heard("execute_request"))
        await wait(cell)
        cell = kernel.execute("z")
        await socket.heard("execute_request")
        socket.status(None, "dead")
        with pytest.raises(KernelGoneError):
            await wait(cell)
        with pytest.raises(KernelGoneError):
            kernel.execute("z")


async def test_somebody_else_restarts_it():
    async with running() as (kernel, _, socket):
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        socket.say("shutdown_reply", restart=False)
        socket.say("shutdown_reply", restart=True)
        with pytest.raises(KernelError, match="started anew"):
            await wait(cell)
        begun, lost = kernel.execute("x"), kernel.execute("x")
        request = await socket.heard("execute_request")
        await socket.heard("execute_request")
        socket.status(request, "busy")
        socket.status(None, "starting")
        with pytest.raises(KernelError, match="started anew"):
            await wait(begun)
        assert not lost.done  # it may have come in time for the new process
        socket.done(await socket.heard("kernel_info_request"))
        with pytest.raises(RequestLostError):
            await wait(lost)


@pytest.mark.parametrize(
    ("code", "reason"), [(4410, REASONS["gone"].close_reason()), (1000, ""), (1005, "")]
)
async def test_somebody_else_shuts_it_down(code, reason):
    async with running() as (kernel, host, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        if code != 4410:
            host.refusals = [RefusedError("no", 404)]
        socket.end(code, reason)
        with pytest.raises(KernelGoneError):
            await wait(cell)
        with pytest.raises(KernelGoneError):
            kernel.execute("y")
        assert kernel.state == "dead"


async def test_one_that_runs_and_is_busy_is_not_waited_for():
    host = MemoryHost()
    async with open_kernel(host, ID) as kernel:
        socket = await host.next()
        asked = await socket.heard("kernel_info_request")
        assert asked.channel == "control"
        assert kernel.info == {}
        cell = kernel.execute("x")
        socket.done(await socket.heard("execute_request"))
        assert (await wait(cell)).status == "ok"
    assert kernel.info == {}


async def test_a_state_that_is_none():
    async with running() as (kernel, _, socket):
        socket.status(None, "busy")
        await auntil(lambda: kernel.state == "busy")
        socket.status(None, "\x1b]0;owned")
        marker = kernel.execute("x")  # whose answer comes after it
        socket.reply(await socket.heard("execute_request"))
        await auntil(lambda: marker.replied)
        assert kernel.state == "busy"


async def test_an_id_that_leads_elsewhere():
    host = MemoryHost()
    async with open_kernel(host, id="../../x?y#z"):
        assert host.paths[0].startswith("api/kernels/..%2F..%2Fx%3Fy%23z/channels?session_id=")


class SlowHost(MemoryHost):
    """Takes its time to start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def request(self, method, path, **more):
        if method == "POST":
            self.asked.set()
            await self.go.wait()
        return await super().request(method, path, **more)


@pytest.mark.parametrize("status", [201, 500])
async def test_who_is_cancelled_leaves_no_kernel_behind(status):
    host = SlowHost()
    host.answers["POST api/kernels"] = Response(status, body=kernel_model(ID).body)
    opening = asyncio.ensure_future(_opened(open_kernel(host)))
    await host.asked.wait()
    opening.cancel()
    await asyncio.sleep(0)
    host.go.set()
    with pytest.raises(asyncio.CancelledError):
        await wait(opening)
    deleted = [path for method, path, _ in host.requests if method == "DELETE"]
    assert deleted == ([f"api/kernels/{ID}"] if status == 201 else [])
    assert host.paths == []


async def test_who_is_cancelled_waits_for_no_server_that_hangs(monkeypatch):
    monkeypatch.setattr(kernel_module, "CLEAN_UP", 0.05)
    host = SlowHost()
    opening = asyncio.ensure_future(_opened(open_kernel(host)))
    await host.asked.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait(opening)
    assert host.requests == []


async def _opened(opening):
    return await opening


async def test_there_is_no_such_kernel():
    host = MemoryHost()
    host.refusals = [RefusedError("no", 404)]
    with pytest.raises(KernelGoneError, match=r"knows no kernel 'x'.*api/kernels lists") as raised:
        await open_kernel(host, id="x")
    assert "any more" not in str(raised.value)
    host.refusals = [RefusedError("no", 404, slug="not_found")]
    with pytest.raises(KernelGoneError, match="knows no kernel") as raised:
        await open_kernel(host, id="x" * 10_000)
    assert len(str(raised.value)) < 500
    for told in (RefusedError("no", 410), SocketClosedError("no", 4410, "gone")):
        host.refusals = [told]
        with pytest.raises(KernelGoneError, match="it was shut down"):
            await open_kernel(host, id="x")
    host.refusals = [NoConnectionError("no")]
    with pytest.raises(NoConnectionError):
        await open_kernel(host, id="x")


# -- one's own -------------------------------------------------------------------------------------


async def test_one_of_ones_own_ends_with_the_block():
    host = MemoryHost()
    opening = open_kernel(host, "python3", path="a.ipynb")

    async def begin():
        socket = await host.next()
        socket.done(await socket.heard("kernel_info_request"), status="aborted")
        socket.done(await socket.heard("kernel_info_request"), status="aborted")
        socket.done(await socket.heard("kernel_info_request"))

    beginning = asyncio.ensure_future(begin())
    async with opening as kernel:
        await beginning
        assert kernel.id == "made"
        cell = kernel.execute("x")
    with pytest.raises(KernelError):
        await cell
    with pytest.raises(KernelError):
        kernel.execute("x")
    assert host.requests == [
        ("POST", "api/kernels", {"name": "python3", "path": "a.ipynb"}),
        ("DELETE", "api/kernels/made", None),
    ]


async def test_one_that_does_not_answer_is_shut_down_again():
    host = MemoryHost()
    with pytest.raises(KernelError, match=r"did not answer within 0\.1 s"):
        await open_kernel(host, open_timeout=0.1)
    assert host.requests[-1] == ("DELETE", "api/kernels/made", None)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"id": 1}'])
async def test_a_server_that_starts_none(body):
    host = MemoryHost()
    host.answers["POST api/kernels"] = Response(201, body=body)
    with pytest.raises(KernelError, match="no kernel"):
        await open_kernel(host)


@pytest.mark.parametrize(
    ("status", "said"), [(500, "could not start the kernel python3"), (507, "refused")]
)
async def test_a_server_that_cannot_start_it(status, said):
    host = MemoryHost()
    host.answers["POST api/kernels"] = Response(status)
    with pytest.raises(RefusedError, match=said) as raised:
        await open_kernel(host, "python3")
    assert raised.value.status == status


@pytest.mark.parametrize("error", [KeyError, RefusedError])
async def test_what_ends_the_block_is_told_also_where_the_end_fails(error):
    host = MemoryHost()
    host.answers["POST api/kernels"] = kernel_model("k")
    host.answers["DELETE api/kernels/k"] = Response(500)

    async def begin():
        socket = await host.next()
        socket.done(await socket.heard("kernel_info_request"))

    beginning = asyncio.ensure_future(begin())

    async def block():
        async with open_kernel(host):
            await beginning
            if error is KeyError:
                raise KeyError

    with pytest.raises(error):
        await block()


# -- lost connections ------------------------------------------------------------------------------


async def test_what_was_missed_comes_from_the_backlog():
    async with running() as (kernel, host, first_socket):
        socket = first_socket
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        first = socket.say("stream", request, name="stdout", text="one,")
        host.refusals = [NoConnectionError("no"), RefusedError("later", 503)]
        socket.end()
        socket = await host.next()
        assert len(set(host.paths)) == 1  # the same session
        socket.repeat(first)  # its receipt was lost
        socket.say("stream", request, name="stdout", text="two,")
        more = socket.say("stream", request, name="stdout", text="three,")
        sounding = await socket.heard("kernel_info_request")
        socket.end()
        socket = await host.next()
        # Put together with what came after it, and sent again.
        content = {"name": "stdout", "text": "three,four"}
        socket.repeat(type(more)("iopub", more.header, more.parent_header, {}, content))
        socket.done(request)
        socket.done(sounding)
        assert (await wait(cell)).stdout == "one,two,three,four"


async def test_a_cell_that_waits_is_sent_once_and_by_the_next_connection():
    async with running() as (kernel, host, first_socket):
        socket = first_socket
        socket.close_code = 1006  # nobody has noticed yet
        cell = kernel.execute("x")
        await asyncio.sleep(0)
        host.subprotocol = None
        socket._coming.put_nowait(None)
        socket = await host.next()
        request = await socket.heard("execute_request")
        socket.done(request)
        await wait(cell)
        assert socket.sent.empty()


async def test_what_the_kernel_never_got_is_lost_and_not_sent_again():
    async with running() as (kernel, host, first_socket):
        socket = first_socket
        cell = kernel.execute("x")
        asking = asyncio.ensure_future(kernel.complete("x"))
        await socket.heard("execute_request")
        await socket.heard("complete_request")
        half = kernel.execute("y")
        request = await socket.heard("execute_request")
        socket.end()
        socket = await host.next()
        sounding = await socket.sent.get()
        assert sounding.type == "kernel_info_request"
        socket.reply(request)  # and its idle state is lost
        socket.reply(sounding)
        with pytest.raises(RequestLostError):
            await wait(cell)
        with pytest.raises(RequestLostError):
            await wait(asking)
        assert not half.done
        socket.status(sounding, "busy")
        socket.status(sounding, "idle")
        with pytest.raises(RequestLostError):
            await wait(half)
        assert socket.sent.empty()
        cell = kernel.execute("z")
        socket.done(await socket.heard("execute_request"))
        await wait(cell)


@pytest.mark.parametrize("first", ["outputs", "replies"])
async def test_what_was_missed_comes_in_the_order_of_each_channel_only(first):
    """The kernel's outputs and its replies come to the server by different sockets."""
    async with running() as (kernel, host, first_socket):
        cells = [kernel.execute(code) for code in "xy"]
        requests = [await first_socket.heard("execute_request") for _ in cells]
        first_socket.end()
        socket = await host.next()
        requests.append(await socket.sent.get())

        def outputs() -> None:
            for request in requests:
                socket.status(request, "busy")
                socket.status(request, "idle")

        def replies() -> None:
            for request in requests:
                socket.reply(request)

        for each in (outputs, replies) if first == "outputs" else (replies, outputs):
            each()
        for cell in cells:
            await wait(cell)
        await auntil(lambda: not kernel._pending, "nothing to be waited for")


@pytest.mark.parametrize(
    ("capabilities", "code", "slug"),
    [
        (None, 1006, ""),
        ({}, 1006, ""),
        ({"reasons": {"codes": {}}}, 1006, ""),
        (BRIDGED, 4507, "backlog_full"),
    ],
)
async def test_where_the_server_cannot_give_it_requests_are_lost_and_the_kernel_goes_on(
    capabilities, code, slug
):
    async with running(MemoryHost(capabilities)) as (kernel, host, first_socket):
        socket = first_socket
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        socket.end(code, REASONS[slug].close_reason() if slug else "")
        with pytest.raises(RequestLostError, match="not sent again"):
            await wait(cell)
        socket = await host.next()
        cell = kernel.execute("y")
        socket.done(await socket.heard("execute_request"))
        await wait(cell)


async def test_a_backlog_that_was_full_when_coming_back():
    async with running() as (kernel, host, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        host.refusals = [SocketClosedError("x", 4507, REASONS["backlog_full"].close_reason())]
        socket.end()
        with pytest.raises(RequestLostError):
            await wait(cell)


async def test_another_credential_is_got_where_that_is_the_advice():
    async with running() as (kernel, host, first_socket):
        socket = first_socket
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        # Too early to get another: it is tried again when that may be.
        host.refusals = [AuthError("no", retry_after=0.01)]
        socket.end(4401, REASONS["token_expired"].close_reason())
        socket = await host.next()
        assert host.prepared[0].slug == "token_expired"
        assert host.prepared[0].advice is Advice.AUTHENTICATE
        socket.done(request)
        await wait(cell)


@pytest.mark.parametrize("retry_after", [4.0, None])
async def test_a_credential_that_was_got_lately(retry_after):
    host = MemoryHost()

    async def refused(error):
        raise AuthError("not again so soon", retry_after=retry_after)

    host.refused = refused  # type: ignore[method-assign]
    async with running(host) as (kernel, _, first_socket):
        cell = kernel.execute("x")
        request = await first_socket.heard("execute_request")
        first_socket.end(4401, REASONS["token_expired"].close_reason())
        if retry_after is None:
            with pytest.raises(AuthError, match="so soon"):
                await wait(cell)
        else:
            (await host.next()).done(request)
            await wait(cell)


async def test_no_other_credential_is_to_be_had():
    async with running() as (kernel, host, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        host.refusals = [AuthError("no other")]
        socket.end(4401, REASONS["token_revoked"].close_reason())
        with pytest.raises(AuthError, match="no other"):
            await wait(cell)
        with pytest.raises(AuthError, match="no other"):
            kernel.execute("y")


async def test_a_reason_to_stop():
    async with running() as (kernel, _, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        socket.end(4403, REASONS["forbidden"].close_reason())
        with pytest.raises(SocketClosedError) as raised:
            await wait(cell)
        assert raised.value.slug == "forbidden"


async def test_one_does_not_try_for_ever():
    async with running(reconnect_timeout=5) as (kernel, host, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        host.refusals = [RefusedError("later", 503, retry_after=10)]
        socket.end()
        with pytest.raises(RefusedError, match="later"):
            await wait(cell)


@pytest.mark.parametrize("subprotocol", [KERNEL, None])
async def test_what_is_no_message_ends_the_connection_and_is_told(subprotocol):
    async with running(MemoryHost(subprotocol=subprotocol)) as (kernel, _, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")
        socket.raw(b"nonsense")
        with pytest.raises(KernelError, match="no kernel message"):
            await wait(cell)
        assert socket.close_code == 1002


async def test_a_fault_of_ours_is_told_too(monkeypatch):
    async with running() as (kernel, _, socket):
        cell = kernel.execute("x")
        await socket.heard("execute_request")

        def fails(state):
            raise ZeroDivisionError

        monkeypatch.setattr(kernel, "_on_state", fails)
        socket.status(None, "idle")
        with pytest.raises(KernelError, match="ZeroDivisionError") as raised:
            await wait(cell)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)


async def test_what_is_remembered_of_messages_is_bounded():
    async with running() as (kernel, _, socket):
        link: Link = kernel._link
        for number in range(KNOWN):
            link._heard[str(number)] = 0
        cell = kernel.execute("x")
        request = await socket.heard("execute_request")
        unnamed = socket.say("stream", request, name="stdout", text="a")
        header = {"msg_type": "stream"}
        nameless = type(unnamed)("iopub", header, unnamed.parent_header, {}, unnamed.content)
        socket.repeat(nameless)
        socket.repeat(nameless)
        socket.done(request)
        assert (await wait(cell)).stdout == "aaa"
        assert len(link._heard) == KNOWN


# -- comms -----------------------------------------------------------------------------------------


async def test_a_comm_of_ours():
    async with running(limits=Limits(max_comms=1)) as (kernel, _, socket):
        async with kernel.open_comm("t", {"a": 1}, [b"x"]) as comm:
            opened = await socket.heard("comm_open")
            assert opened.content == {"comm_id": comm.id, "target_name": "t", "data": {"a": 1}}
            assert opened.buffers == (b"x",)
            with pytest.raises(TooLargeError, match="max_comms"):
                kernel.open_comm("t")
            comm.send({"b": 2}, metadata={"m": 1})
            sent = await socket.heard("comm_msg")
            assert (sent.content["data"], sent.metadata) == ({"b": 2}, {"m": 1})
            socket.say("comm_msg", comm_id="other", data={})
            socket.say("comm_msg", comm_id=comm.id, data={"c": 3}, buffers=[b"y"])
            heard = await wait(comm.recv())
            assert (heard.content["data"], heard.buffers) == ({"c": 3}, (b"y",))
            assert "open" in repr(comm)
        assert (await socket.heard("comm_close")).content["comm_id"] == comm.id
        comm.close()
        assert comm.closed
        with pytest.raises(KernelError, match="closed"):
            comm.send({})
        with pytest.raises(KernelError, match="closed"):
            await comm.recv()


async def test_a_comm_of_the_kernels():
    opened = []
    async with running(limits=Limits(max_comms=1, max_waiting=1000)) as (kernel, _, socket):

        def on_comm(comm):
            opened.append(comm)
            if comm.opened_with.content["data"].get("fail"):
                raise RuntimeError("the callback's own")

        failures = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: failures.append(context)
        )
        kernel.on_comm("t", on_comm)
        socket.say("comm_open", comm_id="0", target_name="unknown", data={})
        socket.say("comm_open", comm_id="1", target_name="t", data={"x": 1})
        socket.say("comm_open", comm_id="1", target_name="t", data={"x": 1})
        socket.say("comm_open", comm_id="2", target_name="t", data={})
        assert (await socket.heard("comm_close")).content["comm_id"] == "2"
        (comm,) = opened
        assert comm.opened_with.content["data"] == {"x": 1}
        socket.say("comm_msg", comm_id="1", data={"y": 1})
        socket.say("comm_other", comm_id="1")
        socket.say("comm_close", comm_id="1", data={})
        assert [message.content["data"] async for message in comm] == [{"y": 1}]
        socket.say("comm_open", comm_id="3", target_name="t", data={"fail": True})
        for _ in range(3):
            socket.say("comm_msg", comm_id="3", data={"z": "x" * 1000})
        asking = asyncio.ensure_future(kernel.complete("x"))
        socket.done(await socket.heard("complete_request"))
        await wait(asking)
        assert "on_comm('t') failed" in failures[0]["message"]
        with pytest.raises(TooLargeError, match="max_waiting"):
            await opened[-1].recv()
