"""File formats of other tools: what they saved becomes an edit, and edits become their files."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open

from editing.edit import KEY, Edit
from editing.edit.formats import folder
from editing.edit.formats.base import Format, Imported
from editing.edit.formats.custom_diffusion import CustomDiffusion
from editing.edit.formats.diffusers_lora import DiffusersLora
from editing.edit.formats.files import SUFFIXES, TensorFile
from editing.edit.formats.kohya import KohyaLora
from editing.edit.formats.learned_embeds import LearnedEmbeds
from editing.edit.formats.spectral_shifts import SpectralShifts
from editing.edit.formats.weights import Weights
from editing.pipelines.weights import base_name
from editing.pipelines.wrappers import plain_modules
from visdiff.errors import InputError

# A file is of the first format that recognises it.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        form.name: form
        for form in (
            CustomDiffusion(),
            KohyaLora(),
            DiffusersLora(),
            SpectralShifts(),
            LearnedEmbeds(),
            Weights(),
        )
    }
)
"""Name → format of files; "folder", a whole pipeline, is the one that is no file."""

_OTHER_ADAPTERS = re.compile(r"\.(hada_w\d|lokr_w\d|oft_|glora|ia3|lora_mid)")


def is_edit(path: str | Path) -> bool:
    """Returns whether a file is an edit of visdiff's own format."""
    path = Path(path)
    if not path.is_file() or path.suffix in SUFFIXES[1:]:
        return False
    try:
        with safe_open(path, "pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def open_edit(path: str | Path, pipe: Any) -> Edit:
    """Returns the edit that a file holds, whichever tool wrote it.

    Args:
        path: A file of `Edit.save`, or what `import_edit` reads.
        pipe: The unedited pipeline that it is for.

    Raises:
        InputError: The file does not exist, or is of no format that can be read.
    """
    if is_edit(path) or not Path(path).exists():
        return Edit.load(path)
    return import_edit(path, pipe)


def import_edit(path: str | Path, pipe: Any) -> Edit:
    """Returns weights that another tool saved as an edit.

    Args:
        path: A file of one of `FORMATS`, a folder of several (such as a LoRA and the embeddings of
            its tokens), or the folder of a pipeline.
        pipe: The unedited pipeline that they are for.

    Returns:
        The edit, of the method "import". ``config`` has the formats and the digests of the files;
        ``diagnostics["ignored"]`` the number and names of what was not used.

    Raises:
        InputError: A file is of no format that can be read, is for another model, or changes
            nothing.
    """
    path = Path(path)
    left_out: list[str] = []
    with plain_modules(pipe):
        if folder.is_pipeline(path):
            parts = [(folder.NAME, path, folder.read_folder(path, pipe))]
        else:
            files = [TensorFile(file) for file in _files(path)]
            left_out = _left_out(path, files)
            parts = [(f.name, t.path, f.read(t, pipe)) for t in files for f in (_find(t),)]
    _check_disjoint(parts)
    changes = tuple(change for *_, part in parts for change in part.changes)
    ignored = [name for *_, part in parts for name in part.ignored]
    if not changes:
        raise InputError(
            f"Expected weights that differ from those of {base_name(pipe)}, got {path}, which "
            "changes none; check the path and the base."
        )
    return Edit.of(
        pipe,
        base_model=base_name(pipe),
        method="import",
        requests=(),
        config={
            "files": [
                {"name": file.name, "format": name, "sha256": _digest(file)}
                for name, file, _ in parts
            ]
        },
        changes=changes,
        diagnostics=_diagnostics(ignored, left_out),
    )


def export_edit(edit: Edit, pipe: Any, form: str, out: str | Path) -> tuple[Path, ...]:
    """Writes an edit for another tool and returns the paths that were written.

    Args:
        edit: The edit.
        pipe: The unedited pipeline that it was fitted to.
        form: One of `FORMATS`, or "folder" for the whole pipeline.
        out: A folder, or a path with the suffix .safetensors where one file is enough.

    Raises:
        InputError: The format is unknown or cannot hold the edit, the base differs, or a file
            cannot be written.
    """
    if form == folder.NAME:
        return folder.write_folder(edit, pipe, Path(out))
    if form not in FORMATS:
        raise InputError(
            f"Expected a format, got {form!r}; use one of {', '.join([*FORMATS, folder.NAME])}."
        )
    with plain_modules(pipe):
        return FORMATS[form].write(edit, pipe, Path(out))


def describe(path: str | Path) -> dict[str, Any]:
    """Returns what files of another tool are, as JSON values, without a pipeline.

    Raises:
        InputError: As `import_edit`.
    """
    path = Path(path)
    if folder.is_pipeline(path):
        return {"path": str(path), "files": [{"format": folder.NAME, "title": folder.TITLE}]}
    found = []
    for each in _files(path):
        file = TensorFile(each)
        form = _find(file)
        found.append(
            {
                "name": each.name,
                "format": form.name,
                "title": form.title,
                "tensors": len(file.names),
                "first": list(file.names[:3]),
                "metadata": {key: value[:200] for key, value in file.metadata.items()},
            }
        )
    return {"path": str(path), "files": found}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in SUFFIXES)
    # One tool often writes the same weights in both forms.
    safe = [p for p in found if p.suffix == ".safetensors"]
    if not found:
        raise InputError(
            f"Expected a folder with files of weights ({', '.join(SUFFIXES)}), got {path} without "
            "any; check the path."
        )
    return safe or found


def _find(file: TensorFile) -> Format:
    if KEY in file.metadata:
        raise InputError(
            f"Expected files of other tools, got {file.path}, an edit of visdiff; use it directly."
        )
    other = next((name for name in file.names if _OTHER_ADAPTERS.search(name)), None)
    if other is not None:
        raise InputError(
            f"Expected a LoRA, got {file.path} with {other}, an adapter of another kind (LoHa, "
            "LoKr, …); merge it into its base where it was made, and give the merged model."
        )
    for form in FORMATS.values():
        if form.detect(file):
            return form
    raise InputError(
        f"Expected an edit of visdiff or weights that another tool saved, got {file.path} with "
        f"{', '.join(file.names[:3]) or 'no tensors'}, which is of no known format; check the path."
    )


def _check_disjoint(parts: Sequence[tuple[str, Path, Imported]]) -> None:
    """Raises InputError if two files change the same thing: one tool may write it twice."""
    owners: dict[tuple[str, ...], Path] = {}
    for _, path, part in parts:
        for change in part.changes:
            tokens = [(t, encoder) for encoder, own in change.embeddings().items() for t in own]
            for key in dict.fromkeys([(name,) for name in change.names()] + tokens):
                other = owners.setdefault(key, path)
                if other != path:
                    raise InputError(
                        f"Expected files that change different things, got {other.name} and "
                        f"{path.name}, which both change {key[0]}; name one of them."
                    )


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _left_out(path: Path, files: Sequence[TensorFile]) -> list[str]:
    """Returns the names of files of weights that `_files` left out and no other file replaces."""
    if not path.is_dir():
        return []
    read = {file.path.stem for file in files}
    return sorted(
        p.name
        for p in path.iterdir()
        if p.is_file() and p.suffix in SUFFIXES[1:] and p.stem not in read
    )


def _diagnostics(ignored: Sequence[str], left_out: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    warnings = []
    if ignored:
        found["ignored"] = {"count": len(ignored), "names": ignored[:100]}
        warnings.append(f"{len(ignored)} tensors of the file were not used: {_some(ignored)}")
    if left_out:
        warnings.append(
            f"Of a folder with safetensors files, {len(left_out)} others were not read: "
            f"{_some(left_out)}; import them by themselves if they belong to the edit"
        )
    return {**found, "warnings": warnings} if warnings else {}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


__all__ = [
    "FORMATS",
    "Format",
    "Imported",
    "describe",
    "export_edit",
    "import_edit",
    "is_edit",
    "open_edit",
]
