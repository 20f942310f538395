"""Adds the documents that are kept elsewhere in the repository to the site, and mends links.

A document keeps its path in the repository. Links are written for a reader of the repository:
``../benchmarks/README.md`` in ``docs/comparison.md`` becomes a link to the page of that document,
and a link to a source file becomes one to the repository, or plain text if its address is unknown.
"""

import logging
import os.path
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/*/README.md",
    "benchmarks/*/*.png",
    "benchmarks/*/*.svg",
    "visdiff/miniature/MODEL_CARD.md",
)

_FENCE = re.compile(r"^(```.*?^```[ ]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_log = logging.getLogger("mkdocs.hooks.repository")


def on_config(config: Any) -> Any:
    """Lists the benchmarks in the navigation."""
    section = next(entry["Benchmarks"] for entry in config.nav if "Benchmarks" in entry)
    for path in sorted(ROOT.glob("benchmarks/*/README.md")):
        title = path.read_text("utf-8").partition("\n")[0].lstrip("# ")
        section.append({title: path.relative_to(ROOT).as_posix()})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the documents."""
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            files.append(
                File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
            )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Returns the text of a page with the links of the site."""
    own = page.file.src_uri
    source = own if page.file.generated_by else f"docs/{own}"

    def mend(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups(default="")
        if ":" in target or target.startswith("/"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = _place(path, files)
        if place:
            link = posixpath.relpath(place, posixpath.dirname(own) or ".")
            return f"{mark}[{text}]({link}{anchor})"
        if not (ROOT / path).exists():
            _log.warning("%s links to %s, which does not exist", source, path)
        if config.repo_url and not mark:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return text

    parts = _FENCE.split(markdown)
    return "".join(p if p.startswith("```") else _LINK.sub(mend, p) for p in parts)


def _place(path: str, files: Files) -> str | None:
    """Returns the file of the site that holds a file or folder of the repository, if any."""
    path = "docs/index.md" if path == "README.md" else path
    stem, suffix = os.path.splitext(path.removeprefix("docs/"))
    wanted = stem + (".md" if suffix == ".ipynb" else suffix)
    candidates = (wanted, f"{wanted}/README.md", f"{wanted}/index.md")
    return next((c for c in candidates if files.get_file_from_path(c)), None)
