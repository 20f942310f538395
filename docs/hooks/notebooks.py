"""Adds the notebooks to the site as pages, with the outputs that are stored in them.

They are not run. mkdocs-jupyter would do the same with all of nbconvert.
"""

from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def on_config(config: Any) -> Any:
    """Lists the notebooks in the navigation."""
    section = next(entry["Tutorials"] for entry in config.nav if "Tutorials" in entry)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        title = _page(path).partition("\n")[0].lstrip("# ")
        section.append({title: f"notebooks/{path.stem}.md"})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for each notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=_page(path)))
    return files


def _page(path: Path) -> str:
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += [_output(output) for output in cell.outputs]
    return "\n\n".join(parts) + "\n"


def _output(output: Any) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        image = "".join(data["image/png"].split())
        return (
            f'<img alt="The figure that the cell above draws" src="data:image/png;base64,{image}">'
        )
    if "image/svg+xml" in data:
        return _block(data["image/svg+xml"])
    if "text/html" in data:
        return _block(data["text/html"])
    return f"```text\n{(data.get('text/plain') or output.get('text', '')).rstrip()}\n```"


def _block(html: str) -> str:
    # A blank line would end the HTML block, and its rest would be read as Markdown.
    lines = [line.strip() for line in html.splitlines() if line.strip()]
    return "<div>\n" + "\n".join(lines) + "\n</div>"
