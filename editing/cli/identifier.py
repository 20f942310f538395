"""``visdiff personalize identifier``: is a text a good identifier for a model?

Data goes to stdout, warnings to stderr. Exit status: 0 done, 2 invalid input, 3 partial success
(some images had pixels that were not finite).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from editing.cli.checks import check_source
from editing.cli.options import Device, Model, Steps
from visdiff.cli.options import Json

if TYPE_CHECKING:
    from editing.personalize.identifier import IdentifierCheck


def identifier(
    model: Model,
    text: Annotated[
        str, typer.Argument(metavar="IDENTIFIER", help="The identifier, such as olis.")
    ] = "olis",
    noun: Annotated[
        str | None,
        typer.Option(metavar="NOUN", help="Class noun, such as dog.", show_default="none"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Output folder of images that the untaught model draws for it.",
            show_default="no images",
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of images: per prompt, with --out.")
    ] = 4,
    steps: Steps = 50,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random seed of the first image.")
    ] = 0,
    propose: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also print this many rare, unused identifiers.")
    ] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check an identifier: its tokens, how rare it is, and what the untaught model draws for it.

    A good identifier is one rare token in every tokenizer of the model. A warning names what is
    doubtful about it or about the class noun; it does not change the exit status.
    """
    check_source(model)
    from editing.cli.generate import load_on_device, run_with_progress
    from editing.personalize.identifier import check_identifier, identifier_run, rare_identifiers
    from editing.pipelines.sampling import Settings

    pipe = load_on_device(device, model)
    check = check_identifier(pipe, text, noun)
    proposed = rare_identifiers(pipe, propose)
    generated = None
    if out is not None:
        generated = run_with_progress(
            identifier_run(pipe, check, out, images, seed=seed, settings=Settings(steps))
        )
    if as_json:
        result = _to_dict(check) | {
            "proposed": proposed,
            "manifest": None if generated is None else str(generated.manifest),
            "failed": {} if generated is None else dict(generated.failed),
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        for line in _lines(check):
            typer.echo(line)
        if proposed:
            typer.echo(f"rare identifiers: {', '.join(proposed)}")
        if generated is not None:
            typer.echo(f"{generated.made} images generated, {generated.reused} reused")
            typer.echo(f"manifest: {generated.manifest}")
    for warning in check.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if generated is not None and generated.failed:
        for label, reason in generated.failed.items():
            typer.echo(f"failed: {label}: {reason}", err=True)
        raise typer.Exit(3)


def _to_dict(check: "IdentifierCheck") -> dict[str, Any]:
    return {
        "text": check.text,
        "noun": check.noun,
        "single": check.single,
        "encodings": [asdict(e) | {"rarity": e.rarity} for e in check.encodings],
        "nearest": list(check.nearest),
        "prompts": list(check.prompts),
        "warnings": list(check.warnings),
    }


def _lines(check: "IdentifierCheck") -> list[str]:
    lines = [f"{check.text}: {'one token' if check.single else 'not one token'}"]
    for e in check.encodings:
        line = f"{e.tokenizer}: {' '.join(e.pieces)}"
        if e.rank is not None and e.rarity is not None:
            line += f", rank {e.rank} of {e.vocabulary} (rarer than {e.rarity:.1%})"
        if e.norm is not None:
            line += f", embedding norm {e.norm:.2f} × the median"
        lines.append(line)
    if check.nearest:
        lines.append(f"nearest words: {', '.join(check.nearest)}")
    return lines
