"""Listing the images of folders and globs; other files are counted by suffix."""

import fnmatch
import glob as globbing
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from visdiff.errors import InputError
from visdiff.imageset import decode

NO_SUFFIX = "(no suffix)"
LINKED_TWICE = "(folder linked twice)"
NOT_A_FILE = "(pipe, socket or device)"


@dataclass(frozen=True)
class Found:
    """The files of a folder or glob.

    Attributes:
        images: Paths of the images, sorted: of a folder relative to it, of a glob as it finds them.
        left_out: Suffix in lower case, or the kind of a thing without one → number left out.
    """

    images: Sequence[str]
    left_out: Counter[str] = field(default_factory=Counter)


def list_folder(folder: str) -> Found:
    """Lists the images of a folder and its subfolders.

    Hidden files and folders (".name") are not listed and not counted. Links to folders are
    followed; a folder that several links lead to is read once.

    Raises:
        InputError: A folder cannot be listed.
    """
    left_out: Counter[str] = Counter()
    names = list(_walk(folder, left_out))
    return _images_of([(name, os.path.join(folder, name)) for name in names], left_out)


def list_glob(pattern: str) -> Found:
    """Lists the images that match a pattern; ``**`` matches any number of folders.

    Raises:
        InputError: A folder below a ``**`` cannot be listed.
    """
    left_out: Counter[str] = Counter()
    if "**" in pattern:
        root = fixed_part(pattern)
        parts = [part for part in pattern[len(root) :].split("/") if part]
        # glob would follow links in circles.
        names = [n for n in _walk(root or ".", left_out) if _matches(n.split("/"), parts)]
        paths = [os.path.join(root, name) for name in names]
    else:
        paths = [p for p in dict.fromkeys(globbing.iglob(pattern)) if not os.path.isdir(p)]
        paths = [p for p in paths if not os.path.basename(p).startswith(".")]
    return _images_of([(path, path) for path in paths], left_out)


def fixed_part(pattern: str) -> str:
    """Returns the folder that a pattern names before its first wildcard; "" for the current one."""
    return os.path.dirname(pattern[: min(pattern.find(sign) for sign in "*?[" if sign in pattern)])


def _images_of(files: Sequence[tuple[str, str]], left_out: Counter[str]) -> Found:
    """Returns the names of images among pairs of a name and a path."""
    known = decode.suffixes()
    images: list[str] = []
    for name, path in files:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in known or (not suffix and decode.is_image(path)):
            images.append(name)
        else:
            left_out[suffix or NO_SUFFIX] += 1
    return Found(sorted(images), left_out)


def _walk(root: str, left_out: Counter[str]) -> Iterator[str]:
    """Yields files relative to the root.

    Folders are read before links to folders, so that a file has its own name and not that of a
    link.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = deque([""]), deque[str]()
    while folders or links:
        is_link = not folders
        below = links.popleft() if is_link else folders.popleft()
        entries = _entries(os.path.join(root, below), seen)
        if entries is None:
            left_out[LINKED_TWICE] += is_link
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:
                # A link that leads to itself is reported when it is read, like other broken links.
                is_folder, is_file = False, True
            if is_folder:
                (links if entry.is_symlink() else folders).append(name)
            elif is_file or entry.is_symlink():
                yield name
            else:
                left_out[NOT_A_FILE] += 1


def _entries(folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]] | None:
    """Returns the visible entries of a folder, sorted; None if it was read before."""
    try:
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in seen:
            return None
        seen.add(identity)
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"Expected a folder that can be listed at {folder}, got an error ({error.strerror}); "
            f"check its permissions."
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Returns whether the parts of a path match those of a pattern, in which "**" is any number."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[k:], pattern[1:]) for k in range(len(parts) + 1))
    first = bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0])
    return first and _matches(parts[1:], pattern[1:])
