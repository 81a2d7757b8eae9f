"""ipykernel behind the bridge of a real server: questions, interrupts, restarts, the debugger, subshells,
widgets, and what the REST API says of a kernel meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.support import inside
from tests.support.live_kernel import Client, printed
from tests.support.process import Server, start_server
from tests.support.served_kernel import Served
from tests.support.waiting import auntil

FORMATS = pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with nothing configured."""
    with start_server(tmp_path_factory.mktemp("bridge")) as server:
        yield server


@pytest.fixture
def kernel(shared: Server) -> Iterator[Served]:
    kernel_id = shared.start_kernel()
    yield Served(shared, kernel_id)
    assert shared.request("DELETE", f"api/kernels/{kernel_id}").status == 204


def replied(client: Client, message_id: str) -> dict[str, Any]:
    """The content of the one reply to a request."""
    (reply,) = [
        each["content"]
        for each in client.heard
        if each["header"]["msg_type"].endswith("_reply")
        and each["parent_header"]["msg_id"] == message_id
    ]
    content: dict[str, Any] = reply
    return content


# -- questions ---------------------------------------------------------------------------------------


@FORMATS
async def test_two_are_asked_and_the_kernel_is_interrupted(kernel, v1):
    """By the REST API, as the button of JupyterLab does: who waits now gets the error, and the other one
    is asked then."""
    async with kernel.client("a", v1=v1) as ann, kernel.client("b", v1=v1) as bob:
        first = await ann.execute("print('got', input('ann? '))", stdin=True)
        await ann.until("input_request", first)
        second = await bob.execute("print('got', input('bob? '))", stdin=True)
        await kernel.ask("POST", "/interrupt")
        await ann.idle(first)
        assert replied(ann, first)["ename"] == "KeyboardInterrupt"
        assert (await bob.until("input_request", second))["content"]["prompt"] == "bob? "
        await bob.send("stdin", "input_reply", {"value": "two"})
        assert "got two" in printed(await bob.idle(second))
        assert replied(bob, second)["status"] == "ok"
        questions = [m for m in ann.heard if m["header"]["msg_type"] == "input_request"]
        assert [m["parent_header"]["msg_id"] for m in questions] == [first]
        assert await ann.run("print(1)") == "1\n"


async def test_debug_after_an_error(kernel):
    """%debug asks on stdin, again and again, in a cell that does not end meanwhile."""
    async with kernel.client() as client:
        await client.idle(await client.execute("def f(secret):\n    1 / 0\nf(42)"))
        debugging = await client.execute("%debug", stdin=True)
        for answer in ("p secret + 1", "up", "q"):
            question = await client.until("input_request", debugging)
            assert question["content"]["prompt"] == "ipdb> "
            await client.send("stdin", "input_reply", {"value": answer})
        heard = await client.idle(debugging)
        assert "43" in printed(heard)
        assert replied(client, debugging)["status"] == "ok"


async def test_debugger_of_the_frontend(kernel):
    """Control passes a cell that stands at a breakpoint, and events come on iopub."""
    async with kernel.client() as client:
        number = 0

        async def debug(command: str, **arguments: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            content = {"type": "request", "seq": number, "command": command, "arguments": arguments}
            asked = await client.send("control", "debug_request", content)
            answer: dict[str, Any] = (await client.until("debug_reply", asked))["content"]
            assert answer["success"], answer
            body: dict[str, Any] = answer.get("body") or {}
            return body

        code = "a = 20\nb = a + 1\nprint(2 * b)"
        await debug("initialize", clientID="test", adapterID="", pathFormat="path")
        await debug("attach")
        source = {"path": (await debug("dumpCell", code=code))["sourcePath"]}
        await debug("setBreakpoints", source=source, breakpoints=[{"line": 3}])
        await debug("configurationDone")
        running = await client.execute(code)
        stopped = (await client.until("debug_event", event="stopped"))["content"]
        thread = stopped["body"]["threadId"]
        frames = (await debug("stackTrace", threadId=thread))["stackFrames"]
        assert frames[0]["line"] == 3
        found = await debug("evaluate", expression="b", frameId=frames[0]["id"])
        assert found["result"] == "21"
        await debug("continue", threadId=thread)
        assert "42" in printed(await client.idle(running))
        await debug("disconnect")


# -- interrupts --------------------------------------------------------------------------------------

ENDLESS = """
import itertools
from IPython.display import display
for n in itertools.count():
    display({"text/plain": f"<{n}>"}, raw=True)
    print(f"({n})", flush=True)
"""


@pytest.mark.parametrize("way", ["REST", "control"])
async def test_a_cell_that_floods_is_interrupted(kernel, way):
    async with kernel.client("a") as ann, kernel.client("b") as bob:
        flood = await ann.execute(ENDLESS)
        await ann.until("display_data", flood)
        listening = asyncio.create_task(ann.idle(flood))
        if way == "REST":
            await kernel.ask("POST", "/interrupt")
        else:
            asked = await bob.send("control", "interrupt_request")
            await bob.until("interrupt_reply", asked)
        heard = await listening
        assert replied(ann, flood)["ename"] == "KeyboardInterrupt"
        shown = [
            each["content"]["data"]["text/plain"]
            for each in heard
            if each["header"]["msg_type"] == "display_data"
        ]
        assert shown == [f"<{n}>" for n in range(len(shown))]
        kinds = [each["header"]["msg_type"] for each in heard if each["channel"] == "iopub"]
        assert kinds[-2:] == ["error", "status"]
        assert await bob.run("print('on')") == "on\n"


# -- restarts ----------------------------------------------------------------------------------------

NEW_PORTS = {
    "KernelManager": {"cache_ports": False},
    "MappingKernelManager": {"kernel_manager_class": "tests.support.kernel_managers.NewPorts"},
}


@FORMATS
async def test_restart_with_other_ports_while_connected(start: Start, v1):
    """By the REST API, twice, in a cell and after it; and by the restarter when the kernel dies."""
    server = start(config=NEW_PORTS)
    kernel = Served(server, await asyncio.to_thread(server.start_kernel))
    ports = [_shell_port(server)]

    def moved() -> bool:
        port = _shell_port(server)
        if port in {0, ports[-1]}:
            return False
        ports.append(port)
        return True

    async with kernel.client("a", v1=v1) as ann, kernel.client("b") as bob:
        await ann.run("x = 1")
        sleeping = await ann.execute("import time; time.sleep(600)")
        await bob.until("status", sleeping, execution_state="busy")
        for client in (ann, bob):
            await kernel.ask("POST", "/restart")
            assert moved()
            assert await client.run("print('x' in globals())") == "False\n"
        await ann.execute("import os; os._exit(1)")
        for client in (ann, bob):
            await client.until("status", execution_state="restarting")
        await auntil(moved, "the restarter")
        for client in (ann, bob):
            assert await client.run("print('x' in globals())") == "False\n"
        assert (await kernel.ask("GET"))["connections"] == 2
    assert not [line for line in server.log().splitlines() if line.startswith("[E ")]


def _shell_port(server: Server) -> int:
    """Of the only kernel, by its connection file; 0 while it has none."""
    try:
        (path,) = (server.log_path.parent / "runtime").glob("kernel-*.json")
        port: int = json.loads(path.read_text())["shell_port"]
    except (ValueError, FileNotFoundError):  # it is being written, or replaced
        return 0
    return port


# -- subshells ---------------------------------------------------------------------------------------


async def test_subshells_of_two_clients_beside_a_busy_main_shell(kernel):
    """Each has one, and is asked the question of its own."""
    async with kernel.client("a") as ann, kernel.client("b", v1=False) as bob:
        busy = await ann.execute("import time\nwhile not globals().get('go'): time.sleep(.01)")
        await ann.until("status", busy, execution_state="busy")
        subshells = {}
        for client in (ann, bob):
            asked = await client.send("control", "create_subshell_request")
            made = await client.until("create_subshell_reply", asked)
            subshells[client.session] = made["content"]["subshell_id"]
        asked = await bob.send("control", "list_subshell_request")
        listed = await bob.until("list_subshell_reply", asked)
        assert sorted(listed["content"]["subshell_id"]) == sorted(subshells.values())
        # One after the other: two questions at once are more than ipykernel can do, whose subshells read
        # their answers from one socket.
        for client, name in ((ann, "ann"), (bob, "bob")):
            code = f"print('{name} got', input('{name}? '))"
            asked = await client.execute(code, stdin=True, subshell_id=subshells[client.session])
            question = await client.until("input_request", asked)
            assert question["content"]["prompt"] == f"{name}? "
            await client.send("stdin", "input_reply", {"value": "1"})
            assert printed(await client.idle(asked)) == f"{name} got 1\n"
        assert not [each for each in ann.heard if each["parent_header"].get("msg_id") == busy][2:]
        done = await bob.execute("go = True", subshell_id=subshells[bob.session])
        await bob.idle(done)
        await ann.idle(busy)
        for client in (ann, bob):
            gone = await client.send(
                "control",
                "delete_subshell_request",
                {"subshell_id": subshells[client.session]},
            )
            assert (await client.until("delete_subshell_reply", gone))["content"]["status"] == "ok"
            assert await client.run("print(1)") == "1\n"


# -- widgets -----------------------------------------------------------------------------------------

PICTURE = "\x00\xff\n\r".encode("latin-1") + bytes(range(256)) * 2000
WIDGET = f"""
from ipywidgets import Image
image = Image(value={PICTURE[:4]!r} + bytes(range(256)) * 2000)
image
"""


@FORMATS
async def test_widget_with_binary_state_both_ways(kernel, v1):
    async with kernel.client("a", v1=v1) as ann, kernel.client("b") as bob:
        made = await ann.execute(WIDGET)
        opened = [
            each
            for each in await ann.idle(made)
            if each["header"]["msg_type"] == "comm_open" and each["buffers"]
        ]
        assert [each["buffers"] for each in opened] == [[PICTURE]]
        assert opened[0]["content"]["data"]["buffer_paths"] == [["value"]]
        comm = opened[0]["content"]["comm_id"]
        await bob.until("comm_open", made, comm_id=comm)
        other = bytes(reversed(PICTURE))
        update = {"method": "update", "state": {}, "buffer_paths": [["value"]]}
        sent = await ann.send("shell", "comm_msg", {"comm_id": comm, "data": update}, [other])
        # The other one is told what the state is now, by the kernel's echo or by asking for it.
        await bob.until("status", sent, execution_state="idle")
        code = "import hashlib; print(hashlib.sha256(image.value).hexdigest())"
        assert (await bob.run(code)).strip() == hashlib.sha256(other).hexdigest()
        ask = {"comm_id": comm, "data": {"method": "request_state"}}
        asked = await bob.send("shell", "comm_msg", ask)
        state = await bob.until("comm_msg", asked, comm_id=comm)
        assert [bytes(each) for each in state["buffers"]] == [other]


# -- what the REST API says --------------------------------------------------------------------------


def _time(model: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(model["last_activity"].replace("Z", "+00:00"))


async def test_activity_of_a_kernel_and_its_server(kernel):
    begun = _time(await kernel.becomes(execution_state="starting", connections=0))
    async with kernel.client() as client:
        await kernel.becomes(execution_state="idle", connections=1)
        code = "import time\nwhile True: print('on', flush=True); time.sleep(.05)"
        running = await client.execute(code)
        busy = await kernel.becomes(execution_state="busy", connections=1)
        assert _time(busy) > begun
        # Output alone counts as activity. Before it a kernel that is interrupted may forget the reply.
        await client.until("stream", running)
        later = busy = await kernel.ask("GET")
        while later["execution_state"] == "busy" and _time(later) == _time(busy):
            later = await kernel.ask("GET")
        assert later["execution_state"] == "busy"
        await kernel.ask("POST", "/interrupt")
        await client.idle(running)
        assert _time(await kernel.becomes(execution_state="idle")) > _time(later)
        status = await asyncio.to_thread(kernel.server.request, "GET", "api/status")
        assert status.json()["connections"] >= 1
    await kernel.becomes(execution_state="idle", connections=0)


CULLING = {
    "MappingKernelManager": {
        "cull_idle_timeout": 3600,
        "cull_interval": 1,
        "cull_connected": True,
        "cull_busy": False,
    }
}


async def test_culling(start: Start):
    """What is idle for long is shut down, which its client is told; what works or is asked is not."""
    server = start(config=CULLING, extensions={inside.__name__: True})
    kernels = [Served(server, await asyncio.to_thread(server.start_kernel)) for _ in range(3)]
    idle, busy, chatty = kernels
    async with idle.client() as sleeper, busy.client() as worker, chatty.client() as talker:
        await sleeper.run("1")
        working = await worker.execute("import time\nwhile True: time.sleep(.1)")
        await worker.until("status", working, execution_state="busy")

        async def talk() -> None:
            while True:
                await talker.run("1")
                await asyncio.sleep(0.2)

        await talker.run("1")
        talking = asyncio.create_task(talk())
        # Not before all three have begun, which may take longer than that.
        answer = await asyncio.to_thread(
            server.request, "POST", inside.PATH, {"cull_idle_timeout": 2}
        )
        assert answer.status == 204
        await sleeper.knock.wait_closed()
        assert (sleeper.knock.code, sleeper.knock.slug) == (4410, "gone")
        answer = await asyncio.to_thread(server.request, "GET", "api/kernels")
        assert {model["id"] for model in answer.json()} == {busy.id, chatty.id}
        assert not talking.done()
        talking.cancel()
        await busy.ask("POST", "/interrupt")
        await worker.idle(working)
        await talker.knock.wait_closed()
        assert talker.knock.slug == "gone"


# -- as stock ----------------------------------------------------------------------------------------

SAID = """
import sys
from IPython.display import display, clear_output
print('out'); print('err', file=sys.stderr, flush=True)
display({'text/plain': 'x', 'application/json': {'é': [1, None]}}, raw=True, display_id='d')
display({'text/plain': 'y'}, raw=True, display_id='d', update=True)
clear_output(wait=True)
'value'
"""


async def conversation(kernel: Served, *, v1: bool) -> list[Any]:
    """What a client hears of a bit of everything, without what is never twice the same."""
    heard: list[Any] = []
    async with kernel.client(v1=v1) as client:
        await client.idle(await client.execute("import time"))
        for channel, kind, content in (
            ("shell", "kernel_info_request", {}),
            ("shell", "execute_request", _code(SAID)),
            ("shell", "execute_request", _code("1 / 0")),
            ("shell", "execute_request", _code("def (")),
            ("shell", "complete_request", {"code": "print", "cursor_pos": 3}),
            ("shell", "inspect_request", {"code": "len", "cursor_pos": 2, "detail_level": 0}),
            ("shell", "is_complete_request", {"code": "for"}),
            ("shell", "history_request", {"hist_access_type": "tail", "n": 1, "raw": True}),
            ("shell", "comm_info_request", {}),
            ("shell", "comm_msg", {"comm_id": "none", "data": {}}),
            ("control", "kernel_info_request", {}),
            ("shell", "nonsense_request", {}),
        ):
            sent = await client.send(channel, kind, content)
            # Not everything is answered, but this is, and after it.
            after = await client.send(channel, "kernel_info_request")
            await client.idle(after, "kernel_info_reply")
            heard.append(
                sorted(
                    (_plain(each) for each in client.heard if _about(each, sent)),
                    key=lambda each: each[0] != "iopub",  # replies come when they like
                )
            )
    return heard


def _about(message: dict[str, Any], message_id: str) -> bool:
    return bool(message["parent_header"].get("msg_id") == message_id)


def _plain(message: dict[str, Any]) -> Any:
    header = {name: message["header"].get(name) for name in ("msg_type", "version", "username")}
    fixed = sorted(message["header"]), sorted(message["parent_header"]), sorted(message)
    content = {
        name: value
        for name, value in message["content"].items()
        if name not in ("history", "traceback", "engine_info", "banner")  # the tip of the day
    }
    return message["channel"], header, fixed, content, sorted(message["metadata"])


def _code(code: str) -> dict[str, Any]:
    return {"code": code, "silent": False, "store_history": False, "stop_on_error": False}


RULES: dict[str, dict[str, dict[str, object]]] = {
    "default": {},
    "some messages": {
        "MappingKernelManager": {
            "allowed_message_types": ["execute_request", "kernel_info_request", "comm_msg"]
        }
    },
}


@FORMATS
@pytest.mark.parametrize("rule", RULES)
async def test_what_a_client_hears_is_what_stock_says(start: Start, rule, v1):
    servers = [
        start(config=RULES[rule], name="ours"),
        start(config=RULES[rule], stock=True, name="stock"),
    ]
    kernels = [Served(each, await asyncio.to_thread(each.start_kernel)) for each in servers]
    ours, stock = [await conversation(each, v1=v1) for each in kernels]
    assert ours == stock
    assert len(ours) == 12
