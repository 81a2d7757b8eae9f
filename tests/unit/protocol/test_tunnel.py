"""Two sides of a tunnel in memory: whatever is lost on the way, what was sent arrives once and in order."""

from __future__ import annotations

from collections import defaultdict, deque
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jupyter_token_ws.protocol.frames import MAX_DATA, Kind
from jupyter_token_ws.protocol.tunnel import (
    Asked,
    Closed,
    Data,
    Ended,
    Opened,
    OutOfOrderError,
    Side,
    State,
    Tunnel,
    TunnelClosed,
)

MESSAGES = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 60_000).map(bytes),
    st.sampled_from([300_000, MAX_DATA, 1_000_000]).map(bytes),
)


class Peer:
    """One side, and what its application knows."""

    def __init__(self, side: Side, **options: Any) -> None:
        self.tunnel = Tunnel(side, **options)
        self.sent: defaultdict[int, list[tuple[bytes, bool]]] = defaultdict(list)
        self.heard: defaultdict[int, list[tuple[bytes, bool]]] = defaultdict(list)
        self.parts: dict[int, bytes] = {}
        self.unread: deque[Data] = deque()
        self.open: set[int] = set()
        self.asked: list[int] = []
        self.ended_here: set[int] = set()
        self.ended_there: set[int] = set()
        self.closing: set[int] = set()
        self.closed: dict[int, int | None] = {}
        self.tunnel_closed: TunnelClosed | None = None

    def listen(self) -> None:
        for event in self.tunnel.events():
            if isinstance(event, Data):
                assert event.stream not in self.ended_there
                assert event.stream not in self.closed
                self.unread.append(event)
            elif isinstance(event, Asked):
                self.asked.append(event.stream)
            elif isinstance(event, Opened):
                self.open.add(event.stream)
            elif isinstance(event, Ended):
                assert event.stream not in self.ended_there
                self.ended_there.add(event.stream)
            elif isinstance(event, Closed):
                assert event.stream not in self.closed
                self.closed[event.stream] = event.code
                self.open.discard(event.stream)
            elif isinstance(event, TunnelClosed):
                self.tunnel_closed = event

    def read(self) -> None:
        data = self.unread.popleft()
        whole = self.parts.pop(data.stream, b"") + data.payload
        if data.last:
            self.heard[data.stream].append((whole, data.text))
        else:
            self.parts[data.stream] = whole
        self.tunnel.consumed(data.stream, data.size)

    def read_all(self) -> bool:
        """Whether there was something."""
        there = bool(self.unread)
        while self.unread:
            self.read()
        return there

    @property
    def writable(self) -> list[int]:
        return sorted(self.open - self.ended_here - self.closing)


class TwoPeers(RuleBasedStateMachine):
    """The carrier is two lists of batches; it breaks, and what was on it is lost or comes late."""

    @initialize(
        windows=st.tuples(*[st.sampled_from([1, 20_000, 262_144])] * 2),
        tunnels=st.tuples(*[st.sampled_from([1, 300_000, 1_048_576])] * 2),
        kept=st.tuples(*[st.sampled_from([1, 1_048_576])] * 2),
        streams=st.integers(0, 4),
    )
    def begin(self, windows, tunnels, kept, streams):
        options = [
            {"stream_window": window, "tunnel_window": tunnel, "max_kept": most}
            for window, tunnel, most in zip(windows, tunnels, kept, strict=True)
        ]
        self.client = Peer(Side.CLIENT, **options[0])
        self.server = Peer(Side.SERVER, **options[1], max_streams=4)
        self.peers = {"client": self.client, "server": self.server}
        # Of which there may go so little at once that one that is longer takes minutes.
        self.longest = 300 * min(*windows, *tunnels, *kept)
        self.ways: dict[str, deque[tuple[int, bytes]]] = {
            "client": deque(),
            "server": deque(),
        }  # to whom
        self.late: list[tuple[int, bytes]] = []  # POSTs that come after their carrier
        self.connected = False
        self.connect()
        for _ in range(streams):
            self.open_stream()
            self.settle()

    # -- carriers

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self):
        for way in self.ways.values():
            way.clear()
        self.server.tunnel.attach(self.client.tunnel.received)
        self.connected = True

    @precondition(lambda self: self.connected)
    @rule(late=st.booleans())
    def cut(self, late):
        if late:
            self.late += self.ways["server"]
        for way in self.ways.values():
            way.clear()
        self.client.tunnel.detach()
        self.server.tunnel.detach()
        self.connected = False

    @precondition(lambda self: self.connected)
    @rule(
        who=st.sampled_from(["client", "server"]), size=st.integers(1, 500_000), ack=st.booleans()
    )
    def give(self, who, size, ack):
        other = "server" if who == "client" else "client"
        batch = self.peers[who].tunnel.take(size, ack=ack)
        if batch is not None:
            self.ways[other].append(batch)

    @precondition(lambda self: self.connected)
    @rule(who=st.sampled_from(["client", "server"]), twice=st.booleans())
    def bring(self, who, twice):
        if self.ways[who]:
            batch = self.ways[who].popleft()
            self.receive(who, batch)
            if twice and batch[1][0] != Kind.HELLO:
                self.receive(who, batch)

    @precondition(lambda self: len(self.ways["server"]) > 1)
    @rule()
    def overtake(self):
        """A POST that comes before an earlier one has to wait."""
        first, second = self.ways["server"][0], self.ways["server"][1]
        if second[0] > first[0] and second[0] > self.server.tunnel.received + 1:
            before = self.server.tunnel.received
            with pytest.raises(OutOfOrderError):
                self.server.tunnel.receive(*second)
            assert self.server.tunnel.received == before

    @precondition(lambda self: self.late)
    @rule()
    def come_late(self):
        batch = self.late.pop(0)
        with suppress(OutOfOrderError):
            self.receive("server", batch)

    def receive(self, who, batch):
        self.peers[who].tunnel.receive(*batch)
        self.peers[who].listen()

    # -- applications

    @rule()
    def open_stream(self):
        if not self.client.tunnel.closed and self.client.tunnel.streams < 6:
            self.client.tunnel.open("api/x")
        self.client.listen()

    @rule(accept=st.booleans())
    def answer(self, accept):
        while self.server.asked:
            stream = self.server.asked.pop(0)
            state = self.server.tunnel.state(stream)
            if state is not State.ASKED:
                continue
            if accept:
                self.server.tunnel.accept(stream)
                self.server.open.add(stream)
            else:
                self.server.tunnel.close(stream, 4403, "forbidden")
                self.server.closing.add(stream)
            break
        self.server.listen()

    @rule(
        who=st.sampled_from(["client", "server"]),
        data=st.data(),
        text=st.booleans(),
        small=st.booleans(),
    )
    def send(self, who, data, text, small):
        peer = self.peers[who]
        if not peer.writable:
            return
        stream = data.draw(st.sampled_from(peer.writable))
        if small:
            messages = data.draw(st.lists(MESSAGES, max_size=5))
            count = peer.tunnel.send_small(stream, messages, text=text)
            peer.sent[stream] += [(each, text) for each in messages[:count]]
        else:
            message = data.draw(MESSAGES)[: self.longest]
            peer.tunnel.send(stream, message, text=text)
            peer.sent[stream].append((message, text))
        peer.listen()

    @rule(who=st.sampled_from(["client", "server"]), count=st.integers(1, 50))
    def read(self, who, count):
        peer = self.peers[who]
        while peer.unread and count:
            peer.read()
            count -= 1

    @rule(who=st.sampled_from(["client", "server"]), data=st.data())
    def end(self, who, data):
        peer = self.peers[who]
        if peer.writable:
            stream = data.draw(st.sampled_from(peer.writable))
            peer.tunnel.end(stream)
            peer.ended_here.add(stream)
            peer.listen()

    @rule(who=st.sampled_from(["client", "server"]), data=st.data(), now=st.booleans())
    def close(self, who, data, now):
        peer = self.peers[who]
        streams = sorted(peer.open - peer.closing)
        if who == "client":
            streams = [s for s in range(1, peer.tunnel._last_stream + 1) if s not in peer.closed]
        if streams:
            stream = data.draw(st.sampled_from(streams))
            peer.tunnel.close(stream, 1000, "bye", now=now)
            peer.closing.add(stream)
            peer.listen()

    # -- what always holds

    @invariant()
    def nothing_more_than_allowed(self):
        if not hasattr(self, "client"):
            return
        for peer in self.peers.values():
            tunnel = peer.tunnel
            assert tunnel._sent <= tunnel._may_send
            for stream in tunnel._streams.values():
                assert 0 <= stream.sent <= stream.may_send
                assert stream.consumed <= stream.received <= stream.granted
            in_credit = sum(len(b.data) for b in tunnel._kept if b.credit)
            assert in_credit <= tunnel._may_send
            assert in_credit <= tunnel._kept_data <= tunnel._max_kept
            assert tunnel._kept_others == sum(not b.credit for b in tunnel._kept)
            for number, stream in tunnel._streams.items():
                assert stream.waiting == sum(len(rest) for rest, _ in stream.pending)
                assert number not in tunnel._ready or stream.pending
        for way, back in (("client", "server"), ("server", "client")):
            self.arrived(self.peers[way], self.peers[back])

    def arrived(self, sender, receiver):
        for stream, heard in receiver.heard.items():
            assert heard == sender.sent[stream][: len(heard)]

    def teardown(self):
        """Once all is let through, everything that was not cut off by a closing has arrived, and all ends."""
        if not hasattr(self, "client"):
            return
        if not self.connected:
            self.connect()
        self.settle()
        both = self.peers.values()
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            for stream, sent in sender.sent.items():
                if stream not in sender.closing | receiver.closing:
                    assert receiver.heard[stream] == sent
                    assert sender.tunnel.unsent(stream) == 0
        for stream in range(1, self.client.tunnel._last_stream + 1):
            self.client.tunnel.close(stream, 1000)
        self.settle()
        for peer in both:
            assert peer.tunnel.streams == 0
            assert not peer.open
            assert set(peer.closed) == set(range(1, self.client.tunnel._last_stream + 1))
        self.server.tunnel.take(ack=True)
        assert self.client.tunnel.kept_bytes == self.server.tunnel.kept_bytes == 0
        self.client.tunnel.close_tunnel()
        self.settle()
        assert self.server.tunnel_closed == TunnelClosed(1001, "")

    def settle(self):
        moved = True
        while moved:
            self.answer(True)
            # First, for reading makes credit, which is something to tell.
            read = [peer.read_all() for peer in self.peers.values()]
            moved = any(read)
            for who in ("client", "server"):
                before = len(self.ways[who])
                self.give("server" if who == "client" else "client", 200_000, True)
                moved = moved or len(self.ways[who]) > before or bool(self.ways[who])
                while self.ways[who]:
                    self.bring(who, False)


TestTwoPeers = TwoPeers.TestCase
TestTwoPeers.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
