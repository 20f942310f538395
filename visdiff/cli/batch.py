"""``submit`` and ``collect``: captioning and judging with the Batch API, within a day.

Data goes to stdout. Exit status: 0 success, 2 invalid input, 3 incomplete results (requests failed,
or batches have not ended).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visdiff.cli.configuration import configuration, judge_settings
from visdiff.cli.options import (
    CaptionerName,
    ConfigFile,
    DryRun,
    Json,
    JudgeLlm,
    JudgeSet,
    Llm,
    MaxCalls,
    MaxCost,
    Preset,
    Settings,
)
from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.cache import Cache
    from visdiff.config import Config
    from visdiff.llm import Request
    from visdiff.llm.batch_openai import BatchChat

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Folder for the state of the batches.",
        show_default="in the cache",
    ),
]
TryOut = Annotated[
    bool, typer.Option(help="Send the first request alone, to detect errors at once.")
]

_Chunks = Callable[["BatchChat", "Cache"], Iterable[list["Request"]]]


def submit_captions(
    images: Annotated[str, typer.Argument(metavar="SET", help="Folder, glob or manifest.")],
    captioner: CaptionerName = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    llm: Llm = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    try_out: TryOut = True,
    state: StateOption = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Submit the captions of a set to the Batch API: within a day, at half the price.

    Requests that are cached or submitted are left out. `visdiff caption collect` fetches the
    replies; `visdiff caption` then writes them.
    """
    from visdiff.batch.jobs import caption_requests
    from visdiff.imageset import ImageSet

    settings = configuration(
        preset,
        config,
        set_,
        captioner=captioner,
        llm__model=llm,
        llm__max_calls=max_calls,
        llm__max_cost=max_cost,
    )
    opened = ImageSet.open(images)
    for note in opened.notes:
        typer.echo(f"warning: {note}", err=True)
    _submit(
        settings,
        lambda model, cache: caption_requests(opened, settings, model, cache),
        "caption",
        try_out=try_out,
        state=state,
        as_json=as_json,
        dry_run=dry_run,
    )


def submit_judging(
    results: Annotated[Path, typer.Argument(help="Results file of `bench run`.")],
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Answers per claim that the chat judge requests; the majority decides.",
        ),
    ] = 1,
    judge_llm: JudgeLlm = None,
    judge_set: JudgeSet = None,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    try_out: TryOut = True,
    state: StateOption = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Submit the questions of the chat judge to the Batch API: within a day, at half the price.

    Requests that are cached or submitted are left out. `visdiff bench collect` fetches the replies;
    `visdiff bench score --judge chat` then uses them.
    """
    from visdiff.batch.jobs import judge_requests
    from visdiff.config import Config

    limited = Config().changed(llm__max_calls=max_calls, llm__max_cost=max_cost)
    _submit(
        judge_settings(limited, judge_llm, judge_set),
        lambda model, cache: [judge_requests(results, model, samples)],
        "bench",
        try_out=try_out,
        state=state,
        as_json=as_json,
        dry_run=dry_run,
    )


def collect(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    again: Annotated[
        bool, typer.Option("--again", help="Collect collected batches again, after a cache loss.")
    ] = False,
    forget: Annotated[
        str | None,
        typer.Option(metavar="BATCH", help="Abandon a batch, and exit.", show_default="none"),
    ] = None,
    state: StateOption = None,
    as_json: Json = False,
) -> None:
    """Write the replies of all finished batches to the cache; may be run repeatedly."""
    from visdiff.batch import run as batch_run
    from visdiff.batch.jobs import batch_chat
    from visdiff.cache import Cache

    settings = configuration(preset, config, set_)

    def connect(name: str) -> "BatchChat":
        return batch_chat(settings.changed(llm__model=name))

    with Cache() as cache:
        folder = _folder(state, cache)
        if forget is not None:
            count = batch_run.forget(folder, forget)
            typer.echo(f"{count} requests of batch {forget} may be submitted again")
            return
        found = batch_run.collect(connect, cache, folder, again=again)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        for sentence in found.sentences:
            typer.echo(sentence)
        failed = sum(found.failures.values())
        typer.echo(f"{found.replies} replies, {failed} failures, {found.pending} requests pending")
    if found.failures or found.pending:
        raise typer.Exit(3)


def _submit(
    settings: "Config",
    chunks: _Chunks,
    command: str,
    *,
    try_out: bool,
    state: Path | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Counts and submits requests.

    Args:
        settings: Settings of the chat model.
        chunks: Yields the requests in chunks; it is called to count and to send.
        command: Command that collects the replies.
        try_out: Send the first request alone.
        state: Folder of the state of the batches.
        as_json: Print JSON.
        dry_run: Count only.
    """
    from visdiff.batch import run as batch_run
    from visdiff.batch.jobs import batch_chat
    from visdiff.cache import Cache

    model = batch_chat(settings)
    with Cache() as cache:
        folder = _folder(state, cache)
        totals = _totals(model, chunks(model, cache), cache, folder, settings)
        sent = batch_run.Submitted((), 0, 0, ())
        if not as_json:
            typer.echo(_summary(totals), err=not dry_run)
        if not dry_run:
            _check_limits(totals, settings)
            for requests in chunks(model, cache):
                done = batch_run.submit(model, requests, cache, folder, try_out=try_out)
                sent = batch_run.Submitted(
                    sent.batches + done.batches,
                    sent.requests + done.requests,
                    sent.answered + done.answered,
                    sent.adopted + done.adopted,
                )
    if as_json:
        typer.echo(json.dumps({**totals, "submitted_now": None if dry_run else asdict(sent)}))
    elif not dry_run:
        for name in sent.adopted:
            typer.echo(f"recovered: batch {name} of an interrupted run", err=True)
        batches = f" ({', '.join(sent.batches)})" if sent.batches else ""
        answered = f", {sent.answered} answered at once" if sent.answered else ""
        typer.echo(f"{sent.requests} requests submitted{batches}{answered}")
        if sent.batches or sent.adopted or totals["submitted"]:
            typer.echo(f"Within a day: visdiff {command} collect", err=True)


def _totals(
    model: "BatchChat",
    chunks: Iterable[list["Request"]],
    cache: "Cache",
    folder: Path,
    settings: "Config",
) -> dict[str, Any]:
    """Counts the requests, and estimates their tokens and cost."""
    from visdiff.batch.run import plan
    from visdiff.batch.state import BatchState
    from visdiff.llm.budget import Price, estimate

    prices = settings.llm.prompt_price, settings.llm.completion_price
    if (prices[0] is None) != (prices[1] is None):
        raise InputError(
            "Expected llm.prompt_price and llm.completion_price, got one of them; pass both, in US "
            "dollars per million tokens."
        )
    price = None if prices[0] is None or prices[1] is None else Price(prices[0], prices[1])
    state = BatchState.read(folder)
    totals: dict[str, Any] = {"requests": 0, "cached": 0, "submitted": 0, "fresh": 0}
    totals |= {"prompt_tokens": 0, "completion_tokens": 0, "cost": None if price is None else 0.0}
    seen: set[str] = set()
    for requests in chunks:
        found = plan(model, requests, cache, state)
        fresh = {name: request for name, request in found.fresh.items() if name not in seen}
        seen |= set(fresh)
        guess = estimate(list(fresh.values()), price)
        totals["requests"] += found.distinct
        totals["cached"] += found.cached
        totals["submitted"] += found.submitted
        totals["fresh"] += len(fresh)
        totals["prompt_tokens"] += guess.prompt_tokens
        totals["completion_tokens"] += guess.completion_tokens
        if guess.cost is not None:
            totals["cost"] += guess.cost
    return totals


def _summary(totals: dict[str, Any]) -> str:
    cost = totals["cost"]
    return (
        f"{totals['requests']} requests: {totals['cached']} cached, {totals['submitted']} "
        f"submitted before, {totals['fresh']} to submit, about {totals['prompt_tokens']} tokens in "
        f"and {totals['completion_tokens']} out, "
        + (
            f"about {cost:.2f} US dollars at the configured prices (set the batch prices)"
            if cost is not None
            else "cost unknown without llm.prompt_price and llm.completion_price"
        )
    )


def _check_limits(totals: dict[str, Any], settings: "Config") -> None:
    """Raises if a job is expected to exceed a limit, because a batch cannot be stopped midway.

    Raises:
        InputError: The requests or their cost exceed the limit, or there are no prices.
    """
    calls, cost = settings.llm.max_calls, settings.llm.max_cost
    if calls is not None and totals["fresh"] > calls:
        raise InputError(
            f"Expected at most {calls} requests (--max-calls), got {totals['fresh']}; raise the "
            "limit or submit a smaller job."
        )
    if cost is not None and totals["fresh"] and totals["cost"] is None:
        raise InputError(
            "Expected prices with a limit on cost (--max-cost), got none; set llm.prompt_price and "
            "llm.completion_price of batches, in US dollars per million tokens."
        )
    if cost is not None and totals["fresh"] and totals["cost"] > cost:
        raise InputError(
            f"Expected a cost of at most {cost:g} US dollars (--max-cost), got about "
            f"{totals['cost']:.2f}; raise the limit or submit a smaller job."
        )


def _folder(state: Path | None, cache: "Cache") -> Path:
    return cache.directory / "batches" if state is None else state
