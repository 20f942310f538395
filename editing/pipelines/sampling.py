"""Sampling: prompts and seeds through a pipeline's own ``__call__``, each image for itself.

An image depends on the pipeline, the prompt, the seed and the settings, and never on the batch it
was made in: each has its initial noise, and whatever noise a stochastic scheduler adds, from a
generator of its own.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from editing.pipelines.family import Family, family_of
from visdiff.errors import InputError

Precision = Literal["model", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """How images are sampled. All of it is part of an image's name.

    Attributes:
        steps: Steps of the scheduler, 1 or more.
        guidance: Classifier-free guidance scale (Ho and Salimans 2022, arXiv:2207.12598); 1 or
            less is none. A sample's own wins.
        height: Pixels; None for what the model was trained on.
        width: Pixels; None for what the model was trained on.
        negative_prompt: What guidance leads away from; None for the empty prompt (for SDXL base,
            zeros).
        scheduler: Class name of a scheduler that fits the pipeline's configuration, with or
            without "Scheduler" ("DDIM", "EulerAncestralDiscreteScheduler"); None for the
            pipeline's own.
        precision: "model" computes in the pipeline's own dtype. "bfloat16" does so under autocast,
            which halves the time on CPUs that have it. Its sums depend on the shape of what is
            summed, so batches are then filled up to their size, and the size is part of the name.
    """

    steps: int = 50
    guidance: float = 7.5
    height: int | None = None
    width: int | None = None
    negative_prompt: str | None = None
    scheduler: str | None = None
    precision: Precision = "model"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected 1 step or more, got {self.steps}: give for example 50.")
        if not 0 <= self.guidance < float("inf"):
            raise InputError(
                f"expected a guidance scale from 0 up, got {self.guidance}: give for example 7.5."
            )


class Sampler:
    """A pipeline with settings, ready to draw.

    Args:
        pipe: A diffusers pipeline of the SD 1.x, 2.x, SDXL or Flux family; given back as it was.
        settings: How to sample.
        batch_size: Most images a call.

    Attributes:
        size: Height and width of the images, in pixels.

    Raises:
        InputError: The pipeline is of another kind or has a safety checker, or a setting does not
            fit it.
    """

    def __init__(self, pipe: Any, settings: Settings, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"expected a batch of 1 image or more, got {batch_size}.")
        self._family = _checked(pipe, settings)
        self.pipe = pipe
        self.settings = settings
        self.batch_size = batch_size
        self.size = _size(pipe, self._family, settings)
        self._scheduler = _scheduler(pipe, settings.scheduler)

    @property
    def identity(self) -> dict[str, Any]:
        """What changes images besides weights, prompts, seeds and the settings as written.

        JSON values: the pipeline's class and dtype, the scheduler with its configuration, the size,
        and the batch size where images depend on it.
        """
        config = {n: v for n, v in self._scheduler.config.items() if not n.startswith("_")}
        return {
            "pipeline": type(self.pipe).__name__,
            "scheduler": type(self._scheduler).__name__,
            # As text: it may hold infinities, which keys must not.
            "scheduler_config": json.dumps(config, sort_keys=True, default=str),
            "dtype": str(self._denoiser.dtype),
            "height": self.size[0],
            "width": self.size[1],
            "batch_size": None if self.settings.precision == "model" else self.batch_size,
        }

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lends the pipeline the scheduler and silence; gives it back as it was."""
        before, bar = self.pipe.scheduler, getattr(self.pipe, "_progress_bar_config", None)
        self.pipe.scheduler = self._scheduler
        self.pipe.set_progress_bar_config(disable=True)
        try:
            yield
        finally:
            self.pipe.scheduler = before
            self.pipe.set_progress_bar_config(**(bar or {}))

    def texts(self) -> "Texts":
        """Returns encodings of one state of the pipeline: an edit may change its text encoders."""
        return Texts(self.pipe, self.settings.negative_prompt)

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: float, texts: "Texts"
    ) -> np.ndarray:
        """Calls the pipeline once, inside `lent`.

        Args:
            prompts: n of them, at most the batch size.
            seeds: Of each.
            guidance: Of all.
            texts: Of the pipeline as it is now.

        Returns:
            float32 (n, height, width, 3) in [0, 1]; NaN where the model overflowed.

        Raises:
            InputError: The batch does not fit the memory.
        """
        import torch

        n = len(prompts)
        if self.settings.precision != "model":
            padding = self.batch_size - n
            prompts = [*prompts, *[prompts[-1]] * padding]
            seeds = [*seeds, *[seeds[-1]] * padding]
        height, width = self.size
        shape = self._family.noise_shape(self.pipe, height, width)
        # On the CPU, whatever the device: its generator gives the same noise everywhere.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        noise = torch.stack([initial_noise(shape, generator) for generator in generators])
        try:
            # Outside autocast: how many prompts are new to a batch must not change an encoding.
            encoded = texts.encoded(prompts)
            with torch.no_grad(), self._autocast():
                return self.pipe(
                    **encoded,
                    latents=self._family.latents(noise.to(self._denoiser.dtype)),
                    generator=generators,
                    num_inference_steps=self.settings.steps,
                    guidance_scale=guidance,
                    height=height,
                    width=width,
                    output_type="np",
                ).images[:n]
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"expected a batch of {len(prompts)} images of {height} × {width} to fit the "
                "memory of the device, got none left: choose a smaller --batch."
            ) from error

    @property
    def _denoiser(self) -> Any:
        return getattr(self.pipe, self._family.denoiser)

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self.settings.precision == "model":
            return nullcontext()
        return torch.autocast(self.pipe.device.type, torch.bfloat16)


def draw(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    settings: Settings | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Draws images in memory, of a pipeline as it is now (inside ``edit.applied(pipe)``: edited).

    Args:
        pipe: As for `Sampler`.
        prompts: n of them.
        seeds: Of each.
        settings: How to sample.
        batch_size: Images a call.

    Returns:
        uint8 (n, height, width, 3).

    Raises:
        InputError: As for `Sampler`; there are not as many seeds as prompts; or an image's numbers
            are not finite.
    """
    if not prompts or len(prompts) != len(seeds):
        raise InputError(
            f"expected one seed a prompt and at least one prompt, got {len(prompts)} prompts and "
            f"{len(seeds)} seeds."
        )
    sampler = Sampler(pipe, settings or Settings(), batch_size)
    texts, parts = sampler.texts(), []
    with sampler.lent():
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            parts.append(
                sampler.draw(prompts[batch], seeds[batch], sampler.settings.guidance, texts)
            )
    pixels = np.concatenate(parts)
    if not np.isfinite(pixels).all():
        raise InputError(
            f"expected finite pixels of {type(pipe).__name__}, got others: compute in float32 or "
            "bfloat16."
        )
    return levels(pixels)


def levels(pixels: np.ndarray) -> np.ndarray:
    """Turns finite pixels in [0, 1] into uint8, rounded as diffusers does."""
    return (pixels * 255).round().astype(np.uint8)


def initial_noise(shape: tuple[int, int, int], generator: Any) -> Any:
    """Draws an image's initial noise, before the scheduler scales it.

    Args:
        shape: Channels, height and width of the latents.
        generator: A CPU ``torch.Generator`` with the image's seed; stochastic schedulers go on
            with it.

    Returns:
        float32 tensor of that shape, standard normal; float32 whatever the model computes in, so
        that an image and its lower precision twin start from the same noise.
    """
    import torch

    return torch.randn(shape, generator=generator, dtype=torch.float32)


class Texts:
    """Encodings of prompts by one state of a pipeline; those of the last batch are kept.

    Each is encoded alone: in a batch its last bits would depend on the others.
    """

    def __init__(self, pipe: Any, negative_prompt: str | None) -> None:
        self._pipe = pipe
        self._family = family_of(pipe)
        self._negative_prompt = negative_prompt
        self._known: dict[str, dict[str, Any]] = {}
        self._negative: dict[str, Any] | None = None

    def encoded(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Returns the arguments of the pipeline's call that stand for n prompts.

        Memory holds the encodings of one batch and no more: whoever draws many images of a prompt
        lets them follow each other.
        """
        import torch

        if self._negative is None:
            self._negative = self._encode("", guided=True) if self._family.negatives else {}
        self._known = {
            text: self._known.get(text) or self._encode(text, guided=False)
            for text in dict.fromkeys(prompts)
        }
        given = {
            name: torch.cat([self._known[text][name] for text in prompts])
            for name in self._known[prompts[0]]
        }
        negative = {
            f"negative_{name}": value.expand(len(prompts), *value.shape[1:])
            for name, value in self._negative.items()
        }
        return given | negative

    def _encode(self, prompt: str, *, guided: bool) -> dict[str, Any]:
        """Encodes a prompt or, guided, what guidance leads away from: tensors of 1 row."""
        import torch

        negative = self._negative_prompt if guided else None
        with torch.no_grad():
            return self._family.encoded(self._pipe, prompt, self._pipe.device, negative, guided)


def _checked(pipe: Any, settings: Settings) -> Family:
    family = family_of(pipe)
    if getattr(pipe, "safety_checker", None) is not None:
        raise InputError(
            "expected a pipeline without a safety checker, got one with: it paints images black "
            "that would then be measured as if the model had; load it with safety_checker=None."
        )
    if settings.negative_prompt is not None and not family.negatives:
        raise InputError(
            f"expected no negative prompt for {type(pipe).__name__}, whose guidance is distilled, "
            f"got {settings.negative_prompt!r}: leave it out."
        )
    return family


def _size(pipe: Any, family: Family, settings: Settings) -> tuple[int, int]:
    """Returns height and width in pixels."""
    both = family.side(pipe)
    factor = pipe.vae_scale_factor
    height = settings.height or both[0] * factor
    width = settings.width or both[1] * factor
    step = family.multiple(pipe)
    if height < step or width < step or height % step or width % step:
        raise InputError(
            f"expected a height and a width that {step} divides, got {height} × {width}: round "
            "them."
        )
    return height, width


def _scheduler(pipe: Any, name: str | None) -> Any:
    """Makes a scheduler from the configuration of the pipeline's; never the pipeline's own."""
    own = pipe.scheduler
    known = {_bare(type(own).__name__): type(own)}
    known |= {_bare(kind.__name__): kind for kind in own.compatibles}
    kind = known.get(_bare(name or type(own).__name__))
    if kind is None:
        names = ", ".join(sorted(kind.__name__ for kind in known.values()))
        raise InputError(
            f"expected a scheduler that fits {type(own).__name__}'s configuration, got {name!r}: "
            f"use one of {names}."
        )
    return kind.from_config(own.config)


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").removesuffix("scheduler")
