"""Fits from the command line, with their cost and progress on stderr."""

import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visdiff.cli.options import assignments

if TYPE_CHECKING:
    from editing.edit import Edit
    from editing.requests import Request
    from editing.training import OnEvent


def fit_edit(pipe: Any, requests: "Sequence[Request]", method: str, **options: Any) -> "Edit":
    """Fits an edit with `editing.fit`, with a progress bar if the method trains."""
    import editing

    with training_progress() as on_event:
        return editing.fit(pipe, requests, method, on_event=on_event, **options)


def fit_options(
    settings: Sequence[str] | None,
    corpus: Sequence[str] | None,
    neighbours: Sequence[str] | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Returns the arguments of a fit; options that were not passed are left out.

    Not every method accepts all of them.
    """
    options = {"corpus": corpus, "neighbours": neighbours, "checkpoint": checkpoint}
    return {n: v for n, v in options.items() if v} | _parse_settings(settings)


@contextmanager
def training_progress() -> "Iterator[OnEvent]":
    """Yields an event callback that prints the cost of a training and shows progress bars."""
    from tqdm import tqdm

    from editing.methods.score.trajectories import Drawn
    from editing.training import Cost, Started, Stepped

    bars: list[tqdm] = []

    def advance(name: str, unit: str, total: int, done: int, initial: int = 0) -> tqdm:
        if not bars or bars[-1].desc != name:
            if bars:
                bars[-1].close()
            bars.append(tqdm(total=total, desc=name, unit=unit, initial=initial, file=sys.stderr))
        bars[-1].update(done - bars[-1].n)
        return bars[-1]

    def on_event(event: Any) -> None:
        match event:
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
        yield on_event
    finally:
        for bar in bars:
            bar.close()


def _parse_settings(texts: Sequence[str] | None) -> dict[str, Any]:
    """Parses --set values as TOML values; a value that is not valid TOML is text."""
    settings: dict[str, Any] = {}
    for name, value in assignments(texts, "--set").items():
        try:
            settings[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name] = value
    return settings
