"""The verdict on a mutation run; the run itself is mutmut's."""

from __future__ import annotations

import pytest

from tools.mutation import MISSED, NOTICED, share_noticed

NOTHING = dict.fromkeys([*NOTICED, *MISSED, "skipped", "total"], 0)


def test_survivors_and_what_no_test_reaches_count_against():
    stats = {"killed": 6, "timeout": 1, "segfault": 1, "survived": 1, "no_tests": 1, "total": 10}
    assert share_noticed(NOTHING | stats) == 80


def test_skipped_changes_do_not_count():
    stats = {"killed": 9, "survived": 1, "skipped": 10, "total": 20}
    assert share_noticed(NOTHING | stats) == 90


def test_run_that_changed_nothing_is_no_success():
    with pytest.raises(ValueError, match="nothing was changed"):
        share_noticed(NOTHING)


def test_unfinished_run_is_no_success_unless_part_was_asked_for():
    stats = NOTHING | {"killed": 9, "survived": 1, "total": 11}
    with pytest.raises(ValueError, match="1 changes were not tried"):
        share_noticed(stats)
    assert share_noticed(stats, all_tried=False) == 90
