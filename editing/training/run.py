"""The state of a run that changes from step to step: weights, optimizer, average and loss scale."""

from collections.abc import Mapping
from typing import Any

import torch

from editing.training.averages import Average
from editing.training.gradients import check_finite, norm_of
from editing.training.losses import Tensor, Weights
from editing.training.optimizers import make_optimizer
from editing.training.plan import Plan
from visdiff.errors import InputError

_LEAST_SCALE = 1e-4
"""Loss scale below which gradients overflow for another reason than the scale, as in fairseq."""


class Run:
    """Float32 copies of weights, and all that is needed to train them further.

    Attributes:
        weights: Name → copy, a leaf tensor.
        average: Their moving average.
        scaler: Scale of the loss.
        skipped: Number of skipped steps.

    Args:
        weights: Name → initial value.
        plan: Hyperparameters.

    Raises:
        InputError: A group has no tensors, or the optimizer cannot be made.
    """

    def __init__(self, weights: Weights, plan: Plan) -> None:
        self.weights: dict[str, Tensor] = {
            name: value.detach().to(torch.float32, copy=True).requires_grad_()
            for name, value in weights.items()
        }
        self.average = Average(self.weights, plan.ema)
        self.skipped = 0
        self._plan = plan
        self._tensors = list(self.weights.values())
        self.scaler = _loss_scaler(plan, self._tensors[0])
        groups = _groups(plan, self.weights)
        self._peaks = [group["lr"] for group in groups]
        # The optimizer numbers the tensors in this order.
        self._names = [name for group in groups for name in group.pop("names")]
        self._optimizer = make_optimizer(plan.optimizer, groups, plan.optimizer_options)

    def update(self, step: int, means: Mapping[str, float]) -> tuple[float, bool]:
        """Changes the weights by their gradients, and removes these.

        Args:
            step: Number of the step, from 0.
            means: Mean of the loss ("") and of its parts.

        Returns:
            The norm of the gradient before clipping, and whether the step was skipped.

        Raises:
            InputError: The loss or a gradient is not finite, and not due to the loss scale.
        """
        plan, scale = self._plan, self.scaler.get_scale()
        self.scaler.unscale_(self._optimizer)
        gradients = [t.grad for t in self._tensors if t.grad is not None]
        norm = norm_of(gradients)
        if not self.scaler.is_enabled():
            check_finite(self.weights, means, norm, step)
        # `clip_grad_norm_` would change results: it divides by norm + 1e-6.
        factor = 1.0 if plan.clip is None else min(1.0, plan.clip / max(norm, 1e-12))
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = plan.rate(step, peak)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        # Under the caller's autocast, cached casts of the old weights would outlive this step.
        torch.clear_autocast_cache()
        if self.scaler.get_scale() >= scale:
            self.average.update()
            return norm, False
        self.skipped += 1
        if self.scaler.get_scale() < _LEAST_SCALE:
            raise InputError(
                f"Expected finite gradients at some loss scale, got none down to {scale:g} at step "
                f"{step + 1}; lower the learning rate, or load the pipeline in float32 or bfloat16."
            )
        return norm, True

    def state(self) -> dict[str, Any]:
        """Returns all state but the weights, as tensors and numbers."""
        found = self._optimizer.state_dict()
        return {
            "optimizer": {self._names[n]: state for n, state in found["state"].items()},
            "groups": [_without(group, "params") for group in found["param_groups"]],
            "average": self.average.state(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }

    def restore(self, weights: Weights, state: Mapping[str, Any]) -> None:
        """Restores weights and a state of `state`, on any device."""
        numbers = {name: number for number, name in enumerate(self._names)}
        current = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict(
            {
                "state": {numbers[name]: own for name, own in state["optimizer"].items()},
                "param_groups": [a | b for a, b in zip(current, state["groups"], strict=True)],
            }
        )
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(weights[name])
            self.average.restore(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]


def _groups(plan: Plan, weights: Weights) -> list[dict[str, Any]]:
    """Returns the parameter groups of the optimizer, with the names of their tensors."""
    names: dict[str, list[str]] = {"": [], **{group.prefix: [] for group in plan.groups}}
    own = {name: plan.group_of(name) for name in weights}
    for name, group in own.items():
        names[group.prefix].append(name)
    for group in plan.groups:
        if not names[group.prefix]:
            raise InputError(
                f"Expected tensors whose names begin with {group.prefix!r}, got none, but such as "
                f"{next(iter(weights))!r}; correct or remove the group."
            )
    groups = {group.prefix: group for group in own.values()}
    return [
        {
            "params": [weights[name] for name in names[prefix]],
            "names": names[prefix],
            "lr": group.lr,
            "weight_decay": plan.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for prefix, group in sorted(groups.items())
    ]


def _loss_scaler(plan: Plan, tensor: Tensor) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler(tensor.device.type, enabled=plan.loss_scale == "dynamic")
    # Makes the scale, also in a process without samples.
    scaler.scale(tensor.new_zeros(()))
    return scaler


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}
