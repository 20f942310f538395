"""Draws with the bundled generator: prompts and seeds in, image files and a manifest out.

An image depends on the weights, the prompt, the seed and the settings; its initial noise comes
from its own seed. Everything is computed in float32: every CPU has it, and images are the same on
all of them up to the last bits.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from visdiff import miniature
from visdiff.cache import Cache
from visdiff.files import explained, write_whole
from visdiff.hashing import weights_digest
from visdiff.progress import is_hidden
from visdiff.torchvision_compat import ensure_torchvision

#: Second order, so that it needs half of DDIM's steps: see ``benchmarks/generate/README.md``.
SCHEDULER = "DPMSolverMultistepScheduler"
STEPS = 10

#: Images a batch; fixed, because the last bits of a sum depend on the shape of what is summed.
_BATCH = 60


@dataclass(frozen=True)
class Drawing:
    """One image to draw.

    Attributes:
        prompt: What to draw.
        seed: Seed of its initial noise.
    """

    prompt: str
    seed: int


def load_pipeline() -> Any:
    """Returns the bundled ``StableDiffusionPipeline``, float32, on the CPU.

    Its convolutions take channels last, which saves a quarter of the time on a CPU.
    """
    ensure_torchvision()
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            miniature.folder("diffusion"), dtype=torch.float32
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae):
        part.to(memory_format=torch.channels_last)
    return pipeline


def draw(
    drawings: Sequence[Drawing],
    folder: Path,
    cache: Cache,
    *,
    steps: int = STEPS,
    guidance: float = 5.0,
    scheduler: str = SCHEDULER,
    progress: bool = True,
) -> Path:
    """Draws images into a folder with a manifest; what the cache holds is not drawn again.

    Args:
        drawings: What to draw.
        folder: Where ``00000.png`` … and ``manifest.csv`` (path, prompt, seed) are written.
        cache: Keeps finished images, so that a killed run goes on.
        steps: Steps of the scheduler.
        guidance: Classifier-free guidance scale.
        scheduler: Class name of a diffusers scheduler, configured as the model's own.
        progress: Show a bar on stderr.

    Returns:
        The manifest's path.
    """
    settings = {
        "model": weights_digest(miniature.folder("diffusion")),
        "steps": steps,
        "guidance": guidance,
        "scheduler": scheduler,
        "precision": "float32",
    }
    parts = [settings | asdict(d) for d in drawings]
    files = [cache.path_for("image", p, ".png") for p in parts]
    missing = [i for i, f in enumerate(files) if not f.is_file()]
    made: dict[int, bytes] = {}
    if missing:
        pipeline = load_pipeline()
        bar = tqdm(total=len(missing), desc="drawing", disable=is_hidden(progress), file=sys.stderr)
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            images = sample(pipeline, [drawings[i] for i in batch], steps, guidance, scheduler)
            for i, image in zip(batch, images, strict=True):
                buffer = BytesIO()
                image.save(buffer, "PNG")
                made[i] = buffer.getvalue()
                cache.write_file("image", parts[i], ".png", made[i])
            bar.update(len(batch))
        bar.close()
    table = StringIO()
    writer = csv.writer(table)
    writer.writerow(["path", "prompt", "seed"])
    for i, drawing in enumerate(drawings):
        name = f"{i:05d}.png"
        with explained("a folder that can be written to", folder):
            write_whole(folder / name, made[i] if i in made else files[i].read_bytes())
        writer.writerow([name, drawing.prompt, drawing.seed])
    manifest = folder / "manifest.csv"
    with explained("a folder that can be written to", folder):
        write_whole(manifest, table.getvalue().encode())
    return manifest


def sample(
    pipeline: Any,
    drawings: Sequence[Drawing],
    steps: int = STEPS,
    guidance: float = 5.0,
    scheduler: str = SCHEDULER,
) -> list[Any]:
    """Draws one batch; returns PIL images. The pipeline keeps its own scheduler."""
    import diffusers
    import torch

    side = pipeline.unet.config.sample_size
    latents = torch.stack([
        torch.randn(
            (pipeline.unet.config.in_channels, side, side),
            generator=torch.Generator("cpu").manual_seed(d.seed),
        )
        for d in drawings
    ])  # fmt: skip
    own = pipeline.scheduler
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(own.config)
    try:
        with torch.inference_mode():
            return pipeline(
                prompt=[d.prompt for d in drawings],
                latents=latents,
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=side * pipeline.vae_scale_factor,
                width=side * pipeline.vae_scale_factor,
            ).images
    finally:
        pipeline.scheduler = own
