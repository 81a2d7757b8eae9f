"""Sealed tickets: keys, servers, and what cannot be forged."""

from __future__ import annotations

import base64
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.login.sealed import KEYS_VARIABLE, KeyProblem, SealedTicketStore, read_keys
from jupyter_token_ws.login.tickets import (
    Credential,
    ExpiredTicket,
    TicketTooLarge,
    UnknownTicket,
)
from jupyter_token_ws.protocol.subprotocols import MAX_TOKEN_SIZE, encode_token

CREDENTIAL = Credential("token", "the-token-behind-it")
OLD, NEW = (  # the same in each process of a run: they stand in the names of tests
    base64.urlsafe_b64encode(bytes(range(begin, begin + 32))).decode().rstrip("=")
    for begin in (7, 160)
)


# Sealed under a key of 43 letters k for the server "here", at the time of the clock.
ONE = (
    "jtws_s1.Gl-SEas5UypAvXmstI6yWo3OgmHiv6Y0yjT5tJjC35bO2aLcnIPS8x-uN8hbcRGhLNHjqnZrREKgjFiSS79jjih_rM7CKRlb"
    "iErakcDz5hZ57cOU6X6r90z6lDSVXPP6gbwtsp-REmgVf4wu25GlQS1gBUufX0b7ZOLh-UZ-Ks19I1XsslvtigyGV-S9FfChsm2wn3rO"
    "MIFduiyUTOORR5MVOXZxfYMiXYUph5RAeZ-sGwk8IXwAWkcjaabOi0zO_MKuwR-DUYUPDRmFxKcrIcZdj9wPfblz95u579vREcmEmZOZ"
    "C0qsh8J7RBiFppQHGIs5zSxgvZSK8CiCNv9Zcjgyv39Q6sjR8Bf_l3k0Esm8IU7wjGWltS18aLM"
)


@pytest.fixture
def made(clock, tmp_path):
    """A way to make stores: keys from a file, one name."""

    def make(*keys: str, server: str = "https://host/user/ann/", **options) -> SealedTicketStore:
        path = tmp_path / "keys"
        path.write_text("\n".join(keys) + "\n")
        path.chmod(0o600)
        store = SealedTicketStore(key_file=str(path), server=server, **options)
        store.clock = clock
        return store

    return make


async def issue(store, **options):
    return await store.issue("user:ann", {"name": "ann"}, CREDENTIAL, **options)


async def test_C6_6_a_sealed_ticket_fits_where_tickets_go(made):
    issued = await issue(made(NEW), audience=["api/kernels"])
    assert encode_token(issued.token) == issued.token
    assert len(issued.token) < 600
    for secret in ("ann", CREDENTIAL.value, NEW):
        assert secret not in issued.token
        shown = base64.urlsafe_b64decode(issued.token.rpartition(".")[2] + "==")
        assert secret.encode() not in shown


async def test_C6_6_every_server_with_the_key_and_the_name_opens_it(made):
    issued = await issue(made(NEW))
    assert await made(NEW).look_up(issued.token) == issued.ticket


async def test_C6_6_a_later_version_of_ours_opens_it(made):
    ticket = await made("k" * 43, server="here").look_up(ONE)
    assert (ticket.principal, ticket.user, ticket.credential) == (
        "user:ann",
        {"name": "ann"},
        CREDENTIAL,
    )
    assert (ticket.audience, ticket.lifetime) == (("api/kernels",), 300)


async def test_C6_6_nobody_else_opens_it(made):
    issued = await issue(made(NEW))
    for other in (made(OLD), made(NEW, server="https://host/user/mallory/")):
        with pytest.raises(UnknownTicket):
            await other.look_up(issued.token)


async def test_C6_6_keys_are_replaced_one_after_the_other(made):
    before = await issue(made(OLD))
    both = made(NEW, OLD)
    after = await issue(both)
    for issued in (before, after):
        await both.look_up(issued.token)
    await made(NEW).look_up(after.token)
    with pytest.raises(UnknownTicket):
        await made(NEW).look_up(before.token)
    with pytest.raises(UnknownTicket):
        await made(OLD).look_up(after.token)


async def test_C6_4_a_ticket_from_the_future_is_not_taken(made, clock):
    store = made(NEW)
    issued = await issue(store)
    clock.now -= 59
    await store.look_up(issued.token)
    clock.now -= 2
    with pytest.raises(ExpiredTicket):
        await store.look_up(issued.token)


async def test_C6_6_what_is_too_long_for_a_subprotocol_is_not_issued(made):
    store = made(NEW)
    assert store.max_size == MAX_TOKEN_SIZE
    long = Credential("cookie", "c" * 2000)
    issued = await store.issue("p", {}, long)
    assert 2000 < len(issued.token) <= MAX_TOKEN_SIZE
    with pytest.raises(TicketTooLarge):
        await made(NEW, max_size=2000).issue("p", {}, long)
    with pytest.raises(UnknownTicket):
        await made(NEW, max_size=2000).look_up(issued.token)
    exactly = made(NEW, max_size=len(issued.token))
    again = await exactly.issue("p", {}, long)
    assert len(again.token) == len(issued.token)
    await exactly.look_up(again.token)


@given(st.data())
def test_C6_6_no_bit_of_it_can_be_changed(data):
    store = _store()
    token = _TOKENS.setdefault("token", _run(issue(store)).token)
    place = data.draw(st.integers(0, len(token) - 1))
    instead = data.draw(st.characters(codec="ascii"))
    changed = token[:place] + instead + token[place + 1 :]
    end = data.draw(st.integers(0, len(token) - 1))
    for wrong in {changed, token[:end], token + instead, token + "="} - {token}:
        with pytest.raises(UnknownTicket):
            _run(store.look_up(wrong))
    _run(store.look_up(token))


_TOKENS: dict[str, str] = {}
_STORES: list[SealedTicketStore] = []


def _store() -> SealedTicketStore:
    if not _STORES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KEYS_VARIABLE, NEW)
            _STORES.append(SealedTicketStore(server="here"))
        _STORES[0].clock = lambda: 1_800_000_000.0
    return _STORES[0]


def _run(coroutine):
    """The outcome of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def test_keys_come_from_the_environment_too(monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, f"{NEW} {OLD}")
    assert len(SealedTicketStore(server="here")._keys) == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (NEW, 1),
        (f"{NEW}\n{OLD}\n", 2),
        (f"  {NEW}=\t{OLD}", 2),
        (base64.b64encode(bytes(range(224, 256))).decode(), 1),
        (base64.urlsafe_b64encode(bytes(range(224, 256))).decode(), 1),
    ],
)
def test_keys_are_read(text, number):
    assert [len(key) for key in read_keys(text)] == [32] * number
    assert read_keys("//" + "A" * 41) == read_keys("__" + "A" * 41)


@pytest.mark.parametrize(
    "text",
    ["", " \n", "short", NEW + "A", NEW[:-2], NEW + " short", "\u00e4" * 43, "!" * 43, "!" + NEW],
)
def test_keys_that_are_none_are_refused_and_not_shown(text):
    with pytest.raises(KeyProblem) as refused:
        read_keys(text)
    assert "sealed tickets" in str(refused.value)
    for word in text.split():
        assert word not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none", tmp_path / "binary"):
        with pytest.raises(KeyProblem, match=path.name):
            SealedTicketStore(key_file=str(path), server="here")


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes there")
def test_a_file_that_others_can_read_is_warned_of(tmp_path, caplog):
    path = tmp_path / "keys"
    path.write_text(NEW)
    for mode, warned in ((0o600, False), (0o640, True), (0o604, True)):
        path.chmod(mode)
        caplog.clear()
        logging = SealedTicketStore(key_file=str(path), server="here").log
        logging.propagate = True
        SealedTicketStore(key_file=str(path), server="here")
        assert ("chmod 600" in caplog.text) is warned
        assert NEW not in caplog.text


def test_a_server_has_a_name(monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, NEW)
    with pytest.raises(KeyProblem, match=r"SealedTicketStore\.server"):
        SealedTicketStore()


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, NEW)
    for module in ("cryptography.exceptions", "cryptography.hazmat.primitives.ciphers.aead"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'jupyter-token-ws\[sealed\]'"):
        SealedTicketStore(server="here")
