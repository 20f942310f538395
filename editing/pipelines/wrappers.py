"""Modules behind wrappers: torch.compile, LoRA layers of peft, and quantized layers.

A wrapper changes the names of the weights behind it, so that layers are not found, or only some of
them, and the same model has another hash. Names and hashes are those of the model without wrappers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from visdiff.errors import InputError

COMPONENTS = (
    *("unet", "transformer"),
    *("text_encoder", "text_encoder_2", "text_encoder_3"),
    "vae",
)
"""Components of a pipeline that have weights: the denoiser, the text encoders and the VAE."""

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def unwrapped(module: Any) -> Any:
    """Returns the module that torch.compile wraps, or the object itself."""
    while isinstance(inner := getattr(module, "_modules", {}).get("_orig_mod"), torch.nn.Module):
        module = inner
    return module


@contextmanager
def plain_modules(pipe: Any) -> Iterator[None]:
    """Replaces the wrappers in a pipeline by the modules inside them while it is open.

    Wrappers are those of torch.compile, and the layers of LoRAs that are merged into the weights or
    switched off. The modules inside compute the same.

    Args:
        pipe: The pipeline; anything else is left as it is.

    Raises:
        InputError: A LoRA that is not merged is active, or attention layers are fused.
    """
    attributes = getattr(pipe, "__dict__", {})
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name in COMPONENTS:
            if isinstance(attributes.get(name), torch.nn.Module):
                _unwrap(attributes, name, name, replaced)
        yield
    finally:
        for owner, name, value in reversed(replaced):
            owner[name] = value


def merged_adapters(pipe: Any) -> tuple[str, ...]:
    """Returns the names of the LoRAs that are merged into a pipeline's weights but still loaded."""
    found: dict[str, None] = {}
    for name in COMPONENTS:
        module = getattr(pipe, name, None)
        if isinstance(module, torch.nn.Module) and hasattr(unwrapped(module), "peft_config"):
            for layer in module.modules():
                if _is_adapter(layer):
                    found |= dict.fromkeys(getattr(layer, "merged_adapters", ()))
    return tuple(found)


def check_stored(name: str, weight: Any) -> None:
    """Checks that a weight is stored as floating-point numbers that an edit can be added to.

    Args:
        name: Its full name, for the message.
        weight: The parameter.

    Raises:
        InputError: The weight is quantized.
    """
    kind = _storage(weight)
    if kind is not None:
        raise _quantized(name, kind)


def check_not_quantized(name: str, module: torch.nn.Module) -> None:
    """Checks that no layer of a module is quantized.

    Args:
        name: Its name in the pipeline, for the message.
        module: A component of a pipeline, or a layer.

    Raises:
        InputError: A layer is quantized.
    """
    for path, layer in module.named_modules():
        full = f"{name}.{path}" if path else name
        # Layers of torch.ao have no parameters, but a packed object.
        if hasattr(layer, "_packed_params"):
            raise _quantized(f"{full}.weight", type(layer).__name__)
        for leaf, parameter in layer._parameters.items():
            if parameter is not None:
                check_stored(f"{full}.{leaf}", parameter)


def _quantized(name: str, kind: str) -> InputError:
    return InputError(
        f"Expected weights in float32, bfloat16 or float16, got {name} quantized ({kind}); load "
        "the model without quantization to edit it, and export the edit as a LoRA for the "
        "quantized model (visdiff edit export --as diffusers)."
    )


def _storage(weight: Any) -> str | None:
    """Returns what a weight is stored as if it is no plain floating-point tensor."""
    # Libraries for quantization have parameters of their own classes.
    if type(weight) not in (torch.nn.Parameter, torch.Tensor):
        return type(weight).__name__
    return None if weight.dtype in _DTYPES else str(weight.dtype).removeprefix("torch.")


def _unwrap(
    owner: dict[str, Any], name: str, path: str, replaced: list[tuple[dict[str, Any], str, Any]]
) -> None:
    """Replaces owner[name] by the module inside its wrappers, and likewise below it."""
    outer = module = owner[name]
    while True:
        module = unwrapped(module)
        if not _is_adapter(module):
            break
        _check_inactive(module, path)
        inner = module._modules.get("base_layer", module._modules.get("original_module"))
        assert inner is not None
        module = inner
    if module is not outer:
        replaced.append((owner, name, outer))
        owner[name] = module
    attributes = vars(module)
    if "peft_config" in attributes:
        # peft would otherwise count the LoRA among those that are loaded.
        replaced.append((attributes, "peft_config", attributes.pop("peft_config")))
    if attributes.get("fused_projections"):
        raise InputError(
            f"Expected attention layers with their own keys and values, got {path} with fused "
            "projections, which ignore an edit; load the pipeline again and do not call "
            "fuse_qkv_projections()."
        )
    for child, value in list(module._modules.items()):
        if value is not None:
            _unwrap(module._modules, child, f"{path}.{child}", replaced)


def _is_adapter(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith("peft.") and not module._modules.keys().isdisjoint(
        ("base_layer", "original_module")
    )


def _check_inactive(layer: Any, path: str) -> None:
    """Checks that the base layer inside an adapter's computes what the adapter's does."""
    merged = list(getattr(layer, "merged_adapters", ()))
    present = {n for part in layer.adapter_layer_names for n in getattr(layer, part, {})}
    active = [n for n in layer.active_adapters if n in present]
    # A merged LoRA that is switched off leaves the weights at the next call.
    names = merged if layer.disable_adapters else [] if merged else active
    if names:
        raise InputError(
            f"Expected a pipeline without a loaded LoRA, got {', '.join(map(repr, names))} in "
            f"{path}; call pipe.unload_lora_weights(), or pipe.fuse_lora() to make it part of the "
            "model."
        )
