"""What it costs to pass messages between a kernel and its clients.

Time is the client's: from the third message of a flood to the idle status that ends it, or from a request
to its reply. Processor time is the server's, of all its threads, from before the request until it is
idle again, so that what is put off until later counts too. Stock's limits on the rate are off.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from benchmarks import client, servers
from benchmarks.stats import Comparison
from jupyter_token_ws.protocol.subprotocols import KERNEL

if TYPE_CHECKING:
    from typing_extensions import Self

    from benchmarks.__main__ import Options

CONFIG = {"ZMQChannelsWebsocketConnection": {"limit_rate": False}}

EMITTER = [sys.executable, "-m", "benchmarks.emitter", "{connection_file}"]
LEAST_PAIRS = 30
WARM_UP = 2
"""Pairs measured and thrown away."""

HEAD = 1024
"""Bytes of a message that are looked at."""


@dataclass(frozen=True)
class Flood:
    """One figure: what the emitter is told."""

    figure: str
    v1: bool
    count: int
    size: int
    limit: float
    cpu_limit: float | None = None
    buffer: int = 0
    kind: str = "stream"

    @property
    def code(self) -> str:
        """For the emitter."""
        names = ("count", "size", "buffer", "kind")
        return json.dumps({name: getattr(self, name) for name in names})


FLOODS = (
    Flood("100-byte stream messages, v1", True, 5000, 100, 1 / 15, 1 / 10),
    Flood("100-byte stream messages, legacy", False, 5000, 100, 1 / 12, 1 / 10),
    Flood("64 KiB messages, v1", True, 500, 65536, 1 / 2.5),
    Flood("64 KiB messages, legacy", False, 500, 65536, 1 / 3),
    Flood("1 MiB buffers, v1", True, 50, 10, 1 / 1.2, None, 2**20, "display_data"),
)


class Channels:
    """A kernel's socket.

    Args:
        server: where it is.
        kernel_id: which kernel.
        v1: whether to speak the newer format.
    """

    def __init__(self, server: servers.Server, kernel_id: str, *, v1: bool) -> None:
        self.v1 = v1
        path = f"/api/kernels/{kernel_id}/channels?session_id={os.urandom(8).hex()}"
        self._socket = client.Socket(server.port, path, server.token, [KERNEL] if v1 else [])
        self._buffer, self._at = bytearray(), 0
        self._scratch = bytearray(2**20)
        self.size = 0
        """Bytes of the message that ``messages`` gave last."""

    def __enter__(self) -> Self:
        self._socket.__enter__()
        self._buffer += self._socket._buffer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.__exit__(kind, error, trace)

    def ask(self, kind: str, code: str = "") -> bytes:
        """Send a request on the shell channel; return its id."""
        message_id = os.urandom(8).hex()
        header = {
            "msg_id": message_id,
            "msg_type": kind,
            "session": message_id,
            "username": "",
            "date": "2026-01-01T00:00:00Z",
            "version": "5.3",
        }
        content: dict[str, Any] = {}
        if kind == "execute_request":
            content = {"code": code, "silent": False, "store_history": False}
            content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": False}
        parts = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        if self.v1:
            blobs = [b"shell", *(json.dumps(part).encode() for part in parts.values())]
            offsets = [8 * (len(blobs) + 2)]
            for blob in blobs:
                offsets.append(offsets[-1] + len(blob))
            payload = struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets)
            payload += b"".join(blobs)
        else:
            payload = json.dumps({"channel": "shell", "buffers": [], **parts}).encode()
        # Masked with zeros.
        head = struct.pack("!BBH4x", 0x82 if self.v1 else 0x81, 0x80 | 126, len(payload))
        if len(payload) < 126:
            raise client.AnswerError("a request is longer than that")
        self._socket._socket.sendall(head + payload)
        return message_id.encode()

    def messages(self) -> Iterator[bytes]:
        """The beginnings of the messages that come."""
        data, at = self._buffer, self._at
        while True:
            while len(data) - at >= 10:
                size, head = data[at + 1], 2
                if size == 126:
                    size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
                elif size == 127:
                    size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
                start = at + head
                if len(data) < start + size:
                    if len(data) < start + HEAD:
                        break
                    # The rest of a large one is read and thrown away: keeping it takes this client
                    # longer than the server.
                    self._skip(start + size - len(data))
                    beginning = bytes(data[start : start + HEAD])
                    data.clear()
                    self._at = at = 0
                    self.size = size
                    yield beginning
                    continue
                self._at = at = start + size
                self.size = size
                yield bytes(data[start : min(at, start + HEAD)])
            data, at = data[at:], 0
            received = self._socket._socket.recv(2**20)
            if not received:
                raise client.AnswerError("the server hung up")
            data += received
            self._buffer, self._at = data, 0

    def _skip(self, size: int) -> None:
        while size:
            received = self._socket._socket.recv_into(self._scratch, min(size, len(self._scratch)))
            if not received:
                raise client.AnswerError("the server hung up")
            size -= received

    def until(self, message_id: bytes, what: bytes) -> int:
        """Read until a message about a request has this in it; return how many came, it included."""
        for count, message in enumerate(self.messages(), 1):
            if what in message and message_id in message:
                return count
        raise client.AnswerError("the server hung up")

    def settle(self) -> None:
        """Wait until the kernel answers here."""
        self.until(self.ask("kernel_info_request"), b'"idle"')


@dataclass
class Samples:
    """Of one figure: stock first, ours second, pair by pair."""

    times: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    cpu: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


Measure = Callable[[servers.Server, str], tuple[float, float]]


def flood(case: Flood) -> Measure:
    """Microseconds of time and of processor time for a message."""

    def measure(server: servers.Server, kernel_id: str) -> tuple[float, float]:
        with Channels(server, kernel_id, v1=case.v1) as channels:
            channels.settle()
            before = server.idle_cpu_ns()
            message_id = channels.ask("execute_request", case.code)
            begun = 0
            size = 0
            for count, message in enumerate(channels.messages(), 1):
                size += channels.size
                if count == 3:
                    begun = time.perf_counter_ns()
                if b'"idle"' in message and message_id in message:
                    break
            spent = time.perf_counter_ns() - begun
            # Neighbouring text may come in fewer messages, but not in fewer bytes.
            if size < case.count * (case.size + case.buffer):
                raise client.AnswerError(f"{server.name}: {size} bytes in {count} messages")
            cpu = server.idle_cpu_ns() - before
        return spent / case.count / 1e3, cpu / case.count / 1e3

    return measure


def round_trip(server: servers.Server, kernel_id: str) -> tuple[float, float]:
    """Milliseconds from an execute_request to its reply, of many the median; processor time of each."""
    with Channels(server, kernel_id, v1=True) as channels:
        channels.settle()
        before = server.idle_cpu_ns()
        times = []
        for _ in range(10):
            begun = time.perf_counter_ns()
            message_id = channels.ask("execute_request", "1")
            channels.until(message_id, b'"execute_reply"')
            times.append(time.perf_counter_ns() - begun)
        cpu = server.idle_cpu_ns() - before
    return sorted(times)[5] / 1e6, cpu / 10 / 1e6


def connect(server: servers.Server, kernel_id: str) -> tuple[float, float]:
    """Milliseconds from before the handshake to the reply to a first kernel_info_request."""
    before = server.idle_cpu_ns()
    begun = time.perf_counter_ns()
    with Channels(server, kernel_id, v1=True) as channels:
        message_id = channels.ask("kernel_info_request")
        channels.until(message_id, b'"kernel_info_reply"')
        spent = time.perf_counter_ns() - begun
    return spent / 1e6, (server.idle_cpu_ns() - before) / 1e6


@dataclass(frozen=True)
class Case:
    """One figure. ``kernel`` is "emitter" or "python3"."""

    figure: str
    unit: str
    kernel: str
    measure: Measure
    limit: float
    cpu_limit: float | None = None


CASES = (
    *(
        Case(each.figure, "µs", "emitter", flood(each), each.limit, each.cpu_limit)
        for each in FLOODS
    ),
    Case("execute round trip, 1 client", "ms", "emitter", round_trip, 0.10),
    Case("execute round trip, 1 client, ipykernel", "ms", "python3", round_trip, 0.20),
    Case("connect to first kernel_info_reply", "ms", "emitter", connect, 0.35),
    Case("connect to first kernel_info_reply, ipykernel", "ms", "python3", connect, 0.35),
)


def measure(options: Options) -> Iterator[Comparison]:
    """Yield time and processor time of every case.

    Args:
        options: `pairs` is how many pairs to measure for each case: at least 30, a tenth of what a
            handshake gets. They are spread over `rounds` starts of the servers. With `control` both
            servers are stock.
    """
    pairs = max(options.pairs // 10, LEAST_PAIRS)
    samples = {case: Samples() for case in CASES}
    for number in range(options.rounds):
        with servers.both(CONFIG, control=options.control, pinned=False) as both:
            kernels = [
                {"python3": server.kernel_id, "emitter": server.start_kernel("emitter", EMITTER)}
                for server in both
            ]
            for case in CASES:
                share = pairs * (number + 1) // options.rounds - pairs * number // options.rounds
                _add(samples[case], case, both, kernels, share)
    for case in CASES:
        yield Comparison(case.figure, case.unit, *samples[case].times, limit=case.limit)
        yield Comparison(
            f"{case.figure}: server CPU", case.unit, *samples[case].cpu, limit=case.cpu_limit
        )


def _add(
    samples: Samples,
    case: Case,
    both: tuple[servers.Server, servers.Server],
    kernels: list[dict[str, str]],
    pairs: int,
) -> None:
    source = random.Random(case.figure)
    sides = list(enumerate(zip(both, kernels, strict=True)))
    for number in range(-WARM_UP, pairs):
        source.shuffle(sides)
        for index, (server, kernel) in sides:
            spent, cpu = case.measure(server, kernel[case.kernel])
            if number >= 0:
                samples.times[index].append(spent)
                samples.cpu[index].append(cpu)
