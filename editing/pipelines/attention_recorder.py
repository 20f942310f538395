"""Observes cross-attention while a network runs, whatever is applied to it.

Processors are not replaced. The attention function that a processor calls is observed with its real
arguments, so adapters of peft, trained processors of Custom Diffusion and edits take part, and the
output is the same with and without a recorder.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from visdiff.errors import InputError

_SDPA = torch.nn.functional.scaled_dot_product_attention


def cross_attention(pipe: Any) -> dict[str, Any]:
    """Returns the name and module of each cross-attention layer of a pipeline's UNet.

    Raises:
        InputError: There is none.
    """
    unet = getattr(pipe, "unet", None)
    found = {
        name: module
        for name, module in (() if unet is None else unet.named_modules())
        if getattr(module, "is_cross_attention", False) and hasattr(module, "processor")
    }
    if not found:
        raise InputError(
            "Expected a pipeline whose UNet has cross-attention (Stable Diffusion 1, 2 or XL), "
            f"got {type(pipe).__name__}; other denoisers mix words and places in one attention."
        )
    return found


class AttentionObserver(TorchFunctionMode):
    """Passes on the attention of some layers while a network runs.

    Args:
        layers: Name → cross-attention layer.
        length: Number of token positions.
        take: Receives the name of a layer and its probabilities, (rows, places, length) float32,
            the mean over heads; with gradients where they are enabled.
    """

    def __init__(
        self, layers: dict[str, Any], length: int, take: Callable[[str, torch.Tensor], None]
    ) -> None:
        super().__init__()
        self._layers = layers
        self._length = length
        self._take = take
        self._current: str | None = None
        self._rows = 0
        self._seen = False

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Observes the layers inside the block; the pipeline is as before afterwards."""
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                before = layer.register_forward_pre_hook(self._enter(name))
                after = layer.register_forward_hook(self._leave(name), always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
                # Processors without the fused function call this method of the layer.
                stack.enter_context(_replaced(layer, "get_attention_scores", self._scores))
            stack.enter_context(self)
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Passes on the probabilities of the fused attention function before it is called."""
        kwargs = kwargs or {}
        if func is _SDPA and self._current is not None and not self._seen:
            query, key = args[0], args[1]
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            if key.shape[-2] == self._length:
                scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
                scores = query.float() @ key.float().transpose(-1, -2) * scale
                if mask is not None:
                    scores = scores + _additive(mask)
                self._pass_on(scores.softmax(dim=-1).mean(dim=1))
        return func(*args, **kwargs)

    def _enter(self, name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            del module
            self._current, self._rows, self._seen = name, len(args[0]), False

        return hook

    def _leave(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            del args
            self._current = None
            if output is not None and not self._seen:
                raise InputError(
                    f"Expected attention of {name} that can be observed, got "
                    f"{type(module.processor).__name__}; use the default processors, without "
                    "xformers and attention slicing."
                )

        return hook

    def _scores(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if self._current is not None and found.shape[-1] == self._length:
            heads = self._layers[self._current].heads
            # With slicing each call has some of the heads only.
            if found.shape[0] == heads * self._rows:
                self._pass_on(found.float().unflatten(0, (-1, heads)).mean(dim=1))
        return found

    def _pass_on(self, probabilities: torch.Tensor) -> None:
        # An image prompt of as many tokens follows in a second call of the same layer.
        if self._current is not None and not self._seen:
            self._seen = True
            self._take(self._current, probabilities)


class Recorder:
    """Adds up the attention of some layers while a network runs.

    Args:
        layers: Name → cross-attention layer.
        images: Number of images.
        length: Number of token positions.
        size: Height and width of the latents.
        pipe: The pipeline that runs the network with guidance, so that half of each batch is
            unconditional; None if the network is called without guidance.
    """

    def __init__(
        self,
        layers: dict[str, Any],
        images: int,
        length: int,
        size: tuple[int, int],
        pipe: Any = None,
    ) -> None:
        self._pipe = pipe
        self._images = images
        self._size = size
        self._counts = dict.fromkeys(layers, 0)
        self._total = torch.zeros(images, length, *size)
        self._observer = AttentionObserver(layers, length, self._add)

    @property
    def steps(self) -> int:
        """Number of calls of a layer: one per step, two for schedulers of second order."""
        return max(self._counts.values())

    def mean(self) -> NDArray[np.float32]:
        """Returns the mean over layers and steps, (images, length, h, w)."""
        return (self._total / sum(self._counts.values())).numpy()

    def recording(self) -> AbstractContextManager[None]:
        """Observes the layers inside the block; the pipeline is as before afterwards."""
        return self._observer.observing()

    def _add(self, name: str, probabilities: torch.Tensor) -> None:
        """Adds the maps of a call: (rows, places, length) for guided batches, then others."""
        probabilities = probabilities.detach()
        rows = len(probabilities)
        # diffusers puts the unconditional half of a guided batch first.
        if getattr(self._pipe, "do_classifier_free_guidance", False):
            probabilities = probabilities[rows // 2 :]
        own = probabilities[: self._images].transpose(1, 2)
        maps = torch.nn.functional.interpolate(
            own.unflatten(2, grid_of(own.shape[-1], self._size)), size=self._size, mode="bilinear"
        )
        self._total += maps.cpu()
        self._counts[name] += 1


def grid_of(places: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of a layer with a number of places, by halving the latents."""
    height, width = size
    while height * width > places:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != places:
        raise InputError(
            f"Expected layers whose places are the latents ({size[0]}×{size[1]}) halved, got "
            f"{places} places; use a UNet of Stable Diffusion 1, 2 or XL."
        )
    return height, width


def _additive(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)


@contextmanager
def _replaced(layer: Any, name: str, function: Any) -> Iterator[None]:
    """Lets a method of one object go through a function, which receives the method first."""
    original = getattr(layer, name)
    layer.__dict__[name] = lambda *args, **kwargs: function(original, *args, **kwargs)
    try:
        yield
    finally:
        del layer.__dict__[name]
