"""No secret of the client is in any log, whatever is switched on."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.protocol.auth import Request
from tests.support.talker import answer, saying, talking

SECRETS = ("secret-token", "secret-cookie", "secret-offer", "secret-answer")


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith(("httpx", "httpcore", "websockets", "jupyter_token_ws")):
            caplog.set_level(logging.DEBUG, name)
    return caplog


async def test_none_of_ours_and_all_of_others(everything: pytest.LogCaptureFixture):
    said = answer(b"", "403 Forbidden", "Set-Cookie: login=secret-answer")
    async with talking(saying(said)) as talker:
        url = f"http://127.0.0.1:{talker.port}/"
        headers = {"Authorization": "token secret-token", "Cookie": "login=secret-cookie"}
        transport = Transport(url)
        await transport.request(Request("GET", url, headers))
        with pytest.raises(Exception, match="answered 403"):
            await transport.websocket(
                f"ws://127.0.0.1:{talker.port}/", subprotocols=["secret-offer"], headers=headers
            )
        await transport.aclose()
        logged = everything.text
        assert all(secret in talker.text for secret in SECRETS[:3])
        assert not [secret for secret in SECRETS if secret in logged]

        # Somebody else in the process keeps their debugging.
        everything.clear()
        async with httpx.AsyncClient() as client:
            await client.get(url)
        assert "secret-answer" in everything.text
        await asyncio.sleep(0)
