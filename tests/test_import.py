"""`import visdiff` is cheap, and its public names are what they say."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import editing
import visdiff

HEAVY = ("torch", "numpy", "pandas", "transformers", "open_clip", "PIL", "pydantic", "matplotlib")

TIMED_IMPORT = f"""
import json, sys, time
start = time.perf_counter()
import visdiff
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def python(code: str) -> str:
    """Run code in a new interpreter and return what it printed."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_fast_and_loads_nothing_heavy() -> None:
    runs = [json.loads(python(TIMED_IMPORT)) for _ in range(5)]
    assert [loaded for _, loaded in runs] == [[]] * 5
    assert min(seconds for seconds, _ in runs) < 0.2


@pytest.mark.parametrize("package", [visdiff, editing], ids=["visdiff", "editing"])
def test_dir_lists_the_public_names_alone_and_each_resolves(package: ModuleType) -> None:
    assert dir(package) == sorted(package.__all__)
    assert [name for name in package.__all__ if getattr(package, name) is None] == []


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'comapre'"):
        _ = visdiff.comapre


@pytest.mark.parametrize(
    "first",
    [
        "import visdiff.comparison.compare",
        "from visdiff.comparison.compare import compare",
        "visdiff.compare",
        "pass",
    ],
)
def test_compare_is_the_function_whatever_was_imported_before(first: str) -> None:
    # Importing a submodule binds it in its package: no submodule may have a public name.
    code = f"import visdiff\n{first}\nprint(type(visdiff.compare).__name__)"
    assert python(code).strip() == "function"


def test_both_packages_are_marked_as_typed() -> None:
    for package in ("visdiff", "editing"):
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        (folder,) = spec.submodule_search_locations
        with open(f"{folder}/py.typed", encoding="utf-8"):
            pass


@pytest.mark.slow
def test_a_comparison_whose_answers_are_cached_needs_no_torch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / side / f"{i}.png")
    code = (
        "import sys, visdiff\n"
        "report = visdiff.compare('a', 'b', preset='miniature', progress=False)\n"
        "print('torch' in sys.modules, report.provenance.device)"
    )
    environment = {**os.environ, "VISDIFF_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert said[0][0] == "True"
    assert said[1] == ["False", "none"]
