"""Whose a reply is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.bridge import routing
from jupyter_token_ws.bridge.routing import Routes, names_parent
from jupyter_token_ws.bridge.wire import Message
from jupyter_token_ws.protocol.kernel_messages import pack_json


def message(
    kind: object, msg_id: object = "1", session: object = "s", parent: object = None
) -> Message:
    header = {"msg_id": msg_id, "msg_type": kind, "session": session}
    return Message("shell", [pack_json(header), pack_json(parent or {}), b"{}", b"{}"])


def reply(kind: str, msg_id: object = None, session: object = None) -> Message:
    return message(kind, "r", "kernel", {"msg_id": msg_id, "session": session})


@pytest.fixture
def routes() -> Routes[str]:
    made: Routes[str] = Routes()
    for name in ("ann", "bob"):
        made.add(name)
        made.sent(name, message("execute_request", f"{name}-1", name))
    return made


def test_reply_goes_to_who_asked(routes):
    assert routes.find(reply("execute_reply", "bob-1")) == "bob"
    assert routes.find(reply("execute_reply", "ann-1")) == "ann"
    # Each was answered.
    assert routes.find(reply("execute_reply", "ann-1")) is None


def test_question_goes_to_who_asked_and_the_reply_after_it(routes):
    for _ in range(2):
        assert routes.find(reply("input_request", "ann-1", "elsewhere")) == "ann"
    assert routes.find(reply("execute_reply", "ann-1", "elsewhere")) == "ann"


def test_by_session_where_the_request_is_not_known(routes):
    assert routes.find(reply("comm_info_reply", "unknown", "bob")) == "bob"
    assert routes.find(reply("comm_info_reply", "unknown", "nobody")) is None
    assert routes.find(reply("comm_info_reply", 5, ["bob"])) is None


def test_same_session_told_apart_by_request(routes):
    routes.sent("ann", message("execute_request", "a", "same"))
    routes.sent("bob", message("execute_request", "b", "same"))
    assert routes.find(reply("execute_reply", "a", "same")) == "ann"
    assert routes.find(reply("execute_reply", "b", "same")) == "bob"


def test_numbers_that_two_clients_count_with_are_told_apart(routes):
    for name in ("ann", "bob"):
        routes.sent(name, message("execute_request", "1", f"session of {name}"))
    assert routes.find(reply("input_request", "1", "session of ann")) == "ann"
    assert routes.find(reply("execute_reply", "1", "session of bob")) == "bob"
    assert routes.find(reply("execute_reply", "1", "session of ann")) == "ann"


def test_of_two_that_the_kernel_does_not_tell_apart_nobody_is_chosen(routes):
    for name in ("ann", "bob"):
        routes.sent(name, message("execute_request", "1", name))
    assert routes.find(reply("execute_reply", "1")) is None


def test_nobody_takes_another_s_replies_by_its_names(routes):
    """Everybody hears them on iopub."""
    routes.sent("bob", message("execute_request", "ann-1", "ann"))
    routes.sent("bob", message("comm_msg", "c", "ann"))
    assert routes.find(reply("comm_info_reply", "unknown", "ann")) == "ann"
    assert routes.find(reply("execute_reply", "ann-1", "ann")) == "ann"
    # Of who is gone nobody waits for it.
    routes.sent("ann", message("execute_request", "ann-2", "ann"))
    routes.forget("ann")
    routes.sent("bob", message("execute_request", "ann-2", "ann"))
    assert routes.find(reply("execute_reply", "ann-2", "ann")) == "bob"


def test_what_has_no_reply_is_not_remembered(routes):
    for kind in ("comm_msg", "input_reply", None):
        routes.sent("ann", message(kind, "c", "x"))
    assert routes.find(reply("input_request", "c")) is None
    assert routes.find(reply("input_request", "c", "x")) == "ann"


def test_who_is_gone_gets_nothing(routes):
    routes.forget("ann")
    assert len(routes) == 1
    assert routes.find(reply("execute_reply", "ann-1", "ann")) is None
    routes.forget("ann")


def test_session_of_who_is_gone_may_be_another_s_by_now(routes):
    routes.sent("bob", message("comm_msg", "c", "ann"))
    routes.forget("ann")
    assert routes.find(reply("comm_info_reply", "unknown", "ann")) == "bob"
    routes.forget("bob")
    assert not routes._sessions


def test_nonsense_is_taken(routes):
    routes.sent("ann", Message("shell", [b"nonsense", b"", b"", b""]))
    routes.sent("ann", message("x_request", None, None))
    assert routes.find(Message("shell", [b"", b"5", b"", b""])) is None


def test_without_parent_the_longest_waiting_gets_it(routes):
    routes.sent("bob", message("execute_request", "bob-2", "bob"))
    routes.sent("bob", message("kernel_info_request", "bob-3", "bob"))
    parentless = message("execute_reply")
    assert routes.find(message("kernel_info_reply")) == "bob"
    assert [routes.find(parentless) for _ in range(4)] == ["ann", "bob", "bob", None]
    routes.forget("ann")
    assert routes.find(parentless) == "bob"


def test_without_parent_who_is_gone_is_passed_over(routes):
    routes.forget("ann")
    assert routes.find(message("execute_reply")) == "bob"


def test_requests_are_bounded(monkeypatch):
    monkeypatch.setattr(routing, "REQUESTS_MAX", 3)
    routes: Routes[str] = Routes()
    routes.add("ann")
    for number in range(5):
        routes.sent("ann", message("execute_request", str(number), None))
    found = [routes.find(reply("execute_reply", str(number))) for number in range(5)]
    assert found == [None, None, "ann", "ann", "ann"]


def test_sessions_of_a_client_are_bounded(routes):
    for number in range(10 * routing.SESSIONS_MAX):
        routes.sent("ann", message("comm_msg", "c", f"invented {number}"))
        routes.sent("ann", message("comm_msg", "c", "ann"))
    assert len(routes._sessions) == routing.SESSIONS_MAX + 1  # and bob's
    # Those that it used last are its own still, and nobody else lost one.
    last = f"invented {10 * routing.SESSIONS_MAX - 1}"
    assert routes.find(reply("comm_info_reply", "unknown", last)) == "ann"
    assert routes.find(reply("comm_info_reply", "unknown", "ann")) == "ann"
    assert routes.find(reply("comm_info_reply", "unknown", "bob")) == "bob"
    assert routes.find(reply("comm_info_reply", "unknown", "invented 0")) is None


def test_who_invents_sessions_takes_nobody_else_s(routes):
    for number in range(2 * routing.SESSIONS_MAX):
        routes.sent("bob", message("comm_msg", "c", "ann"))
        routes.sent("bob", message("comm_msg", "c", f"invented {number}"))
        assert routes.find(reply("comm_info_reply", "unknown", "ann")) == "ann"
    # What its first user gave up by inventing others belongs to who uses it still.
    for number in range(routing.SESSIONS_MAX):
        routes.sent("ann", message("comm_msg", "c", f"another {number}"))
    assert routes.find(reply("comm_info_reply", "unknown", "ann")) == "bob"


def test_names_of_any_length_are_not_remembered(routes):
    long = "x" * (routing.NAME_MAX + 1)
    routes.sent("ann", message("execute_request", long, long))
    routes.sent("ann", message(f"{long}_request", "1", "ann"))
    assert routes.find(reply("execute_reply", long, long)) is None
    assert [key for key in routes._requests if len("".join(key)) > routing.NAME_MAX] == []
    # Its session tells whose it is.
    assert routes.find(reply(f"{long}_reply", "1", "ann")) == "ann"
    routes.sent("ann", message("execute_request", long[1:], long[1:]))
    assert routes.find(reply("execute_reply", long[1:], long[1:])) == "ann"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_each_gets_its_own(program):
    routes: Routes[str] = Routes()
    for client in "abc":
        routes.add(client)
    waiting = []
    for number, (client, answer) in enumerate(program):
        routes.sent(client, message("execute_request", str(number), "all the same"))
        waiting.append((str(number), client))
        if answer:
            msg_id, expected = waiting.pop(number % len(waiting))
            assert routes.find(reply("execute_reply", msg_id, "all the same")) == expected


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (b'{"msg_id": "1"}', True),
        (b'{"msg_id": "2"}', False),
        (b"{}", False),
        (b"[]", False),
        (b"", False),
    ],
)
def test_whether_a_parent_is_named(parent, expected):
    assert names_parent(Message("shell", [b"{}", parent, b"{}", b"{}"]), "1") is expected
