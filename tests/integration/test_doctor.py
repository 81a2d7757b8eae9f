"""Ten misconfigurations made with the real parts: the doctor names each, and accuses nothing else."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from jupyter_token_ws.cli import main
from jupyter_token_ws.client.doctor import CAUSES, NAMES, Options, Report, Verdict, diagnose
from jupyter_token_ws.client.tls import TLSIdentity
from jupyter_token_ws.protocol.auth import (
    AuthPlugin,
    BasicAuth,
    CookieAuth,
    NoAuth,
    TicketAuth,
    TokenAuth,
)
from tests.integration.conftest import Start
from tests.support.cutting_proxy import cutting
from tests.support.hub import jupyterhub
from tests.support.nginx import PROGRAM as NGINX
from tests.support.nginx import nginx
from tests.support.pages import blocks
from tests.support.process import TOKEN, Server, free_port, start_server
from tests.support.proxies import CADDY, HAPROXY, caddy, haproxy

LIMIT = 30.0
"""Seconds in which it is to be named."""

PATIENT = {"TokenWebSocketApp": {"refusal_burst": 1000, "max_tunnels_per_principal": 1000}}
"""Several runs in ten seconds look like a storm, and some tunnels cannot be ended."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("doctor"), config=PATIENT) as server:
        yield server


def examined(url: str, *, token: str = TOKEN, idle: float = 0.5, **more: Any) -> Report:
    plugins: list[AuthPlugin[Any]] = [TokenAuth(token)] if token else []
    report = asyncio.run(
        diagnose(url, **{"plugins": plugins, "options": Options(idle=idle), **more})
    )
    assert report.seconds < LIMIT
    assert token not in report.text() or not token
    return report


def complaints(report: Report) -> dict[str, str]:
    """What is not well, and the likely cause."""
    return {
        each.check: each.cause
        for each in report.findings
        if each.verdict in (Verdict.BROKEN, Verdict.SLOW)
    }


def skipped(report: Report) -> set[str]:
    return {each.check for each in report.findings if each.verdict is Verdict.SKIPPED}


def seen(report: Report, check: str) -> str:
    (found,) = (each.seen for each in report.findings if each.check == check)
    return found


def named(report: Report, expected: Mapping[str, str], *words: str, exit_code: int = 1) -> None:
    """These complaints and no others; what to change has these words."""
    assert complaints(report) == expected, report.text()
    assert report.exit_code == exit_code
    for cause in expected.values():
        assert CAUSES[cause].text in report.text()
    text = " ".join(CAUSES[cause].change for cause in expected.values())
    for word in words:
        assert word in text


# -- ten misconfigurations ---------------------------------------------------------------------------


@pytest.mark.requires(*NGINX)
def test_1_nginx_without_upgrade_headers(server: Server, tmp_path: Path):
    with nginx(tmp_path, server.port, websockets=False) as proxy:
        report = examined(proxy.url)
    named(report, {"websocket": "no_upgrade"}, "proxy_set_header Upgrade $http_upgrade")
    assert "nginx" in seen(report, "websocket")
    # What goes without websockets is looked at all the same.
    assert not skipped(report) & {"event_stream", "post_size", "idle", "resume"}


@pytest.mark.requires(*NGINX)
def test_1_nginx_with_upgrade_headers_and_http_1_0(server: Server, tmp_path: Path):
    with nginx(tmp_path, server.port, http="1.0") as proxy:
        report = examined(proxy.url)
    named(report, {"websocket": "cut_after_101"}, "proxy_http_version 1.1")


@pytest.mark.requires(*NGINX)
def test_2_nginx_holds_the_event_stream_back(server: Server, tmp_path: Path):
    more = "proxy_ignore_headers X-Accel-Buffering;"
    with nginx(tmp_path, server.port, websockets=False, http="1.0", more=more) as proxy:
        report = examined(proxy.url)
    expected = {"websocket": "no_upgrade", "event_stream": "held_back"}
    named(report, expected, "proxy_buffering off", "X-Accel-Buffering")
    assert "no event" in seen(report, "event_stream")


@pytest.mark.requires(*NGINX)
def test_3_nginx_cuts_what_is_idle_for_5_seconds(server: Server, tmp_path: Path):
    with nginx(tmp_path, server.port, read_timeout="5s") as proxy:
        report = examined(proxy.url, idle=10)
    named(report, {"idle": "idle_cut"}, "proxy_read_timeout", "keepalive_interval")
    assert "after 5 s" in seen(report, "idle")


def test_3_a_cut_of_event_streams(server: Server, tmp_path: Path):
    with (
        cutting(tmp_path, server.port, "--idle=3") as cut,
        nginx(tmp_path, cut.port, websockets=False) as proxy,
    ):
        report = examined(proxy.url, idle=10)
    named(report, {"websocket": "no_upgrade", "idle": "idle_cut"})


@pytest.mark.requires(*NGINX)
def test_4_nginx_takes_bodies_of_1_kib(server: Server, tmp_path: Path):
    with nginx(tmp_path, server.port, body_limit="1k") as proxy:
        report = examined(proxy.url)
    named(report, {"post_size": "body_limit"}, "client_max_body_size")
    assert "413 from nginx" in seen(report, "post_size")
    assert "1,024 get through" in seen(report, "post_size")


def test_5_a_stale_token(server: Server):
    report = examined(server.url, token="of-an-earlier-run")
    named(report, {"login": "stale_token"}, "jupyter server list")
    assert "403" in seen(report, "login")
    assert {"subprotocol", "header", "idle", "resume"} < skipped(report)


@pytest.mark.requires(*NGINX)
def test_6_a_host_that_the_server_refuses(server: Server, tmp_path: Path):
    with nginx(tmp_path, server.port, host="jupyter.example.org") as proxy:
        report = examined(proxy.url)
    words = ("proxy_set_header Host", "local_hostnames", "allow_remote_access")
    named(report, {"host": "wrong_host"}, *words)


@pytest.mark.requires(*NGINX)
def test_6_a_host_that_nginx_puts_in_place(server: Server, tmp_path: Path):
    """As it does by itself; the server takes it, and browsers fail the check of their origin."""
    with nginx(tmp_path, server.port, host="$proxy_host") as proxy:
        report = examined(proxy.url)
    named(report, {"host": "host_changed"}, "proxy_set_header Host $http_host")
    assert str(server.port) in seen(report, "host")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(path))
    return authority, path


def encrypted(tmp_path: Path, upstream: int, certificate: trustme.LeafCert) -> Any:
    """haproxy before a server, which encrypts."""
    path = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    return haproxy(tmp_path, upstream, bind=f"ssl crt {path}")


@pytest.mark.requires(*HAPROXY)
def test_7_an_expired_certificate(
    server: Server, tmp_path: Path, authority: tuple[trustme.CA, Path]
):
    ca, bundle = authority
    begin, end = dt.datetime(2020, 1, 1), dt.datetime(2021, 2, 3)  # noqa: DTZ001
    certificate = ca.issue_cert("127.0.0.1", not_before=begin, not_after=end)
    with encrypted(tmp_path, server.port, certificate) as url:
        report = examined(url, tls=TLSIdentity(bundle))
    named(report, {"tls": "certificate_expired"}, "renew")
    assert "2021-02-03" in seen(report, "tls")
    assert "http" in skipped(report)  # nothing was asked of who has it


@pytest.mark.requires(*HAPROXY)
def test_7_certificates_that_are_wrong_otherwise(
    server: Server, tmp_path: Path, authority: tuple[trustme.CA, Path]
):
    ca, bundle = authority
    good, other = TLSIdentity(bundle), tmp_path / "other"
    other.mkdir()
    with encrypted(tmp_path, server.port, ca.issue_cert("127.0.0.1")) as url:
        report = examined(url, tls=good)
        assert complaints(report) == {}, report.text()
        assert not skipped(report)
        told = seen(report, "tls").rpartition("key is ")[2]
        assert complaints(examined(url, tls=TLSIdentity(bundle, pins=[told]))) == {}
        wrong = TLSIdentity(bundle, pins=[f"sha256/{'A' * 43}="])
        named(examined(url, tls=wrong), {"tls": "certificate_other"})
        named(examined(url), {"tls": "certificate_chain"}, "--ca")
        named(examined(url.replace("https", "http")), {"http": "not_http"}, "https://")
    with encrypted(other, server.port, ca.issue_cert("example.org")) as url:
        named(examined(url, tls=good), {"tls": "certificate_name"}, "subjectAltName")
    named(examined(server.url.replace("http", "https")), {"tls": "not_tls"}, "http://")


def test_8_a_wrong_base_url(start: Start):
    server = start(config={"ServerApp": {"base_url": "/jupyter/"}, **PATIENT})
    for wrong in ("", "lab", "user/ann/"):
        report = examined(f"http://127.0.0.1:{server.port}/{wrong}")
        named(report, {"base_url": "wrong_base"}, "base_url")
        assert report.base_url == server.url
        assert server.url in seen(report, "base_url")


def test_8_a_page_is_no_wrong_base_url(server: Server):
    report = examined(f"{server.url}lab/tree/a.ipynb?token={TOKEN}#here")
    assert complaints(report) == {}
    assert report.url == f"{server.url}lab/tree/a.ipynb"
    assert "a page of it" in seen(report, "base_url")
    named(examined(f"{server.url}jupyter/lab"), {"base_url": "wrong_base"})


@pytest.mark.requires(*NGINX)
def test_8_a_proxy_that_takes_the_prefix_away(server: Server, tmp_path: Path):
    more = "rewrite ^/hub/(.*)$ /$1 break;"
    with nginx(tmp_path, server.port, more=more) as proxy:
        report = examined(f"{proxy.url}hub/")
    named(report, {"base_url": "prefix_changed"}, "ServerApp.base_url")


def test_9_a_culled_server(tmp_path: Path):
    with jupyterhub(tmp_path) as hub:
        hub.start_server("ann")
        token = hub.token_of("ann")
        report = examined(f"{hub.server_url('ann')}lab", token=token)
        assert complaints(report) == {}, report.text()
        hub.stop_server("ann")
        report = examined(hub.server_url("ann"), token=token)
    named(report, {"server": "culled"}, "start it again")
    assert "the Hub" in seen(report, "server")


@pytest.mark.requires(*NGINX)
def test_9_a_proxy_without_a_server(tmp_path: Path):
    with nginx(tmp_path, free_port()) as proxy:
        named(examined(proxy.url), {"server": "gateway"}, "proxy_pass")


@pytest.mark.requires(*HAPROXY)
@pytest.mark.parametrize("hours", [-1, 1])
def test_10_a_clock_that_is_wrong(server: Server, tmp_path: Path, hours: int):
    more = f"http-response set-header Date %[date,http_date({hours * 3600})]"
    with haproxy(tmp_path, server.port, more=more) as url:
        report = examined(url)
    named(report, {"clock": "clock_skew"}, "NTP")
    assert f"60 min {'ahead' if hours > 0 else 'behind'}" in seen(report, "clock")


# -- what else may be between ----------------------------------------------------------------------------

SOCKETS = "{ path_beg /api/events /api/token-ws/tunnel }"
OFFER = "req.fhdr(sec-websocket-protocol)"


@pytest.mark.requires(*HAPROXY)
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            f"http-request del-header Authorization if {SOCKETS}",
            {"header": "authorization_lost", "event_stream": "authorization_lost"},
            id="authorization",
        ),
        pytest.param(
            "http-request del-header Sec-WebSocket-Protocol",
            {"subprotocol": "subprotocol_lost", "tunnel_websocket": "subprotocol_lost"},
            id="subprotocol",
        ),
        pytest.param(
            "http-request set-query x=1",
            {"url": "query_lost", "resume": "not_resumed"},
            id="query",
        ),
        pytest.param(
            "http-request deny status 404 if { url_param(tunnel) -m found }",
            {"resume": "not_resumed"},
            id="resume",
        ),
        pytest.param(
            f"http-request deny status 431 if {{ {OFFER},length gt 4000 }}",
            {"token_size": "header_limit"},
            id="long headers",
        ),
        pytest.param(
            "http-request deny status 503 if { path_end /api/me }",
            {"login": "login_failed"},
            id="login",
        ),
        pytest.param(
            "http-request deny status 502 if { path_beg /api/token-ws/tunnel }",
            {"tunnel_websocket": "no_upgrade", "event_stream": "held_back"},
            id="tunnel",
        ),
        pytest.param(
            "http-request deny status 429 if { path_beg /api/token-ws/tunnel } !{ hdr(upgrade) -m found }",
            {"event_stream": "too_many"},
            id="too many",
        ),
        pytest.param("http-request deny status 401", {"server": "wall"}, id="wall"),
        pytest.param(
            "http-request redirect location https://sso.example.org/",
            {"server": "wall"},
            id="elsewhere",
        ),
    ],
)
def test_what_haproxy_may_be_told_to_do(
    server: Server, tmp_path: Path, lines: str, expected: Mapping[str, str]
):
    with haproxy(tmp_path, server.port, more=lines) as url:
        named(examined(url), expected)


@pytest.mark.requires(*HAPROXY)
def test_what_haproxy_does_by_itself(server: Server, tmp_path: Path):
    with haproxy(tmp_path, server.port, delay=True) as url:
        report = examined(url)
    named(report, {"event_stream": "held_briefly"}, "http-no-delay", exit_code=0)  # slow, and works


@contextmanager
def relay(upstream: int, code: int | None = None, max_size: int = 1 << 20) -> Iterator[int]:
    """Takes websockets apart and puts them together again, and closes with codes of its own: its port."""
    ready: Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Queue()

    async def one(here: ServerConnection) -> None:
        assert here.request is not None
        offer = here.request.headers.get("Sec-WebSocket-Protocol", "").split(", ")
        headers = {"Authorization": here.request.headers.get("Authorization", "")}
        there = await connect(
            f"ws://127.0.0.1:{upstream}{here.request.path}",
            subprotocols=[Subprotocol(each) for each in offer],
            additional_headers=headers,
            proxy=None,
        )

        async def up() -> None:
            with suppress(ConnectionClosed):
                async for message in here:
                    await there.send(message)
            await there.close()

        going_up = asyncio.create_task(up())
        try:
            async for message in there:
                await here.send(message)
        except ConnectionClosed as error:
            if error.rcvd is not None:
                await here.close(code or error.rcvd.code, error.rcvd.reason if not code else "")
        await asyncio.wait([going_up])

    async def run() -> None:
        stop = asyncio.Event()
        options: dict[str, Any] = {
            "select_subprotocol": lambda _, offered: offered[-1] if offered else None,
            "max_size": max_size,
        }
        async with serve(one, "127.0.0.1", 0, **options) as listening:
            port = next(iter(listening.sockets)).getsockname()[1]
            ready.put((asyncio.get_running_loop(), stop, port))
            await stop.wait()

    thread = Thread(target=asyncio.run, args=(run(),))
    thread.start()
    loop, stop, port = ready.get(timeout=30)
    yield port
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)


@pytest.mark.requires(*NGINX)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"code": 1000}, {"close_codes": "close_code_lost"}),
        ({"max_size": 65_536}, {"message_size": "message_limit"}),
    ],
)
def test_who_takes_websockets_apart(
    server: Server, tmp_path: Path, options: dict[str, int], expected: Mapping[str, str]
):
    with (
        relay(server.port, **options) as port,
        nginx(tmp_path, server.port, swallows=port) as proxy,
    ):
        found = complaints(examined(proxy.url))
    assert found.items() >= expected.items(), found


# -- the page --------------------------------------------------------------------------------------------

PAGE = "docs/how-to/ask-the-doctor.md"


def alike(text: str) -> list[str]:
    """Without what is another each time: numbers, and the name that a server invents."""
    return re.sub(r"\d[\d.,]*\b", "0", re.sub(r"Anonymous \w+", "Anonymous", text)).splitlines()


@pytest.mark.requires(*NGINX)
def test_the_page_shows_what_is_printed(
    server: Server, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    (line,) = [block for block in blocks(PAGE, "sh") if "--token-env" in block]
    (printed,) = blocks(PAGE, "text")
    program, command, *arguments = shlex.split(line)
    assert (program, command) == ("jupyter", "token-ws")
    monkeypatch.setenv("JUPYTER_TOKEN", TOKEN)
    with nginx(tmp_path, server.port, websockets=False, body_limit="100k") as proxy:
        arguments = [each.replace("http://127.0.0.1:8000/", proxy.url) for each in arguments]
        assert main([*arguments, "--idle", "3"]) == 1
    out, err = capsys.readouterr()
    assert alike(out) == alike(printed)
    assert err.splitlines()[-1] == f"{len(NAMES)} of {len(NAMES)}: idle"
    assert TOKEN not in out + err


# -- what is well ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxy",
    [
        pytest.param(None, id="none"),
        pytest.param(nginx, marks=pytest.mark.requires(*NGINX), id="nginx"),
        pytest.param(haproxy, marks=pytest.mark.requires(*HAPROXY), id="haproxy"),
        pytest.param(caddy, marks=pytest.mark.requires(*CADDY), id="caddy"),
    ],
)
def test_a_good_server_has_nothing_wrong_by_any_carrier(server: Server, tmp_path: Path, proxy: Any):
    if proxy is None:
        report = examined(server.url)
    else:
        with proxy(tmp_path, server.port) as running:
            report = examined(getattr(running, "url", running))
    assert [each.check for each in report.findings] == list(NAMES)
    assert complaints(report) == {}, report.text()
    assert skipped(report) == {"tls"}
    assert (report.verdict, report.exit_code) == (Verdict.OK, 0)


def test_without_a_credential_what_needs_none(server: Server):
    report = examined(server.url, token="")
    assert complaints(report) == {}
    assert {"login", "header", "event_stream"} < skipped(report)
    assert not skipped(report) & {"websocket", "close_codes", "url", "token_size"}


@pytest.mark.parametrize(
    ("plugin", "lacking"),
    [
        (TicketAuth(token=TOKEN), set()),
        (CookieAuth(TOKEN), {"subprotocol", "event_stream", "post_size"}),
    ],
)
def test_other_ways_to_sign_in(server: Server, plugin: AuthPlugin[Any], lacking: set[str]):
    report = examined(server.url, plugins=[plugin])
    assert complaints(report) == {}, report.text()
    assert skipped(report) == {"tls", *lacking}


@pytest.mark.requires(*HAPROXY)
def test_user_and_password_for_a_proxy_in_front(server: Server, tmp_path: Path):
    people = "userlist people\n  user ann insecure-password of-the-proxy"
    more = f"http-request auth unless {{ http_auth(people) }}\n{people}"
    with haproxy(tmp_path, server.port, more=more) as url:
        named(examined(url), {"server": "wall"}, "basic")
        plugin = BasicAuth("ann", "of-the-proxy", [CookieAuth(TOKEN)])
        report = examined(url, plugins=[plugin])
        assert complaints(report) == {}, report.text()
        assert skipped(report) == {"tls", "subprotocol", "event_stream", "post_size"}
        assert "of-the-proxy" not in report.text()
        named(examined(url, plugins=[BasicAuth("ann", "wrong")]), {"server": "wall"})


def test_each_way_to_sign_in_by_itself(server: Server):
    plugins = [NoAuth(), TokenAuth("wrong"), TokenAuth(TOKEN)]
    report = examined(server.url, plugins=plugins)
    assert [each.check for each in report.findings if each.check.startswith("login")] == [
        "login by none",
        "login by token",
        "login by token",
    ]
    assert complaints(report) == {"login by none": "stale_token", "login by token": "stale_token"}
    assert "resume" not in skipped(report)  # by the one that is accepted


def test_a_server_that_lets_everybody_in(start: Start):
    report = examined(start(token="").url, token="")
    assert complaints(report) == {}, report.text()
    assert "no credential is needed" in seen(report, "login")
    assert not skipped(report) & {"event_stream", "idle", "resume"}


def test_a_server_without_the_extension(start: Start):
    report = examined(start(stock=True).url)
    named(report, {"capabilities": "no_extension"}, "extension list")
    assert not skipped(report) & {"login", "websocket", "header", "idle"}


def test_nobody_there():
    named(examined(f"http://127.0.0.1:{free_port()}/"), {"tcp": "not_listening"})
    named(examined("http://nowhere.invalid/"), {"dns": "unknown_name"})


def test_a_server_that_answers_nothing():
    """Each check has its limit, and all of them one."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        report = asyncio.run(diagnose(url, options=Options(deadline=2.0)))
        assert report.seconds < 4
        named(report, {"http": "too_late"}, "https://")


@pytest.mark.parametrize("carrier", ["websocket", "tunnel-websocket", "tunnel-eventstream"])
def test_one_carrier_on_the_command_line(
    server: Server, capsys: Any, monkeypatch: pytest.MonkeyPatch, carrier: str
):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    options = ["--token-env", "MY_TOKEN", "--idle", "0.5", "--json", "--carrier", carrier]
    assert main(["doctor", server.url, *options]) == 0
    checks = {each["check"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
    assert (checks["event_stream"]["verdict"] == "ok") == (carrier == "tunnel-eventstream")
    assert (checks["websocket"]["verdict"] == "ok") == (carrier != "tunnel-eventstream")
    assert checks["idle"]["verdict"] == "ok"
    by = "event stream" if carrier == "tunnel-eventstream" else "websocket"
    assert by in checks["idle"]["seen"]
    assert (checks["resume"]["verdict"] == "ok") == (carrier != "websocket")


def test_only_and_skip(server: Server):
    report = examined(server.url, only=["clock"])
    assert [each.check for each in report.findings] == [
        "dns",
        "tcp",
        "tls",
        "http",
        "round_trip",
        "clock",
    ]
    report = examined(server.url, skip=["idle", "login"])
    assert seen(report, "idle") == "as you asked"
    assert complaints(report) == {}
    assert "header" in skipped(report)
