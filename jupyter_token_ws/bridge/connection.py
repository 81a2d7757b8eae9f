"""The ``kernel_websocket_connection_class``: between jupyter_server's handler and the hub of a kernel."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado import web
from traitlets import Any as AnyTrait
from traitlets import Bool, Float, TraitError, default, validate

from jupyter_token_ws.guard.handler import close_with_reason, socket_info
from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.protocol.kernel_messages import WireError

from .client import Client
from .hub import Hub
from .outlet import Outlet, outlet_for
from .rate import RateLimit
from .server import Bridge, wanted_for
from .wire import Legacy, Message, wire_of

STOCK = ZMQChannelsWebsocketConnection.__name__
"""The section in which people have configured what is ours now."""

_RATES = ("iopub_msg_rate_limit", "iopub_data_rate_limit")

ALIVE_INTERVAL = 0.1
"""Seconds between two looks whether a kernel's process is there."""


class _Named:
    """What the handler takes for a ``Session``: it writes the id there that the client named."""

    session: str | None = None
    key = b""


class KernelBridgeConnection(BaseKernelWebsocketConnection):
    """A websocket of a kernel, by the bridge.

    What is configured for ``ZMQChannelsWebsocketConnection`` counts here too.
    """

    limit_rate = Bool(
        None,
        allow_none=True,
        config=True,
        help="Whether output beyond the rates is dropped, as jupyter_server does."
        " Default: only beyond a rate that was set; the backlog keeps what comes fast.",
    )
    iopub_msg_rate_limit = Float(1000, config=True, help="Messages per second; 0 for any number.")
    iopub_data_rate_limit = Float(
        1_000_000, config=True, help="Bytes of printed text per second; 0 for any number."
    )
    rate_limit_window = Float(3, config=True, help="Seconds over which rates are counted.")

    session = AnyTrait()

    @default("session")
    def _default_session(self) -> Any:
        return _Named()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Upstream's connection for a kernel whose kernelspec says so."""
        if not wanted_for(kwargs.get("parent")):
            return ZMQChannelsWebsocketConnection(*args, **kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        configured = self._find_my_config(self.config)
        self._rates = [
            float(getattr(self, name))
            if self.limit_rate or (self.limit_rate is None and name in configured)
            else 0.0
            for name in _RATES
        ]
        self._hub: Hub | None = None
        self._client: Client | None = None
        self._outlet: Outlet | None = None
        self._stream: Any = None
        self._goodbye = self._answered = self._lost = False
        self.waiting: asyncio.Future[None] | None = None
        """Done when this client may send more; ``None`` if it may."""

    @classmethod
    def section_names(cls) -> list[str]:
        """Upstream's section counts too, less than our own."""
        *others, own = super().section_names()
        return [*others, STOCK, own]

    @validate(*_RATES, "rate_limit_window")
    def _rate(self, proposal: Any) -> float:
        name, value = proposal["trait"].name, proposal["value"]
        least = "positive" if name == "rate_limit_window" else "not negative"
        if not math.isfinite(value) or value < 0 or (value == 0 and least == "positive"):
            raise TraitError(f"{STOCK}.{name} must be finite and {least}: {value}")
        return float(value)

    @property
    def _bridge(self) -> Bridge:
        return Bridge.of(self.websocket_handler.settings)

    @property
    def subprotocol(self) -> str | None:
        """What the client was answered with; ``None`` for the older format."""
        return self.websocket_handler.selected_subprotocol

    # -- the handshake -----------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Before the handshake's answer: wait until the kernel is there, if that is not known.

        Raises:
            HTTPError: the kernel did not start.
            Refused: it does not answer, and the client understands close codes.
            TimeoutError: its process does not come up.
        """
        kernel, timeout = self.kernel_manager, float(self.kernel_info_timeout)
        ready = getattr(kernel, "ready", None)
        if ready is not None:
            try:
                await (ready if isinstance(ready, asyncio.Future) else asyncio.wrap_future(ready))
            except Exception as error:
                kernel.execution_state = "dead"
                kernel.reason = str(error)
                raise web.HTTPError(500, str(error)) from error
        begun = time.monotonic()
        while not await ensure_async(kernel.is_alive()):
            await asyncio.sleep(ALIVE_INTERVAL)
            if time.monotonic() - begun > timeout:
                raise TimeoutError("Kernel never reached an 'alive' state.")
        hub = self._hub = self._bridge.hub(kernel)
        hub.check_ports()
        # What a busy kernel answers it answers later, and it has heard of us long ago.
        if hub.settled or (hub.info and getattr(kernel, "execution_state", None) == "busy"):
            return
        if not await hub.settle(timeout):
            self.log.warning("Timeout waiting for kernel_info reply from %s", self.kernel_id)
            if self.hears_reasons:
                raise Refused("kernel_unresponsive")

    async def connect(self) -> None:
        """The socket is open."""
        self.multi_kernel_manager.notify_connect(self.kernel_id)
        hub = self._hub
        if hub is None or hub.closed:
            self.websocket_handler.close()  # the kernel ended meanwhile
            return
        self._watch(self.websocket_handler.ws_connection)
        wire = wire_of(self.subprotocol)
        self._outlet = outlet_for(self.websocket_handler, wire)
        self._client = hub.attach(
            self.session.session, self._outlet, verified=wire is Legacy, owner=self
        )
        if any(self._rates):
            self._client.limit = RateLimit(
                self._rates[0],
                self._rates[1],
                self.rate_limit_window,
                partial(self._rate_notice, hub),
                time.monotonic,
            )

    def _watch(self, connection: Any) -> None:
        """Learn how the connection ends.

        A close frame without a code leaves no trace in the handler. tornado answers it by ``close`` while
        the stream is open still; after a loss it is closed.
        """
        stream = self._stream = getattr(connection, "stream", None)
        if stream is None:
            return  # not tornado's own protocol
        # Of somebody who may not send, nothing is read, so nobody would notice that he is gone.
        stream.set_close_callback(self._on_lost)
        close = connection.close

        def closing(code: int | None = None, reason: str | None = None) -> None:
            if connection.client_terminated and not stream.closed():
                self._answered = True
                self._goodbye = not connection.server_terminated
            close(code, reason)

        connection.close = closing

    @property
    def hears_reasons(self) -> bool:
        """Whether the client understands our close codes."""
        info = socket_info(self.websocket_handler)
        return info is not None and info.opted_in

    def disconnect(self) -> None:  # type: ignore[override]  # upstream's own is not what its base says
        """The socket is closed, or never opened."""
        self.multi_kernel_manager.notify_disconnect(self.kernel_id)
        hub, client, outlet = self._hub, self._client, self._outlet
        self._client = self._outlet = None
        self.on_low()
        if hub is not None and client is not None and outlet is not None:
            told = self._answered and self.hears_reasons
            hub.detach(client, outlet, goodbye=self._goodbye, told=told)

    close = disconnect

    # -- messages ----------------------------------------------------------------------------------

    def handle_incoming_message(self, incoming_msg: str | bytes) -> None:
        """A message of the client."""
        hub, client = self._hub, self._client
        if hub is None or client is None:
            self.log.debug("Received message on closed websocket")
            return
        try:
            message = wire_of(self.subprotocol).decode(incoming_msg)
        except WireError as wrong:
            self.log.warning("What a client sent is no kernel message: %s", wrong)
            close_with_reason(self.websocket_handler, "bad_request")
            return
        if not hub.send(client, message) and self.waiting is None and not self._lost:
            self.waiting = asyncio.get_running_loop().create_future()

    def _on_lost(self) -> None:
        """The client is gone; what came before is read on."""
        self._lost = True
        self.on_low()

    def on_low(self) -> None:
        """The client was told to stop, and may send again."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def on_overflow(self) -> None:
        """The client cannot be served without loss."""
        self.log.warning("Kernel %s: a client reads too slowly, closing it", self.kernel_id)
        close_with_reason(self.websocket_handler, "backlog_full")

    def on_replaced(self) -> None:
        """The client connected anew."""
        self.log.warning("Replacing stale connection: %s", self.kernel_id)
        self.websocket_handler.close()

    def _rate_notice(self, hub: Hub, parent: bytes, name: str) -> Message:
        what = "message" if name == "iopub_msg_rate_limit" else "data"
        text = (
            f"IOPub {what} rate exceeded.\n"
            "The server drops output until there is less of it. To change the limit, set\n"
            f"{STOCK}.{name} (now {getattr(self, name)} per second,\n"
            f"over {self.rate_limit_window} seconds).\n"
        )
        self.log.warning("IOPub %s rate exceeded on kernel %s", what, self.kernel_id)
        return hub.printed(text, parent)
