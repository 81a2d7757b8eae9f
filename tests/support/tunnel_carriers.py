"""Clients of a tunnel over one carrier, which do as little as they can: the test says what happens when."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from contextlib import suppress
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from jupyter_token_ws.protocol.subprotocols import TUNNEL, offer_subprotocols
from jupyter_token_ws.protocol.tunnel import Attached, Closed, Data, Ended, Opened, Side, Tunnel
from jupyter_token_ws.tunnel.tunnels import PATH
from tests.support.door import Door
from tests.support.knock import TIMEOUT, Knock
from tests.support.tunnel_peer import FakeSocket

NUMBER = struct.Struct(">Q")


class Events:
    """An event stream as it comes: ``(name, id, data)``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def begin(self) -> None:
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), TIMEOUT)).decode()
        first, *rest = head.rstrip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}

    async def next(self) -> tuple[str, int | None, str] | None:
        """HTTP/1.0: without chunks, to the end of the connection."""
        name, number = "", None
        data: list[str] = []
        while True:
            line = (await asyncio.wait_for(self._reader.readline(), TIMEOUT)).decode()
            if not line:
                return None
            if line == "\n":
                return name, number, "\n".join(data)
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                number = int(value)
            elif field == "data":
                data.append(value)

    async def body(self) -> bytes:
        read = await asyncio.wait_for(self._reader.read(), TIMEOUT)
        await self.close()
        return read

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def cut(self) -> None:
        self._writer.transport.abort()


class FarEvents:
    """A client of a tunnel over event streams."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.client = Tunnel(Side.CLIENT)
        self.sockets: dict[int, FakeSocket] = {}
        self.hello: dict[str, Any] = {}
        self.events: Events | None = None
        self.others: list[tuple[str, Any]] = []
        self._moving: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self.token = door.token
        self.mute = False
        self.all: list[Events] = []

    async def get(self, query: str = "", **headers: str) -> Events:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.door.port, limit=2**21)
        shown = {"Host": self.door.host, "Authorization": f"token {self.token}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = [f"{name}: {value}\r\n" for name, value in shown.items() if value]
        writer.write(f"GET {self.door.base}{PATH}{query} HTTP/1.0\r\n{''.join(lines)}\r\n".encode())
        events = Events(reader, writer)
        self.all.append(events)
        await events.begin()
        return events

    async def post(self, body: Any, identity: str | None = None, **headers: str) -> Any:
        shown = {
            "Host": self.door.host,
            "Authorization": f"token {self.token}",
            "Content-Type": "application/json",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        request = HTTPRequest(
            f"http://127.0.0.1:{self.door.port}{self.door.base}{PATH}/{identity or self.hello['tunnel']}",
            method="POST",
            headers={name: value for name, value in shown.items() if value},
            body=body if isinstance(body, (str, bytes)) else json.dumps(body),
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        return answer.code, json.loads(answer.body)

    async def send(self, first: int, data: bytes) -> Any:
        return await self.post({"first": first, "frames": base64.b64encode(data).decode()})

    async def connect(self) -> Events:
        query = ""
        if self.hello:
            query = f"?tunnel={self.hello['tunnel']}&received={self.client.received}"
        self.events = events = await self.get(query)
        assert events.status == 200
        self._hearing = asyncio.ensure_future(self._hear(events))
        return events

    async def _hear(self, events: Events) -> None:
        with suppress(ConnectionError):
            while (event := await events.next()) is not None:
                name, number, data = event
                if name:
                    self.others.append((name, json.loads(data)))
                    if name == "keepalive" and not self.mute:
                        await self.send(self.client._given + 1, b"")
                    continue
                assert number is not None
                self.client.receive(number, base64.b64decode(data))
                self.move()

    def _listen(self) -> None:
        for event in self.client.events():
            if isinstance(event, Attached):
                self.hello = event.hello
            elif isinstance(event, (Opened, Data, Ended, Closed)):
                self.sockets[event.stream].on_event(event)

    def move(self) -> None:
        self._listen()
        if self._moving is None or self._moving.done():
            self._moving = asyncio.ensure_future(self._move())

    async def _move(self) -> None:
        while (batch := self.client.take(ack=True)) is not None:
            status, answer = await self.send(*batch)
            assert (status, list(answer)) == (200, ["received"])

    async def leave(self) -> None:
        """Nothing of it stays."""
        for events in self.all:
            await events.close()
        if self._moving is not None:
            self._moving.cancel()

    async def cut(self) -> None:
        assert self.events is not None
        assert self._hearing is not None
        self.events.cut()
        await self._hearing
        self.client.detach()

    async def ended(self) -> None:
        assert self._hearing is not None
        await asyncio.wait_for(self._hearing, TIMEOUT)

    async def attached(self) -> None:
        while not self.client._attached:
            await asyncio.sleep(0)

    def open(self, path: str, offer: Any = ()) -> FakeSocket:
        number = self.client.open(path, offer)
        self.sockets[number] = FakeSocket(self, number)  # type: ignore[arg-type]
        self.move()
        return self.sockets[number]


class FarSocket:
    """A client of a tunnel, over one carrier after the other."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.client = Tunnel(Side.CLIENT)
        self.sockets: dict[int, FakeSocket] = {}
        self.hello: dict[str, Any] = {}
        self.knock: Knock | None = None
        self.hearing: asyncio.Task[None] | None = None

    async def connect(self, token: str | None = None, **headers: str) -> Knock:
        """By a token, or by headers, with ``_`` for ``-``."""
        query = ""
        if self.hello:
            query = f"?tunnel={self.hello['tunnel']}&received={self.client.received}"
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is None and not shown:
            token = self.door.token
        offer = offer_subprotocols([TUNNEL], token)
        self.knock = knock = await self.door.knock(PATH + query, offer, shown)
        assert knock.status == 101
        self.hearing = asyncio.ensure_future(self._hear(knock))
        return knock

    async def _hear(self, knock: Knock) -> None:
        while (frame := await knock.read_frame()) is not None:
            opcode, payload = frame
            if opcode == 8:
                (knock.code,) = NUMBER.unpack(payload[:2].rjust(8, b"\0"))
                knock.reason = payload[2:].decode()
                break
            if opcode == 2:
                self.client.receive(NUMBER.unpack_from(payload)[0], payload[8:])
                self._listen()
                self.move()

    def _listen(self) -> None:
        for event in self.client.events():
            if isinstance(event, Attached):
                self.hello = event.hello
            elif isinstance(event, (Opened, Data, Ended, Closed)):
                self.sockets[event.stream].on_event(event)

    def move(self) -> None:
        self._listen()
        assert self.knock is not None
        while (batch := self.client.take(ack=True)) is not None:
            first, data = batch
            sending = asyncio.ensure_future(self.knock.send(NUMBER.pack(first) + data))
            sending.add_done_callback(lambda done: done.exception())

    async def ended(self) -> tuple[int | None, str]:
        """The carrier's end, and its reason's slug."""
        assert self.knock is not None
        assert self.hearing is not None
        await asyncio.wait_for(self.hearing, TIMEOUT)
        await self.knock.close()
        return self.knock.code, self.knock.reason.partition(":")[0]

    async def attached(self) -> None:
        while not self.client._attached:
            await asyncio.sleep(0)

    async def cut(self) -> None:
        assert self.knock is not None
        assert self.hearing is not None
        self.knock.vanish()
        await self.hearing
        await self.knock.close()
        self.client.detach()

    def open(self, path: str, offer: Any = ()) -> FakeSocket:
        number = self.client.open(path, offer)
        self.sockets[number] = FakeSocket(self, number)  # type: ignore[arg-type]
        self.move()
        return self.sockets[number]
