"""Two real server processes that differ in one thing: whether the extension is on.

Also the program of such a server: `python -m benchmarks.servers` is jupyter_server without the
extensions that happen to be installed, so that only those named by the configuration load.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_server.serverapp import ServerApp

from benchmarks import client
from benchmarks.channels import Channels

EMITTER = [sys.executable, "-m", "benchmarks.emitter", "{connection_file}"]

START_TIMEOUT = 60.0
"""Seconds for a server to answer, and for a kernel to be ready."""


class PlainServer(ServerApp):
    """jupyter_server with the extensions that its configuration names, and no others."""

    def find_server_extensions(self) -> None:
        """Do not look for installed extensions."""


@dataclass
class Server:
    """A running server.

    Attributes:
        name: "stock" or "ours".
        process: it.
        port: on 127.0.0.1.
        token: that it takes.
        log: what it writes to.
        kernel_id: of its ipykernel, "" without one.
    """

    name: str
    process: subprocess.Popen[bytes]
    port: int
    token: str
    log: Path
    kernel_id: str = ""

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Ask its REST API; return the JSON of the answer.

        Raises:
            client.AnswerError: it was no success.
        """
        return client.request_json(self.port, method, path, self.token, body)

    def idle_cpu_ns(self) -> int:
        """Wait until it has nothing to do; return the processor time that it has had since it began.

        All threads, in nanoseconds, from the scheduler's own account (proc(5), schedstat): process
        times come in steps of 10 ms.
        """
        deadline = time.monotonic() + START_TIMEOUT
        before, now = None, self._idle_cpu_ns()
        while now is None or now != before:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: the server does not come to rest")
            # Short beside a handshake, long beside a pause within one.
            time.sleep(0.0005)
            before, now = now, self._idle_cpu_ns()
        return now

    def _idle_cpu_ns(self) -> int | None:
        """Of all threads, or None if one of them is at work.

        Its state has to be looked at: the account of one that runs on stands still between two ticks
        of the system's clock.
        """
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                state = (task / "stat").read_text().rpartition(")")[2].split()[0]
                time_spent = int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                return None  # it was at work, and has ended
            if state != "S":
                return None
            total += time_spent
        return total

    @property
    def memory(self) -> int:
        """Bytes that it has in memory."""
        return self._status("VmRSS")

    @property
    def memory_peak(self) -> int:
        """The most that it had since ``forget_peak``."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Count the peak from here (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def start_emitter(self, *arguments: str) -> str:
        """Start a kernel that is `emitter`, with these arguments; return its id."""
        name = "emitter" + "".join(arguments)
        folder = self.log.parent / "data" / "kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        spec = {"argv": [*EMITTER, *arguments], "display_name": name, "language": name}
        (folder / "kernel.json").write_text(json.dumps(spec))
        return self.start_kernel(name)

    def start_kernel(self, name: str = "python3") -> str:
        """Start a kernel and wait until it has said that it is idle; return its id.

        Raises:
            RuntimeError: it does not; what the server wrote about it is in there.
        """
        kernel_id = str(self.request("POST", "/api/kernels", {"name": name})["id"])
        try:
            with Channels(self, kernel_id) as channels:
                channels.settle()
            self.await_state(kernel_id, "idle")
        except (OSError, RuntimeError, client.AnswerError) as error:
            log = self.log.read_text(errors="replace")
            said = "\n".join(line for line in log.splitlines() if kernel_id in line)
            raise RuntimeError(
                f"{self.name}: kernel {kernel_id} does not start:\n{said}"
            ) from error
        return kernel_id

    def state(self, kernel_id: str) -> str:
        """What the server says of a kernel."""
        return str(self.request("GET", f"/api/kernels/{kernel_id}")["execution_state"])

    def await_state(self, kernel_id: str, state: str) -> None:
        """Wait until the server says this of a kernel."""
        deadline = time.monotonic() + START_TIMEOUT
        while self.state(kernel_id) != state:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: the kernel does not get {state}")
            time.sleep(0.02)

    def pin(self, cores: set[int]) -> None:
        """Keep all its threads on *cores*; those that they start later stay there too."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


@contextlib.contextmanager
def both(
    config: dict[str, Any] | None = None,
    *,
    control: bool = False,
    kernel: bool = False,
    pinned: bool = False,
) -> Iterator[tuple[Server, Server]]:
    """Run a stock server and one with the extension side by side.

    Args:
        config: for both, in the form of jupyter_server_config.json.
        control: leave the extension out of both.
        kernel: start an ipykernel in each.
        pinned: let the two share one core and leave the others to this process and the kernels: as
            one of them is asked at a time they do not compete, and each finds the core as the other
            does. Left to the scheduler, two stock servers differ by 10 % for seconds on end. Not
            where a server is to be at work in more than one thread: ZMQ receives in one of its own.

    Yields:
        The stock server and ours.
    """
    _allow_descriptors()
    extensions = {} if control else {"jupyter_token_ws": True}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        _running("stock", Path(folder), {}, config or {}) as stock,
        _running("ours", Path(folder), extensions, config or {}) as ours,
    ):
        if kernel:
            for server in (stock, ours):
                server.kernel_id = server.start_kernel()
        cores = os.sched_getaffinity(0)
        if pinned and len(cores) > 1:
            last = max(cores)
            for server in (stock, ours):
                server.pin({last})
            os.sched_setaffinity(0, cores - {last})
        try:
            yield stock, ours
        finally:
            os.sched_setaffinity(0, cores)


def _allow_descriptors() -> None:
    """As many as may be, here and in the servers: a thousand connections are some thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def _running(
    name: str, folder: Path, extensions: dict[str, bool], config: dict[str, Any]
) -> Iterator[Server]:
    home = folder / name
    for part in ("config", "runtime", "data", "root"):
        (home / part).mkdir(parents=True)
    token = secrets.token_hex(24)
    settings = {
        **config,
        "ServerApp": {
            "ip": "127.0.0.1",
            "port": 0,
            "open_browser": False,
            "allow_root": True,
            "root_dir": str(home / "root"),
            "jpserver_extensions": {"jupyter_server_terminals": True, **extensions},
            **config.get("ServerApp", {}),
        },
        "IdentityProvider": {"token": token},
    }
    (home / "config" / "jupyter_server_config.json").write_text(json.dumps(settings))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("JUPYTER")}
    environ |= {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.servers"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        server = Server(name, process, _find_port(process, home / "runtime", log), token, log)
        _check_extension(server, wanted=bool(extensions))
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _find_port(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> int:
    """Wait for the server to write down where it is."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        for entry in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError, OSError):
                port = int(json.loads(entry.read_text())["port"])
                client.request_json(port, "GET", "/api", "")
                return port
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')}")


def _check_extension(server: Server, *, wanted: bool) -> None:
    """Make sure that the two do differ."""
    try:
        server.request("GET", "/api/token-ws/capabilities")
        there = True
    except client.AnswerError:
        there = False
    if there != wanted:
        raise RuntimeError(f"{server.name}: the extension is {'on' if there else 'off'}")


if __name__ == "__main__":
    PlainServer.launch_instance()
