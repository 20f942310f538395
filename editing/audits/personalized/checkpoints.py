"""The steps of a training that were kept: likeness against drift, and the one to use.

The best step differs between subjects by an order of magnitude (He et al., arXiv:2311.04315,
table 4), and the loss does not show it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from editing.audits.prompt_groups import CONTEXTS
from editing.edit import Edit
from editing.generate import Progress, Run, Variant
from editing.generate.phrases import own_seed, phrase
from editing.generate.prompts import Sample
from editing.metrics.subject import likeness
from editing.pipelines.sampling import Settings
from editing.requests import Request
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

IMAGES = 16
"""Images of the subject, and of its class noun, of each step."""

_STEP = re.compile(r"(?P<name>.+)-(?P<step>\d{6,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """One kept step. Shares are of the way from the untaught model to the real images.

    Attributes:
        step: Completed training steps.
        likeness: Share of the way of the subject's images.
        drift: Share of the way of the class noun's images.
        best: Whether no other step has both more likeness and less drift.
    """

    step: int
    likeness: float
    drift: float
    best: bool


@dataclass(frozen=True, eq=False)
class Step:
    """The images of one step.

    Attributes:
        step: Completed training steps; 0 for the untaught model.
        subject: Images of the subject.
        of_class: Images of the class noun.
    """

    step: int
    subject: ImageSet
    of_class: ImageSet


def kept_edits(folder: str | Path) -> dict[int, Path]:
    """Returns step → file of the edits ``NAME-000200.safetensors`` of a folder, in order.

    Raises:
        InputError: There is none, or they are of several trainings.
    """
    folder = Path(folder)
    named = [
        m for path in sorted(folder.glob("*.safetensors")) if (m := _STEP.fullmatch(path.name))
    ]
    found = {int(m["step"]): folder / m.string for m in named}
    names = sorted({m["name"] for m in named})
    if len(names) > 1:
        raise InputError(
            f"Expected kept edits of one training in {folder}, got those of {' and '.join(names)}; "
            "move the others to another folder."
        )
    if not found:
        raise InputError(
            f"Expected edits NAME-000200.safetensors in {folder}, got none; keep them while "
            "training (visdiff personalize METHOD … --keep-every 200)."
        )
    return dict(sorted(found.items()))


def draw_steps(
    pipe: Any,
    edits: dict[int, Path],
    request: Request,
    folder: str | Path,
    settings: Settings | None = None,
    batch_size: int = 8,
    on_batch: Callable[[Progress], None] | None = None,
) -> tuple[list[Step], list[str]]:
    """Draws the subject and its class noun with the untaught model and with each kept step.

    A step that draws nothing but pixels that are not finite is left out.

    Args:
        pipe: The untaught pipeline.
        edits: Step → file.
        request: The request to learn the subject.
        folder: Folder of the images; complete ones are used again.
        settings: Sampling settings.
        batch_size: Images per call.
        on_batch: Called after each batch.

    Returns:
        The steps, and a sentence on each of which images were left out.

    Raises:
        InputError: An edit cannot be read, or belongs to another model, or the untaught model draws
            no image.
    """
    plain = phrase(request.noun)
    samples = []
    # The contexts that ask for neither a place nor a style.
    for context in CONTEXTS[:2]:
        first = own_seed(context.replace("{}", plain))
        for named in (request.wording, plain):
            prompt = context.replace("{}", named)
            samples += [Sample(prompt, first + i, None, {}) for i in range(IMAGES // 2)]
    found, notes = [], []
    # One edit at a time: those of DreamBooth are as large as the model.
    for step, path in [(0, None), *edits.items()]:
        name = f"step-{step:06d}"
        variant = Variant(name, None if path is None else cast(Any, Edit.load(path)))
        run = Run(pipe, [variant], samples, Path(folder) / name, settings, batch_size)
        generated = run.start(on_batch)
        lost = len(generated.failed)
        if lost:
            notes.append(
                f"{lost} of {len(samples)} images after {step} steps have pixels that are not "
                "finite and are left out."
            )
        if path is not None and lost == len(samples):
            continue
        images = generated.images(name)
        named = images.frame["prompt"].astype(str).str.contains(request.wording, regex=False)
        own = named.to_numpy(bool)
        if own.all() or not own.any():
            notes.append(f"Without images of both, {step} steps are left out of the comparison.")
            continue
        found.append(Step(step, images.subset(own), images.subset(~own)))
    return found, notes


def pareto(
    steps: Sequence[int],
    subject: Sequence[np.ndarray],
    of_class: Sequence[np.ndarray],
    references: np.ndarray,
    top: float,
) -> list[Checkpoint]:
    """Returns likeness and drift of each step.

    Args:
        steps: k steps; the first is 0, the untaught model, which is not returned.
        subject: k arrays (m, d) of features of the subject's images.
        of_class: k arrays (m, d) of those of the class noun's images.
        references: (n, d) features of the references.
        top: Mean cosine of references among themselves; 1 with one reference.
    """
    shares = []
    for kind in (subject, of_class):
        values = np.array([likeness(features, references).mean() for features in kind])
        shares.append((values[1:] - values[0]) / max(top - values[0], 1e-6))
    alike, drift = shares
    return [
        Checkpoint(
            step, float(a), float(d),
            not any(o >= a and e <= d and (o > a or e < d)
                    for o, e in zip(alike, drift, strict=True)),
        )
        for step, a, d in zip(steps[1:], alike, drift, strict=True)
    ]  # fmt: skip


def recommend(checkpoints: Sequence[Checkpoint]) -> int | None:
    """Returns the step with the most likeness less drift; of equal ones the earliest."""
    if not checkpoints:
        return None
    return max(checkpoints, key=lambda c: (round(c.likeness - max(c.drift, 0), 9), -c.step)).step
