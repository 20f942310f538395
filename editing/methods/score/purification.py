"""Concept purification: a real image as the edited model would have drawn it.

The unedited model says which noise leads to the image (DDIM inversion), and the edited model draws
from that noise. What the edit left alone comes back as it was; what it changed is changed. The
prompt says what the image shows and names the edited concept: without it, guidance has no part that
the edit could have moved.

One step of plain DDIM inversion predicts at the point it comes from rather than at the one it goes
to. Here the point it goes to is found by fixed-point iteration on the scheduler's own step, so that
the way back meets the image up to rounding wherever the iteration contracts.

Hong et al., "All but One" (AAAI 2024), arXiv:2312.12807; Song et al., "Denoising Diffusion Implicit
Models" (ICLR 2021), arXiv:2010.02502; Pan et al., "Effective Real Image Editing with Accelerated
Iterative Diffusion Inversion" (ICCV 2023), arXiv:2309.04907.
"""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from editing.edit import Edit
from editing.methods.score.trajectories import ddim
from editing.pipelines.denoiser import Conditions, Denoiser, Tensor
from visdiff.errors import InputError


@dataclass(frozen=True)
class Inversion:
    """How an image is led to noise and back.

    Attributes:
        prompt: What the image shows, with the edited concept in it.
        steps: DDIM steps, each way.
        guidance: Classifier-free guidance scale, each way; 1 is none. Higher scales need more
            steps to be inverted.
        iterations: Corrections of each inverted step; 1 is plain DDIM inversion.
    """

    prompt: str
    steps: int = 50
    guidance: float = 1.0
    iterations: int = 5

    def __post_init__(self) -> None:
        if self.steps < 1 or self.iterations < 1:
            raise InputError(
                f"Expected 1 step and iteration or more, got {self.steps} and {self.iterations}."
            )
        if not 0 <= self.guidance < float("inf"):
            raise InputError(f"Expected a guidance scale from 0 up, got {self.guidance}.")


@dataclass(frozen=True, eq=False)
class Purified:
    """What became of an image.

    Attributes:
        image: Drawn by the edited model.
        reconstruction: Drawn by the unedited model from the same noise; the original, but for
            what the VAE loses and what the inversion missed.
        missed: Root mean square between the inverted latents and those drawn back by the unedited
            model, over the root mean square of the former. Above some 0.1 the inversion failed,
            and a change of the image may not be the edit's.
    """

    image: Image.Image
    reconstruction: Image.Image
    missed: float


def purify(pipe: Any, edit: Edit, image: Image.Image, how: Inversion) -> Purified:
    """Draws a real image again with the edited model.

    Args:
        pipe: The unedited pipeline; edited while this runs, and given back as it was.
        edit: The edit.
        image: Any size; scaled to the model's, its middle kept.
        how: Prompt and settings.

    Returns:
        The image as the edited and as the unedited model draw it.

    Raises:
        InputError: The edit is for another base, or the pipeline is of another family.
    """
    edit.check_base(pipe)
    denoiser = Denoiser(pipe)
    with denoiser.evaluating(), torch.no_grad():
        latents = encoded(pipe, _fitted(image, denoiser.size))
        noise = inverted(denoiser, latents, how)
        back = regenerated(denoiser, noise, how)
        # Checked above. The prompt is read anew: an edit can change text encoders.
        with edit.applied(pipe, force=True):
            changed = regenerated(denoiser, noise, how)
        return Purified(
            image=decoded(pipe, changed),
            reconstruction=decoded(pipe, back),
            missed=float((back - latents).norm() / latents.norm().clamp_min(1e-12)),
        )


def inverted(denoiser: Denoiser, latents: Tensor, how: Inversion) -> Tensor:
    """Returns the noise that DDIM leads to latents.

    Args:
        denoiser: The model that shall draw them.
        latents: Shape (n, c, h, w).
        how: Prompt and settings.

    Returns:
        float32, in the shape of the latents.
    """
    scheduler, conditions = ddim(denoiser.pipe.scheduler), _conditions(denoiser, how)
    scheduler.set_timesteps(how.steps)
    x = latents.float()
    for t in reversed(scheduler.timesteps):
        goal = x
        for _ in range(how.iterations):
            missed = goal - _step(denoiser, scheduler, x, t, conditions, how.guidance)
            # The step's own factor on x, √(ᾱ of where it leads / ᾱ of where it starts), undone.
            x = x + missed * _shrink(scheduler, t)
    return x


def regenerated(denoiser: Denoiser, noise: Tensor, how: Inversion) -> Tensor:
    """Returns the latents that DDIM draws from noise: `inverted`, undone.

    Args:
        denoiser: The model.
        noise: Shape (n, c, h, w).
        how: Prompt and settings.
    """
    scheduler, conditions = ddim(denoiser.pipe.scheduler), _conditions(denoiser, how)
    scheduler.set_timesteps(how.steps)
    x = noise.float()
    for t in scheduler.timesteps:
        x = _step(denoiser, scheduler, x, t, conditions, how.guidance)
    return x


def encoded(pipe: Any, image: Image.Image) -> Tensor:
    """Returns an image's latents, the mode of the VAE's posterior, float32, shape (1, c, h, w)."""
    vae = pipe.vae
    pixels = pipe.image_processor.preprocess(image).to(vae.device, vae.dtype)
    latents = vae.encode(pixels).latent_dist.mode().float()
    mean, deviation = _moments(vae, latents)
    return (latents - mean) / deviation * vae.config.scaling_factor


def decoded(pipe: Any, latents: Tensor) -> Image.Image:
    """Returns the image of latents of shape (1, c, h, w): `encoded`, undone."""
    vae = pipe.vae
    mean, deviation = _moments(vae, latents)
    latents = latents * deviation / vae.config.scaling_factor + mean
    pixels = vae.decode(latents.to(vae.device, vae.dtype), return_dict=False)[0]
    return pipe.image_processor.postprocess(pixels.detach().float(), output_type="pil")[0]


def _conditions(denoiser: Denoiser, how: Inversion) -> Conditions:
    guided = bool(how.prompt) and how.guidance != 1
    return denoiser.encode([how.prompt, ""] if guided else [how.prompt])


def _step(
    denoiser: Denoiser,
    scheduler: Any,
    x: Tensor,
    t: Tensor,
    conditions: Conditions,
    guidance: float,
) -> Tensor:
    given, count = scheduler.scale_model_input(x, t), len(conditions.states)
    rows = [row for row in range(count) for _ in range(len(x))]
    out = denoiser.predict(
        given.repeat(count, 1, 1, 1), t.expand(count * len(x)), conditions.rows(rows)
    )
    if count == 2:
        towards, away = out.chunk(2)
        out = away + guidance * (towards - away)
    return scheduler.step(out, t, x, return_dict=False)[0]


def _shrink(scheduler: Any, t: Tensor) -> float:
    kept = scheduler.alphas_cumprod
    before = int(t) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    after = kept[before] if before >= 0 else scheduler.final_alpha_cumprod
    return float((kept[int(t)] / after).sqrt())


def _moments(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    mean, deviation = (getattr(vae.config, n, None) for n in ("latents_mean", "latents_std"))
    if mean is None or deviation is None:
        return 0.0, 1.0
    return like.new_tensor(mean).view(1, -1, 1, 1), like.new_tensor(deviation).view(1, -1, 1, 1)


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    scale = max(width / image.width, height / image.height)
    box_width, box_height = width / scale, height / scale
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, box=box)
