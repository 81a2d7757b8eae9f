"""Servers with each store of tickets: what a client sees of them, and of a store that is down (C6.6)."""

from __future__ import annotations

import secrets
import sys
from typing import Any

import pytest

from jupyter_token_ws.login.redis import URL_VARIABLE, RedisTicketStore
from jupyter_token_ws.login.sealed import KEYS_VARIABLE
from jupyter_token_ws.login.service import Login
from tests.support.door import EVENTS
from tests.support.redis_server import PROGRAM, RedisServer, redis_server
from tests.unit.login.test_handler import ask, bears, enters, offer, read, rest, slug, ticket

LOADED = {"jpserver_extensions": {"jupyter_token_ws": True}}


@pytest.fixture
def own_redis(tmp_path):
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def in_redis(own_redis: RedisServer, jp_server_config: dict[str, Any]) -> RedisServer:
    jp_server_config["TokenWebSocketApp"] = {"ticket_store": "redis"}
    jp_server_config["RedisTicketStore"] = {"url": own_redis.url}
    return own_redis


@pytest.fixture
def sealing(monkeypatch: pytest.MonkeyPatch, jp_server_config: dict[str, Any]) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, secrets.token_urlsafe(32))
    jp_server_config["TokenWebSocketApp"] = {"ticket_store": "sealed"}


@pytest.mark.requires(*PROGRAM)
async def test_C6_6_a_store_that_is_down_answers_503_and_lets_nobody_in(in_redis, door):
    token = await ticket(door)
    once = await ticket(door, single_use=True)
    await enters(door, token)
    async with await door.knock(EVENTS, offer(token)) as socket:
        in_redis.stop()
        assert await rest(door, token) == (503, "unavailable")
        assert await slug(door, token) == "unavailable"
        assert await slug(door, once) == "unavailable"
        for answer in (
            await ask(door, "POST", {"token": door.token}),
            await ask(door, "POST", {"renew": True}, **bears(token)),
            await ask(door, "DELETE", **bears(token)),
            await ask(door, **bears(token)),
        ):
            assert (answer.status, read(answer)["status"]) == (503, "unavailable")
            assert read(answer)["retry_after"] == int(answer.headers["retry-after"]) > 0
        # Nobody is sent to a login page that could not help, and who needs no ticket notices nothing.
        assert (await door.fetch("api/token-ws/signed-in", bears(token))).status == 503
        assert (await door.fetch("api/token-ws/capabilities", bears(token))).status == 200
        assert (await rest(door, door.token))[0] == 200
        assert len(door.guard.registry) == 1
        assert socket.code is None
    in_redis.start()
    assert await rest(door, token) == (403, "token_rejected")
    await enters(door, await ticket(door))


@pytest.mark.requires(*PROGRAM)
async def test_C6_5_in_redis_one_of_many_opens(in_redis, door, monkeypatch):
    """Both were looked up before either was used."""
    token = await ticket(door, single_use=True)
    store = Login.of(door.app.web_app.settings).store
    looked_up = await store.look_up(token)

    async def look_up(self: Any, token: str) -> Any:
        return looked_up

    monkeypatch.setattr(RedisTicketStore, "look_up", look_up)
    async with await door.knock(EVENTS, offer(token)) as socket:
        assert socket.status == 101
        assert await slug(door, token) == "token_rejected"
        async with await door.knock(EVENTS, [], bears(token)) as plain:
            assert plain.status == 403
        in_redis.stop()
        assert await slug(door, token) == "unavailable"
    await door.settled()


async def test_C6_6_sealed_tickets_say_what_they_cannot(sealing, door):
    document = read(await door.fetch("api/token-ws/capabilities"))
    assert document["login"]["revocable"] is False
    token = await ticket(door)
    await enters(door, token)
    for answer, text in (
        (await ask(door, "DELETE", **bears(token)), "tickets of this server cannot be revoked"),
        (
            await ask(door, "POST", {"token": door.token, "single_use": True}),
            "this server has no tickets for one use",
        ),
    ):
        assert (answer.status, read(answer)["status"]) == (400, "bad_request")
        assert read(answer)["message"] == text
    early = await ask(door, "POST", {"renew": True}, **bears(token))
    assert (early.status, read(early)["status"]) == (400, "bad_request")
    assert 0 < read(early)["retry_after"] <= 270
    short = await ticket(door, max_age=20)
    renewed = await ask(door, "POST", {"renew": True}, **bears(short))
    assert renewed.status == 200
    await enters(door, read(renewed)["token"])


@pytest.mark.parametrize("chosen", ["", "of two"])
async def test_C6_6_a_sealed_ticket_names_the_port_that_the_server_got(sealing, door, chosen):
    """It may not be the one in the configuration: another server may have that."""
    [app] = door.app.extension_manager.extension_apps["jupyter_token_ws"]
    store: Any = Login.of(door.app.web_app.settings).store
    app.config.SealedTicketStore.server = chosen
    for port in (23456, 23457):
        door.app.port = port
        await app._start_jupyter_server_extension(door.app)
        assert (chosen or f":{port}{door.base}") in store.server


async def test_C6_6_a_sealed_ticket_names_its_server(sealing, door):
    store: Any = Login.of(door.app.web_app.settings).store
    assert store.server.endswith(door.base)
    token = await ticket(door)
    store.server = "another"
    assert await rest(door, token) == (403, "token_rejected")


@pytest.mark.parametrize(
    ("chosen", "missing", "text"),
    [
        ("redis", "redis.asyncio", "jupyter-token-ws[redis]"),
        ("redis", "cryptography.hazmat.primitives.ciphers.aead", "jupyter-token-ws[redis]"),
        ("sealed", "cryptography.hazmat.primitives.ciphers.aead", "jupyter-token-ws[sealed]"),
        ("sealed", "", KEYS_VARIABLE),
    ],
)
async def test_a_store_that_cannot_be_had_ends_the_server(
    chosen, missing, text, jp_configurable_serverapp, monkeypatch, capfd
):
    """Else it would run with tickets elsewhere than its administrator thinks, or with none."""
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    config = {"ServerApp": LOADED, "TokenWebSocketApp": {"ticket_store": chosen}}
    with pytest.raises(SystemExit) as end:
        jp_configurable_serverapp(config=config)
    assert end.value.code == 1
    assert text in capfd.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "http://:a-secret@host",
        "redis://:a-secret@host:port",
        "redis://:a-secret/of-two@host",
        "redis://:a-secret@host?timeout=soon",
        "redis://:a-secret@host?no_such_thing=1",
    ],
)
async def test_a_wrong_address_of_redis_ends_the_server_and_is_not_shown(
    url, jp_configurable_serverapp, monkeypatch, capfd, caplog
):
    monkeypatch.setenv(URL_VARIABLE, url)
    config = {"ServerApp": LOADED, "TokenWebSocketApp": {"ticket_store": "redis"}}
    with pytest.raises(SystemExit) as end:
        jp_configurable_serverapp(config=config)
    assert end.value.code == 1
    shown = caplog.text + "".join(capfd.readouterr())
    assert "RedisTicketStore.url" in shown
    assert "secret" not in shown
