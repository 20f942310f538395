"""Temporary replacement of the parameters of a pipeline's modules by other tensors.

Training keeps its own copies of the weights and never writes to the pipeline. While a context is
open, modules compute with the replacements, also when activations are computed again in a backward
pass (gradient checkpointing); afterwards they have their own parameters again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from editing.pipelines.wrappers import check_stored
from visdiff.errors import InputError

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """A parameter as a module and a name in it.

    Attributes:
        module: The module that owns the parameter.
        leaf: Name of the parameter in it, "weight".
    """

    module: torch.nn.Module
    leaf: str = "weight"

    @property
    def parameter(self) -> torch.nn.Parameter:
        """The parameter that is there now."""
        return getattr(self.module, self.leaf)


def place_of(pipe: Any, name: str) -> Place:
    """Returns the place of a parameter by its full name ("unet.….weight").

    Raises:
        InputError: The pipeline has no such parameter, or it is quantized.
    """
    component, _, path = name.partition(".")
    owner, _, leaf = path.rpartition(".")
    module = getattr(pipe, component, None)
    if isinstance(module, torch.nn.Module):
        try:
            place = Place(module.get_submodule(owner), leaf)
            found = place.parameter
        except AttributeError:
            pass
        else:
            if isinstance(found, torch.nn.Parameter):
                check_stored(name, found)
                return place
    raise InputError(
        f"Expected a pipeline with the weight {name}, got {type(pipe).__name__} without it; load "
        "another model, or unload adapters (LoRA) first."
    )


@contextmanager
def substituted(places: Mapping[str, Place], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Replaces parameters while the context is open.

    Args:
        places: Name → place.
        values: Name → replacement, one for each place, in the shape of the parameter. It is
            converted to the dtype of the parameter; gradients flow through the conversion.
    """
    originals = {name: place.parameter for name, place in places.items()}
    try:
        for name, place in places.items():
            # Modules accept only parameters by assignment; `torch.func` replaces them like this.
            place.module._parameters[place.leaf] = values[name].to(originals[name].dtype)  # pyright: ignore[reportArgumentType]
        yield
    finally:
        for name, place in places.items():
            place.module._parameters[place.leaf] = originals[name]


@contextmanager
def without_gradients(pipe: Any) -> Iterator[None]:
    """Excludes all parameters of a pipeline from gradients, and dropout, while it is open.

    A frozen weight needs no activations to be kept for its gradient.
    """
    modules = [m for m in vars(pipe).values() if isinstance(m, torch.nn.Module)]
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    training = [m for module in modules for m in module.modules() if m.training]
    for parameter in parameters:
        parameter.requires_grad_(False)
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True
