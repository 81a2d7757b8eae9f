"""The vectors of frames, batches and whole conversations."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol import tunnel as machine
from jupyter_token_ws.protocol.frames import FIN, TEXT, Frame, FrameError, Kind, decode, encode
from jupyter_token_ws.protocol.tunnel import OutOfOrderError, Side, Tunnel, TunnelError
from jupyter_token_ws.tunnel.event_stream import batch_event, read_post
from jupyter_token_ws.tunnel.socket_carrier import NUMBER
from tests.support.vectors import vectors


def described(frame: Frame) -> dict[str, Any]:
    """A frame as the vectors tell it. Raises ``FrameError`` where its payload is none."""
    kind, stream, payload, flags = frame
    told: dict[str, Any] = {"kind": kind.name.lower()}
    if kind not in (Kind.HELLO, Kind.ACK):
        told["stream"] = stream
    if kind is Kind.OPEN:
        told["path"], told["subprotocols"], told["credit"] = frames.read_open(payload)
    elif kind is Kind.OPENED:
        told["subprotocol"], told["credit"] = frames.read_opened(payload)
    elif kind is Kind.DATA:
        told |= {"payload": payload.hex(), "fin": bool(flags & FIN), "text": bool(flags & TEXT)}
    elif kind is Kind.CLOSE:
        told["code"], told["reason"] = frames.read_close(payload)
    elif kind is Kind.HELLO:
        told["document"] = frames.read_hello(payload)
        frames.received_of(told["document"])
    elif kind is Kind.ACK:
        told["received"], told["limit"] = frames.read_ack(payload)
    elif kind is Kind.CREDIT:
        told["limit"] = frames.read_credit(payload)
    return told


def made(told: dict[str, Any]) -> Frame:
    """The frame that is told."""
    stream = told.get("stream", 0)
    match told:
        case {"kind": "open", "path": path, "subprotocols": offered, "credit": credit}:
            return frames.open_frame(stream, path, offered, credit)
        case {"kind": "opened", "subprotocol": subprotocol, "credit": credit}:
            return frames.opened_frame(stream, subprotocol, credit)
        case {"kind": "data", "payload": payload, "fin": fin, "text": text}:
            flags = (FIN if fin else 0) | (TEXT if text else 0)
            return Frame(Kind.DATA, stream, bytes.fromhex(payload), flags)
        case {"kind": "close", "code": code, "reason": reason}:
            return frames.close_frame(stream, code, reason)
        case {"kind": "hello", "document": document}:
            return frames.hello_frame(document)
        case {"kind": "ack", "received": received, "limit": limit}:
            return frames.ack_frame(received, limit)
        case {"kind": "credit", "limit": limit}:
            return frames.credit_frame(stream, limit)
    return Frame(Kind[told["kind"].upper()], stream)


@vectors("frames", "encode")
def test_encode(case):
    data = encode(made(case["frame"]))
    assert data.hex() == case["bytes"]
    assert [described(frame) for frame in decode(data)] == [case["frame"]]


@vectors("frames", "decode")
def test_decode(case):
    read = decode(bytes.fromhex(case["bytes"]))
    assert [described(frame) for frame in read] == case["frames"]


@vectors("frames", "refused")
def test_refused(case):
    data = bytes.fromhex(case["bytes"])
    data += bytes.fromhex(case.get("then", "")) * case.get("times", 0)
    data += bytes.fromhex(case.get("rest", ""))
    reading = decode(data)
    before = [described(next(reading)) for _ in range(case["before"])]
    assert len(before) == case["before"]
    with pytest.raises(FrameError):
        described(next(reading))


@vectors("frames", "batches")
def test_batches(case):
    data = b"".join(encode(made(frame)) for frame in case["frames"])
    assert (NUMBER.pack(case["first"]) + data).hex() == case["websocket"]
    assert batch_event(case["first"], data).decode() == case["event"]
    assert read_post(case["post"].encode()) == (case["first"], data, case.get("ask", False))


@vectors("frames", "refused_posts")
def test_refused_posts(case):
    with pytest.raises(Refused) as raised:
        read_post(case["post"].encode())
    assert raised.value.slug == "bad_request"


# -- conversations -----------------------------------------------------------------------------------


def named(event: machine.Event) -> list[Any]:
    """An event as the vectors tell it."""
    match event:
        case machine.Asked(stream, path, offered):
            return ["asked", stream, path, list(offered)]
        case machine.Opened(stream, subprotocol):
            return ["opened", stream, subprotocol]
        case machine.Data(stream, payload, last, text):
            return ["data", stream, payload.hex(), last, text]
        case machine.Ended(stream):
            return ["ended", stream]
        case machine.Closed(stream, code, reason):
            return ["closed", stream, code, reason]
        case machine.Drained(stream):
            return ["drained", stream]
        case machine.Attached(hello):
            return ["attached", hello]
        case machine.TunnelClosed(code, reason):
            return ["tunnel_closed", code, reason]


def does(tunnel: Tunnel, what: str, *given: Any) -> None:
    if what == "send":
        stream, payload, text = given
        tunnel.send(stream, bytes.fromhex(payload), text=text)
    else:
        getattr(tunnel, what)(*given)


def slug_of(error: Exception | None) -> str | None:
    if isinstance(error, OutOfOrderError):
        return "out_of_order"
    return error.slug if isinstance(error, TunnelError) else None


def attempt(call: Any) -> str | None:
    try:
        call()
    except (OutOfOrderError, TunnelError) as error:
        return slug_of(error)
    return None


@vectors("frames", "conversations")
def test_conversations(case):
    tunnel = Tunnel(Side(case["side"]), hello={"tunnel": "t"}, **case["options"])
    for number, step in enumerate(case["steps"]):
        match step:
            case {"do": act}:
                refused = attempt(lambda act=act: does(tunnel, *act))
                assert refused == step.get("refused"), number
            case {"hear": heard}:
                data = bytes.fromhex(heard["bytes"])
                if "frames" in heard:
                    assert [described(frame) for frame in decode(data)] == heard["frames"], number
                first = heard["first"]
                refused = attempt(lambda first=first, data=data: tunnel.receive(first, data))
                assert refused == heard.get("refused"), number
            case {"say": None}:
                assert tunnel.take(10**9) is None, number
            case {"say": said}:
                batch = tunnel.take(10**9)
                assert batch is not None, number
                told = [described(frame) for frame in decode(batch[1])]
                assert (batch[0], told) == (said["first"], said["frames"]), number
            case {"events": events}:
                assert [named(event) for event in tunnel.events()] == events, number
