"""Take the pictures of the search page for docs/images: light, dark and narrow.

    python tools/page_pictures.py http://127.0.0.1:8080 "how do I merge two dictionaries"

Needs the packages of the group test-page, matplotlib's pillow, and Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent.parent / "docs" / "images"
PICTURES = {
    "page-light": ("light", 1000, 640),
    "page-dark": ("dark", 1000, 640),
    "page-narrow": ("light", 360, 640),
}
_COLORS = 64


def main(address: str, question: str) -> None:
    """Take the pictures."""
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (scheme, width, height) in PICTURES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(address)
            page.locator("#q").fill(question)
            page.locator("ol.hits li").first.wait_for()
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.convert("RGB").quantize(_COLORS).save(FOLDER / f"{name}.png", optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
