"""One client of a kernel, in a process of its own: reads what to do, answers in milliseconds.

    python peer.py jupyter_kernel_client URL KERNEL_ID      with the token in TOKEN
    python peer.py sync URL KERNEL_ID
    python peer.py asyncio URL KERNEL_ID

It is run by the interpreter of the environment that has the client, and imports nothing of this project
but it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

BULK = 10_000_000
"""Bytes that are printed at once."""

CELLS = 50

Measured = tuple[float, ...]
Opened = tuple[Callable[[str], Any], float]


def measure(task: str, opened: Callable[[], contextlib.AbstractContextManager[Opened]]) -> Measured:
    """Do a task, and return its milliseconds.

    Raises:
        RuntimeError: a cell did not say what it should.
    """
    begun = time.perf_counter()
    with opened() as (run, returned):
        if task == "connect":
            _expect(run("1"), "")
            return (returned - begun) * 1000, (time.perf_counter() - begun) * 1000
        _expect(run("1"), "")
        begun = time.perf_counter()
        if task == "trip":
            _expect(run("1"), "")
        elif task == "cells":
            for number in range(CELLS):
                _expect(run(f"print({number})"), f"{number}\n")
        else:
            printed = run(f"print('x' * {BULK - 1})")
            if len(printed) != BULK:
                raise RuntimeError(f"{len(printed)} bytes came")
        return ((time.perf_counter() - begun) * 1000,)


def _expect(printed: str, expected: str) -> None:
    if printed != expected:
        raise RuntimeError(f"{printed[:40]!r} came, not {expected!r}")


def _printed(outputs: Any) -> str:
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


@contextlib.contextmanager
def other(url: str, token: str, kernel_id: str) -> Iterator[Opened]:
    """jupyter_kernel_client."""
    from jupyter_kernel_client import (  # type: ignore[import-not-found,unused-ignore]
        JupyterKernelClient,
    )

    client = JupyterKernelClient(server_url=url.rstrip("/"), token=token, kernel_id=kernel_id)
    client.start()
    try:
        yield (lambda code: _printed(client.execute(code)["outputs"])), time.perf_counter()
    finally:
        client.stop(shutdown_kernel=False)


@contextlib.contextmanager
def sync(url: str, token: str, kernel_id: str) -> Iterator[Opened]:
    """Ours, for scripts."""
    from jupyter_token_ws.client.sync import connect

    with connect(url, auth=token) as server, server.kernel(id=kernel_id) as kernel:

        def run(code: str) -> str:
            return _printed(kernel.execute(code).result().outputs)

        yield run, time.perf_counter()


@contextlib.contextmanager
def asynchronous(url: str, token: str, kernel_id: str) -> Iterator[Opened]:
    """Ours, as it is."""
    from jupyter_token_ws.client import connect

    loop = asyncio.new_event_loop()

    def wait(doing: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await doing

        return loop.run_until_complete(waited())

    async def run(kernel: Any, code: str) -> str:
        return _printed((await kernel.execute(code)).outputs)

    stack = contextlib.AsyncExitStack()

    async def enter() -> Any:
        server = await stack.enter_async_context(connect(url, auth=token))
        return await stack.enter_async_context(server.kernel(id=kernel_id))

    try:
        kernel = wait(enter())
        yield (lambda code: wait(run(kernel, code))), time.perf_counter()
    finally:
        wait(stack.aclose())
        loop.close()


CLIENTS = {"jupyter_kernel_client": other, "sync": sync, "asyncio": asynchronous}


def main() -> None:
    """Answer until there is no more to read."""
    name, url, kernel_id = sys.argv[1:]
    token = os.environ["TOKEN"]
    with contextlib.redirect_stdout(sys.stderr):  # whatever else is printed is no answer
        for line in sys.stdin:
            taken = measure(line.strip(), lambda: CLIENTS[name](url, token, kernel_id))
            print(json.dumps(taken), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
