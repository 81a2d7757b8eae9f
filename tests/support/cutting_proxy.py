"""A TCP proxy that misbehaves: kills, stalls and delays what goes through it, on command or at random.

    with cutting(tmp_path, server.port, "--seed=1", "--every=0.1-2") as proxy:
        ...  # proxy.port; at random
    with cutting(tmp_path, server.port) as proxy:
        proxy.do("reset")               # and so on: on command
    with cutting(tmp_path, server.port, "--idle=5") as proxy:
        ...  # ends connections that are silent for so many seconds

It runs in a process of its own, so that neither side's loop is its, and can itself be stopped by a signal.
What it has read it may throw away, as a network may.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import PROJECT, STOP_DEADLINE

CHUNK = 64 * 1024
LATENCY = 0.03
"""Seconds by which a delayed connection's bytes come later, each chunk."""

UP, DOWN = "up", "down"
"""To the server, and from it."""


# -- the process -------------------------------------------------------------------------------------


class Direction:
    """One direction of a connection."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.latency = 0.0


class Connection:
    """Two sockets and what goes between them."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.directions = {UP: Direction(), DOWN: Direction()}
        self.moved = time.monotonic()

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Carry bytes one way until there are no more."""
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                self.moved = time.monotonic()
                if direction.latency:
                    await asyncio.sleep(direction.latency)
                await direction.open.wait()
                writer.write(data)
                await writer.drain()
            await direction.open.wait()
            writer.write_eof()

    def reset(self) -> None:
        """End it with RST both ways."""
        for writer in self.writers:
            raw: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def finish(self) -> None:
        """End it with FIN both ways, after what was passed on so far."""
        for writer in self.writers:
            writer.close()

    def vanish(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        for direction in self.directions.values():
            direction.open.clear()


class Proxy:
    """All connections to one server."""

    def __init__(self, upstream: int, chance: random.Random | None) -> None:
        self.upstream = upstream
        self.chance = chance
        self.counts: Counter[str] = Counter()
        self.connections: set[Connection] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody connected."""
        try:
            there, here = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            writer.close()
            return
        connection = Connection(writer, here)
        self.connections.add(connection)
        self.counts["connections"] += 1
        try:
            await asyncio.gather(
                connection.pump(reader, here, connection.directions[UP]),
                connection.pump(there, writer, connection.directions[DOWN]),
            )
        finally:
            self.connections.discard(connection)
            for each in (writer, here):
                each.close()

    def do(self, what: str, to: list[Connection] | None = None) -> None:
        """One of the commands, to all connections unless some are named."""
        self.counts[what] += 1
        for connection in list(self.connections) if to is None else to:
            each = connection.directions
            if what in ("reset", "finish", "vanish"):
                getattr(connection, what)()
            elif what == "resume":
                for direction in each.values():
                    direction.open.set()
                    direction.latency = 0.0
            elif what.startswith("stall"):
                each[what.removeprefix("stall ")].open.clear()
            else:
                each[what.removeprefix("delay ")].latency = LATENCY

    async def at_random(self, least: float, most: float) -> None:
        """Something bad every so many seconds, to all connections or to one; what is stalled or delayed goes
        on in the end."""
        assert self.chance is not None
        chance, loop = self.chance, asyncio.get_running_loop()
        kills = ["reset", "reset", "finish"]
        what = [*kills, *kills, "stall up", "stall down", "delay up", "delay down"]
        while True:
            await asyncio.sleep(chance.uniform(least, most))
            everybody = sorted(self.connections, key=lambda each: each.moved)
            to = everybody if chance.random() < 0.5 else everybody[-1:]
            done = chance.choice(what)
            self.do(done, to)
            if done.startswith(("stall", "delay")):
                loop.call_later(chance.uniform(least, most), self.do, "resume", to)

    async def cut_idle(self, seconds: float) -> None:
        """End what is silent. What this machine did not do meanwhile does not count."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(seconds / 20)
            before, looked = looked, time.monotonic()
            for connection in list(self.connections):
                if looked - before > seconds / 5:
                    connection.moved = looked
                elif looked - connection.moved > seconds:
                    self.counts["idle"] += 1
                    connection.finish()


async def serve(options: argparse.Namespace) -> None:
    """Until the input ends; each line of it is a command."""
    chance = random.Random(options.seed) if options.every else None
    proxy = Proxy(options.upstream, chance)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    tasks = []
    if options.every:
        tasks.append(asyncio.create_task(proxy.at_random(*map(float, options.every.split("-")))))
    if options.idle:
        tasks.append(asyncio.create_task(proxy.cut_idle(options.idle)))
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    while line := (await commands.readline()).decode().strip():
        if line == "calm":
            for task in tasks:
                task.cancel()
            proxy.do("resume")
        elif line != "counts":
            proxy.do(line)
        print(json.dumps(proxy.counts), flush=True)
    server.close()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", default="")
    parser.add_argument("--idle", type=float, default=0)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


# -- for tests ---------------------------------------------------------------------------------------


@dataclass
class CuttingProxy:
    """A running one. ``url`` ends with a slash."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def do(self, what: str) -> dict[str, int]:
        """A command for all connections: ``reset``, ``finish``, ``vanish``, ``stall up`` (to the server),
        ``stall down``, ``delay up``, ``delay down``; ``resume`` ends what stalls and delays, ``calm`` what is
        done at random too, ``counts`` does nothing. How often each was done so far."""
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return _answer(self.process)


def _answer(process: subprocess.Popen[str]) -> dict[str, int]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the proxy ended: {process.poll()}"
    answer: dict[str, int] = json.loads(line)
    return answer


@contextmanager
def cutting(directory: Path, upstream: int, *options: str) -> Iterator[CuttingProxy]:
    """Run one before the server on port ``upstream`` for the length of a block."""
    command = [sys.executable, "-m", __name__, f"--upstream={upstream}", *options]
    with (
        (directory / "cutting.txt").open("ab") as log,
        subprocess.Popen(
            command,
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield CuttingProxy(_answer(process)["port"], process)
        finally:
            process.kill()
            process.wait(STOP_DEADLINE)


if __name__ == "__main__":
    main()
