"""Each auth plugin, asked without I/O: what it sends, what it keeps, what it says of an answer."""

from __future__ import annotations

import json
from typing import Any, TypeVar
from urllib.parse import parse_qs

import pytest

from jupyter_token_ws.protocol.auth import (
    CONTINUE,
    IGNORE,
    LOGIN_PATH,
    MAX_REFRESH_INTERVAL,
    MIN_REFRESH_INTERVAL,
    RETRY,
    AuthPlugin,
    BasicAuth,
    Context,
    CookieAuth,
    Endpoint,
    Fail,
    Flow,
    HubAuth,
    Ignore,
    NoAuth,
    Outgoing,
    Request,
    Response,
    TicketAuth,
    TokenAuth,
    nobody_serves,
    read_cookies,
    refused,
    secret_of,
)
from jupyter_token_ws.protocol.errors import AuthError, ClientError
from jupyter_token_ws.protocol.reasons import REASONS, Advice

T = TypeVar("T")

BASE = "https://lab.example/user/ann/"
LOGIN = {"login": {"path": LOGIN_PATH, "max_age": 300, "revocable": True}}
HERE = Endpoint(BASE, LOGIN)
TICKET, NEXT = "jtws_" + "a" * 43, "jtws_" + "b" * 43
REFUSED = Response(401)
XSRF = "_xsrf=2|abc; Path=/"
COOKIE = "username-lab=2|1:0|x; HttpOnly; Path=/"


class Peer:
    """Answers a plugin's requests, one after the other, and keeps them. An error is raised."""

    def __init__(self, *answers: Response | ClientError) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []

    def run(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                self.asked.append(request)
                answer = self.answers.pop(0)
                is_error = isinstance(answer, ClientError)
                request = flow.throw(answer) if is_error else flow.send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            value: T = stop.value
            return value

    def start(self, plugin: AuthPlugin[Any], endpoint: Endpoint = HERE, now: float = 0.0) -> Any:
        context = self.run(plugin.initialize(endpoint, now))
        assert not isinstance(context, Ignore)
        return context

    def headers(self, plugin: AuthPlugin[Any], context: Any) -> Outgoing:
        outgoing = Outgoing()
        self.run(plugin.update_headers(context, outgoing))
        return outgoing


def ticket(token: str = TICKET, expires_in: Any = 300, base_url: Any = BASE) -> Response:
    body = {"token": token, "expires_in": expires_in, "server": {"base_url": base_url}}
    return Response(200, body=json.dumps(body).encode())


def body_of(request: Request) -> Any:
    assert request.body is not None
    return json.loads(request.body)


def failing(verdict: object) -> ClientError:
    assert isinstance(verdict, Fail)
    return verdict.error


# -- the base ------------------------------------------------------------------------------------------


class Bare(AuthPlugin[Context]):
    """Nothing but what is inherited."""

    name = "bare"


class Counting(AuthPlugin[Context]):
    """Refreshes, as often as it is let, and fails with what is put into ``error``."""

    def __init__(self) -> None:
        self.refreshes = 0
        self.error: ClientError | None = None
        self.left: float | None = None

    def refresh(self, context: Context, now: float) -> Flow[bool]:
        yield from ()
        self.refreshes += 1
        if self.error is not None:
            raise self.error
        return True

    def refresh_in(self, context: Context, now: float) -> float | None:
        return self.left


def test_what_a_plugin_inherits():
    plugin, context, peer = Bare(), Context(HERE), Peer()
    with pytest.raises(NotImplementedError):
        peer.run(plugin.initialize(HERE, 0))
    assert peer.headers(plugin, context) == Outgoing()
    assert plugin.refresh_in(context, 0) is None
    peer.run(plugin.keep_fresh(context, 0))
    peer.run(plugin.cleanup(context))
    assert peer.run(plugin.handle_response(context, Response(500), 0, 0)) is CONTINUE
    error = failing(peer.run(plugin.handle_response(context, REFUSED, 0, 0)))
    assert isinstance(error, AuthError)
    assert (context.generation, context.base_url) == (0, BASE)


@pytest.mark.parametrize(
    ("response", "concerns"),
    [
        (Response(401), True),
        (Response(403), True),
        (Response(404), False),
        (Response(403, reason=REASONS["token_rejected"]), True),
        (Response(403, reason=REASONS["forbidden"]), False),
        (Response(421, reason=REASONS["other_server"]), False),
    ],
)
def test_which_answers_are_about_the_credential(response: Response, concerns: bool):
    assert Bare().concerns(response) is concerns


def test_an_answer_to_an_older_credential_leads_to_the_newer_one_without_a_refresh():
    plugin, context, peer = Counting(), Context(HERE), Peer()
    assert peer.run(plugin.handle_response(context, REFUSED, 0, 0)) is RETRY
    assert peer.run(plugin.handle_response(context, REFUSED, 0, 100)) is RETRY
    assert (plugin.refreshes, context.generation) == (1, 1)


def test_turns_become_rarer_while_new_credentials_are_refused_too():
    plugin, context, peer = Counting(), Context(HERE), Peer()
    now, waits = 0.0, []
    for generation in range(7):
        assert peer.run(plugin.handle_response(context, REFUSED, generation, now)) is RETRY
        error = failing(peer.run(plugin.handle_response(context, REFUSED, generation + 1, now)))
        assert error.retry_after is not None
        waits.append(error.retry_after)
        just_before = now + error.retry_after - 0.001
        verdict = peer.run(plugin.handle_response(context, REFUSED, generation + 1, just_before))
        assert failing(verdict).retry_after == pytest.approx(0.001)
        now += error.retry_after
    assert waits == [MIN_REFRESH_INTERVAL, 10, 20, 40, 60, MAX_REFRESH_INTERVAL, 60]
    now += 2 * MAX_REFRESH_INTERVAL  # it held for so long
    assert peer.run(plugin.handle_response(context, REFUSED, 7, now)) is RETRY
    assert context.interval == MIN_REFRESH_INTERVAL


def test_who_waited_while_a_refresh_failed_shares_its_failure():
    """An answer counts from when it came, not from when its turn was."""
    plugin, context, peer = Counting(), Context(HERE), Peer()
    plugin.error = AuthError("the login is broken")
    assert failing(peer.run(plugin.handle_response(context, REFUSED, 0, 10))) is plugin.error
    error = failing(peer.run(plugin.handle_response(context, REFUSED, 0, 10)))
    assert "the login is broken" in str(error)
    assert (plugin.refreshes, error.retry_after) == (1, MIN_REFRESH_INTERVAL)


def test_a_failed_refresh_that_asks_for_time_gets_it():
    plugin, context, peer = Counting(), Context(HERE), Peer()
    plugin.error = ClientError("later", retry_after=100)
    assert failing(peer.run(plugin.handle_response(context, REFUSED, 0, 0))) is plugin.error
    plugin.error = None
    assert failing(peer.run(plugin.handle_response(context, REFUSED, 0, 60))).retry_after == 40
    assert peer.run(plugin.handle_response(context, REFUSED, 0, 100)) is RETRY


def test_renewal_ahead_of_the_end_fails_silently_and_is_tried_again():
    plugin, context, peer = Counting(), Context(HERE), Peer()
    plugin.left = 1
    peer.run(plugin.keep_fresh(context, 0))
    assert plugin.refreshes == 0
    plugin.left, plugin.error = 0, ClientError("no")
    peer.run(plugin.keep_fresh(context, 0))
    peer.run(plugin.keep_fresh(context, 4.9))
    assert (plugin.refreshes, context.generation, context.failed) == (1, 0, plugin.error)
    plugin.error = None
    peer.run(plugin.keep_fresh(context, 5))
    assert (plugin.refreshes, context.generation, context.failed) == (2, 1, None)


def test_renewals_that_go_well_do_not_become_rarer():
    plugin, context, peer = Counting(), Context(HERE), Peer()
    plugin.left = 0
    for now in range(0, 50, 5):
        peer.run(plugin.keep_fresh(context, now))
    assert plugin.refreshes == 10


def test_the_error_says_what_the_server_said():
    error = refused(Context(HERE), Response(401, reason=REASONS["token_expired"], retry_after=3))
    assert (error.slug, error.retry_after) == ("token_expired", 3)
    assert BASE in str(error)


@pytest.mark.parametrize("secret", ["a\nb", lambda: "a\r"])
def test_a_secret_that_no_header_can_carry(secret: Any):
    with pytest.raises(AuthError, match="control characters"):
        secret_of(secret)


def test_a_plugin_for_some_servers_alone():
    plugin = NoAuth()
    assert plugin.meant_for(HERE)
    plugin.servers = ("https://lab.example/user/bob/", "https://lab.example/user/")
    assert plugin.meant_for(HERE)
    plugin.servers = ("https://lab.example/user/bob/",)
    assert not plugin.meant_for(HERE)


def test_no_secret_is_in_a_repr():
    plugins = [
        TokenAuth("hidden"),
        HubAuth("hidden"),
        CookieAuth("hidden"),
        TicketAuth(password="hidden", token="hidden"),
        BasicAuth("hidden", "hidden", [TokenAuth("hidden")]),
    ]
    parts: list[object] = [
        Outgoing({"Cookie": "hidden"}, "hidden"),
        Request("POST", BASE, body=b"hidden"),
    ]
    parts.append(Response(200, body=b"hidden", cookies=("hidden",)))
    assert not [part for part in [*plugins, *parts] if "hidden" in repr(part)]


# -- none, token, hub ----------------------------------------------------------------------------------


def test_none_adds_nothing():
    peer = Peer()
    assert peer.headers(NoAuth(), peer.start(NoAuth())) == Outgoing()


def test_where_none_was_given_nobody_says_that_it_was_not_taken():
    plugin, peer = NoAuth(), Peer()
    context = peer.start(plugin)
    assert peer.run(plugin.handle_response(context, Response(404), 0, 0)) is CONTINUE
    for now in (0, 1):
        error = failing(peer.run(plugin.handle_response(context, REFUSED, 0, now)))
        assert "none was given" in str(error)


def test_a_token_is_added_and_stays():
    plugin, peer = TokenAuth("abc"), Peer()
    context = peer.start(plugin)
    assert peer.headers(plugin, context) == Outgoing(token="abc")
    error = failing(peer.run(plugin.handle_response(context, REFUSED, 0, 0)))
    assert "abc" not in str(error)


def test_a_token_from_a_function_is_asked_for_again_once_it_is_refused():
    token = "one"
    plugin, peer = TokenAuth(lambda: token), Peer()
    context = peer.start(plugin)
    token = "two"
    assert peer.headers(plugin, context).token == "one"
    assert peer.run(plugin.handle_response(context, REFUSED, 0, 0)) is RETRY
    assert peer.headers(plugin, context).token == "two"
    token = ""
    assert failing(peer.run(plugin.handle_response(context, REFUSED, 1, 100))).slug is None


@pytest.mark.parametrize("plugin", [TokenAuth(""), CookieAuth(""), TicketAuth(), HubAuth("")])
def test_without_a_secret_the_next_plugin_is_asked(plugin: AuthPlugin[Any]):
    assert Peer().run(plugin.initialize(HERE, 0)) is IGNORE


@pytest.mark.parametrize(
    ("base_url", "server", "taken"),
    [
        ("/", "https://hub.example/user/ann/", True),
        ("/", "https://hub.example/services/portal/", True),
        ("/", "https://lab.example/", False),
        ("/at/here/", "https://hub.example/at/here/user/ann/", True),
        ("/at/here", "https://hub.example/user/ann/", False),
    ],
)
def test_the_hub_s_token_is_for_servers_of_a_hub(base_url: str, server: str, taken: bool):
    plugin, peer = HubAuth("abc", base_url), Peer()
    context = peer.run(plugin.initialize(Endpoint(server), 0))
    assert (context is not IGNORE) is taken
    if not isinstance(context, Ignore):
        assert peer.headers(plugin, context).token == "abc"


# -- cookie --------------------------------------------------------------------------------------------


def test_a_login_by_the_page():
    plugin = CookieAuth("pass word&")
    peer = Peer(Response(200, cookies=(XSRF,)), Response(302, cookies=(COOKIE,)))
    context = peer.start(plugin)
    page, form = peer.asked
    assert (page.method, page.url) == ("GET", f"{BASE}login")
    assert (form.method, form.url, form.headers["Cookie"]) == (
        "POST",
        f"{BASE}login",
        "_xsrf=2|abc",
    )
    assert form.body is not None
    assert parse_qs(form.body.decode()) == {"password": ["pass word&"], "_xsrf": ["2|abc"]}
    assert peer.headers(plugin, context).headers == {
        "Cookie": "_xsrf=2|abc; username-lab=2|1:0|x",
        "X-XSRFToken": "2|abc",
    }
    assert plugin.refresh_in(context, 0) is None


def test_a_login_without_xsrf():
    plugin, peer = CookieAuth("x"), Peer(Response(200), Response(302, cookies=(COOKIE,)))
    context = peer.start(plugin)
    assert "Cookie" not in peer.asked[1].headers
    assert peer.headers(plugin, context).headers == {"Cookie": "username-lab=2|1:0|x"}


def test_the_cookie_is_renewed_before_its_end():
    short = f"{COOKIE}; Max-Age=30"
    peer = Peer(
        Response(200),
        Response(302, cookies=(short,)),
        Response(200),
        Response(302, cookies=("a=b",)),
    )
    plugin = CookieAuth("x")
    context = peer.start(plugin, now=100)
    assert plugin.refresh_in(context, 100) == 20
    peer.run(plugin.keep_fresh(context, 120))
    assert peer.headers(plugin, context).headers == {"Cookie": "a=b"}
    assert (context.generation, plugin.refresh_in(context, 120)) == (1, None)


@pytest.mark.parametrize(
    ("page", "answer", "advice"),
    [
        (Response(302), None, Advice.STOP),
        (Response(404), None, Advice.STOP),
        (Response(200), Response(401), Advice.AUTHENTICATE),
        (Response(200), Response(403), Advice.AUTHENTICATE),
        (Response(200), Response(302), Advice.STOP),
        (Response(200), Response(302, cookies=(XSRF,)), Advice.STOP),
        (Response(200), Response(200, cookies=(COOKIE,)), Advice.STOP),
        (Response(200), Response(429, retry_after=7), Advice.RETRY),
        (Response(503), None, Advice.RETRY),
    ],
)
def test_a_login_page_that_logs_nobody_in(page: Response, answer: Response | None, advice: Advice):
    peer = Peer(page, *([answer] if answer else []))
    with pytest.raises(ClientError) as caught:
        peer.start(CookieAuth("hidden"))
    assert caught.value.advice is advice
    assert caught.value.retry_after == (answer or page).retry_after
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ((), ({}, None)),
        (("a=b; Path=/", "c=d"), ({"a": "b", "c": "d"}, None)),
        (("a=b; Max-Age=10", "c=d; max-age=5; Secure"), ({"a": "b", "c": "d"}, 5)),
        (("a=b; Max-Age=0", "c=; Path=/", "junk", "=x"), ({}, None)),
        (("a=b; Max-Age=soon",), ({"a": "b"}, None)),
        (("a=b; Expires=Mon, 23 Nov 2026 10:01:00 GMT",), ({"a": "b"}, 60)),
        (("a=b; Expires=Mon, 23 Nov 2026 09:00:00 GMT",), ({}, None)),
        (("a=b; Expires=never",), ({"a": "b"}, None)),
        (("a=b; Expires=Mon, 23 Nov 2026 09:00:00 GMT; Max-Age=7",), ({"a": "b"}, 7)),
    ],
)
def test_cookies_and_when_they_end(lines: tuple[str, ...], found: Any):
    date = {"date": "Mon, 23 Nov 2026 10:00:00 GMT"}
    assert read_cookies(Response(200, date, cookies=lines)) == found


def test_the_end_of_a_cookie_is_unknown_without_the_server_s_date():
    lines = ("a=b; Expires=Mon, 23 Nov 2026 10:01:00 GMT",)
    assert read_cookies(Response(200, cookies=lines)) == ({"a": "b"}, None)


# -- ticket --------------------------------------------------------------------------------------------


def test_C6_1_a_ticket_for_a_password():
    plugin, peer = TicketAuth(password="open sesame", max_age=60), Peer(ticket())
    context = peer.start(plugin)
    (asked,) = peer.asked
    assert (asked.method, asked.url) == ("POST", BASE + LOGIN_PATH)
    assert body_of(asked) == {"password": "open sesame", "max_age": 60}
    assert not {"authorization", "cookie"} & {name.lower() for name in asked.headers}
    assert peer.headers(plugin, context) == Outgoing(token=TICKET)
    assert plugin.refresh_in(context, 0) == 200


def test_C6_1_a_ticket_for_a_token():
    peer = Peer(ticket())
    peer.start(TicketAuth(token="abc"))
    assert body_of(peer.asked[0]) == {"token": "abc"}


@pytest.mark.parametrize("capabilities", [None, {}])
def test_a_server_without_a_login_is_ignored(capabilities: Any):
    plugin = TicketAuth(token="abc")
    assert Peer().run(plugin.initialize(Endpoint(BASE, capabilities), 0)) is IGNORE


@pytest.mark.parametrize(
    ("plugin", "capabilities", "said"),
    [
        (TicketAuth(password="secret"), None, "no login (it has no capabilities). Use the cookie"),
        (
            TicketAuth(password="secret"),
            {},
            "no login (its capabilities name none). Use the cookie",
        ),
        (
            TicketAuth(),
            {"login": {}},
            "ticket: it has nothing to sign in with here. Is the variable",
        ),
        (TokenAuth(""), {}, "token: it has nothing to sign in with here"),
        (HubAuth("secret", "/at/"), {}, "hub: its servers are below /at/user/ and /at/services/"),
        (HubAuth(""), {}, "hub: its servers are below /user/ and /services/"),
        (BasicAuth("us", "secret", [TicketAuth(token="secret")]), {}, "basic: ticket: the server"),
    ],
)
def test_why_nobody_serves_is_told_of_each(plugin: AuthPlugin[Any], capabilities: Any, said: str):
    endpoint = Endpoint("https://lab.example/", capabilities)
    assert Peer().run(plugin.initialize(endpoint, 0.0)) is IGNORE
    elsewhere = NoAuth()
    elsewhere.servers = ("https://other.example/",)
    error = nobody_serves([plugin, elsewhere], endpoint)
    assert said in str(error)
    assert str(error).startswith("no credential for https://lab.example/: ")
    assert str(error).endswith("; none: its servers are https://other.example/")
    assert "secret" not in str(error)
    assert "no auth plugin is there" in str(nobody_serves([], endpoint))


def test_C6_4_a_ticket_is_renewed_by_itself():
    plugin, peer = (
        TicketAuth(token="abc"),
        Peer(ticket(), ticket(NEXT, 30, "https://evil.example/")),
    )
    context = peer.start(plugin)
    peer.run(plugin.keep_fresh(context, 200))
    renewal = peer.asked[1]
    assert (renewal.url, body_of(renewal)) == (BASE + LOGIN_PATH, {"renew": True})
    assert renewal.headers["Authorization"] == f"token {TICKET}"
    assert (peer.headers(plugin, context).token, context.generation) == (NEXT, 1)
    assert (context.base_url, plugin.refresh_in(context, 200)) == (BASE, 20)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_C6_4_a_ticket_that_can_be_renewed_no_more_is_replaced(status: int):
    plugin, peer = TicketAuth(token="abc"), Peer(ticket(), Response(status), ticket(NEXT))
    context = peer.start(plugin)
    peer.run(plugin.keep_fresh(context, 200))
    assert body_of(peer.asked[2]) == {"token": "abc"}
    assert peer.headers(plugin, context).token == NEXT


def test_a_renewal_that_the_server_cannot_do_now_is_left_for_later():
    plugin, peer = TicketAuth(token="abc"), Peer(ticket(), Response(503, retry_after=9))
    context = peer.start(plugin)
    peer.run(plugin.keep_fresh(context, 200))
    assert context.failed is not None
    assert (context.failed.advice, context.interval) == (Advice.RETRY, 9)
    assert peer.headers(plugin, context).token == TICKET


def test_a_refused_ticket_is_replaced_and_not_shown_again():
    plugin, peer = TicketAuth(token="abc"), Peer(ticket(), ticket(NEXT))
    context = peer.start(plugin)
    assert peer.run(plugin.handle_response(context, REFUSED, 0, 1)) is RETRY
    assert body_of(peer.asked[1]) == {"token": "abc"}
    assert "Authorization" not in peer.asked[1].headers


def test_a_hub_s_token_is_no_ticket():
    """Whoever gives tokens of another kind renews none, and has none to revoke."""
    plugin, peer = TicketAuth(token="abc"), Peer(ticket("0123"), ticket("4567"))
    context = peer.start(plugin)
    peer.run(plugin.keep_fresh(context, 200))
    assert body_of(peer.asked[1]) == {"token": "abc"}
    peer.run(plugin.cleanup(context))
    assert len(peer.asked) == 2


def test_the_ticket_is_revoked_at_the_end():
    plugin, peer = TicketAuth(token="abc"), Peer(ticket(), Response(204))
    context = peer.start(plugin)
    peer.run(plugin.cleanup(context))
    last = peer.asked[-1]
    assert (last.method, last.url) == ("DELETE", BASE + LOGIN_PATH)
    assert last.headers["Authorization"] == f"token {TICKET}"


@pytest.mark.parametrize("token", [None, 7, "", "a\nb", "ä"])
def test_an_answer_without_a_ticket(token: Any):
    with pytest.raises(AuthError):
        Peer(ticket(token)).start(TicketAuth(token="abc"))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000])
def test_an_answer_that_is_no_object(body: bytes):
    with pytest.raises(AuthError):
        Peer(Response(200, body=body)).start(TicketAuth(token="abc"))


@pytest.mark.parametrize("expires_in", [None, "soon", 0, -3])
def test_a_ticket_that_does_not_say_when_it_ends_is_not_renewed(expires_in: Any):
    plugin, peer = TicketAuth(token="abc"), Peer(ticket(expires_in=expires_in))
    assert plugin.refresh_in(peer.start(plugin), 0) is None


@pytest.mark.parametrize(
    ("answer", "slug", "advice"),
    [
        (
            Response(403, body=b'{"status": "token_rejected"}'),
            "token_rejected",
            Advice.AUTHENTICATE,
        ),
        (Response(403, body=b'{"status": 7}'), None, Advice.AUTHENTICATE),
        (Response(429, reason=REASONS["too_many_attempts"]), "too_many_attempts", Advice.RETRY),
        (Response(404), None, Advice.STOP),
    ],
)
def test_a_login_that_says_no(answer: Response, slug: str | None, advice: Advice):
    with pytest.raises(ClientError) as caught:
        Peer(answer).start(TicketAuth(password="hidden"))
    assert (caught.value.slug, caught.value.advice) == (slug, advice)
    assert "hidden" not in str(caught.value)


OTHER = "https://other.example/user/ann/"


def test_C6_2_a_login_leads_to_a_trusted_server():
    plugin = TicketAuth(token="abc")
    peer = Peer(ticket(base_url=OTHER.rstrip("/")), ticket(NEXT), Response(204))
    context = peer.start(plugin, Endpoint(BASE, LOGIN, ("https://other.example/",)))
    assert context.base_url == OTHER
    peer.run(plugin.keep_fresh(context, 200))
    assert peer.asked[1].url == OTHER + LOGIN_PATH
    assert context.base_url == OTHER
    peer.run(plugin.cleanup(context))
    assert peer.asked[2].url == OTHER + LOGIN_PATH
    # The first credential was sent to the first server alone.
    assert [each.url for each in peer.asked if b"abc" in (each.body or b"")] == [BASE + LOGIN_PATH]


def test_C6_2_a_ticket_of_the_second_server_that_ends_is_replaced_at_the_first():
    plugin = TicketAuth(token="abc")
    peer = Peer(ticket(base_url=OTHER), Response(401), ticket(NEXT, base_url=BASE))
    context = peer.start(plugin, Endpoint(BASE, LOGIN, ("https://other.example/",)))
    peer.run(plugin.keep_fresh(context, 200))
    assert [each.url.partition("api")[0] for each in peer.asked] == [BASE, OTHER, BASE]
    assert context.base_url == BASE


def test_C3_who_belongs_elsewhere_logs_in_again():
    plugin, peer = TicketAuth(token="abc"), Peer(ticket(), ticket(base_url=OTHER))
    context = peer.start(plugin, Endpoint(BASE, LOGIN, (OTHER,)))
    moved = Response(421, reason=REASONS["other_server"])
    assert peer.run(plugin.handle_response(context, moved, 0, 0)) is RETRY
    assert context.base_url == OTHER


@pytest.mark.parametrize(
    ("base_url", "trusted"),
    [
        (OTHER, ()),
        (OTHER, ("https://other.example/user/bob/",)),
        ("http://other.example/", ("https://other.example/",)),
        ("https://lab.example/user/annabel/", ()),
        ("https://x@other.example/", ("https://other.example/",)),
        ("https://other.example/\n" + "x" * 400, ("https://other.example/",)),
    ],
)
def test_C6_2_a_server_that_nobody_trusts(base_url: str, trusted: tuple[str, ...]):
    peer = Peer(ticket(base_url=base_url))
    with pytest.raises(AuthError, match="trusted") as caught:
        peer.start(TicketAuth(token="abc"), Endpoint(BASE, LOGIN, trusted))
    assert caught.value.advice is Advice.STOP
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "named",
    [None, 7, BASE, BASE.rstrip("/"), "http://lab.example/user/ann/", "http://10.0.0.1:8888/"],
)
def test_a_server_that_names_itself_otherwise_is_no_other(named: Any):
    """Behind a proxy it may not know its address; as it says the same in its capabilities, it is it."""
    plugin, peer = TicketAuth(token="abc"), Peer(ticket(base_url=named))
    own = {**LOGIN, "base_url": "http://10.0.0.1:8888/"}
    assert peer.start(plugin, Endpoint(BASE, own)).base_url == BASE


# -- basic ---------------------------------------------------------------------------------------------

BASIC = "Basic dXM6aGlkZGVu"  # us:hidden


def test_basic_stands_alone():
    plugin, peer = BasicAuth("us", "hidden"), Peer()
    context = peer.start(plugin)
    assert peer.headers(plugin, context) == Outgoing({"Authorization": BASIC})
    assert plugin.refresh_in(context, 0) is None


def test_what_is_shown_to_the_proxy_alone():
    plugin, peer = BasicAuth("us", "hidden", [CookieAuth("x")]), Peer()
    assert plugin.front(HERE) == {"Authorization": BASIC}
    alone = plugin.alone()
    assert peer.headers(alone, peer.start(alone)).headers == {"Authorization": BASIC}
    assert peer.asked == []


def test_basic_beside_a_cookie():
    peer = Peer(
        Response(200),
        Response(302, cookies=("a=b; Max-Age=30",)),
        Response(200),
        Response(302, cookies=("a=c; Max-Age=30",)),
        Response(200),
        Response(302, cookies=("a=d",)),
    )
    plugin = BasicAuth("us", "hidden", [CookieAuth(""), CookieAuth("x")])
    context = peer.start(plugin)
    assert plugin.refresh_in(context, 0) == 20
    peer.run(plugin.keep_fresh(context, 20))
    assert peer.headers(plugin, context).headers == {"Cookie": "a=c", "Authorization": BASIC}
    assert plugin.concerns(REFUSED)
    assert peer.run(plugin.handle_response(context, REFUSED, 0, 40)) is RETRY
    assert context.generation == 1
    assert peer.run(plugin.handle_response(context, REFUSED, 1, 40)) is RETRY
    assert peer.headers(plugin, context).headers["Cookie"] == "a=d"
    assert {each.headers["Authorization"] for each in peer.asked} == {BASIC}
    peer.run(plugin.cleanup(context))


def test_the_proxy_s_own_refusal_is_told_from_the_server_s():
    plugin, peer = (
        BasicAuth("us", "hidden", [CookieAuth("x")]),
        Peer(Response(200), Response(302, cookies=("a=b",))),
    )
    context = peer.start(plugin)
    answer = Response(401, {"www-authenticate": 'Basic realm="lab"'})
    error = failing(peer.run(plugin.handle_response(context, answer, 0, 0)))
    assert "proxy" in str(error)
    assert len(peer.asked) == 2


def test_basic_and_a_token_do_not_go_together():
    plugin, peer = BasicAuth("us", "hidden", [TokenAuth("abc")]), Peer()
    with pytest.raises(AuthError, match="cookie"):
        peer.headers(plugin, peer.start(plugin))


class Asking(NoAuth):
    """Sends requests as it is told."""

    def __init__(self, *requests: Request) -> None:
        self.requests = requests
        self.errors: list[ClientError] = []

    def initialize(self, endpoint: Endpoint, now: float) -> Flow[Context | Ignore]:
        for request in self.requests:
            try:
                yield request
            except ClientError as error:  # noqa: PERF203 - it goes on
                self.errors.append(error)
        return Context(endpoint)


def test_what_basic_does_with_the_requests_of_the_other():
    lost = ClientError("lost")
    asking = Asking(Request("GET", f"{BASE}a"), Request("GET", f"{OTHER}a"))
    peer = Peer(lost, Response(200))
    peer.start(BasicAuth("us", "hidden", [asking]))
    assert [dict(each.headers) for each in peer.asked] == [{"Authorization": BASIC}, {}]
    assert asking.errors == [lost]
    asking = Asking(Request("GET", f"{BASE}a", {"authorization": "token abc"}))
    with pytest.raises(AuthError):
        Peer().start(BasicAuth("us", "hidden", [asking]))


def test_basic_with_nothing_beside_it_that_is_for_the_server():
    elsewhere = NoAuth()
    elsewhere.servers = (OTHER,)
    assert (
        Peer().run(BasicAuth("us", "x", [elsewhere, TokenAuth("")]).initialize(HERE, 0)) is IGNORE
    )


def test_a_user_with_a_colon():
    with pytest.raises(ClientError):
        BasicAuth("a:b", "x")
