"""Stable Diffusion 1, 2 and XL.

Rombach et al. 2022, arXiv:2112.10752; Podell et al. 2023, arXiv:2307.01952.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class StableDiffusion:
    """A UNet with one or two CLIP text encoders; guidance with a negative prompt."""

    denoiser: str = "unet"
    negatives: bool = True
    """Whether guidance uses a negative prompt."""
    flow: bool = False
    """Whether the denoiser predicts the velocity of flow matching for every scheduler."""

    def side(self, pipe: Any) -> tuple[int, int]:
        """Returns height and width of the latents that the model was trained on."""
        trained = pipe.unet.config.sample_size
        return (trained, trained) if isinstance(trained, int) else tuple(trained)

    def multiple(self, pipe: Any) -> int:
        """Returns the divisor of height and width of an image; diffusers requires 8."""
        return max(8, int(pipe.vae_scale_factor))

    def encoded(
        self, pipe: Any, prompts: Sequence[str], device: Any, negative: str | None = None,
        guided: bool = False,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Returns the encodings of n prompts, or of the negative prompt: tensors of n rows.

        Gradients reach the text encoders unless the caller disables them.

        Args:
            pipe: The pipeline.
            prompts: The prompts.
            device: Device of the encodings.
            negative: A negative prompt; None for the pipeline's default.
            guided: Return the encodings of the negative prompt instead.
        """
        # SDXL: (prompt, negative, pooled, negative pooled); the others: (prompt, negative).
        found = pipe.encode_prompt(
            prompt=list(prompts),
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            # diffusers requires the type of the prompt, a list.
            negative_prompt=None if negative is None else [negative] * len(prompts),
        )
        names = ("prompt_embeds", "pooled_prompt_embeds")
        return dict(zip(names, found[1::2] if guided else found[::2], strict=False))

    def channels(self, pipe: Any) -> tuple[int, int]:
        """Returns the numbers of channels of the denoiser's input and output latents."""
        return int(pipe.unet.config.in_channels), int(pipe.unet.config.out_channels)

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
        """Returns positional and keyword arguments of the denoiser, as in the pipeline's sampling.

        Args:
            pipe: The pipeline.
            inputs: Noisy latents, shape (n, c, h, w), on the denoiser's device and in its dtype, as
                are the other tensors.
            timesteps: Timesteps of the scheduler, shape (n,), in a dtype of their own.
            states: Token states, shape (n, length, d).
            pooled: SDXL's pooled vectors, shape (n, p).
            sizes: SDXL's original size, crop corner and target size of each sample (height before
                width, top before left), shape (n, 6); None for images of the size of the inputs,
                neither scaled nor cropped. SD 1 and 2 do not use it.
        """
        found: dict[str, Any] = {"encoder_hidden_states": states, "return_dict": False}
        if getattr(pipe.unet.config, "addition_embed_type", None) == "text_time":
            assert pooled is not None
            if sizes is None:
                own = [side * int(pipe.vae_scale_factor) for side in inputs.shape[2:]]
                sizes = inputs.new_tensor([*own, 0, 0, *own]).expand(len(inputs), -1)
            found["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        return (inputs, timesteps), found

    def prediction(self, output: Tensor, height: int, width: int) -> Tensor:
        """Returns the denoiser's output for latents of a height and width as (n, c, h, w)."""
        return output

    def latent_scale(self, pipe: Any) -> tuple[Tensor, Tensor]:
        """Returns shift and factor of latents: the denoiser's are (VAE's − shift) × factor.

        Returns:
            Two float32 tensors that broadcast to (n, c, h, w).
        """
        config = pipe.vae.config
        factor = torch.tensor(float(config.scaling_factor))
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        # Models of SDXL's architecture, such as Playground 2.5, scale each channel.
        if mean is None or std is None:
            return torch.tensor(0.0), factor
        return torch.tensor(mean).view(-1, 1, 1), factor / torch.tensor(std).view(-1, 1, 1)
