"""``jupyter token-ws login`` as people use it, against real servers: at a terminal, by script, for a link."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from jupyter_server.auth.security import passwd

from tests.integration.conftest import Start
from tests.support.process import Server

COMMAND = [sys.executable, "-m", "jupyter_token_ws.cli", "login"]
SECONDS = 90.0
PASSWORD = "open sesame"


@pytest.fixture(scope="module")
def hashed() -> str:
    return passwd(PASSWORD)


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a script: without a terminal."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        start_new_session=True,  # else there would be the terminal of whoever runs the tests
        env={**os.environ, **environment},
        check=False,
    )


def at_a_terminal(typed: str, *arguments: str) -> tuple[int, str, str]:
    """The command at a terminal, its standard output in a file: exit status, that, and what one saw."""
    ours, theirs = pty.openpty()

    def take_it() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_it,  # noqa: PLW1509 - one call of the system
    )
    os.close(theirs)
    seen = b""
    try:
        with process:
            while b"Password for " not in seen or not seen.endswith(b": "):
                seen += os.read(ours, 1024)
            os.write(ours, f"{typed}\n".encode())
            assert process.stdout is not None
            printed = process.stdout.read().decode()
            with contextlib.suppress(OSError):  # the other end is closed
                while True:
                    seen += os.read(ours, 1024)
    finally:
        os.close(ours)
    return process.returncode, printed, seen.decode()


def knows(server: Server, token: str) -> bool:
    return server.request("GET", "api/contents", token=token).status == 200


def test_a_password_at_a_terminal(start: Start, hashed: str):
    server = start(
        token="",
        config={"PasswordIdentityProvider": {"hashed_password": hashed}},
    )
    page = f"{server.url}lab/tree/a.ipynb"
    status, printed, seen = at_a_terminal(PASSWORD, page)
    assert status == 0, seen
    assert re.fullmatch(r"jtws_[\w-]{43}\n", printed)
    assert PASSWORD not in seen
    ticket = printed.strip()
    assert ticket not in seen
    assert knows(server, ticket)

    status, printed, seen = at_a_terminal("wrong", page)
    assert (status, printed) == (1, "")
    assert "jupyter token-ws: that password is wrong" in seen

    without = run(page)
    assert (without.returncode, without.stdout) == (1, "")
    assert "there is no terminal to ask for the password at" in without.stderr
    by_stdin = run(page, "--password-stdin", stdin=f"{PASSWORD}\n")
    assert knows(server, by_stdin.stdout.strip())
    assert PASSWORD not in server.log()


def test_C6_4_a_script_renews_and_revokes(start: Start):
    server = start()
    first = run(server.url, "--token-env", "T", T=server.token)
    assert first.returncode == 0, first.stderr
    ticket = first.stdout.strip()
    assert knows(server, ticket)
    renewed = run(server.url, "--renew", "--token-stdin", "--max-age", "60", stdin=first.stdout)
    assert renewed.returncode == 0, renewed.stderr
    assert "it is good for 60 s" in renewed.stderr
    second = renewed.stdout.strip()
    assert second != ticket
    assert knows(server, second)
    revoked = run(server.url, "--revoke", "--token-env", "T", T=second)
    assert (revoked.returncode, revoked.stdout) == (0, "")
    again = run(server.url, "--revoke", "--token-env", "T", T=second)
    assert (again.returncode, again.stdout) == (0, "")
    assert not knows(server, second)
    assert not knows(server, ticket)
    dead = run(server.url, "--renew", "--token-env", "T", T=second)
    assert (dead.returncode, dead.stdout) == (1, "")
    assert "that ticket was revoked" in dead.stderr
    for secret in (server.token, ticket, second):
        assert secret not in dead.stderr + revoked.stderr + renewed.stderr + first.stderr


def test_a_store_that_is_down(start: Start, tmp_path: Path):
    server = start(
        config={
            "TokenWebSocketApp": {"ticket_store": "redis"},
            "RedisTicketStore": {"url": f"unix://{tmp_path}/nobody.sock"},
        }
    )
    done = run(server.url, "--token-env", "T", T=server.token)
    assert (done.returncode, done.stdout) == (1, "")
    assert "a part of it is not available" in done.stderr


def test_a_link_of_a_server_of_this_machine(start: Start, tmp_path: Path):
    server = start(config={"TokenWebSocketApp": {"link_ticket": True}})
    runtime = tmp_path / "server" / "runtime"
    done = run(f"{server.url}lab", "--local", "--link", JUPYTER_RUNTIME_DIR=str(runtime))
    assert done.returncode == 0, done.stderr
    link = done.stdout.strip()
    assert re.fullmatch(r"\S+#token=jtws_[\w-]{43}", link)
    assert server.request("GET", urlsplit(link).path.lstrip("/"), token="").status == 200
    [opened] = runtime.glob("jpserver-*-open.html")
    assert server.token not in opened.read_text("utf-8")
    other = run(server.url, "--local", JUPYTER_RUNTIME_DIR=str(tmp_path))
    assert other.returncode == 1
    assert "you run no server at" in other.stderr


def test_where_login_is_off(start: Start):
    server = start(config={"TokenWebSocketApp": {"login": False}})
    done = run(server.url, "--token-env", "T", T=server.token)
    assert (done.returncode, done.stdout) == (1, "")
    assert "TokenWebSocketApp.login is False there" in done.stderr


def test_where_the_extension_is_not(start: Start):
    server = start(stock=True)
    done = run(server.url, "--token-env", "T", T=server.token)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Is jupyter-token-ws installed and enabled there?" in done.stderr
