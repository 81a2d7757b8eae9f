"""The capabilities document, its schema and the templates in it (contract section 4)."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from jupyter_token_ws.protocol.capabilities import (
    CLOSE_REASONS,
    Facts,
    capabilities_document,
    capabilities_schema,
    route_template,
    sorted_templates,
)
from jupyter_token_ws.protocol.reasons import REASONS, Advice, Feature, published
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER
from tests.support.vectors import vectors

FACTS = Facts(
    base_url="https://host/user/ann/",
    ws_url="wss://host/user/ann/",
    token_in_url=True,
    max_token_size=4096,
    close_reasons="offered",
    sockets=("api/events/subscribe", "api/kernels/{id}/channels"),
    keepalive_interval=25,
    keepalive_timeout=75,
)
# The whole document that the contract shows, with the parts that are not built yet.
COMPLETE: dict[str, Any] = {
    "api_versions": ["1.0"],
    "base_url": "https://host/user/ann/",
    "ws_url": "wss://host/user/ann/",
    "token": {"subprotocol": MARKER, "in_url": True, "max_size": 4096},
    "reasons": {
        "subprotocol": REASON_MARKER,
        "mode": "offered",
        "codes": {
            "4401": {"credentials_missing": "authenticate"},
            "4403": {"token_rejected": "authenticate", "forbidden": "stop"},
        },
    },
    "kernel": {"subprotocols": [KERNEL, ""]},
    "sockets": ["api/kernels/{id}/channels", "terminals/websocket/{name}", "api/events/subscribe"],
    "transports": ["websocket", "tunnel-websocket", "tunnel-eventstream"],
    "tunnel": {
        "subprotocol": "v1.tunnel.websocket.jupyter.org",
        "path": "api/token-ws/tunnel",
        "resume_window": 60,
        "max_streams": 256,
    },
    "login": {"path": "api/token-ws/login", "max_age": 300, "revocable": True},
    "keepalive": {"interval": 25, "timeout": 75},
}


@pytest.fixture(scope="module")
def validator():
    Draft202012Validator.check_schema(capabilities_schema())
    return Draft202012Validator(capabilities_schema())


# -- the document ----------------------------------------------------------------------------------


def test_C4_6_document_of_the_guard():
    assert capabilities_document(FACTS) == {
        "api_versions": ["1.0"],
        "base_url": "https://host/user/ann/",
        "ws_url": "wss://host/user/ann/",
        "token": {
            "subprotocol": "v1.token.websocket.jupyter.org",
            "in_url": True,
            "max_size": 4096,
        },
        "reasons": {
            "subprotocol": "v1.reason.websocket.jupyter.org",
            "mode": "offered",
            "codes": published(frozenset({Feature.GUARD})),
        },
        "kernel": {"subprotocols": ["v1.kernel.websocket.jupyter.org", ""]},
        "sockets": ["api/events/subscribe", "api/kernels/{id}/channels"],
        "transports": ["websocket"],
        "keepalive": {"interval": 25, "timeout": 75},
    }


def test_C4_6_document_says_what_was_set():
    facts = replace(
        FACTS,
        token_in_url=False,
        max_token_size=100,
        close_reasons="always",
        sockets=(),
        keepalive_interval=0.5,
        keepalive_timeout=0.9,
        features=frozenset({Feature.BRIDGE}),
    )
    document = capabilities_document(facts)
    assert document["token"] == {"subprotocol": MARKER, "in_url": False, "max_size": 100}
    assert document["reasons"]["mode"] == "always"
    assert document["reasons"]["codes"] == {"4507": {"backlog_full": "retry"}}
    assert document["sockets"] == []
    assert document["keepalive"] == {"interval": 0.5, "timeout": 0.9}


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ({"close_reasons": "never"}, "reasons"),
        ({"keepalive_interval": 0}, "keepalive"),
        ({"keepalive_interval": -1}, "keepalive"),
        ({}, "tunnel"),
        ({}, "login"),
    ],
)
def test_C4_6_what_is_off_or_not_built_is_absent(change, absent):
    assert absent not in capabilities_document(replace(FACTS, **change))


@pytest.mark.parametrize("timeout", [0, -1])
def test_C4_6_timeout_that_never_comes_is_absent(validator, timeout):
    document = capabilities_document(replace(FACTS, keepalive_timeout=timeout))
    assert document["keepalive"] == {"interval": 25}
    validator.validate(document)


def test_C4_6_document_names_only_reasons_that_are_told():
    told = [
        slug
        for slugs in capabilities_document(FACTS)["reasons"]["codes"].values()
        for slug in slugs
    ]
    assert told
    assert all(REASONS[slug].told and REASONS[slug].feature is Feature.GUARD for slug in told)


def test_C3_1_modes_and_the_default_first():
    assert CLOSE_REASONS == ("offered", "explicit", "always", "never")


# -- the schema ------------------------------------------------------------------------------------


def test_C4_6_schema_ships_with_the_package():
    text = (
        files("jupyter_token_ws.protocol").joinpath("capabilities.schema.json").read_text("utf-8")
    )
    assert capabilities_schema() == json.loads(text)
    assert capabilities_schema()["$schema"] == Draft202012Validator.META_SCHEMA["$schema"]


def test_C4_6_schema_takes_the_document_of_the_contract(validator):
    validator.validate(COMPLETE)


@pytest.mark.parametrize("mode", CLOSE_REASONS)
@pytest.mark.parametrize("interval", [0, 0.1, 25])
@pytest.mark.parametrize("timeout", [0, 0.3, 75])
@pytest.mark.parametrize("features", [(), Feature], ids=["none", "all"])
def test_C4_6_document_fits_its_schema(validator, mode, interval, timeout, features):
    facts = replace(
        FACTS,
        close_reasons=mode,
        keepalive_interval=interval,
        keepalive_timeout=timeout,
        features=frozenset(features),
    )
    document = capabilities_document(facts)
    validator.validate(document)
    assert json.loads(json.dumps(document)) == document


def test_C4_6_schema_and_tables_agree():
    properties = capabilities_schema()["properties"]
    reasons = properties["reasons"]["properties"]
    assert reasons["mode"]["enum"] == [mode for mode in CLOSE_REASONS if mode != "never"]
    (slugs,) = reasons["codes"]["patternProperties"].values()
    assert slugs["additionalProperties"]["enum"] == [advice.value for advice in Advice]
    assert set(properties) == set(COMPLETE)
    assert set(capabilities_schema()["required"]) == set(
        capabilities_document(replace(FACTS, close_reasons="never", keepalive_interval=0))
    )


DROP = object()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((name, DROP) for name in capabilities_schema()["required"]),
        ("api_versions", []),
        ("api_versions", "1.0"),
        ("api_versions", ["1"]),
        ("api_versions", [1.0]),
        ("base_url", "/user/ann/"),
        ("base_url", "https://host/user/ann"),
        ("base_url", "wss://host/"),
        ("ws_url", "https://host/"),
        ("ws_url", "wss://host"),
        ("ws_url", None),
        ("token", MARKER),
        ("token.subprotocol", DROP),
        ("token.subprotocol", None),
        ("token.in_url", DROP),
        ("token.in_url", "yes"),
        ("token.max_size", DROP),
        ("token.max_size", 0),
        ("token.max_size", 1.5),
        ("reasons.subprotocol", DROP),
        ("reasons.mode", DROP),
        ("reasons.mode", "never"),
        ("reasons.codes", DROP),
        ("reasons.codes.403", {"forbidden": "stop"}),
        ("reasons.codes.44030", {"forbidden": "stop"}),
        ("reasons.codes.4403", ["forbidden"]),
        ("reasons.codes.4403.forbidden", "give up"),
        ("kernel", {}),
        ("kernel.subprotocols", KERNEL),
        ("kernel.subprotocols", [None]),
        ("sockets", "api"),
        ("sockets", [1]),
        ("sockets", ["/api/events/subscribe"]),
        ("sockets", ["a", "a"]),
        ("transports", []),
        ("transports", ["carrier-pigeon"]),
        ("tunnel", True),
        ("login", "api/token-ws/login"),
        ("keepalive.interval", DROP),
        ("keepalive.interval", 0),
        ("keepalive.timeout", 0),
        ("keepalive.timeout", "75"),
    ],
)
def test_C4_6_schema_refuses_what_is_wrong(validator, path, value):
    document = deepcopy(COMPLETE)
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    if value is DROP:
        del place[last]
    else:
        place[last] = value
    assert not validator.is_valid(document)


def test_C4_6_clients_may_meet_members_they_do_not_know(validator):
    validator.validate(COMPLETE | {"new": 1, "token": COMPLETE["token"] | {"new": 1}})


# -- templates -------------------------------------------------------------------------------------


@vectors("routes", "route_template")
def test_C4_6_template_of_a_route(case):
    assert route_template(case["pattern"], case["base"]) == case["template"]


PIECES = st.sampled_from(
    ["/", "a", ".", "\\.", "\\(", "\\)", "\\w", "(", ")", "(?:", "(?=", "(?!", "(?P<x_id>", "(?P<y>",
     "(?i:", "[", "]", "[^", "{2}", "}", "*", "+", "?", "|", "^", "$", "\\", "-", "\\{"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=14).map("".join))
def test_C4_6_template_never_raises_and_is_the_path_it_shows(rest):
    pattern = f"/b/{rest}"
    template = route_template(pattern, "/b/")
    if template is None:
        return
    plain = re.sub(r"\{\w+\}", "", template)
    assert "{" not in plain
    assert "}" not in plain
    try:
        route = re.compile(pattern)
    except (re.error, FutureWarning):
        return
    if plain == template:
        assert route.fullmatch(f"/b/{template}")


@given(st.text(), st.text())
def test_C4_6_template_of_anything_never_raises(pattern, base):
    template = route_template(pattern, base)
    assert template is None or isinstance(template, str)


@given(
    st.lists(
        st.one_of(
            st.text("ab_-.é", min_size=1, max_size=4).map(lambda t: (re.escape(t), None)),
            st.just((r"(\w+)", "name")),
            st.just((r"(?P<kernel_id>\w+)", "id")),
        ),
        max_size=4,
    ),
    st.sampled_from(["/", "/user/ann/", "/a.b/"]),
)
def test_C4_6_path_made_from_a_template_takes_the_route(parts, base):
    used = []
    pattern = re.escape(base)
    for index, (text, name) in enumerate(parts):
        pattern += "/" if index else ""
        pattern += text.replace("kernel_id", f"k{index}_id")
        used += [name] * bool(name)
    template = route_template(f"{pattern}$", base)
    assert template is not None
    names = re.findall(r"\{(\w+)\}", template)
    assert len(names) == len(set(names)) == len(used)
    assert [name.rstrip("0123456789") for name in names] == used
    path = base + re.sub(r"\{\w+\}", "x1", template)
    assert re.fullmatch(pattern, path)


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        ([], ()),
        (["b", "a", "b"], ("a", "b")),
        (["b", None, "", "a"], ("a", "b")),
    ],
)
def test_C4_6_templates_are_listed_once_and_in_order(templates, expected):
    assert sorted_templates(templates) == sorted_templates(iter(templates)) == expected
