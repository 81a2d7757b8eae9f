"""The programs on the documentation's pages, as they stand there, against real servers.

What a page says the server or a program prints is compared with what is printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec
from traitlets.config import Config

from jupyter_token_ws.app import TokenWebSocketApp
from jupyter_token_ws.bridge.server import wanted_for
from tests.plugins.programs import requires, requires_node_package
from tests.support import process
from tests.support.knock import TIMEOUT
from tests.support.pages import ROOT, blocks, replace, save
from tests.support.process import (
    PYTHONPATH,
    TOKEN,
    Answer,
    Server,
    free_port,
    request,
    run,
    start_server,
)
from tests.support.tunnel_carriers import FarEvents
from tests.support.waiting import until

QUICKSTART = "docs/tutorial/quickstart.md"
CLIENT = "docs/how-to/use-it-from-your-client.md"
AUTHORS = "docs/how-to/close-with-a-reason.md"
STREAMS = "docs/how-to/stream-from-your-extension.md"
CONFIGURE = "docs/how-to/configure.md"
SETTINGS = "docs/reference/configuration.md"
SIZE = "docs/how-to/size-it-for-your-server.md"
LIMITS = "docs/how-to/limit-and-require-tls.md"
TERMINAL = "docs/how-to/log-in-from-a-terminal.md"
REDIS = "docs/how-to/redis.md"
SEALED = "docs/how-to/sealed-keys.md"

MISSING = "00000000-0000-0000-0000-000000000000"
REJECTED = "closed 4403 token_rejected: the token is not valid here"


def environment(token: str) -> dict[str, str]:
    return {**os.environ, "JUPYTER_TOKEN": token, "PYTHONUNBUFFERED": "1"}


def output(command: Sequence[str | Path], folder: Path, token: str = TOKEN) -> str:
    """What a program prints. It must end by itself, and well."""
    done = ended(command, folder, token)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(
    command: Sequence[str | Path], folder: Path, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment(token),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def says(page: str, text: str) -> str:
    """The text, which must stand on the page as output."""
    assert text in blocks(page, "text"), f"{page} does not say this:\n{text}"
    return text


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("docs")) as server:
        yield server


@pytest.fixture
def node(tmp_path) -> list[str]:
    """Node 20 has no WebSocket: give it the one of `ws`, as the page says."""
    modules = requires_node_package("ws")
    preload = tmp_path / "ws.mjs"
    preload.write_text(
        f'import WebSocket from "{(modules / "ws" / "wrapper.mjs").as_uri()}";\n'
        "globalThis.WebSocket = WebSocket;\n"
    )
    return [requires("node", "nodejs"), "--import", preload.as_uri()]


# -- README ------------------------------------------------------------------------------------------


def readme(language: str, folder: Path, server: Server, token: str) -> Path:
    (block,) = blocks("README.md", language)
    path = folder / {"javascript": "ten.mjs", "python": "ten.py"}[language]
    path.write_text(block, encoding="utf-8")
    replace(path, {"ws://localhost:8888/": server.ws_url, '"your token"': repr(token)})
    return path


@contextmanager
def command(language: str, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    yield [sys.executable] if language == "python" else request.getfixturevalue("node")


@pytest.mark.parametrize("language", ["javascript", "python"])
def test_readme_is_refused_with_a_wrong_token(language, request, tmp_path, server):
    path = readme(language, tmp_path, server, "wrong")
    with command(language, request) as interpreter:
        printed = output([*interpreter, path], tmp_path).splitlines()
    assert printed == ["open, answered v1.reason.websocket.jupyter.org", REJECTED]
    assert f"`{REJECTED}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["javascript", "python"])
def test_readme_opens_and_hears_the_end(language, request, tmp_path):
    log = tmp_path / "printed"
    token = "a (token) with, 100% of what /needs/ encoding; é"
    with (
        start_server(tmp_path, token=token) as server,
        command(language, request) as interpreter,
        run([*interpreter, str(readme(language, tmp_path, server, token))], log) as process,
    ):
        until(lambda: "open" in log.read_text(), "the socket to open")
        server.stop()
        assert process.wait(60) == 0
    assert log.read_text().splitlines() == [
        "open, answered v1.token.websocket.jupyter.org",
        "closed 4503 draining;retry_after=1: the server is shutting down",
    ]


@pytest.mark.parametrize("language", ["javascript", "python"])
def test_readme_tells_what_is_seen_of_a_storm(language, request, tmp_path):
    """After five refusals in ten seconds: plain HTTP, in the words of the page."""
    slowly = {"TokenWebSocketApp": {"refusal_window": 600}}  # however slow this machine is
    with (
        start_server(tmp_path, config=slowly) as server,
        command(language, request) as interpreter,
    ):
        path = readme(language, tmp_path, server, "wrong")
        *told, last = [ended([*interpreter, path], tmp_path) for _ in range(6)]
    assert [done.stdout.splitlines()[-1] for done in told] == [REJECTED] * 5
    if language == "python":
        assert "InvalidStatus: " in last.stderr
        assert "HTTP 403" in last.stderr
    else:
        assert last.stdout == "closed 1006 \n"


def test_readme_shows_what_the_demo_shows(tmp_path):
    printed = output([sys.executable, "-m", "jupyter_token_ws.cli", "demo"], tmp_path)
    table = printed[printed.index("what is sent") :].partition("\n\n")[0].splitlines()
    demo = [re.split(r" {2,}", line)[:3] for line in table if not line.startswith("-")]
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Ten lines")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(demo) > 5
    assert [row for row in rows if row[0] != "---"] == demo


# -- the quickstart ----------------------------------------------------------------------------------


def test_quickstart(tmp_path, server):
    assert save(QUICKSTART, tmp_path) == ["cell.py"]
    cell = tmp_path / "cell.py"
    replace(cell, {"ws://localhost:8888/": server.ws_url})
    kernel = server.start_kernel()
    printed = output([sys.executable, cell, kernel], tmp_path)
    assert printed == says(QUICKSTART, "open, answered v1.token.websocket.jupyter.org\n42\n")
    refused = "open, answered v1.reason.websocket.jupyter.org\n"
    printed = output([sys.executable, cell, kernel], tmp_path, "wrong")
    assert printed == says(QUICKSTART, f"{refused}{REJECTED}\nadvice: authenticate\n")
    printed = output([sys.executable, cell, MISSING], tmp_path)
    gone = "closed 4404 not_found: there is nothing here by that name"
    assert printed == says(QUICKSTART, f"{refused}{gone}\nadvice: stop\n")
    line = f"Refused websocket: 4403 token_rejected /api/kernels/{kernel}/channels from 127.0.0.1"
    assert f"TokenWebSocketApp] {line}" in server.log()
    (shown,) = [block for block in blocks(QUICKSTART, "text") if "Refused websocket" in block]
    (id_on_page,) = re.findall(r"KERNEL=(\S+)", (ROOT / QUICKSTART).read_text(encoding="utf-8"))
    assert shown.endswith(line.replace(kernel, id_on_page) + "\n")


def test_quickstart_shows_the_capabilities_as_they_begin(server):
    printed = subprocess.run(
        [sys.executable, "-m", "jupyter_token_ws.cli", "capabilities", server.url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace(f"//{server.host}:{server.port}/", "//localhost:8888/")
    (shown,) = [block for block in blocks(QUICKSTART, "json") if "api_versions" in block]
    assert printed.startswith(shown)


# -- a client of one's own ---------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path) -> Path:
    """The folder of somebody who saved every file of the page."""
    folder = tmp_path / "client"
    folder.mkdir()
    assert save(CLIENT, folder) == [
        "jupyter_socket.py",
        "watch.py",
        "jupyter-socket.mjs",
        "cell.mjs",
        "page.html",
    ]
    (folder / "watch.mjs").write_text(
        'import { watch } from "./jupyter-socket.mjs";\n'
        "await watch(process.argv[2], process.env.JUPYTER_TOKEN, console.log);\n"
    )
    return folder


ONE_CELL = "open, answered v1.token.websocket.jupyter.org\n42\n"


CELLS = pytest.mark.parametrize(
    ("language", "file"), [("python", "jupyter_socket.py"), ("javascript", "cell.mjs")]
)
WATCHERS = pytest.mark.parametrize(
    ("language", "file"), [("python", "watch.py"), ("javascript", "watch.mjs")]
)


@CELLS
@pytest.mark.parametrize("end", ["/", ""])
def test_client_runs_a_cell_and_leaves_no_kernel(end, language, file, request, client, server):
    before = server.request("GET", "api/kernels").json()
    with command(language, request) as interpreter:
        printed = output([*interpreter, file, server.url.rstrip("/") + end], client)
    assert printed == says(CLIENT, ONE_CELL)
    after = server.request("GET", "api/kernels").json()
    assert {kernel["id"] for kernel in after} == {kernel["id"] for kernel in before}


@CELLS
def test_client_says_what_is_missing_or_wrong(language, file, request, client, server):
    wrong = "HTTP Error 403" if language == "python" else REJECTED
    with command(language, request) as interpreter:
        no_address = ended([*interpreter, file], client)
        no_token = ended([*interpreter, file, server.url], client, "")
        refused = ended([*interpreter, file, server.url], client, "wrong")
        nobody = ended([*interpreter, file, f"http://127.0.0.1:{free_port()}/"], client)
    assert 0 not in [done.returncode for done in (no_address, no_token, refused, nobody)]
    for done in (no_address, no_token):
        assert done.stderr.startswith("usage: JUPYTER_TOKEN=your-token")
    assert wrong in refused.stderr
    for done in (refused, nobody):
        assert len(done.stderr.splitlines()) == 1, done.stderr


@WATCHERS
def test_client_may_start_before_the_server(language, file, request, client, tmp_path, monkeypatch):
    log, port = tmp_path / "printed", free_port()
    monkeypatch.setattr(process, "free_port", lambda: port)
    line = [file, f"http://127.0.0.1:{port}/"]
    with (
        command(language, request) as interpreter,
        run([*interpreter, *line], log, cwd=client, env=environment(TOKEN)),
    ):
        until(lambda: "no socket: " in log.read_text(), "the first attempt")
        with start_server(tmp_path):
            until(lambda: "open\n" in log.read_text(), "the socket to open")


def test_client_of_a_server_without_the_extension(request, client, tmp_path):
    """Python sends the header; a script cannot, and says so."""
    log = tmp_path / "printed"
    with start_server(tmp_path, extensions={"jupyter_token_ws": False}) as stock:
        cell = output([sys.executable, "jupyter_socket.py", stock.url], client)
        assert cell == "open, answered None\n42\n"
        line = [sys.executable, "watch.py", stock.url]
        with run(line, log, cwd=client, env=environment(TOKEN)):
            until(lambda: log.read_text() == "open\n", "the socket to open")
        node = request.getfixturevalue("node")
        printed = output([*node, "watch.mjs", stock.url], client)
        assert printed == "this server does not have the extension\n"


@WATCHERS
def test_client_stops_where_trying_again_cannot_help(language, file, request, client, server):
    with command(language, request) as interpreter:
        printed = output([*interpreter, file, server.url], client, "wrong")
    assert printed == says(CLIENT, f"open\n{REJECTED}\n")


@WATCHERS
def test_client_comes_back_when_the_server_does(
    language, file, request, client, tmp_path, monkeypatch
):
    log = tmp_path / "printed"
    first = start_server(tmp_path, name="first")
    monkeypatch.setattr(process, "free_port", lambda: first.port)
    with (
        first,
        command(language, request) as interpreter,
        run([*interpreter, file, first.url], log, cwd=client, env=environment(TOKEN)),
    ):
        until(lambda: "open" in log.read_text(), "the socket to open")
        first.stop()
        until(lambda: "closed 4503 draining;retry_after=1" in log.read_text(), "the close")
        with start_server(tmp_path, name="second"):
            until(lambda: log.read_text().count("open\n") == 2, "the socket to open again")


def test_functions_of_the_package(tmp_path):
    (program,) = [block for block in blocks(CLIENT, "python") if "within_base(" in block]
    (tmp_path / "program.py").write_text(program)
    says(CLIENT, output([sys.executable, "program.py"], tmp_path))


# -- an extension of one's own -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def authors(tmp_path_factory) -> Path:
    """The folder of somebody who saved every file of the page."""
    folder = tmp_path_factory.mktemp("authors")
    assert save(AUTHORS, folder) == [
        "my_echo.py",
        "knock.py",
        "full.py",
        "my_handler.py",
        "plain.py",
    ]
    # What makes an extension of a handler stands in the first example only.
    (folder / "my_busy.py").write_text(
        "from my_echo import _load_jupyter_server_extension as load, url_path_join\n"
        "from my_handler import Busy\n\n\n"
        "def _jupyter_server_extension_points():\n"
        "    return [{'module': 'my_busy'}]\n\n\n"
        "def _load_jupyter_server_extension(serverapp):\n"
        "    path = url_path_join(serverapp.base_url, 'my-echo/busy/now')\n"
        "    serverapp.web_app.add_handlers('.*$', [(path, Busy)])\n"
    )
    return folder


@pytest.fixture(scope="module")
def extended(authors, tmp_path_factory) -> Iterator[Server]:
    """A server with the page's extensions."""
    path = {"PYTHONPATH": f"{PYTHONPATH}{os.pathsep}{authors}"}
    extensions = {"my_echo": True, "my_busy": True}
    folder = tmp_path_factory.mktemp("extended")
    with start_server(folder, extensions=extensions, env=path) as server:
        for name in ("knock.py", "full.py"):
            replace(authors / name, {"ws://localhost:8888/": server.ws_url})
        yield server


def test_extension_lets_in(authors, extended):
    printed = output([sys.executable, "knock.py", "lobby"], authors)
    assert printed == says(AUTHORS, "you came in by subprotocol\nhello\n")


def test_extension_refuses(authors, extended):
    printed = output([sys.executable, "knock.py", "attic"], authors)
    printed += output([sys.executable, "knock.py", "closed"], authors)
    assert printed == says(
        AUTHORS,
        "4404 not_found: there is nothing here by that name\n"
        "4503 unavailable;retry_after=60: a part of the server is not available\n",
    )


def test_extension_closes_when_it_has_enough(authors, extended):
    """The room's third guest."""
    printed = output([sys.executable, "full.py"], authors)
    assert printed == says(
        AUTHORS, "4429 too_many_connections;retry_after=10: too many connections\n"
    )


def test_extension_without_a_hard_dependency(authors, extended):
    program = authors / "knock_busy.py"
    program.write_text((authors / "knock.py").read_text())
    printed = output([sys.executable, program, "busy/now"], authors)
    assert printed == (
        "subprotocol\n4503 unavailable;retry_after=5: a part of the server is not available\n"
    )


@pytest.mark.parametrize("room", ["lobby", "attic", "closed", "busy/now"])
def test_extension_lets_nobody_in_without_a_token(room, authors, extended):
    printed = output([sys.executable, "knock.py", room], authors, "wrong")
    assert printed == f"{REJECTED.removeprefix('closed ')}\n"


def test_tornado_application(authors, extended, tmp_path):
    port = free_port()
    folder = tmp_path / "plain"
    folder.mkdir()
    save(AUTHORS, folder)
    replace(folder / "knock.py", {"localhost:8888": f"localhost:{port}"})
    log = tmp_path / "plain.log"
    variables = {**environment(TOKEN), "PORT": str(port)}
    with run([sys.executable, "plain.py"], log, cwd=folder, env=variables):
        until(lambda: "listening" in log.read_text(), "the application")
        printed = output([sys.executable, "knock.py", "lobby"], folder)
        assert printed == says(AUTHORS, "you are ann\nhello\n")
        printed = output([sys.executable, "knock.py", "lobby"], folder, "wrong")
        assert printed == f"{REJECTED.removeprefix('closed ')}\n"


# -- an extension that streams -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams(tmp_path_factory) -> Path:
    """The folder of somebody who saved every file of the page."""
    folder = tmp_path_factory.mktemp("streams")
    names = save(STREAMS, folder)
    assert names == ["my_count.py", "add.py", "my_pipe.py", "my_greeting.py"]
    return folder


@pytest.fixture(scope="module")
def streaming(streams, tmp_path_factory) -> Iterator[Server]:
    """A server with the page's extensions."""
    path = {"PYTHONPATH": f"{PYTHONPATH}{os.pathsep}{streams}"}
    extensions = {"my_count": True, "my_pipe": True, "my_greeting": True}
    with start_server(
        tmp_path_factory.mktemp("streaming"), extensions=extensions, env=path
    ) as server:
        replace(streams / "add.py", {"ws://localhost:8888/": server.ws_url})
        yield server


def test_stream_counts(streams, streaming):
    printed = output([sys.executable, "add.py", "30", "12"], streams)
    assert printed == says(STREAMS, "hello over websocket\n30\n42\n")


def test_stream_is_closed_for_a_reason(streams, streaming):
    printed = output([sys.executable, "add.py", "30", "cats"], streams)
    assert printed == says(
        STREAMS,
        "hello over websocket\n30\n4400 bad_request: the request was not understood\n",
    )


@pytest.mark.requires("curl", "curl")
def test_stream_of_a_tunnel(streams, streaming):
    (line,) = [block for block in blocks(STREAMS, "sh") if block.startswith("curl")]
    expected = says(STREAMS, "event: open\ndata: {}\n\ndata: hello over tunnel-eventstream\n\n")
    address = "http://localhost:8888/"
    assert address in line
    words = shlex.split(line.replace(address, streaming.url).replace("$JUPYTER_TOKEN", TOKEN))
    with subprocess.Popen([*words, "--silent"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        printed = "".join(program.stdout.readline() for _ in expected.splitlines())
        program.kill()
    assert printed == expected


SENDS = "socket.send(number)"


def piping(streams: Path) -> Path:
    """The page's client, for its program: nobody is greeted there."""
    program = streams / "piping.py"
    program.write_text((streams / "add.py").read_text())
    greeting = "            print(await socket.recv())\n            for"
    replace(program, {"my-count": "my-pipe", greeting: "            for"})
    return program


def test_stream_of_a_program(streams, streaming):
    """Over a socket: its client hears each line, but not what is said after its own end."""
    program = piping(streams)
    assert output([sys.executable, program, "one", "two"], streams) == "ONE\nTWO\n"


def test_stream_of_a_program_ends_for_a_reason(streams, streaming):
    """The task that failed is the one that is told of, not the end of the program that is killed for it."""
    program = piping(streams)
    replace(program, {SENDS: "socket.send(number.encode())"})
    printed = output([sys.executable, program, "one"], streams)
    assert printed == "4400 bad_request: the request was not understood\n"


def test_stream_of_a_program_takes_long_lines(streams, streaming):
    program = piping(streams)
    replace(program, {SENDS: "socket.send(number * 100_000)"})
    assert output([sys.executable, program, "one"], streams) == f"{'ONE' * 100_000}\n"


def test_stream_counts_no_number_that_is_too_long(streams, streaming):
    program = streams / "long_number.py"
    program.write_text((streams / "add.py").read_text())
    replace(program, {SENDS: "socket.send(number * 5000)"})
    assert output([sys.executable, program, "9"], streams) == (
        "hello over websocket\n4400 bad_request: the request was not understood\n"
    )


async def test_stream_of_a_program_over_a_tunnel(streams, streaming):
    """There the client's end is the program's, and what that says then is heard."""
    there: Any = SimpleNamespace(
        port=streaming.port, base="/", host=f"127.0.0.1:{streaming.port}", token=TOKEN
    )
    far = FarEvents(there)
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open("my-pipe").wait_open()
    for line in ("one", "two"):
        await socket.send(line)
    socket.end()
    await socket.wait_closed()
    assert list(socket.heard) == ["ONE", "TWO", "2 lines"]
    assert socket.code is None
    await far.cut()
    await far.leave()


def test_stream_of_a_function(streams, streaming):
    program = streams / "greeted.py"
    program.write_text((streams / "add.py").read_text().replace("my-count", "my-greeting"))
    assert output([sys.executable, "greeted.py"], streams) == "hello\n"


@pytest.mark.parametrize("path", ["my-count", "my-pipe", "my-greeting"])
def test_streams_are_not_for_everybody(path, streams, streaming):
    program = streams / f"wrong-{path}.py"
    program.write_text((streams / "add.py").read_text().replace("my-count", path))
    printed = output([sys.executable, program, "1"], streams, "wrong")
    assert printed == f"{REJECTED.removeprefix('closed ')}\n"


# -- configuration -----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [CONFIGURE, SETTINGS, LIMITS, TERMINAL])
def test_settings_are_understood(page, tmp_path):
    """Every setting on the page at once, in the file that the page names."""
    settings = [b for b in blocks(page, "python") if b.startswith("# jupyter_server_config.py\n")]
    assert settings
    config = tmp_path / "jupyter_server_config.py"
    config.write_text("".join(settings))
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_server", f"--config={config}", "--show-config-json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout)["TokenWebSocketApp"]
    assert set(ours) == set(re.findall(r"c\.TokenWebSocketApp\.(\w+) =", "".join(settings)))
    assert set(ours) <= set(TokenWebSocketApp.class_own_traits(config=True))
    TokenWebSocketApp(**ours)  # raises for a wrong value


def test_lists_and_dictionaries_on_the_command_line_are_those_of_the_file(tmp_path, monkeypatch):
    """Through the server, which reads them otherwise than the extension alone would."""
    (line,) = [block for block in blocks(SETTINGS, "sh") if "exclude_paths" in block]
    (file,) = [block for block in blocks(SETTINGS, "python") if "exclude_paths" in block]
    (tmp_path / "show.py").write_text(
        "import json, sys\n"
        "from jupyter_server.serverapp import ServerApp\n"
        "app = ServerApp(log_level=50)\n"
        "app.initialize(['--port=0', '--no-browser', '--allow-root', *sys.argv[1:]])\n"
        "(ours,) = app.extension_manager.extension_apps['jupyter_token_ws']\n"
        "print(json.dumps([ours.exclude_paths, ours.open_timeouts]))\n"
    )
    (tmp_path / "settings.py").write_text(file)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "nothing"))
    only_ours = "--ServerApp.jpserver_extensions=jupyter_token_ws=True"
    show = [sys.executable, "show.py", only_ours]
    by_line = output([*show, *shlex.split(line.replace("\\\n", ""))[2:]], tmp_path)
    by_file = output([*show, f"--config={tmp_path / 'settings.py'}"], tmp_path)
    assert by_line == by_file
    paths, timeouts = json.loads(by_line.splitlines()[-1])
    assert len(paths) == len(timeouts) == 2
    (paths, _) = json.loads(
        output([*show, "--TokenWebSocketApp.exclude_paths=['a/', 'b/']"], tmp_path).splitlines()[-1]
    )
    assert paths == ["['a/', 'b/']"], "the page says that this is one pattern"


def test_proxy_settings_of_jupyter_exist():
    from jupyter_server.serverapp import ServerApp

    named: set[str] = set()
    for page in (CONFIGURE, SETTINGS, CLIENT):
        named |= set(re.findall(r"ServerApp\.(\w+)", (ROOT / page).read_text(encoding="utf-8")))
    assert len(named) > 4
    assert named <= set(ServerApp.class_trait_names())


def test_kernelspec_of_the_page_leaves_its_kernel_to_jupyter_server():
    (block,) = blocks(CONFIGURE, "json")
    spec = KernelSpec(**json.loads(block))
    assert not wanted_for(SimpleNamespace(kernel_spec=spec))


# -- docs/how-to/size-it-for-your-server.md ----------------------------------------------------------


def traits_of(block: str) -> dict[str, object]:
    """The traits that a block of configuration sets."""
    config = Config()
    exec(compile(block, SIZE, "exec"), {"c": config})
    return dict(config["TokenWebSocketApp"])


def test_what_a_slow_client_is_told(tmp_path):
    *settings, program = blocks(SIZE, "python")
    path = tmp_path / "slow.py"
    path.write_text(program, encoding="utf-8")
    little = traits_of(settings[-1])
    with start_server(tmp_path, config={"TokenWebSocketApp": little}) as server:
        *notices, last = output([sys.executable, path, server.url, TOKEN], tmp_path).splitlines()
    assert notices
    assert all(
        re.fullmatch(r"\[\d+ messages? of the kernel, .* MB, .*\]", each) for each in notices
    )
    lines, rest = last.split(maxsplit=1)
    assert int(lines) < 100_000
    assert rest == "lines, and the cell is done"


def test_and_without_the_settings(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(blocks(SIZE, "python")[-1], encoding="utf-8")
    with start_server(tmp_path) as server:
        printed = output([sys.executable, path, server.url, TOKEN], tmp_path)
    assert printed == says(SIZE, printed)


def test_sizes_that_the_page_names_are_taken(tmp_path):
    *settings, _ = blocks(SIZE, "python")
    assert len(settings) == 5
    for block in settings:
        traits = traits_of(block)
        app = TokenWebSocketApp(**traits)
        assert {name: getattr(app, name) for name in traits} == traits


# -- stores of tickets -------------------------------------------------------------------------------


def store_of(page: str, **paths: object) -> dict[str, dict[str, object]]:
    """What the page puts into the configuration, with other values where they are paths."""
    (block,) = [b for b in blocks(page, "python") if b.startswith("# jupyter_server_config.py")]
    config = Config()
    exec(compile(block, page, "exec"), {"c": config})
    found: dict[str, dict[str, object]] = {name: dict(traits) for name, traits in config.items()}
    (store,) = found.keys() - {"TokenWebSocketApp"}
    assert paths.keys() <= found[store].keys()
    found[store].update(paths)
    return found


def curl(line: str, address: str, server: Server, secret: str) -> Answer:
    """What a line of the page is answered, with the server's address and what is secret in their places."""
    program, *words = shlex.split(line.replace(address, server.url))
    assert program == "curl"
    method, headers = "GET", {}
    (url,) = [word for word in words if word.startswith(server.url)]
    for option, value in pairwise(words):
        if option == "-X":
            method = value
        elif option == "-H":
            name, _, text = value.partition(": ")
            headers[name] = re.sub(r"\$TOKEN|jtws_…", lambda _: secret, text)
            assert secret in headers[name]
    return request(method, url, headers=headers)


@pytest.mark.requires("redis-server", "redis-server")
def test_a_ticket_of_one_server_at_the_other_that_shares_its_redis(tmp_path):
    """With Redis, both servers and both requests as the page has them."""
    (redis,) = [block for block in blocks(REDIS, "text") if block.startswith("# redis.conf\n")]
    (lines,) = [block for block in blocks(REDIS, "sh") if "curl" in block]
    ask, show = lines.splitlines()
    # A path below the test's own directory may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = Path(folder) / "redis.sock"
        configuration = tmp_path / "redis.conf"
        configuration.write_text(f"{redis}port 0\ndir {tmp_path}\n")
        replace(configuration, {"/run/redis/redis-server.sock": str(path)})
        config = store_of(REDIS, url=f"unix://{path}")
        program = requires("redis-server", "redis-server")
        with (
            run([program, str(configuration)], tmp_path / "redis.log"),
            start_server(tmp_path, config=config, name="one") as one,
            start_server(tmp_path, config=config, name="other") as other,
        ):
            until(path.exists, "Redis to listen")
            until(
                lambda: curl(ask, "http://localhost:8888/", one, TOKEN).status == 200,
                "the server to find Redis",
            )
            ticket = curl(ask, "http://localhost:8888/", one, TOKEN).json()["token"]
            assert curl(show, "http://localhost:8889/", other, ticket).status == 200
            assert (path.stat().st_mode & 0o777) == 0o770


def test_keys_of_sealed_tickets_are_made_and_changed(tmp_path):
    """By the page's own lines; a ticket from before is good at a server that has both keys, until the old
    one is taken away."""
    keys = tmp_path / "keys"
    keys.mkdir()
    make, change = [
        block.replace("/etc/jupyter-keys", str(keys)).replace("sudo -u jupyter ", "")
        for block in blocks(SEALED, "sh")
        if "token_urlsafe" in block
    ]
    make = "\n".join(line for line in make.splitlines() if line.startswith("python"))
    config = store_of(SEALED, key_file=str(keys / "tickets"))

    def shell(script: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path}
        subprocess.run(["sh", "-ec", script], check=True, env=environ, timeout=60)

    def taken(ticket: str, name: str) -> int:
        with start_server(tmp_path, config=config, name=name) as server:
            return server.request("GET", "api/me", token=ticket).status

    shell(make)
    with start_server(tmp_path, config=config, name="before") as server:
        ticket = server.request("POST", "api/token-ws/login").json()["token"]
        assert "keys for sealed tickets" not in server.log()
    old = (keys / "tickets").read_text()
    shell(change)
    new, kept = (keys / "tickets").read_text().splitlines()
    assert kept == old.strip() != new
    assert [path.stat().st_mode & 0o777 for path in keys.iterdir()] == [0o600]
    assert taken(ticket, "both") == 200
    (keys / "tickets").write_text(f"{new}\n")
    assert taken(ticket, "new") == 403
