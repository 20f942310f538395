"""``visdiff batch``: judging and captioning with the Batch API, within a day, at half price.

Data goes to stdout. Exit status: 0 success, 2 invalid input, 3 incomplete results (requests failed,
or batches have not ended).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from visdiff.cli.options import ConfigFile, Json, Preset, Settings, assignments, configuration
from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.cache import Cache
    from visdiff.config import Config
    from visdiff.llm import Request
    from visdiff.llm.batch_openai import BatchChat

app = typer.Typer(
    help="Run large judging and captioning jobs with the Batch API: submit, collect.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StateOption = Annotated[
    Path | None,
    typer.Option("--state", help="Folder for the state of the batches; by default in the cache."),
]
LlmSet = Annotated[
    list[str] | None,
    typer.Option(
        "--llm-set", metavar="NAME=VALUE", help="Chat model settings: model=…, base_url=…"
    ),
]

_Chunks = Callable[["BatchChat", "Cache"], Iterable[list["Request"]]]


@app.command()
def submit(
    job: Annotated[
        Literal["judge", "caption"],
        typer.Argument(help="judge: as `bench score --judge chat`; caption: a set of images."),
    ],
    source: Annotated[
        str, typer.Argument(help="A results file of `bench run`; or a folder, glob or manifest.")
    ],
    samples: Annotated[int, typer.Option(help="Answers per claim that the judge requests.")] = 1,
    captioner: Annotated[
        str | None, typer.Option(help="A captioner that uses the chat model.")
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Settings = None,
    llm_set: LlmSet = None,
    try_out: Annotated[
        bool, typer.Option(help="Send the first request alone, to detect errors at once.")
    ] = True,
    state: StateOption = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option(help="Print the numbers and exit.")] = False,
) -> None:
    """Submit the requests that are neither cached nor submitted yet."""
    from visdiff.batch import run as batch_run
    from visdiff.batch.jobs import batch_chat
    from visdiff.cache import Cache

    settings = _settings(preset, config, captioner, set_, llm_set)
    model, chunks = batch_chat(settings), _job(job, source, samples, settings)
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
            typer.echo("Within a day: visdiff batch collect", err=True)


@app.command()
def collect(
    preset: Preset = None,
    config: ConfigFile = None,
    llm_set: LlmSet = None,
    again: Annotated[
        bool, typer.Option("--again", help="Collect collected batches again, after a cache loss.")
    ] = False,
    forget: Annotated[
        str | None, typer.Option(metavar="BATCH", help="Abandon a batch, and exit.")
    ] = None,
    state: StateOption = None,
    as_json: Json = False,
) -> None:
    """Write the replies of finished batches to the cache; may be run repeatedly."""
    from visdiff.batch import run as batch_run
    from visdiff.batch.jobs import batch_chat
    from visdiff.cache import Cache

    settings = _settings(preset, config, None, None, llm_set)

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


def _job(job: str, source: str, samples: int, settings: "Config") -> _Chunks:
    """Returns a function that yields the job's requests in chunks; used to count and to send."""
    from visdiff.batch.jobs import caption_requests, judge_requests

    if job == "judge":
        return lambda model, cache: [judge_requests(Path(source), model, samples)]

    from visdiff.imageset import ImageSet

    images = ImageSet.open(source)
    for note in images.notes:
        typer.echo(f"warning: {note}", err=True)
    return lambda model, cache: caption_requests(images, settings, model, cache)


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
            else "cost unknown without --llm-set prompt_price=… and completion_price=…"
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
            f"Expected at most max_calls={calls} requests, got {totals['fresh']}; raise the limit "
            "or submit a smaller job."
        )
    if cost is not None and totals["fresh"] and totals["cost"] is None:
        raise InputError(
            "Expected prices with a limit on cost, got none; pass prompt_price and "
            "completion_price of batches, in US dollars per million tokens."
        )
    if cost is not None and totals["fresh"] and totals["cost"] > cost:
        raise InputError(
            f"Expected a cost of at most {cost:g} US dollars, got about {totals['cost']:.2f}; "
            "raise max_cost or submit a smaller job."
        )


def _settings(
    preset: str | None,
    path: Path | None,
    captioner: str | None,
    set_: list[str] | None,
    llm_set: list[str] | None,
) -> "Config":
    settings = configuration(preset, path, set_, captioner=captioner)
    named = {f"llm.{name}": value for name, value in assignments(llm_set, "--llm-set").items()}
    return settings.with_set(named)


def _folder(state: Path | None, cache: "Cache") -> Path:
    return cache.directory / "batches" if state is None else state
