"""A tunnel over one websocket: each binary message is a batch of frames, behind the number of the first."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, cast

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard.addresses import local_address
from jupyter_token_ws.guard.handler import close_with_reason
from jupyter_token_ws.guard.handshake import Handshake
from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.protocol.frames import MAX_DATA
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import TUNNEL
from jupyter_token_ws.protocol.tunnel import OutOfOrderError

from .tunnels import WEBSOCKET, HeldTunnel, Origin, Tunnels, asked_to_resume

NUMBER = struct.Struct(">Q")
"""What a batch begins with: the number of the first numbered frame in it."""


BINARY = 0x2
"""Opcode of RFC 6455 section 5.2."""

MAX_BATCH = 1024 * 1024
"""Bytes of a batch at most, by a websocket."""


class TunnelSocketHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """``GET api/token-ws/tunnel`` as a websocket."""

    connection = None  # the guard's keepalive looks at every websocket
    _tunnel: HeldTunnel | None = None

    def initialize(self) -> None:
        """Nothing is to be written yet."""
        self._received = 0
        self._woken = False  # it will look whether there is something to take
        self._writing = False  # and not before what it took last has gone

    @property
    def _handshake(self) -> Handshake:
        handshake: Handshake = cast("Any", self)._token_ws_handshake
        return handshake  # the guard stands before every websocket of ours

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Refuse before the handshake what can be refused there."""
        if self.current_user is None:
            raise Refused("credentials_missing")
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        if TUNNEL not in [each.strip() for each in offered.split(",")]:
            raise Refused("unsupported_version")
        asked, handshake = asked_to_resume(self), self._handshake
        if asked is not None:
            if handshake.grant is not None and handshake.grant.single_use:
                raise Refused("wrong_audience")  # it is for a tunnel of its own (C6.5)
            identity, self._received = asked
            self._tunnel = Tunnels.of(self.application).find(identity, handshake)
        await super().get(*args, **kwargs)

    @property
    def max_message_size(self) -> int:
        """What a batch may have; tornado closes with 1009 for more."""
        return MAX_BATCH

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """The one there is."""
        return TUNNEL

    async def open(self, *args: Any, **kwargs: Any) -> None:
        """Make a tunnel, unless it is there; who cannot resume is told so at once."""
        handshake = self._handshake
        try:
            held = self._tunnel
            if held is None:
                resumes = handshake.grant is None or not handshake.grant.single_use
                tunnels = Tunnels.of(self.application)
                held = tunnels.open(handshake.principal, resumes=resumes)
            came_in = local_address(cast("Any", self.ws_connection).stream)
            held.attach(self, Origin(self, handshake, WEBSOCKET, came_in), self._received)
        except Refused as error:
            self._tunnel = None
            # Who opened this speaks our protocol, whatever else was offered.
            reason = REASONS[error.slug]
            self.close(reason.code, reason.close_reason(error.retry_after))
            return
        self._tunnel = held
        # Nagle's algorithm would keep each small batch until the one before is acknowledged.
        self.set_nodelay(True)
        self._write()

    def _write(self) -> None:
        """Send what there is: past ``write_message``, which would make a task for each batch."""
        self._woken = False
        held, connection = self._tunnel, cast("Any", self.ws_connection)
        while held is not None and held.carrier is self and not self._writing:
            if connection is None or connection.is_closing():
                return
            batch = held.take(MAX_DATA)
            if batch is None:
                if held.machine.closed:
                    self.close(1000)
                return
            written = connection._write_frame(True, BINARY, NUMBER.pack(batch[0]) + batch[1])
            if not written.done():
                self._writing = True
                written.add_done_callback(self._written)

    def _written(self, written: asyncio.Future[None]) -> None:
        self._writing = False
        if not written.cancelled() and written.exception() is None:
            self._write()

    def on_message(self, message: str | bytes) -> None:
        """A batch came."""
        held = self._tunnel
        if held is None or held.carrier is not self:
            return
        if isinstance(message, str) or len(message) < NUMBER.size:
            held.close("bad_request")
            return
        try:
            held.receive(NUMBER.unpack_from(message)[0], message[NUMBER.size :])
        except OutOfOrderError:
            held.close("bad_request")  # a websocket loses nothing

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """As stock; what the guard ends for a reason is over, and does not wait for another carrier."""
        held = self._tunnel
        if held is not None and held.carrier is self and reason and not held.machine.closed:
            held.end(code, reason)
            while (batch := held.take(MAX_DATA)) is not None:
                self.write_message(NUMBER.pack(batch[0]) + batch[1], binary=True)
        super().close(code, reason)

    def on_close(self) -> None:
        """The carrier is lost, or the tunnel is over."""
        if self._tunnel is not None:
            self._tunnel.detach(self)

    # -- as a carrier ------------------------------------------------------------------------------

    def wake(self) -> None:
        """See ``Carrier``."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._write)

    def end(self, slug: str) -> None:
        """See ``Carrier``."""
        close_with_reason(self, slug)
