"""The optimizers, in one table: how each is made, its options and the size of its state.

Adam: Kingma and Ba (ICLR 2015), arXiv:1412.6980. Decoupled weight decay: Loshchilov and Hutter
(ICLR 2019), arXiv:1711.05101. 8-bit moments: Dettmers et al. (ICLR 2022), arXiv:2110.02861.
Prodigy: Mishchenko and Defazio (ICML 2024), arXiv:2306.06101.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch

from visdiff.errors import InputError

Name = Literal["adam", "adamw", "sgd", "prodigy", "adamw-8bit"]


@dataclass(frozen=True)
class _Optimizer:
    """An optimizer.

    Attributes:
        load: Returns its class.
        options: Names of the arguments that can be set.
        bytes_per_parameter: Options → bytes of state per parameter.
        package: Package to install; "" if torch has it.
    """

    load: Callable[[], Any]
    options: tuple[str, ...]
    bytes_per_parameter: Callable[[Mapping[str, Any]], int]
    package: str = ""


def _prodigy() -> Any:
    from prodigyopt import Prodigy

    return Prodigy


def _adamw_8bit() -> Any:
    # Not an import statement: the package is in no extra of the developers.
    return import_module("bitsandbytes.optim").AdamW8bit


def _adam_bytes(options: Mapping[str, Any]) -> int:
    return 12 if options.get("amsgrad") else 8


def _prodigy_bytes(options: Mapping[str, Any]) -> int:
    # Two moments; of each slice_p-th entry the initial value and the sum of the gradients.
    return 8 + -(-8 // int(options.get("slice_p", 1)))


_ADAM_OPTIONS = ("betas", "eps", "amsgrad", "foreach", "fused")
_TABLE: Mapping[str, _Optimizer] = {
    "adam": _Optimizer(lambda: torch.optim.Adam, _ADAM_OPTIONS, _adam_bytes),
    "adamw": _Optimizer(lambda: torch.optim.AdamW, _ADAM_OPTIONS, _adam_bytes),
    "sgd": _Optimizer(
        lambda: torch.optim.SGD,
        ("momentum", "dampening", "nesterov", "foreach", "fused"),
        lambda options: 4 if options.get("momentum") else 0,
    ),
    "prodigy": _Optimizer(
        _prodigy,
        (
            "betas", "beta3", "eps", "decouple", "use_bias_correction", "safeguard_warmup", "d0",
            "d_coef", "growth_rate", "slice_p",
        ),
        _prodigy_bytes,
        "prodigyopt",
    ),
    "adamw-8bit": _Optimizer(
        _adamw_8bit, ("betas", "eps", "min_8bit_size"), lambda _: 2, "bitsandbytes"
    ),
}  # fmt: skip


def option_names(name: Name) -> tuple[str, ...]:
    """Returns the names of the options of an optimizer."""
    return _TABLE[name].options


def state_bytes(name: Name, options: Mapping[str, Any]) -> int:
    """Returns the approximate size of an optimizer's state, in bytes per parameter."""
    return _TABLE[name].bytes_per_parameter(options)


def make_optimizer(
    name: Name, groups: Sequence[dict[str, Any]], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Returns an optimizer.

    Args:
        name: Its name.
        groups: Parameter groups of torch, each with ``params``, ``lr`` and ``weight_decay``.
        options: Further arguments.

    Raises:
        InputError: A package is missing, or an option is out of range.
    """
    entry = _TABLE[name]
    try:
        kind = entry.load()
    except ImportError as error:
        raise InputError(
            f"Expected the package {entry.package} for the optimizer {name}, got {error}; run "
            f"`pip install {entry.package}`, or choose adamw."
        ) from error
    # TOML and JSON have no tuples, and some optimizers accept no list.
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    if name in ("adam", "adamw") and not {"foreach", "fused"} & set(given):
        # On CPUs torch's own choice is a loop over the tensors, which takes 2.6 × as long.
        given["fused"] = all(t.device.type == "cpu" for g in groups for t in g["params"]) or None
    try:
        # Not a default of the constructor: Prodigy prints a line if it has a weight decay.
        return kind(list(groups), lr=groups[0]["lr"], weight_decay=0.0, **given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Expected valid options of {name}, got {dict(options)} ({error}); correct them."
        ) from error
