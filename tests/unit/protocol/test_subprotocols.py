"""What is offered and answered, and how a token is encoded (contract section 1)."""

from __future__ import annotations

import json
import re
import subprocess
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.protocol.subprotocols import (
    KERNEL,
    MARKER,
    MAX_TOKEN_SIZE,
    REASON_MARKER,
    Offer,
    choose,
    choose_refused,
    decode_token,
    encode_token,
    is_token_bearing,
    offer_subprotocols,
    parse_offer,
    split_header,
)
from tests.plugins.programs import requires
from tests.support.vectors import vectors

BLANKS = " \t\u00a0\u0085\x0b\x1f"
# RFC 9110 section 5.6.2, less what would make a token-bearing entry by chance.
NAME_CHARACTERS = "!#$%&'*+-.^_`|~0189ABYZabyz"
CONTROL = [chr(point) for point in (*range(0x20), *range(0x7F, 0xA0))]

names = st.one_of(
    st.sampled_from([MARKER, REASON_MARKER, KERNEL, "mqtt"]),
    st.text(NAME_CHARACTERS, min_size=1, max_size=12),
)
any_case = st.lists(st.booleans(), min_size=40, max_size=40).map(
    lambda upper: "".join(
        letter.upper() if up else letter
        for letter, up in zip(".token.websocket.jupyter.org.", upper, strict=False)
    )
)
bearing = st.builds(
    "{}{}{}{}".format,
    st.sampled_from("vV"),
    st.one_of(st.just(1), st.integers(0, 99)),
    any_case,
    st.text("abc%0aF9.", max_size=8),
)
tokens = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


# -- what is offered -------------------------------------------------------------------------------


@vectors("subprotocols", "parse")
def test_C1_2_C1_3_C3_2_offer_is_read(case):
    offer = parse_offer(case["header"])
    assert offer == Offer(
        protocols=tuple(case["protocols"]),
        visible=tuple(case["visible"]),
        marker=case["marker"],
        reason_marker=case["reason_marker"],
        token_bearing=case["token_bearing"],
        token=case["token"],
        malformed=case["malformed"],
    )
    assert offer == parse_offer(split_header(case["header"]))
    assert offer == parse_offer(iter(split_header(case["header"])))
    assert choose_refused(offer) == case["refused"]


def test_C1_2_names_in_full():
    assert MARKER == "v1.token.websocket.jupyter.org"
    assert REASON_MARKER == "v1.reason.websocket.jupyter.org"
    assert KERNEL == "v1.kernel.websocket.jupyter.org"


def test_C1_2_dots_are_dots():
    parts = f"{MARKER}.abc".split(".")
    assert is_token_bearing(".".join(parts))
    for index in range(1, len(parts)):
        assert not is_token_bearing(f"{'.'.join(parts[:index])}x{'.'.join(parts[index:])}")


def test_C1_3_whole_entry_is_judged():
    assert parse_offer([f"{MARKER}.abc\n"]).malformed
    assert parse_offer([f"{MARKER}.abc\nd"]).malformed


def test_C1_3_default_limit_of_a_token():
    assert MAX_TOKEN_SIZE == 4096
    assert decode_token("a" * 4096) == "a" * 4096
    assert decode_token("a" * 4097) is None


def test_C1_3_limit_can_be_set():
    assert parse_offer(f"{MARKER}.abc", 3).token == "abc"
    assert parse_offer(f"{MARKER}.abcd", 3).malformed
    assert parse_offer(f"{MARKER}.{'a' * 5000}", 5000).token == "a" * 5000


def test_C1_2_token_is_in_no_representation():
    offer = parse_offer(f"{MARKER}, {MARKER}.s3cr3t")
    assert offer.token == "s3cr3t"
    assert "s3cr3t" not in repr(offer)
    assert "s3cr3t" not in str(offer)


def test_C1_2_offer_of_nothing():
    assert parse_offer("") == parse_offer([]) == Offer()
    assert Offer() == Offer((), (), False, False, False, None, False)


def test_C1_2_thousand_names():
    offer = parse_offer(", ".join([*(f"p{n}" for n in range(1000)), f"{MARKER}.abc"]))
    assert len(offer.protocols) == len(offer.visible) == 1000
    assert offer.token == "abc"


@pytest.mark.parametrize("blank", BLANKS)
def test_C1_2_blanks_hide_nothing_that_tornado_would_show(blank):
    """tornado strips with ``str.strip``: what it shows to a handler was looked at here."""
    header = f"a,{blank}{MARKER}.abc{blank},{blank}b"
    assert split_header(header) == [name.strip() for name in header.split(",")]
    offer = parse_offer(header)
    assert (offer.visible, offer.token) == (("a", "b"), "abc")


@pytest.mark.parametrize("before", [*" \t\"'()/:;<=>?@[\\]{}", "\u00e9", "a b;", "'x'="])
def test_C1_2_token_behind_what_is_no_name_is_refused(before):
    entry = f"{before}{MARKER}.abc"
    # An apostrophe may be part of a name.
    found = not before.endswith("'")
    assert is_token_bearing(entry) is found
    assert parse_offer([entry]).malformed is found


@pytest.mark.parametrize("before", NAME_CHARACTERS)
def test_C1_2_longer_name_is_somebody_elses(before):
    assert not is_token_bearing(f"{before}{MARKER}.abc")


@given(st.one_of(st.text(), st.lists(st.text())), st.integers(0, 10))
def test_C1_2_C1_3_reading_never_raises(header, size):
    offer = parse_offer(header, size)
    assert not any(map(is_token_bearing, offer.visible))
    assert offer.token is None or not offer.malformed


@given(st.text(alphabet=f'{MARKER}.{MARKER.upper()}2, ;"%\n\u00a0', max_size=80))
def test_C1_2_C1_3_reading_near_misses_never_raises(header):
    offer = parse_offer(header)
    assert not any(map(is_token_bearing, offer.visible))


@given(st.lists(st.one_of(names, bearing)))
def test_C1_2_no_token_leaks_and_nothing_else_is_lost(offered):
    offer = parse_offer(offered)
    others = [name for name in offered if not is_token_bearing(name)]
    assert list(offer.visible) == others
    assert list(offer.protocols) == [n for n in others if n not in (MARKER, REASON_MARKER)]
    assert offer.marker == (MARKER in offered)
    assert offer.reason_marker == (REASON_MARKER in offered)
    assert offer.token_bearing == (len(others) < len(offered))
    for name in offer.visible:
        assert not re.search(r"v\d+\.token\.websocket\.jupyter\.org\.", name, re.IGNORECASE)


@given(bearing, bearing, st.lists(names))
def test_C1_3_two_tokens_are_one_too_many(one, other, rest):
    offer = parse_offer([one, *rest, other])
    assert (offer.malformed, offer.token, offer.token_bearing) == (True, None, True)


@given(tokens, st.lists(names), st.lists(names))
def test_C1_2_token_is_found_wherever_it_stands(token, before, after):
    entry = f"{MARKER}.{encode_token(token)}"
    offer = parse_offer([*before, entry, *after], max_token_size=10**6)
    assert offer.token == (token or None)
    assert not offer.malformed
    assert entry not in (*offer.visible, *offer.protocols)


@given(st.lists(names))
def test_C1_2_split_undoes_join(offered):
    for comma in (",", ", ", " ,\t", ",,"):
        assert split_header(comma.join(offered)) == offered


@given(st.text())
def test_C1_2_split_names_are_clean_and_splitting_again_changes_nothing(header):
    found = split_header(header)
    assert all(name and name == name.strip() and "," not in name for name in found)
    assert split_header(", ".join(found)) == found


# -- what is answered ------------------------------------------------------------------------------


@vectors("subprotocols", "choose")
def test_C1_1_answer_of_an_accepted_socket(case):
    offer = parse_offer(case["header"])
    assert choose(case["chosen"], offer, case["token_accepted"]) == case["answer"]


@given(st.lists(st.one_of(names, bearing)), st.booleans(), st.data())
def test_C1_1_C1_2_answer_was_offered_and_bears_no_token(offered, accepted, data):
    offer = parse_offer(offered)
    chosen = data.draw(st.sampled_from([None, "", *offer.protocols]))
    answer = choose(chosen, offer, accepted)
    assert answer is None or (answer in offered and not is_token_bearing(answer))
    if answer == MARKER:
        assert accepted


@given(st.lists(st.one_of(names, bearing)))
def test_C3_2_refusal_answers_none_but_three_names(offered):
    answer = choose_refused(parse_offer(offered))
    ours = [name for name in (REASON_MARKER, KERNEL, MARKER) if name in offered]
    assert answer == (ours[0] if ours else None)


# -- how a token is encoded ------------------------------------------------------------------------


@vectors("encoding", "encode")
def test_C1_4_token_is_encoded(case):
    if case["encoded"] is None:
        with pytest.raises(UnicodeEncodeError):
            encode_token(case["token"])
    else:
        assert encode_token(case["token"]) == case["encoded"]


@vectors("encoding", "decode")
def test_C1_3_token_is_decoded_or_refused(case):
    size = {"max_token_size": case["max_size"]} if "max_size" in case else {}
    assert decode_token(case["encoded"], **size) == case["token"]


@pytest.mark.parametrize("char", CONTROL, ids=lambda char: f"U+{ord(char):04X}")
def test_C1_3_control_character_is_refused(char):
    assert decode_token(f"a{encode_token(char)}") is None
    assert decode_token(f"a{char}") is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_C1_3_C1_4_decoding_undoes_encoding(token):
    decoded = decode_token(encode_token(token), 10**6)
    assert decoded == (None if any(char in CONTROL for char in token) else token)


@given(tokens)
def test_C1_4_encoded_token_is_part_of_a_name_everywhere(token):
    """Nothing in it ends a header's element, and browsers take it in ``new WebSocket``."""
    assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*", encode_token(token))


@given(st.text(), st.integers(0, 20))
def test_C1_3_decoding_never_raises(encoded, size):
    token = decode_token(encoded, size)
    if token is not None:
        assert len(encoded) <= size
        assert token == unquote(encoded, errors="strict")


@given(st.binary(max_size=12))
def test_C1_3_bytes_that_are_no_utf8_are_refused(data):
    encoded = "".join(f"%{byte:02x}" for byte in data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        assert decode_token(encoded) is None
    else:
        controls = any(char in CONTROL for char in text)
        assert decode_token(encoded) == (None if controls else text)


NODE = """
const points = [];
for (let p = 0; p < 0x110000; p += p < 0x3000 ? 1 : 0x101) {
  if (p < 0xd800 || p > 0xdfff) points.push(String.fromCodePoint(p));
}
const encode = (t) => encodeURIComponent(t).replace(/\\(/g, "%28").replace(/\\)/g, "%29");
console.log(JSON.stringify([points.map(encode), encode(points.join(""))]));
"""


def test_C1_4_encoding_is_that_of_javascript_with_parentheses():
    run = [requires("node", "nodejs"), "-e", NODE]
    output = subprocess.run(run, capture_output=True, check=True, timeout=60).stdout
    theirs, joined = json.loads(output)
    points = [*range(0x3000), *range(0x3000, 0x110000, 0x101)]
    ours = [encode_token(chr(point)) for point in points if not 0xD800 <= point <= 0xDFFF]
    assert len(ours) > 16000
    assert ours == theirs
    assert "".join(ours) == joined


def test_C1_3_C1_4_node_and_python_decode_alike():
    """Whatever of two bytes, well encoded or not: node throws where a token is refused."""
    node = """
const out = [];
for (let a = 0; a < 256; a++) for (let b = 0x78; b < 0xc8; b++) {
  const text = "%" + a.toString(16).padStart(2, "0") + "%" + b.toString(16).padStart(2, "0");
  try { out.push(decodeURIComponent(text)); } catch { out.push(null); }
}
console.log(JSON.stringify(out));
"""
    run = [requires("node", "nodejs"), "-e", node]
    theirs = json.loads(subprocess.run(run, capture_output=True, check=True, timeout=60).stdout)
    texts = [f"%{a:02x}%{b:02x}" for a in range(256) for b in range(0x78, 0xC8)]
    refused_by_us = [
        None if text is None or any(char in CONTROL for char in text) else text for text in theirs
    ]
    assert [decode_token(text) for text in texts] == refused_by_us
    assert len(set(theirs)) > 100


# -- what a client offers --------------------------------------------------------------------------


@vectors("subprotocols", "offer")
def test_C1_4_J2_J3_J4_J5_list_of_a_client(case):
    existing = tuple(case["existing"])
    assert offer_subprotocols(existing, case["token"], reasons=case["reasons"]) == case["offered"]


def test_C1_4_list_of_a_client_by_default():
    assert offer_subprotocols() == [REASON_MARKER]
    assert offer_subprotocols(iter([KERNEL])) == [KERNEL, REASON_MARKER]


def test_C1_4_text_that_is_no_unicode_is_an_error():
    with pytest.raises(UnicodeEncodeError):
        offer_subprotocols([], "\ud800")


@given(st.lists(st.one_of(names, bearing)), tokens, st.booleans())
def test_C1_4_server_reads_what_a_client_offers(existing, token, reasons):
    offered = offer_subprotocols(existing, token, reasons=reasons)
    assert len(set(offered)) == len(offered)
    if token:
        offer = parse_offer(", ".join(offered), max_token_size=10**6)
        assert (offer.token, offer.marker, offer.malformed) == (token, True, False)
    plain = [name for name in dict.fromkeys(existing) if not is_token_bearing(name)]
    assert [name for name in offered if name in plain] == plain
    added = [name for name in offered if name not in plain]
    if not token:
        assert [n for n in added if n != REASON_MARKER] == [
            name for name in dict.fromkeys(existing) if is_token_bearing(name)
        ]
