"""``visdiff personalize pools``: words of class prompts by a chat model.

Data goes to stdout, progress and notes to stderr. Exit status: 0 done, 2 invalid input, 3 finished
in part (slots with fewer words than asked for).
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from editing.cli.options import EvaluationPrompts
from editing.personalize.instructions import POOL_INSTRUCTION, POOL_SLOTS, VERSION
from visdiff.cli.options import Llm, MaxCalls, MaxCost, RunOptions, with_options

EPILOG = "\n\n".join(
    (
        f"The chat model is asked: {POOL_INSTRUCTION}",
        "{what} is, by slot: " + "; ".join(f"{k}: {v}" for k, v in POOL_SLOTS.items()) + ".",
    )
)
"""The instruction, for the help of the command."""


@with_options(RunOptions)
def pools(
    noun: Annotated[str, typer.Argument(help="Class noun, such as backpack.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Output file of the pools, .toml.")],
    kind: Annotated[
        Literal["thing", "living", "person"], typer.Option(help="What the noun names.")
    ] = "thing",
    most: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Most words of a slot.", show_default="the paper's numbers"
        ),
    ] = None,
    with_evaluation_prompts: EvaluationPrompts = False,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    *,
    options: RunOptions,
) -> None:
    """Ask a chat model for the words of class prompts: `visdiff personalize class-prompts --pools`.

    Every slot of the grammar is asked until it has its number of words or no new ones come. Replies
    are cached, so a killed run resumes where it stopped.
    """
    from editing.personalize.word_pools import SIZES, ask_pools
    from visdiff.cache import Cache
    from visdiff.files import check_writable
    from visdiff.llm.budget import Ledger
    from visdiff.llm.make import chat_model

    settings = options.configuration(
        llm__model=llm, llm__max_calls=max_calls, llm__max_cost=max_cost
    )
    check_writable(out.absolute().parent, "pools")
    if options.dry_run:
        typer.echo(f"words of {noun}: at most {', '.join(f'{n} {k}' for k, n in SIZES.items())}")
        return
    ledger = Ledger(settings.llm.max_calls, settings.llm.max_cost)
    with Cache(mode=options.cache) as store:
        chat = chat_model(settings, store, ledger)
        evaluation = () if with_evaluation_prompts else None
        asked = ask_pools(noun, kind, chat, most, evaluation, progress=True)
        model = str(dict(chat.identity).get("model") or dict(chat.identity)["backend"])
    provenance = {"noun": noun, "model": model, "prompts": f"personalize-pool@{VERSION}"}
    asked.pools.write(out, provenance)
    if options.as_json:
        result = {
            "words": dict(asked.counts),
            "excluded": list(asked.pools.excluded),
            "refused": list(asked.refused),
            "failed": dict(asked.failures),
            "out": str(out),
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        typer.echo(f"{', '.join(f'{n} {slot}' for slot, n in asked.counts.items())}: {out}")
    for count, what in (
        (len(asked.pools.excluded), "words were left out, since evaluation prompts ask for them"),
        (len(asked.refused), "replies were refused: too long, or with the class noun"),
    ):
        if count:
            typer.echo(f"note: {count} {what}", err=True)
    if ledger.spent:
        typer.echo("warning: the budget is spent", err=True)
    for slot, reason in asked.failures.items():
        typer.echo(f"warning: {slot}: {reason}", err=True)
    if asked.failures:
        raise typer.Exit(3)
