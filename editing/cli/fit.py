"""Fits from the command line, with their cost and progress on stderr."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from editing.methods import find
from visdiff.cli.configuration import assignments
from visdiff.errors import InputError
from visdiff.files import load_toml
from visdiff.progress import is_hidden

if TYPE_CHECKING:
    from editing.edit import Edit
    from editing.requests import Request
    from editing.training import OnEvent

_OPTIONS = {"neighbours": "watch"}
"""Argument of a fit → its option, where the names differ."""


def fit_edit(pipe: Any, requests: "Sequence[Request]", method: str, **options: Any) -> "Edit":
    """Fits an edit with `editing.fit`, with a progress bar if the method trains."""
    import editing

    warn_of_misspellings(pipe, requests)
    with training_progress() as on_event:
        return editing.fit(pipe, requests, method, on_event=on_event, **options)


def warn_of_misspellings(pipe: Any, requests: "Sequence[Request]") -> None:
    """Prints a warning for each word of a concept that is probably spelt wrong."""
    from editing.pipelines.spelling import misspellings

    texts = [text for r in requests for text in (r.concept, r.target, *r.ratios)]
    for word, near in misspellings(pipe, texts).items():
        typer.echo(
            f"warning: {word!r} is no word of the model's vocabulary; did you mean {near!r}?",
            err=True,
        )


def fit_arguments(
    method: str,
    settings: Mapping[str, Any],
    *,
    corpus: Sequence[str] | None = None,
    neighbours: Sequence[str] | None = None,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Checks the arguments of a fit before a model is loaded, and returns those that were passed.

    Raises:
        InputError: The method is unknown or does not take one of them, or a setting is wrong.
    """
    found = find(method)
    found.check_settings(settings)
    options = {"corpus": corpus, "neighbours": neighbours, "checkpoint": checkpoint}
    inputs = {name: value for name, value in options.items() if value}
    unused = sorted(inputs.keys() - found.inputs)
    if unused:
        raise InputError(
            f"Expected no --{' and no --'.join(_OPTIONS.get(n, n) for n in unused)} for {method}, "
            "which does not use it; leave it out."
        )
    return {**inputs, **settings}


@contextmanager
def training_progress(
    trackers: Sequence[str] | None = None,
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> "Iterator[OnEvent]":
    """Yields an event callback that prints the cost of a training and shows progress bars.

    Args:
        trackers: Names of accelerate's trackers, which get the numbers as well.
        folder: Folder of their files.
        settings: Settings that they record.
    """
    from tqdm import tqdm

    from editing.generate import Progress
    from editing.methods.score.trajectories import Drawn
    from editing.personalize.kept import Kept
    from editing.personalize.personalizer import Noted
    from editing.training import (
        Cost,
        Estimate,
        Sampled,
        Skipped,
        Started,
        Stepped,
        Validated,
    )
    from editing.training.trackers import tracker

    bars: list[tqdm] = []
    names: list[str] = []

    def advance(name: str, unit: str, total: int, done: int, initial: int = 0) -> tqdm:
        # A hidden bar does not know its name.
        if not bars or names[-1] != name:
            if bars:
                bars[-1].close()
            names.append(name)
            bars.append(
                tqdm(
                    total=total,
                    desc=name,
                    unit=unit,
                    initial=initial,
                    file=sys.stderr,
                    disable=is_hidden(),
                )
            )
        bars[-1].update(done - bars[-1].n)
        return bars[-1]

    def show(event: Any) -> None:
        match event:
            case Noted():
                tqdm.write(f"note: {event.text}", file=sys.stderr)
            case Progress():
                advance("class images", "image", event.total, event.done)
            case Estimate():
                hours = event.steps * event.seconds_per_step / 3600
                tqdm.write(
                    f"{event.steps} steps of {event.trained:,} weights: about "
                    f"{event.seconds_per_step:.2f} s each, {hours:.1f} h in all, "
                    f"{event.memory / 2**30:.2f} GiB besides the model",
                    file=sys.stderr,
                )
            case Sampled():
                tqdm.write(f"samples: {event.path}", file=sys.stderr)
            case Kept():
                tqdm.write(f"step {event.done}: {event.path}", file=sys.stderr)
            case Validated():
                tqdm.write(f"step {event.done}: loss {event.loss:.4f}", file=sys.stderr)
            case Skipped():
                tqdm.write(
                    f"step {event.done}: gradients overflowed and the step changed nothing "
                    f"({event.skipped} so far)",
                    file=sys.stderr,
                )
            case Cost():
                sys.stderr.write(
                    f"{event.steps} steps of {event.trained:,} weights: "
                    f"{event.drawing + event.forward:,} denoiser predictions, "
                    f"{event.backward:,} with gradients\n"
                )
            case Drawn():
                advance("drawing", "run", event.total, event.done)
            case Started():
                advance("training", "step", event.steps, event.done, initial=event.done)
            case Stepped():
                advance("training", "step", event.steps, event.done).set_postfix(loss=event.loss)

    try:
        with tracker(trackers or (), folder or Path(), "visdiff", settings or {}) as record:

            def on_event(event: Any) -> None:
                show(event)
                record(event)

            yield on_event
    finally:
        for bar in bars:
            bar.close()


def parse_settings(texts: Sequence[str] | None) -> dict[str, Any]:
    """Parses --set values as TOML values; a value that is not valid TOML is text."""
    settings: dict[str, Any] = {}
    for name, value in assignments(texts, "--set").items():
        try:
            settings[name] = load_toml(f"value = {value}")["value"]
        except ValueError:
            settings[name] = value
    return settings
