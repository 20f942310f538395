"""LoRA weights: what the formats of diffusers and kohya share.

A closed-form edit has low rank in every layer, so a LoRA represents it exactly. Other tools can
then toggle, scale and mix it, on quantised bases too. The up-factors depend on the weights of the
base, so the export needs the base.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from editing.edit import Edit
from editing.edit.deltas import Delta, Full, LowRank
from editing.edit.formats.base import Imported, cannot_hold
from editing.edit.formats.files import TensorFile
from editing.edit.formats.names import Names, to_transformers
from editing.linear import Tensor, compress
from editing.pipelines.weights import parameter
from visdiff.errors import InputError

METADATA = "lora_adapter_metadata"
"""Key of peft's configuration in the header of a file that diffusers wrote."""

_SUFFIX = re.compile(
    r"^(?P<module>.+?)(?:\.lora_linear_layer\.|\.lora\.|_lora\.|\.lora_|\.)"
    r"(?P<part>A|B|down|up|magnitude_vector|alpha|dora_scale)"
    r"(?:\.default(?:_\d+)?)?(?:\.weight)?$"
)
_PARTS = {"A": "down", "B": "up", "magnitude_vector": "magnitude", "dora_scale": "magnitude"}
# The oldest files of diffusers name the layer by its processor.
_OLD = {"to_out": "to_out.0"}
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def to_lora(edit: Edit, pipe: Any) -> dict[str, Tensor]:
    """Returns the edit as LoRA weights in peft's names, float32.

    Args:
        edit: An edit of linear layers and convolutions.
        pipe: The unedited pipeline that it was fitted to.

    Returns:
        "unet.….lora_A.weight" (rank, in) and "….lora_B.weight" (out, rank) for each layer;
        (rank, in, h, w) and (out, rank, 1, 1) for a convolution. At scale 1 they equal the edit to
        single precision.

    Raises:
        InputError: The base differs, or the edit changes anything but weights of such layers.
    """
    edit.check_base(pipe)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    shapes: dict[str, torch.Size] = {}
    refused: list[str] = []
    for name in edit.tensors:
        base = parameter(pipe, name).detach().cpu()
        if not _is_lora_layer(pipe, name):
            refused.append(name)
            continue
        shapes[name] = base.shape
        factors[name] = compress(*_factors(edit, name, base))
    if refused:
        raise cannot_hold(refused, "a LoRA")
    if not factors:
        raise InputError(
            "Expected an edit of linear layers, got one that adds tokens only, which a LoRA cannot "
            "hold; use --as learned-embeds, or the edit's own file."
        )
    # The same rank for all: versions of diffusers differ in how they scale unequal ranks.
    rank = max(down.shape[0] for _, down in factors.values())
    found = {}
    for name, (up, down) in factors.items():
        more = rank - down.shape[0]
        pad = torch.nn.functional.pad
        down, up = pad(down, (0, 0, 0, more)), pad(up, (0, more))
        if len(shapes[name]) == 4:
            down, up = down.reshape(rank, *shapes[name][1:]), up[:, :, None, None]
        module = _exported(name.removesuffix(".weight"))
        found[f"{module}.lora_A.weight"] = down.to(torch.float32).contiguous()
        found[f"{module}.lora_B.weight"] = up.to(torch.float32).contiguous()
    return found


def read_lora(file: TensorFile, pipe: Any) -> Imported:
    """Returns the changes of a LoRA in the names of diffusers, peft or kohya.

    Raises:
        InputError: No layer is one of the pipeline, or a shape differs.
    """
    layers, ignored = _layers({name: file.tensor(name) for name in file.names})
    found = _changes(file, layers, pipe)
    if not found.changes:
        # diffusers knows the names that the transformers have in other tools.
        converted, more = _layers(_converted(file, pipe))
        if converted:
            found, ignored = _changes(file, converted, pipe), more
    if not found.changes:
        raise InputError(
            f"Expected a LoRA of {type(pipe).__name__}, got {file.path}, none of whose "
            f"{len(layers)} layers ({', '.join(list(layers)[:3])}, …) is one of it; name the base "
            "that it was trained on."
        )
    return Imported(found.changes, (*found.ignored, *ignored))


@dataclass
class _Layer:
    """One layer of a LoRA file: the parts by their role, and the names they have there."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def is_lycoris(self) -> bool:
        """Whether the magnitudes of DoRA have the name that LyCORIS and kohya give them."""
        return any(name.endswith("dora_scale") for name in self.names)


def _is_lora_layer(pipe: Any, name: str) -> bool:
    component, _, path = name.removesuffix(".weight").partition(".")
    if not name.endswith(".weight"):
        return False
    module = getattr(pipe, component).get_submodule(path)
    if isinstance(module, torch.nn.Conv2d):
        return module.groups == 1
    return isinstance(module, torch.nn.Linear)


def _exported(module: str) -> str:
    component, _, path = module.partition(".")
    return f"{component}.{to_transformers(component, path)}"


def _factors(edit: Edit, name: str, base: Tensor) -> tuple[Tensor, Tensor]:
    pairs = [c.factors(name, base) for c in edit.changes if name in c.names()]
    return torch.cat([up for up, _ in pairs], dim=1), torch.cat([down for _, down in pairs])


def _layers(tensors: Mapping[str, Tensor]) -> tuple[dict[str, _Layer], tuple[str, ...]]:
    layers: dict[str, _Layer] = {}
    ignored = []
    for name, tensor in tensors.items():
        found = _SUFFIX.match(name)
        if found is None:
            ignored.append(name)
            continue
        layer = layers.setdefault(_module(found["module"]), _Layer())
        layer.parts[_PARTS.get(found["part"], found["part"])] = tensor
        layer.names.append(name)
    return layers, tuple(ignored)


def _module(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".processor.", ".")
    head, _, last = name.rpartition(".")
    last = last.removesuffix("_lora")
    if "self_attn" in head:
        last = _OLD_TEXT.get(last, last)
    elif "attn" in head:
        last = _OLD.get(last, last)
    return f"{head}.{last}" if head else last


def _changes(file: TensorFile, layers: Mapping[str, _Layer], pipe: Any) -> Imported:
    names, scale = Names(pipe), _Scales(file)
    changes: list[Delta] = []
    ignored: list[str] = []
    for module, layer in layers.items():
        full = names.of_module(module)
        if full is None or not {"up", "down"} <= layer.parts.keys():
            ignored += layer.names
            continue
        base = parameter(pipe, full).detach().cpu()
        up, down = layer.parts["up"].flatten(1), layer.parts["down"].flatten(1)
        if (up.shape[0], down.shape[1]) != base.flatten(1).shape or up.shape[1] != down.shape[0]:
            raise InputError(
                f"Expected a LoRA for {full} of shape {tuple(base.shape)}, got {file.path} with "
                f"{tuple(up.shape)} times {tuple(down.shape)}; name the base that it was trained "
                "on."
            )
        if not up.any() and "magnitude" not in layer.parts:
            continue
        factor = scale.of(module, layer, len(down))
        change = LowRank(full, up.contiguous(), down.contiguous(), factor)
        if "magnitude" in layer.parts:
            changes.append(_dora(change, layer, base, file))
        else:
            changes.append(change)
    return Imported(tuple(changes), tuple(ignored))


class _Alpha(BaseModel):
    """The fields of peft's configuration that scale up · down."""

    model_config = ConfigDict(extra="ignore")

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False

    @field_validator("alpha_pattern")
    @classmethod
    def _check_patterns(cls, patterns: dict[str, float] | None) -> dict[str, float] | None:
        for pattern in patterns or {}:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
        return patterns

    def of(self, module: str, rank: int) -> float:
        """Returns the factor of a layer."""
        if self.lora_alpha is None:
            return 1.0
        own = (
            alpha
            for pattern, alpha in (self.alpha_pattern or {}).items()
            if re.fullmatch(rf"(.*\.)?({pattern})", module)
        )
        return next(own, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


class _Scales:
    """The factor on up · down of each layer: alpha / rank, from wherever a file holds alpha."""

    def __init__(self, file: TensorFile) -> None:
        text = file.metadata.get(METADATA)
        adjacent = file.path.with_name("adapter_config.json")
        if text is None and file.path.stem == "adapter_model" and adjacent.is_file():
            text = adjacent.read_text(encoding="utf-8")
        try:
            values = TypeAdapter(dict[str, Any]).validate_json(text or "{}")
            # diffusers writes one configuration of all components, with prefixes.
            prefixes = {n.partition(".")[0] for n in values if n.endswith(".lora_alpha")}
            self._by_component = {
                prefix: _Alpha.model_validate(
                    {
                        name.removeprefix(f"{prefix}."): value
                        for name, value in values.items()
                        if name.startswith(f"{prefix}.")
                    }
                )
                for prefix in prefixes
            }
            self._whole = _Alpha.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its metadata"
            raise InputError(
                f"Expected the configuration of a LoRA as JSON, got {file.path} with {where}: "
                f"{first['msg']}; save it again where it was made."
            ) from error

    def of(self, module: str, layer: _Layer, rank: int) -> float:
        if "alpha" in layer.parts:
            return float(layer.parts["alpha"]) / rank
        component, _, path = module.partition(".")
        own = self._by_component.get(component)
        return self._whole.of(module, rank) if own is None else own.of(path, rank)


def _dora(change: LowRank, layer: _Layer, base: Tensor, file: TensorFile) -> Full:
    """Returns the change of a weight whose rows have lengths of their own (DoRA).

    Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (ICML 2024), arXiv:2402.09353.
    """
    magnitude = layer.parts["magnitude"]
    # Older files of LyCORIS have one a column, (1, in); those of peft have (1, out, 1, 1).
    by_column = magnitude.ndim > 1 and len(magnitude) == 1 and layer.is_lycoris
    if by_column or magnitude.numel() != base.shape[0]:
        raise InputError(
            f"Expected {base.shape[0]} magnitudes of {change.name}, one a row, got {file.path} "
            f"with shape {tuple(magnitude.shape)}; merge it into its base where it was made."
        )
    weight = base.to(torch.float64)
    moved = (weight + change.delta(change.name, base)).flatten(1)
    unit = moved / moved.norm(dim=1, keepdim=True)
    merged = magnitude.to(torch.float64).reshape(-1, 1) * unit
    return Full(change.name, (merged.reshape(weight.shape) - weight).to(torch.float32))


def _converted(file: TensorFile, pipe: Any) -> dict[str, Tensor]:
    """Returns the weights in the names that diffusers converts them to; none if it cannot."""
    if not hasattr(pipe, "lora_state_dict") or not hasattr(pipe, "transformer"):
        return {}
    tensors = {name: file.tensor(name) for name in file.names}
    try:
        found = pipe.lora_state_dict(tensors, return_alphas=True)
    # Its converters fail in many ways on names that they do not know.
    except Exception:
        return {}
    state, alphas = found[0], found[1] or {}
    return {**state, **{name: torch.as_tensor(value) for name, value in alphas.items()}}


def is_lora(names: Iterable[str], marks: tuple[str, ...]) -> bool:
    """Returns whether a name has one of the marks of a LoRA."""
    return any(mark in name for name in names for mark in marks)
