"""Sample images while a subject is learnt: fixed prompts and seeds, as one grid a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from editing.personalize.trained import Trained, Weights
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.sampling import Settings, draw
from editing.training import Observer, Sampled
from visdiff.errors import InputError
from visdiff.files import explained, write_whole

_LABEL = 14
"""Height of a row's label in pixels."""


@dataclass(frozen=True)
class Samples:
    """What is drawn while training.

    Attributes:
        folder: Folder of the grids, ``step-000100.png``.
        every: Steps between grids; the first is drawn before the first step.
        prompts: Rows of a grid; empty for the subject, the subject in a place, and its class.
        seeds: Columns of a grid.
        settings: Sampling settings; None for those of the method's configuration.
    """

    folder: Path
    every: int = 100
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    settings: Settings | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or not self.seeds:
            raise InputError(
                f"Expected sample grids every 1 or more steps and at least one seed, got "
                f"{self.every} and {len(self.seeds)} seeds; correct it."
            )


def grids(
    denoiser: Denoiser,
    trained: Trained,
    samples: Samples,
    prompts: Sequence[str],
    settings: Settings,
) -> Observer:
    """Returns an observer that draws with the trained weights and writes the grid.

    Args:
        denoiser: The model, in the state of the training.
        trained: What is trained.
        samples: What is drawn.
        prompts: Rows of the grid.
        settings: Sampling settings.
    """

    def observe(done: int, weights: Weights) -> Sampled:
        rows = [prompt for prompt in prompts for _ in samples.seeds]
        seeds = [seed for _ in prompts for seed in samples.seeds]
        with torch.no_grad(), trained.substituted(weights):
            images = draw(denoiser.pipe, rows, seeds, settings=settings)
        path = samples.folder / f"step-{done:06d}.png"
        buffer = BytesIO()
        grid(images, list(prompts)).save(buffer, "PNG")
        with explained("a path to write the sample images to", path):
            write_whole(path, buffer.getvalue())
        return Sampled(done, path)

    return Observer(samples.every, observe)


def grid(images: np.ndarray, labels: Sequence[str]) -> Image.Image:
    """Returns images in rows, each under its label.

    Args:
        images: uint8, shape (rows × columns, height, width, 3).
        labels: Label of each row.
    """
    columns = len(images) // len(labels)
    height, width = images.shape[1:3]
    canvas = Image.new("RGB", (columns * width, len(labels) * (height + _LABEL)), "white")
    pen = ImageDraw.Draw(canvas)
    for row, label in enumerate(labels):
        top = row * (height + _LABEL)
        pen.text((2, top), label, fill="black")
        for column in range(columns):
            picture = Image.fromarray(images[row * columns + column])
            canvas.paste(picture, (column * width, top + _LABEL))
    return canvas
