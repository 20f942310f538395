r"""The denoising loss of personalisation: one expression with a table of cases.

.. math:: L = \frac{\sum_p m_p w_t (f(z_t, t, c) - y)^2_p}{\sum_p m_p}
          + \lambda\, w_{t'} \| f(z'_{t'}, t', c') - y' \|^2

for an image of the subject and one of its class (the prior of DreamBooth, arXiv:2208.12242). The
noised latents are :math:`z_t = a_t z + b_t \epsilon`; what the model predicts decides the target y,
and with min-SNR weighting (Hang et al., arXiv:2303.09556) the weight :math:`w_t`. Each half has the
weights of its own timesteps. m is a mask of the subject, 1 without one.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from editing.pipelines.denoiser import cumulative_alphas
from visdiff.errors import InputError

Tensor = torch.Tensor
Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The noise levels that training draws from.

    Attributes:
        prediction: What the model predicts.
        signal: a of each level, shape (levels,).
        noise: b of each level, shape (levels,).
        timesteps: Argument of the model for each level, shape (levels,).
    """

    prediction: Prediction
    signal: Tensor
    noise: Tensor
    timesteps: Tensor

    @classmethod
    def of(cls, scheduler: Any, prediction: Prediction) -> "NoiseLevels":
        """Returns the levels of a scheduler: those that the model was trained on.

        Raises:
            InputError: The scheduler has none.
        """
        if prediction == "flow":
            # A new scheduler, since sampling replaces the levels of the pipeline's.
            fresh = type(scheduler).from_config(scheduler.config)
            sigmas = fresh.sigmas[: len(fresh.timesteps)].float()
            return cls(prediction, 1 - sigmas, sigmas, fresh.timesteps.float())
        kept = cumulative_alphas(scheduler)
        return cls(prediction, kept.sqrt(), (1 - kept).sqrt(), torch.arange(len(kept)))

    def draw(self, generator: torch.Generator) -> int:
        """Returns a random level: uniform for diffusion, logit-normal for flow matching.

        The density is that of Esser et al. (SD 3, arXiv:2403.03206), as in diffusers' scripts.
        """
        count = len(self.timesteps)
        if self.prediction != "flow":
            return int(torch.randint(count, (1,), generator=generator))
        return int(torch.sigmoid(torch.randn(1, generator=generator)) * count)

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Returns a z + b ε for latents and noise of shape (n, c, h, w) and levels (n,)."""
        return (
            _wide(self.signal, levels, latents) * latents
            + _wide(self.noise, levels, latents) * noise
        )

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Returns what the model should predict, shape (n, c, h, w)."""
        match self.prediction:
            case "epsilon":
                return noise
            case "sample":
                return latents
            case "v_prediction":
                return (
                    _wide(self.signal, levels, latents) * noise
                    - _wide(self.noise, levels, latents) * latents
                )
            case "flow":
                return noise - latents

    def min_snr(self, levels: Tensor, gamma: float) -> Tensor:
        """Returns the min-SNR weight of each level, shape (n,).

        With s = (a / b)²: min(s, γ) / s for ε, / (s + 1) for v, and min(s, γ) for z itself, so that
        the loss of z is weighted alike.

        Raises:
            InputError: The model is a flow matching model.
        """
        check_min_snr(self.prediction)
        snr = ((self.signal / self.noise) ** 2)[levels.cpu()].to(levels.device)
        match self.prediction:
            case "epsilon":
                # Not min(s, γ) / s, which is 0 / 0 for a schedule that ends at s = 0.
                return (gamma / snr).clamp(max=1)
            case "v_prediction":
                return snr.clamp(max=gamma) / (snr + 1)
            case _:
                return snr.clamp(max=gamma)


def check_min_snr(prediction: Prediction) -> None:
    """Checks that a model has min-SNR weights.

    Raises:
        InputError: The model is a flow matching model.
    """
    if prediction == "flow":
        raise InputError(
            "Expected no min_snr for a flow matching model, got one; its timesteps are drawn by a "
            "logit-normal density instead: leave min_snr out."
        )


def squared_errors(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns the mean squared error of each sample, float32, shape (n,).

    Args:
        prediction: Shape (n, c, h, w).
        target: Shape (n, c, h, w).
        mask: Weight of each position, shape (n, 1, h, w), in [0, 1]; None for 1. A sample without
            any weight has the error 0.
    """
    squared = (prediction.float() - target.float()).square()
    if mask is None:
        return squared.flatten(1).mean(1)
    weights = mask.to(squared).expand_as(squared)
    total = weights.flatten(1).sum(1)
    return (weights * squared).flatten(1).sum(1) / total.clamp(min=1e-12)


def _wide(values: Tensor, levels: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device)[levels.to(like.device)].to(like.dtype)[:, None, None, None]
