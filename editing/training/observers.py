"""Observers of a training, such as sample images or a validation loss, which do not change it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from editing.training.averages import Average
from editing.training.events import OnEvent
from editing.training.losses import Weights
from visdiff.errors import InputError


@dataclass(frozen=True)
class Observer:
    """A function of the weights that is called during a training, in the first process.

    Attributes:
        every: Steps between calls. It is also called before the first step and after the last.
        observe: (Completed steps, weights) → an event to report, or None. The weights are averaged
            if the plan has an ``ema``, and must not be changed.
    """

    every: int
    observe: Callable[[int, Weights], Any]

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(
                f"Expected an observer every 1 or more steps, got {self.every}; raise it."
            )


def observe(
    observers: Sequence[Observer],
    done: int,
    steps: int,
    average: Average,
    report: OnEvent,
) -> None:
    """Calls the observers that are due after a number of steps, and reports their events."""
    for observer in observers:
        if done % observer.every == 0 or done == steps:
            weights = average.values()
            with undisturbed(weights):
                event = observer.observe(done, weights)
            if event is not None:
                report(event)


@contextmanager
def undisturbed(weights: Weights) -> Iterator[None]:
    """Computes without a graph, and restores the state of torch's global generators afterwards."""
    device = next(iter(weights.values())).device
    others = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(others, device_type=kind), torch.no_grad():
        yield
