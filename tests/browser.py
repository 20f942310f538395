"""Measurements of pages in Chromium, without a driver: sizes, and axe-core's findings."""

import html as entities
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
AXE = Path(__file__).parents[1] / ".art" / "node_modules" / "axe-core" / "axe.min.js"

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
  frame.srcdoc = html;
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
    host.write_text(_HOST % json.dumps(frames).replace("</", "<\\/"), "utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=120000", "--dump-dom", host.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stderr[-2000:]

    return json.loads(entities.unescape(result[1]))
