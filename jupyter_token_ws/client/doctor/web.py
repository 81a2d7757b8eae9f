"""What HTTP shows without a credential: who answers, where the base is, what the server can do, its clock."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from jupyter_token_ws.protocol.auth import Response
from jupyter_token_ws.protocol.clients import within_base
from jupyter_token_ws.protocol.versions import API_VERSIONS, HEADER, SUPPORTED_HEADER, best_common

from .case import Case, Guess, SkipError, bases_of
from .credentials import pass_front
from .report import Finding

CAPABILITIES = "api/token-ws/capabilities"

MAX_BASES = 8
"""So many prefixes of the given path are tried."""

SAMPLES = 5
"""Requests of which the quickest tells the clock and the middle one the round trip."""

PAGES = frozenset({
    "api", "consoles", "doc", "edit", "files", "lab", "login", "nbclassic", "notebooks", "static",
    "terminals", "tree", "view", "voila",
})  # fmt: skip
"""What pages of a server begin with, below its base."""

_HUB = "x-jupyterhub-version"
_REPORTS = re.compile(r"report-uri (/(?:[^/\s;][^\s;]*/)?)api/security/csp-report")
_WALL = frozenset({401, 403, 407})
_GATEWAY = frozenset({502, 503, 504})
_HUB_KEEPS = re.compile(rf"/hub/(user|services)/.*{CAPABILITIES}$")
_HUB_STOPPED = frozenset({424, 503})
"""What a Hub answers for a server that is not running: 424, and 503 in older versions."""


# -- who answers -------------------------------------------------------------------------------------


async def http(case: Case) -> Finding:
    """Somebody answers HTTP."""
    if case.unreachable:
        raise SkipError(case.unreachable)
    bases = list(bases_of(case.url))[-MAX_BASES:]
    if await _find(case, bases, bases[0]):
        return case.ok(f"the capabilities are below {urlsplit(case.base_url).path}")
    answer = case.answer
    assert answer is not None  # noqa: S101 - somebody was asked, and not answering is an error
    if not _is_final(answer):
        # What it says of itself, and where it sends who asks for a page.
        case.said = _said_base(answer)
        led = [urljoin(bases[0], case.said)] if case.said else []
        led += [await _led(case, base) for base in (bases[0], bases[-1])]
        led = [base for base in dict.fromkeys(led) if base and base not in bases]
        if not await _find(case, led, bases[0]):
            await _find_stock(case, [*bases, *led])
    return case.ok(f"{answer.status} for {urlsplit(bases[0]).path}{CAPABILITIES}")


async def _find(case: Case, bases: list[str], given: str) -> bool:
    """The base below which there are capabilities."""
    for base in bases:
        answer = await _ask_capabilities(case, base)
        if case.answer is None or _is_final(answer):
            case.answer = answer
        if _is_final(answer):
            return False
        document = _object(answer)
        if answer.status == 200 and "api_versions" in document:
            case.answer, case.capabilities = answer, document
        elif answer.status != 422 or SUPPORTED_HEADER.lower() not in answer.headers:
            continue
        case.answer = answer
        _settle(case, base, given)
        return True
    return False


async def _ask_capabilities(case: Case, base: str) -> Response:
    answer = await case.ask("GET", base + CAPABILITIES)
    if answer.status == 401 and await pass_front(case, base):
        answer = await case.ask("GET", base + CAPABILITIES)
    if answer.status == 422:
        theirs = answer.headers.get(SUPPORTED_HEADER.lower(), "").split(",")
        version = best_common(API_VERSIONS, theirs)
        if version is not None:
            answer = await case.ask("GET", base + CAPABILITIES, {HEADER: version})
    return answer


def _said_base(answer: Response) -> str:
    """The path of the base that a Jupyter server thinks it has: it stands in every answer of one."""
    match = _REPORTS.search(answer.headers.get("content-security-policy", ""))
    return match[1] if match else ""


async def _led(case: Case, base: str) -> str:
    """Where a page leads whoever asks for it: the base of that, if it is at the same place."""
    answer = await case.ask("GET", base, {"Accept": "text/html"})
    if not 300 <= answer.status < 400:
        return ""
    target = _target(base, answer)
    if not within_base(urljoin(base, "/"), target):
        return ""
    segments = [each for each in urlsplit(target).path.split("/") if each]
    while segments and segments[-1] in PAGES:
        segments.pop()
    return urljoin(base, "/".join(["", *segments, ""]))


async def _find_stock(case: Case, bases: list[str]) -> None:
    """The base of a server without the extension."""
    for base in bases:
        answer = await case.ask("GET", base + "api")
        told = _object(answer).get("version")
        if answer.status == 200 and isinstance(told, str) and _is_jupyter(answer):
            case.answer = answer
            _settle(case, base, bases[0])
            return


def _settle(case: Case, base: str, given: str) -> None:
    case.base_url = base
    if base == given:
        return
    below = urlsplit(given).path.removeprefix(urlsplit(base).path).split("/")
    page = given.startswith(base) and below[0] in PAGES
    case.guess = Guess.PAGE if page else Guess.WRONG


def _is_final(answer: Response) -> bool:
    """Whether an answer says that there is no use in asking for other paths."""
    return answer.status in _GATEWAY or _by_hub(answer)


def _by_hub(answer: Response) -> bool:
    """Whether a Hub answers for a server that is not running: it keeps the path, below its own."""
    if _HUB not in answer.headers:
        return False
    target = urlsplit(_target("http://hub/", answer)).path
    led = 300 <= answer.status < 400 and bool(_HUB_KEEPS.search(target))
    return led or answer.status in _HUB_STOPPED


def _target(base: str, answer: Response) -> str:
    """Where an answer leads."""
    return _address(base, answer.headers.get("location", ""))


def _address(base: str, text: str) -> str:
    """An address that somebody else wrote, empty for what is none."""
    try:
        joined = urljoin(base, text)
        urlsplit(joined)
    except ValueError:
        return ""
    return joined


def _object(answer: Response) -> dict[str, Any]:
    try:
        read = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _is_jupyter(answer: Response) -> bool:
    """Whether it is a Jupyter server's, by what every answer of one has."""
    return bool(_said_base(answer)) or HEADER.lower() in answer.headers


def _answer(case: Case) -> Response:
    if case.unreachable or case.answer is None:
        raise SkipError(case.unreachable or "there was no answer")
    return case.answer


async def server(case: Case) -> Finding:
    """It is the server that answers, not who stands in front of it."""
    answer = _answer(case)
    if case.base_url:
        return case.ok("a Jupyter server answers")
    if _by_hub(answer):
        return case.broken(f"{answer.status} from the Hub: the server is not running", "culled")
    if answer.status in _GATEWAY:
        return case.broken(f"{answer.status} from {_software(answer)}", "gateway")
    if _refuses_host(answer):
        return case.ok("a Jupyter server answers")
    led = _led_away(case, answer)
    if led or answer.status in _WALL:
        where = f" to {led}" if led else ""
        return case.broken(f"{answer.status}{where} from {_software(answer)}", "wall")
    raise SkipError("no server was found")


def _led_away(case: Case, answer: Response) -> str:
    """The other place that a redirect leads to."""
    target = urlsplit(_target(case.url, answer))
    redirect = 300 <= answer.status < 400
    return target.netloc if redirect and target.netloc != case.parts.netloc else ""


def _software(answer: Response) -> str:
    return answer.headers.get("server", "") or "something that does not say what it is"


def _refuses_host(answer: Response) -> bool:
    """What is open to everybody is refused: upstream checks the Host before all else."""
    return answer.status == 403 and _is_jupyter(answer)


async def host(case: Case) -> Finding:
    """The server is told the Host that was asked for, and takes it."""
    answer = _answer(case)
    if not case.base_url:
        if _refuses_host(answer):
            return case.broken("403 for what is open to everybody", "wrong_host")
        raise SkipError("no server was found")
    told = _told(case)
    if told and _place(told) != _place(case.base_url):
        return case.broken(f"the server was asked for {_place(told)}", "host_changed")
    return case.ok(f"the server takes {_place(case.base_url)}")


def _told(case: Case) -> str:
    told = (case.capabilities or {}).get("base_url")
    return _address("", told) if isinstance(told, str) else ""


def _place(url: str) -> str:
    """Host and port, less the one that goes without saying."""
    parts = urlsplit(url)
    return parts.netloc.lower().removesuffix({"https": ":443"}.get(parts.scheme, ":80"))


async def base_url(case: Case) -> Finding:
    """The address is the server's base, or a page below it."""
    answer = _answer(case)
    if not case.base_url:
        if _is_final(answer) or answer.status in _WALL or _led_away(case, answer):
            raise SkipError("no server was found")
        if case.said:
            return case.broken(
                f"a server answers, which thinks it is at {case.said}", "prefix_changed"
            )
        return case.broken(f"no server at {case.parts.path} or above", "no_jupyter")
    told, path = urlsplit(_told(case)).path, urlsplit(case.base_url).path
    if told and told != path:
        return case.broken(f"it answers at {path} and thinks it is at {told}", "prefix_changed")
    if case.guess is Guess.WRONG:
        return case.broken(f"it is {case.base_url}, and not {case.parts.path}", "wrong_base")
    page = f"; {case.parts.path} is a page of it" if case.guess is Guess.PAGE else ""
    return case.ok(f"it is {case.base_url}{page}")


# -- what it can do --------------------------------------------------------------------------------------


async def capabilities(case: Case) -> Finding:
    """The server has the extension."""
    case.base()
    answer = _answer(case)
    if answer.status == 422:
        raise SkipError("there is no version in common")
    if case.capabilities is None:
        return case.broken("a Jupyter server, without capabilities", "no_extension")
    return case.ok(", ".join(_names(case.capabilities)))


def _names(document: Any) -> Iterator[str]:
    transports = document.get("transports")
    yield from (each for each in transports or () if isinstance(each, str))
    for name in ("login", "reasons"):
        if name in document:
            yield name


async def versions(case: Case) -> Finding:
    """There is a version of the interface that both know."""
    case.base()
    answer = _answer(case)
    if case.capabilities is not None:
        said = case.capabilities.get("api_versions")
        theirs = [each for each in said if isinstance(each, str)] if isinstance(said, list) else []
    elif answer.status == 422:
        theirs = answer.headers.get(SUPPORTED_HEADER.lower(), "").split(",")
    else:
        raise SkipError("the server has no capabilities")
    known = ", ".join(each.strip() for each in theirs) or "none"
    common = best_common(API_VERSIONS, theirs)
    if common is None:
        return case.broken(f"it knows {known}, and this {', '.join(API_VERSIONS)}", "versions")
    return case.ok(f"{common} of {known}")


# -- time ----------------------------------------------------------------------------------------------


async def round_trip(case: Case) -> Finding:
    """How long a request takes."""
    url = case.base() + (CAPABILITIES if case.capabilities is not None else "api")
    took = []
    for _ in range(SAMPLES):
        wall, began = time.time(), time.monotonic()
        answer = await case.ask("GET", url)
        took.append(time.monotonic() - began)
        if took[-1] == min(took):
            case.skew = _skew(answer, wall, took[-1])
        if sum(took) > SAMPLES * case.options.slow_round_trip:
            break
    middle = sorted(took)[len(took) // 2]
    seen = f"{middle * 1000:.0f} ms, the quickest {min(took) * 1000:.0f} ms"
    if middle > case.options.slow_round_trip:
        return case.slow(seen, "far_or_busy")
    return case.ok(seen)


def _skew(answer: Response, asked_at: float, took: float) -> tuple[float, float] | None:
    """By how many seconds the other clock is ahead, and how far off that may be: it tells whole seconds, at
    some time between request and answer."""
    try:
        there = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except ValueError:
        return None
    return there + 0.5 - (asked_at + took / 2), 0.5 + took / 2


async def clock(case: Case) -> Finding:
    """The server's clock and this machine's agree."""
    case.base()
    if case.skew is None:
        raise SkipError("no answer had a Date")
    skew, unsure = case.skew
    seen = f"the server's is {_seconds(abs(skew))} {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) - unsure > case.options.max_skew:
        return case.broken(seen, "clock_skew")
    if abs(skew) <= unsure:
        seen = "the same"
    return case.ok(f"{seen}, to within {_seconds(unsure)}")


def _seconds(number: float) -> str:
    return f"{number:.1f} s" if number < 120 else f"{number / 60:.0f} min"
