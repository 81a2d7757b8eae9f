"""What a store is given of a ticket, and what stands behind it (C6.6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.login.secrecy import MAX_SIZE, Tampered, decrypt, encrypt, hkdf, name_of

SECRETS = st.binary(min_size=32, max_size=32)
SECRET = bytes(range(32))
LONG = (
    "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
    "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
    "cc30c58179ec3e87c14c01d5c1f3434f1d87"
)


@pytest.mark.parametrize(
    ("secret", "salt", "info", "size", "made"),
    [
        # RFC 5869 appendix A, test cases 1 to 3: all that are of SHA-256.
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            82,
            LONG,
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_C6_6_keys_are_derived_as_in_rfc_5869(secret, salt, info, size, made):
    assert hkdf(secret, salt, info, size).hex() == made


def test_C6_6_no_key_is_longer_than_the_rfc_allows():
    assert len(hkdf(SECRET, b"", b"", 8160)) == 8160
    with pytest.raises(ValueError, match="8160"):
        hkdf(SECRET, b"", b"", 8161)


@given(SECRETS, st.binary(max_size=300))
def test_C6_6_what_was_encrypted_is_read_with_the_ticket(secret, message):
    box = encrypt(secret, message)
    assert decrypt(secret, box) == message
    assert len(box) == 32 + len(message)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, MAX_SIZE])
def test_C6_6_messages_of_any_size(size):
    message = b"m" * size
    assert decrypt(SECRET, encrypt(SECRET, message)) == message


def test_C6_6_there_is_a_longest_message():
    with pytest.raises(ValueError, match="8160"):
        encrypt(SECRET, b"m" * (MAX_SIZE + 1))
    with pytest.raises(Tampered):
        decrypt(SECRET, b"m" * (32 + MAX_SIZE + 1))


@given(SECRETS, SECRETS, st.binary(min_size=1, max_size=60), st.data())
def test_C6_6_nothing_else_is_taken_for_it(secret, other, message, data):
    box = encrypt(secret, message)
    bit = data.draw(st.integers(0, 8 * len(box) - 1))
    changed = bytearray(box)
    changed[bit // 8] ^= 1 << bit % 8
    end = data.draw(st.integers(0, len(box) - 1))
    for wrong in (bytes(changed), box[:end], box + b"\0", b""):
        with pytest.raises(Tampered):
            decrypt(secret, wrong)
    if other != secret:
        with pytest.raises(Tampered):
            decrypt(other, box)


@given(SECRETS, st.binary(min_size=16, max_size=60))
def test_C6_6_neither_name_nor_message_shows_anything(secret, message):
    box, name = encrypt(secret, message), name_of(secret)
    assert message not in box
    assert secret not in box
    assert secret.hex() not in name
    assert bytes.fromhex(name) not in box


def test_C6_6_every_ticket_has_a_name_of_its_own():
    names = {name_of(number.to_bytes(32, "big")) for number in range(500)}
    assert len(names) == 500
    assert {len(name) for name in names} == {64}


def test_C6_6_versions_of_ours_that_share_a_store_understand_each_other():
    assert name_of(SECRET) == "2b1db0840fe13e7705dba0df9f079141f7e423637ab6f0a024d6f8e93eb4dc34"
    box = "62bc78a48278465f8cd5800c963a800d35d81eec95d2cbd020b7bcecf82df62c1b018db7c57b565d24"
    assert encrypt(SECRET, b"a message").hex() == box
