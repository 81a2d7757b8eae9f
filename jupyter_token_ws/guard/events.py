"""What the server's event log hears: sockets that opened, were refused, closed; login tickets.

The schemas are those of ``event_schemas``; the log is jupyter_server's (jupyter_events), and who may
listen is its business. No event names a credential, a digest of one, or the path of a request. While
nobody listens an event costs the question whether somebody does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_events import yaml
from jupyter_events.validators import EVENT_METASCHEMA

from jupyter_token_ws.protocol.reasons import REASONS, Reason

from . import metrics
from .credentials import CredentialSource
from .metrics import handler_name
from .routes import template_of

if TYPE_CHECKING:
    from jupyter_events import EventLogger
    from tornado.web import Application, RequestHandler

    from .handshake import Handshake
    from .registry import OpenSocket

DIRECTORY = Path(__file__).parent / "event_schemas"

NAMES = (
    "socket_opened",
    "socket_refused",
    "socket_closed",
    "ticket_issued",
    "ticket_renewed",
    "ticket_used",
    "ticket_revoked",
)


def schema_file(name: str) -> Path:
    """The schema of an event, the newest version."""
    return DIRECTORY / name / "v1.yaml"


def schema(name: str) -> dict[str, Any]:
    """What stands in it. Its version was a number in jupyter_events before 0.11, and is a text since."""
    loaded: dict[str, Any] = yaml.load(schema_file(name))
    if EVENT_METASCHEMA["properties"]["version"]["type"] == "integer":
        loaded["version"] = int(loaded["version"])
    return loaded


def schema_id(name: str) -> str:
    """Its ``$id``, by which one listens."""
    return f"https://events.jupyter.org/jupyter_token_ws/{name}/v1"


_IDS = {name: schema_id(name) for name in NAMES}


class Events:
    """What one server's event log is told.

    An application that is no Jupyter server's has no such log; then nothing is told.
    ``max_refusals`` of the events in a second may be about refusals: anybody can be refused, and
    whoever listens hears it.
    """

    def __init__(
        self,
        application: Application,
        log: logging.Logger,
        max_refusals: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._application = application
        self._log = log
        self._max_refusals = max_refusals
        self._clock = clock
        self._second, self._in_second, self._left_out = 0.0, 0, 0
        self._logger: EventLogger | None = application.settings.get("event_logger")
        try:
            self._register()
        except Exception:
            log.exception("There will be no events: their schemas cannot be registered")
            self._logger = None

    def _register(self) -> None:
        if self._logger is not None:
            for name in NAMES:
                if _IDS[name] not in self._logger.schemas:
                    self._logger.register_event_schema(schema(name))

    def heard(self, name: str) -> bool:
        """Whether somebody listens to an event; jupyter_events asks the same, once it is made."""
        logger, wanted = self._logger, _IDS[name]
        if logger is None:
            return False
        try:
            return bool(
                logger.handlers
                or logger._modified_listeners.get(wanted)
                or logger._unmodified_listeners.get(wanted)
            )
        except AttributeError:  # private names: where they are others, leave it to jupyter_events
            return True

    def _emit(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Tell what ``make`` returns, less what has no value. An error in it is not the socket's."""
        if self._logger is None:
            return
        try:
            told = {key: value for key, value in make().items() if value is not None}
            self._logger.emit(schema_id=_IDS[name], data=told)
        except Exception as error:  # noqa: BLE001 - whatever a modifier of somebody's raises
            # Its text may show the event, and there may be one for every handshake.
            self._log.warning("Cannot emit the event %s: %s", name, type(error).__name__)

    # -- sockets -----------------------------------------------------------------------------------

    def socket_opened(self, socket: OpenSocket) -> None:
        """A socket opened."""
        if self.heard("socket_opened"):
            self._emit("socket_opened", lambda: self._of(socket))

    def socket_refused(
        self, handler: RequestHandler, handshake: Handshake, reason: Reason, told: bool
    ) -> None:
        """A socket was refused with a reason of the table; ``told`` says whether by close code."""
        if not reason.told or not self.heard("socket_refused"):
            return
        now = self._clock()
        if now - self._second >= 1:
            self._second, self._in_second = now, 0
        self._in_second += 1
        if self._in_second > self._max_refusals:
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        kind, request = type(handler), handler.request
        self._emit(
            "socket_refused",
            lambda: {
                "code": reason.code,
                "slug": reason.slug,
                "told": told,
                "handler": handler_name(kind),
                "route": template_of(self._application, kind, request.path),
                "source": _shown(handshake).value,
                "user": handshake.told_name or None,
                "address": request.remote_ip or "",
                "left_out": left_out,
            },
        )

    def socket_closed(self, socket: OpenSocket) -> None:
        """A socket that was open is no more."""
        if self.heard("socket_closed"):
            code = socket.code
            if socket.slug is not None:
                code = REASONS[socket.slug].code
            elif socket.ended_by == "client":
                code = socket.handler.close_code
            of_end = {
                "by": socket.ended_by,
                "code": code,
                "slug": socket.slug,
                "seconds": round(max(0.0, time.time() - socket.opened_at), 3),
            }
            self._emit("socket_closed", lambda: self._of(socket) | of_end)

    def _of(self, socket: OpenSocket) -> dict[str, Any]:
        kind = type(socket.handler)
        return {
            "socket": socket.number,
            "user": socket.user_name or None,
            "handler": handler_name(kind),
            "route": template_of(self._application, kind, socket.path),
            "kernel_id": socket.kernel_id,
            "source": socket.source.value,
        }

    # -- tickets -----------------------------------------------------------------------------------

    def ticket_issued(
        self, *, family: str, user: str, source: str, expires_in: float, single_use: bool
    ) -> None:
        """Somebody was given a ticket.

        Args:
            family: what it has in common with its renewals; no secret.
            user: the name; empty where the provider names nobody.
            source: by what, a word of the schema.
            expires_in: seconds.
            single_use: whether it opens one socket only.
        """
        data = {"source": source, "expires_in": expires_in, "single_use": single_use}
        self._ticket("issued", family, user, data)

    def ticket_renewed(self, *, family: str, user: str, expires_in: float) -> None:
        """A ticket was exchanged for one that expires in so many seconds."""
        self._ticket("renewed", family, user, {"expires_in": expires_in})

    def ticket_used(
        self, *, family: str, user: str, handler: RequestHandler, single_use: bool
    ) -> None:
        """A ticket was accepted by a handler. Not for every request of a page that has one: whoever
        listens would hear them all."""
        data = {"handler": handler_name(type(handler)), "single_use": single_use}
        self._ticket("used", family, user, data)

    def ticket_revoked(self, *, family: str, user: str, cause: str, sockets: int) -> None:
        """A family is not taken any more, and so many open sockets were closed for it.

        ``cause`` is a word of the schema.
        """
        self._ticket("revoked", family, user, {"cause": cause, "sockets": sockets})

    def _ticket(self, action: str, family: str, user: str, data: dict[str, Any]) -> None:
        metrics.TICKETS.labels(action).inc()
        name = f"ticket_{action}"
        if self.heard(name):
            self._emit(name, lambda: {"family": family, "user": user or None, **data})


def _shown(handshake: Handshake) -> CredentialSource:
    """Where the credential of somebody who was refused was."""
    if handshake.source is not CredentialSource.NONE:
        return handshake.source
    if handshake.offer.token is not None or handshake.offer.malformed:
        return CredentialSource.SUBPROTOCOL
    if handshake.url_token:
        return CredentialSource.URL
    return CredentialSource.HEADER if handshake.header_token else CredentialSource.NONE
