"""Names of the layers that personalisation methods train."""

from collections.abc import Sequence
from typing import Any

import torch

from visdiff.errors import InputError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Attention layers of a UNet, as in diffusers' scripts."""

JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Attention layers of the transformers of Flux and Stable Diffusion 3."""

TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Attention layers of a CLIP text encoder."""


def denoiser_name(pipe: Any) -> str:
    """Returns "unet" or "transformer"."""
    return "unet" if getattr(pipe, "unet", None) is not None else "transformer"


def text_encoders(pipe: Any) -> tuple[str, ...]:
    """Returns the names of the CLIP text encoders: the one of SD, or SDXL's two."""
    return tuple(
        name
        for name in ("text_encoder", "text_encoder_2")
        if "CLIP" in type(getattr(pipe, name, None)).__name__
    )


def weights_of(pipe: Any, component: str) -> tuple[str, ...]:
    """Returns the full names of all parameters of a component."""
    return tuple(f"{component}.{n}" for n, _ in getattr(pipe, component).named_parameters())


def linear_layers(pipe: Any, component: str, endings: Sequence[str]) -> tuple[str, ...]:
    """Returns the full names of the linear layers of a component whose names end in one of some.

    Raises:
        InputError: An ending matches no linear layer.
    """
    found = [
        (f"{component}.{name}", ending)
        for name, module in getattr(pipe, component).named_modules()
        if isinstance(module, torch.nn.Linear)
        for ending in endings
        if name == ending or name.endswith(f".{ending}")
    ]
    missing = [e for e in endings if e not in {ending for _, ending in found}]
    if missing:
        raise InputError(
            f"Expected names of linear layers of the {component}, got {', '.join(missing)}, which "
            "match none; correct the targets."
        )
    return tuple(dict.fromkeys(name for name, _ in found))


def shifted_weights(pipe: Any, component: str) -> tuple[str, ...]:
    """Returns the weights of linear, convolution, embedding and norm layers of a component."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Embedding, torch.nn.GroupNorm,
             torch.nn.LayerNorm)  # fmt: skip
    return tuple(
        f"{component}.{name}.weight"
        for name, module in getattr(pipe, component).named_modules()
        if isinstance(module, kinds) and module.weight is not None
    )
