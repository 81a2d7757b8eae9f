"""Where a client is and how it came: nobody's word counts but a named proxy's."""

from __future__ import annotations

import ipaddress
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from jupyter_token_ws.guard.addresses import (
    MAX_HOPS,
    UNIX,
    Proxies,
    is_local,
    limit_key,
    local_address,
    parse_address,
    peer,
)

NOBODY = Proxies()
NAMED = Proxies.named(["127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48"])
BY_UNIX = Proxies.named(["unix"])
CLIENT = "192.0.2.7"


def request(
    address: str | None = "127.0.0.1",
    *lines: tuple[str, str],
    family: int = socket.AF_INET,
    protocol: str = "http",
    claimed: tuple[str, str] = ("198.51.100.99", "https"),
    context: bool = True,
) -> HTTPServerRequest:
    """``claimed`` is what `trust_xheaders` made of address and protocol."""
    headers = HTTPHeaders()
    for name, value in lines:
        headers.add(name, value)
    known: Any = SimpleNamespace(
        address_family=family, _orig_remote_ip=address, _orig_protocol=protocol
    )
    connection: Any = SimpleNamespace(context=known if context else None)
    start = RequestStartLine("GET", "/", "HTTP/1.1")
    headers.add("Host", "here")
    made = HTTPServerRequest(headers=headers, connection=connection, start_line=start)
    made.remote_ip, made.protocol = claimed
    return made


def forwarded(*hops: str, by: str = "127.0.0.1") -> HTTPServerRequest:
    return request(by, ("X-Forwarded-For", ", ".join(hops)))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ('"192.0.2.1"', "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ('"[2001:db8::1]:4711"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_an_address_as_proxies_write_it(text, address):
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text", ["", "unknown", "_hidden", "192.0.2", "192.0.2.1.5", "[", "a:b", "/x"]
)
def test_what_is_no_address(text):
    assert parse_address(text) is None


@given(st.text())
def test_anything_can_be_parsed(text):
    parsed = parse_address(text)
    assert parsed is None or parse_address(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_what_counts_as_one_client(address, key):
    assert limit_key(ipaddress.ip_address(address)) == key


def test_a_unix_socket_is_an_address_of_its_own():
    assert limit_key(UNIX) == UNIX
    assert peer(request("0.0.0.0", family=socket.AF_UNIX)) == UNIX


def test_the_peer_is_who_is_connected_and_not_who_it_says_it_is():
    assert str(peer(request("192.0.2.1"))) == "192.0.2.1"
    assert str(peer(request("::ffff:192.0.2.1", family=socket.AF_INET6))) == "192.0.2.1"


def test_the_peer_of_a_request_without_a_connection_of_its_own():
    assert str(peer(request(context=False))) == "198.51.100.99"
    assert peer(request(context=False, claimed=("", "http"))) == ""
    assert peer(request(context=False, claimed=("nowhere", "http"))) == "nowhere"


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("192.0.2.1", False), ("::2", False)],
)
def test_this_machine(address, local):
    assert is_local(ipaddress.ip_address(address)) is local


def test_this_machine_by_unix_socket():
    assert is_local(UNIX)
    assert not is_local("")


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded-Host",
        "X-Forwarded-Anything",
        "X-Real-Ip",
        "Forwarded",
        "Via",
        "X-Scheme",
    ],
)
def test_headers_that_a_proxy_was_on_the_way(name):
    assert NOBODY.forwarded(request("127.0.0.1", (name, "")).headers)


def test_other_headers_say_nothing_of_proxies():
    assert not NOBODY.forwarded(request("127.0.0.1", ("X-Request-Id", "1")).headers)


def test_the_configured_headers_say_it_too():
    proxies = Proxies.named([], "CF-Connecting-IP", "CloudFront-Forwarded-Proto")
    for name in ("Cf-Connecting-Ip", "cloudfront-forwarded-proto"):
        headers = request("127.0.0.1", (name, "")).headers
        assert proxies.forwarded(headers)
        assert not NOBODY.forwarded(headers)


@pytest.mark.parametrize(
    ("proxies", "given", "client"),
    [
        (NOBODY, request("192.0.2.1"), "192.0.2.1"),
        (NOBODY, forwarded(CLIENT), None),
        (NOBODY, forwarded(CLIENT, by="192.0.2.1"), None),
        (NOBODY, request("192.0.2.1", ("Via", "1.1 x")), None),
        # Who is no named proxy may say what he likes.
        (NAMED, forwarded(CLIENT, by="192.0.2.1"), "192.0.2.1"),
        (NAMED, request("192.0.2.1", ("X-Real-Ip", CLIENT)), "192.0.2.1"),
        # A named one that says nothing is itself the client.
        (NAMED, request("127.0.0.1"), "127.0.0.1"),
        (NAMED, request("127.0.0.1", ("X-Real-Ip", CLIENT)), "127.0.0.1"),
        (NAMED, request("127.0.0.1", ("Forwarded", f"for={CLIENT}")), "127.0.0.1"),
        # From right to left, past the named ones.
        (NAMED, forwarded(CLIENT), CLIENT),
        (NAMED, forwarded("203.0.113.5", CLIENT), CLIENT),
        (NAMED, forwarded("203.0.113.5", CLIENT, "10.1.1.1", "10.2.2.2"), CLIENT),
        (NAMED, forwarded("10.1.1.1", "10.2.2.2"), "10.1.1.1"),
        (NAMED, forwarded(CLIENT, "2001:db8:ffff::5"), CLIENT),
        (NAMED, forwarded("2001:db8:1:2:3::"), "2001:db8:1:2::/64"),
        (NAMED, forwarded(f"{CLIENT}:4711"), CLIENT),
        # What cannot be read was said by nobody whom we believe.
        (NAMED, forwarded(CLIENT, "unknown"), "127.0.0.1"),
        (NAMED, forwarded(CLIENT, "unknown", "10.1.1.1"), "10.1.1.1"),
        (NAMED, forwarded(""), "127.0.0.1"),
        # Two lines of a header are one list.
        (
            NAMED,
            request("127.0.0.1", ("X-Forwarded-For", "203.0.113.5"), ("X-Forwarded-For", CLIENT)),
            CLIENT,
        ),
        # By a unix socket.
        (BY_UNIX, request("0.0.0.0", ("X-Forwarded-For", CLIENT), family=socket.AF_UNIX), CLIENT),
        (NAMED, request("0.0.0.0", ("X-Forwarded-For", CLIENT), family=socket.AF_UNIX), UNIX),
        (BY_UNIX, forwarded(CLIENT), "127.0.0.1"),
        # Only the header that was named.
        (Proxies.named(["127.0.0.1"], "X-Real-Ip"), forwarded(CLIENT), "127.0.0.1"),
        (
            Proxies.named(["127.0.0.1"], "X-Real-Ip"),
            request("127.0.0.1", ("X-Real-Ip", CLIENT), ("X-Forwarded-For", "203.0.113.5")),
            CLIENT,
        ),
    ],
)
def test_where_a_client_is(proxies, given, client):
    assert proxies.client(given) == client


def test_only_so_many_hops_are_looked_at():
    hops = ["10.0.0.1"] * MAX_HOPS
    assert NAMED.client(forwarded(CLIENT, *hops[1:])) == CLIENT
    assert NAMED.client(forwarded(CLIENT, *hops)) == "10.0.0.1"


@given(st.lists(st.sampled_from([CLIENT, "203.0.113.5", "10.1.1.1", "x", ""]), max_size=6))
def test_nothing_left_of_the_client_changes_who_it_is(left):
    """What a client writes itself stands left of what the first named proxy adds."""
    assert NAMED.client(forwarded(*left, "198.51.100.1", "10.9.9.9")) == "198.51.100.1"


@pytest.mark.parametrize(
    ("proxies", "given", "encrypted"),
    [
        (NOBODY, request("192.0.2.1", protocol="https"), True),
        (NOBODY, request("192.0.2.1"), False),
        # This machine, but not what a proxy on it passes on.
        (NOBODY, request("127.0.0.1"), True),
        (NOBODY, request("::1", family=socket.AF_INET6), True),
        (NOBODY, request("0.0.0.0", family=socket.AF_UNIX), True),
        (NOBODY, request("127.0.0.1", ("X-Forwarded-For", CLIENT)), False),
        (NOBODY, request("127.0.0.1", ("X-Forwarded-Proto", "https")), False),
        (NOBODY, request("0.0.0.0", ("Via", "1.1 x"), family=socket.AF_UNIX), False),
        # A named proxy is believed, and nobody else.
        (NAMED, request("127.0.0.1", ("X-Forwarded-Proto", "https")), True),
        (NAMED, request("127.0.0.1", ("X-Forwarded-Proto", "WSS")), True),
        (NAMED, request("127.0.0.1", ("X-Forwarded-Proto", "http")), False),
        (NAMED, request("127.0.0.1", ("X-Forwarded-Proto", "")), False),
        (NAMED, request("127.0.0.1", ("X-Forwarded-Proto", "https, http")), False),
        (NAMED, request("127.0.0.1", ("X-Forwarded-Proto", "http, https")), True),
        (NAMED, request("127.0.0.1", ("X-Forwarded-For", CLIENT)), False),
        (NAMED, request("127.0.0.1", ("X-Scheme", "https")), False),
        (NAMED, request("127.0.0.1"), True),
        (NAMED, request("10.1.1.1"), False),
        (NAMED, request("192.0.2.1", ("X-Forwarded-Proto", "https")), False),
        (BY_UNIX, request("0", ("X-Forwarded-Proto", "https"), family=socket.AF_UNIX), True),
        (
            Proxies.named(["127.0.0.1"], protocol_header="X-Scheme"),
            request("127.0.0.1", ("X-Scheme", "https")),
            True,
        ),
        # A request without a connection of its own has what it was given.
        (NOBODY, request(context=False), True),
        (NOBODY, request(context=False, claimed=("192.0.2.1", "http")), False),
    ],
)
def test_how_a_request_came(proxies, given, encrypted):
    assert proxies.encrypted(given) is encrypted


@pytest.mark.parametrize("name", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "", "Unix"])
def test_what_names_no_proxy(name):
    with pytest.raises(ValueError, match=r"network|host bits"):
        Proxies.named([name])


def test_who_is_named():
    assert not NOBODY.any_named
    assert NAMED.any_named
    assert BY_UNIX.any_named
    assert not BY_UNIX.trusts(ipaddress.ip_address("127.0.0.1"))
    assert not NAMED.trusts(UNIX)
    assert not BY_UNIX.trusts("")
    assert Proxies.named([" 10.0.0.0/8 "]).trusts(ipaddress.ip_address("10.9.9.9"))


def test_where_a_connection_came_in(tmp_path):
    def named(name: Any) -> Any:
        return SimpleNamespace(socket=SimpleNamespace(getsockname=lambda: name))

    assert local_address(named(("127.0.0.1", 8888))) == "127.0.0.1:8888"
    assert local_address(named(("::1", 8888, 0, 0))) == "[::1]:8888"
    assert local_address(named("/run/jupyter.sock")) == "/run/jupyter.sock"
    assert local_address(named(b"\0abstract")) == "\0abstract"
    with socket.socket() as gone:
        pass
    assert local_address(SimpleNamespace(socket=gone)) == ""
    assert local_address(SimpleNamespace(socket=None)) == ""
    assert local_address(None) == ""


@pytest.mark.parametrize(
    ("asked", "tls"),
    [
        (request("192.0.2.1", protocol="https"), True),
        (request("127.0.0.1"), False),  # near, and in the clear all the same
        (request("10.0.0.1", ("X-Forwarded-Proto", "http, wss")), True),
        (request("10.0.0.1", ("X-Forwarded-Proto", "https, http")), False),
        (request("10.0.0.1"), False),
        (request("192.0.2.1", ("X-Forwarded-Proto", "https")), False),
    ],
)
def test_what_came_encrypted(asked, tls):
    assert NAMED.tls(asked) is tls
