"""Prompts × seeds → images on disk with a manifest, of a model and of what edits make of it.

Original and edited start from the same noise, so that what differs between them is the edit. What
is on disk whole is not made again, and what has been made is on disk, whatever ends a run.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from editing.generate.folder import (
    ImageWriter,
    file_name,
    is_whole,
    write_manifest,
)
from editing.generate.prompts import Sample
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Sampler, Settings, Texts, levels
from editing.pipelines.weights import weight_hash
from visdiff.errors import InputError
from visdiff.files import check_writable
from visdiff.hashing import key
from visdiff.imageset import ImageSet

ORIGINAL = "original"
EDITED = "edited"

# Between two writings of the manifest of a run under way: it is a convenience then, since the
# images alone are what a resumed run needs.
_MANIFEST_EVERY_S = 60.0
# Columns of the manifest that are ours, or that ImageSet gives a meaning a prompt file does not
# mean by them; a file's own column of that name is carried as "source_<name>".
_RESERVED = frozenset(
    {
        "path", "id", "caption", "group_name", "prompt", "seed", "guidance", "steps", "scheduler",
        "negative_prompt", "height", "width", "precision", "pipeline", "model", "edit",
        "edit_scale", "key",
    }
)  # fmt: skip


class PipelineEdit(Protocol):
    """What generation needs of an edit; `editing.edit.Edit` is one."""

    @property
    def digest(self) -> str:
        """Name of its content."""
        ...

    def check_base(self, pipe: Any) -> None:
        """Raises InputError when the pipeline is not the one the edit was fitted to."""
        ...

    def applied(
        self, pipe: Any, scale: float = 1.0, force: bool = False
    ) -> AbstractContextManager[Any]:
        """Returns a context in which the pipeline is edited and after which it is as before.

        `force` leaves out the check of the base.
        """
        ...


@dataclass(frozen=True)
class Variant:
    """The model, or the model with one edit.

    Attributes:
        name: Its folder below the run's, and its ``group_name`` in the manifest.
        edit: None for the model as it is.
        scale: Strength of the edit.
    """

    name: str = ORIGINAL
    edit: PipelineEdit | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        images: Distinct images asked for, over all variants.
        present: Of these, whole files that the folder already has.
        damaged: Of these, files that are not whole and will be made again.
    """

    images: int
    present: int
    damaged: int

    @property
    def missing(self) -> int:
        """How many images will be made."""
        return self.images - self.present


@dataclass(frozen=True)
class Progress:
    """How far a run is, after a batch.

    Attributes:
        done: Images made so far.
        total: Images that the run makes.
        seconds: Since it began to make them.
    """

    done: int
    total: int
    seconds: float

    @property
    def seconds_per_image(self) -> float:
        """Mean time of one image so far."""
        return self.seconds / self.done

    @property
    def seconds_left(self) -> float:
        """Estimate from the images made so far."""
        return self.seconds_per_image * (self.total - self.done)


@dataclass(frozen=True)
class Generated:
    """A folder of generated images.

    Attributes:
        manifest: Its manifest: one row a sample and variant, in the order of the samples, variant
            after variant.
        made: Images made by this run.
        reused: Images that were there.
        failed: Reason by prompt and seed, of images whose numbers were not finite; they have no
            row, in any variant.
        seconds: Time spent making images.
    """

    manifest: Path
    made: int
    reused: int
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def images(self, variant: str = ORIGINAL) -> ImageSet:
        """Opens the images of one variant; those of another are in the same order.

        Raises:
            InputError: There is no such variant.
        """
        return ImageSet.open(self.manifest, where={"group_name": variant}, name=variant)


@dataclass(frozen=True)
class _Job:
    """One distinct image: a sample under a variant."""

    sample: Sample
    variant: int
    guidance: float
    path: Path
    row: Mapping[str, Any]


def generate(
    model: Any,
    samples: Sequence[Sample],
    folder: str | Path,
    *,
    settings: Settings | None = None,
    batch_size: int = 8,
    on_batch: Callable[[Progress], None] | None = None,
) -> Generated:
    """Makes one image of each sample.

    Args:
        model: Hub id, folder, "miniature", or a diffusers pipeline of the SD 1.x, 2.x or SDXL
            family. A pipeline is given back as it was.
        samples: See `editing.generate.prompts.expand`.
        folder: Holds the images (in ``original/``) and ``manifest.jsonl`` afterwards. Whole images
            of the same model, prompt, seed and settings that it holds already are not made again.
        settings: How to sample.
        batch_size: Images a call of the pipeline; changes speed and memory, not images.
        on_batch: Told after each batch.

    Raises:
        InputError: The folder cannot be written to, the disk is full, a setting does not fit the
            model, or a batch does not fit the memory. All that was made by then is in the folder.
    """
    return Run(model, [Variant()], samples, folder, settings, batch_size).start(on_batch)


def paired(
    model: Any,
    edit: PipelineEdit,
    samples: Sequence[Sample],
    folder: str | Path,
    *,
    scale: float = 1.0,
    settings: Settings | None = None,
    batch_size: int = 8,
    on_batch: Callable[[Progress], None] | None = None,
) -> Generated:
    """Makes two images of each sample from the same noise: by the model, and by the edited model.

    Arguments and errors are those of `generate`; the edited images lie in ``edited/``. Each batch
    is made by the original and at once by the edited model, so that a run that is cut short leaves
    whole pairs.
    """
    variants = [Variant(), Variant(EDITED, edit, scale)]
    return Run(model, variants, samples, folder, settings, batch_size).start(on_batch)


class Run:
    """Images of every sample under every variant; planned when made, computed by `start`.

    Args:
        model: As for `generate`.
        variants: Distinctly named.
        samples: What to draw.
        folder: Where to.
        settings: How to sample.
        batch_size: Images a call of the pipeline.

    Attributes:
        plan: What `start` will do.

    Raises:
        InputError: The pipeline is of another kind, a setting does not fit it, an edit was fitted
            to another model, or the folder cannot be written to.
    """

    def __init__(
        self,
        model: Any,
        variants: Sequence[Variant],
        samples: Sequence[Sample],
        folder: str | Path,
        settings: Settings | None = None,
        batch_size: int = 8,
    ) -> None:
        names = [variant.name for variant in variants]
        if not names or len(set(names)) < len(names):
            raise InputError(f"expected distinct names of variants, got {names}: rename one.")
        if not samples:
            raise InputError("expected samples, got none: give prompts and seeds.")
        self.folder = Path(folder)
        check_writable(self.folder, "images")
        self.variants = tuple(variants)
        self._sampler = Sampler(load_pipeline(model), settings or Settings(), batch_size)
        for variant in variants:
            if variant.edit is not None:
                variant.edit.check_base(self._sampler.pipe)
        # One entry a variant and sample, variants apart; equal samples share a file.
        self._jobs = [self._named(samples, index) for index in range(len(variants))]
        distinct = {job.path: job for jobs in self._jobs for job in jobs}
        there = {path for path in distinct if path.exists()}
        whole = {path for path in there if is_whole(path)}
        self._missing = [job for path, job in distinct.items() if path not in whole]
        self.plan = Plan(len(distinct), len(whole), len(there) - len(whole))

    def start(self, on_batch: Callable[[Progress], None] | None = None) -> Generated:
        """Makes what is missing and writes the manifest, also when it is interrupted.

        Args:
            on_batch: Told after each batch.

        Raises:
            InputError: See `generate`.
        """
        # An edit may change the text encoders too: each variant has its own encodings.
        texts = [self._sampler.texts() for _ in self.variants]
        failed: dict[Path, str] = {}
        begun = time.perf_counter()
        done, written = 0, begun
        try:
            with self._sampler.lent(), ImageWriter() as writer:
                for batch in self._batches():
                    for index, jobs in enumerate(batch):
                        images, reasons = self._drawn(jobs, index, texts[index])
                        writer.write(images)
                        failed |= reasons
                        done += len(jobs)
                    now = time.perf_counter()
                    if on_batch is not None:
                        on_batch(Progress(done, len(self._missing), now - begun))
                    if now - written > _MANIFEST_EVERY_S:
                        write_manifest(self.folder, self._rows())
                        written = now
        finally:
            manifest = write_manifest(self.folder, self._rows())
        return Generated(
            manifest,
            made=len(self._missing) - len(failed),
            reused=self.plan.present,
            failed={_label(j.sample): failed[j.path] for j in self._missing if j.path in failed},
            seconds=time.perf_counter() - begun,
        )

    def _named(self, samples: Sequence[Sample], index: int) -> list[_Job]:
        """Gives every sample under a variant its file and its row of the manifest."""
        variant, settings = self.variants[index], self._sampler.settings
        edit = None if variant.edit is None else variant.edit.digest
        identity = self._sampler.identity
        common = {
            **asdict(settings),
            "scheduler": identity["scheduler"],
            "height": identity["height"],
            "width": identity["width"],
            "pipeline": identity["pipeline"],
            "model": self._weights,
            "edit": edit,
            "edit_scale": None if edit is None else float(variant.scale),
        }
        jobs = []
        for sample in samples:
            guidance = float(settings.guidance if sample.guidance is None else sample.guidance)
            told = {"prompt": sample.prompt, "seed": sample.seed, **common, "guidance": guidance}
            name = key("generated-image", identity | told)
            path = Path(variant.name) / file_name(sample.prompt, sample.seed, name)
            row = {"path": path.as_posix(), "group_name": variant.name, **told, "key": name}
            for column, value in sample.columns.items():
                row[f"source_{column}" if column in _RESERVED else column] = value
            jobs.append(_Job(sample, index, guidance, self.folder / path, row))
        return jobs

    @cached_property
    def _weights(self) -> str:
        return weight_hash(self._sampler.pipe)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Yields the rows of the samples whose image is there in every variant."""
        lost = {path for job in self._missing if not (path := job.path).exists()}
        # A pair of which one image is missing is no pair: it would shift the sets against each
        # other.
        kept = [all(job.path not in lost for job in s) for s in zip(*self._jobs, strict=True)]
        for jobs in self._jobs:
            yield from (job.row for job, keep in zip(jobs, kept, strict=True) if keep)

    def _batches(self) -> Iterator[list[list[_Job]]]:
        """Yields a batch of samples at a time: for each variant, the images that are missing.

        Samples of one prompt follow each other, so that its encoding is at hand; a call of the
        pipeline has one guidance scale.
        """
        place: dict[str, int] = {}
        groups: dict[float, dict[tuple[int, int], list[_Job]]] = {}
        for job in self._missing:
            name = (place.setdefault(job.sample.prompt, len(place)), job.sample.seed)
            groups.setdefault(job.guidance, {}).setdefault(name, []).append(job)
        size = self._sampler.batch_size
        for group in groups.values():
            names = sorted(group)
            for start in range(0, len(names), size):
                batch = [job for name in names[start : start + size] for job in group[name]]
                yield [[j for j in batch if j.variant == v] for v in range(len(self.variants))]

    def _drawn(
        self, jobs: Sequence[_Job], index: int, texts: Texts
    ) -> tuple[dict[Path, Image.Image], dict[Path, str]]:
        """Draws a batch under one variant: images, and reasons where there is none."""
        if not jobs:
            return {}, {}
        prompts = [job.sample.prompt for job in jobs]
        seeds = [job.sample.seed for job in jobs]
        with _edited(self._sampler.pipe, self.variants[index]):
            pixels = self._sampler.draw(prompts, seeds, jobs[0].guidance, texts)
        finite = [bool(np.isfinite(array).all()) for array in pixels]
        images = {
            job.path: Image.fromarray(levels(array))
            for job, array, good in zip(jobs, pixels, finite, strict=True)
            if good
        }
        reason = (
            f"the {self.variants[index].name} model's pixels are not finite; compute in float32 or "
            "bfloat16"
        )
        return images, {j.path: reason for j, good in zip(jobs, finite, strict=True) if not good}


def _edited(pipe: Any, variant: Variant) -> AbstractContextManager[Any]:
    if variant.edit is None:
        return nullcontext()
    # The base was checked when the run was planned: hashing all weights takes longer than a batch.
    return variant.edit.applied(pipe, scale=variant.scale, force=True)


def _label(sample: Sample) -> str:
    return f"{sample.prompt!r}, seed {sample.seed}"
