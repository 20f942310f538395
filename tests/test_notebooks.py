"""The notebooks run from top to bottom, and their stored outputs tell the same verdicts."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000
"""Bytes of a notebook with its outputs."""

VERDICT = "verdict"
"""Id of the cell whose output is compared: its words, without numbers."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> Iterator[str]:
    """Yields what a reader of the stored cell reads as text."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def verdict(notebook: Any) -> str:
    """Returns the printed verdict; numbers depend on the machine's last bits."""
    (cell,) = [cell for cell in code_cells(notebook) if cell.id == VERDICT]
    return re.sub(r"\d+(\.\d+)?(e-\d+)?", "0", "".join(o.get("text", "") for o in cell.outputs))


def test_the_readme_opens_every_notebook() -> None:
    readme = (FOLDER.parent / "README.md").read_text("utf-8")
    assert NOTEBOOKS
    assert [p.name for p in NOTEBOOKS if f"](notebooks/{p.name})" not in readme] == []


@each
def test_notebooks_use_documented_names(path: Path) -> None:
    pages = (FOLDER.parent / "docs" / "reference").glob("*.md")
    public = "\n".join(page.read_text("utf-8") for page in pages)
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    # A module counts if a name in it does.
    for module, names in re.findall(r"(?m)^from ((?:visdiff|editing)[\w.]*) import (.+)$", code):
        for name in names.split(", "):
            assert re.search(rf"(?m)^::: {module}\.{name}\b", public), f"{module}.{name}"
    for name in re.findall(r"(?<![\w.])((?:visdiff|editing)\.\w+)", code):
        assert re.search(rf"(?m)^::: {name}$", public) or f"from {name}" in code, name


@each
def test_stored_outputs_are_complete_small_and_portable(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = code_cells(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert verdict(notebook)
    assert path.stat().st_size <= LARGEST
    kinds = {(o.output_type, o.get("name", "")) for cell in code for o in cell.outputs}
    assert kinds <= {("stream", "stdout"), ("display_data", ""), ("execute_result", "")}
    stored = "\n".join(text for cell in code for text in texts(cell))
    assert re.findall(r"(?:/tmp|/home|/root|/work|/Users)/\S*|\bat 0x[0-9a-f]+", stored) == []
    # What a front end adds of its own (timings, collapsed cells) changes with every run.
    assert [cell.id for cell in notebook.cells if cell.metadata] == []
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@each
def test_a_run_tells_the_stored_verdict(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    stored = verdict(notebook)
    for folder in FOLDER.iterdir():
        if folder.is_dir() and folder.name != "runs":
            shutil.copytree(folder, tmp_path / folder.name)
    # The first cell that raises makes this raise, with the cell and its traceback.
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert verdict(notebook) == stored
