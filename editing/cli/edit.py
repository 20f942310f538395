"""``visdiff edit``: fit edits, look at them, put them into a model.

Data goes to stdout, progress to stderr. Exit status: 0 done, 2 the user's mistake.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editing.cli.fit import fitted, given
from editing.requests.toml import lines_of, read_requests, texts_of
from visdiff.cli.options import Json, Settings, assignments
from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.edit import Edit
    from editing.methods.debias import Evaluation
    from editing.requests import Request

app = typer.Typer(
    help="Erase, replace, debias and moderate concepts of a text-to-image model.",
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Argument(help="Hub id, folder, or miniature.")]
EditFile = Annotated[Path, typer.Argument(metavar="EDIT", help="A file that visdiff edit wrote.")]
Concepts = Annotated[list[str], typer.Option("--concept", help="May be repeated.")]
Preserved = Annotated[
    list[str] | None,
    typer.Option("--preserve", metavar="TEXT-or-FILE", help="Concept, or a file of one a line."),
]
Method = Annotated[
    str,
    typer.Option(
        help="Closed forms: uce, uce-2024, uce-2025, time, rece; training: esd-x, esd-u, "
        "esd-x-strict, concept-ablation, all-but-one."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Of what takes long: a file that a killed run goes on from."),
]
Corpus = Annotated[
    Path | None, typer.Option(help="Prompts, one a line, whose second moment is held.")
]
Watch = Annotated[
    list[str] | None, typer.Option(help="A concept to watch for spill. May be repeated.")
]
Out = Annotated[Path, typer.Option(help="The edit's file, E.safetensors.")]


@app.command()
def erase(
    model: Model,
    concept: Concepts,
    out: Out,
    target: Annotated[
        str, typer.Option(help="What to draw instead; nothing in particular by default.")
    ] = "",
    preserve: Preserved = None,
    method: Method = "uce",
    corpus: Corpus = None,
    watch: Watch = None,
    set_: Settings = None,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Erase concepts, or turn them into another."""
    from editing.requests import Erase

    requests: list[Request] = [Erase(c, target) for c in concept]
    _fit(model, requests, preserve, method, corpus, watch, set_, checkpoint, out, as_json)


@app.command()
def moderate(
    model: Model,
    concept: Concepts,
    out: Out,
    preserve: Preserved = None,
    method: Method = "uce",
    corpus: Corpus = None,
    watch: Watch = None,
    set_: Settings = None,
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
        typer.Option(metavar="ATTRIBUTE=SHARE", help="Wanted share of each attribute."),
    ],
    out: Out,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTRIBUTE=WEIGHT",
            help="Weight of each attribute, measured before; without it images are drawn to find "
            "them.",
        ),
    ] = None,
    preserve: Preserved = None,
    method: Method = "uce",
    corpus: Corpus = None,
    watch: Watch = None,
    set_: Settings = None,
    images: Annotated[int, typer.Option(help="Images of a concept a round at most.")] = 60,
    rounds: Annotated[int, typer.Option(help="Rounds at most.")] = 12,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL[:WEIGHTS]", help="What looks at them: an open_clip model, miniature."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the scheduler.")] = 25,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 7.5,
    plot: Annotated[Path | None, typer.Option(help="Figure of the rounds, history.svg.")] = None,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Change how often concepts are drawn with each of several attributes."""
    from editing.requests import Debias

    ratios = _numbers(ratio, "--ratio")
    weights = _numbers(weight, "--weight") if weight else None
    requests: list[Request] = [Debias(c, ratios, weights) for c in concept]
    if weights is not None:
        _fit(model, requests, preserve, method, corpus, watch, set_, checkpoint, out, as_json)
        return
    from editing.methods.debias import Control, debias
    from editing.metrics.attributes import ZeroShotScorer
    from editing.pipelines.sampling import Settings as Drawing

    control = Control(batch=min(10, images), most=images, rounds=rounds)
    most = images * len(requests) * (rounds + 1)
    typer.echo(f"at most {most} images of {len(requests)} concepts will be drawn", err=True)
    found = debias(
        _loaded(model),
        [*requests, *_preserving(preserve)],
        ZeroShotScorer(_encoder(clip or ("miniature" if model == "miniature" else None))),
        method=method,
        control=control,
        settings=Drawing(steps, guidance),
        on_evaluation=_echo_look,
        about=clip or "",
        **given(set_, lines_of(corpus) if corpus else None, watch, checkpoint),
    )
    for name in found.unfinished:
        typer.echo(f"warning: {name!r} did not reach its ratios; the nearest is kept", err=True)
    typer.echo(f"{found.images} images drawn", err=True)
    if plot is not None:
        from editing.methods.debias.plot import save

        save(found, plot)
    _deliver(found.edit, out, as_json)


@app.command()
def run(
    model: Model,
    requests: Annotated[Path, typer.Argument(help="A TOML file; see the manual of this command.")],
    out: Out,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Fit any mixture of requests in one solve, from a TOML file.

    The file holds `method`, `corpus` (a file), `watch` (texts), a table `[config]` of settings, and
    any number of [[erase]], [[replace]], [[debias]], [[moderate]] and [[preserve]] tables with the
    fields of the requests; [[preserve]] may name a `file` of one concept a line.
    """
    read, options = read_requests(requests)
    if checkpoint is not None:
        options["checkpoint"] = checkpoint
    _deliver(fitted(_loaded(model), read, **options), out, as_json)


@app.command()
def show(edit: EditFile, as_json: Json = False) -> None:
    """Print what an edit does, for which model, and what its fit foresaw."""
    from editing.edit import Edit

    found = Edit.load(edit)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        _echo(found)


@app.command()
def apply(
    model: Model,
    edit: EditFile,
    out: Annotated[Path, typer.Option(help="Folder of the edited pipeline, or the LoRA's file.")],
    form: Annotated[
        Literal["pipeline", "lora"],
        typer.Option("--as", help="A whole pipeline, or weights for diffusers' load_lora_weights."),
    ] = "pipeline",
    scale: Annotated[float, typer.Option(help="Strength of the edit.")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Onto another base too.")] = False,
) -> None:
    """Write the edited model to disk."""
    from editing.edit import Edit

    found = Edit.load(edit)
    pipe = _loaded(model)
    if form == "lora":
        from editing.edit.lora import save_lora

        if force:
            raise InputError(
                "Expected a LoRA of the edit's own base, got --force; export it from that base."
            )
        save_lora(found.scaled(scale), pipe, out)
    else:
        with found.applied(pipe, scale, force):
            try:
                pipe.save_pretrained(out)
            except OSError as error:
                raise InputError(
                    f"Expected a folder to write the pipeline to, got {out}: {error.strerror}."
                ) from error
    typer.echo(f"{out}")


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
    options = given(settings, lines_of(corpus) if corpus else None, watch, checkpoint)
    edit = fitted(_loaded(model), [*requests, *_preserving(preserve)], method, **options)
    _deliver(edit, out, as_json)


def _preserving(given: Sequence[str] | None) -> "list[Request]":
    from editing.requests import Preserve

    kept = [text for one in given or [] for text in texts_of(one)]
    return [Preserve(kept)] if kept else []


def _encoder(name: str | None) -> Any:
    """The open_clip encoder of "ViT-B-32:laion2b_s34b_b79k", a folder or "miniature"."""
    from visdiff.encoders.open_clip import OpenClipEncoder

    if name is None:
        return OpenClipEncoder()
    model, _, weights = name.rpartition(":") if ":" in name else (name, "", "")
    return OpenClipEncoder(model or name, weights or None)


def _echo_look(look: "Evaluation") -> None:
    shares = ", ".join(f"{a} {n / look.delta.n:.0%}" for a, n in look.counts.items())
    said = " (done)" if look.done else ""
    typer.echo(
        f"round {look.round}: {look.concept}: {shares} of {look.delta.n} images{said}", err=True
    )


def _loaded(model: str) -> Any:
    from editing.pipelines.loading import load_pipeline

    return load_pipeline(model)


def _deliver(edit: "Edit", out: Path, as_json: bool) -> None:
    edit.save(out)
    if as_json:
        typer.echo(json.dumps(edit.to_dict(), indent=2, ensure_ascii=False))
    else:
        _echo(edit)
        typer.echo(f"edit: {out}")


def _echo(edit: "Edit") -> None:
    found = edit.diagnostics
    typer.echo(f"{edit.method} edit of {edit.base_model}, {len(edit.tensors)} tensors")
    for request in edit.requests:
        typer.echo(f"  {shorten(request.describe(), 200, placeholder=' …')}")
    for concept, tokens in found.get("tokens", {}).items():
        shown = ", ".join(f"{t['index']} {t['token']}" for t in tokens)
        typer.echo(f"tokens of {concept!r}: {shown}")
    for target in found.get("targets", []):
        typer.echo(f"{target['concept']!r} reaches {1 - target['residual']:.0%} of its target")
    for name in ("preserved", "null"):
        if found.get(name):
            said = "preserved concepts move" if name == "preserved" else "the empty prompt moves"
            typer.echo(f"{said} {found[name]['spill']:.1%} as far as the edited ones")
    if found.get("neighbours"):
        near = ", ".join(f"{n['concept']} {n['spill']:.0%}" for n in found["neighbours"][:8])
        typer.echo(f"neighbours move: {near}")
    for space, solve in found.get("solves", {}).items():
        typer.echo(
            f"solve for {space}: rank {solve['rank']} (effective {solve['effective_rank']:.1f}), "
            f"condition {solve['condition']:.1e}, λ {solve['lambda']:.3g}"
        )
    for warning in found.get("warnings", []):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"digest: {edit.digest}")
    sys.stdout.flush()


def _numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    found = {}
    for name, value in assignments(texts, option).items():
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"Expected {option} attribute=number, got {name}={value!r}.") from None
    return found
