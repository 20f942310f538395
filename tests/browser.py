"""Measurements of pages in Chromium, without a driver: sizes, and axe-core's findings."""

import html as entities
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
AXE = Path(__file__).parents[1] / ".art" / "node_modules" / "axe-core" / "axe.min.js"

# Headless Chromium has no mouse by default, and pages may treat it as a phone.
_MOUSE = "primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"

_HOST = """<!doctype html><meta charset="utf-8"><style>iframe { border: 0; height: 900px; }</style>
<body><script>
const pages = %s, found = {};
const finish = (name, values) => {
  found[name] = values;
  if (Object.keys(found).length < pages.length) return;
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
};
for (const [name, width, html] of pages) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px";
  frame[%s] = html;
  frame.onload = async () => {
    const view = frame.contentWindow, root = view.document.documentElement;
    const values = {
      width: view.innerWidth, scrollWidth: root.scrollWidth, height: root.scrollHeight,
      dark: view.matchMedia("(prefers-color-scheme: dark)").matches, violations: [],
      checked: Boolean(view.axe),
    };
    if (view.axe) {
      const checked = await view.axe.run(view.document, { runOnly: ["wcag2a", "wcag2aa"] });
      values.violations = checked.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html));
    }
    finish(name, values);
  };
  document.body.append(frame);
}
</script>
"""


def measure(
    pages: Mapping[str, tuple[int, str]], folder: Path, *, dark: bool = False
) -> dict[str, Any]:
    """Returns the size of each page and the violations of WCAG 2 A and AA that axe-core finds.

    Args:
        pages: Name → width in CSS pixels and HTML.
        folder: Folder for temporary files.
        dark: Whether the reader prefers a dark page.

    Returns:
        Name → ``width``, ``scrollWidth``, ``height``, ``dark``, ``checked`` (whether axe-core is
        installed, see `make art`) and ``violations``.
    """
    axe = AXE.read_text("utf-8") if AXE.is_file() else ""
    frames = []
    for name, (width, html) in pages.items():
        # The policy of the page forbids the script that measures it.
        bare, n = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html, count=1)
        assert n == 1
        frames.append((name, width, bare.replace("</body>", f"<script>{axe}</script></body>")))
    host = folder / "host.html"
    host.write_text(_host(frames, "srcdoc"), "utf-8")
    return _run(host.as_uri(), folder, dark=dark)


def measure_site(
    site: Path, pages: Mapping[str, int], folder: Path, *, dark: bool = False
) -> dict[str, Any]:
    """Returns the same of pages of a built site, with their scripts, from a server on loopback.

    Args:
        site: Folder of the site.
        pages: Path below it, such as "quickstart/" → width in CSS pixels.
        folder: Folder for temporary files.
        dark: Whether the reader prefers a dark page.
    """
    axe = f"<script>{AXE.read_text('utf-8')}</script></body>"
    host = _host([(path, width, f"/{path}") for path, width in pages.items()], "src")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(site))

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            if path != "host.html" and path not in pages:
                return super().do_GET()
            page = host
            if path in pages:
                page = (site / path / "index.html").read_text("utf-8").replace("</body>", axe)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            return _run(f"http://127.0.0.1:{server.server_port}/host.html", folder, dark=dark)
        finally:
            server.shutdown()


def _host(frames: Sequence[tuple[str, int, str]], attribute: str) -> str:
    return _HOST % (json.dumps(frames).replace("</", "<\\/"), json.dumps(attribute))


def _run(address: str, folder: Path, *, dark: bool) -> dict[str, Any]:
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1},{_MOUSE}",
            "--virtual-time-budget=120000", "--dump-dom", address,
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stderr[-2000:]
    return json.loads(entities.unescape(result[1]))
