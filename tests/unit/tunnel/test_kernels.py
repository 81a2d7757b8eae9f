"""Kernels on streams of a tunnel: floods, cuts, and a tunnel that is lost for good."""

from __future__ import annotations

import hashlib
import re
from typing import Any, cast

import pytest

from jupyter_token_ws.bridge import client as client_module
from jupyter_token_ws.bridge import inlet as inlet_module
from jupyter_token_ws.bridge.outlet import KeepingOutlet
from jupyter_token_ws.protocol.subprotocols import KERNEL
from jupyter_token_ws.protocol.tunnel import MIN_FRAGMENT
from jupyter_token_ws.tunnel.tunnels import SETTING, HeldTunnel
from tests.support.live_kernel import Client, Live, install, odd, printed
from tests.support.tunnel_carriers import FarSocket
from tests.support.tunnel_peer import FakeSocket
from tests.support.waiting import auntil

COUNT = 300
FLOOD = f"""
from IPython.display import display
for n in range({COUNT}):
    display({{"text/plain": f"<{{n}}>" + "x" * 100_000}}, raw=True)
    print(f"({{n}})", flush=True)
"""
FORMATS = pytest.mark.parametrize("v1", [True, False], ids=["v1", "legacy"])
LITTLE = pytest.mark.parametrize("token_ws_config", [{"backlog_memory": 2**20}])


def shown(heard: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """The numbers of the displays, and of the printed lines."""
    displays = [m for m in heard if m["header"]["msg_type"] == "display_data"]
    texts = "".join(m["content"]["data"]["text/plain"].rstrip("x") for m in displays)
    numbers = list(map(int, re.findall(r"<(\d+)>", texts)))
    return numbers, list(map(int, re.findall(r"\((\d+)\)", printed(heard))))


ALL = (list(range(COUNT)), list(range(COUNT)))


@pytest.fixture
def far(door) -> FarSocket:
    return FarSocket(door)


async def opened(far: FarSocket, kernel: Live, session: str = "a", *, v1: bool = True) -> Client:
    if far.knock is None:
        await far.connect()
    socket = await far.open(kernel.path(session), [KERNEL] if v1 else []).wait_open()
    assert socket.opened
    return Client(cast("Any", socket), v1)


def socket_of(client: Client) -> FakeSocket:
    return cast("FakeSocket", client.knock)


def held(kernel: Live) -> HeldTunnel:
    """The one tunnel that there is."""
    (found,) = kernel.app.web_app.settings[SETTING]
    return cast("HeldTunnel", found)


def lagging(kernel: Live) -> tuple[client_module.Client, KeepingOutlet]:
    """The client that is behind, and its outlet."""
    (found,) = [each for each in kernel.hub.clients if isinstance(each.outlet, KeepingOutlet)]
    return found, cast("KeepingOutlet", found.outlet)


async def all_heard(client: Client) -> None:
    """Hear what has come."""
    while socket_of(client).heard:
        await client.hear()


async def flood(kernel: Live, client: Client) -> str:
    """Let a kernel say much for somebody who does not read; returns the request's id."""
    async with kernel.client("watcher") as watcher:
        await watcher.run("1")
        message_id = await client.execute(FLOOD)
        await watcher.until("status", message_id, execution_state="idle")
    return message_id


@LITTLE
@FORMATS
async def test_who_does_not_read_loses_nothing(far, kernel, v1):
    client = await opened(far, kernel, v1=v1)
    socket_of(client).read(False)
    message_id = await flood(kernel, client)
    behind, outlet = lagging(kernel)
    assert behind.backlog.size - behind.backlog.memory_size > 2**20
    assert behind.backlog.memory_size <= 2**20 + 250_000
    assert outlet.unsent_bytes <= 2 * client_module.PORTION
    assert held(kernel).machine.kept_bytes <= 2**20
    socket_of(client).read()
    assert shown(await client.idle(message_id)) == ALL
    assert kernel.bridge.quota.used == 0
    assert await client.run("print('on')") == "on\n"
    await far.cut()


@LITTLE
@FORMATS
async def test_a_carrier_that_is_lost_in_the_middle_and_the_next(far, kernel, v1):
    client = await opened(far, kernel, v1=v1)
    message_id = await client.execute(FLOOD)
    for n in range(1, 6):
        await client.until("stream")
        assert len(shown(client.heard)[0]) < COUNT, "still in the middle"
        await far.cut()
        if n == 3:  # so long that the backlog has to keep what comes
            await auntil(lambda: lagging(kernel)[0].backlog.spooling, "the backlog to be full")
        await far.connect()
        await far.attached()
    assert shown(await client.idle(message_id)) == ALL
    await far.cut()


@pytest.mark.parametrize(
    "token_ws_config", [{"backlog_memory": 2**20, "tunnel_resume_window": 0.2}]
)
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
@FORMATS
async def test_a_tunnel_that_is_over_and_the_session_by_a_plain_socket(far, kernel, v1, reads):
    """All that the client had not acknowledged comes, and twice only what it had heard besides."""
    client = await opened(far, kernel, v1=v1)
    socket_of(client).read(reads)
    message_id = await client.execute(FLOOD)
    await client.until("stream")
    await far.cut()
    await auntil(lambda: kernel.connections == 0, "the tunnel to be over")
    await all_heard(client)
    async with kernel.client("a", v1=v1) as back:
        await back.until("status", message_id, execution_state="idle")
    before, after = shown(client.heard), shown(back.heard)
    for mine, rest in zip(before, after, strict=True):
        assert mine == list(range(len(mine)))
        assert rest == list(range(rest[0], COUNT))
        assert rest[0] <= len(mine)
        assert len(mine) - rest[0] < 20  # what was on its way


@LITTLE
async def test_the_session_by_a_plain_socket_while_the_tunnel_waits(far, kernel):
    """As a client that has lost all it knew of its tunnel."""
    client = await opened(far, kernel)
    socket_of(client).read(False)
    message_id = await flood(kernel, client)
    await far.cut()
    await all_heard(client)
    heard = len(shown(client.heard)[0])
    async with kernel.client("a") as back:
        after, _ = shown(await back.idle(message_id))
        assert after == list(range(after[0], COUNT))
        assert after[0] <= heard
        await auntil(lambda: kernel.connections == 1, "the stream's handler to be gone")


BUFFERS = """
import hashlib, os
from ipykernel.comm import Comm
comm = Comm(target_name="t")
data = os.urandom(20 * 2**20)
comm.send({"hash": hashlib.sha256(data).hexdigest()}, buffers=[data, b"second"])
"""


@FORMATS
async def test_a_large_buffer_goes_in_fragments(far, kernel, v1):
    client = await opened(far, kernel, v1=v1)
    message_id = await client.execute(BUFFERS)
    message = await client.until("comm_msg", message_id)
    data, second = message["buffers"]
    assert hashlib.sha256(data).hexdigest() == message["content"]["data"]["hash"]
    assert second == b"second"
    await client.idle(message_id)
    await auntil(lambda: not held(kernel).streams.keeping, "the tunnel to forget it")
    await far.cut()


@pytest.mark.parametrize("token_ws_config", [{"tunnel_resume_window": 0.2}])
async def test_a_large_buffer_in_the_middle_of_which_the_tunnel_ends(far, kernel):
    client = await opened(far, kernel)
    socket_of(client).read(False)
    message_id = await client.execute(BUFFERS)
    _, outlet = lagging(kernel)
    await auntil(lambda: outlet.unsent_bytes > 2**20, "it to be under way")
    await far.cut()
    await auntil(lambda: kernel.connections == 0, "the tunnel to be over")
    async with kernel.client("a") as back:
        message = await back.until("comm_msg", message_id)
        data, _ = message["buffers"]
        assert hashlib.sha256(data).hexdigest() == message["content"]["data"]["hash"]


# -- how it ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, None])
async def test_a_close_is_a_goodbye(far, kernel, code):
    async with kernel.client("other"):
        client = await opened(far, kernel)
        assert len(kernel.hub.clients) == 2
        await socket_of(client).close(code)
        await auntil(lambda: len(kernel.hub.clients) == 1, "the client to be forgotten")
        await far.cut()


@pytest.mark.parametrize("token_ws_config", [{"tunnel_resume_window": 0.2}])
async def test_a_tunnel_that_is_lost_says_no_goodbye(far, kernel):
    async with kernel.client("other"):
        await opened(far, kernel)
        await far.cut()
        await auntil(lambda: kernel.connections == 1, "the tunnel to be over")
        assert len(kernel.hub.clients) == 2


@pytest.mark.parametrize(
    "token_ws_config",
    [{"backlog_memory": 2**20, "backlog_disk": 0, "backlog_overflow": "close"}],
)
async def test_who_has_no_room_is_told_and_forgotten_when_it_knows(far, kernel):
    client = await opened(far, kernel)
    socket_of(client).read(False)
    await client.execute(FLOOD)
    behind, _ = lagging(kernel)
    await auntil(lambda: behind.backlog.overflowed, "the backlog to be full")
    socket_of(client).read()
    await socket_of(client).wait_closed()
    assert (socket_of(client).code, socket_of(client).reason[:12]) == (4507, "backlog_full")
    await auntil(lambda: not kernel.hub.clients, "the client to be forgotten")
    await far.cut()


# -- inbound ---------------------------------------------------------------------------------------

SIZE = 20_000


@pytest.fixture
def plain(jp_data_dir, jp_asyncio_loop, door):
    """A kernel that reads nothing while it waits for an answer."""
    install(jp_data_dir, "plain", odd("plain"))
    manager = door.app.kernel_manager
    kernel_id = jp_asyncio_loop.run_until_complete(manager.start_kernel(kernel_name="plain"))
    yield Live(door, kernel_id)
    jp_asyncio_loop.run_until_complete(manager.shutdown_kernel(kernel_id, now=True))


async def held_back(far: FarSocket, plain: Live, asker: Client) -> Client:
    """Somebody who is told to wait, by being granted nothing more."""
    ann = await opened(far, plain, "ann")
    await asker.execute("ask", stdin=True)
    await asker.until("input_request")
    registry = plain.door.guard.registry
    for _ in range(6_000):
        await ann.send("shell", "comm_msg", {"data": "x" * SIZE})
    owners = [getattr(entry.handler, "connection", None) for entry in registry]
    await auntil(
        lambda: sum(getattr(owner, "waiting", None) is not None for owner in owners) == 1,
        "ann to be told to wait",
    )
    return ann


async def test_who_sends_too_much_is_granted_nothing_more(far, plain):
    async with plain.client("bob") as bob:
        ann = await held_back(far, plain, bob)
        stream = far.client._streams[1]
        await auntil(lambda: far.client._left(stream) < MIN_FRAGMENT, "all to be sent that may")
        await opened(far, plain, "other")
        assert far.client.unsent(1) > 50_000_000
        channels = plain.hub._lane.channels.values()
        most = max(channel.waiting(each) for channel in channels for each in plain.hub.clients)
        assert most <= inlet_module.HIGH + 2 * SIZE
        await bob.send("stdin", "input_reply", {"value": "answer"})
        await bob.until("execute_reply")
        assert await ann.run("done") == "done"
        await far.cut()


@pytest.mark.parametrize("how", ["close", "cut"])
@pytest.mark.parametrize("token_ws_config", [{"tunnel_resume_window": 0.2}])
async def test_who_is_held_back_and_leaves_is_noticed_though_nothing_is_read(far, plain, how):
    async with plain.client("bob") as bob:
        await held_back(far, plain, bob)
        if how == "close":
            far.client.close(1, now=True)
            far.move()
        else:
            await far.cut()
        await auntil(
            lambda: plain.connections == 1, "ann to be gone, while the kernel takes nothing"
        )
        await bob.send("stdin", "input_reply", {"value": "answer"})
        await bob.until("execute_reply")
        if how == "close":
            await far.cut()
