"""Our Python client beside jupyter_kernel_client, both at one server and one running kernel.

Each is a process of its own, which has imported what it needs before anything is measured. Theirs has an
environment of its own, `build/compare`, of `requirements/compare.txt`; it is not changed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.pairs import Options
from benchmarks.stats import LEAST_PAIRS, Comparison
from tools.bootstrap import ROOT, Environment
from tools.labextension import digest

PINS = ROOT / "requirements" / "compare.txt"
PEER = Path(__file__).with_name("peer.py")
WARM_UP = 2

THEIRS = "jupyter_kernel_client"
OURS = ("sync", "asyncio")

NO_SLOWER = 1.05
"""What the upper end of a ratio's interval must not pass. Of two equally fast ones it is above 1."""

TASKS: dict[str, Sequence[tuple[str, str, float | None]]] = {
    "connect": (
        ("connect returns", "ms", None),
        ("connect until the kernel has answered a cell", "ms", NO_SLOWER),
    ),
    "trip": (("execute round trip", "ms", NO_SLOWER),),
    "cells": (("50 cells, one after the other", "ms", None),),
    "bulk": (("10 MB of output", "ms", None),),
}
"""Figures of a task: name, unit, and what is to be reached."""


class Peer:
    """A running ``peer.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, task: str) -> list[float]:
        """Milliseconds. Raises ``RuntimeError`` where it ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the client has no pipes")
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client ended with {self._process.wait()}, see above")
        taken: list[float] = json.loads(line)
        return taken


def environment() -> Path:
    """Make the environment of theirs where it is not current; return its interpreter."""
    made = Environment(ROOT / "build" / "compare")
    made.path.parent.mkdir(exist_ok=True)
    made.create()
    if not made.is_current("compare", digest(PINS)):
        made.pip(["install", "--no-deps", "-r", PINS], f"installing {THEIRS}")
        made.stamp("compare").write_text(digest(PINS))
    return made.python


@contextmanager
def peer(python: Path, name: str, server: servers.Server) -> Iterator[Peer]:
    """Run a client for the length of a block."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("JUPYTER")}
    # Ours is found in the checkout; of the other the checkout is no part.
    environ |= {"TOKEN": server.token, "PYTHONPATH": "" if name == THEIRS else str(ROOT)}
    process = subprocess.Popen(
        [python, PEER, name, f"http://127.0.0.1:{server.port}/", server.kernel_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        text=True,
    )
    with process:
        try:
            yield Peer(process)
        finally:
            process.terminate()


def measure(options: Options) -> Iterator[Comparison]:
    """Yield each figure, for the client of scripts and for that of asyncio.

    Args:
        options: `control` means nothing here: there is one server.
    """
    python = environment()
    samples: dict[str, dict[str, list[list[float]]]] = {
        task: {name: [] for name in (THEIRS, *OURS)} for task in TASKS
    }
    source = random.Random(1)
    for share in options.shares(LEAST_PAIRS):
        with ExitStack() as stack:
            _, server = stack.enter_context(servers.both(kernel=True))
            peers = [
                (name, stack.enter_context(peer(its, name, server)))
                for name, its in (
                    (THEIRS, python),
                    *((name, Path(sys.executable)) for name in OURS),
                )
            ]
            for task, found in samples.items():
                for number in range(-WARM_UP, share):
                    # Who goes first must not matter.
                    source.shuffle(peers)
                    for name, each in peers:
                        taken = each.measure(task)
                        if number >= 0:
                            found[name].append(taken)
    for task, figures in TASKS.items():
        for index, (figure, unit, limit) in enumerate(figures):
            for name in OURS:
                theirs, ours = (
                    [taken[index] for taken in samples[task][each]] for each in (THEIRS, name)
                )
                yield Comparison(
                    figure, unit, theirs, ours, limit=limit, sides=(THEIRS, f"ours, {name}")
                )
