"""Which client a request comes from, by address, and whether it came encrypted.

What a request's headers say of either can be written by anybody, so it counts only where a proxy said
it that an administrator named. ``ServerApp.trust_xheaders`` names none: with it every client may say
where it is. Nothing is looked up here, and nothing is kept.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""The address of whoever comes by a unix socket, and the name of a proxy that does."""

ADDRESS_HEADER = "X-Forwarded-For"
PROTOCOL_HEADER = "X-Forwarded-Proto"

IPV6_PREFIX = 64
"""Bits. One customer has at least so much of IPv6 for himself, so all of it counts as one client."""

MAX_HOPS = 32
"""Entries of ``X-Forwarded-For`` that are looked at."""

_FORWARDING = frozenset({"Forwarded", "Via", "X-Real-Ip", "X-Scheme"})
_ENCRYPTED = frozenset({"https", "wss"})  # Traefik says the latter of websockets


def parse_address(text: str) -> Address | None:
    """An address as proxies write it: perhaps with a port, in brackets or quotes; ``None`` for what is none.

    An IPv4 address in the clothes of IPv6 is the IPv4 address.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_network(text: str) -> Network:
    """A network or a single address. Raises ``ValueError`` for anything else, host bits included."""
    return ipaddress.ip_network(text.strip())


def limit_key(address: Address | str) -> str:
    """What counts as one client: an IPv4 address, a network of ``IPV6_PREFIX`` bits, or the text itself."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def peer(request: HTTPServerRequest) -> Address | str:
    """Who is at the other end of the connection, whatever the headers say; ``UNIX`` for a unix socket.

    A request without a connection of its own has the address that it was given.
    """
    context: Any = getattr(request.connection, "context", None)
    family = getattr(context, "address_family", None)
    if family is not None and family == getattr(socket, "AF_UNIX", None):
        return UNIX
    # tornado's own name for the address before `trust_xheaders` changes it.
    text = getattr(context, "_orig_remote_ip", None) or request.remote_ip or ""
    return parse_address(text) or text


def local_address(stream: Any) -> str:
    """Where a connection came in: ``127.0.0.1:8888``, ``[::1]:8888`` or the path of a unix socket; empty
    where it is gone already, or never was one."""
    try:
        name = stream.socket.getsockname()
    except (AttributeError, OSError):
        return ""
    if not isinstance(name, tuple):
        return os.fsdecode(name)
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_local(address: Address | str) -> bool:
    """Whether an address is on this machine: loopback or a unix socket."""
    return address == UNIX if isinstance(address, str) else address.is_loopback


@dataclass(frozen=True)
class Proxies:
    """The proxies whose word counts.

    ``networks`` has their addresses, ``unix`` says that whoever comes by a unix socket is one.
    ``address_header`` and ``protocol_header`` name the headers in which they tell where a client is
    and how it came; no others are read.
    """

    networks: tuple[Network, ...] = ()
    unix: bool = False
    address_header: str = ADDRESS_HEADER
    protocol_header: str = PROTOCOL_HEADER

    @classmethod
    def named(
        cls,
        names: Iterable[str],
        address_header: str = ADDRESS_HEADER,
        protocol_header: str = PROTOCOL_HEADER,
    ) -> Proxies:
        """From the names of a configuration: networks, addresses, ``unix``. Raises ``ValueError``."""
        names = [name.strip() for name in names]
        networks = tuple(parse_network(name) for name in names if name != UNIX)
        return cls(networks, UNIX in names, address_header, protocol_header)

    @property
    def any_named(self) -> bool:
        """Whether there is a proxy whose word counts."""
        return self.unix or bool(self.networks)

    def trusts(self, address: Address | str) -> bool:
        """Whether an address is a named proxy's."""
        if isinstance(address, str):
            return self.unix and address == UNIX
        return any(address in network for network in self.networks)

    def forwarded(self, headers: Mapping[str, str]) -> bool:
        """Whether headers say that a proxy was on the way. Anybody can write them."""
        ours = (self.address_header.lower(), self.protocol_header.lower())
        return any(
            name in _FORWARDING or name.startswith("X-Forwarded-") or name.lower() in ours
            for name in headers
        )

    def client(self, request: HTTPServerRequest) -> str | None:
        """The key of the client for limits by address.

        From right to left the first that is no named proxy. ``None`` where nobody can know: a proxy was
        on the way, and none is named.
        """
        address = peer(request)
        if not self.any_named:
            return None if self.forwarded(request.headers) else limit_key(address)
        if self.trusts(address):
            hops = request.headers.get(self.address_header, "").rsplit(",", MAX_HOPS)
            for hop in reversed(hops[-MAX_HOPS:]):
                told = parse_address(hop)
                if told is None:
                    break  # what stands left of it was not seen by anybody we believe
                address = told
                if not self.trusts(told):
                    break
        return limit_key(address)

    def encrypted(self, request: HTTPServerRequest) -> bool:
        """Whether a request came encrypted, or from this very machine.

        By the connection itself, else by the word of a named proxy, of several the nearest. This
        machine counts only where no header says that a proxy was on the way.
        """
        address = peer(request)
        if self.tls(request):
            return True
        told = self.trusts(address) and self.protocol_header in request.headers
        return not told and is_local(address) and not self.forwarded(request.headers)

    def tls(self, request: HTTPServerRequest) -> bool:
        """Whether a request came encrypted: by the connection itself, or by the word of a named proxy."""
        context: Any = getattr(request.connection, "context", None)
        # As with the address: what `trust_xheaders` made of it is the client's own word.
        if getattr(context, "_orig_protocol", request.protocol) == "https":
            return True
        if not self.trusts(peer(request)):
            return False
        said = request.headers.get(self.protocol_header, "").rpartition(",")[2]
        return said.strip().lower() in _ENCRYPTED
