"""A pipeline's denoiser as a function of (points, timesteps, texts, weights).

Methods that train need predictions of the original model and of the model with other weights. Both
are calls of the same UNet; the second replaces parameters for one call only. Training therefore
needs no second UNet in memory, and the pipeline is never modified. The UNet receives the same
inputs and text encodings as in the pipeline's own sampling.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.func import functional_call

from editing.pipelines.sampling import Texts
from visdiff.errors import InputError

Tensor = torch.Tensor

NullEncoding = Literal["pipeline", "prompt"]
"""The encoding of the empty prompt: that of the pipeline's default negative prompt, which is zeros
if SDXL's configuration specifies so, or that of the text encoders. They differ for SDXL only."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """Encoded prompts for the denoiser, one row per prompt.

    Attributes:
        states: Token states, shape (n, length, d).
        pooled: SDXL's pooled vectors, shape (n, p); None for other models.
    """

    states: Tensor
    pooled: Tensor | None = None

    def rows(self, index: Sequence[int]) -> "Conditions":
        """Returns the rows of an index, in order and with repetitions."""
        chosen = torch.tensor(index, device=self.states.device)
        pooled = None if self.pooled is None else self.pooled[chosen]
        return Conditions(self.states[chosen], pooled)


class Denoiser:
    """The UNet of a Stable Diffusion 1, 2 or XL pipeline.

    Predictions (noise, velocity or sample, according to the scheduler's configuration) are used
    without conversion. Guidance is linear in them, and at one point the differences of one kind of
    prediction equal those of another times a factor that depends only on the timestep.

    Args:
        pipe: The pipeline; it is not modified.
        height: Height in pixels; None for the resolution the model was trained on.
        width: Width in pixels; None for the resolution the model was trained on.

    Attributes:
        pipe: The pipeline.
        shape: Channels, height and width of the latents.
        size: Height and width of the images in pixels.

    Raises:
        InputError: The pipeline is of another family, in float16 or offloaded, or a size is not
            valid.
    """

    def __init__(self, pipe: Any, height: int | None = None, width: int | None = None) -> None:
        unet = getattr(pipe, "unet", None)
        if unet is None or not hasattr(pipe, "encode_prompt"):
            raise InputError(
                f"Expected a pipeline with a UNet (Stable Diffusion 1, 2 or XL), got "
                f"{type(pipe).__name__}; training supports no other denoiser yet."
            )
        if unet.dtype == torch.float16:
            raise InputError(
                "Expected a pipeline in float32 or bfloat16 for training, got float16, in which "
                "gradients underflow; load it with dtype=torch.bfloat16 or torch.float32."
            )
        if getattr(unet, "_hf_hook", None) is not None:
            raise InputError(
                "Expected a pipeline whose UNet stays on one device, got one with CPU "
                "offloading; load it without offloading for the fit."
            )
        if getattr(unet, "is_gradient_checkpointing", False):
            # The backward pass would recompute activations with the weights of the base.
            raise InputError(
                "Expected a UNet without gradient checkpointing, got one with it; call "
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
                f"Expected height and width divisible by {step}, got {self.size[0]} × "
                f"{self.size[1]}; round them."
            )
        channels = int(unet.config.in_channels)
        if channels != int(unet.config.out_channels):
            raise InputError(
                f"Expected a UNet with equal numbers of input and output channels, got {channels} "
                f"and {unet.config.out_channels}; use a model without inpainting or depth inputs."
            )
        self.shape = (channels, self.size[0] // factor, self.size[1] // factor)
        self._timed = getattr(unet.config, "addition_embed_type", None) == "text_time"

    @property
    def device(self) -> torch.device:
        """Device of the UNet."""
        # `unet.device` of diffusers visits all modules at each call, for group offloading.
        return next(self._unet.parameters()).device

    def encode(self, texts: Sequence[str], null: NullEncoding = "pipeline") -> Conditions:
        """Encodes prompts as the pipeline does for sampling.

        Args:
            texts: Prompts.
            null: Encoding of "".

        Returns:
            One row per prompt.
        """
        source = Texts(self.pipe, None)
        states, pooled = [], []
        for text in texts:
            encoded = source.encoded([text])
            prefix = "" if text or null == "prompt" else "negative_"
            states.append(encoded[f"{prefix}prompt_embeds"][0])
            if self._timed:
                pooled.append(encoded[f"{prefix}pooled_prompt_embeds"][0])
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
        """Returns the prediction of the UNet.

        Args:
            inputs: Input of the UNet (after ``scheduler.scale_model_input``), shape (n, c, h, w).
            timesteps: Timesteps, shape (n,).
            conditions: Encoded prompts, n rows.
            weights: Full name ("unet.….weight") → tensor that replaces the parameter; only these
                receive gradients.

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
            # Original size, crop corner and target size, as for sampling without cropping.
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
        """Switches dropout off inside the block and restores the mode of every module after it."""
        training = [module for module in self._unet.modules() if module.training]
        self._unet.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
