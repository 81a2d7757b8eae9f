"""Who is told a refusal, how, and what it may cost (contract section 3)."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from tornado import web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from jupyter_token_ws import Refused
from jupyter_token_ws.guard.handler import _can_upgrade, _check_cross_origin
from jupyter_token_ws.guard.refusal import RefusalBudget, RefusalHandler
from jupyter_token_ws.protocol.reasons import MAX_REASON_SIZE, REASONS, parse_close
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER, Offer
from tests.support.door import EVENTS, Socket, errors, refusals
from tests.support.knock import TIMEOUT, bearing
from tests.support.waiting import auntil

BAD = bearing("wrong")
NOBODY = "api/kernels/00000000-0000-0000-0000-000000000000/channels"


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 1000}


# -- C3.1: who is told -----------------------------------------------------------------------------

OFFERS: dict[str, tuple[list[str] | None, set[str]]] = {
    # name: the offer, and the modes besides `always` under which it is told
    "nothing": (None, set()),
    "kernel": ([KERNEL], set()),
    "something else": (["secret.of.an.application", "v1.token.example"], set()),
    "marker": ([MARKER], {"offered"}),
    "token": ([BAD], {"offered"}),
    "empty token": ([f"{MARKER}."], {"offered"}),
    "marker and token": ([KERNEL, MARKER, BAD], {"offered"}),
    "malformed token": ([f"{MARKER}.%zz"], {"offered"}),
    "token of another version": (["v2.token.websocket.jupyter.org.x"], {"offered"}),
    "reason marker": ([REASON_MARKER], {"offered", "explicit"}),
    "everything": ([KERNEL, MARKER, BAD, REASON_MARKER], {"offered", "explicit"}),
}


def expected(name: str) -> tuple[int, str]:
    if name in ("malformed token", "token of another version"):
        return (4400, "malformed_credentials")
    if name in ("token", "marker and token", "everything"):
        return (4403, "token_rejected")
    return (4401, "credentials_missing")


@pytest.mark.parametrize(
    "token_ws_config",
    [
        {"close_reasons": mode, "refusal_burst": 1000}
        for mode in ("offered", "explicit", "always", "never")
    ],
    ids=lambda config: config["close_reasons"],
)
async def test_C3_1_C3_2_C3_3_every_mode_and_offer(door, token_ws_config, caplog):
    mode = token_ws_config["close_reasons"]
    for name, (offer, modes) in OFFERS.items():
        answer = await door.refused(EVENTS, offer)
        code, slug = expected(name)
        if mode == "always" or mode in modes:
            assert answer.status == 101, name
            assert (answer.code, answer.slug) == (code, slug), name
            names = [n for n in (REASON_MARKER, KERNEL, MARKER) if n in (offer or [])]
            assert answer.subprotocol == (names[0] if names else None), name
            assert await answer.at_end() or answer.writer.is_closing()
        else:
            # Under "explicit" JEP 121 holds to the letter: a token that is no good is 403.
            assert answer.status == (400 if code == 4400 and mode != "explicit" else 403), name
            assert answer.subprotocol is None
        assert answer.set_cookies == [] or answer.status == 403
    await door.settled()
    assert len(refusals(caplog.records)) == len(OFFERS)
    assert errors(caplog.records) == []


async def test_C3_1_the_default_is_offered(door):
    assert door.guard.options.close_reasons == "offered"


# -- C3.2: the answer ------------------------------------------------------------------------------


async def test_C3_2_what_a_refusal_is_answered_with(door):
    for offer, answer in [
        ([MARKER, BAD], MARKER),
        ([BAD], None),
        ([KERNEL, MARKER, BAD], KERNEL),
        ([MARKER, BAD, KERNEL], KERNEL),
        ([REASON_MARKER, KERNEL, MARKER, BAD], REASON_MARKER),
        ([KERNEL, REASON_MARKER], REASON_MARKER),
        (["other", MARKER, BAD], MARKER),
        (["other", BAD], None),
    ]:
        told = await door.refused(EVENTS, offer)
        code = 4403 if BAD in offer else 4401
        assert (told.status, told.subprotocol, told.code) == (101, answer, code)


async def test_C3_2_a_choice_of_the_handlers_that_was_not_offered(door, caplog):
    # tornado refuses that by an assertion, after the offer was changed for the handler.
    class Stubborn(Socket):
        def select_subprotocol(self, subprotocols):
            return "never.offered"

    door.add("stubborn", Stubborn)
    told = await door.refused("stubborn", [MARKER, bearing(door.token), REASON_MARKER])
    assert (told.subprotocol, told.code, told.slug) == (REASON_MARKER, 4500, "internal_error")
    await door.settled()
    assert len(errors(caplog.records)) == 1  # tornado's own


# -- C3.3: codes and statuses ----------------------------------------------------------------------


class Raises(Socket):
    """Refuses with the reason that the path names."""

    async def get(self, slug: str) -> None:
        raise Refused(slug)


class RaisesStatus(Socket):
    """Fails with the HTTP status that the path names, as handlers that know of no table do."""

    async def get(self, status: str) -> None:
        raise web.HTTPError(int(status))


class Crashes(Socket):
    async def get(self) -> None:
        raise RuntimeError("of the handler's own")


async def test_C3_3_every_reason_of_the_table(door):
    door.add("raises/([a-z_]+)", Raises)
    door.app.identity_provider.token = ""  # everybody is let in, up to the handler
    for slug, reason in REASONS.items():
        plain = await door.refused(f"raises/{slug}")
        assert plain.status == (403 if reason.code == 4401 else reason.code - 4000), slug
        told = await door.refused(f"raises/{slug}", [REASON_MARKER])
        if not reason.told:  # stands in logs and in answers of plain HTTP only
            assert told.status == reason.http_status
            continue
        assert (told.status, told.code) == (101, reason.code)
        read = parse_close(reason.code, told.reason)
        assert read is not None
        assert read.reason is reason
        assert len(told.reason.encode()) <= MAX_REASON_SIZE
        assert told.reason == f"{slug}: {reason.text}"
    await door.settled()


async def test_C3_3_errors_of_handlers_that_know_of_no_table(door, caplog):
    for status, code, slug in [
        (400, 4400, "bad_request"),
        (401, 4403, "forbidden"),  # a handler that asks for more than it was given
        (403, 4403, "forbidden"),
        (404, 4404, "not_found"),
        (405, 4400, "bad_request"),
        (408, 4408, "open_timeout"),
        (410, 4410, "gone"),
        (418, 4400, "bad_request"),
        (429, 4429, "too_many_connections"),
        (500, 4500, "internal_error"),
        (502, 4500, "internal_error"),
        (503, 4503, "unavailable"),
        (504, 4504, "kernel_unresponsive"),
    ]:
        door.add("status/([0-9]+)", RaisesStatus)
        credential = {"Authorization": f"token {door.token}"}
        told = await door.refused(f"status/{status}", [REASON_MARKER], credential)
        assert (told.code, told.slug) == (code, slug)
        plain = await door.refused(f"status/{status}", None, credential)
        assert plain.status == status
        assert errors(caplog.records) == [] or status >= 500  # upstream's access log


async def test_C3_3_an_uncaught_exception_is_upstreams_500(door, caplog):
    door.add("crashes", Crashes)
    credential = {"Authorization": f"token {door.token}"}
    told = await door.refused("crashes", [REASON_MARKER], credential)
    assert (told.code, told.slug) == (4500, "internal_error")
    assert "of the handler's own" not in told.reason
    plain = await door.refused("crashes", None, credential)
    assert plain.status == 500
    assert b"Traceback" not in plain.body
    assert b"of the handler" not in plain.body
    assert "Uncaught exception" in errors(caplog.records)[0]


async def test_C3_3_an_error_after_the_answer_has_begun_is_tornados(door, caplog):
    class Begun(Socket):
        async def get(self):
            self.write("something")
            await self.flush()
            raise web.HTTPError(500)

    door.add("begun", Begun)
    async with await door.knock("begun", [REASON_MARKER]) as answer:
        assert answer.status == 200
    await door.settled()
    assert "after headers written" in errors(caplog.records)[0]
    assert refusals(caplog.records) == []


async def test_C3_3_a_wrong_path_argument(door):
    # Raised by tornado before any handler's code, and before the user can be asked for.
    door.add("argument/(.*)", Raises)
    told = await door.refused("argument/%ff", [REASON_MARKER])
    assert (told.code, told.slug) == (4400, "bad_request")


async def test_C3_3_not_found_only_for_who_is_known(door):
    told = await door.refused("no/such/path", [REASON_MARKER])
    assert (told.code, told.slug) == (4401, "credentials_missing")
    told = await door.refused("no/such/path", [MARKER, BAD])
    assert (told.code, told.slug) == (4403, "token_rejected")
    told = await door.refused("no/such/path", [MARKER, bearing(door.token)])
    assert (told.code, told.slug) == (4404, "not_found")
    told = await door.refused("api/kernels", [MARKER, bearing(door.token)])
    assert (told.code, told.slug) == (4404, "not_found")
    told = await door.refused(NOBODY, [MARKER, bearing(door.token)])
    assert (told.code, told.slug) == (4404, "not_found")
    told = await door.refused("terminals/websocket/nobody", [MARKER, bearing(door.token)])
    assert (told.code, told.slug) == (4404, "not_found")
    plain = await door.refused("no/such/path")
    assert plain.status == 404


async def test_C3_3_a_redirect_to_the_login_page(door):
    class OldStyle(Socket):
        @web.authenticated
        async def get(self, *args, **kwargs):  # type: ignore[override]
            await super().get()

    door.add("old", OldStyle)
    told = await door.refused("old", [REASON_MARKER])
    assert (told.code, told.slug) == (4401, "credentials_missing")
    plain = await door.refused("old")
    assert plain.status == 302
    assert "login?next=" in plain.headers["location"][0]
    answer = await door.refused("old", [MARKER, BAD])
    assert answer.slug == "token_rejected"


async def test_C3_3_other_redirects_are_the_handlers_own(door, caplog):
    class Elsewhere(Socket):
        async def get(self):
            self.redirect("/elsewhere", status=307)

    door.add("elsewhere", Elsewhere)
    answer = await door.refused("elsewhere", [MARKER, bearing(door.token), REASON_MARKER])
    assert (answer.status, answer.headers["location"]) == (307, ["/elsewhere"])
    await door.settled()
    assert refusals(caplog.records) == []
    # Strangers too are sent as the handler says, where they cannot be told.
    answer = await door.refused("elsewhere")
    assert (answer.status, answer.headers["location"]) == (307, ["/elsewhere"])


async def test_C3_3_a_redirect_that_was_put_on_the_handler_itself(door):
    """As jupyter-server-proxy does with methods of a parent class."""

    class Mixed(Socket):
        def initialize(self, seen=None):
            vars(self)["redirect"] = self.elsewhere

        def elsewhere(self, url):
            self.set_status(303)
            self.set_header("Location", f"/elsewhere{url}")
            self.finish()

        async def get(self):
            self.redirect("/x")

    door.add("mixed", Mixed)
    told = await door.refused("mixed", [REASON_MARKER])
    assert (told.code, told.slug) == (4401, "credentials_missing")
    for offer in (None, [MARKER, bearing(door.token), REASON_MARKER]):
        answer = await door.refused("mixed", offer)
        assert (answer.status, answer.headers["location"]) == (303, ["/elsewhere/x"])


async def test_C3_3_an_error_that_was_sent_and_not_raised(door):
    class Sends(Socket):
        async def get(self):
            self.send_error(410)

    door.add("sends", Sends)
    told = await door.refused("sends", [MARKER, bearing(door.token), REASON_MARKER])
    assert (told.code, told.slug) == (4410, "gone")
    assert (await door.refused("sends")).status == 410


async def test_C3_3_a_plain_answer_is_plain_text(door):
    answer = await door.refused(EVENTS)
    assert (answer.status, answer.body) == (403, b"credentials_missing: sign in first\n")
    assert answer.headers["content-type"] == ["text/plain; charset=utf-8"]
    assert "retry-after" not in answer.headers


# -- C3.5: what a refusal may cost -----------------------------------------------------------------


async def test_C3_5_no_data_is_accepted(door, monkeypatch):
    heard: list[str | bytes] = []
    monkeypatch.setattr(RefusalHandler, "on_message", lambda self, message: heard.append(message))
    async with await door.knock(EVENTS, [REASON_MARKER]) as socket:
        assert door.guard.refusals.open == 1
        await socket.send(b"x" * 126)
        await socket.wait_closed(answer=False)
        assert socket.slug == "credentials_missing"
        assert await socket.at_end()
    await door.settled()
    assert heard == []


async def test_C3_5_small_messages_are_not_heard_and_change_nothing(door):
    async with await door.knock(EVENTS, [REASON_MARKER]) as socket:
        for _ in range(3):
            await socket.send("small")
        await socket.send(b"are you there", opcode=9)
        await socket.wait_closed()
        assert socket.slug == "credentials_missing"
        assert socket.messages == []
        await asyncio.wait_for(socket.reader.read(), TIMEOUT)  # older tornado answers the ping
    await door.settled()


@pytest.mark.parametrize("token_ws_config", [{"refusal_linger": 0.2}])
async def test_C3_5_cut_after_a_while_although_the_client_never_answers(door, caplog):
    caplog.set_level(logging.DEBUG)
    async with await door.knock(EVENTS, [REASON_MARKER]) as socket:
        begun = time.monotonic()
        await socket.wait_closed(answer=False)
        assert socket.code == 4401
        assert door.guard.refusals.open == 1
        assert await socket.at_end()
        assert 0.1 < time.monotonic() - begun < 4  # tornado by itself waits 5
    await door.settled()
    assert errors(caplog.records) == []


async def test_C3_5_one_second_by_default(door):
    assert door.guard.options.refusal_linger == 1
    assert door.guard.options.max_refusals_open == 100


@pytest.mark.parametrize("token_ws_config", [{"refusal_linger": 1000}])
async def test_C3_5_an_answer_ends_it_at_once(door):
    async with await door.knock(EVENTS, [REASON_MARKER]) as socket:
        await socket.wait_closed()
        assert await socket.at_end()
    await door.settled()


SO_MANY = pytest.mark.parametrize(
    # None of them leaves before all have come.
    "token_ws_config",
    [{"max_refusals_open": 3, "refusal_burst": 1000, "refusal_linger": 1000}],
)


@SO_MANY
async def test_C3_5_only_so_many_at_once_else_plain_http(door):
    sockets = [await door.knock(EVENTS, [REASON_MARKER]) for _ in range(5)]
    assert [socket.status for socket in sockets] == [101, 101, 101, 403, 403]
    assert door.guard.refusals.open == 3
    for socket in sockets[:3]:
        await socket.wait_closed()
        await socket.at_end()
    await door.settled()
    again = await door.refused(EVENTS, [REASON_MARKER])
    assert again.status == 101
    for socket in sockets:
        socket.writer.transport.abort()


@SO_MANY
async def test_C3_5_only_so_many_also_when_all_come_in_one_moment(door):
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, door.guard.refusals.open)
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    sockets = await asyncio.gather(*(door.knock(EVENTS, [REASON_MARKER]) for _ in range(30)))
    watching.cancel()
    assert sorted(socket.status for socket in sockets) == [101] * 3 + [403] * 27
    assert most == 3
    for socket in sockets:
        socket.vanish()
    await door.settled()


async def test_C3_5_a_client_that_is_gone_leaves_no_place_taken(door):
    for _ in range(20):
        socket = await door.knock(EVENTS, [REASON_MARKER])
        socket.vanish()
    await door.settled()


async def test_C3_5_a_refusal_that_cannot_be_told_takes_no_place(door, caplog):
    for drop, status in [
        ("Sec-WebSocket-Key", 400),
        ("Sec-WebSocket-Version", 426),
        ("Connection", 400),
    ]:
        answer = await door.refused(EVENTS, [REASON_MARKER], drop=(drop,))
        assert answer.status == status
        assert answer.set_cookies == []
        await door.settled()
        assert errors(caplog.records) == []


# -- C3.6: sockets that are open -------------------------------------------------------------------

OPEN = [([], False), ([REASON_MARKER], True), ([MARKER], True)]


async def test_C3_6_open_sockets_close_by_code_only_for_who_opted_in(door):
    for offer, opted_in in OPEN:
        for slug in ["gone", "internal_error", "forbidden"]:
            async with await door.knock(
                EVENTS, offer or None, {"Authorization": f"token {door.token}"}
            ) as socket:
                assert socket.status == 101
                (entry,) = door.guard.registry
                assert entry.opted_in is opted_in
                entry.close(slug)
                await socket.wait_closed()
            if opted_in:
                assert (socket.code, socket.slug) == (REASONS[slug].code, slug)
            else:
                assert (socket.code, socket.reason) == (None, "")
            await door.settled()


async def test_C3_6_some_reasons_are_told_to_everybody(door):
    for offer, _ in OPEN:
        for slug in ["draining", "token_revoked", "replaced"]:
            async with await door.knock(
                EVENTS, offer or None, {"Authorization": f"token {door.token}"}
            ) as socket:
                (entry,) = door.guard.registry
                entry.close(slug, retry_after=7)
                await socket.wait_closed()
            assert (socket.code, socket.reason.partition(":")[0]) == (
                REASONS[slug].code,
                f"{slug};retry_after=7",
            )
            await door.settled()


@pytest.mark.parametrize("token_ws_config", [{"close_reasons": "never"}])
async def test_C3_6_nobody_opts_in_where_it_is_off(door):
    async with await door.knock(EVENTS, [MARKER, bearing(door.token), REASON_MARKER]) as socket:
        assert socket.status == 101
        (entry,) = door.guard.registry
        entry.close("gone")
        await socket.wait_closed()
        assert (socket.code, socket.reason) == (None, "")


def refusal(budget: RefusalBudget) -> RefusalHandler:
    class Connection:
        context = None

        def set_close_callback(self, callback):
            pass

    request = HTTPServerRequest(
        headers=HTTPHeaders({"Host": "localhost"}),
        connection=Connection(),  # type: ignore[arg-type]
        start_line=RequestStartLine("GET", "/", "HTTP/1.1"),
    )
    return RefusalHandler(
        web.Application([]),
        request,
        reason=REASONS["gone"],
        retry_after=None,
        offer=Offer(),
        budget=budget,
        linger=1,
    )


def test_C3_5_a_place_is_given_back_once_however_it_ends():
    budget = RefusalBudget(2, 1, 1)
    first, second = refusal(budget), refusal(budget)
    assert budget.open == 2
    first.on_close()
    first.set_status(400)
    first.on_finish()
    assert budget.open == 1
    second.set_status(101)
    second.on_finish()
    assert budget.open == 1
    second.on_close()
    assert budget.open == 0


def test_C3_4_a_refusal_is_told_to_any_origin_by_any_tornado():
    handler = refusal(RefusalBudget(1, 1, 1))
    assert handler.check_origin("https://evil.example")
    assert handler._check_cross_origin(lambda origin: False) is None


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, None),
        ({"Origin": "https://friend"}, None),
        ({"Origin": "https://evil"}, "origin not allowed"),
        ({"Sec-WebSocket-Origin": "https://evil"}, "origin not allowed"),
        ({"Sec-WebSocket-Origin": "https://friend"}, None),
    ],
)
def test_C3_4_the_check_of_older_tornados(headers, error):
    request = refusal(RefusalBudget(1, 1, 1)).request
    for name, value in headers.items():
        request.headers[name] = value
    assert _check_cross_origin(request, lambda origin: origin == "https://friend") == error


UPGRADE = {
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize(
    ("changed", "can"),
    [
        ({}, True),
        ({"Connection": "upgrade"}, True),
        ({"Connection": "close"}, False),
        ({"Connection": None}, False),
        ({"Sec-WebSocket-Version": "8"}, False),
        ({"Sec-WebSocket-Version": None}, False),
        ({"Sec-WebSocket-Key": None}, False),
        ({"Host": None}, False),
    ],
    ids=str,
)
def test_C2_7_what_tornado_needs_for_a_101(changed, can):
    request = refusal(RefusalBudget(1, 1, 1)).request
    for name, value in (UPGRADE | changed).items():
        request.headers.pop(name, None)
        if value is not None:
            request.headers[name] = value
    assert _can_upgrade(request) is can


async def test_a_socket_that_is_settled_is_not_refused_again(door, caplog):
    async with await door.knock(EVENTS, [MARKER, bearing(door.token), REASON_MARKER]) as socket:
        (entry,) = door.guard.registry
        entry.handler.refuse_opening("gone")
        await socket.send("are you there", opcode=9)
        assert await socket.read_frame() == (10, b"are you there")
    assert refusals(caplog.records) == []


async def test_an_open_that_fails_leaves_nothing(door, caplog):
    class Fails(Socket):
        async def open(self):
            raise RuntimeError("of the handler's own")

    door.add("fails", Fails)
    async with await door.knock("fails", [MARKER, bearing(door.token)]) as socket:
        assert socket.status == 101
        assert await socket.at_end()
    await door.settled()
    assert len(errors(caplog.records)) == 1  # tornado's


async def test_C3_3_not_found_where_everything_asks_for_a_user(door):
    door.app.web_app.settings["allow_unauthenticated_access"] = False
    told = await door.refused("no/such/path", [REASON_MARKER])
    assert (told.code, told.slug) == (4401, "credentials_missing")
    told = await door.refused("no/such/path", [MARKER, bearing(door.token), REASON_MARKER])
    assert (told.code, told.slug) == (4404, "not_found")


# -- a client that leaves before it is let in --------------------------------------------------------


async def test_a_client_that_leaves_early_is_never_let_in(door, caplog):
    go_on = asyncio.Event()
    opened: list[object] = []

    class Slow(Socket):
        async def get(self):
            await go_on.wait()
            await super().get()

        def open(self):
            opened.append(self)

    seen: list[Socket] = []
    door.add("slow", Slow, seen=seen)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(
        f"GET {door.base}slow HTTP/1.1\r\nHost: {door.host}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Version: 13\r\nAuthorization: token {door.token}\r\n\r\n".encode()
    )
    await auntil(lambda: door.guard.opening)
    writer.transport.abort()
    await door.settled()
    go_on.set()
    await auntil(lambda: seen[0]._finished)
    await door.settled()
    assert opened == []
    assert errors(caplog.records) == []
    assert refusals(caplog.records) == []


@pytest.mark.parametrize("extensions", ["x; a*=utf-8''%ff; a*0*=q", f"x; a*{'9' * 5000}=1"])
async def test_an_extension_that_cannot_be_read_does_not_matter_to_who_is_refused(
    door, caplog, extensions
):
    told = await door.refused(EVENTS, [REASON_MARKER], {"Sec-WebSocket-Extensions": extensions})
    assert (told.status, told.code) == (101, 4401)
    await door.settled()
    assert errors(caplog.records) == []
