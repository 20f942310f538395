"""``visdiff compare RECIPE``: the applications of the VisDiff paper, one command each.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 incomplete
results (a slice that could not be compared, images that could not be read or scored).
"""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from visdiff.cli.configuration import assignments
from visdiff.cli.options import Name, ReportOptions, with_options
from visdiff.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from visdiff.cache import Cache
    from visdiff.comparison.plan import ManyPlan
    from visdiff.config import Config
    from visdiff.recipes.run import RecipeSets

Images = Annotated[str, typer.Argument(help="A folder of class directories, or a manifest.")]
ClassColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Column of the class.", show_default="the image's directory"
    ),
]
ClassNames = Annotated[
    list[str] | None,
    typer.Option(
        "--class-name",
        metavar="CLASS=NAME",
        help="Name of a class, if it differs from its label; repeatable.",
        show_default="the labels",
    ),
]
PerClass = Annotated[bool, typer.Option("--per-class", help="Also compare class by class.")]
MatchClasses = Annotated[
    bool, typer.Option("--match-classes", help="Balance the classes: same fractions in both sets.")
]
SliceBy = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Also compare slices: the values of a column.",
        show_default="no slices",
    ),
]
HeldOut = Annotated[
    float,
    typer.Option(
        metavar="SHARE", help="Fraction of the images held out for the check; 0 for none."
    ),
]
Template = Annotated[
    str,
    typer.Option(metavar="TEMPLATE", help="Prompt template of zero-shot classification."),
]


@with_options(ReportOptions)
def imagenet_v2(
    variant: Annotated[
        str, typer.Argument(help="Re-collected set: a folder of class directories, or a manifest.")
    ],
    original: Annotated[str, typer.Argument(help="Original set, in the same form.")],
    class_column: ClassColumn = None,
    class_name: ClassNames = None,
    per_class: PerClass = False,
    held_out: HeldOut = 0.2,
    *,
    options: ReportOptions,
) -> None:
    """Compare a re-collected data set with the original."""
    from visdiff.recipes.imagenet_v2 import form

    _run(
        (variant, original),
        lambda settings, _: form(
            variant,
            original,
            class_column=class_column,
            class_names=assignments(class_name, "--class-name") or None,
            per_class=per_class,
            held_out=held_out,
            config=settings,
        ),
        options,
    )


@with_options(ReportOptions)
def clip_vs_resnet(
    images: Images,
    first: Annotated[
        str,
        typer.Option(
            metavar="CLASSIFIER",
            help="First classifier: column of predictions, or library:model.",
        ),
    ] = "open_clip:ViT-B-32/openai",
    second: Annotated[
        str,
        typer.Option(
            metavar="CLASSIFIER",
            help="Second classifier: column of predictions, or library:model.",
        ),
    ] = "torchvision:resnet50/IMAGENET1K_V1",
    against: Annotated[
        Literal["both-right", "reverse", "rest"],
        typer.Option(help="Set B, for the set A of images that only the first gets right."),
    ] = "both-right",
    class_column: ClassColumn = None,
    class_name: ClassNames = None,
    template: Template = "a photo of a {}",
    match_classes: MatchClasses = False,
    per_class: PerClass = False,
    held_out: HeldOut = 0.2,
    *,
    options: ReportOptions,
) -> None:
    """Compare the images that only one of two classifiers gets right with other images."""
    from visdiff.recipes.clip_vs_resnet import form
    from visdiff.recipes.outcomes import plan_outcomes

    _run(
        (images,),
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
        options,
        lambda settings: plan_outcomes(
            images,
            (first, second),
            class_column=class_column,
            per_class=per_class,
            held_out=held_out,
            config=settings,
        ),
    )


@with_options(ReportOptions)
def classifier_failures(
    images: Images,
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASSIFIER",
            help="Classifier: column of predictions, or library:model; repeatable.",
            show_default="ResNet-50 and ResNet-101 of torchvision",
        ),
    ] = None,
    class_column: ClassColumn = None,
    class_name: ClassNames = None,
    template: Template = "a photo of a {}",
    match_classes: MatchClasses = False,
    per_class: PerClass = False,
    slice_by: SliceBy = None,
    held_out: HeldOut = 0.2,
    *,
    options: ReportOptions,
) -> None:
    """Compare misclassified images with correctly classified images."""
    from visdiff.recipes.classifier_failures import CLASSIFIERS, form
    from visdiff.recipes.outcomes import plan_outcomes

    _run(
        (images,),
        lambda settings, store: form(
            images,
            classifier or CLASSIFIERS,
            class_column=class_column,
            class_names=assignments(class_name, "--class-name") or None,
            template=template,
            match_classes=match_classes,
            per_class=per_class,
            by=slice_by,
            held_out=held_out,
            config=settings,
            cache=store,
        ),
        options,
        lambda settings: plan_outcomes(
            images,
            classifier or CLASSIFIERS,
            class_column=class_column,
            per_class=per_class,
            by=slice_by,
            held_out=held_out,
            config=settings,
        ),
    )


@with_options(ReportOptions)
def generators(
    first: Annotated[
        str, typer.Argument(help="First generator: manifest with prompts, or its folder.")
    ],
    second: Annotated[
        str, typer.Argument(help="Second generator: manifest with prompts, or its folder.")
    ],
    prompt_column: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the prompt.")
    ] = "prompt",
    seed_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of the seed.", show_default="as the files name it"
        ),
    ] = None,
    name: Name = None,
    slice_by: SliceBy = None,
    held_out: HeldOut = 0.2,
    *,
    options: ReportOptions,
) -> None:
    """Compare two text-to-image models on the same prompts."""
    from visdiff.recipes.generators import form

    if name and len(name) != 2:
        raise InputError(
            f"Expected two --name options, one per generator, got {len(name)}; pass both or none."
        )
    names = dict(zip(("name_first", "name_second"), name or [], strict=False))
    _run(
        (first, second),
        lambda settings, _: form(
            first,
            second,
            prompt=prompt_column,
            seed=seed_column,
            by=slice_by,
            held_out=held_out,
            config=settings,
            **names,
        ),
        options,
    )


@with_options(ReportOptions)
def memorability(
    images: Annotated[str, typer.Argument(help="A manifest.")],
    score: Annotated[str, typer.Argument(help="Column of the scores.")],
    low: Annotated[
        float, typer.Option(metavar="SHARE", help="Set B: scores at or below this quantile.")
    ] = 0.25,
    high: Annotated[
        float, typer.Option(metavar="SHARE", help="Set A: scores at or above this quantile.")
    ] = 0.75,
    slice_by: SliceBy = None,
    held_out: HeldOut = 0.2,
    *,
    options: ReportOptions,
) -> None:
    """Compare the images with the highest scores with those with the lowest scores."""
    from visdiff.recipes.memorability import form

    _run(
        (images,),
        lambda settings, _: form(
            images, score, low=low, high=high, by=slice_by, held_out=held_out, config=settings
        ),
        options,
    )


def add_recipes(app: typer.Typer) -> None:
    """Adds a command for each application to an app."""
    app.command("imagenet-v2")(imagenet_v2)
    app.command("clip-vs-resnet")(clip_vs_resnet)
    app.command("classifier-failures")(classifier_failures)
    app.command("generators")(generators)
    app.command("memorability")(memorability)


def _run(
    sources: "Sequence[str]",
    form: "Callable[[Config, Cache], RecipeSets]",
    options: ReportOptions,
    plan_unformed: "Callable[[Config], ManyPlan | None] | None" = None,
) -> None:
    """Forms a recipe's sets, prints the plan, and compares the sets.

    Args:
        sources: Paths of the sets.
        form: Forms the sets.
        options: Values of the options that all commands share.
        plan_unformed: Estimates the work if the sets cannot be formed without running a model; None
            if they can.
    """
    config = options.configuration()
    options.check_inputs(*sources)

    from visdiff.cache import Cache
    from visdiff.cli.many import is_complete
    from visdiff.comparison.backends import Backends
    from visdiff.comparison.readiness import check_weights
    from visdiff.recipes.run import plan_recipe, run
    from visdiff.report.many import summary

    bound = plan_unformed(config) if plan_unformed is not None and options.dry_run else None
    if bound is not None:
        typer.echo(bound.to_json() if options.as_json else bound.sentence())
        return
    with Cache(mode=options.cache) as store:
        formed = form(config, store)
        costs = plan_recipe(formed)
        if options.dry_run:
            typer.echo(costs.to_json() if options.as_json else costs.sentence())
            for note in formed.notes:
                typer.echo(f"note: {note}", err=True)
            return
        check_weights(Backends.of(formed.config, store), [s for pair in formed.pairs for s in pair])
        typer.echo(costs.sentence(), err=True)
        report = run(formed, store)
    try:
        if options.out is not None:
            report.save(options.out)
    finally:
        # Also when the folder cannot be written to: the result is not lost.
        if options.as_json:
            typer.echo(report.to_json(indent=2))
        else:
            typer.echo(f"{report.recipe}: {summary(report.many)}")
            for (a, b), one in report.many.reports.items():
                typer.echo(f"{a} and {b}: {one.verdict}")
    for sentence in report.many.warnings:
        typer.echo(f"note: {sentence}", err=True)
    for (a, b), reason in report.many.failed.items():
        typer.echo(f"not compared: {a} and {b}: {reason}", err=True)
    if options.out is not None:
        typer.echo(f"report: {options.out / 'index.html'}", err=options.as_json)
    if not is_complete(report.many):
        raise typer.Exit(3)
