"""``visdiff audit``: what an edit changed, and several audits in one table.

Data goes to stdout, progress to stderr. Exit status: 0 done, 2 the user's mistake.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visdiff.cli.options import CacheOption, ConfigFile, Json, Preset, assignments, configuration
from visdiff.cli.options import Settings as Set
from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.audits.prompt_groups import PromptGroup
    from editing.audits.report import AuditReport

app = typer.Typer(
    help="Say what an edit changed: what was asked, and everything else.", rich_markup_mode=None
)


@app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    base: Annotated[
        str | None, typer.Option(help="The unedited model: hub id, folder, or miniature.")
    ] = None,
    edit: Annotated[Path | None, typer.Option(help="A file that visdiff edit wrote.")] = None,
    edited: Annotated[
        str | None, typer.Option(help="Instead of --edit: the edited model, a whole checkpoint.")
    ] = None,
    images_a: Annotated[
        Path | None, typer.Option(help="Instead of models: manifest of the original's images.")
    ] = None,
    images_b: Annotated[Path | None, typer.Option(help="Manifest of the edited's images.")] = None,
    requests: Annotated[
        Path | None,
        typer.Option(help="What a foreign edit was asked for, as visdiff edit run reads it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report and the images.")] = None,
    neighbour: Annotated[
        list[str] | None, typer.Option(help="A concept near the edited ones. May be repeated.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Own prompts: a file with the columns prompt, group and concept."),
    ] = None,
    images: Annotated[int, typer.Option(help="Pairs of images a group.")] = 64,
    scale: Annotated[float, typer.Option(help="Strength of the edit.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps of the scheduler.")] = 25,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 7.5,
    batch: Annotated[int, typer.Option(help="Images at once.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    seed: int | None = None,
    cache: CacheOption = "rw",
    as_json: Json = False,
    metrics: Annotated[
        str,
        typer.Option(
            help="Further measures of each group, with commas between: lpips, clip, nudenet, "
            "q16:FILE (its learned prompts, .npy), fid, kid."
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
) -> None:
    """Draw what an edit was made for and what it was not, and say what changed.

    Give --base and --edit, or --base and --edited, or --images-a and --images-b.
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise InputError("Expected --out DIR for the report and the images, got none.")
    if preset is None and config is None and base == "miniature":
        preset = "miniature"
    settled = configuration(preset, config).changed(seed=seed).with_set(assignments(set_, "--set"))
    asked, about = _known(edit, requests, base)
    if images_a is not None or images_b is not None:
        if images_a is None or images_b is None or base or edited or edit:
            raise InputError(
                "Expected --images-a and --images-b and no model, got another mixture; images that "
                "exist need none."
            )
        sets = _opened(images_a, images_b)
    else:
        if base is None or (edit is None) == (edited is None):
            raise InputError(
                "Expected --base with --edit or with --edited, or --images-a with --images-b, got "
                "another mixture."
            )
        from editing.pipelines.sampling import Settings

        drawing = Settings(steps, guidance)
        sets = _drawn(
            base, edit, edited, asked, neighbour, prompts, images, scale, drawing, batch, device,
            out / "images", dry_run,
        )  # fmt: skip
        if sets is None:
            return
    further = [name for part in metrics.split(",") if (name := part.strip())]
    _deliver(sets, asked, about, settled, cache, out, as_json, further)


@app.command()
def compare(
    audits: Annotated[list[Path], typer.Argument(help="Folders that visdiff audit wrote.")],
    as_json: Json = False,
) -> None:
    """Line up several audits in one table."""
    read = {folder.name: _read(folder) for folder in audits}
    if len(read) < len(audits):
        raise InputError("Expected folders of different names, got one name twice; rename them.")
    rows = [_row(name, told) for name, told in read.items()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from tabulate import tabulate

    options = {"headers": "keys", "disable_numparse": True, "missingval": "–"}
    typer.echo(tabulate(rows, tablefmt="pipe", **options))


def _known(edit: Path | None, requests: Path | None, base: str | None) -> tuple[Any, Any]:
    """What is known of the edit: its requests and its origin."""
    if edit is not None:
        from editing.edit import Edit

        found = Edit.load(edit)
        about = {"method": found.method, "base": base or found.base_model, "digest": found.digest}
        return found.requests, about
    if requests is None:
        return (), {}
    from editing.requests.toml import read_requests

    read, options = read_requests(requests)
    return tuple(read), {"method": str(options["method"]), "base": base or "MODEL"}


def _opened(a: Path, b: Path) -> tuple[Any, Any]:
    from editing.audits.grouping import check_columns
    from visdiff.imageset import ImageSet

    sets = ImageSet.open(a), ImageSet.open(b)
    check_columns(*sets)
    return sets


def _drawn(
    base: str,
    edit: Path | None,
    edited: str | None,
    asked: Any,
    near: list[str] | None,
    prompts: Path | None,
    images: int,
    scale: float,
    settings: Any,
    batch: int,
    device: str,
    folder: Path,
    dry_run: bool,
) -> tuple[Any, Any] | None:
    """Draws what is missing; None after a dry run."""
    from editing.audits.prompt_groups import prompt_groups, samples_of
    from editing.cli.generate import on_device, plan_sentence, started
    from editing.edit import Edit
    from editing.generate import EDITED, ORIGINAL, Run, Variant

    pipe = on_device(device, base)
    if prompts is not None:
        groups = _groups(prompts)
    else:
        groups = prompt_groups(pipe, asked, near=near or ())
    samples = samples_of(groups, images)
    if edit is not None:
        found: Any = Edit.load(edit)
        variants = [Variant(ORIGINAL), Variant(EDITED, found, scale)]
        runs = [Run(pipe, variants, samples, folder, settings, batch)]
    else:
        models = {ORIGINAL: pipe, EDITED: on_device(device, str(edited))}
        runs = [
            Run(model, [Variant(name)], samples, folder / name, settings, batch)
            for name, model in models.items()
        ]
    names = ", ".join(f"{group.name} {len(group.prompts)}" for group in groups)
    typer.echo(f"prompts: {names}", err=not dry_run)
    for run in runs:
        typer.echo(plan_sentence(run), err=not dry_run)
    if dry_run:
        return None
    drawn = [started(run) for run in runs]
    if edit is not None:
        return drawn[0].images(ORIGINAL), drawn[0].images(EDITED)
    return drawn[0].images(ORIGINAL), drawn[1].images(EDITED)


def _groups(file: Path) -> "list[PromptGroup]":
    from editing.audits.prompt_groups import PromptGroup
    from editing.generate.prompts import read_prompts

    parts: dict[str, list[tuple[str, str]]] = {}
    for line in read_prompts(file):
        name = str(line.columns.get("group") or "prompts")
        parts.setdefault(name, []).append((str(line.columns.get("concept") or ""), line.text))
    return [PromptGroup.of(name, pairs) for name, pairs in parts.items()]


def _deliver(
    sets: tuple[Any, Any],
    asked: Any,
    about: Any,
    config: Any,
    cache: Any,
    out: Path,
    as_json: bool,
    metrics: list[str],
) -> None:
    from editing.audits.audit import audit_sets
    from visdiff.cache import Cache

    with Cache(mode=cache) as store:
        report = audit_sets(
            *sets, requests=asked, about=about, config=config, cache=store, metrics=metrics
        )
    report.save(out)
    told(report, out, as_json)


def told(report: "AuditReport", out: Path, as_json: bool) -> None:
    """Prints an audit, what to do next, and where its page is."""
    if as_json:
        typer.echo(report.to_json(indent=2))
    else:
        print_audit(report)
        if command := report.next_command(out):
            typer.echo(f"next: {command}")
    typer.echo(f"report: {out / 'audit.html'}", err=as_json)


def print_audit(report: "AuditReport") -> None:
    """Prints an audit in a few lines."""
    typer.echo(report.verdict)
    for o in report.outcomes:
        typer.echo(
            f"{o.request.kind} {o.request.concept}: {o.sought} {o.before.value:.0%} → "
            f"{o.after.value:.0%} ({o.met})"
        )
    for group in report.groups:
        moved = "–" if group.drift is None else f"{group.drift.value:.2f}"
        said = "; ".join(
            f"{'more' if d.direction == 'B' else 'less'} {d.text!r}" for d in group.confirmed
        )
        further = "".join(f", {name} {value:.3g}" for name, value in group.metrics.items())
        typer.echo(f"{group.name}: drift {moved}{further}" + (f"; {said}" if said else ""))
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "audit.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"Expected a folder that visdiff audit wrote, got {folder} ({error.strerror}: {file})."
        ) from error
    except ValueError as error:
        raise InputError(f"Expected an audit in {file}, got no JSON: {error}.") from error


def _row(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """One audit as a line: what was met, side effects, and the drift of each group."""
    outcomes, groups = told["outcomes"], told["groups"]
    row: dict[str, Any] = {
        "audit": name,
        "method": told["about"].get("method", "–"),
        "asked": len(outcomes),
        "met": sum(o["met"] == "yes" for o in outcomes),
        "side effects": sum(len(g["confirmed"]) for g in groups if not g["meant"]),
    }
    for group in groups:
        if group["drift"] is not None:
            row[f"drift, {group['name']}"] = round(group["drift"]["value"], 3)
    return row
