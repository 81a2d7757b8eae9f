"""``jupyter token-ws run`` and the options by which commands reach a server."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from jupyter_token_ws import cli_access, cli_run
from jupyter_token_ws.cli import main
from jupyter_token_ws.cli_access import add_access, read_access
from jupyter_token_ws.cli_run import Answers, show
from jupyter_token_ws.preflight import CommandError
from jupyter_token_ws.protocol.kernel_messages import KernelMessage
from tests.support.process import PROJECT, start_server

URL = "http://user@127.0.0.1:1/lab?x=1#y"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = {"ServerApp": {"base_url": "/base/"}}
    with start_server(tmp_path_factory.mktemp("run"), config=config) as server:
        yield server


@pytest.fixture
def token(server, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", server.token)
    return "--token-env=MY_TOKEN"


def command(*arguments):
    return [sys.executable, "-m", "jupyter_token_ws.cli", "run", *arguments]


# -- options ---------------------------------------------------------------------------------------


def access(*arguments, url=URL):
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    add_access(parser)
    return read_access(parser.parse_args([url, *arguments]))


@pytest.fixture
def typed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("SECRET\n"))
    monkeypatch.setenv("MY_TOKEN", "SECRET")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("JUPYTER_TOKEN_WS_AUTH", raising=False)
    monkeypatch.delenv("JUPYTER_TOKEN_WS_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["none"]),
        (["--token-env=MY_TOKEN"], ["token"]),
        (["--token-stdin"], ["token"]),
        (["--password-stdin"], ["ticket", "cookie"]),
        (["--auth=token,none"], ["token", "none"]),
    ],
)
def test_ways_to_sign_in(typed, arguments, names):
    read = access(*arguments)
    assert [plugin.name for plugin in read.plugins] == names
    assert read.url == "http://127.0.0.1:1/lab"
    assert "SECRET" not in repr(read)
    assert read.secrets == (
        ("SECRET",)
        if "--" in "".join(arguments) and len(names) < 3 and "--auth" not in arguments[0]
        else ()
    )


def test_a_token_in_the_address(typed):
    read = access(url="http://h/lab?token=SECRET")
    assert (read.secrets, read.url) == (("SECRET",), "http://h/lab")
    with pytest.raises(CommandError, match="does not show the token"):
        access(url="http://h/lab?token=...")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--token-env=EMPTY"], "no token in the environment variable EMPTY"),
        (["--auth=unknown"], "unknown"),
        (["--key=k"], "--key is of no use"),
        (["--pin=x"], "is no pin"),
        (["--local"], "you run no server"),
    ],
)
def test_what_cannot_be(typed, arguments, said):
    with pytest.raises(CommandError, match=said):
        access(*arguments)


def test_a_secret_that_is_none(typed, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\x07\n"))
    with pytest.raises(CommandError, match="control characters"):
        access("--token-stdin")


def test_the_connection(typed):
    pin = f"sha256/{'A' * 43}="
    read = access("--ca=a", "--cert=c", "--key=k", f"--pin={pin}", "--plain-http")
    assert read.tls is not None
    assert (read.tls.ca_bundle, read.tls.certificate, read.tls.key) == tuple(map(Path, "ack"))
    assert set(read.tls.pins) == {pin}
    assert (read.plain_http, read.carrier) == (True, "auto")
    assert access("--carrier=tunnel-websocket", "--unix-socket=s").unix_socket == Path("s")


@pytest.mark.parametrize("option", ["--timeout=0", "--timeout=x", "--timeout=inf", "--carrier=x"])
def test_what_is_no_such_value(option, capsys):
    with pytest.raises(SystemExit):
        main(["run", URL, "1", option])
    assert option.partition("=")[0] in capsys.readouterr().err.rpartition("error:")[2]


def test_a_connection_may_take_so_long(typed, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # who accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        begun = time.monotonic()
        assert main(["run", url, "1", "--timeout=0.5"]) == 1
    assert time.monotonic() - begun < 10
    assert "0.5 s" in capsys.readouterr().err


def test_what_the_client_needs_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(CommandError, match=r"httpx.*\[client\]"):
        cli_access.needed()


def test_a_server_of_this_machine(server, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(server.log_path.parent / "runtime"))
    read = access("--local", url=server.url.rstrip("/"))
    assert read.url == server.url
    assert read.secrets == (server.token,)


# -- running ---------------------------------------------------------------------------------------


def test_what_it_shows(server, token, capsys):
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('more')\n6 * 7"
    assert main(["run", server.url + "lab/tree/x", code, token]) == 0
    out, err = capsys.readouterr()
    assert out == "out\nmore\n42\n"
    assert err == "err\n"


def test_code_that_fails(server, token, capsys, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("print('before')\n1 / 0")
    assert main(["run", server.url, "--file", str(path), token, "--kernel=python3"]) == 1
    out, err = capsys.readouterr()
    assert out == "before\n"
    assert "ZeroDivisionError: division by zero" in err
    assert "\x1b" not in err


def test_a_kernel_that_runs_goes_on(server, token, capsys):
    kernel_id = server.start_kernel()
    for code in ("x = 1", "x"):
        assert main(["run", server.url, code, token, f"--kernel-id={kernel_id}"]) == 0
    assert capsys.readouterr().out == "1\n"
    assert server.kernel(kernel_id) is not None
    unknown = "00000000-0000-0000-0000-000000000000"
    assert main(["run", server.url, "x", token, f"--kernel-id={unknown}"]) == 1
    assert f"the server knows no kernel '{unknown}'" in capsys.readouterr().err


@pytest.mark.parametrize("carrier", ["websocket", "tunnel-websocket", "tunnel-eventstream"])
def test_by_every_carrier(server, token, capsys, carrier):
    assert main(["run", server.url, "print(1)", token, f"--carrier={carrier}"]) == 0
    assert capsys.readouterr().out == "1\n"


def test_code_and_answers_by_pipes(server, token):
    done = subprocess.run(
        command(server.url, "-", token),
        input=b"print(6 * 7)",
        capture_output=True,
        cwd=PROJECT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"42\n", b"")
    code = "print(input('name? ') + input())"
    done = subprocess.run(
        command(server.url, code, token),
        input=b"a\r\nb",
        capture_output=True,
        cwd=PROJECT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"name? ab\n", b"")
    done = subprocess.run(
        command(server.url, code, token),
        input=b"a\n",
        capture_output=True,
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 1
    assert b"asks for input, and there is no more" in done.stderr


def test_a_secret_by_a_pipe(server):
    done = subprocess.run(
        command(server.url, "print(1)", "--token-stdin"),
        input=f"{server.token}\n".encode(),
        capture_output=True,
        cwd=PROJECT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"1\n")
    done = subprocess.run(
        command(server.url, "print(1)", "--token-stdin"),
        input=b"wrong-SECRET\n",
        capture_output=True,
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 1
    assert b"does not take the credential" in done.stderr
    assert b"SECRET" not in done.stdout + done.stderr


def test_ctrl_c_interrupts_the_cell(server, token):
    code = "import time\nprint('there', flush=True)\ntime.sleep(100)"
    with subprocess.Popen(
        command(server.url, code, token),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.stderr.read()
        assert process.wait() == 130


@pytest.mark.parametrize("gone", [False, True])
def test_ctrl_c_where_the_kernel_is_gone_ends_the_command(server, token, monkeypatch, capsys, gone):
    """Seen from within: the signal comes when the cell has said something."""
    kernel_id = server.start_kernel()

    def show(message):
        if message.type == "stream":
            if gone:
                server.request("DELETE", f"api/kernels/{kernel_id}")
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cli_run, "show", show)
    code = "import time\nprint('there', flush=True)\ntime.sleep(100)"
    status = main(["run", server.url, code, token, f"--kernel-id={kernel_id}"])
    assert status == 130 or (gone and status == 1 and "shut down" in capsys.readouterr().err)
    if not gone:
        server.request("DELETE", f"api/kernels/{kernel_id}")


def test_code_from_standard_input_and_no_answer(server, token, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"print(6 * 7)")))
    assert main(["run", server.url, "-", token]) == 0
    assert capsys.readouterr().out == "42\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"input()")))
    assert main(["run", server.url, "-", token]) == 1
    assert "asks for input, and standard input has the code" in capsys.readouterr().err
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["run", server.url, "input('? ')", token]) == 1
    assert "there is no more" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_the_command(server, token):
    code = (
        "import time\nprint('there', flush=True)\nwhile True:\n  try: time.sleep(100)\n"
        "  except KeyboardInterrupt: print('ignored', flush=True)"
    )
    with subprocess.Popen(
        command(server.url, code, token),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"ignored\n"
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


def test_wrong_arguments(server, token, capsys, tmp_path):
    for arguments in (
        ["run", server.url, token],
        ["run", server.url, "x", "--file=y", token],
        ["run", server.url, "-", "--token-stdin"],
        ["run", server.url, "x", "--kernel=a", "--kernel-id=b"],
    ):
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        assert raised.value.code == 2
    assert main(["run", server.url, f"--file={tmp_path}/none", token]) == 1
    (tmp_path / "binary").write_bytes(b"\xff")
    assert main(["run", server.url, f"--file={tmp_path}/binary", token]) == 1
    assert main(["run", f"http://127.0.0.1:{server.port}/elsewhere", "x", token]) == 1
    err = capsys.readouterr().err
    assert "the code cannot be read" in err
    assert "no Jupyter server" in err
    assert server.token not in err


def test_code_that_is_too_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli_run, "MAX_CODE", 3)
    (tmp_path / "code").write_text("1234")
    assert main(["run", "http://h/", f"--file={tmp_path}/code"]) == 1
    assert "more than 3 bytes" in capsys.readouterr().err


async def test_a_password_is_not_shown(capsys):
    ours, theirs = pty.openpty()
    try:
        asking = asyncio.ensure_future(Answers(theirs).ask("pass? ", True))
        while termios.tcgetattr(theirs)[3] & termios.ECHO:
            await asyncio.sleep(0)
        os.write(ours, b"secret\n")
        assert await asyncio.wait_for(asking, 10) == "secret"
        assert termios.tcgetattr(theirs)[3] & termios.ECHO
        assert capsys.readouterr().out == "pass? \n"
    finally:
        os.close(ours)
        os.close(theirs)


async def test_answers_in_a_file(tmp_path, capsys):
    path = tmp_path / "answers"
    path.write_bytes(b"a\nb")
    with path.open("rb") as file:
        answers = Answers(file.fileno())
        assert await answers.ask("", True) == "a"
        assert await answers.ask("", False) == "b"
        with pytest.raises(EOFError):
            await answers.ask("", False)


def test_outputs_of_other_kinds(capsys):
    def message(kind, channel="iopub", **content):
        show(KernelMessage(channel, {"msg_type": kind}, content=content))

    message("display_data", data={"text/plain": "shown"})
    message("display_data", data={"image/png": "..."})
    message("display_data", data=None)
    message("execute_reply", channel="shell", text="no")
    message("status", execution_state="idle")
    message("error", ename="E", evalue="v")
    assert capsys.readouterr() == ("shown\n", "E: v\n")


def test_letters_that_the_terminal_lacks(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", out)
    show(KernelMessage("iopub", {"msg_type": "stream"}, content={"name": "stdout", "text": "ä"}))
    assert out.buffer.getvalue() == b"?"
