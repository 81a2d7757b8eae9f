"""What a side of a tunnel answers to whatever the other one sends."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import pytest

from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.frames import FIN, HEADER_SIZE, MAX_DATA, TEXT, Frame, Kind
from jupyter_token_ws.protocol.reasons import parse_close
from jupyter_token_ws.protocol.tunnel import (
    ABNORMAL,
    ACK_EVERY,
    ACK_EVERY_FRAMES,
    BLOCK_COST,
    INITIAL_TUNNEL_CREDIT,
    MAX_UNACKNOWLEDGED,
    MIN_FRAGMENT,
    TRANSITIONS,
    Asked,
    Attached,
    Closed,
    Data,
    Drained,
    Ended,
    Move,
    Opened,
    OutOfOrderError,
    ResumeError,
    Side,
    State,
    Tunnel,
    TunnelClosed,
    TunnelError,
)

WINDOW = 4 * MIN_FRAGMENT


class Driver:
    """One side, and the frames that come to it and go from it."""

    def __init__(self, side: Side, **options: Any) -> None:
        self.tunnel = Tunnel(side, hello={"tunnel": "id"}, **{"stream_window": WINDOW} | options)
        self.number = 1
        if side is Side.CLIENT:
            self.come(frames.hello_frame({"received": 0}))
        else:
            self.tunnel.attach()
        self.gone()
        self.events()

    def come(self, *some: Frame) -> None:
        first = self.number
        self.number += sum(frame.kind < Kind.HELLO for frame in some)
        self.tunnel.receive(first, b"".join(map(frames.encode, some)))

    def gone(self, **options: Any) -> list[Frame]:
        """What it sends."""
        batch = self.tunnel.take(10**9, **options)
        return [] if batch is None else list(frames.decode(batch[1]))

    def events(self) -> list[Any]:
        return self.tunnel.events()

    def kinds(self) -> list[Kind]:
        return [frame.kind for frame in self.gone()]


def opening(credit: int = WINDOW) -> Frame:
    return frames.open_frame(1, "x", ["a", "b"], credit)


def server(*, accepted: bool = True, credit: int = WINDOW, **options: Any) -> Driver:
    made = Driver(Side.SERVER, **options)
    made.come(opening(credit))
    if accepted:
        made.tunnel.accept(1)
    made.events()
    made.gone()
    return made


def client(*, opened: bool = True, credit: int = WINDOW, **options: Any) -> Driver:
    made = Driver(Side.CLIENT, **options)
    assert made.tunnel.open("x") == 1
    if opened:
        made.come(frames.opened_frame(1, None, credit))
    made.events()
    made.gone()
    return made


def slug(close: Frame) -> str:
    """Of the reason that a ``CLOSE`` gives."""
    code, reason = frames.read_close(close.payload)
    closed = parse_close(code or 0, reason)
    assert closed is not None
    return closed.reason.slug


END = Frame(Kind.END, 1)
CLOSE = frames.close_frame(1, 1000, "bye")
DATA = Frame(Kind.DATA, 1, b"x", FIN)
OPENED = frames.opened_frame(1, "a", 0)


def after(made: Driver, *does: Callable[[Driver], object]) -> Driver:
    for each in does:
        each(made)
    made.events()
    made.gone()
    return made


def sends_end(made: Driver) -> None:
    made.tunnel.end(1)


def closes(made: Driver) -> None:
    made.tunnel.close(1, 1000)


def hears_end(made: Driver) -> None:
    made.come(END)


STATES: dict[State, Callable[[], Driver]] = {
    State.ASKING: lambda: client(opened=False),
    State.ASKED: lambda: server(accepted=False),
    State.OPEN: server,
    State.SENT_END: lambda: after(server(), sends_end),
    State.GOT_END: lambda: after(server(), hears_end),
    State.WITHDRAWING: lambda: after(client(opened=False), closes),
    State.CLOSING: lambda: after(server(), closes),
    State.CLOSING_SENT_END: lambda: after(server(), sends_end, closes),
    State.CLOSING_GOT_END: lambda: after(server(), hears_end, closes),
    State.GONE: lambda: after(server(), sends_end, hears_end),
}
RECEIVED = {
    Move.RECEIVE_OPENED: OPENED,
    Move.RECEIVE_DATA: DATA,
    Move.RECEIVE_END: END,
    Move.RECEIVE_CLOSE: CLOSE,
}


@pytest.mark.parametrize("move", RECEIVED, ids=lambda move: move.value)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.value)
def test_C7_4_every_frame_in_every_state(state, move):
    made = STATES[state]()
    assert made.tunnel.state(1) is state
    after = TRANSITIONS.get((state, move))
    if state is State.GONE and move is Move.RECEIVE_CLOSE:
        after = State.GONE  # the one that may cross
    if after is None:
        with pytest.raises(TunnelError):
            made.come(RECEIVED[move])
        assert made.tunnel.closed
        (last,) = [frame for frame in made.gone() if frame.kind is Kind.CLOSE]
        assert (last.stream, slug(last)) == (0, "bad_request")
        rest = [] if state is State.GONE else [Closed(1, ABNORMAL, "")]
        assert made.events() == rest
    else:
        made.come(RECEIVED[move])
        assert made.tunnel.state(1) is after
        closed_here = state.value.startswith(("closing", "withdrawing", "gone"))
        answers = move is Move.RECEIVE_CLOSE and not closed_here
        assert (Kind.CLOSE in made.kinds()) == answers
        told = [event for event in made.events() if isinstance(event, Closed)]
        assert bool(told) == (after is State.GONE and state is not State.GONE)


def test_the_table_is_complete():
    """Every state is reached and, but for the last, left; and only moves of its own lead on."""
    left = {state for state, _ in TRANSITIONS}
    reached = set(TRANSITIONS.values()) | {State.ASKING, State.ASKED}
    assert left == reached - {State.GONE} == set(State) - {State.GONE}


# -- what it is told ---------------------------------------------------------------------------------


def test_a_stream_from_asking_to_its_end():
    made = Driver(Side.SERVER)
    made.come(opening())
    assert made.events() == [Asked(1, "x", ("a", "b"))]
    made.tunnel.accept(1, "b")
    (_, said) = made.gone()
    assert frames.read_opened(said.payload) == ("b", WINDOW)
    made.come(Frame(Kind.DATA, 1, b"a", TEXT), Frame(Kind.DATA, 1, b"b", TEXT | FIN), END)
    assert made.events() == [Data(1, b"a", False, True), Data(1, b"b", True, True), Ended(1)]
    assert made.tunnel.send(1, b"c")
    made.tunnel.end(1)
    assert made.gone()[-2:] == [Frame(Kind.DATA, 1, b"c", FIN), END]
    assert made.events() == [Closed(1, None, "")]
    assert made.tunnel.streams == 0


def test_a_client_is_told_what_opened():
    made = client(opened=False)
    made.come(frames.opened_frame(1, "a", 5))
    assert made.events() == [Opened(1, "a")]


def test_hello_comes_first_and_says_what_was_received():
    made = Driver(Side.SERVER)
    made.come(opening())
    made.tunnel.detach()
    assert made.gone() == []
    made.tunnel.attach()
    hello, ack, credit = made.gone()
    assert frames.read_hello(hello.payload) == {"tunnel": "id", "received": 1}
    assert frames.read_ack(ack.payload) == (1, 1024 * 1024)
    assert credit == frames.credit_frame(1, WINDOW)


def test_a_client_is_told_the_whole_hello():
    tunnel = Tunnel(Side.CLIENT)
    tunnel.open("x")
    assert tunnel.take() is None, "nothing before the server said hello"
    tunnel.receive(1, frames.encode(frames.hello_frame({"received": 0, "more": 1})))
    assert tunnel.events() == [Attached({"received": 0, "more": 1})]
    assert tunnel.take() is not None


@pytest.mark.parametrize(
    "some",
    [
        [Frame(Kind.OPEN, 1, b"{}")],
        [opening(), opening()],
        [frames.open_frame(2, "x", [], 0), opening()],
        [opening(), Frame(Kind.DATA, 2, b"", FIN)],
        [opening(), frames.close_frame(2, 1000)],
        [frames.hello_frame({"received": 0})],
        [frames.ack_frame(1, 0)],
        [opening(), Frame(Kind.CLOSE, 1, b"x")],
    ],
    ids=str,
)
def test_what_a_client_must_not_send(some):
    made = Driver(Side.SERVER)
    with pytest.raises(TunnelError):
        made.come(*some)
    assert made.tunnel.closed


@pytest.mark.parametrize(
    "some",
    [
        [opening()],
        [frames.hello_frame({"received": 0})],
        [Frame(Kind.HELLO, 0, b"{}")],
        [Frame(Kind.OPENED, 1, b"{}")],
    ],
    ids=str,
)
def test_what_a_server_must_not_send(some):
    made = client(opened=False)
    with pytest.raises(TunnelError):
        made.come(*some)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ([TEXT, FIN], "in part"),
        ([0, TEXT | FIN], "in part"),
    ],
)
def test_fragments_that_do_not_go_together(flags, why):
    made = server()
    with pytest.raises(TunnelError, match=why):
        made.come(*(Frame(Kind.DATA, 1, b"x", each) for each in flags))


def test_a_message_that_has_no_end():
    made = server()
    with pytest.raises(TunnelError, match="no end"):
        made.come(Frame(Kind.DATA, 1, b"x"), END)


def test_a_message_without_end_may_be_closed():
    made = server()
    made.come(Frame(Kind.DATA, 1, b"x"), CLOSE)
    assert made.events()[-1] == Closed(1, 1000, "bye")


def test_where_it_is_closed_a_message_without_end_is_passed_over():
    made = server()
    made.come(Frame(Kind.DATA, 1, b"x"))
    closes(made)
    made.come(END, CLOSE)
    assert made.tunnel.state(1) is State.GONE


def test_frames_that_broke_are_the_last_that_count():
    made = server()
    with pytest.raises(TunnelError, match="header is cut"):
        made.tunnel.receive(2, frames.encode(DATA) + b"x")
    assert made.events() == [Data(1, b"x", True, False), Closed(1, ABNORMAL, "")]
    made.tunnel.receive(3, frames.encode(DATA))
    assert made.events() == []


def test_frames_are_numbered_from_one():
    with pytest.raises(TunnelError, match="numbered from 1"):
        Driver(Side.SERVER).tunnel.receive(0, b"")


def test_frames_that_came_are_passed_over_and_those_before_which_some_are_missing_wait():
    made = server()
    made.come(DATA)
    made.events()
    made.tunnel.receive(1, frames.encode(opening()) + frames.encode(DATA))
    made.tunnel.receive(2, frames.encode(DATA))
    assert made.events() == []
    with pytest.raises(OutOfOrderError):
        made.tunnel.receive(4, frames.encode(DATA))
    assert made.tunnel.received == 2
    made.tunnel.receive(2, frames.encode(DATA) + frames.encode(END))
    assert made.events() == [Ended(1)]


def test_the_tunnel_is_closed_by_either():
    made = server()
    made.tunnel.send(1, b"last")
    made.tunnel.close_tunnel(1001, "bye")
    assert made.gone() == [Frame(Kind.DATA, 1, b"last", FIN), frames.close_frame(0, 1001, "bye")]
    assert made.events() == [Closed(1, ABNORMAL, "")]
    made.tunnel.close_tunnel()
    assert made.gone() == []
    other = client()
    other.come(Frame(Kind.DATA, 1, b"last", FIN), frames.close_frame(0, 1001, "bye"), DATA)
    assert other.events() == [
        Data(1, b"last", True, False),
        Closed(1, ABNORMAL, ""),
        TunnelClosed(1001, "bye"),
    ]
    with pytest.raises(ValueError, match="closed"):
        other.tunnel.open("x")


# -- credit ------------------------------------------------------------------------------------------


def test_C7_4_no_more_than_there_is_credit_for():
    made = server()
    made.come(Frame(Kind.DATA, 1, bytes(WINDOW - HEADER_SIZE), FIN))
    with pytest.raises(TunnelError, match="credit"):
        made.come(Frame(Kind.DATA, 1, b"", FIN))


def test_nor_for_all_streams_together():
    made = Driver(Side.SERVER, tunnel_window=1)
    count = INITIAL_TUNNEL_CREDIT // WINDOW
    made.come(*(frames.open_frame(n, "x", [], 0) for n in range(1, count + 2)))
    for number in range(1, count + 2):
        made.tunnel.accept(number)
    made.come(
        *(
            Frame(Kind.DATA, number, bytes(WINDOW - HEADER_SIZE), FIN)
            for number in range(1, count + 1)
        )
    )
    with pytest.raises(TunnelError, match="credit"):
        made.come(Frame(Kind.DATA, count + 1, b"", FIN))


def test_credit_is_told_when_half_a_window_was_taken():
    made = server()
    made.come(Frame(Kind.DATA, 1, bytes(WINDOW // 2 - HEADER_SIZE), FIN))
    (data,) = made.events()
    assert data.size == WINDOW // 2
    made.tunnel.consumed(1, data.size - 1)
    assert made.gone() == []
    made.tunnel.consumed(1, 1)
    assert made.gone()[-1] == frames.credit_frame(1, WINDOW + WINDOW // 2)
    assert made.gone() == []
    with pytest.raises(ValueError, match="more was consumed"):
        made.tunnel.consumed(1, 1)
    made.tunnel.consumed(2, 1)  # of what is gone nothing is asked


def test_what_is_passed_over_was_taken():
    made = after(server(), closes)
    made.come(Frame(Kind.DATA, 1, bytes(WINDOW - HEADER_SIZE), FIN))
    assert made.events() == []
    assert frames.credit_frame(1, 2 * WINDOW) in made.gone()


def test_C7_4_a_message_waits_for_credit_and_goes_in_fragments():
    made = server(credit=HEADER_SIZE + MIN_FRAGMENT)
    message = bytes(range(256)) * 40
    assert not made.tunnel.send(1, message, text=True)
    assert made.tunnel.unsent(1) == len(message) - MIN_FRAGMENT
    assert (made.tunnel.sent(1), made.tunnel.sent(2)) == (HEADER_SIZE + MIN_FRAGMENT, 0)
    assert made.gone() == [Frame(Kind.DATA, 1, message[:MIN_FRAGMENT], TEXT)]
    assert made.events() == []
    with pytest.raises(KeyError):
        made.tunnel.send(2, b"")
    made.come(frames.credit_frame(1, 10**6), frames.credit_frame(2, 10**6))
    assert made.gone()[-1] == Frame(Kind.DATA, 1, message[MIN_FRAGMENT:], TEXT | FIN)
    assert made.events() == [Drained(1)]
    made.come(frames.credit_frame(1, 0))  # late
    assert made.tunnel.send(1, b"x")
    assert made.tunnel.unsent(1) == made.tunnel.unsent(2) == 0


def test_what_is_longer_than_a_frame_goes_at_once_where_there_is_credit():
    made = server(credit=10**7)
    made.come(frames.ack_frame(0, 10**7))
    message = bytes(2 * MAX_DATA + 1)
    assert made.tunnel.send(1, message)
    assert [len(frame.payload) for frame in made.gone()[-3:]] == [MAX_DATA, MAX_DATA, 1]


def test_fragments_are_no_longer_than_the_carriers_let_through():
    made = server(credit=10**7, max_fragment=1000)
    assert made.tunnel.send(1, bytes(1000))
    assert made.tunnel.send_small(1, [bytes(1000), bytes(1001)]) == 1
    assert made.tunnel.send(1, bytes(1001))
    assert [len(frame.payload) for frame in made.gone()] == [1000, 1000, 1000, 1]
    made.tunnel.max_fragment = 600
    assert made.tunnel.send(1, bytes(1000), text=True)
    sent = [(len(frame.payload), frame.flags) for frame in made.gone()]
    assert sent == [(600, TEXT), (400, TEXT | FIN)]


def test_C7_4_streams_have_turns_and_those_that_wait_for_their_reader_stall_nobody():
    made = Driver(Side.SERVER)
    made.come(frames.open_frame(1, "x", [], 10**7), frames.open_frame(2, "x", [], 10**7))
    made.come(frames.open_frame(3, "x", [], 0))
    for stream in (1, 2, 3):
        made.tunnel.accept(stream)
        made.tunnel.send(stream, bytes(10**6))
    made.gone()
    made.come(frames.ack_frame(3, 10**6))
    told = [frame.stream for frame in made.gone() if frame.kind is Kind.DATA]
    assert set(told) == {1, 2}
    assert abs(told.count(1) - told.count(2)) <= 1
    assert made.tunnel.unsent(3) == 10**6


def test_small_messages_go_together():
    made = server(credit=3 * HEADER_SIZE + 5)
    assert made.tunnel.send_small(1, [b"ab", b"cd", b"ef"], text=True) == 2
    assert made.gone() == [Frame(Kind.DATA, 1, each, TEXT | FIN) for each in (b"ab", b"cd")]
    assert made.tunnel.send_small(1, [b"ef"]) == 0
    assert not made.tunnel.send(1, b"ef")
    made.tunnel.detach()
    assert made.tunnel.send_small(1, [b""]) == 0, "what waits goes first"
    with pytest.raises(KeyError):
        made.tunnel.send_small(2, [])


def test_together_no_more_than_a_frame_of_the_largest():
    made = server(credit=10**7)
    made.come(frames.ack_frame(0, 10**7))
    assert made.tunnel.send_small(1, [bytes(MAX_DATA), b""]) == 1
    assert made.tunnel.send_small(1, [bytes(MAX_DATA + 1)]) == 0


@pytest.mark.parametrize("act", [sends_end, closes])
def test_nothing_after_the_end(act):
    made = after(server(), act)
    for does in (
        lambda: made.tunnel.send(1, b"x"),
        lambda: made.tunnel.send_small(1, [b"x"]),
        lambda: made.tunnel.end(1),
    ):
        with pytest.raises(ValueError, match="not open for sending"):
            does()


def test_nothing_before_it_is_open():
    made = client(opened=False)
    with pytest.raises(ValueError, match="not open for sending"):
        made.tunnel.send(1, b"x")


@pytest.mark.parametrize("act", [closes, sends_end])
def test_what_waits_goes_before_the_end(act):
    made = server(credit=0)
    made.tunnel.send(1, b"x")
    act(made)
    assert made.gone() == []
    made.come(frames.credit_frame(1, 100))
    kinds = [frame.kind for frame in made.gone()]
    assert kinds[-2:] == [Kind.DATA, Kind.END if act is sends_end else Kind.CLOSE]


def test_who_is_not_read_is_closed_all_the_same():
    made = server(credit=0)
    made.tunnel.send(1, b"x")
    made.tunnel.close(1, 1011)
    made.tunnel.close(1, 1000, now=True)
    assert made.gone() == [frames.close_frame(1, 1011)]
    made.tunnel.close(1)
    made.tunnel.close(2)
    assert made.gone() == []


def test_a_close_from_there_ends_what_waits():
    made = server(credit=0)
    made.tunnel.send(1, b"x")
    made.tunnel.close(1, 1001)
    made.come(CLOSE)
    assert made.gone()[-1] == frames.close_frame(1, 1000)
    assert made.tunnel.streams == 0
    assert made.events() == [Closed(1, 1000, "bye")]


@pytest.mark.parametrize("act", ["accepted", "closing"])
def test_what_is_answered_is_answered_once(act):
    made = server(accepted=act == "accepted")
    if act == "closing":
        closes(made)
    with pytest.raises(ValueError, match="is answered"):
        made.tunnel.accept(1)
    with pytest.raises(KeyError):
        made.tunnel.accept(2)


# -- bounds ------------------------------------------------------------------------------------------


def test_streams_beyond_the_limit_are_refused():
    made = Driver(Side.SERVER, max_streams=2)
    made.come(*(frames.open_frame(n, "x", [], 0) for n in (1, 2)))
    made.gone()
    made.events()
    made.come(frames.open_frame(3, "x", [], 0))
    last = made.gone()[-1]
    assert (last.stream, slug(last)) == (3, "too_many_connections")
    assert made.events() == [], "nobody is asked"
    made.come(frames.open_frame(4, "x", [], 0))
    with pytest.raises(TunnelError, match="nobody closes"):
        made.come(frames.open_frame(5, "x", [], 0))


def test_who_acknowledges_nothing_is_not_kept_for():
    made = Driver(Side.SERVER)
    last = MAX_UNACKNOWLEDGED + 1
    for number in range(1, last):
        made.come(frames.open_frame(number, "x", [], 0), frames.close_frame(number, 1000))
    with pytest.raises(TunnelError, match="nothing is acknowledged"):
        made.come(frames.open_frame(last, "x", [], 0), frames.close_frame(last, 1000))
    assert made.tunnel.closed


def test_nor_within_one_batch():
    made = Driver(Side.SERVER)
    some: list[Frame] = []
    for number in range(1, 3 * MAX_UNACKNOWLEDGED):
        some += (frames.open_frame(number, "x", [], 0), frames.close_frame(number, 1000))
    with pytest.raises(TunnelError, match="nothing is acknowledged"):
        made.come(*some)
    assert len(made.events()) <= 2 * MAX_UNACKNOWLEDGED + 2


def test_what_is_long_counts_for_several():
    made = Driver(Side.SERVER)
    name = "x" * 8192
    for number in range(1, MAX_UNACKNOWLEDGED):
        made.come(frames.open_frame(number, "x", [name], 0))
        made.tunnel.accept(number, name)
        with suppress(TunnelError):
            made.come(frames.close_frame(number, 1000))
        if made.tunnel.closed:
            break
    assert made.tunnel.closed
    assert made.tunnel.kept_bytes < 1.1 * MAX_UNACKNOWLEDGED * 256


ENDLESS = 2**62
FULL = INITIAL_TUNNEL_CREDIT  # the least there is of what is kept


def generous() -> Driver:
    """A server whose client grants whatever is asked for, and acknowledges nothing by itself."""
    made = server(credit=ENDLESS, max_kept=FULL)
    made.come(frames.ack_frame(0, ENDLESS))
    return made


def test_no_more_is_kept_than_there_is_room_for_whatever_is_granted():
    made = generous()
    message = bytes(INITIAL_TUNNEL_CREDIT // 2 - HEADER_SIZE - BLOCK_COST)
    sent = [made.tunnel.send(1, message) for _ in range(20)]
    assert sent == 2 * [True] + 18 * [False]
    assert made.tunnel.unsent(1) == 18 * len(message)
    assert made.tunnel.send_small(1, [b""]) == 0
    assert sum(len(frame.payload) for frame in made.gone()) == 2 * len(message)
    assert made.tunnel.kept_bytes <= FULL
    made.tunnel.detach()
    made.tunnel.attach(1)  # the next carrier says it too
    assert made.tunnel.unsent(1) == 18 * len(message)


def test_what_is_acknowledged_makes_room():
    made = generous()
    message = bytes(INITIAL_TUNNEL_CREDIT // 2 - HEADER_SIZE - BLOCK_COST)
    for _ in range(3):
        made.tunnel.send(1, message)
    made.gone()
    assert made.events() == []
    made.come(frames.ack_frame(2, 0))
    assert made.gone() == [Frame(Kind.DATA, 1, message, FIN)]
    assert made.events() == [Drained(1)]
    made.come(frames.ack_frame(3, 0))
    assert made.tunnel.send_small(1, 3 * [message]) == 1, "as much as is left"


def test_a_next_carrier_that_has_it_makes_room():
    made = generous()
    made.tunnel.send(1, bytes(FULL))
    made.gone()
    made.tunnel.detach()
    made.tunnel.attach(made.tunnel._numbered)
    assert [frame.kind for frame in made.gone()][-1] is Kind.DATA
    assert made.events() == [Drained(1)]


def test_small_messages_are_kept_for_what_they_take():
    made = generous()
    tracemalloc.start()
    try:
        while made.tunnel.send(1, b""):
            pass
        assert FULL / 2 < tracemalloc.get_traced_memory()[0] < 1.3 * FULL
    finally:
        tracemalloc.stop()


def test_what_waits_for_the_tunnel_is_looked_at_once(monkeypatch):
    made = Driver(Side.SERVER)
    count = 200
    made.come(*(frames.open_frame(n, "x", [], ENDLESS) for n in range(1, count + 1)))
    for number in range(1, count + 1):
        made.tunnel.accept(number)
        made.tunnel.send(number, bytes(INITIAL_TUNNEL_CREDIT))
    left = Mock(wraps=made.tunnel._left)
    monkeypatch.setattr(made.tunnel, "_left", left)
    made.come(frames.credit_frame(1, 0))
    assert left.call_count == 1


def test_of_streams_that_waited_and_are_gone_nothing_is_left():
    made = Driver(Side.SERVER)
    for number in range(1, 100):
        made.come(frames.open_frame(number, "x", [], ENDLESS))
        made.tunnel.accept(number)
        made.tunnel.send(number, bytes(INITIAL_TUNNEL_CREDIT))
        made.come(frames.close_frame(number, 1000))
    assert not made.tunnel._ready
    assert made.tunnel.streams == 0


def test_what_ends_need_not_wait_for_the_tunnel():
    made = server(credit=ENDLESS)
    made.come(frames.open_frame(2, "x", [], ENDLESS))
    made.tunnel.accept(2)
    made.tunnel.send(1, bytes(2 * INITIAL_TUNNEL_CREDIT))
    made.gone()
    made.tunnel.end(2)
    made.tunnel.close(2, 1000)
    assert [(frame.kind, frame.stream) for frame in made.gone()] == [
        (Kind.END, 2),
        (Kind.CLOSE, 2),
    ]


def test_what_is_acknowledged_is_not_kept():
    made = server(credit=10**6)
    for _ in range(3):
        made.tunnel.send_small(1, [b"x", b"y"])
    made.gone()
    together = 2 * (HEADER_SIZE + 1)
    made.come(frames.ack_frame(2, 0))  # of what went together the first
    assert made.tunnel.kept_bytes == 3 * together
    made.come(frames.ack_frame(1, 0))  # late
    made.come(frames.ack_frame(3, 0))
    assert made.tunnel.kept_bytes == 2 * together
    made.come(frames.ack_frame(7, 0))
    assert made.tunnel.kept_bytes == 0


def test_what_is_kept_of_a_stream_is_known():
    made = server()
    made.come(frames.open_frame(3, "y", [], WINDOW))
    made.tunnel.accept(3)
    before = made.tunnel.numbered
    assert made.tunnel.send_small(1, [b"a", b"b", b"c"]) == 3
    made.tunnel.send(3, b"else")
    made.tunnel.send(1, b"d", text=True)
    assert made.tunnel.numbered == before + 5
    expected = [
        (before + 1, Frame(Kind.DATA, 1, b"a", FIN)),
        (before + 2, Frame(Kind.DATA, 1, b"b", FIN)),
        (before + 3, Frame(Kind.DATA, 1, b"c", FIN)),
        (before + 5, Frame(Kind.DATA, 1, b"d", FIN | TEXT)),
    ]
    assert list(made.tunnel.kept(1)) == expected
    made.gone()
    made.come(frames.ack_frame(before + 2, 10**6))  # some of those that went together
    assert made.tunnel.acknowledged == before + 2
    assert list(made.tunnel.kept(1)) == expected[2:]
    made.tunnel.close_tunnel()
    assert list(made.tunnel.kept(1)) == expected[2:]
    assert list(made.tunnel.kept(2)) == []


def test_acknowledgements_go_along_or_when_much_came():
    made = server()
    made.come(DATA)
    wanted = [made.tunnel.wants_ack]
    assert made.gone() == []
    made.tunnel.send(1, b"x")
    assert [frame.kind for frame in made.gone()] == [Kind.ACK, Kind.DATA]
    wanted.append(made.tunnel.wants_ack)
    assert wanted == [True, False]
    made.come(DATA)
    assert [frame.kind for frame in made.gone(ack=True)] == [Kind.ACK]
    assert made.gone(ack=True) == []
    for _ in range(ACK_EVERY_FRAMES):
        made.come(Frame(Kind.DATA, 1, b"", FIN))
    assert Kind.ACK in made.kinds()


def test_a_sign_of_life():
    made = server()
    assert made.gone(ack=True) == []
    made.tunnel.beat()
    assert made.tunnel.has_more
    assert [frame.kind for frame in made.gone()] == [Kind.ACK]
    assert made.gone(ack=True) == []


def test_whether_there_is_something_to_take():
    made = server()
    told = [made.tunnel.has_more]
    for does in (
        lambda: made.come(DATA),
        lambda: made.tunnel.send(1, b"x"),
        lambda: made.gone() and None,
        lambda: made.come(Frame(Kind.DATA, 1, bytes(WINDOW // 2), FIN)),
        lambda: made.tunnel.consumed(1, WINDOW // 2),
        lambda: made.gone() and None,
        lambda: made.tunnel.send(1, b"x"),
        made.tunnel.detach,
    ):
        does()
        told.append(made.tunnel.has_more)
    assert told == [False, False, True, False, False, True, False, True, False]


def test_much_data_is_acknowledged_before_the_window_is_half_full():
    made = client(tunnel_window=100 * ACK_EVERY, stream_window=100 * ACK_EVERY)
    piece = Frame(Kind.DATA, 1, bytes(ACK_EVERY // 4 - HEADER_SIZE), FIN)
    told = []
    for _ in range(9):
        made.come(piece)
        told.append(made.kinds())
    assert told == 4 * [[]] + [[Kind.ACK]] + 4 * [[]]


def test_a_credit_that_was_told_before_it_opened_counts():
    made = client(opened=False)
    made.come(frames.credit_frame(1, 100), frames.opened_frame(1, None, 0))
    assert made.tunnel.send(1, b"x")


# -- resumption --------------------------------------------------------------------------------------


def test_C7_6_the_next_carrier_goes_on_where_the_last_one_broke():
    made = server(credit=10**6)
    made.tunnel.send(1, b"a")
    made.tunnel.send_small(1, [b"b", b"c"])
    assert len(made.gone()) == 3
    carried = [made.tunnel.attached]
    made.tunnel.detach()
    carried.append(made.tunnel.attached)
    assert carried == [True, False]
    made.tunnel.send(1, b"d")
    made.tunnel.attach(3)  # of what goes together the first came
    batch = made.tunnel.take()
    assert batch is not None
    first, data = batch
    told = [frame.payload for frame in frames.decode(data) if frame.kind is Kind.DATA]
    assert (first, told) == (3, [b"b", b"c", b"d"])


@pytest.mark.parametrize("received", [0, 3])
def test_C7_6_what_cannot_be_resumed(received):
    made = server()
    made.come(frames.ack_frame(1, 10**6))
    made.tunnel.detach()
    made.tunnel.send(1, b"x")
    made.tunnel.send(1, b"y")
    with pytest.raises(ResumeError) as raised:
        made.tunnel.attach(received)
    assert raised.value.slug == "resume_failed"
    assert not made.tunnel.closed
    made.tunnel.attach(1)


def test_a_client_learns_that_too():
    made = client()
    made.tunnel.detach()
    with pytest.raises(ResumeError):
        made.come(frames.hello_frame({"received": 5}))
    assert made.tunnel.closed


def test_as_much_as_fits_and_one_block_at_least():
    made = server(credit=10**6)
    for _ in range(4):
        made.tunnel.send(1, bytes(100))
    sizes = []
    while (batch := made.tunnel.take(250)) is not None:
        sizes.append(len(batch[1]))
    assert sizes == [220, 220]
    made.tunnel.send(1, bytes(1000))
    batch = made.tunnel.take(1)
    assert batch is not None
    assert len(batch[1]) == 1010
