"""What a server of this process tells: its events, and its page of metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from jupyter_token_ws.guard.events import NAMES, schema_id
from jupyter_token_ws.guard.metrics import PREFIX
from tests.support.waiting import auntil

if TYPE_CHECKING:
    from jupyter_events import EventLogger

    from tests.support.door import Door


class Listener:
    """Hears all events of ours, by default as modifiers left them."""

    def __init__(self, logger: EventLogger, *, modified: bool = True) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        for name in NAMES:
            logger.add_listener(modified=modified, schema_id=schema_id(name), listener=self._listen)

    async def _listen(self, logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        self.heard.append((schema_id.split("/")[-2], data))

    def of(self, name: str) -> list[dict[str, Any]]:
        """What was heard of one event."""
        return [data for heard, data in self.heard if heard == name]

    async def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """The same, once there are so many."""
        await auntil(lambda: len(self.of(name)) >= count, f"{count} of {name}")
        return self.of(name)


class Page:
    """The metrics of ours on one reading of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.kinds: dict[str, str] = {}
        self.samples: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
        for family in text_string_to_metric_families(text):
            if family.name.startswith(PREFIX):
                self.kinds[family.name] = family.type
                for sample in family.samples:
                    assert sample.name.startswith(PREFIX)
                    key = sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())
                    assert key not in self.samples, f"{key} stands there twice"
                    self.samples[key] = sample.value  # type: ignore[assignment]

    def value(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels among theirs."""
        wanted = set(labels.items())
        return sum(
            value for (name, has), value in self.samples.items() if name == metric and wanted <= has
        )


async def page_of(door: Door) -> Page:
    """Read it, as somebody who is signed in."""
    answer = await door.fetch("metrics", {"Authorization": f"token {door.token}"})
    assert answer.status == 200
    return Page(answer.body.decode())
