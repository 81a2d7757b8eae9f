"""Requests in their turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.bridge.inlet import HIGH, LOW, WINDOW, Inlet


class Zmq:
    """Takes what it is told to take."""

    def __init__(self) -> None:
        self.held: list[list[bytes]] = []
        self.low: list[str] = []
        self.inlet: Inlet[str] = Inlet(self.held.append, self.low.append)
        self.took: list[bytes] = []

    def take(self, count: int = 1) -> None:
        for _ in range(count):
            self.took.append(self.held.pop(0)[0])
            self.inlet.taken()


def test_at_once_while_there_is_room():
    zmq = Zmq()
    for number in range(WINDOW):
        assert zmq.inlet.put("ann", [b"%d" % number])
    assert len(zmq.held) == WINDOW
    zmq.inlet.put("ann", [b"later"])
    assert len(zmq.held) == WINDOW
    assert zmq.inlet.waiting("ann") == 5
    zmq.take()
    assert zmq.held[-1] == [b"later"]
    assert zmq.inlet.waiting("ann") == 0


def test_nobody_waits_behind_another_s_thousand():
    zmq = Zmq()
    for number in range(1000):
        zmq.inlet.put("ann", [b"ann %d" % number])
    zmq.inlet.put("bob", [b"bob"])
    zmq.take(WINDOW + 3)
    assert zmq.took[-3:].count(b"bob") == 1


def test_who_has_much_waiting_is_told_to_stop_and_to_go_on():
    zmq = Zmq()
    large = [bytes(HIGH // 4)]
    for _ in range(WINDOW):
        zmq.inlet.put("bob", [b"x"])
    assert [zmq.inlet.put("ann", large) for _ in range(6)] == [True] * 4 + [False] * 2
    assert zmq.inlet.put("bob", [b"y"])
    assert zmq.low == []
    while zmq.inlet.waiting("ann") > LOW + HIGH // 4:
        zmq.take()
    assert zmq.low == []
    while zmq.held:
        zmq.take()
    assert zmq.low == ["ann"]
    assert len(zmq.took) == WINDOW + 7


def test_clear_lets_everybody_go_on():
    zmq = Zmq()
    for _ in range(WINDOW + 2):
        zmq.inlet.put("ann", [bytes(HIGH)])
    zmq.inlet.clear()
    assert zmq.low == ["ann"]
    assert zmq.inlet.waiting("ann") == 0
    assert zmq.inlet.put("ann", [b"x"])
    assert zmq.held[-1] == [b"x"]


@given(st.lists(st.sampled_from(["ann", "bob", "take"]), max_size=200))
def test_each_one_s_messages_go_out_in_order(program):
    zmq = Zmq()
    sent: dict[str, list[bytes]] = {"ann": [], "bob": []}
    for step in program:
        if step == "take":
            zmq.take(min(3, len(zmq.held)))
        else:
            raw = f"{step} {len(sent[step])}".encode()
            sent[step].append(raw)
            zmq.inlet.put(step, [raw])
            assert len(zmq.held) <= WINDOW
    while zmq.held:
        zmq.take()
    for name, messages in sent.items():
        assert [raw for raw in zmq.took if raw.startswith(name.encode())] == messages


def test_held_until_released():
    zmq = Zmq()
    zmq.inlet.hold()
    for number in range(WINDOW + 2):
        zmq.inlet.put("ann", [b"%d" % number])
    assert zmq.held == []
    zmq.inlet.put_first([b"own"])
    zmq.take()
    assert zmq.held == []
    zmq.inlet.release()
    assert len(zmq.held) == WINDOW
    zmq.take(WINDOW)
    zmq.take(2)
    assert zmq.took == [b"own", *(b"%d" % number for number in range(WINDOW + 2))]


def test_what_waits_moves_to_another_socket():
    before, after = Zmq(), Zmq()
    after.inlet = Inlet(after.held.append, before.low.append)
    before.inlet.hold()
    before.inlet.put("ann", [b"first"])
    assert not before.inlet.put("ann", [bytes(HIGH)])
    after.inlet.take_over(before.inlet)
    before.inlet.clear()
    assert before.held + after.held == []
    assert not before.low
    assert not after.inlet.put("ann", [b"last"])
    after.inlet.release()
    assert after.held == [[b"first"], [bytes(HIGH)], [b"last"]]
    assert before.low == ["ann"]
