"""Kernels of the client: real servers, ipykernel, every carrier, and connections that are lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jupyter_token_ws.client import connect, sync
from jupyter_token_ws.client.errors import (
    AuthError,
    ExecutionError,
    KernelError,
    KernelGoneError,
    RequestLostError,
    TooLargeError,
)
from jupyter_token_ws.client.execution import Execution
from jupyter_token_ws.client.kernel import Kernel, Limits
from jupyter_token_ws.protocol.auth import TicketAuth
from tests.integration.conftest import Start
from tests.support.cutting_proxy import cutting
from tests.support.lasting_kernels import config_for, lasting_kernel
from tests.support.live_kernel import once
from tests.support.process import Server, free_port, start_server
from tests.support.waiting import auntil, until

CARRIERS = pytest.mark.parametrize(
    "carrier", ["websocket", "tunnel-websocket", "tunnel-eventstream"]
)

LINES = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that do not end it."""
    with start_server(tmp_path_factory.mktemp("kernel")) as server:
        yield server


@CARRIERS
async def test_what_a_kernel_does(server: Server, carrier):
    async def answer(prompt, password):
        return f"{prompt}{password}"

    async with connect(server.url, auth=server.token, carrier=carrier) as connected:
        async with connected.kernel("python3", on_input=answer) as kernel:
            assert kernel.info["language_info"]["name"] == "python"
            result = await kernel.execute("import sys\nprint('a')\nprint('b')\n6 * 7")
            assert (result.status, result.stdout, result.text) == ("ok", "a\nb\n", "42")
            assert [each["output_type"] for each in result.outputs] == ["stream", "execute_result"]
            result = await kernel.execute("from getpass import getpass\ninput('x') + getpass('y')")
            assert result.text == "'xFalseyTrue'"
            failed = await kernel.execute("1 / 0")
            with pytest.raises(ExecutionError, match="ZeroDivisionError"):
                failed.raise_for_status()
            assert "sys" in (await kernel.complete("import sy"))["matches"]
            assert (await kernel.inspect("print"))["found"]
            assert (await kernel.is_complete("def f():"))["status"] == "incomplete"
            assert (await kernel.history(1))["history"]

            cell = kernel.execute("import time\nprint('there')\ntime.sleep(100)")
            kinds = []
            async for message in cell:
                kinds.append(message.type)
                if message.type == "stream":
                    await kernel.interrupt()
            assert (await cell).reply["ename"] == "KeyboardInterrupt"
            assert kinds[0] == "status"

            late = kernel.execute("time.sleep(100)", timeout=0.3)
            with pytest.raises(KernelError, match=r"longer than 0\.3 s"):
                await late
            assert (await kernel.execute("len('still there')")).text == "11"
        await gone(server, kernel.id)


async def gone(server: Server, kernel_id: str) -> None:
    await auntil(lambda: server.kernel(kernel_id) is None, "the kernel's end")


async def test_comms_both_ways(server: Server):
    async with (
        connect(server.url, auth=server.token) as connected,
        connected.kernel("python3") as kernel,
    ):
        opened: asyncio.Queue = asyncio.Queue()
        kernel.on_comm("ours", opened.put_nowait)
        await kernel.execute(
            "import comm\n"
            "def target(c, opened):\n"
            "    c.on_msg(lambda m: c.send({'back': m['content']['data']}, buffers=m['buffers']))\n"
            "comm.get_comm_manager().register_target('theirs', target)"
        )
        async with kernel.open_comm("theirs") as mine:
            mine.send({"x": 1}, [b"bytes"])
            answer = await mine.recv()
            assert answer.content["data"] == {"back": {"x": 1}}
            assert answer.buffers == (b"bytes",)
        await kernel.execute(
            "c = comm.create_comm('ours', data={'y': 2})\nc.send({'z': 3})\nc.close()"
        )
        theirs = await opened.get()
        assert theirs.opened_with.content["data"] == {"y": 2}
        assert [message.content["data"] async for message in theirs] == [{"z": 3}]


async def ended_by_a_restart(cell: Execution) -> None:
    """The server interrupts the kernel first, and there may be time for it to say so."""
    try:
        result = await cell
    except KernelError as error:
        assert "started anew" in str(error)  # noqa: PT017 - either will do
    else:
        assert result.reply["ename"] == "KeyboardInterrupt"


async def takes_cells(kernel: Kernel) -> None:
    """It may still be being started: what is asked too early may be lost, which is told."""
    for _ in range(5):
        with suppress(RequestLostError):
            assert (await kernel.execute("2")).text == "2"
            return
    pytest.fail("the kernel took no cell any more")


async def test_restarts_by_whomever(server: Server):
    async with (
        connect(server.url, auth=server.token) as connected,
        connected.kernel() as kernel,
    ):
        await kernel.execute("x = 1")
        cell = kernel.execute("import time\ntime.sleep(100)")
        await anext(aiter(cell))
        await kernel.restart()
        await ended_by_a_restart(cell)
        assert (await kernel.execute("x")).reply["ename"] == "NameError"

        cell = kernel.execute("import time\ntime.sleep(100)")
        await anext(aiter(cell))
        await asyncio.to_thread(server.request, "POST", f"api/kernels/{kernel.id}/restart")
        await ended_by_a_restart(cell)
        await takes_cells(kernel)

        with pytest.raises(KernelError, match="started anew") as raised:
            await kernel.execute("import os\nos._exit(1)")
        assert not isinstance(raised.value, KernelGoneError)
        assert kernel.restarts == 1
        await takes_cells(kernel)


@CARRIERS
async def test_somebody_else_shuts_it_down(server: Server, carrier):
    kernel_id = await asyncio.to_thread(server.start_kernel)
    async with (
        connect(server.url, auth=server.token, carrier=carrier) as connected,
        connected.kernel(kernel_id) as kernel,
    ):
        cell = kernel.execute("import time\ntime.sleep(100)")
        await anext(aiter(cell))
        await asyncio.to_thread(server.request, "DELETE", f"api/kernels/{kernel_id}")
        with pytest.raises(KernelGoneError):
            await cell
        with pytest.raises(KernelGoneError):
            await connected.kernel(id=kernel_id)


async def test_one_that_runs_goes_on_and_is_there_while_it_is_busy(server: Server, tmp_path: Path):
    kernel_id = await asyncio.to_thread(server.start_kernel)
    async with connect(server.url, auth=server.token) as connected:
        async with connected.kernel(kernel_id) as kernel:
            await kernel.execute("x = 5")
            busy = kernel.execute(once(tmp_path / "go", "print('done')"))
            await anext(aiter(busy))
            async with connected.kernel(kernel_id) as other:
                waiting = other.execute("x")
                (tmp_path / "go").touch()
                assert (await waiting).text == "5"
            assert (await busy).stdout == "done\n"
        assert server.kernel(kernel_id) is not None


async def test_limits(server: Server):
    limits = Limits(max_output=100_000)
    async with (
        connect(server.url, auth=server.token) as connected,
        connected.kernel(limits=limits) as kernel,
    ):
        with pytest.raises(TooLargeError, match="100000 bytes"):
            await kernel.execute("print('x' * 200_000)")
        assert (await kernel.execute("1")).text == "1"


@CARRIERS
@pytest.mark.parametrize("how", ["reset", "finish"])
async def test_what_a_cell_prints_while_the_connection_is_lost(
    server: Server, tmp_path: Path, carrier, how
):
    with cutting(tmp_path, server.port) as proxy:
        async with (
            connect(proxy.url, auth=server.token, carrier=carrier) as connected,
            connected.kernel("python3") as kernel,
        ):
            code = "for i in range(1000): print(i, flush=True)\nlast = 1\nlast"
            cell = kernel.execute("print('before')\n" + once(tmp_path / "go", code))
            waiting = kernel.execute("last + 1")
            await kernel._meet()  # what was sent before this has come to the server
            kinds, heard = [], ""
            async for message in cell:
                kinds.append(message.type)
                heard += message.content.get("text", "") if message.type == "stream" else ""
                if heard == "before\n" and not (tmp_path / "go").exists():
                    proxy.do(how)
                    if carrier == "websocket":
                        # What goes into a socket that is cut before the server knows is lost.
                        until(
                            lambda: (server.kernel(kernel.id) or {})["connections"] == 0, "the cut"
                        )
                    (tmp_path / "go").touch()
            result = await cell
            expected = "before\n" + "".join(f"{number}\n" for number in range(1000))
            assert (result.stdout, result.text) == (expected, "1")
            assert kinds.count("execute_reply") == 1
            assert (await waiting).text == "2"


async def test_a_stock_server_cannot_give_what_was_missed(tmp_path: Path, start: Start):
    server = start(stock=True)
    with cutting(tmp_path, server.port) as proxy:
        async with (
            connect(proxy.url, auth=server.token) as connected,
            connected.kernel("python3") as kernel,
        ):
            assert connected.capabilities is None
            assert (await kernel.execute("6 * 7")).text == "42"
            cell = kernel.execute(once(tmp_path / "go", "x = 1"))
            await anext(aiter(cell))
            proxy.do("reset")
            with pytest.raises(RequestLostError):
                await cell
            (tmp_path / "go").touch()
            assert (
                await kernel.execute("x")
            ).text == "1"  # it ran, once, and that is not known here
        await gone(server, kernel.id)


@CARRIERS
async def test_a_ticket_ends_in_the_middle_of_a_cell(server: Server, tmp_path: Path, carrier):
    auth = TicketAuth(token=server.token, max_age=2)
    async with (
        connect(server.url, auth=auth, carrier=carrier) as connected,
        connected.kernel("python3") as kernel,
    ):
        begun = time.monotonic()
        code = (
            "import time\nfor i in range(50):\n    print(i, flush=True)\n    time.sleep(0.1)\n'end'"
        )
        result = await kernel.execute(code)
        assert result.stdout == "".join(f"{number}\n" for number in range(50))
        assert result.text == "'end'"
        assert time.monotonic() - begun > 4  # twice a ticket's life


async def test_no_other_ticket_is_to_be_had(server: Server):
    answer = await asyncio.to_thread(
        server.request,
        "POST",
        "api/token-ws/login",
        {"token": server.token, "max_age": 60},
        token="",
    )
    ticket = answer.json()["token"]
    kernel_id = await asyncio.to_thread(server.start_kernel)
    async with (
        connect(server.url, auth=ticket) as connected,
        connected.kernel(kernel_id) as kernel,
    ):
        cell = kernel.execute("import time\ntime.sleep(100)")
        await anext(aiter(cell))
        await asyncio.to_thread(server.request, "DELETE", "api/token-ws/login", token=ticket)
        with pytest.raises(AuthError, match="token_revoked"):
            await cell
    await asyncio.to_thread(server.request, "DELETE", f"api/kernels/{kernel_id}")


@CARRIERS
async def test_a_server_that_is_restarted(start: Start, tmp_path: Path, carrier):
    """Its kernel goes on, and what was under way is lost with the server's memory; nothing is sent again."""
    folder, port = tmp_path / "kernels", free_port()
    with lasting_kernel(folder) as lasting:
        first = start(config=config_for(folder), port=port)
        async with (
            connect(first.url, auth=first.token, carrier=carrier) as connected,
            connected.kernel(id=lasting.id) as kernel,
        ):
            assert (await kernel.execute("count = 0\nimport os\nos.getpid()")).text == str(
                lasting.pid
            )
            cell = kernel.execute("count += 1\n" + once(tmp_path / "go", "print('done')"))
            await anext(aiter(cell))
            await asyncio.to_thread(first.stop, signal.SIGTERM)
            (tmp_path / "go").touch()
            await asyncio.to_thread(start, config=config_for(folder), port=port)
            with pytest.raises(RequestLostError):
                await asyncio.wait_for(cell.result(), 60)
            assert (await kernel.execute("count")).text == "1"


async def test_a_server_that_ends_with_its_kernels(start: Start):
    port = free_port()
    first = start(port=port)
    async with (
        connect(first.url, auth=first.token) as connected,
        connected.kernel("python3") as kernel,
    ):
        cell = kernel.execute("import time\ntime.sleep(100)")
        await anext(aiter(cell))
        await asyncio.to_thread(first.stop, signal.SIGTERM)
        await asyncio.to_thread(start, port=port)
        with pytest.raises(KernelGoneError):
            await asyncio.wait_for(cell.result(), 60)


@pytest.mark.heavy
@pytest.mark.parametrize("carrier", ["tunnel-websocket", "tunnel-eventstream"])
async def test_a_hundred_thousand_lines_through_cuts(server: Server, tmp_path: Path, carrier):
    seed = int.from_bytes(os.urandom(2), "big")
    with cutting(tmp_path, server.port, f"--seed={seed}", "--every=0.1-0.6") as proxy:
        async with (
            connect(proxy.url, auth=server.token, carrier=carrier) as connected,
            connected.kernel("python3", open_timeout=120) as kernel,
        ):
            code = f"for i in range({LINES}):\n    print(i)\n    if not i % 1000: time.sleep(0.05)"
            result = await asyncio.wait_for(kernel.execute("import time\n" + code).result(), 250)
            assert result.stdout == "".join(f"{i}\n" for i in range(LINES)), seed
            counts = proxy.do("calm")
            assert sum(counts.values()) > 3, counts


# -- without asyncio -------------------------------------------------------------------------------


def test_scripts_without_asyncio(server: Server):
    opened: list[Any] = []
    with (
        sync.connect(server.url, auth=server.token) as connected,
        connected.kernel("python3", on_input=lambda prompt, password: "typed") as kernel,
    ):
        assert kernel.info["language_info"]["name"] == "python"
        cell = kernel.execute("print('a')\ninput()")
        assert "stream" in [message.type for message in cell]
        assert cell.done
        assert cell.result().text == "'typed'"
        assert "sys" in kernel.complete("import sy")["matches"]
        assert kernel.inspect("print")["found"]
        assert kernel.is_complete("1")["status"] == "complete"
        assert kernel.history(1)["history"]
        kernel.on_comm("ours", opened.append)
        kernel.execute(
            "import comm\n"
            "target = lambda c, _: c.on_msg(lambda m: c.send(m['content']['data']))\n"
            "comm.get_comm_manager().register_target('theirs', target)\n"
            "c = comm.create_comm('ours', data={})\nc.close()"
        ).result()
        assert opened[0].opened_with is not None
        assert list(opened[0]) == []
        with kernel.open_comm("theirs") as mine:
            mine.send({"x": 1})
            assert mine.recv().content["data"] == {"x": 1}
            assert mine.id
        assert mine.closed
        running = kernel.execute("import time\nprint(1)\ntime.sleep(100)")
        next(message for message in running if message.type == "stream")
        kernel.interrupt()
        assert running.result().status == "error"
        kernel.restart()
        assert (kernel.restarts, kernel.state) != (1, "dead")
        assert kernel.execute("1").result().text == "1"
        kernel.shutdown()
        with pytest.raises(KernelGoneError):
            kernel.execute("1")
        kernel.close()
    assert server.kernel(kernel.id) is None
