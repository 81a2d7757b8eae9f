"""Who the server must be, and who we are to it: whoever is not that gets not one byte of a request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from jupyter_token_ws.client.errors import (
    ClientError,
    IdentityError,
    NoConnectionError,
    PlainHttpError,
)
from jupyter_token_ws.client.tls import TLSIdentity, pin_of
from jupyter_token_ws.client.transport import Transport, UpgradeRefused
from jupyter_token_ws.protocol.auth import Request

SECRET = "token canary-of-the-tests"


@dataclass
class Recorder:
    """A TLS server that answers each request 403, and keeps what came decrypted."""

    port: int = 0
    heard: bytearray = field(default_factory=bytearray)
    connections: int = 0


@asynccontextmanager
async def recording(context: ssl.SSLContext, host: str = "127.0.0.1") -> AsyncIterator[Recorder]:
    recorder = Recorder()
    tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        recorder.connections += 1
        try:
            while data := await reader.read(65536):
                recorder.heard += data
                if recorder.heard.endswith(b"\r\n\r\n"):
                    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(talk, host, 0, ssl=context)
    recorder.port = server.sockets[0].getsockname()[1]
    try:
        yield recorder
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


@dataclass
class Authority:
    """A CA of the test's own."""

    ca: trustme.CA
    bundle: Path

    def context(self, leaf: trustme.LeafCert) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    ca = trustme.CA()
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    return Authority(ca, bundle)


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> trustme.LeafCert:
    return authority.ca.issue_cert("127.0.0.1", "localhost", "::1")


def der_of(leaf: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


async def by_http(transport: Transport) -> int:
    headers = {"Authorization": SECRET}
    return (await transport.request(Request("GET", f"{transport.place}/x", headers))).status


async def by_stream(transport: Transport) -> int:
    headers = {"Authorization": SECRET}
    request = Request("GET", f"{transport.place}/x", headers)
    async with transport.stream(request) as answer:
        return answer.status_code


async def by_websocket(transport: Transport) -> int:
    url = transport.place.replace("https:", "wss:") + "/x"
    with pytest.raises(UpgradeRefused) as raised:
        await transport.websocket(url, headers={"Authorization": SECRET})
    return raised.value.response.status


Way = Callable[[Transport], Awaitable[int]]
every_way = pytest.mark.parametrize("way", [by_http, by_stream, by_websocket])


async def ask(
    way: Way, recorder: Recorder, tls: TLSIdentity | None, host: str = "127.0.0.1"
) -> int:
    transport = Transport(f"https://{host}:{recorder.port}", tls=tls, open_timeout=20)
    try:
        return await way(transport)
    finally:
        await transport.aclose()


# -- the right server ----------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_the_expected_server_is_asked(way: Way, host: str, authority, leaf):
    asked: list[bytes] = []

    def verify(certificate: bytes) -> bool:
        asked.append(certificate)
        return True

    tls = TLSIdentity(
        ca_bundle=authority.bundle,
        pins={pin_of(der_of(leaf)), "sha256/" + "A" * 43 + "="},
        verify=verify,
    )
    listens = "::1" if host == "[::1]" else "127.0.0.1"
    async with recording(authority.context(leaf), listens) as recorder:
        assert await ask(way, recorder, tls, host) == 403
    assert SECRET.encode() in recorder.heard
    assert asked == [der_of(leaf)]


def test_a_pin_is_of_the_public_key_and_stays_with_it(authority, tmp_path: Path):
    certificate = authority.ca.cert_pem.bytes().decode()
    pin = pin_of(ssl.PEM_cert_to_DER_cert(certificate))
    assert pin.startswith("sha256/")
    assert len(pin) == 51
    assert TLSIdentity(pins=pin).pins == frozenset({pin})


# -- any other server ----------------------------------------------------------------------------------


def _no(certificate: bytes) -> bool:
    return False


def _fails(certificate: bytes) -> bool:
    raise ZeroDivisionError


@every_way
@pytest.mark.parametrize(
    ("expect", "said"),
    [
        (
            {"pins": ["sha256/" + "A" * 43 + "="]},
            "not the one that was expected: its key is sha256/",
        ),
        ({"verify": _no}, "not the one that was expected: verify said no"),
        ({"verify": _fails}, "ZeroDivisionError"),
    ],
)
async def test_another_server_gets_not_one_byte(way: Way, expect, said: str, authority, leaf):
    tls = TLSIdentity(ca_bundle=authority.bundle, **expect)
    async with recording(authority.context(leaf)) as recorder:
        with pytest.raises(IdentityError, match=said):
            await asyncio.wait_for(ask(way, recorder, tls), 10)
        # Its handshake is over, and it saw the connection end.
        await asyncio.sleep(0.05)
    assert bytes(recorder.heard) == b""


@every_way
async def test_unknown_authorities_are_told(way: Way, authority, leaf):
    async with recording(authority.context(leaf)) as recorder:
        with pytest.raises(IdentityError, match="give the CA's as ca_bundle"):
            await ask(way, recorder, None)
    assert bytes(recorder.heard) == b""


@every_way
async def test_another_name_is_told(way: Way, authority):
    context = authority.context(authority.ca.issue_cert("elsewhere.example"))
    async with recording(context) as recorder:
        for host in ("localhost", "127.0.0.1"):
            with pytest.raises(IdentityError, match="is for another name"):
                await ask(way, recorder, TLSIdentity(ca_bundle=authority.bundle), host)
    assert bytes(recorder.heard) == b""


@every_way
async def test_an_expired_certificate_is_told(way: Way, authority):
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    expired = authority.ca.issue_cert("127.0.0.1", not_after=yesterday)
    async with recording(authority.context(expired)) as recorder:
        with pytest.raises(IdentityError, match="has expired: renew it"):
            await ask(way, recorder, TLSIdentity(ca_bundle=authority.bundle))
    assert bytes(recorder.heard) == b""


async def test_a_certificate_of_the_future_is_told(authority):
    later = datetime.now(timezone.utc) + timedelta(days=2)
    future = authority.ca.issue_cert(
        "127.0.0.1", not_before=later, not_after=later + timedelta(days=1)
    )
    async with recording(authority.context(future)) as recorder:
        with pytest.raises(IdentityError, match="both clocks"):
            await ask(by_http, recorder, TLSIdentity(ca_bundle=authority.bundle))


@every_way
async def test_a_server_that_speaks_http_is_told(way: Way):
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hello, "127.0.0.1", 0)
    try:
        recorder = Recorder(server.sockets[0].getsockname()[1])
        with pytest.raises(NoConnectionError, match="http, not https"):
            await ask(way, recorder, None)
    finally:
        server.close()
        await server.wait_closed()


# -- who we are ----------------------------------------------------------------------------------------


@every_way
async def test_a_server_that_wants_our_certificate(way: Way, authority, leaf, tmp_path: Path):
    mine = authority.ca.issue_cert("me@example.org")
    chain, key, locked = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "locked.pem"
    mine.cert_chain_pems[0].write_to_path(str(chain))
    mine.private_key_pem.write_to_path(str(key))
    plain = load_pem_private_key(mine.private_key_pem.bytes(), None)
    locked.write_bytes(
        plain.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"the password")
        )
    )
    context = authority.context(leaf)
    authority.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with recording(context) as recorder:
        for given, password in ((key, None), (locked, lambda: "the password")):
            tls = TLSIdentity(authority.bundle, chain, given, password)
            assert await ask(way, recorder, tls) == 403
        recorder.heard.clear()
        with pytest.raises(NoConnectionError) as raised:
            await ask(way, recorder, TLSIdentity(authority.bundle))
        assert "want to see a certificate of yours" in str(raised.value)
    assert bytes(recorder.heard) == b""
    for wrong in (None, "wrong"):
        tls = TLSIdentity(authority.bundle, chain, locked, wrong)
        with pytest.raises(ClientError, match="is the password right"):
            tls.context()


def test_the_password_is_in_no_representation():
    assert "hidden" not in repr(TLSIdentity(password="hidden"))


# -- the certificate by itself, and what goes in the clear -----------------------------------------------


async def test_the_certificate_is_shown_even_where_it_is_not_good(authority, tmp_path: Path):
    other = trustme.CA().issue_cert("elsewhere.example")
    async with recording(authority.context(other)) as recorder:
        transport = Transport(f"https://127.0.0.1:{recorder.port}")
        assert await transport.certificate() == der_of(other)
    assert bytes(recorder.heard) == b""
    assert await Transport("http://127.0.0.1:1").certificate() is None


async def test_the_certificate_of_a_unix_socket(authority, leaf, tmp_path: Path):
    path = tmp_path / "socket"

    def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_unix_server(nothing, path, ssl=authority.context(leaf))
    try:
        transport = Transport("https://localhost", unix_socket=path)
        assert await transport.certificate() == der_of(leaf)
    finally:
        server.close()
        await server.wait_closed()


async def test_nothing_goes_in_the_clear_to_another_place():
    secure = Transport("https://127.0.0.1:1/")
    near = Transport("http://127.0.0.1:1/")
    for transport, place in ((secure, "http://127.0.0.1:1/"), (near, "http://server.example/")):
        with pytest.raises(PlainHttpError, match="unencrypted"):
            await transport.request(Request("GET", place))
        with pytest.raises(PlainHttpError, match="unencrypted"):
            await transport.websocket(place.replace("http:", "ws:"))


# -- through a proxy -------------------------------------------------------------------------------------


@asynccontextmanager
async def proxying(port: int) -> AsyncIterator[tuple[int, list[bytes]]]:
    """An HTTP proxy with CONNECT (RFC 9110 section 9.3.6), of which every way leads to ``port``."""
    asked: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            there, back = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pump(reader, back), pump(there, writer))
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def _proxies(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", address)


@every_way
async def test_through_a_proxy_the_server_is_checked_all_the_same(
    way: Way, authority, monkeypatch: pytest.MonkeyPatch
):
    far = authority.ca.issue_cert("server.example")
    right = TLSIdentity(authority.bundle, pins=[pin_of(der_of(far))])
    wrong = TLSIdentity(authority.bundle, pins=["sha256/" + "A" * 43 + "="])
    async with (
        recording(authority.context(far)) as recorder,
        proxying(recorder.port) as (port, asked),
    ):
        _proxies(monkeypatch, f"http://127.0.0.1:{port}")
        for tls in (wrong, right):
            transport = Transport("https://server.example/", tls=tls)
            try:
                if tls is wrong:
                    with pytest.raises(IdentityError, match="expected"):
                        await way(transport)
                    assert bytes(recorder.heard) == b""
                else:
                    assert await way(transport) == 403
            finally:
                await transport.aclose()
    assert all(request.startswith(b"CONNECT server.example:443 ") for request in asked)
    assert SECRET.encode() not in b"".join(asked)
    assert SECRET.encode() in recorder.heard


@every_way
async def test_a_proxy_that_says_no(way: Way, monkeypatch: pytest.MonkeyPatch):
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        _proxies(monkeypatch, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        transport = Transport("https://server.example/")
        with pytest.raises(NoConnectionError, match="the proxy on the way"):
            await way(transport)
        await transport.aclose()
    finally:
        server.close()
        await server.wait_closed()
