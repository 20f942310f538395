"""Muon for every weight that maps channels to channels: matrices and convolution kernels."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

#: Coefficients of the quintic iteration (Jordan et al. 2024): steepest at zero.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), at AdamW's root mean square.

    ``torch.optim.Muon`` takes matrices alone. A convolution's kernel is a matrix too, (out,
    in × height × width), and in the miniature's models it is most of the weights.

    Args:
        params: Parameters with at least two dimensions.
        lr: Learning rate on AdamW's scale (Liu et al. 2025: times 0.2 √max(rows, columns)).
        weight_decay: Decoupled.
        momentum: Of the gradients, with Nesterov's look-ahead.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(state["momentum"], group["momentum"])
                matrix = ahead.reshape(len(ahead), -1)
                update = orthogonalised(matrix).to(p.dtype).reshape(p.shape)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The matrix with its singular values brought near one (0.7 to 1.2), bfloat16."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if tall else x


def inner_weights(model: nn.Module, *outer: str) -> list[nn.Parameter]:
    """The matrices and kernels of a model without its first and last layers.

    Args:
        model: Any model.
        *outer: How the names of the layers begin whose in- or output is data, not channels; equal
            singular values do not suit them.
    """
    return [p for name, p in model.named_parameters() if p.ndim >= 2 and not name.startswith(outer)]
