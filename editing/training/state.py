"""The checkpoint of a training: weights and optimizer state in one safetensors file."""

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
_VERSION = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state of each weight."""


def save(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    done: int,
) -> None:
    """Writes the state atomically.

    Args:
        path: Path of the file; missing folders are created.
        weights: Name → tensor, in the order of the optimizer's parameters.
        optimizer: Adam or AdamW, after at least one step.
        identity: Settings that must match for resuming, as JSON.
        done: Completed steps.

    Raises:
        InputError: The file cannot be written.
    """
    tensors = {f"weight.{name}": value.detach() for name, value in weights.items()}
    state = optimizer.state_dict()["state"]
    for name, number in zip(weights, sorted(state), strict=True):
        for key in _MOMENTS:
            tensors[f"{key}.{name}"] = torch.as_tensor(state[number][key])
    description = {"version": _VERSION, "done": done, "same": dict(identity)}
    contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
    metadata = {_KEY: json.dumps(description)}
    with explained("a path to write the checkpoint to", path):
        write_whole(path, lambda part: save_file(contiguous, part, metadata))


def restore(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
) -> int:
    """Restores weights and optimizer from a file of `save`, and returns the completed steps.

    Raises:
        InputError: The file cannot be read or belongs to another training. Nothing is changed then.
    """
    try:
        with safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {})[_KEY])
            # Not a mapping: it has no values().
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        matches = description["version"] == _VERSION and description["same"] == dict(identity)
        done = int(description["done"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"Expected the checkpoint of a training, got {path}, which cannot be read "
            f"({type(error).__name__}); delete it to start again."
        ) from error
    expected_shapes = {name: value.shape for name, value in weights.items()}
    stored_shapes = {
        name.removeprefix("weight."): value.shape
        for name, value in tensors.items()
        if name.startswith("weight.")
    }
    if not matches or expected_shapes != stored_shapes:
        raise InputError(
            f"Expected the checkpoint of this training, got {path} of another (other requests, "
            "settings or base); delete it, or name another file."
        )
    state: dict[int, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for number, (name, value) in enumerate(weights.items()):
            value.copy_(tensors[f"weight.{name}"])
            state[number] = {key: tensors[f"{key}.{name}"] for key in _MOMENTS}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return done
