"""The gradient of a step's mean loss, accumulated over micro-batches and processes."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from editing.training.losses import (
    Loss,
    Losses,
    Tensor,
    Weights,
    generator,
)
from editing.training.plan import Plan
from editing.training.processes import Processes
from visdiff.errors import InputError

Substituted = Callable[[Weights], AbstractContextManager[Any]]
"""(Trained weights) → a context in which the model uses them."""


def accumulate(
    weights: Weights,
    loss: Loss,
    plan: Plan,
    step: int,
    processes: Processes,
    scaler: torch.amp.GradScaler,
    substituted: Substituted | None,
) -> dict[str, float]:
    """Adds the gradient of a step's mean loss to ``grad`` of the weights.

    A tensor that the loss does not read keeps None.

    Args:
        weights: Leaf tensors without a gradient.
        loss: The loss.
        plan: Hyperparameters.
        step: Number of the step, from 0.
        processes: The processes that share the batch.
        scaler: Scale of the loss, by which the gradients are multiplied.
        substituted: Context of the forward and backward pass of each micro-batch.

    Returns:
        The mean of the loss ("") and of each of its parts.
    """
    found: list[Losses] = []
    own = processes.share(plan.batch)
    for start in range(0, len(own), plan.micro_batch):
        micro_batch = own[start : start + plan.micro_batch]
        generators = [generator(plan.seed, step, i) for i in micro_batch]
        found.append(forward_backward(weights, loss, plan, generators, scaler, substituted))
    means = {"": 0.0}
    # Read after the last backward pass: on a GPU each read waits for all that is queued.
    for losses in found:
        means[""] += float(losses.total)
        for name, values in losses.parts.items():
            means[name] = means.get(name, 0.0) + float(values) / plan.batch
    return processes.sum_all(list(weights.values()), means)


def forward_backward(
    weights: Weights,
    loss: Loss,
    plan: Plan,
    generators: Sequence[torch.Generator],
    scaler: torch.amp.GradScaler,
    substituted: Substituted | None,
) -> Losses:
    """Adds the gradient of one micro-batch, and returns its loss and the sums of the parts.

    The returned total is divided by the batch size, and has no graph.

    Raises:
        InputError: The loss reads none of the weights.
    """
    tensors = list(weights.values())
    context = nullcontext() if substituted is None else substituted(weights)
    # Gradient checkpointing runs the model again in the backward pass.
    with context:
        found = loss(weights, generators)
        total = found.total.sum() / plan.batch
        if not total.requires_grad:
            raise InputError(
                "Expected a loss that depends on the trained weights, got one that reads none of "
                f"them ({next(iter(weights))!r} and others); train the tensors that it uses."
            )
        torch.autograd.backward(scaler.scale(total), inputs=tensors)
    parts = {name: values.detach().sum() for name, values in found.parts.items()}
    return Losses(total.detach(), parts)


def norm_of(gradients: Sequence[Tensor]) -> float:
    """Returns the Euclidean norm of all gradients together."""
    # Not `torch._foreach_norm`: on GPUs it may round differently.
    norms = [torch.linalg.vector_norm(g) for g in gradients]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def check_finite(weights: Weights, means: Mapping[str, float], norm: float, step: int) -> None:
    """Checks the loss and the gradients of a step.

    Raises:
        InputError: One of them is not finite.
    """
    if not math.isfinite(means[""]):
        raise InputError(
            f"Expected a finite loss, got {means['']} at step {step + 1}; lower the learning "
            "rate, or load the pipeline in float32."
        )
    if not math.isfinite(norm):
        names = [
            name
            for name, tensor in weights.items()
            if tensor.grad is not None and not tensor.grad.isfinite().all()
        ]
        raise InputError(
            f"Expected finite gradients, got a norm of {norm} at step {step + 1} "
            f"({len(names)} tensors, first {names[0] if names else 'none'}); lower the learning "
            "rate, load the pipeline in float32, or set loss_scale to dynamic for float16."
        )
