"""The client's reference, from its docstrings: `docs/reference/client.md`.

What a docstring says in reStructuredText (double backquotes) and in Google's sections (Args, Raises) is
written as Markdown.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from jupyter_token_ws import client
from jupyter_token_ws.client import errors
from jupyter_token_ws.protocol.auth import AuthPlugin
from jupyter_token_ws.protocol.errors import ClientError

CLASSES: tuple[type, ...] = (
    client.Server,
    client.Socket,
    client.Kernel,
    client.Execution,
    client.Result,
    client.Comm,
    client.Limits,
)

INTERNAL: dict[type, frozenset[str]] = {
    client.Kernel: frozenset(
        {"open", "wait_for", "has_room", "answer", "forget", "send_comm", "forget_comm"}
    ),
    client.Execution: frozenset({"replied", "holds_up", "limit", "feed", "fail"}),
    client.Comm: frozenset({"feed", "end"}),
}
"""What the classes have for each other."""

Row = tuple[str, str, str]

_SECTION = re.compile(r"^(Args|Raises|Yields|Returns|Example|Attributes):$", re.MULTILINE)


def _parts(thing: object) -> dict[str, str]:
    """A docstring by its sections; what stands before the first is called ``""``."""
    pieces = _SECTION.split(inspect.getdoc(thing) or "")
    return {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def _markdown(text: str) -> str:
    """In one line."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))


def _described(section: str) -> dict[str, str]:
    """The names of a section, and what is said of each."""
    section = re.split(r"\n(?=\S)", section)[0]  # what is not indented is no longer of the section
    items = re.split(r"^(\w+): ", inspect.cleandoc("\n" + section), flags=re.MULTILINE)
    return dict(zip(items[1::2], map(_markdown, items[2::2]), strict=True))


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return ""
    text = repr(parameter.default)
    return f"`{text}`" if not text.startswith("<") else "its own"


def _arguments(function: Callable[..., Any], documented: object) -> Iterator[Row]:
    said = _described(_parts(documented).get("Args", ""))
    for name, parameter in inspect.signature(function).parameters.items():
        if name != "self":
            yield f"`{name}`", _default(parameter), said.get(name, "")


def connect_options() -> list[Row]:
    """What ``connect`` takes."""
    return list(_arguments(client.connect, client.connect))


def tls_options() -> list[Row]:
    """What ``TLSIdentity`` takes."""
    return list(_arguments(client.TLSIdentity, client.TLSIdentity))


TOLD = (errors.RefusedError, errors.SocketClosedError, errors.TunnelEndedError)
"""Errors whose advice is the server's."""


def tree() -> list[tuple[str, ...]]:
    """The errors: parent, meaning, advice."""
    found = [ClientError, *(getattr(errors, name) for name in errors.__all__)]
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(found):
        parent = kind.__base__.__name__ if kind is not ClientError else "Exception"
        text = _markdown(_parts(kind)[""].split("\n\n")[0])
        advice = "by what was told" if kind in TOLD else f"`{kind.advice.value}`"
        rows.append((f"`{kind.__name__}`", f"`{parent}`", text, advice))
    return rows


def classes() -> str:
    """One section per class, with its public methods and properties."""
    return "\n\n".join(map(_class, CLASSES))


def plugin_methods() -> str:
    """What somebody who writes an auth plugin may write, and what each returns."""
    lines = []
    for name, member in _members(AuthPlugin):
        returns = inspect.signature(member).return_annotation
        about = _markdown(_parts(member)[""])
        lines.append(f"- `{_called(name, member)}` → `{returns}`: {about}")
    return "\n".join(lines)


def _class(kind: type) -> str:
    lines = []
    if kind in (client.Result, client.Limits):
        lines += [f"- `{name}`: {text}" for name, text in _described_of(kind).items()]
    for name, member in _members(kind):
        lines.append(f"- `{_called(name, member)}`: {_markdown(_parts(member)[''])}")
        lines += [f"  - `{each}`: {text}" for each, text in _described_of(member).items()]
    about = _markdown(_parts(kind)[""])
    return "\n\n".join((f"### `{kind.__name__}`", about, "\n".join(lines)))


def _described_of(thing: object) -> dict[str, str]:
    parts = _parts(thing)
    return _described(parts.get("Args", "") or parts.get("Attributes", ""))


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for owner in reversed(kind.__mro__[:-1]):
        for name, member in vars(owner).items():
            known = isinstance(member, property) or inspect.isfunction(member)
            hidden = name.startswith("_") or name in INTERNAL.get(kind, ())
            if known and not hidden and inspect.getdoc(member):
                yield name, member


def _called(name: str, member: Any) -> str:
    if isinstance(member, property):
        return name
    given = []
    for parameter in list(inspect.signature(member).parameters.values())[1:]:
        default = parameter.default
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        given.append(
            parameter.name
            if default is inspect.Parameter.empty
            else f"{parameter.name}={default!r}"
        )
    waits = "await " if inspect.iscoroutinefunction(member) else ""
    return f"{waits}{name}({', '.join(given)})"
