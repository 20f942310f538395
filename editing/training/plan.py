"""The hyperparameters of a training, checked when they are given."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from editing.training import schedules
from editing.training.optimizers import Name, option_names
from editing.training.schedules import Schedule, rate_at
from visdiff.errors import InputError

LossScale = Literal["none", "dynamic"]


@dataclass(frozen=True)
class Group:
    """A learning rate of their own for some tensors.

    Attributes:
        prefix: How the names of the tensors begin. The longest prefix that matches a name counts.
        lr: Peak learning rate; it follows the schedule of the plan.
        weight_decay: Weight decay; None for that of the plan.
    """

    prefix: str
    lr: float
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise InputError(
                f"Expected a weight decay of zero or more for {self.prefix!r}, got "
                f"{self.weight_decay}; raise it."
            )


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of a training run.

    Attributes:
        steps: Total steps, including those of earlier calls with the same checkpoint.
        lr: Peak learning rate. For Prodigy, a factor of the rate that it finds, usually 1.
        batch: Samples per step.
        micro_batch: Largest number of samples per forward pass; affects memory only.
        optimizer: Adam; AdamW with decoupled weight decay, also with 8-bit moments; SGD; Prodigy.
        weight_decay: Weight decay of the optimizer.
        schedule: Learning rate after the warm-up.
        warmup: Steps of linear warm-up.
        clip: Maximum norm of the gradient; None for no limit.
        seed: Seed of all randomness.
        save_every: Steps between checkpoints.
        groups: Tensors with learning rates of their own.
        optimizer_options: Further arguments of the optimizer, such as betas, eps or momentum.
        schedule_options: ``power`` of the polynomial, or ``num_cycles`` of the cosine with
            restarts.
        ema: Decay of an exponential moving average of the weights, which is then the result; None
            for the weights themselves. The decay of step s is at most (1 + s) / (10 + s).
        loss_scale: "dynamic" scales the loss so that gradients do not underflow in float16, and
            skips the steps in which they overflow.

    Raises:
        InputError: A value is out of range, or a name is unknown.
    """

    steps: int
    lr: float
    batch: int = 1
    micro_batch: int = 1
    optimizer: Name = "adam"
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: int = 0
    clip: float | None = None
    seed: int = 0
    save_every: int = 100
    groups: tuple[Group, ...] = ()
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    ema: float | None = None
    loss_scale: LossScale = "none"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"Expected {name} of 1 or more, got {getattr(self, name)}; raise it."
                )
        _check_name("optimizer", self.optimizer, get_args(Name))
        _check_name("schedule", self.schedule, get_args(Schedule))
        _check_name("loss_scale", self.loss_scale, get_args(LossScale))
        _check_options(self.optimizer, self.optimizer_options, option_names(self.optimizer))
        _check_options(self.schedule, self.schedule_options, schedules.OPTIONS[self.schedule])
        for name, value in self.schedule_options.items():
            if not isinstance(value, int | float):
                raise InputError(
                    f"Expected a number for {name} of {self.schedule}, got {value!r}; correct it."
                )
        _check_rate(self.lr)
        if self.seed < 0 or self.warmup < 0 or self.weight_decay < 0:
            raise InputError(
                "Expected a seed, a warm-up and a weight decay of zero or more, got "
                f"{self.seed}, {self.warmup} and {self.weight_decay}; correct the negative one."
            )
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"Expected a clip above zero, got {self.clip}; leave it out for none.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(
                f"Expected an ema between 0 and 1, got {self.ema}; use 0.999 or the like, or leave "
                "it out."
            )
        # Prodigy estimates one step size for all tensors.
        if self.optimizer == "prodigy" and any(group.lr != self.lr for group in self.groups):
            raise InputError(
                f"Expected one learning rate for prodigy, got {self.lr} and groups with another; "
                "give the groups the same, or choose adamw."
            )
        self.rate(0)

    def rate(self, step: int, peak: float | None = None) -> float:
        """Returns the learning rate of a step.

        Args:
            step: Number of the step, from 0.
            peak: Peak learning rate of a group; None for ``lr``.
        """
        return rate_at(
            step,
            peak=self.lr if peak is None else peak,
            lr=self.lr,
            schedule=self.schedule,
            steps=self.steps,
            warmup=self.warmup,
            options=self.schedule_options,
        )

    def group_of(self, name: str) -> Group:
        """Returns the learning rate and weight decay of a tensor."""
        own = [group for group in self.groups if name.startswith(group.prefix)]
        return max(own, key=lambda group: len(group.prefix), default=Group("", self.lr))

    def identity(self) -> dict[str, Any]:
        """Returns the settings that must match between two calls that share a checkpoint."""
        free = {"micro_batch", "save_every"}
        if self.schedule == "constant":
            free.add("steps")
        settings = {name: value for name, value in asdict(self).items() if name not in free}
        # As JSON returns them: tuples are lists there.
        return json.loads(json.dumps(settings))


def _check_rate(lr: float) -> None:
    if not 0 < lr < math.inf:
        raise InputError(f"Expected a learning rate above zero, got {lr!r}; raise lr.")


def _check_name(setting: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(
            f"Expected {setting} to be one of {', '.join(known)}, got {name!r}"
            f"{_hint(name, known)}; choose one of these."
        )


def _check_options(owner: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            raise InputError(
                f"Expected options of {owner} among {', '.join(known) or 'none'}, got {name!r}"
                f"{_hint(name, known)}; correct or remove it."
            )


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
