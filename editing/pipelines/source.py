"""Where a pipeline comes from: a folder, a file, the hub or the package; loads nothing."""

from pathlib import Path

from visdiff.encoders.hub import check_download, is_cached
from visdiff.errors import InputError


def check_source(model: str | Path) -> None:
    """Checks that there is a model of a name, without importing torch or loading anything.

    Args:
        model: As for `editing.pipelines.loading.load_pipeline`.

    Raises:
        InputError: It is neither a path, a hub id nor "miniature".
        MissingWeightsError: A hub id is not on disk, and the hub does not respond.
    """
    path = Path(model).expanduser()
    if str(model) == "miniature" or path.exists():
        return
    _check_hub_id(str(model), path)
    if not is_cached(str(model), "model_index.json"):
        check_download(f"pipeline {model}")


def _check_hub_id(model: str, path: Path) -> None:
    parts = model.split("/")
    if len(parts) == 2 and all(parts) and not model.startswith((".", "~")):
        # A hub id cannot be distinguished from a relative path, unless its first part is a folder.
        if not path.parent.is_dir():
            return
        raise InputError(
            f"Expected a hub id (owner/name), a folder or 'miniature', got {model!r}: the folder "
            f"{path.parent} has no {path.name}; check the spelling."
        )
    raise InputError(
        f"Expected a hub id (owner/name), a folder or 'miniature', got {model!r}, which "
        "is none of them; check the spelling."
    )
