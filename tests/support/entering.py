"""Entering a server by websocket, wherever it is: as far as the door, and as far as a cell that runs."""

from __future__ import annotations

from urllib.parse import urlsplit

from jupyter_token_ws.protocol.subprotocols import KERNEL, REASON_MARKER, offer_subprotocols
from tests.support.clients import connect_websockets
from tests.support.door import EVENTS
from tests.support.kernel_messages import execute, read
from tests.support.knock import knock
from tests.support.process import request

OPEN = (0, "")
"""What ``enter`` says of who was let in."""


async def enter(
    server: str, token: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """``OPEN``, or code and slug of the refusal, for who shows a token, by subprotocol, and headers."""
    offer = [REASON_MARKER] if token is None else offer_subprotocols([], token)
    address = urlsplit(server)
    assert address.port is not None
    async with await knock(address.port, address.path + EVENTS, offer, headers) as socket:
        assert socket.status == 101, socket.body
        # Before the pong a socket that is refused sends its close frame.
        await socket.send(opcode=9)
        frame = await socket.read_frame()
        if frame == (10, b""):
            return OPEN
        assert frame is not None
        code, reason = int.from_bytes(frame[1][:2], "big"), frame[1][2:].decode()
        return code, reason.partition(":")[0]


async def run_cell(server: str, token: str, code: str) -> str:
    """What a cell prints, by a kernel that is started for it, with nothing but a token."""
    model = request("POST", f"{server}api/kernels", {"name": "python3"}, token=token)
    assert model.status == 201, model
    kernel = model.json()["id"]
    address = f"{server.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
    printed, done = "", False
    async with await connect_websockets(address, offer_subprotocols([KERNEL], token), {}) as client:
        assert (client.status, client.subprotocol) == (101, KERNEL)
        asked = execute(code)
        await client.send(asked.frame(KERNEL))
        while not (printed.endswith("\n") and done):
            frame = await client.receive()
            assert frame is not None, (client.code, client.reason)
            message = read(frame)
            if message["parent_header"].get("msg_id") == asked.id:
                kind, content = message["header"]["msg_type"], message["content"]
                printed += content["text"] if kind == "stream" else ""
                done = done or kind == "execute_reply"
    assert request("DELETE", f"{server}api/kernels/{kernel}", token=token).status == 204
    return printed


def ticket(server: str, token: str) -> str:
    """A ticket for a token."""
    return _ticket(server, {"Authorization": f"token {token}"})


def ticket_for_cookie(server: str, cookie: str) -> str:
    """A ticket for the cookies of a page of the server's."""
    xsrf = cookie.partition("_xsrf=")[2].partition(";")[0]
    address = urlsplit(server)
    origin = f"{address.scheme}://{address.netloc}"
    return _ticket(server, {"Cookie": cookie, "X-XSRFToken": xsrf, "Origin": origin})


def _ticket(server: str, headers: dict[str, str]) -> str:
    answer = request("POST", f"{server}api/token-ws/login", {}, headers)
    assert answer.status == 200, answer
    found: str = answer.json()["token"]
    return found
