"""Other kernels, other frontends beside a websocket, other ways to a kernel: all by a real server."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

from tests.integration.conftest import Start
from tests.support.knock import TIMEOUT
from tests.support.live_kernel import printed
from tests.support.process import Server
from tests.support.served_kernel import Served, install_kernel

FORMATS = pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])


def connection_file(server: Server, kernel_id: str) -> Path:
    return server.log_path.parent / "runtime" / f"kernel-{kernel_id}.json"


# -- a kernel that is not Python's -------------------------------------------------------------------

BASH = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]


@FORMATS
async def test_bash(start: Start, tmp_path: Path, v1: bool):
    server = start()
    install_kernel(tmp_path, "bash", BASH, language="bash")
    kernel = Served(server, await asyncio.to_thread(server.start_kernel, "bash"))
    async with kernel.client("a", v1=v1) as ann, kernel.client("b") as bob:
        info = await ann.send("shell", "kernel_info_request")
        await ann.idle(info, "kernel_info_reply")
        (reply,) = [m for m in ann.heard if m["header"]["msg_type"] == "kernel_info_reply"]
        assert reply["content"]["language_info"]["name"] == "bash"
        assert (await ann.run("x=é; echo $x $((6 * 7))")).strip() == "é 42"
        assert (await bob.run("echo still $x")).strip() == "still é"
        # It sends each line by itself; some five hundred and more at once a busy machine makes it lose.
        counted = await bob.execute("for n in $(seq 400); do echo $n; done")
        assert printed(await bob.idle(counted)).split() == [str(n) for n in range(1, 401)]
        failed = await ann.execute("false")
        await ann.until("execute_reply", failed, status="error")
        completed = await ann.send("shell", "complete_request", {"code": "ech", "cursor_pos": 3})
        found = await ann.until("complete_reply", completed)
        assert "echo" in found["content"]["matches"]
        # One process says it and sleeps: bash lets a ^C pass by that comes while it starts another.
        sleeping = await ann.execute("sh -c 'echo begun; exec sleep 600'")
        await ann.until("stream", sleeping)
        await kernel.ask("POST", "/interrupt")
        await ann.idle(sleeping)
        await kernel.ask("POST", "/restart")
        assert (await bob.run("echo [$x]")).strip() == "[]"
        assert (await ann.run("echo again")).strip() == "again"


# -- frontends that need no server -------------------------------------------------------------------


@contextmanager
def console(path: Path) -> Iterator[Any]:
    """A ``jupyter console --existing``."""
    arguments = ["-m", "jupyter_console", "--existing", str(path), "--simple-prompt"]
    running = pexpect.spawn(sys.executable, arguments, encoding="utf-8", timeout=90)
    try:
        yield running
    finally:
        running.close(force=True)


async def test_jupyter_console_beside_a_websocket(start: Start):
    server = start()
    kernel = Served(server, await asyncio.to_thread(server.start_kernel))

    def expect(text: str) -> None:
        running.expect_exact(text)

    async with kernel.client() as client:
        await client.run("x = 20")
        with console(connection_file(server, kernel.id)) as running:
            await asyncio.to_thread(expect, "In [")
            running.sendline("y = x + 1; print('y is', y)")
            await asyncio.to_thread(expect, "y is 21")
            heard = await client.until("stream")
            assert heard["content"]["text"] == "y is 21\n"
            assert heard["parent_header"]["session"] != client.session
            # Each is asked its own questions, and only it.
            # What is waited for does not stand in what is typed, which the terminal may show before.
            running.sendline("name = input('who' + '? '); print('hello', name)")
            await asyncio.to_thread(expect, "who? ")
            running.sendline("Ann")
            await asyncio.to_thread(expect, "hello Ann")
            asked = await client.execute("print('got', name, input('and? '))", stdin=True)
            await client.until("input_request", asked)
            await client.send("stdin", "input_reply", {"value": "Bob"})
            assert "got Ann Bob" in printed(await client.idle(asked))
            own = {client.session}
            private = [m for m in client.heard if m["channel"] in ("shell", "stdin")]
            assert {m["parent_header"]["session"] for m in private} == own
            running.sendline("exit(keep_kernel=True)")
            await asyncio.to_thread(running.expect, pexpect.EOF)
        assert await client.run("print(y)") == "21\n"
        assert (await kernel.ask("GET"))["connections"] == 1


async def test_client_by_zmq_beside_websockets(start: Start):
    """Replies are its own, output is everybody's, and its interrupt ends a websocket's cell."""
    server = start()
    kernel = Served(server, await asyncio.to_thread(server.start_kernel))
    beside = AsyncKernelClient(connection_file=str(connection_file(server, kernel.id)))
    beside.load_connection_file()
    beside.start_channels()
    try:
        await beside.wait_for_ready(TIMEOUT)
        async with kernel.client("a") as ann, kernel.client("b", v1=False) as bob:
            sent = beside.execute("print('beside\\n', end='')")  # in one message
            # Before that those to the questions of `wait_for_ready`, however many it asked.
            reply = await beside.get_shell_msg(TIMEOUT)
            while reply["header"]["msg_type"] == "kernel_info_reply":
                reply = await beside.get_shell_msg(TIMEOUT)
            assert reply["parent_header"]["msg_id"] == sent
            for client in (ann, bob):
                await client.until("stream", sent, text="beside\n")
                await client.until("status", sent, execution_state="idle")
                assert {m["channel"] for m in client.heard} == {"iopub"}
            running = await ann.execute("import time; print('begun', flush=True); time.sleep(600)")
            await bob.until("stream", running)
            beside.control_channel.send(beside.session.msg("interrupt_request"))
            await ann.idle(running)
            heard: dict[str, Any] = {"parent_header": {}, "content": {}}
            while (
                heard["parent_header"].get("msg_id"),
                heard["content"].get("execution_state"),
            ) != (
                running,
                "idle",
            ):
                heard = await beside.get_iopub_msg(TIMEOUT)
    finally:
        beside.stop_channels()
        beside.context.destroy(linger=0)


# -- other ways to a kernel --------------------------------------------------------------------------

WAYS: dict[str, dict[str, dict[str, object]]] = {
    "encrypted": {"MappingKernelManager": {"transport_encryption": "required"}},
    "ipc": {"KernelManager": {"transport": "ipc"}},
    "encrypted ipc": {
        "MappingKernelManager": {"transport_encryption": "required"},
        "KernelManager": {"transport": "ipc"},
    },
}


@pytest.fixture
def short() -> Iterator[str]:
    """A directory with a short name."""
    with tempfile.TemporaryDirectory() as directory:
        yield directory


@pytest.mark.parametrize("way", WAYS)
async def test_channels_that_are_encrypted_or_no_tcp(start: Start, short: str, way: str):
    """Everything that the bridge opens has the keys: questions, control, activity, and after a restart."""
    # A socket's name has 107 characters at most.
    server = start(config=WAYS[way], env={"JUPYTER_RUNTIME_DIR": short})
    kernel = Served(server, await asyncio.to_thread(server.start_kernel))
    info = json.loads(Path(short, f"kernel-{kernel.id}.json").read_text())
    assert ("curve_publickey" in info) == ("encrypted" in way)
    assert info["transport"] == ("ipc" if "ipc" in way else "tcp")
    async with kernel.client("a") as ann, kernel.client("b", v1=False) as bob:
        asked = await ann.execute("print('got', input('? '))", stdin=True)
        await ann.until("input_request", asked)
        await kernel.becomes(execution_state="busy", connections=2)
        await ann.send("stdin", "input_reply", {"value": "it"})
        assert "got it" in printed(await ann.idle(asked))
        assert "got it" in (await bob.until("stream", asked))["content"]["text"]
        await kernel.becomes(execution_state="idle")
        sleeping = await bob.execute("import time; print('begun', flush=True); time.sleep(600)")
        await bob.until("stream", sleeping)  # before that there is nothing to be interrupted
        await ann.send("control", "interrupt_request")
        await bob.idle(sleeping)
        await kernel.ask("POST", "/restart")
        for client in (ann, bob):
            assert await client.run("print('asked' in globals())") == "False\n"


async def test_kernels_of_a_gateway_are_without_the_bridge(start: Start):
    """Said in the log; where the kernels are it is there all the same."""
    behind = start(name="behind")
    front = start(
        name="front",
        config={"GatewayClient": {"url": behind.url, "auth_token": behind.token}},
    )
    name = "GatewayWebSocketConnection"
    assert f"Kernels are without the bridge: their connection class is {name}" in front.log()
    assert "without the bridge" not in behind.log()
    kernel = Served(front, await asyncio.to_thread(front.start_kernel))
    async with kernel.client() as client:
        assert await client.run("print(6 * 7)") == "42\n"
        there = Served(behind, kernel.id)
        assert (await there.ask("GET"))["connections"] == 1
