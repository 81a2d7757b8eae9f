"""What takes too long to open is refused, and what comes of it later does nothing."""

from __future__ import annotations

import asyncio
import functools
import logging

import pytest
from jupyter_server.auth.identity import IdentityProvider, User
from tornado import web

from jupyter_token_ws import Refused
from jupyter_token_ws.guard.openings import Opening, Openings
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Socket, errors, refusals
from tests.support.knock import TIMEOUT, bearing
from tests.support.waiting import auntil


@pytest.fixture
def token_ws_config():
    return {
        "open_timeouts": {"slow": 0.05, "slower": 0.0},
        "refusal_burst": 1000,
        "refusal_linger": 0.2,
    }


class Slow(Socket):
    """Takes its time, then does what the path says."""

    def initialize(self, go_on: asyncio.Event, seen: list[Socket]) -> None:  # type: ignore[override]
        super().initialize(seen)
        self.go_on = go_on
        self.opened = False
        self.ended = False

    async def get(self, what: str) -> None:
        try:
            await self.go_on.wait()
            await self.late(what)
        finally:
            self.ended = True

    async def late(self, what: str) -> None:
        if what == "success":
            await super().get()
        elif what == "error":
            raise web.HTTPError(500, "late")
        elif what == "refusal":
            raise Refused("gone")
        elif what == "redirect":
            self.redirect("/elsewhere")
        elif what == "send_error":
            self.send_error(500)
        elif what == "finish":
            self.finish("an answer of its own")
        elif what == "write":
            self.write("an answer of its own")
        elif what == "check_origin":
            self.check_origin("https://evil.example")
        elif what == "close":
            self.close(1000)
        elif what == "page":
            self.set_header("X-Late", "1")
            self.set_status(400)
            self.finish({"late": True})

    def open(self) -> None:
        self.opened = True


def credential(door) -> dict[str, str]:
    return {"Authorization": f"token {door.token}"}


WHAT = [
    "success",
    "error",
    "refusal",
    "redirect",
    "send_error",
    "finish",
    "write",
    "check_origin",
    "close",
    "page",
]


@pytest.mark.parametrize("opted_in", [True, False])
async def test_C3_3_a_late_outcome_does_nothing(door, caplog, opted_in):
    caplog.set_level(logging.DEBUG)
    for what in [*WHAT, "nothing"]:
        caplog.clear()
        go_on = asyncio.Event()
        seen: list[Slow] = []
        door.add(f"slow-{what}/([a-z_]+)", Slow, go_on=go_on, seen=seen)
        async with await door.knock(
            f"slow-{what}/{what}", [REASON_MARKER] if opted_in else None, credential(door)
        ) as answer:
            if opted_in:
                assert (answer.status, answer.subprotocol) == (101, REASON_MARKER)
                await answer.wait_closed(answer=False)
                assert (answer.code, answer.slug) == (4408, "open_timeout")
            else:
                assert (answer.status, answer.body) == (
                    408,
                    b"open_timeout: it took too long to open\n",
                )
            go_on.set()
            await auntil(functools.partial(getattr, seen[0], "ended"))
            await door.settled()  # which comes after everything that the handler's end brings about
            assert not seen[0].opened
            if opted_in:
                assert await answer.at_end()
            else:
                # Nothing more was sent: the connection takes the next request.
                answer.writer.write(
                    f"GET {door.base}api HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode()
                )
                assert (await answer.reader.readline()).startswith(b"HTTP/1.1 200")
        assert [line.split()[1] for line in refusals(caplog.records)] == ["open_timeout"]
        assert errors(caplog.records) == []


@pytest.mark.parametrize("drop", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Connection"])
async def test_C3_3_a_late_400_of_tornados_does_nothing(door, caplog, drop):
    go_on = asyncio.Event()
    seen: list[Slow] = []
    door.add("slow/([a-z_]+)", Slow, go_on=go_on, seen=seen)
    async with await door.knock("slow/success", None, credential(door), drop=(drop,)) as answer:
        assert answer.status == 408
        go_on.set()
        await auntil(lambda: seen[0].ended)
        await door.settled()
    assert errors(caplog.records) == []


async def test_C3_3_a_late_exception_of_the_handlers_own_is_logged_and_not_answered(door, caplog):
    go_on = asyncio.Event()

    class Crashes(Slow):
        async def late(self, what):
            raise RuntimeError("late")

    door.add("slow/([a-z_]+)", Crashes, go_on=go_on, seen=[])
    async with await door.knock("slow/x", [REASON_MARKER], credential(door)) as answer:
        await answer.wait_closed()
        go_on.set()
        await auntil(lambda: errors(caplog.records))
    await door.settled()
    assert "Uncaught exception" in errors(caplog.records)[0]
    assert len(refusals(caplog.records)) == 1


async def test_C3_3_the_timeout_is_by_path_and_zero_is_for_ever(door):
    guard, base = door.guard, door.base
    assert guard.open_timeout(f"{base}slow/x") == 0.05
    assert guard.open_timeout(f"{base}slower") == 0.05  # the first that matches
    assert guard.open_timeout(f"{base}{EVENTS}") == 300
    assert guard.open_timeout("/elsewhere/slow") == 300


@pytest.mark.parametrize("token_ws_config", [{"open_timeout": 0.05, "open_timeouts": {"slow": 0}}])
async def test_C3_3_no_timeout_where_it_is_zero(door):
    go_on = asyncio.Event()
    seen: list[Slow] = []
    door.add("slow/([a-z_]+)", Slow, go_on=go_on, seen=seen)
    door.add("other/([a-z_]+)", Slow, go_on=go_on, seen=[])
    asking = asyncio.ensure_future(door.knock("slow/success", None, credential(door)))
    assert (await door.refused("other/success", None, credential(door))).status == 408
    assert not asking.done()
    go_on.set()
    async with await asking as answer:
        assert answer.status == 101
        assert seen[0].opened


@pytest.mark.parametrize("token_ws_config", [{"open_timeout": 0.3}])
async def test_C3_3_an_open_socket_has_no_timeout(door, caplog):
    async with await door.knock(EVENTS, [MARKER, bearing(door.token), REASON_MARKER]) as socket:
        assert socket.status == 101
        assert not door.guard.opening
    await door.settled()
    assert refusals(caplog.records) == []


@pytest.mark.parametrize("token_ws_config", [{"open_timeout": 0.05}])
@pytest.mark.parametrize("admits", [True, False])
@pytest.mark.parametrize("offer", [None, [REASON_MARKER], [MARKER, bearing("a"), REASON_MARKER]])
async def test_C3_3_a_provider_that_takes_too_long(door, caplog, admits, offer):
    go_on = asyncio.Event()
    asked = 0

    class Slow(IdentityProvider):
        async def get_user(self, handler):
            nonlocal asked
            await go_on.wait()
            asked += 1
            return User("ann") if admits else None

        @property
        def auth_enabled(self):
            return True

    provider = Slow(parent=door.app)
    door.app.web_app.settings["identity_provider"] = provider
    answer = await door.refused(EVENTS, offer)
    assert (answer.code, answer.slug) == (4408, "open_timeout") if offer else answer.status == 408
    go_on.set()
    await auntil(lambda: asked)
    await door.settled()
    assert errors(caplog.records) == []
    assert len(refusals(caplog.records)) == 1


async def test_C3_4_a_timeout_across_origins_is_not_told(door):
    go_on = asyncio.Event()
    seen: list[Slow] = []
    door.add("slow/([a-z_]+)", Slow, go_on=go_on, seen=seen)
    headers = {"Origin": "https://evil.example", "Cookie": await door.login_cookie()}
    answer = await door.refused("slow/success", [REASON_MARKER], headers)
    assert (answer.status, answer.body) == (403, b"Cross origin websockets not allowed")
    answer = await door.refused("slow/success", [MARKER, bearing(door.token)], headers)
    assert (answer.code, answer.slug) == (4408, "open_timeout")
    go_on.set()
    await auntil(lambda: all(handler.ended for handler in seen))


async def test_C3_3_a_deadline_ends_with_its_handshake(door):
    for drop in ("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Connection"):
        door.add(f"at-once-{drop}", Socket, seen=[])
        answer = await door.refused(f"at-once-{drop}", None, credential(door), drop=(drop,))
        assert answer.status in (400, 426)
        assert not door.guard.opening
    await door.settled()


class Late:
    """Notes when it is refused, and fails where a test wants it to."""

    def __init__(self, fails: bool = False) -> None:
        self.refused = asyncio.Event()
        self.fails = fails
        self.slug = ""

    def opening_client(self) -> str | None:
        return None

    def refuse_opening(self, slug: str, retry_after: int | None = None) -> None:
        self.slug = slug
        self.refused.set()
        if self.fails:
            raise RuntimeError("no")


async def test_one_timer_rings_for_each_in_its_turn():
    late: list[Opening] = []
    openings = Openings(late.append)
    first, second, third, never, gone = (Late() for _ in range(5))
    openings.add(third, 0.06)
    openings.add(never, 0)
    openings.add(second, 0.04)  # earlier than what the timer is set to
    openings.add(gone, 0.01)
    openings.add(first, 0.02)
    openings.discard(gone)
    openings.discard(gone)
    await auntil(lambda: len(late) == 3)
    assert late == [first, second, third]
    assert list(openings) == [never]
    assert openings._timer is None


async def test_all_that_are_late_at_once_are_told_and_one_that_leaves_meanwhile_is_not():
    late: list[Opening] = []

    def tell(handler: Opening) -> None:
        late.append(handler)
        openings.discard(last)

    openings = Openings(tell)
    first, last = Late(), Late()
    openings.add(first, 1e-9)  # both are due when the loop looks
    openings.add(last, 1e-9)
    await auntil(lambda: late)
    assert late == [first]
    assert not openings


async def test_a_stopped_timer_does_not_ring_and_starts_again():
    late: list[Opening] = []
    openings = Openings(late.append)
    one, two = Late(), Late()
    openings.add(one, 0.001)
    openings.stop()
    openings.add(two, 0.01)
    await auntil(lambda: len(late) == 2)
    assert set(late) == {one, two}


async def test_C3_3_one_that_cannot_be_refused_does_not_keep_the_others(door, caplog):
    broken, other = Late(fails=True), Late()
    door.guard.opening.add(broken, 0.001)
    door.guard.opening.add(other, 0.002)
    await asyncio.wait_for(other.refused.wait(), TIMEOUT)
    assert (broken.slug, other.slug) == ("open_timeout", "open_timeout")
    assert "Cannot refuse a websocket that is opening" in caplog.text
