"""Families of pipelines: Stable Diffusion 1, 2 and XL, and Flux.

They differ in the component that predicts, in how a prompt is encoded, and in how noise becomes
latents. Everything else in `editing` is the same for both.
"""

from dataclasses import dataclass
from typing import Any

import torch

from visdiff.errors import InputError

Tensor = torch.Tensor


@dataclass(frozen=True)
class StableDiffusion:
    """A UNet with one or two CLIP text encoders; guidance with a negative prompt."""

    denoiser: str = "unet"
    negatives: bool = True
    """Whether guidance uses a negative prompt."""

    def side(self, pipe: Any) -> tuple[int, int]:
        """Returns height and width of the latents that the model was trained on."""
        trained = pipe.unet.config.sample_size
        return (trained, trained) if isinstance(trained, int) else tuple(trained)

    def multiple(self, pipe: Any) -> int:
        """Returns the divisor of height and width of an image; diffusers requires 8."""
        return max(8, pipe.vae_scale_factor)

    def encoded(
        self, pipe: Any, prompt: str, device: Any, negative: str | None = None,
        guided: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Returns the encodings of a prompt, or of the negative prompt: tensors of 1 row.

        Args:
            pipe: The pipeline.
            prompt: The prompt.
            device: Device of the encodings.
            negative: A negative prompt; None for the pipeline's default.
            guided: Return the encodings of the negative prompt instead.
        """
        # SDXL: (prompt, negative, pooled, negative pooled); the others: (prompt, negative).
        found = pipe.encode_prompt(
            prompt=[prompt],
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            # diffusers requires the type of the prompt, a list.
            negative_prompt=None if negative is None else [negative],
        )
        names = ("prompt_embeds", "pooled_prompt_embeds")
        return dict(zip(names, found[1::2] if guided else found[::2], strict=False))

    def noise_shape(self, pipe: Any, height: int, width: int) -> tuple[int, int, int]:
        """Returns the shape of the initial noise of one image."""
        factor = pipe.vae_scale_factor
        return pipe.unet.config.in_channels, height // factor, width // factor

    def latents(self, noise: Tensor) -> Tensor:
        """Returns the latents of the pipeline's call for noise of shape (n, c, h, w)."""
        return noise


@dataclass(frozen=True)
class Flux:
    """A transformer with T5 states and CLIP's pooled vector as text; guidance is distilled.

    Black Forest Labs 2024, as in diffusers' ``FluxPipeline``.
    """

    denoiser: str = "transformer"
    negatives: bool = False

    def side(self, pipe: Any) -> tuple[int, int]:
        """Returns height and width of the latents that the model was trained on."""
        return pipe.default_sample_size, pipe.default_sample_size

    def multiple(self, pipe: Any) -> int:
        """Returns the divisor of height and width of an image; latents are packed 2 × 2."""
        return max(8, 2 * pipe.vae_scale_factor)

    def encoded(
        self, pipe: Any, prompt: str, device: Any, negative: str | None = None,
        guided: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Returns the encodings of a prompt, tensors of 1 row; negative prompts do not exist."""
        assert negative is None
        assert not guided
        states, pooled, _ = pipe.encode_prompt(
            prompt=[prompt],
            device=device,
            max_sequence_length=int(pipe.tokenizer_2.model_max_length),
        )
        return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}

    def noise_shape(self, pipe: Any, height: int, width: int) -> tuple[int, int, int]:
        """Returns the shape of the initial noise of one image."""
        factor = pipe.vae_scale_factor
        return pipe.transformer.config.in_channels // 4, height // factor, width // factor

    def latents(self, noise: Tensor) -> Tensor:
        """Packs 2 × 2 patches of noise, shape (n, c, h, w), into tokens, (n, h w / 4, 4 c)."""
        n, channels, height, width = noise.shape
        parts = noise.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return parts.reshape(n, height * width // 4, channels * 4)


Family = StableDiffusion | Flux


def family_of(pipe: Any) -> Family:
    """Returns the family of a pipeline.

    Raises:
        InputError: The pipeline belongs to neither family.
    """
    if hasattr(pipe, "encode_prompt"):
        if getattr(pipe, "unet", None) is not None:
            return StableDiffusion()
        if is_flux(pipe):
            return Flux()
    raise InputError(
        f"Expected a pipeline of Stable Diffusion 1, 2 or XL, or Flux, got {type(pipe).__name__}; "
        "load one of these."
    )


def is_flux(pipe: Any) -> bool:
    """Returns whether a pipeline uses Flux's transformer."""
    return type(getattr(pipe, "transformer", None)).__name__ == "FluxTransformer2DModel"
