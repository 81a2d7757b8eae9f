"""What the doctor reads from answers that need no server."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from jupyter_token_ws.client.doctor import Case, Options, Verdict, web
from jupyter_token_ws.client.doctor.case import Guess, SkipError
from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.protocol.auth import Request, Response

URL = "http://127.0.0.1:8888/user/ann/lab"
BASE = "http://127.0.0.1:8888/user/ann/"
HUB = {"x-jupyterhub-version": "6"}
JUPYTER = {"content-security-policy": "report-uri /user/ann/api/security/csp-report; x"}


class Answers(Transport):
    """Answers by path, without a connection."""

    def __init__(self, **by_path: Response) -> None:
        super().__init__(URL)
        self.by_path = by_path
        self.asked: list[str] = []

    async def request(self, request: Request, **limits: Any) -> Response:
        path = request.url.removeprefix("http://127.0.0.1:8888")
        self.asked.append(path)
        return self.by_path.get(path, Response(404))


def case_of(answer: Response | None = None, **facts: Any) -> Case:
    case = Case(URL, Transport(URL), Options())
    case.answer = answer
    for name, value in facts.items():
        setattr(case, name, value)
    return case


async def judged(check: Any, case: Case) -> tuple[Verdict, str]:
    found = await check(case)
    return found.verdict, found.cause


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Response(424, HUB), "culled"),
        (Response(503, HUB), "culled"),
        (
            Response(302, {**HUB, "location": "/hub/user/ann/lab/api/token-ws/capabilities"}),
            "culled",
        ),
        (Response(502, {"server": "nginx"}), "gateway"),
        (Response(504), "gateway"),
        (Response(401), "wall"),
        (Response(403), "wall"),
        (Response(407), "wall"),
        (Response(302, {"location": "https://sso.example.org/?to=x"}), "wall"),
        (Response(403, JUPYTER), ""),
    ],
)
async def test_who_answers_in_place_of_the_server(answer, cause):
    verdict = Verdict.BROKEN if cause else Verdict.OK
    assert await judged(web.server, case_of(answer)) == (verdict, cause)


@pytest.mark.parametrize(
    "answer",
    [Response(404), Response(302, {**HUB, "location": "/hub/api/oauth2/authorize?client_id=x"})],
)
async def test_who_may_be_anybody(answer):
    with pytest.raises(SkipError, match="no server was found"):
        await web.server(case_of(answer))


async def test_where_nobody_answered_nothing_is_said():
    case = case_of(unreachable="nobody listens")
    for check in (web.server, web.host, web.base_url, web.http):
        with pytest.raises(SkipError, match="nobody listens"):
            await check(case)


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        ("http://127.0.0.1:8888/user/ann/", ""),
        ("http://10.0.0.1:9999/user/ann/", "host_changed"),
        (None, ""),
    ],
)
async def test_the_host_that_the_server_heard(told, cause):
    case = case_of(Response(200), base_url=BASE, capabilities={"base_url": told})
    assert (await judged(web.host, case))[1] == cause


async def test_a_port_that_goes_without_saying_is_no_other():
    case = case_of(Response(200), base_url="https://host/", capabilities={})
    case.capabilities = {"base_url": "https://HOST:443/"}
    assert (await judged(web.host, case))[0] is Verdict.OK


async def test_where_no_server_is():
    assert await judged(web.base_url, case_of(Response(404))) == (Verdict.BROKEN, "no_jupyter")
    case = case_of(Response(404, JUPYTER), said="/other/")
    assert await judged(web.base_url, case) == (Verdict.BROKEN, "prefix_changed")
    for answer in (Response(502), Response(403, JUPYTER)):
        with pytest.raises(SkipError):
            await web.base_url(case_of(answer))
        with pytest.raises(SkipError):
            await web.host(case_of(Response(404)))
    case = case_of(Response(200), base_url=BASE, guess=Guess.WRONG)
    assert await judged(web.base_url, case) == (Verdict.BROKEN, "wrong_base")


@pytest.mark.parametrize(
    ("answer", "document", "cause"),
    [
        (Response(200), {"api_versions": ["1.0"]}, ""),
        (Response(200), {"api_versions": ["7.1", "8.0", 9]}, "versions"),
        (Response(200), {"api_versions": "all"}, "versions"),
        (Response(422, {"supported-api-versions": "7.1, 8.0"}), None, "versions"),
    ],
)
async def test_versions(answer, document, cause):
    case = case_of(answer, base_url=BASE, capabilities=document)
    assert (await judged(web.versions, case))[1] == cause


async def test_a_server_of_other_versions_is_found():
    refusal = Response(422, {"supported-api-versions": "9.0"})
    transport = Answers(**{f"/user/ann/{web.CAPABILITIES}": refusal})
    case = Case(URL, transport, Options())
    assert (await web.http(case)).verdict is Verdict.OK
    assert (case.base_url, case.guess) == (BASE, Guess.PAGE)
    assert (await judged(web.versions, case)) == (Verdict.BROKEN, "versions")
    with pytest.raises(SkipError, match="no version"):
        await web.capabilities(case)


async def test_a_server_is_asked_again_in_a_version_that_both_know():
    refusal = Response(422, {"supported-api-versions": "9.0, 1.0"})
    transport = Answers(**{f"/user/ann/{web.CAPABILITIES}": refusal})
    case = Case(URL, transport, Options())
    await web.http(case)
    assert transport.asked[-2:] == [f"/user/ann/{web.CAPABILITIES}"] * 2


@pytest.mark.parametrize("location", ["/user/ann/login?next=x", "http://127.0.0.1:8888/user/ann/"])
async def test_a_page_leads_to_the_base(location):
    document = Response(200, body=b'{"api_versions": ["1.0"]}')
    redirect = Response(302, {"location": location})
    transport = Answers(**{"/": redirect, f"/user/ann/{web.CAPABILITIES}": document})
    case = Case("http://127.0.0.1:8888/", transport, Options())
    await web.http(case)
    assert (case.base_url, case.guess) == (BASE, Guess.WRONG)


async def test_nobody_is_led_away():
    redirect = Response(302, {"location": "http://evil.example/user/ann/"})
    transport = Answers(**{"/": redirect, "/api": Response(200, body=b'{"version": "1"}')})
    case = Case("http://127.0.0.1:8888/", transport, Options())
    await web.http(case)
    assert case.base_url == ""  # nor is what answers like that a Jupyter server
    assert all(path.startswith("/") for path in transport.asked)


async def test_addresses_that_are_none():
    transport = Answers(**{"/": Response(302, {**HUB, "location": "http://[bad"})})
    case = Case("http://127.0.0.1:8888/", transport, Options())
    await web.http(case)
    assert await judged(web.base_url, case) == (Verdict.BROKEN, "no_jupyter")
    case = case_of(Response(200), base_url=BASE, capabilities={"base_url": "http://[bad"})
    assert await judged(web.host, case) == (Verdict.OK, "")
    assert await judged(web.base_url, case) == (Verdict.OK, "")


@pytest.mark.parametrize("body", [b"no JSON", b"[1]", b"[" * 10_000])
async def test_what_is_no_document(body):
    transport = Answers(**{f"/user/ann/{web.CAPABILITIES}": Response(200, body=body)})
    case = Case(URL, transport, Options())
    await web.http(case)
    assert case.base_url == ""


@pytest.mark.parametrize(
    ("skew", "verdict", "words"),
    [
        ((0.2, 0.6), Verdict.OK, "the same, to within 0.6 s"),
        ((-3.0, 0.6), Verdict.OK, "the server's is 3.0 s behind, to within 0.6 s"),
        ((11.0, 2.0), Verdict.OK, "11.0 s ahead"),
        ((11.0, 0.5), Verdict.BROKEN, "the server's is 11.0 s ahead"),
        ((-7200.0, 0.5), Verdict.BROKEN, "the server's is 120 min behind"),
    ],
)
async def test_clocks(skew, verdict, words):
    found = await web.clock(case_of(Response(200), base_url=BASE, skew=skew))
    assert found.verdict is verdict
    assert words in found.seen


async def test_a_clock_is_read_from_the_quickest_answer():
    there = Response(200, {"date": formatdate(time.time() + 3600, usegmt=True)})
    case = Case(URL, Answers(**{"/user/ann/api": there}), Options())
    case.base_url = BASE
    assert (await web.round_trip(case)).verdict is Verdict.OK
    assert case.skew is not None
    assert abs(case.skew[0] - 3600) < 2


async def test_an_answer_without_a_date_tells_no_time():
    case = Case(URL, Answers(), Options(slow_round_trip=0.0))
    case.base_url = BASE
    found = await web.round_trip(case)
    assert (found.verdict, found.cause) == (Verdict.SLOW, "far_or_busy")
    with pytest.raises(SkipError, match="Date"):
        await web.clock(case)
