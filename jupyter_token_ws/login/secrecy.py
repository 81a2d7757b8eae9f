"""How a store keeps what it must not know (C6.6): by a hash of the ticket, and encrypted under it.

A ticket is 256 uniformly random bits, which nobody guesses, and nothing else is ever encrypted under it than
what it was made for. So a keyed hash makes of it all that is needed: a name, and a key of its own.

``AesGcm`` is for what leaves this process; it is the package cryptography's. ``Mask`` is for this process's
own memory and needs no package: a dump of the memory shows no credential of a ticket that is not in use, and
whoever can change it there needs no ticket.
"""

from __future__ import annotations

import hashlib
import secrets
from importlib import import_module
from typing import Any, Protocol

MAX_SIZE = 8192
"""Bytes of a message at most."""

_NONCE_SIZE = 12


class Tampered(Exception):  # noqa: N818 - it is no error of ours
    """What was encrypted under a ticket is not what is there now."""


class Cipher(Protocol):
    """Encrypts one message under a ticket."""

    def encrypt(self, secret: bytes, message: bytes) -> bytes:
        """A message encrypted under a ticket. One message a ticket, ever."""

    def decrypt(self, secret: bytes, box: bytes) -> bytes:
        """The message that ``encrypt`` was given. Raises ``Tampered`` where that is known to be another."""


def _derived(secret: bytes, purpose: bytes) -> bytes:
    # BLAKE2b with key and personalisation (RFC 7693 sections 2.5 and 2.8): what it makes for one purpose
    # says nothing of what it makes for another, nor of the ticket.
    return hashlib.blake2b(key=secret, person=purpose, digest_size=32).digest()


def name_of(secret: bytes) -> str:
    """The name by which a store finds a ticket and from which nobody finds the ticket."""
    return _derived(secret, b"jtws name").hex()


class Mask:
    """Hides a message by as many bytes of SHAKE256 (FIPS 202), and does not see whether it was changed."""

    def encrypt(self, secret: bytes, message: bytes) -> bytes:
        """See ``Cipher``."""
        size = len(message)
        mask = hashlib.shake_256(_derived(secret, b"jtws mask")).digest(size)
        return (int.from_bytes(message, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")

    decrypt = encrypt


class AesGcm:
    """AES-256-GCM (NIST SP 800-38D). Raises ``ImportError`` where the package cryptography is missing."""

    def __init__(self) -> None:
        aead: Any = import_module("cryptography.hazmat.primitives.ciphers.aead")
        exceptions: Any = import_module("cryptography.exceptions")
        self._cipher: Any = aead.AESGCM
        self._invalid: type[Exception] = exceptions.InvalidTag

    def encrypt(self, secret: bytes, message: bytes) -> bytes:
        """See ``Cipher``."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        box: bytes = self._cipher(_derived(secret, b"jtws aes-gcm")).encrypt(nonce, message, None)
        return nonce + box

    def decrypt(self, secret: bytes, box: bytes) -> bytes:
        """See ``Cipher``; it is known of every bit."""
        nonce, box = box[:_NONCE_SIZE], box[_NONCE_SIZE:]
        try:
            message: bytes = self._cipher(_derived(secret, b"jtws aes-gcm")).decrypt(
                nonce, box, None
            )
        except (self._invalid, ValueError):
            raise Tampered from None
        return message
