"""The command line against servers of every kind that a user may name by mistake."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from jupyter_token_ws import __version__, demo
from jupyter_token_ws.cli import main
from jupyter_token_ws.preflight import CAPABILITIES_PATH, MAX_DOCUMENT_SIZE

DOCUMENT = {"api_versions": ["1.0"], "base_url": "http://x/hub/ann/"}


class _Site(BaseHTTPRequestHandler):
    """A site with a server below /hub/ann/, and places that answer otherwise."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        answers = {
            f"/hub/ann/{CAPABILITIES_PATH}": (200, json.dumps(DOCUMENT).encode()),
            f"/broken/{CAPABILITIES_PATH}": (500, b""),
            f"/html/{CAPABILITIES_PATH}": (200, b"<html>"),
            f"/list/{CAPABILITIES_PATH}": (200, b"[]"),
            f"/huge/{CAPABILITIES_PATH}": (200, b" " * (MAX_DOCUMENT_SIZE + 2) + b"{}"),
        }
        status, body = answers.get(self.path, (404, b""))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[ThreadingHTTPServer]:
    _Site.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "page",
    ["/hub/ann/", "/hub/ann", "/hub/ann/lab/tree/a.ipynb?token=SECRET", "/hub/ann/#token=SECRET"],
)
def test_capabilities_of_any_page(site, capsys, page):
    address = f"user:pass@127.0.0.1:{site.server_port}{page}"
    assert main(["capabilities", f"http://{address}"]) == 0
    assert json.loads(capsys.readouterr().out) == DOCUMENT
    assert not any("SECRET" in path for path in _Site.asked)


def test_capabilities_without_a_scheme(site, capsys):
    assert main(["capabilities", f"127.0.0.1:{site.server_port}/hub/ann/"]) == 0
    assert json.loads(capsys.readouterr().out) == DOCUMENT


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("/", "has no capabilities (answered 404)"),
        ("/broken/", "answered 500"),
        ("/html/", "has no capabilities"),
        ("/list/", "has no capabilities"),
        ("/huge/", "has no capabilities"),
    ],
)
def test_capabilities_missing(site, capsys, page, said):
    assert main(["capabilities", f"http://127.0.0.1:{site.server_port}{page}?token=SECRET"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "SECRET" not in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "address",
    ["ftp://x/", "http://", "http://[::1", "http://x:99999/", "http://x:0/", "file:///etc"],
)
def test_capabilities_of_no_address(capsys, address):
    assert main(["capabilities", address]) == 1
    assert "no address of a server. One looks like http://" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "http://127.0.0.1:{port}/lab"])
def test_capabilities_missing_names_the_server(site, capsys, address):
    assert main(["capabilities", address.format(port=site.server_port)]) == 1
    said = f"jupyter token-ws: http://127.0.0.1:{site.server_port} has no capabilities"
    assert capsys.readouterr().err.startswith(said)


def test_capabilities_by_the_address_for_websockets(site, capsys):
    assert main(["capabilities", f"ws://127.0.0.1:{site.server_port}/hub/ann/"]) == 0
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_capabilities_by_https_of_an_http_server(site, capsys):
    assert main(["capabilities", f"https://127.0.0.1:{site.server_port}/hub/ann/"]) == 1
    assert "does it speak http, not https?" in capsys.readouterr().err


def test_capabilities_to_a_reader_who_leaves(site):
    """As `jupyter token-ws capabilities URL | head -1` does."""
    address = f"http://127.0.0.1:{site.server_port}/hub/ann/"
    command = [sys.executable, "-m", "jupyter_token_ws.cli", "capabilities", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_capabilities_of_nobody(capsys, unused_port):
    assert main(["capabilities", f"http://127.0.0.1:{unused_port}/a/b?token=SECRET"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"jupyter token-ws: no answer from http://127.0.0.1:{unused_port}: ")
    assert "SECRET" not in error


@pytest.fixture
def unused_port() -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    server.server_close()
    return server.server_port


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_no_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_interrupted(monkeypatch):
    def interrupt(url: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jupyter_token_ws.cli.find_server", interrupt)
    assert main(["capabilities", "http://x/"]) == 130


def test_demo_whose_kernel_gives_no_socket_says_where_to_look(site, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    server = demo.Server("stock", site.server_port, "", process, tmp_path / "log.txt")
    with pytest.raises(demo.DemoError, match=r"no socket to the kernel .*404.*, see .*log\.txt"):
        asyncio.run(demo.execute(server))
