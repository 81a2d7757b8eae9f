"""A hostile client of tunnels, over both carriers of a live server.

Each attack has a seed. It begins as a client that keeps the rules, by the state machine of the real one, and
then breaks them: frames in wrong states and of wrong numbers, credits, cut and changed bytes, JSON of any
kind, batches lost, twice and in wrong order, carriers cut and changed. At last it sends what is no frame:
whatever was before, a tunnel that is still there has to say that this is wrong.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.frames import HEADER, MAX_STREAM, Frame, FrameError, Kind
from jupyter_token_ws.protocol.reasons import REASONS, parse_close
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER, TUNNEL
from jupyter_token_ws.protocol.tunnel import (
    Attached,
    Data,
    Opened,
    OutOfOrderError,
    ResumeError,
    Side,
    Tunnel,
    TunnelError,
)
from jupyter_token_ws.tunnel.socket_carrier import MAX_BATCH
from tests.support.knock import Knock, knock
from tests.support.process import Server

PATH = "api/token-ws/tunnel"
TIMEOUT = 120.0
"""Seconds after which a server that says nothing has forgotten its client."""

TOO_LARGE = 1009
"""Close code of a websocket that brought too large a message (RFC 6455 section 7.4.1)."""

PATIENCE = 0.5
"""Seconds that a hostile client waits for an answer."""

NUMBER = struct.Struct(">Q")
NUMBERS = (0, 1, 2, 7, 100, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
SIZES = (0, 0, 1, 1, 10, 100, 4096, 5000, 70_000, frames.MAX_DATA)
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**63,
    10**400,
    "",
    "x",
    "\ud800",
    "\r\nX-Evil: 1",
    "\0",
    "ü",
    [],
    ["x"],
    [[]],
    {},
    {"path": "x"},
)
PATHS = (
    "",
    "/",
    ".",
    "..",
    "a/../../b",
    "%2e%2e/x",
    "%zz",
    "//other.example/x",
    "http://other.example/",
    PATH,
    f"{PATH}?tunnel=x",
    f"{PATH}/x",
    "%61pi/token-ws/tunnel",
    "api",
    "api/kernels",
    "api/kernels/none/channels",
    "api/contents/x",
    "terminals/websocket/none",
    "lab",
    "static/x",
    "x?token=wrong",
    "x y",
    "x\r\nX-Evil: 1",
    "x\0",
    "ü",
    "\ud800",
    "x" * 16_000,
    "x?" + "a&" * 7000,
)
OFFERED = (
    KERNEL,
    TUNNEL,
    MARKER,
    REASON_MARKER,
    f"{MARKER}.wrong",
    f"{MARKER}.",
    "v9.token.websocket.jupyter.org.x",
    "echo",
    "",
    " ",
    "a,b",
    "a b",
    "ü",
    "\ud800",
    "x\r\nX-Evil: 1",
    "\0",
    "x" * 4000,
)


class BrokenRuleError(AssertionError):
    """The server did what it must not do."""


class Carrier:
    """What an attack goes over. ``heard`` is called with each batch of frames."""

    def __init__(self, server: Server, heard: Callable[[Carrier, int, bytes], None]) -> None:
        self.server = server
        self.heard = heard
        self.status = 0
        self.code: int | None = None
        self.slug = ""
        self.gone = asyncio.Event()
        self.began = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._sending: list[asyncio.Task[None]] = []

    def read(self) -> None:
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        try:
            await self.read_all()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            self.began.set()

    def ended(self, code: int, reason: str) -> None:
        closed = parse_close(code, reason)
        self.code, self.slug = code, "" if closed is None else closed.reason.slug

    async def read_all(self) -> None:
        raise NotImplementedError

    async def send(self, first: int, data: bytes) -> None:
        raise NotImplementedError

    def send_aside(self, first: int, data: bytes) -> asyncio.Task[None]:
        """Send, beside all else."""
        sending = asyncio.ensure_future(self.send(first, data))
        self._sending.append(sending)
        return sending

    def cut(self) -> None:
        raise NotImplementedError

    async def leave(self) -> None:
        self.cut()
        if self._reading is not None:
            await asyncio.wait_for(self._reading, TIMEOUT)
        for sending in self._sending:
            sending.cancel()
        for outcome in await asyncio.gather(*self._sending, return_exceptions=True):
            if isinstance(outcome, AssertionError):
                raise outcome


class SocketCarrier(Carrier):
    """A websocket."""

    knock: Knock

    async def open(self, query: str) -> None:
        headers = {"Authorization": f"token {self.server.token}"}
        path = f"{self.server.base_url}{PATH}{query}"
        self.knock = await knock(self.server.port, path, [TUNNEL, REASON_MARKER], headers)
        self.status = self.knock.status
        if self.status == 101:
            self.read()
        else:
            self.knock.vanish()

    async def read_all(self) -> None:
        while (frame := await self.knock.read_frame()) is not None:
            opcode, payload = frame
            if opcode == 2:
                self.heard(self, NUMBER.unpack_from(payload)[0], payload[NUMBER.size :])
                self.began.set()
            elif opcode == 9:
                await self.knock.send(payload, opcode=10)
            elif opcode == 8:
                code = int.from_bytes(payload[:2], "big")
                self.ended(code, payload[2:].decode())
                await self.knock.send(payload[:2], opcode=8)
                return

    async def send(self, first: int, data: bytes) -> None:
        with suppress(OSError):
            await self.knock.send(NUMBER.pack(first) + data)

    async def send_odd(self, rng: random.Random) -> None:
        with suppress(OSError):
            odd: Sequence[str | bytes] = ("", "text", b"", b"\0\0\0", b"\0" * 7, b"\0" * 8)
            await self.knock.send(rng.choice(odd))

    def cut(self) -> None:
        if self.status == 101:
            self.knock.vanish()


class EventCarrier(Carrier):
    """An event stream, and a request for each batch."""

    identity = ""
    answers: Counter[str]
    _writer: asyncio.StreamWriter

    async def open(self, query: str) -> None:
        self.answers = Counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=2**22)
        self._reader, self._writer = reader, writer
        # An answer to HTTP/1.0 has no chunks: it ends with its connection.
        head = f"GET {self.server.base_url}{PATH}{query} HTTP/1.0\r\nHost: 127.0.0.1:{self.server.port}\r\n"
        writer.write(f"{head}Authorization: token {self.server.token}\r\n\r\n".encode())
        with suppress(OSError, asyncio.IncompleteReadError):
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
            self.status = int(answer.split()[1])
        if self.status == 200:
            self.read()
        else:
            writer.transport.abort()

    async def read_all(self) -> None:
        name, number, data = "", 0, ""
        while line := (await self._reader.readline()).decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                number = int(value)
            elif field == "data":
                data = value
            else:
                if name == "end":
                    document = json.loads(data)
                    self.code, self.slug = document["code"], document.get("status", "")
                elif name == "keepalive":
                    self.send_aside(1, b"")
                elif not name and number:
                    self.heard(self, number, base64.b64decode(data))
                    self.began.set()
                name = ""

    async def send(self, first: int, data: bytes) -> None:
        body = {"first": first, "frames": base64.b64encode(data).decode()}
        await self.post(json.dumps(body).encode())

    async def send_odd(self, rng: random.Random) -> None:
        odd: Sequence[Any] = (
            *JUNK,
            {"first": 1},
            {"first": 0, "frames": ""},
            {"first": -1, "frames": ""},
            {"first": 10**400, "frames": ""},
            {"first": True, "frames": ""},
            {"first": 1, "frames": "!"},
            {"first": 1, "frames": "AAA"},
            {"first": 1, "frames": "ü"},
            {"first": 1, "frames": []},
        )
        await rng.choice(
            [
                lambda: self.post(json.dumps(rng.choice(odd)).encode()),
                lambda: self.post(rng.choice([b"", b"{", b"\xff", b"[" * 10_000, b" " * 600_000])),
                lambda: self.post(b"{}", identity="x" * 24),
                lambda: self.post(b"{}", authorization=False),
                lambda: self.post(b"{}", kind="text/plain"),
            ]
        )()

    async def post(
        self,
        body: bytes,
        *,
        identity: str = "",
        authorization: bool = True,
        kind: str = "application/json",
    ) -> None:
        head = (
            f"POST {self.server.base_url}{PATH}/{identity or self.identity} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self.server.port}\r\nConnection: close\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        )
        if authorization:
            head += f"Authorization: token {self.server.token}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(f"{head}\r\n".encode() + body)
            answer = (await asyncio.wait_for(reader.read(), TIMEOUT)).split(maxsplit=2)
            self.answers[answer[1].decode()] += 1
        except (OSError, IndexError):
            self.answers["none"] += 1  # a body that is too large is not waited for
        finally:
            writer.transport.abort()

    def cut(self) -> None:
        if self.status == 200:
            self._writer.transport.abort()


class Attack:
    """One hostile client, from its first frame to its refusal.

    Raises ``BrokenRuleError``, with the seed, where the server breaks a rule.
    """

    def __init__(self, server: Server, paths: Sequence[str], seed: str) -> None:
        self.server = server
        self.paths = paths
        self.seed = seed
        self.rng = random.Random(seed)
        self.client = Tunnel(Side.CLIENT, **self._options())
        self.honest = True
        """Whether it has kept the rules so far: then the server must."""
        self.closes = False
        """Whether it may have closed the tunnel itself."""
        self.told: tuple[int | None, str] | None = None
        """How the server closed it."""
        self.acts: deque[str] = deque(maxlen=30)
        self.largest = 0
        self.told_over: Carrier | None = None
        self.identity = ""
        self.heard_frames = 0
        self.sent_frames = 0
        self.granted: defaultdict[int, int] = defaultdict(int)
        self.taken: Counter[int] = Counter()
        self.open: set[int] = set()
        self.carrier: SocketCarrier | EventCarrier
        self.failure: BrokenRuleError | None = None

    def _options(self) -> dict[str, Any]:
        rng = self.rng
        return {
            "stream_window": rng.choice([16_384, 262_144]),
            "tunnel_window": rng.choice([262_144, 1_048_576]),
        }

    async def run(self) -> str:
        """What became of it."""
        try:
            outcome = await asyncio.wait_for(self._run(), 5 * TIMEOUT)
        except (AssertionError, asyncio.TimeoutError) as error:
            raise BrokenRuleError(self._story(error)) from error
        if self.failure is not None:
            raise BrokenRuleError(self._story(self.failure)) from self.failure
        return outcome

    def _story(self, error: BaseException) -> str:
        return "\n  ".join([f"seed {self.seed}: {error!r}; what it did:", *self.acts])

    async def _run(self) -> str:
        rng = self.rng
        if not await self._connect():
            raise BrokenRuleError(f"no tunnel: {self.carrier.status} {self.carrier.slug}")
        try:
            for _ in range(rng.choice([0, 0, 3, 10, 40])):
                await self._keep_the_rules()
            for _ in range(rng.choice([1, 3, 10, 40])):
                if self.carrier.gone.is_set():
                    break
                await rng.choices(
                    [
                        self._keep_the_rules,
                        self._send_changed,
                        self._send_made_up,
                        self._send_odd,
                        self._come_again,
                        self._follow,
                    ],
                    [4, 2, 4, 0.5, 1, 0.3],
                )[0]()
            return await self._end()
        finally:
            await self.carrier.leave()

    async def _end(self) -> str:
        if self.told is None and not self.carrier.gone.is_set():
            self.honest = False
            self.acts.append("sends what is no frame")
            await self.carrier.send(1, b"\xff" * HEADER.size)
        await asyncio.wait_for(self.carrier.gone.wait(), TIMEOUT)
        if self.told is None and self.closes:
            return "closed"
        if self.told is None and self.largest > MAX_BATCH:
            # It is cut off at once, and may not hear what was said last.
            if self.carrier.code not in (TOO_LARGE, None):
                raise BrokenRuleError(f"too much was answered {self.carrier.code}")
            return "too large"
        if self.told is None:
            raise BrokenRuleError(
                f"the carrier ended with {self.carrier.code} {self.carrier.slug}, untold"
            )
        code, reason = self.told
        closed = parse_close(code or 0, reason)
        if closed is None or code != REASONS["bad_request"].code:
            raise BrokenRuleError(f"the tunnel was closed with {code} {reason!r}")
        # A stream of events ends with the same; unless the CLOSE came over one that was left.
        if isinstance(self.carrier, EventCarrier) and self.told_over is self.carrier:
            ended = self.carrier.code, self.carrier.slug
            if ended != (code, closed.reason.slug):
                raise BrokenRuleError(f"the event stream ended with {ended}")
        return closed.reason.slug

    # -- carriers ----------------------------------------------------------------------------------

    async def _connect(self, query: str = "") -> bool:
        if self.rng.random() < 0.5:
            self.carrier = SocketCarrier(self.server, self._hear)
        else:
            self.carrier = EventCarrier(self.server, self._hear)
        await self.carrier.open(query)
        self.acts.append(f"{type(self.carrier).__name__} {query}: {self.carrier.status}")
        if self.carrier.status not in (101, 200):
            return False
        await asyncio.wait_for(self.carrier.began.wait(), TIMEOUT)
        if isinstance(self.carrier, EventCarrier):
            self.carrier.identity = self.identity
        return not self.carrier.gone.is_set()

    async def _come_again(self) -> None:
        """By another carrier, with the right number or any."""
        rng, before = self.rng, self.carrier
        if rng.random() < 0.6:
            await before.leave()
            before = None  # type: ignore[assignment]
        received = rng.choice([self.heard_frames] * 4 + [0, self.heard_frames + 1, 10**18, "x", ""])
        identity = rng.choice([self.identity] * 12 + ["x", "%00", ""])
        right = identity == self.identity and received == self.heard_frames
        if not right:
            other = SocketCarrier(self.server, lambda *batch: None)
            if rng.random() < 0.5:
                other = EventCarrier(self.server, lambda *batch: None)  # type: ignore[assignment]
            await other.open(f"?tunnel={identity}&received={received}")
            if other.status in (101, 200):
                await asyncio.wait_for(other.began.wait(), TIMEOUT)
            await other.leave()
        self.client.detach()
        if not await self._connect(f"?tunnel={self.identity}&received={self.heard_frames}"):
            # It is over, or what was missed went to a carrier that was no good.
            self.closes = True
            self.carrier.gone.set()
        if before is not None:
            await before.leave()

    # -- what it hears -----------------------------------------------------------------------------

    def _hear(self, carrier: Carrier, first: int, data: bytes) -> None:
        try:
            told = self.told
            self._look_at(first, data)
            if told is None is not self.told:
                self.told_over = carrier
        except (AssertionError, FrameError, TunnelError, OutOfOrderError) as error:
            self.failure = BrokenRuleError(f"the server broke a rule: {error!r}")
            self.carrier.cut()

    def _look_at(self, first: int, data: bytes) -> None:
        assert 1 <= first <= self.heard_frames + 1, "a batch that begins too late"
        number = first
        for frame in frames.decode(data):
            if frame.kind is Kind.HELLO:
                self.identity = frames.read_hello(frame.payload)["tunnel"]
            if frame.kind >= frames.FIRST_UNNUMBERED:
                continue
            if number == self.heard_frames + 1:
                self.heard_frames = number
                self._look_at_numbered(frame)
            number += 1
        if self.client.closed:
            return
        try:
            self.client.receive(first, data)
        except (TunnelError, ResumeError, OutOfOrderError):
            if self.honest:
                raise
        for event in self.client.events():
            if isinstance(event, Opened):
                self.open.add(event.stream)
            elif isinstance(event, Data) and self.rng.random() < 0.9:
                self.client.consumed(event.stream, event.size)
            elif isinstance(event, Attached):
                self.identity = event.hello["tunnel"]

    def _look_at_numbered(self, frame: Frame) -> None:
        if frame.kind is Kind.DATA:
            size = HEADER.size + len(frame.payload)
            self.taken[frame.stream] += size
            self.taken[0] += size
            assert self.taken[frame.stream] <= self.granted[frame.stream], "more than the stream's"
            assert self.taken[0] <= max(self.granted[0], 262_144), "more than the tunnel's"
        elif frame.kind is Kind.CLOSE and frame.stream == 0:
            self.acts.append("was told CLOSE")
            self.told = frames.read_close(frame.payload)
            if self.honest:
                raise BrokenRuleError(f"a client that kept the rules was told {self.told}")

    # -- what it sends -----------------------------------------------------------------------------

    async def _send(self, first: int, data: bytes) -> None:
        """A batch; what may count in it as a grant counts."""
        number = first
        with suppress(FrameError):
            for frame in frames.decode(data):
                if frame.kind is Kind.CLOSE and frame.stream == 0:
                    self.closes = True
                elif frame.kind in (Kind.OPEN, Kind.CREDIT, Kind.ACK):
                    stream, limit = frame.stream, 0
                    with suppress(FrameError):
                        if frame.kind is Kind.OPEN:
                            limit = frames.read_open(frame.payload)[2]
                        elif frame.kind is Kind.CREDIT:
                            limit = frames.read_credit(frame.payload)
                        else:
                            limit = frames.read_ack(frame.payload)[1]
                    self.granted[stream] = max(self.granted[stream], limit)
                number += frame.kind < frames.FIRST_UNNUMBERED
        if first <= self.sent_frames + 1:
            self.sent_frames = max(self.sent_frames, number - 1)
        self.acts.append(f"sent from {first}: {data[:60]!r} ({len(data)} bytes)")
        self.largest = max(self.largest, NUMBER.size + len(data))
        sending = self.carrier.send_aside(first, data)
        # What overtook others is answered late.
        await asyncio.wait([sending], timeout=PATIENCE)

    async def _keep_the_rules(self) -> None:
        """As far as its state machine knows."""
        rng, client = self.rng, self.client
        if not client.closed:
            with suppress(ValueError, KeyError):
                stream = rng.choice(sorted(self.open) or [1])
                act = rng.randrange(8)
                if act < 2:
                    client.open(rng.choice(self.paths), rng.choice([(), (KERNEL,), ("echo",)]))
                elif act < 5:
                    size = rng.choice(SIZES)
                    client.send(stream, b"x" * size, text=rng.random() < 0.5)
                elif act == 5:
                    client.end(stream)
                elif act == 6:
                    client.close(stream, rng.choice([None, 1000, 4999]), "bye")
                else:
                    client.send_small(stream, [b"x"] * rng.choice([1, 10, 1000]), text=True)
        await self._flush()

    async def _flush(self) -> None:
        while (batch := self.client.take(ack=True)) is not None:
            await self._send(*batch)
        await asyncio.sleep(0)

    async def _send_changed(self) -> None:
        """What it ought to send, changed."""
        self.honest = False
        rng = self.rng
        with suppress(ValueError, KeyError):
            self.client.open(rng.choice(self.paths))
            for stream in sorted(self.open)[:5]:
                self.client.send(stream, b"y" * rng.choice(SIZES), text=True)
        while (batch := self.client.take(ack=True)) is not None:
            first, data = batch
            changed = bytearray(data)
            what = rng.randrange(8)
            if what == 0 and changed:
                for _ in range(rng.choice([1, 3, 20])):
                    changed[rng.randrange(min(len(changed), 200))] = rng.randrange(256)
            elif what == 1:
                del changed[rng.randrange(len(changed)) :]
            elif what == 2:
                changed += data
            elif what == 3:
                changed += rng.randbytes(rng.choice([1, 10, 30]))
            elif what == 4:
                pieces = list(frames.decode(data))
                rng.shuffle(pieces)
                changed = bytearray(b"".join(map(frames.encode, pieces)))
            elif what == 5:
                first = rng.choice([0, 1, first - 1, first + 1, first + 3, *NUMBERS])
            elif what == 6:
                continue  # lost
            await self._send(max(first, 0) % 2**64, bytes(changed))
            if what == 7:
                await self._send(first, data)
        await asyncio.sleep(0)

    async def _send_made_up(self) -> None:
        """Frames that are frames, or look like it."""
        self.honest = False
        pieces = [self._piece() for _ in range(self.rng.choice([1, 1, 2, 5, 50]))]
        if self.rng.random() < 0.95:
            while sum(map(len, pieces)) > MAX_BATCH // 2:
                pieces.pop()
        first = self.sent_frames + 1
        if self.rng.random() < 0.05:
            first = self.rng.choice(NUMBERS[1:])
        await self._send(first, b"".join(pieces))
        await asyncio.sleep(0)

    def _piece(self) -> bytes:
        rng = self.rng
        stream = rng.choice([*sorted(self.open)[-5:], 1, 2, 3, rng.randrange(1, 600)])
        new = max([0, *self.granted]) + 1 if rng.random() < 0.9 else rng.choice([0, MAX_STREAM])
        number = rng.choice(NUMBERS)
        kind = rng.choices(
            ["open", "odd open", "data", "end", "close", "credit", "ack", "server's", "none"],
            [6, 3, 6, 2, 3, 4, 4, 0.3, 0.3],
        )[0]
        if kind == "open":
            path = rng.choice([*self.paths, *PATHS])
            offered = [rng.choice(OFFERED) for _ in range(rng.choice([0, 0, 1, 2, 5]))]
            document = {"path": path, "subprotocols": offered, "credit": min(number, 2**63 - 1)}
            return _raw(Kind.OPEN, new, json.dumps(document).encode())
        if kind == "odd open":
            document = {"path": "own/echo", "subprotocols": [], "credit": 100_000}
            document[rng.choice(list(document))] = rng.choice(JUNK)
            payloads = [json.dumps(document), json.dumps(rng.choice(JUNK)), "[" * 16_000]
            odd = [payload.encode() for payload in payloads] + [b"\xff", b"", rng.randbytes(30)]
            return _raw(Kind.OPEN, new, rng.choice(odd))
        if kind == "data":
            return _raw(Kind.DATA, stream, b"z" * rng.choice(SIZES), rng.choice([0, 1, 1, 2, 3, 3]))
        if kind == "end":
            return _raw(Kind.END, stream)
        if kind == "close":
            code = rng.choice([b"", b"\x03\xe8bye", b"\x03\xee", b"\x0f\xa0", b"\x13\x87", b"\x00"])
            return _raw(Kind.CLOSE, stream if rng.random() < 0.98 else 0, code)
        if kind == "credit":
            return _raw(Kind.CREDIT, stream, NUMBER.pack(number))
        if kind == "ack":
            received = self.heard_frames if rng.random() < 0.95 else number
            return _raw(Kind.ACK, 0, NUMBER.pack(received) + NUMBER.pack(number))
        if kind == "server's":
            return rng.choice(
                [
                    frames.encode(frames.opened_frame(stream, None, 1)),
                    frames.encode(frames.hello_frame({"received": 0})),
                ]
            )
        return HEADER.pack(
            rng.randrange(256),
            rng.randrange(256),
            rng.randrange(2**32),
            rng.choice([0, 5, 2**32 - 1]),
        )

    async def _follow(self) -> None:
        """One stream without frames, beside the tunnel; it is left before it ends."""
        path = quote(self.rng.choice([*self.paths, *PATHS]), errors="surrogatepass")
        other = EventCarrier(self.server, lambda *batch: None)
        await other.open(f"?path={path}")
        self.acts.append(f"followed {path[:60]}: {other.status}")
        if other.status >= 500:
            raise BrokenRuleError(f"to follow a stream was answered {other.status}")
        await other.leave()

    async def _send_odd(self) -> None:
        """What the carrier does not take for a batch."""
        self.honest = False
        self.acts.append("sent something odd")
        await self.carrier.send_odd(self.rng)


def _raw(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(kind, flags, stream, len(payload)) + payload


async def attack(
    server: Server, paths: Sequence[str], seed: str, seconds: float, at_once: int = 4
) -> Counter[str]:
    """Attack for so long, by so many clients at once; how often what came of it.

    Raises ``BrokenRuleError``, by the first that the server did wrong to.
    """
    outcomes: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def attacker(number: int) -> None:
        count = 0
        while loop.time() < until:
            count += 1
            outcomes[await Attack(server, paths, f"{seed}-{number}-{count}").run()] += 1

    running = [asyncio.ensure_future(attacker(number)) for number in range(at_once)]
    try:
        await asyncio.gather(*running)
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return outcomes
