"""``visdiff edit``: fits edits. The commands for their files are in `editing.cli.edit_files`.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from editing.cli.checks import check_source
from editing.cli.edit_files import apply, export, import_, load, save_and_print, show
from editing.cli.fit import fit_arguments, fit_edit, parse_settings, warn_of_misspellings
from editing.cli.options import Checkpoint, Guidance, MethodSettings, Model, OutEdit, Steps
from editing.methods import check_name
from editing.requests.toml import read_lines, read_requests, read_texts
from visdiff.cli.configuration import assignments
from visdiff.cli.groups import App
from visdiff.cli.options import Json
from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.methods.debias import Evaluation
    from editing.requests import Request

app = App("Erase, replace, debias and moderate concepts of a text-to-image model.")

Concepts = Annotated[
    list[str], typer.Option("--concept", metavar="CONCEPT", help="A concept; repeatable.")
]
Preserved = Annotated[
    list[str] | None,
    typer.Option(
        "--preserve",
        metavar="CONCEPT|FILE",
        help="Concept that is kept, or a file with one per line; repeatable.",
        show_default="none",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        metavar="METHOD",
        help="Closed form: uce, uce-2024, uce-2025, time, rece. Training: esd-x, esd-u, "
        "esd-x-strict, concept-ablation, all-but-one.",
    ),
]
Corpus = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of prompts, one per line, whose second moment is preserved.",
        show_default="none",
    ),
]
Watch = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONCEPT",
        help="A concept whose spill is reported; repeatable.",
        show_default="none",
    ),
]


@app.command()
def erase(
    model: Model,
    concept: Concepts,
    out: OutEdit,
    target: Annotated[
        str,
        typer.Option(
            metavar="CONCEPT", help="What is drawn instead.", show_default="the empty prompt"
        ),
    ] = "",
    preserve: Preserved = None,
    method: Method = "uce",
    corpus: Corpus = None,
    watch: Watch = None,
    set_: MethodSettings = None,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Erase concepts, or replace them by a target."""
    from editing.requests import Erase

    requests: list[Request] = [Erase(c, target) for c in concept]
    _fit(model, requests, preserve, method, corpus, watch, set_, checkpoint, out, as_json)


@app.command()
def moderate(
    model: Model,
    concept: Concepts,
    out: OutEdit,
    preserve: Preserved = None,
    method: Method = "uce",
    corpus: Corpus = None,
    watch: Watch = None,
    set_: MethodSettings = None,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Make unsafe concepts draw what the empty prompt draws."""
    from editing.requests import Moderate

    requests: list[Request] = [Moderate(c) for c in concept]
    _fit(model, requests, preserve, method, corpus, watch, set_, checkpoint, out, as_json)


@app.command()
def debias(
    model: Model,
    concept: Concepts,
    ratio: Annotated[
        list[str],
        typer.Option(
            metavar="ATTRIBUTE=SHARE", help="Wanted share of an attribute; repeat for each."
        ),
    ],
    out: OutEdit,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTRIBUTE=WEIGHT",
            help="Known weight of an attribute; repeat for each.",
            show_default="found by generating images",
        ),
    ] = None,
    preserve: Preserved = None,
    method: Method = "uce",
    corpus: Corpus = None,
    watch: Watch = None,
    set_: MethodSettings = None,
    images: Annotated[
        int, typer.Option(metavar="N", help="Number of images: per concept and round, at most.")
    ] = 60,
    max_rounds: Annotated[int, typer.Option(metavar="N", help="Maximum number of rounds.")] = 12,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed: offset of the seeds of images.")
    ] = 0,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL[:WEIGHTS]",
            help="Attribute scorer: an open_clip model, or miniature.",
            show_default="ViT-B-32; miniature for that model",
        ),
    ] = None,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File for a plot of the rounds, history.svg.",
            show_default="none",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Change how often concepts are drawn with each of several attributes."""
    from editing.requests import Debias

    ratios = _parse_numbers(ratio, "--ratio")
    weights = _parse_numbers(weight, "--weight") if weight else None
    requests: list[Request] = [Debias(c, ratios, weights) for c in concept]
    if weights is not None:
        _fit(model, requests, preserve, method, corpus, watch, set_, checkpoint, out, as_json)
        return
    check_name(method)
    check_source(model)
    from editing.methods.debias import Control, debias
    from editing.pipelines.sampling import Settings as Sampling

    control = Control(batch=min(10, images), most=images, rounds=max_rounds)
    most = images * len(requests) * (max_rounds + 1)
    typer.echo(f"at most {most} images of {len(requests)} concepts will be generated", err=True)
    options = fit_arguments(
        method,
        parse_settings(set_),
        corpus=read_lines(corpus) if corpus else None,
        neighbours=watch,
    )
    pipe = load(model)
    warn_of_misspellings(pipe, requests)
    result = debias(
        pipe,
        [*requests, *_preserve_requests(preserve)],
        clip,
        method=method,
        control=control,
        settings=Sampling(steps, guidance),
        seed=seed,
        on_evaluation=_echo_look,
        checkpoint=checkpoint,
        **options,
    )
    for name in result.unfinished:
        typer.echo(
            f"warning: {name!r} did not reach its ratios; the closest round is used", err=True
        )
    typer.echo(f"{result.images} images generated", err=True)
    if plot is not None:
        from editing.methods.debias.plot import save

        save(result, plot)
    save_and_print(result.edit, out, as_json)


@app.command()
def run(
    model: Model,
    requests: Annotated[Path, typer.Argument(help="Request file (TOML); its format is above.")],
    out: OutEdit,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Fit requests of any kind in one solve, from a TOML file.

    The file holds `method`, `corpus` (a file), `watch` (concepts), a table `[config]` of settings,
    and any number of [[erase]], [[replace]], [[debias]], [[moderate]] and [[preserve]] tables with
    the fields of the requests. [[preserve]] may name a `file` with one concept per line.
    """
    read = read_requests(requests)
    arguments = fit_arguments(read.method, read.settings, checkpoint=checkpoint, **read.inputs)
    edit = fit_edit(load(model), read.requests, read.method, **arguments)
    save_and_print(edit, out, as_json)


for _command in (show, apply, export):
    app.command()(_command)
app.command("import")(import_)


def _fit(
    model: str,
    requests: "list[Request]",
    preserve: Sequence[str] | None,
    method: str,
    corpus: Path | None,
    watch: Sequence[str] | None,
    settings: Sequence[str] | None,
    checkpoint: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    check_name(method)
    check_source(model)
    arguments = fit_arguments(
        method,
        parse_settings(settings),
        corpus=read_lines(corpus) if corpus else None,
        neighbours=watch,
        checkpoint=checkpoint,
    )
    edit = fit_edit(load(model), [*requests, *_preserve_requests(preserve)], method, **arguments)
    save_and_print(edit, out, as_json)


def _preserve_requests(options: Sequence[str] | None) -> "list[Request]":
    from editing.requests import Preserve

    concepts = [text for option in options or [] for text in read_texts(option)]
    return [Preserve(concepts)] if concepts else []


def _echo_look(look: "Evaluation") -> None:
    shares = ", ".join(f"{a} {n / look.delta.n:.0%}" for a, n in look.counts.items())
    suffix = " (done)" if look.done else ""
    typer.echo(
        f"round {look.round}: {look.concept}: {shares} of {look.delta.n} images{suffix}", err=True
    )


def _parse_numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    numbers = {}
    for name, value in assignments(texts, option).items():
        try:
            numbers[name] = float(value)
        except ValueError:
            raise InputError(
                f"Expected {option} ATTRIBUTE=NUMBER, got {name}={value!r}; give a number."
            ) from None
    return numbers
