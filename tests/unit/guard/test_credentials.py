"""Where a credential is taken from, and what is left of it in the request (C1, C2.1, C2.3, C2.5)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.auth.identity import User
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard import credentials
from jupyter_token_ws.guard.credentials import CredentialSource, Digester
from jupyter_token_ws.guard.handshake import Handshake, Stage
from jupyter_token_ws.protocol.subprotocols import (
    MARKER,
    REASON_MARKER,
    Offer,
    encode_token,
    offer_subprotocols,
)
from tests.support.door import EVENTS, Door
from tests.support.knock import bearing, knock_raw
from tests.support.providers import BAD, TOKEN, USER, FlagProvider
from tests.support.recording import OpenToAll, Protected, Recorder, request_for
from tests.support.waiting import auntil

APP = "app-token-of-somebody-else"
OFFER = ["own", MARKER, bearing(TOKEN), REASON_MARKER]


class Probe(FlagProvider):
    """Notes what it is shown, and waits or fails where a test wants it to."""

    shown: ClassVar[list[dict[str, Any]]] = []
    before: ClassVar[list[Callable[[], Awaitable[None]]]] = []

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        request = handler.request
        self.shown.append(
            {
                "authorization": request.headers.get_list("Authorization"),
                "uri": request.uri,
                "token": handler.get_argument("token", None),
                "cookie": request.headers.get("Cookie"),
            }
        )
        for wait in self.before:
            await wait()
        return await super().get_user(handler)


@pytest.fixture(autouse=True)
def _fresh_probe():
    Probe.shown.clear()
    yield
    Probe.before.clear()


@pytest.fixture
def jp_server_config(jp_server_config):
    return {
        **jp_server_config,
        "ServerApp": {**jp_server_config["ServerApp"], "identity_provider_class": Probe},
    }


@pytest.fixture
def here(door: Door) -> type[Protected]:
    class Here(Protected):
        """For this server."""

    door.add("here", Here)
    return Here


def lines(recorder: type[Recorder], where: str) -> list[str]:
    """The credentials in the headers at one step."""
    sight = recorder.at(where)
    return sight.header("Authorization") + sight.header("Cookie") + sight.header("Referer")


# --- C1: what is offered and answered -------------------------------------------------------------


@pytest.mark.parametrize("way", ["own", "marker", "token", "reason"])
async def test_C1_1_answer_to_every_offer(door, here, way):
    """``way`` is left out of the full offer first, then everything else in turn."""
    names = {"own": "own", "marker": MARKER, "token": bearing(TOKEN), "reason": REASON_MARKER}
    rest = [name for name in names if name != way]
    for size in range(4):
        for offered in itertools.combinations(rest, size):
            headers = {} if "token" in offered else {"Authorization": f"Bearer {TOKEN}"}
            offer = [names[name] for name in offered]
            if "own" in offered:
                answer = "own"
            elif {"marker", "token"} <= set(offered):
                answer = MARKER
            elif "reason" in offered:
                answer = REASON_MARKER
            else:
                answer = None
            async with await door.knock("here", offer, headers) as socket:
                assert (socket.status, socket.subprotocol) == (101, answer), offered
            handler = here.handlers[-1]
            assert here.at("select_subprotocol").extra["offered"] == ["own"] * ("own" in offered)
            # The handler is told of its own choice only, as if there were no markers.
            assert handler.selected_subprotocol == ("own" if "own" in offered else None)


@pytest.mark.parametrize(
    "entry",
    [
        f"v2.token.websocket.jupyter.org.{TOKEN}",
        f"V1.Token.WebSocket.Jupyter.ORG.{TOKEN}",
        f"v1.token.websocket.jupyter.org.{TOKEN}",
        f"v007.token.websocket.jupyter.org.{TOKEN}",
    ],
)
async def test_C1_2_token_bearing_entries_are_never_answered_nor_seen(door, here, entry, caplog):
    async with await door.knock("here", ["own", MARKER, entry, REASON_MARKER]) as socket:
        version = entry.lower().startswith("v1.")
        if not version:
            await socket.wait_closed()
            assert (socket.code, socket.slug) == (4400, "malformed_credentials")
            assert here.steps() == []
        assert entry not in repr(socket.headers)
    assert not any(sight.shows(TOKEN) for sight in here.sights)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("entry", [f"{MARKER}.", "V1.TOKEN.websocket.jupyter.org."])
async def test_C1_2_C1_3_empty_entry_is_taken_out_and_is_no_token(door, here, entry):
    async with await door.knock(
        "here", ["own", entry, MARKER], {"Authorization": f"token {TOKEN}"}
    ) as socket:
        assert (socket.status, socket.subprotocol) == (101, "own")
    assert here.at("open").info.source is CredentialSource.HEADER
    refused = await door.refused("here", [entry, REASON_MARKER])
    assert refused.slug == "credentials_missing"
    assert not any(entry in repr(sight.headers) for sight in here.sights)


@pytest.mark.parametrize("token_ws_config", [{"max_token_size": 30, "refusal_burst": 1000}])
@pytest.mark.parametrize(
    "entries",
    [
        [bearing(TOKEN), bearing(TOKEN)],
        [bearing(TOKEN), f"{MARKER}."],
        [f"{MARKER}.%"],
        [f"{MARKER}.%zz"],
        [f"{MARKER}.%ff"],
        [f"{MARKER}.a%0ab"],
        [f"{MARKER}.%7f"],
        [f"{MARKER}.{'a' * 31}"],
        [f"{MARKER}.{'%41' * 11}"],
    ],
    ids=[
        "two",
        "token and empty",
        "cut",
        "no hex",
        "no utf-8",
        "lf",
        "del",
        "long",
        "long encoded",
    ],
)
async def test_C1_3_malformed_offers_never_reach_the_handler(door, here, entries):
    good = {"Authorization": f"token {TOKEN}", "Cookie": "session=of-ann"}
    told = await door.refused("here", ["own", *entries, REASON_MARKER], good)
    assert (told.code, told.slug, told.subprotocol) == (
        4400,
        "malformed_credentials",
        REASON_MARKER,
    )
    assert (here.steps(), Probe.shown) == ([], [])


@pytest.mark.parametrize("token_ws_config", [{"close_reasons": "never"}])
async def test_C1_3_malformed_offer_by_plain_http_comes_after_the_host(door, here):
    two = [bearing(TOKEN), bearing(TOKEN)]
    assert (await door.refused("here", two)).status == 400
    assert (await door.refused("here", two, {"Host": "evil.example"})).status == 403


@pytest.mark.parametrize("token", ["(a)[b]{c}", "ü/&=?#%+, ;\"'", "日本", "a b", "~!*'()._-"])
async def test_C1_4_any_token_can_be_offered_by_its_encoding(door, here, token, monkeypatch):
    monkeypatch.setattr("tests.support.providers.TOKEN", token)
    offer = offer_subprotocols(["own"], token)
    assert offer == ["own", MARKER, f"{MARKER}.{encode_token(token)}", REASON_MARKER]
    assert not set("()") & set(offer[2])
    async with await door.knock("here", offer) as socket:
        assert socket.status == 101
    assert Probe.shown[0]["authorization"] == [f"token {token}"]


# --- C2.3: what a handler sees --------------------------------------------------------------------

# What is sent (offer, query, headers); what stands in query, Authorization and Referer from the
# moment that the credential is judged.
PAGE = "http://127.0.0.1/lab/tree"
NESTED = quote("/login?next=" + quote(f"/lab?token={TOKEN}"))
BEARER_APP = {"Authorization": f"Bearer {APP}"}
SEEN = {
    "subprotocol": (OFFER, "a=%20b&c=+d", {}, "a=%20b&c=+d", [], []),
    "url": (["own"], f"a=%20b&token={TOKEN}&c=+d", {}, "a=%20b&c=+d", [], []),
    "url only": (["own"], f"token={TOKEN}", {}, "", [], []),
    "url encoded": (["own"], f"t%6Fken=%67{TOKEN[1:]}&x", {}, "x", [], []),
    "url padded": (["own"], f"token=+{TOKEN}%01&x=1", {}, "x=1", [], []),
    "header": (["own"], "a=1", {"Authorization": f"Bearer {TOKEN}"}, "a=1", [], []),
    "header, other scheme": (["own"], "", {"Authorization": f"TOKEN  {TOKEN}"}, "", [], []),
    "equal in url": (OFFER, f"token={TOKEN}&a", {}, "a", [], []),
    "equal in header": (OFFER, "", {"Authorization": f"token {TOKEN}"}, "", [], []),
    "equal in url and header": (["own"], f"token={TOKEN}", {"Authorization": f"token {TOKEN}"}, "", [], []),
    "app's own in url": (OFFER, f"token={APP}&a", {}, f"token={APP}&a", [], []),
    "app's own after ours": (OFFER, f"token={TOKEN}&token={APP}", {}, f"token={APP}", [], []),
    "app's own before ours": (["own"], f"token={APP}&token={TOKEN}", {}, f"token={APP}", [], []),
    "app's own in header": (OFFER, "", BEARER_APP, "", [f"Bearer {APP}"], []),
    "url, other in header": (["own"], f"token={TOKEN}", BEARER_APP, "", [f"Bearer {APP}"], []),
    "basic": (OFFER, "", {"Authorization": "Basic YTpi"}, "", ["Basic YTpi"], []),
    "url and basic": (["own"], f"token={TOKEN}", {"Authorization": "Basic YTpi"}, "", ["Basic YTpi"], []),
    "referer": (OFFER, "", {"Referer": f"{PAGE}?token={TOKEN}&x=%20"}, "", [], [f"{PAGE}?x=%20"]),
    "referer, url": (["own"], f"token={TOKEN}", {"Referer": f"{PAGE}?token={TOKEN}"}, "", [], [PAGE]),
    "referer of a login page": (
        OFFER,
        "",
        {"Referer": f"{PAGE}?next={NESTED}&x=1"},
        "",
        [],
        [f"{PAGE}?x=1"],
    ),
    "referer by another name": (OFFER, "", {"Referer": f"{PAGE}?key={TOKEN}"}, "", [], [PAGE]),
    "app's own in referer": (OFFER, "", {"Referer": f"{PAGE}?token={APP}"}, "", [], [f"{PAGE}?token={APP}"]),
    "referer that is no address": (OFFER, "", {"Referer": "http://[::1?token"}, "", [], ["http://[::1?token"]),
}  # fmt: skip


@pytest.mark.parametrize("cookie", [None, "session=of-ann; theme=dark"], ids=["", "cookie"])
@pytest.mark.parametrize("case", SEEN.values(), ids=SEEN)
async def test_C2_3_C2_5_request_is_as_it_came_less_the_token(door, here, case, cookie):
    offer, query, headers, left_query, left_authorization, left_referer = case
    sent = {**headers, **({"Cookie": cookie} if cookie else {})}
    path = f"here?{query}" if query else "here"
    async with await door.knock(path, offer, sent) as socket:
        assert (socket.status, socket.subprotocol, socket.set_cookies) == (101, "own", [])
        await socket.send("hello")
        assert await socket.wait_message() == "hello"
    # Shown to the provider as the only token.
    told = Probe.shown[0]
    if offer is OFFER:
        assert (told["authorization"], told["token"]) == ([f"token {TOKEN}"], None)
    by_cookie = ["session=of-ann; theme=dark"] if cookie else []
    assert told["cookie"] == cookie
    before = here.at("prepare")
    assert before.uri == f"{door.base}{path}"
    assert before.header("Authorization") == [v for k, v in headers.items() if k == "Authorization"]
    for where in ("prepared", "get", "select_subprotocol", "open", "on_message"):
        sight = here.at(where)
        assert not sight.shows(TOKEN), where
        assert sight.uri == f"{door.base}here" + (f"?{left_query}" if left_query else "")
        assert sight.query == left_query
        assert sight.arguments.get("token") == sight.query_arguments.get("token")
        assert sight.arguments.get("token") == ([APP.encode()] if APP in left_query else None)
        assert sight.header("Authorization") == left_authorization
        assert sight.header("Referer") == left_referer
        assert sight.header("Cookie") == by_cookie
        assert sight.cookies == ({"session": "of-ann", "theme": "dark"} if cookie else {})
    markers = ["own, " + ", ".join([MARKER, REASON_MARKER])] if offer is OFFER else ["own"]
    assert here.at("get").header("Sec-Websocket-Protocol") == markers
    assert here.at("open").header("Sec-Websocket-Protocol") == ["own"]


async def test_C2_3_url_token_beside_a_cookie_is_left_unless_it_is_good(door, here):
    cookie = {"Cookie": "session=of-ann"}
    async with await door.knock(f"here?token={APP}&a=1", ["own"], cookie) as socket:
        assert socket.status == 101
    sight = here.at("open")
    assert (sight.query, sight.info.source) == (f"token={APP}&a=1", CredentialSource.COOKIE)


@pytest.mark.parametrize("token_ws_config", [{"allow_token_in_url": False}])
async def test_C2_4_C2_3_url_token_that_is_refused_is_hidden_from_provider_and_handler(door, here):
    cookie = {"Cookie": "session=of-ann"}
    for token, left in ((TOKEN, ""), (APP, f"token={APP}")):
        Probe.shown.clear()
        async with await door.knock(f"here?token={token}", ["own"], cookie) as socket:
            assert socket.status == 101
        assert Probe.shown[0]["token"] is None
        assert here.at("open").query == left
        assert here.at("open").info.source is CredentialSource.COOKIE
    refused = await door.refused(f"here?token={TOKEN}", [REASON_MARKER])
    assert (refused.code, refused.slug) == (4401, "url_token_refused")
    plain = await door.refused(f"here?token={TOKEN}")
    assert plain.status == 403


@pytest.mark.parametrize("token_ws_config", [{"allow_token_in_url": False}])
async def test_C2_4_header_and_subprotocol_go_on_beside_a_url_token(door, here):
    for offer, headers, source in (
        (OFFER, {}, CredentialSource.SUBPROTOCOL),
        (["own"], {"Authorization": f"token {TOKEN}"}, CredentialSource.HEADER),
    ):
        for token in (TOKEN, APP):
            async with await door.knock(f"here?token={token}", offer, headers) as socket:
                assert socket.status == 101
            sight = here.at("open")
            assert sight.info.source is source
            assert sight.query == ("" if token == TOKEN else f"token={APP}")


async def test_C2_3_several_authorization_lines_are_put_back_as_they_were(door, here):
    head = (
        f"GET {door.base}here HTTP/1.1\r\nHost: {door.host}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        "Authorization: Basic YTpi\r\nAuthorization: Digest x\r\nCookie: a=1\r\nCookie: b=2\r\n"
        f"Sec-WebSocket-Protocol: own\r\nSec-WebSocket-Protocol: {bearing(TOKEN)}\r\n\r\n"
    )
    async with await door.raw(head.encode()) as socket:
        assert (socket.status, socket.subprotocol) == (101, "own")
    assert Probe.shown[0]["authorization"] == [f"token {TOKEN}"]
    for where in ("prepared", "open"):
        assert here.at(where).header("Authorization") == ["Basic YTpi", "Digest x"]
        assert here.at(where).header("Cookie") == ["a=1", "b=2"]


# --- C2.3: whatever happens -----------------------------------------------------------------------

AWKWARD = f"here?a=1&token={APP}"
HEADERS = {"Authorization": "Basic YTpi", "Cookie": "theme=dark", "Referer": PAGE}


def untouched(handler: Recorder, door: Door) -> bool:
    """Whether a request sent as ``AWKWARD`` with ``HEADERS`` is as it came, less the token."""
    request = handler.request
    return (
        request.uri == f"{door.base}{AWKWARD}"
        and request.arguments == {"a": [b"1"], "token": [APP.encode()]}
        and request.arguments == request.query_arguments
        and {name: request.headers.get_list(name) for name in HEADERS}
        == {name: [value] for name, value in HEADERS.items()}
        and TOKEN not in repr(list(request.headers.get_all()))
    )


@pytest.mark.parametrize(
    "offer", [OFFER, ["own", MARKER, bearing(BAD), REASON_MARKER]], ids=["good", "bad"]
)
@pytest.mark.parametrize(
    ("error", "slug"),
    [(RuntimeError("broken"), "internal_error"), (web.HTTPError(503), "unavailable")],
)
async def test_C2_3_restored_after_an_exception(door, here, offer, error, slug):
    async def fail() -> None:
        raise error

    Probe.before.append(fail)
    answer = await door.refused(AWKWARD, offer, HEADERS)
    assert answer.slug == slug
    assert untouched(here.handlers[-1], door)
    # What upstream asks of a handler afterwards is still answered, and safely.
    assert here.handlers[-1].identity_provider.should_check_origin(here.handlers[-1]) is True
    assert here.handlers[-1].identity_provider.is_token_authenticated(here.handlers[-1]) is False


class Gate:
    """Holds a provider until it is let go on."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    @classmethod
    def before(cls) -> Gate:
        gate = cls()
        Probe.before.append(gate)
        return gate

    async def __call__(self) -> None:
        self.task = asyncio.current_task()
        self.waiting.set()
        await self.go.wait()


async def test_C2_3_restored_after_cancellation(door, here):
    gate = Gate.before()
    knocking = asyncio.ensure_future(door.refused(AWKWARD, OFFER, HEADERS))
    await gate.waiting.wait()
    assert here.handlers[-1].request.headers["Authorization"] == f"token {TOKEN}"
    assert gate.task is not None
    gate.task.cancel()
    with suppress(asyncio.CancelledError):
        await gate.task
    assert untouched(here.handlers[-1], door)
    # An error in newer tornado; older ones leave the client waiting.
    here.handlers[-1].refuse_opening("unavailable")
    assert (await knocking).slug in ("internal_error", "unavailable")
    assert here.steps() == ["prepare"]


async def test_C2_3_restored_after_the_client_has_gone(door, here):
    gate = Gate.before()
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    lines = [
        f"GET {door.base}{AWKWARD} HTTP/1.1",
        f"Host: {door.host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        f"Sec-WebSocket-Protocol: {', '.join(OFFER)}",
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    ]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await gate.waiting.wait()
    handler = here.handlers[-1]
    writer.transport.abort()
    await auntil(lambda: handler._token_ws_handshake.stage is Stage.ENDED)
    gate.go.set()
    assert gate.task is not None
    await gate.task
    assert untouched(handler, door)
    assert "open" not in here.steps()
    await door.settled()


async def test_C2_3_restored_when_refused_meanwhile(door, here):
    gate = Gate.before()
    knocking = asyncio.ensure_future(door.refused(AWKWARD, OFFER, HEADERS))
    await gate.waiting.wait()
    here.handlers[-1].refuse_opening("unavailable")
    answer = await knocking
    assert answer.slug == "unavailable"
    gate.go.set()
    assert gate.task is not None
    await gate.task
    assert untouched(here.handlers[-1], door)
    assert "open" not in here.steps()


# --- C2.3: handlers that are not Jupyter's --------------------------------------------------------


class Plain(Recorder):
    """Reads the header for itself, at a time of its own."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.note("get")
        how = self.get_argument("how", "")
        if how == "raise":
            raise web.HTTPError(410)
        if how == "finish":
            self.finish("no")
            return
        if self.request.headers.get("Authorization") != f"token {TOKEN}":
            raise web.HTTPError(403)
        await WebSocketHandler.get(self, *args, **kwargs)


@pytest.fixture
def plain(door: Door) -> type[Plain]:
    class Here(Plain):
        """For this server."""

    door.add("plain", Here)
    return Here


async def test_C2_3_C2_6_plain_handler_finds_the_token_until_it_accepts(door, plain):
    async with await door.knock(
        f"plain?token={APP}", OFFER, {"Authorization": "Basic YTpi", "Cookie": "session=of-ann"}
    ) as socket:
        assert (socket.status, socket.subprotocol) == (101, "own")
    for where in ("prepare", "prepared", "get"):
        assert plain.at(where).header("Authorization") == [f"token {TOKEN}"]
        assert plain.at(where).query == ""
    for where in ("select_subprotocol", "open"):
        assert plain.at(where).header("Authorization") == ["Basic YTpi"]
        assert plain.at(where).query == f"token={APP}"
        assert not plain.at(where).shows(TOKEN)


@pytest.mark.parametrize(("how", "code"), [("raise", 4410), ("finish", None)])
async def test_C2_3_plain_handler_that_does_not_accept(door, plain, how, code):
    answer = await door.refused(f"plain?how={how}", OFFER, {"Authorization": "Basic YTpi"})
    assert answer.code == code
    assert plain.at("get").header("Authorization") == [f"token {TOKEN}"]
    request = plain.handlers[-1].request
    assert request.headers.get_list("Authorization") == ["Basic YTpi"]


async def test_C2_3_plain_handler_refused_while_its_token_is_judged_never_finds_it(door, plain):
    gate = Gate.before()
    knocking = asyncio.ensure_future(door.refused("plain", OFFER))
    await gate.waiting.wait()
    plain.handlers[-1].refuse_opening("unavailable")
    assert (await knocking).slug == "unavailable"
    gate.go.set()
    assert gate.task is not None
    await gate.task
    assert plain.steps() == []
    assert "Authorization" not in plain.handlers[-1].request.headers


@pytest.mark.parametrize("in_url", [True, False])
@pytest.mark.parametrize("allow", [True, False])
async def test_C2_3_open_plain_handler_does_not_get_the_servers_token(door, in_url, allow):
    class Here(Recorder):
        """Asks nobody."""

    door.add("open", Here)
    door.guard.options = type(door.guard.options)(allow_token_in_url=allow)
    for token in (TOKEN, APP):
        path = f"open?token={token}&a=1" if in_url else "open?a=1"
        headers = {} if in_url else {"Authorization": f"Bearer {token}"}
        async with await door.knock(path, ["own"], headers) as socket:
            assert socket.status == 101
        sight = Here.at("open")
        ours = token == TOKEN
        assert sight.shows(token) is not ours
        assert sight.arguments["a"] == [b"1"]
        taken = ours and (allow or not in_url)
        source = CredentialSource.URL if in_url else CredentialSource.HEADER
        assert sight.info.source is (source if taken else CredentialSource.NONE)
        assert (sight.info.user is not None) is taken


async def test_C2_3_C2_8_plain_handler_does_not_get_its_token_twice(door, plain):
    """The page's address may carry the very token that its script sends."""
    headers = {"Referer": f"{PAGE}?token={TOKEN}&a=1"}
    async with await door.knock(f"plain?token={TOKEN}&a=1", OFFER, headers) as socket:
        assert socket.status == 101
    sight = plain.at("open")
    assert not sight.shows(TOKEN)
    assert (sight.query, sight.header("Referer")) == ("a=1", [f"{PAGE}?a=1"])
    assert sight.info.principal == f"user:{USER}"


async def test_C2_2_wrong_subprotocol_token_of_a_plain_handler_is_named_before_the_urls(
    door, plain
):
    door.guard.options = type(door.guard.options)(allow_token_in_url=False)
    wrong = [MARKER, bearing(BAD), REASON_MARKER]
    assert (await door.refused(f"plain?token={BAD}", wrong)).slug == "token_rejected"
    assert (await door.refused(f"plain?token={BAD}", [REASON_MARKER])).slug == "url_token_refused"


async def test_C3_4_wrong_token_for_a_plain_handler_is_told_across_origins(door, plain):
    headers = {"Authorization": f"Bearer {BAD}", "Origin": "https://evil.example"}
    answer = await door.refused("plain?how=raise", [REASON_MARKER], headers)
    assert answer.slug == "token_rejected"


# --- the parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "token"),
    [
        ("", None),
        ("token", None),
        ("token=", None),
        ("token=+", None),
        ("token=a", "a"),
        ("token=a&token=b", "b"),
        ("token=a&token=", None),
        ("token=%20a%1f", "a"),
        ("token=a%01b", "a b"),
        ("token=%C3%BC", "ü"),
        ("Token=a", None),
        ("t%6fken=a", "a"),
        ("xtoken=a", None),
    ],
)
def test_C2_1_url_token_is_read_as_upstream_reads_it(query, token):
    request = request_for(f"/p?{query}")
    assert credentials.url_token(request) == token
    handler = WebSocketHandler(web.Application(), request)
    assert (handler.get_argument("token", "") or None) == token


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (None, None),
        ("", None),
        ("token a", "a"),
        ("Token  a b ", "a b"),
        ("BEARER x", "x"),
        ("token", None),
        ("tokena", None),
        ("Basic a", None),
        ("xtoken a", None),
        ("Basic a, token b", None),
    ],
)
def test_C2_1_header_token(value, token):
    headers = {} if value is None else {"Authorization": value.strip()}
    handshake = Handshake.begin(request_for("/", headers), Offer(), opted_in=False)
    assert handshake.header_token == token


names = st.text("atoken=%+;[]", max_size=8) | st.just("token")
parts = st.builds("{}={}".format, names, st.text("abc%+=", max_size=5)) | names


@given(st.lists(parts, max_size=6), st.sampled_from([None, "a", "abc"]))
def test_C2_3_the_other_parameters_stay_to_the_letter(query, token):
    uri = "/p?" + "&".join(query)
    request = request_for(uri)
    credentials.remove_url_token(request, token)
    left = (request.uri or "").partition("?")[2].split("&")
    before = request_for(uri)
    kept = request_for(request.uri or "")
    values = before.query_arguments.pop("token", [])
    others = [
        v for v in values if token is not None and v.decode("utf-8", "replace").strip() != token
    ]
    now = kept.query_arguments.pop("token", [])
    assert now == others == request.query_arguments.pop("token", [])
    assert kept.query_arguments == before.query_arguments == request.query_arguments
    remaining = iter("&".join(query).split("&"))
    assert all(part in remaining for part in left if part)  # a subsequence, unchanged


def test_C2_3_uri_without_a_token_is_not_touched():
    for uri in ("/p", "/p?", "/p?a&&b=", "*", "http://h/p?x=?y"):
        request = request_for(uri)
        credentials.remove_url_token(request)
        assert request.uri == uri


def test_C2_3_a_question_mark_in_a_parameter_belongs_to_it():
    request = request_for("/p?token=a&next=/x?b=1", {"Referer": f"{PAGE}?token=a&next=/x?b=1"})
    assert credentials.carried_tokens(request) == ["a"]
    credentials.remove_ours(request, "a")
    assert request.uri == "/p?next=/x?b=1"
    assert request.headers["Referer"] == f"{PAGE}?next=/x?b=1"


def test_C2_3_an_address_in_the_referer_that_goes_on_after_the_token_is_gone():
    request = request_for("/p", {"Referer": f"{PAGE}?next=/x?token=a;b=1&c"})
    credentials.remove_from_referer(request, "a")
    assert request.headers["Referer"] == f"{PAGE}?c"


@pytest.mark.parametrize("known_to", ["arguments", "query_arguments"])
def test_C2_3_token_that_somebody_took_out_of_some_arguments_is_taken_out_of_all(known_to):
    request = request_for("/p?token=a&b=1")
    for name in {"arguments", "query_arguments"} - {known_to}:
        setattr(request, name, {"b": [b"1"]})
    credentials.remove_url_token(request, "a")
    assert request.uri == "/p?b=1"
    assert request.arguments == request.query_arguments == {"b": [b"1"]}


def test_C2_3_url_token_that_is_no_text_is_no_obstacle():
    request = request_for("/p?token=%ff&token=a")
    assert credentials.carried_tokens(request) == ["\ufffd", "a"]
    credentials.remove_url_token(request, "a")
    assert request.uri == "/p?token=%ff"
    assert request.arguments["token"] == [b"\xff"]


def test_C2_2_shown_hides_cookies_that_were_parsed_before():
    request = request_for("/p?token=a", {"Cookie": "a=1", "Authorization": "Basic x"})
    first = request.cookies
    with credentials.Shown(request, authorization=None, keep_url_token=False, keep_cookies=False):
        assert not request.cookies
        assert "Authorization" not in request.headers
        assert (request.uri, request.query, request.arguments) == ("/p", "", {})
    assert request.cookies is first
    assert request.headers["Authorization"] == "Basic x"
    assert (request.uri, request.query, request.arguments) == (
        "/p?token=a",
        "token=a",
        {"token": [b"a"]},
    )


def test_C2_3_shown_leaves_no_empty_cookies_behind():
    request = request_for("/", {"Cookie": "a=1"})
    with credentials.Shown(
        request, authorization="token x", keep_url_token=True, keep_cookies=False
    ):
        assert not request.cookies
    assert request.cookies["a"].value == "1"
    with credentials.Shown(
        request, authorization="token x", keep_url_token=True, keep_cookies=True
    ):
        assert request.cookies["a"].value == "1"


def test_C2_3_shown_restores_after_an_error():
    request = request_for("/p?token=a&b", {"Cookie": "a=1"})
    with (
        pytest.raises(KeyError),
        credentials.Shown(
            request, authorization="token x", keep_url_token=False, keep_cookies=False
        ),
    ):
        raise KeyError
    assert request.uri == "/p?token=a&b"
    assert "Authorization" not in request.headers
    assert request.headers["Cookie"] == "a=1"


def test_same_secret():
    assert credentials.same_secret("ü\udcff", "ü\udcff")
    assert not credentials.same_secret("a", "b")
    assert not credentials.same_secret("a", None)
    assert not credentials.same_secret(None, "a")
    assert not credentials.same_secret(None, None)


def test_C2_8_digests_mean_nothing_outside():
    one, other = Digester(), Digester()
    assert one("a") == one("a") != other("a")
    assert one("a") != one("b")
    assert len(one("ü\udcff")) == 32
    assert "a" * 9 not in one("a" * 9)


def test_C2_3_nothing_ours_nothing_removed():
    request = request_for(
        f"/p?token={APP}", {"Referer": f"{PAGE}?token={APP}", "Authorization": "token x"}
    )
    credentials.remove_ours(request, None)
    assert request.uri == f"/p?token={APP}"
    assert request.headers["Referer"] == f"{PAGE}?token={APP}"
    assert request.headers["Authorization"] == "token x"


async def test_C2_5_bad_cookie_is_not_cleared_beside_a_good_token(door, here):
    """The stock provider sets and clears cookies; see also ``test_identity``."""
    async with await door.knock(EVENTS, OFFER, {"Cookie": "session=nonsense"}) as socket:
        assert (socket.status, socket.set_cookies) == (101, [])


async def test_C2_2_open_jupyter_handler_names_nobody(door):
    class Here(OpenToAll):
        """For this server."""

    door.add("here", Here)
    async with await door.knock("here", ["own"]) as socket:
        assert socket.status == 101
    info = Here.at("open").info
    assert (info.source, info.user, info.subprotocol, info.opted_in) == (
        CredentialSource.NONE,
        None,
        "own",
        False,
    )
    async with await door.knock("here", OFFER) as socket:
        assert socket.status == 101
    info = Here.at("open").info
    assert (info.source, info.user.username, info.subprotocol, info.opted_in) == (
        CredentialSource.SUBPROTOCOL,
        USER,
        "own",
        True,
    )
    assert Here.at("prepare").info.subprotocol is None


async def test_C2_3_a_good_token_in_the_referer_beside_a_cookie_is_gone(door, here):
    """The page of a printed login link, signed in by cookie since: a proxied app must not get it."""
    cookie = {"Cookie": "session=of-ann", "Referer": f"{PAGE}?token={TOKEN}&a=1"}
    async with await door.knock("here", ["own"], cookie) as socket:
        assert socket.status == 101
    assert here.at("open").header("Referer") == [f"{PAGE}?a=1"]
    assert not here.at("open").shows(TOKEN)


async def test_C2_3_a_referer_with_many_tokens_is_asked_for_a_few(door, here):
    many = "&".join(f"token={number}" for number in range(50))
    cookie = {"Cookie": "session=of-ann", "Referer": f"{PAGE}?{many}"}
    async with await door.knock("here", ["own"], cookie) as socket:
        assert socket.status == 101
    assert here.at("open").header("Referer") == [f"{PAGE}?{many}"]
    assert len(Probe.shown) < 12


@pytest.mark.parametrize(
    ("query", "headers", "left_query", "left_authorization"),
    [
        (f"token={APP}", [("Authorization", f"token {TOKEN}")], f"token={APP}", []),
        (
            "",
            [("Authorization", "Basic YTpi"), ("Authorization", f"token {TOKEN}")],
            "",
            ["Basic YTpi"],
        ),
        (f"token={TOKEN}&token={APP}", [], f"token={APP}", []),
        (f"token={TOKEN}&token=", [], "token=", []),
    ],
)
async def test_C2_3_a_good_token_that_was_not_used_is_gone_wherever_it_stands(
    door, here, query, headers, left_query, left_authorization
):
    """Signed in by cookie; beside it the server's own token, where upstream did not look."""
    path = f"{door.base}here" + (f"?{query}" if query else "")
    lines = [("Cookie", "session=of-ann"), *headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    data = (
        f"GET {path} HTTP/1.1\r\nHost: {door.host}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Version: 13\r\n{head}\r\n"
    )
    async with await knock_raw(door.port, data.encode()) as socket:
        assert socket.status == 101
    sight = here.at("open")
    assert not sight.shows(TOKEN)
    assert sight.header("Authorization") == left_authorization
    assert sight.query == left_query


def test_C2_3_a_header_that_was_lent_is_gone_also_where_the_judge_took_it_away():
    request = request_for("/", {})
    with credentials.Shown(
        request, authorization="token a", keep_url_token=False, keep_cookies=False
    ):
        assert request.headers["Authorization"] == "token a"
        del request.headers["Authorization"]
    assert "Authorization" not in request.headers
