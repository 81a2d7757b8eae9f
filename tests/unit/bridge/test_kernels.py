"""Real kernels behind the bridge: what stock does, and what it does not."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import psutil
import pytest
from ipykernel._version import version_info as ipykernel_version
from jupyter_client.connect import port_names
from jupyter_server.gateway.connections import GatewayWebSocketConnection
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from jupyter_token_ws.bridge.connection import KernelBridgeConnection
from jupyter_token_ws.bridge.server import SETTING
from jupyter_token_ws.bridge.tap import Tap
from jupyter_token_ws.bridge.wire import Message
from jupyter_token_ws.protocol.kernel_messages import pack_json
from tests.support.knock import TIMEOUT
from tests.support.live_kernel import Client, Live, install, odd, once, printed
from tests.support.waiting import auntil, given_back

FORMATS = pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])


# -- messages --------------------------------------------------------------------------------------


@FORMATS
async def test_a_cell_runs(kernel, v1):
    async with kernel.client(v1=v1) as client:
        assert await client.run("print('é', 1 + 1)") == "é 2\n"
        message_id = await client.execute("'a' + 'b'")
        heard = await client.idle(message_id)
        kinds = [each["header"]["msg_type"] for each in heard if each["channel"] == "iopub"]
        assert kinds == ["status", "execute_input", "execute_result", "status"]
        assert [each for each in heard if each["channel"] == "shell"]
    assert isinstance(kernel.kernel._activity_stream, Tap)


BUFFERS = """
from comm import create_comm, get_comm_manager
def opened(comm, message):
    @comm.on_msg
    def echo(message):
        buffers = [bytes(each) for each in message["buffers"]]
        comm.send({"count": len(buffers)}, buffers=buffers[::-1])
get_comm_manager().register_target("echo", opened)
"""


@FORMATS
async def test_buffers_both_ways(kernel, v1):
    async with kernel.client(v1=v1) as client:
        await client.run(BUFFERS)
        comm = {"comm_id": "c", "data": {}}
        await client.send("shell", "comm_open", {**comm, "target_name": "echo"})
        sent = [b"\x00\xff", b"", bytes(300_000)]
        await client.send("shell", "comm_msg", comm, sent)
        message = await client.until("comm_msg")
        assert message["buffers"] == sent[::-1]
        assert message["content"]["data"] == {"count": 3}


@FORMATS
async def test_two_clients_in_input(kernel, v1):
    """One set of sockets for both: each gets its own question and its own reply."""
    async with kernel.client("a", v1=v1) as ann, kernel.client("b") as bob:
        first = await ann.execute("print('got', input('ann? '))", stdin=True)
        assert (await ann.until("input_request", first))["content"]["prompt"] == "ann? "
        second = await bob.execute("print('got', input('bob? '))", stdin=True)
        await ann.send("stdin", "input_reply", {"value": "one"})
        assert "got one" in printed(await ann.idle(first))
        assert (await bob.until("input_request", second))["content"]["prompt"] == "bob? "
        interrupt = await ann.send("control", "interrupt_request")
        await ann.until("interrupt_reply", interrupt)
        reply = await bob.until("execute_reply", second)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        for client in (ann, bob):
            assert await client.run("print(1)") == "1\n"
        other = {first: ann, second: bob}
        for message_id, owner in other.items():
            stranger = bob if owner is ann else ann
            private = {"shell", "stdin", "control"}
            assert not [
                each
                for each in stranger.heard
                if each["channel"] in private and each["parent_header"].get("msg_id") == message_id
            ]


@pytest.mark.skipif(ipykernel_version < (7,), reason="ipykernel has them since version 7")
async def test_subshells(kernel):
    async with kernel.client() as client:
        asked = await client.send("control", "create_subshell_request")
        made = await client.until("create_subshell_reply", asked)
        subshell = made["content"]["subshell_id"]
        main = await client.execute("import time\nwhile not globals().get('go'): time.sleep(.01)")
        assert "set" in printed(
            await client.idle(await client.execute("go = 1; print('set')", subshell_id=subshell))
        )
        await client.idle(main)


async def test_everybody_hears_iopub_and_only_one_its_reply(kernel):
    async with kernel.client("a") as ann, kernel.client("b", v1=False) as bob:
        message_id = await ann.execute("print('for all')")
        assert "for all" in printed(await ann.idle(message_id))
        await bob.until("stream", message_id)
        await bob.until("status", message_id, execution_state="idle")
        assert await bob.run("print('after')") == "after\n"
        replies = [m for m in bob.heard if m["header"]["msg_type"] == "execute_reply"]
        assert len(replies) == 1


async def test_without_session_id(kernel):
    async with kernel.client(None) as one, kernel.client(None) as two:
        assert await one.run("print(1)") == "1\n"
        assert await two.run("print(2)") == "2\n"
    await auntil(lambda: not kernel.hub.clients, "nobody to be expected back")


@pytest.mark.parametrize("more_config", [{"MappingKernelManager": {"allow_tracebacks": False}}])
@FORMATS
async def test_tracebacks_are_not_shown_where_they_must_not_be(kernel, v1):
    async with kernel.client(v1=v1) as client:
        heard = await client.idle(await client.execute("1 / 0"))
        errors = [m for m in heard if m["header"]["msg_type"] in ("error", "execute_reply")]
        assert [m["content"]["ename"] for m in errors] == ["ExecutionError"] * 2
        for error in errors:
            assert error["content"]["traceback"] == [kernel.manager.traceback_replacement_message]
        assert "division" not in str(heard)


@pytest.mark.parametrize(
    "more_config",
    [{"MappingKernelManager": {"allowed_message_types": ["kernel_info_request"]}}],
)
@FORMATS
async def test_only_allowed_messages_reach_the_kernel(kernel, v1, caplog):
    async with kernel.client(v1=v1) as client:
        refused = await client.execute("print('never')")
        asked = await client.send("shell", "kernel_info_request")
        await client.idle(asked, "kernel_info_reply")
        assert not [m for m in client.heard if m["parent_header"].get("msg_id") == refused]
    assert "not allowed" in caplog.text


@FORMATS
async def test_what_is_no_message_ends_the_connection(kernel, v1):
    async with kernel.client(v1=v1) as client:
        await client.knock.send(b"\x01" if v1 else "nonsense")
        await client.knock.wait_closed()
        assert (client.knock.code, client.knock.slug) == (4400, "bad_request")


async def test_unknown_channel_is_ignored(kernel):
    async with kernel.client() as client:
        await client.send("elsewhere", "execute_request")
        await client.send("iopub", "execute_request")
        assert await client.run("print(1)") == "1\n"


@pytest.mark.parametrize("more_config", [{"ServerApp": {"websocket_compression_options": {}}}])
async def test_compressed(kernel):
    """By tornado's own way."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover"}
    async with kernel.client(headers=offer) as client:
        assert "permessage-deflate" in client.knock.headers["sec-websocket-extensions"][0]
        await client.execute("print('x' * 10000)")
        frame = await asyncio.wait_for(client.knock.read_frame(), TIMEOUT)
        assert frame is not None
        (socket,) = kernel.hub.clients
        await auntil(lambda: socket.outlet.unsent_bytes == 0, "everything to be out")
        assert socket.outlet.unsent() == []


# -- going and coming back -------------------------------------------------------------------------

LATER = "import time, sys\nfor n in range(20): print(n, flush=True); time.sleep(.02)\nprint('end')"
ALL = "".join(f"{n}\n" for n in range(20)) + "end\n"


async def leave(client: Client) -> None:
    """Be gone without a word."""
    client.knock.vanish()


@FORMATS
async def test_what_came_meanwhile_is_there_once_and_in_order(kernel, v1, tmp_path):
    away = tmp_path / "away"
    # Some of it is on its way when the connection breaks, and some comes when nobody is there.
    code = f"{LATER.rpartition(chr(10))[0]}\n{once(away, LATER)}"
    async with kernel.client("s", v1=v1) as client:
        message_id = await client.execute(code)
        await client.until("stream", message_id)
        await leave(client)
    before = printed(client.heard)
    await auntil(lambda: kernel.connections == 0, "the client to be gone")
    away.touch()
    async with kernel.client("s", v1=v1) as back:
        back.session = client.session
        heard = await back.idle(message_id)
        # What the operating system had taken when the connection broke is beyond us.
        both = ALL.removesuffix("end\n") + ALL
        assert both.endswith(printed(heard))
        assert len(before) + len(printed(heard)) <= len(both)
        assert printed(heard).endswith(ALL)
        assert await back.run("print('on')") == "on\n"


async def test_each_of_several_gets_what_it_missed(kernel):
    async with kernel.client("watcher") as watcher:
        for name in ("a", "b"):
            async with kernel.client(name) as client:
                await client.run("1")
                await leave(client)
        await auntil(lambda: kernel.connections == 1, "both to be gone")
        message_id = await watcher.execute(LATER)
        await watcher.idle(message_id)
        for name in ("a", "b"):
            async with kernel.client(name) as back:
                await back.until("status", message_id, execution_state="idle")
                assert printed(back.heard) == ALL


@pytest.mark.parametrize("token_ws_config", [{"backlog_age": 0.2}])
async def test_who_is_away_too_long_is_forgotten_while_others_are_there(kernel):
    async with kernel.client("a") as client:
        await leave(client)
    await auntil(lambda: kernel.connections == 0, "gone")
    await asyncio.sleep(0.5)
    assert len(kernel.hub.clients) == 1, "alone it is waited for"
    async with kernel.client("b"):
        await auntil(lambda: len(kernel.hub.clients) == 1, "the other to be forgotten")


async def test_new_session_gets_nothing_old(kernel):
    async with kernel.client("a") as client:
        message_id = await client.execute("print('old')")
        await client.idle(message_id)
    async with kernel.client("b") as other:
        assert await other.run("print('new')") == "new\n"


async def test_not_more_than_some_are_waited_for(kernel):
    for number in range(10):
        async with kernel.client(str(number)) as client:
            await leave(client)
    await auntil(lambda: len(kernel.hub.clients) == 8)


async def test_who_said_goodbye_is_waited_for_until_somebody_else_is_there(kernel):
    async with kernel.client("a") as client:
        message_id = await client.execute("print('old')")
    await auntil(lambda: kernel.connections == 0)
    async with kernel.client("a") as client:
        await client.until("status", message_id, execution_state="idle")
        assert printed(client.heard) == "old\n"
    await auntil(lambda: kernel.connections == 0)
    async with kernel.client("b"):
        await auntil(lambda: len(kernel.hub.clients) == 1, "the first to be forgotten")


async def test_a_close_frame_without_a_code_is_a_goodbye_too(kernel):
    """Such is that of `close()` in a browser, and of one that answers a close without a code."""
    async with kernel.client("a"):
        client = await kernel.open("b")
        assert len(kernel.hub.clients) == 2
        await client.knock.send(b"", opcode=8)
        await auntil(lambda: len(kernel.hub.clients) == 1, "the second to be forgotten")
        await client.knock.close()


@pytest.mark.parametrize(
    "token_ws_config",
    [{"backlog_memory": 2**20, "backlog_disk": 0, "backlog_overflow": "close"}],
)
async def test_who_hears_no_code_is_told_of_what_is_missing_when_it_is_back(kernel):
    """As a stock frontend, which answers the close and comes back at once."""
    async with kernel.client("a", opted_in=False) as client:
        await client.execute("for n in range(300): print('x' * 100_000, flush=True)")
        (lagging,) = kernel.hub.clients
        await auntil(lambda: lagging.backlog.overflowed, "the backlog to be full")
        await client.knock.wait_closed()
        assert client.knock.code is None
    await auntil(lambda: kernel.connections == 0)
    await auntil(lambda: kernel.kernel.execution_state == "idle")
    async with kernel.client("a", opted_in=False) as client:
        assert "messages of the kernel" in printed([await client.until("stream")])


async def test_who_was_sent_away_did_not_say_goodbye(kernel):
    async with kernel.client("a"):
        client = await kernel.open("b")
        for entry in list(kernel.door.guard.registry):
            if "session_id=b" in entry.handler.request.uri:
                entry.handler.close(4401, "token_expired")
        await client.knock.wait_closed()
        await auntil(lambda: kernel.connections == 1)
        assert len(kernel.hub.clients) == 2, "it may come back with another token"
        await client.knock.close()


@pytest.mark.parametrize(
    "more_config", [{"MappingKernelManager": {"buffer_offline_messages": False}}]
)
async def test_nobody_is_waited_for_where_that_is_off(kernel):
    async with kernel.client("a"):
        await auntil(lambda: len(kernel.hub.clients) == 1)
    await auntil(lambda: not kernel.hub.clients, "the client to be forgotten")


async def test_C2_8_C3_6_the_same_session_replaces(kernel):
    async with kernel.client("s") as older:
        await older.run("1")
        async with kernel.client("s") as newer:
            await older.knock.wait_closed()
            assert (older.knock.code, older.knock.slug) == (4409, "replaced")
            assert await newer.run("print('mine')") == "mine\n"
            await auntil(lambda: kernel.connections == 1)
            assert len(kernel.hub.clients) == 1


async def test_C2_8_another_principal_gets_nothing(kernel):
    cookie = {"Cookie": await kernel.door.login_cookie(), "Authorization": ""}
    async with kernel.client("s") as owner:
        await owner.execute("print('se' + 'cret')")
        await leave(owner)
    await auntil(lambda: kernel.connections == 0)
    async with kernel.client("s", headers=cookie) as other:
        assert "secret" not in await other.run("print(1)")
    assert len(kernel.hub.clients) == 2


async def test_connections_leave_nothing_behind(kernel):
    """Abruptly or not, before the handshake's answer or after."""
    kernel.manager.buffer_offline_messages = False
    process = psutil.Process()
    async with kernel.client("warm") as client:
        await client.run("1")
    await auntil(lambda: not kernel.hub.clients)
    before, tasks = process.num_fds(), len(asyncio.all_tasks())
    for number in range(60):
        client = await kernel.open(f"s{number}", v1=bool(number % 2))
        if number % 3:
            await client.execute("print('x' * 100000)")
        if number % 5:
            client.knock.vanish()
        else:
            await client.knock.close()
    await auntil(lambda: not kernel.hub.clients, "all to be forgotten")
    await auntil(lambda: kernel.connections == 0)
    await given_back(process, before)
    await auntil(lambda: len(asyncio.all_tasks()) <= tasks, "tasks to end")
    assert kernel.bridge.quota.used == 0


async def test_as_many_clients_as_there_are_descriptors(kernel):
    """A set of sockets for each would end between 200 and 300."""
    clients = [await kernel.open(str(number)) for number in range(320)]
    assert await clients[-1].run("print(1)") == "1\n"
    for client in clients:
        client.knock.vanish()


# -- kernels that start, restart and end -----------------------------------------------------------


@FORMATS
async def test_restart(kernel, v1):
    async with kernel.client(v1=v1) as client:
        await client.run("x = 1")
        await kernel.manager.restart_kernel(kernel.id)
        assert await client.run("print('x' in globals())") == "False\n"
    async with kernel.client("other", v1=v1) as client:
        assert await client.run("print(2)") == "2\n"


def forget_ports(manager: Any) -> None:
    """Let a restart choose its ports anew if it may, whatever version of jupyter_client this is."""
    manager.cache_ports = False
    manager._random_port_names = list(port_names)


async def test_restart_with_other_ports(kernel):
    forget_ports(kernel.kernel)
    async with kernel.client() as client:
        await client.run("1")
        ports = list(kernel.kernel.ports)
        await kernel.kernel.restart_kernel(now=True, newports=True)
        assert kernel.kernel.ports != ports
        async with kernel.client("other") as other:
            assert await other.run("print(2)") == "2\n"
        assert await client.run("print(3)") == "3\n"


async def test_restart_with_other_ports_by_the_server(kernel):
    """As above, but the server asks for it, and its activity watcher begins anew."""
    forget_ports(kernel.kernel)
    restart = kernel.kernel.restart_kernel
    kernel.kernel.restart_kernel = partial(restart, newports=True)
    async with kernel.client() as client:
        await client.run("1")
        ports = list(kernel.kernel.ports)
        await kernel.manager.restart_kernel(kernel.id)
        assert kernel.kernel.ports != ports
        assert isinstance(kernel.kernel._activity_stream, Tap)
        assert await client.run("print('back')") == "back\n"
        await auntil(lambda: kernel.kernel.execution_state == "idle", "the watcher to see it")


async def test_kernel_that_dies_comes_back(kernel):
    async with kernel.client() as client:
        await client.run("x = 1")
        await client.execute("import os; os._exit(1)")
        await client.until("status", execution_state="restarting")
        assert await client.run("print('x' in globals())") == "False\n"


async def test_kernel_that_does_not_come_back(kernel):
    async with kernel.client() as client:
        await client.run("1")
        kernel.hub.on_restart_failed()
        await client.until("status", execution_state="dead")


async def test_kernel_that_is_shut_down_leaves_nothing(kernel):
    hub = kernel.hub
    async with kernel.client("away"):
        pass
    async with kernel.client() as client:
        await client.run("1")
        await kernel.manager.shutdown_kernel(kernel.id, now=True)
        assert hub.closed
        assert len(kernel.bridge) == 0
        await client.knock.wait_closed()
        assert (client.knock.code, client.knock.slug) == (4410, "gone")
    await auntil(lambda: not hub.clients)


async def test_activity(kernel):
    async with kernel.client() as client:
        await client.run("1")
        assert kernel.kernel.execution_state == "idle"
        before = kernel.kernel.last_activity
        message_id = await client.execute("input()", stdin=True)
        await client.until("input_request", message_id)
        await auntil(lambda: kernel.kernel.execution_state == "busy")
        await client.send("stdin", "input_reply", {"value": ""})
        await client.idle(message_id)
        await auntil(lambda: kernel.kernel.execution_state == "idle")
        assert kernel.kernel.last_activity > before


async def test_a_kernel_is_starting_until_somebody_connects(kernel):
    """As upstream says it: what it is asked by the hub alone changes nothing."""
    await auntil(lambda: kernel.hub.settled, "the kernel to be there")
    assert kernel.kernel.execution_state == "starting"
    async with kernel.client():
        await auntil(lambda: kernel.kernel.execution_state == "idle", "the kernel's state")


async def test_the_state_is_known_though_what_a_kernel_said_first_was_lost(kernel):
    """What it says about a question before the subscription stands nobody hears."""
    async with kernel.client():
        await auntil(lambda: kernel.kernel.execution_state == "idle")
        kernel.kernel.execution_state = "starting"
        kernel.hub._settle()
        await auntil(lambda: kernel.kernel.execution_state == "idle", "the kernel's state")


async def test_signatures_are_checked_while_somebody_speaks_the_older_format(kernel, caplog):
    """For that stock checks them. It costs as much as all the rest."""
    header = pack_json({"msg_type": "stream", "msg_id": "f"})
    content = pack_json({"name": "stdout", "text": "forged"})
    forged = Message("iopub", [header, b"{}", b"{}", content], b"wrong")
    async with kernel.client("new") as client:
        async with kernel.client("old", v1=False) as older:
            kernel.hub.on_iopub([forged])
            assert "Wrong signature" in caplog.text
            for each in (client, older):
                assert await each.run("print(1)") == "1\n"
                assert "forged" not in printed(each.heard)
        await auntil(lambda: len(kernel.hub.clients) == 1, "the older one to be gone")
        kernel.hub.on_iopub([forged])
        await client.until("stream", text="forged")


async def test_busy_kernel_keeps_nobody_waiting(kernel):
    async with kernel.client() as client:
        await client.run("1")
        # Longer than anybody here waits for an answer.
        message_id = await client.execute("import time; time.sleep(600)")
        await client.until("status", message_id, execution_state="busy")
        other = await kernel.open("other")
        await other.knock.close()


# -- odd kernels -----------------------------------------------------------------------------------


@pytest.fixture
def kernel_name(request, jp_data_dir) -> str:
    name = getattr(request, "param", "python3")
    if name in ("mute", "parentless", "old", "plain"):
        install(jp_data_dir, name, odd(name))
    if name == "stock":
        argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        install(jp_data_dir, name, argv, metadata={"jupyter_token_ws": {"bridge": False}})
    return str(name)


@pytest.mark.parametrize("kernel_name", ["mute"], indirect=True)
@pytest.mark.parametrize("more_config", [{"MappingKernelManager": {"kernel_info_timeout": 1}}])
async def test_kernel_that_does_not_answer(kernel):
    headers = {"Authorization": f"token {kernel.door.token}"}
    offer = ["v1.reason.websocket.jupyter.org"]
    refused = await kernel.door.refused(kernel.path("s"), offer, headers)
    assert (refused.code, refused.slug) == (4504, "kernel_unresponsive")
    async with kernel.client(opted_in=False):
        assert kernel.connections == 1, "as stock: it may answer one day"


@pytest.mark.parametrize("kernel_name", ["parentless"], indirect=True)
@FORMATS
async def test_kernel_that_names_no_parent(kernel, v1):
    """Sockets for each client: replies and questions find theirs."""
    async with kernel.client("a", v1=v1) as ann, kernel.client("b", v1=v1) as bob:
        for client, text in ((ann, "one"), (bob, "two"), (ann, "three")):
            await client.execute(text)
            reply = await client.until("execute_reply")
            assert reply["content"]["echo"] == text
        await bob.execute("ask", stdin=True)
        await bob.until("input_request")
        await bob.send("stdin", "input_reply", {"value": "answer"})
        assert (await bob.until("execute_reply"))["content"]["echo"] == "answer"
        assert not [m for m in ann.heard if m["header"]["msg_type"] == "input_request"]


@pytest.mark.parametrize("kernel_name", ["old"], indirect=True)
@FORMATS
async def test_kernel_of_an_older_protocol(kernel, v1):
    async with kernel.client(v1=v1) as client:
        assert await client.run("hello") == "hello"
        asked = await client.send(
            "shell", "inspect_request", {"code": "abc", "cursor_pos": 3, "detail_level": 0}
        )
        reply = await client.until("inspect_reply", asked)
        assert reply["content"] == {"status": "ok", "found": False, "data": {}, "metadata": {}}


@pytest.mark.parametrize("kernel_name", ["plain"], indirect=True)
@FORMATS
async def test_kernel_without_welcome(kernel, v1):
    async with kernel.client(v1=v1) as client:
        assert await client.run("hello") == "hello"


# -- who decides -----------------------------------------------------------------------------------


def connection(kernel: Live) -> Any:
    (entry,) = kernel.door.app.web_app.settings["token_ws_guard"].registry
    return entry.handler.connection


@pytest.mark.parametrize("kernel_name", ["stock"], indirect=True)
async def test_kernelspec_may_ask_for_upstream_s_class(kernel):
    async with kernel.client() as client:
        assert await client.run("print(1)") == "1\n"
        kinds = {type(each) for each in ZMQChannelsWebsocketConnection._open_sockets}
        assert kinds == {ZMQChannelsWebsocketConnection}
        assert kernel.bridge.find(kernel.id) is None


@pytest.mark.parametrize("token_ws_config", [{"bridge": False}])
async def test_bridge_may_be_off(kernel, caplog):
    settings = kernel.app.web_app.settings
    assert settings["kernel_websocket_connection_class"] is ZMQChannelsWebsocketConnection
    assert SETTING not in settings
    async with kernel.client() as client:
        assert await client.run("print(1)") == "1\n"


class Own(ZMQChannelsWebsocketConnection):
    """Somebody's own."""


@pytest.mark.parametrize("chosen", [Own, ZMQChannelsWebsocketConnection])
@pytest.mark.parametrize("more_config", [{"ServerApp": {}}])
def test_own_connection_class_wins(chosen, more_config, request, capsys):
    more_config["ServerApp"]["kernel_websocket_connection_class"] = chosen
    app = request.getfixturevalue("jp_serverapp")
    assert app.web_app.settings["kernel_websocket_connection_class"] is chosen
    assert f"their connection class is {chosen.__name__}" in capsys.readouterr().err


@pytest.fixture
def no_gateway():
    """There is one client of a gateway for all servers of a process."""
    GatewayClient.clear_instance()
    yield
    GatewayClient.clear_instance()


@pytest.mark.parametrize("more_config", [{"GatewayClient": {"url": "http://127.0.0.1:1"}}])
def test_gateway_wins(no_gateway, capsys, jp_serverapp):
    settings = jp_serverapp.web_app.settings
    assert settings["kernel_websocket_connection_class"] is GatewayWebSocketConnection
    assert SETTING not in settings
    assert "their connection class is GatewayWebSocketConnection" in capsys.readouterr().err


def test_bridge_is_there_by_default(jp_serverapp):
    settings = jp_serverapp.web_app.settings
    assert settings["kernel_websocket_connection_class"] is KernelBridgeConnection


STOCK_LIMITS = {"ZMQChannelsWebsocketConnection": {"iopub_msg_rate_limit": 20.0}}


@pytest.mark.parametrize("more_config", [STOCK_LIMITS])
async def test_limits_that_were_set_hold(kernel):
    many = "from IPython.display import display\nfor n in range(500): display(n)"
    async with kernel.client() as client:
        heard = await client.idle(await client.execute(many))
        displays = [m for m in heard if m["header"]["msg_type"] == "display_data"]
        assert 20 <= len(displays) < 200
        assert printed(heard).count("IOPub message rate exceeded") >= 1
        assert "iopub_msg_rate_limit" in printed(heard)


async def test_without_limits_nothing_is_dropped(kernel):
    many = "from IPython.display import display\nfor n in range(3000): display(n)"
    async with kernel.client() as client:
        heard = await client.idle(await client.execute(many))
        displays = [m for m in heard if m["header"]["msg_type"] == "display_data"]
        assert len(displays) == 3000
