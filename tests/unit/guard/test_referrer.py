"""No ``Referer`` with a token in it (contract section 2, C2.3, for the pages around the sockets)."""

from __future__ import annotations

import pytest

POLICY = "referrer-policy"


@pytest.mark.parametrize("path", ["login?token={}", "api/status?x=1&token={}", "nothing?token={}"])
@pytest.mark.parametrize("token", ["right", "wrong"])
async def test_C2_3_answer_to_an_address_with_a_token_has_the_policy(path, token, door):
    answer = await door.fetch(path.format(door.token if token == "right" else "x"))
    assert answer.headers[POLICY] == "strict-origin"


@pytest.mark.parametrize("path", ["login", "api/status", "api?tokens=1", "api?x=token"])
async def test_other_answers_are_as_they_were(path, door):
    answer = await door.fetch(path)
    assert POLICY not in answer.headers


async def test_policy_of_the_server_holds(door):
    door.app.web_app.settings["headers"] = {"Referrer-Policy": "no-referrer"}
    answer = await door.fetch(f"login?token={door.token}")
    assert answer.headers[POLICY] == "no-referrer"


@pytest.mark.parametrize("token_ws_config", [{"enabled": False}])
async def test_nothing_is_added_where_the_extension_is_off(door):
    answer = await door.fetch(f"login?token={door.token}")
    assert POLICY not in answer.headers
