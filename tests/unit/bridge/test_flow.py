"""Clients that do not read, and clients that send too much: bounds, and nothing lost in silence."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from jupyter_token_ws.bridge import hub as hub_module
from jupyter_token_ws.bridge import inlet as inlet_module
from jupyter_token_ws.bridge import outlet as outlet_module
from tests.support.live_kernel import Client, Live, install, odd, once, printed
from tests.support.pacing_kernel import number_in
from tests.support.waiting import auntil

COUNT = 300
FLOOD = f"""
from IPython.display import display
for n in range({COUNT}):
    display({{"text/plain": f"<{{n}}>" + "x" * 100_000}}, raw=True)
    print(f"({{n}})", flush=True)
"""


def small(**more: object) -> Any:
    return pytest.mark.parametrize("token_ws_config", [{"backlog_memory": 2**20, **more}])


async def flood(kernel: Live, sleeper: Client, watcher: Client) -> str:
    """Let a kernel say much for somebody who does not read; returns the request's id."""
    message_id = await sleeper.execute(FLOOD)
    await watcher.until("status", message_id, execution_state="idle")
    return message_id


def displayed(heard: list[dict[str, Any]]) -> list[int]:
    texts = [
        m["content"]["data"]["text/plain"]
        for m in heard
        if m["header"]["msg_type"] == "display_data"
    ]
    return [int(re.match(r"<(\d+)>", text)[1]) for text in texts]  # type: ignore[index]


@small()
@pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])
async def test_who_does_not_read_loses_nothing(kernel, v1):
    async with (
        kernel.client("sleeper", v1=v1) as sleeper,
        kernel.client("watcher") as watcher,
    ):
        await watcher.run("1")
        message_id = await flood(kernel, sleeper, watcher)
        hub = kernel.hub
        (lagging,) = [each for each in hub.clients if each.backlog]
        assert lagging.backlog.size - lagging.backlog.memory_size > 2**20
        assert lagging.backlog.memory_size <= 2**20 + 250_000
        assert lagging.outlet.unsent_bytes <= outlet_module.HIGH + 2_500_000
        heard = await sleeper.idle(message_id)
        assert displayed(heard) == list(range(COUNT))
        assert re.findall(r"\((\d+)\)", printed(heard)) == list(map(str, range(COUNT)))
        assert kernel.bridge.quota.used == 0
        assert await sleeper.run("print('on')") == "on\n"


@small()
async def test_who_did_not_read_and_lost_the_connection_loses_nothing(kernel):
    async with kernel.client("watcher") as watcher:
        await watcher.run("1")
        async with kernel.client("sleeper") as sleeper:
            message_id = await flood(kernel, sleeper, watcher)
            # Read a part, in the middle of which the connection breaks.
            for _ in range(20):
                await sleeper.hear()
            sleeper.knock.vanish()
        await auntil(lambda: kernel.connections == 1, "the sleeper to be gone")
        before = displayed(sleeper.heard)
        async with kernel.client("sleeper") as back:
            await back.until("status", message_id, execution_state="idle")
        after = displayed(back.heard)
        # What the system had taken from us, and the client not from the system, is beyond us.
        assert before == list(range(len(before)))
        assert after == list(range(after[0], COUNT))
        assert after[0] >= len(before)


@small(backlog_disk=0)
async def test_what_has_no_room_is_cut_with_a_notice_and_nothing_else_is(kernel):
    async with kernel.client("sleeper") as sleeper, kernel.client("watcher") as watcher:
        await watcher.run("1")
        message_id = await flood(kernel, sleeper, watcher)
        heard = await sleeper.idle(message_id)
        shown = displayed(heard)
        assert shown == sorted(set(shown))
        assert len(shown) < COUNT
        notices = re.findall(r"\[(\d+) messages? of the kernel", printed(heard))
        cut = sum(map(int, notices))
        # How many messages the kernel makes of a line is its own affair.
        assert 0 < COUNT - len(shown) <= cut <= 3 * COUNT
        (told, *_) = [m for m in heard if "missing here" in m["content"].get("text", "")]
        assert told["content"]["name"] == "stderr"
        assert told["parent_header"]["msg_id"] == message_id


@small(backlog_disk=0, backlog_overflow="close")
async def test_or_the_connection_ends_with_a_reason(kernel, tmp_path):
    done = tmp_path / "done"
    async with kernel.client("sleeper") as sleeper:
        await sleeper.execute(then_touch(done, FLOOD))
        (lagging,) = kernel.hub.clients
        await auntil(lambda: lagging.backlog.overflowed, "the backlog to be full")
        await sleeper.knock.wait_closed()
        assert (sleeper.knock.code, sleeper.knock.slug) == (4507, "backlog_full")
    await auntil(lambda: not kernel.hub.clients, "the client to be forgotten")
    await auntil(done.exists, "the flood to be over")
    async with kernel.client("sleeper") as back:
        assert await back.run("print(1)") == "1\n"


def then_touch(path: Path, code: str) -> str:
    """Code, and a file when it is done. That a kernel is said to be idle means less: it answers on its
    control channel meanwhile."""
    return f"{code}\nopen({str(path)!r}, 'w').close()"


async def overflow_while_away(kernel: Live, gone: Path, code: str = FLOOD) -> str:
    """Let a kernel say too much for its only client, which is away; returns the request's id."""
    done = gone.with_name("done")
    async with kernel.client("away") as away:
        message_id = await away.execute(once(gone, then_touch(done, code)))
        await away.until("execute_input")
        away.knock.vanish()
    await auntil(lambda: kernel.connections == 0, "the client to be gone")
    gone.touch()
    (client,) = kernel.hub.clients
    await auntil(lambda: client.backlog.overflowed, "the backlog to be full")
    await auntil(done.exists, "the kernel to be done")
    return message_id


@small(backlog_disk=0, backlog_overflow="close")
async def test_who_was_away_and_had_no_room_is_told_by_the_close(kernel, caplog, tmp_path):
    await overflow_while_away(kernel, tmp_path / "gone")
    assert "too much for a client that is away" in caplog.text
    async with kernel.client("away") as back:
        await back.knock.wait_closed()
        assert (back.knock.code, back.knock.slug) == (4507, "backlog_full")
    await auntil(lambda: not kernel.hub.clients, "the client to be forgotten, now that it knows")
    async with kernel.client("away") as again:
        assert await again.run("print(1)") == "1\n"


COMMS = f"""
from comm import create_comm
comm = create_comm("nobody")
for n in range({COUNT}):
    comm.send({{"n": n, "x": "x" * 20_000}})
"""


@small(backlog_disk=0)
async def test_who_was_away_and_lost_more_than_output_is_told_by_a_notice(kernel, tmp_path):
    message_id = await overflow_while_away(kernel, tmp_path / "gone", COMMS)
    (client,) = kernel.hub.clients
    await auntil(lambda: client.backlog._lost[1] > COUNT, "all of it to have come")
    async with kernel.client("away") as back:
        assert await back.run("print('on')") == "on\n"
        told = back.heard[0]
        assert told["content"]["name"] == "stderr"
        assert told["parent_header"]["msg_id"] == message_id
        (count,) = re.findall(r"\[(\d+) messages? of the kernel", told["content"]["text"])
        # Among them the reply and the idle state.
        assert COUNT < int(count) <= COUNT + 20
        assert not client.backlog.overflowed


@small(backlog_disk=0, backlog_overflow="close")
async def test_who_did_not_hear_the_close_is_told_again(kernel):
    """It does not read, so it cannot know: the connection breaks, and its next one is told."""
    async with kernel.client("sleeper") as sleeper:
        await sleeper.execute(FLOOD)
        (lagging,) = kernel.hub.clients
        await auntil(lambda: lagging.backlog.overflowed, "the backlog to be full")
        sleeper.knock.vanish()
        await auntil(lambda: kernel.connections == 0)
    async with kernel.client("sleeper") as back:
        await back.knock.wait_closed()
        assert (back.knock.code, back.knock.slug) == (4507, "backlog_full")


@pytest.fixture
def pacing(jp_data_dir, jp_asyncio_loop, door):
    """A kernel that says so many messages a second, and loses what is not read."""
    argv = [sys.executable, "-m", "tests.support.pacing_kernel", "{connection_file}"]
    install(jp_data_dir, "pacing", argv)
    manager = door.app.kernel_manager
    kernel_id = jp_asyncio_loop.run_until_complete(manager.start_kernel(kernel_name="pacing"))
    yield Live(door, kernel_id)
    jp_asyncio_loop.run_until_complete(manager.shutdown_kernel(kernel_id, now=True))


async def test_what_comes_while_the_server_is_busy_is_not_lost(pacing):
    """Other handlers may take their time, and a kernel does not wait."""
    count, rate = 15_000, 10_000
    async with pacing.client() as client:
        await client.run('{"count": 100, "rate": 1000, "size": 100}')
        message_id = await client.execute(json.dumps({"count": count, "rate": rate, "size": 600}))
        await client.until("display_data", message_id)
        time.sleep(count / rate + 0.5)  # instead of whatever takes so long
        heard = await client.idle(message_id)
        texts = [m["content"].get("data", {}).get("text/plain") for m in heard]
        numbers = [number_in(text) for text in texts if text]
        (stalled,) = [m["content"]["stalled"] for m in heard if "stalled" in m["content"]]
        assert numbers == sorted({*range(count)} - {*stalled})


# -- inbound ---------------------------------------------------------------------------------------


@pytest.fixture
def kernel_name(jp_data_dir) -> str:
    return "python3"


@pytest.fixture
def plain(jp_data_dir, jp_asyncio_loop, door):
    """A kernel that reads nothing while it waits for an answer."""
    install(jp_data_dir, "plain", odd("plain"))
    manager = door.app.kernel_manager
    kernel_id = jp_asyncio_loop.run_until_complete(manager.start_kernel(kernel_name="plain"))
    yield Live(door, kernel_id)
    jp_asyncio_loop.run_until_complete(manager.shutdown_kernel(kernel_id, now=True))


SIZE = 20_000
MANY = 6_000


async def pour(client: Client, many: int = MANY) -> None:
    """Send much more than ZMQ and the operating system hold."""
    _, frame = client.frame("shell", "comm_msg", {"data": "x" * SIZE}, [])
    payload = frame.encode() if isinstance(frame, str) else frame
    # Masked with zeros.
    whole = struct.pack("!BBH4x", 0x82, 0x80 | 126, len(payload)) + payload
    for _ in range(many):
        client.knock.writer.write(whole)
        await client.knock.writer.drain()


def waiting(kernel: Live, stopped: int) -> bool:
    """Whether so many clients are told to wait."""
    registry = kernel.door.guard.registry
    owners = [cast("Any", entry.handler).connection for entry in registry]
    return sum(owner is not None and owner.waiting is not None for owner in owners) == stopped


def held(kernel: Live) -> int:
    """Most bytes of any client that wait for a channel."""
    hub = kernel.hub
    channels = hub._lane.channels.values()
    return max(channel.waiting(client) for channel in channels for client in hub.clients)


async def hold_back(kernel: Live, ann: Client, asked: Client) -> asyncio.Task[None]:
    """Let the kernel wait for the answer of *asked*, and Ann send so much that she is told to wait."""
    await asked.execute("ask", stdin=True)
    await asked.until("input_request")
    pouring = asyncio.create_task(pour(ann))
    await auntil(lambda: waiting(kernel, 1), "ann to be told to wait")
    return pouring


async def test_who_sends_too_much_is_held_back_and_nobody_else(plain):
    async with plain.client("ann") as ann, plain.client("bob") as bob:
        pouring = await hold_back(plain, ann, asked=bob)
        assert held(plain) <= inlet_module.HIGH + 2 * SIZE
        assert not pouring.done()
        await bob.send("control", "kernel_info_request")
        await bob.send("stdin", "input_reply", {"value": "answer"})
        assert (await bob.until("execute_reply"))["content"]["echo"] == "answer"
        await asyncio.wait_for(pouring, 120)
        await auntil(lambda: waiting(plain, 0), "ann to go on")
        assert await ann.run("done") == "done"


async def test_who_was_asked_can_answer_behind_much_else(plain):
    async with plain.client("ann") as ann:
        await ann.execute("ask", stdin=True)
        await ann.until("input_request")
        await asyncio.wait_for(pour(ann, 10 * inlet_module.HIGH // SIZE), 120)
        await ann.send("stdin", "input_reply", {"value": "answer"})
        assert (await ann.until("execute_reply"))["content"]["echo"] == "answer"


async def test_who_was_asked_and_sends_far_too_much_is_held_back_too(plain):
    async with plain.client("ann") as ann, plain.client("bob") as bob:
        pouring = await hold_back(plain, ann, asked=ann)
        # By now ZMQ may have taken some of it, on its way to the kernel.
        assert inlet_module.HIGH < held(plain) <= hub_module.ASKED_HIGH + 2 * SIZE
        assert not pouring.done()
        # Whoever else is there can get the kernel on.
        await bob.send("stdin", "input_reply", {"value": "for her"})
        assert (await ann.until("execute_reply"))["content"]["echo"] == "for her"
        await asyncio.wait_for(pouring, 120)
        assert await ann.run("done") == "done"


async def test_who_waits_and_leaves_leaves_nothing(plain):
    async with plain.client("ann") as ann, plain.client("bob") as bob:
        pouring = await hold_back(plain, ann, asked=bob)
        pouring.cancel()
        ann.knock.vanish()
        await bob.send("stdin", "input_reply", {"value": "answer"})
        assert (await bob.until("execute_reply"))["content"]["echo"] == "answer"
        await auntil(lambda: plain.connections == 1, "ann to be gone")


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0.5}])
async def test_who_is_held_back_and_vanishes_is_noticed_though_nothing_is_read(plain):
    async with plain.client("ann") as ann, plain.client("bob") as bob:
        pouring = await hold_back(plain, ann, asked=bob)
        pouring.cancel()
        ann.knock.vanish()
        await auntil(
            lambda: plain.connections == 1, "ann to be gone, while the kernel takes nothing"
        )
        await bob.send("stdin", "input_reply", {"value": "answer"})
        assert (await bob.until("execute_reply"))["content"]["echo"] == "answer"
