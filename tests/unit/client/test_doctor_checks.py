"""Checks of the doctor's whose outcomes no server or proxy of the integration tests brings about."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
from httpx_sse import ServerSentEvent

from jupyter_token_ws.client.auth import Grant
from jupyter_token_ws.client.doctor import (
    Case,
    Options,
    Verdict,
    credentials,
    network,
    tunnels,
    upgrades,
)
from jupyter_token_ws.client.doctor.case import SkipError
from jupyter_token_ws.client.errors import AuthError, NoConnectionError
from jupyter_token_ws.client.transport import Transport, UpgradeRefused
from jupyter_token_ws.protocol.auth import (
    IGNORE,
    AuthPlugin,
    Context,
    Endpoint,
    Flow,
    Ignore,
    NoAuth,
    Request,
    Response,
    TokenAuth,
)

BASE = "http://127.0.0.1:8888/"


class Answers(Transport):
    """The same answer to everything, without a connection."""

    def __init__(self, *statuses: int, refusal: Exception | None = None) -> None:
        super().__init__(BASE)
        self.statuses = list(statuses)
        self.refusal = refusal

    async def request(self, request: Request, **limits: Any) -> Response:
        status = self.statuses[0] if len(self.statuses) == 1 else self.statuses.pop(0)
        return Response(status)

    async def websocket(self, url: str, **options: Any) -> Any:
        assert self.refusal is not None
        raise self.refusal


def case_of(transport: Transport | None = None, **facts: Any) -> Case:
    case = Case(BASE, transport or Transport(BASE), Options())
    case.base_url = BASE
    for name, value in facts.items():
        setattr(case, name, value)
    return case


# -- the network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [{"unix_socket": "/run/jupyter"}, {"proxied": True}])
async def test_of_what_goes_another_way_the_network_is_not_looked_at(facts):
    for check in (network.dns, network.tcp):
        with pytest.raises(SkipError, match="it goes"):
            await check(case_of(**facts))


@pytest.mark.parametrize(
    ("outcomes", "verdict", "cause"),
    [
        (["", ""], Verdict.OK, ""),
        (["", "Connection refused"], Verdict.OK, ""),
        (["", "no answer in 3 s"], Verdict.SLOW, "some_addresses_dead"),
        (["no answer in 3 s"] * 2, Verdict.BROKEN, "not_listening"),
    ],
)
async def test_addresses_of_which_some_are_dead(monkeypatch, outcomes, verdict, cause):
    said = iter(outcomes)

    async def connect(host: str, port: int) -> str:
        return next(said)

    monkeypatch.setattr(network, "_connect", connect)
    case = case_of(addresses=[("10.0.0.1", 80), ("10.0.0.2", 80)])
    found = await network.tcp(case)
    assert (found.verdict, found.cause) == (verdict, cause)
    assert bool(case.unreachable) == (verdict is Verdict.BROKEN)


async def test_what_can_be_no_name():
    case = case_of(url=f"http://{'a' * 70}.example/")
    found = await network.dns(case)
    assert (found.verdict, found.cause) == (Verdict.BROKEN, "unknown_name")


async def test_a_connection_that_nobody_answers(monkeypatch):
    monkeypatch.setattr(network, "CONNECT_TIMEOUT", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        said = await network._connect("127.0.0.1", listening.getsockname()[1])
    assert said == "no answer in 0 s"


@pytest.mark.parametrize(
    ("code", "message", "cause"),
    [
        (9, "not yet valid", "certificate_not_yet"),
        (10, "expired", "certificate_expired"),
        (62, "mismatch", "certificate_name"),
        (64, "mismatch", "certificate_name"),
        (20, "no issuer", "certificate_chain"),
        (0, "the server is not the one that was expected", "certificate_other"),
    ],
)
async def test_what_openssl_says_of_a_certificate(monkeypatch, code, message, cause):
    async def nothing(case: Case) -> None:
        return None

    monkeypatch.setattr(network, "_certificate", nothing)
    error = ssl.SSLCertVerificationError(message)
    error.verify_code, error.verify_message = code, message
    found = await network._untrusted(case_of(), error)
    assert found.cause == cause


async def test_a_certificate_that_cannot_be_had():
    assert await network._certificate(case_of()) is None


# -- signing in ------------------------------------------------------------------------------------------


class Choosy(AuthPlugin[Context]):
    name = "choosy"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[Context | Ignore]:
        yield from ()
        if isinstance(self.answer, Exception):
            raise self.answer
        ignored: Ignore = self.answer
        return ignored


@pytest.mark.parametrize(
    ("answer", "verdict", "cause"),
    [
        (IGNORE, Verdict.SKIPPED, ""),
        (AuthError("old", slug="token_expired"), Verdict.BROKEN, "stale_token"),
        (AuthError("too many", slug="too_many_attempts"), Verdict.BROKEN, "login_failed"),
        (NoConnectionError("cut"), Verdict.BROKEN, "login_failed"),
    ],
)
async def test_a_plugin_that_gives_no_credential(answer, verdict, cause):
    (found,) = await credentials.login(case_of(Answers(403), plugins=[Choosy(answer)]))
    assert (found.verdict, found.cause) == (verdict, cause)
    assert "choosy" in found.seen


async def test_where_none_is_given_nothing_is_said_of_a_stale_one():
    with pytest.raises(SkipError, match="no credential was given"):
        await credentials.login(case_of(Answers(403), plugins=[NoAuth()]))


async def test_a_credential_is_tried_again_when_there_is_a_newer_one():
    tokens = iter(["first", "second", "third"])
    case = case_of(Answers(403, 403, 200), plugins=[TokenAuth(lambda: next(tokens))])
    (found,) = await credentials.login(case)
    assert found.verdict is Verdict.OK
    assert case.grant is not None
    assert case.grant.token == "second"


async def test_nothing_is_sent_where_others_can_read():
    case = case_of(Answers(403), plugins=[TokenAuth("t")], exposed=True)
    (found,) = await credentials.login(case)
    assert (found.verdict, found.cause) == (Verdict.BROKEN, "plain_http")
    assert case.grant is None


# -- websockets and tunnels ------------------------------------------------------------------------------

REASONS = {"reasons": {}, "token": {}, "tunnel": {"path": "api/token-ws/tunnel"}}


async def test_a_connection_that_is_cut_in_place_of_an_upgrade():
    cut = Answers(200, refusal=NoConnectionError("ended the connection"))
    found = await upgrades.websocket(case_of(cut, capabilities=REASONS))
    assert (found.verdict, found.cause) == (Verdict.BROKEN, "no_upgrade")


async def test_long_tokens_and_a_connection_that_is_cut():
    cut = Answers(200, refusal=NoConnectionError("ended the connection"))
    found = await upgrades.token_size(case_of(cut, capabilities=REASONS, upgrades=True))
    assert (found.verdict, found.cause) == (Verdict.BROKEN, "header_limit")


async def test_a_reason_that_did_not_come_by_a_close():
    with pytest.raises(SkipError, match="none by close code"):
        await upgrades.close_codes(case_of(capabilities=REASONS, upgrades=True))


async def test_a_tunnel_whose_path_is_elsewhere():
    strange = {"tunnel": {"path": "/elsewhere"}}
    with pytest.raises(SkipError, match="no path"):
        await tunnels.event_stream(case_of(capabilities=strange, grant=Grant({}, "t")))


@pytest.mark.parametrize(
    "event",
    [
        ServerSentEvent("message", "no base64!", "1"),
        ServerSentEvent("message", "AAAA", "1"),
        ServerSentEvent("end", "{}", ""),
    ],
)
async def test_events_that_are_none_of_a_tunnel(event):
    async def events() -> Any:
        yield ServerSentEvent("keepalive", "{}", "")
        yield event

    probe = tunnels.StreamProbe(case_of(), BASE, {}, events())
    with pytest.raises(tunnels.EndedError):
        await probe.begin()


async def test_no_tunnel_to_cut():
    refused = Answers(200, refusal=UpgradeRefused(Response(403, body=b"forbidden: no")))
    case = case_of(refused, capabilities=REASONS, upgrades=True, grant=Grant({}, "t"))
    with pytest.raises(SkipError, match="no tunnel to cut"):
        await tunnels.resume(case)


async def test_no_time_for_silence():
    case = case_of(ended_at=0.0)
    with pytest.raises(SkipError, match="no time"):
        await tunnels.idle(case)
