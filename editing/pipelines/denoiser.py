"""A pipeline's denoiser as a function of (points, timesteps, texts, weights).

Gradient methods ask one model two things: what it predicts as it is, and what it would predict
with other weights. Both are calls of the same UNet, the second with tensors put in place of its
own for the length of one call, so that training needs no second UNet in memory and the pipeline
is never changed. The UNet's input, output and texts are those of the pipeline's own guidance.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call

from editing.pipelines.sampling import Texts
from visdiff.errors import InputError

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Conditions:
    """Prompts as the denoiser reads them, one row each.

    Attributes:
        states: Token states, shape (n, length, d).
        pooled: SDXL's pooled vectors, shape (n, p); None for other models.
    """

    states: Tensor
    pooled: Tensor | None = None

    def rows(self, index: Sequence[int]) -> "Conditions":
        """Returns chosen rows, in order, repeated where asked for."""
        chosen = torch.tensor(index, device=self.states.device)
        pooled = None if self.pooled is None else self.pooled[chosen]
        return Conditions(self.states[chosen], pooled)


class Denoiser:
    """The UNet of a Stable Diffusion 1, 2 or XL pipeline.

    What it predicts (noise, velocity or the sample, as the scheduler's configuration says) is
    taken as it is: guidance is linear in it, and at one point differences of predictions of one
    kind are those of another times a factor that depends on the timestep alone.

    Args:
        pipe: The pipeline; only read.
        height: Pixels; None for what the model was trained on.
        width: Pixels; None for what the model was trained on.

    Attributes:
        pipe: The pipeline.
        shape: Channels, height and width of its latents.
        size: Height and width in pixels.

    Raises:
        InputError: The pipeline is of another family, in float16, offloaded, or a size does not
            fit.
    """

    def __init__(self, pipe: Any, height: int | None = None, width: int | None = None) -> None:
        unet = getattr(pipe, "unet", None)
        if unet is None or not hasattr(pipe, "encode_prompt"):
            raise InputError(
                f"Expected a pipeline with a UNet (Stable Diffusion 1, 2 or XL), got "
                f"{type(pipe).__name__}; training knows no other denoiser yet."
            )
        if unet.dtype == torch.float16:
            raise InputError(
                "Expected a pipeline in float32 or bfloat16 for training, got float16, whose "
                "gradients vanish; load it with dtype=torch.bfloat16 or torch.float32."
            )
        if getattr(unet, "_hf_hook", None) is not None:
            raise InputError(
                "Expected a pipeline whose UNet stays on one device, got one under CPU "
                "offloading; load it without, for the fit."
            )
        if getattr(unet, "is_gradient_checkpointing", False):
            # What it computes again on the way back would be computed with the base's weights.
            raise InputError(
                "Expected a UNet without gradient checkpointing, got one with; call "
                "pipe.unet.disable_gradient_checkpointing()."
            )
        self.pipe = pipe
        self._unet = unet
        trained = unet.config.sample_size
        both = (trained, trained) if isinstance(trained, int) else tuple(trained)
        factor = int(pipe.vae_scale_factor)
        step = max(8, factor)
        self.size = (height or both[0] * factor, width or both[1] * factor)
        if any(side < step or side % step for side in self.size):
            raise InputError(
                f"Expected a height and a width that {step} divides, got {self.size[0]} × "
                f"{self.size[1]}; round them."
            )
        channels = int(unet.config.in_channels)
        if channels != int(unet.config.out_channels):
            raise InputError(
                f"Expected a UNet that reads and writes as many channels, got {channels} and "
                f"{unet.config.out_channels}; inpainting and depth models cannot be trained here."
            )
        self.shape = (channels, self.size[0] // factor, self.size[1] // factor)
        self._timed = getattr(unet.config, "addition_embed_type", None) == "text_time"

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        # `unet.device` of diffusers walks all modules at each call, for group offloading.
        return next(self._unet.parameters()).device

    def encode(self, texts: Sequence[str]) -> Conditions:
        """Encodes prompts as the pipeline does before it draws.

        Args:
            texts: Prompts. "" stands for what the pipeline guides away from when no negative
                prompt is given: the empty prompt, and zeros where SDXL's configuration says so.

        Returns:
            One row a prompt.
        """
        source = Texts(self.pipe, None)
        states, pooled = [], []
        for text in texts:
            found = source.encoded([text])
            prefix = "" if text else "negative_"
            states.append(found[f"{prefix}prompt_embeds"][0])
            if self._timed:
                pooled.append(found[f"{prefix}pooled_prompt_embeds"][0])
        return Conditions(
            torch.stack(states).detach(), torch.stack(pooled).detach() if pooled else None
        )

    def predict(
        self,
        inputs: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Predicts.

        Args:
            inputs: What the UNet reads (after ``scheduler.scale_model_input``), shape (n, c, h, w).
            timesteps: Shape (n,).
            conditions: n rows.
            weights: Full name ("unet.….weight") → what to use in the place of the base's; only
                they get gradients.

        Returns:
            float32, shape (n, c, h, w).
        """
        first = next(self._unet.parameters())
        device, dtype = first.device, first.dtype
        args = (inputs.to(device, dtype), timesteps.to(device))
        kwargs: dict[str, Any] = {
            "encoder_hidden_states": conditions.states.to(device, dtype),
            "return_dict": False,
        }
        if self._timed:
            assert conditions.pooled is not None
            # Original size, crop's corner, target size: as drawn without any crop.
            ids = torch.tensor([*self.size, 0, 0, *self.size], device=device, dtype=dtype)
            kwargs["added_cond_kwargs"] = {
                "text_embeds": conditions.pooled.to(device, dtype),
                "time_ids": ids.expand(len(inputs), -1),
            }
        if weights is None:
            with torch.no_grad():
                return self._unet(*args, **kwargs)[0].float()
        used = {name: value.detach() for name, value in self._unet.named_parameters()}
        for name, value in weights.items():
            used[name.removeprefix("unet.")] = value.to(device, dtype)
        return functional_call(self._unet, used, args, kwargs)[0].float()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switches dropout off inside the block, and every module back to what it was after it."""
        training = [module for module in self._unet.modules() if module.training]
        self._unet.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
