"""Other proxies than nginx in front of a server, each with the settings that it comes with: haproxy as Debian
sets it up, but without its delay of event streams; caddy. Ports, configuration and log are of one test.

    with haproxy(tmp_path, server.port) as url:
        ...  # ends with a slash
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.plugins.programs import requires
from tests.support.process import free_port, run
from tests.support.waiting import until

HAPROXY = ("haproxy", "haproxy")
CADDY = ("caddy", "caddy")
"""Programs and the Debian packages that have them, for the marker ``requires``."""

_HAPROXY = """\
defaults
  mode http
  {delay}
  timeout connect 5000
  timeout client  50000
  timeout server  50000
frontend all
  bind 127.0.0.1:{port} {bind}
  default_backend server
backend server
  server one 127.0.0.1:{upstream}
  {more}
"""

_CADDY = """\
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{upstream}
}}
"""


@contextmanager
def haproxy(
    tmp_path: Path, upstream: int, *, more: str = "", bind: str = "", delay: bool = False
) -> Iterator[str]:
    """Run haproxy before the server on port ``upstream`` for the length of a block: its URL. ``more`` is
    another line of its backend, ``bind`` more of how it listens: ``ssl crt FILE``; ``delay`` leaves it the
    one that it has by default."""
    path, port = tmp_path / "haproxy.cfg", free_port()
    option = "" if delay else "option http-no-delay"
    settings = {"port": port, "upstream": upstream, "more": more, "bind": bind, "delay": option}
    path.write_text(_HAPROXY.format(**settings))
    with _running([requires(*HAPROXY), "-db", "-f", str(path)], port, tmp_path / "haproxy.txt"):
        yield f"{'https' if bind.startswith('ssl') else 'http'}://127.0.0.1:{port}/"


@contextmanager
def caddy(tmp_path: Path, upstream: int) -> Iterator[str]:
    """Run caddy before the server on port ``upstream`` for the length of a block: its URL."""
    path, port = tmp_path / "Caddyfile", free_port()
    path.write_text(_CADDY.format(port=port, upstream=upstream))
    arguments = [requires(*CADDY), "run", "--adapter", "caddyfile", "--config", str(path)]
    with _running(arguments, port, tmp_path / "caddy.txt", HOME=str(tmp_path)):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def _running(arguments: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    with run(arguments, log, env={**os.environ, **environment}) as process:
        until(lambda: process.poll() is not None or _listens(port), f"{arguments[0]} is up")
        assert process.poll() is None, log.read_text("utf-8", "replace")
        yield


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30):
        return True
    return False
