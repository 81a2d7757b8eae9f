"""A real ``jupyter server`` in a process of its own, with nothing of this machine's configuration.

    with start_server(tmp_path, config={"TokenWebSocketApp": {"close_reasons": "always"}}) as server:
        ...  # server.url, server.ws_url, server.port, server.token, server.log()

Where a test asks for it (``pytest.mark.measured``), coverage measures the process too. It saves its data when
it is told to end by a signal (``[tool.coverage.run]``: patch, sigterm); one that is killed has none to give.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal as signals
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil

from tests.support.waiting import until

if TYPE_CHECKING:
    from typing_extensions import Self

TOKEN = "a-token-for-tests"
EXTENSION = "jupyter_token_ws"
START_DEADLINE = 90.0
STOP_DEADLINE = 60.0
PROJECT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join([str(PROJECT), str(PROJECT / "tests" / "support" / "quick")])
"""For processes that tests start: modules of ours, and what makes them start quickly."""

KERNEL_CONFIG = """
import zmq

_socket = zmq.Context.socket


def socket(self, kind, *args, **options):
    made = _socket(self, kind, *args, **options)
    if kind in (zmq.PUB, zmq.XPUB):
        made.sndhwm = 0  # before it is bound: those who connect later get what it had then
    return made


zmq.Context.socket = socket
"""
"""For IPython kernels: however busy the machine is, they drop nothing themselves. Where ZMQ's thread in a
kernel gets no turn while it prints, 500 messages are enough to be dropped, and no server could have heard
them."""


@dataclass
class Answer:
    """What a request was answered. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running server.

    ``url`` and ``ws_url`` end with the base's slash. ``log_path`` has what the process wrote to
    stdout and stderr. As a context manager it ends the process, in good order unless ``abruptly``.
    """

    process: subprocess.Popen[bytes]
    port: int
    token: str
    log_path: Path
    base_url: str = "/"
    host: str = "127.0.0.1"
    children: list[psutil.Process] = field(default_factory=list)
    abruptly: bool = False

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}{self.base_url}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.host}:{self.port}{self.base_url}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        """What the process has written so far."""
        return self.log_path.read_text("utf-8", "replace")

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = None,
    ) -> Answer:
        """One HTTP request below the base, authenticated by the ``Authorization`` header.

        ``token`` replaces the server's; empty sends none. ``body`` is sent as JSON. Error statuses
        are answers too, and redirects are not followed.
        """
        return request(
            method, self.url + path, body, headers, token=self.token if token is None else token
        )

    def start_kernel(self, name: str = "python3") -> str:
        """Start a kernel and return its id."""
        answer = self.request("POST", "api/kernels", {"name": name})
        assert answer.status == 201, answer
        kernel_id: str = answer.json()["id"]
        return kernel_id

    def kernel(self, kernel_id: str) -> dict[str, Any] | None:
        """The kernel's model (``connections``, ``execution_state``), or ``None``."""
        answer = self.request("GET", f"api/kernels/{kernel_id}")
        if answer.status == 404:
            return None
        assert answer.status == 200, answer
        model: dict[str, Any] = answer.json()
        return model

    def stop(self, signal: int = signals.SIGTERM, deadline: float = STOP_DEADLINE) -> int:
        """Send the signal, wait for the end, return the exit code; kill and fail after ``deadline``
        seconds. Does nothing to a process that has ended."""
        if self.running:
            self._know_children()
            self.process.send_signal(signal)
        return self.wait(deadline)

    def wait(self, deadline: float = STOP_DEADLINE) -> int:
        """Wait for the end and return the exit code; kill and fail after ``deadline`` seconds."""
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end; its log:\n{_tail(self.log_path)}") from None
        self._kill_children()
        return code

    def kill(self) -> None:
        """End the process and its kernels without asking."""
        self._know_children()
        self.process.kill()
        self.process.wait(STOP_DEADLINE)
        self._kill_children()

    def _know_children(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.children = psutil.Process(self.pid).children(recursive=True)

    def _kill_children(self) -> None:
        # An interrupted server leaves its kernels behind.
        for child in self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.abruptly:
            self.kill()
        elif error is None:
            self.stop()
        elif self.running:
            # The test's own failure is the one to be seen.
            with contextlib.suppress(AssertionError):
                self.stop()


def start_server(
    tmp_path: Path,
    *,
    config: Mapping[str, Any] | None = None,
    extensions: Mapping[str, bool] | None = None,
    stock: bool = False,
    token: str = TOKEN,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    python: str | Path = sys.executable,
    port: int | None = None,
    name: str = "server",
) -> Server:
    """Start ``jupyter server`` on a free port of the loopback address and wait until it answers.

    Args:
        tmp_path: configuration, notebooks, runtime files and the log go below it, in ``name``.
        config: traits by class, as in ``jupyter_server_config.json``.
        extensions: server extensions beside terminals and, unless ``stock``, ours. Nothing that is
            merely installed is loaded.
        stock: leave our extension out.
        token: the server's token; empty switches authentication by token off.
        args: more command line arguments.
        env: more environment. The project's root is on the path, so that ``extensions`` may name
            modules of ``tests.support``.
        python: the interpreter, which may be one of another environment.
        port: listen there, where one that is started again shall be found; else on a free one.
        name: tells apart several servers of one test. What is started again under the same name has the
            same files, its cookies' secret among them.
    """
    home = tmp_path / name
    for part in ("data", "runtime", "root", "tmp"):
        (home / part).mkdir(parents=True, exist_ok=True)
    loaded = {"jupyter_server_terminals": True, EXTENSION: not stock, **(extensions or {})}
    traits: dict[str, dict[str, Any]] = {
        "ServerApp": {
            "ip": "127.0.0.1",
            "port_retries": 0,
            "open_browser": False,
            "allow_root": True,
            "root_dir": str(home / "root"),
            "jpserver_extensions": loaded,
        },
        "IdentityProvider": {"token": token},
    }
    for section, values in (config or {}).items():
        traits.setdefault(section, {}).update(values)
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(KERNEL_CONFIG)
    config_path = home / "jupyter_server_config.json"
    config_path.write_text(json.dumps(traits))
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("JUPYTER")},
        # Nothing but the file above: what is merely installed must not enable itself.
        "JUPYTER_NO_CONFIG": "1",
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "TMPDIR": str(home / "tmp"),
        "PYTHONPATH": PYTHONPATH,
        "PYTHONUNBUFFERED": "1",
        **(env or {}),
    }
    command = [str(python), "-m", "jupyter_server", f"--config={config_path}", *args]
    log_path = home / "log.txt"
    for _attempt in range(5 if port is None else 1):
        listen_at = free_port() if port is None else port
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--ServerApp.port={listen_at}"],
                cwd=home / "root",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        base_url = traits["ServerApp"].get("base_url", "/")
        server = Server(process, listen_at, token, log_path, base_url)
        try:
            until(lambda: _ready(server), f"{name} ready", START_DEADLINE)  # noqa: B023
        except AssertionError:
            server.kill()
            raise AssertionError(f"did not start; its log:\n{_tail(log_path)}") from None
        if server.running:
            return server
        if "already in use" not in server.log():
            break  # somebody else was not simply faster at taking the port
    raise AssertionError(f"ended at once; its log:\n{_tail(log_path)}")


def free_port() -> int:
    """A port of the loopback address that nobody listens on.

    It is none of those that systems give away by themselves (from 32768 on Linux): a kernel that
    starts meanwhile would take it before whom it is meant for. Nor is it 10080, to which no browser and no
    ``fetch`` connects (Fetch standard, "bad port").
    """
    while True:
        port = 10_100 + secrets.randbelow(19_900)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _ready(server: Server) -> bool:
    """Whether it answers, or has ended."""
    if not server.running:
        return True
    try:
        # Open to all, so any token will do, even one that fits into no header.
        return server.request("GET", "api", token="").status == 200
    except (OSError, http.client.HTTPException):
        return False


def request(
    method: str,
    url: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    token: str = "",
) -> Answer:
    """One HTTP request, past whatever proxy this machine has; see ``Server.request``."""
    asked = urllib.request.Request(url, method=method)
    if token:
        asked.add_header("Authorization", f"token {token}")
    if body is not None:
        asked.data = json.dumps(body).encode()
        asked.add_header("Content-Type", "application/json")
    for name, value in (headers or {}).items():
        asked.add_header(name, value)
    try:
        with _OPENER.open(asked, timeout=60) as answer:
            return _answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error.headers, error.read())


def _tail(path: Path) -> str:
    return path.read_text("utf-8", "replace")[-4000:]


def _answer(status: int, headers: Any, body: bytes) -> Answer:
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


@contextlib.contextmanager
def run(
    arguments: Sequence[str], log_path: Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Any other process for the length of a block, its output in ``log_path``."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **options,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_DEADLINE)
