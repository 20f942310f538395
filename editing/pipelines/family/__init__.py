"""Families of pipelines: Stable Diffusion 1, 2 and XL, Stable Diffusion 3, and Flux.

They differ in the component that predicts, in how a prompt is encoded, in the inputs of the
denoiser, and in how noise becomes latents. Everything else in `editing` is the same for all.
"""

from typing import Any

from editing.pipelines.family.flux import Flux
from editing.pipelines.family.stable_diffusion import StableDiffusion
from editing.pipelines.family.stable_diffusion_3 import StableDiffusion3
from editing.pipelines.wrappers import unwrapped
from visdiff.errors import InputError

Family = StableDiffusion | StableDiffusion3 | Flux

__all__ = [
    "Family",
    "Flux",
    "StableDiffusion",
    "StableDiffusion3",
    "family_of",
    "image_size",
    "is_flux",
]


def family_of(pipe: Any) -> Family:
    """Returns the family of a pipeline.

    Raises:
        InputError: The pipeline belongs to no family.
    """
    if hasattr(pipe, "encode_prompt"):
        if getattr(pipe, "unet", None) is not None:
            return StableDiffusion()
        if is_flux(pipe):
            return Flux()
        if _transformer(pipe) == "SD3Transformer2DModel":
            return StableDiffusion3()
    raise InputError(
        f"Expected a pipeline of Stable Diffusion 1, 2, XL or 3, or Flux, got "
        f"{type(pipe).__name__}; load one of these."
    )


def is_flux(pipe: Any) -> bool:
    """Returns whether a pipeline uses Flux's transformer."""
    return _transformer(pipe) == "FluxTransformer2DModel"


def image_size(pipe: Any, family: Family, height: int | None, width: int | None) -> tuple[int, int]:
    """Returns height and width of images in pixels.

    Args:
        pipe: The pipeline.
        family: Its family.
        height: Pixels; None for what the model was trained on.
        width: Pixels; None for what the model was trained on.

    Raises:
        InputError: The latents of such images do not exist.
    """
    both, factor = family.side(pipe), int(pipe.vae_scale_factor)
    size = (height or both[0] * factor, width or both[1] * factor)
    step = family.multiple(pipe)
    if any(side < step or side % step for side in size):
        raise InputError(
            f"Expected height and width divisible by {step}, got {size[0]} × {size[1]}; round them."
        )
    # Stable Diffusion 3 has a table of positions, which is no larger than it was trained with.
    places = getattr(getattr(pipe, family.denoiser).config, "pos_embed_max_size", None)
    if places is not None and max(size) > (most := places * factor * int(pipe.patch_size)):
        raise InputError(
            f"Expected height and width of at most {most}, got {size[0]} × {size[1]}; use a "
            "smaller size."
        )
    return size


def _transformer(pipe: Any) -> str:
    return type(unwrapped(getattr(pipe, "transformer", None))).__name__
