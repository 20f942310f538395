"""The weights of a pipeline that can be edited, and the identity of its model.

A UNet of Stable Diffusion 1, 2 or XL receives the prompt in two places. Every cross-attention
(``attn2``) maps the token states of the text encoders to keys and values by two linear layers, and
SDXL adds a projection of one pooled vector per prompt to the time embedding. Both are linear in the
text, and all layers of a kind have the same input, a `Space`. Flux's transformer has one projection
of T5's states and one of CLIP's pooled vector; text enters through these only. Closed-form edits
change only these layers. Biases are kept; they cancel, since targets are outputs of the old layer.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from editing.pipelines.family import is_flux
from visdiff import miniature
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes

Space = Literal["tokens", "pooled"]
"""Input of a layer: the state of each token, or the pooled vector of the prompt (SDXL, Flux)."""

_DENOISERS = ("unet", "transformer")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_HASHED = (*_DENOISERS, *_TEXT_ENCODERS, "vae")


@dataclass(frozen=True)
class Projection:
    """A linear layer whose input is text.

    Attributes:
        name: Full name of its weight, "unet.….attn2.to_k.weight".
        space: Its input.
        columns: Columns of the weight that multiply text, [start, stop).
    """

    name: str
    space: Space
    columns: tuple[int, int]


def weight_hash(pipe: Any) -> str:
    """Returns a hash of the weights of a pipeline.

    It covers denoiser, text encoders and VAE: name, shape and float32 values of each tensor. A
    model stored in half precision has the same hash for any dtype and device it is loaded with. A
    float32 checkpoint loaded in half precision has other values and another hash.

    Returns:
        64 hexadecimal characters.
    """
    return digest_bytes(canonical_json(component_hashes(pipe)).encode())


def component_hashes(pipe: Any) -> dict[str, str]:
    """Returns component ("unet", "text_encoder", …) → hash of its weights, as `weight_hash`.

    Raises:
        InputError: The pipeline has no component with weights.
    """
    found = {name: _hash(module) for name, module in components(pipe)}
    if not found:
        raise InputError(
            f"Expected a diffusers pipeline with a unet or transformer, got {type(pipe).__name__}; "
            "load a complete pipeline."
        )
    return found


def projections(pipe: Any) -> tuple[Projection, ...]:
    """Returns every layer whose input is the prompt, in the order of the model's modules.

    Returns:
        ``to_k`` and ``to_v`` of each cross-attention (space "tokens"), then SDXL's pooled
        projection (space "pooled") if there is one; for Flux, its two text projections.

    Raises:
        InputError: The denoiser is not supported, has no cross-attention, or transforms the text
            first.
    """
    unet = getattr(pipe, "unet", None)
    if is_flux(pipe):
        return _flux(pipe.transformer)
    if unet is None:
        raise InputError(
            f"Expected a pipeline with a UNet (Stable Diffusion 1, 2 or XL) or Flux, got "
            f"{type(pipe).__name__}; closed-form edits support no other denoiser yet."
        )
    if getattr(unet, "encoder_hid_proj", None) is not None:
        raise InputError(
            "Expected a UNet that uses the states of the text encoder unchanged, got one with "
            "encoder_hid_proj (Kandinsky, or an IP adapter); unload the adapter or use another "
            "model."
        )
    found = [
        Projection(f"unet.{name}.{part}.weight", "tokens", (0, linear.in_features))
        for name, module in unet.named_modules()
        # attn1 of some models attends to text too, so the name of the layer is not enough.
        if getattr(module, "is_cross_attention", False)
        for part in ("to_k", "to_v")
        if isinstance(linear := getattr(module, part, None), torch.nn.Linear)
    ]
    if not found:
        raise InputError(
            f"Expected a UNet with cross-attention to the prompt, got {type(unet).__name__} "
            "without any; use a text-to-image model."
        )
    widths = {p.columns[1] for p in found}
    if len(widths) > 1:
        raise InputError(
            f"Expected cross-attentions of one input width, got {sorted(widths)}; use a model of "
            "Stable Diffusion 1, 2 or XL."
        )
    pooled = _pooled_width(pipe)
    if pooled:
        # diffusers concatenates [pooled text, sizes and crops] before this layer.
        found.append(Projection("unet.add_embedding.linear_1.weight", "pooled", (0, pooled)))
    return tuple(found)


def widths(pipe: Any) -> dict[Space, int]:
    """Returns space → length of its vectors.

    Raises:
        InputError: As `projections`.
    """
    return {p.space: p.columns[1] - p.columns[0] for p in projections(pipe)}


def parameter(pipe: Any, name: str) -> torch.nn.Parameter:
    """Returns the parameter with a full name ("unet.….weight").

    Raises:
        InputError: The pipeline has no such parameter.
    """
    component, _, path = name.partition(".")
    module = getattr(pipe, component, None)
    if isinstance(module, torch.nn.Module):
        try:
            return module.get_parameter(path)
        except AttributeError:
            pass
    raise InputError(
        f"Expected a pipeline with the weight {name}, got {type(pipe).__name__} without it; "
        "load the model that the edit is for, or unload adapters (LoRA) first."
    )


def base_name(pipe: Any) -> str:
    """Returns the name or path that a pipeline was loaded from, or the name of its class."""
    path = getattr(getattr(pipe, "config", None), "_name_or_path", "") or ""
    if path and Path(path).is_dir():
        bundled = miniature.available() and Path(path).samefile(miniature.folder("diffusion"))
        return "miniature" if bundled else Path(path).name
    return str(path or type(pipe).__name__)


def components(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yields name and module of the denoiser, the text encoders and the VAE of a pipeline."""
    for name in _HASHED:
        module = getattr(pipe, name, None)
        if isinstance(module, torch.nn.Module):
            yield name, module


def _flux(transformer: Any) -> tuple[Projection, ...]:
    """Returns Flux's projections of text: of T5's states, and of CLIP's pooled vector."""
    layers: tuple[tuple[str, Space], ...] = (
        ("context_embedder", "tokens"),
        ("time_text_embed.text_embedder.linear_1", "pooled"),
    )
    return tuple(
        Projection(
            f"transformer.{name}.weight", space, (0, transformer.get_submodule(name).in_features)
        )
        for name, space in layers
    )


def _pooled_width(pipe: Any) -> int:
    if getattr(pipe.unet.config, "addition_embed_type", None) != "text_time":
        return 0
    encoder = getattr(pipe, "text_encoder_2", None)
    return int(encoder.config.projection_dim) if encoder is not None else 0


def _hash(module: torch.nn.Module) -> str:
    tensors: Mapping[str, torch.Tensor] = module.state_dict()
    names = sorted(tensors)
    # hashlib releases the GIL on large buffers.
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda name: tensor_digest(tensors[name]), names))
    listed = [[n, list(tensors[n].shape), d] for n, d in zip(names, digests, strict=True)]
    return digest_bytes(canonical_json(listed).encode())


def tensor_digest(tensor: torch.Tensor) -> str:
    """Returns a hexadecimal digest of a tensor's values (floating point as float32).

    Raises:
        InputError: The values are not in memory (device "meta", as with sequential offloading).
    """
    if tensor.device.type == "meta":
        raise InputError(
            "Expected a pipeline whose weights are in memory, got one with sequential CPU "
            "offloading; load it without offloading, edit it, then offload."
        )
    values = tensor.detach()
    if values.is_floating_point():
        values = values.to(torch.float32)
    plain = values.cpu().contiguous().numpy()
    return hashlib.blake2b(plain.reshape(-1).data if plain.size else b"").hexdigest()
