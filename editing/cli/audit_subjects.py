"""The part of ``visdiff audit`` on subjects that an edit teaches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from editing.cli.scoring_options import clipseg


def known_references(requests: Any, references: list[str] | None) -> dict[str, Any]:
    """Returns what is known of taught subjects when there is no model to draw with."""
    from editing.audits.personalized.taught import Taught, open_references

    opened = open_references(requests, references or [])
    return {concept: Taught(subject) for concept, subject in opened.items()}


def describe_subjects(
    requests: Any, references: list[str] | None, checkpoints: Path | None, dry_run: bool
) -> None:
    """Prints what taught subjects add to the plan.

    Raises:
        InputError: References or kept edits cannot be read; no image has been drawn yet.
    """
    for concept, subject in known_references(requests, references).items():
        count = len(subject.references.images)
        typer.echo(f"references of {concept!r}: {count}", err=not dry_run)
    if checkpoints is not None:
        from editing.audits.personalized.checkpoints import IMAGES, kept_edits

        kept = kept_edits(checkpoints)
        typer.echo(
            f"kept steps: {', '.join(map(str, kept))}; {2 * IMAGES} more images for each and for "
            "the untaught model",
            err=not dry_run,
        )


def prepare_subjects(
    base: str,
    edit: Path | None,
    requests: Any,
    references: list[str] | None,
    checkpoints: Path | None,
    segment: str | None,
    scale: float,
    settings: Any,
    batch: int,
    device: str,
    folder: Path,
) -> dict[str, Any]:
    """Draws what the audit of taught subjects needs besides the images of its prompts."""
    if edit is None or not any(r.noun for r in requests):
        return known_references(requests, references)
    from editing.audits.personalized.taught import prepare
    from editing.cli.edit_files import open_any
    from editing.cli.generate import choose_device, generation_progress, load_on_device
    from editing.metrics.masks import ClipSegmenter

    pipe = load_on_device(device, base)
    segmenter = None
    if segment is not None:
        segmenter = ClipSegmenter(clipseg(segment), device=choose_device(device))
    with generation_progress() as on_batch:
        return prepare(
            pipe, replace(open_any(edit, pipe), requests=requests), folder,
            references=references or [], checkpoints=checkpoints,
            segmenter=segmenter, base=base, scale=scale, settings=settings, batch_size=batch,
            on_batch=on_batch,
        )  # fmt: skip
