"""Which client a reply or a question of the kernel belongs to. No I/O.

All clients of a kernel share one set of sockets, and so one ZMQ identity: to the kernel they are one.
What it sends to that one is told apart by ``parent_header``, the header of the request that it is
about: by its ``session`` and ``msg_id`` first, and where those are not known by the ``session``. Both
are chosen by the client, and everybody hears them on iopub: whoever used one first keeps it.

What kernels really do (ipykernel 7.4 with two clients behind one identity, both in ``input()``):

- ``input_request`` names the request in whose cell it was asked, as replies do. In the main shell the
  second client is asked only when the first one's cell is done; in a subshell both are asked at once.
- An interrupt, by signal or by ``interrupt_request``, ends the cell that waits at the moment,
  whoever sent either; its error and its reply name that cell's request.
- ``input_reply`` is *not* matched: whichever cell waits takes the first one that arrives, whoever sent
  it, and with both waiting (subshells) it may be either. That is the kernel's doing
  with sockets per client as well. What arrived before a question is thrown away by the kernel.

A kernel that names no parent cannot be shared; the hub finds out by its first reply, and then opens
sockets for each client. For a single message without parent the best guess is made here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeGuard, TypeVar

from .wire import Message, parse_header

Client = TypeVar("Client")

REQUESTS_MAX = 16384
"""Requests without reply that are remembered, all clients of a kernel together; beyond that the oldest
is forgotten, and its reply found by session."""

SESSIONS_MAX = 64
"""Sessions of one client that are remembered, the last used ones. A frontend has one; whoever invents one
for each message must not fill the memory by it."""

NAME_MAX = 256
"""Characters of a session or a ``msg_id`` that is remembered. Those in use have some forty."""


class Routes(Generic[Client]):
    """The clients of one kernel and what they asked."""

    def __init__(self) -> None:
        self._clients: dict[Client, OrderedDict[str, None]] = {}  # sessions, the last used one last
        self._sessions: dict[str, dict[Client, None]] = {}  # who used each, the first one first
        self._requests: OrderedDict[tuple[str, str], tuple[Client, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Client) -> None:
        """A client came."""
        self._clients.setdefault(client, OrderedDict())

    def forget(self, client: Client) -> None:
        """A client will not come back."""
        for session in self._clients.pop(client, ()):
            self._leave(session, client)

    def _leave(self, session: str, client: Client) -> None:
        users = self._sessions[session]
        del users[client]
        if not users:
            del self._sessions[session]

    def sent(self, client: Client, message: Message) -> None:
        """A known client sent a message."""
        header = parse_header(message.parts[0])
        msg_id, session, kind = (header.get(name) for name in ("msg_id", "session", "msg_type"))
        session = session if _is_name(session) else ""
        if session:
            self._sessions.setdefault(session, {})[client] = None
            used = self._clients[client]
            used[session] = None
            used.move_to_end(session)
            if len(used) > SESSIONS_MAX:
                self._leave(used.popitem(last=False)[0], client)
        # Comm messages and input replies are not replied to, and would stay for ever.
        if _is_name(msg_id) and _is_name(kind) and kind.endswith("_request"):
            key = session, msg_id
            known = self._requests.get(key)
            if known is not None and known[0] is not client and known[0] in self._clients:
                return
            self._requests[key] = client, kind
            self._requests.move_to_end(key)
            if len(self._requests) > REQUESTS_MAX:
                self._requests.popitem(last=False)

    def find(self, message: Message) -> Client | None:
        """Whose a message of the shell, control or stdin channel is; ``None`` if nobody's is known."""
        parent = parse_header(message.parts[1])
        if not parent:
            return self._guess(message)
        msg_id, session = parent.get("msg_id"), parent.get("session")
        session = session if isinstance(session, str) else ""
        found: Client | None = None
        key = self._key(session, msg_id) if isinstance(msg_id, str) else None
        if key is not None:
            found, kind = self._requests[key]
            if message.type == _reply_to(kind):
                del self._requests[key]
        return (
            found if found in self._clients else next(iter(self._sessions.get(session, ())), None)
        )

    def _key(self, session: str, msg_id: str) -> tuple[str, str] | None:
        """Of the request that a parent header is about. A kernel may not repeat the session."""
        if (session, msg_id) in self._requests:
            return session, msg_id
        same = [key for key in self._requests if key[1] == msg_id]
        return same[0] if len(same) == 1 else None

    def _guess(self, message: Message) -> Client | None:
        """Whose a message without parent is: of who waits longest for such a reply, or of the only one."""
        kind = message.type
        for key, (client, asked) in self._requests.items():
            if kind == _reply_to(asked) and client in self._clients:
                del self._requests[key]
                return client
        if len(self._clients) == 1:
            return next(iter(self._clients))
        return None


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= NAME_MAX


def _reply_to(request: str) -> str:
    return request.removesuffix("_request") + "_reply"


def names_parent(message: Message, msg_id: str) -> bool:
    """Whether a reply names the request it is about."""
    return parse_header(message.parts[1]).get("msg_id") == msg_id
