"""Screenshots of the pages, for the documents: ``make screenshots``.

Runs the demos of `visdiff demo` and a comparison of three sets, unless the folder already holds
their pages, and takes a screenshot of each page at 1280 and 390 CSS pixels, light and dark. Needs
Chromium.
"""

import argparse
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from editing.demo import demo as audit_demo
from visdiff.cache import Cache
from visdiff.cli import demo as compare_demo
from visdiff.comparison.many import compare_many
from visdiff.errors import InputError
from visdiff.files import write_whole
from visdiff.imageset import ImageSet

HERE = Path(__file__).parent / "screenshots"
HEIGHTS = {1280: 1640, 390: 1500}
"""Width → height of the screenshots in CSS pixels."""
MAX_BYTES = 300_000
_DARK = {"light": 1, "dark": 0}


def make_pages(folder: Path) -> dict[str, Path]:
    """Returns the page of an audit, of a comparison and of several comparisons."""
    pages = {
        "audit": folder / "audit" / "audit.html",
        "compare": folder / "compare" / "report.html",
        "many": folder / "many" / "index.html",
    }
    with Cache(folder / "cache") as cache:
        if not pages["audit"].is_file():
            audit_demo(folder / "audit", cache)
        if not pages["compare"].is_file():
            compare_demo.demo(folder / "compare", cache)
        if not pages["many"].is_file():
            drawn = folder / "audit" / "images" / "manifest.jsonl"
            sets = {
                "brick wall": ImageSet.open(folder / "compare" / "A" / "manifest.csv"),
                "grass": ImageSet.open(folder / "compare" / "B" / "manifest.csv"),
                "places": ImageSet.open(drawn, where={"group_name": "original", "group": "places"}),
            }
            many = compare_many(
                sets, preset="miniature", cache=cache, statistics__cross_fit="never"
            )
            many.save(folder / "many")
    return pages


def screenshot(page: Path, width: int, scheme: str, chromium: str) -> Image.Image:
    """Returns the upper part of a page as Chromium draws it.

    Args:
        page: The HTML file.
        width: Width in CSS pixels.
        scheme: "light" or "dark".
        chromium: Path of the browser.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "page.png"
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={scratch}/profile", f"--window-size={width},{HEIGHTS[width]}",
                f"--blink-settings=preferredColorScheme={_DARK[scheme]}",
                f"--screenshot={file}", page.resolve().as_uri(),
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        with Image.open(file) as image:
            return image.convert("RGB")


def small_png(image: Image.Image) -> bytes:
    """Returns a PNG of at most `MAX_BYTES`, with as many colours as fit."""
    data = b""
    for colours in (256, 128, 64, 32):
        buffer = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
        if len(data) <= MAX_BYTES:
            break
    return data


def main() -> None:
    """Makes the pages and writes ``docs/screenshots/NAME-WIDTH-SCHEME.png``."""
    parser = argparse.ArgumentParser(description="Make the screenshots of the documents.")
    parser.add_argument(
        "--pages", type=Path, default=Path("visdiff-demo"), help="Folder of the demos' output."
    )
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise InputError("Expected Chromium for the screenshots, got none; install chromium.")
    for name, page in make_pages(options.pages).items():
        for width in HEIGHTS:
            for scheme in _DARK:
                image = screenshot(page, width, scheme, chromium)
                write_whole(HERE / f"{name}-{width}-{scheme}.png", small_png(image))


if __name__ == "__main__":
    main()
