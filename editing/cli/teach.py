"""``visdiff personalize METHOD``: one command a method, with the same options.

Data goes to stdout, notes and progress to stderr. Exit status: 0 done, 2 the user's mistake.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editing.cli.checks import check_edit, check_source
from editing.cli.edit_files import save_or_keep
from editing.cli.fit import parse_settings, training_progress
from editing.cli.options import (
    Base,
    Checkpoint,
    Identifier,
    MethodSettings,
    Model,
    Noun,
    OutEdit,
    Prior,
)
from editing.personalize import find, names
from visdiff.cli.options import Json, Preset, Seed, with_options
from visdiff.errors import InputError
from visdiff.files import check_present, load_toml, read_text

if TYPE_CHECKING:
    from editing.edit import Edit
    from editing.personalize.priors import ClassImages
    from editing.personalize.subject import Subject

Source = Annotated[
    str | None,
    typer.Argument(help="The subject: folder of images (captions in .txt files), or a manifest."),
]


@dataclass(frozen=True)
class TeachOptions:
    """Options of every method."""

    noun: Noun = None
    identifier: Identifier = None
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE,IDENTIFIER,NOUN",
            help="A further subject, taught together; repeatable.",
            show_default="none",
        ),
    ] = None
    prior: Prior = None
    dataset_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="kohya's dataset configuration (TOML) in place of SOURCE.",
            show_default="none",
        ),
    ] = None
    captions: Annotated[
        Literal["own", "none", "sid", "plain", "blip"],
        typer.Option(
            help="own: those of SOURCE; none: the identifier and the noun alone; sid, plain, blip: "
            "written by the captioner of --preset (visdiff personalize caption)."
        ),
    ] = "own"
    preset: Preset = None
    train_steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Training steps.", show_default="the method's"),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Learning rate.", show_default="the method's"),
    ] = None
    seed: Seed = None
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of settings of the method, identifier, noun and prior.",
            show_default="none",
        ),
    ] = None
    set_: MethodSettings = None
    class_images: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of class images; missing ones are generated."),
    ] = Path("class-images")
    checkpoint: Checkpoint = None
    save_every: Annotated[int, typer.Option(metavar="N", help="Steps between checkpoints.")] = 100
    keep_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Steps between edits that are kept, OUT-000200.safetensors; visdiff audit "
            "--checkpoints recommends one.",
            show_default="none is kept",
        ),
    ] = None
    sample_every: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Steps between grids of sample images.", show_default="no grids"
        ),
    ] = None
    sample_prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROMPT",
            help="Prompt of a row of the grids; repeatable.",
            show_default="the subject, also in a place, and its class",
        ),
    ] = None
    sample_folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the grids.", show_default="OUT with -samples"),
    ] = None
    validate_every: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Steps between losses on fixed samples.", show_default="no losses"
        ),
    ] = None
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Tracker of accelerate, such as tensorboard or wandb; repeatable.",
            show_default="none",
        ),
    ] = None
    as_json: Json = False


def add_methods(app: typer.Typer) -> None:
    """Adds a command for each method to an app."""
    for name in names():
        summary = (find_summary(name)).rstrip(".")
        app.command(name, help=f"{summary}.")(_command(name))


def find_summary(name: str) -> str:
    """Returns what a method does, without loading it."""
    return {
        "custom-diffusion": "Teach a subject: keys and values of the cross-attention and a token",
        "dreambooth": "Teach a subject: all weights of the denoiser",
        "lora": "Teach a subject: low-rank changes of the attention layers",
        "svdiff": "Teach a subject: shifts of the singular values of all layers",
        "textual-inversion": "Teach a subject: the embedding of a new token alone",
    }[name]


def _command(method: str) -> Any:
    @with_options(TeachOptions)
    def command(
        model: Model, out: OutEdit, source: Source = None, *, options: TeachOptions
    ) -> None:
        _teach(method, model, source, out, options)

    return command


def _teach(method: str, model: str, source: str | None, out: Path, options: TeachOptions) -> None:
    check_source(model)
    if source is not None:
        check_present(source)
    from editing.cli.edit_files import load
    from editing.personalize.kept import Keeping
    from editing.personalize.samples import Samples
    from visdiff.files import check_writable

    check_writable(out.absolute().parent, "the edit")
    file = _read_config(options.config)
    # Of a value that is given in both, the option counts.
    own_names = {name: file.pop(name, None) for name in ("identifier", "noun", "prior")}
    identifier = options.identifier or own_names["identifier"]
    noun = options.noun or own_names["noun"]
    prior = options.prior or own_names["prior"]
    data: dict[str, Any] = {}
    if options.dataset_config is not None:
        if source is not None:
            raise InputError("Expected SOURCE or --dataset-config, got both; leave one out.")
        subjects, own, data = _from_kohya(options.dataset_config, identifier, noun)
        prior = prior or own
    else:
        subjects = [_open(source, identifier, noun, model, out, options)]
    subjects += [_open_also(text) for text in options.also or []]
    given = {"steps": options.train_steps, "lr": options.lr, "seed": options.seed}
    settings = {
        **data,
        **file,
        **{name: value for name, value in given.items() if value is not None},
        **parse_settings(options.set_),
    }
    personalizer = find(method)
    personalizer.check_settings(settings)
    samples = None
    if options.sample_every is not None:
        folder = options.sample_folder or out.with_name(f"{out.stem}-samples")
        samples = Samples(folder, options.sample_every, tuple(options.sample_prompt or ()))
    with training_progress(options.track, out.absolute().parent, settings) as on_event:
        edit = personalizer.fit(
            load(model),
            subjects,
            prior=prior,
            class_folder=options.class_images,
            samples=samples,
            validate_every=options.validate_every,
            checkpoint=options.checkpoint,
            save_every=options.save_every,
            keep=None if options.keep_every is None else Keeping(out, options.keep_every),
            on_event=on_event,
            **settings,
        )
    save_or_keep(edit, out)
    _echo(edit, out, model, source, options)


def _open(
    source: str | None, identifier: Any, noun: Any, model: str, out: Path, options: TeachOptions
) -> "Subject":
    from editing.personalize.subject import Subject

    if source is None:
        raise InputError(
            "Expected SOURCE or --dataset-config, got neither; name the folder of the images."
        )
    match options.captions:
        case "own":
            return Subject.open(source, identifier, noun)
        case "none":
            return Subject.without_captions(source, identifier, noun)
        case _:
            preset = options.preset or ("miniature" if model == "miniature" else None)
            manifest = out.with_name(f"{out.stem}-captions.jsonl")
            _write_captions(source, manifest, identifier, noun, options.captions, preset)
            return Subject.open(manifest, identifier, noun)


def _write_captions(
    source: str, manifest: Path, identifier: Any, noun: Any, style: Any, preset: str | None
) -> None:
    from editing.cli.captioning import caption
    from editing.personalize.captioning import read_captions
    from visdiff.cli.options import RunOptions

    try:
        caption(source, manifest, noun, identifier, style, options=RunOptions(preset=preset))
    except typer.Exit:
        # Flagged captions are usable; those that are missing are not.
        missing = [name for name, c in read_captions(manifest).items() if not c.text]
        if missing:
            raise InputError(
                f"Expected a caption of every image, got none of {', '.join(missing[:3])}; write "
                f"them into {manifest} and train with it as SOURCE."
            ) from None


def _from_kohya(
    path: Path, identifier: Any, noun: Any
) -> "tuple[list[Subject], ClassImages | None, dict[str, Any]]":
    """Subjects, class images and settings of a dataset configuration; prints its notes."""
    from editing.personalize.kohya import read_dataset_config
    from editing.personalize.priors import captioned_images

    found = read_dataset_config(path, identifier, noun)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    settings, own = found.settings, {}
    if settings.resolution is not None:
        own["width"], own["height"] = settings.resolution
    if settings.batch_size is not None:
        own["batch"] = settings.batch_size
    if settings.flip is not None:
        own["flip"] = settings.flip
    if settings.buckets is not None:
        own["buckets"] = settings.buckets
    if settings.random_crop:
        own["crop"] = 0.75
        typer.echo("note: random_crop keeps at least 0.75 of a side (--set crop=…).", err=True)
    prior = None
    if found.regularization:
        prior = captioned_images(
            [(r.images, r.captions, r.repeats) for r in found.regularization],
            found.subjects[0].noun,
        )
    return list(found.subjects), prior, own


def _open_also(text: str) -> "Subject":
    from editing.personalize.subject import Subject

    parts = text.rsplit(",", 2)
    if len(parts) != 3:
        raise InputError(
            f"Expected --also SOURCE,IDENTIFIER,NOUN, got {text!r}; separate them by commas."
        )
    source, identifier, noun = parts
    return Subject.open(source, identifier, noun)


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    text = read_text(path, "a TOML file of settings")
    try:
        return load_toml(text)
    except ValueError as error:
        raise InputError(f"Expected a TOML file of settings, got {path} ({error}); correct it."
                         ) from error  # fmt: skip


def _echo(edit: "Edit", out: Path, model: str, source: str | None, options: TeachOptions) -> None:
    if options.as_json:
        typer.echo(json.dumps(edit.to_dict(), indent=2))
        return
    loss = edit.diagnostics["loss"]
    for request in edit.requests:
        typer.echo(f"learnt {request.concept!r} by {edit.method}: {out}")
    typer.echo(f"loss on fixed samples {loss['before']:.4f} → {loss['after']:.4f}")
    sources = [source or "REFERENCES", *(text.rsplit(",", 2)[0] for text in options.also or [])]
    words = ["visdiff", "audit", "--base", model, "--edit", str(out)]
    words += [word for path in sources for word in ("--references", path)]
    if options.keep_every is not None:
        words += ["--checkpoints", str(out.parent)]
    typer.echo(f"next: {shlex.join([*words, '--out', 'audit/'])}")


def merge(
    edits: Annotated[list[Path], typer.Argument(metavar="EDIT", help="Edits of Custom Diffusion.")],
    base: Base,
    class_captions: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="File of regularisation captions, one per line or a manifest."
        ),
    ],
    out: OutEdit,
) -> None:
    """Merge edits of several subjects into one, in closed form (Custom Diffusion)."""
    for path in edits:
        check_edit(path)
    check_source(base)
    from editing.edit import Edit
    from editing.generate.prompts import read_prompts
    from editing.personalize.custom_diffusion import merge as merged
    from editing.pipelines.loading import load_pipeline

    texts = [prompt.text for prompt in read_prompts(class_captions)]
    edit = merged([Edit.load(path) for path in edits], load_pipeline(base), texts)
    save_or_keep(edit, out)
    names = " and ".join(repr(r.concept) for r in edit.requests)
    typer.echo(f"merged {names}: {out}")
