"""Export of an edit as a LoRA that diffusers' ``pipe.load_lora_weights`` loads.

A closed-form edit has low rank in every layer, so a LoRA represents it exactly. Other tools can
then toggle, scale and mix it, on quantised bases too. The up-factors depend on the weights of the
base, so the export needs the base.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from editing.edit import Edit
from editing.linear import Tensor, compress
from editing.pipelines.weights import parameter
from visdiff.errors import InputError
from visdiff.files import explained, write_whole


def to_lora(edit: Edit, pipe: Any) -> dict[str, Tensor]:
    """Returns the edit as LoRA weights, float32.

    Args:
        edit: An edit of linear layers.
        pipe: The unedited pipeline that it was fitted to.

    Returns:
        "unet.….lora_A.weight" (rank, in) and "….lora_B.weight" (out, rank) for each layer. At scale
        1 they equal the edit to single precision.

    Raises:
        InputError: The base differs, or the edit changes anything but weights of linear layers.
    """
    edit.check_base(pipe)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in edit.tensors:
        module = name.removesuffix(".weight")
        base = parameter(pipe, name).detach().cpu()
        if module == name or base.ndim != 2:
            raise InputError(
                f"Expected an edit of linear layers only, got one that changes {name}, which a "
                "LoRA cannot hold; use the edit's own file."
            )
        factors[module] = compress(*_factors(edit, name, base))
    if not factors or any(c.tokens() for c in edit.changes):
        raise InputError(
            "Expected an edit of linear layers, got one that adds tokens, which a LoRA cannot "
            "hold; use the edit's own file."
        )
    # The same rank for all: versions of diffusers differ in how they scale unequal ranks.
    rank = max(down.shape[0] for _, down in factors.values())
    found = {}
    for module, (up, down) in factors.items():
        more = rank - down.shape[0]
        pad = torch.nn.functional.pad
        found[f"{module}.lora_A.weight"] = pad(down, (0, 0, 0, more)).to(torch.float32).contiguous()
        found[f"{module}.lora_B.weight"] = pad(up, (0, more)).to(torch.float32).contiguous()
    return found


def save_lora(edit: Edit, pipe: Any, path: str | Path) -> Path:
    """Writes the result of `to_lora` to a safetensors file atomically and returns its path.

    Raises:
        InputError: As `to_lora`, or the file cannot be written.
    """
    path = Path(path)
    tensors = to_lora(edit, pipe)
    metadata = {"format": "pt", "visdiff_edit_digest": edit.digest}
    with explained("a path to write the LoRA to", path):
        write_whole(path, lambda part: save_file(tensors, part, metadata))
    return path


def _factors(edit: Edit, name: str, base: Tensor) -> tuple[Tensor, Tensor]:
    pairs = [c.factors(name, base) for c in edit.changes if name in c.names()]
    return torch.cat([up for up, _ in pairs], dim=1), torch.cat([down for _, down in pairs])
