"""Canonical JSON, cache keys, and digests of bytes, files and model weights.

Cache entries are addressed by content, not by path or time. Values without a unique JSON text (NaN,
sets, objects) are errors. The version of the format is part of every key, so a change of the format
causes misses but never wrong hits.
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
"""Prefix of every key. Increase it when the output of `canonical_json` or `key` changes."""

# Configuration, weights (also pickles, which are only read as bytes) and tokenizers.
_MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".pt", ".model"})
_MODEL_TEXTS = frozenset({"merges.txt", "vocab.txt"})


def canonical_json(value: Any) -> str:
    """Returns the canonical JSON text of a value.

    Keys are sorted by code point, there is no whitespace, the text is ASCII with escapes, tuples
    become lists, and an integer differs from the equal float (``1`` and ``1.0``).

    Args:
        value: None, bool, int, float, str, or lists, tuples and mappings with string keys of them.

    Returns:
        ASCII text, the same in every process and on every machine.

    Raises:
        InputError: The value contains NaN, an infinity, a key that is no string, or another type.
    """
    return json.dumps(
        _plain(value, "value"),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )


def key(kind: str, parts: Mapping[str, Any]) -> str:
    """Returns the cache key of a result.

    Args:
        kind: Kind of the result, for example "caption" or "embedding".
        parts: Everything that affects the result: backend, model, revision or weight hash,
            parameters, prompt hash, image digest, sample index. Not device, batch size or timeout.

    Returns:
        "v1-" and 40 hexadecimal characters of BLAKE2b.

    Raises:
        InputError: A part has no canonical JSON, or is named "kind".
    """
    if "kind" in parts:
        raise InputError("Expected parts without a part named 'kind', got one; rename that part.")
    text = canonical_json({"kind": kind, **parts})
    return f"{VERSION}-{hashlib.blake2b(text.encode('ascii'), digest_size=20).hexdigest()}"


def digest_bytes(data: bytes) -> str:
    """Returns the SHA-256 of bytes as 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal characters; reads it in chunks.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder_or_file: str | os.PathLike[str]) -> str:
    """Returns a digest of a model: weights, configuration and tokenizer.

    The digest of a folder covers weights (``.safetensors``, ``.bin``, ``.pt``), ``.json`` files and
    tokenizer files, with their paths relative to the folder; the digest of a file covers its bytes.
    It does not depend on the folder's own path. Each file is read once per process unless its path,
    modification time or size changes.

    Returns:
        64 hexadecimal characters.

    Raises:
        InputError: The path does not exist, or the folder has no such files.
    """
    root = Path(folder_or_file)
    if root.is_file():
        return _digest_unless_changed(root)
    if not root.is_dir():
        raise InputError(
            f"Expected a model's folder or weights file, got {root}, which does not exist; "
            f"check the path."
        )
    files = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*")
        if _is_model_file(path.relative_to(root)) and path.is_file()
    )
    if not files:
        raise InputError(
            f"Expected weights and .json files in the model folder {root}, got none; "
            f"give the folder that save_pretrained wrote."
        )
    return digest_bytes(
        canonical_json([[name, _digest_unless_changed(path)] for name, path in files]).encode()
    )


def _is_model_file(relative: Path) -> bool:
    """Returns whether a file in a model's folder is part of the model; hidden ones are not."""
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
    """Converts a value to plain JSON types; `where` is its path, for errors."""
    if value is None or isinstance(value, (bool, str)):
        return value
    # Subclasses (IntEnum, numpy.float64) would be written by their own repr.
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(
                f"Expected finite numbers in the parts of a cache key, got {value} at {where}; "
                f"use null for a missing value."
            )
        return float(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise InputError(
                    f"Expected text as keys in the parts of a cache key, got {name!r} at {where}; "
                    f"convert it with str()."
                )
        return {str(name): _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise InputError(
        f"Expected JSON (null, bool, number, text, list, mapping) in the parts of a cache key, got "
        f"{type(value).__name__} at {where}; convert it first."
    )
