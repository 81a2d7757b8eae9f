"""Write the parts of the documentation that are made from the code, and check its links.

What stands in the code is not written down again: configuration, close codes, subprotocols, the
capabilities, the limits, events and metrics are put into the pages between two marks::

    <!-- generated: codes -->
    <!-- generated: end -->

The rest of a page is written by hand. Whoever changes a table in the code runs `make docs`.

    python tools/docs.py --write    bring the pages up to date
    python tools/docs.py            only say what is stale, dead or missing
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jupyter_token_ws.app import TokenWebSocketApp
from jupyter_token_ws.client.doctor import CAUSES, CHECKS
from jupyter_token_ws.guard import events as guard_events
from jupyter_token_ws.guard.core import GuardOptions
from jupyter_token_ws.guard.metrics import DESCRIBED
from jupyter_token_ws.guard.rest import CAPABILITIES, PAGE_CONFIG, SCHEMA, SIGNED_IN
from jupyter_token_ws.login.directory import ServerDirectory
from jupyter_token_ws.login.service import PATH
from jupyter_token_ws.login.store import TicketStore
from jupyter_token_ws.protocol import subprotocols, versions
from jupyter_token_ws.protocol.capabilities import (
    Facts,
    capabilities_document,
    capabilities_schema,
)
from jupyter_token_ws.protocol.reasons import REASONS, Advice, Feature, Reason
from jupyter_token_ws.protocol.tickets import Lifetimes
from jupyter_token_ws.tunnel.tunnels import PATH as TUNNEL_PATH
from jupyter_token_ws.tunnel.tunnels import TunnelOptions
from tools import client_docs, tunnel_docs

ROOT = Path(__file__).resolve().parent.parent

WHAT_TO_DO = {
    Advice.STOP: "Stop. Trying again cannot help.",
    Advice.AUTHENTICATE: "Get another token, then connect again.",
    Advice.REDIRECT: "Ask the server where to go.",
    Advice.RETRY: "Connect again, and wait longer each time.",
    Advice.RETRY_AFTER: "Connect again, and wait longer each time; if the reason says"
    " `retry_after=N`, not before N seconds.",
}

KINDS = {
    "Bool": "`True` or `False`",
    "Dict": "a dictionary",
    "Float": "a number",
    "Int": "a whole number",
    "List": "a list",
    "Unicode": "text",
}

LIMITS = {
    "max_token_size": ("bytes", "A longer token is refused with `malformed_credentials`."),
    "open_timeout": (
        "seconds",
        "A websocket that is not open by then is refused with `open_timeout`.",
    ),
    "keepalive_interval": ("seconds", "Each websocket is pinged this often."),
    "keepalive_timeout": (
        "seconds",
        "A websocket on which nothing moved for so long is dropped without a close frame.",
    ),
    "max_refusals_open": (
        "sockets",
        "So many refused websockets may be open at once. Further refusals are plain HTTP.",
    ),
    "refusal_burst": (
        "refusals",
        "Told to one address, route and credential in `refusal_window`; the next are plain HTTP.",
    ),
    "refusal_window": ("seconds", "The window of `refusal_burst`."),
    "refusal_linger": (
        "seconds",
        "A refused client has so long to answer the close. Then the connection is cut.",
    ),
    "max_refusal_events": (
        "events",
        "So many refusals in a second are told to who listens; the next event says how many were not.",
    ),
    "drain_timeout": (
        "seconds",
        "When the server ends, it waits so long for clients to answer the close.",
    ),
    "attempt_burst": (
        "tokens",
        "Different wrong ones of an address in `attempt_window`; the next are `too_many_attempts`.",
    ),
    "attempt_window": ("seconds", "The window of `attempt_burst`."),
    "wrong_token_memory": (
        "seconds",
        "So long nobody is asked again for a token that admitted nobody.",
    ),
    "password_wait": (
        "seconds",
        "A password whose turn is further away is answered 429. `attempt_burst` have theirs at once.",
    ),
    "max_connections": (
        "sockets",
        "So many may be open. Further ones are refused with `too_many_connections`.",
    ),
    "max_connections_per_principal": ("sockets", "So many of them for one user or token."),
    "max_handshakes": (
        "handshakes",
        "So many may be in progress, half of them of one address. Then as above.",
    ),
    "backlog_memory": (
        "bytes",
        "So much of a kernel's messages waits in memory for one client that does not take them.",
    ),
    "backlog_disk": ("bytes", "So much waits in a file. Beyond it, `backlog_overflow` decides."),
    "backlog_disk_total": ("bytes", "So much for all clients of the server together."),
    "backlog_age": (
        "seconds",
        "So long it waits for a client that is away, while its kernel has others.",
    ),
    "tunnel_max_streams": (
        "streams",
        "So many websockets one tunnel carries. Further ones are refused with `too_many_connections`.",
    ),
    "max_tunnels_per_principal": (
        "tunnels",
        "So many for one user or token, those that wait for their client included. Then as above.",
    ),
    "tunnel_max_post_size": ("bytes", "A larger body is answered 413 `bad_request`, unread."),
    "tunnel_stream_window": (
        "bytes",
        "So much may come on a stream before it is read. More ends the tunnel with `bad_request`.",
    ),
    "tunnel_window": ("bytes", "So much on all streams before the client heard that it came."),
    "tunnel_replay": (
        "bytes",
        "So much of a tunnel's output is kept until its client has it; what follows waits.",
    ),
    "tunnel_resume_window": (
        "seconds",
        "So long a tunnel waits for its client. Then its streams are closed.",
    ),
    "tunnel_idle_timeout": (
        "seconds",
        "A tunnel without streams for so long is closed with `open_timeout`.",
    ),
}


# -- tables from the code ----------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def _now() -> list[Reason]:
    return [row for row in REASONS.values() if row.told]


def codes_short() -> str:
    """What a reader of the README wants to know: the code, the slugs, what to do."""
    found: dict[tuple[int, Advice], list[str]] = {}
    for row in _now():
        found.setdefault((row.code, row.advice), []).append(f"`{row.slug}`")
    what = {**WHAT_TO_DO, Advice.RETRY_AFTER: WHAT_TO_DO[Advice.RETRY]}
    return table(
        ("close code", "reason begins with", "what a client should do"),
        [(str(code), ", ".join(slugs), what[advice]) for (code, advice), slugs in found.items()],
    )


def _codes(rows: Iterable[Reason]) -> list[tuple[str, ...]]:
    return [
        (
            str(row.code),
            f"[`{row.slug}`](#{row.slug})",
            str(row.http_status),
            f"[`{row.advice.value}`](#advice)",
            row.text,
        )
        for row in rows
    ]


def codes() -> str:
    """Every reason that a server can tell today."""
    return table(("code", "slug", "as plain HTTP", "advice", "text"), _codes(_now()))


def advice() -> str:
    """What each advice means."""
    return table(
        ("advice", "what a client should do"),
        [(f"`{advice.value}`", WHAT_TO_DO[advice]) for advice in Advice],
    )


def traits() -> dict[str, Any]:
    """The options of the extension, by name."""
    own = TokenWebSocketApp.class_own_traits(config=True)
    return {name: own[name] for name in GuardOptions.__dataclass_fields__ if name in own} | own


def _value(value: object) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value!r}`"


def configuration() -> str:
    """One section per option."""
    options = GuardOptions()
    parts = []
    for name, trait in traits().items():
        default = _value(getattr(options, name, trait.default_value))
        values = getattr(trait, "values", None)
        kind = f"one of {', '.join(map(_value, values))}" if values else KINDS[type(trait).__name__]
        parts.append(f"### `{name}`\n\nDefault {default}; {kind}.\n\n{_code_names(trait.help)}")
    return "\n\n".join(parts)


def stores() -> str:
    """One section per store of tickets, with its options."""
    return _options_of(TicketStore)


def directories() -> str:
    """One section per directory of servers, with its options."""
    return _options_of(ServerDirectory)


def _options_of(base: type) -> str:
    parts = []
    for kind in TokenWebSocketApp.classes:
        if not issubclass(kind, base):
            continue
        rows = []
        for name, trait in sorted(kind.class_traits(config=True).items()):
            default = trait.default()
            value = _value(default) if default != "" else ""
            rows.append((f"`{name}`", value, _code_names(trait.help)))
        parts.append(f"### `{kind.__name__}`\n\n{table(('option', 'default', 'meaning'), rows)}")
    return "\n\n".join(parts)


def _code_names(text: str) -> str:
    """Help texts are plain; a page shows names and values as code."""
    text = re.sub(r"'(\w+)'", r"`\1`", text)
    # `enabled` alone is a word of English.
    names = "|".join(name for name in traits() if "_" in name)
    return re.sub(rf"\bServerApp\.\w+|\bbase_url\b|\b(?:{names})\b", r"`\g<0>`", text)


def limits() -> str:
    """Every default that bounds something."""
    options, traits = GuardOptions(), TokenWebSocketApp.class_traits()
    return table(
        ("option", "default", "what happens"),
        [
            (
                f"[`{name}`](../reference/configuration.md#{name})",
                f"{getattr(options, name, traits[name].default_value):,} {unit}",
                text,
            )
            for name, (unit, text) in LIMITS.items()
        ],
    )


def names() -> str:
    """The subprotocols."""
    return table(
        ("subprotocol", "called", "meaning"),
        [
            (
                f"`{subprotocols.MARKER}`",
                "marker",
                "I may send my token as a subprotocol (JEP 121).",
            ),
            (
                f"`{subprotocols.MARKER}.<token>`",
                "token-bearing entry",
                "Carries the token, percent-encoded.",
            ),
            (
                f"`{subprotocols.REASON_MARKER}`",
                "reason marker",
                "I understand close codes: accept me, then close with the reason.",
            ),
            (
                f"`{subprotocols.TUNNEL}`",
                "tunnel protocol",
                "This websocket carries a [tunnel](tunnel.md).",
            ),
            (
                f"`{subprotocols.KERNEL}`",
                "kernel protocol",
                "The binary wire format of kernel messages. It is Jupyter's own, not ours.",
            ),
        ],
    )


def rest_paths() -> str:
    """The REST paths below the server's base."""
    return table(
        ("path", "answer"),
        [
            (f"`GET {CAPABILITIES}`", f"the document; pages carry it as `{PAGE_CONFIG}`"),
            (f"`GET {SCHEMA}`", "its JSON Schema"),
            ("`OPTIONS` on the path of a websocket", "204 and a `Link` to the capabilities"),
            (f"`GET {SIGNED_IN}`", "a page for people: signing in ends there"),
            (f"`POST {PATH}`", "a [ticket](login.md) for a credential, or a renewed one"),
            (f"`GET {PATH}`", "who this is, until when, and where their server is"),
            (f"`DELETE {PATH}`", "204; the ticket is revoked"),
            (f"`GET {TUNNEL_PATH}`", "a [tunnel](tunnel.md): an event stream, or a websocket"),
            (f"`POST {TUNNEL_PATH}/{{id}}`", "what a client says over an event stream"),
        ],
    )


def api_versions() -> str:
    """What the REST part speaks."""
    return "Versions today: " + ", ".join(f"`{version}`" for version in versions.API_VERSIONS) + "."


def capabilities_example() -> str:
    """The document of a server with default options, as the code makes it."""
    options = GuardOptions()
    document = capabilities_document(
        Facts(
            base_url="https://hub.example/user/ann/",
            ws_url="wss://hub.example/user/ann/",
            token_in_url=options.allow_token_in_url,
            max_token_size=options.max_token_size,
            close_reasons=options.close_reasons,
            sockets=(
                "api/events/subscribe",
                "api/kernels/{id}/channels",
                "terminals/websocket/{name}",
            ),
            # As the server's own settings are: numbers with a point.
            keepalive_interval=float(options.keepalive_interval),
            keepalive_timeout=float(options.keepalive_timeout),
            features=frozenset({Feature.GUARD, Feature.BRIDGE, Feature.LOGIN, Feature.TUNNEL}),
            login={"path": PATH, "max_age": Lifetimes.max_age, "revocable": True},
            tunnel={
                "path": TUNNEL_PATH,
                "resume_window": TunnelOptions.resume_window,
                "max_streams": TunnelOptions.max_streams,
            },
        )
    )
    return f"```json\n{json.dumps(document, indent=2)}\n```"


def schema_fields() -> str:
    """The members of the capabilities document, from its schema."""
    rows: list[tuple[str, str, str, str]] = []

    def walk(schema: dict[str, Any], prefix: str) -> None:
        required = schema.get("required", ())
        for name, member in schema.get("properties", {}).items():
            kind = member.get("type") or "one of " + ", ".join(
                f"`{value}`" for value in member["enum"]
            )
            there = "always" if name in required else "if it is on"
            if prefix:
                there = f"with `{prefix.rstrip('.')}`"
            rows.append((f"`{prefix}{name}`", kind, there, member.get("description", "")))
            walk(member, f"{prefix}{name}.")

    walk(capabilities_schema(), "")
    return table(("member", "type", "there", "meaning"), rows)


def events() -> str:
    """One section per event, from its schema."""
    parts = []
    for name in guard_events.NAMES:
        schema = guard_events.schema(name)
        rows = [
            (
                f"`{field}`",
                member.get("type") or " or ".join(f"`{value}`" for value in member["enum"]),
                "always" if field in schema["required"] else "if there is one",
                " ".join(member["description"].split()),
            )
            for field, member in schema["properties"].items()
        ]
        text = " ".join(schema["description"].split())
        head = f"### `{name}`\n\n{text}\n\n`{schema['$id']}`"
        parts.append(f"{head}\n\n{table(('field', 'type', 'there', 'meaning'), rows)}")
    return "\n\n".join(parts)


def metrics() -> str:
    """Every metric."""
    return table(
        ("metric", "kind", "labels", "meaning"),
        [
            (f"`{row.name}`", row.kind, ", ".join(f"`{label}`" for label in row.labels), row.text)
            for row in sorted(DESCRIBED.values(), key=lambda row: row.name)  # not as imported
        ],
    )


def tunnel_transitions() -> str:
    """What may happen to a stream."""
    return table(("a stream that is", "may", "and is then"), tunnel_docs.transitions())


def tunnel_limits() -> str:
    """What bounds a tunnel."""
    return table(("what", "how much", "more is answered"), tunnel_docs.limits())


def doctor_checks() -> str:
    """What the doctor looks at."""
    rows = [(f"`{check.name}`", check.about) for check in CHECKS]
    return table(("check", "what it asks"), rows)


def doctor_causes() -> str:
    """What the doctor says."""
    rows = [(f"`{name}`", cause.text, cause.change) for name, cause in CAUSES.items()]
    return table(("cause", "likely", "what to change"), rows)


def client_options() -> str:
    """What `connect` takes."""
    return table(("option", "default", "meaning"), client_docs.connect_options())


def client_tls() -> str:
    """What `TLSIdentity` takes."""
    return table(("option", "default", "meaning"), client_docs.tls_options())


def client_errors() -> str:
    """The client's errors."""
    return table(("error", "is a", "meaning, and what to do", "advice"), client_docs.tree())


PARTS: dict[str, Callable[[], str]] = {
    "advice": advice,
    "api versions": api_versions,
    "auth plugin methods": client_docs.plugin_methods,
    "capabilities example": capabilities_example,
    "capabilities members": schema_fields,
    "client classes": client_docs.classes,
    "client errors": client_errors,
    "client options": client_options,
    "client tls": client_tls,
    "codes": codes,
    "codes short": codes_short,
    "configuration": configuration,
    "stores": stores,
    "directories": directories,
    "doctor causes": doctor_causes,
    "doctor checks": doctor_checks,
    "events": events,
    "limits": limits,
    "metrics": metrics,
    "rest paths": rest_paths,
    "subprotocols": names,
    "tunnel example": tunnel_docs.example,
    "tunnel limits": tunnel_limits,
    "tunnel transitions": tunnel_transitions,
}

IMAGES: dict[str, Callable[[], str]] = {
    "docs/images/tunnel-states.svg": tunnel_docs.diagram,
}
"""Pictures that are made from the code."""

_PART = re.compile(
    r"(<!-- generated: (?!end)([a-z ]+?) -->\n).*?(<!-- generated: end -->)", re.DOTALL
)


def render(text: str) -> str:
    """A page with its generated parts written anew.

    Raises:
        ValueError: the page names a part that nobody makes, or a mark has no counterpart.
    """

    def fill(match: re.Match[str]) -> str:
        if match[2] not in PARTS:
            raise ValueError(f"nobody makes the part {match[2]!r}")
        return f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}"

    made, count = _PART.subn(fill, text)
    if 2 * count != text.count("<!-- generated: "):
        raise ValueError("a mark of a generated part has no counterpart")
    return made


# -- pages, links and anchors ------------------------------------------------------------------------


def pages(root: Path = ROOT) -> list[Path]:
    """Every page that is written for readers."""
    return sorted(
        path
        for path in [*root.glob("*.md"), *root.glob("docs/**/*.md")]
        if "_build" not in path.parts
    )


def stale(root: Path = ROOT) -> list[str]:
    """Say which pages differ from what the code says, and which parts are on no page."""
    problems = []
    used: set[str] = set()
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        used.update(match[2] for match in _PART.finditer(text))
        try:
            current = render(text) == text
        except ValueError as error:
            problems.append(f"{page.relative_to(root)}: {error}")
            continue
        if not current:
            problems.append(f"{page.relative_to(root)} is not current: run `make docs`")
    problems += [f"the part {name!r} is on no page" for name in sorted(set(PARTS) - used)]
    return problems


_FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[`~]*[ \t]*$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HTML_LINK = re.compile(r"(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


def links(text: str) -> Iterator[str]:
    """The targets of a page's links and images; code is passed over."""
    text = _FENCE.sub("", text)
    yield from _HTML_LINK.findall(text)
    yield from _LINK.findall(_CODE.sub("code", text))


def dead_links(root: Path = ROOT) -> list[str]:
    """Say which relative links of the pages lead nowhere."""
    problems = []
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        for link in links(text):
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / unquote(path)).resolve() if path else page
            where = f"{page.relative_to(root)}: {link}"
            if not target.is_relative_to(root) or not target.exists():
                problems.append(f"{where}: there is no such file")
            elif anchor and target.suffix == ".md":
                there = target.read_text(encoding="utf-8")
                if anchor not in anchors(there):
                    problems.append(f"{where}: there is no such heading")
    return problems


# -- the reasons and the threats, each explained -----------------------------------------------------


def unexplained(text: str) -> list[str]:
    """Say which reasons the page of codes has no section for, and which sections have no reason."""
    current = set(REASONS)
    sections = set(
        re.findall(r"^### `?([a-z]+(?:_[a-z]+)*)`?$", _FENCE.sub("", text), re.MULTILINE)
    )
    return [f"{slug} has no section" for slug in sorted(current - sections)] + [
        f"the section {slug} is about no reason" for slug in sorted(sections - current)
    ]


def missing_tests(text: str, root: Path = ROOT) -> list[str]:
    """Say which tests a table of threats names that do not exist, and which rows name none."""
    problems = []
    for line in text.splitlines():
        if not line.startswith("|") or line.startswith(("| threat", "| ---", "|---")):
            continue
        file, named = "", 0
        for word in re.findall(r"`([^`]+)`", line.rstrip("|").rpartition("|")[2]):
            if word.startswith("tests/"):
                file = word
                continue
            named += 1
            if word not in functions(root / file):
                problems.append(f"{file}::{word} does not exist")
        if not named:
            problems.append(f"no test is named: {line[:60]}")
    return problems


def functions(path: Path) -> set[str]:
    """The names of the functions in a file; none where there is no such file."""
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def stale_images(root: Path = ROOT) -> list[str]:
    """Say which pictures differ from what the code says."""
    return [
        f"{name} is not current: run `make docs`"
        for name, make in IMAGES.items()
        if not (root / name).is_file() or (root / name).read_text("utf-8") != make()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; return 1 if something is wrong that was not mended."""
    parser = argparse.ArgumentParser(description="Documentation made from the code.")
    parser.add_argument("--write", action="store_true", help="write the generated parts")
    if parser.parse_args(arguments).write:
        for page in pages():
            text = page.read_text(encoding="utf-8")
            made = render(text)
            if made != text:
                page.write_text(made, encoding="utf-8")
                print(f"wrote {page.relative_to(ROOT)}")
        for name, make in IMAGES.items():
            target = ROOT / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(make(), encoding="utf-8")
    problems = stale() + stale_images() + dead_links()
    for problem in problems:
        print(problem)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
