"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor

# Length of T5's states in the call of diffusers' pipeline.
_T5_LENGTH = 256


@dataclass(frozen=True)
class StableDiffusion3:
    """A transformer (MMDiT) with two CLIP text encoders and T5, which may be absent."""

    denoiser: str = "transformer"
    negatives: bool = True
    flow: bool = True

    def side(self, pipe: Any) -> tuple[int, int]:
        """Returns height and width of the latents that the model was trained on."""
        return pipe.default_sample_size, pipe.default_sample_size

    def multiple(self, pipe: Any) -> int:
        """Returns the divisor of height and width of an image; latents are cut into patches."""
        return max(8, int(pipe.vae_scale_factor) * int(pipe.patch_size))

    def encoded(
        self, pipe: Any, prompts: Sequence[str], device: Any, negative: str | None = None,
        guided: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Returns the encodings of n prompts, as `StableDiffusion.encoded`.

        diffusers loads no textual inversion into this family, so a placeholder of several vectors
        is not expanded.
        """
        length = _T5_LENGTH
        if pipe.tokenizer_3 is not None:
            length = min(length, int(pipe.tokenizer_3.model_max_length))
        found = pipe.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=device,
            do_classifier_free_guidance=guided,
            negative_prompt=None if negative is None else [negative] * len(prompts),
            max_sequence_length=length,
        )
        states, pooled = found[1::2] if guided else found[::2]
        return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}

    def channels(self, pipe: Any) -> tuple[int, int]:
        """Returns the numbers of channels of the denoiser's input and output latents."""
        config = pipe.transformer.config
        return int(config.in_channels), int(config.out_channels)

    def noise_shape(self, pipe: Any, height: int, width: int) -> tuple[int, int, int]:
        """Returns the shape of the initial noise of one image."""
        factor = int(pipe.vae_scale_factor)
        return self.channels(pipe)[0], height // factor, width // factor

    def latents(self, noise: Tensor) -> Tensor:
        """Returns the latents of the pipeline's call for noise of shape (n, c, h, w)."""
        return noise

    def arguments(
        self, pipe: Any, inputs: Tensor, timesteps: Tensor, states: Tensor, pooled: Tensor | None,
        sizes: Tensor | None,
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:  # fmt: skip
        """Returns arguments of the denoiser, as `StableDiffusion.arguments`."""
        return (), {
            "hidden_states": inputs,
            "timestep": timesteps,
            "encoder_hidden_states": states,
            "pooled_projections": pooled,
            "return_dict": False,
        }

    def prediction(self, output: Tensor, height: int, width: int) -> Tensor:
        """Returns the denoiser's output for latents of a height and width as (n, c, h, w)."""
        return output

    def latent_scale(self, pipe: Any) -> tuple[Tensor, Tensor]:
        """Returns shift and factor of latents, as `StableDiffusion.latent_scale`."""
        config = pipe.vae.config
        return torch.tensor(float(config.shift_factor)), torch.tensor(float(config.scaling_factor))
