"""The training loop of all gradient methods: Adam on float32 copies of selected weights.

The caller chooses the weights and the loss. The loop guarantees the following for any of them.

- The given tensors are not modified. Float32 copies are trained, because an update of Adam is often
  too small to be added to a bfloat16 weight.
- Sample i of step s depends on ``(seed, s, i)`` only. Splitting a batch into micro-batches or among
  processes changes the result by rounding at most. A resumed run is bitwise identical to an
  uninterrupted one.
- The loop does not print or log; progress is reported to a callback.

Kingma and Ba, "Adam" (ICLR 2015), arXiv:1412.6980; decoupled decay: Loshchilov and Hutter (ICLR
2019), arXiv:1711.05101.
"""

import difflib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from editing.training.state import restore, save
from visdiff.errors import InputError

Tensor = torch.Tensor
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of a training run.

    Attributes:
        steps: Total steps, including those of earlier calls with the same checkpoint.
        lr: Peak learning rate.
        batch: Samples per step.
        micro_batch: Largest number of samples per forward pass; affects memory only.
        optimizer: Adam, or AdamW with decoupled weight decay.
        weight_decay: Weight decay of the optimizer.
        schedule: Learning rate after the warm-up: constant, or a half cosine down to zero.
        warmup: Steps of linear warm-up.
        clip: Maximum norm of the gradient; None for no limit.
        seed: Seed of all randomness.
        save_every: Steps between checkpoints.
    """

    steps: int
    lr: float
    batch: int = 1
    micro_batch: int = 1
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    clip: float | None = None
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"Expected {name} of 1 or more, got {getattr(self, name)}; raise it."
                )
        _check_name("optimizer", self.optimizer, ("adam", "adamw"))
        _check_name("schedule", self.schedule, ("constant", "cosine"))
        if not 0 < self.lr < math.inf:
            raise InputError(f"Expected a learning rate above zero, got {self.lr!r}; raise lr.")
        if self.seed < 0 or self.warmup < 0 or self.weight_decay < 0:
            raise InputError(
                "Expected a seed, a warm-up and a weight decay of zero or more, got "
                f"{self.seed}, {self.warmup} and {self.weight_decay}; correct the negative one."
            )

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        # diffusers' `get_scheduler` would change results: its warm-up starts at rate 0 and reaches
        # the peak after ``warmup`` steps; this one starts at lr / (warmup + 1).
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return self.lr * warm
        share = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * warm * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True, eq=False)
class Losses:
    """Loss values of n samples.

    Attributes:
        total: Loss of each sample, which is minimised, shape (n,).
        parts: Named parts of the loss, shape (n,) each.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


Loss = Callable[[Weights, Sequence[torch.Generator]], Losses]
"""(Trained weights by name, a CPU generator per sample) → losses.

The generators are the only source of randomness.
"""


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
        rate: Learning rate.
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
class Saved:
    """The event after each checkpoint.

    Attributes:
        done: Completed steps in the checkpoint.
        path: Path of the checkpoint.
    """

    done: int
    path: Path


OnEvent = Callable[[Any], None]
"""Called with each `Cost`, `Started`, `Stepped` and `Saved`, and with the events of a method.

It may raise to stop the training.
"""


def _check_name(setting: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"Expected {setting} to be one of {', '.join(known)}, got {name!r}{hint}; choose one "
            "of these."
        )


def generator(seed: int, *key: int) -> torch.Generator:
    """Returns a CPU generator that is determined by a seed and further integers, all ≥ 0."""
    # As entropy instead of a spawn key, (1, 2) and (1, 2, 0) would give the same state.
    (state,) = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(state >> 2))


def train(
    weights: Weights,
    loss: Loss,
    plan: Plan,
    *,
    on_event: OnEvent | None = None,
    checkpoint: Path | None = None,
    about: str = "",
) -> dict[str, Tensor]:
    """Trains copies of weights.

    Args:
        weights: Name → initial value, of any floating dtype, all on one device.
        loss: Loss to minimise; it receives float32 tensors.
        plan: Hyperparameters.
        on_event: Called with each event.
        checkpoint: Safetensors file of the state, written atomically every ``plan.save_every``
            steps and at the end. If it exists, training resumes from it, with the same bits as
            without an interruption.
        about: Anything else that must match for resuming (a hash of the base and the settings).

    Returns:
        Name → trained weights, float32.

    Raises:
        InputError: There is nothing to train, the checkpoint belongs to another run or has more
            steps, or the loss is not finite.
    """
    if not weights:
        raise InputError("Expected at least one tensor to train, got none; add weights.")
    report: OnEvent = on_event or (lambda event: None)
    masters = {
        name: value.detach().to(torch.float32, copy=True).requires_grad_()
        for name, value in weights.items()
    }
    tensors = list(masters.values())
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    optimizer = kind(tensors, lr=plan.lr, weight_decay=plan.weight_decay)
    done = 0
    if checkpoint is not None and checkpoint.is_file():
        done = restore(checkpoint, masters, optimizer, _identity(plan, about))
        if done > plan.steps:
            raise InputError(
                f"Expected a checkpoint of at most {plan.steps} steps, got {checkpoint} with "
                f"{done}; train for more steps, or name another file."
            )
    processes = _Processes()
    report(Started(done, plan.steps))
    for step in range(done, plan.steps):
        started = time.perf_counter()
        gradients, means = _gradients(masters, loss, plan, step, processes)
        if not math.isfinite(means[""]):
            raise InputError(
                f"Expected a finite loss, got {means['']} at step {step + 1}; lower the learning "
                "rate, or load the pipeline in float32."
            )
        norm = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))
        # `clip_grad_norm_` would change results: it divides by norm + 1e-6.
        factor = 1.0 if plan.clip is None else min(1.0, plan.clip / max(norm, 1e-12))
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient if factor == 1.0 else gradient * factor
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Under the caller's autocast, cached casts of the old weights would outlive this step.
        torch.clear_autocast_cache()
        parts = {name: mean for name, mean in means.items() if name}
        seconds = time.perf_counter() - started
        total = means[""]
        report(Stepped(step + 1, plan.steps, total, parts, norm, plan.rate(step), seconds))
        due = (step + 1) % plan.save_every == 0 or step + 1 == plan.steps
        if checkpoint is not None and due:
            if processes.first:
                save(checkpoint, masters, optimizer, _identity(plan, about), step + 1)
            report(Saved(step + 1, checkpoint))
    return {name: value.detach() for name, value in masters.items()}


def mean_losses(
    weights: Weights, loss: Loss, seed: int, samples: int, at_once: int = 1
) -> dict[str, float]:
    """Returns the mean of each part of a loss on samples that training never draws.

    Args:
        weights: Weights to evaluate.
        loss: The loss; its total is not used.
        seed: Seed of the training; the same seed gives the same samples.
        samples: Number of samples.
        at_once: Largest number of samples per call of the loss.

    Returns:
        Name of the part → mean.
    """
    found: dict[str, list[Tensor]] = {}
    # The generators of training have two further integers, so these samples differ.
    generators = [generator(seed, i) for i in range(samples)]
    with torch.no_grad():
        for start in range(0, samples, at_once):
            for name, values in loss(weights, generators[start : start + at_once]).parts.items():
                found.setdefault(name, []).append(values.double().cpu())
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def _gradients(
    masters: Weights, loss: Loss, plan: Plan, step: int, processes: "_Processes"
) -> tuple[list[Tensor], dict[str, float]]:
    """Returns the gradient of a step's mean loss, and the means of the loss ("") and its parts."""
    tensors = list(masters.values())
    gradients = [torch.zeros_like(t) for t in tensors]
    sums: dict[str, float] = {"": 0.0}
    own = processes.share(plan.batch)
    with _attention_kernel(tensors[0].device):
        for start in range(0, len(own), plan.micro_batch):
            micro_batch = own[start : start + plan.micro_batch]
            found = loss(masters, [generator(plan.seed, step, i) for i in micro_batch])
            total = found.total.sum() / plan.batch
            pieces = torch.autograd.grad(total, tensors, allow_unused=True)
            for gradient, piece in zip(gradients, pieces, strict=True):
                if piece is not None:
                    gradient += piece
            sums[""] += float(total.detach())
            for name, values in found.parts.items():
                sums[name] = sums.get(name, 0.0) + float(values.detach().sum()) / plan.batch
    return processes.sum_all(gradients, sums)


class _Processes:
    """The processes that share the samples of each step; one, unless accelerate launched more."""

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState()
        self.first = state.is_main_process
        self._count, self._index = state.num_processes, state.process_index

    def share(self, samples: int) -> list[int]:
        return list(range(self._index, samples, self._count))

    def sum_all(
        self, gradients: list[Tensor], sums: dict[str, float]
    ) -> tuple[list[Tensor], dict[str, float]]:
        if self._count == 1:
            return gradients, sums
        from accelerate.utils import gather_object, reduce

        reduced: Any = [reduce(g, "sum") for g in gradients]
        each = gather_object([sums])
        names = dict.fromkeys(name for one in each for name in one)
        return reduced, {name: sum(one.get(name, 0.0) for one in each) for name in names}


def _attention_kernel(device: torch.device) -> AbstractContextManager[Any]:
    # On CPUs the backward pass of fused attention takes as long as the rest of a step (torch 2.13).
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _identity(plan: Plan, about: str) -> dict[str, Any]:
    """Returns the settings that must match between two calls that share a checkpoint."""
    free = {"micro_batch", "save_every"} | ({"steps"} if plan.schedule == "constant" else set())
    return {"about": about} | {n: v for n, v in asdict(plan).items() if n not in free}
