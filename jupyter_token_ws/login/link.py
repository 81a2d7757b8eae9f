"""The link that a server prints at its start, with a ticket for one use in place of the token.

Stock puts the server's token there: whoever sees the terminal, the log or the browser's history later has the
server. This link leads to a page of its own and has a ticket in its fragment, which no request carries. The
page posts it, and that signs the browser in. Nowhere else is such a ticket good, and no other ticket is good
here: it is the one place where a ticket becomes a cookie.
"""

from __future__ import annotations

import functools
import html
from base64 import b64encode
from collections.abc import Coroutine
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import ParseResult, quote, urlparse

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import IdentityProvider, LegacyIdentityProvider, User
from jupyter_server.auth.login import LoginFormHandler
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join

from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.identity import ask_behind, detach
from jupyter_token_ws.guard.refusal import Refused, refusal_headers
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.tickets import SIGN_IN

from .memory import MemoryTicketStore
from .service import Login, grant_of, refuse
from .tickets import Credential, Ticket, TicketError, UnknownTicket

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp
    from tornado import web

T = TypeVar("T")

_SEAM = ("_get_urlparts", "_write_browser_open_file", "_prepare_browser_open")
"""Where upstream puts the token into an address."""


class Links:
    """The links of one server.

    Their tickets are kept here, whatever store the login has: they are printed before anything runs that
    could be waited for, and are good for one server only.

    Args:
        login: of the server.
        server: whose links they are.
        age: seconds that a link is good.
    """

    def __init__(self, login: Login, server: ServerApp, age: float) -> None:
        self._login = login
        self._server = server
        self._store = MemoryTicketStore(max_age=age, max_renewal=age, log=server.log)
        self._printed: tuple[str, float] = ("", 0.0)

    @property
    def _provider(self) -> IdentityProvider:
        return self._server.identity_provider

    @property
    def default_url(self) -> str:
        """Where a browser goes that is signed in, unless its link says otherwise."""
        url: str = self._server.default_url
        return url

    # -- tickets -----------------------------------------------------------------------------------

    def new_ticket(self) -> str:
        """A ticket for one browser, which stands for the server's token."""
        guard, token = self._login.guard, self._provider.token
        behind = Credential("Authorization", f"token {token}")
        principal = f"credential:{guard.digest(token)}"
        issued = _at_once(
            self._store.issue(principal, {}, behind, single_use=True, audience=[SIGN_IN])
        )
        ticket = issued.ticket
        guard.events.ticket_issued(
            family=ticket.family,
            user="",
            source="token",
            expires_in=ticket.lifetime,
            single_use=True,
        )
        return issued.token

    def printed_ticket(self) -> str:
        """The one to be printed: the same as last time, if it was not used and has half its time left."""
        token, until = self._printed
        good = self._store.clock() < until
        if good:
            try:
                _at_once(self._store.look_up(token))
            except TicketError:
                good = False
        if not good:
            token = self.new_ticket()
            self._printed = token, self._store.clock() + self._store.max_age / 2
        return token

    async def redeem(self, handler: web.RequestHandler, token: str) -> User:
        """Use a ticket up, and answer with who it stands for. Raises ``Refused``."""
        store: Any = self._store
        try:
            ticket = await store.look_up(token)
        except UnknownTicket:
            store = self._login.store
            ticket = await self._login.find(handler.request, token)
        except TicketError as error:
            refuse(error)
        if not _signs_in(ticket):
            raise Refused("wrong_audience")
        user, _ = await ask_behind(self._provider, detach(handler, None), grant_of(ticket))
        try:
            await store.consume(token)
        except TicketError as error:
            refuse(error)
        self._login.guard.events.ticket_used(
            family=ticket.family, user="", handler=handler, single_use=True
        )
        return user

    # -- upstream's links --------------------------------------------------------------------------

    def install(self) -> None:
        """Have the server print, write and open these links, by attributes of that one object."""
        server: Any = self._server
        if not all(callable(getattr(server, name, None)) for name in _SEAM):
            server.log.warning(
                "TokenWebSocketApp.link_ticket does not know this jupyter_server: its link has the token"
            )
            return
        custom = urlparse(server.custom_display_url)
        if custom.path.startswith(server.base_url):
            # It would take the place of the path of our page.
            server.custom_display_url = ParseResult(
                custom.scheme, custom.netloc, "", "", "", ""
            ).geturl()
        kind: Any = type(server)
        parts_of = server._get_urlparts

        def get_urlparts(*args: Any, **kwargs: Any) -> ParseResult:
            parts: ParseResult = parts_of(*args, **kwargs)
            provider = self._provider
            # One from the configuration is not shown by upstream either.
            if not (parts.query and provider.token and provider.token_generated):
                return parts
            path, _, fragment = self._page(parts.path, self.printed_ticket()).partition("#")
            return parts._replace(path=path, query="", fragment=fragment)

        def write_browser_open_file(url: str, fh: Any) -> None:
            if self._provider.token:
                page = self._page(url_path_join(server.base_url, url), self.new_ticket())
                kind._write_browser_open_file(
                    _Tokenless(server, page), page[len(server.base_url) :], fh
                )
            else:
                kind._write_browser_open_file(server, url, fh)

        def prepare_browser_open() -> Any:
            if server.use_redirect_file or not self._provider.token:
                return kind._prepare_browser_open(server)
            page = self._page(server.default_url, self.new_ticket())
            return kind._prepare_browser_open(_Tokenless(server, page))

        server._get_urlparts = get_urlparts
        server._write_browser_open_file = write_browser_open_file
        server._prepare_browser_open = prepare_browser_open

    def _page(self, then: str, ticket: str) -> str:
        """The path of our page, for whoever wants to go to ``then``, with a ticket in the fragment."""
        page = url_path_join(self._server.base_url, SIGN_IN)
        query = "" if then == self.default_url else f"?next={quote(then, safe='/')}"
        return f"{page}{query}#token={ticket}"


class _Tokenless:
    """Upstream's server, with another first page and without a token to put behind it."""

    def __init__(self, server: ServerApp, default_url: str) -> None:
        self._server = server
        self.default_url = default_url
        self.identity_provider = _NoToken()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _NoToken:
    token = ""
    token_generated = False


def _signs_in(ticket: Ticket) -> bool:
    """Whether a ticket may become a cookie: it was asked for that, by who had a token. Whoever had a cookie
    or password has a login page; a new cookie for an old one would outlive a logout."""
    asked = ticket.single_use and ticket.audience == (SIGN_IN,)
    return asked and ticket.credential.kind == "Authorization"


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The outcome of a coroutine that waits for nothing, as those of the store in memory."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    coroutine.close()
    raise RuntimeError("it waited")


_SCRIPT = """
const go = () => {
  const ticket = new URLSearchParams(location.hash.slice(1)).get('token');
  history.replaceState(null, '', location.pathname + location.search);
  const [form] = document.forms;
  const missing = document.getElementById('missing');
  form.ticket.value = ticket ?? '';
  if (ticket) form.submit();
  else if (missing) missing.hidden = false;
};
addEventListener('hashchange', go);
if (document.prerendering) document.addEventListener('prerenderingchange', go, {once: true});
else go();
"""
_SCRIPT_DIGEST = b64encode(sha256(_SCRIPT.encode()).digest()).decode()

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
<h1>{title}</h1>
{content}
</body>
</html>
"""

_AGAIN = (
    "Get another link on the machine of the server: "
    "<code>jupyter token-ws login --local --link</code> and its address."
)

_FORM = f"""<form method="post">{{xsrf}}<input type="hidden" name="ticket"></form>
<noscript><p>This page needs JavaScript, as what comes after it does.</p></noscript>
<script>{_SCRIPT}</script>"""
"""On every page, also on one that refuses: who pastes another link there only changes the fragment."""

_MISSING = f"""<p id="missing" hidden>The address of this page has no ticket, or not any more. {_AGAIN}</p>
"""

_WHY = {
    "token_rejected": "This link was used before, or this server never made it.",
    "token_expired": "The time of this link is over.",
    "token_revoked": "This link was revoked, or what it stood for is not valid any more.",
    "wrong_audience": "This ticket is not for signing in a browser.",
}


class SignInHandler(JupyterHandler):
    """``api/token-ws/sign-in``: where a link leads."""

    @functools.cached_property
    def _links(self) -> Links:
        return cast("Links", Login.of(self.settings).links)

    async def prepare(self) -> None:  # type: ignore[override] # upstream's argument is for websockets
        """Nothing secret over plain HTTP, where that is not wanted."""
        self.set_header("Cache-Control", "no-store")
        # With less than that a browser says of our own form that it is from nowhere.
        self.set_header("Referrer-Policy", "same-origin")
        if Guard.of(self.application).lacks_tls(self.request):
            self._refuse(Refused("tls_required"), form="")
            return
        await super().prepare()

    @property
    def content_security_policy(self) -> str:
        """Our script and our form."""
        ours = f"default-src 'none'; script-src 'sha256-{_SCRIPT_DIGEST}'; form-action 'self'"
        return f"{super().content_security_policy}; {ours}"

    @allow_unauthenticated
    def get(self) -> None:
        """The page that posts the ticket of its fragment. To look at it uses nothing up."""
        self.finish(_PAGE.format(title="Signing in", content=_MISSING + self._form()))

    @allow_unauthenticated
    async def post(self) -> None:
        """Sign the browser in and send it on. One that is signed in already goes on with any link."""
        if not self.check_origin():
            self._refuse(Refused("forbidden"), form="")
            return
        try:
            user = await self._links.redeem(self, self.get_body_argument("ticket", ""))
        except Refused as error:
            if self.current_user is None or error.slug not in _WHY:
                self._refuse(error, self._form())
                return
        else:
            if self.current_user is None:
                self._set_cookie(user)
                self.log.info("A browser was signed in by a link")
        # Upstream's rule of where its login page may lead.
        then = self.get_query_argument("next", self._links.default_url)
        cast("Any", LoginFormHandler)._redirect_safe(self, then)

    def _set_cookie(self, user: User) -> None:
        provider: Any = self.settings["identity_provider"]
        if isinstance(provider, LegacyIdentityProvider):
            cast("Any", provider).login_handler_class.set_login_cookie(self, user.username)
        else:
            provider.set_login_cookie(self, user)

    def _form(self) -> str:
        return _FORM.replace("{xsrf}", self.xsrf_form_html())

    def _refuse(self, error: Refused, form: str) -> None:
        """Say why not, and how to get another link."""
        self.set_status(error.status_code)
        for name, value in refusal_headers(REASONS[error.slug], error.retry_after).items():
            self.set_header(name, value)
        why = _WHY.get(error.slug) or f"{html.escape(error.text.capitalize())}."
        content = f"<p>{why}</p>\n<p>{_AGAIN}</p>\n{form}"
        self.finish(_PAGE.format(title="Not signed in", content=content))


def handlers() -> list[tuple[str, type[JupyterHandler]]]:
    """The route, below the server's base."""
    return [(f"/{SIGN_IN}", SignInHandler)]
