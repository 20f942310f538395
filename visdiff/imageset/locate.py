"""Finding the files that the paths of a table name, also when another machine wrote the table.

One rule is used for all rows, so that a table never mixes files of two places. A rule that maps two
different paths to one file is not used. Without its first folders a path may name another file by
chance, so such a rule has to find half of the files.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Number of paths that are tried to choose the rule.
_PROBES = 50


@dataclass(frozen=True)
class Located:
    """The files of a table.

    Attributes:
        items: Absolute path of each row's file, which need not exist.
        tried: Folders that were tried; empty if a file was found.
        note: A sentence on how the files were found, unless at their paths; "" otherwise.
    """

    items: tuple[str, ...]
    tried: tuple[str, ...] = ()
    note: str = ""


def locate(paths: Sequence[str], folder: Path, root: Path | None, source: str) -> Located:
    """Finds the files of a table.

    The paths are tried as written, then with slashes for backslashes, then without their first
    folders, down to the base name; each relative to the root, the table's folder, the current
    folder and the parent of the table's folder. The first rule that finds a file is used, unless a
    later one finds more files.

    Args:
        paths: Paths as written.
        folder: Folder of the table.
        root: Folder of the images, tried first; None for none.
        source: Name of the table for the note.
    """
    bases = [str(folder), os.getcwd(), str(folder.parent)]
    if root is not None:
        bases.insert(0, os.path.abspath(root))
    bases = list(dict.fromkeys(bases))
    step = max(1, len(paths) // _PROBES)
    probes = paths[::step][:_PROBES]
    best, found = None, 0
    for form, describe in _forms(probes):
        for base in bases:
            count = sum(os.path.exists(_join(base, form(path))) for path in probes)
            enough = count > found and (not describe or 2 * count >= len(probes))
            if enough and _is_one_to_one(paths, form):
                best, found = (form, describe, base), count
            if found == len(probes):
                break
        if found == len(probes):
            break
    if best is None:
        items = tuple(_join(bases[0], path) for path in paths)
        return Located(items, tuple(bases))
    form, describe, base = best
    note = f"Images of {source} were found in {base} by {describe}." if describe else ""
    return Located(tuple(_join(base, form(path)) for path in paths), note=note)


Form = Callable[[str], str]


def _forms(probes: Sequence[str]) -> list[tuple[Form, str]]:
    """Returns ways to write a path, with a description of all but the usual ones."""
    forms: list[tuple[Form, str]] = [(lambda path: path, "")]
    if any("\\" in path for path in probes):
        forms.append((_slashes, ""))
    if not all(path.isascii() for path in probes):
        forms.append((_raw_bytes, ""))
    depth = max((len(_parts(path)) for path in probes), default=0)
    for keep in range(depth - 1, 0, -1):
        names = "base name" if keep == 1 else f"the last {keep} parts of their paths"
        forms.append((_last(keep), names))
    return forms


def _last(keep: int) -> Form:
    return lambda path: "/".join(_parts(path)[-keep:])


def _slashes(path: str) -> str:
    return path.replace("\\", "/")


def _raw_bytes(path: str) -> str:
    """Returns the name of a file whose bytes are those of the path in Windows-1252."""
    try:
        return os.fsdecode(path.encode("cp1252"))
    except UnicodeEncodeError:
        return path


def _parts(path: str) -> list[str]:
    return [part for part in _slashes(path).split("/") if part not in ("", ".")]


def _is_one_to_one(paths: Sequence[str], form: Form) -> bool:
    distinct = {os.path.normpath(_slashes(path)) for path in paths}
    return len({os.path.normpath(form(path)) for path in distinct}) == len(distinct)


def _join(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))
