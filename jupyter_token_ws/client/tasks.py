"""Ending tasks, so that none is left behind."""

from __future__ import annotations

import asyncio
from typing import Any


async def stop(*tasks: asyncio.Future[Any], again: float = 0.1) -> None:
    """End tasks, and wait until they have.

    They are told again after ``again`` seconds: before Python 3.12 who waits by ``wait_for`` may not hear it
    (bpo-37658). What they raise is left to who asks them.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=again)
    await asyncio.gather(*tasks, return_exceptions=True)  # it may be that nobody asks
