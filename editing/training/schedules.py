"""Learning-rate schedules as pure functions of the step, so that no state has to be resumed."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from visdiff.errors import InputError

Schedule = Literal["constant", "cosine", "linear", "polynomial", "cosine-with-restarts"]
"""The learning rate after the warm-up: constant; a half cosine, a line or a power of the remaining
share of the steps, down to zero; or several half cosines in a row."""

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": (),
    "linear": (),
    "polynomial": ("power",),
    "cosine-with-restarts": ("num_cycles",),
}
"""Schedule → names of its options, which are those of `diffusers.optimization.get_scheduler`."""


def rate_at(
    step: int,
    *,
    peak: float,
    lr: float,
    schedule: Schedule,
    steps: int,
    warmup: int,
    options: Mapping[str, Any],
) -> float:
    """Returns the learning rate of a step.

    Args:
        step: Number of the step, from 0.
        peak: Learning rate after the warm-up.
        lr: Peak rate of the tensors without a group. All rates are the same share of their peak;
            the polynomial ends where this one is 1e-7.
        schedule: Name of the schedule.
        steps: Total steps.
        warmup: Steps of linear warm-up.
        options: Options of the schedule.

    Raises:
        InputError: An option is out of range.
    """
    # The warm-up of diffusers starts at rate 0 and reaches the peak after ``warmup`` steps, so that
    # the first step does nothing; this one starts at peak / (warmup + 1).
    warm = min(1.0, (step + 1) / (warmup + 1))
    if schedule == "constant":
        return peak * warm
    if schedule == "cosine":
        share = max(0, step - warmup) / max(1, steps - warmup)
        return peak * warm * (1 + math.cos(math.pi * share)) / 2
    decay = _decay(schedule, lr, steps, warmup, tuple(sorted(options.items())))
    return peak * warm * decay(max(step, warmup))


@lru_cache(maxsize=32)
def _decay(
    schedule: str, lr: float, steps: int, warmup: int, options: tuple[tuple[str, Any], ...]
) -> Any:
    """Returns the function step ≥ warmup → share of the peak rate, as diffusers defines it."""
    import torch

    from visdiff.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    try:
        found = get_scheduler(
            schedule.replace("-", "_"),
            optimizer,
            num_warmup_steps=warmup,
            # Otherwise a warm-up that is longer than the training would have the rate 0.
            num_training_steps=max(steps, warmup + 1),
            **dict(options),
        )
        decay: Any = found.lr_lambdas[0]
        decay(warmup)
    except (ValueError, ArithmeticError) as error:
        raise InputError(
            f"Expected a rate that the schedule {schedule} can follow, got {lr} and "
            f"{dict(options)} ({error}); correct them."
        ) from error
    return decay
