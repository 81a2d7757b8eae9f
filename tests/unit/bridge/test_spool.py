"""The temporary files of a backlog."""

from __future__ import annotations

import os
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.bridge import spool as module
from jupyter_token_ws.bridge.spool import FileSpool


@given(st.lists(st.binary(max_size=50) | st.none(), max_size=40))
def test_first_in_first_out(steps):
    spool, expected = FileSpool(), []
    for step in steps:
        if step is not None:
            spool.append([step])
            expected.append(step)
        elif expected:
            assert spool.take() == expected.pop(0)
    for chunk in expected:
        assert spool.take() == chunk
    with pytest.raises(IndexError):
        spool.take()
    spool.close()


def test_what_was_read_is_given_back_to_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 100)
    spool = FileSpool(str(tmp_path))
    for number in range(20):
        spool.append([bytes([number]) * 40])
    assert len(spool._segments) == 7
    files = [segment.file for segment in spool._segments]
    assert [spool.take()[0] for _ in range(4)] == [0, 1, 2, 3]
    assert [file.closed for file in files] == [True] + [False] * 6
    spool.close()
    assert all(file.closed for file in files)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be unlinked there")
def test_nobody_else_can_open_it(tmp_path):
    spool = FileSpool(str(tmp_path))
    spool.append([b"sec", b"ret"])
    assert list(tmp_path.iterdir()) == []
    status = os.fstat(spool._segments[0].file.fileno())
    assert stat.S_IMODE(status.st_mode) & 0o077 == 0
    spool.close()


def test_no_directory():
    with pytest.raises(OSError, match="No such file"):
        FileSpool("/nonexistent").append([b"x"])


def test_a_file_that_was_cut_short_is_noticed():
    spool = FileSpool()
    spool.append([b"12345"])
    spool._segments[0].file.truncate(2)
    with pytest.raises(OSError, match="3 bytes too early"):
        spool.take()
    spool.close()
