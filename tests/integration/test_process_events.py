"""What a real server writes into the log of events, as the page on events sets it up: one ticket's life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jupyter_token_ws.guard.events import NAMES
from jupyter_token_ws.protocol.subprotocols import KERNEL, offer_subprotocols
from tests.integration.conftest import Start
from tests.support.door import EVENTS
from tests.support.knock import knock, refused
from tests.support.observing import Page
from tests.support.pages import save
from tests.support.waiting import until, whole_lines

LOGIN = "api/token-ws/login"
WRONG = "not-a-token-of-anybody"


async def test_a_ticket_from_its_issue_to_its_revocation(start: Start, tmp_path: Path):
    home = tmp_path / "server"
    home.mkdir()
    # Beside the one that the tests write, and read with it.
    assert save("docs/reference/events.md", home) == ["jupyter_server_config.py"]
    server = start()
    path = home / "root" / "events.log"

    def ask(method: str, token: str, body: Any = None) -> Any:
        answer = server.request(method, LOGIN, body, token=token)
        assert answer.status in (200, 204), answer
        return answer.json() if answer.body else None

    def told(name: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in whole_lines(path)]
        wanted = f"https://events.jupyter.org/jupyter_token_ws/{name}/v1"
        return [event for event in events if event["__schema__"] == wanted]

    kernel = server.start_kernel()
    channels = f"/api/kernels/{kernel}/channels"
    first = ask("POST", server.token, {"max_age": 120})["token"]
    async with await knock(server.port, channels, offer_subprotocols([KERNEL], first)) as socket:
        assert (socket.status, socket.subprotocol) == (101, KERNEL)
        second = ask("POST", first, {"renew": True, "max_age": 60})["token"]
        other = await refused(server.port, f"/{EVENTS}", offer_subprotocols([], WRONG))
        assert other.code == 4403
        ask("DELETE", second)
        await socket.wait_closed()
        assert (socket.code, socket.slug) == (4401, "token_revoked")
    again = await refused(server.port, channels, offer_subprotocols([KERNEL], first))
    assert (again.code, again.slug) == (4401, "token_revoked")
    until(lambda: told("socket_closed") and len(told("socket_refused")) == 2, "the last events")

    heard = {name: told(name) for name in NAMES}
    [issued], [used], [renewed], [revoked] = (
        heard[f"ticket_{action}"] for action in ("issued", "used", "renewed", "revoked")
    )
    assert len({each["family"] for each in (issued, used, renewed, revoked)}) == 1
    assert (issued["source"], issued["single_use"]) == ("header", False)
    assert 0 < renewed["expires_in"] <= 60 < issued["expires_in"] <= 120
    assert used["handler"].endswith("KernelWebsocketHandler")
    assert (revoked["cause"], revoked["sockets"]) == ("request", 1)
    [opened], [closed] = heard["socket_opened"], heard["socket_closed"]
    assert opened["socket"] == closed["socket"]
    assert opened["kernel_id"] == closed["kernel_id"] == kernel
    assert (opened["source"], opened["route"]) == ("subprotocol", "api/kernels/{id}/channels")
    assert (closed["by"], closed["code"], closed["slug"]) == ("server", 4401, "token_revoked")
    slugs = [(each["slug"], each["code"], each["told"]) for each in heard["socket_refused"]]
    assert slugs == [("token_rejected", 4403, True), ("token_revoked", 4401, True)]
    written = path.read_text()
    for secret in (server.token, first, second, WRONG):
        assert secret not in written
    page = Page(server.request("GET", "metrics").body.decode())
    for action in ("issued", "used", "renewed", "revoked"):
        assert page.value("tickets_total", action=action) == 1
