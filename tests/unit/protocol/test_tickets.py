"""What a ticket looks like, where it is good and how long (contract section 6)."""

from __future__ import annotations

import math
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.protocol import tickets
from jupyter_token_ws.protocol.subprotocols import decode_token, encode_token
from jupyter_token_ws.protocol.tickets import (
    MAX_AUDIENCE,
    MAX_AUDIENCE_SIZE,
    MAX_SKEW,
    PREFIX,
    SECRET_SIZE,
    Lifetimes,
    covers,
    is_current,
    is_ticket,
    read_audience,
    read_ticket,
    write_ticket,
)

SECRETS = st.binary(min_size=SECRET_SIZE, max_size=SECRET_SIZE)
PLAIN = st.text("abcXYZ019-_.~", min_size=1, max_size=8).filter(lambda s: s not in (".", ".."))
PATHS = st.lists(PLAIN, min_size=1, max_size=4).map("/".join)


@given(SECRETS)
def test_C6_3_a_ticket_needs_no_encoding_anywhere(secret):
    ticket = write_ticket(secret)
    assert is_ticket(ticket)
    assert read_ticket(ticket) == secret
    assert re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", ticket)  # token68
    assert encode_token(ticket) == quote(ticket, safe="") == ticket == decode_token(ticket)


def test_C6_3_tickets_have_256_random_bits():
    assert SECRET_SIZE * 8 == 256
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32 random bytes"):
            write_ticket(b"x" * size)


@given(SECRETS, st.integers(0, len(PREFIX) + 42), st.characters())
def test_C6_3_a_ticket_is_written_in_one_way_only(secret, place, character):
    ticket = write_ticket(secret)
    changed = ticket[:place] + character + ticket[place + 1 :]
    read = read_ticket(changed)
    assert read is None or write_ticket(read) == changed
    assert (read == secret) == (changed == ticket)


@pytest.mark.parametrize(
    "token",
    ["", PREFIX, "a" * 43, PREFIX + "a" * 42, PREFIX + "a" * 44, PREFIX + "A" * 42 + "=",
     PREFIX.upper() + "A" * 43, " " + PREFIX + "A" * 43, PREFIX + "A" * 43 + "\n",
     # The last character has two bits that no byte has.
     PREFIX + "A" * 42 + "B"],
)  # fmt: skip
def test_C6_3_what_is_no_ticket(token):
    assert read_ticket(token) is None


def test_C6_3_the_prefix_alone_tells_a_ticket():
    assert is_ticket(PREFIX + "whatever")
    assert not is_ticket("")
    assert not is_ticket("a-token-of-the-server")
    assert not is_ticket(PREFIX[:-1])


@pytest.mark.parametrize(
    ("asked", "audience"),
    [
        (None, None),
        (["api/kernels"], ("api/kernels",)),
        (("/api/kernels/", "terminals"), ("api/kernels", "terminals")),
        (["a", "/a", "a/"], ("a",)),
        (["proxy/8080/my%20app"], ("proxy/8080/my%20app",)),
        (["a" * MAX_AUDIENCE_SIZE], ("a" * MAX_AUDIENCE_SIZE,)),
        ([str(i) for i in range(MAX_AUDIENCE)], tuple(str(i) for i in range(MAX_AUDIENCE))),
    ],
)
def test_C6_1_audience_is_read(asked, audience):
    assert read_audience(asked) == audience


@pytest.mark.parametrize(
    "asked",
    [[], (), "api/kernels", {"api": 1}, 7, True, [""], ["/"], ["//"], [None], [7], ["a//b"],
     ["a/../b"], [".."], ["."], ["%2e%2e/a"], ["a/%252E%252e"], ["a/..%2fb"], ["a\\b"], ["a b"],
     ["a?b"], ["a#b"], ["\u00e4"], ["a\nb"], ["a/..;x"], ["good", "bad?"],
     ["a" * (MAX_AUDIENCE_SIZE + 1)], ["a"] * (MAX_AUDIENCE + 1),
     ["a" * 1500, "b" * 1500]],
)  # fmt: skip
def test_C6_1_audience_that_is_none(asked):
    with pytest.raises(ValueError, match="audience"):
        read_audience(asked)


@pytest.mark.parametrize("path", ["/", "", "/api/kernels", "/a/../b", "/%2e%2e/x"])
def test_C6_1_without_audience_a_ticket_is_for_all_of_the_server(path):
    assert covers(None, path)


@pytest.mark.parametrize(
    ("audience", "path", "base_url", "covered"),
    [
        (["api/kernels"], "/api/kernels", "/", True),
        (["api/kernels"], "/api/kernels/", "/", True),
        (["api/kernels"], "/api/kernels/1/channels", "/", True),
        (["api/kernels"], "/api/kernelspecs", "/", False),
        (["api/kernels"], "/api/kernel", "/", False),
        (["api/kernels"], "/api", "/", False),
        (["api/kernels"], "/", "/", False),
        (["api/kernels"], "", "/", False),
        (["api/kernels"], "/x/api/kernels", "/", False),
        (["api/kernels"], "//api/kernels", "/", False),
        (["api/kernels"], "/api//kernels", "/", False),
        (["api/kernels"], "/API/kernels", "/", False),
        (["a", "b"], "/b/c", "/", True),
        (["a", "b"], "/c", "/", False),
        # Below the base, and below it only.
        (["api/kernels"], "/user/ann/api/kernels/1", "/user/ann/", True),
        (["api/kernels"], "/user/ann/api/kernels/1", "/user/ann", True),
        (["api/kernels"], "/api/kernels/1", "/user/ann/", False),
        (["api/kernels"], "/X/api/kernels/1", "/X/", True),
        (["api/kernels"], "/api/kernels/1", "/X/", False),
        (["api/kernels"], "/user/bob/api/kernels/1", "/user/ann/", False),
        (["api/kernels"], "/user/a%40x/api/kernels", "/user/a@x/", True),
        (["api/kernels"], "/user/a@x/api/kernels", "/user/a%40x/", True),
        # One path has many spellings.
        (["api/kernels"], "/api/%6bernels/1", "/", True),
        (["a/my%20app"], "/a/my%20app/x", "/", True),
        (["a/my%20app"], "/a/my%20apple", "/", False),
        (["a/b"], "/a%2Fb", "/", False),
        (["a"], "/a/%ff", "/", True),
        (["a/%ff"], "/a/%fe", "/", False),
        (["a"], "/a/\udc80", "/", True),
        # Whoever climbs is nowhere.
        (["a"], "/a/../b", "/", False),
        (["a"], "/a/..", "/", False),
        (["a"], "/a/./b", "/", False),
        (["a"], "/a/%2e%2e/b", "/", False),
        (["a"], "/a/.%2E/b", "/", False),
        (["a"], "/a/..%2fb", "/", False),
        (["a"], "/a/x%2f..%2fb", "/", False),
        (["a"], "/a/x%5c..%5cb", "/", False),
        (["a"], "/a/..\\b", "/", False),
        (["a"], "/a/%252e%252e/b", "/", False),
        (["a"], "/a/%25252e%25252e/b", "/", False),
        (["a"], "/a/%2525252525252e%252525252525252e/b", "/", False),
        (["a"], "/a/..;x/b", "/", False),
        (["a"], "/a/..b/b..", "/", True),
        (["a"], "/a/...", "/", True),
        (["a"], "/a/100%25", "/", True),
    ],
)
def test_C6_1_audience_covers_what_is_below_its_prefixes(audience, path, base_url, covered):
    assert covers(read_audience(audience), path, base_url) is covered


@given(st.lists(PATHS, min_size=1, max_size=4), PATHS, st.sampled_from(["/", "/user/ann/"]))
def test_C6_1_audience_is_a_matter_of_segments(prefixes, path, base_url):
    expected = any((path + "/").startswith(prefix + "/") for prefix in prefixes)
    assert covers(read_audience(prefixes), base_url + path, base_url) is expected


@given(PATHS, st.text(max_size=20))
def test_C6_1_nothing_behind_a_prefix_leads_out_of_it(prefix, rest):
    if covers((prefix,), f"/{prefix}/{rest}"):
        assert ".." not in re.split(r"[/\\]", rest)


@given(st.text(max_size=60), st.text(max_size=60))
def test_C6_1_no_path_is_too_strange(path, base_url):
    assert covers(("a",), path, base_url) in (True, False)


@pytest.mark.parametrize(
    ("asked", "age"),
    [(None, 300), (1, 1), (0.5, 0.5), (299.9, 299.9), (300, 300), (301, 300), (10**400, 300)],
)
def test_C6_1_nobody_gets_more_than_the_longest_age(asked, age):
    assert Lifetimes(max_age=300).age(asked) == age


@pytest.mark.parametrize(
    "asked", [0, -1, -0.5, math.nan, math.inf, -math.inf, True, "60", [60], {}]
)
def test_C6_1_age_that_is_none(asked):
    with pytest.raises(ValueError, match="max_age"):
        Lifetimes().age(asked)


@pytest.mark.parametrize(
    ("credential_ends_at", "ends_at"),
    [(None, 1100), (1050, 1050), (1100, 1100), (5000, 1100), (900, 900), (-math.inf, -math.inf)],
)
def test_C6_4_a_family_ends_with_its_credential_or_before(credential_ends_at, ends_at):
    assert Lifetimes(max_renewal=100).family_ends_at(1000, credential_ends_at) == ends_at


@pytest.mark.parametrize(
    ("issued_at", "expires_at", "now", "current"),
    [
        (100, 200, 100, True),
        (100, 200, 199.999, True),
        (100, 200, 200, False),
        (100, 200, 1e9, False),
        # The clock of whoever issued it may be ahead, but not by as much as one that was set back.
        (100, 200, 100 - MAX_SKEW, True),
        (100, 200, 99.9 - MAX_SKEW, False),
    ],
)
def test_C6_4_a_ticket_is_good_for_its_time(issued_at, expires_at, now, current):
    assert is_current(issued_at, expires_at, now) is current


def test_C6_4_an_old_ticket_dies_within_thirty_seconds():
    assert 0 < tickets.RENEWAL_GRACE <= 30
