"""The page of the how-to about ``TokenWebSocket``, with the package as a checkout builds it."""

from __future__ import annotations

import pytest

from tests.support.browser import PROGRAM, another_origin, chromium
from tests.support.pages import build_package, save
from tests.support.process import start_server

PAGE = "docs/how-to/token-websocket-in-your-page.md"


@pytest.mark.requires(*PROGRAM)
def test_page_is_refused_and_runs_a_cell(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    assert save(PAGE, folder) == ["kernel.html"]
    build_package(folder)
    with another_origin(folder) as origin, chromium() as browser:
        config = {"ServerApp": {"allow_origin": origin.rstrip("/")}}
        with start_server(tmp_path, config=config) as server:
            page = browser.new_page()
            page.goto(f"{origin}kernel.html")
            page.fill("[name=base]", server.url.rstrip("/"))
            page.fill("[name=token]", "wrong")
            page.click("button:has-text('Run')")
            status = page.get_by_role("status")
            status.get_by_text("No kernel (Failed to fetch)").wait_for()
            page.fill("[name=token]", server.token)
            page.click("button:has-text('Run')")
            page.wait_for_function("document.querySelector('pre').textContent === '42\\n'")
            assert status.inner_text() == "connected"
            page.click("button:has-text('Run')")
            page.wait_for_function("document.querySelector('pre').textContent === '42\\n42\\n'")
            for kernel in server.request("GET", "api/kernels").json():
                server.request("DELETE", f"api/kernels/{kernel['id']}")
            status.get_by_text("the kernel was shut down").wait_for()
            page.click("button:has-text('Run')")
            page.wait_for_function(
                "document.querySelector('pre').textContent === '42\\n42\\n42\\n'"
            )
            server.stop()
            status.get_by_text("the server is shutting down").wait_for()
