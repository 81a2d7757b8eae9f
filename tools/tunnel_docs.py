"""What docs/reference/tunnel.md says that stands in the code: the table of transitions, drawn as well, the
limits, and a conversation with its bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from jupyter_token_ws.protocol import frames, tunnel
from jupyter_token_ws.protocol.frames import Frame, Kind
from jupyter_token_ws.protocol.tunnel import TRANSITIONS, Move, Side, State, Tunnel
from jupyter_token_ws.tunnel.event_stream import POST_WAIT, batch_event
from jupyter_token_ws.tunnel.socket_carrier import MAX_BATCH, NUMBER
from jupyter_token_ws.tunnel.tunnels import ACK_DELAY, MAX_WAITING, TunnelOptions

# -- transitions -------------------------------------------------------------------------------------


def _merged(moves: Iterable[Move]) -> str:
    """Several moves in words: ``send or receive DATA``."""
    by_frame: dict[str, list[str]] = {}
    for move in moves:
        verb, _, frame = move.value.partition(" ")
        by_frame.setdefault(frame, []).append(verb)
    by_verb: dict[str, list[str]] = {}
    for frame, verbs in by_frame.items():
        by_verb.setdefault(" or ".join(verbs), []).append(frame)
    return ", ".join(f"{verbs} {' or '.join(names)}" for verbs, names in by_verb.items())


def _arrows() -> dict[tuple[State, State], list[Move]]:
    arrows: dict[tuple[State, State], list[Move]] = {}
    for (before, move), after in TRANSITIONS.items():
        arrows.setdefault((before, after), []).append(move)
    return arrows


def transitions() -> list[tuple[str, str, str]]:
    """State, what may happen, the state after that."""
    return [
        (before.value, _merged(moves), after.value) for (before, after), moves in _arrows().items()
    ]


WIDTH, HEIGHT = 980, 470
BOX_WIDTH, BOX_HEIGHT = 150, 54

PLACES = {
    State.ASKING: (100, 80),
    State.OPEN: (480, 80),
    State.SENT_END: (820, 80),
    State.WITHDRAWING: (100, 370),
    State.CLOSING: (280, 240),
    State.ASKED: (480, 240),
    State.GOT_END: (650, 240),
    State.CLOSING_SENT_END: (820, 240),
    State.CLOSING_GOT_END: (480, 400),
    State.GONE: (820, 400),
}
"""The middle of each state's box."""

BENDS = {(State.SENT_END, State.GONE): [(935, 80), (935, 400)]}
"""Arrows that go around a box."""

BEGINS = {State.ASKING: "a client's streams", State.ASKED: "a server's streams"}
TO_GONE = Move.RECEIVE_CLOSE


class _Point(NamedTuple):
    x: float
    y: float


def _border(inside: tuple[float, float], outside: tuple[float, float]) -> _Point:
    """Where the line to a point leaves a box."""
    (x, y), dx, dy = inside, outside[0] - inside[0], outside[1] - inside[1]
    scale = min(
        BOX_WIDTH / 2 / abs(dx) if dx else float("inf"),
        BOX_HEIGHT / 2 / abs(dy) if dy else float("inf"),
    )
    return _Point(round(x + dx * scale, 1), round(y + dy * scale, 1))


def _arrow(before: State, after: State, moves: list[Move]) -> list[str]:
    bends: list[tuple[float, float]] = [*BENDS.get((before, after), [])]
    start = _border(PLACES[before], bends[0] if bends else PLACES[after])
    end = _border(PLACES[after], bends[-1] if bends else PLACES[before])
    points = [start, *map(_Point._make, bends), end]
    middle = len(points) // 2
    x = (points[middle - 1].x + points[middle].x) / 2
    y = (points[middle - 1].y + points[middle].y) / 2
    path = " L ".join(f"{point.x:g} {point.y:g}" for point in points)
    return [
        f'<path class="line" d="M {path}" marker-end="url(#tip)"/>',
        f'<text class="soft" x="{x:g}" y="{y + 4:g}" text-anchor="middle">{escape(_merged(moves))}</text>',
    ]


def diagram() -> str:
    """The transitions as a picture, in SVG.

    Raises:
        ValueError: a state has no place, or one cannot be closed by the other side and the note is wrong.
    """
    if set(PLACES) != set(State):
        raise ValueError("each state needs a place")
    left = {before for before, _ in TRANSITIONS}
    if any(TRANSITIONS.get((state, TO_GONE)) is not State.GONE for state in left):
        raise ValueError("not every state is left for gone by a CLOSE")
    arrows, boxes = [], []
    for (before, after), moves in _arrows().items():
        drawn = [move for move in moves if (after, move) != (State.GONE, TO_GONE)]
        if before is not after and drawn:
            arrows += _arrow(before, after, drawn)
    for state, (x, y) in PLACES.items():
        stays = [move for (each, move), after in TRANSITIONS.items() if each is after is state]
        below = _merged(stays) or BEGINS.get(state, "")
        ours = "ours" if state in (State.OPEN, State.GONE) else "box"
        boxes.append(
            f'<rect class="{ours}" x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}"'
            f' width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
        )
        name_y = y - 4 if below else y + 5
        boxes.append(
            f'<text class="ink" x="{x}" y="{name_y}" text-anchor="middle">{state.value}</text>'
        )
        if below:
            boxes.append(
                f'<text class="soft" x="{x}" y="{y + 15}" text-anchor="middle">{escape(below)}</text>'
            )
    told = "; ".join(f"{before}: {moves}, then {after}" for before, moves, after in transitions())
    lines = "\n  ".join([*arrows, *boxes])
    note = f"{TO_GONE.value} leads from every state to gone; no arrow shows it."
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"
  width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title desc">
  <title id="title">The states of a stream</title>
  <desc id="desc">What may happen in each state, and the state after that. {escape(told)}.</desc>
  <style>
    .page {{ fill: #ffffff; stroke: #c9ced6 }}
    .ink {{ fill: #1c2430; font: 15px system-ui, sans-serif }}
    .soft {{ fill: #566273; font: 12px system-ui, sans-serif }}
    .soft {{ paint-order: stroke; stroke: #ffffff; stroke-width: 4px }}
    .box {{ fill: #f3f5f8; stroke: #8a96a6 }}
    .ours {{ fill: #e6effb; stroke: #4a7dbd }}
    .line {{ stroke: #566273; stroke-width: 1.5; fill: none }}
    .tip {{ fill: #566273 }}
    rect + .ink + .soft {{ stroke: none }}
    @media (prefers-color-scheme: dark) {{
      .page {{ fill: #161b22; stroke: #3a4450 }}
      .ink {{ fill: #e6eaf0 }} .soft {{ fill: #a5b0bf; stroke: #161b22 }}
      .box {{ fill: #222a35; stroke: #6b7787 }}
      .ours {{ fill: #1b2d45; stroke: #6b9bd8 }}
      .line {{ stroke: #a5b0bf }} .tip {{ fill: #a5b0bf }}
    }}
  </style>
  <defs>
    <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
      <path class="tip" d="M 0 0 L 8 4 L 0 8 z"/>
    </marker>
  </defs>
  <rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>
  {lines}
  <text class="soft" x="28" y="{HEIGHT - 22}">{note}</text>
</svg>
"""


# -- limits ------------------------------------------------------------------------------------------


def limits() -> list[tuple[str, str, str]]:
    """Every bound: what is bounded, by how much, and what is the answer to more."""
    options = TunnelOptions()

    def option(name: str) -> str:
        return f", [`{name}`](configuration.md#{name})"

    return [
        (
            "path, subprotocols and credit of an `OPEN`; `HELLO`",
            f"{frames.MAX_TEXT:,} bytes of JSON",
            "tunnel: `bad_request`",
        ),
        ("payload of a `DATA`", f"{frames.MAX_DATA:,} bytes", "tunnel: `bad_request`"),
        ("number of a stream", f"{frames.MAX_STREAM:,}", "tunnel: `bad_request`"),
        ("a batch as a websocket message", f"{MAX_BATCH:,} bytes", "carrier: 1009"),
        (
            "a batch as an event",
            f"about {frames.MAX_DATA:,} bytes of frames",
            "the server sends no more in one",
        ),
        (
            "body of a `POST`",
            f"{options.max_post_size:,} bytes{option('tunnel_max_post_size')}",
            "413 `bad_request`, unread",
        ),
        (
            "`POST`s that wait for earlier frames",
            f"{MAX_WAITING} a tunnel, {POST_WAIT:g} s each",
            "409 `out_of_order`",
        ),
        (
            "`DATA` of a stream, headers included, that its reader has not taken",
            f"{options.stream_window:,} bytes{option('tunnel_stream_window')}",
            "tunnel: `bad_request`",
        ),
        (
            "`DATA` of all streams since the last `ACK`",
            (
                f"{options.window:,} bytes{option('tunnel_window')};"
                f" {tunnel.INITIAL_TUNNEL_CREDIT:,} before the first"
            ),
            "tunnel: `bad_request`",
        ),
        (
            "memory for what the server sent and the client has not acknowledged",
            f"{options.replay:,} bytes{option('tunnel_replay')}",
            "what follows waits",
        ),
        (
            "frames other than `DATA` that are not acknowledged; one longer than 256 bytes counts for more",
            f"{tunnel.MAX_UNACKNOWLEDGED:,}",
            "tunnel: `bad_request`",
        ),
        (
            "streams at a time",
            f"{options.max_streams:,}{option('tunnel_max_streams')}",
            "stream: `too_many_connections`",
        ),
        (
            "streams at a time, the refused ones included until they are closed by both",
            f"{2 * options.max_streams:,}",
            "tunnel: `bad_request`",
        ),
        (
            "tunnels of a principal, those without a carrier included",
            f"{options.max_per_principal:,}{option('max_tunnels_per_principal')}",
            "carrier: `too_many_connections`",
        ),
        (
            "time without a carrier",
            f"{options.resume_window:g} s{option('tunnel_resume_window')}",
            "the tunnel is gone: `not_found`",
        ),
        (
            "time without a stream",
            f"{options.idle_timeout:g} s{option('tunnel_idle_timeout')}",
            "tunnel: `open_timeout`",
        ),
        (
            "an acknowledgement that goes along with nothing",
            (
                f"after {ACK_DELAY:g} s; at once after {tunnel.ACK_EVERY:,} bytes of `DATA`"
                f" or {tunnel.ACK_EVERY_FRAMES} frames"
            ),
            "",
        ),
    ]


# -- an example --------------------------------------------------------------------------------------


def _told(frame: Frame) -> str:
    kind, stream, payload, flags = frame
    if payload[:1] == b"{" or kind is Kind.DATA:
        shown = payload.decode()
    elif kind is Kind.CLOSE and payload:
        shown = f"{payload[:2].hex()} {payload[2:].decode()}"
    else:
        shown = " ".join(payload[at : at + 8].hex() for at in range(0, len(payload), 8))
    header = frames.HEADER.pack(kind, flags, stream, len(payload)).hex()
    spaced = f"{header[:2]} {header[2:4]} {header[4:12]} {header[12:]}"
    return f"  {spaced}  {kind.name:6} {shown}".rstrip()


class _Pair:
    """Two sides, and what is written down of what they say."""

    def __init__(self) -> None:
        document = {
            "tunnel": "Zv3kN0uQ",
            "resume_window": 60,
            "max_streams": 256,
            "max_post_size": 524288,
            "keepalive": {"interval": 25, "timeout": 75},
        }
        self.client = Tunnel(Side.CLIENT)
        self.server = Tunnel(Side.SERVER, hello=document)
        self.lines: list[str] = []
        self.batches: list[tuple[int, bytes]] = []

    def note(self, text: str) -> None:
        self.lines += ["", f"# {text}"]

    def brings(self, who: str) -> None:
        """What one side has to say comes to the other."""
        one, other = (self.client, self.server) if who == "client" else (self.server, self.client)
        batch = one.take()
        if batch is None:
            raise ValueError(f"the {who} has nothing to say")
        first, data = batch
        self.batches.append(batch)
        self.lines.append(f"{who}, from frame {first}")
        self.lines += map(_told, frames.decode(data))
        other.receive(first, data)
        for event in other.events():
            if isinstance(event, tunnel.Data):
                other.consumed(event.stream, event.size)


def example() -> str:
    """A stream from its opening to its end, its carrier lost meanwhile, with all bytes; and one batch as each
    carrier brings it."""
    pair = _Pair()
    pair.lines = ["# the server begins, on each carrier"]
    pair.server.attach()
    pair.brings("server")
    pair.note("a terminal is opened, and answered")
    stream = pair.client.open("terminals/websocket/1")
    pair.brings("client")
    pair.server.accept(stream)
    pair.brings("server")
    pair.note("a message each way")
    pair.client.send(stream, b'["stdin","ls\\r"]', text=True)
    pair.brings("client")
    batch = pair.batches[-1]
    pair.server.send(stream, b'["stdout","a.txt"]', text=True)
    pair.brings("server")
    pair.note("the carrier is lost, and with it the next message; the client comes back:")
    lost = pair.client.received
    pair.lines.append(f"# GET {{base}}api/token-ws/tunnel?tunnel=Zv3kN0uQ&received={lost}")
    pair.server.send(stream, b'["stdout","b.txt"]', text=True)
    pair.server.take()
    for side in (pair.client, pair.server):
        side.detach()
    pair.server.attach(lost)
    pair.brings("server")
    pair.brings("client")
    pair.note("the client closes the stream, and the server answers")
    pair.client.close(stream, 1000, "done")
    pair.brings("client")
    pair.brings("server")
    first, data = batch
    body = json.dumps(
        {"first": first, "frames": base64.b64encode(data).decode()}, separators=(",", ":")
    )
    return "\n".join(
        [
            "```text",
            *pair.lines,
            "```",
            "",
            "What the client said with its message, as a message of the websocket:",
            "",
            "```text",
            (NUMBER.pack(first) + data).hex(),
            "```",
            "",
            "As the body of a `POST`:",
            "",
            "```json",
            body,
            "```",
            "",
            "An event with the same batch would be:",
            "",
            "```text",
            batch_event(first, data).decode().rstrip(),
            "```",
        ]
    )
