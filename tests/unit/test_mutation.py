"""The verdict on a mutation run; the run itself is mutmut's."""

from __future__ import annotations

import pytest

from tools.mutation import share_killed

STATS = dict.fromkeys(
    ["killed", "survived", "no_tests", "skipped", "timeout", "segfault", "total"], 0
)


def test_survivors_and_what_no_test_reaches_count_against():
    stats = STATS | {
        "killed": 6,
        "timeout": 1,
        "segfault": 1,
        "survived": 1,
        "no_tests": 1,
        "total": 10,
    }
    assert share_killed(stats) == 80


def test_skipped_changes_do_not_count():
    assert share_killed(STATS | {"killed": 9, "survived": 1, "skipped": 10, "total": 20}) == 90


def test_run_that_changed_nothing_is_no_success():
    with pytest.raises(ValueError, match="nothing was changed"):
        share_killed(STATS)
