"""A provider that knows whose a credential is and lets them in nowhere, as JupyterHub's does: forbidden."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_server.auth.identity import IdentityProvider, User
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS
from tests.support.knock import bearing
from tests.support.providers import TOKEN
from tests.unit.guard.conftest import EXTENSIONS


class HubLike(IdentityProvider):
    """Knows everybody by name whose token or cookie begins with ``known``, and admits one token."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        kept: Any = handler
        kept._cached_hub_user = None
        token = self.get_token(handler)
        cookie = handler.get_cookie("session") or ""
        if token == TOKEN:
            return User("ann")
        if (token or cookie).startswith("known"):
            kept._cached_hub_user = {"name": "mallory", "scopes": []}
        return None


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {
        "ServerApp": {
            "jpserver_extensions": dict(EXTENSIONS),
            "identity_provider_class": HubLike,
        },
        "TokenWebSocketApp": {"attempt_burst": 2, "refusal_burst": 1000},
    }


def offer(token: str) -> list[str]:
    return [MARKER, bearing(token), REASON_MARKER]


class Plain(WebSocketHandler):
    """A handler that is not Jupyter's."""

    def check_origin(self, origin: str) -> bool:
        return True


async def test_C3_1_forbidden_by_every_way_each_time_and_never_counted(door):
    door.add("plain", Plain)
    for n in range(5):
        token = f"known-{n}"
        header = {"Authorization": f"token {token}"}
        for _ in range(2):
            for path in (EVENTS, "plain"):
                answer = await door.refused(path, offer(token))
                assert (answer.code, answer.slug) == (4403, "forbidden")
            assert (await door.refused(EVENTS, [REASON_MARKER], header)).slug == "forbidden"
            in_url = f"{EVENTS}?token={token}"
            assert (await door.refused(in_url, [REASON_MARKER])).slug == "forbidden"
            assert (await door.fetch("api/me", header)).status == 403
        cookie = {"Cookie": f"session={token}"}
        assert (await door.refused(EVENTS, [REASON_MARKER], cookie)).slug == "forbidden"
        # The cookie says who somebody is, the token does not: it stands alone (C2.2).
        assert (await door.refused(EVENTS, offer("wrong"), cookie)).slug == "token_rejected"
    told = [(await door.refused(EVENTS, offer(f"wrong-{n}"))).slug for n in range(3)]
    assert told == ["token_rejected", "too_many_attempts", "too_many_attempts"]
    async with await door.knock(EVENTS, offer(TOKEN)) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)


async def test_C3_4_not_told_across_origins(door):
    elsewhere = {"Origin": "https://elsewhere.example"}
    answer = await door.refused(EVENTS, offer("known-1"), elsewhere)
    assert answer.slug == "token_rejected"
    answer = await door.refused(EVENTS, [REASON_MARKER], {**elsewhere, "Cookie": "session=known"})
    assert answer.status == 403
