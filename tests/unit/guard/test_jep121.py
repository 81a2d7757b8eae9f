"""What JEP 121 asks of servers, and where ours answers otherwise on purpose.

The levels and the reasons for deviating stand in docs/reference/conformance.md.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.support.knock import bearing, knock, refused

LETTER = [{"close_reasons": "explicit"}, {"close_reasons": "never"}]
"""Settings under which every MUST holds to the letter."""


@pytest.fixture
def token(jp_serverapp) -> str:
    found: str = jp_serverapp.identity_provider.token
    return found


@pytest.fixture
def events(jp_serverapp, http_server, jp_base_url) -> str:
    return f"{jp_base_url}api/events/subscribe"


async def kernel_path(jp_fetch, jp_base_url) -> str:
    answer = await jp_fetch("api", "kernels", method="POST", body=json.dumps({"name": "echo"}))
    return f"{jp_base_url}api/kernels/{json.loads(answer.body)['id']}/channels"


@pytest.mark.parametrize("order", ["marker first", "token first"])
async def test_J6_J7_token_is_accepted_in_the_header(order, jp_http_port, events, token):
    offer = [MARKER, bearing(token)]
    if order == "token first":
        offer.reverse()
    async with await knock(jp_http_port, events, offer) as socket:
        assert socket.status == 101


async def test_J7_J12_marker_may_be_missing_beside_a_subprotocol_of_the_handler(
    jp_fetch, jp_http_port, jp_base_url, token
):
    path = await kernel_path(jp_fetch, jp_base_url)
    async with await knock(jp_http_port, path, [KERNEL, bearing(token)]) as socket:
        assert (socket.status, socket.subprotocol) == (101, KERNEL)


async def test_J8_token_is_url_decoded(jp_serverapp, jp_http_port, events):
    awkward = "a b/(ü)%,;=+"
    jp_serverapp.identity_provider.token = awkward
    async with await knock(
        jp_http_port, events, [MARKER, bearing(quote(awkward, safe=""))]
    ) as socket:
        assert socket.status == 101


@pytest.mark.parametrize("token_ws_config", LETTER)
@pytest.mark.parametrize(("good", "status"), [(True, 101), (False, 403)])
async def test_J9_token_counts_like_one_in_authorization(jp_http_port, events, token, good, status):
    sent = token if good else "wrong"
    by_header = await knock(jp_http_port, events, headers={"Authorization": f"Bearer {sent}"})
    by_subprotocol = await knock(jp_http_port, events, [MARKER, bearing(sent)])
    async with by_header, by_subprotocol:
        assert by_header.status == by_subprotocol.status == status
        by_header_set, by_subprotocol_set = (
            {cookie.partition("=")[0] for cookie in socket.set_cookies}
            for socket in (by_header, by_subprotocol)
        )
        assert by_header_set == by_subprotocol_set


@pytest.mark.parametrize("token_ws_config", LETTER)
async def test_J10_J13_rejected_token_is_a_403_without_the_marker(jp_http_port, events):
    socket = await refused(jp_http_port, events, [MARKER, bearing("wrong")])
    assert (socket.status, socket.subprotocol) == (403, None)


@pytest.mark.parametrize(
    "token_ws_config", [{"close_reasons": "offered"}, {"close_reasons": "always"}]
)
async def test_J10_J13_deviation_rejected_token_is_told_by_close_code(jp_http_port, events):
    socket = await refused(jp_http_port, events, [MARKER, bearing("wrong")])
    assert (socket.status, socket.subprotocol) == (101, MARKER)
    assert (socket.code, socket.slug) == (4403, "token_rejected")


async def test_J11_accepted_token_is_answered_with_the_only_supported_subprotocol(
    jp_http_port, events, token
):
    async with await knock(jp_http_port, events, ["unknown", MARKER, bearing(token)]) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)


async def test_J11_deviation_choice_of_the_handler_goes_before_the_marker(
    jp_fetch, jp_http_port, jp_base_url, token
):
    path = await kernel_path(jp_fetch, jp_base_url)
    async with await knock(jp_http_port, path, [MARKER, bearing(token), KERNEL]) as socket:
        assert (socket.status, socket.subprotocol) == (101, KERNEL)


async def test_J12_marker_is_a_supported_subprotocol(
    jp_fetch, jp_http_port, jp_base_url, events, token
):
    for path in (events, await kernel_path(jp_fetch, jp_base_url)):
        async with await knock(jp_http_port, path, [MARKER, bearing(token)]) as socket:
            assert (socket.status, socket.subprotocol) == (101, MARKER)


@pytest.mark.parametrize("offer", [[MARKER], [MARKER, f"{MARKER}."], [MARKER, REASON_MARKER]])
async def test_J13_marker_is_not_accepted_without_a_token(jp_http_port, events, token, offer):
    headers = {"Authorization": f"Bearer {token}"}
    async with await knock(jp_http_port, events, offer, headers) as socket:
        assert socket.status == 101
        assert socket.subprotocol != MARKER


@pytest.mark.parametrize("scheme", ["token", "Bearer"])
async def test_J14_J15_token_in_authorization_still_works(jp_http_port, events, token, scheme):
    headers = {"Authorization": f"{scheme} {token}"}
    async with await knock(jp_http_port, events, headers=headers) as socket:
        assert (socket.status, socket.subprotocol) == (101, None)


async def test_J14_J15_token_in_the_url_still_works(jp_http_port, events, token):
    async with await knock(jp_http_port, f"{events}?token={token}") as socket:
        assert (socket.status, socket.subprotocol) == (101, None)
