"""Custom Diffusion's attention processors: ``unet.load_attn_procs`` reads them.

Kumari et al., "Multi-Concept Customization of Text-to-Image Diffusion" (CVPR 2023),
arXiv:2212.04488.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch

from editing.edit import Edit
from editing.edit.deltas import Delta
from editing.edit.formats.base import Format, Imported, cannot_hold, one_file
from editing.edit.formats.files import TensorFile
from editing.edit.formats.learned_embeds import write_tokens
from editing.edit.formats.names import Names
from editing.edit.formats.weights import difference
from editing.edit.saving import save_tensors
from editing.linear import Tensor
from editing.pipelines.weights import parameter
from visdiff.errors import InputError

_MARK = "_custom_diffusion"
_KEYS_AND_VALUES = ("to_k.weight", "to_v.weight")
_QUERIES_AND_OUTPUTS = ("to_q.weight", "to_out.0.weight", "to_out.0.bias")


class CustomDiffusion(Format):
    """``pytorch_custom_diffusion_weights.safetensors``: "….attn2.processor.to_k_custom_diffusion…".

    It holds whole weights, not differences. Pass ``_pipeline=pipe`` to ``load_attn_procs``, which
    loads nothing without it. New tokens are written as learned embeddings into the same folder.
    """

    name: ClassVar[str] = "custom-diffusion"
    title: ClassVar[str] = "attention processors of Custom Diffusion"
    file: ClassVar[str] = "pytorch_custom_diffusion_weights.safetensors"

    def detect(self, file: TensorFile) -> bool:
        """Returns whether a tensor is part of such a processor."""
        return any(_MARK in name for name in file.names)

    def read(self, file: TensorFile, pipe: Any) -> Imported:
        """Returns the differences to the pipeline's own weights."""
        names = Names(pipe)
        changes: list[Delta] = []
        ignored: list[str] = []
        for name in file.names:
            if 0 in file.shape(name):
                # The processor of a layer that was not trained.
                continue
            full = names.within("unet", name.replace(".processor.", ".").replace(_MARK, ""))
            if full is None or _MARK not in name:
                ignored.append(name)
                continue
            changes += difference(file, name, full, pipe)
        return Imported(tuple(changes), tuple(ignored))

    def write(self, edit: Edit, pipe: Any, out: Path) -> tuple[Path, ...]:
        """Writes the processors, and the tokens if there are any."""
        tensors = to_processors(edit, pipe)
        tokens = write_tokens(edit, out)
        metadata = {"visdiff_edit_digest": edit.digest}
        return save_tensors(tensors, one_file(out, self.file), metadata), *tokens


def to_processors(edit: Edit, pipe: Any) -> dict[str, Tensor]:
    """Returns the edited weights of the cross-attentions in the names of the processors.

    Args:
        edit: An edit of keys, values, queries and outputs of the UNet's cross-attentions.
        pipe: The unedited pipeline that it was fitted to.

    Returns:
        Name → weight, float32; a tensor without elements for a processor that is not edited.

    Raises:
        InputError: The base differs, or the edit changes other weights.
    """
    edit.check_base(pipe)
    unet = getattr(pipe, "unet", None)
    if unet is None:
        raise InputError(
            f"Expected a pipeline with a UNet for Custom Diffusion, got {type(pipe).__name__}; use "
            "--as diffusers."
        )
    processors = list(unet.attn_processors)
    parts = {
        f"unet.{processor.removesuffix('processor')}{part}": processor
        for processor in processors
        if processor.endswith("attn2.processor")
        for part in (*_KEYS_AND_VALUES, *_QUERIES_AND_OUTPUTS)
    }
    refused = [name for name in edit.tensors if name not in parts]
    if refused:
        raise cannot_hold(refused, "processors of Custom Diffusion")
    edited = {parts[name] for name in edit.tensors}
    whole = any(name.endswith(_QUERIES_AND_OUTPUTS) for name in edit.tensors)
    wanted = (*_KEYS_AND_VALUES, *(_QUERIES_AND_OUTPUTS if whole else ()))
    # A tensor without elements stands for a plain processor; every layer must be named.
    found = {processor: torch.empty(0) for processor in processors if processor not in edited}
    with edit.applied(pipe):
        for processor in sorted(edited):
            for part in wanted:
                weight = parameter(pipe, f"unet.{processor.removesuffix('processor')}{part}")
                module, dot, rest = part.partition(".")
                value = weight.detach().to(device="cpu", dtype=torch.float32, copy=True)
                found[f"{processor}.{module}{_MARK}{dot}{rest}"] = value
    return found
