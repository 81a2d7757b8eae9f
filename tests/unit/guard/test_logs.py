"""A token is in no log line (contract sections 1 and 2), however it came to be printed."""

from __future__ import annotations

import json
import logging
import string
import sys
import warnings
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado import web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from jupyter_token_ws.guard import logs
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER, encode_token
from jupyter_token_ws.protocol.tickets import PREFIX, write_ticket
from tests.support.door import EVENTS, Socket, errors, refusals
from tests.support.knock import bearing

CANARY = "canary0123456789abcdef"


class Sink(logging.Handler):
    """Formats like a log file and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + "\n"


def made(attributes: dict[str, object]) -> logging.LogRecord:
    """A record as another process or another library would hand it over."""
    return logging.makeLogRecord({"levelno": logging.ERROR, "levelname": "ERROR", **attributes})


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def log(sink):
    """A logger as the server's own, with the filter on."""
    logger = logging.Logger("under test")  # noqa: LOG001 - one that no other test has
    logger.addHandler(sink)
    logs.install(logger)
    return logger


def request(uri: str = f"/x?a=1&token={CANARY}&b=2", **headers: str) -> HTTPServerRequest:
    class Connection:
        context = None

        def set_close_callback(self, callback):
            pass

    return HTTPServerRequest(
        headers=HTTPHeaders({"Host": "localhost", **headers}),
        connection=Connection(),  # type: ignore[arg-type]
        start_line=RequestStartLine("GET", uri, "HTTP/1.1"),
    )


LOGIN = f"/login?next={quote(f'/lab?token={CANARY}', safe='')}"
HEADERS = HTTPHeaders({"Authorization": f"token {CANARY}", "Host": "localhost"})
SHAPES = {
    "url": f"404 GET /api/kernels/1/channels?session_id=2&token={CANARY} (::1) 1.2ms",
    "url in the middle": f"GET /x?token={CANARY}&session_id=1 (::1)",
    "url of another case": f"GET /x?Token={CANARY}",
    "referer": f"403 GET /x (::1) referer=http://localhost/lab?token={CANARY}",
    "next, encoded once": f"302 GET {LOGIN} (::1)",
    "next, encoded twice": f"302 GET /hub/login?next={quote(LOGIN, safe='')} (::1)",
    "next, second parameter": "GET /login?next=" + quote(f"/lab?a=b&token={CANARY}", safe=""),
    "request": repr(request()),
    "arguments": repr(request().arguments),
    "json": json.dumps({"token": CANARY, "name": "ann"}),
    "json in a string": repr(json.dumps({"token": CANARY})),
    "json in json": json.dumps({"body": json.dumps({"token": CANARY})}),
    "json with a url": json.dumps({"Referer": f"http://localhost/?token={CANARY}", "Host": "x"}),
    "headers": str(HEADERS),
    "headers as a dict": repr(dict(HEADERS)),
    "headers as a list": repr(list(HEADERS.get_all())),
    "headers as bytes": repr([(b"Authorization", f"Bearer {CANARY}".encode())]),
    "many values": repr({"Authorization": ["Basic abc", f"token {CANARY}"]}),
    "header in json in json": json.dumps(json.dumps({"Authorization": f"token {CANARY}"})),
    "header of an unknown scheme": f"Authorization: Negotiate {CANARY}",
    "bare header": f"Malformed HTTP message from ::1: Invalid header value 'token {CANARY}\\x01'",
    "bare header of the other scheme": f"Invalid header value 'bearer {CANARY}\\x01'",
    "subprotocol": f"offered {bearing(CANARY)}",
    "subprotocols": repr([KERNEL, MARKER, bearing(CANARY), REASON_MARKER]),
    "subprotocol header": f"Sec-WebSocket-Protocol: {MARKER}, {bearing(CANARY)}, {REASON_MARKER}",
    "subprotocol of another case": f"offered {bearing(CANARY).upper()}".replace(
        CANARY.upper(), CANARY
    ),
    "subprotocol of another version": f"v27.token.websocket.jupyter.org.{CANARY}",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_C1_2_C2_3_a_token_is_taken_out_of_a_message(shape, log, sink):
    assert CANARY in SHAPES[shape]
    log.warning(SHAPES[shape])
    log.warning("As an argument: %s", SHAPES[shape])
    log.warning("As %(kind)s argument: %(text)s", {"kind": "a named", "text": SHAPES[shape]})
    log.warning(RuntimeError(SHAPES[shape]))
    assert CANARY not in sink.text
    assert sink.text.count(logs.SECRET) >= 4


@pytest.mark.parametrize("shape", SHAPES)
def test_C2_3_a_token_is_taken_out_of_tracebacks_and_stacks(shape, log, sink):
    try:
        try:
            fail(KeyError(SHAPES[shape]))
        except KeyError as error:
            raise ValueError("then this") from error
    except ValueError:
        log.exception("It failed")
    assert "Traceback" in sink.text
    assert "ValueError: then this" in sink.text
    record = made({"msg": "m", "stack_info": f"Stack:\n{SHAPES[shape]}", "exc_text": SHAPES[shape]})
    log.handle(record)
    assert "Stack:" in sink.text
    # The quotes of a KeyError's text are escaped where the text has quotes of its own.
    assert CANARY not in sink.text


@pytest.mark.parametrize(
    "harmless",
    [
        "Invalid token in line 3",
        "GET /lab?reset&tokens (::1)",
        f"offered {MARKER}, {REASON_MARKER}",
        "TOKEN=",
        "authorization",
        "no secret at all",
    ],
)
def test_C2_3_other_texts_stay_to_the_letter(harmless, log, sink):
    log.warning(harmless)
    assert sink.text == f"WARNING under test {harmless}\n"


def test_C2_3_what_stands_around_a_token_stays(log, sink):
    log.warning("%s", SHAPES["url in the middle"])
    log.warning("%s", SHAPES["json with a url"])
    log.warning("%s", SHAPES["subprotocols"])
    assert "GET /x?token=[secret]&session_id=1 (::1)" in sink.text
    assert '?token=[secret]", "Host": "x"}' in sink.text
    assert f"'{MARKER}.[secret]', '{REASON_MARKER}']" in sink.text


def test_C2_3_arguments_stay_arguments_where_nothing_is_hidden(log):
    seen: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        seen.append(record)
        return True

    log.addFilter(keep)
    log.warning("%s and %d", "one", 2)
    assert seen[0].args == ("one", 2)


def fail(error: Exception) -> None:
    raise error


class Awkward:
    """Cannot be printed."""

    def __init__(self, *, also_repr: bool = False) -> None:
        self.also_repr = also_repr

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        if self.also_repr:
            raise RuntimeError("no text")
        return "Awkward()"


def test_C2_3_a_bad_format_does_not_show_the_arguments(log, sink, capsys):
    log.warning("%d", f"?token={CANARY}")
    log.warning("%s", f"?token={CANARY}", "one too many")  # noqa: PLE1205 - that is the point
    log.warning("%s %s", Awkward(), f"?token={CANARY}")
    assert CANARY not in sink.text
    assert capsys.readouterr().err == ""
    assert sink.text.count("in a log call at") == 3
    assert "test_logs.py" in sink.text


def test_C2_3_a_message_that_cannot_be_printed_hurts_nobody(log, sink):
    log.warning(Awkward())
    log.warning("%s", Awkward(also_repr=True))
    assert sink.text.count("RuntimeError in a log call at") == 2


def test_C2_3_a_message_need_not_be_a_string(log, sink):
    log.warning({"token": CANARY})
    log.warning(42)
    assert CANARY not in sink.text
    assert "42" in sink.text


def test_C2_3_no_exception_to_print(log, sink):
    log.error("outside of any", exc_info=True)  # noqa: LOG014 - that is the point
    assert "outside of any" in sink.text


def test_C2_3_the_printed_login_link_survives(log, sink):
    record = made(
        {
            "msg": f"http://localhost/?token={CANARY}",
            "pathname": "C:\\site-packages\\jupyter_server\\serverapp.py",
        }
    )
    log.handle(record)
    assert CANARY in sink.text


@pytest.mark.parametrize("path", ["/a/my_jupyter_server/serverapp.py", "/a/jupyter_server/log.py"])
def test_C2_3_no_other_module_may_print_one(path, log, sink):
    log.handle(made({"msg": f"/?token={CANARY}", "pathname": path}))
    assert CANARY not in sink.text


def test_C2_3_not_even_that_module_with_an_exception(log, sink):
    info: Any = None
    try:
        fail(RuntimeError(f"/?token={CANARY}"))
    except RuntimeError:
        info = sys.exc_info()
    log.handle(made({"msg": "m", "pathname": "/a/jupyter_server/serverapp.py", "exc_info": info}))
    assert CANARY not in sink.text


def test_C2_3_a_record_is_scrubbed_once(log, sink):
    record = made({"msg": f"/?token={CANARY}"})
    log.handle(record)
    record.msg = "/?token=changed-since"
    log.handle(record)
    assert sink.text.endswith("/?token=changed-since\n")


def test_C2_3_a_traceback_without_a_token_stays_to_the_letter(log, sink):
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("\n")
    info = (caught.type, caught.value, caught.tb)
    log.handle(made({"msg": "m", "exc_info": info}))
    plain = logging.Formatter().formatException(info).rstrip("\n")
    assert sink.text.endswith(f" m\n{plain}\n")


def test_C2_3_installed_once_on_loggers_and_on_the_handlers_above():
    parent, child, alone = map(logging.Logger, ("parent", "child", "alone"))
    child.parent, alone.parent, alone.propagate = parent, parent, False
    above, own = logging.NullHandler(), logging.NullHandler()
    parent.addHandler(above)
    alone.addHandler(own)
    for _ in range(2):
        logs.install(child, alone)
    last = logging.lastResort
    assert last is not None
    for handler in (above, own, last):
        assert [type(f) for f in handler.filters].count(logs.ScrubFilter) == 1
    for logger in (child, alone, *map(logging.getLogger, logs.LOGGERS)):
        assert [type(f) for f in logger.filters].count(logs.MarkFilter) == 1
    assert not parent.filters


def test_C2_3_a_handler_that_came_later_reads_no_token():
    logger = logging.Logger("some part of the server")  # noqa: LOG001 - nobody else's
    logs.install(logger)
    read: list[str] = []

    class Late(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            read.extend((self.format(record), record.getMessage(), type(record).__name__))

    for _ in range(2):  # two readers of one record
        logger.addHandler(Late())
    try:
        int(f"/?token={CANARY}")
    except ValueError:
        logger.exception("/?token=%s", CANARY)
    assert CANARY not in "".join(read)
    assert read[1::3] == ["/?token=[secret]"] * 2
    assert read[2::3] == ["LogRecord"] * 2


def test_a_record_that_nobody_reads_is_not_looked_at():
    logger = logging.Logger("a noisy part")  # noqa: LOG001 - nobody else's
    logs.install(logger)
    asked: list[str] = []

    class Costly:
        def __str__(self) -> str:
            asked.append("read")
            return "token="

    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    logger.addHandler(handler)
    logs.install(logger)
    logger.debug("%s", Costly())
    assert asked == []


def test_C2_3_there_may_be_no_handler_of_last_resort(monkeypatch, sink):
    monkeypatch.setattr(logging, "lastResort", None)
    logs.install()


def test_C2_3_the_handler_of_last_resort_is_scrubbed_too(monkeypatch, capsys):
    logger = logging.Logger("of some library")  # noqa: LOG001 - without any handler
    logs.install()
    logger.warning("/?token=%s", CANARY)
    assert capsys.readouterr().err == "/?token=[secret]\n"


# -- any token, any template -----------------------------------------------------------------------

TOKENS = st.text(
    string.ascii_letters + string.digits + string.punctuation + " äß€", min_size=1
).map(lambda token: f"canary{token}end")
WITHOUT_SPACES = TOKENS.map(lambda token: token.replace(" ", "-"))


def js(token: str) -> str:
    """``encodeURIComponent``, which leaves these alone."""
    return quote(token, safe="!~*'()")


TEMPLATES = {
    "url": lambda token: f"GET /x?token={js(token)}&x=1 (::1)",
    "url last": lambda token: f"404 GET /x?y=1&token={js(token)} (::1)",
    "url as python does": lambda token: f"GET /x?token={quote(token, safe='')}",
    "request": lambda token: repr(request(f"/x?token={js(token)}")),
    "arguments": lambda token: repr(request(f"/x?token={js(token)}").arguments),
    "referer": lambda token: json.dumps({"Referer": f"http://x/?token={js(token)}", "a": "b"}),
    "once": lambda token: f"GET /login?next={quote(f'/x?token={js(token)}&a=b', safe='')} (::1)",
    "twice": lambda token: (
        "GET /login?next="
        + quote(f"/login?next={quote(f'/x?token={js(token)}', safe='')}", safe="")
    ),
    "header": lambda token: f"Authorization: token {token}\r\nHost: x",
    "headers": lambda token: str(HTTPHeaders({"Authorization": f"Bearer {token}", "A": "b"})),
    "dict": lambda token: repr({"Authorization": f"token {token}", "Host": "x"}),
    "bytes": lambda token: repr({b"Authorization": f"token {token}".encode()}),
    "json": lambda token: json.dumps({"a": 1, "token": token, "b": {}}),
    "json of headers": lambda token: json.dumps({"Authorization": f"token {token}", "b": 1}),
    "bad header": lambda token: f"Invalid header value {f'token {token}'!r}",
    "subprotocol": lambda token: f"offered: {MARKER}.{encode_token(token)}, {MARKER}",
    "subprotocols": lambda token: repr([MARKER, f"{MARKER}.{encode_token(token)}", KERNEL]),
}


@given(TOKENS, st.sampled_from(sorted(TEMPLATES)), st.sampled_from(["", "before %s: ", "{}: "]))
@settings(max_examples=600)
def test_C1_2_C2_3_no_token_survives_in_any_template(token, template, before):
    text = before + TEMPLATES[template](token)
    scrubbed = logs.scrub(text)
    # Not even its end: both ends are letters, which no way of printing changes.
    assert "canary" not in scrubbed
    assert f"{token[-4:]}" not in scrubbed.replace(logs.SECRET, "")
    assert logs.scrub(scrubbed) == scrubbed


@pytest.mark.parametrize("ticket", [write_ticket(b"canary--" * 4), f"{PREFIX}s1.{'-canary_' * 40}"])
@pytest.mark.parametrize(
    "text", ["{}", "200 GET /x?ticket={} (::1)", "('{}',)", "{!r}: no", "a/{}/b"]
)
def test_C2_3_a_ticket_is_taken_out_wherever_it_stands(ticket, text):
    scrubbed = logs.scrub(text.format(ticket))
    assert scrubbed == text.replace("{!r}", "'{}'").format(f"{PREFIX}{logs.SECRET}")
    assert logs.scrub(scrubbed) == scrubbed


@given(st.text(max_size=200))
@settings(max_examples=300)
def test_C2_3_any_text_is_taken(text):
    scrubbed = logs.scrub(text)
    if "token" not in text.lower() and "authorization" not in text.lower():
        assert scrubbed == text


def test_C2_3_a_hostile_line_costs_no_more_than_its_length():
    for hostile in ("token='", "'token': ['", "authorization: [", "token=" + "'" * 50, "'token '"):
        logs.scrub(hostile * 3000)


# -- a real server ---------------------------------------------------------------------------------


class Crash(Socket):
    """Fails with everything it knows in the exception's text."""

    async def get(self, *args, **kwargs):
        raise RuntimeError(f"{self.request!r} {self.request.headers} {dict(self.request.headers)}")


class Missing(Socket):
    """Says that there is nothing, with the URI in the error's own text."""

    async def get(self, *args, **kwargs):
        raise web.HTTPError(404, f"nothing at {self.request.uri} for {self.request.headers!s}")


@pytest.fixture
def token_ws_config():
    return {"refusal_burst": 1000}


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("opted_in", [True, False])
async def test_C1_2_C2_3_C2_2_no_failure_of_a_server_shows_a_token(door, caplog, good, opted_in):
    caplog.set_level(logging.DEBUG)
    if good:
        door.app.identity_provider.token = CANARY
    door.add("crash", Crash)
    door.add("missing", Missing)
    nobody = "api/kernels/00000000-0000-0000-0000-000000000000/channels"
    offer = [REASON_MARKER] if opted_in else []
    referer = {"Referer": f"http://{door.host}/lab?token={CANARY}"}
    caplog.clear()
    for path in ("crash", "missing", nobody, "no/socket", "terminals/websocket/9", "api/kernels"):
        for headers in ({}, referer, {"Origin": "https://evil.example", **referer}):
            await door.refused(path, [MARKER, bearing(CANARY), *offer], headers)
            await door.refused(f"{path}?token={CANARY}", offer, headers)
            await door.refused(path, offer, {**headers, "Authorization": f"token {CANARY}"})
            await door.refused(f"{path}?next={quote(f'/?token={CANARY}', safe='')}", offer, headers)
            await door.refused(path, [MARKER, bearing(CANARY), bearing(CANARY), *offer], headers)
            for method in ("GET", "POST", "OPTIONS"):
                await door.fetch(
                    f"{path}?token={CANARY}",
                    {"Sec-WebSocket-Protocol": bearing(CANARY), **headers},
                    method=method,
                )
    for header in (f"Sec-WebSocket-Protocol: {bearing(CANARY)}", f"Authorization: token {CANARY}"):
        head = f"GET {door.base}{EVENTS} HTTP/1.1\r\nHost: x\r\n{header}\x01\r\n\r\n"
        async with await door.raw(head.encode()) as answer:
            # Older tornado takes the header, and the token in it is no good.
            assert answer.status in (400, 403)
    await door.settled()
    assert len(caplog.records) > 100
    formatter = logging.Formatter("%(message)s %(pathname)s")
    shown = "\n".join(text for text in map(formatter.format, caplog.records) if CANARY in text)
    assert shown == ""


async def test_one_line_of_log_per_refusal(door, caplog):
    caplog.set_level(logging.INFO)
    await door.refused(EVENTS, [MARKER, bearing("wrong"), REASON_MARKER])
    await door.refused(EVENTS)
    await door.refused(
        "api/kernels/00000000-0000-0000-0000-000000000000/channels", [MARKER, bearing(door.token)]
    )
    path = f"{door.base}{EVENTS}"
    first, second, third = refusals(caplog.records)
    assert first == f"4403 token_rejected {path} from 127.0.0.1"
    assert second == f"4401 credentials_missing {path} from 127.0.0.1 (plain HTTP)"
    assert third.startswith("4404 not_found /a%40b/api/kernels/00000000")
    assert " from 127.0.0.1 user " in third
    assert errors(caplog.records) == []


def test_C2_3_warnings_are_scrubbed_when_they_are_logged(capsys):
    logging.captureWarnings(True)
    try:
        logs.install()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning(f"/?token={CANARY}", UserWarning, "a.py", 1)
    finally:
        logging.captureWarnings(False)
    assert CANARY not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/api/ä %20", "/api/ä %20"),
        ("a\nb\r\x1b[31m", r"a\nb\r\x1b[31m"),
        ("\x85\x9b\u2028", r"\x85\x9b\u2028"),
    ],
)
def test_a_line_cannot_be_written_by_a_path_or_a_name(text, shown):
    assert logs.printable(text) == shown


@pytest.mark.parametrize(
    "line",
    [
        rf"Invalid header value 'Bearer\t{CANARY}\x7f'",
        f"GET /?%74oken={CANARY}",
        f"GET /?t%6Fke%6e={CANARY}",
        f"referer=http://h/login?next=%2F%3F%2574oken%3D{CANARY}",
    ],
)
def test_C2_3_tokens_written_in_unusual_ways(line):
    assert CANARY not in logs.scrub(line)
