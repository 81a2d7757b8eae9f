"""The programs on the client's pages, as they stand there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import blocks
from tests.support.process import PROJECT, Server, start_server

REMOTE = "docs/how-to/run-code-on-a-remote-kernel.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("docs")) as server:
        yield server


def printed(server: Server, folder: Path, *command: str, typed: str = "") -> str:
    """What a command prints that ends well."""
    environment = {**os.environ, "MY_TOKEN": server.token, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def there(server: Server, program: str) -> str:
    assert "http://localhost:8888/" in program
    return program.replace("http://localhost:8888/", server.url)


ASYNC = (
    "import asyncio, os\nfrom getpass import getpass\nfrom jupyter_token_ws.client import connect\n"
)


def test_in_a_terminal(server, tmp_path):
    (line,) = blocks(REMOTE, "sh")
    command = shlex.split(there(server, line))
    assert command[:2] == ["jupyter", "token-ws"]
    command[:2] = [sys.executable, "-m", "jupyter_token_ws.cli"]
    assert printed(server, tmp_path, *command) == "42\n"


def test_in_five_lines(server, tmp_path):
    program = blocks(REMOTE, "python")[0]
    assert len(program.splitlines()) == 5
    program = f"{ASYNC}{there(server, program)}\nasyncio.run(main())\n"
    assert printed(server, tmp_path, sys.executable, "-c", program) == "42\n"


def test_a_script_without_asyncio(server, tmp_path):
    program = "import os\n" + there(server, blocks(REMOTE, "python")[1])
    assert printed(server, tmp_path, sys.executable, "-c", program) == "42\n"


def test_as_it_comes_with_answers(server, tmp_path):
    _, _, come, answer = blocks(REMOTE, "python")
    lines = "".join(f"            {line}\n" for line in come.splitlines())
    program = (
        f"{ASYNC}{answer}\n"
        "async def main():\n"
        f"    async with connect({server.url!r}, auth=os.environ['MY_TOKEN']) as server:\n"
        "        async with server.kernel('python3', on_input=answer) as kernel:\n"
        f"{lines}"
        "            result = await kernel.execute('input() * 2')\n"
        "            print(result.text, end='')\n"
        "asyncio.run(main())\n"
    )
    out = printed(server, tmp_path, sys.executable, "-c", program, typed="ab\n")
    assert out == "0\n1\n2\n'abab'"
