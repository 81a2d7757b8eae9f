"""One kernel and its clients.

One subscription to iopub serves all clients and the activity watcher, one set of shell, control and
stdin sockets all clients; a kernel that does not say what its replies are about gets a set for each.

The subscription stands from the kernel's start. That it does, and which protocol the kernel speaks, is
found out once for each of its processes and not for each connection.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from jupyter_client._version import protocol_version_info
from jupyter_client.adapter import adapt
from jupyter_client.session import Session

from jupyter_token_ws.protocol.kernel_messages import pack_json

from .backlog import Backlog, Limits, Quota
from .channels import Channel, bursts
from .client import Client, Owner
from .outlet import Outlet
from .routing import Routes, names_parent
from .spool import FileSpool
from .tap import Tap
from .wire import DELIMITER, Batch, Message, find_names, parse_header

ASK_INTERVAL = 0.5
"""Seconds between two questions to a kernel that has not answered, or is not heard yet."""

RECONNECT = 0.2
"""Seconds in which ZMQ has connected all sockets to a kernel once it has connected one: it tries every
tenth of a second. A question to a socket that is not connected yet the kernel would throw away."""

ASKED_HIGH = 16 * 1024 * 1024
"""Bytes that may wait of a client that was asked a question, before it is told to stop all the same. Its
answer is then not read before the kernel goes on, by an interrupt for example."""

AWAY_MAX = 8
"""Clients of one kernel that may be away at once; of more the one longest away is forgotten."""


@dataclass(frozen=True)
class BridgeOptions:
    """Options of the bridge: bytes, seconds, and a directory for what waits on disk."""

    limits: Limits = field(default_factory=Limits)
    disk_total: int = 4 * 2**30
    age: float = 600
    directory: str | None = None


class _Lane:
    """A set of sockets for shell, control and stdin, of all clients or of one."""

    def __init__(self, hub: Hub, client: Client | None) -> None:
        self._hub = hub
        self._client = client
        self._identity = uuid4().hex.encode()
        self.channels: dict[str, Channel] = {}

    def open(self) -> None:
        """Connect to the kernel's ports as they are now."""
        hub = self._hub
        for name in ("shell", "control", "stdin"):
            # Kernels address a question by the identity of the request: the three have the same.
            stream = getattr(hub.kernel, f"connect_{name}")(identity=self._identity)
            before = self.channels.get(name)
            self.channels[name] = Channel(name, stream, self._receive, hub.on_low, hub.log, before)

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        self.channels = {}

    def _receive(self, messages: list[Message]) -> None:
        self._hub.on_replies(messages, self._client)


class Hub:
    """One kernel.

    Args:
        kernel_id: its id.
        kernel: its manager.
        options: of the bridge.
        quota: for the disk, of all kernels.
        on_overflow: called with a client whose backlog is full.
        on_idle: called when nobody needs it any more.
    """

    def __init__(
        self,
        kernel_id: str,
        kernel: Any,
        options: BridgeOptions,
        quota: Quota,
        log: logging.Logger,
        on_idle: Callable[[Hub], None],
    ) -> None:
        self.kernel_id, self.kernel, self.options, self.log = kernel_id, kernel, options, log
        self.manager: Any = kernel.parent
        self.info: dict[str, Any] = {}
        self.closed = False
        self.session = Session(config=kernel.session.config, username="")
        self._own = self.session.session.encode()
        self._voice = uuid4().hex
        """The session of what clients are told. That of our questions to the kernel is known to nobody, so
        that no client can pass its own for ours."""
        self._quota = quota
        self._on_idle = on_idle
        self._routes: Routes[Client] = Routes()
        self._named: dict[str, Client] = {}
        self._clients: set[Client] = set()
        self._taps: list[Tap] = []
        self._lane = _Lane(self, None)
        self._lanes: dict[Client, _Lane] = {}  # of clients, where the kernel names no parents
        self._shared = True
        self._iopub: Channel | None = None
        self._ports: list[int] = []
        self._verify: Callable[[Message], bool] | None = None
        self._adapt_version = 0
        self._asked: set[str] = set()
        self._answered = self._heard = False
        self._settled = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._unsettled_at = 0.0
        self._ages: dict[Client, asyncio.TimerHandle] = {}
        self.open()
        for callback, event in self._restart_callbacks:
            self.manager.add_restart_callback(kernel_id, callback, event)

    # -- sockets -----------------------------------------------------------------------------------

    @property
    def _restart_callbacks(self) -> list[tuple[Callable[[], None], str]]:
        return [(self.on_restarted, "restart"), (self.on_restart_failed, "dead")]

    def open(self) -> None:
        """Connect to the kernel's ports as they are now."""
        self._ports = list(self.kernel.ports)
        self.session.key = self.kernel.session.key
        self.session.signature_scheme = self.kernel.session.signature_scheme
        self._verify = None  # the key may be another one
        self._review_verifier()
        if self._iopub is not None:
            self._iopub.close()
        with bursts(self.kernel):
            stream = self.kernel.connect_iopub()
        self._iopub = Channel("iopub", stream, self.on_iopub, self.on_low, self.log)
        self._hold()
        for lane in (self._lane, *self._lanes.values()):
            lane.open()
        self.unsettle()

    def check_ports(self) -> None:
        """Connect anew if the kernel came back with other ports."""
        if not self.closed and list(self.kernel.ports) != self._ports:
            self.log.debug("Kernel %s has other ports", self.kernel_id)
            self.open()

    def close(self) -> None:
        """Close all sockets. Clients that are there keep what waits for them; others are forgotten."""
        if self.closed:
            return
        self.closed = True
        if self._asking is not None:
            self._asking.cancel()
        if self._settling is not None:
            self._settling.cancel()
        if self.kernel_id in self.manager:
            for callback, event in self._restart_callbacks:
                self.manager.remove_restart_callback(self.kernel_id, callback, event)
        if self._iopub is not None:
            self._iopub.flush()
            self._iopub.close()
        for lane in (self._lane, *self._lanes.values()):
            lane.close()
        for client in list(self._clients):
            if client.outlet is None:
                self.forget(client)
        for tap in list(self._taps):
            tap.close()
        self._on_idle(self)

    def _close_if_idle(self) -> None:
        if not self._clients and not self._taps:
            self.close()

    # -- is it there -------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether the kernel answered and its subscription stands, since it was last started."""
        return self._settled.is_set()

    def unsettle(self) -> None:
        """The kernel was started anew: find out again, without anybody waiting for it yet."""
        if self._iopub is not None:
            self._iopub.flush()  # what the process before said proves nothing
        self._answered = self._heard = False
        self._asked.clear()
        self._settled.clear()
        self._unsettled_at = time.monotonic()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._hold()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())

    async def settle(self, timeout: float) -> bool:
        """Wait until the kernel is there, *timeout* seconds at most; whether it is."""
        if not self.settled:
            if not self.closed and (self._asking is None or self._asking.done()):
                self._asking = asyncio.ensure_future(self._ask())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._settled.wait(), timeout)
        return self.settled

    async def _ask(self) -> None:
        """Ask until the kernel was heard on both ways; no longer than upstream would."""
        deadline = time.monotonic() + float(getattr(self.manager, "kernel_info_timeout", 60))
        first = True
        while not self.settled and not self.closed and time.monotonic() < deadline:
            self.check_ports()
            # What is sent to the shell of a busy kernel is answered when it is idle again.
            busy = getattr(self.kernel, "execution_state", None) == "busy"
            for name in ("control", "shell") if first or not busy else ("control",):
                self._question(name)
            first = False
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._settled.wait(), ASK_INTERVAL)
        self._release()

    def _question(self, name: str) -> None:
        header = self.session.msg_header("kernel_info_request")
        self._asked.add(header["msg_id"])
        message = Message(name, [self.session.pack(header), b"{}", b"{}", b"{}"])
        self._lane.channels[name].send_own(self._raw(message))

    def _shells(self) -> list[Channel]:
        lanes = (self._lane, *self._lanes.values())
        return [lane.channels["shell"] for lane in lanes if lane.channels]

    def _hold(self) -> None:
        """What a cell prints before the subscription stands is lost, its idle state too."""
        for shell in self._shells():
            shell.hold()

    def _release(self) -> None:
        for shell in self._shells():
            shell.release()

    def _on_own_reply(self, message: Message) -> None:
        """The kernel answered a question of ours."""
        parent = parse_header(message.parts[1])
        content = parse_header(message.parts[3])
        if parent and parent.get("msg_id") not in self._asked:
            return  # to the process before
        if message.type != "kernel_info_reply" or self._answered:
            return
        self._answered = True
        self.info = content
        version = content.get("protocol_version", "")
        if isinstance(version, list):  # before version 5
            version = ".".join(map(str, version))
        major = str(version).partition(".")[0]
        adapts = major.isdigit() and int(major) != protocol_version_info[0]
        self._adapt_version = int(major) if adapts else 0
        if adapts:
            self.log.info("Kernel %s speaks protocol %s: adapting", self.kernel_id, version)
        shared = any(names_parent(message, asked) for asked in self._asked)
        if not shared and self._shared:
            self.log.info(
                "Kernel %s does not name the request in its replies: sockets for each client",
                self.kernel_id,
            )
            self._shared = False
            for client in self._clients:
                self._open_lane(client)
        self._check_settled()

    def _check_settled(self) -> None:
        if not (self._answered and self._heard) or self.settled:
            return
        if time.monotonic() - self._unsettled_at < RECONNECT / 2:
            self._settle()  # it was there when we connected
        elif self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(RECONNECT, self._settle)

    def _settle(self) -> None:
        self._settling = None
        self._settled.set()
        self._release()
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        """Let who watches the kernel's state hear that it is idle, as by the questions that upstream asks
        for each client; without clients it stays ``starting``, as ever."""
        if self._clients and getattr(self.kernel, "execution_state", None) == "starting":
            self._question("control")

    # -- from the kernel ---------------------------------------------------------------------------

    def on_iopub(self, messages: list[Message]) -> None:
        """Messages to everybody."""
        find_names(messages)
        if self._taps:
            now = time.monotonic()
            watched = messages
            if not self._clients:
                watched = [m for m in messages if m.type != "status" or not self._is_own(m)]
            for tap in list(self._taps):
                tap.feed(watched, now)
        if not self._heard:
            self._heard = True
            self._check_settled()
        if not self._clients:
            return
        hide = not self.manager.allow_tracebacks
        verify = self._verify
        kept: list[Message] = []
        for message in messages:
            kind = message.type
            if kind == "status" and self._is_own(message):
                continue
            if verify is not None and not verify(message):
                continue
            if self._adapt_version:
                adapted = self._adapted(message)
                if adapted is None:
                    continue
                message = adapted  # noqa: PLW2901
            if hide and kind in {"error", "pyerr"}:
                message = self._without_traceback(message)  # noqa: PLW2901
            kept.append(message)
        if kept:
            batch = Batch(kept)
            for client in list(self._clients):
                client.deliver(batch)

    def _is_own(self, message: Message) -> bool:
        """Whether it is about a question of ours."""
        return self._own in message.parts[1]

    def on_replies(self, messages: Iterable[Message], client: Client | None) -> None:
        """Messages to one client: that of the socket, or whoever asked."""
        hide = not self.manager.allow_tracebacks
        for message in messages:
            if self._verify is not None and not self._verify(message):
                continue
            if self._is_own(message) or (
                not self._answered and message.parts[1] == b"{}" and client is None
            ):
                self._on_own_reply(message)
                continue
            found = client or self._routes.find(message)
            if found is None:
                self.log.debug("Nobody asked for %r of kernel %s", message, self.kernel_id)
                continue
            if message.channel == "stdin":
                found.asked = True
                self.on_low(found)
            elif message.type == "execute_reply":
                found.asked = False
            adapted = self._adapted(message) if self._adapt_version else message
            if adapted is None:
                continue
            if hide and parse_header(adapted.parts[3]).get("status") == "error":
                adapted = self._without_traceback(adapted)
            found.deliver_one(adapted)

    def on_restarted(self) -> None:
        """The kernel died and was started anew."""
        self.log.warning("kernel %s restarted", self.kernel_id)
        self._tell_state("restarting")
        self.check_ports()
        self.unsettle()

    def on_restart_failed(self) -> None:
        """The kernel died and cannot be started anew."""
        self.log.error("kernel %s restarted failed!", self.kernel_id)
        self._tell_state("dead")

    def _tell_state(self, state: str) -> None:
        if self._iopub is not None:
            self._iopub.flush()  # what the kernel said before comes before
        batch = Batch([self._told("status", {"execution_state": state})])
        for client in list(self._clients):
            client.deliver(batch)

    def _without_traceback(self, message: Message) -> Message:
        content = parse_header(message.parts[3])
        content |= {
            "ename": "ExecutionError",
            "evalue": "Execution error",
            "traceback": [self.manager.traceback_replacement_message],
        }
        return Message(
            message.channel, [*message.parts[:3], pack_json(content), *message.parts[4:]]
        )

    # -- to the kernel -----------------------------------------------------------------------------

    def send(self, client: Client, message: Message) -> bool:
        """Send a client's message; whether it may send more."""
        if self.closed:
            self.log.debug("Received message for kernel %s, which ended", self.kernel_id)
            return True
        lane = self._lanes.get(client, self._lane)
        channel = lane.channels.get(message.channel)
        if channel is None:
            self.log.warning("No such channel: %.20r", message.channel)
            return True
        allowed = self.manager.allowed_message_types
        if allowed and parse_header(message.parts[0]).get("msg_type") not in allowed:
            self.log.warning(
                'Received message of type "%.40s", which is not allowed. Ignoring.', message.type
            )
            return True
        self._routes.sent(client, message)
        if message.channel == "stdin":
            client.asked = False
        if self._adapt_version:
            adapted = self._adapted(message, self._adapt_version)
            if adapted is None:
                return True
            message = adapted
        if channel.send(client, self._raw(message)):
            return True
        # Who was asked a question should be able to answer it: the kernel waits for that.
        return client.asked and channel.waiting(client) <= ASKED_HIGH

    def _raw(self, message: Message) -> list[bytes]:
        return [DELIMITER, self.session.sign(message.parts[:4]), *message.parts]

    def printed(self, text: str, parent: bytes) -> Message:
        """A message of our own to clients: *text* on stderr, of the request with that header."""
        return self._told("stream", {"name": "stderr", "text": text}, parent)

    def _told(self, kind: str, content: dict[str, Any], parent: bytes = b"{}") -> Message:
        header = self.session.pack({**self.session.msg_header(kind), "session": self._voice})
        return Message("iopub", [header, parent, b"{}", pack_json(content)])

    def _adapted(self, message: Message, version: int = protocol_version_info[0]) -> Message | None:
        """A message in another major version of the protocol; ``None`` if it lacks what it takes."""
        header, parent, metadata, content, *buffers = message.parts
        fields: dict[str, Any] = {
            "header": parse_header(header),
            "parent_header": parse_header(parent),
            "metadata": parse_header(metadata),
            "content": parse_header(content),
            "buffers": buffers,
        }
        fields |= {name: fields["header"].get(name, "") for name in ("msg_id", "msg_type")}
        try:
            fields = adapt(fields, version)
        except Exception:  # whatever the adapter misses in it
            self.log.exception("Malformed message: %r", message)
            return None
        names = ("header", "parent_header", "metadata", "content")
        parts = [self.session.pack(fields[name]) for name in names]
        return Message(message.channel, parts + buffers, message.signature)

    def _review_verifier(self) -> None:
        """Check signatures while there is a client for which that is done: it costs as much as all else."""
        wanted = any(client.verified for client in self._clients)
        if wanted != (self._verify is not None):
            self._verify = self._verifier() if wanted else None

    def _verifier(self) -> Callable[[Message], bool] | None:
        """Checks signatures as upstream does for the older format; ``None`` where none are made."""
        key, scheme = self.session.key, self.session.signature_scheme.partition("-")[2]
        if not key:
            return None

        def verify(message: Message) -> bool:
            made = hmac.digest(key, b"".join(message.parts[:4]), scheme).hex().encode()
            if hmac.compare_digest(made, message.signature):
                return True
            self.log.error("Wrong signature on %s of kernel %s", message.channel, self.kernel_id)
            return False

        return verify

    # -- clients -----------------------------------------------------------------------------------

    @property
    def clients(self) -> frozenset[Client]:
        """All clients, there or away."""
        return frozenset(self._clients)

    def named(self, key: str | None) -> Client | None:
        """The client of a kernel session, there or away."""
        return self._named.get(key) if key is not None else None

    def attach(
        self,
        key: str | None,
        outlet: Outlet,
        *,
        verified: bool,
        owner: Owner,
    ) -> Client:
        """A client connected.

        Args:
            key: its kernel session; ``None`` for one that cannot come back.
            outlet: where it is.
            verified: whether signatures are checked for it.
            owner: who is told what becomes of it.
        """
        self.check_ports()
        client = self.named(key)
        if client is None:
            backlog = Backlog(
                self.options.limits, self._notice, self._spool, self._quota, self._on_spool_error
            )
            client = Client(key, backlog, self._overflowed)
            self._clients.add(client)
            self._routes.add(client)
            if key is not None:
                self._named[key] = client
            if not self._shared and not self.closed:
                self._open_lane(client)
        elif client.outlet is not None:
            replaced = client.owner
            client.detach(time.monotonic())
            if replaced is not None:
                replaced.on_replaced()
        client.owner = owner
        client.verified = verified
        self._review_verifier()
        if client.backlog.overflowed and not (self.options.limits.close and owner.hears_reasons):
            client.backlog.resume()
        client.attach(outlet)
        if self.settled:
            self._tell_watchers()
        self._review_away()
        if client.backlog.overflowed:
            owner.on_overflow()
        return client

    def detach(self, client: Client, outlet: Outlet, *, goodbye: bool, told: bool = False) -> None:
        """A connection ended; maybe the client has another by now.

        Args:
            client: whose it was.
            outlet: of the connection.
            goodbye: whether the client closed it, with a close frame.
            told: whether the client answered our close frame and understands its code.
        """
        if client.outlet is not outlet:
            return
        client.detach(time.monotonic())
        client.said_goodbye = goodbye
        keeps = getattr(self.manager, "buffer_offline_messages", True)
        heard = client.backlog.overflowed and told
        if client.key is None or not keeps or self.closed or heard:
            self.forget(client)
        else:
            self._review_away()

    def forget(self, client: Client) -> None:
        """A client will not come back."""
        self._clients.discard(client)
        if client.key is not None and self._named.get(client.key) is client:
            del self._named[client.key]
        self._routes.forget(client)
        self._review_verifier()
        client.backlog.clear()
        for channel in self._lane.channels.values():
            channel.drop(client)
        lane = self._lanes.pop(client, None)
        if lane is not None:
            lane.close()
        timer = self._ages.pop(client, None)
        if timer is not None:
            timer.cancel()
        if not self.closed:
            self._close_if_idle()

    def _review_away(self) -> None:
        """Who is away may come back: for some time while others are there, else for any time.

        A page that is closed or loaded anew says goodbye, and its session never returns; it is waited
        for as upstream does, until somebody else is there. Holding for it what others are sent would
        cost as much as they do.
        """
        away = [client for client in self._clients if client.outlet is None]
        others = len(away) < len(self._clients)
        if others:
            for client in away:
                if client.said_goodbye:
                    self.forget(client)
            away = [client for client in away if not client.said_goodbye]
        away.sort(key=lambda client: client.away_since or 0)
        for client in away[: max(0, len(away) - AWAY_MAX)]:
            self.forget(client)
        for client in list(self._clients):
            timer = self._ages.get(client)
            if client.outlet is not None or not others:
                if timer is not None:
                    timer.cancel()
                    del self._ages[client]
            elif timer is None:
                since = client.away_since or 0
                left = max(0.0, since + self.options.age - time.monotonic())
                loop = asyncio.get_running_loop()
                self._ages[client] = loop.call_later(left, self.forget, client)

    def _open_lane(self, client: Client) -> None:
        lane = self._lanes[client] = _Lane(self, client)
        lane.open()
        if not self.settled:
            lane.channels["shell"].hold()

    def on_low(self, client: Client | None) -> None:
        """A client that was told to stop may go on."""
        if client is not None and client.owner is not None:
            client.owner.on_low()

    def _overflowed(self, client: Client) -> None:
        if client.owner is None:
            self.log.warning(
                "Kernel %s: too much for a client that is away; it is told when it is back",
                self.kernel_id,
            )
        else:
            client.owner.on_overflow()

    def _spool(self) -> FileSpool:
        return FileSpool(self.options.directory)

    def _on_spool_error(self, error: OSError) -> None:
        self.log.warning("Kernel %s: output is held in memory only: %s", self.kernel_id, error)

    def _notice(self, parent: bytes, count: int, size: int) -> Message:
        one = count == 1
        what = f"{count} message{'' if one else 's'} of the kernel, {size / 1e6:.1f} MB"
        self.log.warning("Kernel %s: cut for a client that did not read: %s", self.kernel_id, what)
        # Of somebody who was away as well, and of more than output after an overflow.
        return self.printed(
            f"\n[{what}, {'is' if one else 'are'} missing here: there was no room to keep"
            f" {'it until it was' if one else 'them until they were'} read."
            " One message may be many lines, or part of one.]\n",
            parent,
        )

    # -- the activity watcher ----------------------------------------------------------------------

    def tap(self) -> Tap:
        """A tap on the subscription."""
        made = Tap(self._tap_closed, self.log)
        self._taps.append(made)
        self.check_ports()
        return made

    def _tap_closed(self, tap: Tap) -> None:
        if tap in self._taps:
            self._taps.remove(tap)
