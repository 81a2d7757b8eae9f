"""How a store keeps what it must not know (C6.6): by a hash of the ticket, and encrypted under it.

A ticket is 256 uniformly random bits and encrypts one message only, which it was made for. So no cipher
is needed that may be used again, nor any package beside the standard library. HKDF (RFC 5869) makes
of the ticket a name for it, a key for the MAC and a key as long as the message; message and key are XORed,
and HMAC-SHA256 goes over the outcome. That is DEM3 of ISO/IEC 18033-2, as ECIES has it in SEC 1 section
5.1: an authenticated encryption for one message a key.
"""

from __future__ import annotations

import hmac

_HASH = "sha256"
_SIZE = 32
_SALT = b"jupyter_token_ws ticket 1"

MAX_SIZE = 255 * _SIZE - _SIZE
"""Bytes of a message at most: HKDF makes no longer keys."""


class Tampered(Exception):  # noqa: N818 - it is no error of ours
    """What was encrypted under a ticket is not what is there now."""


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """``size`` bytes derived from a secret by HKDF-SHA256 (RFC 5869), for the purpose ``info``.

    Raises ``ValueError`` for more than 8,160 bytes.
    """
    if size > 255 * _SIZE:
        raise ValueError("HKDF-SHA256 makes at most 8160 bytes")
    key = hmac.digest(salt, secret, _HASH)
    block, made = b"", b""
    for counter in range(1, -(-size // _SIZE) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), _HASH)
        made += block
    return made[:size]


def name_of(secret: bytes) -> str:
    """The name by which a store finds a ticket and from which nobody finds the ticket."""
    return hkdf(secret, _SALT, b"name", _SIZE).hex()


def encrypt(secret: bytes, message: bytes) -> bytes:
    """A message encrypted under a ticket. One message a ticket, ever.

    Raises ``ValueError`` for a message of more than ``MAX_SIZE`` bytes.
    """
    key = hkdf(secret, _SALT, b"message", _SIZE + len(message))
    encrypted = _xor(message, key[_SIZE:])
    return hmac.digest(key[:_SIZE], encrypted, _HASH) + encrypted


def decrypt(secret: bytes, box: bytes) -> bytes:
    """The message that ``encrypt`` was given. Raises ``Tampered`` for anything else."""
    tag, encrypted = box[:_SIZE], box[_SIZE:]
    if len(encrypted) > MAX_SIZE:
        raise Tampered
    key = hkdf(secret, _SALT, b"message", _SIZE + len(encrypted))
    if not hmac.compare_digest(tag, hmac.digest(key[:_SIZE], encrypted, _HASH)):
        raise Tampered
    return _xor(encrypted, key[_SIZE:])


def _xor(one: bytes, other: bytes) -> bytes:
    size = len(one)
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(size, "big")
