"""Login cookies that are denied (C6.7): a bounded table without I/O, which a store may share with others.

Nothing is ever taken back. So a table can be told the same thing any number of times and in any order, and
while there is room all that were told everything agree.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

MOST = 10_000
"""Cookies that are remembered; beyond that the oldest one is forgotten. Only good ones get here."""


@dataclass(frozen=True)
class Denied:
    """What is denied: cookies by their digests, each for so many seconds, and all that were signed before a
    time, in whole seconds since the epoch; ``seconds`` is how long that one matters."""

    cookies: Mapping[str, float] = field(default_factory=dict)
    before: int = 0
    seconds: float = 0.0


def digest_of(name: str, value: str) -> str:
    """A cookie as it is remembered, 32 hexadecimal digits.

    The cookie has a signature of 256 bits in it, which nobody guesses; so nobody finds the cookie by this.
    """
    data = f"{name}={value}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, person=b"jtws signed out", digest_size=16).hexdigest()


class Denials:
    """What is denied, as far as this server knows. ``clock`` tells seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time, most: int = MOST) -> None:
        self.clock = clock
        self.most = most
        self.before = 0
        """Cookies that were signed before are denied: seconds since the epoch."""
        self.share: Callable[[Denied], None] = lambda _: None
        """Told of what this server denies, to tell the others."""
        self.on_news: Callable[[], None] = lambda: None
        """Told when more is denied than was."""
        self._before_until = 0.0
        self._until: OrderedDict[str, float] = OrderedDict()  # as they were heard of

    @property
    def any(self) -> bool:
        """Whether anything is denied."""
        return bool(self._until or self.before)

    def deny(self, denied: Denied) -> None:
        """Deny something, here and wherever the table is shared."""
        self.learn(denied)
        self.share(denied)

    def learn(self, denied: Denied) -> None:
        """Another server denies something."""
        now, news = self.clock(), False
        for digest, seconds in denied.cookies.items():
            # Whoever denied it first knew how long it can be good.
            if seconds > 0 and self._until.get(digest, now) <= now:
                news, self._until[digest] = True, now + seconds
                self._until.move_to_end(digest)
        while len(self._until) > self.most:
            self._until.popitem(last=False)
        if denied.before > self.before:
            news, self.before, self._before_until = True, denied.before, now + denied.seconds
        if news:
            self.on_news()

    def denies(self, name: str, value: str) -> bool:
        """Whether a cookie is denied."""
        if signed_at(value) < self.before:
            return True
        if not self._until:
            return False
        digest = digest_of(name, value)
        until = self._until.get(digest)
        if until is None:
            return False
        if until <= self.clock():
            del self._until[digest]
            return False
        return True

    def all(self, digests: Iterable[str] | None = None) -> Denied:
        """All that is denied still, or of the cookies these only."""
        now = self.clock()
        wanted = self._until if digests is None else digests
        left = {digest: self._until[digest] - now for digest in wanted if digest in self._until}
        cookies = {digest: seconds for digest, seconds in left.items() if seconds > 0}
        return Denied(cookies, self.before, max(0.0, self._before_until - now))


def signed_at(value: str) -> float:
    """When a cookie was signed, by the stamp in it (tornado's format 2); a time to come where there is
    none."""
    fields = value.split("|", 3)
    _, _, stamp = fields[2].partition(":") if len(fields) == 4 else ("", "", "")
    known = stamp.isascii() and stamp.isdigit() and len(stamp) < 16
    return int(stamp) if known else float("inf")
