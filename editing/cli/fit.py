"""Fitting from the command line: options in, what it will cost and how far it is on stderr."""

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


def fitted(pipe: Any, requests: "Sequence[Request]", method: str, **options: Any) -> "Edit":
    """Fits as `editing.fit`, with a bar where the method trains."""
    import editing

    with bar() as told:
        return editing.fit(pipe, requests, method, on_event=told, **options)


def given(
    settings: Sequence[str] | None,
    corpus: Sequence[str] | None,
    neighbours: Sequence[str] | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Returns the arguments of a fit that were given: a method may not have the others."""
    several = {"corpus": corpus, "neighbours": neighbours, "checkpoint": checkpoint}
    return {n: v for n, v in several.items() if v} | _settings(settings)


@contextmanager
def bar() -> "Iterator[OnEvent]":
    """Gives what to tell of a training: its cost before it starts, then its runs and its steps."""
    from tqdm import tqdm

    from editing.methods.score.trajectories import Drawn
    from editing.training import Cost, Started, Stepped

    bars: list[tqdm] = []

    def at(name: str, unit: str, total: int, done: int, known: int = 0) -> tqdm:
        if not bars or bars[-1].desc != name:
            if bars:
                bars[-1].close()
            bars.append(tqdm(total=total, desc=name, unit=unit, initial=known, file=sys.stderr))
        bars[-1].update(done - bars[-1].n)
        return bars[-1]

    def told(event: Any) -> None:
        match event:
            case Cost():
                sys.stderr.write(
                    f"{event.steps} steps of {event.trained:,} weights: "
                    f"{event.drawing + event.forward:,} predictions of the denoiser, "
                    f"{event.backward:,} with their gradient\n"
                )
            case Drawn():
                at("drawing", "run", event.total, event.done)
            case Started():
                at("training", "step", event.steps, event.done, known=event.done)
            case Stepped():
                at("training", "step", event.steps, event.done).set_postfix(loss=event.loss)

    try:
        yield told
    finally:
        for one in bars:
            one.close()


def _settings(texts: Sequence[str] | None) -> dict[str, Any]:
    """Reads --set values as TOML would, so that numbers and lists are such; else as text."""
    found: dict[str, Any] = {}
    for name, value in assignments(texts, "--set").items():
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found
