"""Files of tensors that other tools wrote: safetensors, or pickles that are read without code."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from editing.linear import Tensor
from visdiff.errors import InputError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


class TensorFile:
    """A file of named tensors, each of which is read when it is used.

    Attributes:
        path: Path of the file.
        names: Names of its tensors.
        metadata: Header of a safetensors file; empty for others.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file.

        Args:
            path: A .safetensors file, or a .pt, .pth, .bin or .ckpt file of tensors, numbers and
                texts only; nested dictionaries are joined by dots.

        Raises:
            InputError: It does not exist, has another suffix, or cannot be read safely.
        """
        self.path = path
        self._loaded: dict[str, Tensor] = {}
        if not path.is_file():
            raise InputError(
                f"Expected a file of weights, got {path}, which does not exist; check the path."
            )
        if path.suffix not in SUFFIXES:
            raise InputError(
                f"Expected a file of weights ({', '.join(SUFFIXES)}), got {path}; check the path."
            )
        if path.suffix == ".safetensors":
            with self._open() as file:
                self.names: tuple[str, ...] = tuple(file.keys())
                self.metadata: Mapping[str, str] = file.metadata() or {}
        else:
            self._loaded = dict(_flatten(_unpickle(path)))
            self.names = tuple(self._loaded)
            self.metadata = {}

    def tensor(self, name: str) -> Tensor:
        """Returns one tensor, on the CPU."""
        if name in self._loaded:
            return self._loaded[name]
        with self._open() as file:
            return file.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        if name in self._loaded:
            return tuple(self._loaded[name].shape)
        with self._open() as file:
            return tuple(file.get_slice(name).get_shape())

    def _open(self) -> Any:
        try:
            return safe_open(self.path, "pt")
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"Expected a safetensors file, got {self.path}, which cannot be read ({error}); "
                "check the path, or download it again."
            ) from error


def _unpickle(path: Path) -> Mapping[str, Any]:
    try:
        # With weights_only, its unpickler makes tensors and plain values, and refuses the rest.
        found = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    # Damaged files raise errors of many kinds.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Expected a file of tensors, got {path}, which cannot be read without running code "
            f"from it ({reason}); convert it to safetensors where it was made."
        ) from error
    if not isinstance(found, Mapping):
        raise InputError(
            f"Expected a file of named tensors, got {path} with {type(found).__name__}; save the "
            "model's state_dict()."
        )
    inner = found.get("state_dict")
    return inner if isinstance(inner, Mapping) else found


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach()
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
