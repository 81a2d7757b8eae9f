"""What the activity watcher hears."""

from __future__ import annotations

import logging

from jupyter_client.session import Session

from jupyter_token_ws.bridge.tap import INTERVAL, Tap
from jupyter_token_ws.bridge.wire import Message, from_zmq, pack_json

SESSION = Session(key=b"secret")


def message(kind: str, parent: str = "execute_request") -> Message:
    made = SESSION.msg(kind, {"execution_state": "busy"}, parent=SESSION.msg(parent))
    return from_zmq("iopub", SESSION.serialize(made, ident=b"topic"))


def tapped() -> tuple[Tap, list[str], list[Tap]]:
    heard: list[str] = []
    closed: list[Tap] = []
    tap = Tap(closed.append, logging.getLogger("tap"))

    def receive(raw: list[bytes]) -> None:
        _, parts = SESSION.feed_identities(raw)
        heard.append(SESSION.deserialize(parts)["header"]["msg_type"])

    tap.on_recv(receive)
    return tap, heard, closed


def test_every_status_and_one_of_all_else():
    tap, heard, _ = tapped()
    tap.feed([message("status"), message("stream"), message("stream"), message("status")], 5.0)
    assert heard == ["status", "stream", "status"]
    tap.feed([message("stream"), message("display_data")], 5.0 + INTERVAL / 2)
    assert heard[3:] == ["display_data"]
    tap.feed([message("stream")], 5.0 + INTERVAL)
    assert heard[4:] == ["stream"]


def test_by_type_of_the_parent_too():
    tap, heard, _ = tapped()
    tap.feed([message("stream"), message("stream", "kernel_info_request"), message("stream")], 0)
    assert heard == ["stream", "stream"]


def test_what_is_remembered_is_bounded():
    tap, heard, _ = tapped()
    for number in range(2500):
        header = pack_json({"msg_type": str(number)})
        tap._receive = None
        tap.feed([Message("iopub", [header, b"{}", b"{}", b"{}"])], 0)
    assert len(tap._passed) <= 1001
    assert heard == []


def test_closed_it_says_so_and_nothing_else():
    tap, heard, closed = tapped()
    assert [tap.closed(), tap.socket.closed] == [False, False]
    tap.close()
    tap.close()
    assert [tap.closed(), tap.socket.closed] == [True, True]
    assert closed == [tap]
    tap.feed([message("status")], 0)
    assert heard == []


def test_closed_while_it_is_told():
    tap, heard, _ = tapped()
    heard_by_stock = tap._receive

    def once(raw: list[bytes]) -> None:
        assert heard_by_stock is not None
        heard_by_stock(raw)
        tap.close()

    tap.on_recv(once)
    tap.feed([message("status"), message("status")], 0)
    assert heard == ["status"]


def test_what_the_watcher_raises_is_told_once(caplog):
    tap, _, _ = tapped()
    calls = []

    def fail(raw: list[bytes]) -> None:
        calls.append(raw)
        raise AttributeError("bytes have no get")

    tap.on_recv(fail)
    tap.feed([message("status"), message("status")], 0)
    assert len(calls) == 2
    (told,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "<iopub status" in told.getMessage()
