"""``visdiff caption``: captions one set and writes a manifest.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input, 3 incomplete
results (images that could not be read or captioned).
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from visdiff.cli import batch
from visdiff.cli.configuration import assignments
from visdiff.cli.groups import command_group, main_command
from visdiff.cli.options import (
    CaptionerName,
    Llm,
    MaxCalls,
    MaxCost,
    PathColumn,
    Root,
    RunOptions,
    Where,
    with_options,
)
from visdiff.files import check_present

app = command_group("Caption a set of images and write a manifest.")
app.command("submit")(batch.submit_captions)
app.command("collect")(batch.collect)


@main_command(app)
@with_options(RunOptions)
def caption(
    images: Annotated[str, typer.Argument(metavar="SET", help="Folder, glob or manifest.")],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Output file: a manifest, .csv, .jsonl or .parquet."),
    ],
    where: Where = None,
    captioner: CaptionerName = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    root: Root = None,
    path_column: PathColumn = None,
    *,
    options: RunOptions,
) -> None:
    """Caption every image of a set and write a manifest: path, caption and all existing columns.

    `visdiff compare --captioner manifest` reads the result. Captions are cached one by one, so a
    killed run resumes where it stopped. An image without a caption gets an empty cell and is
    counted, and the exit status is 3; running the command again retries these images.
    """
    settings = options.configuration(
        captioner=captioner,
        llm__model=llm,
        llm__max_calls=max_calls,
        llm__max_cost=max_cost,
    )
    check_present(images)

    from visdiff.cache import Cache
    from visdiff.captioners import captioner_of
    from visdiff.captioners import table as captioning
    from visdiff.comparison.readiness import check_captioner
    from visdiff.engine import Runtime
    from visdiff.imageset import ImageSet

    opened = ImageSet.open(
        images, assignments(where, "--where"), root=root, path_column=path_column
    )
    captioning.check_target(out)
    captioning.check_files(opened)
    if options.dry_run:
        calls = len(opened) if captioner_of(settings)[0].asks else 0
        estimate = {"images": len(opened), "paid_calls": calls, "notes": opened.notes}
        sentence = (
            f"{len(opened)} images to caption, less what the cache holds; {calls} calls of the "
            "chat model."
        )
        plan = " ".join([sentence, *opened.notes])
        typer.echo(json.dumps(estimate) if options.as_json else plan)
        return
    with Cache(mode=options.cache) as store:
        runtime = Runtime.of(settings.engine, store, progress=True)
        backend, ledger = captioner_of(settings, runtime)
        check_captioner(backend, opened, runtime)
        found = backend.captions(opened)
    captioning.write(captioning.table(opened, found.values, out.parent), out)
    failed = {opened.ids[i]: reason for i, reason in sorted(found.failures.items())}
    n = len(opened) - len(failed)
    if options.as_json:
        result = {
            "images": len(opened),
            "captioned": n,
            "failed": failed,
            "left_out": opened.left_out,
            "out": str(out),
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        typer.echo(f"{n} of {len(opened)} images captioned: {out}")
    for note in opened.notes:
        typer.echo(f"warning: {note}", err=True)
    if ledger.spent:
        typer.echo("warning: the budget is spent: not every image was captioned", err=True)
    if failed:
        name, reason = next(iter(failed.items()))
        typer.echo(f"warning: {len(failed)} without a caption (first: {name}: {reason})", err=True)
        raise typer.Exit(3)
