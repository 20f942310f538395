"""``visdiff personalize score``: scores images of a subject, by whatever tool they were made.

Data goes to stdout, notes to stderr. Exit status: 0 done, 2 the user's mistake, 3 a measure could
not be computed or an image could not be read.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from editing.cli.options import Csv, Identifier, Noun
from editing.cli.scoring_options import (
    MEASURES,
    ScoringOptions,
    echo_csv,
    echo_json,
    measure_rows,
    one_format,
    print_measures,
)
from visdiff.cli.configuration import assignments
from visdiff.cli.options import Json, Where, with_options
from visdiff.files import check_present

if TYPE_CHECKING:
    from editing.personalize.pictured import Pictured
    from editing.personalize.scoring import Scores
    from editing.personalize.subject import Subject

EPILOG = (
    "IMAGES is a folder of `visdiff generate`, a manifest with the columns path and prompt, or a "
    "folder of NUMBER/i.png with --prompts. DreamBench's prompts are known for its subjects."
)


@with_options(ScoringOptions)
def score(
    images: Annotated[Path, typer.Argument(help="Generated images: folder or manifest.")],
    subject: Annotated[
        str, typer.Argument(help="The real images: folder (masks in NAME_mask.png), or manifest.")
    ],
    noun: Noun = None,
    identifier: Identifier = None,
    specific_noun: Annotated[
        str | None,
        typer.Option(
            metavar="NOUN",
            help="Specific noun for CLIP-T, such as corgi.",
            show_default="that of DreamBench's subject",
        ),
    ] = None,
    base_images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Images of the base model for the same prompts, for NSD relative to it.",
            show_default="none",
        ),
    ] = None,
    class_images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of class images: 'a NOUN' by the same model, for PRES.",
            show_default="none",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompt file, for folders of images NUMBER/i.png.",
            show_default="those of the manifest, or DreamBench's",
        ),
    ] = None,
    where: Where = None,
    per_image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File for the values per image, .csv.", show_default="none"
        ),
    ] = None,
    save_masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the masks of the references that were used.",
            show_default="none",
        ),
    ] = None,
    as_csv: Csv = False,
    as_json: Json = False,
    *,
    options: ScoringOptions,
) -> None:
    """Score generated images of a subject: DINO, CLIP-I, CLIP-T, SA, NSD, PRES, DIV, copies."""
    check_present(str(images))
    check_present(subject)
    import numpy as np

    from editing.metrics.dreambench import subjects
    from editing.personalize.pictured import open_pictured
    from editing.personalize.scoring import score as score_images
    from editing.personalize.subject import Subject

    one_format(as_json, as_csv)
    known = subjects().get(Path(subject).name)
    noun = noun or (known.vague if known else None)
    opened = Subject.open(subject, identifier, noun)
    lines = _numbered_prompts(prompts, opened, Path(subject).name)
    conditions: dict[str, Any] = dict(assignments(where, "--where"))
    generated = _edited_of(open_pictured(images, conditions or None, lines), bool(conditions))
    vague = specific = None
    if known is not None and opened.noun in (known.vague, known.specific):
        vague, specific = known.vague, known.specific
    found = score_images(
        generated,
        opened,
        options.tools((*MEASURES, "ta", "sa", "nsd", *(["nsd_relative"] if base_images else []))),
        np.random.default_rng(options.seed),
        vague=vague,
        specific=specific_noun or specific,
        base=None if base_images is None else open_pictured(base_images, None, lines),
        class_images=None if class_images is None else open_pictured(class_images),
    )
    _write(found, per_image, save_masks)
    if as_json:
        echo_json({"subject": opened.phrase, **found.to_dict()})
    elif as_csv:
        rows = [{**row, "real": found.real.get(row["measure"])}
                for row in measure_rows(found.measures)]  # fmt: skip
        echo_csv(rows)
    else:
        typer.echo(f"{len(generated)} images of {opened.phrase}, {len(opened)} references")
        print_measures(found.measures, found.real)
    _report(found, opened)


def _numbered_prompts(file: Path | None, subject: "Subject", name: str) -> list[str] | None:
    """Returns the prompts of numbered folders: those of the file, or DreamBench's."""
    from editing.generate.prompts import read_prompts
    from editing.metrics.dreambench import subjects
    from editing.personalize.dreambench import templates

    if file is not None:
        return [prompt.text for prompt in read_prompts(file)]
    known = subjects().get(name)
    if known is None:
        return None
    named = f"{subject.identifier} {subject.noun}"
    return [t.replace("{0} {1}", named) for t in templates(known.kind)]


def _edited_of(generated: "Pictured", chosen: bool) -> "Pictured":
    """Returns the images of the edited model where `visdiff generate` made both."""
    frame = generated.images.frame
    groups = frame["group_name"].tolist() if "group_name" in frame.columns else []
    if chosen or set(groups) != {"original", "edited"}:
        return generated
    typer.echo(
        "note: the images of the edited model are scored (--where group_name=original for others)",
        err=True,
    )
    return generated.subset([i for i, group in enumerate(groups) if group == "edited"])


def _write(found: "Scores", per_image: Path | None, masks: Path | None) -> None:
    from io import BytesIO

    from visdiff.files import explained, write_whole

    if per_image is not None:
        text = found.per_image.to_csv(index=False, lineterminator="\n")
        with explained("a file that can be written", per_image):
            write_whole(per_image, text.encode())
    if masks is not None:
        for name, mask in found.masks.items():
            buffer = BytesIO()
            mask.save(buffer, "PNG")
            file = masks / f"{Path(name).stem}_mask.png"
            with explained("a folder that can be written to", masks):
                write_whole(file, buffer.getvalue())


def _report(found: "Scores", subject: "Subject") -> None:
    """Prints notes, copies and what is missing; exits with status 3 if something is."""
    from editing.personalize.scoring import TITLES

    for note in (*subject.notes, *found.notes):
        typer.echo(f"note: {note}", err=True)
    for copy in found.copies[:5]:
        typer.echo(
            f"copy: {copy['image']} is closer to {copy['reference']} ({copy['likeness']:.3f}) than "
            f"real images are to each other ({copy['threshold']:.3f})",
            err=True,
        )
    if len(found.copies) > 5:
        typer.echo(f"copy: {len(found.copies) - 5} more (--json lists them)", err=True)
    for name, reason in found.missing.items():
        typer.echo(f"not computed: {TITLES[name]}: {reason}", err=True)
    for name, reason in found.unreadable.items():
        typer.echo(f"left out: {name}: {reason}", err=True)
    if found.missing or found.unreadable:
        raise typer.Exit(3)
