"""Runs these notebooks and stores their outputs, without what changes with every run.

Arguments are the beginnings of the names of some of them, such as 03.
"""

import sys
import tempfile
from pathlib import Path
from shutil import copytree
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
DATA = ("fox", "icons")
"""Folders that the notebooks read."""


def run(path: Path) -> None:
    """Runs a notebook in an empty folder with the data, and stores its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        for name in DATA:
            copytree(HERE / name, Path(folder) / name)
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=1800, record_timing=False, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [stored(o) for o in cell.outputs if o.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def stored(output: Any) -> Any:
    """Returns an output with one copy of its image, and no size of it in pixels."""
    if "image/png" in output.get("data", {}):
        output.data.pop("image/jpeg", None)
        output.metadata = {}
    return output


if __name__ == "__main__":
    for file in sorted(HERE.glob("*.ipynb")):
        if not file.name.startswith(tuple(sys.argv[1:]) or ""):
            continue
        sys.stdout.write(f"{file.name}\n")
        sys.stdout.flush()
        run(file)
