"""Low-rank changes of linear layers, trained through peft's layers (LoRA, DoRA).

Hu et al., "LoRA" (ICLR 2022), arXiv:2106.09685: W + (α / r) B A. Liu et al., "DoRA" (ICML 2024),
arXiv:2402.09353: the rows of that sum are scaled to trained lengths m.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from editing.edit.deltas import Delta, Full, LowRank
from editing.personalize.trained.base import Trained, Weights
from editing.pipelines.substitute import Place, place_of, substituted
from editing.training import generator
from visdiff.errors import InputError
from visdiff.torchvision_compat import ensure_torchvision

_ADAPTER = "visdiff"


class Adapters(Trained):
    """LoRA of linear layers.

    A starts with normal values of deviation 1 / r, and B with zeros, as in diffusers' scripts.

    Args:
        pipe: The pipeline.
        layers: Full names of linear layers ("unet.….to_q").
        rank: r, at most the smaller side of the smallest layer.
        alpha: α; the change is multiplied by α / r.
        seed: Seed of A.

    Raises:
        InputError: A layer does not exist or is not linear, or the rank is too large.
    """

    def __init__(
        self, pipe: Any, layers: Sequence[str], rank: int, alpha: float, seed: int
    ) -> None:
        self._pipe, self._rank, self._alpha = pipe, rank, alpha
        self._bases = {layer: place_of(pipe, f"{layer}.weight") for layer in layers}
        for layer, base in self._bases.items():
            shape = tuple(base.parameter.shape)
            if not isinstance(base.module, torch.nn.Linear):
                raise InputError(
                    f"Expected linear layers to adapt, got {layer} "
                    f"({type(base.module).__name__}); choose other targets."
                )
            if rank > min(shape):
                raise InputError(
                    f"Expected a rank of at most {min(shape)} for {layer} of shape {shape}, got "
                    f"{rank}; lower it with rank={min(shape)}."
                )
        self.changes_text = any(layer.startswith("text_encoder") for layer in layers)
        self._initial: dict[str, torch.Tensor] = {}
        for number, (layer, base) in enumerate(self._bases.items()):
            out, width = base.parameter.shape
            a = torch.randn((rank, width), generator=generator(seed, 0, number)) / rank
            self._initial[f"{layer}.lora_A"] = a.to(base.parameter.device)
            self._initial[f"{layer}.lora_B"] = a.new_zeros((out, rank)).to(base.parameter.device)
        self._places: dict[str, Place] = {}

    @property
    def initial(self) -> Weights:
        """``LAYER.lora_A`` → (r, in) and ``LAYER.lora_B`` → (out, r)."""
        return self._initial

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wraps the layers in peft's, and restores them afterwards."""
        ensure_torchvision()
        from peft import LoraConfig, inject_adapter_in_model

        components = [getattr(self._pipe, name) for name in _by_component(self._bases)]
        # peft excludes all weights but its own from gradients.
        excluded = [p for c in components for p in c.parameters() if p.requires_grad]
        try:
            # peft initialises its weights from the global generator; they are never used.
            with torch.random.fork_rng(devices=[]):
                for name, paths in _by_component(self._bases).items():
                    config = LoraConfig(
                        r=self._rank,
                        lora_alpha=self._alpha,  # pyright: ignore[reportArgumentType]
                        target_modules=paths,
                        use_dora=self._dora,
                    )
                    component = getattr(self._pipe, name)
                    inject_adapter_in_model(config, component, adapter_name=_ADAPTER)
            self._places = {}
            for layer in self._bases:
                wrapped = _module(self._pipe, layer)
                for part in self._parts:
                    owner = getattr(wrapped, part)[_ADAPTER]
                    owner.requires_grad_(False)
                    self._places[f"{layer}.{part}"] = Place(owner)
            yield
        finally:
            for layer, base in self._bases.items():
                name, _, path = layer.partition(".")
                getattr(self._pipe, name).set_submodule(path, base.module)
            for component in components:
                vars(component).pop("peft_config", None)
            for parameter in excluded:
                parameter.requires_grad_(True)

    def substituted(self, weights: Weights) -> AbstractContextManager[None]:
        """Returns a context in which peft's layers have these weights."""
        return substituted(self._places, weights)

    def deltas(self, weights: Weights) -> tuple[Delta, ...]:
        """Returns (α / r) B A of each layer."""
        return tuple(
            LowRank(
                f"{layer}.weight",
                (weights[f"{layer}.lora_B"].detach() * (self._alpha / self._rank)).cpu(),
                weights[f"{layer}.lora_A"].detach().cpu(),
            )
            for layer in self._bases
        )

    _dora = False
    _parts: tuple[str, ...] = ("lora_A", "lora_B")


class DoraAdapters(Adapters):
    """LoRA with trained lengths of the rows; arguments as for `Adapters`."""

    _dora = True
    _parts = ("lora_A", "lora_B", "lora_magnitude_vector")

    @property
    def initial(self) -> Weights:
        """As `Adapters.initial`, and ``LAYER.lora_magnitude_vector`` → (out,): lengths of W."""
        lengths = {
            f"{layer}.lora_magnitude_vector": base.parameter.detach().float().norm(dim=1)
            for layer, base in self._bases.items()
        }
        return {**self._initial, **lengths}

    def deltas(self, weights: Weights) -> tuple[Delta, ...]:
        """Returns m (W + (α / r) B A) / ‖W + (α / r) B A‖ − W of each layer, of full rank."""
        found = []
        for layer, base in self._bases.items():
            own = base.parameter.detach().cpu().double()
            a, b, m = (weights[f"{layer}.{part}"].detach().cpu().double() for part in self._parts)
            summed = own + (self._alpha / self._rank) * (b @ a)
            scaled = summed * (m / summed.norm(dim=1))[:, None]
            found.append(Full(f"{layer}.weight", (scaled - own).float()))
        return tuple(found)


def _by_component(layers: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for layer in layers:
        component, _, path = layer.partition(".")
        found.setdefault(component, []).append(path)
    return found


def _module(pipe: Any, name: str) -> Any:
    component, _, path = name.partition(".")
    return getattr(pipe, component).get_submodule(path)
