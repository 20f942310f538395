"""What differs between families of pipelines: Stable Diffusion 1, 2 and XL on one side, Flux.

Which component predicts, how a prompt is encoded, how noise becomes latents. All else that
`editing` does with a pipeline is the same for both.
"""

from dataclasses import dataclass
from typing import Any

import torch

from visdiff.errors import InputError

Tensor = torch.Tensor


@dataclass(frozen=True)
class StableDiffusion:
    """A UNet that reads one or two CLIP text encoders; guidance by a negative prompt."""

    denoiser: str = "unet"
    negatives: bool = True
    """Whether guidance leads away from a second prompt."""

    def side(self, pipe: Any) -> tuple[int, int]:
        """Height and width of the latents that the model was trained on."""
        trained = pipe.unet.config.sample_size
        return (trained, trained) if isinstance(trained, int) else tuple(trained)

    def multiple(self, pipe: Any) -> int:
        """What divides an image's height and width; 8 is what diffusers asks for."""
        return max(8, pipe.vae_scale_factor)

    def encoded(
        self, pipe: Any, prompt: str, device: Any, negative: str | None = None,
        guided: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Encodes a prompt or, guided, what guidance leads away from: tensors of 1 row.

        Args:
            pipe: The pipeline.
            prompt: The prompt.
            device: Where to.
            negative: A negative prompt; None for the pipeline's default.
            guided: Return the negative's encodings instead.
        """
        # SDXL: (prompt, negative, pooled, negative pooled); the others: (prompt, negative).
        found = pipe.encode_prompt(
            prompt=[prompt],
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            # A list like the prompt's, or diffusers complains.
            negative_prompt=None if negative is None else [negative],
        )
        names = ("prompt_embeds", "pooled_prompt_embeds")
        return dict(zip(names, found[1::2] if guided else found[::2], strict=False))

    def noise_shape(self, pipe: Any, height: int, width: int) -> tuple[int, int, int]:
        """Shape of one image's initial noise."""
        factor = pipe.vae_scale_factor
        return pipe.unet.config.in_channels, height // factor, width // factor

    def latents(self, noise: Tensor) -> Tensor:
        """Turns noise, shape (n, c, h, w), into what the pipeline takes as latents."""
        return noise


@dataclass(frozen=True)
class Flux:
    """A transformer that reads T5's states and CLIP's pooled vector; guidance is distilled.

    Black Forest Labs 2024, as in diffusers' ``FluxPipeline``.
    """

    denoiser: str = "transformer"
    negatives: bool = False

    def side(self, pipe: Any) -> tuple[int, int]:
        """Height and width of the latents that the model was trained on."""
        return pipe.default_sample_size, pipe.default_sample_size

    def multiple(self, pipe: Any) -> int:
        """What divides an image's height and width: latents are packed two by two."""
        return max(8, 2 * pipe.vae_scale_factor)

    def encoded(
        self, pipe: Any, prompt: str, device: Any, negative: str | None = None,
        guided: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Encodes a prompt: tensors of 1 row. There are no negative ones to ask for."""
        assert negative is None
        assert not guided
        states, pooled, _ = pipe.encode_prompt(
            prompt=[prompt],
            device=device,
            max_sequence_length=int(pipe.tokenizer_2.model_max_length),
        )
        return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}

    def noise_shape(self, pipe: Any, height: int, width: int) -> tuple[int, int, int]:
        """Shape of one image's initial noise."""
        factor = pipe.vae_scale_factor
        return pipe.transformer.config.in_channels // 4, height // factor, width // factor

    def latents(self, noise: Tensor) -> Tensor:
        """Packs noise, shape (n, c, h, w), two by two into tokens, (n, h w / 4, 4 c)."""
        n, channels, height, width = noise.shape
        parts = noise.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return parts.reshape(n, height * width // 4, channels * 4)


Family = StableDiffusion | Flux


def family_of(pipe: Any) -> Family:
    """Returns the family of a pipeline.

    Raises:
        InputError: It is of none.
    """
    if hasattr(pipe, "encode_prompt"):
        if getattr(pipe, "unet", None) is not None:
            return StableDiffusion()
        if is_flux(pipe):
            return Flux()
    raise InputError(
        f"Expected a pipeline of Stable Diffusion 1, 2 or XL, or Flux, got {type(pipe).__name__}: "
        "give one with a UNet and text encoders."
    )


def is_flux(pipe: Any) -> bool:
    """Whether a pipeline predicts by Flux's transformer."""
    return type(getattr(pipe, "transformer", None)).__name__ == "FluxTransformer2DModel"
