"""What JEP 121 asks of clients, held by the functions that every client of ours offers with."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest

from jupyter_token_ws.protocol.clients import TokenRoute, token_route
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, offer_subprotocols

AWKWARD = "a b/(ü)%,;=+"
CAPABILITIES = {"token": {"subprotocol": MARKER}}


def test_J1_token_goes_into_the_subprotocol_header_and_nowhere_else():
    for browser in (True, False):
        assert token_route(CAPABILITIES, browser=browser) is TokenRoute.SUBPROTOCOL
    assert f"{MARKER}.secret" in offer_subprotocols(token="secret")


def test_J2_J3_entry_is_prefix_and_url_encoded_token():
    (entry,) = (name for name in offer_subprotocols(token=AWKWARD) if name.startswith(f"{MARKER}."))
    encoded = entry.removeprefix(f"{MARKER}.")
    assert unquote(encoded) == AWKWARD
    # What encodeURIComponent gives, but that it leaves the parentheses, which no header list may hold.
    assert encoded == quote(AWKWARD, safe="!~*'()").replace("(", "%28").replace(")", "%29")


@pytest.mark.parametrize("existing", [[], [KERNEL], ["graphql-ws", "other"]])
@pytest.mark.parametrize("reasons", [True, False])
def test_J4_J5_token_comes_after_another_subprotocol(existing, reasons):
    offered = offer_subprotocols(existing, "secret", reasons=reasons)
    assert MARKER in offered
    assert offered.index(f"{MARKER}.secret") > offered.index(existing[0] if existing else MARKER)
