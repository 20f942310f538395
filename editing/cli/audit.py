"""``visdiff audit``: audits an edit, and compares several audits in one table.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 a part of the
audit could not be computed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from editing.audits.metric_names import check_names
from editing.cli.audit_images import generate_sets, open_sets
from editing.cli.audit_print import print_audit
from editing.cli.audit_subjects import describe_subjects, known_references, prepare_subjects
from editing.cli.audit_table import read_audit, table_row
from editing.cli.checks import check_edit, check_source
from editing.cli.options import Batch, Device, EditOption, Guidance, Scale, Steps
from editing.cli.revive import Attack, checked_concepts, parse_numbers
from editing.cli.scoring_options import Segment
from visdiff.cli.configuration import configuration
from visdiff.cli.groups import App
from visdiff.cli.options import (
    CacheOption,
    ConfigFile,
    DryRun,
    Json,
    PathColumn,
    Preset,
    Root,
    Seed,
    command_line,
)
from visdiff.cli.options import Settings as Set
from visdiff.errors import InputError

if TYPE_CHECKING:
    pass

app = App("Report what an edit changed: the requests, and side effects.")


@app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Unedited model: a hub id, a folder, a .safetensors file, or miniature.",
            show_default="--images-a",
        ),
    ] = None,
    edit: EditOption = None,
    edited: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Instead of --edit: a complete edited model.",
            show_default="none",
        ),
    ] = None,
    images_a: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of models: manifest of the original images.",
            show_default="none",
        ),
    ] = None,
    images_b: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Manifest of the edited images.", show_default="none"),
    ] = None,
    root: Root = None,
    path_column: PathColumn = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Requests of an edit by another tool: a request file (TOML).",
            show_default="those of the edit",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Output folder of the report and the images.",
            show_default="none; required without a command",
        ),
    ] = None,
    neighbour: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONCEPT",
            help="A concept close to an edited one; repeatable.",
            show_default="found in the text encoder",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompt file with the columns prompt, group and concept.",
            show_default="made from the requests",
        ),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="Number of images: pairs a group.")] = 64,
    scale: Scale = 1.0,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    batch: Batch = 8,
    device: Device = "auto",
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    seed: Seed = None,
    cache: CacheOption = "rw",
    as_json: Json = False,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            show_default="none",
            help="Additional measures of each group, comma-separated: lpips, clip, nudenet, "
            "q16:FILE (learned prompts, .npy), fid, kid.",
        ),
    ] = "",
    references: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Real images of a subject that the edit teaches; repeat for each.",
            show_default="none",
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of edits kept while training, NAME-000200.safetensors.",
            show_default="none",
        ),
    ] = None,
    segment: Segment = None,
    revive: Annotated[
        bool,
        typer.Option(
            "--revive",
            help="Test whether erased concepts can be learnt anew (textual inversion); the plan "
            "states the cost.",
        ),
    ] = False,
    revive_steps: Annotated[
        str,
        typer.Option(metavar="N,N,…", help="Training steps after which the concept is looked for."),
    ] = "25,50,100,200",
    revive_pictures: Annotated[
        str, typer.Option(metavar="N,N,…", help="Numbers of pictures that it is learnt from.")
    ] = "1,4,16",
    dry_run: DryRun = False,
) -> None:
    """Generate images of targets and unrelated prompts, and report what changed.

    Give --base and --edit, or --base and --edited, or --images-a and --images-b.
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise InputError("Expected --out DIR for the report and the images, got none; add it.")
    if preset is None and config is None and base == "miniature":
        preset = "miniature"
    settings = configuration(preset, config, set_, seed=seed)
    extra_measures = [name for part in metrics.split(",") if (name := part.strip())]
    check_names(extra_measures)
    for model in (base, edited):
        if model is not None:
            check_source(model)
    if edit is not None:
        check_edit(edit)
    edit_requests, about = _read_requests(edit, requests, base)
    attack: Attack | None = None
    if images_a is not None or images_b is not None:
        if revive:
            raise InputError(
                "Expected --revive with --base and an edited model, got images; revival trains "
                "both models: name them."
            )
        if images_a is None or images_b is None or base or edited or edit:
            raise InputError(
                "Expected --images-a and --images-b without a model, got another combination; give "
                "both and leave out --base, --edit and --edited."
            )
        _check_unused({
            "--prompts": prompts, "--neighbour": neighbour, "--checkpoints": checkpoints,
            "--segment": segment,
        })  # fmt: skip
        notes: list[str] = []
        sets = open_sets(images_a, images_b, root, path_column)
        taught = known_references(edit_requests, references)
        if dry_run:
            typer.echo(
                f"{len(sets[0])} original and {len(sets[1])} edited images, none to generate"
            )
            return
    else:
        if base is None or (edit is None) == (edited is None):
            raise InputError(
                "Expected --base with --edit or with --edited, or --images-a with --images-b, got "
                "another combination; give one of these."
            )
        from editing.pipelines.sampling import Settings

        sampling = Settings(steps, guidance)
        describe_subjects(edit_requests, references, checkpoints, dry_run)
        if revive:
            from editing.audits.revival import RevivalConfig

            config_of_attack = RevivalConfig(
                parse_numbers(revive_steps, "--revive-steps"),
                parse_numbers(revive_pictures, "--revive-pictures"),
                sampling=sampling,
                batch_size=batch,
            )
            attack = Attack(
                base, edit, edited, checked_concepts(edit_requests), scale, device,
                config_of_attack, out / "revival",
            )  # fmt: skip
            typer.echo(attack.describe(), err=not dry_run)
        generated = generate_sets(
            base, edit, edited, edit_requests, neighbour, prompts, images, scale, sampling, batch,
            device, out / "images", dry_run,
        )  # fmt: skip
        if generated is None:
            return
        *sets, notes = generated
        taught = prepare_subjects(
            base, edit, edit_requests, references, checkpoints, segment, scale, sampling, batch,
            device, out / "images",
        )  # fmt: skip
    _audit_sets(
        sets, notes, edit_requests, about, settings, cache, out, as_json, extra_measures,
        taught, attack, command_line(context),
    )  # fmt: skip


@app.command()
def compare(
    audits: Annotated[
        list[Path], typer.Argument(metavar="AUDIT", help="Folders written by visdiff audit.")
    ],
    as_json: Json = False,
) -> None:
    """Compare several audits in one table."""
    read = {folder.name: read_audit(folder) for folder in audits}
    if len(read) < len(audits):
        raise InputError("Expected folders with distinct names, got one name twice; rename one.")
    rows = [table_row(name, values) for name, values in read.items()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from tabulate import tabulate

    options = {"headers": "keys", "disable_numparse": True, "missingval": "–"}
    typer.echo(tabulate(rows, tablefmt="pipe", **options))


def _check_unused(options: Mapping[str, Any]) -> None:
    """Checks that options that need a model were not given with images."""
    given = [name for name, value in options.items() if value]
    if given:
        raise InputError(
            f"Expected no {' and no '.join(given)} with --images-a and --images-b, which are "
            "audited as they are; leave it out."
        )


def _read_requests(
    edit: Path | None, requests: Path | None, base: str | None
) -> tuple[Any, dict[str, str]]:
    """Returns the requests of the edit, and its method and base for the report."""
    read, about = _read_request_file(requests, base)
    if edit is None:
        return read, about
    from editing.edit import Edit
    from editing.edit.formats import describe, is_edit

    if edit.exists() and not is_edit(edit):
        formats = dict.fromkeys(file["format"] for file in describe(edit)["files"])
        return read, about or {"method": f"import of {', '.join(formats)}", "base": base or "MODEL"}
    found = Edit.load(edit)
    about = {"method": found.method, "base": base or found.base_model, "digest": found.digest}
    # An edit that was imported has none of its own.
    return (found.requests if requests is None else read), about


def _read_request_file(requests: Path | None, base: str | None) -> tuple[Any, dict[str, str]]:
    if requests is None:
        return (), {}
    from editing.requests.toml import read_requests

    read = read_requests(requests)
    return read.requests, {"method": read.method, "base": base or "MODEL"}


def _audit_sets(
    sets: Sequence[Any],
    notes: list[str],
    requests: Any,
    about: Any,
    config: Any,
    cache: Any,
    out: Path,
    as_json: bool,
    metrics: list[str],
    taught: Any,
    attack: Attack | None,
    command: str,
) -> None:
    from editing.audits.audit import audit_sets
    from visdiff.cache import Cache

    with Cache(mode=cache) as store:
        report = audit_sets(
            *sets, requests=requests, about=about, config=config, cache=store, metrics=metrics,
            taught=taught, notes=notes,
        )  # fmt: skip
        report = replace(report, command=command)
        if attack is not None:
            # The attack takes long, and the audit is already useful.
            report.save(out)
            report = attack.after(report, sets[0], config, store)
    report.save(out)
    print_audit(report, out, as_json)
