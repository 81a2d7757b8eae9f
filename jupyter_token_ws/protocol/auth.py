"""Auth plugins of the client, as generators: without I/O, so that any client can drive them.

A plugin is asked by its methods, which are generators: they yield ``Request``, are sent ``Response``, and
return their answer. (The idea is httpx's ``Auth.auth_flow``; the order of plugins and *ignore* are CouchDB's.)
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .reasons import Reason

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """An HTTP request. ``url`` is absolute; ``body`` is bytes, or ``None`` for none."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Response:
    """The answer to a request, or what a websocket's handshake or close said.

    ``headers`` are by lower-case name; ``cookies`` are the values of ``Set-Cookie``, each whole.
    ``status`` is the HTTP status; of a close code 44xx it is that less 4000. ``reason`` is the row of the table
    that was told, if any.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    cookies: tuple[str, ...] = field(default=(), repr=False)
    reason: Reason | None = None
    retry_after: float | None = None


Flow = Generator[Request, Response, T]
