"""The client's tunnel over a network in memory: what its sockets hear, whatever becomes of the carriers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.client import tunnel as client_tunnel
from jupyter_token_ws.client.backoff import Backoff
from jupyter_token_ws.client.carriers import (
    EVENT_STREAM,
    JUDGED,
    WEBSOCKET,
    CarrierEndedError,
    RefusalError,
)
from jupyter_token_ws.client.errors import (
    AuthError,
    ClientError,
    HeldBackError,
    IdentityError,
    NoConnectionError,
    RefusedError,
    SocketClosedError,
    TooLargeError,
    TunnelEndedError,
    UnsupportedError,
    UpgradeBlockedError,
)
from jupyter_token_ws.client.tunnel import Tunnel, TunnelSocket
from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.reasons import REASONS, Advice
from tests.support.tunnel_net import Net, in_memory, refusal, tunnel_over
from tests.support.waiting import auntil

WINDOW = 256 * 1024


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    with in_memory():
        yield


@asynccontextmanager
async def opened(net: Net, **options: Any) -> AsyncIterator[Tunnel]:
    """A tunnel over it, and no task left behind."""
    tasks = asyncio.all_tasks()
    tunnel = tunnel_over(net, **options)
    try:
        yield tunnel
    finally:
        await tunnel.aclose()
    assert asyncio.all_tasks() == tasks


async def everything(socket: TunnelSocket) -> list[str | bytes]:
    return [message async for message in socket]


def ended(net: Net, slug: str) -> None:
    """The server ends the tunnel."""
    reason = REASONS[slug]
    net.newest.machine.close_tunnel(reason.code, reason.close_reason())
    net.line.move()


# -- messages ----------------------------------------------------------------------------------------


async def test_messages_go_and_come():
    async with opened(Net()) as tunnel:
        socket = await tunnel.open("echo?a=b".partition("?")[0], ["a", "b"])
        assert socket.subprotocol == "a"
        sent: list[str | bytes] = ["text", b"bytes", "", b"", "ü" * 100_000, bytes(1_000_000)]
        for message in sent:
            await socket.send(message)
            assert await socket.recv() == message
        assert tunnel.carrier == WEBSOCKET
        assert (socket.close_code, socket.advice, socket.retry_after) == (None, None, None)
        await socket.close(1000, "done")
        await socket.close()
        assert (socket.close_code, net_closed(tunnel, socket)) == (1000, True)
        with pytest.raises(SocketClosedError, match="1000"):
            await socket.send("late")
        with pytest.raises(SocketClosedError, match="1000"):
            await socket.send_eof()
        with pytest.raises(SocketClosedError, match="1000"):
            await socket.recv()
        assert await everything(socket) == []
    assert tunnel.carrier is None


def net_closed(tunnel: Tunnel, socket: TunnelSocket) -> bool:
    assert tunnel._life is not None
    return socket._number not in tunnel._life.sockets


async def test_each_direction_ends_by_itself():
    async with opened(Net()) as tunnel:
        socket = await tunnel.open("echo")
        await socket.send("a")
        await socket.send_eof()
        await socket.send_eof()
        with pytest.raises(ClientError, match="send_eof"):
            await socket.send("b")
        assert await everything(socket) == ["a"]
        assert (socket.close_code, socket.advice) == (1000, Advice.STOP)


async def test_the_other_side_has_no_more():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.newest.machine.end(1)
        net.line.move()
        with pytest.raises(SocketClosedError, match="all that it had"):
            await socket.recv()
        assert socket.close_code is None
        await socket.send("still")
        await auntil(lambda: net.newest.heard, "the message to come")


SIZES = st.integers(0, 200_000)


@given(
    sizes=st.lists(SIZES, max_size=6),
    budgets=st.lists(st.tuples(st.integers(200, 400_000), st.integers(200, 400_000)), max_size=6),
)
def test_whatever_is_cut_at_any_byte_everything_comes_once_and_in_order(sizes, budgets):
    messages = [f"{number} ".ljust(size, "x") for number, size in enumerate(sizes)]

    async def run() -> None:
        net = Net(budgets=list(budgets))
        async with opened(net, backoff=Backoff(base=0.0001, cap=0.0001)) as tunnel:
            socket = await tunnel.open("echo")
            other = await tunnel.open("echo")
            hearing = [asyncio.create_task(everything(each)) for each in (socket, other)]
            for message in messages:
                await socket.send(message)
                await other.send(message.encode())
            await socket.send_eof()
            await other.send_eof()
            assert await hearing[0] == messages
            assert await hearing[1] == [message.encode() for message in messages]
            assert len(net.tunnels) == 1
            assert tunnel.resumed < len(net.lines)

    asyncio.run(asyncio.wait_for(run(), 60))


# -- credit ------------------------------------------------------------------------------------------


async def test_who_is_not_read_waits_and_stalls_nobody(monkeypatch):
    monkeypatch.setattr(client_tunnel, "CLOSE_TIMEOUT", 0.05)  # what waits goes first
    net = Net()
    async with opened(net) as tunnel:
        quiet, echo = await tunnel.open("quiet"), await tunnel.open("echo")
        sending = asyncio.create_task(quiet.send(bytes(3 * WINDOW)))
        await auntil(lambda: net.newest.heard.get(1, 0) > WINDOW // 2, "the window to be full")
        await echo.send("a")
        assert await echo.recv() == "a"
        assert not sending.done()
        assert net.newest.heard[1] <= WINDOW
        # One that is given up goes all the same, before what comes next.
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        again = asyncio.create_task(quiet.send("b"))
        await echo.send("c")
        assert await echo.recv() == "c"
        assert not again.done()
        await quiet.close()
        with pytest.raises(SocketClosedError):
            await again


async def test_what_comes_is_acknowledged_though_nothing_goes(monkeypatch):
    monkeypatch.setattr(client_tunnel, "ACK_DELAY", 0.001)
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("quiet")
        machine = net.newest.machine
        machine.send(1, b"a")
        net.line.move()
        await auntil(lambda: machine.acknowledged == machine.numbered, "it to be acknowledged")
        assert await socket.recv() == b"a"


async def test_who_does_not_read_is_sent_a_window_and_no_more():
    net = Net()
    async with opened(net) as tunnel:
        socket, other = await tunnel.open("echo"), await tunnel.open("echo")
        count = 40
        sending = asyncio.create_task(_send_all(socket, [bytes(50_000)] * count))
        await auntil(lambda: net.newest.machine.unsent(1), "the server to wait")
        await other.send("a")
        assert await other.recv() == "a"
        assert sum(len(each) for each, _ in socket._queue) <= WINDOW
        assert [len(await socket.recv()) for _ in range(count)] == [50_000] * count
        await sending


async def _send_all(socket: TunnelSocket, messages: list[bytes]) -> None:
    for message in messages:
        await socket.send(message)


async def test_long_messages_that_nobody_waits_for_do_not_pile_up():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("quiet")
        message = bytes(4 * WINDOW)
        for _ in range(3):
            net.newest.machine.send(1, message)
        net.line.move()
        await auntil(lambda: socket._queue, "the first to come")
        await tunnel.open("quiet")
        assert [len(each) for each, _ in socket._queue] == [len(message)]
        assert len(socket._parts) <= WINDOW
        for _ in range(3):
            assert await socket.recv() == message


async def test_a_message_that_is_too_long_closes_the_socket():
    async with opened(Net()) as tunnel:
        socket = await tunnel.open("echo", max_size=1000)
        await socket.send(bytes(1000))
        await socket.send(bytes(1001))
        assert await socket.recv() == bytes(1000)
        with pytest.raises(SocketClosedError, match="max_size") as raised:
            await socket.recv()
        assert raised.value.code == 1009
        other = await tunnel.open("echo")
        await other.send("a")
        assert await other.recv() == "a"


async def test_text_that_is_none():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("quiet")
        net.newest.machine.send(1, b"\xff", text=True)
        net.line.move()
        with pytest.raises(SocketClosedError, match="UTF-8"):
            await socket.recv()


# -- opening -----------------------------------------------------------------------------------------


async def test_a_socket_that_is_refused():
    async with opened(Net()) as tunnel:
        with pytest.raises(RefusedError) as raised:
            await tunnel.open("nothing")
        told = raised.value
        assert (told.slug, told.advice, told.status) == ("not_found", Advice.STOP, 404)
        (await tunnel.open("echo")).cut(1000)


@pytest.mark.parametrize(
    ("code", "reason", "status", "slug", "advice"),
    [
        (4429, "too_many_connections;retry_after=7: x", 429, "too_many_connections", "retry_after"),
        (4200, "", 200, None, "stop"),
        (4502, "", 502, None, "retry"),
        (None, "", 500, None, "stop"),
        (1011, "broken", 500, None, "stop"),
    ],
)
async def test_what_a_refusal_says(code, reason, status, slug, advice):
    net = Net()
    async with opened(net) as tunnel:
        opening = asyncio.create_task(tunnel.open("never"))
        await auntil(lambda: net.tunnels and net.newest.paths, "it to be asked")
        net.newest.machine.close(1, code, reason)
        net.line.move()
        with pytest.raises(RefusedError) as raised:
            await opening
        told = raised.value
        assert (told.status, told.slug, told.advice) == (status, slug, Advice(advice))
        assert told.retry_after == (7 if slug else None)


async def test_one_that_is_not_answered_is_withdrawn():
    net = Net()
    async with opened(net) as tunnel:
        with pytest.raises(NoConnectionError, match=r"not open after 0\.0\d* s"):
            await tunnel.open("never", timeout=0.05)
        opening = asyncio.create_task(tunnel.open("never"))
        await auntil(lambda: len(net.newest.paths) == 2, "it to be asked")
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await auntil(lambda: net.newest.closed == {1: 1001, 2: 1001}, "both to be withdrawn")
        life = tunnel._life
        assert life is not None
        await auntil(lambda: not life.sockets, "nothing to be left")


async def test_what_fits_into_no_frame():
    async with opened(Net()) as tunnel:
        with pytest.raises(TooLargeError):
            await tunnel.open("x" * 20_000)


async def test_no_more_sockets_than_the_server_allows():
    async with opened(Net(hello={"max_streams": 2})) as tunnel:
        sockets = [await tunnel.open("echo") for _ in range(2)]
        with pytest.raises(RefusedError) as raised:
            await tunnel.open("echo")
        assert (raised.value.slug, raised.value.advice) == (
            "too_many_connections",
            Advice.RETRY_AFTER,
        )
        await sockets[0].close()
        await tunnel.open("echo")


# -- carriers ----------------------------------------------------------------------------------------


def answers(**by_name: Any) -> Any:
    """What carriers are answered, by their names."""
    return lambda name, query, grant: by_name.get(name)


async def test_the_next_carrier_where_the_first_is_blocked():
    net = Net(answers=answers(websocket=UpgradeBlockedError("no")))
    async with opened(net) as tunnel:
        await tunnel.open("echo")
        assert tunnel.carrier == EVENT_STREAM
        net.line.cut()
        await auntil(lambda: tunnel.resumed, "it to be resumed")
        assert [name for name, _, _ in net.asked] == [WEBSOCKET, EVENT_STREAM, EVENT_STREAM]


async def test_resumed_over_the_other_carrier():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.answers = answers(websocket=NoConnectionError("no"))
        net.line.cut()
        await socket.send("a")
        assert await socket.recv() == "a"
        assert tunnel.carrier == EVENT_STREAM


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        (RefusedError("no", 403, advice=Advice.STOP), 1),
        (IdentityError("no"), 1),
        (AuthError("no"), 1),
        (UpgradeBlockedError("no"), 2),
        (HeldBackError("no"), 2),
    ],
)
async def test_what_is_hopeless_is_told_at_once(error, tried):
    net = Net(answers=lambda name, query, grant: error)
    async with opened(net) as tunnel:
        for _ in range(2):
            with pytest.raises(type(error), match="no"):
                await tunnel.open("echo")
        assert len(net.asked) == 2 * tried


@pytest.mark.parametrize("slug", ["draining", "internal_error"])
async def test_what_may_pass_is_tried_again(slug):
    net = Net()
    left = [RefusalError(refusal(slug), None), NoConnectionError("no"), NoConnectionError("no")]  # type: ignore[arg-type]
    net.answers = lambda name, query, grant: left.pop(0) if left else None
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        await socket.send("a")
        assert await socket.recv() == "a"


async def test_but_not_for_longer_than_there_is_time():
    net = Net(answers=answers(websocket=NoConnectionError("nobody is there")))
    async with opened(net, carriers=[WEBSOCKET], open_timeout=0.05) as tunnel:
        with pytest.raises(NoConnectionError, match="nobody is there"):
            await tunnel.open("echo")


async def test_who_has_to_wait_longer_than_that_is_told_at_once():
    net = Net(answers=lambda n, q, grant: RefusalError(refusal("too_many_connections", 30), grant))
    async with opened(net) as tunnel:
        with pytest.raises(RefusedError) as raised:
            await tunnel.open("echo")
        assert (raised.value.slug, raised.value.retry_after) == ("too_many_connections", 30)
        assert len(net.asked) == 1


async def test_a_carrier_by_which_nothing_comes():
    net = Net(budgets=[(1000, 10), (1000, 10)])
    async with opened(net, carriers=[EVENT_STREAM]) as tunnel:
        await tunnel.open("echo")  # cut before HELLO, which is no proof of anything
        assert len(net.asked) == 3


async def test_an_event_stream_that_is_held_back(monkeypatch):
    net = Net()
    monkeypatch.setattr("tests.support.tunnel_net.Line.move", lambda self: None)
    async with opened(net, patience=0.05, carriers=[EVENT_STREAM]) as tunnel:
        with pytest.raises(HeldBackError, match="buffering"):
            await tunnel.open("echo")
    async with opened(net, patience=0.05, carriers=[WEBSOCKET], open_timeout=0.3) as tunnel:
        with pytest.raises(NoConnectionError, match="by websocket within"):
            await tunnel.open("echo")


@pytest.mark.parametrize("hello", [{"tunnel": "../x"}, {"tunnel": 3}])
async def test_an_id_that_is_none(hello):
    async with opened(Net(hello=hello)) as tunnel:
        with pytest.raises(TunnelEndedError, match="no id"):
            await tunnel.open("echo")


async def test_who_leaves_when_the_first_word_comes(monkeypatch):
    """Before Python 3.12 the one hides the other."""
    net = Net()
    monkeypatch.setattr("tests.support.tunnel_net.Line.move", lambda line: None)
    async with opened(net) as tunnel:
        opening = asyncio.create_task(tunnel.open("echo"))
        await auntil(lambda: net.lines, "a carrier")
        await asyncio.sleep(0)
        net.lines[0].coming.put_nowait((1, b""))
    with pytest.raises(SocketClosedError, match="closed here"):
        await opening


async def test_what_does_not_begin_with_hello(monkeypatch):
    move = "tests.support.tunnel_net.Line.move"
    monkeypatch.setattr(move, lambda line: line.coming.put_nowait((1, b"")))
    async with opened(Net(), open_timeout=0.05) as tunnel:
        with pytest.raises(NoConnectionError, match="HELLO"):
            await tunnel.open("echo")


def test_carriers_that_there_are_not():
    with pytest.raises(UnsupportedError, match="eventstream"):
        tunnel_over(Net(), carriers=["pigeon"])
    with pytest.raises(UnsupportedError):
        tunnel_over(Net(), carriers=[])


# -- credentials -------------------------------------------------------------------------------------


def stale(net: Net, first_good: int) -> None:
    """Grants before this generation are refused."""
    net.answers = lambda name, query, grant: (
        RefusalError(refusal("token_expired"), grant) if grant.generation < first_good else None
    )


async def test_a_carrier_that_is_refused_comes_with_a_fresh_credential():
    net = Net(verdict=True)
    stale(net, 2)
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        stale(net, 3)
        net.line.cut()
        await socket.send("a")
        assert await socket.recv() == "a"
        assert net.judged == [1, 2]
        assert [generation for _, _, generation in net.asked] == [1, 2, 2, 3]


async def test_a_credential_that_is_not_to_be_had():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        stale(net, 2)
        net.verdict = AuthError("no password any more")
        net.line.cut()
        with pytest.raises(TunnelEndedError, match="no password any more") as raised:
            await socket.recv()
        assert raised.value.__cause__ is net.verdict
        assert (raised.value.advice, socket.advice) == (Advice.AUTHENTICATE, Advice.AUTHENTICATE)
        with pytest.raises(AuthError, match="no password any more"):
            await tunnel.open("echo")


async def test_a_credential_that_may_be_had_later():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        stale(net, 2)
        net.verdict = AuthError("not yet", advice=Advice.RETRY)
        net.line.cut()
        await auntil(lambda: len(net.judged) > 2, "it to be tried again")
        net.generation = 2
        await socket.send("a")
        assert await socket.recv() == "a"


async def test_who_is_refused_again_and_again():
    net = Net(verdict=True)
    stale(net, 100)
    async with opened(net) as tunnel:
        with pytest.raises(RefusedError) as raised:
            await tunnel.open("echo")
        assert (raised.value.slug, len(net.asked)) == ("token_expired", JUDGED)


async def test_a_refusal_that_is_not_about_the_credential():
    net = Net()
    stale(net, 2)
    async with opened(net) as tunnel:
        with pytest.raises(RefusedError):
            await tunnel.open("echo")
        assert len(net.asked) == 1


async def test_a_live_tunnel_looks_after_its_credential(monkeypatch):
    monkeypatch.setattr(client_tunnel, "RENEW_EVERY", 0.001)
    net, granted = Net(), 0

    async def grant() -> Any:
        nonlocal granted
        granted += 1
        if granted == 3:
            raise AuthError("not now")
        return await Net.grant(net)

    monkeypatch.setattr(net, "grant", grant, raising=False)
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        await auntil(lambda: granted > 5, "it to be looked after")
        await socket.send("a")
        assert await socket.recv() == "a"
        assert tunnel.resumed == 0


async def test_what_is_sent_is_refused():
    """And the server says no more."""
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.sending = [RefusalError(refusal("wrong_audience"), await net.grant())]
        await socket.send("a")
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert (raised.value.code, raised.value.slug) == (4403, "wrong_audience")


async def test_why_what_is_sent_is_refused_may_be_heard():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.sending = [RefusalError(refusal("not_found"), await net.grant())]
        await socket.send("a")
        await asyncio.sleep(0)
        ended(net, "token_revoked")
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert raised.value.slug == "token_revoked"


@pytest.mark.parametrize("error", [AuthError("no", advice=Advice.RETRY), NoConnectionError("no")])
async def test_what_is_sent_fails_for_a_while(error):
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.sending = [error]
        await socket.send("a")
        assert await socket.recv() == "a"
        assert tunnel.resumed == 1


@pytest.mark.parametrize("error", [AuthError("never"), TooLargeError("never")])
async def test_what_is_sent_fails_for_good(error):
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.sending = [error]
        await socket.send("a")
        with pytest.raises(TunnelEndedError, match="never") as raised:
            await socket.recv()
        assert (raised.value.__cause__, raised.value.advice) == (error, error.advice)


async def test_a_fault_in_who_sends_is_told_to_the_sockets():
    net, fault = Net(), ZeroDivisionError("of a plugin")
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.sending = [fault]
        await socket.send("a")
        with pytest.raises(TunnelEndedError, match="of a plugin") as raised:
            await socket.recv()
        cause = raised.value.__cause__
        assert cause is not None
        assert cause.__cause__ is fault


async def test_a_code_that_is_none():
    async with opened(Net()) as tunnel:
        socket = await tunnel.open("echo")
        with pytest.raises(ValueError, match="carry 1005"):
            await socket.close(1005)
        await socket.send("a")
        assert await socket.recv() == "a"


# -- the end -----------------------------------------------------------------------------------------


async def test_the_server_ends_it():
    net = Net()
    async with opened(net) as tunnel:
        socket, other = await tunnel.open("echo"), await tunnel.open("quiet")
        await socket.send("a")
        await auntil(lambda: socket._queue, "its echo")
        sending = asyncio.create_task(other.send(bytes(3 * WINDOW)))
        await auntil(lambda: net.newest.heard.get(2, 0) > WINDOW // 2, "the window to be full")
        ended(net, "token_revoked")
        assert await socket.recv() == "a", "what came before is given first"
        for waiting in (socket.recv(), socket.send("b"), sending, everything(socket)):
            with pytest.raises(TunnelEndedError) as raised:
                await waiting
            assert (raised.value.code, raised.value.slug) == (4401, "token_revoked")
        assert (socket.reason, socket.advice) == ("token_revoked", Advice.AUTHENTICATE)
        await socket.close()
        assert (await tunnel.open("echo")).close_code is None
        assert len(net.tunnels) == 2


async def test_what_was_closed_before_the_end_is_told_its_own_code():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("quiet")
        net.newest.machine.close(1, 3000, "own")
        ended(net, "draining")
        with pytest.raises(SocketClosedError) as raised:
            await socket.recv()
        assert (raised.value.code, type(raised.value)) == (3000, SocketClosedError)


async def test_a_tunnel_that_the_server_does_not_know_any_more():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.tunnels.clear()
        net.line.cut()
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert (raised.value.slug, raised.value.advice) == ("resume_failed", Advice.RETRY)
        await tunnel.open("echo")


async def test_a_server_that_has_what_was_never_sent():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.newest.machine.received = 1000
        net.line.cut()
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert raised.value.slug == "resume_failed"


async def test_a_server_that_breaks_the_protocol_is_told_so():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        machine = net.newest.machine
        nonsense = frames.encode(frames.opened_frame(1, None, 0))
        net.line.coming.put_nowait((machine.numbered + 1, nonsense))
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert raised.value.slug == "bad_request"
        await auntil(lambda: machine.closed, "it to be told")


async def test_batches_of_which_one_is_missing():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.line.coming.put_nowait((net.newest.machine.numbered + 2, b""))
        await auntil(lambda: tunnel.resumed, "it to be resumed")
        await socket.send("a")
        assert await socket.recv() == "a"


async def test_a_server_that_does_not_come_back(monkeypatch):
    net = Net(hello={"resume_window": 0.01})
    monkeypatch.setattr(client_tunnel, "GRACE", 0.01)
    async with opened(net, keepalive=0.01) as tunnel:
        socket = await tunnel.open("echo")
        net.answers = lambda name, query, grant: NoConnectionError("nobody is there")
        net.line.cut()
        with pytest.raises(TunnelEndedError, match="nobody is there") as raised:
            await socket.recv()
        assert (raised.value.code, raised.value.advice) == (1006, Advice.RETRY)


async def test_the_server_says_how_much_it_takes():
    net = Net(hello={"max_post_size": 32 * 1024})
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        await socket.send(bytes(100_000))
        assert await socket.recv() == bytes(100_000)
        assert tunnel._life is not None
        assert tunnel._life.machine.max_fragment < 16 * 1024


async def test_a_tunnel_that_cannot_be_resumed():
    net = Net(hello={"resume_window": 0})
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.line.cut()
        with pytest.raises(TunnelEndedError, match="cannot be resumed"):
            await socket.recv()
        assert len(net.asked) == 1


async def test_somebody_else_has_it():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        reason = REASONS["replaced"]
        net.answers = lambda n, q, g: CarrierEndedError(reason.code, reason.close_reason())
        net.line.cut()
        with pytest.raises(TunnelEndedError) as raised:
            await socket.recv()
        assert raised.value.slug == "replaced"


async def test_one_that_ends_while_a_socket_opens_is_followed_by_another():
    net = Net()
    async with opened(net) as tunnel:
        opening = asyncio.create_task(tunnel.open("never"))
        await auntil(lambda: net.tunnels and net.newest.paths, "it to be asked")
        ended(net, "internal_error")
        await auntil(lambda: len(net.tunnels) == 2 and net.newest.paths, "it to be asked again")
        ended(net, "forbidden")
        with pytest.raises(TunnelEndedError) as raised:
            await opening
        assert raised.value.slug == "forbidden"


async def test_goodbye():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        await socket.send("a")
        await auntil(lambda: socket._queue, "its echo")
        hearing = asyncio.create_task(everything(socket))
    assert net.newest.machine.closed
    assert await hearing == ["a"]
    assert (socket.close_code, net.newest.messages) == (1001, {1: [(b"a", True)]})
    with pytest.raises(ClientError, match="closed here"):
        await tunnel.open("echo")
    await tunnel.aclose()


async def test_one_whose_carrier_takes_long_to_end_is_not_left_behind():
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        life = tunnel._life
        assert life is not None
        net.lingers = asyncio.Event()
        ended(net, "internal_error")
        await auntil(lambda: life.over, "it to end")
        opening = asyncio.create_task(tunnel.open("never"))
        await auntil(lambda: len(net.tunnels) == 2, "the next to begin")
        assert not life.task.done()
        net.lingers = None
    with pytest.raises(ClientError, match="closed here"):
        await opening
    assert socket.close_code is not None


async def test_goodbye_where_nobody_hears_it(monkeypatch):
    monkeypatch.setattr(client_tunnel, "CLOSE_TIMEOUT", 0.05)
    net = Net()
    async with opened(net) as tunnel:
        socket = await tunnel.open("echo")
        net.answers = lambda name, query, grant: NoConnectionError("nobody is there")
        net.line.cut()
        await auntil(lambda: len(net.asked) > 2, "it to be tried")
        await socket.close(3000)  # nobody answers this either
        assert socket.close_code == 3000


async def test_a_goodbye_that_is_cancelled():
    net = Net()
    async with opened(net) as tunnel:
        opening = asyncio.create_task(tunnel.open("never"))
        await auntil(lambda: net.tunnels and net.newest.paths, "it to be asked")
        closing = asyncio.create_task(tunnel.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(ClientError, match="closed here"):
            await opening
