import xml.etree.ElementTree as ET

import pytest

from benchmarks import report
from benchmarks.report import HEADINGS, Entry, format_markdown, put_into, row
from benchmarks.stats import Comparison, Count

RATIO = Comparison("a handshake", "ms", [1.0] * 30, [2.0] * 30, limit=1.1)
LOST = Count("what is lost & gone", "messages", [70, 80], [0, 0], at_most=0)
MEANWHILE = Comparison("p99", "ms", [2.0] * 30, [3.0] * 30, limit=2, sides=("quiet", "meanwhile"))


def _entry(*figures, machine="a machine"):
    return Entry(machine, "2026-01-01", 0.5, figures)


@pytest.mark.parametrize("figure", [RATIO, LOST, MEANWHILE])
def test_row_has_a_cell_for_every_heading(figure):
    assert len(row(figure)) == len(HEADINGS)


def test_row_of_a_ratio_says_whether_the_limit_holds():
    cells = row(RATIO)
    assert cells[0] == "a handshake"
    assert cells[2:5] == ("1", "2", "2.000")
    assert cells[-1] == "≤ 1.1 MISSED"


def test_row_of_a_count_has_no_ratio_and_shows_the_extremes():
    assert row(LOST)[2:7] == ("70 to 80", "0", "", "", "")
    assert row(LOST)[-1] == "≤ 0 ok"
    assert row(Count("taken", "", [254], [900], at_least=1000))[-1] == "≥ 1000 MISSED"
    assert row(Count("open", "", [9], [1]))[-1] == "-"


def test_row_names_the_sides_where_they_are_not_the_servers():
    assert row(MEANWHILE)[2:4] == ("2 (quiet)", "3 (meanwhile)")


def test_fractions_are_said_as_fractions():
    assert row(Comparison("x", "ms", [9.0] * 30, [0.5] * 30, limit=1 / 15))[-1] == "≤ 1/15 ok"
    assert row(Comparison("x", "ms", [9.0] * 30, [0.5] * 30, limit=0.35))[-1] == "≤ 0.35 ok"


def test_few_pairs_are_said_to_be_few():
    assert row(Comparison("x", "ms", [1.0], [1.0], limit=2))[-1] == "≤ 2 too few pairs"


def test_table_replaces_the_older_one_of_the_same_name_only(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text("# Performance\n\nWords.\n")
    for title, machine in (("one", "first"), ("two", "second"), ("one", "third")):
        put_into(path, title, format_markdown(title, {"x": _entry(machine=machine)}))
    text = path.read_text()
    assert text.startswith("# Performance\n\nWords.\n\n<!-- begin one")
    assert "first" not in text
    assert "second" in text
    assert "third" in text
    assert text.count("<!-- begin ") == text.count("<!-- end ") == 2


def test_what_was_kept_is_loaded_again(tmp_path):
    path = tmp_path / "record.json"
    assert report.load(path) == {}
    report.keep(path, "one", _entry(RATIO, LOST))
    report.keep(path, "two", _entry(MEANWHILE))
    report.keep(path, "one", _entry(LOST, machine="another machine"))
    loaded = report.load(path)
    assert list(loaded) == ["one", "two"]
    assert loaded["one"].machine == "another machine"
    assert [row(each) for each in loaded["one"].figures] == [row(LOST)]
    assert [row(each) for each in loaded["two"].figures] == [row(MEANWHILE)]


def test_documentation_is_made_of_the_record(tmp_path):
    record, page, image = (tmp_path / name for name in ("record.json", "page.md", "plot.svg"))
    report.keep(record, "handshake", _entry(RATIO))
    report.keep(record, "paced", _entry(LOST))
    report.keep(record, "stream-v1", _entry(RATIO))
    report.keep(record, "stream-v1-control", _entry(RATIO))
    report.write_documentation(record, page, image)
    first = page.read_text(), image.read_text()
    report.write_documentation(record, page, image)
    assert (page.read_text(), image.read_text()) == first
    assert page.read_text().count("| a handshake |") == 2
    assert page.read_text().count("| ≤ 1.1 MISSED | `stream-v1` |") == 1
    assert '`make bench ARGS="handshake"`' in page.read_text()
    assert '`make bench ARGS="paced stream-v1"`' in page.read_text()
    assert page.read_text().count("<!-- begin kernel:") == 1
    assert "Stock against stock, the 1 ratios were 2." in page.read_text()


def test_plot_shows_ratios_that_have_a_limit_and_nothing_else(tmp_path):
    record, image = tmp_path / "record.json", tmp_path / "plot.svg"
    unlimited = Comparison("no limit", "ms", [1.0], [1.0])
    report.keep(record, "one", _entry(RATIO, LOST, MEANWHILE, unlimited))
    report.write_documentation(record, tmp_path / "page.md", image)
    drawing = ET.fromstring(image.read_text())
    texts = [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "a handshake" in texts
    assert not {"no limit", "p99", "what is lost & gone"} & set(texts)
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}circle"))) == 1


def test_page_is_that_of_the_record(tmp_path):
    # Without the handshakes: judging a thousand pairs of each takes long.
    record, page = tmp_path / "record.json", tmp_path / "page.md"
    for name, entry in report.load(report.RECORD).items():
        if name != "handshake":
            report.keep(record, name, entry)
    page.write_text(report.PAGE.read_text())
    report.write_documentation(record, page, tmp_path / "plot.svg")
    assert page.read_text() == report.PAGE.read_text()
