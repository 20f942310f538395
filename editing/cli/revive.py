"""``visdiff audit --revive``: its plan, and the attack after the audit."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visdiff.errors import InputError
from visdiff.progress import is_hidden

if TYPE_CHECKING:
    from editing.audits.report import AuditReport
    from editing.audits.revival import Point, RevivalConfig
    from visdiff.cache import Cache
    from visdiff.config import Config
    from visdiff.imageset import ImageSet


@dataclass(frozen=True)
class Attack:
    """An attack that follows an audit.

    Attributes:
        base: The unedited model.
        edit: File of the edit; None for a complete edited model.
        edited: The complete edited model; None for an edit.
        concepts: The erased concepts.
        scale: Strength of the edit.
        device: Torch device.
        config: Settings of the attack.
        folder: Folder of its images and checkpoints.
    """

    base: str
    edit: Path | None
    edited: str | None
    concepts: tuple[str, ...]
    scale: float
    device: str
    config: "RevivalConfig"
    folder: Path

    def describe(self) -> str:
        """Returns the cost of the attack in one line."""
        n, config = len(self.concepts), self.config
        return (
            f"revival: {n * config.training_steps} steps of textual inversion and "
            f"{n * config.drawn_images} images for {', '.join(self.concepts)}; a part that "
            f"{self.folder} holds is not repeated"
        )

    def after(
        self, report: "AuditReport", original: "ImageSet", models: "Config", cache: "Cache"
    ) -> "AuditReport":
        """Runs the attack and returns the audit with its result.

        Args:
            report: The audit.
            original: Images of the original model; the concepts of the audit are the classes.
            models: Configuration whose ranker classifies the images.
            cache: Cache of the ranker.

        Raises:
            InputError: The ranker has no image encoder, or as `editing.audits.revival.revive`.
        """
        from editing.audits.outcomes import classes_of
        from editing.audits.revival import revive
        from editing.cli.edit_files import open_any
        from editing.cli.generate import load_on_device
        from editing.generate.phrases import phrase
        from editing.metrics.classifiers import ZeroShotClassifier
        from visdiff.comparison.backends import Backends

        pipe: Any = load_on_device(self.device, self.base)
        if self.edit is not None:
            edited: Any = open_any(self.edit, pipe)
        else:
            edited = load_on_device(self.device, str(self.edited))
        classes = classes_of(original, "group", report.requests)
        with Backends.using(models, cache) as backends:
            encoder = backends.ranker.encoder
            if encoder is None:
                raise InputError(
                    "Expected a ranker with an image encoder for --revive, got one without; use "
                    "the ranker clip."
                )
            classifier = ZeroShotClassifier(encoder, classes, [phrase(c) for c in classes])
            revivals = revive(
                pipe,
                edited,
                self.folder,
                classifier,
                requests=report.requests,
                scale=self.scale,
                config=self.config,
                on_point=_bar(),
            )
        return replace(report, revivals=revivals)


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """Returns the numbers of a comma-separated list.

    Raises:
        InputError: A part is not a whole number.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"Expected whole numbers separated by commas for {option}, got {text!r}; write for "
            "example 25,50,100."
        ) from error


def checked_concepts(requests: Sequence[Any]) -> tuple[str, ...]:
    """Returns the erased concepts.

    Raises:
        InputError: No request removes a concept.
    """
    from editing.audits.revival import erased_concepts

    concepts = tuple(erased_concepts(requests))
    if not concepts:
        raise InputError(
            "Expected an edit that erases a concept for --revive, got none; leave --revive out, or "
            "name the requests (--requests)."
        )
    return concepts


def _bar() -> Any:
    """Returns a callback that shows the progress on stderr."""
    from tqdm import tqdm

    bars: list[Any] = []

    def on_point(point: "Point") -> None:
        if not bars:
            bars.append(
                tqdm(total=point.total, desc="reviving", file=sys.stderr, disable=is_hidden())
            )
        bars[0].set_postfix_str(
            f"{point.concept}, {point.model}, {point.pictures} pictures, {point.step} steps"
        )
        bars[0].update(point.done - bars[0].n)
        if point.done == point.total:
            bars[0].close()

    return on_point
