"""The guard's main job in one process, as a first look; the clauses have modules of their own."""

from __future__ import annotations

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.knock import bearing, knock, refused


async def test_token_by_subprotocol_opens(jp_serverapp, http_server, jp_http_port, jp_base_url):
    path = f"{jp_base_url}api/events/subscribe"
    token = jp_serverapp.identity_provider.token
    async with await knock(jp_http_port, path, [MARKER, bearing(token), REASON_MARKER]) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
        assert socket.set_cookies == []


async def test_wrong_token_is_told(jp_serverapp, http_server, jp_http_port, jp_base_url):
    path = f"{jp_base_url}api/events/subscribe"
    socket = await refused(jp_http_port, path, [MARKER, bearing("wrong"), REASON_MARKER])
    assert (socket.code, socket.slug) == (4403, "token_rejected")


async def test_an_answer_that_is_no_refusal_leaves_nothing_behind(
    jp_serverapp, http_server, jp_http_port, jp_base_url, guard
):
    """Tornado's own 400 and 426 end the handshake too: no timer, nothing opening."""
    path = f"{jp_base_url}api/events/subscribe?token={jp_serverapp.identity_provider.token}"
    for drop, status in (
        ("Sec-WebSocket-Key", 400),
        ("Sec-WebSocket-Version", 426),
        ("Connection", 400),
    ):
        socket = await refused(jp_http_port, path, drop=(drop,))
        assert socket.status == status
        assert not guard.opening
