"""Sampling of images with a pipeline's own ``__call__``, independent of the batch.

An image depends on the pipeline, the prompt, the seed and the settings, and not on the other images
of its batch. Its initial noise, and the noise that a stochastic scheduler adds, come from its own
generator.
"""

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from editing.pipelines.family import Family, family_of, image_size
from visdiff.errors import InputError

# Its image may be left out.
_IMAGE_OPTIONAL = frozenset({"FluxKontextPipeline"})

Precision = Literal["model", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """Sampling settings. All of them are part of the key of an image.

    Attributes:
        steps: Number of sampling steps, 1 or more.
        guidance: Classifier-free guidance scale (Ho and Salimans 2022, arXiv:2207.12598); no
            guidance at 1 or less. A sample's own scale takes precedence.
        height: Pixels; None for what the model was trained on.
        width: Pixels; None for what the model was trained on.
        negative_prompt: Negative prompt of guidance; None for the empty prompt (zeros for SDXL
            base).
        scheduler: Class name of a scheduler compatible with the pipeline's, with or
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
            raise InputError(f"Expected 1 step or more, got {self.steps}; use for example 50.")
        if not 0 <= self.guidance < float("inf"):
            raise InputError(
                f"Expected a guidance scale of 0 or more, got {self.guidance}; use for example 7.5."
            )


class Sampler:
    """A sampler for one pipeline and its settings.

    Args:
        pipe: A diffusers pipeline of Stable Diffusion 1, 2, XL or 3, or Flux; restored after use.
            A safety checker is off while images are generated: its black images would be measured
            as the model's.
        settings: Sampling settings.
        batch_size: Most images per call.

    Attributes:
        size: Height and width of the images, in pixels.

    Raises:
        InputError: The pipeline is not supported or needs an image as well as a prompt, or a
            setting does not fit it.
    """

    def __init__(self, pipe: Any, settings: Settings, batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"Expected a batch of 1 image or more, got {batch_size}; use 8.")
        self._family = _checked(pipe, settings)
        self.pipe = pipe
        self.settings = settings
        self.batch_size = batch_size
        self.size = image_size(pipe, self._family, settings.height, settings.width)
        self._scheduler = _scheduler(pipe, settings.scheduler)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that affects images in addition to weights, prompts, seeds and settings.

        JSON values: the class and dtype of the pipeline, the scheduler with its configuration, the
        image size, and the batch size if images depend on it.
        """
        config = {n: v for n, v in self._scheduler.config.items() if not n.startswith("_")}
        return {
            "pipeline": type(self.pipe).__name__,
            "scheduler": type(self._scheduler).__name__,
            # As text, since it may hold infinities, which keys do not allow.
            "scheduler_config": json.dumps(config, sort_keys=True, default=str),
            "dtype": str(self._denoiser.dtype),
            "height": self.size[0],
            "width": self.size[1],
            "batch_size": None if self.settings.precision == "model" else self.batch_size,
        }

    @contextmanager
    def using_scheduler(self) -> Iterator[None]:
        """Switches the pipeline to the sampler's scheduler for a block.

        Progress bar and safety checker are off inside the block.
        """
        before, bar = self.pipe.scheduler, getattr(self.pipe, "_progress_bar_config", None)
        # An assignment would also remove the checker from the configuration, for good.
        attributes = vars(self.pipe)
        checker = attributes.get("safety_checker")
        self.pipe.scheduler = self._scheduler
        self.pipe.set_progress_bar_config(disable=True)
        if checker is not None:
            attributes["safety_checker"] = None
        try:
            yield
        finally:
            if checker is not None:
                attributes["safety_checker"] = checker
            self.pipe.scheduler = before
            self.pipe.set_progress_bar_config(**(bar or {}))

    def texts(self) -> "Texts":
        """Returns a cache of text encodings; an edited pipeline needs its own."""
        return Texts(self.pipe, self.settings.negative_prompt)

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: float, texts: "Texts"
    ) -> np.ndarray:
        """Generates one batch; call it inside `using_scheduler`.

        Args:
            prompts: n prompts, at most the batch size.
            seeds: Seed of each prompt.
            guidance: Guidance scale of the batch.
            texts: Encodings of the pipeline in its current state.

        Returns:
            float32 (n, height, width, 3) in [0, 1]; NaN where the model overflowed.

        Raises:
            InputError: The batch does not fit into memory.
        """
        import torch

        n = len(prompts)
        if self.settings.precision != "model":
            padding = self.batch_size - n
            prompts = [*prompts, *[prompts[-1]] * padding]
            seeds = [*seeds, *[seeds[-1]] * padding]
        height, width = self.size
        shape = self._family.noise_shape(self.pipe, height, width)
        # CPU generators give the same noise on every device.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        noise = torch.stack([initial_noise(shape, generator) for generator in generators])
        try:
            # Outside autocast, so that encodings do not depend on the other prompts of the batch.
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
                f"Expected a batch of {len(prompts)} images of {height} × {width} to fit into the "
                "memory of the device, got an out-of-memory error; use a smaller --batch."
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
    """Generates images in memory with the pipeline in its current state.

    Inside ``edit.applied(pipe)`` the images are those of the edited model.

    Args:
        pipe: As for `Sampler`.
        prompts: n prompts.
        seeds: Seed of each prompt.
        settings: Sampling settings.
        batch_size: Images per call.

    Returns:
        uint8 (n, height, width, 3).

    Raises:
        InputError: As for `Sampler`; the numbers of seeds and prompts differ; or pixels are not
            finite.
    """
    if not prompts or len(prompts) != len(seeds):
        raise InputError(
            f"Expected one seed per prompt and at least one prompt, got {len(prompts)} prompts and "
            f"{len(seeds)} seeds; give lists of equal length."
        )
    sampler = Sampler(pipe, settings or Settings(), batch_size)
    texts, parts = sampler.texts(), []
    with sampler.using_scheduler():
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            parts.append(
                sampler.draw(prompts[batch], seeds[batch], sampler.settings.guidance, texts)
            )
    pixels = np.concatenate(parts)
    if not np.isfinite(pixels).all():
        raise InputError(
            f"Expected finite pixels of {type(pipe).__name__}, got NaN; compute in float32 or "
            "bfloat16."
        )
    return levels(pixels)


def levels(pixels: np.ndarray) -> np.ndarray:
    """Returns finite pixels in [0, 1] as uint8, rounded as in diffusers."""
    return (pixels * 255).round().astype(np.uint8)


def initial_noise(shape: tuple[int, int, int], generator: Any) -> Any:
    """Returns the initial noise of an image, before the scheduler scales it.

    Args:
        shape: Channels, height and width of the latents.
        generator: A CPU ``torch.Generator`` with the seed of the image; stochastic schedulers
            continue with it.

    Returns:
        Standard normal tensor of that shape. It is float32 for any dtype of the model, so that
        images of different precision start from the same noise.
    """
    import torch

    return torch.randn(shape, generator=generator, dtype=torch.float32)


class Texts:
    """A cache of text encodings of one state of a pipeline; it holds those of the last batch.

    Prompts are encoded one at a time, since the result of a batch depends on its size by rounding.
    """

    def __init__(self, pipe: Any, negative_prompt: str | None) -> None:
        self._pipe = pipe
        self._family = family_of(pipe)
        self._negative_prompt = negative_prompt
        self._known: dict[str, dict[str, Any]] = {}
        self._negative: dict[str, Any] | None = None

    def encoded(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Returns the text arguments of the pipeline's call for n prompts.

        Only the encodings of the last batch stay in memory, so images of one prompt should be
        generated consecutively.
        """
        import torch

        if self._negative is None:
            self._negative = self._encode("", guided=True) if self._family.negatives else {}
        self._known = {
            text: self._known.get(text) or self._encode(text, guided=False)
            for text in dict.fromkeys(prompts)
        }
        positive = {
            name: torch.cat([self._known[text][name] for text in prompts])
            for name in self._known[prompts[0]]
        }
        negative = {
            f"negative_{name}": value.expand(len(prompts), *value.shape[1:])
            for name, value in self._negative.items()
        }
        return positive | negative

    def _encode(self, prompt: str, *, guided: bool) -> dict[str, Any]:
        """Returns the encodings of a prompt, or of the negative prompt: tensors of 1 row."""
        import torch

        negative = self._negative_prompt if guided else None
        with torch.no_grad():
            return self._family.encoded(self._pipe, [prompt], self._pipe.device, negative, guided)


def _checked(pipe: Any, settings: Settings) -> Family:
    family = family_of(pipe)
    _check_text_to_image(pipe, family)
    if settings.negative_prompt is not None and not family.negatives:
        raise InputError(
            f"Expected no negative prompt for {type(pipe).__name__}, whose guidance is distilled, "
            f"got {settings.negative_prompt!r}; leave it out."
        )
    return family


def _check_text_to_image(pipe: Any, family: Family) -> None:
    taken, made = family.channels(pipe)
    if taken != made:
        raise InputError(
            f"Expected a model that draws from a prompt alone, got {type(pipe).__name__} whose "
            f"{family.denoiser} takes {taken} channels and returns {made} (inpainting, depth or "
            "another image input); draw with the text-to-image model that it was made from, which "
            "can be audited."
        )
    kind = type(pipe)
    needs_image = "image" in inspect.signature(kind.__call__).parameters
    if needs_image and kind.__name__ not in _IMAGE_OPTIONAL:
        raise InputError(
            f"Expected a text-to-image pipeline, got {kind.__name__}, which needs an image too; "
            "use diffusers.AutoPipelineForText2Image.from_pipe(pipe), and save_pretrained for a "
            "folder."
        )


def _scheduler(pipe: Any, name: str | None) -> Any:
    """Creates a new scheduler from the configuration of the pipeline's scheduler."""
    own = pipe.scheduler
    known = {_bare(type(own).__name__): type(own)}
    known |= {_bare(kind.__name__): kind for kind in own.compatibles}
    kind = known.get(_bare(name or type(own).__name__))
    if kind is None:
        names = ", ".join(sorted(kind.__name__ for kind in known.values()))
        raise InputError(
            f"Expected a scheduler compatible with {type(own).__name__}, got {name!r}; use one of "
            f"{names}."
        )
    return kind.from_config(own.config)


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").removesuffix("scheduler")
