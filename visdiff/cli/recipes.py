"""``visdiff recipe``: the applications of the paper, one command each.

Data goes to stdout, progress to stderr. Exit status: 0 done, 2 the user's mistake, 3 finished in
part (a slice that could not be compared, images that could not be read or scored).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from visdiff.cli.many import Out
from visdiff.cli.options import (
    CacheOption,
    ConfigFile,
    DryRun,
    Json,
    Preset,
    Settings,
    assignments,
    configuration,
)
from visdiff.errors import InputError
from visdiff.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from visdiff.cache import Cache
    from visdiff.comparison.plan import ManyPlan
    from visdiff.config import Config
    from visdiff.recipes.run import RecipeSets

app = typer.Typer(
    help="The paper's applications: form the sets, compare, check on held-out images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Images = Annotated[str, typer.Argument(help="A folder of class directories, or a manifest.")]
ClassColumn = Annotated[
    str | None, typer.Option(help="Column of the class; else the image's directory.")
]
ClassNames = Annotated[
    list[str] | None,
    typer.Option("--class-name", metavar="CLASS=NAME", help="What else a class is called."),
]
PerClass = Annotated[bool, typer.Option("--per-class", help="Class by class as well.")]
MatchClasses = Annotated[
    bool, typer.Option("--match-classes", help="The same shares of the classes on both sides.")
]
By = Annotated[str | None, typer.Option(metavar="COLUMN", help="Slice by slice as well.")]
HeldOut = Annotated[float, typer.Option(help="Share put aside for the check; 0 for none.")]
Template = Annotated[str, typer.Option(help="Of zero-shot classification.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random.")]


@app.command("imagenet-v2")
def imagenet_v2(
    variant: Images,
    original: Images,
    class_column: ClassColumn = None,
    class_name: ClassNames = None,
    per_class: PerClass = False,
    held_out: HeldOut = 0.2,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    seed: Seed = None,
    cache: CacheOption = "rw",
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare a re-collected data set with the original."""
    from visdiff.recipes.imagenet_v2 import form

    _run(
        lambda settings, _: form(
            variant,
            original,
            class_column=class_column,
            class_names=assignments(class_name, "--class-name") or None,
            per_class=per_class,
            held_out=held_out,
            config=settings,
        ),
        (preset, config, set_, seed, cache, out, as_json, dry_run),
    )


@app.command("clip-vs-resnet")
def clip_vs_resnet(
    images: Images,
    first: Annotated[
        str, typer.Option(help="Column of predictions, or library:model.")
    ] = "open_clip:ViT-B-32/openai",
    second: Annotated[str, typer.Option(help="Likewise.")] = "torchvision:resnet50/IMAGENET1K_V1",
    against: Annotated[
        Literal["both-right", "reverse", "rest"],
        typer.Option(help="What the images that only the first gets right are compared with."),
    ] = "both-right",
    class_column: ClassColumn = None,
    class_name: ClassNames = None,
    template: Template = "a photo of a {}",
    match_classes: MatchClasses = False,
    per_class: PerClass = False,
    held_out: HeldOut = 0.2,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    seed: Seed = None,
    cache: CacheOption = "rw",
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare what only one of two classifiers gets right with other images."""
    from visdiff.recipes.clip_vs_resnet import form
    from visdiff.recipes.outcomes import plan_outcomes

    _run(
        lambda settings, store: form(
            images,
            first,
            second,
            against=against,
            class_column=class_column,
            class_names=assignments(class_name, "--class-name") or None,
            template=template,
            match_classes=match_classes,
            per_class=per_class,
            held_out=held_out,
            config=settings,
            cache=store,
        ),
        (preset, config, set_, seed, cache, out, as_json, dry_run),
        lambda settings: plan_outcomes(
            images,
            (first, second),
            class_column=class_column,
            per_class=per_class,
            held_out=held_out,
            config=settings,
        ),
    )


@app.command("classifier-failures")
def classifier_failures(
    images: Images,
    classifier: Annotated[
        list[str] | None,
        typer.Option(help="Column of predictions, or library:model; may be repeated."),
    ] = None,
    class_column: ClassColumn = None,
    class_name: ClassNames = None,
    template: Template = "a photo of a {}",
    match_classes: MatchClasses = False,
    per_class: PerClass = False,
    by: By = None,
    held_out: HeldOut = 0.2,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    seed: Seed = None,
    cache: CacheOption = "rw",
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare what classifiers get wrong with what they get right."""
    from visdiff.recipes.classifier_failures import CLASSIFIERS, form
    from visdiff.recipes.outcomes import plan_outcomes

    _run(
        lambda settings, store: form(
            images,
            classifier or CLASSIFIERS,
            class_column=class_column,
            class_names=assignments(class_name, "--class-name") or None,
            template=template,
            match_classes=match_classes,
            per_class=per_class,
            by=by,
            held_out=held_out,
            config=settings,
            cache=store,
        ),
        (preset, config, set_, seed, cache, out, as_json, dry_run),
        lambda settings: plan_outcomes(
            images,
            classifier or CLASSIFIERS,
            class_column=class_column,
            per_class=per_class,
            by=by,
            held_out=held_out,
            config=settings,
        ),
    )


@app.command()
def generators(
    first: Annotated[str, typer.Argument(help="Manifest with prompts, or its folder.")],
    second: Annotated[str, typer.Argument(help="Likewise.")],
    prompt: Annotated[str, typer.Option(metavar="COLUMN")] = "prompt",
    seed_column: Annotated[str | None, typer.Option(metavar="COLUMN")] = None,
    name: Annotated[list[str] | None, typer.Option(help="What to call the two, in order.")] = None,
    by: By = None,
    held_out: HeldOut = 0.2,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    seed: Seed = None,
    cache: CacheOption = "rw",
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare two text-to-image models on the same prompts."""
    from visdiff.recipes.generators import form

    if name and len(name) != 2:
        raise InputError(f"Expected --name twice, one for each generator, got {len(name)}.")
    names = dict(zip(("name_first", "name_second"), name or [], strict=False))
    _run(
        lambda settings, _: form(
            first,
            second,
            prompt=prompt,
            seed=seed_column,
            by=by,
            held_out=held_out,
            config=settings,
            **names,
        ),
        (preset, config, set_, seed, cache, out, as_json, dry_run),
    )


@app.command()
def memorability(
    images: Annotated[str, typer.Argument(help="A manifest.")],
    score: Annotated[str, typer.Argument(help="Its column of scores.")],
    low: Annotated[float, typer.Option(help="Set B is at or below this quantile.")] = 0.25,
    high: Annotated[float, typer.Option(help="Set A is at or above this one.")] = 0.75,
    by: By = None,
    held_out: HeldOut = 0.2,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    seed: Seed = None,
    cache: CacheOption = "rw",
    out: Out = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare the images at the two ends of a score."""
    from visdiff.recipes.memorability import form

    _run(
        lambda settings, _: form(
            images, score, low=low, high=high, by=by, held_out=held_out, config=settings
        ),
        (preset, config, set_, seed, cache, out, as_json, dry_run),
    )


def _run(
    form: "Callable[[Config, Cache], RecipeSets]",
    told: tuple[Any, ...],
    unformed: "Callable[[Config], ManyPlan | None] | None" = None,
) -> None:
    """Forms a recipe's sets, says what comparing them takes, and compares them.

    Args:
        form: Forms the sets.
        told: What all commands are told.
        unformed: Bounds what it takes where the sets cannot be formed without running a model; None
            when they can.
    """
    from visdiff.cache import Cache
    from visdiff.cli.many import whole
    from visdiff.recipes.run import plan_recipe, run
    from visdiff.report.many import summary

    preset, file, set_, seed, mode, out, as_json, dry_run = told
    config = configuration(preset, file, set_, seed=seed)
    bound = unformed(config) if unformed is not None and dry_run else None
    if bound is not None:
        typer.echo(bound.to_json() if as_json else bound.sentence())
        return
    if out is not None:
        check_writable(Path(out), "the report")
    with Cache(mode=mode) as store:
        formed = form(config, store)
        costs = plan_recipe(formed)
        if dry_run:
            typer.echo(costs.to_json() if as_json else costs.sentence())
            for note in formed.notes:
                typer.echo(f"note: {note}", err=True)
            return
        typer.echo(costs.sentence(), err=True)
        report = run(formed, store)
    if out is not None:
        report.save(out)
    if as_json:
        typer.echo(report.to_json(indent=2))
    else:
        typer.echo(f"{report.recipe}: {summary(report.many)}")
        for (a, b), one in report.many.reports.items():
            typer.echo(f"{a} and {b}: {one.verdict}")
    for sentence in report.many.warnings:
        typer.echo(f"note: {sentence}", err=True)
    for (a, b), reason in report.many.failed.items():
        typer.echo(f"not compared: {a} and {b}: {reason}", err=True)
    if out is not None:
        typer.echo(f"report: {Path(out) / 'index.html'}", err=as_json)
    if not whole(report.many):
        raise typer.Exit(3)
