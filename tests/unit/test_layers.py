"""Imports between the rooms of the package point one way, and the protocol room does no I/O.

Read from the syntax trees of all modules, imports inside functions and for the type checker
included: a dependency is one wherever it is written.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import jupyter_token_ws

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "jupyter_token_ws"

# What each room may import of the others. A module at the top of the package is a room too, and a
# room that is not here is reported: whoever adds one decides where it stands.
MAY_IMPORT = {
    "_version": set(),
    "protocol": set(),
    "guard": {"protocol", "_version"},
    "bridge": {"protocol", "guard"},
    "login": {"protocol", "guard"},
    "tunnel": {"protocol", "guard"},
    "frontends": set(),
    "app": {"protocol", "guard", "bridge", "login", "tunnel", "frontends", "_version"},
    "client": {"protocol", "_version"},
    "demo": {"protocol", "client", "app", "_version"},
    "preflight": {"protocol"},
    "cli_login": {"protocol", "preflight"},
    "cli_access": {"protocol", "client", "preflight"},
    "cli_run": {"protocol", "client", "preflight", "cli_access"},
    "cli_doctor": {"protocol", "client", "preflight", "cli_access"},
    "cli": {
        "protocol", "client", "app", "demo", "preflight",
        "cli_access", "cli_doctor", "cli_login", "cli_run", "_version",
    },
    # The package itself only hands on the public names of others.
    "": {"_version", "protocol", "guard", "tunnel", "client", "app"},
}  # fmt: skip

# Rooms from which others may take public names only.
PUBLIC_ONLY = {"app"}

# Frameworks, and the parts of the standard library by which bytes come and go.
NO_IO = {
    "protocol": {
        "aiohttp", "anyio", "asyncio", "http", "httpx", "ipykernel", "multiprocessing", "notebook",
        "requests", "select", "selectors", "signal", "socket", "socketserver", "ssl", "subprocess",
        "threading", "tornado", "traitlets", "websocket", "websockets", "zmq",
    },
}  # fmt: skip


class Import(NamedTuple):
    """One imported name: where, of which module (absolute), and the name if there is one."""

    line: int
    module: str
    name: str | None


def imports_of(tree: ast.AST, package: str) -> Iterator[Import]:
    """Yield the imports of a module of *package*, relative ones and ``import_module`` included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(node.lineno, alias.name, None)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = module or ""
                if level:
                    parents = package.split(".")[: len(package.split(".")) - level + 1]
                    base = ".".join([*parents, *([module] if module else [])])
                for alias in names:
                    yield Import(node.lineno, base, alias.name)
            case ast.Call(
                func=ast.Attribute(attr="import_module")
                | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                if name.startswith("."):
                    name = package + name
                yield Import(node.lineno, name, None)


def room_of(parts: tuple[str, ...]) -> str:
    """Return the room of a module, from the parts of its path or name below the package."""
    first = parts[0].removesuffix(".py") if parts else ""
    return "" if first == "__init__" else first


def problems_in(root: Path) -> list[str]:
    """Say which imports in the package at *root* go where they must not."""
    problems = []
    for path in sorted(root.rglob("*.py")):
        below = path.relative_to(root)
        room = room_of(below.parts)
        if room not in MAY_IMPORT:
            problems.append(f"{below}: the room {room!r} is not in the table of rooms")
            continue
        package = ".".join([PACKAGE, *below.parts[:-1]])
        for found in imports_of(ast.parse(path.read_text(encoding="utf-8")), package):
            where = f"{below}:{found.line}"
            top = found.module.partition(".")[0]
            if top != PACKAGE:
                if room in NO_IO and (top in NO_IO[room] or top.startswith("jupyter")):
                    problems.append(f"{where}: {room} does no I/O but imports {found.module}")
                continue
            parts = tuple(found.module.split(".")[1:])
            # `from jupyter_token_ws import app` may name a room, a name of the package's own or the
            # version; `import jupyter_token_ws` hands over everything.
            if not parts and found.name is not None:
                parts = ("_version",) if found.name == "__version__" else (found.name,)
            other = room_of(parts)
            if other == room:
                continue
            if other not in MAY_IMPORT[room]:
                problems.append(f"{where}: {room or PACKAGE} imports {other or PACKAGE}")
            elif other in PUBLIC_ONLY and room and (found.name or "").startswith("_"):
                problems.append(
                    f"{where}: {room} imports {found.name}, which {other} keeps private"
                )
    return problems


def test_imports_between_rooms_point_one_way():
    root = Path(jupyter_token_ws.__file__).parent
    assert (root / "protocol").is_dir()
    assert problems_in(root) == []


def test_protocol_loads_no_framework_at_run_time():
    """Nor does the package around it, which is imported first."""
    code = f"""
import sys
before = set(sys.modules)
import pkgutil, importlib, {PACKAGE}.protocol as protocol
for module in pkgutil.walk_packages(protocol.__path__, protocol.__name__ + "."):
    importlib.import_module(module.name)
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert PACKAGE in loaded
    assert not {"asyncio", "tornado", "zmq", "jupyter_server", "traitlets"} & set(loaded)


def test_extras_are_loaded_by_whoever_configures_them_only():
    """Loading all of the room of login, also without the packages of our extras, is no error."""
    code = f"""
import sys
for name in ("redis", "cryptography"):
    sys.modules[name] = None
import pkgutil, importlib, {PACKAGE}.login as login
for module in pkgutil.walk_packages(login.__path__, login.__name__ + "."):
    print(importlib.import_module(module.name).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {f"{PACKAGE}.login.{store}" for store in ("redis", "sealed")} <= {*done.stdout.split()}


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        (
            "protocol/a.py",
            "import tornado.web",
            "protocol/a.py:1: protocol does no I/O*tornado.web",
        ),
        ("protocol/a.py", "from asyncio import sleep", "*protocol does no I/O*asyncio"),
        ("protocol/a.py", "def f():\n    import zmq", "protocol/a.py:2: protocol does no I/O*zmq"),
        ("protocol/a.py", "from jupyter_client import x", "*protocol does no I/O*jupyter_client"),
        (
            "protocol/a.py",
            "import importlib as i\ni.import_module('ssl')",
            "*2: protocol does no*ssl",
        ),
        ("protocol/a.py", "if TYPE_CHECKING:\n    import socket", "*protocol does no I/O*socket"),
        ("protocol/a.py", "from ..guard import router", "*protocol imports guard"),
        ("protocol/sub/a.py", "from ...guard.router import R", "*protocol imports guard"),
        ("protocol/a.py", "from .. import guard", "*protocol imports guard"),
        ("guard/a.py", "from jupyter_token_ws import app", "*guard imports app"),
        ("guard/a.py", "import jupyter_token_ws.login", "*guard imports login"),
        ("guard/a.py", "import jupyter_token_ws", "*guard imports jupyter_token_ws"),
        ("guard/a.py", "from jupyter_token_ws import Thing", "*guard imports Thing"),
        ("login/a.py", "from ..tunnel.carriers import C", "*login imports tunnel"),
        ("login/a.py", "from ..bridge import hub", "*login imports bridge"),
        ("login/a.py", "from ..app import TokenWebSocketApp", "*login imports app"),
        ("client/a.py", "from ..guard import x", "*client imports guard"),
        ("cli.py", "from .app import _private", "*cli imports _private, which app keeps private"),
        ("cli.py", "from .guard import x", "*cli imports guard"),
        ("attic/a.py", "", "*the room 'attic' is not in the table of rooms"),
        ("attic.py", "", "*the room 'attic' is not in the table of rooms"),
        ("__init__.py", "from .cli import main", "*jupyter_token_ws imports cli"),
    ],
)
def test_import_that_goes_the_wrong_way_is_found(tmp_path, file, text, problem):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (found,) = problems_in(tmp_path)
    assert fnmatchcase(found, problem)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("protocol/a.py", "from urllib.parse import quote\nfrom .b import c\nfrom . import d"),
        ("guard/a.py", "import tornado\nfrom ..protocol.reasons import R\nfrom .b import _c"),
        ("guard/a.py", "from jupyter_token_ws import __version__"),
        ("guard/a.py", "from jupyter_token_ws.protocol import x"),
        ("tunnel/a.py", "from .. import guard, protocol"),
        ("cli.py", "from .app import TokenWebSocketApp\nfrom .client import connect"),
        ("__init__.py", "def f():\n    from .app import TokenWebSocketApp"),
    ],
)
def test_import_that_goes_the_right_way_is_not_reported(tmp_path, file, text):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert problems_in(tmp_path) == []
