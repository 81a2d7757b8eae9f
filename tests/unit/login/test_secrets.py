"""No secret stands where it need not: not in what a store holds, in no log, no error, no representation."""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
import traceback
from typing import Any

import pytest

from jupyter_token_ws.login.memory import MemoryTicketStore
from jupyter_token_ws.login.redis import RedisTicketStore
from jupyter_token_ws.login.sealed import KEYS_VARIABLE, SealedTicketStore
from jupyter_token_ws.login.store import KeepingStore
from jupyter_token_ws.login.tickets import Credential, TicketError
from jupyter_token_ws.protocol.tickets import PREFIX, read_ticket
from tests.support.redis_server import redis_server

CANARY = "canary-" + secrets.token_hex(16)
PERSON = "person-" + secrets.token_hex(16)
PASSWORD = "password-" + secrets.token_hex(16)
KEY = secrets.token_urlsafe(32)


class Secrets:
    """What must not be found, in every way in which it might be written."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}
        for name, value in (("credential", CANARY), ("password", PASSWORD), ("key", KEY)):
            self.add(name, value.encode())
        self.add("key, decoded", base64.urlsafe_b64decode(KEY + "="))

    def add(self, name: str, value: bytes) -> None:
        self.known[name] = value
        self.known[f"{name}, in hex"] = value.hex().encode()
        self.known[f"{name}, in base64"] = base64.b64encode(value).rstrip(b"=")[:-1]
        self.known[f"{name}, as Python shows it"] = repr(value)[2:-1].encode()

    def add_ticket(self, token: str) -> None:
        self.add("ticket", token.removeprefix(PREFIX).encode())
        self.add("ticket, decoded", read_ticket(token) or token.encode())

    def found_in(self, text: str | bytes) -> list[str]:
        data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        return [name for name, value in self.known.items() if value in data]


@pytest.fixture
def hidden():
    return Secrets()


@pytest.fixture
def logged(caplog):
    """All that is logged, by anybody."""
    caplog.set_level(logging.DEBUG)
    return caplog


async def do_everything(store, hidden: Secrets) -> list[str]:
    """Use a store in every way, also in wrong ones; answers with all that there is to be shown."""
    store.log.propagate = True
    shown: list[object] = [store, store.trait_values().keys()]
    tokens = []
    user = {"name": PERSON}

    async def attempt(coroutine) -> Any:
        try:
            outcome = await coroutine
        except TicketError as error:
            shown.extend([error, error.args, vars(error)])
            shown.append("".join(traceback.format_exception(error)))
            return None
        shown.append(outcome)
        return outcome

    for single_use in (False, True):
        for audience in (None, ["api"], ["../bad"]):
            issued = await attempt(
                store.issue(
                    PERSON,
                    user,
                    Credential("token", CANARY),
                    single_use=single_use,
                    audience=audience,
                )
            )
            if issued is not None:
                hidden.add_ticket(issued.token)
                tokens.append(issued.token)
    await attempt(store.issue(PERSON, {"x": {CANARY}}, Credential("token", CANARY)))
    await attempt(store.issue(PERSON, user, Credential("token", CANARY * 500)))
    for token in [*tokens, CANARY, PREFIX + CANARY]:
        for method in (store.look_up, store.consume, store.renew, store.consume, store.revoke):
            outcome = await attempt(method(token))
            if hasattr(outcome, "token"):
                hidden.add_ticket(outcome.token)
                tokens.append(outcome.token)
            if hasattr(outcome, "check_audience"):
                with contextlib.suppress(TicketError):
                    outcome.check_audience("/elsewhere")
        await attempt(store.look_up(token))
    assert tokens
    return [f"{thing!r} {thing!s}" for thing in shown]


def check(hidden: Secrets, shown: list[str], log: str) -> None:
    assert len(shown) > 20
    for text in (*shown, log):
        assert hidden.found_in(text) == [], text


def test_the_search_finds_what_is_there(hidden):
    token = PREFIX + base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
    hidden.add_ticket(token)
    assert hidden.found_in("nothing") == []
    for text in (
        f"before {CANARY} after",
        token,
        f"{CANARY.encode().hex()}",
        base64.b64encode(CANARY.encode()),
        bytes(range(32)),
        bytes(range(32)).hex(),
        f"{bytes(range(32))!r}",
        KEY,
    ):
        assert hidden.found_in(text), text


async def test_C6_6_no_secret_is_kept_or_shown_in_memory(hidden, logged):
    store = MemoryTicketStore()
    shown = await do_everything(store, hidden)
    held = repr((store._tickets, store._families, store._deaths))
    assert len(store) > 3
    check(hidden, shown, logged.text)
    assert hidden.found_in(held) == []
    assert PERSON not in held


@pytest.mark.requires("redis-server", "redis-server")
async def test_C6_6_no_secret_is_kept_or_shown_in_redis(hidden, logged, tmp_path):
    with redis_server(tmp_path, password=PASSWORD) as server:
        store = RedisTicketStore(url=server.url, timeout=60.0)
        await store.start()
        with server.client() as client, client.monitor() as monitor:
            heard: list[str] = []
            shown = await do_everything(store, hidden)
            client.echo("the end")
            for command in monitor.listen():
                heard.append(str(command))
                if "the end" in command["command"]:
                    break
        held = server.dump()
        assert len(held) > 1000
        assert len(heard) > 20
        server.stop()
        shown += await do_nothing(store)
        # Whoever reads all that Redis has, or all that is sent to it, has no ticket and no credential.
        # (MONITOR shows no password.)
        for text in (held, "\n".join(heard)):
            assert hidden.found_in(text) == []
            assert PERSON.encode() not in (text if isinstance(text, bytes) else text.encode())
        wrong = RedisTicketStore(url=server.url.replace(PASSWORD, PASSWORD[::-1]), timeout=60.0)
        hidden.add("wrong password", PASSWORD[::-1].encode())
        server.start()
        wrong.log.propagate = True
        await wrong.start()
        shown += await do_nothing(wrong)
        for each in (store, wrong):
            await each.close()
    assert "does not answer" in logged.text
    check(hidden, shown, logged.text)


async def do_nothing(store: KeepingStore) -> list[str]:
    """What is to be shown of a store that cannot be reached."""
    try:
        await store.issue(PERSON, {}, Credential("token", CANARY))
    except TicketError as error:
        return ["".join(traceback.format_exception(error)), repr(error), repr(store)]
    raise AssertionError("it can be reached")


async def test_C6_6_no_secret_is_shown_by_sealed_tickets(hidden, logged, monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, KEY)
    store = SealedTicketStore(server="here")
    shown = await do_everything(store, hidden)
    check(hidden, shown, logged.text)
    assert hidden.found_in(repr(vars(store))) == []
