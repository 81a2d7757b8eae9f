"""Contract section 2 under every kind of identity provider, against an oracle written from the text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.support.door import EVENTS, Door
from tests.support.knock import Knock
from tests.support.providers import (
    BAD,
    HEADER,
    KINDS,
    OFF,
    PASSWORD,
    TOKEN,
    USER,
    Kind,
    Sent,
    expected,
)
from tests.support.recording import OpenToAll, Protected
from tests.unit.guard.conftest import EXTENSIONS

pytestmark = [
    # Upstream calls what it has deprecated, and warns of handlers that are open, its own included.
    pytest.mark.filterwarnings("ignore:.*is deprecated in (jupyter-server )?2.0"),
    pytest.mark.filterwarnings("ignore::jupyter_server.utils.JupyterServerAuthWarning"),
]

BY_TOKEN = ("subprotocol", "url", "header")
WAYS = ("none", "good", "bad")
MISSING = "api/kernels/00000000-0000-0000-0000-000000000000/channels"


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def allow_unauthenticated() -> bool:
    return True


@pytest.fixture
def token_ws_config() -> dict[str, Any]:
    return {}


@pytest.fixture
def jp_server_config(
    kind: Kind, token_ws_config: dict[str, Any], allow_unauthenticated: bool
) -> dict[str, Any]:
    config: dict[str, Any] = {section: dict(traits) for section, traits in kind.config.items()}
    config.setdefault("ServerApp", {}).update(
        jpserver_extensions=dict(EXTENSIONS), allow_unauthenticated_access=allow_unauthenticated
    )
    config["TokenWebSocketApp"] = {
        "refusal_burst": 100_000,
        "max_refusals_open": 100_000,
        **token_ws_config,
    }
    return config


def mixtures(kind: Kind) -> Iterator[Sent]:
    """Everything by every way."""
    names = ("none", "good") if kind.remote_user else ("none",)
    for subprotocol, url, header, cookie, name in itertools.product(WAYS, WAYS, WAYS, WAYS, names):
        for scheme in ("token", "Bearer") if header != "none" else ("token",):
            yield Sent(subprotocol, url, header, cookie, name, scheme)


async def send(door: Door, kind: Kind, path: str, sent: Sent, *others: str) -> Knock:
    return await door.knock(
        sent.path(path), sent.offer(*others), sent.headers(kind, door.app, door.port)
    )


def outcome_of(answer: Knock, source: str) -> tuple[str, str]:
    """(source, slug), one of them empty."""
    return (source, "") if answer.code is None else ("", answer.slug)


async def compare(door: Door, kind: Kind, *, allow_url: bool) -> list[str]:
    """Knock with every mixture; what differs from the oracle."""

    class Here(Protected):
        """For this server."""

    door.add("here", Here)
    wrong = []
    for sent in mixtures(kind):
        async with await send(door, kind, "here", sent) as answer:
            must = expected(kind, sent, allow_url=allow_url)
            if must.slug:
                await answer.wait_closed()
                got = ("", answer.slug)
                info = None
            else:
                info = Here.at("open").info if answer.status == 101 and Here.sights else None
                got = (info.source.value if info else f"status {answer.status}", "")
            Here.sights.clear()
            told = answer.subprotocol
        answered = MARKER if must.source and sent.subprotocol != "none" else REASON_MARKER
        if got != (must.source, must.slug) or told != answered:
            wrong.append(f"{sent}: {got}, {told}; expected {must}, {answered}")
        elif info is not None:
            cookies = bool(answer.set_cookies)
            if must.source in BY_TOKEN and cookies:
                wrong.append(f"{sent}: cookies {answer.set_cookies}")
            if (info.subprotocol, info.opted_in) != (answered, True):
                wrong.append(f"{sent}: {info}")
            if kind.names and info.principal != f"user:{USER}":
                wrong.append(f"{sent}: {info}")
    return wrong


async def test_C2_1_C2_2_C2_5_C1_1_every_mixture_of_credentials(kind, door):
    assert await compare(door, kind, allow_url=True) == []


@pytest.mark.parametrize("token_ws_config", [{"allow_token_in_url": False}])
@pytest.mark.parametrize("allow_unauthenticated", [False])
async def test_C2_4_C2_1_C2_2_every_mixture_without_tokens_in_the_url(kind, door):
    assert await compare(door, kind, allow_url=False) == []


@pytest.mark.parametrize("allow_unauthenticated", [True, False], ids=["open", "closed"])
async def test_C2_2_wrong_token_is_rejected_however_open_the_handler(
    kind, door, allow_unauthenticated
):
    class Here(OpenToAll):
        """For this server."""

    door.add("here", Here)
    for subprotocol, cookie in itertools.product(WAYS, WAYS):
        sent = Sent(subprotocol, cookie=cookie)
        must = expected(kind, sent)
        if subprotocol == "none" and allow_unauthenticated and must.slug:
            must = expected(OFF, sent)  # nobody, and nobody is welcome
        async with await send(door, kind, "here", sent) as answer:
            if must.slug:
                await answer.wait_closed()
                assert (answer.slug, Here.steps()) == (must.slug, ["prepare"]), sent
            else:
                assert answer.status == 101, sent
                assert Here.at("open").info.source.value == must.source, sent
        Here.sights.clear()


async def start_kernel(door: Door, kind: Kind) -> str:
    """A real kernel, started by somebody whom the server knows."""
    good = Sent(header="good", cookie="good", remote_user="good", scheme=kind.schemes[0])
    headers = good.headers(kind, door.app, door.port)
    headers |= {"Content-Type": "application/json", "X-XSRFToken": "x"}
    headers["Cookie"] = "; ".join(filter(None, [headers.get("Cookie"), "_xsrf=x"]))
    answer = await door.fetch(
        "api/kernels", headers, method="POST", body=json.dumps({"name": "echo"}).encode()
    )
    assert answer.status == 201, answer.body
    return f"api/kernels/{json.loads(answer.body)['id']}/channels"


async def start_terminal(door: Door) -> str:
    manager = door.app.web_app.settings["terminal_manager"]
    name = manager.create()["name"]
    return f"terminals/websocket/{name}"


def good(kind: Kind) -> Sent:
    """A subprotocol token that is accepted, if one can be."""
    return Sent("good", remote_user="good" if kind.remote_user else "none")


@pytest.mark.parametrize("allow_unauthenticated", [True, False], ids=["open", "closed"])
async def test_C2_2_C1_1_C2_6_sockets_of_the_server(kind, door):
    taken = kind.takes_token or kind.remote_user or kind.off
    for path, chosen in (
        (EVENTS, None),
        (await start_terminal(door), None),
        (await start_kernel(door, kind), KERNEL),
    ):
        async with await send(door, kind, path, good(kind), KERNEL) as answer:
            if not taken:
                await answer.wait_closed()
                assert answer.slug == "token_rejected"
                continue
            assert (answer.status, answer.subprotocol) == (101, chosen or MARKER), path
            assert answer.set_cookies == [] or kind.off
        if not kind.off:
            bad = await door.refused(path, Sent("bad", cookie="good").offer(KERNEL))
            assert (bad.code, bad.slug) == (4403, "token_rejected"), path


async def test_C2_7_missing_kernel_comes_after_the_credential(kind, door):
    sent = good(kind)
    async with await send(door, kind, MISSING, sent) as answer:
        await answer.wait_closed()
        taken = kind.takes_token or kind.remote_user or kind.off
        assert answer.slug == ("not_found" if taken else "token_rejected")
    stranger = await door.refused(MISSING, [REASON_MARKER])
    assert stranger.slug == ("not_found" if kind.off else "credentials_missing")


@pytest.mark.parametrize("kind", [OFF], ids=str)
async def test_C2_2_authentication_off_tokens_are_ignored(door, kind):
    class Here(Protected):
        """For this server."""

    door.add("here", Here)
    for sent in (Sent("bad"), Sent(url="bad"), Sent(header="bad"), Sent("good", "bad", "bad")):
        async with await send(door, kind, "here", sent) as answer:
            assert answer.status == 101
        seen = Here.at("open")
        assert (seen.info.source.value, seen.info.principal) == ("none", "credential:")
        # Ignored is not taken away: it may be a proxied app's own.
        assert seen.arguments == ({"token": [BAD.encode()]} if sent.url == "bad" else {})
        assert seen.header("Authorization") == ([f"token {BAD}"] if sent.header == "bad" else [])
        assert not seen.shows(TOKEN)


@pytest.mark.parametrize("kind", [OFF], ids=str)
async def test_C2_2_authentication_off_as_upstream_sets_its_cookie(door, kind):
    async with await send(door, kind, EVENTS, Sent("bad")) as answer:
        assert answer.status == 101
        assert [cookie.partition("=")[0] for cookie in answer.set_cookies] == [
            f"username-127-0-0-1-{door.port}"
        ]


@pytest.mark.parametrize("kind", [HEADER], ids=str)
async def test_C2_2_where_a_proxy_names_the_user_any_token_will_do_for_him_only(door, kind):
    async with await send(door, kind, EVENTS, Sent("bad", remote_user="good")) as answer:
        assert (answer.status, answer.subprotocol) == (101, MARKER)
    answer = await door.refused(EVENTS, Sent("good").offer())
    assert answer.slug == "token_rejected"


@pytest.mark.parametrize("kind", [PASSWORD], ids=str)
async def test_C2_2_password_only_knows_no_token(door, kind):
    for token in (TOKEN, BAD):
        answer = await door.refused(EVENTS, [MARKER, f"{MARKER}.{token}", REASON_MARKER])
        assert answer.slug == "token_rejected"
    # Nor one that is empty: none was sent (C1.3).
    answer = await door.refused(EVENTS, [MARKER, f"{MARKER}.", REASON_MARKER])
    assert answer.slug == "credentials_missing"
