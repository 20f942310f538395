"""Sampling trajectories of a frozen denoiser, whose points are training inputs.

Methods that train a model along its own trajectories need hundreds of such points. Sampling each
one separately would cost a partial run per gradient step; here one DDIM run of the frozen model
provides all of its points, and runs are stored in memory and optionally on disk.

Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), arXiv:2010.02502.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from editing.edit.saving import save_tensors
from editing.pipelines.denoiser import Denoiser, Tensor, cumulative_alphas
from editing.pipelines.sampling import initial_noise
from editing.pipelines.weights import weight_hash
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """The input of one run from noise to an image.

    Attributes:
        prompt: The prompt; may be empty.
        seed: Seed of the initial noise.
    """

    prompt: str
    seed: int


@dataclass(frozen=True)
class Drawn:
    """The event after each batch of runs.

    Attributes:
        done: Completed runs.
        total: Total runs.
    """

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Trajectories:
    """All points of several runs.

    Attributes:
        inputs: Input of the denoiser at each step, float32 on the CPU, shape
            (runs, steps, c, h, w).
        timesteps: The timestep of each step, from noise to image, shape (steps,).
        finals: Latents of the images, float32, shape (runs, c, h, w).
    """

    inputs: Tensor
    timesteps: Tensor
    finals: Tensor


def evaluations(routes: Sequence[Route], steps: int, guidance: float) -> int:
    """Returns the number of denoiser evaluations of `draw`."""
    return steps * sum(2 if _guided(route, guidance) else 1 for route in routes)


def ddim(scheduler: Any) -> Any:
    """Returns the deterministic DDIM scheduler with the noise schedule of another scheduler.

    Clipping, a default of DDIM that is wrong for latents, is off.

    Raises:
        InputError: The other scheduler has none.
    """
    from diffusers import DDIMScheduler

    # DDIM has levels of its own for a configuration without any.
    cumulative_alphas(scheduler)

    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, thresholding=False)


def draw(
    denoiser: Denoiser,
    scheduler: Any,
    routes: Sequence[Route],
    *,
    steps: int,
    guidance: float,
    batch: int = 4,
    on_event: Callable[[Drawn], None] | None = None,
) -> Trajectories:
    """Returns the trajectories of the frozen model.

    Args:
        denoiser: The model.
        scheduler: Any deterministic scheduler, `ddim` for DDIM; its state changes.
        routes: Prompts and seeds of the runs.
        steps: Steps per run.
        guidance: Classifier-free guidance scale; 1 is no guidance.
        batch: Runs per batch.
        on_event: Called after each batch.

    Returns:
        The points, in the order of the routes.
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.cpu()
    texts = list(dict.fromkeys(["", *(route.prompt for route in routes)]))
    encoded = denoiser.encode(texts)
    rows = {text: row for row, text in enumerate(texts)}
    inputs = torch.empty((len(routes), len(timesteps), *denoiser.shape))
    finals = torch.empty((len(routes), *denoiser.shape))
    # Runs without guidance get separate batches, at half the cost.
    order = sorted(range(len(routes)), key=lambda i: _guided(routes[i], guidance))
    done = 0
    while done < len(order):
        guided = _guided(routes[order[done]], guidance)
        indices = [i for i in order[done : done + batch] if _guided(routes[i], guidance) == guided]
        noise = [
            initial_noise(denoiser.shape, torch.Generator("cpu").manual_seed(routes[i].seed))
            for i in indices
        ]
        x = torch.stack(noise).to(denoiser.device) * scheduler.init_noise_sigma
        own = [rows[routes[i].prompt] for i in indices]
        conditions = encoded.rows(own + [rows[""]] * len(indices) if guided else own)
        # Resets the step counter of the scheduler.
        scheduler.set_timesteps(steps)
        for number, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t)
            for row, i in enumerate(indices):
                inputs[i, number] = scaled[row].cpu()
            model_input = torch.cat([scaled, scaled]) if guided else scaled
            out = denoiser.predict(model_input, t.expand(len(model_input)), conditions)
            if guided:
                conditional, unconditional = out.chunk(2)
                out = unconditional + guidance * (conditional - unconditional)
            x = scheduler.step(out, t, x, return_dict=False)[0]
        for row, i in enumerate(indices):
            finals[i] = x[row].cpu()
        done += len(indices)
        if on_event is not None:
            on_event(Drawn(done, len(routes)))
    return Trajectories(inputs, timesteps, finals)


def load_or_draw(
    denoiser: Denoiser,
    routes: Sequence[Route],
    *,
    steps: int,
    guidance: float,
    folder: Path | None = None,
    on_event: Callable[[Drawn], None] | None = None,
) -> Trajectories:
    """Returns the DDIM trajectories of the frozen model, from disk if they are stored.

    Args:
        denoiser: The model.
        routes: Prompts and seeds of the runs.
        steps: Steps per run.
        guidance: Classifier-free guidance scale.
        folder: Folder of stored runs, one safetensors file per list of routes, named by a hash of
            the model's weights and all settings; None stores nothing.
        on_event: Called after each batch of runs; not if they are loaded.

    Returns:
        The points.
    """
    scheduler = ddim(denoiser.pipe.scheduler)
    file = None
    if folder is not None:
        file = Path(folder) / f"{_key(denoiser, scheduler, routes, steps, guidance)}.safetensors"
        if file.is_file():
            try:
                return Trajectories(**load_file(file))
            except (SafetensorError, TypeError):
                pass  # Damaged: computed again and overwritten.
    found = draw(denoiser, scheduler, routes, steps=steps, guidance=guidance, on_event=on_event)
    if file is not None:
        try:
            save_tensors(vars(found), file, {})
        except InputError as error:
            # Nothing is lost: the runs are computed again when they are needed again.
            logger.warning("the sampling runs were not kept on disk: %s", error)
    return found


def _guided(route: Route, guidance: float) -> bool:
    return bool(route.prompt) and guidance != 1


def _key(
    denoiser: Denoiser, scheduler: Any, routes: Sequence[Route], steps: int, guidance: float
) -> str:
    config = {n: v for n, v in scheduler.config.items() if not n.startswith("_")}
    parts = {
        "kind": "trajectories",
        "version": 1,
        "weights": weight_hash(denoiser.pipe),
        "dtype": str(denoiser.pipe.unet.dtype),
        "scheduler": repr(sorted(config.items())),
        "size": list(denoiser.size),
        "routes": [[route.prompt, route.seed] for route in routes],
        "steps": steps,
        "guidance": guidance,
    }
    if not getattr(denoiser.pipe.config, "force_zeros_for_empty_prompt", True):
        # SDXL's guidance against the encoded empty prompt; no weight tells.
        parts["null"] = "encoded"
    return digest_bytes(canonical_json(parts).encode())
