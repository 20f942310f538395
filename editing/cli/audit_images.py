"""The images that ``visdiff audit`` compares: given ones, or those of two models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.audits.prompt_groups import PromptGroup
    from visdiff.imageset import ImageSet


def open_sets(
    a: Path, b: Path, root: Path | None, path_column: str | None
) -> tuple["ImageSet", "ImageSet"]:
    """Opens the sets of --images-a and --images-b, with the columns prompt and seed."""
    from editing.audits.grouping import check_columns
    from visdiff.imageset import ImageSet

    reading = {"root": root, "path_column": path_column}
    sets = ImageSet.open(a, **reading), ImageSet.open(b, **reading)
    return check_columns(*sets)


def generate_sets(
    base: str,
    edit: Path | None,
    edited: str | None,
    requests: Any,
    near: list[str] | None,
    prompts: Path | None,
    images: int,
    scale: float,
    settings: Any,
    batch: int,
    device: str,
    folder: Path,
    dry_run: bool,
) -> tuple[Any, Any, list[str]] | None:
    """Generates the missing images; returns both sets and what is missing, None after a dry run."""
    from editing.audits.prompt_groups import prompt_groups, samples_of, share_noise
    from editing.cli.edit_files import open_any
    from editing.cli.generate import describe_plan, load_on_device, run_with_progress
    from editing.generate import EDITED, ORIGINAL, Run, Variant

    pipe = load_on_device(device, base)
    if prompts is not None:
        groups = share_noise(_read_groups(prompts), requests)
    else:
        groups = prompt_groups(pipe, requests, near=near or ())
    samples = samples_of(groups, images)
    if edit is not None:
        found: Any = open_any(edit, pipe)
        variants = [Variant(ORIGINAL), Variant(EDITED, found, scale)]
        runs = [Run(pipe, variants, samples, folder, settings, batch)]
    elif Path(str(edited)).is_file():
        raise InputError(
            f"Expected a complete model for --edited, got the file {edited}; give it as --edit."
        )
    else:
        models = {ORIGINAL: pipe, EDITED: load_on_device(device, str(edited))}
        runs = [
            Run(model, [Variant(name)], samples, folder / name, settings, batch)
            for name, model in models.items()
        ]
    names = ", ".join(f"{group.name} {len(group.prompts)}" for group in groups)
    typer.echo(f"prompts: {names}", err=not dry_run)
    for run in runs:
        typer.echo(describe_plan(run), err=not dry_run)
    if dry_run:
        return None
    generated = [run_with_progress(run) for run in runs]
    # One run holds both variants of an edit; two models have a run each.
    notes = list(dict.fromkeys(warning for made in generated for warning in made.warnings))
    return generated[0].images(ORIGINAL), generated[-1].images(EDITED), notes


def _read_groups(file: Path) -> "list[PromptGroup]":
    from editing.audits.prompt_groups import PromptGroup
    from editing.generate.prompts import read_prompts

    parts: dict[str, list[tuple[str, str]]] = {}
    for line in read_prompts(file):
        name = str(line.columns.get("group") or "prompts")
        parts.setdefault(name, []).append((str(line.columns.get("concept") or ""), line.text))
    return [PromptGroup.of(name, pairs) for name, pairs in parts.items()]
