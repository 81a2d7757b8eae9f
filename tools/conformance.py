"""Read and write docs/reference/conformance.md: which test proves which rule.

Rules are the clauses of the contract (``C2.3``) and the MUSTs and SHOULDs of JEP 121 (``J7``). A
test carries the ids of the rules it proves in its name: ``test_C2_3_C2_5_header_is_put_back``.
The last column of the page's tables is written from the collected tests and by nothing else.

    python -m tools.conformance --write    bring the page up to date
    python -m tools.conformance            only say whether it is

That the tests were run, and passed, is for the pytest plugin in tests/plugins/conformance.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import pytest

PAGE = Path("docs/reference/conformance.md")

_IN_NAME = re.compile(r"(?:^|_)(?:C(\d+)_(\d+)|J(\d+))(?=_|$)")
_RULE = r"(?:C\d+\.\d+|J\d+)"
_RANGE = re.compile(r"(C\d+\.|J)(\d+)\s*-\s*(C\d+\.|J)(\d+)")
_ROW = re.compile(rf"^\|\s*({_RULE})\s*\|(.*)\|\s*$")


class Proof(NamedTuple):
    """A test function, without the parameters it was collected with."""

    file: str
    name: str

    @classmethod
    def from_nodeid(cls, nodeid: str) -> Proof:
        """Take apart what pytest calls a test: ``file::Class::name[parameters]@group``."""
        file, _, rest = nodeid.partition("::")
        # The group is what pytest-xdist adds to tests that are to stay in one process.
        name = rest.partition("[")[0].partition("@")[0]
        return cls(file, name)

    def __str__(self) -> str:
        return f"{self.file}::{self.name}"


def rules_in_name(name: str) -> list[str]:
    """Return the ids of the rules that a test says it proves, from its function's name."""
    function = name.rpartition("::")[2]
    return [
        f"J{jep}" if jep else f"C{section}.{number}"
        for section, number, jep in _IN_NAME.findall(function)
    ]


def by_rule(tests: Iterable[Proof]) -> dict[str, list[Proof]]:
    """Sort tests by the rules they name."""
    found: dict[str, set[Proof]] = defaultdict(set)
    for test in tests:
        for rule in rules_in_name(test.name):
            found[rule].add(test)
    return {rule: sorted(tests) for rule, tests in found.items()}


def demanded_rules(text: str) -> list[str]:
    """Return the rules that the page's line ``Rules: C1.1-C1.4, ...`` says there are.

    Raises:
        ValueError: there is no such line, or it has something that is not a range.
    """
    lines = [line for line in text.splitlines() if line.startswith("Rules:")]
    if len(lines) != 1:
        raise ValueError("the page needs one line that begins with 'Rules:'")
    rules = []
    for part in lines[0].removeprefix("Rules:").split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or match[1] != match[3] or int(match[2]) > int(match[4]):
            raise ValueError(f"not a range of rules: {part.strip()!r}")
        rules += [f"{match[1]}{number}" for number in range(int(match[2]), int(match[4]) + 1)]
    return rules


def rows(text: str) -> Iterator[tuple[str, list[Proof]]]:
    """Yield each row of the page's tables: the rule and the tests in the last column."""
    for line in text.splitlines():
        match = _ROW.match(line)
        if match is None:
            continue
        tests = []
        file = ""
        for word in re.findall(r"`([^`]+)`", match[2].rpartition("|")[2]):
            if word.endswith(".py"):
                file = word
            else:
                tests.append(Proof(file, word))
        yield match[1], tests


def render(text: str, found: Mapping[str, Collection[Proof]]) -> str:
    """Return the page with its last column written anew from the tests *found* for each rule."""
    lines = []
    for line in text.splitlines():
        match = _ROW.match(line)
        if match is None:
            lines.append(line)
            continue
        files: dict[str, list[str]] = defaultdict(list)
        for test in sorted(found.get(match[1], ())):
            files[test.file].append(f"`{test.name}`")
        cell = "<br>".join(f"`{file}`: {', '.join(names)}" for file, names in files.items())
        before = match[2].rpartition("|")[0].strip()
        lines.append(f"| {match[1]} | {before} | {cell + ' ' if cell else ''}|")
    return "\n".join(lines) + "\n"


def problems_of_page(text: str, collected: Collection[Proof]) -> list[str]:
    """Say what is wrong between the page and the tests that were collected, run or not."""
    try:
        demanded = demanded_rules(text)
    except ValueError as error:
        return [str(error)]
    found = by_rule(collected)
    listed: dict[str, list[Proof]] = {}
    problems = []
    for rule, tests in rows(text):
        if rule in listed:
            problems.append(f"{rule} has two rows")
        listed[rule] = tests
    problems += [f"{rule} has no row" for rule in demanded if rule not in listed]
    problems += [f"{rule} has a row but is no rule" for rule in listed if rule not in demanded]
    problems += [
        f"{test} names {rule}, which is no rule"
        for rule, tests in sorted(found.items())
        if rule not in demanded
        for test in tests
    ]
    for rule, tests in listed.items():
        now = set(found.get(rule, ()))
        problems += [f"{rule}: {test} does not exist" for test in tests if test not in now]
        problems += [f"{rule}: {test} is not on the page" for test in sorted(now - set(tests))]
    return problems


def collect() -> list[Proof]:
    """Collect the project's tests without running them.

    Raises:
        SystemExit: the collection failed; pytest has said why.
    """
    import pytest

    class Collector:
        """Keeps every collected test, deselected ones included."""

        def __init__(self) -> None:
            self.tests: set[Proof] = set()

        def pytest_itemcollected(self, item: pytest.Item) -> None:
            self.tests.add(Proof.from_nodeid(item.nodeid))

    collector = Collector()
    status = pytest.main(["--collect-only", "-qqq", "--no-header"], plugins=[collector])
    if status != pytest.ExitCode.OK:
        raise SystemExit(int(status))
    return sorted(collector.tests)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page; return 1 if it was only checked and is not current."""
    parser = argparse.ArgumentParser(description="Which test proves which rule.")
    parser.add_argument("--write", action="store_true", help="write the page's last column")
    options = parser.parse_args(arguments)
    collected = collect()
    text = PAGE.read_text(encoding="utf-8")
    if options.write:
        text = render(text, by_rule(collected))
        PAGE.write_text(text, encoding="utf-8")
    problems = problems_of_page(text, collected)
    for problem in problems:
        print(problem)
    unproved = [rule for rule, tests in rows(text) if not tests]
    if unproved:
        print(f"without a test: {', '.join(unproved)}")
    return int(bool(problems or unproved))


if __name__ == "__main__":
    sys.exit(main())
