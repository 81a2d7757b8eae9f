"""The capabilities document: what a server tells before anybody connects (contract section 4).

Building and schema only; the handler that serves it and the routes it names belong to the guard.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from .reasons import Feature, published
from .subprotocols import KERNEL, MARKER, REASON_MARKER, TUNNEL
from .versions import API_VERSIONS

CLOSE_REASONS = ("offered", "explicit", "always", "never")
"""The modes of accept-then-close (C3.1), the default first."""


@dataclass(frozen=True)
class Facts:
    """What a server knows of itself. Times in seconds, sizes in bytes.

    ``sockets`` are route templates below ``base_url``. ``close_reasons`` is one of
    ``CLOSE_REASONS``. ``keepalive_interval`` 0 means that the guard sends no pings,
    ``keepalive_timeout`` 0 that it drops nobody for silence. ``login`` is what there is to say of
    login, and ``tunnel`` of the tunnel besides its subprotocol; ``None`` where there is none.
    """

    base_url: str
    ws_url: str
    token_in_url: bool
    max_token_size: int
    close_reasons: str
    sockets: tuple[str, ...]
    keepalive_interval: float
    keepalive_timeout: float
    features: frozenset[Feature] = frozenset({Feature.GUARD})
    login: Mapping[str, Any] | None = None
    tunnel: Mapping[str, Any] | None = None


def capabilities_document(facts: Facts) -> dict[str, Any]:
    """The document. What is not built or is off is absent."""
    document: dict[str, Any] = {
        "api_versions": list(API_VERSIONS),
        "base_url": facts.base_url,
        "ws_url": facts.ws_url,
        "token": {
            "subprotocol": MARKER,
            "in_url": facts.token_in_url,
            "max_size": facts.max_token_size,
        },
        "kernel": {"subprotocols": [KERNEL, ""]},
        "sockets": list(facts.sockets),
        "transports": ["websocket"],
    }
    if facts.close_reasons != "never":
        document["reasons"] = {
            "subprotocol": REASON_MARKER,
            "mode": facts.close_reasons,
            "codes": published(facts.features),
        }
    if facts.tunnel is not None:
        document["transports"] += ["tunnel-websocket", "tunnel-eventstream"]
        document["tunnel"] = {"subprotocol": TUNNEL, **facts.tunnel}
    if facts.login is not None:
        document["login"] = dict(facts.login)
    if facts.keepalive_interval > 0:
        document["keepalive"] = {"interval": facts.keepalive_interval}
        if facts.keepalive_timeout > 0:
            document["keepalive"]["timeout"] = facts.keepalive_timeout
    return document


def capabilities_schema() -> dict[str, Any]:
    """The JSON Schema of the document, as shipped in the package."""
    text = files(__package__).joinpath("capabilities.schema.json").read_bytes()
    schema: dict[str, Any] = json.loads(text)
    return schema


_NAMED_GROUP = re.compile(r"\?P<(\w+)>")
# Groups that stand for no part of the path: looking ahead or behind, flags, back references.
_OTHER_GROUP = re.compile(r"\?(?!:)")


def route_template(pattern: str, base_url: str) -> str | None:
    """A route's regular expression as a template below ``base_url``: ``api/kernels/{id}/channels``.

    Groups become ``{name}``: a named group its name (``kernel_id`` is ``id``), an unnamed one
    ``name``; a name that is there already gets a number, ``name2``. ``None`` where the route does
    not lie below the base or is no plain path.
    """
    pattern = pattern.removeprefix("^").removesuffix("$")
    for base in (base_url, re.escape(base_url)):
        if pattern.startswith(base):
            rest = pattern[len(base) :]
            break
    else:
        return None
    out: list[str] = []
    names: Counter[str] = Counter()
    index = 0
    while index < len(rest):
        char, after = rest[index], rest[index + 1 : index + 2]
        if char == "(":
            end = _group_end(rest, index)
            named = _NAMED_GROUP.match(rest, index + 1)
            if end is None or (named is None and _OTHER_GROUP.match(rest, index + 1)):
                return None
            name = named[1] if named else "name"
            name = "id" if name.endswith("_id") else name
            names[name] += 1
            out.append(f"{{{name}{names[name] if names[name] > 1 else ''}}}")
            index = end
        elif char == "\\" and after and not after.isalnum() and after not in "{}":
            out.append(after)
            index += 2
        elif char == "?" and out and out[-1] == "/":
            index += 1  # an optional slash at the end: the template shows the path with it
        elif char in "\\*+?[]{}|^$)":
            return None
        else:
            out.append(char)
            index += 1
    return "".join(out)


def _group_end(pattern: str, start: int) -> int | None:
    """The index behind the group that opens at ``start``, or ``None`` where it does not close."""
    depth = 0
    in_class = False
    index = start
    while index < len(pattern):
        char = pattern[index]
        if char == "\\":
            index += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return index + 1
        index += 1
    return None


def sorted_templates(templates: Iterable[str | None]) -> tuple[str, ...]:
    """Templates without duplicates and gaps, in a stable order, so that the ETag is stable."""
    return tuple(sorted({template for template in templates if template}))
