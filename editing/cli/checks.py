"""Checks of arguments that need no heavy library, made before one is imported."""

from pathlib import Path

from editing.pipelines.source import check_source
from visdiff.errors import InputError

__all__ = ["check_edit", "check_source"]


def check_edit(path: Path) -> None:
    """Checks that there is a file of an edit.

    Raises:
        InputError: There is none.
    """
    if not path.exists():
        raise InputError(
            f"Expected an edit's file, got {path}, which does not exist; check the path."
        )
