"""Who the server must be, and who we are to it: certificates, and pins of public keys.

A pin is checked inside the handshake, so that a server that is not the expected one gets none of the
request: no path, no credential.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .errors import ClientError, IdentityError

_PIN = re.compile(r"sha256/([A-Za-z0-9+/]{43}=)")


def pin_of(certificate: bytes) -> str:
    """The pin of a certificate (DER): ``sha256/`` and the Base64 of the SHA-256 of its public key
    (SubjectPublicKeyInfo), as RFC 7469 section 2.4 counts it."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256/" + base64.b64encode(hashlib.sha256(info).digest()).decode()


@dataclass(frozen=True)
class TLSIdentity:
    """What to expect of a server's certificate, and what to show of our own.

    Args:
        ca_bundle: file of certificates (PEM) that may sign the server's, in place of the system's.
        certificate: file with our own certificate (PEM), where the server asks for one.
        key: file with its key, where ``certificate`` does not hold it too.
        password: of the key, or what returns it. Nobody is asked for one that is not given.
        pins: ``sha256/…`` of public keys, of which the server must have one. They come on top of the
            certificate's check: for a self-signed certificate give that as ``ca_bundle``.
        verify: is asked with the server's certificate (DER) when all else is well, and answers whether it is
            the expected one.

    Raises ``ClientError`` for a pin that is none.
    """

    ca_bundle: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    password: str | Callable[[], str] | None = field(default=None, repr=False)
    pins: Collection[str] = ()
    verify: Callable[[bytes], bool] | None = None

    def __post_init__(self) -> None:
        pins = (self.pins,) if isinstance(self.pins, str) else self.pins
        object.__setattr__(self, "pins", frozenset(pins))
        for pin in self.pins:
            if not _PIN.fullmatch(pin):
                raise ClientError(
                    f"{pin[:80]!r} is no pin: one is sha256/ and the Base64 of a public key's SHA-256, as"
                    " `jupyter token-ws doctor` shows"
                )

    def context(self) -> ssl.SSLContext:
        """The context for connections. Reads files. Raises ``ClientError`` for one that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise ClientError(f"the CA bundle {self.ca_bundle} cannot be used: {error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            # Without a password OpenSSL would ask for it at the terminal, and all else wait.
            password = "" if self.password is None else self.password
            try:
                context.load_cert_chain(self.certificate, self.key, password)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise ClientError(
                    f"the certificate {self.certificate} cannot be used: {error}. Does the key belong to"
                    " it, and is the password right?"
                ) from None
        if self.pins or self.verify is not None:
            # `wrap_bio`, by which asyncio and anyio encrypt, makes these.
            context.sslobject_class = type(
                "_Checked", (_CheckedSSLObject,), {"check": staticmethod(self._check)}
            )
        return context

    def _check(self, certificate: bytes) -> None:
        # Whatever is wrong has to be a TLS error: asyncio ends a handshake for no other.
        try:
            pin = pin_of(certificate) if self.pins else ""
            expected = self.verify is None or self.verify(certificate)
        except Exception as error:
            raise ssl.SSLCertVerificationError(
                f"{_UNEXPECTED}, or that cannot be found out: {type(error).__name__}"
            ) from error
        if self.pins and pin not in self.pins:
            raise ssl.SSLCertVerificationError(f"{_UNEXPECTED}: its key is {pin}")
        if not expected:
            raise ssl.SSLCertVerificationError(f"{_UNEXPECTED}: verify said no")


_UNEXPECTED = "the server is not the one that was expected"


class _CheckedSSLObject(ssl.SSLObject):
    """Its handshake is done when the peer is also who it must be."""

    check: Callable[[bytes], None]

    def do_handshake(self) -> None:
        super().do_handshake()
        self.check(self.getpeercert(binary_form=True) or b"")


_ADVICE: tuple[tuple[str, str], ...] = (
    ("certificate has expired", "its certificate has expired: renew it on the server"),
    ("not yet valid", "its certificate is not valid yet: are both clocks right?"),
    ("mismatch", "its certificate is for another name: use the name that stands in it"),
    ("doesn't match", "its certificate is for another name: use the name that stands in it"),
    ("not valid for", "its certificate is for another name: use the name that stands in it"),
    ("self-signed", "its certificate is signed by itself: give it as ca_bundle if it is the right one"),
    ("self signed", "its certificate is signed by itself: give it as ca_bundle if it is the right one"),
    ("local issuer", "its certificate is signed by nobody known here: give the CA's as ca_bundle"),
    ("expected", "{}"),
)  # fmt: skip


def ssl_error_of(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error behind an exception of a library, if that is what it was."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, ssl.SSLError):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def identity_error(place: str, error: ssl.SSLError) -> IdentityError | None:
    """The error for a certificate that was not taken; ``None`` where it was not about one."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return None
    said = str(getattr(error, "verify_message", "") or (error.args[-1] if error.args else ""))
    for words, advice in _ADVICE:
        if words in said:
            return IdentityError(f"{place}: {advice.format(said)}. Nothing was sent to it.")
    return IdentityError(f"{place}: its certificate is not taken: {said}. Nothing was sent to it.")


def context_maker(tls: TLSIdentity | None) -> Callable[[], ssl.SSLContext]:
    """What makes the context when it is needed: reading the system's certificates takes milliseconds."""
    return partial(TLSIdentity.context, tls or TLSIdentity())
