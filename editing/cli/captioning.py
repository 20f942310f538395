"""``visdiff personalize caption``: training captions by a captioner or a chat model.

Data goes to stdout, notes and progress to stderr. Exit status: 0 done, 2 invalid input, 3 finished
in part (images without a caption, or captions that a person should edit).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from editing.cli.options import Identifier, Noun
from editing.personalize.instructions import (
    CONTINUATION_INSTRUCTION,
    DETAILED_INSTRUCTION,
    INSTRUCTION,
)
from visdiff.cli.options import (
    CaptionerName,
    Llm,
    MaxCalls,
    MaxCost,
    RunOptions,
    with_options,
)
from visdiff.errors import InputError
from visdiff.files import check_present

if TYPE_CHECKING:
    from editing.personalize.captioning import Captioned
    from editing.personalize.describers import Describer
    from editing.personalize.subject import Subject
    from visdiff.cache import Mode
    from visdiff.config import Config
    from visdiff.llm.budget import Ledger

EPILOG = "\n\n".join(
    (
        f"A chat model is asked (sid): {INSTRUCTION}",
        f"With --case 4: {DETAILED_INSTRUCTION}",
        f"With --style blip: {CONTINUATION_INSTRUCTION}",
        "--set captioner.prompt=TEXT replaces the instruction; {noun} in it is replaced.",
    )
)
"""The instructions, for the help of the command."""

# A caption of 60 CLIP tokens and some room; the captioner's own default is for short sentences.
_LEAST_TOKENS = 200


@with_options(RunOptions)
def caption(
    source: Annotated[str, typer.Argument(help="Folder or manifest of the subject's images.")],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Output file: a manifest, .csv, .jsonl or .parquet."),
    ],
    noun: Noun = None,
    identifier: Identifier = None,
    style: Annotated[
        Literal["sid", "plain", "blip"],
        typer.Option(
            help="sid: everything but the subject; plain: the captioner's own; blip: the "
            "continuation of 'a NOUN'."
        ),
    ] = "sid",
    case: Annotated[
        int | None,
        typer.Option(
            metavar="CASE",
            min=1,
            max=4,
            help="Write this case of SID's table 1, for its ablation.",
            show_default="the best that the style allows",
        ),
    ] = None,
    captioner: CaptionerName = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    *,
    options: RunOptions,
) -> None:
    """Write the training captions of a subject's images as a manifest that a person can edit.

    The identifier is put before the class noun, and each caption is sorted into its case of SID's
    table 1: 1 the noun, 2 other things, 3 other things with details, 4 details of the subject,
    which the identifier then does not learn. A chat model is asked again once after a caption of
    case 4; one that remains is kept and flagged in the column problem. Captions that the manifest
    has already are kept: running the command again captions the rest. `visdiff personalize check`
    and the training commands read the manifest.
    """
    check_present(source)
    from editing.personalize import captioning
    from editing.personalize.captions import Case
    from editing.personalize.subject import Subject
    from visdiff.captioners import table

    settings = options.configuration(
        captioner=captioner,
        llm__model=llm,
        llm__max_calls=max_calls,
        llm__max_cost=max_cost,
    )
    subject = Subject.without_captions(source, identifier, noun)
    table.check_target(out)
    kept = captioning.read_captions(out)
    case_asked = None if case is None else Case(case)
    if options.dry_run:
        todo = len(subject) - sum(bool(c.text) for c in kept.values())
        # A caption of the style sid may be asked for twice.
        chat = settings.captioner.backend == "chat" and case != 1
        calls = (2 if style == "sid" else 1) * todo if chat else 0
        _print_plan(len(subject), todo, calls, options.as_json)
        return
    prompt = settings.captioner.model_dump().get("prompt")
    with _describer(settings, subject, style, case, options.cache) as (describer, ledger):
        found = captioning.caption(
            subject,
            describer,
            style,
            case_asked,
            kept,
            prompt if describer.follows else None,
            lambda captions: captioning.write_captions(out, subject, captions),
        )
    captioning.write_captions(out, subject, found.captions)
    _print_result(subject, found, out, options.as_json)
    if ledger.spent:
        typer.echo("warning: the budget is spent: not every image was captioned", err=True)
    if found.failures or found.flagged:
        raise typer.Exit(3)


@contextmanager
def _describer(
    settings: "Config", subject: "Subject", style: str, case: int | None, mode: "Mode"
) -> "Iterator[tuple[Describer, Ledger]]":
    """Makes the configured model, which writes through the user's cache."""
    from editing.personalize.describers import CaptionerDescriber, ChatDescriber
    from visdiff.cache import Cache
    from visdiff.captioners import captioner_of
    from visdiff.comparison.readiness import check_captioner
    from visdiff.engine import Runtime
    from visdiff.llm.budget import Ledger
    from visdiff.llm.make import chat_model

    backend = settings.captioner.backend
    with Cache(mode=mode) as store:
        if backend == "chat" and case != 1:
            ledger = Ledger(settings.llm.max_calls, settings.llm.max_cost)
            own = settings.captioner.model_dump()
            yield (
                ChatDescriber(
                    chat_model(settings, store, ledger),
                    max(own["max_new_tokens"], _LEAST_TOKENS),
                    own["side"],
                    progress=True,
                ),
                ledger,
            )
            return
        if style == "blip":
            settings = _with_beginning(settings, subject.noun)
        runtime = Runtime.of(settings.engine, store, progress=True)
        captioner, ledger = captioner_of(settings, runtime)
        if case != 1:  # no model is asked
            check_captioner(captioner, subject.images, runtime)
        model = settings.captioner.model_dump().get("model")
        yield CaptionerDescriber(captioner, f"{backend} {model}" if model else backend), ledger


def _with_beginning(settings: "Config", noun: str) -> "Config":
    """The configuration of a captioner that continues "a [noun]"."""
    if settings.captioner.backend not in ("blip", "blip2"):
        raise InputError(
            f"Expected the captioner blip, blip2 or chat with --style blip, got "
            f"{settings.captioner.backend!r}, which cannot continue a caption; choose another."
        )
    if settings.captioner.model_dump().get("prompt"):
        return settings
    return settings.changed(captioner__prompt=f"a {noun}")


def _print_plan(images: int, todo: int, calls: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"images": images, "kept": images - todo, "most_calls": calls}))
    else:
        typer.echo(
            f"{todo} of {images} images to caption ({images - todo} captions are kept), less what "
            f"the cache holds; at most {calls} calls of the chat model."
        )


def _print_result(subject: "Subject", found: "Captioned", out: Path, as_json: bool) -> None:
    cases = [c.case for c in found.captions.values() if c.text]
    counts = {int(case): cases.count(case) for case in sorted({c for c in cases if c})}
    done = len(subject) - len(found.failures)
    if as_json:
        result = {
            "images": len(subject),
            "captioned": done,
            "kept": found.kept,
            "cases": counts,
            "failed": dict(found.failures),
            "flagged": found.flagged,
            "notes": [*subject.notes, *found.notes],
            "out": str(out),
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        listed = ", ".join(f"{n} of case {case}" for case, n in counts.items())
        typer.echo(f"{done} of {len(subject)} images captioned ({listed or 'none'}): {out}")
    for note in (*subject.notes, *found.notes):
        typer.echo(f"note: {note}", err=True)
    for what, problems in (("without a caption", found.failures), ("to edit", found.flagged)):
        if problems:
            name, problem = next(iter(problems.items()))
            typer.echo(f"warning: {len(problems)} {what} (first: {name}: {problem})", err=True)
