"""The miniature's training loop: AdamW and Muon, one-cycle schedule, bf16 autocast, resumable."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from visdiff.files import write_whole
from visdiff.torchvision_compat import ensure_torchvision

logger = logging.getLogger(__name__)

#: ``step(i, rng, generator) → loss``: everything random in step i comes from these two.
Step = Callable[[int, np.random.Generator, torch.Generator], torch.Tensor]


def fit(
    model: nn.Module,
    step: Step,
    *,
    steps: int,
    lr: float,
    checkpoint: Path,
    seed: int,
    ema_decay: float | None = None,
    weight_decay: float = 0.01,
    matrices: Sequence[nn.Parameter] = (),
    save_every: int = 100,
) -> nn.Module | None:
    """Trains a model in place; a killed run resumes at its checkpoint with the same result.

    Args:
        model: Model to train, on its current device.
        step: Computes one loss. Its random numbers depend on ``(seed, i)`` only, so that a resumed
            run equals an uninterrupted one.
        steps: Total number of steps, the length of the schedule.
        lr: Peak learning rate of the one-cycle schedule.
        checkpoint: File of the training state, written atomically.
        seed: Seed of all randomness.
        ema_decay: Decay of an exponential moving average of the weights; None for no average.
        weight_decay: Weight decay of both optimizers.
        matrices: Parameters that Muon updates, at twice the learning rate; AdamW updates the
            others. See `inner_weights`.
        save_every: Steps between checkpoints.

    Returns:
        The averaged model if ``ema_decay`` is given, otherwise None.

    Raises:
        RuntimeError: In the first step, all gradients of some weight are zero.
    """
    device = next(model.parameters()).device
    trainable = [p for p in model.parameters() if p.requires_grad]
    by_muon = {id(p) for p in matrices}
    others = [p for p in trainable if id(p) not in by_muon]
    adamw = torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98))
    optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": adamw}
    if matrices:
        optimizers["muon"] = muon(matrices, lr=2 * lr, weight_decay=weight_decay)
    schedules = {
        f"{name} schedule": torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=optimizer.defaults["lr"], total_steps=steps, pct_start=0.08
        )
        for name, optimizer in optimizers.items()
    }
    average = (
        torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=_warmed_up_average(ema_decay))
        if ema_decay
        else None
    )
    parts: dict[str, Any] = {"model": model, **optimizers, **schedules}
    parts |= {"average": average} if average else {}
    done = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)  # noqa: TID251
        done = state.pop("done")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        logger.info("%s resumes at step %d", checkpoint.stem, done)
    model.train()
    smooth = None
    bar = tqdm(range(done, steps), desc=checkpoint.stem, initial=done, total=steps, mininterval=10)
    for i in bar:
        rng = np.random.default_rng([seed, i])
        generator = torch.Generator(device="cpu").manual_seed(int(rng.integers(2**62)))
        with _attention(device), torch.autocast(device.type, torch.bfloat16):
            loss = step(i, rng, generator)
        model.zero_grad(set_to_none=True)
        loss.backward()
        if i == done:
            _check_gradients(model)
        nn.utils.clip_grad_norm_(trainable, 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        for schedule in schedules.values():
            schedule.step()
        if average:
            average.update_parameters(model)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if (i + 1) % save_every == 0 or i + 1 == steps:
            state = {"done": i + 1} | {k: p.state_dict() for k, p in parts.items()}
            write_whole(checkpoint, partial(torch.save, state))
    model.eval()
    return average.module.eval() if average else None


def muon(matrices: Sequence[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Returns Muon (Jordan et al. 2024) for matrices, and kernels as (out, in × height × width).

    Args:
        matrices: Parameters with at least two dimensions.
        lr: Learning rate on AdamW's scale (Liu et al. 2025: times 0.2 √max(rows, columns)).
        weight_decay: Decoupled weight decay.
    """
    ensure_torchvision()
    from timm.optim import Muon

    optimizer = Muon(
        matrices,
        lr=lr,
        weight_decay=weight_decay,
        nesterov=True,
        ns_coefficients="original",
        adjust_lr_fn="match_rms_adamw",
        conv_mode="flatten",
    )
    # OneCycleLR would cycle Adam's betas, which Muon does not use, in place of the momentum.
    del optimizer.defaults["betas"]
    return optimizer


def inner_weights(model: nn.Module, *outer: str) -> list[nn.Parameter]:
    """Returns the matrices and kernels of a model without its first and last layers.

    Args:
        model: Any model.
        *outer: Prefixes of the names of layers whose input or output is data instead of channels.
            Muon's equal singular values do not suit them.
    """
    return [p for name, p in model.named_parameters() if p.ndim >= 2 and not name.startswith(outer)]


def _check_gradients(model: nn.Module) -> None:
    # torch.compile of torch 2.13 differentiates a UNet incorrectly on CPUs: the layers before its
    # up-sampling get zero gradients without an error, and images lack outlines.
    without_gradient = [
        name
        for name, p in model.named_parameters()
        if p.ndim >= 2 and p.grad is not None and not p.grad.any()
    ]
    if without_gradient:
        raise RuntimeError(
            f"Expected every weight to have a gradient, got zeros in {len(without_gradient)} "
            f"({without_gradient[0]}, …); train without torch.compile."
        )


def _warmed_up_average(decay: float) -> Callable[..., None]:
    # Without the warm-up, the untrained weights would dominate the average for many steps.
    def update(averaged: Sequence[Any], current: Sequence[Any], number: Any) -> None:
        n = int(number)
        share = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averaged), list(current), share)

    return update


def _attention(device: torch.device) -> AbstractContextManager:
    # On CPUs the backward pass of fused attention doubles the time of a step (torch 2.13).
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
