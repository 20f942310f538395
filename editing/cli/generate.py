"""``visdiff generate``: images of prompts and seeds, by a model and by an edit of it.

Data goes to stdout, progress to stderr. Exit status: 0 done, 2 the user's mistake, 3 finished in
part (images whose pixels were not finite).
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.generate import Generated, Progress, Run, Variant
    from editing.generate.prompts import Sample

Own = Literal["use", "ignore"]

_DEFAULT_SEEDS = "0"


def generate(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or miniature.")],
    out: Annotated[Path, typer.Option(help="Folder for images and manifest.")],
    prompts: Annotated[
        Path | None, typer.Option(help="CSV, TSV, JSONL, Parquet or text, one prompt a line.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Such as 0-9 or 1,5,7-9; 0 when none are given.")
    ] = None,
    own_seeds: Annotated[
        Own, typer.Option(help="Whether a prompt file's own seeds win over --seeds.")
    ] = "use",
    own_guidance: Annotated[
        Own, typer.Option(help="Whether a prompt file's own guidance wins over --guidance.")
    ] = "use",
    edit: Annotated[
        Path | None, typer.Option(help="An edit: draws with it too, from the same noise.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the edit.")] = 1.0,
    only: Annotated[
        Literal["both", "edited"], typer.Option(help="With --edit: what to draw.")
    ] = "both",
    steps: Annotated[int, typer.Option(help="Steps of the scheduler.")] = 50,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 7.5,
    scheduler: Annotated[str | None, typer.Option(help="Such as DDIM; else the model's.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to lead away from.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; else as trained.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; else as trained.")] = None,
    precision: Annotated[
        Literal["model", "bfloat16"], typer.Option(help="bfloat16 is faster.")
    ] = "model",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch: Annotated[int, typer.Option(help="Images at once.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
) -> None:
    """Draw prompts × seeds; with --edit by original and edited model from the same noise."""
    samples = _samples(prompts, prompt, seeds, own_seeds, own_guidance)
    if edit is None and only != "both":
        raise InputError("expected an edit beside --only edited, got none: give --edit FILE.")

    from editing.generate import Run
    from editing.pipelines.sampling import Settings

    run = Run(
        on_device(device, model),
        _variants(edit, scale, only),
        samples,
        out,
        Settings(steps, guidance, height, width, negative_prompt, scheduler, precision),
        batch,
    )
    if dry_run:
        typer.echo(json.dumps(_plan(run)) if as_json else plan_sentence(run))
        return
    typer.echo(plan_sentence(run), err=True)
    _deliver(started(run), as_json)


def _samples(
    file: Path | None,
    texts: list[str] | None,
    seeds: str | None,
    own_seeds: Own,
    own_guidance: Own,
) -> "list[Sample]":
    # Reads tables with pandas, which every other command can do without.
    from editing.generate.prompts import Prompt, expand, parse_seeds, read_prompts

    if (file is None) == (not texts):
        got = "neither" if file is None else "both"
        raise InputError(f"expected --prompts FILE or --prompt TEXT, got {got}: give one of them.")
    lines = [Prompt(text) for text in texts or []] if file is None else read_prompts(file)
    own = sum(line.seed is not None for line in lines)
    if seeds is not None and own and own_seeds == "use":
        typer.echo(
            f"{own} of {len(lines)} prompts bring their own seed, which wins over --seeds; "
            "--own-seeds ignore draws them with yours",
            err=True,
        )
    return expand(lines, parse_seeds(seeds or _DEFAULT_SEEDS), own_seeds, own_guidance)


def _variants(file: Path | None, scale: float, only: str) -> "list[Variant]":
    from editing.generate import EDITED, Variant

    if file is None:
        return [Variant()]
    from editing.edit import Edit

    # A cached property is a property, but not to the type checker.
    edited = Variant(EDITED, cast(Any, Edit.load(file)), scale)
    return [edited] if only == "edited" else [Variant(), edited]


def on_device(device: str, model: str) -> object:
    """Loads a pipeline and moves it to a device.

    Raises:
        InputError: It cannot be loaded, or torch cannot use the device here.
    """
    import torch

    from editing.pipelines.loading import load_pipeline

    pipe = load_pipeline(model)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return pipe.to(device)
    # torch says it by whichever of these its version and the device bring about.
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"expected a device that torch can use here, got {device!r} ({reason}): give --device "
            "cpu."
        ) from error


def plan_sentence(run: "Run") -> str:
    """What a run will draw, in a sentence."""
    plan = run.plan
    names = " and ".join(variant.name for variant in run.variants)
    text = f"{plan.images} images ({names}), {plan.present} there already, {plan.missing} to make"
    return text + (f", {plan.damaged} of them damaged files" if plan.damaged else "")


def _plan(run: "Run") -> dict[str, object]:
    plan = run.plan
    return {
        "images": plan.images,
        "present": plan.present,
        "damaged": plan.damaged,
        "missing": plan.missing,
        "variants": [variant.name for variant in run.variants],
    }


def started(run: "Run") -> "Generated":
    """Runs with a bar, and says what the run will take when the first batch has shown it."""
    with shown() as told:
        return run.start(told)


@contextmanager
def shown() -> "Iterator[Callable[[Progress], None]]":
    """Gives what to tell of each batch: a bar on stderr, and after the first what is to come."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def told(progress: "Progress") -> None:
        if not bars:
            bars.append(tqdm(total=progress.total, desc="drawing", unit="image", file=sys.stderr))
            if progress.done < progress.total:
                bars[0].write(
                    f"{progress.seconds_per_image:.2f} s an image, about "
                    f"{_duration(progress.seconds_left)} more",
                    file=sys.stderr,
                )
        bars[0].update(progress.done - bars[0].n)

    try:
        yield told
    finally:
        for bar in bars:
            bar.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _deliver(generated: "Generated", as_json: bool) -> None:
    """Prints what was made; exits with status 3 when something was not."""
    if as_json:
        told = {
            "manifest": str(generated.manifest),
            "made": generated.made,
            "reused": generated.reused,
            "failed": dict(generated.failed),
            "seconds": round(generated.seconds, 3),
        }
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"{generated.made} images made, {generated.reused} there before")
        typer.echo(f"manifest: {generated.manifest}")
    for label, reason in generated.failed.items():
        typer.echo(f"not made: {label}: {reason}", err=True)
    if generated.failed:
        raise typer.Exit(3)
