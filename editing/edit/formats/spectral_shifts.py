"""Spectral shifts of SVDiff, as svdiff-pytorch saves them."""

from pathlib import Path
from typing import Any, ClassVar

import torch

from editing.edit import Edit
from editing.edit.deltas import Delta, NewTokens, SpectralShift
from editing.edit.formats.base import Format, Imported, cannot_hold
from editing.edit.formats.files import TensorFile
from editing.edit.formats.learned_embeds import write_tokens
from editing.edit.formats.names import Names, to_transformers
from editing.edit.saving import save_tensors
from editing.linear import Tensor
from editing.pipelines.weights import parameter
from visdiff.errors import InputError

_SUFFIXES = {"unet": "", "text_encoder": "_te", "text_encoder_2": "_te_2"}


class SpectralShifts(Format):
    """``spectral_shifts.safetensors`` for the UNet, ``spectral_shifts_te…`` for the text encoder.

    "<module>.delta" is the shift of the singular values of the module's weight. The second text
    encoder of SDXL, which svdiff-pytorch does not know, has a file that ends in "_te_2". New tokens
    are written as learned embeddings into the same folder.
    """

    name: ClassVar[str] = "spectral-shifts"
    title: ClassVar[str] = "spectral shifts of SVDiff"
    file: ClassVar[str] = "spectral_shifts.safetensors"

    def detect(self, file: TensorFile) -> bool:
        """Returns whether all tensors are vectors named "….delta"."""
        return bool(file.names) and all(
            name.endswith(".delta") and len(file.shape(name)) == 1 for name in file.names
        )

    def read(self, file: TensorFile, pipe: Any) -> Imported:
        """Returns one shift a tensor."""
        names = Names(pipe)
        changes: list[Delta] = []
        ignored: list[str] = []
        for name in file.names:
            full = _full(names, file.path.stem, f"{name.removesuffix('.delta')}.weight")
            if full is None:
                ignored.append(name)
                continue
            shift, weight = file.tensor(name), parameter(pipe, full)
            matrix = weight.ndim > 1
            sizes = (min(weight.flatten(1).shape),) if matrix else (1, len(weight))
            if len(shift) not in sizes:
                raise InputError(
                    f"Expected {' or '.join(map(str, sizes))} shifts of {full}, got {len(shift)} "
                    f"in {file.path}; name the base that they were trained on."
                )
            mode = "scalar" if matrix or len(shift) == 1 else "elementwise"
            changes.append(SpectralShift(full, shift, mode))
        return Imported(tuple(changes), tuple(ignored))

    def write(self, edit: Edit, pipe: Any, out: Path) -> tuple[Path, ...]:
        """Writes the shifts of each component, and the tokens if there are any."""
        edit.check_base(pipe)
        refused = [
            name
            for change in edit.changes
            if not isinstance(change, (SpectralShift, NewTokens))
            for name in change.names()
        ]
        if refused:
            raise cannot_hold(refused, "a file of spectral shifts")
        shifts = _by_component(edit, pipe)
        tokens = any(change.tokens() for change in edit.changes)
        if out.suffix == ".safetensors" and (len(shifts) > 1 or tokens):
            raise InputError(
                f"Expected a folder for an edit that needs several files (each text encoder and "
                f"token has its own), got {out}; give a path without a suffix."
            )
        metadata = {"visdiff_edit_digest": edit.digest}
        written = []
        for component, tensors in shifts.items():
            name = f"spectral_shifts{_SUFFIXES[component]}.safetensors"
            path = out if out.suffix == ".safetensors" else out / name
            written.append(save_tensors(tensors, path, metadata))
        return (*written, *write_tokens(edit, out))


def _by_component(edit: Edit, pipe: Any) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for change in edit.changes:
        if not isinstance(change, SpectralShift):
            continue
        component, _, path = change.name.partition(".")
        module = to_transformers(component, path).removesuffix(".weight")
        vector = parameter(pipe, change.name).ndim == 1
        if (
            component not in _SUFFIXES
            or f"{module}.delta" in found.get(component, {})
            or not path.endswith(".weight")
            or (vector and change.norm_mode == "elementwise")
        ):
            raise cannot_hold([change.name], "a file of spectral shifts, one value a norm layer,")
        shift = change.shift.to(torch.float64) * change.scale
        found.setdefault(component, {})[f"{module}.delta"] = shift.to(torch.float32)
    return found


def _full(names: Names, stem: str, name: str) -> str | None:
    stated = [c for c, suffix in _SUFFIXES.items() if suffix and stem.endswith(suffix)]
    for component in (*stated[:1], *_SUFFIXES):
        full = names.within(component, name)
        if full is not None:
            return full
    return names.full(name)
