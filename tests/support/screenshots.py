"""Pictures for the documentation, taken by the tests that see what is on them.

They are written only when asked for (``make screenshots``): no two machines draw the same letters.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.process import PROJECT

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

IMAGES = PROJECT / "docs" / "images"
VIEWPORT: ViewportSize = {"width": 1000, "height": 560}
"""Small enough for its text to be read on a page."""


def screenshot(page: Page, name: str) -> None:
    """Save what is to be seen as ``docs/images/NAME.png`` where pictures are asked for.

    In any case a picture of that name must be there: the documentation shows it.
    """
    path = IMAGES / f"{name}.png"
    if os.environ.get("SCREENSHOTS", "0") not in ("", "0"):
        page.set_viewport_size(VIEWPORT)
        page.screenshot(path=path, animations="disabled")
    assert path.is_file(), f"{path.name} is missing: make screenshots"
