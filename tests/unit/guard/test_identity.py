"""How providers are asked: alone, once more, and as upstream asks them (C2.2, C2.5, C2.7)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import pytest
from jupyter_server.auth.authorizer import Authorizer
from jupyter_server.auth.identity import (
    IdentityProvider,
    LegacyIdentityProvider,
    PasswordIdentityProvider,
    User,
)
from jupyter_server.serverapp import ServerApp
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from jupyter_token_ws import Refused
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.identity import (
    DetachedHandler,
    JudgedProvider,
    ask,
    auth_enabled,
    detach,
    names_users,
    says_nobody,
    undo_cookies,
)
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Door
from tests.support.knock import bearing
from tests.support.providers import (
    BAD,
    BASE,
    BEARER,
    FLAG,
    HEADER,
    LEGACY,
    OFF,
    PASSWORD,
    PLAIN_LEGACY,
    RAISING,
    SESSION,
    STOCK,
    TOKEN,
    USER,
    BearerProvider,
    FlagProvider,
    HeaderProvider,
    Kind,
    LegacyLogin,
    OldWay,
    PlainLegacyLogin,
    Sent,
    session_user,
)
from tests.support.recording import OpenToAll, Protected, Recorder, request_for
from tests.support.waiting import auntil
from tests.unit.guard.conftest import EXTENSIONS

pytestmark = [
    # Upstream calls what it has deprecated, and warns of handlers that are open, its own included.
    pytest.mark.filterwarnings("ignore:.*is deprecated in (jupyter-server )?2.0"),
    pytest.mark.filterwarnings("ignore::jupyter_server.utils.JupyterServerAuthWarning"),
]

EVIL = "https://evil.example"
GOOD = [MARKER, bearing(TOKEN), REASON_MARKER]
WRONG = [MARKER, bearing(BAD), REASON_MARKER]


@pytest.fixture
def provider_class() -> type[IdentityProvider] | None:
    return None


@pytest.fixture
def kind(provider_class) -> Kind:
    if provider_class is None:
        return STOCK
    return Kind("special", {"ServerApp": {"identity_provider_class": provider_class}})


def server_config(kind: Kind, **traits: Any) -> dict[str, Any]:
    config: dict[str, Any] = {section: dict(values) for section, values in kind.config.items()}
    config.setdefault("ServerApp", {}).update(jpserver_extensions=dict(EXTENSIONS), **traits)
    config["TokenWebSocketApp"] = {"refusal_burst": 100_000, "max_refusals_open": 100_000}
    return config


@pytest.fixture
def jp_server_config(kind: Kind) -> dict[str, Any]:
    return server_config(kind)


@pytest.fixture
def here(door: Door) -> type[Protected]:
    class Here(Protected):
        """For this server."""

    door.add("here", Here)
    return Here


def source(recorder: type[Protected]) -> str:
    found: str = recorder.at("open").info.source.value
    return found


# --- C2.2 -----------------------------------------------------------------------------------------


class BearerByStock(IdentityProvider):
    """Upstream's way in all but the scheme."""

    def get_token(self, handler: web.RequestHandler) -> str | None:
        scheme, _, token = handler.request.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    @property
    def token(self) -> str:  # type: ignore[override]
        return TOKEN


@pytest.mark.parametrize("provider_class", [BearerByStock])
async def test_C2_2_C2_7_accepted_by_the_second_judgement_counts_as_by_header(door, here):
    """By header upstream does not ask where the page is from, so it does not by subprotocol."""
    for offer, headers in ((GOOD, {}), (["own"], {"Authorization": f"Bearer {TOKEN}"})):
        async with await door.knock("here", offer, {"Origin": EVIL, **headers}) as socket:
            assert (socket.status, socket.set_cookies) == (101, [])
        assert here.handlers[-1].token_authenticated
        assert here.at("open").info.principal.startswith("credential:")
    refused = await door.refused("here", WRONG, {"Origin": EVIL})
    assert refused.slug == "token_rejected"


@pytest.mark.parametrize("kind", [BEARER], ids=str)
async def test_C2_7_provider_without_a_flag_has_its_origins_checked_as_by_header(door, here):
    for offer, headers in ((GOOD, {}), (["own"], {"Authorization": f"Bearer {TOKEN}"})):
        answer = await door.refused("here", offer, {"Origin": EVIL, **headers})
        assert answer.status == 403
        async with await door.knock(
            "here", offer, {"Origin": f"http://{door.host}", **headers}
        ) as socket:
            assert socket.status == 101
        assert not here.handlers[-1].token_authenticated


class Expiring(FlagProvider):
    """Knows why it says no."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        token = self.get_token(handler)
        if token == BAD:
            raise Refused("token_expired")
        if token == "forbidden":
            raise web.HTTPError(403)
        return await super().get_user(handler)


@pytest.mark.parametrize("provider_class", [Expiring])
async def test_C2_2_provider_may_tell_its_own_reason(door, here):
    for sent in (Sent("bad"), Sent(url="bad"), Sent(header="bad")):
        answer = await door.refused(
            sent.path("here"), sent.offer(), sent.headers(FLAG, door.app, door.port)
        )
        assert (answer.code, answer.slug) == (4401, "token_expired")
    answer = await door.refused("here", [MARKER, bearing("forbidden"), REASON_MARKER])
    assert answer.slug == "token_rejected"


class Redirecting(HeaderProvider):
    """Sends strangers away by itself."""

    def get_user(self, handler: web.RequestHandler) -> User | None:
        user = super().get_user(handler)
        if user is None and not isinstance(handler, DetachedHandler):
            handler.redirect("https://login.example")
        return user


@pytest.mark.parametrize("provider_class", [Redirecting])
async def test_C2_2_provider_that_redirects_by_itself(door, here):
    assert (await door.refused("here", [REASON_MARKER])).slug == "credentials_missing"
    assert (await door.refused("here", GOOD)).slug == "token_rejected"
    plain = await door.refused("here")
    assert (plain.status, plain.headers["location"]) == (302, ["https://login.example"])
    async with await door.knock("here", GOOD, {"X-Remote-User": USER}) as socket:
        assert socket.status == 101


class Brittle(IdentityProvider):
    """Expects every request to be like those it has seen."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        return User(handler.request.headers["X-Remote-User"] + handler.request.headers["Cookie"])


@pytest.mark.parametrize("provider_class", [Brittle])
async def test_C2_1_provider_that_fails_on_other_requests_does_not_refuse_this_one(
    door, here, caplog
):
    caplog.set_level(logging.DEBUG, "jupyter_token_ws")
    headers = {"X-Remote-User": USER, "Cookie": "a=1", "Authorization": f"token {TOKEN}"}
    async with await door.knock("here", ["own"], headers) as socket:
        assert socket.status == 101
    assert source(here) == "cookie"
    asked = [
        line for line in caplog.messages if line.startswith("Asked for a credential's owner: ")
    ]
    assert len(asked) > 1  # whose the cookie is, and whose the token that was not used
    assert all("KeyError" in line for line in asked)
    # One that fails on the very question is an error, as it is upstream.
    assert (await door.refused("here", [REASON_MARKER])).slug == "internal_error"
    assert (await door.refused("here", GOOD, headers)).slug == "internal_error"


@pytest.mark.parametrize("provider_class", [Brittle])
async def test_C2_3_provider_that_fails_does_not_keep_strangers_from_an_open_socket(door):
    class Here(OpenToAll):
        """For this server."""

        async def prepare(self) -> None:  # type: ignore[override]
            """Of its own."""

    door.add("here", Here)
    async with await door.knock(f"here?token={TOKEN}", ["own"]) as socket:
        assert socket.status == 101


class Unreachable(FlagProvider):
    """Asks somewhere else about tokens, which does not answer."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        if self.get_token(handler):
            raise web.HTTPError(502)
        return await super().get_user(handler)


@pytest.mark.parametrize("provider_class", [Unreachable])
async def test_C2_2_provider_that_is_out_of_order_has_not_said_no(door, here):
    for sent in (Sent("good"), Sent(url="good"), Sent(header="good")):
        answer = await door.refused(
            sent.path("here"), sent.offer(), sent.headers(FLAG, door.app, door.port)
        )
        assert (answer.code, answer.slug) == (4500, "internal_error")
    # Nor does it keep out who came in without.
    door.guard.options = type(door.guard.options)(allow_token_in_url=False)
    async with await door.knock(f"here?token={TOKEN}", ["own"], {"Cookie": SESSION}) as socket:
        assert socket.status == 101
    assert source(here) == "cookie"


class FailingAlone(FlagProvider):
    """Out of order only when asked once more."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        if isinstance(handler, DetachedHandler):
            raise web.HTTPError(502)
        return await super().get_user(handler)


@pytest.mark.parametrize("provider_class", [FailingAlone])
async def test_C2_2_second_judgement_that_fails_admits_nobody(door, here):
    answer = await door.refused("here", WRONG, {"Cookie": SESSION})
    assert (answer.code, answer.slug) == (4500, "internal_error")
    assert here.steps() == ["prepare"]
    async with await door.knock(f"here?token={BAD}", ["own"], {"Cookie": SESSION}) as socket:
        assert socket.status == 101
    assert source(here) == "cookie"


class Guests(FlagProvider):
    """Everybody is somebody."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        return await super().get_user(handler) or User("guest")


@pytest.mark.parametrize("provider_class", [Guests])
async def test_C2_2_C2_8_guests_are_welcome_with_any_token_but_are_guests(door, here):
    for offer, headers, name, came in (
        (GOOD, {}, USER, "subprotocol"),
        (WRONG, {"Cookie": SESSION}, "guest", "subprotocol"),
        (["own"], {"Cookie": SESSION}, USER, "cookie"),
        (["own"], {"Cookie": "a=1"}, "guest", "ambient"),
        (["own"], {}, "guest", "ambient"),
        (["own"], {"Authorization": f"token {BAD}"}, "guest", "ambient"),
        (["own"], {"Authorization": f"token {TOKEN}"}, USER, "header"),
    ):
        async with await door.knock("here", offer, headers) as socket:
            assert socket.status == 101
        info = here.at("open").info
        assert (info.user.username, info.source.value) == (name, came)
        assert info.principal == f"user:{name}"
    # Who is let in with anything and with nothing says nothing of a token.
    referer = f"http://h/lab?token={BAD}"
    async with await door.knock("here", ["own"], {"Referer": referer}) as socket:
        assert socket.status == 101
    assert here.at("open").header("Referer") == [referer]


class GuestsUnsaid(IdentityProvider):
    """Everybody is somebody, and nobody is said to have come by token."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        if self.get_token(handler) == TOKEN:
            return User(USER)
        return session_user(handler) or User("guest")


@pytest.mark.parametrize("provider_class", [GuestsUnsaid])
@pytest.mark.parametrize("headers", [{"Cookie": SESSION}, {"Cookie": "a=1"}])
async def test_C2_3_token_is_good_if_it_makes_a_guest_somebody(door, here, headers):
    for token, left in ((TOKEN, "http://h/lab"), (BAD, f"http://h/lab?token={BAD}")):
        referer = {"Referer": f"http://h/lab?token={token}"}
        async with await door.knock("here", ["own"], {**headers, **referer}) as socket:
            assert socket.status == 101
        assert here.at("open").header("Referer") == [left]


class Several(FlagProvider):
    """Has given out more tokens than one, and prefers a session to them."""

    good: ClassVar[tuple[str, ...]] = (TOKEN, "second", "third")

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        token = self.get_token(handler)
        user = session_user(handler)
        if user is None and token in self.good:
            handler._token_authenticated = True  # type: ignore[attr-defined]
            user = User(USER)
        return user


@pytest.mark.parametrize("provider_class", [Several])
async def test_C2_3_good_tokens_that_were_not_the_one_are_gone_too(door, here):
    """A proxied app must get none of them; what is nobody's here is its own."""
    by_session = {"Cookie": SESSION}
    for offer, headers in ((GOOD, {}), (GOOD, by_session), (["own"], by_session)):
        for url, header in itertools.product(("second", BAD), ("third", BAD)):
            sent = {**headers, "Authorization": f"Bearer {header}"}
            sent["Referer"] = f"http://h/lab?token={url}"
            async with await door.knock(f"here?token={url}&a=1", offer, sent) as socket:
                assert socket.status == 101
            sight = here.at("open")
            if offer is GOOD:
                came = "subprotocol"
            elif url == "second":  # the first that names this user (C2.1)
                came = "url"
            else:
                came = "cookie"  # the URL hides the header
            assert sight.info.source.value == came
            assert sight.query == ("a=1" if url == "second" else f"token={BAD}&a=1")
            assert sight.header("Authorization") == ([] if header == "third" else [f"Bearer {BAD}"])
            left = "http://h/lab" + ("" if url == "second" else f"?token={BAD}")
            assert sight.header("Referer") == [left]


class Keyed(FlagProvider):
    """Takes a key from a header of its own, and says that it was by token."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        if handler.request.headers.get("X-Api-Key") == TOKEN:
            handler.set_cookie("login", "1")
            handler._token_authenticated = True  # type: ignore[attr-defined]
            return User(USER)
        return await super().get_user(handler)


@pytest.mark.parametrize("provider_class", [Keyed])
async def test_C2_1_token_that_came_by_a_way_of_the_providers_own(door, here):
    async with await door.knock("here", ["own"], {"X-Api-Key": TOKEN}) as socket:
        assert (socket.status, socket.set_cookies) == (101, [])
    assert source(here) == "ambient"
    assert here.at("open").info.principal == f"user:{USER}"


@pytest.mark.parametrize("provider_class", [Keyed])
async def test_C2_5_token_by_a_way_of_the_providers_own_leaves_the_handlers_cookies(door):
    class Here(Protected):
        """For this server."""

        async def prepare(self) -> None:  # type: ignore[override]
            self.set_cookie("own", "1")
            await super().prepare()

    door.add("here", Here)
    async with await door.knock("here", ["own"], {"X-Api-Key": TOKEN}) as socket:
        assert (socket.status, socket.set_cookies) == (101, ["own=1; Path=/"])


class Basic(IdentityProvider):
    """Takes a password in the header."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        return User(USER) if handler.request.headers.get("Authorization") == "Basic YTpi" else None


@pytest.mark.parametrize("provider_class", [Basic])
async def test_C2_1_C2_3_other_schemes_are_somebody_elses(door, here):
    basic = {"Authorization": "Basic YTpi"}
    for headers in (basic, {**basic, "Cookie": "a=1"}):
        async with await door.knock("here", ["own"], headers) as socket:
            assert socket.status == 101
        assert source(here) == "ambient"
        assert here.at("open").header("Authorization") == ["Basic YTpi"]
    # A subprotocol token stands alone.
    assert (await door.refused("here", GOOD, basic)).slug == "token_rejected"


class Remembering(FlagProvider):
    """Keeps its verdict on the handler, a wrong one too."""

    asked: ClassVar[list[str]] = []

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        kept: Any = handler
        self.asked.append(type(handler).__name__)
        if not hasattr(kept, "_kept"):
            kept._kept = await super().get_user(handler)
        user: User | None = kept._kept
        return user


@pytest.mark.parametrize("provider_class", [Remembering])
async def test_C2_2_good_cookie_that_the_provider_keeps_does_not_vouch_for_a_wrong_token(
    door, here
):
    assert (await door.refused("here", WRONG, {"Cookie": SESSION})).slug == "token_rejected"
    assert Remembering.asked == ["Here", "DetachedHandler", "DetachedHandler"]
    Remembering.asked.clear()
    async with await door.knock("here", GOOD, {"Cookie": "session=nonsense"}) as socket:
        assert socket.status == 101
    assert Remembering.asked == ["Here"]
    Remembering.asked.clear()


# --- get_current_user under the base provider -----------------------------------------------------


class Old(OldWay, Protected):  # type: ignore[misc] # prepare
    """Of the time before identity providers."""


class OldKeeping(Old):
    """Keeps what it found."""

    def get_current_user(self) -> Any:
        if not hasattr(self, "_kept"):
            self._kept = super().get_current_user()
        return self._kept


class OldRaising(Old):
    """Says no by an error."""

    def get_current_user(self) -> Any:
        user = super().get_current_user()
        if not user:
            raise web.HTTPError(403)
        return user


@pytest.mark.parametrize("kind", [BASE], ids=str)
@pytest.mark.parametrize("handler", [Old, OldKeeping, OldRaising])
async def test_C2_2_override_of_get_current_user_judges_alone(door, handler):
    class Here(handler):  # type: ignore[misc, valid-type]
        """For this server."""

    door.add("here", Here)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for offer, headers, came in (
        (["own"], {"Cookie": SESSION}, "cookie"),
        (["own"], bearer, "header"),
        (["own"], {**bearer, "Cookie": SESSION}, "header"),
        (["own"], {"Cookie": SESSION, "Authorization": "Basic x"}, "cookie"),
    ):
        async with await door.knock("here", offer, headers) as socket:
            assert socket.status == 101, headers
        info = Here.at("open").info
        # One that keeps its answer cannot be asked again how it came to it.
        assert info.source.value == ("ambient" if handler is OldKeeping else came)
        assert (info.user.username, info.principal) == (USER, f"user:{USER}")
    if handler is not OldKeeping:  # which was asked with the scheme `token` first
        for headers in ({"Cookie": "session=of-nobody"}, {}):
            async with await door.knock("here", GOOD, headers) as socket:
                assert socket.status == 101
            assert Here.at("open").info.principal == f"user:{USER}"
            assert not any(sight.shows(TOKEN) for sight in Here.sights[-3:])
        # It does not say that it was by token, so where the page is from is asked as by header.
        for offer, headers in ((GOOD, {}), (["own", REASON_MARKER], bearer)):
            answer = await door.refused("here", offer, {**headers, "Origin": EVIL})
            assert (answer.status, answer.body) == (403, b"Cross origin websockets not allowed")
    for cookie in (SESSION, "session=of-nobody"):
        answer = await door.refused("here", WRONG, {"Cookie": cookie})
        assert answer.slug == "token_rejected"
    assert (await door.refused("here", [REASON_MARKER])).slug == "credentials_missing"


@pytest.mark.parametrize("kind", [BASE], ids=str)
async def test_C2_2_base_providers_token_is_nothing_to_a_handler_that_overrides(door):
    """The provider is not asked upstream, so its token must not open what the handler guards."""

    class Here(Protected):
        """For this server."""

        def get_current_user(self) -> Any:
            return "ann" if session_user(self) else None

    door.add("here", Here)
    for headers in ({}, {"Cookie": SESSION}):
        assert (await door.refused("here", GOOD, headers)).slug == "token_rejected"
    async with await door.knock(f"here?token={TOKEN}", ["own"], {"Cookie": SESSION}) as socket:
        assert socket.status == 101
    assert source(Here) == "cookie"


@pytest.mark.parametrize("kind", [FLAG], ids=str)
async def test_C2_2_override_means_nothing_under_other_providers(door):
    class Here(Old):
        """For this server."""

        def get_current_user(self) -> Any:
            raise AssertionError("nobody asks")

    door.add("here", Here)
    async with await door.knock("here", GOOD) as socket:
        assert socket.status == 101
    assert (await door.refused("here", WRONG)).slug == "token_rejected"


# --- C2.5 -----------------------------------------------------------------------------------------


def cookie_names(cookies: list[str]) -> list[tuple[str, bool]]:
    """(name, cleared) of each, in order."""
    return [(c.partition("=")[0], '=""' in c.partition(";")[0]) for c in cookies]


@pytest.mark.parametrize("kind", [STOCK, PLAIN_LEGACY], ids=str)
@pytest.mark.parametrize("cookie", ["none", "good", "bad"])
@pytest.mark.parametrize("route", ["subprotocol", "url", "header"])
async def test_C2_5_upgrade_by_token_sets_and_clears_no_cookie(door, kind, cookie, route):
    sent = Sent(**{route: "good", "cookie": cookie})
    async with await door.knock(
        sent.path(EVENTS), sent.offer(), sent.headers(kind, door.app, door.port)
    ) as socket:
        assert (socket.status, socket.set_cookies) == (101, [])


async def test_C2_5_cookies_of_the_handlers_own_stay(door):
    class Here(Protected):
        """For this server."""

        async def prepare(self) -> None:  # type: ignore[override]
            self.set_cookie("own", "1")
            self.add_header("Set-Cookie", "raw=1")
            await super().prepare()

    door.add("here", Here)
    for headers in ({}, {"Cookie": "username-x=bad"}):
        async with await door.knock("here", GOOD, headers) as socket:
            assert sorted(cookie.partition("=")[0] for cookie in socket.set_cookies) == [
                "own",
                "raw",
            ]


@pytest.mark.parametrize("offer", [GOOD, ["own"]])
async def test_C2_5_login_cookies_that_a_handler_sets_itself_stay(door, offer):
    class Here(Protected):
        """For this server."""

        async def get(self, *args: Any, **kwargs: Any) -> None:
            self.set_secure_cookie("own", "1")
            await super().get(*args, **kwargs)

    door.add("here", Here)
    headers = {} if offer is GOOD else {"Authorization": f"token {TOKEN}"}
    async with await door.knock("here", offer, headers) as socket:
        assert [cookie.partition("=")[0] for cookie in socket.set_cookies] == ["own"]


SIGNING = [n for n in ("set_secure_cookie", "set_signed_cookie") if hasattr(web.RequestHandler, n)]
"""tornado's two names for one thing; before 6.3 it had one."""


class Cookies(FlagProvider):
    """Changes every kind of cookie while it is asked."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        handler.set_cookie("own", "changed")
        for name in SIGNING:
            getattr(handler, name)(name, "1")
        handler.add_header("Set-Cookie", "rawlogin=1")
        return await super().get_user(handler)


@pytest.mark.parametrize("provider_class", [Cookies])
async def test_C2_5_what_the_provider_changed_is_as_before(door):
    class Here(Protected):
        """For this server."""

        async def prepare(self) -> None:  # type: ignore[override]
            self.set_cookie("own", "1")
            self.add_header("Set-Cookie", "raw=1")
            await super().prepare()

    door.add("here", Here)
    async with await door.knock("here", GOOD) as socket:
        assert sorted(socket.set_cookies) == ["own=1; Path=/", "raw=1"]
    # As upstream for who did not come in by token, whether or not he sent one.
    for path, headers in (
        ("here", {}),
        (f"here?token={BAD}", {}),
        ("here", {"Authorization": f"Bearer {BAD}"}),
    ):
        async with await door.knock(path, ["own"], {"Cookie": SESSION, **headers}) as socket:
            assert sorted(c.partition("=")[0] for c in socket.set_cookies) == [
                "own",
                "raw",
                "rawlogin",
                *SIGNING,
            ]
            assert "own=changed; Path=/" in socket.set_cookies
    for path, headers in (
        (f"here?token={TOKEN}", {}),
        ("here", {"Authorization": f"Bearer {TOKEN}"}),
    ):
        async with await door.knock(path, ["own"], headers) as socket:
            assert sorted(socket.set_cookies) == ["own=1; Path=/", "raw=1"]


class CookiesUnsaid(BearerProvider):
    """Says of nobody that it was by token, and keeps every visitor by a cookie."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        handler.set_cookie("visitor", "1")
        handler.set_secure_cookie("login", "1")
        return await super().get_user(handler)


@pytest.mark.parametrize("provider_class", [CookiesUnsaid])
async def test_C2_5_token_of_the_second_judgement_sets_no_cookie_either(door, here):
    for cookie in ({}, {"Cookie": "session=of-nobody"}, {"Cookie": SESSION}):
        async with await door.knock("here", GOOD, cookie) as socket:
            assert (socket.status, socket.set_cookies) == (101, [])
    async with await door.knock("here", ["own"], {"Cookie": SESSION}) as socket:
        assert len(socket.set_cookies) == 2


def test_C2_5_undoing_cookies_of_a_handler_that_has_set_none(jp_serverapp, http_server):
    handler = web.RequestHandler(jp_serverapp.web_app, request_for("/"))
    undo_cookies(handler)
    assert not hasattr(handler, "_new_cookie")
    handler.set_cookie("a", "1")
    handler.add_header("Set-Cookie", "b=1")
    undo_cookies(handler)
    assert (list(handler._new_cookie), handler._headers.get_list("Set-Cookie")) == ([], [])


# --- C2.7: a server with and one without the extension --------------------------------------------


class Deny(Authorizer):
    """Nobody may do anything."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return False


@contextmanager
def running(configurable: Any, loop: Any, config: dict[str, Any]) -> Iterator[Door]:
    """A server of this process beside another one."""
    ServerApp.clear_instance()
    app = configurable(config=config)
    listener, port = bind_unused_port()
    server = HTTPServer(app.web_app)

    async def start() -> None:
        server.add_socket(listener)

    async def stop() -> None:
        server.stop()
        await server.close_all_connections()
        await app._cleanup()

    loop.run_until_complete(start())
    try:
        yield Door(app, port, app.base_url)
    finally:
        loop.run_until_complete(stop())
        app.kernel_manager.context.destroy()


PATHS = (
    EVENTS,
    "here",
    "open",
    "api/kernels/00000000-0000-0000-0000-000000000000/channels",
    "terminals/websocket/1",
    "terminals/websocket/9",
    "api/status",
    "nowhere",
)
ODD: tuple[dict[str, Any], ...] = (
    {},
    {"drop": ("Connection",)},
    {"drop": ("Sec-WebSocket-Version",)},
    {"drop": ("Sec-WebSocket-Key",)},
    {"headers": {"Sec-WebSocket-Version": "12"}},
    {"headers": {"Upgrade": "WebSocket"}},
    {"headers": {"Upgrade": "h2c"}},
    {"drop": ("Upgrade",)},
    {"method": "POST", "headers": {"Content-Length": "0"}},
)


def requests(port: int, kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a client that has no token may send."""
    same = f"http://127.0.0.1:{port}"
    cookies: tuple[dict[str, str], ...] = ({}, {"Cookie": kind.bad_cookie(port)})
    hosts: tuple[dict[str, str], ...] = ({}, {"Host": "evil.example"})
    origins: tuple[dict[str, str], ...] = (
        {},
        {"Origin": same},
        {"Origin": "null"},
        {"Origin": EVIL},
    )
    for path, cookie, host, origin in itertools.product(PATHS, cookies, hosts, origins):
        yield path, {"headers": {**cookie, **host, **origin}}
    for path, odd in itertools.product(PATHS, ODD):
        yield path, odd


Outcome = tuple[int, list[tuple[str, bool]], "list[str] | None"]
"""Status, cookies, where a redirect leads."""


def token_requests(kind: Kind, door: Door) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a client that sends a token in the old ways may send, and where from."""
    same = f"http://{door.host}"
    origins: tuple[dict[str, str], ...] = ({}, {"Origin": same}, {"Origin": EVIL})
    ways = ("none", "good", "bad")
    paths = PATHS[:4] + PATHS[-1:]
    for path, origin, url, header, cookie in itertools.product(paths, origins, ways, ways, ways):
        if (url, header) != ("none", "none"):
            sent = Sent(url=url, header=header, cookie=cookie, scheme=kind.schemes[0])
            headers = sent.headers(kind, door.app, door.port)
            label = f"{url} in url, {header} in header, {cookie} cookie, {path}"
            yield (
                f"{label} from {origin.get('Origin')}",
                {
                    "path": sent.path(path),
                    "headers": {**headers, **origin},
                },
            )


def stranger_requests(
    kind: Kind, door: Door, extra: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, options in requests(door.port, kind):
        yield (
            f"{path} {options}",
            {"path": path, **options, "headers": {**options.get("headers", {}), **extra}},
        )


async def outcomes(door: Door, asked: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Outcome]:
    """What comes of each, by its label. Ports differ between servers, so they are named PORT."""

    def common(text: str) -> str:
        return text.replace(str(door.port), "PORT")

    results: dict[str, Outcome] = {}
    for label, options in asked:
        answer = await door.knock(**options)
        results[common(label)] = (
            answer.status,
            [
                (common(name), cleared)
                for name, cleared in cookie_names(answer.set_cookies)
                if name != "_xsrf"  # of the page that upstream renders
            ],
            answer.headers.get("location"),
        )
        answer.vanish()
    return results


def add_sockets(door: Door) -> None:
    class Here(Protected):
        """For this server."""

    class Open(OpenToAll):
        """For this server."""

    door.add("here", Here)
    door.add("open", Open)
    door.app.web_app.settings["terminal_manager"].create()


@pytest.mark.parametrize(
    ("closed", "denied"),
    [(False, False), (True, False), (False, True)],
    ids=["open", "closed", "denied"],
)
@pytest.mark.parametrize("kind", [STOCK, PASSWORD, LEGACY, HEADER, BEARER, OFF], ids=str)
def test_C2_7_C2_5_clients_without_a_token_are_answered_as_by_a_stock_server(
    kind, closed, denied, jp_configurable_serverapp, jp_asyncio_loop
):
    traits: dict[str, Any] = {"allow_unauthenticated_access": not closed}
    if denied:
        traits["authorizer_class"] = Deny
    ours = server_config(kind, **traits)
    stock = server_config(kind, **traits)
    del stock["ServerApp"]["jpserver_extensions"]["jupyter_token_ws"]
    found = []
    for config in (ours, stock):
        with running(jp_configurable_serverapp, jp_asyncio_loop, config) as door:
            assert ("token_ws_guard" in door.app.web_app.settings) is (config is ours)
            add_sockets(door)
            extra = {"X-Remote-User": USER} if kind is HEADER else {"X-Session": "1"}
            if kind.login:
                extra["Cookie"] = kind.good_cookie(door.app, door.port)
            found.append(
                [
                    jp_asyncio_loop.run_until_complete(
                        outcomes(door, stranger_requests(kind, door, headers))
                    )
                    for headers in ({}, extra)
                ]
            )
    assert any(status == 101 for status, *_ in found[1][1].values()) or denied
    for mine, theirs in zip(*found, strict=True):
        assert differences(mine, theirs) == {}


@pytest.mark.parametrize("kind", [STOCK, LEGACY, PLAIN_LEGACY, BEARER, RAISING, FLAG], ids=str)
def test_C2_1_C2_2_C2_5_tokens_in_url_and_header_are_answered_as_by_a_stock_server(
    kind, jp_configurable_serverapp, jp_asyncio_loop
):
    ours, stock = server_config(kind), server_config(kind)
    del stock["ServerApp"]["jpserver_extensions"]["jupyter_token_ws"]
    found = []
    for config in (ours, stock):
        with running(jp_configurable_serverapp, jp_asyncio_loop, config) as door:
            add_sockets(door)
            found.append(
                jp_asyncio_loop.run_until_complete(outcomes(door, token_requests(kind, door)))
            )
    mine, theirs = found
    different = differences(mine, theirs)
    # C2.5: who is authenticated by token gets no login cookie, whatever comes of it.
    assert [
        label
        for label, (one, other) in different.items()
        if not ("good in" in label and one == (other[0], [], other[2]))
    ] == []
    assert not any(
        cookies
        for label, (status, cookies, _) in mine.items()
        if "good in url" in label and status == 101
    )
    assert {status for status, *_ in mine.values()} >= {101, 403, 404}


def differences(
    mine: dict[str, Outcome], theirs: dict[str, Outcome]
) -> dict[str, tuple[Outcome, Outcome]]:
    assert mine.keys() == theirs.keys()
    return {
        label: (mine[label], theirs[label])
        for label in theirs
        if mine[label] != theirs[label] and not uniform(label, mine[label], theirs[label])
    }


def uniform(label: str, mine: Any, theirs: Any) -> bool:
    """C3.4: where the origin is not allowed everybody gets the same 403, whom upstream would tell
    more by a redirect, a 404, or a cookie that it clears."""
    across = EVIL in label or "'null'" in label
    return across and mine == (403, [], None) and theirs[0] in (302, 401, 403, 404)


def test_C2_7_stranger_on_whom_upstream_fails_is_unauthenticated_here(
    jp_configurable_serverapp, jp_asyncio_loop
):
    """C3.3: an override of ``get_current_user`` that knows nobody is a 500 upstream."""
    ours = server_config(BASE)
    stock = server_config(BASE)
    del stock["ServerApp"]["jpserver_extensions"]["jupyter_token_ws"]
    for config, status in ((ours, 403), (stock, 500)):
        with running(jp_configurable_serverapp, jp_asyncio_loop, config) as door:

            class Here(Old):
                """For this server."""

            door.add("here", Here)
            assert jp_asyncio_loop.run_until_complete(door.refused("here")).status == status


# --- the parts ------------------------------------------------------------------------------------


class Named(PasswordIdentityProvider):
    def generate_anonymous_user(self, handler: web.RequestHandler) -> User:
        return User("everybody")


class ByToken(PasswordIdentityProvider):
    async def get_user_token(self, handler: web.RequestHandler) -> User | None:
        return None


class Inner(IdentityProvider):
    async def _get_user(self, handler: web.RequestHandler) -> User | None:
        return None


class LegacyOuter(LegacyIdentityProvider):
    def get_user(self, handler: web.RequestHandler) -> User | None:
        return None


class LegacyByToken(PlainLegacyLogin):
    @classmethod
    def get_user_token(cls, handler: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("provider", "named"),
    [
        (IdentityProvider(), False),
        (PasswordIdentityProvider(), False),
        (BearerByStock(), False),
        (BearerProvider(), True),
        (Named(), True),
        (ByToken(), True),
        (Inner(), True),
        (LegacyIdentityProvider(login_handler_class=PlainLegacyLogin), False),
        (LegacyIdentityProvider(login_handler_class=LegacyLogin), True),
        (LegacyIdentityProvider(login_handler_class=LegacyByToken), True),
        (LegacyOuter(login_handler_class=PlainLegacyLogin), True),
    ],
)
def test_C2_8_which_providers_name_users(provider, named):
    assert names_users(provider) is named


async def test_C2_2_detached_handler_has_one_credential_only(door, here):
    headers = {
        "Cookie": SESSION,
        "Authorization": "Basic x",
        "X-Remote-User": USER,
        "Sec-Fetch-Mode": "websocket",
    }
    async with await door.knock(f"here?a=1&token={TOKEN}", ["own"], headers) as socket:
        assert socket.status == 101
    original = here.handlers[-1]
    request = original.request
    detached = detach(original, "token x")
    assert detached.request.headers.get_list("Authorization") == ["token x"]
    assert "Cookie" not in detached.request.headers
    assert not detached.request.cookies
    for name in ("X-Remote-User", "Sec-Fetch-Mode", "Host"):
        assert detached.request.headers[name] == request.headers[name]
    assert (detached.request.remote_ip, detached.request.protocol, detached.request.host) == (
        request.remote_ip,
        request.protocol,
        request.host,
    )
    assert detached.path_kwargs == original.path_kwargs
    assert detached.path_args == original.path_args
    assert "Authorization" not in detach(original, None).request.headers
    # What is done to it is done to nothing else.
    detached.set_cookie("a", "1")
    detached.request.arguments["a"].append(b"2")
    assert request.arguments["a"] == [b"1"]


async def test_C2_2_detached_handler_is_for_the_same_request_on_the_same_connection(door, here):
    async with await door.knock("here?a=1", ["own"], {"Authorization": f"token {TOKEN}"}) as socket:
        assert socket.status == 101
    request: Any = here.handlers[-1].request
    copy: Any = detach(here.handlers[-1], None).request
    assert (copy.method, copy.uri, copy.version) == ("GET", f"{door.base}here?a=1", "HTTP/1.1")
    assert copy.connection.context is request.connection.context is not None
    assert copy.server_connection is request.server_connection is not None
    request.method, request.version = "HEAD", "HTTP/1.0"
    copy = detach(here.handlers[-1], None).request
    assert (copy.method, copy.version) == ("HEAD", "HTTP/1.0")
    # A request that was made by hand need not have everything.
    request.method = request.uri = None
    request.connection = None
    copy = detach(here.handlers[-1], None).request
    assert (copy.method, copy.uri, copy.connection.context) == ("GET", "/", None)


async def test_C2_3_detached_handler_may_keep_the_url_token(door, here):
    original = None

    class Peek(Protected):
        """For this server."""

        async def prepare(self) -> None:  # type: ignore[override]
            nonlocal original
            original = (detach(self, None, keep_url_token=True), detach(self, None))
            await super().prepare()

    door.add("peek", Peek)
    async with await door.knock(f"peek?a=1&token={TOKEN}", ["own"]) as socket:
        assert socket.status == 101
    assert original is not None
    assert original[0].get_argument("token") == TOKEN
    assert original[1].get_argument("token", None) is None
    assert original[1].request.uri == f"{door.base}peek?a=1"


async def test_C2_7_the_provider_of_a_guarded_handler_passes_for_the_real_one(door, here):
    async with await door.knock("here", GOOD, {"Origin": EVIL}) as socket:
        assert socket.status == 101
    handler = here.handlers[-1]
    judged: Any = handler.identity_provider
    real = door.app.identity_provider
    assert type(judged) is JudgedProvider
    assert isinstance(judged, type(real))
    assert judged.token == real.token
    assert judged is handler.identity_provider
    judged.cookie_name = "renamed"
    assert real.cookie_name == "renamed"
    assert await judged.get_user(handler) is handler.current_user
    assert judged.is_token_authenticated(handler)
    assert not judged.should_check_origin(handler)
    # Other handlers are none of its business.
    other = detach(handler, f"token {TOKEN}")
    user = await judged.get_user(other)
    assert isinstance(user, User)
    assert judged.is_token_authenticated(other)
    assert not judged.should_check_origin(other)
    stranger = detach(handler, None)
    assert await judged.get_user(stranger) is None
    assert not judged.is_token_authenticated(stranger)
    assert judged.should_check_origin(stranger)


async def test_C2_7_before_it_is_judged_nobody_is_authenticated(door):
    asked: list[tuple[bool, bool]] = []

    class Here(Protected):
        """For this server."""

        async def prepare(self) -> None:  # type: ignore[override]
            provider = self.identity_provider
            asked.append(
                (provider.is_token_authenticated(self), provider.should_check_origin(self))
            )
            await super().prepare()

    door.add("here", Here)
    async with await door.knock("here", GOOD) as socket:
        assert socket.status == 101
    assert asked == [(False, True)]


@pytest.mark.parametrize("kind", [HEADER], ids=str)
async def test_ask_sets_what_upstream_reads(door, here):
    async with await door.knock("here", ["own"], {"X-Remote-User": USER}) as socket:
        assert socket.status == 101
    handler = detach(here.handlers[-1], None)
    user = await ask(door.app.identity_provider, handler)
    assert user is handler.current_user is handler._jupyter_current_user


async def test_C2_2_the_way_of_old_need_not_be_a_method(door, here):
    async with await door.knock("here", GOOD) as socket:
        assert socket.status == 101
    handler = here.handlers[-1]
    handler.get_current_user = lambda: "ann of old"
    user = await ask(IdentityProvider(parent=door.app), handler)
    assert user is not None
    assert user.username == "ann of old"
    # What belongs to no module upstream takes for its own.
    handler.get_current_user = eval("lambda: 'nobody'", {"__name__": "gone"})
    user = await ask(IdentityProvider(parent=door.app), handler)
    assert user is None or user.username != "nobody"


async def test_C2_2_user_of_the_second_judgement_is_the_handlers_user(door):
    """Not the cookie's: here the two are different people."""

    class Two(IdentityProvider):
        async def get_user(self, handler: web.RequestHandler) -> User | None:
            if session_user(handler):
                return User("bob")
            header = handler.request.headers.get("Authorization")
            return User(USER) if header == f"Bearer {TOKEN}" else None

    door.app.web_app.settings["identity_provider"] = Two(parent=door.app)

    class Here(Protected):
        """For this server."""

    door.add("here", Here)
    async with await door.knock("here", GOOD, {"Cookie": SESSION}) as socket:
        assert socket.status == 101
    handler: Any = Here.handlers[-1]
    assert handler.current_user.username == USER
    assert handler._jupyter_current_user.username == USER
    assert Here.at("open").info.principal == f"user:{USER}"
    assert Here.at("open").info.source is CredentialSource.SUBPROTOCOL


class NamesOpenly(IdentityProvider):
    """Asks for nothing, and knows everybody's name all the same."""

    auth_enabled = False

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        return User(handler.get_argument("name"))


@pytest.mark.parametrize("provider_class", [NamesOpenly])
async def test_C2_8_principal_is_the_user_also_where_authentication_is_off(door, here):
    async with await door.knock("here?name=ann", GOOD) as socket:
        assert socket.status == 101
    info = here.at("open").info
    assert (info.source, info.principal) == (CredentialSource.NONE, "user:ann")


@pytest.mark.parametrize("kind", [OFF], ids=str)
async def test_C2_8_where_authentication_is_off_there_is_no_credential(door, here):
    for offer in (["own"], GOOD):
        async with await door.knock("here", offer, {"Cookie": "a=1"}) as socket:
            assert socket.status == 101
        info = here.at("open").info
        assert (info.source, info.principal) == (CredentialSource.NONE, "credential:")


async def test_C2_5_a_login_cookie_that_would_be_dropped_is_not_even_signed(door):
    signed: list[str] = []

    class Here(Protected):
        """For this server."""

        def set_secure_cookie(self, name: str, *args: Any, **kwargs: Any) -> None:
            signed.append(name)

        set_signed_cookie = set_secure_cookie

    door.add("here", Here)
    for path, offer in (("here", GOOD), (f"here?token={TOKEN}", ["own"])):
        async with await door.knock(path, offer) as socket:
            assert socket.status == 101
    assert signed == []


@pytest.mark.parametrize(
    ("error", "nobody"),
    [
        (web.HTTPError(401), True),
        (web.HTTPError(403), True),
        (web.HTTPError(404), False),
        (web.HTTPError(502), False),
        (Refused("token_expired"), False),
    ],
    ids=str,
)
def test_C2_2_which_errors_of_a_provider_mean_nobody(error, nobody):
    assert says_nobody(error) is nobody


def test_C2_2_provider_that_does_not_say_asks_for_credentials():
    assert auth_enabled(cast("IdentityProvider", object()))
    assert not auth_enabled(NamesOpenly())


async def test_C2_2_stock_provider_is_asked_once_where_the_token_stands_alone(
    door, here, monkeypatch
):
    asked: set[web.RequestHandler] = set()
    stock = PasswordIdentityProvider.get_token

    def get_token(self: Any, handler: web.RequestHandler) -> str | None:
        asked.add(handler)
        return stock(self, handler)

    monkeypatch.setattr(PasswordIdentityProvider, "get_token", get_token)
    for cookie, times in (({}, 1), ({"Cookie": "a=1"}, 2)):
        asked.clear()
        assert (await door.refused("here", WRONG, cookie)).slug == "token_rejected"
        assert len(asked) == times


@pytest.mark.parametrize("kind", [FLAG], ids=str)
async def test_C2_8_credential_in_the_registry_is_a_digest_of_the_one_that_was_taken(door, here):
    by_header = {"Authorization": f"token {TOKEN}", "Cookie": "a=1"}
    for path, offer, headers, credential in (
        ("here", GOOD, {}, TOKEN),
        (f"here?token={TOKEN}", ["own"], {}, TOKEN),
        ("here", ["own"], by_header, TOKEN),
        ("here", ["own"], {"Cookie": SESSION}, SESSION),
    ):
        async with await door.knock(path, offer, headers) as socket:
            assert socket.status == 101
            await auntil(lambda: len(door.guard.registry) == 1, "it is not listed")
            entry = next(iter(door.guard.registry))
            assert entry.credential == door.guard.digest(credential)
        await door.settled()


@pytest.mark.parametrize("kind", [HEADER], ids=str)
async def test_C2_8_who_showed_no_credential_has_none_in_the_registry(door, here):
    async with await door.knock("here", ["own"], {"X-Remote-User": USER}) as socket:
        assert socket.status == 101
        await auntil(lambda: len(door.guard.registry) == 1, "it is not listed")
        assert next(iter(door.guard.registry)).credential == ""


async def test_C2_4_C2_3_good_token_in_an_url_that_may_have_none_is_gone_from_an_open_socket(door):
    class Here(OpenToAll):
        """For this server."""

    door.add("here", Here)
    door.guard.options = type(door.guard.options)(allow_token_in_url=False)
    async with await door.knock(f"here?token={TOKEN}&a=1", ["own"]) as socket:
        assert socket.status == 101
    assert Here.at("open").info.source is CredentialSource.NONE
    assert not Here.at("open").shows(TOKEN)
    assert Here.at("open").query == "a=1"


@pytest.mark.parametrize("kind", [BEARER], ids=str)
async def test_C3_4_good_token_that_the_provider_does_not_call_one_is_not_wrong_across_origins(
    door, here
):
    headers = {"Origin": EVIL, "Authorization": f"Bearer {TOKEN}"}
    answer = await door.refused("here", ["own", REASON_MARKER], headers)
    assert (answer.status, answer.body) == (403, b"Cross origin websockets not allowed")


@pytest.mark.parametrize("kind", [OFF], ids=str)
async def test_C3_3_where_authentication_is_off_no_token_is_wrong(door):
    class Forbids(Recorder):
        """tornado's own."""

        async def get(self, *args: Any, **kwargs: Any) -> None:
            raise web.HTTPError(403)

    door.add("forbids", Forbids)
    for path, offer in (("forbids", WRONG), (f"forbids?token={BAD}", [REASON_MARKER])):
        assert (await door.refused(path, offer)).slug == "forbidden"
    assert (await door.refused("forbids", [REASON_MARKER])).slug == "credentials_missing"


class CookiesElsewhere(IdentityProvider):
    """Looks cookies up somewhere, which takes time."""

    async def get_user_cookie(self, handler: web.RequestHandler) -> User | None:
        return session_user(handler)


@pytest.mark.parametrize("provider_class", [CookiesElsewhere])
async def test_C2_8_user_whom_a_cookie_names_may_take_time_to_find(door, here):
    async with await door.knock("here", ["own"], {"Cookie": SESSION}) as socket:
        assert socket.status == 101
    assert here.at("open").info.principal == f"user:{USER}"


@pytest.mark.parametrize("kind", [OFF], ids=str)
async def test_C2_7_where_authentication_is_off_the_provider_says_whether_it_was_by_token(
    door, here
):
    async with await door.knock("here", GOOD) as socket:
        assert socket.status == 101
    handler = here.handlers[-1]
    assert not handler.token_authenticated
    handler._token_authenticated = True
    assert handler.token_authenticated
