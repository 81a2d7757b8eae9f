"""A client of a kernel by a tunnel, in a process of its own, so that it can be put to sleep by a signal.

    python -m tests.support.far_sleeper URL TOKEN CARRIER KERNEL CODE

It runs the code, and prints what the kernel prints; at the end how many carriers there were.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from jupyter_token_ws.protocol.subprotocols import KERNEL
from tests.support.far_peer import FarPeer
from tests.support.live_kernel import Client


async def run(url: str, token: str, carrier: str, kernel: str, code: str) -> None:
    """Run it."""
    async with FarPeer(url, token, carrier) as peer:
        stream = await peer.open(f"api/kernels/{kernel}/channels?session_id=sleeper", [KERNEL])
        client: Any = Client(stream, v1=True)  # type: ignore[arg-type]
        asked = await client.execute(code)
        while True:
            message = await client.hear()
            content = message["content"]
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["header"]["msg_type"] == "stream":
                print(content["text"], end="", flush=True)
            if content.get("execution_state") == "idle":
                break
    print(peer.counts.carriers, "carriers", flush=True)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
