"""Real websocket clients against real server processes: one table, the same answers for each client.

What a row sends stands in the table once, and so does what must come back. A browser has a page of
its own, in tests/browser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import (
    KERNEL,
    MARKER,
    MAX_TOKEN_SIZE,
    REASON_MARKER,
    encode_token,
    offer_subprotocols,
)
from tests.plugins.programs import requires_node_package
from tests.support.clients import CLIENTS, Client, Connect
from tests.support.kernel_messages import Request, execute, read
from tests.support.process import TOKEN, Server, start_server

GOOD = f"{MARKER}.{encode_token(TOKEN)}"
WRONG = f"{MARKER}.wrong"
TOO_LONG = f"{MARKER}.{'x' * (MAX_TOKEN_SIZE + 1)}"
HEADER = {"Authorization": f"token {TOKEN}"}
BAD_HEADER = {"Authorization": "token wrong"}
FOREIGN = {"Origin": "http://elsewhere.example"}

OPEN = "open"

CHANNELS = "api/kernels/{kernel}/channels"
NO_KERNEL = "api/kernels/00000000-0000-0000-0000-000000000000/channels"
FORBIDDEN = "api/events/subscribe"


@dataclass(frozen=True)
class Row:
    """What is sent, and what must come back.

    ``offer`` is what is offered. ``says`` is the HTTP status of a plain refusal, the slug of a reason
    told by close code, or ``OPEN`` for a socket that stays open and works. ``answered`` is the
    subprotocol.
    """

    id: str
    offer: tuple[str, ...]
    says: str | int
    answered: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = CHANNELS
    mode: str = "offered"


# By every route of the credential, and what is answered.
ACCEPTED = (
    Row("marker", (MARKER, GOOD), OPEN, MARKER),
    Row("marker_last", (GOOD, REASON_MARKER, MARKER), OPEN, MARKER),
    Row("handlers_choice", (KERNEL, MARKER, GOOD, REASON_MARKER), OPEN, KERNEL),
    Row("reason_marker", (REASON_MARKER,), OPEN, REASON_MARKER, HEADER),
    Row("header", (), OPEN, None, HEADER),
    Row("url", (), OPEN, path=f"{CHANNELS}?token={TOKEN}"),
    Row("subprotocol_before_header", (MARKER, GOOD), OPEN, MARKER, BAD_HEADER),
)
# For the credential, or for want of one.
REJECTED = (
    Row("none", (), 403),
    Row("none_opted_in", (REASON_MARKER,), "credentials_missing", REASON_MARKER),
    Row("none_kernel", (KERNEL, REASON_MARKER), "credentials_missing", REASON_MARKER),
    Row("wrong", (MARKER, WRONG), "token_rejected", MARKER),
    Row("wrong_kernel", (KERNEL, MARKER, WRONG), "token_rejected", KERNEL),
    Row("wrong_all", (KERNEL, MARKER, WRONG, REASON_MARKER), "token_rejected", REASON_MARKER),
    Row("wrong_beside_good_header", (MARKER, WRONG), "token_rejected", MARKER, HEADER),
    Row("wrong_header", (), 403, headers=BAD_HEADER),
    Row("wrong_header_opted_in", (REASON_MARKER,), "token_rejected", REASON_MARKER, BAD_HEADER),
    Row("wrong_url", (), 403, path=f"{CHANNELS}?token=wrong"),
)
UNREADABLE = (
    Row("two_tokens", (MARKER, GOOD, WRONG), "malformed_credentials", MARKER),
    Row("bad_percent", (MARKER, f"{MARKER}.%zz"), "malformed_credentials", MARKER),
    Row("over_long", (MARKER, TOO_LONG), "malformed_credentials", MARKER),
    Row("unknown_version", (MARKER, GOOD.replace("v1", "v2")), "malformed_credentials", MARKER),
    Row("empty_is_none", (MARKER, f"{MARKER}."), "credentials_missing", MARKER),
)
# For what comes after the credential; a wrong one is the reason before all that.
AFTER_CREDENTIAL = (
    Row("missing_kernel", (MARKER, GOOD), "not_found", MARKER, path=NO_KERNEL),
    Row("missing_kernel_plain", (), 404, headers=HEADER, path=NO_KERNEL),
    Row("missing_kernel_wrong", (MARKER, WRONG), "token_rejected", MARKER, path=NO_KERNEL),
    Row("no_websocket", (MARKER, GOOD), "not_found", MARKER, path="api/status"),
    Row("no_path", (MARKER, GOOD), "not_found", MARKER, path="api/nowhere"),
    Row("no_path_plain", (), 404, headers=HEADER, path="api/nowhere"),
    Row("forbidden", (MARKER, GOOD), "forbidden", MARKER, path=FORBIDDEN),
    Row("forbidden_plain", (), 403, headers=HEADER, path=FORBIDDEN),
    Row("forbidden_wrong", (MARKER, WRONG), "token_rejected", MARKER, path=FORBIDDEN),
)
# From a page of another origin.
ACROSS = (
    Row("none", (REASON_MARKER,), 403, headers=FOREIGN),
    Row("good", (MARKER, GOOD), OPEN, MARKER, FOREIGN),
    Row("good_missing_kernel", (MARKER, GOOD), "not_found", MARKER, FOREIGN, NO_KERNEL),
    Row("wrong", (MARKER, WRONG), "token_rejected", MARKER, FOREIGN),
    Row("missing_kernel_wrong", (MARKER, WRONG), "token_rejected", MARKER, FOREIGN, NO_KERNEL),
)
MODES = (
    Row("always_none", (), "credentials_missing", mode="always"),
    Row("always_wrong", (), "token_rejected", headers=BAD_HEADER, mode="always"),
    Row("always_missing", (), "not_found", headers=HEADER, path=NO_KERNEL, mode="always"),
    Row("always_good", (MARKER, GOOD), OPEN, MARKER, mode="always"),
    Row("always_across", (), 403, headers=FOREIGN, mode="always"),
    Row("explicit_wrong", (MARKER, WRONG), 403, mode="explicit"),
    Row("explicit_asked", (WRONG, REASON_MARKER), "token_rejected", REASON_MARKER, mode="explicit"),
    Row("never_wrong", (MARKER, WRONG, REASON_MARKER), 403, mode="never"),
    Row("never_two_tokens", (MARKER, GOOD, WRONG), 400, mode="never"),
    Row("never_missing", (MARKER, GOOD), 404, path=NO_KERNEL, mode="never"),
    Row("never_good", (MARKER, GOOD), OPEN, MARKER, mode="never"),
)


class Servers:
    """One server for each mode, and a kernel in each, started when a row first asks for it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._running: dict[str, tuple[Server, str]] = {}

    def url(self, mode: str, path: str) -> str:
        """The address of a path on the server of this mode, with its kernel filled in."""
        if mode not in self._running:
            config = {
                "ServerApp": {"authorizer_class": "tests.support.authorizers.NoEvents"},
                # Each row is sent by every client within seconds: that is no storm.
                "TokenWebSocketApp": {"close_reasons": mode, "refusal_burst": 1000},
            }
            server = start_server(self._directory, config=config, name=mode)
            self._stack.enter_context(server)
            self._running[mode] = server, server.start_kernel()
        server, kernel = self._running[mode]
        return server.ws_url + path.format(kernel=kernel)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("clients"), stack)


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    name: str = request.param
    if name == "ws":
        requires_node_package(name)
    return CLIENTS[name]


def each(rows: Iterable[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.id)


async def holds(row: Row, servers: Servers, connect: Connect) -> None:
    """Send what the row says and compare everything that the client reports."""
    url = servers.url(row.mode, row.path)
    async with await connect(url, row.offer, row.headers) as client:
        assert client.subprotocol == row.answered
        if isinstance(row.says, int):
            assert client.status == row.says
            return
        assert client.status == 101
        if row.says == OPEN:
            await is_served(client)
            return
        assert await client.receive() is None
        reason = REASONS[row.says]
        assert (client.code, client.reason) == (reason.code, reason.close_reason())


async def is_served(client: Client) -> None:
    """The kernel answers, so it is no refused socket before its close."""
    request = Request("kernel_info_request")
    await client.send(request.frame(client.subprotocol))
    while (frame := await client.receive()) is not None:
        message = read(frame)
        if message["parent_header"].get("msg_id") == request.id and message["channel"] == "shell":
            assert message["content"]["status"] == "ok"
            return
    raise AssertionError(f"closed with {client.code} {client.reason}")


@each(ACCEPTED)
async def test_C1_1_C2_1_C2_6_J12_J14_accepted(row, servers, connect):
    await holds(row, servers, connect)


@each(REJECTED)
async def test_C2_2_C3_1_C3_2_C3_3_rejected(row, servers, connect):
    await holds(row, servers, connect)


@each(UNREADABLE)
async def test_C1_2_C1_3_unreadable(row, servers, connect):
    await holds(row, servers, connect)


@each(AFTER_CREDENTIAL)
async def test_C2_7_C3_1_C3_3_after_the_credential(row, servers, connect):
    await holds(row, servers, connect)


@each(ACROSS)
async def test_C3_4_another_origin(row, servers, connect):
    await holds(row, servers, connect)


@each(MODES)
async def test_C3_1_C3_3_modes(row, servers, connect):
    await holds(row, servers, connect)


@pytest.mark.parametrize(
    ("existing", "answered"), [((KERNEL,), KERNEL), ((), MARKER)], ids=["v1", "legacy"]
)
async def test_C1_1_J6_a_cell_runs(existing, answered, servers, connect):
    """Marker and token do not disturb either of the kernel's wire protocols."""
    url = servers.url("offered", CHANNELS)
    offer = offer_subprotocols(existing, TOKEN)
    async with await connect(url, offer, {}) as client:
        assert (client.status, client.subprotocol) == (101, answered)
        request = execute("print(6 * 7)")
        await client.send(request.frame(client.subprotocol))
        printed, status = "", None
        # The reply and the output come by different channels, in any order.
        while status is None or not printed.endswith("\n"):
            frame = await client.receive()
            assert frame is not None, f"closed with {client.code} {client.reason}"
            message = read(frame)
            if message["parent_header"].get("msg_id") != request.id:
                continue
            if message["header"]["msg_type"] == "stream":
                printed += message["content"]["text"]
            elif message["header"]["msg_type"] == "execute_reply":
                status = message["content"]["status"]
        assert (printed, status) == ("42\n", "ok")
