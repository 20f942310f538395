"""Weights of a model, whole or in part: files of UCE and ESD, and single-file checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

from editing.edit import Edit
from editing.edit.deltas import Delta, Full
from editing.edit.formats.base import Format, Imported
from editing.edit.formats.files import TensorFile
from editing.edit.formats.learned_embeds import read_tokens
from editing.edit.formats.names import Names
from editing.edit.saving import save_tensors
from editing.linear import Tensor
from editing.pipelines.weights import parameter
from visdiff.errors import InputError
from visdiff.torchvision_compat import ensure_torchvision

# Where a single file has OpenCLIP's text encoder, whose keys, queries and values are one tensor.
_OPEN_CLIP = {
    "cond_stage_model.model.": "text_encoder",
    "conditioner.embedders.1.model.": "text_encoder_2",
}
_TOKENS = "modifier_token."


class Weights(Format):
    """Name → weight of the edited model, in diffusers' names or the original ones.

    A fused single-file checkpoint is one too. What equals the base, or differs only by a rounding
    to half precision, is no change. The VAE and averaged copies of the UNet are ignored.
    """

    name: ClassVar[str] = "weights"
    title: ClassVar[str] = "weights of a model, whole or in part"
    file: ClassVar[str] = "edited_weights.safetensors"

    def detect(self, file: TensorFile) -> bool:
        """Returns whether a tensor is named as a weight or bias of a module."""
        return any(name.endswith((".weight", ".bias")) for name in file.names)

    def read(self, file: TensorFile, pipe: Any) -> Imported:
        """Returns the differences to the pipeline's own weights."""
        names = Names(pipe)
        changes: list[Delta] = []
        ignored: list[str] = []
        found = 0
        for name in file.names:
            full = names.full(name)
            if full is not None:
                found += 1
                changes += difference(file, name, full, pipe)
            elif not name.startswith((*_OPEN_CLIP, _TOKENS)):
                ignored.append(name)
        for prefix, component in _OPEN_CLIP.items():
            own = [name for name in file.names if name.startswith(prefix)]
            if own and component in names.components:
                converted = _from_open_clip(file, own, prefix, names.components[component])
                for name, value in converted.items():
                    full = names.within(component, name)
                    if full is not None:
                        found += 1
                        changes += _difference(file, value, full, pipe)
            else:
                ignored += own
        if not found:
            raise InputError(
                f"Expected weights of {type(pipe).__name__}, got {file.path}, none of whose "
                f"{len(file.names)} tensors ({', '.join(file.names[:3])}, …) is one of it; name "
                "the base that it was made from."
            )
        tokens = tuple(name for name in file.names if name.startswith(_TOKENS))
        return Imported((*changes, *read_tokens(file, tokens, pipe)), tuple(ignored))

    def write(self, edit: Edit, pipe: Any, out: Path) -> tuple[Path, ...]:
        """Writes the changed tensors with diffusers' names, "unet.…" and "text_encoder.…"."""
        edit.check_base(pipe)
        if any(change.tokens() for change in edit.changes):
            raise InputError(
                "Expected an edit of weights only, got one that adds tokens, which a file of "
                "weights cannot hold; use --as folder, or the edit's own file."
            )
        with edit.applied(pipe):
            tensors = {name: parameter(pipe, name).detach().clone() for name in edit.tensors}
        path = out if out.suffix == ".safetensors" else out / self.file
        return (save_tensors(tensors, path, {"visdiff_edit_digest": edit.digest}),)


def difference(file: TensorFile, name: str, full: str, pipe: Any) -> Iterator[Full]:
    """Yields the change from a pipeline's weight to a file's, if there is one.

    Args:
        file: The file.
        name: Name of the weight in the file.
        full: Full name of the pipeline's weight.
        pipe: The pipeline.

    Raises:
        InputError: The shapes differ.
    """
    yield from _difference(file, file.tensor(name), full, pipe)


def _difference(file: TensorFile, value: Tensor, full: str, pipe: Any) -> Iterator[Full]:
    try:
        base = parameter(pipe, full).detach().cpu()
    except InputError:
        # A buffer, such as the position ids of older versions of transformers.
        return
    # Attention had convolutions of one pixel where there are linear layers now.
    if value.shape != base.shape and value.squeeze().shape == base.squeeze().shape:
        value = value.reshape(base.shape)
    if value.shape != base.shape:
        raise InputError(
            f"Expected {full} of shape {tuple(base.shape)}, got {tuple(value.shape)} in "
            f"{file.path}; name the base that it was made from."
        )
    # Rounded to the format of the file, or of the pipeline: whichever is the coarser one.
    if torch.equal(value, base.to(value.dtype)) or torch.equal(value.to(base.dtype), base):
        return
    delta = value.to(torch.float64) - base.to(torch.float64)
    yield Full(full, delta.to(torch.float32))


def _from_open_clip(
    file: TensorFile, names: list[str], prefix: str, encoder: torch.nn.Module
) -> dict[str, Tensor]:
    """Returns the weights of OpenCLIP's text encoder in the names of transformers."""
    ensure_torchvision()
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    tensors = {name: file.tensor(name) for name in names}
    return convert_open_clip_checkpoint(encoder, tensors, prefix=prefix)
