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
from editing.pipelines.wrappers import (
    COMPONENTS,
    check_not_quantized,
    plain_modules,
    unwrapped,
)
from visdiff import miniature
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes

_LARGE = 2**18
"""Bytes from which a tensor is hashed in a thread of its own."""

Space = Literal["tokens", "pooled"]
"""Input of a layer: the state of each token, or the pooled vector of the prompt (SDXL, Flux)."""


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
    float32 checkpoint loaded in half precision has other values and another hash. A compiled
    model has the hash of the model itself; one with a fused LoRA has that of the changed weights.

    Returns:
        64 hexadecimal characters.

    Raises:
        InputError: As `component_hashes`.
    """
    return digest_bytes(canonical_json(component_hashes(pipe)).encode())


def component_hashes(pipe: Any) -> dict[str, str]:
    """Returns component ("unet", "text_encoder", …) → hash of its weights, as `weight_hash`.

    Raises:
        InputError: The pipeline has no component with weights, or a LoRA that is not fused.
    """
    with plain_modules(pipe):
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
            first; a key or value projection is missing or quantized; or a LoRA is loaded that is
            not fused.
    """
    with plain_modules(pipe):
        return _flux(pipe.transformer) if is_flux(pipe) else _unet(pipe)


def widths(pipe: Any) -> dict[Space, int]:
    """Returns space → length of its vectors.

    Raises:
        InputError: As `projections`.
    """
    return {p.space: p.columns[1] - p.columns[0] for p in projections(pipe)}


def parameter(pipe: Any, name: str) -> torch.nn.Parameter:
    """Returns the parameter with a full name ("unet.….weight").

    Raises:
        InputError: The pipeline has no such parameter, or it is quantized.
    """
    component, _, path = name.partition(".")
    module = getattr(pipe, component, None)
    if isinstance(module, torch.nn.Module):
        owner, _, leaf = path.rpartition(".")
        try:
            layer = unwrapped(module).get_submodule(owner)
        except AttributeError:
            layer = torch.nn.Module()
        check_not_quantized(f"{component}.{owner}", layer)
        if isinstance(found := layer._parameters.get(leaf), torch.nn.Parameter):
            return found
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
    if path and Path(path).is_file():
        return Path(path).stem
    return str(path or type(pipe).__name__)


def components(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yields name and module of the denoiser, the text encoders and the VAE of a pipeline."""
    for name in COMPONENTS:
        module = getattr(pipe, name, None)
        if isinstance(module, torch.nn.Module):
            yield name, module


def _unet(pipe: Any) -> tuple[Projection, ...]:
    """Returns the projections of a UNet's cross-attentions, and SDXL's of the pooled vector."""
    unet = getattr(pipe, "unet", None)
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
        for linear in (_linear(module, part, f"unet.{name}"),)
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
        _linear(unet.add_embedding, "linear_1", "unet.add_embedding")
        # diffusers concatenates [pooled text, sizes and crops] before this layer.
        found.append(Projection("unet.add_embedding.linear_1.weight", "pooled", (0, pooled)))
    return tuple(found)


def _flux(transformer: Any) -> tuple[Projection, ...]:
    """Returns Flux's projections of text: of T5's states, and of CLIP's pooled vector."""
    embedder = transformer.time_text_embed.text_embedder
    parts: tuple[tuple[Any, str, str, Space], ...] = (
        (transformer, "context_embedder", "transformer", "tokens"),
        (embedder, "linear_1", "transformer.time_text_embed.text_embedder", "pooled"),
    )
    return tuple(
        Projection(f"{path}.{name}.weight", space, (0, _linear(owner, name, path).in_features))
        for owner, name, path, space in parts
    )


def _linear(owner: torch.nn.Module, name: str, path: str) -> torch.nn.Linear:
    """Returns a linear layer of a module whose weight can be edited."""
    layer = getattr(owner, name, None)
    full = f"{path}.{name}"
    if isinstance(layer, torch.nn.Module):
        check_not_quantized(full, layer)
    if not isinstance(layer, torch.nn.Linear):
        raise InputError(
            f"Expected a linear layer {full}, got {type(layer).__name__}, which cannot be edited; "
            "load the model without what replaces its layers."
        )
    return layer


def _pooled_width(pipe: Any) -> int:
    if getattr(pipe.unet.config, "addition_embed_type", None) != "text_time":
        return 0
    encoder = getattr(pipe, "text_encoder_2", None)
    return int(encoder.config.projection_dim) if encoder is not None else 0


def _hash(module: torch.nn.Module) -> str:
    values: Mapping[str, Any] = module.state_dict()
    # hashlib releases the GIL; a thread costs more than the digest of a small tensor.
    large = [n for n, v in values.items() if getattr(v, "nbytes", 0) >= _LARGE]
    with ThreadPoolExecutor(4) as pool:
        digests = dict(zip(large, pool.map(lambda name: _digest(values[name]), large), strict=True))
    digests |= {name: _digest(v) for name, v in values.items() if name not in digests}
    listed = [[n, list(getattr(values[n], "shape", ())), digests[n]] for n in sorted(values)]
    return digest_bytes(canonical_json(listed).encode())


def _digest(value: Any) -> str:
    """Returns a digest of an entry of a state dict; quantized layers have more than tensors."""
    if isinstance(value, torch.Tensor):
        flatten = getattr(value, "__tensor_flatten__", None)
        if flatten is not None:
            names, _ = flatten()
            parts = [(name, _digest(getattr(value, name))) for name in names]
            return digest_bytes(repr(parts).encode())
        if value.is_quantized:
            # Rounded values and their scales, in one tensor.
            return tensor_digest(value.dequantize())
        return tensor_digest(value)
    if isinstance(value, (tuple, list)):
        return digest_bytes(repr([_digest(part) for part in value]).encode())
    return digest_bytes(repr(value).encode())


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
