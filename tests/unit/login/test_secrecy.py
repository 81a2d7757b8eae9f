"""What a store is given of a ticket, and what stands behind it (C6.6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.login.secrecy import MAX_SIZE, AesGcm, Mask, Tampered, name_of

SECRETS = st.binary(min_size=32, max_size=32)
SECRET = bytes(range(32))
BOTH = pytest.mark.parametrize("cipher", [AesGcm(), Mask()], ids=["aes-gcm", "mask"])


@BOTH
@given(secret=SECRETS, message=st.binary(max_size=300))
def test_C6_6_what_was_encrypted_is_read_with_the_ticket(cipher, secret, message):
    assert cipher.decrypt(secret, cipher.encrypt(secret, message)) == message


@BOTH
@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, MAX_SIZE])
def test_C6_6_messages_of_any_size(cipher, size):
    message = b"m" * size
    assert cipher.decrypt(SECRET, cipher.encrypt(SECRET, message)) == message


@given(SECRETS, SECRETS, st.binary(min_size=1, max_size=60), st.data())
def test_C6_6_nothing_else_is_taken_for_it(secret, other, message, data):
    cipher = AesGcm()
    box = cipher.encrypt(secret, message)
    bit = data.draw(st.integers(0, 8 * len(box) - 1))
    changed = bytearray(box)
    changed[bit // 8] ^= 1 << bit % 8
    end = data.draw(st.integers(0, len(box) - 1))
    for wrong in (bytes(changed), box[:end], box + b"\0", b""):
        with pytest.raises(Tampered):
            cipher.decrypt(secret, wrong)
    if other != secret:
        with pytest.raises(Tampered):
            cipher.decrypt(other, box)


@BOTH
@given(secret=SECRETS, message=st.binary(min_size=16, max_size=60))
def test_C6_6_neither_name_nor_message_shows_anything(cipher, secret, message):
    box, name = cipher.encrypt(secret, message), name_of(secret)
    assert message not in box
    assert secret not in box
    assert secret.hex() not in name
    assert bytes.fromhex(name) not in box


@BOTH
def test_C6_6_no_two_tickets_hide_a_message_in_the_same_way(cipher):
    boxes = {cipher.encrypt(number.to_bytes(32, "big"), b"m" * 32) for number in range(500)}
    assert len(boxes) == 500


def test_C6_6_every_ticket_has_a_name_of_its_own():
    names = {name_of(number.to_bytes(32, "big")) for number in range(500)}
    assert len(names) == 500
    assert {len(name) for name in names} == {64}


def test_C6_6_versions_of_ours_that_share_a_store_understand_each_other():
    assert name_of(SECRET) == "d2ad56dc687de36d6dcbc433aee44cc795838fffa00f5a67ba6cb84f5ada83a7"
    assert (
        AesGcm().decrypt(
            SECRET,
            bytes.fromhex(
                "106dbb6a43b928c214b11d2920c21486cb8dbe0abf2977b7bb355dc6177fdbcabbbdbaa49b"
            ),
        )
        == b"a message"
    )
