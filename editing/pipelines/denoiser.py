"""A pipeline's denoiser as a function of (points, timesteps, texts), and of weights.

Methods that train need predictions of the original model and of the model with other weights. Both
are calls of the same network; the second replaces parameters for one call, or as long as the caller
substitutes them. Training therefore needs no second network in memory, and the pipeline is never
modified. The network receives the same inputs and text encodings as in the pipeline's own sampling.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.func import functional_call

from editing.pipelines.family import family_of, image_size
from editing.pipelines.sampling import Texts
from editing.pipelines.wrappers import check_not_quantized
from visdiff.errors import InputError

Tensor = torch.Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What a denoiser predicts: the noise, Salimans and Ho's velocity (2022, arXiv:2202.00512), the
clean latents, or the velocity of flow matching, noise − clean latents."""

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "flow",
}

NullEncoding = Literal["pipeline", "prompt"]
"""The encoding of the empty prompt: that of the pipeline's default negative prompt, which is zeros
if SDXL's configuration specifies so, or that of the text encoders. They differ for SDXL only."""


def cumulative_alphas(scheduler: Any) -> Tensor:
    """Returns ᾱ of each timestep that a diffusion model was trained on, float32, shape (n,).

    Noised latents are √ᾱ z + √(1 − ᾱ) ε. ``add_noise`` of many schedulers is something else: that
    of Euler is not scaled as the network expects, and that of DPM-Solver depends on the steps of
    the last sampling.

    Raises:
        InputError: The model was trained on other noise levels (EDM, such as Playground 2.5).
    """
    found = getattr(scheduler, "alphas_cumprod", None)
    if found is None:
        raise InputError(
            f"Expected a scheduler with the noise levels of a diffusion model, got "
            f"{type(scheduler).__name__}, whose model has inputs of another scale; use a model of "
            "Stable Diffusion 1, 2 or XL."
        )
    return found.float()


@dataclass(frozen=True, eq=False)
class Conditions:
    """Encoded prompts for the denoiser, one row per prompt.

    Attributes:
        states: Token states, shape (n, length, d).
        pooled: Pooled vectors of SDXL, SD 3 and Flux, shape (n, p); None for other models.
    """

    states: Tensor
    pooled: Tensor | None = None

    def rows(self, index: Sequence[int]) -> "Conditions":
        """Returns the rows of an index, in order and with repetitions."""
        chosen = torch.tensor(index, device=self.states.device)
        pooled = None if self.pooled is None else self.pooled[chosen]
        return Conditions(self.states[chosen], pooled)

    @classmethod
    def cat(cls, parts: Sequence["Conditions"]) -> "Conditions":
        """Returns the rows of all parts, in order; the parts come from one model."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(
            torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None
        )


class Denoiser:
    """The denoiser of a pipeline of Stable Diffusion 1, 2, XL or 3, or Flux.

    Predictions (noise, velocity or sample, see `prediction`) are used without conversion. Guidance
    is linear in them, and at one point the differences of one kind of prediction equal those of
    another times a factor that depends only on the timestep.

    Latents are unpacked, shape (n, c, h, w), for every family. Heights and widths other than those
    of `shape` are allowed in every call.

    Args:
        pipe: The pipeline; it is not modified.
        height: Height in pixels; None for the resolution the model was trained on.
        width: Width in pixels; None for the resolution the model was trained on.

    Attributes:
        pipe: The pipeline.
        family: Its family.
        shape: Channels, height and width of the latents.
        size: Height and width of the images in pixels.

    Raises:
        InputError: The pipeline is of another family or offloaded, the denoiser is quantized or has
            inputs other than latents and text, or a size is not valid.
    """

    def __init__(self, pipe: Any, height: int | None = None, width: int | None = None) -> None:
        self.pipe = pipe
        self.family = family_of(pipe)
        if getattr(self.module, "_hf_hook", None) is not None:
            raise InputError(
                "Expected a pipeline whose denoiser stays on one device, got one with CPU "
                "offloading; load it without offloading for the fit."
            )
        check_not_quantized(self.family.denoiser, self.module)
        self.size = image_size(pipe, self.family, height, width)
        before, after = self.family.channels(pipe)
        if before != after:
            raise InputError(
                f"Expected a denoiser with equal numbers of input and output channels, got "
                f"{before} and {after}; use a model without inpainting, depth or image inputs."
            )
        self.shape = self.family.noise_shape(pipe, *self.size)

    @property
    def module(self) -> torch.nn.Module:
        """The network that predicts: UNet or transformer."""
        return getattr(self.pipe, self.family.denoiser)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self._first.dtype

    @property
    def prediction(self) -> Prediction:
        """What the network predicts, by the configuration of the pipeline's scheduler.

        Raises:
            InputError: The configuration is unknown.
        """
        kind = getattr(self.pipe.scheduler.config, "prediction_type", None)
        if self.family.flow:
            return "flow"
        if kind not in _PREDICTIONS:
            raise InputError(
                f"Expected a scheduler with prediction_type {', '.join(_PREDICTIONS)}, got "
                f"{kind!r}; use the scheduler of the model."
            )
        return _PREDICTIONS[kind]

    def check_functional_training(self) -> None:
        """Checks that `predict` with other weights has correct gradients.

        Raises:
            InputError: The network is in float16 or uses gradient checkpointing.
        """
        if self.dtype == torch.float16:
            raise InputError(
                "Expected a pipeline in float32 or bfloat16 for training, got float16, in which "
                "gradients underflow; load it with dtype=torch.bfloat16 or torch.float32."
            )
        if getattr(self.module, "is_gradient_checkpointing", False):
            # The backward pass would recompute activations with the weights of the base.
            raise InputError(
                "Expected a UNet without gradient checkpointing, got one with it; call "
                "pipe.unet.disable_gradient_checkpointing()."
            )

    def encode(self, texts: Sequence[str], null: NullEncoding = "pipeline") -> Conditions:
        """Encodes prompts as the pipeline does for sampling, without gradients.

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
            plain = text or null == "prompt" or not self.family.negatives
            prefix = "" if plain else "negative_"
            states.append(encoded[f"{prefix}prompt_embeds"][0])
            if f"{prefix}pooled_prompt_embeds" in encoded:
                pooled.append(encoded[f"{prefix}pooled_prompt_embeds"][0])
        return Conditions(
            torch.stack(states).detach(), torch.stack(pooled).detach() if pooled else None
        )

    def encode_with_gradients(self, texts: Sequence[str]) -> Conditions:
        """Encodes prompts in one batch, differentiable in the parameters of the text encoders.

        The parameters are those that the text encoders hold at the time of the call. Placeholders
        of textual inversion are expanded as in sampling. Under ``torch.no_grad`` there are no
        gradients.

        Args:
            texts: Prompts. "" is the empty prompt, not the default negative prompt.

        Returns:
            One row per prompt.
        """
        encoded = self.family.encoded(self.pipe, texts, self.device)
        return Conditions(encoded["prompt_embeds"], encoded.get("pooled_prompt_embeds"))

    def forward(
        self,
        inputs: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """Returns the prediction of the network with its current parameters, with gradients.

        Args:
            inputs: Input of the network (after ``scheduler.scale_model_input``), shape
                (n, c, h, w). Flow matching: (1 − σ) × clean latents + σ × noise.
            timesteps: Timesteps as in ``scheduler.timesteps``, shape (n,). Flow matching: 1000 σ,
                with σ in [0, 1], for every family.
            conditions: Encoded prompts, n rows.
            sizes: SDXL's original height and width, top and left of the crop, target height and
                width, in pixels, shape (n, 6); None for images of the size of the inputs, neither
                scaled nor cropped. Other models do not use it.

        Returns:
            float32, shape (n, c, h, w).
        """
        positional, named = self._arguments(inputs, timesteps, conditions, sizes)
        output = self.module(*positional, **named)[0]
        return self.family.prediction(output, *inputs.shape[2:]).float()

    def predict(
        self,
        inputs: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        weights: Mapping[str, Tensor] | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """Returns the prediction of the network, with other weights if given.

        Gradients are correct only if `check_functional_training` raises no error.

        Args:
            inputs: As for `forward`.
            timesteps: As for `forward`.
            conditions: As for `forward`.
            weights: Full name ("unet.….weight") → tensor that replaces the parameter; only these
                receive gradients. None for the network's own, without gradients.
            sizes: As for `forward`.

        Returns:
            float32, shape (n, c, h, w).
        """
        if weights is None:
            with torch.no_grad():
                return self.forward(inputs, timesteps, conditions, sizes)
        positional, named = self._arguments(inputs, timesteps, conditions, sizes)
        prefix, device, dtype = f"{self.family.denoiser}.", self.device, self.dtype
        used = {name: value.detach() for name, value in self.module.named_parameters()}
        for name, value in weights.items():
            used[name.removeprefix(prefix)] = value.to(device, dtype)
        output = functional_call(self.module, used, positional, named)[0]
        return self.family.prediction(output, *inputs.shape[2:]).float()

    @torch.no_grad()
    def latent_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation of the VAE's posterior, without gradients.

        A float16 VAE whose configuration sets ``force_upcast`` computes in float32, as in sampling
        with SDXL, since it overflows.

        Args:
            pixels: Images in [−1, 1], float32, shape (n, 3, height, width), divisible as `size`.

        Returns:
            Two tensors in the space of the denoiser's latents, (VAE's − shift) × factor; float32,
            shape (n, c, h, w), on the device of the VAE.

        Raises:
            InputError: The VAE has no posterior.
        """
        vae = self.pipe.vae
        first = next(vae.parameters())
        upcast = first.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
        with _in_float32(vae) if upcast else nullcontext():
            dtype = torch.float32 if upcast else first.dtype
            posterior = getattr(vae.encode(pixels.to(first.device, dtype)), "latent_dist", None)
        if posterior is None:
            raise InputError(
                f"Expected a VAE with a posterior (AutoencoderKL), got {type(vae).__name__}; load "
                "the pipeline with its own VAE."
            )
        shift, factor = (part.to(first.device) for part in self.family.latent_scale(self.pipe))
        return (posterior.mean.float() - shift) * factor, posterior.std.float() * factor

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switches dropout off inside the block and restores the mode of every module after it."""
        training = [module for module in self.module.modules() if module.training]
        self.module.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @property
    def _first(self) -> Tensor:
        # `device` and `dtype` of diffusers visit all modules at each call. Quantised parameters
        # are integers.
        return next(p for p in self.module.parameters() if p.is_floating_point())

    def _arguments(
        self, inputs: Tensor, timesteps: Tensor, conditions: Conditions, sizes: Tensor | None
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        first = self._first
        device, dtype = first.device, first.dtype
        return self.family.arguments(
            self.pipe,
            inputs.to(device, dtype),
            timesteps.to(device),
            conditions.states.to(device, dtype),
            None if conditions.pooled is None else conditions.pooled.to(device, dtype),
            None if sizes is None else sizes.to(device, dtype),
        )


@contextmanager
def _in_float32(vae: torch.nn.Module) -> Iterator[None]:
    """Computes in float32 inside the block and puts the stored values back after it."""
    stored = [(t, t.data) for t in (*vae.parameters(), *vae.buffers()) if t.is_floating_point()]
    try:
        for tensor, values in stored:
            tensor.data = values.float()
        yield
    finally:
        for tensor, values in stored:
            tensor.data = values
