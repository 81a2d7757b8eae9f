"""What websockets of pages offered, and which of them opened, as the browser's own tools tell it.

Not by Playwright's events: those know no subprotocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page


class Handshakes:
    """Of all pages that are opened in a context from now on."""

    def __init__(self, context: BrowserContext) -> None:
        self.offers: dict[str, list[str]] = {}
        """Subprotocols by address, of the newest attempt."""
        self.opened: set[str] = set()
        """Addresses."""
        self._urls: dict[str, str] = {}
        context.on("page", self._page)

    def opened_to(self, path: str) -> list[str]:
        """Addresses with this in their path that a socket was opened to."""
        return [url for url in self.opened if path in url.partition("?")[0]]

    def _page(self, page: Page) -> None:
        tools = page.context.new_cdp_session(page)
        tools.on("Network.webSocketCreated", self._created)
        tools.on("Network.webSocketWillSendHandshakeRequest", self._asked)
        tools.on("Network.webSocketHandshakeResponseReceived", self._answered)
        tools.send("Network.enable")

    def _created(self, event: dict[str, Any]) -> None:
        self._urls[event["requestId"]] = event["url"]

    def _asked(self, event: dict[str, Any]) -> None:
        names = event["request"]["headers"].get("Sec-WebSocket-Protocol", "")
        self.offers[self._urls[event["requestId"]]] = names.split(", ") if names else []

    def _answered(self, event: dict[str, Any]) -> None:
        if event["response"]["status"] == 101:
            self.opened.add(self._urls[event["requestId"]])
