"""The table of reasons and what is made of it (contract section 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.protocol.reasons import (
    MAX_REASON_SIZE,
    REASONS,
    TOKEN_SLUGS,
    Advice,
    Closed,
    Feature,
    Reason,
    _table,
    error_document,
    parse_close,
    published,
    slug_for_status,
)
from tests.support.vectors import load, vectors

ROWS = st.sampled_from(list(REASONS.values()))
SECONDS = st.one_of(st.none(), st.integers(min_value=0))


@vectors("reasons", "table")
def test_C3_1_C3_3_C3_4_row_of_the_table(case):
    row = REASONS[case["name"]]
    assert {
        "name": row.slug,
        "code": row.code,
        "http_status": row.http_status,
        "advice": row.advice.value,
        "feature": row.feature.value,
        "text": row.text,
        "told": row.told,
        "told_across_origins": row.slug in TOKEN_SLUGS,
    } == case


def test_C3_1_table_has_no_other_rows():
    assert list(REASONS) == [case["name"] for case in load("reasons")["table"]]


def test_C3_1_table_is_made_of_its_rows():
    """`make mutation` changes functions that run in a test; this one runs when it is imported."""
    assert list(_table().items()) == list(REASONS.items())


def test_C3_1_table_cannot_be_changed():
    with pytest.raises(TypeError):
        REASONS["new"] = REASONS["gone"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        REASONS["gone"].code = 4000  # type: ignore[misc]


def test_C3_3_status_of_a_refusal_is_its_code_less_4000():
    for row in REASONS.values():
        unauthenticated = row.code == 4401
        assert row.http_status == (403 if unauthenticated else row.code - 4000)
        assert 400 <= row.http_status <= 599


def test_C3_4_told_across_origins_is_told_at_all():
    assert all(REASONS[slug].told for slug in TOKEN_SLUGS)


def test_C3_1_features_and_advice_by_name():
    assert [advice.value for advice in Advice] == [
        "stop",
        "authenticate",
        "redirect",
        "retry",
        "retry_after",
    ]
    assert [feature.value for feature in Feature] == [
        "guard",
        "tls",
        "bridge",
        "login",
        "tunnel",
    ]


@vectors("reasons", "close_reason")
def test_C3_1_reason_of_the_close_frame(case):
    row = REASONS[case["slug"]]
    if case["reason"] is None:
        with pytest.raises(ValueError, match=r"^retry_after must not be negative$"):
            row.close_reason(case["retry_after"])
    else:
        assert row.close_reason(case["retry_after"]) == case["reason"]
    if case["retry_after"] is None:
        assert row.close_reason() == case["reason"]


@pytest.mark.parametrize("row", REASONS.values(), ids=REASONS)
@pytest.mark.parametrize("retry_after", [None, 0, 86400, 10**100])
def test_C3_1_reason_fits_into_a_close_frame(row, retry_after):
    assert MAX_REASON_SIZE == 123
    assert len(row.close_reason(retry_after).encode()) <= MAX_REASON_SIZE


def test_C3_1_texts_can_be_printed_anywhere():
    for row in REASONS.values():
        assert row.text.isascii()
        assert row.text.isprintable()
        assert row.text == row.text.strip() != ""


@vectors("reasons", "parse_close")
def test_C3_1_close_frame_is_read(case):
    closed = parse_close(case["code"], case["reason"])
    if case["slug"] is None:
        assert closed is None
    else:
        assert closed == Closed(REASONS[case["slug"]], case["retry_after"])


@given(st.integers(), st.text())
def test_C3_1_reading_a_close_frame_never_raises(code, reason):
    closed = parse_close(code, reason)
    assert closed is None or closed.reason.code == code


@given(ROWS, st.text(alphabet="abgoner_;:=0123456789 \n", max_size=200))
def test_C3_1_whatever_follows_a_slug_never_raises(row, rest):
    closed = parse_close(row.code, f"{row.slug}{rest}")
    assert closed is None or closed.reason.code == row.code


@given(ROWS, SECONDS)
def test_C3_1_what_was_sent_is_read(row, retry_after):
    closed = parse_close(row.code, row.close_reason(retry_after))
    shown = None if retry_after is None else min(retry_after, 86400)
    assert closed == Closed(row, shown)


@given(ROWS, SECONDS, st.integers())
def test_C3_1_slug_counts_only_with_its_code(row, retry_after, code):
    closed = parse_close(code, row.close_reason(retry_after))
    assert (closed is not None) == (code == row.code)


def test_C3_1_closed_without_seconds():
    assert Closed(REASONS["gone"]).retry_after is None


@vectors("reasons", "slug_for_status")
def test_C3_1_slug_for_an_error_of_a_handler(case):
    assert slug_for_status(case["status"]) == case["slug"]


@given(st.integers(400, 599))
def test_C3_3_every_error_has_a_reason_of_its_kind(status):
    assert REASONS[slug_for_status(status)].http_status // 100 == status // 100


def test_C4_6_published_codes_of_the_guard():
    assert published(frozenset({Feature.GUARD})) == {
        "4400": {"malformed_credentials": "stop", "bad_request": "stop"},
        "4401": {"credentials_missing": "authenticate", "url_token_refused": "authenticate"},
        "4403": {"token_rejected": "authenticate", "forbidden": "stop"},
        "4404": {"not_found": "stop"},
        "4408": {"open_timeout": "retry"},
        "4409": {"replaced": "stop"},
        "4410": {"gone": "stop"},
        "4429": {"too_many_attempts": "retry_after", "too_many_connections": "retry_after"},
        "4500": {"internal_error": "retry"},
        "4503": {"draining": "retry_after", "unavailable": "retry_after"},
        "4504": {"kernel_unresponsive": "retry"},
    }


def test_C4_6_published_codes_of_what_is_off_are_absent():
    assert published(frozenset()) == {}
    assert published(frozenset({Feature.BRIDGE})) == {"4507": {"backlog_full": "retry"}}


@given(st.frozensets(st.sampled_from(Feature)))
def test_C4_6_published_is_what_is_on_and_told(features):
    told = [
        (code, slug, advice)
        for code, slugs in published(features).items()
        for slug, advice in slugs.items()
    ]
    assert told == [
        (str(row.code), row.slug, row.advice.value)
        for row in sorted(REASONS.values(), key=lambda row: row.code)
        if row.feature in features and row.told
    ]


def test_C5_4_error_document():
    row = REASONS["not_found"]
    assert error_document(row) == {
        "status": "not_found",
        "message": "there is nothing here by that name",
    }
    assert error_document(REASONS["draining"], 0) == {
        "status": "draining",
        "message": "the server is shutting down",
        "retry_after": 0,
    }


def test_C3_1_row_belongs_to_the_guard_and_is_told_unless_it_says_otherwise():
    row = Reason("x", 4418, Advice.STOP, "y")
    assert (row.feature, row.told, row.http_status) == (Feature.GUARD, True, 418)
