"""How a client sends its token, and to whom (C2.9, C4.5)."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.protocol.clients import (
    Addresses,
    TokenRoute,
    addresses,
    token_route,
    within_base,
)
from jupyter_token_ws.protocol.subprotocols import MARKER
from tests.support.vectors import vectors

DEFAULTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
SCHEMES = st.sampled_from(sorted(DEFAULTS))
HOSTS = st.sampled_from(["host", "HOST", "host.", "evil", "x.host", "127.0.0.1", "[::1]"])
PORTS = st.sampled_from(["", ":", ":0", ":80", ":443", ":8888", ":08888"])
SEGMENTS = st.sampled_from(
    ["", ".", "..", "...", "%2e%2E", ".%2e", "a", "A", "ab", "%61", "a%2Fb", "a%5cb", "a\\b"]
)
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda segments: "".join(f"/{s}" for s in segments))
URLS = st.builds(
    "{}://{}{}{}{}".format,
    SCHEMES,
    HOSTS,
    PORTS,
    PATHS,
    st.sampled_from(["", "/", "?x", "?/../", "#..", "/?a@b:c"]),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(MARKER),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "token": ANYTHING
        | st.fixed_dictionaries({}, optional={"subprotocol": ANYTHING, "in_url": ANYTHING}),
        "base_url": ANYTHING | URLS,
        "ws_url": ANYTHING | URLS,
    },
)


# -- how -------------------------------------------------------------------------------------------


@vectors("clients", "token_route")
def test_C2_9_way_of_a_token(case):
    route = token_route(case["capabilities"], browser=case["browser"], allow_url=case["allow_url"])
    assert route is TokenRoute(case["route"])
    if case["allow_url"]:
        assert token_route(case["capabilities"], browser=case["browser"]) is route


@given(DOCUMENTS, st.booleans(), st.booleans())
def test_C2_9_no_token_in_a_url_where_the_subprotocol_is_named(document, browser, allow_url):
    document["token"] = {"in_url": True, "subprotocol": MARKER}
    assert token_route(document, browser=browser, allow_url=allow_url) is TokenRoute.SUBPROTOCOL


@given(st.none() | DOCUMENTS, st.booleans(), st.booleans())
def test_C2_9_url_only_from_a_page_with_leave(document, browser, allow_url):
    route = token_route(document, browser=browser, allow_url=allow_url)
    if route is TokenRoute.URL:
        assert browser
        assert allow_url
        assert document is None or document["token"]["in_url"] is True
    if not browser:
        assert route in (TokenRoute.SUBPROTOCOL, TokenRoute.HEADER)


# -- to whom ---------------------------------------------------------------------------------------


@vectors("clients", "within_base")
def test_C2_9_address_is_below_the_base_or_not(case):
    assert within_base(case["base"], case["url"]) is case["inside"]


def place(url):
    """Security, host and port by another parser than the one on trial."""
    parts = urlsplit(url)
    port = DEFAULTS[parts.scheme] if parts.port is None else parts.port
    return parts.scheme in ("https", "wss"), parts.hostname, port


@given(URLS, URLS)
def test_C2_9_inside_is_same_place_and_below(base, url):
    if not within_base(base, url):
        return
    assert place(base) == place(url)
    path = urlsplit(url).path
    assert f"{path}/".startswith(urlsplit(base).path.rstrip("/") + "/")
    for _ in range(3):
        path = unquote(path)
        assert ".." not in path.replace("\\", "/").split("/")


@given(SCHEMES, HOSTS, PORTS, st.lists(st.sampled_from(["a", "b", "..."]), max_size=3), PATHS)
def test_C2_9_below_is_inside_unless_it_climbs_or_hides(scheme, host, port, prefix, path):
    base = f"{scheme}://{host}{port}/{'/'.join(prefix)}"
    url = f"{base.rstrip('/')}{path}"
    segments = path.replace("%2e", ".").replace("%2E", ".").split("/")
    hidden = any(text in path for text in ("%2F", "%5c", "\\"))
    assert within_base(base, url) is not (".." in segments or hidden)


@given(URLS, URLS, URLS)
def test_C2_9_below_what_is_below_is_below(base, middle, url):
    if within_base(base, middle) and within_base(middle, url):
        assert within_base(base, url)


@given(st.text(), st.text())
def test_C2_9_nonsense_is_outside(base, url):
    assert within_base("https://host/", url) is False or url.lower().startswith(
        ("https://host", "wss://host")
    )
    assert within_base(base, "https://host/") is False or "://" in base


@given(URLS, st.sampled_from([chr(n) for n in (*range(0x21), 0x7F)] + ["\\", "@"]), st.data())
def test_C2_9_what_parsers_disagree_on_is_outside(url, char, data):
    head = url.index("://") + 3
    at = data.draw(st.integers(head, head + url[head:].find("/") if "/" in url[head:] else head))
    assert not within_base(url, url[:at] + char + url[at:])


# -- where to go on --------------------------------------------------------------------------------


@vectors("clients", "addresses")
def test_C4_5_addresses_outside_the_base_are_ignored(case):
    found = addresses(case["asked"], case["capabilities"])
    assert found == Addresses(case["base_url"], case["ws_url"])


@given(DOCUMENTS)
def test_C4_5_addresses_are_always_below_the_base(document):
    for asked in ("http://host/a", "https://host:8888/", "http://[::1]/"):
        found = addresses(asked, document)
        assert within_base(asked, found.base_url)
        assert within_base(asked, found.ws_url)
        assert found.base_url.lower().startswith(("http://", "https://"))
        assert found.ws_url.lower().startswith(("ws://", "wss://"))
        assert found.base_url.endswith("/")
        assert found.ws_url.endswith("/")


def test_C2_9_ways_by_name():
    assert [route.value for route in TokenRoute] == ["subprotocol", "header", "url", "none"]


@pytest.mark.parametrize("scheme", DEFAULTS)
@pytest.mark.parametrize("other", DEFAULTS)
def test_C2_9_schemes_of_one_security_are_one(scheme, other):
    """On their own default ports, and on one that is named."""
    secure = ("https", "wss")
    same = (scheme in secure) == (other in secure)
    assert within_base(f"{scheme}://host/", f"{other}://host/") is same
    assert within_base(f"{scheme}://host:1/", f"{other}://host:1/") is same
    assert within_base(f"{scheme}://host/", f"{other}://host:{DEFAULTS[scheme]}/") is same
