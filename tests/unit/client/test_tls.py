"""Who the server must be, and who we are to it: against real TLS servers."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from jupyter_token_ws.client.errors import ClientError, IdentityError, NoConnectionError
from jupyter_token_ws.client.tls import TLSIdentity, identity_error, pin_of, ssl_error_of
from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.protocol.auth import Request
from tests.support.talker import Talker, answer, saying, talking

SECRET = "token jtws_secret"


class Authority:
    """A CA and what it signs."""

    def __init__(self, place: Path) -> None:
        self.ca = trustme.CA()
        self.place = place
        self.bundle = place / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.bundle))

    def server(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        until = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
        signed = self.ca.issue_cert(
            *(names or ("127.0.0.1",)), not_after=until if expired else None
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        signed.configure_cert(context)
        self.der = ssl.PEM_cert_to_DER_cert(signed.cert_chain_pems[0].bytes().decode())
        return context

    def client(self, password: bytes | None = None) -> tuple[Path, Path]:
        signed = self.ca.issue_cert("ann@example.org")
        certificate, key = self.place / "ann.pem", self.place / "ann.key"
        certificate.write_bytes(signed.cert_chain_pems[0].bytes())
        pem = signed.private_key_pem.bytes()
        if password is not None:
            pem = load_pem_private_key(pem, None).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
            )
        key.write_bytes(pem)
        return certificate, key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def transport_to(talker: Talker, tls: TLSIdentity | None) -> AsyncIterator[Transport]:
    transport = Transport(f"https://127.0.0.1:{talker.port}/", tls=tls)
    try:
        yield transport
    finally:
        await transport.aclose()


async def ask(talker: Talker, transport: Transport, how: str) -> None:
    """A request with a secret in it, by either library."""
    headers = {"Authorization": SECRET}
    if how == "http":
        url = f"https://127.0.0.1:{talker.port}/"
        assert (await transport.request(Request("GET", url, headers))).status == 200
    else:
        await transport.websocket(f"wss://127.0.0.1:{talker.port}/", headers=headers)


BOTH = pytest.mark.parametrize("how", ["http", "websocket"])


async def test_a_server_of_a_known_ca(authority: Authority):
    async with (
        talking(saying(answer()), tls=authority.server()) as talker,
        transport_to(talker, TLSIdentity(ca_bundle=authority.bundle)) as transport,
    ):
        await ask(talker, transport, "http")
        assert await transport.certificate() == authority.der
    assert SECRET in talker.text


@BOTH
@pytest.mark.parametrize(
    ("names", "expired", "known", "words"),
    [
        ((), False, False, "signed by nobody known here|signed by itself"),
        ((), True, True, "has expired"),
        (("other.example",), False, True, "for another name"),
    ],
)
async def test_a_certificate_that_is_not_taken(
    authority: Authority, how: str, names: tuple[str, ...], expired: bool, known: bool, words: str
):
    tls = TLSIdentity(ca_bundle=authority.bundle) if known else None
    async with (
        talking(saying(answer()), tls=authority.server(*names, expired=expired)) as talker,
        transport_to(talker, tls) as transport,
    ):
        with pytest.raises(IdentityError, match=words):
            await ask(talker, transport, how)
        assert await transport.certificate() == authority.der
    assert bytes(talker.heard) == b""


@BOTH
async def test_a_pin_that_is_met_and_one_that_is_not(authority: Authority, how: str):
    async def talk(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        talker.heard += await reader.read(1 << 16)
        writer.write(answer())
        await writer.drain()

    context = authority.server()
    wrong = "sha256/" + "A" * 43 + "="
    async with talking(talk, tls=context) as talker:
        tls = TLSIdentity(ca_bundle=authority.bundle, pins=[wrong])
        async with transport_to(talker, tls) as transport:
            with pytest.raises(IdentityError, match="not the one that was expected") as raised:
                await ask(talker, transport, how)
        # Enough to write down the pin that would do, once somebody has seen that it should.
        assert pin_of(authority.der) in str(raised.value)
    assert bytes(talker.heard) == b""

    async with talking(saying(answer()), tls=context) as talker:
        tls = TLSIdentity(ca_bundle=authority.bundle, pins=[wrong, pin_of(authority.der)])
        async with transport_to(talker, tls) as transport:
            await ask(talker, transport, "http")
    assert SECRET in talker.text


@BOTH
async def test_who_is_asked_about_the_certificate(authority: Authority, how: str):
    shown: list[bytes] = []

    def no(certificate: bytes) -> bool:
        shown.append(certificate)
        return False

    async with (
        talking(saying(answer()), tls=authority.server()) as talker,
        transport_to(talker, TLSIdentity(ca_bundle=authority.bundle, verify=no)) as transport,
    ):
        with pytest.raises(IdentityError, match="verify said no"):
            await ask(talker, transport, how)
    assert shown == [authority.der]
    assert bytes(talker.heard) == b""

    tls = TLSIdentity(ca_bundle=authority.bundle, verify=lambda certificate: True)
    async with (
        talking(saying(answer()), tls=authority.server()) as talker,
        transport_to(talker, tls) as transport,
    ):
        await ask(talker, transport, "http")


@pytest.mark.parametrize(
    ("password", "given"), [(None, None), (b"sesame", "sesame"), (b"sesame", lambda: "sesame")]
)
async def test_our_own_certificate(
    authority: Authority, password: bytes | None, given: str | Callable[[], str] | None
):
    context = authority.server()
    context.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(context)
    certificate, key = authority.client(password)
    tls = TLSIdentity(authority.bundle, certificate, key, given)
    assert "sesame" not in repr(tls)
    async with talking(saying(answer()), tls=context) as talker:
        async with transport_to(talker, tls) as transport:
            await ask(talker, transport, "http")
        async with transport_to(talker, TLSIdentity(authority.bundle)) as transport:
            with pytest.raises(NoConnectionError):
                await ask(talker, transport, "http")


def test_files_that_cannot_be_used(authority: Authority, tmp_path: Path):
    with pytest.raises(ClientError, match=r"the CA bundle .* cannot be used"):
        TLSIdentity(ca_bundle=tmp_path / "nothing").context()
    certificate, key = authority.client(b"sesame")
    with pytest.raises(ClientError, match="is the password right"):
        TLSIdentity(authority.bundle, certificate, key, "wrong").context()
    with pytest.raises(ClientError, match="cannot be used"):
        TLSIdentity(authority.bundle, tmp_path / "nothing").context()


@pytest.mark.parametrize(
    "pin", ["", "sha256/", "sha1/" + "A" * 43 + "=", "A" * 44, "sha256/" + "-" * 43 + "="]
)
def test_what_is_no_pin(pin: str):
    with pytest.raises(ClientError, match="is no pin"):
        TLSIdentity(pins=[pin])


def test_what_openssl_says_of_a_certificate_in_words_of_ours():
    for said, words in [
        ("certificate has expired", "renew it"),
        ("certificate is not yet valid", "clocks"),
        ("Hostname mismatch, certificate is not valid for 'x'", "another name"),
        ("self-signed certificate", "signed by itself"),
        ("unable to get local issuer certificate", "nobody known here"),
        ("something else", "is not taken: something else"),
    ]:
        error = ssl.SSLCertVerificationError(said)
        told = identity_error("https://x", error)
        assert told is not None
        assert words in str(told)
        assert "Nothing was sent" in str(told)
    assert identity_error("https://x", ssl.SSLError("other")) is None


def test_the_error_behind_an_error():
    deep = ssl.SSLError("deep")
    middle, top = OSError("middle"), ValueError("top")
    middle.__cause__, top.__context__ = deep, middle
    assert ssl_error_of(top) is deep
    assert ssl_error_of(None) is None
    looped = OSError("round and round")
    looped.__context__ = ValueError("and back")
    looped.__context__.__context__ = looped
    assert ssl_error_of(looped) is None


async def test_no_certificate_without_tls():
    transport = Transport("http://127.0.0.1:1/")
    assert await transport.certificate() is None
