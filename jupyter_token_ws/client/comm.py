"""Comms: messages between a client and an object in the kernel (Jupyter messaging, "custom messages")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_token_ws.protocol.kernel_messages import KernelMessage

from .errors import KernelError
from .inbox import EndError, Inbox

if TYPE_CHECKING:
    from typing_extensions import Self


class Owner(Protocol):
    """The kernel, as a comm needs it."""

    def send_comm(
        self, kind: str, content: Mapping[str, Any], buffers: Sequence[bytes], metadata: Any
    ) -> None:
        """Send a message."""

    def forget_comm(self, comm_id: str) -> None:
        """It is closed."""


class Comm:
    """One comm: ``async for message in comm`` gives what the kernel sends, until either side closes it.

    ``message.content["data"]`` is what was sent, ``message.buffers`` are its bytes. ``opened_with`` is the
    kernel's ``comm_open`` where the kernel opened it.
    """

    def __init__(
        self,
        owner: Owner,
        comm_id: str,
        target: str,
        *,
        max_waiting: int,
        opened_with: KernelMessage | None = None,
    ) -> None:
        self.id = comm_id
        self.target = target
        self.opened_with = opened_with
        self.closed = False
        self._owner = owner
        self._inbox: Inbox[KernelMessage] = Inbox(max_waiting, "max_waiting")

    def __repr__(self) -> str:
        return f"<Comm {self.target} {self.id} {'closed' if self.closed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def send(
        self,
        data: Mapping[str, Any],
        buffers: Sequence[bytes] = (),
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Send data. Raises ``KernelError`` where it is closed, ``TooLargeError`` where too much waits."""
        if self.closed:
            raise KernelError(f"the comm {self.target!r} is closed")
        self._owner.send_comm("comm_msg", {"comm_id": self.id, "data": data}, buffers, metadata)

    def close(self, data: Mapping[str, Any] | None = None) -> None:
        """Close it, and tell the kernel. Closing again changes nothing."""
        if not self.closed:
            self._owner.send_comm("comm_close", {"comm_id": self.id, "data": data or {}}, (), None)
            self.end()

    async def recv(self) -> KernelMessage:
        """The next message. Raises ``KernelError`` when the comm is closed and all was read, or ended with
        the kernel, and ``TooLargeError`` when more than twice ``max_waiting`` bytes waited."""
        try:
            return await self._inbox.get()
        except EndError:
            raise KernelError(f"the comm {self.target!r} is closed") from None

    async def __aiter__(self) -> AsyncIterator[KernelMessage]:
        try:
            while True:
                yield await self._inbox.get()
        except EndError:
            return

    # -- for the kernel ----------------------------------------------------------------------------

    def feed(self, message: KernelMessage) -> None:
        """A message of the kernel's."""
        self._inbox.put(message, message.size)

    def end(self, error: Exception | None = None) -> None:
        """It is over."""
        self.closed = True
        self._inbox.end(error)
        self._owner.forget_comm(self.id)
