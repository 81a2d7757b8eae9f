"""What ``/metrics`` says of us: one table for the code and for the reference page.

In the registry of the process, where jupyter_server keeps its own. What happens is counted when it
happens. What there is (open sockets, bytes that wait) is counted when somebody asks for the page:
it costs nothing until then and cannot drift. Labels are names of our tables and of handler classes,
of which there are only so many; never a user, an address, a path or a credential.
"""

from __future__ import annotations

from collections import Counter as Sums
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from jupyter_token_ws.protocol.reasons import REASONS

if TYPE_CHECKING:
    from tornado.web import RequestHandler

    from jupyter_token_ws.protocol.reasons import Reason

    from .refusal import Refused
    from .registry import OpenSocket

PREFIX = "jupyter_token_ws_"

HANDSHAKE_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
"""Seconds. A kernel that starts may need a minute, and ``open_timeout`` ends what takes longer."""


@dataclass(frozen=True)
class Described:
    """One metric, as the page shows it."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()


DESCRIBED: dict[str, Described] = {}
"""Every metric that was made, by its name."""

_Values = tuple[str, ...]
_Owner = TypeVar("_Owner")


class Watched:
    """A gauge of which everything that was named to it has a part, as long as it lives.

    Each is asked when somebody reads the gauge.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._family = name, text, labels
        self._readers: WeakKeyDictionary[Any, Callable[[Any], Mapping[_Values, float]]] = (
            WeakKeyDictionary()
        )

    def watch(self, owner: _Owner, read: Callable[[_Owner], Mapping[_Values, float]]) -> None:
        """Ask for the part of ``owner`` by ``read``, which must not hold it: numbers by label values."""
        self._readers[owner] = read

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The name, for the registry."""
        name, text, labels = self._family
        yield GaugeMetricFamily(name, text, labels=labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The sum of all parts."""
        sums: Sums[_Values] = Sums()
        for owner, read in list(self._readers.items()):
            sums.update(cast("Any", read(owner)))
        (family,) = self.describe()
        for values, number in sorted(sums.items()):
            family.add_metric(values, number)
        yield family


class Tally:
    """A counter for what happens by the thousand: to ``count`` one adds."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._family = name, text
        self.count = 0

    def describe(self) -> Iterator[CounterMetricFamily]:
        """The name, for the registry."""
        yield CounterMetricFamily(*self._family)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The count."""
        yield CounterMetricFamily(*self._family, value=self.count)


_Metric = TypeVar("_Metric")


def make(
    kind: Callable[..., _Metric], name: str, text: str, labels: Sequence[str] = (), **options: Any
) -> _Metric:
    """A metric of this name below the prefix, registered: the same one however often it is asked for.

    The registry is the process's, and outlives servers and a module that is loaded anew.
    """
    full = PREFIX + name
    what = {Histogram: "histogram", Watched: "gauge"}.get(cast("Any", kind), "counter")
    DESCRIBED[full] = Described(full, what, text, tuple(labels))
    suffix = "_count" if what == "histogram" else ""
    metric: Any = getattr(REGISTRY, "_names_to_collectors", {}).get(full + suffix)
    if metric is None:
        metric = kind(full, text, tuple(labels), **options)
        if isinstance(metric, (Watched, Tally)):
            REGISTRY.register(cast("Any", metric))
    return cast("_Metric", metric)


SOCKETS_OPEN = make(Watched, "sockets_open", "Websockets that are open.", ("handler", "source"))
HANDSHAKES_OPEN = make(
    Watched, "handshakes_open", "Websockets between their request and the answer to it."
)
REFUSALS_OPEN = make(
    Watched, "refusals_open", "Refused websockets whose client is hearing the reason."
)
HANDSHAKES = make(
    Counter,
    "handshakes_total",
    "Handshakes that ended: opened, refused (slug says why), answered (by something else of the"
    " handler's own), left (by the client).",
    ("handler", "outcome", "slug"),
)
HANDSHAKE_SECONDS = make(
    Histogram,
    "handshake_duration_seconds",
    "From the complete request to the outcome.",
    ("outcome",),
    buckets=HANDSHAKE_BUCKETS,
)
REFUSALS = make(
    Counter,
    "refusals_total",
    "Refused websockets, told by close code (told=close) or by plain HTTP (told=http).",
    ("code", "slug", "told"),
)
REQUESTS_REFUSED = make(
    Counter,
    "requests_refused_total",
    "Requests that are no websocket's, refused with a reason of the table: at REST, at the login, and on"
    " jupyter_server's login page.",
    ("code", "slug"),
)
SOCKETS_OPENED = make(
    Counter,
    "sockets_opened_total",
    "Websockets that opened, by where the credential was.",
    ("handler", "source"),
)
SOCKETS_CLOSED = make(
    Counter,
    "sockets_closed_total",
    "Open websockets that ended: by client, server or keepalive; slug where the server gave a reason.",
    ("handler", "by", "slug"),
)
KEEPALIVE_DROPS = make(
    Counter,
    "keepalive_drops_total",
    "Websockets that were cut because nothing had moved for too long.",
    ("handler",),
)
DRAINS = make(Counter, "drains_total", "Times that a server of this process closed all websockets.")
TICKETS = make(
    Counter, "tickets_total", "Login tickets issued, renewed, used and revoked.", ("action",)
)


def handler_name(kind: type) -> str:
    """How a handler class is called in labels, as in jupyter_server's."""
    return f"{kind.__module__}.{kind.__name__}"


@lru_cache(maxsize=1024)
def _child(metric: Any, *values: str) -> Any:
    """The part of a metric with these labels. Every handshake asks for some."""
    return metric.labels(*values)


def opened(socket: OpenSocket, seconds: float) -> None:
    """A socket opened, ``seconds`` after its request."""
    name = handler_name(type(socket.handler))
    _child(SOCKETS_OPENED, name, socket.source.value).inc()
    _child(HANDSHAKES, name, "opened", "").inc()
    _child(HANDSHAKE_SECONDS, "opened").observe(seconds)


def refused(handler: RequestHandler, reason: Reason, told: bool) -> None:
    """A socket was refused."""
    _child(REFUSALS, str(reason.code), reason.slug, "close" if told else "http").inc()
    _not_opened(handler, "refused", reason.slug)


def request_refused(error: Refused) -> None:
    """Another request was refused. ``code`` is the close code, as of sockets."""
    _child(REQUESTS_REFUSED, str(REASONS[error.slug].code), error.slug).inc()


def ended(handler: RequestHandler, outcome: str) -> None:
    """A handshake ended without the guard: ``answered`` or ``left``."""
    _not_opened(handler, outcome, "")


def _not_opened(handler: RequestHandler, outcome: str, slug: str) -> None:
    _child(HANDSHAKES, handler_name(type(handler)), outcome, slug).inc()
    _child(HANDSHAKE_SECONDS, outcome).observe(handler.request.request_time())


def closed(socket: OpenSocket) -> None:
    """A socket that was open is no more."""
    name = handler_name(type(socket.handler))
    _child(SOCKETS_CLOSED, name, socket.ended_by, socket.slug or "").inc()
    if socket.ended_by == "keepalive":
        _child(KEEPALIVE_DROPS, name).inc()
