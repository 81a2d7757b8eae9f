"""Waiting for something to become true, with a deadline. Tests never sleep for a time that is hoped
to be long enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

DEADLINE = 60.0
"""Seconds after which something that has not happened will not happen."""

_STEP = 0.01

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "", deadline: float = DEADLINE) -> T:
    """Ask until the answer is true and return it; fail after ``deadline`` seconds.

    ``what`` says in the failure what was waited for. For tests that watch another process: it holds
    up the loop of this one.
    """
    end = time.monotonic() + deadline
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what or condition!r}")
        time.sleep(_STEP)
    return answer


async def auntil(condition: Callable[[], T], what: str = "", deadline: float = DEADLINE) -> T:
    """The same beside whatever else runs in this process's loop."""
    end = time.monotonic() + deadline
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what or condition!r}")
        await asyncio.sleep(_STEP)
    return answer


async def given_back(process: psutil.Process, before: int) -> None:
    """Wait until a process has no more descriptors than ``before``; a failure says what it has."""
    try:
        await auntil(lambda: process.num_fds() <= before)
    except AssertionError:
        has = [*process.net_connections(), *process.open_files()]
        raise AssertionError(
            f"{process.num_fds()} descriptors, {before} before; it has {has}"
        ) from None


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that another process writes; one that is being written is not there yet."""
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
