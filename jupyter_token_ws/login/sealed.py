"""Tickets that carry all there is to know, sealed under a key of the server: nothing is kept.

Who has the key makes tickets, so it belongs to servers of one trust domain only. A sealed ticket is good
for the server that it names, until it expires, and nothing ends it earlier but taking its key away: there is
no revocation and no single use. Its renewal cannot end it either, so it renews only when its end is near
enough (C6.4).

AES-256-GCM with random nonces, which is good for 2^32 tickets a key (NIST SP 800-38D section 8.3). What is
not secret, the key's name and the server's, is authenticated with the rest.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from traitlets import Integer, Unicode

from jupyter_token_ws.protocol.subprotocols import MAX_TOKEN_SIZE
from jupyter_token_ws.protocol.tickets import PREFIX, is_current

from .store import TicketStore
from .tickets import (
    ExpiredTicket,
    FamilyChange,
    FamilyState,
    Issued,
    RenewalRefused,
    Ticket,
    TicketTooLarge,
    UnknownTicket,
    Unsupported,
    dump_ticket,
    load_ticket,
)

KEYS_VARIABLE = "JUPYTER_TOKEN_WS_TICKET_KEYS"
"""The environment variable with the keys, for those who keep none in a file."""

FORM = f"{PREFIX}s1."
"""What sealed tickets begin with."""

_KEY_SIZE, _NAME_SIZE, _NONCE_SIZE = 32, 4, 12
_KEY = re.compile(r"[A-Za-z0-9+/_-]{43}=?")
_SALT = b"jupyter_token_ws sealed ticket 1"
_MISSING = (
    "Sealed tickets need the package cryptography: pip install 'jupyter-token-ws[sealed]'."
    " Without it there is the store in memory."
)


class KeyProblem(ValueError):  # noqa: N818 - it says what it is
    """The keys for sealed tickets cannot be used; the text says what to do."""


def read_keys(text: str) -> list[bytes]:
    """Keys as they stand in a file or in the environment: 32 bytes each in base64 (RFC 4648 section 4 or
    5), between white space.

    Raises ``KeyProblem``, whose text shows no key.
    """
    keys: list[bytes] = []
    for word in text.split():
        if not _KEY.fullmatch(word):
            raise KeyProblem(
                f"key {len(keys) + 1} for sealed tickets is not {_KEY_SIZE} bytes in base64."
                ' Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        keys.append(urlsafe_b64decode(word[:43].replace("+", "-").replace("/", "_") + "="))
    if not keys:
        raise KeyProblem(
            "there is no key for sealed tickets: name a file with SealedTicketStore.key_file, or put"
            f" keys into the environment variable {KEYS_VARIABLE}"
        )
    return keys


class SealedTicketStore(TicketStore):
    """Keeps nothing.

    Raises ``ImportError`` where the package cryptography is missing, ``KeyProblem`` for keys that cannot be
    used and where nobody says which server this is.
    """

    single_use = False
    revocable = False

    key_file = Unicode(
        help="File with the keys, 32 bytes each in base64, one a line; nobody else should be able to read it."
        " The first seals, all open: put a new one first, and take an old one away max_renewal seconds"
        f" later, or at once to end its tickets. Default: the environment variable {KEYS_VARIABLE}.",
    ).tag(config=True)
    server = Unicode(
        help="Name of this server in its tickets. Those of another name are not taken, whoever has the key."
        " Replicas of one server have one name. Default: the server's address.",
    ).tag(config=True)
    max_size = Integer(
        MAX_TOKEN_SIZE,
        min=256,
        help="Characters of a ticket at most; beyond it the login is refused. What stands before the server"
        " may take no longer ones.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            aead: Any = import_module("cryptography.hazmat.primitives.ciphers.aead")
            exceptions: Any = import_module("cryptography.exceptions")
            hashes: Any = import_module("cryptography.hazmat.primitives.hashes")
            kdf: Any = import_module("cryptography.hazmat.primitives.kdf.hkdf")
        except ImportError as error:
            raise ImportError(_MISSING) from error
        self._invalid: type[Exception] = exceptions.InvalidTag
        if not self.server:
            raise KeyProblem("sealed tickets need a name for this server: SealedTicketStore.server")

        def derived(key: bytes, purpose: bytes, size: int) -> bytes:
            made: bytes = kdf.HKDF(hashes.SHA256(), size, _SALT, purpose).derive(key)
            return made

        keys = self._read_keys()
        self._keys = {
            derived(key, b"name", _NAME_SIZE): aead.AESGCM(derived(key, b"key", _KEY_SIZE))
            for key in reversed(keys)
        }
        self._sealing = derived(keys[0], b"name", _NAME_SIZE)

    def _read_keys(self) -> list[bytes]:
        if not self.key_file:
            return read_keys(os.environ.get(KEYS_VARIABLE, ""))
        path = Path(self.key_file)
        try:
            text = path.read_text("ascii")
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            raise KeyProblem(
                f"the file with the keys for sealed tickets cannot be read: {path}"
            ) from error
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            self._logger.warning(
                "Others can get at the keys for sealed tickets: chmod 600 %s", path
            )
        return read_keys(text)

    def _bound(self, name: bytes) -> bytes:
        return _SALT + name + self.server.encode()

    def _seal(self, ticket: Ticket) -> str:
        name, nonce = self._sealing, secrets.token_bytes(_NONCE_SIZE)
        times = json.dumps([ticket.expires_at, ticket.family_ends_at]).encode()
        message = times + b"\n" + dump_ticket(ticket)
        box = self._keys[name].encrypt(nonce, message, self._bound(name))
        token = FORM + urlsafe_b64encode(name + nonce + box).rstrip(b"=").decode()
        if len(token) > self.max_size:
            raise TicketTooLarge
        return token

    def _open(self, token: str) -> Ticket:
        encoded = token.removeprefix(FORM)
        if not token.startswith(FORM) or len(token) > self.max_size:
            raise UnknownTicket
        try:
            sealed = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except (NotBase64, ValueError):
            raise UnknownTicket from None
        name, nonce = sealed[:_NAME_SIZE], sealed[_NAME_SIZE : _NAME_SIZE + _NONCE_SIZE]
        key = self._keys.get(name)
        # Written in one way only, so that one ticket is one string wherever it is compared.
        if key is None or urlsafe_b64encode(sealed).rstrip(b"=").decode() != encoded:
            raise UnknownTicket
        try:
            message = key.decrypt(nonce, sealed[_NAME_SIZE + _NONCE_SIZE :], self._bound(name))
        except (self._invalid, ValueError):
            raise UnknownTicket from None
        times, _, rest = message.partition(b"\n")
        return load_ticket(rest, *json.loads(times))

    async def _issue(self, drafted: Ticket) -> Issued:
        return Issued(drafted, self._seal(drafted))

    async def look_up(self, token: str) -> Ticket:
        """The ticket, if it is good."""
        ticket, now = self._open(token), self.clock()
        if not is_current(ticket.issued_at, ticket.expires_at, now):
            raise ExpiredTicket
        return ticket

    async def consume(self, token: str) -> Ticket:
        """The same: there are none for one use."""
        return await self.look_up(token)

    async def renew(self, token: str, *, max_age: object = None) -> Issued:
        """A new ticket of the family, once the old one has 30 s left at most: before, ``RenewalRefused``
        with ``retry_after``."""
        ticket = await self.look_up(token)
        now, lifetime = self.clock(), self._age(ticket, max_age)
        early = ticket.expires_at - self.grace - now
        if early > 0:
            raise RenewalRefused(retry_after=math.ceil(early))
        ends_at = min(now + lifetime, ticket.family_ends_at)
        renewed = replace(ticket, issued_at=now, lifetime=lifetime, expires_at=ends_at)
        issued = Issued(renewed, self._seal(renewed))
        self._tell(FamilyChange(ticket.family, expires_at=max(ends_at, ticket.expires_at)))
        return issued

    async def revoke(self, token: str) -> NoReturn:
        """Cannot be done."""
        raise Unsupported("tickets of this server cannot be revoked")

    async def revoke_family(self, family: str) -> NoReturn:
        """Cannot be done."""
        raise Unsupported("tickets of this server cannot be revoked")

    async def family(self, family: str) -> FamilyState:
        """Nobody knows."""
        raise Unsupported("this server keeps no tickets")
