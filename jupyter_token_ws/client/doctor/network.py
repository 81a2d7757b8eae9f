"""Checks that need no HTTP: the name, the port, the certificate."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from datetime import datetime, timezone

from cryptography import x509

from jupyter_token_ws.client.errors import ClientError
from jupyter_token_ws.client.tls import pin_of

from .case import Case, SkipError, within
from .report import Finding

CONNECT_TIMEOUT = 3.0
"""Seconds for a connection, or a handshake of TLS."""

MAX_ADDRESSES = 6
"""Addresses of a name that are tried."""

# OpenSSL's numbers, X509_V_ERR_…: what failed when a certificate was verified.
_NOT_YET, _EXPIRED, _NAMES = 9, 10, frozenset({62, 63, 64})


def _goes_itself(case: Case) -> None:
    if case.unix_socket is not None:
        raise SkipError("it goes over a unix socket")
    if case.proxied:
        raise SkipError("it goes through the proxy that HTTP_PROXY or HTTPS_PROXY names")


async def dns(case: Case) -> Finding:
    """The name has addresses."""
    _goes_itself(case)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(case.host, case.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for what can be no name
        case.unreachable = "the name has no address"
        said = getattr(error, "strerror", None) or error
        return case.broken(f"{case.host} has no address: {said}", "unknown_name")
    case.addresses = list(dict.fromkeys((str(at[0]), int(at[1])) for *_, at in found))
    return case.ok(f"{case.host} is {', '.join(host for host, _ in case.addresses)}")


async def tcp(case: Case) -> Finding:
    """Somebody listens at each address."""
    _goes_itself(case)
    if case.unreachable:
        raise SkipError(case.unreachable)
    tried = case.addresses[:MAX_ADDRESSES]
    outcomes = await asyncio.gather(*(_connect(host, port) for host, port in tried))
    dead = [f"{host}: {said}" for (host, _), said in zip(tried, outcomes, strict=True) if said]
    if len(dead) == len(tried):
        case.unreachable = "nobody listens"
        return case.broken(f"port {case.port} of {'; '.join(dead)}", "not_listening")
    if dead and any(_CUT in each for each in dead):
        return case.slow(f"port {case.port} of {'; '.join(dead)}", "some_addresses_dead")
    # A refusal at once costs nobody any time: `localhost` often has ::1 where nobody listens.
    alive = [host for (host, _), said in zip(tried, outcomes, strict=True) if not said]
    return case.ok(f"port {case.port} of {', '.join(alive)} is open")


_CUT = "no answer"


async def _connect(host: str, port: int) -> str:
    """Empty where it listens, else what was seen."""
    try:
        _, writer = await within(CONNECT_TIMEOUT, asyncio.open_connection(host, port))
    except TimeoutError:
        return f"{_CUT} in {CONNECT_TIMEOUT:g} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return ""


async def tls(case: Case) -> Finding:
    """The certificate is for this name, by somebody who is trusted, and of today."""
    if not case.secure:
        raise SkipError("the address is http")
    _goes_itself(case)
    if case.unreachable:
        raise SkipError(case.unreachable)
    try:
        der, version = await _handshake(case, await case.transport.context())
    except ssl.SSLCertVerificationError as error:
        return await _untrusted(case, error)
    except (OSError, asyncio.IncompleteReadError) as error:  # ssl.SSLError is one
        case.unreachable = "there is no TLS"
        return case.broken(f"no TLS: {getattr(error, 'reason', None) or error}", "not_tls")
    end = x509.load_der_x509_certificate(der).not_valid_after_utc
    return case.ok(
        f"{version}, the certificate is good for {case.host} until {end:%Y-%m-%d}; its key is {pin_of(der)}"
    )


async def _untrusted(case: Case, error: ssl.SSLCertVerificationError) -> Finding:
    """Why a certificate was refused. Nothing further is asked of who has it."""
    case.unreachable = "the certificate is not to be trusted"
    certificate = await _certificate(case)
    end = begin = ""
    if certificate is not None:
        end = f" on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        begin = f" before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        if certificate.not_valid_after_utc < datetime.now(timezone.utc):
            # Also where OpenSSL came upon something else first.
            return case.broken(f"the certificate expired{end}", "certificate_expired")
    if not getattr(error, "verify_code", 0):
        return case.broken(str(error.args[-1]), "certificate_other")  # a pin, or the callback
    if error.verify_code == _EXPIRED:
        return case.broken("a certificate of the chain has expired", "certificate_expired")
    if error.verify_code == _NOT_YET:
        return case.broken(f"the certificate is not valid{begin}", "certificate_not_yet")
    cause = "certificate_name" if error.verify_code in _NAMES else "certificate_chain"
    return case.broken(f"the certificate is refused: {error.verify_message}", cause)


async def _certificate(case: Case) -> x509.Certificate | None:
    """The server's, whatever it is worth: nothing is sent to it."""
    with suppress(ClientError, ValueError):
        return x509.load_der_x509_certificate(await case.transport.certificate() or b"")
    return None


async def _handshake(case: Case, context: ssl.SSLContext) -> tuple[bytes, str]:
    """The certificate that was shown and the protocol's version."""
    _, writer = await asyncio.open_connection(
        case.host,
        case.port,
        ssl=context,
        server_hostname=case.host,
        ssl_handshake_timeout=CONNECT_TIMEOUT,
    )
    try:
        made: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return made.getpeercert(binary_form=True) or b"", made.version() or "TLS"
    finally:
        writer.transport.abort()
