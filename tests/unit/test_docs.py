"""The documentation holds: what is made from the code is current, links lead somewhere, nothing of the
code's tables is left out, and the tests that SECURITY.md names exist.

Whether the programs on the pages run is for tests/integration/test_docs.py.
"""

from __future__ import annotations

import importlib
import inspect
import re
import xml.etree.ElementTree as ET

import pytest

import jupyter_token_ws
from jupyter_token_ws.cli import main
from jupyter_token_ws.guard.core import GuardOptions
from jupyter_token_ws.protocol import auth, errors
from jupyter_token_ws.protocol.tunnel import TRANSITIONS, Move, State
from tools import docs, tunnel_docs

PACKAGE = docs.ROOT / "jupyter_token_ws"
PYTHON = "docs/reference/python.md"
PAGES = [path.relative_to(docs.ROOT).as_posix() for path in docs.pages()]


def read(page: str) -> str:
    return (docs.ROOT / page).read_text(encoding="utf-8")


def test_generated_parts_are_current():
    assert docs.stale() == []


def test_generated_pictures_are_current():
    assert docs.stale_images() == []


def test_no_link_is_dead():
    assert docs.dead_links() == []


def test_every_option_is_documented():
    sections = docs.anchors(read("docs/reference/configuration.md"))
    assert set(docs.traits()) >= set(GuardOptions.__dataclass_fields__)
    assert set(docs.traits()) <= sections
    assert all(trait.help for trait in docs.traits().values())


def test_every_reason_is_documented():
    page = read("docs/reference/codes.md")
    assert docs.unexplained(page) == []


def test_every_limit_is_an_option():
    assert set(docs.LIMITS) <= set(docs.traits())


def test_readme_names_the_versions_that_the_metadata_names():
    project = (docs.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    server = re.search(r'"jupyter_server>=([\d.]+)"', project)
    python = re.search(r'requires-python = ">=([\d.]+)"', project)
    assert server is not None
    assert python is not None
    assert f"jupyter_server {server[1]} or newer" in read("README.md")
    assert f"Python {python[1]}" in read("README.md")
    assert f"Python {python[1]} or newer" in read("docs/tutorial/quickstart.md")


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"[`\n]make ([a-z-]+)", read(page))}
    assert {"demo", "test", "docs"} <= named
    assert named <= targets


def test_every_command_that_is_named_exists_and_the_other_way_round(capsys):
    page = read("docs/reference/commands.md")
    named = set(re.findall(r"^## `jupyter token-ws ([a-z]+)", page, re.MULTILINE))
    for name in named:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    with pytest.raises(SystemExit):
        main(["--help"])
    usage = capsys.readouterr().out.rpartition("commands:")[2]
    assert named == set(re.findall(r"^    ([a-z]+)\b", usage, re.MULTILINE))


def signatures(page: str) -> list[tuple[str, str]]:
    """Module and `name(arguments)` of the first column of the tables, by the heading above."""
    found, module = [], ""
    for line in page.splitlines():
        if line.startswith("#"):
            module = "jupyter_token_ws." + line.strip("# `").removeprefix("jupyter_token_ws")
        elif line.startswith("| `"):
            first = line.split("|")[1]
            found += [(module.strip("."), text) for text in re.findall(r"`([^`]+)`", first)]
    return found


def test_python_reference_is_as_the_code_is():
    documented = signatures(read(PYTHON))
    assert len(documented) > 20
    modules: dict[str, set[str]] = {}
    for module, text in documented:
        name, bracket, _ = text.partition("(")
        thing = getattr(importlib.import_module(module.replace("..", ".")), name)
        if bracket:
            parameters = inspect.signature(thing).parameters.values()
            bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
            assert text == f"{name}{inspect.Signature(bare)}"
        modules.setdefault(module.replace("..", "."), set()).add(name)
    assert modules["jupyter_token_ws"] == set(jupyter_token_ws.__all__)
    assert modules["jupyter_token_ws.protocol.auth"] == set(auth.__all__)
    assert modules["jupyter_token_ws.protocol.errors"] == set(errors.__all__)


def test_what_pages_import_is_in_the_python_reference():
    documented = {(m.replace("..", "."), t.partition("(")[0]) for m, t in signatures(read(PYTHON))}
    imported = {
        (module, name)
        for page in PAGES
        for module, names in re.findall(
            r"^from (jupyter_token_ws\.protocol\.\w+) import ([^(\n]+|\([^)]+\))",
            read(page),
            re.MULTILINE,
        )
        for name in re.findall(r"\w+", names)
    }
    assert ("jupyter_token_ws.protocol.auth", "AuthPlugin") in imported
    assert imported <= documented


def test_an_extra_is_installed_in_one_way_everywhere():
    sources = [path.relative_to(docs.ROOT).as_posix() for path in PACKAGE.rglob("*.py")]
    told = {
        match
        for name in PAGES + sources
        for match in re.findall(r"""pip install (["']?[\w./-]+\[\w+\]["']?)""", read(name))
    }
    extras = {match.strip("'") for match in told}
    assert {"jupyter-token-ws[client]", ".[client]"} <= extras
    assert told == {f"'{extra}'" for extra in extras}, "shells take brackets for patterns"
    for page in PAGES:
        text = read(page)
        assert "jupyter_token_ws[" not in text, page
        if "'jupyter-token-ws[client]'" in text:
            assert "pip install '.[client]'` in a checkout" in " ".join(text.split()), page


def test_every_threat_names_tests_that_exist():
    page = read("SECURITY.md")
    assert page.count("\n| ") > 10
    assert docs.missing_tests(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_page_has_one_title_and_says_nothing_of_its_makers(page):
    text = docs._FENCE.sub("", read(page))
    assert text.startswith("# ")
    assert sum(line.startswith("# ") for line in text.splitlines()) == 1
    assert "/tmp/" not in text


@pytest.mark.parametrize("image", sorted(docs.ROOT.glob("docs/images/*.svg")), ids=str)
def test_image_is_readable_without_seeing_it_and_in_the_dark(image):
    root = ET.parse(image).getroot()
    name = "{http://www.w3.org/2000/svg}"
    title, description = root.find(f"{name}title"), root.find(f"{name}desc")
    assert title is not None
    assert title.text
    assert description is not None
    assert description.text
    assert "prefers-color-scheme: dark" in image.read_text(encoding="utf-8")


def test_every_page_is_in_the_index():
    targets = {link.partition("#")[0] for link in docs.links(read("docs/index.md"))}
    below = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert below - {"index.md"} <= targets
    contents = {f"{line}.md" for line in read("docs/conf.py").splitlines()}
    assert below - {"index.md"} <= contents, "docs/conf.py has the contents that Sphinx shows"


# -- that the checks can fail ------------------------------------------------------------------------


def test_a_picture_that_is_missing_or_old_is_noticed(tmp_path):
    (name,) = docs.IMAGES
    assert docs.stale_images(tmp_path) == [f"{name} is not current: run `make docs`"]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("old")
    assert len(docs.stale_images(tmp_path)) == 1


def test_a_state_without_place_is_not_drawn(monkeypatch):
    monkeypatch.delitem(tunnel_docs.PLACES, State.GONE)
    with pytest.raises(ValueError, match="needs a place"):
        tunnel_docs.diagram()


def test_a_state_that_a_close_does_not_end_is_not_passed_over(monkeypatch):
    monkeypatch.delitem(TRANSITIONS, (State.OPEN, Move.RECEIVE_CLOSE))
    with pytest.raises(ValueError, match="by a CLOSE"):
        tunnel_docs.diagram()


def site(tmp_path, **pages):
    for name, text in pages.items():
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    return tmp_path


def test_stale_part_is_found_and_mended(tmp_path):
    text = "# A\n\n<!-- generated: advice -->\nold\n<!-- generated: end -->\nby hand\n"
    assert "A.md is not current: run `make docs`" in docs.stale(site(tmp_path, A=text))
    mended = docs.render(text)
    assert "old" not in mended
    assert mended.endswith("by hand\n")
    assert docs.render(mended) == mended
    assert not [p for p in docs.stale(site(tmp_path, A=mended)) if "A.md" in p]


def test_part_on_no_page_is_found(tmp_path):
    assert "the part 'codes' is on no page" in docs.stale(site(tmp_path, A="# A"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<!-- generated: nonsense -->\n<!-- generated: end -->", "nobody makes"),
        ("<!-- generated: codes -->\n", "no counterpart"),
        ("<!-- generated: end -->\n", "no counterpart"),
    ],
)
def test_bad_mark_is_found(tmp_path, text, problem):
    assert problem in docs.stale(site(tmp_path, A=text))[0]


@pytest.mark.parametrize(
    "link",
    [
        "[x](none.md)",
        "[x](B.md#none)",
        "[x](#none)",
        "![x](none.svg)",
        '<img src="none.svg">',
        "[x](../outside.md)",
        "[`code`](none.md)",
        '[x](none.md "title")',
        "[x](<none.md>)",
    ],
)
def test_dead_link_is_found(tmp_path, link):
    root = site(tmp_path, A=f"# A\n\ntext {link}\n", B="# B\n\n```sh\n# none\n```\n")
    assert len(docs.dead_links(root)) == 1


@pytest.mark.parametrize(
    "link",
    [
        "[x](B.md)",
        "[x](B.md#two-words-1)",
        "[x](#a)",
        "[x](B.md#snake_case)",
        "[x](B.md#a-link)",
        "[x](https://example.org/none.md)",
        "`[x](none.md)`",
        "\n\n```text\n[x](none.md)\n```\n",
    ],
)
def test_link_that_leads_somewhere_is_not_reported(tmp_path, link):
    other = "# B\n## Two words\n## Two words\n### `snake_case`\n### A [link](A.md)\n"
    assert docs.dead_links(site(tmp_path, A=f"# A\n\ntext {link}\n", B=other)) == []


def test_reason_without_a_section_is_found():
    page = read("docs/reference/codes.md").replace("### `gone`", "### `went`")
    assert docs.unexplained(page) == ["gone has no section", "the section went is about no reason"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("| a | b | |", "no test is named: | a | b | |"),
        ("| a | b | `tests/none.py`: `test_a` |", "tests/none.py::test_a does not exist"),
        ("| a | b | `tests/unit/test_docs.py`: `test_none` |", "*::test_none does not exist"),
        ("| a | b | `tests/unit/test_docs.py` |", "no test is named*"),
    ],
)
def test_threat_without_a_test_is_found(row, problem):
    (found,) = docs.missing_tests(f"| threat | x | y |\n|---|---|---|\n{row}\n")
    assert found.endswith(problem.strip("*")) or found.startswith(problem.strip("*"))


def test_command_tells_and_mends(tmp_path, monkeypatch, capsys):
    text = "# A\n\n<!-- generated: advice -->\n<!-- generated: end -->\n[x](none.md)\n"
    root = site(tmp_path, A=text)
    monkeypatch.setattr(docs, "ROOT", root)
    for name in ("pages", "stale", "stale_images", "dead_links"):
        function = getattr(docs, name)
        monkeypatch.setattr(docs, name, lambda root=root, function=function: function(root))
    assert docs.main([]) == 1
    assert "A.md is not current" in capsys.readouterr().out
    assert docs.main(["--write"]) == 1
    printed = capsys.readouterr().out
    assert "wrote A.md" in printed
    assert "A.md is not current" not in printed
    assert "no such file" in printed
