"""The doctor's report, its tables, and how it makes checks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jupyter_token_ws.client.doctor import (
    CAUSES,
    CHECKS,
    NAMES,
    Case,
    Check,
    Finding,
    Options,
    Report,
    Verdict,
    examine,
)
from jupyter_token_ws.client.doctor.case import SkipError, bases_of, limited, stripped
from jupyter_token_ws.client.doctor.report import MAX_SEEN, plain
from jupyter_token_ws.client.errors import IdentityError, NoConnectionError
from jupyter_token_ws.client.transport import Transport

URL = "http://127.0.0.1:8888/"
SECRET = "a-very-secret-token"


def report(*findings: Finding) -> Report:
    return Report(URL, URL, findings, 1.25)


def finding(verdict: Verdict, check: str = "dns", cause: str = "") -> Finding:
    return Finding(check, verdict, "seen", cause, 0.12345)


# -- the report ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "worst", "code"),
    [
        ([Verdict.OK], Verdict.OK, 0),
        ([Verdict.OK, Verdict.SKIPPED], Verdict.OK, 0),
        ([Verdict.SLOW, Verdict.OK], Verdict.SLOW, 0),
        ([Verdict.OK, Verdict.BROKEN, Verdict.SLOW], Verdict.BROKEN, 1),
        ([Verdict.SKIPPED], Verdict.SKIPPED, 1),
        ([], Verdict.SKIPPED, 1),
    ],
)
def test_the_worst_finding_is_the_verdict(verdicts, worst, code):
    made = report(*map(finding, verdicts))
    assert (made.verdict, made.exit_code) == (worst, code)


def test_a_report_as_json():
    made = report(finding(Verdict.OK), finding(Verdict.BROKEN, "clock", "clock_skew"))
    assert json.loads(json.dumps(made.document())) == {
        "url": URL,
        "base_url": URL,
        "verdict": "broken",
        "seconds": 1.25,
        "checks": [
            {
                "check": "dns",
                "verdict": "ok",
                "seen": "seen",
                "cause": None,
                "because": None,
                "change": None,
                "seconds": 0.123,
            },
            {
                "check": "clock",
                "verdict": "broken",
                "seen": "seen",
                "cause": "clock_skew",
                "because": CAUSES["clock_skew"].text,
                "change": CAUSES["clock_skew"].change,
                "seconds": 0.123,
            },
        ],
    }
    assert Report(URL, "", (), 0.0).document()["base_url"] is None


def test_a_report_for_people():
    text = report(
        finding(Verdict.OK),
        finding(Verdict.SKIPPED, "idle"),
        finding(Verdict.BROKEN, "clock", "clock_skew"),
    ).text()
    assert text.splitlines() == [
        "ok       dns    seen",
        "skipped  idle   seen",
        "broken   clock  seen",
        f"         likely: {CAUSES['clock_skew'].text}",
        f"         change: {CAUSES['clock_skew'].change}",
        "",
        "1 ok, 1 skipped, 1 broken, in 1.2 s",
    ]
    assert Report(URL, "", (), 0.0).text() == "\nnothing was looked at, in 0.0 s"


def test_a_finding_has_a_cause_of_the_table():
    with pytest.raises(ValueError, match="no such cause"):
        finding(Verdict.BROKEN, cause="bad luck")


def test_what_is_seen_is_one_harmless_line():
    assert plain("a\r\n\x1b[2Jb") == "a???[2Jb"
    assert plain(f"it said {SECRET}, {SECRET}", ["", SECRET]) == "it said [secret], [secret]"
    assert len(plain("x" * 1000)) == MAX_SEEN


# -- the tables ----------------------------------------------------------------------------------------


def test_checks_come_after_those_that_they_build_upon():
    known: set[str] = set()
    for check in CHECKS:
        assert set(check.after) <= known, check.name
        assert check.failed in CAUSES
        assert check.about.endswith(("?", ")"))
        known.add(check.name)
    assert len(NAMES) == len(known)


def test_causes_say_what_to_change():
    for name, cause in CAUSES.items():
        assert name.isidentifier()
        assert len(cause.text) > 20
        assert len(cause.change) > 10
        assert not cause.text.endswith(".")


# -- addresses -----------------------------------------------------------------------------------------


def test_of_an_address_what_may_be_a_secret_is_left_out():
    assert stripped(f"https://ann:{SECRET}@host:1/a/b?token={SECRET}#x") == "https://host:1/a/b"
    assert stripped("http://host") == "http://host/"


def test_bases_of_a_page():
    assert list(bases_of("http://host/a//b")) == [
        "http://host/a/b/",
        "http://host/a/",
        "http://host/",
    ]


# -- a run ---------------------------------------------------------------------------------------------


def a_case(**more: Any) -> Case:
    return Case(URL, Transport(URL), more.pop("options", Options()), **more)


async def well(case: Case) -> Finding:
    return case.ok("well")


async def test_a_check_begins_when_those_before_have_ended():
    order: list[str] = []

    def noting(name: str, until: asyncio.Event | None = None) -> Any:
        async def run(case: Case) -> Finding:
            order.append(f"begin {name}")
            if until is not None:
                await until.wait()
            order.append(f"end {name}")
            return case.ok(name)

        return run

    both = asyncio.Event()

    async def lets_go(case: Case) -> Finding:
        order.append("begin b")
        both.set()
        return case.ok("b")

    checks = [
        Check("a", "?", noting("a", both)),
        Check("b", "?", lets_go),
        Check("c", "?", noting("c"), ("a", "b")),
    ]
    told: list[tuple[int, int, tuple[str, ...]]] = []
    made = await examine(
        a_case(), checks=checks, progress=lambda *state: told.append((*state[:2], tuple(state[2])))
    )
    assert order == ["begin a", "begin b", "end a", "begin c", "end c"]
    assert [each.check for each in made.findings] == ["a", "b", "c"]
    assert told[0] == (0, 3, ("a",))
    assert told[-1] == (3, 3, ())


@pytest.mark.parametrize(
    ("error", "verdict", "cause", "words"),
    [
        (SkipError("for a reason"), Verdict.SKIPPED, "", "for a reason"),
        (NoConnectionError(f"cut, {SECRET}"), Verdict.BROKEN, "idle_cut", "cut, [secret]"),
        (ConnectionResetError(), Verdict.BROKEN, "idle_cut", "ConnectionResetError"),
        (IdentityError("another"), Verdict.BROKEN, "certificate_other", "another"),
    ],
)
async def test_how_a_check_may_end(error, verdict, cause, words):
    async def run(case: Case) -> Finding:
        raise error

    case = a_case(secrets=[SECRET])
    made = await examine(case, checks=[Check("x", "?", run, failed="idle_cut")])
    (found,) = made.findings
    assert (found.verdict, found.cause, found.seen) == (verdict, cause, words)


async def test_a_mistake_of_the_doctors_is_none_of_the_servers():
    async def run(case: Case) -> Finding:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await examine(a_case(), checks=[Check("x", "?", run), Check("y", "?", well)])


async def never(case: Case) -> Finding:
    await asyncio.Event().wait()
    raise AssertionError


async def test_each_check_has_a_limit_and_all_have_one():
    checks = [
        Check("short", "?", never, limit=0.01, failed="held_back"),
        Check("long", "?", never, limit=60),
        Check("late", "?", well, ("long",)),
    ]
    made = await examine(a_case(options=Options(deadline=0.1)), checks=checks)
    assert [(each.verdict, each.cause) for each in made.findings] == [
        (Verdict.BROKEN, "too_late"),
        (Verdict.BROKEN, "too_late"),
        (Verdict.SKIPPED, ""),
    ]
    assert made.findings[2].seen == "no time was left"
    assert made.seconds < 5


async def test_only_some_checks():
    checks = [
        Check("a", "?", well),
        Check("b", "?", well, ("a",)),
        Check("c", "?", well, ("b",)),
        Check("d", "?", well),
    ]

    async def names(**some: Any) -> list[tuple[str, str]]:
        made = await examine(a_case(), checks=checks, **some)
        return [(each.check, each.seen) for each in made.findings]

    assert await names(only=["b"]) == [("a", "well"), ("b", "well")]
    assert await names(only=["b"], skip=["a"]) == [("a", "as you asked"), ("b", "well")]
    assert await names(skip=["a", "b", "d"]) == [
        ("a", "as you asked"),
        ("b", "as you asked"),
        ("c", "well"),
        ("d", "as you asked"),
    ]


async def test_who_is_left_out_is_no_reason_not_to_wait_for_those_before():
    order: list[str] = []

    def noting(name: str) -> Any:
        async def run(case: Case) -> Finding:
            await asyncio.sleep(0)
            order.append(name)
            return case.ok(name)

        return run

    checks = [
        Check("a", "?", noting("a")),
        Check("b", "?", noting("b"), ("a",)),
        Check("c", "?", noting("c"), ("b",)),
    ]
    await examine(a_case(), checks=checks, skip=["b"])
    assert order == ["a", "c"]


async def test_one_check_may_find_several_things():
    async def run(case: Case) -> list[Finding]:
        return [Finding("x by this", Verdict.OK, "a"), case.ok("b")]

    made = await examine(a_case(), checks=[Check("x", "?", run)])
    assert [each.check for each in made.findings] == ["x by this", "x"]


async def test_a_limit_ends_its_block_and_nothing_else():
    with pytest.raises(TimeoutError):
        async with limited(0.0):
            await asyncio.Event().wait()
    async with limited(60):
        pass
    task = asyncio.create_task(_limited())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _limited() -> None:
    async with limited(60):
        await asyncio.Event().wait()
