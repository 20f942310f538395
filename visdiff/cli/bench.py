"""``visdiff bench``: runs and scores VisDiffBench or MiniDiffBench, and compares judges.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 incomplete
results (pairs failed, images missing, verdicts missing).
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from visdiff.cli import batch
from visdiff.cli.configuration import configuration, judge_settings
from visdiff.cli.groups import App
from visdiff.cli.options import (
    CacheOption,
    CaptionerName,
    ConfigFile,
    Json,
    JudgeLlm,
    JudgeSet,
    Llm,
    MaxCalls,
    MaxCost,
    Preset,
    ProposerName,
    RankerName,
    Root,
    Seed,
    Settings,
)
from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.bench.pairs import Benchmark

app = App("Run and score benchmarks of set comparison.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the benchmark.")]
ResultsArgument = Annotated[Path, typer.Argument(help="Results file of `bench run`.")]
_JUDGES = "Judge: world (for MiniDiffBench), chat, human or module:Class."
Sheet = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Completed rating sheet, for the human judge.",
        show_default="none",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        metavar="N", help="Answers per claim that the chat judge requests; the majority decides."
    ),
]

#: Number of pairs per benchmark and split.
_KNOWN: Mapping[str, Mapping[str, int]] = {
    "VisDiffBench": {
        "easy": 50, "medium": 50, "hard": 50, "imagenet-r": 14, "imagenet-star": 23,
    },
    "MiniDiffBench": {"easy": 50, "medium": 50, "hard": 50, "null": 200},
}  # fmt: skip


app.command("submit")(batch.submit_judging)
app.command("collect")(batch.collect)


@app.command("list")
def list_(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Folder of a benchmark.")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """List the pairs and missing images of a folder; without a folder, the known benchmarks."""
    from visdiff import registry

    if folder is None:
        known = {"benchmarks": _KNOWN, "judges": registry.names("judge")}
        if as_json:
            typer.echo(json.dumps(known, indent=2))
            return
        for name, splits in _KNOWN.items():
            parts = ", ".join(f"{split} {n}" for split, n in splits.items())
            typer.echo(f"{name}  {sum(splits.values())} pairs: {parts}")
        typer.echo(f"judges  {', '.join(known['judges'])}")
        typer.echo(
            "VisDiffBench: get it from github.com/Understanding-Visual-Datasets/VisDiff; "
            "MiniDiffBench: `visdiff bench render`. Then: visdiff bench list FOLDER"
        )
        return
    benchmark = _load(folder, root)
    missing = benchmark.missing
    if as_json:
        data = {
            "name": benchmark.name,
            "splits": benchmark.splits,
            "missing": list(missing),
            "notes": list(benchmark.notes),
        }
        typer.echo(json.dumps(data, indent=2))
    else:
        typer.echo(f"{benchmark.name}  {len(benchmark.pairs)} pairs")
        for split, count in benchmark.splits.items():
            own = [pair for pair in benchmark.pairs if pair.split == split]
            files = len({file for pair in own for file in (*pair.images_a, *pair.images_b)})
            lacking = len({name for pair in own for name in pair.missing})
            typer.echo(f"{split:14} {count:4} pairs {files:7} images {lacking:5} missing")
        for note in benchmark.notes:
            typer.echo(f"note: {note}", err=True)
        for name in missing:
            typer.echo(f"missing: {name}", err=True)
    if missing:
        raise typer.Exit(3)


@app.command()
def render(
    folder: Annotated[Path, typer.Argument(help="Folder for the images and an index.")],
    art: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder with node_modules of the art packages."),
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed.")] = 0,
    pairs: Annotated[
        int, typer.Option(metavar="N", help="Pairs per split: easy, medium and hard.")
    ] = 50,
    null_pairs: Annotated[int, typer.Option(metavar="N", help="Pairs without a difference.")] = 200,
    size: Annotated[int, typer.Option(metavar="N", help="Images per set.")] = 100,
) -> None:
    """Render MiniDiffBench from the art packages; a killed run resumes."""
    from visdiff.bench import minidiffbench

    benchmark = minidiffbench.render(
        folder, art, seed=seed, pairs=pairs, null_pairs=null_pairs, size=size
    )
    typer.echo(f"{len(benchmark.pairs)} pairs in {folder}")


@app.command()
def run(
    folder: Folder,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Output file of the results; a killed run resumes."),
    ],
    judge: Annotated[str, typer.Option(metavar="JUDGE", help=_JUDGES)],
    root: Root = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT", help="Only this split; repeatable.", show_default="all"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Maximum number of pairs per split.", show_default="all"),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    captioner: CaptionerName = None,
    proposer: ProposerName = None,
    ranker: RankerName = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    seed: Seed = None,
    purity: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Purity of the sets, from 1 (pure) to 0.5 (fully mixed)."
        ),
    ] = 1.0,
    directions: Annotated[
        Literal["A", "both"],
        typer.Option(help="A: only hypotheses that are more true of A, as in the paper."),
    ] = "A",
    top: Annotated[
        int, typer.Option(metavar="N", help="Number of hypotheses to judge per pair.")
    ] = 10,
    sheet: Sheet = None,
    judge_llm: JudgeLlm = None,
    judge_set: JudgeSet = None,
    samples: Samples = 1,
    cache: CacheOption = "rw",
    as_json: Json = False,
) -> None:
    """Compare every pair, judge the hypotheses, append the results, print the scores."""
    from visdiff.bench.run import run as run_benchmark
    from visdiff.cache import Cache
    from visdiff.judges.make import make_judge

    settings = configuration(
        preset,
        config,
        set_,
        captioner=captioner,
        proposer=proposer,
        ranker=ranker,
        llm__model=llm,
        llm__max_calls=max_calls,
        llm__max_cost=max_cost,
        seed=seed,
    )
    benchmark = _load(folder, root).only(split, limit)
    for note in benchmark.notes:
        typer.echo(f"note: {note}", err=True)
    if benchmark.missing:
        typer.echo(
            f"{len(benchmark.missing)} images are missing (first: {benchmark.missing[0]}); "
            f"`visdiff bench list {folder}` lists all of them.",
            err=True,
        )
    with Cache(mode=cache) as store:
        model = make_judge(
            judge,
            judge_settings(settings, judge_llm, judge_set),
            store,
            sheet=sheet,
            samples=samples,
        )
        results = run_benchmark(
            benchmark,
            out,
            config=settings,
            judge=model,
            cache=store,
            purity=purity,
            directions=directions,
            top=top,
        )
    _deliver([results], as_json)


@app.command()
def score(
    results: ResultsArgument,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="JUDGE",
            help=_JUDGES,
            show_default="the scores in RESULTS",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Output file of the results of --judge.",
            show_default="none",
        ),
    ] = None,
    write_sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a blinded rating sheet for people, and exit.",
            show_default="none",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Random seed of the order of the sheet and of the bootstrap."
        ),
    ] = 0,
    sheet: Sheet = None,
    judge_llm: JudgeLlm = None,
    judge_set: JudgeSet = None,
    samples: Samples = 1,
    cache: CacheOption = "rw",
    as_json: Json = False,
) -> None:
    """Print the accuracies of a run, optionally with another judge, or write a rating sheet."""
    import numpy as np

    from visdiff.bench.run import claims, rejudge
    from visdiff.bench.store import Results
    from visdiff.cache import Cache
    from visdiff.config import Config
    from visdiff.judges import human
    from visdiff.judges.make import make_judge

    found = Results.read(results)
    not_judged: Mapping[str, str] = {}
    if write_sheet is not None:
        count = human.write_sheet(claims(found), write_sheet, np.random.default_rng(seed))
        typer.echo(f"{count} claims to rate 2, 1 or 0 in {write_sheet}")
        return
    if judge is not None:
        if out is None:
            raise InputError("Expected --out with --judge, got none; each judge has its own file.")
        with Cache(mode=cache) as store:
            settings = judge_settings(Config(), judge_llm, judge_set)
            # A judge's file has no pairs that failed, and neither have its accuracies.
            not_judged = found.failed
            found = rejudge(
                found, out, make_judge(judge, settings, store, sheet=sheet, samples=samples)
            )
    _deliver([found], as_json, seed, not_judged=not_judged)


@app.command()
def table(
    results: Annotated[list[Path], typer.Argument(help="Results files of `bench run`.")],
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Print a table of proposers × rankers, with the published accuracies for comparison."""
    from visdiff.bench.store import Results

    _deliver([Results.read(path) for path in results], as_json, seed, published=True)


@app.command()
def agree(
    first: Annotated[Path, typer.Argument(help="Results file of a run.")],
    second: Annotated[Path, typer.Argument(help="Results file of the same run, other judge.")],
    as_json: Json = False,
) -> None:
    """Compare two judges of the same hypotheses: agreement, Cohen's kappa, confusion table."""
    from visdiff.bench.run import agree as compare_judges
    from visdiff.bench.store import Results

    both = [Results.read(path) for path in (first, second)]
    found = compare_judges(*both)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    names = [results.header["judge"].get("judge", "?") for results in both]
    typer.echo(f"{found.n} claims with two scores, {found.unscored} without")
    for what, value in (
        ("agreement", found.observed),
        ("Cohen's kappa", found.kappa),
        ("kappa, quadratic weights", found.weighted_kappa),
    ):
        typer.echo(f"{what:26}{'undefined' if value is None else f'{value:.3f}'}")
    typer.echo(f"{names[0]} (rows) × {names[1]} (columns)")
    typer.echo("      " + "".join(f"{score:>7}" for score in ("0", "0.5", "1")))
    for label, row in zip(("0", "0.5", "1"), found.table, strict=True):
        typer.echo(f"{label:>6}" + "".join(f"{count:>7}" for count in row))


def _load(folder: Path, root: Path | None) -> "Benchmark":
    """Loads the benchmark of a folder."""
    if not folder.is_dir():
        raise InputError(
            f"Expected the folder of a benchmark, got {folder}, which is not a folder; check it."
        )
    from visdiff.bench import visdiffbench

    # Imported only if needed, because rendering needs more libraries than reading.
    if (folder / "minidiffbench.jsonl").is_file():
        from visdiff.bench import minidiffbench

        return minidiffbench.load(folder)
    return visdiffbench.load(folder, root)


def _deliver(
    results: list[Any],
    as_json: bool,
    seed: int = 0,
    published: bool = False,
    not_judged: Mapping[str, str] | None = None,
) -> None:
    """Prints the scores; reports missing results on stderr and exits with status 3."""
    from visdiff.bench.table import render, rows

    found = rows(results, seed)
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        typer.echo(render(found, published=published))
    for name, reason in (not_judged or {}).items():
        typer.echo(f"failed, so not judged: {name}: {reason}", err=True)
    incomplete = bool(not_judged)
    for one in results:
        for name, reason in one.failed.items():
            typer.echo(f"failed: {name}: {reason}", err=True)
        if one.n_unscored:
            typer.echo(f"{one.n_unscored} hypotheses have no verdict ({one.path}).", err=True)
        incomplete = incomplete or bool(one.failed or one.n_unscored or one.n_missing)
    if incomplete:
        sys.stdout.flush()
        raise typer.Exit(3)
