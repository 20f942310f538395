"""Flux (Black Forest Labs 2024, as in diffusers' ``FluxPipeline``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Flux:
    """A transformer with T5 states and CLIP's pooled vector as text; guidance is distilled."""

    denoiser: str = "transformer"
    negatives: bool = False
    flow: bool = True

    def side(self, pipe: Any) -> tuple[int, int]:
        """Returns height and width of the latents that the model was trained on."""
        return pipe.default_sample_size, pipe.default_sample_size

    def multiple(self, pipe: Any) -> int:
        """Returns the divisor of height and width of an image; latents are packed 2 × 2."""
        return max(8, 2 * int(pipe.vae_scale_factor))

    def encoded(
        self, pipe: Any, prompts: Sequence[str], device: Any, negative: str | None = None,
        guided: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Returns the encodings of n prompts, tensors of n rows; negative prompts do not exist."""
        assert negative is None
        assert not guided
        states, pooled, _ = pipe.encode_prompt(
            prompt=list(prompts),
            device=device,
            max_sequence_length=int(pipe.tokenizer_2.model_max_length),
        )
        return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}

    def channels(self, pipe: Any) -> tuple[int, int]:
        """Returns the numbers of channels of the denoiser's input and output latents."""
        config = pipe.transformer.config
        before, after = int(config.in_channels), config.out_channels
        return before // 4, (before if after is None else int(after)) // 4

    def noise_shape(self, pipe: Any, height: int, width: int) -> tuple[int, int, int]:
        """Returns the shape of the initial noise of one image."""
        factor = int(pipe.vae_scale_factor)
        return self.channels(pipe)[0], height // factor, width // factor

    def latents(self, noise: Tensor) -> Tensor:
        """Packs 2 × 2 patches of noise, shape (n, c, h, w), into tokens, (n, h w / 4, 4 c)."""
        n, channels, height, width = noise.shape
        parts = noise.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return parts.reshape(n, height * width // 4, channels * 4)

    def arguments(
        self, pipe: Any, inputs: Tensor, timesteps: Tensor, states: Tensor, pooled: Tensor | None,
        sizes: Tensor | None,
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:  # fmt: skip
        """Returns arguments of the denoiser, as `StableDiffusion.arguments`.

        A model with distilled guidance receives scale 1, as in diffusers' training scripts; the
        pipeline's default for sampling is 3.5.
        """
        n, _, height, width = inputs.shape
        rows = torch.arange(height // 2, device=inputs.device)
        columns = torch.arange(width // 2, device=inputs.device)
        places = torch.cartesian_prod(rows, columns).view(-1, 2)
        distilled = bool(pipe.transformer.config.guidance_embeds)
        return (), {
            "hidden_states": self.latents(inputs),
            # In the dtype of the latents before the division, as in the pipeline's sampling.
            "timestep": timesteps.to(inputs.dtype) / 1000,
            "guidance": torch.ones(n, device=inputs.device) if distilled else None,
            "pooled_projections": pooled,
            "encoder_hidden_states": states,
            "txt_ids": inputs.new_zeros(states.shape[1], 3),
            "img_ids": torch.nn.functional.pad(places, (1, 0)).to(inputs.dtype),
            "return_dict": False,
        }

    def prediction(self, output: Tensor, height: int, width: int) -> Tensor:
        """Unpacks tokens, the inverse of `latents`."""
        parts = output.reshape(len(output), height // 2, width // 2, -1, 2, 2)
        return parts.permute(0, 3, 1, 4, 2, 5).reshape(len(output), -1, height, width)

    def latent_scale(self, pipe: Any) -> tuple[Tensor, Tensor]:
        """Returns shift and factor of latents, as `StableDiffusion.latent_scale`."""
        config = pipe.vae.config
        return torch.tensor(float(config.shift_factor)), torch.tensor(float(config.scaling_factor))
