"""A real JupyterHub with its proxy and its users' servers, all of it on the loopback address.

    with jupyterhub(tmp_path) as hub:
        hub.start_server("ann")
        token = hub.token("ann", scopes=["access:servers!server=ann/"], expires_in=300)
        ...  # hub.url, hub.server_url("ann"), hub.revoke("ann", token)

Anybody may log in (DummyAuthenticator), and servers are processes of this one's user
(SimpleLocalProcessSpawner): whatever they are protected from each other by is not the system.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psutil

from tests.plugins.programs import requires_node_package, requires_python_package
from tests.support.process import EXTENSION, PYTHONPATH, Answer, free_port, request
from tests.support.waiting import until

START_DEADLINE = 120.0
"""Seconds. The Hub imports much, and each server does too."""

PORTAL = "portal"
"""The name of the service that is a portal."""

_PROXY = "configurable-http-proxy"

_CONFIGURATION = """\
import json
from pathlib import Path
from tests.support.process import free_port

said = json.loads(Path({said!r}).read_text())
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.bind_url = said["url"]
c.JupyterHub.hub_bind_url = said["hub_url"]
c.JupyterHub.public_url = said["public_url"]
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.cookie_secret = bytes.fromhex(said["cookie_secret"])
c.JupyterHub.allow_named_servers = True
c.ConfigurableHTTPProxy.command = said["proxy"]
c.ConfigurableHTTPProxy.api_url = said["proxy_url"]
c.ConfigurableHTTPProxy.pid_file = "proxy.pid"
c.SimpleLocalProcessSpawner.home_dir_template = said["homes"] + "/{{username}}"
c.Spawner.cmd = said["command"]
c.Spawner.environment = said["environment"]
c.Spawner.env_keep = said["env_keep"]
c.Spawner.http_timeout = c.Spawner.start_timeout = 120
c.JupyterHub.services = said["services"]
c.JupyterHub.load_roles = said["roles"]


def prepare(spawner):
    spawner.port = free_port()
    spawner.environment = {{**spawner.environment, **spawner.user_options["environment"]}}
    spawner.args = spawner.user_options["args"]


c.Spawner.pre_spawn_hook = prepare
"""

_SCOPES = ["admin:users", "admin:servers", "tokens", "access:servers", "read:hub"]
_PORTAL_ACCESS = f"access:services!service={PORTAL}"
PORTAL_SCOPES = [_PORTAL_ACCESS, "access:servers!user", "read:servers!user", "tokens!user"]
"""What the portal may do for who signed in by the pages: find their server, and get a token for it."""

_KEPT = ("PATH", "LANG", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "COVERAGE_RUN")


@dataclass
class Hub:
    """A running Hub. ``url`` ends with a slash; ``token`` may do everything."""

    port: int
    token: str
    home: Path
    process: subprocess.Popen[bytes]
    ids: dict[str, str] = field(default_factory=dict)
    browsers: dict[str, urllib.request.OpenerDirector] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def api_url(self) -> str:
        return f"{self.url}hub/api"

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        """What Hub, proxy and servers have written so far."""
        return (self.home / "log.txt").read_text("utf-8", "replace")

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        expect: Sequence[int] = (),
    ) -> Answer:
        """One request to the Hub's API; ``expect`` says which statuses are as they should be."""
        answer = request(
            method, f"{self.api_url}/{path}", body, token=self.token if token is None else token
        )
        assert not expect or answer.status in expect, (path, answer)
        return answer

    def add_user(self, user: str) -> None:
        """Make a user known, as a first login does."""
        self.ask("POST", f"users/{quote(user, safe='')}", expect=(201, 409))

    def start_server(
        self,
        user: str,
        name: str = "",
        environment: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        """Start a user's server, with more environment and arguments, and wait until it is ready."""
        self.add_user(user)
        place = f"users/{quote(user, safe='')}/servers/{quote(name, safe='')}"
        options = {"environment": dict(environment or {}), "args": list(args)}
        self.ask("POST", place, options, expect=(201, 202))
        until(lambda: self._ready(user, name), f"{user}'s server", START_DEADLINE)

    def _ready(self, user: str, name: str) -> bool:
        model = self.ask("GET", f"users/{quote(user, safe='')}", expect=(200,)).json()
        server = model["servers"].get(name)
        assert server, f"the server ended:\n{self.log()[-4000:]}"
        return bool(server["ready"])

    def stop_server(self, user: str, name: str = "") -> None:
        """Stop a user's server and wait for its end."""
        place = f"users/{quote(user, safe='')}"
        self.ask("DELETE", f"{place}/servers/{quote(name, safe='')}", expect=(202, 204))
        until(
            lambda: name not in self.ask("GET", place, expect=(200,)).json()["servers"],
            f"{user}'s server has ended",
            START_DEADLINE,
        )

    def token_of(
        self, user: str, scopes: Sequence[str] | None = None, expires_in: int | None = None
    ) -> str:
        """A new token of a user; without ``scopes`` for all that the user may do, without
        ``expires_in`` (seconds) for ever."""
        body: dict[str, Any] = {"note": "a test"}
        if scopes is not None:
            body["scopes"] = list(scopes)
        if expires_in is not None:
            body["expires_in"] = expires_in
        place = f"users/{quote(user, safe='')}/tokens"
        model = self.ask("POST", place, body, expect=(201,)).json()
        token: str = model["token"]
        self.ids[token] = f"{place}/{model['id']}"
        return token

    def revoke(self, token: str) -> None:
        """Revoke a token that ``token_of`` made."""
        self.ask("DELETE", self.ids[token], expect=(204,))

    def knows(self, token: str) -> bool:
        """Whether a token says to the Hub who somebody is."""
        return self.ask("GET", "user", token=token, expect=(200, 403)).status == 200

    def log_in(self, user: str, url: str) -> str:
        """Log in by the pages, as a browser does. Answers with the cookies for the server at ``url``."""
        jar = http.cookiejar.CookieJar()
        browser = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
        )
        browser.open(f"{self.url}hub/login", timeout=30).close()
        xsrf = next(cookie.value or "" for cookie in jar if cookie.name == "_xsrf")
        form = {"username": user, "password": "any", "_xsrf": xsrf}
        page = f"{url}api/token-ws/signed-in"
        browser.open(f"{self.url}hub/login", urlencode(form).encode(), timeout=60).close()
        with browser.open(page, timeout=30) as answer:
            assert answer.url == page, answer.url
        self.browsers[user] = browser
        asked = urllib.request.Request(page)
        jar.add_cookie_header(asked)
        return asked.get_header("Cookie") or ""

    def log_out(self, user: str) -> None:
        """Log out at the Hub, in the browser in which the user logged in last."""
        with self.browsers.pop(user).open(f"{self.url}hub/logout", timeout=60) as answer:
            assert answer.url == f"{self.url}hub/login", answer.url

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For the length of a block it answers nobody. Proxy and servers go on."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def server_url(self, user: str, name: str = "") -> str:
        """Where a user's server is, through the proxy."""
        path = f"user/{quote(user, safe='@~')}/"
        return self.url + path + (f"{quote(name, safe='@~')}/" if name else "")

    @property
    def portal_url(self) -> str:
        """Where the portal is, through the proxy."""
        return f"{self.url}services/{PORTAL}/"

    def end(self) -> None:
        """End the Hub, which ends proxy and servers; whoever stays is killed."""
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


@contextlib.contextmanager
def jupyterhub(
    tmp_path: Path,
    *,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    portal: Callable[[str], Mapping[str, Any]] | None = None,
    public_url: bool = True,
) -> Iterator[Hub]:
    """A running JupyterHub for the length of a block. Needs Python package and node package.

    Args:
        tmp_path: everything that it reads and writes is below it, in ``hub``.
        config: traits of the users' servers by class, as in ``jupyter_server_config.json``.
        environment: more environment of the users' servers.
        portal: traits, by the Hub's address, of a server beside the users' servers: a service of the Hub's
            for everybody.
        public_url: whether the Hub knows its public address; most do not.
    """
    requires_python_package("jupyterhub")
    node = requires_node_package(_PROXY)
    home = tmp_path / "hub"
    for part in ("homes", "runtime", "tmp"):
        (home / part).mkdir(parents=True)
    port, token = free_port(), secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}/"
    said: dict[str, Any] = {
        "url": url,
        "hub_url": f"http://127.0.0.1:{free_port()}/",
        "public_url": url if public_url else "",
        "proxy_url": f"http://127.0.0.1:{free_port()}/",
        "proxy": [str(node / ".bin" / _PROXY)],
        "cookie_secret": secrets.token_hex(32),
        "homes": str(home / "homes"),
        "command": _server_command(home, "servers", config or {}),
        "environment": {
            # Nothing but the file named: what is merely installed must not enable itself.
            "JUPYTER_NO_CONFIG": "1",
            "PYTHONPATH": PYTHONPATH,
            "TMPDIR": str(home / "tmp"),
            **(environment or {}),
        },
        "env_keep": list(_KEPT),
        "services": [{"name": "tests", "api_token": token}],
        "roles": [{"name": "tests", "scopes": _SCOPES, "services": ["tests"]}],
    }
    if portal is not None:
        said["services"].append(
            {
                "name": PORTAL,
                "url": f"http://127.0.0.1:{free_port()}",
                "command": _server_command(home, PORTAL, portal(url)),
                "environment": {**said["environment"], "HOME": str(home / "homes")},
                "oauth_client_allowed_scopes": PORTAL_SCOPES,
                "oauth_no_confirm": True,
            }
        )
        said["roles"].append({"name": "user", "scopes": ["self", _PORTAL_ACCESS]})
    (home / "said.json").write_text(json.dumps(said))
    configuration = home / "jupyterhub_config.py"
    configuration.write_text(_CONFIGURATION.format(said=str(home / "said.json")))
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", f"--config={configuration}"],
            cwd=home,
            env={
                **{key: value for key, value in os.environ.items() if "JUPYTER" not in key},
                "JUPYTER_NO_CONFIG": "1",
                "PYTHONPATH": PYTHONPATH,
                "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(32),
                "TMPDIR": str(home / "tmp"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    hub = Hub(port, token, home, process)
    try:
        # The last it says, when proxy and Hub know each other.
        up = "JupyterHub is now running at"
        until(lambda: not hub.running or up in hub.log(), "JupyterHub", START_DEADLINE)
        assert hub.running, hub.log()[-4000:]
        yield hub
    finally:
        hub.end()


def _server_command(home: Path, name: str, config: Mapping[str, Any]) -> list[str]:
    traits: dict[str, dict[str, Any]] = {
        "ServerApp": {
            "allow_root": True,
            "jpserver_extensions": {EXTENSION: True, "jupyter_server_terminals": True},
        },
    }
    for section, values in config.items():
        traits.setdefault(section, {}).update(values)
    path = home / f"{name}.json"
    path.write_text(json.dumps(traits))
    return [sys.executable, "-m", "jupyterhub.singleuser", f"--config={path}"]
