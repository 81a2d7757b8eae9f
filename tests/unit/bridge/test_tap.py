"""What the activity watcher hears."""

from __future__ import annotations

import logging
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from jupyter_token_ws.bridge.tap import INTERVAL, Tap
from jupyter_token_ws.bridge.wire import Message, from_zmq
from jupyter_token_ws.protocol.kernel_messages import pack_json

SESSION = Session(key=b"secret")


def message(kind: str, parent: str = "execute_request", state: str = "busy") -> Message:
    made = SESSION.msg(kind, {"execution_state": state}, parent=SESSION.msg(parent))
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


def test_the_last_status_and_one_of_all_else():
    tap, heard, _ = tapped()
    tap.feed([message("status"), message("stream"), message("stream"), message("status")], 5.0)
    assert heard == ["stream", "status"]
    tap.feed([message("stream"), message("display_data")], 5.0 + INTERVAL / 2)
    assert heard[2:] == ["display_data"]
    tap.feed([message("stream")], 5.0 + INTERVAL)
    tap.feed([message("status")], 5.0 + INTERVAL)
    assert heard[3:] == ["stream", "status"]


STATES = ("busy", "idle", "starting")
STATUSES = [("", "starting")]  # nobody asked it to
STATUSES += [
    (parent, state)
    for parent in ("execute_request", "kernel_info_request", "")
    for state in STATES[:2]
]


@given(st.lists(st.lists(st.sampled_from(STATUSES), max_size=6)), st.sampled_from(STATES))
def test_upstream_knows_the_same_state_as_if_it_had_heard_everything(batches, at_first):
    manager = AsyncMappingKernelManager()
    states = []
    for whole in (True, False):
        kernel = SimpleNamespace(execution_state=at_first, session=SESSION)
        manager._kernels["kernel"] = kernel
        tap = Tap(lambda tap: None, logging.getLogger("tap"))
        kernel.connect_iopub = lambda tap=tap: tap
        SESSION.digest_history.clear()
        manager.start_watching_activity("kernel")
        kernel.execution_state = at_first
        for batch in batches:
            messages = [message("status", parent, state) for parent, state in batch]
            for part in [[each] for each in messages] if whole else [messages]:
                tap.feed(part, 0)
        states.append(kernel.execution_state)
    assert states[0] == states[1]


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
    tap.feed([message("status"), message("stream")], 0)
    assert heard == ["status"]


def test_what_the_watcher_raises_is_told_once(caplog):
    tap, _, _ = tapped()
    calls = []

    def fail(raw: list[bytes]) -> None:
        calls.append(raw)
        raise AttributeError("bytes have no get")

    tap.on_recv(fail)
    tap.feed([message("status"), message("stream")], 0)
    assert len(calls) == 2
    (told,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "<iopub status" in told.getMessage()
