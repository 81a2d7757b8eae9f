"""What may be wrong, and what to change: one table, for the doctor's findings and for the reference page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Cause(NamedTuple):
    """A likely cause, and which setting of which program to change. Sentences for people."""

    text: str
    change: str


def _table() -> dict[str, Cause]:
    return {
        "unknown_name": Cause(
            "the host's name is misspelt, or known to another network's name server only",
            "the host in the URL; or connect to the network (VPN) that knows it",
        ),
        "not_listening": Cause(
            "no server is running there, it listens at another port or address, or a firewall is between",
            "start the server, or correct the port; ServerApp.ip where other machines are to reach it",
        ),
        "some_addresses_dead": Cause(
            "the name has several addresses, and the server listens at some of them only",
            "the name's A and AAAA records, or ServerApp.ip = '*' so that it listens at IPv4 and IPv6",
        ),
        "certificate_expired": Cause(
            "the certificate has expired",
            "renew it, and reload who has it: nginx ssl_certificate, haproxy bind … crt, ServerApp.certfile",
        ),
        "certificate_not_yet": Cause(
            "the certificate is not valid yet, or this machine's clock is slow",
            "this machine's time (NTP), or the certificate",
        ),
        "certificate_name": Cause(
            "the certificate is for another name than the URL has",
            "the host in the URL, or a certificate that has that name among its subjectAltName",
        ),
        "certificate_chain": Cause(
            "the certificate is signed by nobody that is trusted here: it is self-signed, of a private"
            " authority, or the server leaves out the intermediate ones",
            "--ca FILE with the authority's certificate; at the server the whole chain: nginx"
            " ssl_certificate fullchain.pem",
        ),
        "certificate_other": Cause(
            "the server's certificate is not the one that was expected",
            "find out whose it is before anything is sent; then the pin or the CA bundle",
        ),
        "not_tls": Cause(
            "what listens there does not speak TLS, or no version in common",
            "http:// in place of https://, or the port; nginx listen … ssl, haproxy bind … ssl crt",
        ),
        "not_http": Cause(
            "what listens there does not speak HTTP, or speaks TLS and was asked without",
            "https:// in place of http://, or the port",
        ),
        "plain_http": Cause(
            "the address is http and not of this machine: whoever is on the way can read a credential",
            "https:// in the URL; --plain-http where the way there is safe otherwise",
        ),
        "culled": Cause(
            "the Hub answers in the place of the user's server: that was stopped, or culled for being idle,"
            " or there is none of that name",
            "start it again, on the Hub's page or with its API; how long it may be idle:"
            " jupyterhub-idle-culler --timeout",
        ),
        "gateway": Cause(
            "the proxy reaches no server: it is stopped, or listens elsewhere than the proxy thinks",
            "start the server; nginx proxy_pass, haproxy server, Caddy reverse_proxy: the server's port",
        ),
        "wrong_host": Cause(
            "the server refuses the Host that reaches it, since its name is not that of a local machine",
            "the proxy: nginx proxy_set_header Host $http_host; or the server: ServerApp.local_hostnames ="
            " ['that name'], or ServerApp.allow_remote_access = True",
        ),
        "host_changed": Cause(
            "a proxy sends the server another Host than the one asked for: browsers will fail the check of"
            " their Origin",
            "nginx proxy_set_header Host $http_host; Apache ProxyPreserveHost On",
        ),
        "wall": Cause(
            "something in front of the server wants a sign-in of its own before it lets anybody through",
            "let the paths below the server's base pass, or give the front's credential (the basic plugin)",
        ),
        "wrong_base": Cause(
            "the URL has another path than the server's base_url",
            "the URL, to the one named here; or ServerApp.base_url",
        ),
        "no_jupyter": Cause(
            "there is no Jupyter server at this address: the path (base_url), the port or the host is wrong",
            "the URL: `jupyter server list` on that machine shows it; ServerApp.base_url",
        ),
        "prefix_changed": Cause(
            "a proxy takes the path's beginning away, or adds one, and the server does not know of it",
            "ServerApp.base_url: the path before the proxy; and no path behind the port in nginx proxy_pass",
        ),
        "no_extension": Cause(
            "jupyter-token-ws is not installed in the server's environment, or is switched off",
            "`jupyter server extension list` on that machine tells; TokenWebSocketApp.enabled",
        ),
        "versions": Cause(
            "client and server have no version of the interface in common",
            "upgrade jupyter-token-ws where it is older: here, or at the server",
        ),
        "clock_skew": Cause(
            "this machine's clock and the server's, or the proxy's, differ: tickets and certificates end at"
            " another time than expected",
            "the time on the machine that is wrong: NTP, timedatectl set-ntp true",
        ),
        "far_or_busy": Cause(
            "the server is far away or busy, or a proxy holds requests up",
            "the server's load, its event loop (an extension that blocks), or the way there",
        ),
        "stale_token": Cause(
            "the credential is not valid at this server: it has expired, was revoked, or is of an earlier"
            " run; a server without a configured token makes a new one at each start",
            "get the present one: `jupyter server list`, `jupyter token-ws login`, the Hub's token page;"
            " IdentityProvider.token for one that stays",
        ),
        "login_failed": Cause(
            "this way of signing in does not work at this server",
            "what the plugin needs, see above; or leave the plugin out",
        ),
        "authorization_lost": Cause(
            "the credential opens REST paths and not this: a proxy removes the header on the way, or puts its"
            " own in its place",
            "nginx proxy_set_header Authorization $http_authorization; no auth_basic on this path",
        ),
        "no_upgrade": Cause(
            "a proxy passes the request on without its Upgrade headers, or refuses websockets",
            "nginx proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header"
            ' Connection "upgrade"; haproxy: no option httpclose; Apache ProxyPass … upgrade=websocket',
        ),
        "cut_after_101": Cause(
            "a proxy lets the handshake of a websocket through, and nothing after it",
            "nginx proxy_http_version 1.1; else a proxy that can websockets",
        ),
        "subprotocol_lost": Cause(
            "a proxy removes Sec-WebSocket-Protocol on the way, or answers with one of its own",
            "the proxy: pass the header on as it is, both ways",
        ),
        "query_lost": Cause(
            "a proxy removes the query from the address",
            "nginx: no rewrite that ends in ?; haproxy: http-request set-path, which keeps the query",
        ),
        "close_code_lost": Cause(
            "a proxy takes the websocket apart and closes with a code of its own",
            "the proxy: pass a websocket's bytes on as they are, after 101",
        ),
        "held_back": Cause(
            "a proxy keeps the answer until it is complete, or until its buffer is full",
            "nginx proxy_buffering off, no proxy_ignore_headers X-Accel-Buffering, and gzip not for"
            " text/event-stream, at {base}api/token-ws/tunnel; Apache flushpackets=on; Caddy flush_interval"
            " -1",
        ),
        "held_briefly": Cause(
            "a proxy keeps each piece of the answer for a moment, in case more comes",
            "haproxy: option http-no-delay, in defaults or backend",
        ),
        "body_limit": Cause(
            "a proxy refuses bodies of this size",
            "nginx client_max_body_size 1m; haproxy tune.bufsize where a rule reads bodies; the same for"
            " {base}api/token-ws/tunnel as for the rest",
        ),
        "server_limit": Cause(
            "the server itself takes no bodies of this size",
            "TokenWebSocketApp.tunnel_max_post_size",
        ),
        "header_limit": Cause(
            "a proxy, or the server, takes no headers of this size, so that long tokens do not arrive",
            "nginx large_client_header_buffers 4 16k; haproxy tune.bufsize 32768; tornado max_header_size",
        ),
        "message_limit": Cause(
            "a proxy closes websockets when a long message comes",
            "the proxy's limit of a websocket message or frame: 1 MiB",
        ),
        "idle_cut": Cause(
            "something on the way ends connections that are silent for a few seconds",
            "nginx proxy_read_timeout and proxy_send_timeout 1h; haproxy timeout tunnel 1h, timeout client"
            " and server; or TokenWebSocketApp.keepalive_interval below half of it",
        ),
        "too_many": Cause(
            "more tunnels or websockets are open than the server allows; what was cut counts for a minute",
            "wait, or TokenWebSocketApp.max_tunnels_per_principal, max_connections_per_principal",
        ),
        "not_resumed": Cause(
            "requests go to several servers that do not share their tunnels, or the tunnel was ended with its"
            " connection",
            "the load balancer: the same client to the same server (haproxy balance source or a cookie, nginx"
            " ip_hash); TokenWebSocketApp.tunnel_resume_window",
        ),
        "too_late": Cause(
            "somebody on the way waits, or drops what is sent; or the port wants TLS and was asked without",
            "the load of the server, the firewall or proxy between, or https:// in place of http://",
        ),
    }


CAUSES: Mapping[str, Cause] = MappingProxyType(_table())
"""Every cause by the name that ``--json`` has. Names are stable."""
