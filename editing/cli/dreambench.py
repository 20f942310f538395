"""``visdiff bench dreambench``: the published benchmark of personalisation, with its table.

Data goes to stdout, notes and progress to stderr. Exit status: 0 done, 2 the user's mistake, 3 a
part of the data or a measure is missing, or an image could not be read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editing.cli.fit import parse_settings, training_progress
from editing.cli.options import (
    Batch,
    Csv,
    Guidance,
    MethodSettings,
    Prior,
    Scheduler,
    Steps,
)
from editing.cli.scoring_options import (
    MEASURES,
    ScoringOptions,
    echo_csv,
    echo_json,
    measure_rows,
    one_format,
)
from visdiff.cli.options import DryRun, Json, with_options
from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.metrics.subject import Estimate
    from editing.personalize.dreambench import DreamBench
    from editing.personalize.scoring import Tools


@with_options(ScoringOptions)
def dreambench(
    data: Annotated[
        Path, typer.Argument(help="Folder of github.com/google/dreambooth, or its dataset folder.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Output folder of the run; a killed run resumes.",
            show_default="none; required without --calibrate",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model to personalise: a hub id, a folder, or miniature.",
            show_default="--generated",
        ),
    ] = None,
    generated: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            show_default="--model",
            help="Score these images of another tool instead: SUBJECT/NUMBER/i.png, or a manifest "
            "with the columns path, prompt and subject.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="Personalisation: dreambooth, lora, textual-inversion, custom-diffusion, svdiff.",
        ),
    ] = "dreambooth",
    prior: Prior = None,
    set_: MethodSettings = None,
    identifier: Annotated[
        str, typer.Option(metavar="TOKEN", help="Token that stands for the subject.")
    ] = "olis",
    nouns: Annotated[
        Literal["vague", "specific"],
        typer.Option(help="Nouns to train and generate with: the data's, or those of He et al."),
    ] = "vague",
    subject: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this subject; repeatable.", show_default="all"),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="Number of images: per prompt.")] = 4,
    noun_images: Annotated[
        int, typer.Option(metavar="N", help="Images of the class noun alone, for PRES; 0 for none.")
    ] = 8,
    steps: Steps = 50,
    guidance: Guidance = 7.5,
    scheduler: Scheduler = None,
    batch: Batch = 8,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Only compare real images with each other.")
    ] = False,
    as_csv: Csv = False,
    as_json: Json = False,
    dry_run: DryRun = False,
    *,
    options: ScoringOptions,
) -> None:
    """Run DreamBench: 30 subjects, 25 prompts, 4 images each, with the published table."""
    import numpy as np

    from editing.personalize.dreambench import read_dreambench
    from editing.personalize.dreambench_run import Plan
    from editing.personalize.dreambench_table import calibrate as compare_real
    from editing.pipelines.sampling import Settings

    one_format(as_json, as_csv)
    bench = read_dreambench(data, subject)
    for part in bench.missing:
        typer.echo(f"missing: {part}", err=True)
    if dry_run:
        _echo_plan(bench, images, noun_images, as_json)
        raise typer.Exit(3 if bench.missing else 0)
    if not calibrate and (out is None or (model is None) == (generated is None)):
        raise InputError(
            "Expected --out FOLDER and either --model MODEL or --generated FOLDER, got another "
            "combination; give these two."
        )
    rng = np.random.default_rng(options.seed)
    tools = _checked(options)
    if calibrate or out is None:
        found = compare_real(bench, tools.encoders, rng)
        _echo_means({"real images (here)": found}, as_json, as_csv)
        _end(bench, tools.encoders.missing)
        return
    lines: list[dict[str, Any]] = []
    if generated is not None:
        for item, line in _foreign(bench, generated, out, identifier, tools, options.seed):
            typer.echo(f"{item}: scored", err=True)
            lines.append(line)
    elif model is not None:
        plan = Plan(
            method, prior, identifier, nouns, images, noun_images,
            Settings(steps, guidance, scheduler=scheduler), parse_settings(set_),
        )  # fmt: skip
        lines = _trained(bench, model, out, plan, batch, tools, options)
    name = f"{method} on {model}" if generated is None else f"{generated}"
    _deliver(lines, name, rng, as_json, as_csv)
    missing = {f"{x['subject']}: {n}": why for x in lines for n, why in x["missing"].items()}
    missing |= {f"{x['subject']}: {n}": why for x in lines for n, why in x["unreadable"].items()}
    _end(bench, missing)


def _checked(options: ScoringOptions) -> "Tools":
    """Loads the models and names what is missing before anything is trained.

    Raises:
        InputError: No encoder is available.
    """
    tools = options.tools(MEASURES)
    missing = {**tools.encoders.missing, **tools.missing}
    if not tools.encoders.present:
        raise InputError(
            "Expected weights of one encoder at least, got none, so nothing could be scored: "
            f"{next(iter(missing.values()))}"
        )
    for name, reason in missing.items():
        typer.echo(f"will not be computed: {name}: {reason}", err=True)
    return tools


def _trained(
    bench: "DreamBench",
    model: str,
    out: Path,
    plan: Any,
    batch: int,
    tools: "Tools",
    options: ScoringOptions,
) -> list[dict[str, Any]]:
    """Teaches, generates and scores every subject."""
    from editing.cli.generate import generation_progress, load_on_device
    from editing.personalize.dreambench_run import BenchRun

    run = BenchRun(load_on_device(options.device, model), model, out, plan, batch)
    lines = []
    for number, item in enumerate(bench.subjects, start=1):
        typer.echo(f"{item.name} ({number} of {len(bench.subjects)})", err=True)
        with training_progress() as on_event:
            edit = run.teach(item, on_event)
        with generation_progress() as on_batch:
            run.generate(item, edit, on_batch)
        lines.append(run.score(item, tools, options.seed))
    return lines


def _foreign(
    bench: "DreamBench", images: Path, out: Path, identifier: str, tools: "Tools", seed: int
) -> Any:
    """Yields name and scores of every subject that another tool has images of."""
    from editing.personalize.dreambench_run import open_run, score_subject
    from editing.personalize.pictured import open_pictured
    from editing.personalize.subject import Subject

    open_run(out, {"images": str(images.absolute())})
    found = 0
    for item in bench.subjects:
        folder = images / item.name
        if images.is_file():
            own = open_pictured(images, {"subject": item.name})
        elif folder.is_dir():
            texts = [t.replace("{0} {1}", item.nouns.vague) for t in item.templates]
            own = open_pictured(folder, None, texts)
        else:
            typer.echo(f"missing: {item.name}: no images in {folder}", err=True)
            continue
        found += 1
        opened = Subject.open(item.folder, identifier, item.nouns.vague)
        yield item.name, score_subject(out, item, opened, own, None, tools, seed)
    if not found:
        raise InputError(
            f"Expected images of DreamBench's subjects in {images}, got none; name the folders by "
            "subject, such as backpack/0/0.png."
        )


def _echo_plan(bench: "DreamBench", seeds: int, class_seeds: int, as_json: bool) -> None:
    counts = {item.name: len(item.templates) * seeds + class_seeds for item in bench.subjects}
    if as_json:
        echo_json({"subjects": counts, "missing": list(bench.missing)})
        return
    typer.echo(
        f"{len(counts)} subjects, {sum(counts.values())} images to generate "
        f"({len(bench.missing)} parts missing)"
    )


def _deliver(
    lines: Sequence[Mapping[str, Any]], name: str, rng: Any, as_json: bool, as_csv: bool
) -> None:
    from editing.personalize.dreambench_table import real_summary, summary

    means = {"real images (here)": real_summary(lines, rng), name: summary(lines, rng)}
    if as_csv:
        echo_csv(
            [
                {
                    "subject": x["subject"],
                    **{n: m["value"] for n, m in x["measures"].items()},
                    **{f"real_{n}": v for n, v in x["real"].items()},
                }
                for x in lines
            ]
        )
        return
    if as_json:
        echo_json({"subjects": list(lines), "means": _plain(means), "published": _published()})
        return
    _echo_means(means, as_json, as_csv)
    typer.echo("")
    for row in measure_rows(means[name]):
        ends = "" if row["low"] is None else f"  {row['low']:.3f} to {row['high']:.3f}"
        typer.echo(f"{row['title']:28}{row['value']:8.3f}{ends}")


def _echo_means(means: "Mapping[str, Mapping[str, Estimate]]", as_json: bool, as_csv: bool) -> None:
    from editing.personalize.dreambench_table import table

    if as_json:
        echo_json({"means": _plain(means), "published": _published()})
    elif as_csv:
        rows = [{"system": s, **row} for s, own in means.items() for row in measure_rows(own)]
        echo_csv(rows)
    else:
        typer.echo(table({name: own for name, own in means.items() if own}))


def _plain(means: "Mapping[str, Mapping[str, Estimate]]") -> dict[str, Any]:
    return {name: measure_rows(own) for name, own in means.items()}


def _published() -> list[dict[str, Any]]:
    from editing.metrics.dreambench import published

    return [asdict(p) for p in published()]


def _end(bench: "DreamBench", missing: Mapping[str, str]) -> None:
    """Prints what was not computed, each reason once; exits with status 3 if something was not."""
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        typer.echo(f"not computed: {names[0]}{more}: {reason}", err=True)
    if missing or bench.missing:
        raise typer.Exit(3)
