"""The checkpoint of a training: weights and all other state in one safetensors file.

State is any nesting of mappings, lists and tuples, whose leaves are tensors, numbers, texts and
None, so that no optimizer has to be known here. Tensors keep their dtype. Numbers are stored as
JSON, which is exact for Python's integers and floats.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from visdiff.errors import InputError
from visdiff.files import explained, write_whole

_KEY = "visdiff_training"
_VERSION = 2


def save(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    identity: Mapping[str, Any],
    done: int,
) -> None:
    """Writes a checkpoint atomically: if that fails, the file keeps its old content.

    Args:
        path: Path of the file; missing folders are created.
        weights: Name → tensor.
        state: All other state.
        identity: Settings that must match for resuming, as JSON.
        done: Completed steps.

    Raises:
        InputError: The file cannot be written.
    """
    found: dict[int, tuple[str, torch.Tensor]] = {}
    packed = _packed(state, "state", found)
    description = {"version": _VERSION, "done": done, "same": identity, "state": packed}
    tensors = {f"weight.{name}": value for name, value in weights.items()} | dict(found.values())
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {_KEY: json.dumps(description)}

    def write(part: Path) -> None:
        try:
            save_file(contiguous, part, metadata)
        except SafetensorError as error:
            # How safetensors reports a full disk.
            raise OSError(str(error)) from error

    with explained("a path to write the checkpoint to", path, "free space or name another file"):
        write_whole(path, write)


def load(
    path: Path, weights: Mapping[str, torch.Tensor], identity: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any], int]:
    """Reads a checkpoint of `save`.

    Args:
        path: Path of the file.
        weights: Name → tensor of the shape that the checkpoint must have.
        identity: Settings that must match, as JSON.

    Returns:
        The weights, all other state, and the completed steps. The tensors are on the CPU.

    Raises:
        InputError: The file cannot be read, or belongs to another training or an earlier version.
    """
    try:
        with safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {})[_KEY])
            # Not a mapping: it has no values().
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version = int(description["version"])
        done = int(description["done"])
        matches = description["same"] == identity
        state = _unpacked(description["state"], tensors) if version == _VERSION else {}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"Expected the checkpoint of a training, got {path}, which cannot be read "
            f"({type(error).__name__}); delete it to start again."
        ) from error
    if version != _VERSION:
        raise InputError(
            f"Expected a checkpoint of version {_VERSION}, got {path} of version {version}, of "
            "another release of visdiff; delete it to start again, or finish it with that release."
        )
    stored = {
        name.removeprefix("weight."): value
        for name, value in tensors.items()
        if name.startswith("weight.")
    }
    expected_shapes = {name: value.shape for name, value in weights.items()}
    if not matches or expected_shapes != {name: value.shape for name, value in stored.items()}:
        raise InputError(
            f"Expected the checkpoint of this training, got {path} of another (other requests, "
            "settings or base); delete it, or name another file."
        )
    return stored, state, done


def _packed(value: Any, name: str, found: dict[int, tuple[str, torch.Tensor]]) -> Any:
    """Returns a value as JSON, and adds its tensors with their names to those that were found."""
    match value:
        case torch.Tensor():
            # Optimizers may share a tensor, which safetensors refuses to store twice.
            key, _ = found.setdefault(id(value), (name, value))
            return {"tensor": key}
        case Mapping():
            items = value.items()
            return {"items": [[key, _packed(v, f"{name}.{key}", found)] for key, v in items]}
        case list() | tuple():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [_packed(v, f"{name}.{i}", found) for i, v in enumerate(value)]}
        case None | bool() | int() | float() | str():
            return {"value": value}
        case _:
            raise TypeError(f"{name} is of the type {type(value).__name__}, which is not stored.")


def _unpacked(packed: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """Returns the value of which `_packed` made the JSON."""
    ((kind, content),) = packed.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "items":
            return {key: _unpacked(v, tensors) for key, v in content}
        case "list":
            return [_unpacked(v, tensors) for v in content]
        case "tuple":
            return tuple(_unpacked(v, tensors) for v in content)
        case "value":
            return content
        case _:
            raise ValueError(kind)
