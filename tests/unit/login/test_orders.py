"""Tickets are issued, used, used again, shown to other servers, renewed, revoked, expire, servers start anew,
keys are replaced, and Redis loses what it had, in any order: every store does as one simple model does.

Time passes in steps of hours: what the test itself takes does not matter then, not even where time is Redis's
own. Servers that share a Redis have clocks that differ by more than a ticket lives.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jupyter_token_ws.login.memory import MemoryTicketStore
from jupyter_token_ws.login.sealed import SealedTicketStore
from jupyter_token_ws.login.store import Held, TicketStore
from jupyter_token_ws.login.tickets import (
    Credential,
    ExpiredTicket,
    FamilyChange,
    RenewalRefused,
    RevokedTicket,
    TicketError,
    TicketRefused,
    UnknownTicket,
    Unsupported,
    UsedTicket,
)
from tests.support.redis_server import RedisServer

HOUR = 3600.0
STEP = HOUR / 2
GRACE = HOUR
REMEMBERED = 2 * HOUR
MAX_AGE = 4 * HOUR
MAX_RENEWAL = 9 * HOUR
TOLERANCE = STEP / 2


@dataclass
class Family:
    """What the model knows of a family."""

    ends_at: float
    tickets: list[Known] = field(default_factory=list)
    revoked_at: float | None = None


@dataclass
class Known:
    """What the model knows of a ticket."""

    family: Family
    expires_at: float
    lifetime: float
    single_use: bool
    audience: tuple[str, ...] | None
    principal: str
    credential: str
    key: object
    used: bool = False
    lost: bool = False

    def verdict(self, now: float) -> type[TicketError] | None:
        if self.lost:
            return UnknownTicket
        if self.family.revoked_at is not None:
            return RevokedTicket
        if now >= self.expires_at:
            return ExpiredTicket
        return UsedTicket if self.used else None

    def remembered_until(self) -> float:
        revoked_at = self.family.revoked_at
        died_at = self.expires_at if revoked_at is None else min(self.expires_at, revoked_at)
        return died_at + REMEMBERED


ASKED: dict[str, Any] = {
    "number": st.integers(0, 1),
    "age": st.none() | st.integers(1, 10),
    "audience": st.sampled_from([None, ["api/kernels"], ["a", "b/c"]]),
    "single_use": st.booleans(),
    "credential_left": st.none() | st.integers(1, 20),
}
"""What a ticket is asked for: of which server, for how many steps, and how many its credential has."""


class Orders(RuleBasedStateMachine):
    """One or two servers over one store, and the model."""

    servers = 1
    restart_loses = False
    rotates = False

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000.0
        self.loop = asyncio.new_event_loop()
        self.known: dict[str, Known] = {}
        self.families: dict[str, Family] = {}
        self.told: list[FamilyChange] = []
        self.begin()
        self.stores = [self.server(number) for number in range(self.servers)]
        self.stranger = self.make_stranger()
        self.stranger.clock = lambda: self.now

    # What a kind of store has to say.

    def begin(self) -> None:
        """Before the first store is made."""

    def make(self) -> TicketStore:
        raise NotImplementedError

    def make_stranger(self) -> TicketStore:
        """The store of a server that has nothing in common with these but the kind."""
        raise NotImplementedError

    def passes(self, seconds: float) -> None:
        """Time passes also where the store has its own."""

    def server(self, number: int) -> TicketStore:
        store = self.make()
        store.max_age, store.max_renewal = MAX_AGE, MAX_RENEWAL
        store.grace, store.remembered = GRACE, REMEMBERED
        store.clock = lambda: self.now + self.skew(number)
        store.listen(self.told.append)
        return store

    def skew(self, number: int) -> float:
        return number * 11 * HOUR

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def pick(self, number: int) -> tuple[TicketStore, float]:
        number %= self.servers
        return self.stores[number], self.skew(number)

    def teardown(self) -> None:
        for store in (*self.stores, self.stranger):
            self.run(store.close())
        self.run(asyncio.sleep(0))  # what was closed is gone after one more turn
        self.loop.close()

    # What happens.

    @initialize(target=tickets, **ASKED)
    def begin_with(self, **asked):
        """Or most would be done without any."""
        return self.issued(**asked)

    @rule(target=tickets, **ASKED)
    def issue(self, **asked):
        return self.issued(**asked)

    def issued(self, number, age, audience, single_use, credential_left):
        store, skew = self.pick(number)
        lifetime = MAX_AGE if age is None else min(age * STEP, MAX_AGE)
        ends_at = self.now + min(
            MAX_RENEWAL, MAX_RENEWAL if credential_left is None else credential_left * STEP
        )
        principal, value = secrets.token_hex(4), secrets.token_hex(8)
        issuing = store.issue(
            principal,
            {"name": principal},
            Credential("token", value),
            max_age=None if age is None else age * STEP,
            audience=audience,
            single_use=single_use,
            credential_ends_at=None
            if credential_left is None
            else self.now + skew + credential_left * STEP,
        )
        if single_use and not store.single_use:
            with pytest.raises(Unsupported):
                self.run(issuing)
            return multiple()
        issued = self.run(issuing)
        family = Family(ends_at)
        known = Known(
            family,
            min(self.now + lifetime, ends_at),
            lifetime,
            single_use,
            None if audience is None else tuple(audience),
            principal,
            value,
            self.key(),
        )
        assert issued.ticket.family not in self.families
        self.families[issued.ticket.family] = family
        self.add(issued.token, known)
        self.agrees(issued.ticket, known, skew)
        return issued.token

    def some_left(self) -> bool:
        """Whether there are tickets that the store has not lost: with others there is not much to see."""
        return not all(known.lost for known in self.known.values())

    def key(self) -> object:
        return None

    def add(self, token: str, known: Known) -> None:
        assert token not in self.known
        self.known[token] = known
        known.family.tickets.append(known)

    @rule(token=tickets, number=st.integers(0, 1), many=st.integers(1, 3))
    def use(self, token, number, many):
        known = self.known[token]

        async def race() -> list[Any]:
            uses = [self.pick(number + n)[0].consume(token) for n in range(many)]
            return await asyncio.gather(*uses, return_exceptions=True)

        outcomes = self.run(race())
        good = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        verdict = known.verdict(self.now)
        if verdict is None:
            assert len(good) == (1 if known.single_use else many)
            known.used = known.single_use
            verdict = UsedTicket
        else:
            assert good == []
        for outcome in outcomes:
            if outcome not in good:
                self.refused_for(outcome, verdict, known)

    @rule(target=tickets, token=tickets, number=st.integers(0, 1))
    def renew(self, token, number):
        return self.renewed(token, number, None)

    @rule(target=tickets, token=tickets, number=st.integers(0, 1), age=st.integers(1, 10))
    def renew_for(self, token, number, age):
        return self.renewed(token, number, age)

    def renewed(self, token, number, age):
        known = self.known[token]
        store, skew = self.pick(number)
        lifetime = known.lifetime if age is None else min(age * STEP, MAX_AGE)
        early = known.expires_at - GRACE - self.now
        self.told.clear()
        renewing = store.renew(token, max_age=None if age is None else age * STEP)
        verdict = known.verdict(self.now)
        if verdict is not None:
            with pytest.raises(TicketRefused) as refused:
                self.run(renewing)
            self.refused_for(refused.value, verdict, known)
            return multiple()
        if known.single_use or (early > 0 and not store.revocable):
            with pytest.raises(RenewalRefused) as later:
                self.run(renewing)
            assert later.value.retry_after == (None if known.single_use else early)
            return multiple()
        issued = self.run(renewing)
        renewed = Known(
            known.family,
            min(self.now + lifetime, known.family.ends_at),
            lifetime,
            False,
            known.audience,
            known.principal,
            known.credential,
            self.key(),
        )
        known.expires_at = min(known.expires_at, self.now + GRACE)
        assert self.families[issued.ticket.family] is known.family
        self.add(issued.token, renewed)
        self.agrees(issued.ticket, renewed, skew)
        (change,) = self.told
        assert (change.family, change.revoked) == (issued.ticket.family, False)
        # A store that keeps nothing knows of these two only.
        latest = (
            self.latest(known.family)
            if store.revocable
            else max(known.expires_at, renewed.expires_at)
        )
        assert change.expires_at == pytest.approx(latest + skew, abs=TOLERANCE)
        return issued.token

    @rule(token=tickets, number=st.integers(0, 1), by_its_name=st.booleans())
    def revoke(self, token, number, by_its_name):
        known = self.known[token]
        store, _ = self.pick(number)
        (name,) = (name for name, held in self.families.items() if held is known.family)
        self.told.clear()
        revoking = store.revoke_family(name) if by_its_name else store.revoke(token)
        if not store.revocable:
            with pytest.raises(Unsupported):
                self.run(revoking)
            return
        revoked = self.run(revoking)
        if not self.told:
            assert revoked is None
            assert known.lost or self.now >= known.remembered_until()
            return
        assert revoked == (None if by_its_name else name)
        assert self.told == [FamilyChange(name, revoked=True)]
        if known.family.revoked_at is None:
            known.family.revoked_at = self.now

    @rule(token=tickets, place=st.integers(0, 200), character=st.sampled_from("Az09-_.~="))
    def forge_or_show_elsewhere(self, token, place, character):
        """What is no ticket here, and one that is none there: nothing that is done to it has consequences."""
        place %= len(token)
        forged = token[:place] + character + token[place + 1 :]
        self.told.clear()
        for store, wrong in ((self.stores[0], forged), (self.stranger, token)):
            if store is self.stranger or wrong not in self.known:
                for attempt in (store.look_up, store.consume, store.renew):
                    with pytest.raises(UnknownTicket):
                        self.run(attempt(wrong))
                if store.revocable:
                    assert self.run(store.revoke(wrong)) is None
        assert self.told == []

    @precondition(lambda self: self.some_left())
    @rule(steps=st.integers(1, 6))
    def wait(self, steps):
        self.now += steps * STEP
        self.passes(steps * STEP)

    @precondition(lambda self: self.some_left())
    @rule(number=st.integers(0, 1))
    def restart(self, number):
        number %= self.servers
        self.run(self.stores[number].close())
        self.stores[number] = self.server(number)
        if self.restart_loses:
            for known in self.known.values():
                known.lost = True

    @precondition(lambda self: self.rotates)
    @rule(keep=st.integers(0, 2))
    def rotate(self, keep):
        self.rotate_keys(keep)
        self.restart(0)

    def rotate_keys(self, keep: int) -> None:
        raise NotImplementedError

    @rule(token=consumes(tickets))
    def forget(self, token):
        """Or the same few would be drawn all the time."""

    # What must be true.

    @invariant()
    def every_ticket_is_what_it_is(self):
        for token, known in self.known.items():
            for number in range(self.servers):
                store, skew = self.pick(number)
                verdict = known.verdict(self.now)
                if verdict is None:
                    self.agrees(self.run(store.look_up(token)), known, skew)
                else:
                    with pytest.raises(TicketRefused) as refused:
                        self.run(store.look_up(token))
                    self.refused_for(refused.value, verdict, known)

    @invariant()
    def every_family_is_what_it_is(self):
        for name, family in self.families.items():
            for number in range(self.servers):
                store, skew = self.pick(number)
                if not store.revocable:
                    with pytest.raises(Unsupported):
                        self.run(store.family(name))
                    continue
                state = self.run(store.family(name))
                latest = self.latest(family)
                alive = family.revoked_at is None and self.now < latest
                assert state.alive is (alive and not any(known.lost for known in family.tickets))
                if state.alive:
                    assert state.expires_at == pytest.approx(latest + skew, abs=TOLERANCE)

    def latest(self, family: Family) -> float:
        return max(known.expires_at for known in family.tickets)

    def agrees(self, ticket, known: Known, skew: float) -> None:
        assert ticket.principal == ticket.user["name"] == known.principal
        assert ticket.credential == Credential("token", known.credential)
        assert ticket.audience == known.audience
        assert ticket.single_use is known.single_use
        assert ticket.lifetime == known.lifetime
        assert ticket.expires_at == pytest.approx(known.expires_at + skew, abs=TOLERANCE)
        ends_at = known.family.ends_at + skew
        assert ticket.family_ends_at == pytest.approx(ends_at, abs=TOLERANCE)
        # Whatever was done, nobody lives longer than may be.
        assert ticket.expires_at <= ticket.family_ends_at + TOLERANCE
        assert self.families[ticket.family] is known.family

    def refused_for(self, error: BaseException, verdict: type[TicketError], known: Known) -> None:
        if self.now >= known.remembered_until():
            assert isinstance(error, (verdict, UnknownTicket))
        else:
            assert type(error) is verdict


class MemoryOrders(Orders):
    restart_loses = True
    kind: ClassVar[Callable[[], TicketStore]] = MemoryTicketStore

    def make(self):
        return type(self).kind()

    def make_stranger(self):
        return self.make()


class RedisOrders(Orders):
    servers = 2
    prefix = "tickets of these:"
    redis: ClassVar[RedisServer]

    def begin(self):
        self.redis.clear()

    def make(self):
        from jupyter_token_ws.login.redis import RedisTicketStore

        return RedisTicketStore(url=self.redis.url, timeout=60.0, key_prefix=self.prefix)

    def make_stranger(self):
        stranger = self.make()
        stranger.key_prefix = "of others:"
        return stranger

    def passes(self, seconds):
        self.redis.advance(seconds)

    @precondition(lambda self: self.some_left())
    @rule(token=Orders.tickets, everything=st.sampled_from([False] * 9 + [True]))
    def redis_forgets(self, token, everything):
        """A family under memory pressure, say, or all in a restart."""
        known = self.known[token]
        if everything:
            self.redis.clear()
        else:
            (family,) = (name for name, held in self.families.items() if held is known.family)
            with self.redis.client() as client:
                client.delete(f"{self.prefix}family:{family}")
        for lost in self.known.values() if everything else known.family.tickets:
            lost.lost = True


class SealedOrders(Orders):
    rotates = True
    kind: ClassVar[type[SealedTicketStore]] = SealedTicketStore

    def begin(self):
        self.keys = [secrets.token_urlsafe(32)]

    def make(self):
        return self.sealed("https://host/user/ann/")

    def make_stranger(self):
        return self.sealed("https://host/user/bob/")

    def sealed(self, server):
        """A server that has the keys."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTER_TOKEN_WS_TICKET_KEYS", "\n".join(self.keys))
            return self.kind(server=server)

    def key(self):
        return self.keys[0]

    def rotate_keys(self, keep):
        self.keys = [secrets.token_urlsafe(32), *self.keys[:keep]]
        self.stranger = self.make_stranger()
        self.stranger.clock = lambda: self.now
        for known in self.known.values():
            known.lost = known.lost or known.key not in self.keys


SETTINGS = settings(
    deadline=None,
    max_examples=150,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)


def test_C6_4_C6_5_in_any_order_in_memory():
    run_state_machine_as_test(MemoryOrders, settings=settings(SETTINGS, max_examples=300))


@pytest.mark.requires("redis-server", "redis-server")
def test_C6_4_C6_5_in_any_order_in_redis(redis):
    RedisOrders.redis = redis
    run_state_machine_as_test(RedisOrders, settings=settings(SETTINGS, max_examples=100))


def test_C6_4_in_any_order_sealed():
    run_state_machine_as_test(SealedOrders, settings=SETTINGS)


FIND = settings(
    SETTINGS,
    max_examples=500,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


class UsesTwice(MemoryTicketStore):
    async def _get(self, name, use):
        return await super()._get(name, False)


class RevokesOneOnly(MemoryTicketStore):
    def _revoke_family(self, family):
        self._families[family].revoked = False
        for name in list(self._families[family].names)[:1]:
            self._end(name, self.clock())


class NeverRetires(MemoryTicketStore):
    async def _put(self, name, held, *, retire=None, grace=0.0):
        return await super()._put(name, held, retire=retire, grace=1e9)


class RenewsForEver(MemoryTicketStore):
    async def _put(self, name, held, *, retire=None, grace=0.0):
        if retire is not None:
            self._families[held.family].ends_at = self.clock() + MAX_RENEWAL
        return await super()._put(name, held, retire=retire, grace=grace)


class NeverExpires(MemoryTicketStore):
    async def _put(self, name, held, *, retire=None, grace=0.0):
        held = Held(held.family, held.box, held.single_use, held.family_left, held.family_left)
        return await super()._put(name, held, retire=retire, grace=grace)


class ForgetsTheFamily(MemoryTicketStore):
    async def renew(self, token, *, max_age=None):
        ticket = await self.look_up(token)
        return await self.issue(ticket.principal, ticket.user, ticket.credential)


@pytest.mark.parametrize(
    "broken",
    [UsesTwice, RevokesOneOnly, NeverRetires, RenewsForEver, NeverExpires, ForgetsTheFamily],
)
def test_a_store_that_is_wrong_is_found_out(broken):
    machine = type(f"{broken.__name__}Orders", (MemoryOrders,), {"kind": broken})
    with pytest.raises((AssertionError, TicketError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=FIND)


class OutlivesItsTime(SealedTicketStore):
    async def look_up(self, token):
        return self._open(token)


class RenewsAtAnyTime(SealedTicketStore):
    async def renew(self, token, *, max_age=None):
        self.grace = MAX_AGE
        return await super().renew(token, max_age=max_age)


class NeverEnds(SealedTicketStore):
    def _open(self, token):
        ticket = super()._open(token)
        return replace(ticket, family_ends_at=ticket.issued_at + MAX_RENEWAL)


class WidensTheAudience(SealedTicketStore):
    async def renew(self, token, *, max_age=None):
        issued = await super().renew(token, max_age=max_age)
        return replace(issued, token=self._seal(replace(issued.ticket, audience=None)))


class TakesRetiredKeys(SealedTicketStore):
    ever: ClassVar[dict[bytes, Any]] = {}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ever.update(self._keys)
        self._keys = self.ever


class SealsWithTheOldest(SealedTicketStore):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._sealing = next(iter(self._keys))


class TakesWhatIsForOthers(SealedTicketStore):
    def _bound(self, name):
        return name


@pytest.mark.parametrize(
    "broken",
    [
        OutlivesItsTime,
        RenewsAtAnyTime,
        NeverEnds,
        WidensTheAudience,
        TakesRetiredKeys,
        SealsWithTheOldest,
        TakesWhatIsForOthers,
    ],
)
def test_a_sealed_store_that_is_wrong_is_found_out(broken):
    machine = type(f"{broken.__name__}Orders", (SealedOrders,), {"kind": broken})
    with pytest.raises((AssertionError, TicketError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=FIND)


@pytest.mark.requires("redis-server", "redis-server")
@pytest.mark.parametrize(
    ("script", "part", "instead"),
    [
        ("_GET", "if family[2] then return {'revoked'} end", ""),
        ("_GET", "if kept[2] - now <= 0 then return {'expired'} end", ""),
        (
            "_GET",
            "if not family[1] then return {'unknown'} end",
            "family[1] = family[1] or now + 1",
        ),
        ("_GET", "redis.call('HSET', KEYS[1], 'used', ARGV[2])", ""),
        ("_GET", "kept[3] == '1' and", ""),
        ("_PUT", "left = math.min(left, ends - now)", ""),
        ("_PUT", "keep_until(KEYS[3], math.min(old[2], now + ARGV[6]))", ""),
        ("_FAMILY", "if redis.call('HEXISTS', KEYS[1], 'revoked') == 1 then return 0 end", ""),
        ("_REVOKE", "redis.call('HSET', KEYS[1], 'revoked', '1')", ""),
    ],
)
def test_a_script_that_is_wrong_is_found_out(redis, monkeypatch, script, part, instead):
    from jupyter_token_ws.login import redis as module

    text = getattr(module, script)
    assert part in text
    monkeypatch.setattr(module, script, text.replace(part, instead))
    RedisOrders.redis = redis
    with pytest.raises((AssertionError, TicketError, pytest.fail.Exception)):
        run_state_machine_as_test(RedisOrders, settings=FIND)
