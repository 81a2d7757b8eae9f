"""What the doctor found: one finding a check, and all of them as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .causes import CAUSES, Cause

MAX_SEEN = 200
"""Characters of what was seen, some of which may be a server's words."""


class Verdict(str, Enum):
    """How a check ended, the best first."""

    OK = "ok"
    SKIPPED = "skipped"
    """It could not be looked at, or was not to be; nothing is said against it."""
    SLOW = "slow"
    """It works, and worse than it should."""
    BROKEN = "broken"


_ORDER = {verdict: place for place, verdict in enumerate(Verdict)}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        check: its name.
        verdict: how it ended.
        seen: what was seen, in a few words, without any secret. Of a skipped one: why.
        cause: the likely cause by its name in ``CAUSES``; empty where there is nothing to complain of.
        seconds: how long the check took.
    """

    check: str
    verdict: Verdict
    seen: str
    cause: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.cause and self.cause not in CAUSES:
            raise ValueError(f"there is no such cause: {self.cause}")

    @property
    def explained(self) -> Cause | None:
        """The likely cause and what to change."""
        return CAUSES.get(self.cause)

    def document(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        explained = self.explained
        return {
            "check": self.check,
            "verdict": self.verdict.value,
            "seen": self.seen,
            "cause": self.cause or None,
            "because": explained.text if explained else None,
            "change": explained.change if explained else None,
            "seconds": round(self.seconds, 3),
        }


def plain(text: str, secrets: Sequence[str] = ()) -> str:
    """What may stand on a terminal: one line, not too long, steering nothing, and without these secrets."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[secret]")
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= MAX_SEEN else f"{text[: MAX_SEEN - 1]}…"


@dataclass(frozen=True)
class Report:
    """All findings of a run, in the order of the checks.

    ``url`` is the address that was given, without user, query and fragment; ``base_url`` that of the server,
    empty where none was found; ``seconds`` how long all of it took.
    """

    url: str
    base_url: str
    findings: Sequence[Finding]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst; what was skipped does not count."""
        verdicts = [each.verdict for each in self.findings if each.verdict is not Verdict.SKIPPED]
        return max(verdicts, key=_ORDER.__getitem__, default=Verdict.SKIPPED)

    @property
    def exit_code(self) -> int:
        """0: nothing is broken; 1: something is, or nothing could be looked at. (2: wrong arguments.)"""
        return 0 if self.verdict in (Verdict.OK, Verdict.SLOW) else 1

    def document(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "url": self.url,
            "base_url": self.base_url or None,
            "verdict": self.verdict.value,
            "seconds": round(self.seconds, 3),
            "checks": [each.document() for each in self.findings],
        }

    def text(self) -> str:
        """The report for people: a line a check; of what is wrong, why and what to do."""
        width = max((len(each.check) for each in self.findings), default=0)
        lines = []
        for each in self.findings:
            lines.append(f"{each.verdict.value:<8} {each.check:<{width}}  {each.seen}".rstrip())
            if each.explained is not None:
                lines += [
                    f"{'':<9}likely: {each.explained.text}",
                    f"{'':<9}change: {each.explained.change}",
                ]
        counts = Counter(each.verdict for each in self.findings)
        told = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
        lines += ["", f"{', '.join(told) or 'nothing was looked at'}, in {self.seconds:.1f} s"]
        return "\n".join(lines)
