"""Which version of the REST interface two sides speak (contract section 5). Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

API_VERSIONS: tuple[str, ...] = ("1.0",)
"""What this server speaks, newest first."""

HEADER = "Api-Version"
SUPPORTED_HEADER = "Supported-Api-Versions"

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})")


def parse_version(text: str) -> tuple[int, int] | None:
    """``(major, minor)`` of ``"1.0"``, or ``None`` for anything else."""
    match = _VERSION.fullmatch(text.strip())
    return (int(match[1]), int(match[2])) if match else None


def negotiate(requested: str | None, supported: Sequence[str] = API_VERSIONS) -> str | None:
    """The version a server answers with, or ``None`` where it must answer 422.

    ``requested`` is the request's ``Api-Version`` or ``None``. Same major is compatible, so the
    answer is the newest supported version of that major; without a request it is the newest of all.
    """
    if requested is None:
        return supported[0]
    wanted = parse_version(requested)
    return None if wanted is None else _newest(supported, {wanted[0]})


def best_common(mine: Iterable[str], theirs: Iterable[str]) -> str | None:
    """The version a client retries with after a 422: its newest whose major the server also knows.

    ``theirs`` is what the 422 named. ``None`` where there is nothing to retry with.
    """
    return _newest(mine, {parsed[0] for parsed in map(parse_version, theirs) if parsed})


def unsupported_document(supported: Sequence[str] = API_VERSIONS) -> dict[str, object]:
    """The JSON body of the 422."""
    return {"status": "unsupported_api_version", "supported_api_versions": list(supported)}


def _newest(versions: Iterable[str], majors: set[int]) -> str | None:
    """The newest version of one of these majors; what cannot be read is passed over."""
    known = [
        (parsed, version)
        for version in versions
        if (parsed := parse_version(version)) is not None and parsed[0] in majors
    ]
    return max(known)[1] if known else None
