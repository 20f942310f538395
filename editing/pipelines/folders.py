"""What is wrong with the folder of a pipeline."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visdiff.errors import InputError

_LFS = b"version https://git-lfs"
_LFS_BYTES = 1024
"""More than a pointer of git-lfs has."""


def check_folder(path: Path) -> None:
    """Checks that a folder has what its index names.

    Args:
        path: A folder.

    Raises:
        InputError: It has no index or the index cannot be read, a component is missing, or a file
            is a pointer of git-lfs instead of its content.
    """
    if not (path / "model_index.json").is_file():
        raise InputError(
            f"Expected the folder of a pipeline, got {path} without model_index.json"
            f"{_what_else(path)}."
        )
    for name in _components(path):
        part = path / name
        if not part.is_dir():
            raise InputError(
                f"Expected the folder {part}, which model_index.json names, got none; copy it too, "
                "or save the pipeline again."
            )
        for file in sorted(part.iterdir()):
            if _is_pointer(file):
                raise InputError(
                    f"Expected the content of {file}, got a pointer of git-lfs; run git lfs pull "
                    f"in {path}."
                )


def folder_error(path: Path, error: Exception) -> InputError:
    """Returns an error about a folder that a library could not load.

    Args:
        path: The folder.
        error: What the library raised.
    """
    reason = describe_error(error)
    variants = sorted(
        {p.suffixes[0][1:] for p in path.glob("*/*.safetensors") if len(p.suffixes) == 2}
    )
    if "no file named" in str(error) and variants:
        return InputError(
            f"Expected weights without a variant in their names, got {path} with files of "
            f"{variants[0]!r} only; save the pipeline again without a variant."
        )
    return InputError(
        f"Expected a pipeline that diffusers can load, got the folder {path} ({reason}); copy its "
        "files again, or save the pipeline again."
    )


def describe_error(error: Exception) -> str:
    """Returns the kind and the first sentence of a library's error, on one line."""
    # Libraries add their own advice after the first sentence.
    first = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return textwrap.shorten(f"{type(error).__name__}: {first}", 240, placeholder=" …")


def _components(path: Path) -> list[str]:
    """Returns the components of a pipeline by its index."""
    index = path / "model_index.json"
    try:
        found: Any = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(
            f"Expected JSON in {index}, got {error}; save the pipeline again."
        ) from error
    if not isinstance(found, Mapping) or "_class_name" not in found:
        raise InputError(
            f"Expected the index of a pipeline in {index}, got JSON without _class_name; save the "
            "pipeline again."
        )
    return [
        name
        for name, kind in found.items()
        if isinstance(kind, list)
        and len(kind) == 2
        and all(isinstance(part, str) for part in kind)
        # The checker is not loaded, and these are no components.
        and not name.startswith("_")
        and name != "safety_checker"
    ]


def _is_pointer(file: Path) -> bool:
    try:
        if not file.is_file() or file.stat().st_size > _LFS_BYTES:
            return False
        with file.open("rb") as opened:
            return opened.read(len(_LFS)) == _LFS
    except OSError:
        return False


def _what_else(path: Path) -> str:
    """Returns what a folder without an index is, and what to do, for a message."""
    inside = sorted(p.parent for p in path.glob("*/model_index.json"))
    files = sorted(path.glob("*.safetensors"))
    if inside:
        return f"; the folder {inside[0]} has one, give that"
    if (path / "config.json").is_file():
        return ", a single component; give the folder that holds all of them"
    if files:
        return f"; give a checkpoint in one file by its name ({files[0]})"
    return "; give the folder that save_pretrained wrote"
