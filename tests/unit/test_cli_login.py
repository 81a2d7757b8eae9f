"""``jupyter token-ws login`` against a site that answers whatever a server, a proxy or a Hub may answer."""

from __future__ import annotations

import getpass
import io
import json
import sys
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_token_ws import cli_login, preflight
from jupyter_token_ws.cli import main
from jupyter_token_ws.cli_login import PATH
from jupyter_token_ws.preflight import CAPABILITIES_PATH, CommandError, is_loopback
from jupyter_token_ws.protocol.reasons import REASONS, error_document
from jupyter_token_ws.protocol.tickets import SIGN_IN, write_ticket

TICKET = write_ticket(b"t" * 32)
OLD = write_ticket(b"o" * 32)
TOKEN = "the-servers-token"
PASSWORD = "open sesame, plöpp"


class Site(ThreadingHTTPServer):
    """A site whose server is below /hub/ann/."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hub/ann/"
        self.login: Any = {"path": PATH}
        self.answer: tuple[int, Any] = (200, self.granted())
        self.location = ""
        self.sign_in = 200
        self.asked: list[tuple[str, str, str, Any]] = []
        self.hold = threading.Event()
        self.hold.set()

    def granted(self, **more: Any) -> dict[str, Any]:
        server = {"base_url": self.url, "ready": True}
        return {
            "token": TICKET,
            "token_type": "Bearer",
            "expires_in": 300.0,
            "server": server,
            **more,
        }

    @property
    def logins(self) -> list[tuple[str, str, Any]]:
        """Method, ``Authorization`` and body of what came to the login."""
        return [
            (method, header, body)
            for method, path, header, body in self.asked
            if path == f"/hub/ann/{PATH}"
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        answer: Any
        site, size = self.server, int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size)) if size else None
        header = self.headers.get("Authorization", "")
        site.asked.append((self.command, self.path, header, body))
        if self.path == f"/hub/ann/{CAPABILITIES_PATH}":
            document = {"api_versions": ["1.0"], "base_url": site.url}
            if site.login is not None:
                document["login"] = site.login
            status, answer = 200, document
        elif self.path == f"/hub/ann/{SIGN_IN}":
            status, answer = site.sign_in, {}
        elif self.path == f"/hub/ann/{PATH}":
            site.hold.wait(60)
            status, answer = site.answer
        elif self.path.startswith("/away/"):
            status, answer = 302, {}
        else:
            status, answer = 404, {}
        self.send_response(status)
        if status // 100 == 3:
            self.send_header("Location", site.location)
        self.end_headers()
        if status != 204:
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    do_POST = do_DELETE = do_GET  # noqa: N815 - names of http.server

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def inputs(monkeypatch):
    """What is typed at the prompt, on standard input and in the environment."""

    def type_password(prompt: str) -> str:
        assert prompt.startswith("Password for http://127.0.0.1:")
        return PASSWORD

    def on_stdin(text: str) -> None:
        stream = io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogateescape")), "utf-8")
        monkeypatch.setattr(sys, "stdin", stream)

    monkeypatch.setattr(getpass, "getpass", type_password)
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    monkeypatch.setenv("MY_TICKET", OLD)
    monkeypatch.setenv("EMPTY", "")
    on_stdin("nothing was expected here")
    return on_stdin


def failed(capsys) -> str:
    """What was said by a command that printed nothing on standard output."""
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    said: str = told.err
    return said


# -- what is sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "stdin", "body"),
    [
        ([], "", {"password": PASSWORD}),
        (["--password-stdin"], f"{PASSWORD}\n", {"password": PASSWORD}),
        (["--password-stdin"], " with blanks \r\n", {"password": " with blanks "}),
        (["--password-stdin"], f"{OLD}\n", {"password": OLD}),
        (["--token-stdin"], f"{TOKEN}\n", {"token": TOKEN}),
        (["--token-stdin"], TOKEN, {"token": TOKEN}),
        (["--token-env", "MY_TOKEN"], "", {"token": TOKEN}),
        (
            ["--max-age", "60", "--single-use", "--audience", "api/kernels", "--audience", "lab"],
            "",
            {
                "password": PASSWORD,
                "max_age": 60,
                "single_use": True,
                "audience": ["api/kernels", "lab"],
            },
        ),
    ],
)
@pytest.mark.parametrize("page", ["", "lab/tree/a.ipynb?reset#x"])
def test_login_prints_the_ticket_alone(site, capsys, inputs, options, stdin, body, page):
    inputs(stdin)
    assert main(["login", f"{site.url}{page}", *options]) == 0
    told = capsys.readouterr()
    assert told.out == f"{TICKET}\n"
    assert told.err == "jupyter token-ws: it is good for 300 s\n"
    assert site.logins == [("POST", "", body)]


@pytest.mark.parametrize("mark", ["?", "#", "?a=1&", "#a=1&"])
def test_a_token_in_the_address_goes_into_the_body_and_into_no_address(site, capsys, mark):
    assert main(["login", f"{site.url}lab{mark}token=a%2Fb"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{TICKET}\n"
    assert "the token in that address is now in your shell's history" in told.err
    assert "a/b" not in told.err
    assert site.logins == [("POST", "", {"token": "a/b"})]
    assert not any("a%2Fb" in path or "a/b" in path for _, path, _, _ in site.asked)


def test_other_ways_come_before_a_token_in_the_address(site, capsys):
    assert main(["login", f"{site.url}?token=other", "--token-env", "MY_TOKEN"]) == 0
    assert site.logins == [("POST", "", {"token": TOKEN})]
    assert "history" not in capsys.readouterr().err


def test_a_token_that_the_server_did_not_print(site, capsys):
    assert main(["login", f"{site.url}lab?token=..."]) == 1
    assert "it is in the server's configuration" in failed(capsys)
    assert site.logins == []


@pytest.mark.parametrize("mark", ["?", "#"])
def test_the_link_for_a_browser_is_no_token(site, capsys, mark):
    assert main(["login", f"{site.url}{SIGN_IN}{mark}token={OLD}"]) == 1
    said = failed(capsys)
    assert "it is for a browser, and gives no other ticket" in said
    assert OLD not in said
    assert site.asked == []


@pytest.mark.parametrize(
    ("options", "body"),
    [([], {"renew": True}), (["--max-age", "9"], {"renew": True, "max_age": 9})],
)
@pytest.mark.parametrize("way", [["--token-env", "MY_TICKET"], ["--token-stdin"]])
def test_renew(site, capsys, inputs, options, body, way):
    inputs(f"{OLD}\n")
    assert main(["login", site.url, "--renew", *way, *options]) == 0
    assert capsys.readouterr().out == f"{TICKET}\n"
    assert site.logins == [("POST", f"Bearer {OLD}", body)]


def test_revoke(site, capsys):
    site.answer = (204, {})
    assert main(["login", site.url, "--revoke", "--token-env", "MY_TICKET"]) == 0
    assert "revoked, with all its renewals" in failed(capsys)
    assert site.logins == [("DELETE", f"Bearer {OLD}", None)]


def test_a_link_for_a_browser(site, capsys):
    assert main(["login", f"{site.url}lab", "--link", "--token-env", "MY_TOKEN"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{site.url}{SIGN_IN}#token={TICKET}\n"
    assert "it opens one browser for 300 s" in told.err
    body = {"token": TOKEN, "single_use": True, "audience": [SIGN_IN]}
    assert site.logins == [("POST", "", body)]


def test_a_link_where_there_are_none(site, capsys):
    site.sign_in = 404
    assert main(["login", site.url, "--link", "--token-env", "MY_TOKEN"]) == 1
    assert "TokenWebSocketApp.link_ticket is False" in failed(capsys)
    assert site.logins == []


# -- what is not sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--renew"], "--renew needs the ticket"),
        (["--revoke", "--password-stdin"], "--revoke needs the ticket"),
        (["--renew", "--revoke", "--token-stdin"], "not allowed with"),
        (["--token-stdin", "--password-stdin"], "not allowed with"),
        (["--renew", "--token-stdin", "--single-use"], "takes no option for a new one"),
        (["--renew", "--token-stdin", "--audience", "lab"], "takes no option for a new one"),
        (["--revoke", "--token-stdin", "--link"], "takes no option for a new one"),
        (["--revoke", "--token-stdin", "--max-age", "9"], "takes no --max-age"),
        (["--link"], "--link needs a token"),
        (["--link", "--password-stdin"], "--link needs a token"),
        (["--link", "--token-stdin", "--audience", "lab"], "takes no --audience"),
        (["--max-age", "0"], "invalid"),
        (["--max-age", "inf"], "invalid"),
        (["--max-age", "x"], "invalid"),
        (["--token", TOKEN], "unrecognized arguments"),
    ],
)
def test_options_that_make_no_sense(site, capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        main(["login", site.url, *options])
    assert ended.value.code == 2
    assert said in failed(capsys)
    assert site.logins == []


@pytest.mark.parametrize(
    ("options", "stdin", "said"),
    [
        (["--token-env", "NOT_SET"], "", "there is no token in the environment variable NOT_SET"),
        (["--token-env", "EMPTY"], "", "there is no token in the environment variable EMPTY"),
        (["--token-stdin"], "\n", "there is no token in standard input"),
        (["--password-stdin"], "", "there is no password in standard input"),
        (["--password-stdin"], "a\tb\n", "has control characters"),
        (["--token-stdin"], "\udcff\n", "what is on standard input is no text"),
        (["--token-stdin", "--renew"], f"{TOKEN}\n", "is no ticket: one begins with jtws_"),
        (["--token-stdin", "--revoke"], "jtws_ö\n", "is no ticket: one begins with jtws_"),
        (["--token-env", "MY_TICKET"], "", "a ticket gives no other ticket"),
    ],
)
def test_what_is_no_credential_stays_here(site, capsys, inputs, options, stdin, said):
    inputs(stdin)
    assert main(["login", site.url, *options]) == 1
    error = failed(capsys)
    assert said in error
    assert TOKEN not in error
    assert site.logins == []


def test_no_terminal_to_ask_at(site, capsys, monkeypatch):
    def echo(prompt: str) -> str:
        warnings.warn("shown", getpass.GetPassWarning, stacklevel=1)
        raise AssertionError("it went on")

    monkeypatch.setattr(getpass, "getpass", echo)
    assert main(["login", site.url]) == 1
    assert "there is no terminal to ask for the password at" in failed(capsys)


@pytest.mark.parametrize("login", [None, False, []])
def test_no_login_there(site, capsys, login):
    site.login = login
    assert main(["login", site.url]) == 1
    assert "TokenWebSocketApp.login is False there" in failed(capsys)
    assert site.logins == []


def test_no_extension_there(site, capsys):
    assert main(["login", f"http://127.0.0.1:{site.server_port}/x", "--token-env", "MY_TOKEN"]) == 1
    assert "Is jupyter-token-ws installed" in failed(capsys)
    assert all(method == "GET" for method, *_ in site.asked)


def test_a_server_that_sends_on_before_the_credential(site, capsys):
    site.location = "https://other.example.org/away/?x=\x1b"
    address = f"http://127.0.0.1:{site.server_port}/away/"
    assert main(["login", address, "--token-env", "MY_TOKEN"]) == 1
    assert "sends on to https://other.example.org: give that address" in failed(capsys)


def test_a_page_that_sends_to_another_of_its_server_is_not_followed(site, capsys):
    site.location = f"/hub/ann/{CAPABILITIES_PATH}"
    assert main(["login", f"http://127.0.0.1:{site.server_port}/away/"]) == 1
    assert "answered 404" in failed(capsys)
    assert [path for _, path, _, _ in site.asked] == [
        f"/away/{CAPABILITIES_PATH}",
        f"/{CAPABILITIES_PATH}",
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_login_that_sends_on_is_not_followed(site, capsys, status):
    site.answer, site.location = (status, {}), f"{site.url}elsewhere"
    assert main(["login", site.url, "--token-env", "MY_TOKEN"]) == 1
    assert "sends logins elsewhere" in failed(capsys)
    assert site.asked[-1][1] == f"/hub/ann/{PATH}"


def test_plain_http_over_a_network_warns(site, capsys, monkeypatch):
    monkeypatch.setattr(cli_login, "is_loopback", lambda url: False)
    assert main(["login", site.url, "--token-env", "MY_TOKEN"]) == 0
    assert "is not encrypted: whoever is on the way can read along" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:8888/", True),
        ("http://ann.localhost/", True),
        ("http://127.0.0.2/", True),
        ("http://[::1]:8888/", True),
        ("http://10.0.0.1/", False),
        ("http://localhost.example.org/", False),
        ("http://127.0.0.1.example.org/", False),
    ],
)
def test_which_address_is_this_machine(url, loopback):
    assert is_loopback(url) is loopback


def test_what_is_for_this_machine_passes_no_proxy(site, capsys, monkeypatch, unused_port):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert main(["login", site.url, "--token-env", "MY_TOKEN"]) == 0
    monkeypatch.setattr(preflight, "is_loopback", lambda url: False)
    assert main(["login", site.url, "--token-env", "MY_TOKEN"]) == 1


@pytest.fixture
def unused_port() -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.server_close()
    return server.server_port


# -- what is answered --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "options", "said"),
    [
        ("token_rejected", [], "that password is wrong"),
        ("token_rejected", ["--token-env", "MY_TOKEN"], "that token is not valid there"),
        (
            "token_rejected",
            ["--renew", "--token-env", "MY_TICKET"],
            "that ticket is not valid there",
        ),
        ("malformed_credentials", [], "that is no password"),
        ("too_many_attempts", [], "too many wrong passwords came from here. Try again in 7 s."),
        ("unavailable", [], "cannot answer now: a part of it is not available. Try again in 7 s."),
        ("tls_required", [], "takes logins by https only"),
        ("token_expired", ["--renew", "--token-env", "MY_TICKET"], "that ticket has expired"),
        ("token_revoked", ["--renew", "--token-env", "MY_TICKET"], "that ticket was revoked"),
        ("forbidden", [], "like this: more?[2J words"),
        ("bad_request", ["--single-use"], "does not do that: more?[2J words"),
        ("draining", [], "refused: the server is shutting down"),
    ],
)
def test_every_refusal_is_told(site, capsys, slug, options, said):
    reason = REASONS[slug]
    site.answer = (reason.http_status, error_document(reason, 7, "more\x1b[2J words"))
    assert main(["login", site.url, *options]) == 1
    error = failed(capsys)
    assert said in error
    assert "\x1b" not in error
    assert PASSWORD not in error
    assert OLD not in error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {}), "there is no login at"),
        ((405, b""), "there is no login at"),
        ((422, {"status": "unsupported_api_version"}), "speaks another version"),
        ((403, b"<html>"), "answered 403 Forbidden"),
        ((500, b"[]"), "answered 500 Internal Server Error"),
        ((403, {"status": ["forbidden"], "message": 1}), "answered 403 Forbidden"),
        ((403, {"status": "forbidden", "message": 1, "retry_after": "x"}), "you may not log in"),
        ((403, {"status": "of somebody else"}), "answered 403 Forbidden"),
        ((200, {}), "answered with no ticket"),
        ((200, b"no JSON"), "answered with no ticket"),
        ((200, {"token": "a\nb"}), "answered with no ticket"),
        ((200, {"token": "ö"}), "answered with no ticket"),
    ],
)
def test_answers_of_somebody_else(site, capsys, answer, said):
    site.answer = answer
    assert main(["login", site.url]) == 1
    assert said in failed(capsys)


@pytest.mark.parametrize("ready", [True, False])
def test_C6_2_a_server_that_is_elsewhere_is_told_and_nothing_is_sent_there(site, capsys, ready):
    there = {"base_url": "https://other.example.org/user/ann/", "ready": ready}
    site.answer = (200, site.granted(server=there))
    assert main(["login", site.url]) == 0
    told = capsys.readouterr()
    assert told.out == f"{TICKET}\n"
    assert "it is good for 300 s at https://other.example.org/user/ann/" in told.err
    assert "your credential was not sent to it" in told.err
    assert ("start it first" in told.err) is not ready
    assert len(site.logins) == 1


def test_no_link_for_a_server_that_is_elsewhere(site, capsys):
    there = {"base_url": "https://other.example.org/user/ann/", "ready": True}
    site.answer = (200, site.granted(server=there))
    assert main(["login", site.url, "--link", "--token-env", "MY_TOKEN"]) == 1
    assert "ask there for a link" in failed(capsys)


@pytest.mark.parametrize("server", [None, 1, {}, {"base_url": 1}])
def test_an_answer_that_does_not_say_where(site, capsys, server):
    site.answer = (200, site.granted(server=server, expires_in=None))
    assert main(["login", site.url]) == 0
    assert capsys.readouterr().err == "jupyter token-ws: it is good for a while\n"


def test_http_behind_a_proxy_that_encrypts_is_the_same_server():
    assert cli_login._at("https://Host/a/") == cli_login._at("http://host/a")
    assert cli_login._at("https://host/a/") != cli_login._at("https://host/b/")
    assert cli_login._at("http://[::1") != cli_login._at("http://host/")


def test_one_is_told_what_is_waited_for(site, capsys, monkeypatch):
    def say(text: str) -> None:
        print(text, file=sys.stderr)
        site.hold.set()

    monkeypatch.setattr(cli_login, "SILENCE", 0.01)
    monkeypatch.setattr(cli_login, "_say", say)
    site.hold.clear()
    assert main(["login", site.url]) == 0
    assert f"waiting for http://127.0.0.1:{site.server_port} to answer" in capsys.readouterr().err


# -- servers of this machine -------------------------------------------------------------------------


@pytest.fixture
def running(site, monkeypatch):
    """What this user's servers say of themselves."""
    server = {
        "port": site.server_port,
        "base_url": "/hub/ann/",
        "url": site.url,
        "secure": False,
        "sock": "",
        "token": TOKEN,
    }
    found = [{**server, "port": 1}, server]
    module = SimpleNamespace(list_running_servers=lambda: iter(found))
    monkeypatch.setitem(sys.modules, "jupyter_server.serverapp", module)
    return server


def test_the_token_of_a_server_of_this_machine(site, running, capsys):
    assert main(["login", site.url, "--local"]) == 0
    assert site.logins == [("POST", "", {"token": TOKEN})]


@pytest.mark.parametrize(
    ("url", "sent"), [("http://ann-s-machine:{port}/hub/ann/", True), ("http://[::1]:1/", False)]
)
def test_a_token_goes_where_its_server_says_that_it_is(site, running, capsys, url, sent):
    """Another user may have a server at the other address of `localhost`."""
    running["url"] = url.format(port=site.server_port)
    assert main(["login", site.url, "--local"]) == (0 if sent else 1)
    assert bool(site.logins) is sent


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": ""}, "has no token: log in with the password"),
        ({"base_url": "/"}, "you run no server at"),
        ({"secure": True}, "you run no server at"),
        ({"sock": "/run/x"}, "you run no server at"),
    ],
)
def test_a_token_that_is_not_to_be_had(site, running, capsys, change, said):
    running.update(change)
    assert main(["login", site.url, "--local"]) == 1
    assert said in failed(capsys)
    assert site.logins == []


def test_no_other_machine_is_sent_a_token_of_this_one():
    with pytest.raises(CommandError, match="--local is for a server of this machine"):
        preflight.local_server("http://localhost.example.org:8888/")
