"""The exponential moving average of the trained weights."""

from collections.abc import Mapping
from typing import Any

from editing.training.losses import Tensor, Weights


class Average:
    """The exponential moving average of some weights, or the weights themselves without a decay.

    Args:
        weights: Initial values.
        decay: Upper limit of the decay; None for no average.
    """

    def __init__(self, weights: Weights, decay: float | None) -> None:
        self._weights = weights
        self._ema: Any = None
        if decay is not None:
            from visdiff.torchvision_compat import ensure_torchvision

            ensure_torchvision()
            from diffusers.training_utils import EMAModel

            masters: Any = list(weights.values())
            self._ema = EMAModel(masters, decay=decay, foreach=True)

    def update(self) -> None:
        """Adds the present weights to the average."""
        if self._ema is not None:
            self._ema.step(self._weights.values())

    def values(self) -> dict[str, Tensor]:
        """Returns name → averaged weight, without a graph and not copied."""
        averaged = self._weights.values() if self._ema is None else self._ema.shadow_params
        return {name: value.detach() for name, value in zip(self._weights, averaged, strict=True)}

    def state(self) -> dict[str, Any]:
        """Returns the state, as tensors and numbers; empty without a decay."""
        if self._ema is None:
            return {}
        return {"steps": self._ema.optimization_step, "weights": self.values()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a state of `state`."""
        if self._ema is not None:
            self._ema.optimization_step = state["steps"]
            for name, value in self.values().items():
                value.copy_(state["weights"][name])
