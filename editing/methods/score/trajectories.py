"""Points at which to train a denoiser: what it reads on its way from noise to an image.

Methods that change a model where its samples pass through need such points by the hundred. Drawing
each anew costs a sampling run a gradient step; here one DDIM run of the frozen model gives all of
its points, and runs are kept in memory and, where a folder is given, on disk.

Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), arXiv:2010.02502.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from editing.pipelines.denoiser import Denoiser, Tensor
from editing.pipelines.sampling import initial_noise
from editing.pipelines.weights import weight_hash
from visdiff.files import explained, write_whole
from visdiff.hashing import canonical_json, digest_bytes


@dataclass(frozen=True)
class Route:
    """One run from noise to an image.

    Attributes:
        prompt: What is drawn; "" for nothing in particular.
        seed: Of its initial noise.
    """

    prompt: str
    seed: int


@dataclass(frozen=True)
class Drawn:
    """Told while runs are made.

    Attributes:
        done: Runs made.
        total: Runs to make.
    """

    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Trajectories:
    """All points of some runs.

    Attributes:
        inputs: What the denoiser read at each step, float32 on the CPU, shape
            (runs, steps, c, h, w).
        timesteps: The timestep of each step, from noise to image, shape (steps,).
        finals: Latents of the images, float32, shape (runs, c, h, w).
    """

    inputs: Tensor
    timesteps: Tensor
    finals: Tensor


def evaluations(routes: Sequence[Route], steps: int, guidance: float) -> int:
    """Returns how many predictions `draw` asks the denoiser for."""
    return steps * sum(2 if _guided(route, guidance) else 1 for route in routes)


def ddim(scheduler: Any) -> Any:
    """Makes the deterministic DDIM scheduler with another's noise schedule.

    Clipping, DDIM's default but of no scheduler made for latents, stays off.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, thresholding=False)


def draw(
    denoiser: Denoiser,
    scheduler: Any,
    routes: Sequence[Route],
    *,
    steps: int,
    guidance: float,
    batch: int = 4,
    watch: Callable[[Drawn], None] | None = None,
) -> Trajectories:
    """Runs the frozen model.

    Args:
        denoiser: The model.
        scheduler: Any that takes deterministic steps, `ddim` for DDIM; its state changes.
        routes: What to run.
        steps: Steps a run.
        guidance: Classifier-free guidance scale; 1 is none.
        batch: Runs at once.
        watch: Told after each batch.

    Returns:
        The points, in the order of the routes.
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.cpu()
    texts = list(dict.fromkeys(["", *(route.prompt for route in routes)]))
    known = denoiser.encode(texts)
    rows = {text: row for row, text in enumerate(texts)}
    inputs = torch.empty((len(routes), len(timesteps), *denoiser.shape))
    finals = torch.empty((len(routes), *denoiser.shape))
    # Runs that need no guidance in batches of their own, at half the cost.
    order = sorted(range(len(routes)), key=lambda i: _guided(routes[i], guidance))
    done = 0
    while done < len(order):
        guided = _guided(routes[order[done]], guidance)
        some = [i for i in order[done : done + batch] if _guided(routes[i], guidance) == guided]
        noise = [
            initial_noise(denoiser.shape, torch.Generator("cpu").manual_seed(routes[i].seed))
            for i in some
        ]
        x = torch.stack(noise).to(denoiser.device) * scheduler.init_noise_sigma
        own = [rows[routes[i].prompt] for i in some]
        conditions = known.rows(own + [rows[""]] * len(some) if guided else own)
        # Schedulers count their steps.
        scheduler.set_timesteps(steps)
        for number, t in enumerate(scheduler.timesteps):
            given = scheduler.scale_model_input(x, t)
            for place, i in enumerate(some):
                inputs[i, number] = given[place].cpu()
            read = torch.cat([given, given]) if guided else given
            out = denoiser.predict(read, t.expand(len(read)), conditions)
            if guided:
                towards, away = out.chunk(2)
                out = away + guidance * (towards - away)
            x = scheduler.step(out, t, x, return_dict=False)[0]
        for place, i in enumerate(some):
            finals[i] = x[place].cpu()
        done += len(some)
        if watch is not None:
            watch(Drawn(done, len(routes)))
    return Trajectories(inputs, timesteps, finals)


def drawn(
    denoiser: Denoiser,
    routes: Sequence[Route],
    *,
    steps: int,
    guidance: float,
    folder: Path | None = None,
    watch: Callable[[Drawn], None] | None = None,
) -> Trajectories:
    """Runs the frozen model with DDIM, or reads the same runs from disk.

    Args:
        denoiser: The model.
        routes: What to run.
        steps: Steps a run.
        guidance: Classifier-free guidance scale.
        folder: Where runs are kept, one safetensors file for each list of routes, named by the
            model's weights and everything else that changes them; None keeps none.
        watch: Told after each batch of runs; never when they are read.

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
                pass  # Damaged: made again, and written over.
    found = draw(denoiser, scheduler, routes, steps=steps, guidance=guidance, watch=watch)
    if file is not None:
        tensors = {name: t.contiguous() for name, t in vars(found).items()}
        with explained("a folder that can be written to", file.parent):
            write_whole(file, lambda part: save_file(tensors, part))
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
    return digest_bytes(canonical_json(parts).encode())
