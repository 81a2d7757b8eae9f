"""The command line of the doctor."""

from __future__ import annotations

import io
import json
import socket
import time
from typing import Any

import pytest

from jupyter_token_ws.cli import main
from jupyter_token_ws.cli_doctor import Progress
from tests.support.process import free_port

SECRET = "a-very-secret-token"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: Any) -> str:
    progress = Progress(stream)
    progress(0, 2, ["dns"])
    progress(1, 2, [])
    progress(1, 2, ["tcp"])
    progress(2, 2, [])
    progress.end()
    text: str = stream.getvalue()
    return text


def test_progress_is_one_line_of_a_terminal():
    assert told(Terminal()) == (
        "\r\x1b[K0 of 2: dns\r\x1b[K1 of 2: \r\x1b[K1 of 2: tcp\r\x1b[K2 of 2: \r\x1b[K"
    )


def test_progress_is_a_line_a_check_elsewhere():
    assert told(io.StringIO()) == "1 of 2: dns\n2 of 2: tcp\n"


def test_the_report_is_on_standard_output_and_says_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    url = f"http://127.0.0.1:{free_port()}/"
    assert main(["doctor", url, "--token-env", "MY_TOKEN", "--json"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["verdict"] == "broken"
    assert [each["cause"] for each in document["checks"] if each["verdict"] == "broken"] == [
        "not_listening"
    ]
    assert "1 of 24: dns\n" in err
    assert main(["doctor", f"{url}?token={SECRET}"]) == 1
    out, err = capsys.readouterr()
    assert "broken   tcp" in out
    assert SECRET not in out + err


def test_the_whole_run_ends_in_time(capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # who accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        begun = time.monotonic()
        assert main(["doctor", url, "--json", "--timeout", "1"]) == 1
    assert time.monotonic() - begun < 4  # the check alone would wait for five
    document = json.loads(capsys.readouterr().out)
    assert document["seconds"] < 2
    verdicts = {each["check"]: each["verdict"] for each in document["checks"]}
    assert (verdicts["tcp"], verdicts["http"], verdicts["idle"]) == ("ok", "broken", "skipped")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "everything"], "there is no check 'everything'; there are dns, tcp"),
        (["--skip", "me"], "there is no check 'me'"),
        (["--idle", "-1"], "from 0 to 3600"),
        (["--idle", "long"], "from 0 to 3600"),
        (["--timeout", "0"], "above 0"),
    ],
)
def test_wrong_arguments(capsys, options, words):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "http://127.0.0.1/", *options])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
