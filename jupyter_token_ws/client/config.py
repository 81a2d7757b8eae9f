"""Which auth plugins a client has: from its argument, the environment, or a file (TOML).

No secret is written into any of these. They name the environment variable or the file where it is, and it is
read there whenever it is needed: one that was changed meanwhile is found.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from jupyter_token_ws.protocol.auth import (
    AuthPlugin,
    BasicAuth,
    CookieAuth,
    HubAuth,
    NoAuth,
    TicketAuth,
    TokenAuth,
)

from .errors import ClientError

tomllib: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

AUTH = "JUPYTER_TOKEN_WS_AUTH"
"""Environment variable with names of plugins, in their order, with commas between them."""

CONFIG = "JUPYTER_TOKEN_WS_CONFIG"
"""Environment variable with the path of a file as ``plugins_of_file`` reads it."""

GROUP = "jupyter_token_ws.auth"
"""Entry points of other people's plugins: each loads what is called with options and returns a plugin."""

MAX_FILE = 64 * 1024
"""Bytes of a file of ours at most."""

_OPTIONS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "token": frozenset({"token"}),
    "cookie": frozenset({"password", "token"}),
    "ticket": frozenset({"password", "token", "max_age"}),
    "basic": frozenset({"user", "password"}),
    "hub": frozenset({"token", "base_url"}),
}
_SECRETS = frozenset({"password", "token"})
_VARIABLES = {"token": "JUPYTER_TOKEN", "password": "JUPYTER_PASSWORD"}
_OTHER_VARIABLES = {
    ("basic", "user"): "JUPYTER_PROXY_USER",
    ("basic", "password"): "JUPYTER_PROXY_PASSWORD",
    ("hub", "token"): "JUPYTERHUB_API_TOKEN",
    ("hub", "base_url"): "JUPYTERHUB_BASE_URL",
}

Auth = str | AuthPlugin[Any] | Sequence[AuthPlugin[Any]] | None


def plugins_of(
    auth: Auth = None, environ: Mapping[str, str] = os.environ
) -> tuple[AuthPlugin[Any], ...]:
    """The plugins of a client, in the order in which they are asked.

    Args:
        auth: a token, a plugin, or several; ``None``: those of ``JUPYTER_TOKEN_WS_AUTH``, else of the file
            that ``JUPYTER_TOKEN_WS_CONFIG`` names, else no credential at all.
        environ: the environment.

    Raises ``ClientError`` for configuration that is none.
    """
    if isinstance(auth, str):
        return (TokenAuth(auth),)
    if isinstance(auth, AuthPlugin):
        return (auth,)
    if auth is not None:
        return tuple(auth)
    if environ.get(AUTH):
        return plugins_by_name(environ[AUTH], environ)
    if environ.get(CONFIG):
        return plugins_of_file(Path(environ[CONFIG]), environ)
    return (NoAuth(),)


def plugins_by_name(
    names: str, environ: Mapping[str, str] = os.environ
) -> tuple[AuthPlugin[Any], ...]:
    """The plugins of a list of names with commas between them.

    Their secrets are in ``JUPYTER_TOKEN``, ``JUPYTER_PASSWORD``, ``JUPYTER_PROXY_PASSWORD`` and
    ``JUPYTERHUB_API_TOKEN``, or in the file that the same name with ``_FILE`` names; a plugin without its
    secret passes every server on to the next. Raises ``ClientError``.
    """
    tables = [{"plugin": name.strip()} for name in names.split(",") if name.strip()]
    if not tables:
        raise ClientError(f"there is no name of an auth plugin; known are {_known()}")
    return _plugins(
        tables, environ, f"a list of names has no options, as a file named by {CONFIG} has"
    )


def plugins_of_file(
    path: Path, environ: Mapping[str, str] = os.environ
) -> tuple[AuthPlugin[Any], ...]:
    """The plugins of a file::

        [[auth]]
        plugin = "ticket"
        password_file = "~/.lab-password"       # or password_env, or token_file, or token_env
        servers = ["https://lab.example.org/"]  # for these alone

        [[auth]]
        plugin = "token"

    Options are the arguments of the plugin's class. Raises ``ClientError``.
    """
    try:
        read = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise ClientError(f"{path} is no TOML: {error}") from None
    tables = read.get("auth")
    if isinstance(tables, dict):
        raise ClientError(
            f"{path} has [auth]: write [[auth]], with two brackets, for each plugin, also for one alone"
        )
    if not (isinstance(tables, list) and tables and all(isinstance(each, dict) for each in tables)):
        raise ClientError(
            f"{path} has no [[auth]]: it needs one for each plugin, with its name as plugin"
        )
    return _plugins(tables, environ, str(path))


def _plugins(
    tables: Iterable[Mapping[str, Any]], environ: Mapping[str, str], whence: str
) -> tuple[AuthPlugin[Any], ...]:
    plugins: list[AuthPlugin[Any]] = []
    for table in reversed(list(tables)):
        name, servers = table.get("plugin"), table.get("servers", [])
        if not (isinstance(servers, list) and all(isinstance(each, str) for each in servers)):
            raise ClientError(f"servers in {whence} must be a list of base URLs")
        given = {key: value for key, value in table.items() if key not in ("plugin", "servers")}
        if not isinstance(name, str):
            raise ClientError(f'{whence}: an [[auth]] needs plugin = "…"; known are {_known()}')
        options = _options(name, given, environ, whence)
        if name == "basic":  # the plugins after it stand beside it
            plugin = _basic(options, plugins)
            plugins = [] if plugin is not None else plugins
        else:
            plugin = _make(name, options, whence)
        if plugin is not None:
            plugin.servers = tuple(servers)
            plugins.insert(0, plugin)
    return tuple(plugins)


def _options(
    name: str, given: Mapping[str, Any], environ: Mapping[str, str], whence: str
) -> dict[str, Any]:
    """Options as arguments: each ``x_env`` and ``x_file`` is what reads that."""
    known = _OPTIONS.get(name)
    options: dict[str, Any] = {}
    for key, value in given.items():
        option, _, place = key.rpartition("_")
        if place in ("env", "file") and option and isinstance(value, str):
            options[option] = _reader(place, value, environ)
        elif key in _SECRETS:
            raise ClientError(
                f"{key} stands in {whence} itself: give {key}_env or {key}_file, where it is"
            )
        else:
            option = key
            options[option] = value
        if known is not None and option not in known:
            raise ClientError(
                f"{whence}: the plugin {name} has no option {key}, but {', '.join(sorted(known)) or 'none'}"
            )
    if known is not None and not (options.keys() & _SECRETS):
        for option in known & {"token", "password", "user", "base_url"}:
            variable = _OTHER_VARIABLES.get((name, option)) or _VARIABLES[option]
            options.setdefault(option, _variable(variable, environ))
    return options


def _make(name: str, options: dict[str, Any], whence: str) -> AuthPlugin[Any]:
    try:
        if name == "none":
            return NoAuth()
        if name == "token":
            return TokenAuth(**options)
        if name == "cookie":
            return CookieAuth(_either(options.get("password"), options.get("token")))
        if name == "ticket":
            return TicketAuth(**options)
        if name == "hub":
            base_url = options.pop("base_url", "")
            return HubAuth(base_url=_text(base_url) or "/", **options)
        made = _third_party(name)(**options)
    except TypeError as error:
        raise ClientError(f"{whence}: options of the auth plugin {name}: {error}") from None
    if not isinstance(made, AuthPlugin):
        raise ClientError(f"what the entry point {name} of {GROUP} makes is no auth plugin")
    return made


def _basic(options: Mapping[str, Any], beside: Sequence[AuthPlugin[Any]]) -> AuthPlugin[Any] | None:
    """``None`` where there is no user: then there is no such proxy."""
    user = _text(options.get("user", ""))
    return BasicAuth(user, options.get("password", ""), beside) if user else None


def _third_party(name: str) -> Callable[..., Any]:
    for found in entry_points(group=GROUP):
        if found.name == name:
            loaded: Callable[..., Any] = found.load()
            return loaded
    if ":" in name or "." in name:
        # Whoever may write this file, or the environment, is not thereby to choose what code is run.
        raise ClientError(
            f"{name!r} names a class, and here stand names of plugins only ({_known()}). Name yours as an"
            f" entry point of {GROUP} in its package, and write that; or give connect(auth=…) an object of it"
        )
    raise ClientError(f"there is no auth plugin {name!r}; known are {_known()}")


def _known() -> str:
    return ", ".join([*_OPTIONS, *sorted({found.name for found in entry_points(group=GROUP)})])


def _text(value: Any) -> str:
    return str(value() if callable(value) else value)


def _either(*secrets: Callable[[], str] | None) -> Callable[[], str]:
    def read() -> str:
        return next((text for secret in secrets if secret and (text := secret())), "")

    return read


def _reader(place: str, name: str, environ: Mapping[str, str]) -> Callable[[], str]:
    def read() -> str:
        if place == "env":
            return environ.get(name, "")
        return _read(Path(name).expanduser()).rstrip("\r\n")

    return read


def _variable(name: str, environ: Mapping[str, str]) -> Callable[[], str]:
    """What reads a variable, or the file that the one with ``_FILE`` names."""

    def read() -> str:
        if not environ.get(name) and environ.get(f"{name}_FILE"):
            return _reader("file", environ[f"{name}_FILE"], environ)()
        return environ.get(name, "")

    return read


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            read = file.read(MAX_FILE + 1)
        if len(read) <= MAX_FILE:
            return read.decode()
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ClientError(f"{path} is no text") from None
    raise ClientError(f"{path} has more than {MAX_FILE} bytes")
