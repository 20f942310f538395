"""``visdiff caption`` and ``visdiff rank``: parts of a comparison by themselves.

Data goes to stdout, progress to stderr. Exit status: 0 done, 2 the user's mistake, 3 finished in
part (images that could not be read, captioned or scored).
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from visdiff.options import (
    CacheOption,
    ConfigFile,
    DryRun,
    Json,
    Llm,
    MaxCalls,
    MaxCost,
    Preset,
    Settings,
    Verify,
    Where,
    assignments,
    configuration,
    writable,
)


def caption(
    images: Annotated[str, typer.Argument(metavar="SET", help="Folder, glob or manifest.")],
    out: Annotated[Path, typer.Option(help="Manifest to write: .csv, .jsonl or .parquet.")],
    where: Where = None,
    preset: Preset = None,
    captioner: str | None = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    as_json: Json = False,
    config: ConfigFile = None,
    set_: Settings = None,
    cache: CacheOption = "rw",
    dry_run: DryRun = False,
) -> None:
    """Caption every image of a set and write a manifest: path, caption, and what is known else.

    `visdiff compare` reads it back with --captioner manifest. Captions are cached as they are made,
    so that a killed run goes on where it stopped. An image without a caption has an empty cell, is
    counted and named, and makes the exit status 3; running again tries it again.
    """
    from visdiff import captioning
    from visdiff.backends import captioner_of
    from visdiff.cache import Cache
    from visdiff.imageset import ImageSet
    from visdiff.readiness import check_captioner

    settings = (
        configuration(preset, config)
        .changed(
            captioner=captioner, llm__model=llm, llm__max_calls=max_calls, llm__max_cost=max_cost
        )
        .with_set(assignments(set_, "--set"))
    )
    opened = ImageSet.open(images, assignments(where, "--where"))
    captioning.check_target(out)
    if dry_run:
        asks = getattr(captioner_of(settings)[0], "asks", False)
        calls = len(opened) if asks else 0
        told = {"images": len(opened), "paid_calls": calls}
        sentence = (
            f"{len(opened)} images to caption, less what the cache holds; {calls} calls of the "
            "chat model."
        )
        typer.echo(json.dumps(told) if as_json else sentence)
        return
    with Cache(mode=cache) as store:
        backend, ledger = captioner_of(settings, store)
        check_captioner(backend, opened, store)
        found = backend.captions(opened, store, True)
    captioning.write(captioning.table(opened, found.values, out.parent), out)
    failed = {opened.ids[i]: reason for i, reason in sorted(found.failures.items())}
    n = len(opened) - len(failed)
    if as_json:
        told = {"images": len(opened), "captioned": n, "failed": failed, "out": str(out)}
        typer.echo(json.dumps(told, indent=2))
    else:
        typer.echo(f"{n} of {len(opened)} images captioned: {out}")
    if ledger.spent:
        typer.echo("warning: the budget is spent: not every image was asked about", err=True)
    if failed:
        name, reason = next(iter(failed.items()))
        typer.echo(f"warning: {len(failed)} without a caption (first: {name}: {reason})", err=True)
        raise typer.Exit(3)


def rank(
    a: Annotated[str, typer.Argument(help="Set A: folder, glob or manifest.")],
    b: Annotated[str, typer.Argument(help="Set B.")],
    hypotheses: Annotated[
        list[str],
        typer.Option(
            metavar="TEXT|FILE",
            help='A sentence ("A: a dog" claims it of set A; without a letter both directions are '
            "tested), or a text file of them, one a line. May be repeated.",
        ),
    ],
    where_a: Where = None,
    where_b: Where = None,
    preset: Preset = None,
    captioner: str | None = None,
    ranker: str | None = None,
    verify: Verify = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    paired_by: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Such as prompt,seed.")
    ] = None,
    seed: int | None = None,
    null: Annotated[int | None, typer.Option(help="Shuffled runs beside the real one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    set_: Settings = None,
    cache: CacheOption = "rw",
    dry_run: DryRun = False,
) -> None:
    """Rank your own sentences by how well they tell set A from set B.

    Every sentence is tested, in the direction claimed or in both, with one correction over all. As
    in `visdiff compare`, the numbers come from the half of the images that is kept for them;
    sentences that you did not take from these images may be tested on more of them, with --set
    statistics.discovery_fraction=0.05.
    """
    from visdiff.cache import Cache
    from visdiff.halves import open_both
    from visdiff.plan import plan
    from visdiff.ranking import rank as run
    from visdiff.ranking import with_hypotheses
    from visdiff.show import finish, print_table, warn

    settings = (
        configuration(preset, config)
        .changed(
            captioner=captioner,
            ranker=ranker,
            verify=verify,
            paired_by=tuple(c.strip() for c in paired_by.split(",")) if paired_by else None,
            seed=seed,
            null_repeats=null,
            llm__model=llm,
            llm__max_calls=max_calls,
            llm__max_cost=max_cost,
        )
        .with_set(assignments(set_, "--set"))
    )
    if settings.proposer.backend == "manual":
        hypotheses = [*settings.proposer.hypotheses, *hypotheses]
    settings = with_hypotheses(settings, hypotheses)
    filter_a, filter_b = assignments(where_a, "--where-a"), assignments(where_b, "--where-b")
    if out is not None:
        writable(out)
    costs = plan(a, b, settings, filter_a, filter_b)
    if dry_run:
        typer.echo(costs.to_json() if as_json else costs.sentence())
        return
    typer.echo(costs.sentence(), err=True)
    with Cache(mode=cache) as store:
        ranking = run(*open_both(a, b, filter_a, filter_b), settings, store)
    report = ranking.report
    if out is not None:
        report.save(out)
    if as_json:
        typer.echo(json.dumps(ranking.to_dict(), indent=2, allow_nan=False))
    else:
        names = {"A": report.set_a.name, "B": report.set_b.name}
        columns = ["sentence", "claimed of", "AUROC", "interval", "p", "q"]
        rows = [
            (
                s.confirmed,
                [
                    s.text,
                    names[s.direction],
                    _text(s.auroc, ".2f"),
                    f"{_text(s.ci_low, '.2f')}–{_text(s.ci_high, '.2f')}",
                    _text(s.p_value, ".1g"),
                    _text(s.q_value, ".1g"),
                ],
            )
            for s in ranking.sentences
        ]
        print_table(report.verdict, columns, rows)
        warn(report)
    finish(report, out, as_json)
    if any(s.n_unscored for s in ranking.sentences):  # the report tells of differences only
        raise typer.Exit(3)


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
