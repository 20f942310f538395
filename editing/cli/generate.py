"""``visdiff generate``: generates images for prompts and seeds, by a model and an edit of it.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 partial success
(some images had pixels that were not finite).
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from editing.cli.checks import check_edit, check_source
from editing.cli.options import (
    Batch,
    Device,
    EditOption,
    Guidance,
    Model,
    Scale,
    Scheduler,
    Steps,
)
from visdiff.cli.options import DryRun, Json
from visdiff.errors import InputError
from visdiff.progress import is_hidden

if TYPE_CHECKING:
    from editing.generate import Generated, Progress, Run, Variant
    from editing.generate.prompts import Sample

Own = Literal["use", "ignore"]

_DEFAULT_SEEDS = "0"


def generate(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder of images and manifest.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompt file: CSV, TSV, JSONL, Parquet, or text.",
            show_default="--prompt",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROMPT", help="A prompt; repeatable.", show_default="those of --prompts"
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="SEEDS", help="Seeds, such as 0-9 or 1,5,7-9.", show_default="0"),
    ] = None,
    own_seeds: Annotated[
        Own, typer.Option(help="Whether seeds in the prompt file override --seeds.")
    ] = "use",
    own_guidance: Annotated[
        Own, typer.Option(help="Whether guidance in the prompt file overrides --guidance.")
    ] = "use",
    edit: EditOption = None,
    scale: Scale = 1.0,
    only: Annotated[
        Literal["both", "edited"], typer.Option(help="With --edit: which images to generate.")
    ] = "both",
    steps: Steps = 50,
    guidance: Guidance = 7.5,
    scheduler: Scheduler = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(metavar="PROMPT", help="Negative prompt.", show_default="none"),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(metavar="N", help="Height in pixels.", show_default="as trained"),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(metavar="N", help="Width in pixels.", show_default="as trained"),
    ] = None,
    precision: Annotated[
        Literal["model", "bfloat16"],
        typer.Option(help="Number format of the weights; bfloat16 is faster."),
    ] = "model",
    device: Device = "auto",
    batch: Batch = 8,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Generate images of prompts × seeds; with --edit by the edited model too."""
    if (prompts is None) == (not prompt):
        got = "neither" if prompts is None else "both"
        raise InputError(f"Expected either --prompts FILE or --prompt PROMPT, got {got}; give one.")
    if edit is None and only != "both":
        raise InputError("Expected --edit FILE with --only edited, got none; add it.")
    check_source(model)
    if edit is not None:
        check_edit(edit)
    samples = _read_samples(prompts, prompt, seeds, own_seeds, own_guidance)

    from editing.generate import Run
    from editing.pipelines.sampling import Settings

    pipe = load_on_device(device, model)
    run = Run(
        pipe,
        _load_variants(edit, pipe, scale, only),
        samples,
        out,
        Settings(steps, guidance, height, width, negative_prompt, scheduler, precision),
        batch,
    )
    if dry_run:
        typer.echo(json.dumps(_plan_to_dict(run)) if as_json else describe_plan(run))
        return
    typer.echo(describe_plan(run), err=True)
    _print_result(run_with_progress(run), as_json)


def _read_samples(
    file: Path | None,
    texts: list[str] | None,
    seeds: str | None,
    own_seeds: Own,
    own_guidance: Own,
) -> "list[Sample]":
    # Imports pandas, which the other commands do not need.
    from editing.generate.prompts import Prompt, expand, parse_seeds, read_prompts

    lines = [Prompt(text) for text in texts or []] if file is None else read_prompts(file)
    own = sum(line.seed is not None for line in lines)
    if seeds is not None and own and own_seeds == "use":
        typer.echo(
            f"{own} of {len(lines)} prompts have their own seed, which overrides --seeds; "
            "--own-seeds ignore uses --seeds for all",
            err=True,
        )
    return expand(lines, parse_seeds(seeds or _DEFAULT_SEEDS), own_seeds, own_guidance)


def _load_variants(file: Path | None, pipe: object, scale: float, only: str) -> "list[Variant]":
    from editing.generate import EDITED, Variant

    if file is None:
        return [Variant()]
    from editing.cli.edit_files import open_any

    # The type checker does not accept a cached property where the protocol has a property.
    edited = Variant(EDITED, cast(Any, open_any(file, pipe)), scale)
    return [edited] if only == "edited" else [Variant(), edited]


def load_on_device(device: str, model: str) -> object:
    """Loads a pipeline and moves it to a device.

    Raises:
        InputError: The pipeline cannot be loaded, or torch cannot use the device.
    """
    from editing.cli.edit_files import load

    pipe = load(model)
    device = choose_device(device)
    try:
        return pipe.to(device)
    # The class of the error depends on the version of torch and on the device.
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"Expected a device that torch can use here, got {device!r} ({reason}); use --device "
            "cpu."
        ) from error


def choose_device(name: str) -> str:
    """Returns a device of torch; "auto" is CUDA where it is available, else the CPU."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_plan(run: "Run") -> str:
    """Returns a one-line summary of the images that a run will generate."""
    plan = run.plan
    names = " and ".join(variant.name for variant in run.variants)
    text = f"{plan.images} images ({names}), {plan.present} present, {plan.missing} to generate"
    return text + (f" ({plan.damaged} of them damaged)" if plan.damaged else "")


def _plan_to_dict(run: "Run") -> dict[str, object]:
    plan = run.plan
    return {
        "images": plan.images,
        "present": plan.present,
        "damaged": plan.damaged,
        "missing": plan.missing,
        "variants": [variant.name for variant in run.variants],
    }


def run_with_progress(run: "Run") -> "Generated":
    """Starts a run with a progress bar, and prints a time estimate after the first batch."""
    with generation_progress() as on_batch:
        return run.start(on_batch)


@contextmanager
def generation_progress() -> "Iterator[Callable[[Progress], None]]":
    """Yields a callback that shows a bar on stderr, and a time estimate after the first batch."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def on_batch(progress: "Progress") -> None:
        if not bars:
            bars.append(
                tqdm(
                    total=progress.total,
                    desc="generating",
                    unit="image",
                    file=sys.stderr,
                    disable=is_hidden(),
                )
            )
            if progress.done < progress.total:
                bars[0].write(
                    f"{progress.seconds_per_image:.2f} s per image, about "
                    f"{_format_duration(progress.seconds_left)} left",
                    file=sys.stderr,
                )
        bars[0].update(progress.done - bars[0].n)

    try:
        yield on_batch
    finally:
        for bar in bars:
            bar.close()


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _print_result(generated: "Generated", as_json: bool) -> None:
    """Prints the result of a run; exits with status 3 if an image failed."""
    if as_json:
        result = {
            "manifest": str(generated.manifest),
            "made": generated.made,
            "reused": generated.reused,
            "failed": dict(generated.failed),
            "seconds": round(generated.seconds, 3),
        }
        typer.echo(json.dumps(result))
    else:
        typer.echo(f"{generated.made} images generated, {generated.reused} reused")
        typer.echo(f"manifest: {generated.manifest}")
    for label, reason in generated.failed.items():
        typer.echo(f"failed: {label}: {reason}", err=True)
    if generated.failed:
        raise typer.Exit(3)
