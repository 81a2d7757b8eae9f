"""Hostile clients of tunnels against a live server: each is refused as it should be, nobody else notices, and
nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections import Counter
from typing import Any

import psutil
import pytest

from tests.integration.conftest import Start
from tests.support.inside import PATH as INSIDE
from tests.support.process import Server
from tests.support.tunnel_fuzz import attack
from tests.support.waiting import DEADLINE

SECONDS = float(os.environ.get("TUNNEL_FUZZ_SECONDS") or 60)
"""Of attacks; ``make fuzz`` has more."""

ROUND = 12.0
"""Seconds of attacks between two looks at the server at rest."""

SEED = os.environ.get("TUNNEL_FUZZ_SEED") or secrets.token_hex(4)
"""Of all attacks: the same one attacks with the same, as far as the server answers in the same order."""

GROWTH = 12 * 2**20
"""Bytes that a server at rest may have more than after the first rounds: what malloc keeps."""

SPARE_FDS = 3
"""Descriptors that a server at rest has now and then: one or two were seen, whatever went before."""

_WRONG = re.compile(r"Traceback \(most recent|Uncaught exception|was never (retrieved|awaited)")


async def inside(server: Server) -> dict[str, int]:
    answer = await asyncio.to_thread(server.request, "GET", INSIDE)
    assert answer.status == 200
    counts: dict[str, int] = answer.json()
    return counts


async def rests(server: Server, before: dict[str, int] | None) -> dict[str, int]:
    """What the server has when the last tunnel is gone, and as little as before, if it ever is."""
    process = psutil.Process(server.pid)
    end = time.monotonic() + DEADLINE
    while True:
        found = await inside(server)
        found["fds"] = process.num_fds()
        rests = found["tunnels"] == 0 and (
            before is None
            or (found["tasks"] <= before["tasks"] and found["fds"] <= before["fds"] + SPARE_FDS)
        )
        if rests or time.monotonic() > end:
            return found | {"rss": process.memory_info().rss}
        await asyncio.sleep(0.1)


async def attacked(start: Start, seconds: float) -> dict[str, Any]:
    """Attack a server for so long; what was seen."""
    server = start(
        config={
            "TokenWebSocketApp": {
                "tunnel_resume_window": 1,
                "max_tunnels_per_principal": 0,
                "max_connections": 0,
                "max_connections_per_principal": 0,
                "max_handshakes": 0,
            },
            "ServerApp": {"base_url": "/base/"},
        },
        extensions={"tests.support.own_sockets": True, "tests.support.inside": True},
    )
    kernel = await asyncio.to_thread(server.start_kernel)
    paths = [
        "own/echo",
        "own/echo",
        "own/plain",
        "own/opens-late",
        f"api/kernels/{kernel}/channels?session_id=x",
        "api/kernels/none/channels",
    ]
    outcomes: Counter[str] = Counter()
    rounds: list[dict[str, int]] = []
    count = max(3, round(seconds / ROUND))
    for number in range(count):
        outcomes += await attack(server, paths, f"{SEED}-{number}", ROUND)
        rounds.append(await rests(server, rounds[0] if rounds else None))
        assert server.running
        wrong = _WRONG.search(server.log())
        assert wrong is None, server.log()[max(0, wrong.start() - 500) :][:6000]
    warm, last = rounds[len(rounds) // 4], rounds[-1]
    print(f"seed {SEED}: {dict(outcomes)}; at first {warm}, at last {last}")
    assert outcomes["bad_request"] > 3 * count
    assert last["tunnels"] == 0
    assert last["tasks"] <= rounds[0]["tasks"]
    assert last["fds"] <= rounds[0]["fds"] + SPARE_FDS
    assert last["rss"] <= warm["rss"] + GROWTH
    return last


@pytest.mark.timeout(900 + 2 * SECONDS)
async def test_hostile_clients(start: Start):
    await attacked(start, SECONDS)
