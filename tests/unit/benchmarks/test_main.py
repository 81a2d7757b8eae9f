import pytest

pytest.importorskip("playwright", reason="one of the benchmarks drives a browser")

from benchmarks import __main__, report
from benchmarks.client import AnswerError
from benchmarks.stats import Comparison, Count


def _good(options):
    yield Comparison("good", "ms", [2.0] * 30, [1.0] * 30, limit=0.5)


def _missing(options):
    yield Count("missing", "", [9], [1], at_most=0)


def _broken(options):
    yield Comparison("never seen", "ms", [1.0], [1.0])
    raise AnswerError("the server hung up")


@pytest.fixture(name="results")
def _results(monkeypatch, tmp_path):
    benchmarks = {"broken": _broken, "missing": _missing, "good": _good}
    monkeypatch.setattr(__main__, "BENCHMARKS", benchmarks)
    for name in ("RESULTS", "RECORD"):
        monkeypatch.setattr(report, name, tmp_path / f"{name}.json")
    return report.RESULTS


def test_benchmarks_are_run_by_name(results):
    assert __main__.main(["good", "--check"]) == 0
    assert list(report.load(results)) == ["good"]


def test_what_is_missed_is_said_and_may_be_an_error(results, capsys):
    assert __main__.main(["good", "missing"]) == 0
    assert "missed: missing" in capsys.readouterr().out
    assert __main__.main(["missing", "--check"]) == 1


def test_one_that_breaks_does_not_take_the_others_along(results, capsys):
    assert __main__.main([]) == 1
    assert list(report.load(results)) == ["missing", "good"]
    assert "could not be measured: broken" in capsys.readouterr().out


def test_control_is_kept_apart(results):
    __main__.main(["good", "--control"])
    assert list(report.load(results)) == ["good-control"]


@pytest.mark.parametrize("arguments", [["unheard-of"], ["--pairs", "0"], ["--rounds", "0"]])
def test_nonsense_is_refused(results, arguments):
    with pytest.raises(SystemExit):
        __main__.main(arguments)
