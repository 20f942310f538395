"""Names for content: canonical JSON, versioned keys, digests of bytes, files and model weights.

A cache entry is found by *what it is*, never by where a file lies or when it was written. Two rules
keep that sound: a value that has no single JSON text (NaN, a set, an object) is refused rather than
guessed at, and the format's version is part of every key, so that a change of the format can only
miss, never hit wrongly.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from visdiff.errors import InputError

VERSION = "v1"
"""Prefix of every key. Raise it when `canonical_json` or `key` changes what it writes."""

# Configuration, weights (of other formats too: they are only read, never unpickled), tokenizers.
_MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".pt", ".model"})
_MODEL_TEXTS = frozenset({"merges.txt", "vocab.txt"})


def canonical_json(value: Any) -> str:
    """Write a value as the one JSON text it has here.

    Keys are sorted by code point, there is no whitespace, text is ASCII with escapes, tuples are
    lists, and an integer differs from the float of the same value (``1`` and ``1.0``).

    Args:
        value: None, bool, int, float, str, or lists, tuples and mappings with string keys of them.

    Returns:
        ASCII text, the same in every process and on every machine.

    Raises:
        InputError: The value holds NaN, an infinity, a key that is no string, or another type.
    """
    return json.dumps(
        _plain(value, "value"),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )


def key(kind: str, parts: Mapping[str, Any]) -> str:
    """Name a result by everything that determines it.

    Args:
        kind: What the result is, for example "caption" or "embedding".
        parts: What it depends on: backend, model, revision or weight hash, parameters that change
            the output, prompt hash, image digest, sample index. Not device, batch size or timeout.

    Returns:
        "v1-" and 40 hexadecimal characters of BLAKE2b.

    Raises:
        InputError: A part has no canonical JSON, or is called "kind".
    """
    if "kind" in parts:
        raise InputError("expected parts without a part named 'kind', got one: rename that part.")
    text = canonical_json({"kind": kind, **parts})
    return f"{VERSION}-{hashlib.blake2b(text.encode('ascii'), digest_size=20).hexdigest()}"


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces, 64 hexadecimal characters.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder_or_file: str | os.PathLike[str]) -> str:
    """Name a model by its content: weights, configuration and tokenizer.

    Of a folder, weights (``.safetensors``, ``.bin``, ``.pt``), ``.json`` files and the files of
    tokenizers count, with their paths inside it; of a file, its bytes. Moving or renaming the
    folder changes nothing; changing a byte or renaming a file in it does. Each file is read once
    a process as long as its path, modification time and size stay the same.

    Returns:
        64 hexadecimal characters.

    Raises:
        InputError: There is no such file, or the folder has no such files.
    """
    root = Path(folder_or_file)
    if root.is_file():
        return _digest_unless_changed(root)
    if not root.is_dir():
        raise InputError(
            f"expected a model's folder or weights file, got {root}, which does not exist: "
            f"check the path."
        )
    files = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*")
        if _counts(path.relative_to(root)) and path.is_file()
    )
    if not files:
        raise InputError(
            f"expected weights and .json files in the model folder {root}, got none: "
            f"give the folder that save_pretrained wrote."
        )
    return digest_bytes(
        canonical_json([[name, _digest_unless_changed(path)] for name, path in files]).encode()
    )


def _counts(relative: Path) -> bool:
    """Tell whether a file of a model's folder is part of the model; hidden folders are not."""
    if any(part.startswith(".") for part in relative.parts):
        return False
    return relative.suffix in _MODEL_SUFFIXES or relative.name in _MODEL_TEXTS


def _digest_unless_changed(path: Path) -> str:
    status = path.stat()
    return _memoised_digest(str(path.resolve()), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _memoised_digest(path: str, mtime_ns: int, size: int) -> str:
    return digest_file(path)


def _plain(value: Any, where: str) -> Any:
    """Check a value and turn mappings and tuples into what json writes; `where` is for errors."""
    if value is None or isinstance(value, (bool, str)):
        return value
    # Subclasses (IntEnum, numpy.float64) would be written by their own repr: take the plain number.
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(
                f"expected finite numbers in what names a cache entry, got {value} at {where}: "
                f"use null for a missing value."
            )
        return float(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise InputError(
                    f"expected text as keys in what names a cache entry, got {name!r} at {where}: "
                    f"convert it with str()."
                )
        return {str(name): _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise InputError(
        f"expected JSON (null, bool, number, text, list, mapping) in what names a cache entry, got "
        f"{type(value).__name__} at {where}: convert it first."
    )
