"""Outputs of a cell are put together as a notebook does it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.client.errors import TooLargeError
from jupyter_token_ws.client.outputs import Outputs
from jupyter_token_ws.protocol.kernel_messages import KernelMessage


def outputs_of(*messages, limit=1000):
    outputs = Outputs(limit)
    for kind, content in messages:
        outputs.feed(KernelMessage("iopub", {"msg_type": kind}, content=content, size=100))
    return outputs.all()


def stream(text, name="stdout"):
    return "stream", {"name": name, "text": text}


def shown(text, display_id=None, kind="display_data"):
    transient = {} if display_id is None else {"display_id": display_id}
    return kind, {"data": {"text/plain": text}, "metadata": {"m": 1}, "transient": transient}


def texts(outputs):
    return [o["text"] if "text" in o else o["data"]["text/plain"] for o in outputs]


def test_neighbours_of_one_stream_are_one():
    assert texts(outputs_of(stream("a"), stream("b"), stream("c", "stderr"), stream("d"))) == [
        "ab",
        "c",
        "d",
    ]
    assert texts(outputs_of(stream("a"), shown("x"), stream("b"))) == ["a", "x", "b"]


def test_they_may_be_asked_for_again_and_again():
    outputs = Outputs(1000)
    for letter in "abc":
        kind, content = stream(letter)
        outputs.feed(KernelMessage("iopub", {"msg_type": kind}, content=content))
        assert outputs.all()[0]["text"].endswith(letter)
    assert texts(outputs.all()) == ["abc"]


def test_what_is_shown_may_change():
    outputs = outputs_of(
        shown("a", "1"),
        shown("b"),
        shown("c", "1"),
        shown("new", "1", "update_display_data"),
        shown("nobody's", "2", "update_display_data"),
        shown("nobody's", None, "update_display_data"),
    )
    assert texts(outputs) == ["new", "b", "new"]
    assert outputs[0] == {
        "output_type": "display_data",
        "data": {"text/plain": "new"},
        "metadata": {"m": 1},
    }


def eagerly(messages):
    """What all texts would be if each update were made at once."""
    displays: list[list[str | None]] = []
    for kind, content in messages:
        text, transient = content["data"]["text/plain"], content["transient"].get("display_id")
        if kind == "display_data":
            displays.append([transient, text])
        else:
            displays = [[i, text] if i == transient else [i, t] for i, t in displays]
    return [text for _, text in displays]


@given(
    st.lists(
        st.builds(
            shown,
            st.integers(0, 99).map(str),
            st.sampled_from("12"),
            st.sampled_from(["display_data", "update_display_data"]),
        )
    )
)
def test_only_what_was_shown_before_changes(messages):
    assert texts(outputs_of(*messages, limit=10**6)) == eagerly(messages)


def test_a_bar_may_move_as_often_as_it_likes():
    moves = [shown(str(number), "1", "update_display_data") for number in range(1000)]
    assert texts(outputs_of(shown("a", "1"), *moves, limit=250)) == ["999"]


def test_updates_of_other_cells_are_not_kept():
    moves = [shown("x", str(number), "update_display_data") for number in range(1000)]
    assert texts(outputs_of(shown("a", "a"), *moves, limit=250)) == ["a"]


def test_what_is_shown_may_be_cleared():
    assert texts(outputs_of(stream("a"), ("clear_output", {}), stream("b"))) == ["b"]
    wait = ("clear_output", {"wait": True})
    assert texts(outputs_of(stream("a"), wait)) == ["a"]
    assert texts(outputs_of(stream("a"), wait, stream("b"))) == ["b"]
    assert texts(
        outputs_of(shown("a", "1"), wait, shown("b"), shown("c", "1", "update_display_data"))
    ) == ["b"]


def test_an_error_that_lacks_something():
    assert outputs_of(("error", {"ename": "E"}), ("status", {})) == [
        {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
    ]


def test_more_than_is_kept():
    with pytest.raises(TooLargeError, match="more than 250 bytes"):
        outputs_of(stream("a"), stream("b"), shown("c"), limit=250)
    with pytest.raises(TooLargeError, match="more than 150 bytes"):
        outputs_of(shown("a", "1"), shown("b", "1", "update_display_data"), limit=150)
    assert texts(outputs_of(stream("a"), ("clear_output", {}), stream("b"), limit=150)) == ["b"]
