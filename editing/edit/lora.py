"""Edit → LoRA, in the format that diffusers' own ``pipe.load_lora_weights`` loads.

A closed-form edit is of low rank in every layer, and so is a LoRA exactly: other tools can switch
it, weigh it and mix it, on quantised bases too. The up-factors depend on the base's weights, which
is why the base is needed to export.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from editing.edit import Edit
from editing.linear import Tensor, compressed
from editing.pipelines.weights import parameter
from visdiff.errors import InputError
from visdiff.files import explained, write_whole


def to_lora(edit: Edit, pipe: Any) -> dict[str, Tensor]:
    """Returns the edit as LoRA weights, float32.

    Args:
        edit: An edit of linear layers.
        pipe: The unedited pipeline that it was fitted to.

    Returns:
        "unet.….lora_A.weight" (rank, in) and "….lora_B.weight" (out, rank) a layer; at scale 1
        they are the edit, to single precision.

    Raises:
        InputError: The base is another one, or something other than a linear layer's weight is
            changed.
    """
    edit.check_base(pipe)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in edit.tensors:
        module = name.removesuffix(".weight")
        base = parameter(pipe, name).detach().cpu()
        if module == name or base.ndim != 2:
            raise InputError(
                f"Expected an edit of linear layers alone, got one that changes {name}, which a "
                "LoRA cannot hold; use the edit's own file."
            )
        factors[module] = compressed(*_factors(edit, name, base))
    if not factors or any(c.tokens() for c in edit.changes):
        raise InputError(
            "Expected an edit of linear layers, got one that adds tokens; a LoRA cannot hold them."
        )
    # One rank for all: not every version of diffusers scales modules of unequal ranks alike.
    rank = max(down.shape[0] for _, down in factors.values())
    found = {}
    for module, (up, down) in factors.items():
        more = rank - down.shape[0]
        pad = torch.nn.functional.pad
        found[f"{module}.lora_A.weight"] = pad(down, (0, 0, 0, more)).to(torch.float32).contiguous()
        found[f"{module}.lora_B.weight"] = pad(up, (0, more)).to(torch.float32).contiguous()
    return found


def save_lora(edit: Edit, pipe: Any, path: str | Path) -> Path:
    """Writes `to_lora` to a safetensors file, whole or not at all; returns its path.

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
