"""Versions of the REST part: read, answered, chosen anew (contract section 5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.protocol.versions import (
    API_VERSIONS,
    HEADER,
    SUPPORTED_HEADER,
    best_common,
    negotiate,
    parse_version,
    unsupported_document,
)
from tests.support.vectors import vectors

NUMBERS = st.integers(0, 12)
VERSIONS = st.one_of(st.builds("{}.{}".format, NUMBERS, NUMBERS), st.text(max_size=6))


@vectors("versions", "parse_version")
def test_C5_1_version_is_read(case):
    version = parse_version(case["text"])
    assert version == (None if case["version"] is None else tuple(case["version"]))


@vectors("versions", "negotiate")
def test_C5_1_C5_2_version_is_answered_or_unknown(case):
    assert negotiate(case["requested"], case["supported"]) == case["answer"]


@vectors("versions", "best_common")
def test_C5_3_client_retries_with_a_version_both_know(case):
    assert best_common(case["mine"], case["theirs"]) == case["answer"]
    assert best_common(iter(case["mine"]), iter(case["theirs"])) == case["answer"]


def test_C5_1_what_this_server_speaks():
    assert API_VERSIONS == ("1.0",)
    assert (HEADER, SUPPORTED_HEADER) == ("Api-Version", "Supported-Api-Versions")
    assert negotiate(None) == negotiate("1.0") == negotiate("1.99") == "1.0"
    assert negotiate("2.0") is None


def test_C5_1_own_versions_are_readable_and_newest_first():
    parsed = [version for version in map(parse_version, API_VERSIONS) if version is not None]
    assert len(parsed) == len(API_VERSIONS)
    assert parsed == sorted(parsed, reverse=True)


def test_C5_2_body_of_the_422():
    assert unsupported_document() == {
        "status": "unsupported_api_version",
        "supported_api_versions": ["1.0"],
    }
    assert unsupported_document(("2.0", "1.0"))["supported_api_versions"] == ["2.0", "1.0"]


@given(st.text())
def test_C5_1_reading_a_version_never_raises(text):
    version = parse_version(text)
    assert version is None or parse_version("{}.{}".format(*version)) == version


@given(NUMBERS, NUMBERS)
def test_C5_1_what_was_written_is_read(major, minor):
    assert parse_version(f"{major}.{minor}") == (major, minor)


@given(VERSIONS, st.lists(VERSIONS))
def test_C5_1_C5_2_answer_is_the_newest_of_the_wanted_major_version(requested, supported):
    wanted, answer = parse_version(requested), negotiate(requested, supported)
    same = [v for v in map(parse_version, supported) if v and wanted and v[0] == wanted[0]]
    if answer is None:
        assert not same
    else:
        assert answer in supported
        assert parse_version(answer) == max(same)


@given(st.lists(VERSIONS), st.lists(VERSIONS))
def test_C5_3_what_a_client_retries_with_is_taken(mine, theirs):
    answer = best_common(mine, theirs)
    if answer is not None:
        assert answer in mine
        assert negotiate(answer, theirs) in theirs
    else:
        assert all(negotiate(version, theirs) is None for version in mine)
