"""Make the README's picture from the running page: python tests/screenshot.py [--model-path DIR]"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "assets" / "screenshot.png"
MOST_BYTES = 400_000
SIZE = {"width": 1440, "height": 1480}


def main() -> int:
    """Start the page, ask the first example's question, and save the picture of the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-path", metavar="DIR", help="a local checkpoint in place of tiny")
    parser.add_argument("--query", default="", help="a link's part after the question mark")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")

    from visipruner.ui.layout import build, launch
    from visipruner.ui.store import Models

    page = build(Models(args.model_path))
    _, address, _ = launch(page, "127.0.0.1", prevent_thread_lock=True, quiet=True)
    picture = photograph(address + (f"?{args.query}" if args.query else ""), args.dark)
    args.out.write_bytes(small(picture))
    page.close()
    return 0


def photograph(address: str, dark: bool) -> bytes:
    """The page after one run, as PNG."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="dark" if dark else "light")
        page.goto(address)
        page.get_by_label("Question", exact=True).wait_for()
        page.wait_for_function("document.querySelector('.vp-question textarea').value !== ''")
        page.get_by_role("button", name="Run", exact=True).click()
        page.locator(".vp-verdict.same, .vp-verdict.different").wait_for(timeout=300_000)
        page.locator(".js-plotly-plot").nth(2).wait_for(timeout=60_000)
        page.wait_for_timeout(1000)  # pictures fade in
        taken = page.screenshot()
        browser.close()
    return taken


def small(png: bytes) -> bytes:
    """The same picture with as many colours as fit into the size limit."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32):
        stream = io.BytesIO()
        # Median cut, the default, would spend all colours on greys and turn red into orange.
        few = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(stream, "PNG", optimize=True)
        if stream.tell() <= MOST_BYTES:
            break
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())
