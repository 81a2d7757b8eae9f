"""A hub without sockets: when a kernel is there, whom a message reaches, and who is waited for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
import zmq
from jupyter_client.session import Session

from jupyter_token_ws.bridge import hub as hub_module
from jupyter_token_ws.bridge.backlog import Limits
from jupyter_token_ws.bridge.client import Client
from jupyter_token_ws.bridge.hub import AWAY_MAX, BridgeOptions, Hub
from jupyter_token_ws.bridge.outlet import HIGH
from jupyter_token_ws.bridge.server import Bridge
from jupyter_token_ws.bridge.wire import Batch, Message
from jupyter_token_ws.protocol.kernel_messages import pack_json
from tests.support.waiting import auntil


class Socket:
    get = None
    rcvhwm = 1000

    def recv(self, *_: Any) -> bytes:
        raise zmq.Again


class Stream:
    """A ZMQ stream that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.socket = Socket()
        self._closed = False

    def on_recv(self, callback: Callable[..., Any] | None, **_: Any) -> None:
        """Nothing arrives by itself."""

    on_send = on_recv

    def send_multipart(self, raw: list[bytes], *_: Any, **__: Any) -> None:
        self.sent.append(raw)

    def closed(self) -> bool:
        return self._closed

    def close(self, *_: Any) -> None:
        self._closed = True


class Manager:
    allow_tracebacks = True
    traceback_replacement_message = "hidden"
    buffer_offline_messages = True
    kernel_info_timeout = 60.0

    def __init__(self) -> None:
        self.allowed_message_types: list[str] = []
        self.callbacks: list[tuple[Any, str]] = []

    def __contains__(self, kernel_id: str) -> bool:
        return True

    def add_restart_callback(self, kernel_id: str, callback: Any, event: str) -> None:
        self.callbacks.append((callback, event))

    def remove_restart_callback(self, kernel_id: str, callback: Any, event: str) -> None:
        self.callbacks.remove((callback, event))


class Kernel:
    kernel_id = "k"
    execution_state = "idle"

    def __init__(self, key: bytes = b"") -> None:
        self.parent = self.manager = Manager()
        self.session = Session(key=key)
        self.ports = [1, 2, 3, 4, 5]
        self.streams: dict[str, list[Stream]] = {}

    def __getattr__(self, name: str) -> Any:
        action, _, channel = name.partition("_")
        if action != "connect":
            raise AttributeError(name)

        def connect(**_: Any) -> Stream:
            made = Stream()
            self.streams.setdefault(channel, []).append(made)
            return made

        return connect

    def asked(self) -> dict[str, Any]:
        """The header of the last question on the shell."""
        header: dict[str, Any] = json.loads(self.streams["shell"][-1].sent[-1][2])
        return header


class Outlet:
    """Takes everything at once."""

    closed = False
    high = HIGH
    unsent_bytes = 0

    def __init__(self) -> None:
        self.arrived: list[Message] = []

    def send(self, batch: Batch) -> None:
        self.arrived += batch.messages

    def unsent(self) -> list[Message]:
        return []


class Owner:
    def __init__(self, hears_reasons: bool = True) -> None:
        self.heard: list[str] = []
        self.hears_reasons = hears_reasons

    def on_overflow(self) -> None:
        self.heard.append("overflow")

    def on_low(self) -> None:
        self.heard.append("low")

    def on_replaced(self) -> None:
        self.heard.append("replaced")


def message(
    kind: str,
    channel: str = "iopub",
    parent: Any = None,
    content: Any = None,
    version: str = "5.3",
) -> Message:
    fields = {"msg_type": kind, "msg_id": kind, "session": "kernel", "version": version}
    header = pack_json(fields)
    return Message(channel, [header, pack_json(parent or {}), b"{}", pack_json(content or {})])


INFO = {"status": "ok", "protocol_version": "5.3"}


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def options() -> BridgeOptions:
    return BridgeOptions()


@pytest.fixture
def bridge(options):
    bridge = Bridge(options)
    yield bridge
    bridge.close()


@pytest.fixture
def hub(jp_asyncio_loop, bridge, kernel) -> Hub:
    async def make() -> Hub:
        made: Hub = bridge.hub(kernel)
        return made

    made: Hub = jp_asyncio_loop.run_until_complete(make())
    return made


def attach(hub: Hub, key: str | None = "s", *, verified: bool = False) -> tuple[Client, Outlet]:
    outlet = Outlet()
    return hub.attach(key, outlet, verified=verified, owner=Owner()), outlet


async def heard(hub: Hub, kernel: Kernel, **info: Any) -> None:
    """Let it be heard both ways."""
    await auntil(lambda: kernel.streams["shell"][-1].sent, "a question")
    hub.on_iopub([message("status", content={"execution_state": "idle"})])
    reply = message("kernel_info_reply", "shell", kernel.asked(), {**INFO, **info})
    hub.on_replies([reply], None)


async def settle(hub: Hub, kernel: Kernel, **info: Any) -> None:
    await heard(hub, kernel, **info)
    await auntil(lambda: hub.settled, "the kernel to be there")  # at once only if that was soon


# -- whether it is there ---------------------------------------------------------------------------


async def test_a_kernel_is_there_when_it_was_heard_both_ways(hub, kernel):
    assert not await hub.settle(0.01)
    await auntil(lambda: kernel.streams["shell"][-1].sent)
    hub.on_iopub([message("iopub_welcome")])
    assert not hub.settled
    hub.on_replies([message("kernel_info_reply", "shell", kernel.asked(), INFO)], None)
    assert await hub.settle(60)
    assert hub.info == INFO


async def test_who_was_slow_is_given_time_to_be_connected_on_all_channels(hub, kernel, monkeypatch):
    monkeypatch.setattr(hub, "_unsettled_at", 0)
    await heard(hub, kernel)
    assert not hub.settled
    hub.on_iopub([message("status")])  # says nothing new
    await auntil(lambda: hub.settled)


@pytest.mark.parametrize("end", ["unsettle", "close"])
async def test_what_ends_meanwhile_does_not_settle(hub, kernel, monkeypatch, end):
    monkeypatch.setattr(hub, "_unsettled_at", 0)
    await heard(hub, kernel)
    waiting = hub._settling
    getattr(hub, end)()
    assert waiting is not None
    assert waiting.cancelled()
    assert not hub.settled


async def test_an_answer_to_the_process_before_says_nothing(hub, kernel):
    await auntil(lambda: kernel.streams["shell"][-1].sent)
    before = kernel.asked()
    hub.unsettle()
    hub.on_iopub([message("status")])
    hub.on_replies([message("kernel_info_reply", "shell", before, INFO)], None)
    assert not hub.settled


@pytest.mark.parametrize(
    ("version", "adapted"), [("5.3", 0), ("4.1", 4), ([4, 1], 4), ("", 0), ("odd", 0)]
)
async def test_the_protocol_that_it_speaks(hub, kernel, version, adapted):
    await settle(hub, kernel, protocol_version=version)
    assert hub._adapt_version == adapted


async def test_it_is_asked_no_longer_than_upstream_would(hub, kernel):
    """Then what clients send goes to it all the same: it may answer one day."""
    client, _ = attach(hub)
    hub.send(client, message("execute_request", "shell"))
    kernel.manager.kernel_info_timeout = 0
    hub._asking.cancel()
    hub._asking = None
    assert not await hub.settle(0)
    await auntil(hub._asking.done)
    *asked, sent = (json.loads(raw[2])["msg_type"] for raw in kernel.streams["shell"][-1].sent)
    assert {*asked} <= {"kernel_info_request"}
    assert sent == "execute_request"


async def test_a_busy_kernel_is_asked_by_control(hub, kernel, monkeypatch):
    monkeypatch.setattr(hub_module, "ASK_INTERVAL", 0.01)
    kernel.execution_state = "busy"
    await auntil(lambda: len(kernel.streams["control"][-1].sent) > 2)
    assert len(kernel.streams["shell"][-1].sent) <= 1


# -- ports -----------------------------------------------------------------------------------------


async def test_other_ports_are_other_sockets(hub, kernel):
    hub.check_ports()
    assert len(kernel.streams["iopub"]) == 1
    kernel.ports = [6, 7, 8, 9, 10]
    attach(hub, verified=True)
    for name in ("iopub", "shell", "control", "stdin"):
        assert [stream.closed() for stream in kernel.streams[name]] == [True, False]
    hub.close()
    kernel.ports = [1, 2, 3, 4, 5]
    hub.check_ports()
    assert all(stream.closed() for streams in kernel.streams.values() for stream in streams)
    assert not kernel.manager.callbacks


async def test_another_kernel_of_the_same_name_is_another_hub(bridge, hub):
    other = Kernel()
    made = bridge.hub(other)
    assert hub.closed
    assert bridge.find("k") is made is not hub
    assert len(bridge) == 1
    hub.close()
    bridge._idle(hub)
    assert bridge.find("k") is made


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [Kernel(b"key")])
async def test_wrong_signatures_are_dropped_where_they_are_checked(hub, kernel, caplog):
    client, outlet = attach(hub, verified=True)
    hub.send(client, message("execute_request", "shell"))
    good, bad = message("stream"), message("stream")
    good.signature = kernel.session.sign(good.parts[:4])
    reply = message("execute_reply", "shell", {"msg_id": "execute_request"})
    hub.on_iopub([bad, good])
    hub.on_replies([reply], None)
    assert outlet.arrived == [good]
    assert caplog.text.count("Wrong signature") == 2
    reply.signature = kernel.session.sign(reply.parts[:4])
    hub.on_replies([reply], None)
    assert outlet.arrived == [good, reply]


async def test_without_key_there_are_no_signatures(hub):
    _, outlet = attach(hub, verified=True)
    hub.on_iopub([message("stream")])
    assert len(outlet.arrived) == 1


async def test_what_cannot_be_adapted_is_left_out_and_all_else_passes(hub, kernel, caplog):
    await settle(hub, kernel, protocol_version="4.1")
    client, outlet = attach(hub)
    assert hub.send(client, message("execute_request", "shell", content={"code": "1"}))
    sent = len(kernel.streams["shell"][-1].sent)
    assert hub.send(client, message("inspect_request", "shell"))
    assert len(kernel.streams["shell"][-1].sent) == sent
    lacking = message("stream", version="4.1")
    parent = {"msg_id": "execute_request", "session": "kernel"}
    reply = message("object_info_reply", "shell", parent, version="4.1")
    content = {"name": "stdout", "data": "text"}
    hub.on_iopub([lacking, message("stream", content=content, version="4.1")])
    hub.on_replies([reply], None)
    assert [json.loads(each.parts[3]) for each in outlet.arrived] == [
        {"name": "stdout", "text": "text"}
    ]
    assert caplog.text.count("Malformed message") == 3


async def test_a_channel_that_there_is_not(hub, caplog):
    client, _ = attach(hub)
    assert hub.send(client, message("x", "nonsense"))
    assert "No such channel" in caplog.text


async def test_types_that_are_not_allowed(hub, kernel, caplog):
    await settle(hub, kernel)
    kernel.manager.allowed_message_types = ["kernel_info_request"]
    client, _ = attach(hub)
    sent = kernel.streams["shell"][-1].sent
    before = len(sent)
    assert hub.send(client, message("execute_request", "shell"))
    assert hub.send(client, message("kernel_info_request", "shell"))
    assert len(sent) == before + 1
    assert "not allowed" in caplog.text


async def test_an_answer_that_nobody_waits_for(hub, caplog):
    caplog.set_level(logging.DEBUG)
    attach(hub, "a")
    attach(hub, "b")
    hub.on_replies([message("execute_reply", "shell", {"msg_id": "?", "session": "?"})], None)
    assert "Nobody asked" in caplog.text


async def test_who_is_asked_may_send_again(hub):
    client, _ = attach(hub)
    hub.send(client, message("execute_request", "shell"))
    question = message("input_request", "stdin", {"msg_id": "execute_request"})
    hub.on_replies([question], None)
    assert cast("Owner", client.owner).heard == ["low"]
    assert client.asked
    client.owner = None
    hub.on_low(client)
    hub.on_low(None)
    hub.send(client, message("input_reply", "stdin"))
    assert not client.asked


# -- who is waited for -----------------------------------------------------------------------------


def leave(hub: Hub, client: Client, *, goodbye: bool = False) -> None:
    assert client.outlet is not None
    hub.detach(client, client.outlet, goodbye=goodbye)


async def test_only_so_many_are_waited_for(hub):
    clients = [attach(hub, str(number))[0] for number in range(AWAY_MAX + 3)]
    for client in clients[:-1]:
        leave(hub, client)
    assert hub.clients == {*clients[2:]}
    assert len(hub._ages) == AWAY_MAX
    assert attach(hub, "2")[0] is clients[2]
    assert clients[2] not in hub._ages
    leave(hub, clients[-1])
    leave(hub, clients[2])
    assert not hub._ages, "nobody is there: whoever is away has any time"


@pytest.mark.parametrize("options", [BridgeOptions(age=0.01)])
async def test_who_is_away_too_long_is_forgotten_while_others_are_there(hub):
    alone, _ = attach(hub, "alone")
    leave(hub, alone)
    await asyncio.sleep(0.05)
    assert hub.clients == {alone}
    other, _ = attach(hub, "other")
    await auntil(lambda: hub.clients == {other}, "the one away to be forgotten")
    assert hub.named("alone") is None


async def test_an_older_connection_ends_nobody_s_newer_one(hub):
    client, older = attach(hub)
    again, newer = attach(hub)
    assert again is client
    hub.detach(client, older, goodbye=True)
    hub.on_iopub([message("stream")])
    assert (len(older.arrived), len(newer.arrived)) == (0, 1)


async def test_without_name_nobody_is_waited_for(hub):
    client, _ = attach(hub, None)
    leave(hub, client)
    assert not hub.clients


async def test_when_the_kernel_ends_those_away_are_forgotten(hub, bridge):
    away, _ = attach(hub, "away")
    there, _ = attach(hub, "there")
    leave(hub, away)
    tap = hub.tap()
    hub.close()
    assert hub.clients == {there}
    assert tap.closed()
    assert bridge.find("k") is None
    leave(hub, there)
    assert not hub.clients
    assert not await hub.settle(0)


async def test_sockets_of_its_own_for_each_client_where_replies_name_no_request(hub, kernel):
    first, _ = attach(hub, "a")
    await auntil(lambda: kernel.streams["shell"][-1].sent)
    hub.on_iopub([message("status")])
    hub.on_replies([message("kernel_info_reply", "shell", None, INFO)], None)
    second, _ = attach(hub, "b")
    assert len(kernel.streams["shell"]) == 3
    hub.send(second, message("execute_request", "shell"))
    assert len(kernel.streams["shell"][2].sent) == 1
    kernel.manager.buffer_offline_messages = False
    leave(hub, second)
    assert [stream.closed() for stream in kernel.streams["shell"]] == [False, False, True]
    assert hub.clients == {first}
    hub.close()
    assert all(stream.closed() for stream in kernel.streams["shell"])


@pytest.mark.parametrize(
    "options", [BridgeOptions(Limits(memory=100_000), directory="/nowhere/at/all")]
)
async def test_a_directory_that_is_gone_is_said_and_output_is_cut(hub, caplog):
    client, _ = attach(hub)
    leave(hub, client)
    for _ in range(100):
        hub.on_iopub([message("display_data", content={"x": "x" * 10_000})])
    assert caplog.text.count("output is held in memory only") == 1
    assert "/nowhere/at/all" in caplog.text
    assert client.backlog.cut_count > 80
    assert not client.backlog.overflowed
    attach(hub)
    assert "cut for a client that did not read" in caplog.text


@pytest.mark.parametrize("options", [BridgeOptions(Limits(memory=50_000, disk=0))])
@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (1, "1 message of the kernel, 0.1 MB, is missing here: there was no room to keep it "),
        (3, "3 messages of the kernel, 0.3 MB, are missing here: there was no room to keep them "),
    ],
)
async def test_what_was_cut_is_counted(hub, caplog, cut, said):
    client, _ = attach(hub)
    leave(hub, client)
    for _ in range(1 + cut):
        hub.on_iopub([message("display_data", content={"x": "x" * 100_000})])
    _, outlet = attach(hub)
    text = json.loads(outlet.arrived[-1].parts[3])["text"]
    assert text.startswith(f"\n[{said}")
    assert text.endswith("lines, or part of one.]\n")
    assert said.partition(", i")[0].partition(", a")[0] in caplog.text


@pytest.mark.parametrize("options", [BridgeOptions(Limits(memory=100_000, disk=0, close=True))])
async def test_who_comes_back_over_an_older_connection_that_overflowed_is_told_too(hub):
    """The older one may be as dead as it looks, and have heard nothing."""
    client, outlet = attach(hub)
    outlet.unsent_bytes = 10**9
    for _ in range(100):
        hub.on_iopub([message("display_data", content={"x": "x" * 10_000})])
    assert cast("Owner", client.owner).heard == ["overflow"]
    again, newer = attach(hub)
    assert again is client
    assert cast("Owner", client.owner).heard == ["overflow"]
    hub.detach(client, outlet, goodbye=False)
    hub.detach(client, newer, goodbye=False, told=True)
    assert not hub.clients


@pytest.mark.parametrize("options", [BridgeOptions(Limits(memory=100_000, disk=0, close=True))])
async def test_who_cannot_be_told_by_the_close_is_told_by_a_notice(hub):
    """Stock frontends are closed without a code, and would be closed again and again."""
    outlet = Outlet()
    client = hub.attach("s", outlet, verified=False, owner=Owner(hears_reasons=False))
    outlet.unsent_bytes = 10**9
    for _ in range(100):
        hub.on_iopub([message("display_data", content={"x": "x" * 10_000})])
    assert client.owner.heard == ["overflow"]
    hub.detach(client, outlet, goodbye=False)
    newer, owner = Outlet(), Owner(hears_reasons=False)
    assert hub.attach("s", newer, verified=False, owner=owner) is client
    assert owner.heard == []
    assert [each.type for each in newer.arrived] == ["stream"]


async def test_two_of_one_session_at_once_the_first_is_told(hub):
    first, second = Owner(), Owner()
    hub.attach("s", Outlet(), verified=False, owner=first)
    hub.attach("s", Outlet(), verified=False, owner=second)
    assert (first.heard, second.heard) == (["replaced"], [])


async def test_what_waits_of_who_is_forgotten_does_not_reach_the_kernel(hub, kernel):
    client, _ = attach(hub, None)  # nothing is handed on before the kernel answers
    assert hub.send(client, message("execute_request", "shell"))
    leave(hub, client)
    before = len(kernel.streams["shell"][-1].sent)
    await settle(hub, kernel)
    kinds = [json.loads(raw[2])["msg_type"] for raw in kernel.streams["shell"][-1].sent[before:]]
    assert "execute_request" not in kinds


async def test_nobody_can_pass_its_own_request_for_one_of_the_hub_s(hub, kernel):
    await settle(hub, kernel)
    _, outlet = attach(hub)
    hub.on_restart_failed()
    (told,) = outlet.arrived
    known = json.loads(told.parts[0])["session"]
    request = {"msg_id": "1", "session": known}
    hub.on_iopub([message("status", parent=request)])
    assert len(outlet.arrived) == 2
    assert known != hub.session.session


async def test_what_comes_for_a_kernel_that_ended_is_nobody_s(hub, caplog):
    client, _ = attach(hub)
    hub.close()
    caplog.clear()
    assert hub.send(client, message("execute_request", "shell"))
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
