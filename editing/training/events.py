"""The events of a training, which a callback receives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """The event before a fit starts: its estimated cost.

    Attributes:
        steps: Gradient steps.
        trained: Number of trained parameters.
        drawing: Denoiser evaluations for the trajectories, if none are stored.
        forward: Denoiser evaluations during training.
        backward: Those of them with a backward pass, each of which costs about two more.
    """

    steps: int
    trained: int
    drawing: int
    forward: int
    backward: int


@dataclass(frozen=True)
class Estimate:
    """The estimated size and duration of a training, of `editing.training.estimate`.

    Attributes:
        steps: Total steps.
        trained: Number of trained parameters.
        memory: Bytes of the float32 copies, their gradients, the optimizer state and the moving
            average. The model itself and its activations are not included.
        seconds_per_step: Measured duration of the forward and backward passes of a step.
    """

    steps: int
    trained: int
    memory: int
    seconds_per_step: float


@dataclass(frozen=True)
class Started:
    """The event before the first step.

    Attributes:
        done: Steps completed in the checkpoint.
        steps: Total steps.
    """

    done: int
    steps: int


@dataclass(frozen=True)
class Stepped:
    """The event after each step.

    Attributes:
        done: Completed steps, including this one.
        steps: Total steps.
        loss: Mean loss over the samples.
        parts: Mean of each part of the loss.
        gradient: Norm of the gradient before clipping.
        rate: Learning rate of the tensors without a group.
        seconds: Duration of the step.
    """

    done: int
    steps: int
    loss: float
    parts: Mapping[str, float]
    gradient: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class Skipped:
    """The event after a step that changed no weight, because its gradients were not finite.

    It happens with dynamic loss scaling only, and precedes the `Stepped` of the step.

    Attributes:
        done: Completed steps, including this one.
        skipped: Number of steps skipped so far.
        scale: Reduced loss scale of the next step.
    """

    done: int
    skipped: int
    scale: float


@dataclass(frozen=True)
class Saved:
    """The event after each checkpoint.

    Attributes:
        done: Completed steps in the checkpoint.
        path: Path of the checkpoint.
    """

    done: int
    path: Path


@dataclass(frozen=True)
class Sampled:
    """The event after sample images were drawn, of an observer.

    Attributes:
        done: Completed steps.
        path: Image file with the grid of the samples.
    """

    done: int
    path: Path


@dataclass(frozen=True)
class Validated:
    """The event after the loss was measured on fixed samples, of an observer.

    Attributes:
        done: Completed steps.
        loss: Mean loss over the samples.
    """

    done: int
    loss: float


OnEvent = Callable[[Any], None]
"""Called with each event of a training, and with the events of a method.

It may raise to stop the training.
"""
