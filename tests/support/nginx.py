"""A real nginx in front of a server, in a process of its own: prefix, configuration, port and log of one
test. The machine's own nginx service is not touched.

    with nginx(tmp_path, server.port) as proxy:
        ...  # proxy.url, proxy.requests()
    with nginx(tmp_path, server.port, websockets=False, http="1.0", body_limit="1m") as proxy:
        ...  # as it is by itself: upgrades do not get through, answers are buffered, large bodies refused
"""

from __future__ import annotations

import getpass
import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.plugins.programs import requires
from tests.support.process import free_port, run
from tests.support.waiting import until, whole_lines

PROGRAM = ("nginx", "nginx")
"""The program and the Debian package that has it, for the marker ``requires``."""

_PROBE = "/the-proxy-itself"

_CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 512; }}
http {{
  log_format told escape=json '{{"at": $msec, "took": $request_time, "method": "$request_method", '
    '"uri": "$request_uri", "status": $status, "referer": "$http_referer", '
    '"upgrade": "$http_upgrade", "subprotocols": "$http_sec_websocket_protocol"}}';
  access_log access.log told;
  client_body_temp_path temporary;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  client_max_body_size {body_limit};
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen 127.0.0.1:{port};
    location = {probe} {{ access_log off; return 204; }}
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version {http};
      proxy_buffering on;
      proxy_set_header Host {host};
      {upgrade}
      {swallow}
      proxy_read_timeout {read_timeout};
      {more}
    }}
  }}
}}
"""
_UPGRADE = """\
proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;"""


@dataclass(frozen=True)
class Request:
    """A line of the access log, which is written when the answer, or the websocket, has ended.

    ``at`` is when the request came, in seconds of the epoch.
    """

    at: float
    method: str
    uri: str
    status: int
    referer: str
    websocket: bool
    subprotocols: str

    @property
    def path(self) -> str:
        return self.uri.partition("?")[0]


@dataclass
class Proxy:
    """A running nginx. ``url`` ends with a slash."""

    port: int
    prefix: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def requests(self) -> list[Request]:
        """The access log so far."""
        found = []
        for line in whole_lines(self.prefix / "access.log"):
            said = json.loads(line)
            begun = said["at"] - said["took"]
            websocket = said["upgrade"].lower() == "websocket"
            names = ("method", "uri", "status", "referer", "subprotocols")
            found.append(
                Request(at=begun, websocket=websocket, **{name: said[name] for name in names})
            )
        return found


@contextmanager
def nginx(
    tmp_path: Path,
    upstream: int,
    *,
    websockets: bool = True,
    http: str = "1.1",
    body_limit: str = "0",
    swallows: int | None = None,
    host: str = "$http_host",
    read_timeout: str = "1h",
    more: str = "",
    port: int | None = None,
    name: str = "nginx",
) -> Iterator[Proxy]:
    """Run nginx before the server on port ``upstream`` for the length of a block.

    Args:
        tmp_path: everything that nginx reads and writes is below it, in ``name``.
        upstream: a port of the loopback address. Nobody need listen there yet.
        websockets: whether the headers of an upgrade are passed on. nginx does not by itself, which is why
            so many servers stand behind proxies that let no websocket through.
        http: version that nginx speaks to the server.
        body_limit: ``client_max_body_size``; ``"0"`` is none.
        swallows: a port to pass upgrades on to, where somebody listens who never answers.
        host: what the server is told as ``Host``.
        read_timeout: for how long the server may be silent, ``proxy_read_timeout``.
        more: further directives of the location.
        port: listen there, where somebody has to know it before; else on a free one.
        name: tells apart several proxies of one test.
    """
    program = requires(*PROGRAM)
    prefix = tmp_path / name
    (prefix / "temporary").mkdir(parents=True)
    port = port or free_port()
    (prefix / "nginx.conf").write_text(
        _CONFIGURATION.format(
            # Otherwise the workers of root belong to somebody who may not write below tmp_path.
            user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
            port=port,
            probe=_PROBE,
            upstream=upstream,
            http=http,
            body_limit=body_limit,
            host=host,
            read_timeout=read_timeout,
            more=more,
            upgrade=_UPGRADE if websockets else "",
            swallow=""
            if swallows is None
            else f"if ($http_upgrade) {{ proxy_pass http://127.0.0.1:{swallows}; }}",
        )
    )
    arguments = [program, "-p", f"{prefix}/", "-c", "nginx.conf", "-e", "error.log"]
    with run(arguments, prefix / "output.txt") as process:
        proxy = Proxy(port, prefix)
        until(lambda: process.poll() is not None or _answers(proxy), "nginx is up")
        assert process.poll() is None, _said(prefix)
        yield proxy


def _answers(proxy: Proxy) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{proxy.url.rstrip('/')}{_PROBE}", timeout=30) as answer:
            return bool(answer.status == 204)
    except OSError:
        return False


def _said(prefix: Path) -> str:
    files = (prefix / "output.txt", prefix / "error.log")
    return "\n".join(file.read_text("utf-8", "replace") for file in files if file.exists())
