"""The one training loop of every gradient method: Adam on float32 copies of chosen weights.

What is trained, and on which loss, is the caller's. The loop keeps its promises whatever that is:

- The tensors given are never written to. Copies of them in float32 are trained: an update of Adam
  is often smaller than bfloat16 can add to a weight.
- Sample i of step s is drawn from ``(seed, s, i)`` alone. How a step's samples are split, into
  pieces that fit the memory or among processes, does not change what is computed (beyond rounding);
  nor does stopping and going on, at all.
- It prints and logs nothing: who wants to know gives a callback.

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
    """How to train.

    Attributes:
        steps: Steps in all, those of earlier calls with the same checkpoint included.
        lr: Peak learning rate.
        batch: Samples a step.
        micro_batch: Most samples at once; more need more memory and change nothing else.
        optimizer: Adam, or AdamW, whose decay does not go through the moments.
        weight_decay: Of either.
        schedule: The learning rate after the warm-up: constant, or down to zero along a half
            cosine.
        warmup: Steps in which the rate rises linearly.
        clip: Largest norm of a gradient; None for no limit.
        seed: Of all randomness.
        save_every: Steps between checkpoints, where one is kept.
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
                raise InputError(f"Expected {name} of 1 or more, got {getattr(self, name)}.")
        _check_name("optimizer", self.optimizer, ("adam", "adamw"))
        _check_name("schedule", self.schedule, ("constant", "cosine"))
        if not 0 < self.lr < math.inf:
            raise InputError(f"Expected a learning rate above zero, got {self.lr!r}.")
        if self.seed < 0 or self.warmup < 0 or self.weight_decay < 0:
            raise InputError(
                "Expected a seed, a warm-up and a weight decay of zero or more, got "
                f"{self.seed}, {self.warmup} and {self.weight_decay}."
            )

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, the first of which is 0."""
        # Not diffusers' `get_scheduler`: its warm-up starts at rate 0 and reaches the peak after
        # ``warmup`` steps; this one starts at lr / (warmup + 1), so trained numbers would differ.
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return self.lr * warm
        share = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * warm * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True, eq=False)
class Losses:
    """What a loss found for n samples.

    Attributes:
        total: What is minimised, of each sample, shape (n,).
        parts: What it is made of, by name, shape (n,) each.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


Loss = Callable[[Weights, Sequence[torch.Generator]], Losses]
"""(Trained weights by name, a CPU generator a sample) → losses: all randomness is the generators'.
"""


@dataclass(frozen=True)
class Cost:
    """Told before anything is computed: what a fit will take.

    Attributes:
        steps: Gradient steps.
        trained: Numbers that are trained.
        drawing: Predictions of the denoiser for the trajectories, when none is kept from before.
        forward: Predictions of the denoiser while training.
        backward: How many of those a gradient goes back through; each costs about two more.
    """

    steps: int
    trained: int
    drawing: int
    forward: int
    backward: int


@dataclass(frozen=True)
class Started:
    """Told once, before the first step.

    Attributes:
        done: Steps that a checkpoint had.
        steps: Steps in all.
    """

    done: int
    steps: int


@dataclass(frozen=True)
class Stepped:
    """Told after each step.

    Attributes:
        done: Steps made, this one included.
        steps: Steps in all.
        loss: Mean over the samples.
        parts: The same of each part.
        gradient: Norm of the gradient, before it was clipped.
        rate: Learning rate.
        seconds: That the step took.
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
    """Told after each checkpoint.

    Attributes:
        done: Steps that it holds.
        path: Where.
    """

    done: int
    path: Path


Watch = Callable[[Any], None]
"""Told of `Cost`, `Started`, `Stepped`, `Saved`, and of what a method adds. May raise to stop."""


def _check_name(setting: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"Expected {setting} to be one of {', '.join(known)}, got {name!r}{hint}; choose one "
            "of these."
        )


def generator(seed: int, *key: int) -> torch.Generator:
    """Makes a CPU generator that a seed and a few more numbers, all ≥ 0, name."""
    # As one list, (1, 2) and (1, 2, 0) would be the same seed.
    (state,) = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(state >> 2))


def train(
    weights: Weights,
    loss: Loss,
    plan: Plan,
    *,
    watch: Watch | None = None,
    checkpoint: Path | None = None,
    about: str = "",
) -> dict[str, Tensor]:
    """Trains copies of weights.

    Args:
        weights: Name → where to start, of any floating dtype, on any one device.
        loss: What to minimise. It is given float32 tensors.
        plan: How.
        watch: Told of each event.
        checkpoint: A safetensors file with the state, written whole or not at all, every
            ``plan.save_every`` steps and at the end. Where it exists, training goes on from it:
            N steps, or N/2, a new process, and the rest, end in the same bits.
        about: What else must be the same for that (a hash of the base and the settings).

    Returns:
        Name → trained weights, float32.

    Raises:
        InputError: Nothing to train; the checkpoint is of another run, or further; or the loss is
            not finite.
    """
    if not weights:
        raise InputError("Expected at least one tensor to train, got none.")
    tell: Watch = watch or (lambda event: None)
    masters = {
        name: value.detach().to(torch.float32, copy=True).requires_grad_()
        for name, value in weights.items()
    }
    tensors = list(masters.values())
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    optimizer = kind(tensors, lr=plan.lr, weight_decay=plan.weight_decay)
    done = 0
    if checkpoint is not None and checkpoint.is_file():
        done = restore(checkpoint, masters, optimizer, _same(plan, about))
        if done > plan.steps:
            raise InputError(
                f"Expected a state of at most {plan.steps} steps, got {checkpoint} with {done}; "
                "ask for more steps, or name another file."
            )
    group = _Group()
    tell(Started(done, plan.steps))
    for step in range(done, plan.steps):
        begun = time.perf_counter()
        gradients, means = _gradients(masters, loss, plan, step, group)
        if not math.isfinite(means[""]):
            raise InputError(
                f"Expected a finite loss, got {means['']} at step {step + 1}; lower the learning "
                "rate, or load the pipeline in float32."
            )
        norm = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))
        # Not `clip_grad_norm_`: it divides by norm + 1e-6, so trained numbers would differ.
        factor = 1.0 if plan.clip is None else min(1.0, plan.clip / max(norm, 1e-12))
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient if factor == 1.0 else gradient * factor
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Inside the caller's autocast, cast copies of the weights would outlive this step.
        torch.clear_autocast_cache()
        parts = {name: mean for name, mean in means.items() if name}
        seconds = time.perf_counter() - begun
        total = means[""]
        tell(Stepped(step + 1, plan.steps, total, parts, norm, plan.rate(step), seconds))
        due = (step + 1) % plan.save_every == 0 or step + 1 == plan.steps
        if checkpoint is not None and due:
            if group.first:
                save(checkpoint, masters, optimizer, _same(plan, about), step + 1)
            tell(Saved(step + 1, checkpoint))
    return {name: value.detach() for name, value in masters.items()}


def mean_losses(
    weights: Weights, loss: Loss, seed: int, samples: int, at_once: int = 1
) -> dict[str, float]:
    """Measures the parts of a loss on samples that training never draws.

    Args:
        weights: To measure.
        loss: The loss; its total is left out.
        seed: Of the training; the same seed gives the same samples.
        samples: How many.
        at_once: Most of them at once.

    Returns:
        Part → mean.
    """
    found: dict[str, list[Tensor]] = {}
    # Training's samples are named by two more numbers than the seed, not one.
    generators = [generator(seed, i) for i in range(samples)]
    with torch.no_grad():
        for start in range(0, samples, at_once):
            for name, values in loss(weights, generators[start : start + at_once]).parts.items():
                found.setdefault(name, []).append(values.double().cpu())
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def _gradients(
    masters: Weights, loss: Loss, plan: Plan, step: int, group: "_Group"
) -> tuple[list[Tensor], dict[str, float]]:
    """Returns the gradient of the mean loss of a step's samples, and means; "" is the loss's."""
    tensors = list(masters.values())
    gradients = [torch.zeros_like(t) for t in tensors]
    sums: dict[str, float] = {"": 0.0}
    own = group.share(plan.batch)
    with _attention(tensors[0].device):
        for start in range(0, len(own), plan.micro_batch):
            some = own[start : start + plan.micro_batch]
            found = loss(masters, [generator(plan.seed, step, i) for i in some])
            total = found.total.sum() / plan.batch
            pieces = torch.autograd.grad(total, tensors, allow_unused=True)
            for gradient, piece in zip(gradients, pieces, strict=True):
                if piece is not None:
                    gradient += piece
            sums[""] += float(total.detach())
            for name, values in found.parts.items():
                sums[name] = sums.get(name, 0.0) + float(values.detach().sum()) / plan.batch
    return group.summed(gradients, sums)


class _Group:
    """The processes that share each step's samples; one, unless accelerate launched more."""

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState()
        self.first = state.is_main_process
        self._count, self._index = state.num_processes, state.process_index

    def share(self, samples: int) -> list[int]:
        return list(range(self._index, samples, self._count))

    def summed(
        self, gradients: list[Tensor], sums: dict[str, float]
    ) -> tuple[list[Tensor], dict[str, float]]:
        if self._count == 1:
            return gradients, sums
        from accelerate.utils import gather_object, reduce

        both: Any = [reduce(g, "sum") for g in gradients]
        each = gather_object([sums])
        names = dict.fromkeys(name for one in each for name in one)
        return both, {name: sum(one.get(name, 0.0) for one in each) for name in names}


def _attention(device: torch.device) -> AbstractContextManager[Any]:
    # On CPUs the backward pass of fused attention takes as long as all the rest (torch 2.13).
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _same(plan: Plan, about: str) -> dict[str, Any]:
    """Returns what must not change between two calls that share a checkpoint."""
    free = {"micro_batch", "save_every"} | ({"steps"} if plan.schedule == "constant" else set())
    return {"about": about} | {n: v for n, v in asdict(plan).items() if n not in free}
