"""A training's state on disk: weights and optimizer in one safetensors file, whole or none."""

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
"""What Adam keeps of each weight."""


def save(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    same: Mapping[str, Any],
    done: int,
) -> None:
    """Writes the state.

    Args:
        path: Where; its folder is made.
        weights: Name → tensor, in the order that the optimizer has them in.
        optimizer: Adam or AdamW, after at least one step.
        same: What must be the same for going on, as JSON.
        done: Steps made.

    Raises:
        InputError: The file cannot be written.
    """
    tensors = {f"weight.{name}": value.detach() for name, value in weights.items()}
    state = optimizer.state_dict()["state"]
    for name, number in zip(weights, sorted(state), strict=True):
        for key in _MOMENTS:
            tensors[f"{key}.{name}"] = torch.as_tensor(state[number][key])
    described = {"version": _VERSION, "done": done, "same": dict(same)}
    plain = {name: value.cpu().contiguous() for name, value in tensors.items()}
    metadata = {_KEY: json.dumps(described)}
    with explained("a path to write the training's state to", path):
        write_whole(path, lambda part: save_file(plain, part, metadata))


def restore(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    same: Mapping[str, Any],
) -> int:
    """Reads what `save` wrote into weights and optimizer; returns the steps made.

    Raises:
        InputError: The file cannot be read, or is of another training; nothing was changed then.
    """
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})[_KEY])
            # Not a mapping: it has no values().
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = described["version"] == _VERSION and described["same"] == dict(same)
        done = int(described["done"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"Expected the state of a training, got {path}, which cannot be read "
            f"({type(error).__name__}); delete it to start anew."
        ) from error
    here = {name: value.shape for name, value in weights.items()}
    there = {
        name.removeprefix("weight."): value.shape
        for name, value in tensors.items()
        if name.startswith("weight.")
    }
    if not known or here != there:
        raise InputError(
            f"Expected the state of this training, got {path} of another (other requests, "
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
