"""What every store of tickets does (contract section 6)."""

from __future__ import annotations

import asyncio
import math

import pytest
from traitlets import TraitError
from traitlets.config import Config

from jupyter_token_ws.login import tickets
from jupyter_token_ws.login.memory import MemoryTicketStore
from jupyter_token_ws.login.store import TicketStore
from jupyter_token_ws.login.tickets import (
    BadRequest,
    Credential,
    ExpiredTicket,
    FamilyChange,
    FamilyState,
    RenewalRefused,
    RevokedTicket,
    TicketError,
    TicketTooLarge,
    UnknownTicket,
    Unsupported,
    UsedTicket,
    WrongAudience,
)
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.tickets import PREFIX, is_ticket

# Redis has a time of its own, which goes on while a test runs, or waits for its turn: hours do not mind.
HOUR = 3600.0
CREDENTIAL = Credential("token", "the-token-behind-it")
USER = {"username": "ann", "name": "Ann \u00c4", "color": None}

KEEPING = [
    "memory",
    pytest.param("redis", marks=pytest.mark.requires("redis-server", "redis-server")),
]
ALL = [*KEEPING, "sealed"]


@pytest.fixture
def store(request, clock, jp_asyncio_loop):
    if request.param == "memory":
        store: TicketStore = MemoryTicketStore()
    elif request.param == "sealed":
        from jupyter_token_ws.login.sealed import SealedTicketStore

        request.getfixturevalue("monkeypatch").setenv("JUPYTER_TOKEN_WS_TICKET_KEYS", "k" * 43)
        store = SealedTicketStore(server="here")
    else:
        from jupyter_token_ws.login.redis import RedisTicketStore

        redis = request.getfixturevalue("redis")
        store = RedisTicketStore(url=redis.url, timeout=60.0)
    store.clock = clock
    store.max_age, store.max_renewal = 4 * HOUR, 10 * HOUR
    store.grace, store.remembered = HOUR, HOUR

    def passes(seconds: float) -> None:
        clock.now += seconds
        if request.param == "redis":
            redis.advance(seconds)

    store.passes = passes  # type: ignore[attr-defined]
    yield store
    jp_asyncio_loop.run_until_complete(store.close())


every_store = pytest.mark.parametrize("store", ALL, indirect=True)
keeping_store = pytest.mark.parametrize("store", KEEPING, indirect=True)


def hours(number: float) -> object:
    return pytest.approx(number * HOUR, abs=HOUR / 4)


def issue(store, **options):
    return store.issue("user:ann", USER, CREDENTIAL, **options)


def until_renewable(store, issued) -> None:
    """Let time pass until a sealed ticket renews too."""
    store.passes(issued.ticket.expires_at - store.grace / 2 - store.clock())


@every_store
async def test_C6_1_C6_3_a_ticket_says_whom_it_is_for_and_what_it_stands_for(store, clock):
    issued = await issue(store, audience=["/api/kernels/"])
    assert is_ticket(issued.token)
    for ticket in (
        issued.ticket,
        await store.look_up(issued.token),
        await store.consume(issued.token),
    ):
        assert (ticket.principal, ticket.user, ticket.credential) == ("user:ann", USER, CREDENTIAL)
        assert (ticket.audience, ticket.single_use) == (("api/kernels",), False)
        assert ticket.issued_at == clock.now
        assert ticket.expires_at - clock.now == hours(4)
        assert ticket.family_ends_at - clock.now == hours(10)
        assert ticket.family == issued.ticket.family


@every_store
async def test_C6_1_a_ticket_is_for_its_audience(store):
    ticket = (await issue(store, audience=["api/kernels"])).ticket
    ticket.check_audience("/user/ann/api/kernels/1/channels", "/user/ann/")
    with pytest.raises(WrongAudience) as refused:
        ticket.check_audience("/user/ann/api/contents", "/user/ann/")
    assert refused.value.slug == "wrong_audience"


@every_store
@pytest.mark.parametrize(
    ("asked", "gets"), [(None, 4), (HOUR, 1), (2.5 * HOUR, 2.5), (9 * HOUR, 4)]
)
async def test_C6_1_nobody_gets_a_ticket_for_longer_than_the_longest(store, clock, asked, gets):
    issued = await issue(store, max_age=asked)
    assert issued.ticket.expires_at - clock.now == hours(gets)
    assert (await store.look_up(issued.token)).expires_at - clock.now == hours(gets)


@every_store
@pytest.mark.parametrize(
    "options",
    [{"max_age": 0}, {"max_age": "60"}, {"max_age": True}, {"max_age": math.nan},
     {"audience": []}, {"audience": "api"}, {"audience": ["../x"]}, {"single_use": 1},
     {"single_use": None}, {"single_use": "false"}],
)  # fmt: skip
async def test_C6_1_options_that_make_no_sense_are_refused(store, options):
    with pytest.raises(BadRequest) as refused:
        await issue(store, **options)
    assert refused.value.slug == "bad_request"
    assert next(iter(options)) in str(refused.value)


@every_store
async def test_C6_1_a_user_that_is_no_json_is_refused(store):
    with pytest.raises(BadRequest, match="no JSON") as refused:
        await store.issue("p", {"secret": object()}, CREDENTIAL)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@every_store
async def test_C6_6_what_is_too_large_for_a_ticket_is_refused(store):
    with pytest.raises(TicketTooLarge):
        await store.issue("p", {"avatar_url": "x" * 9000}, CREDENTIAL)
    await store.issue("p", USER, Credential("cookie", "c" * 2000))


@every_store
@pytest.mark.parametrize(
    "token",
    ["", "a-token-of-the-server", PREFIX, PREFIX + "x", PREFIX + "A" * 43, PREFIX + "A" * 42 + "B",
     PREFIX + "s1.", PREFIX + "s1.AAAA", PREFIX + "s1." + "A" * 400, PREFIX + "s1.\u00e4",
     PREFIX + "s1.AAA=A", PREFIX + "s1." + "A" * 5000],
)  # fmt: skip
async def test_C6_3_what_nobody_issued_is_unknown(store, token):
    for attempt in (store.look_up, store.consume, store.renew):
        with pytest.raises(UnknownTicket) as refused:
            await attempt(token)
        assert refused.value.slug == "token_rejected"
    if store.revocable:
        assert await store.revoke(token) is None


@every_store
async def test_C6_4_a_ticket_expires(store):
    issued = await issue(store, max_age=2 * HOUR)
    store.passes(1.5 * HOUR)
    await store.look_up(issued.token)
    store.passes(0.5 * HOUR)
    for attempt in (store.look_up, store.consume, store.renew):
        with pytest.raises(ExpiredTicket) as refused:
            await attempt(issued.token)
        assert refused.value.slug == "token_expired"


@every_store
async def test_C6_4_no_ticket_outlives_its_credential(store, clock):
    issued = await issue(store, credential_ends_at=clock.now + 2 * HOUR)
    assert issued.ticket.expires_at - clock.now == hours(2)
    until_renewable(store, issued)
    renewed = await store.renew(issued.token, max_age=4 * HOUR)
    assert renewed.ticket.expires_at == pytest.approx(issued.ticket.expires_at, abs=HOUR / 4)
    store.passes(HOUR)
    with pytest.raises(ExpiredTicket):
        await store.look_up(renewed.token)


@every_store
@pytest.mark.parametrize("left", [0, -1, -math.inf])
async def test_C6_4_a_credential_that_has_expired_gets_no_ticket(store, clock, left):
    with pytest.raises(ExpiredTicket):
        await issue(store, credential_ends_at=clock.now + left)


@every_store
async def test_C6_4_renewal_keeps_everything_but_the_time(store, clock):
    old = await issue(store, audience=["api/kernels"], max_age=3 * HOUR)
    until_renewable(store, old)
    new = await store.renew(old.token)
    assert new.token != old.token
    for ticket in (new.ticket, await store.look_up(new.token)):
        for what in ("principal", "user", "credential", "audience", "family", "single_use"):
            assert getattr(ticket, what) == getattr(old.ticket, what)
        assert ticket.expires_at - clock.now == hours(3)
        ends_at = pytest.approx(old.ticket.family_ends_at, abs=HOUR / 4)
        assert ticket.family_ends_at == ends_at


@every_store
async def test_C6_4_renewals_end_with_the_family(store, clock):
    issued = await issue(store)
    end = issued.ticket.family_ends_at
    for _ in range(20):
        until_renewable(store, issued)
        issued = await store.renew(issued.token)
        if issued.ticket.expires_at > end - HOUR / 4:
            break
    assert issued.ticket.expires_at == pytest.approx(end, abs=HOUR / 4)
    assert end == pytest.approx(clock.now, abs=4 * HOUR)
    store.passes(end - clock.now + HOUR / 4)
    with pytest.raises(ExpiredTicket):
        await store.renew(issued.token)


@every_store
async def test_C6_4_a_renewal_may_ask_for_less_but_never_for_more(store, clock):
    issued = await issue(store, max_age=2 * HOUR)
    until_renewable(store, issued)
    with pytest.raises(BadRequest, match="max_age"):
        await store.renew(issued.token, max_age=-1)
    issued = await store.renew(issued.token, max_age=99 * HOUR)
    assert issued.ticket.expires_at - clock.now == hours(4)
    until_renewable(store, issued)
    issued = await store.renew(issued.token, max_age=HOUR)
    assert issued.ticket.expires_at - clock.now == hours(1)


@keeping_store
async def test_C6_4_the_old_ticket_dies_soon_after_its_renewal(store, clock):
    old = await issue(store)
    await store.renew(old.token)
    assert (await store.look_up(old.token)).expires_at - clock.now == hours(1)
    # Who did not get the answer asks again.
    again = await store.renew(old.token)
    store.passes(HOUR)
    with pytest.raises(ExpiredTicket):
        await store.look_up(old.token)
    await store.look_up(again.token)


def test_C6_4_soon_is_within_thirty_seconds():
    assert TicketStore.grace == 30


@pytest.mark.parametrize("store", ["sealed"], indirect=True)
async def test_C6_4_a_ticket_that_cannot_be_ended_renews_at_its_end_only(store):
    issued = await issue(store, max_age=2 * HOUR)
    for left in (HOUR, HOUR / 2):
        with pytest.raises(RenewalRefused) as refused:
            await store.renew(issued.token)
        assert refused.value.retry_after == left
        store.passes(HOUR / 2)
    store.passes(-0.5)
    with pytest.raises(RenewalRefused) as refused:
        await store.renew(issued.token)
    assert refused.value.retry_after == 1
    store.passes(0.5)
    await store.renew(issued.token)


@pytest.mark.parametrize("store", ["sealed"], indirect=True)
async def test_C6_5_a_store_says_what_it_cannot(store):
    assert (store.single_use, store.revocable) == (False, False)
    issued = await issue(store)
    for attempt in (
        issue(store, single_use=True),
        store.revoke(issued.token),
        store.revoke_family(issued.ticket.family),
        store.family(issued.ticket.family),
    ):
        with pytest.raises(Unsupported, match="this server"):
            await attempt


@keeping_store
async def test_C6_5_looking_does_not_use_up(store):
    issued = await issue(store, single_use=True)
    assert (store.single_use, store.revocable) == (True, True)
    for _ in range(3):
        assert (await store.look_up(issued.token)).single_use
    assert (await store.consume(issued.token)).single_use
    for attempt in (store.look_up, store.consume):
        with pytest.raises(UsedTicket) as refused:
            await attempt(issued.token)
        assert refused.value.slug == "token_rejected"


@keeping_store
async def test_C6_5_of_all_that_use_it_at_once_one_gets_it(store):
    issued = await issue(store, single_use=True)
    uses = [store.consume(issued.token) for _ in range(40)]
    outcomes = await asyncio.gather(*uses, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, UsedTicket)]
    assert len(refused) == 39


@keeping_store
async def test_C6_5_a_ticket_for_one_use_does_not_renew(store):
    issued = await issue(store, single_use=True)
    with pytest.raises(RenewalRefused):
        await store.renew(issued.token)
    await store.consume(issued.token)


@keeping_store
async def test_C6_4_C6_5_what_a_ticket_for_one_use_opened_can_be_revoked(store):
    issued = await issue(store, single_use=True)
    await store.consume(issued.token)
    assert (await store.family(issued.ticket.family)).alive
    assert await store.revoke(issued.token) == issued.ticket.family
    assert not (await store.family(issued.ticket.family)).alive


@keeping_store
async def test_C6_4_revoking_one_revokes_the_family(store):
    first = await issue(store)
    second = await store.renew(first.token)
    third = await store.renew(second.token)
    other = await issue(store)
    told: list[FamilyChange] = []
    store.listen(told.append)
    for issued in (first, third, first):  # once more changes nothing
        assert await store.revoke(issued.token) == first.ticket.family
        assert told.pop() == FamilyChange(first.ticket.family, revoked=True)
        for dead in (first, second, third):
            for attempt in (store.look_up, store.consume, store.renew):
                with pytest.raises(RevokedTicket) as refused:
                    await attempt(dead.token)
                assert refused.value.slug == "token_revoked"
        assert await store.family(first.ticket.family) == FamilyState(alive=False)
    await store.look_up(other.token)
    assert told == []


@keeping_store
async def test_C6_4_a_family_is_revoked_by_its_name_too(store):
    issued = await issue(store)
    told: list[FamilyChange] = []
    store.listen(told.append)
    await store.revoke_family(issued.ticket.family)
    assert told == [FamilyChange(issued.ticket.family, revoked=True)]
    with pytest.raises(RevokedTicket):
        await store.look_up(issued.token)
    await store.revoke_family("of nobody")
    assert len(told) == 1


@keeping_store
async def test_C6_4_a_renewal_that_comes_after_the_revocation_is_none(store):
    """Also where the store was asked before it: only it decides."""
    old, other = await issue(store), await issue(store)
    ticket = await store.look_up(old.token)
    await store.revoke(old.token)
    from jupyter_token_ws.login.secrecy import name_of
    from jupyter_token_ws.protocol.tickets import read_ticket

    def name(issued):
        return name_of(read_ticket(issued.token) or b"")

    with pytest.raises(RevokedTicket):
        await store._keep(ticket, name(old))
    single = await issue(store, single_use=True)
    with pytest.raises(RenewalRefused):
        await store._keep(single.ticket, name(single))
    with pytest.raises(UnknownTicket):
        await store._keep(other.ticket, "of no ticket")
    store.passes(4 * HOUR)
    with pytest.raises(ExpiredTicket):
        await store._keep(other.ticket, name(other))


@keeping_store
async def test_C6_4_sockets_of_a_family_may_live_as_long_as_its_last_ticket(store, clock):
    told: list[FamilyChange] = []
    store.listen(told.append)
    issued = await issue(store, max_age=2 * HOUR)
    family = issued.ticket.family
    assert (await store.family(family)).expires_at - clock.now == hours(2)
    assert told == []
    await store.renew(issued.token, max_age=4 * HOUR)
    (change,) = told
    assert (change.family, change.revoked) == (family, False)
    assert change.expires_at - clock.now == hours(4)
    assert (await store.family(family)).expires_at - clock.now == hours(4)
    store.passes(4 * HOUR)
    assert not (await store.family(family)).alive
    assert not (await store.family("of nobody")).alive


@keeping_store
async def test_C6_4_a_shorter_renewal_shortens(store, clock):
    told: list[FamilyChange] = []
    store.listen(told.append)
    issued = await issue(store)
    renewed = await store.renew(issued.token, max_age=2 * HOUR)
    assert told[0].expires_at - clock.now == hours(2)
    assert (await store.family(renewed.ticket.family)).expires_at - clock.now == hours(2)


@keeping_store
async def test_what_became_of_a_ticket_is_remembered_for_a_while(store):
    expired, revoked = await issue(store, max_age=2 * HOUR), await issue(store)
    used = await issue(store, single_use=True, max_age=2 * HOUR)
    await store.consume(used.token)
    store.passes(2 * HOUR)
    await store.revoke(revoked.token)
    for issued, error in (
        (expired, ExpiredTicket),
        (used, ExpiredTicket),
        (revoked, RevokedTicket),
    ):
        with pytest.raises(error):
            await store.look_up(issued.token)
    store.passes(6 * HOUR)
    for issued in (expired, revoked, used):
        with pytest.raises(UnknownTicket):
            await store.look_up(issued.token)
        assert await store.revoke(issued.token) is None


@keeping_store
async def test_C6_4_a_listener_that_fails_does_not_keep_others_from_hearing(store, caplog):
    told: list[FamilyChange] = []

    def fails(change: FamilyChange) -> None:
        raise RuntimeError("of no use")

    store.log.propagate = True
    ends = [store.listen(fails), store.listen(told.append)]
    issued = await issue(store)
    await store.revoke(issued.token)
    assert len(told) == 1
    assert "A listener failed" in caplog.text
    for end in ends:
        end()
    await store.revoke(issued.token)
    assert len(told) == 1


async def test_a_store_may_be_started_and_closed_as_often_as_one_likes():
    store = MemoryTicketStore()
    for _ in range(2):
        await store.start()
        await store.close()


@pytest.mark.parametrize("name", ["max_age", "max_renewal"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_times_are_positive(name, value):
    with pytest.raises(TraitError, match=f"MemoryTicketStore.{name} must be positive"):
        MemoryTicketStore(**{name: value})


def test_options_of_all_stores_are_set_in_one_place():
    config = Config({"TicketStore": {"max_age": 60.0}, "MemoryTicketStore": {"max_tickets": 5}})
    store = MemoryTicketStore(config=config)
    assert (store.lifetimes.max_age, store.max_tickets) == (60, 5)


def errors(base: type[TicketError] = TicketError) -> list[type[TicketError]]:
    return [base, *(error for child in base.__subclasses__() for error in errors(child))]


def test_every_error_is_a_reason_of_the_table_and_a_sentence():
    assert len(errors()) > 10
    for error in errors():
        assert error.slug in REASONS
        assert str(error())
        assert not str(error()).endswith(".")
        assert error("text").args == ("text",)


def test_the_tree_of_errors_is_as_it_is_written_down():
    lines = (tickets.__doc__ or "").split("::\n\n")[1].splitlines()
    path: list[str] = []
    for line in lines:
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip()) - 4) // 4
        path[depth:] = [name]
        bases = [base.__name__ for base in getattr(tickets, name).__bases__]
        assert bases[0] == (path[depth - 1] if depth else "Exception")
    written = {error.__name__ for error in errors() if error.__module__ == tickets.__name__}
    assert {line.split()[0] for line in lines} == written


@pytest.mark.parametrize("url", ["http://nowhere:6379", "nowhere:6379", "redis://nowhere:x"])
def test_an_address_that_is_none_is_answered_with_how_one_looks(url):
    pytest.importorskip("redis")
    from jupyter_token_ws.login.redis import RedisTicketStore

    with pytest.raises(
        TraitError, match=r"looks like redis://localhost:6379/0 or unix:///"
    ) as said:
        RedisTicketStore(url=url)
    assert url not in str(said.value)
