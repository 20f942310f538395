"""The size and duration of a training, before it starts."""

import math
import time

import torch

from editing.training.events import Estimate
from editing.training.gradients import Substituted, forward_backward
from editing.training.losses import Loss, Weights, generator
from editing.training.observers import undisturbed
from editing.training.optimizers import state_bytes
from editing.training.plan import Plan
from editing.training.processes import Processes


def estimate(
    weights: Weights, loss: Loss, plan: Plan, *, substituted: Substituted | None = None
) -> Estimate:
    """Returns the size of a training, and its duration by a trial.

    The trial is the forward and backward pass of one micro-batch, done twice, with samples that the
    training never draws. It changes neither the weights nor the result of a training.

    Args:
        weights: As for `editing.training.train`.
        loss: As for `editing.training.train`.
        plan: Hyperparameters.
        substituted: As for `editing.training.train`.

    Raises:
        InputError: There is nothing to train, or the loss does not depend on the weights.
    """
    trained = sum(value.numel() for value in weights.values())
    per_parameter = 8 + state_bytes(plan.optimizer, plan.optimizer_options)
    if plan.ema is not None:
        per_parameter += 4
    share = len(Processes().share(plan.batch))
    samples = min(plan.micro_batch, max(1, share))
    return Estimate(
        steps=plan.steps,
        trained=trained,
        memory=trained * per_parameter,
        seconds_per_step=_trial(weights, loss, plan, samples, substituted)
        * math.ceil(share / samples),
    )


def _trial(
    weights: Weights, loss: Loss, plan: Plan, samples: int, substituted: Substituted | None
) -> float:
    """Returns the duration of one micro-batch, in seconds."""
    copies = {
        name: value.detach().to(torch.float32, copy=True).requires_grad_()
        for name, value in weights.items()
    }
    device = next(iter(copies.values())).device
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    seconds = 0.0
    with undisturbed(copies), torch.enable_grad():
        # The first pass also loads kernels.
        for _ in range(2):
            # Those of training have two further integers, so these samples differ.
            generators = [generator(plan.seed, 0, 0, i) for i in range(samples)]
            _wait(device)
            started = time.perf_counter()
            forward_backward(copies, loss, plan, generators, scaler, substituted)
            _wait(device)
            seconds = time.perf_counter() - started
    torch.clear_autocast_cache()
    return seconds


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
