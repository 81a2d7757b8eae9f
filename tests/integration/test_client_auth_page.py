"""The plugin of the page "Write an auth plugin", as it stands there, at a real server and login service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from jupyter_token_ws.client import connect
from jupyter_token_ws.client.config import plugins_of
from jupyter_token_ws.client.errors import AuthError
from tests.integration.conftest import Start
from tests.support.pages import ROOT, blocks, replace, save
from tests.support.process import TOKEN

PAGE = "docs/how-to/write-an-auth-plugin.md"
KEY = "the-key-of-a-colleague"


class Service(BaseHTTPRequestHandler):
    """Gives the server's token to who has the key."""

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        key = parse_qs(self.rfile.read(size).decode())["key"]
        body = json.dumps({"access_token": TOKEN, "expires_in": 300}).encode()
        self.send_response(200 if key == [KEY] else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def login() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}/token"
        service.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "page"
    made.mkdir()
    assert save(PAGE, made) == ["company_auth.py", "kernels.py", "test_company_auth.py"]
    return made


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, **more}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_program(start: Start, login: str, folder: Path):
    server = start()
    done = run(folder, "kernels.py", server.url, login, COMPANY_KEY=KEY)
    [told] = [block for block in blocks(PAGE, "console") if "kernels.py" in block]
    assert (done.returncode, done.stdout) == (0, told.splitlines()[1] + "\n"), done.stderr
    wrong = run(folder, "kernels.py", server.url, login, COMPANY_KEY="another")
    assert wrong.returncode != 0
    assert "is your key still good?" in wrong.stderr
    assert "another" not in wrong.stderr


def test_its_test(folder: Path):
    done = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_company_auth.py")
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_file(start: Start, login: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    server = start()
    entry, configured = blocks(PAGE, "toml")
    about = folder / "company_auth-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: company-auth\nVersion: 1.0\n")
    name, _, target = entry.splitlines()[-1].partition(" = ")
    (about / "entry_points.txt").write_text(
        f"[jupyter_token_ws.auth]\n{name} = {json.loads(target)}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "company_auth", raising=False)
    path = folder / "auth.toml"
    path.write_text(configured)
    replace(
        path,
        {
            "https://login.example.org/token": login,
            "https://lab.example.org/": server.url,
            "~/.jupyter-token": str(folder / "token"),
        },
    )
    (folder / "token").write_text("of another server\n")
    environ = {"JUPYTER_TOKEN_WS_CONFIG": str(path), "COMPANY_KEY": KEY}
    async with connect(server.url, auth=plugins_of(None, environ)) as connected:
        assert (await connected.request("GET", "api/kernels")).status == 200
    # Without the key the next is asked, and has a token of another server.
    async with connect(
        server.url, auth=plugins_of(None, {**environ, "COMPANY_KEY": ""})
    ) as connected:
        with pytest.raises(AuthError):
            await connected.request("GET", "api/kernels")
