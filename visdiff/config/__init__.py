"""The validated configuration of a comparison: presets, TOML files and single settings.

A preset is a TOML file of this schema, for example ``Config.of("miniature").changed(seed=3)``. The
configuration is written into every report, so that the report can be reproduced.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_serializer
from pydantic_core import PydanticCustomError

from visdiff.config.addresses import without_secrets
from visdiff.config.backends import (
    MODELS,
    CaptionerConfig,
    ProposerConfig,
    RankerConfig,
    backends_with,
)
from visdiff.config.captioners import BlipConfig
from visdiff.config.fields import Frozen, Revision
from visdiff.config.proposers import NgramsConfig
from visdiff.config.rankers import ClipConfig
from visdiff.errors import InputError
from visdiff.files import load_toml, read_text


class LlmConfig(Frozen):
    """Settings of the chat model of proposers and rankers, and its budget; never an API key."""

    backend: str = Field(default="openai", description="openai, transformers or module:Class.")
    model: str | None = Field(default=None, description="Name of the model (--llm).")
    revision: Revision = None
    base_url: str | None = Field(default=None, description="An OpenAI-compatible endpoint.")
    temperature: float | None = Field(default=None, ge=0, description="For proposals.")
    vision: bool = Field(default=True, description="Whether the model accepts images.")
    detail: str | None = Field(default=None, description="Detail of images: low, high or auto.")
    concurrency: int = Field(default=8, ge=1, description="Concurrent calls.")
    timeout: float = Field(default=90.0, gt=0, description="Seconds for one call.")
    deadline: float = Field(default=600.0, gt=0, description="Seconds for a request, all calls.")
    max_retries: int = Field(default=4, ge=0, description="Repeated calls after a failure.")
    batch_size: int = Field(default=8, ge=1, description="For a local model.")
    max_new_tokens: int = Field(default=512, ge=1, description="For a local model.")
    max_calls: int | None = Field(default=None, ge=0, description="Limit of calls per run.")
    max_cost: float | None = Field(default=None, ge=0, description="US dollars; needs prices.")
    prompt_price: float | None = Field(default=None, ge=0, description="US dollars per 1e6 tokens.")
    completion_price: float | None = Field(
        default=None, ge=0, description="US dollars per 1e6 tokens."
    )

    @field_serializer("base_url", when_used="json")
    def _without_secrets(self, base_url: str | None) -> str | None:
        # JSON is what reports and results files hold, and those are shown to others.
        return base_url and without_secrets(base_url)


class StatisticsConfig(Frozen):
    """Thresholds of the statistics (`visdiff.stats`)."""

    discovery_fraction: float = Field(
        default=0.5, gt=0, lt=1, description="Share of the images that hypotheses come from."
    )
    min_scored: int = Field(
        default=20,
        ge=2,
        description="With fewer scored images (or clusters) per set, nothing is confirmed.",
    )
    cross_fit: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Propose from each half and test on the other; auto: below 200 images per set.",
    )
    near_copies: bool = Field(
        default=True, description="Whether near copies count as one observation, as copies do."
    )
    alpha: float = Field(default=0.05, gt=0, lt=1, description="Largest q-value to confirm.")
    min_auroc: float = Field(default=0.55, ge=0.5, lt=1, description="Least AUROC to confirm.")
    redundant: float = Field(default=0.9, gt=0, le=1, description="Least correlation of synonyms.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Confidence level of intervals.")
    permutations: int = Field(default=10_000, ge=100, description="Sign flips of paired tests.")
    resamples: int = Field(default=2_000, ge=100, description="Bootstrap of paired intervals.")


class EngineConfig(Frozen):
    """Settings of the engine that applies models to images."""

    backend: str = Field(default="local", description="`local` or `ray` (a cluster).")
    workers: int = Field(default=2, ge=1, description="For `ray`: copies of the model.")


def _checked_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise PydanticCustomError(
            "device", "Input should be 'auto', 'cpu', 'cuda:1', 'cuda' or 'mps'"
        )
    return name


_ROLES = ("captioner", "proposer", "ranker", "verify", "llm", "engine")


class Config(Frozen):
    """The configuration of a comparison; the fields describe themselves."""

    preset: str = Field(
        default="laptop", description="Name of the preset that provides the defaults."
    )
    captioner: CaptionerConfig = Field(
        default=BlipConfig(), description="Captioner, which describes images."
    )
    proposer: ProposerConfig = Field(
        default=NgramsConfig(),
        description="Proposer, which generates hypotheses from the discovery half.",
    )
    ranker: RankerConfig = Field(
        default=ClipConfig(), description="Ranker, which scores them on the scoring half."
    )
    verify: RankerConfig | None = Field(
        default=None, description="Second ranker, which checks the confirmed differences."
    )
    llm: LlmConfig = Field(
        default=LlmConfig(), description="Chat model; created only if a backend uses it."
    )
    statistics: StatisticsConfig = Field(default=StatisticsConfig(), description="Thresholds.")
    engine: EngineConfig = Field(
        default=EngineConfig(), description="Engine that applies models to images."
    )
    rounds: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1, description="Rounds of proposals; auto: until they explain the sets."
    )
    paired_by: tuple[str, ...] = Field(
        default=(), description="Columns whose values pair an image of A with one of B."
    )
    group_by: str | None = Field(
        default=None,
        description="Column whose equal values mark images of one thing: one observation.",
    )
    null_repeats: int = Field(
        default=0, ge=0, description="Runs with shuffled sets, which estimate false positives."
    )
    seed: int = Field(default=0, ge=0, description="Random seed.")
    device: Annotated[str, AfterValidator(_checked_device)] = Field(
        default="auto", description="Device of the models: auto, cpu, cuda, cuda:1, …, or mps."
    )

    @classmethod
    def of(cls, preset: str) -> Self:
        """Returns a preset by name, or the configuration in a ``.toml`` file.

        Raises:
            InputError: The preset does not exist (with a suggestion), or the file is invalid.
        """
        if preset.endswith(".toml"):
            return cls.read(preset)
        if preset not in preset_names():
            raise InputError(_no_preset(preset, ""))
        text = (resources.files("visdiff") / "presets" / f"{preset}.toml").read_text("utf-8")
        return cls.parse(text, source=f"preset {preset}")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a TOML file; missing settings come from the preset that it names.

        Raises:
            InputError: The file cannot be read or is invalid.
        """
        return cls.parse(read_text(path, "a TOML file"), source=str(path))

    @classmethod
    def parse(cls, text: str, source: str = "configuration") -> Self:
        """Parses TOML of this schema.

        Raises:
            InputError: The text is not TOML, or a field is unknown or has a wrong value.
        """
        try:
            data = load_toml(text)
        except ValueError as error:
            raise InputError(
                f"Expected TOML in {source}, got a syntax error: {error}; correct the file."
            ) from error
        preset = data.get("preset", cls.model_fields["preset"].default)
        if isinstance(preset, str) and source != f"preset {preset}":
            if preset not in preset_names():
                raise InputError(_no_preset(preset, f" in {source}"))
            return cls.of(preset).updated(data, source)
        return cls._validated(data, source)

    def changed(self, **settings: Any) -> Self:
        """Returns a copy with changed settings; ``None`` keeps the current value.

        Args:
            **settings: Fields by name. The value of a role may be the name of a backend
                (``ranker="captions-lexical"``). Nested fields are written with two underscores
                (``statistics__alpha=0.01``).
        """
        return self.updated(_of_settings(settings), "the given settings")

    def with_set(self, assignments: Mapping[str, str], **settings: Any) -> Self:
        """Returns a copy with ``a.b=c`` assignments applied; values are parsed as TOML.

        Args:
            assignments: Dotted names and values.
            **settings: Other changes, as for `changed`. They are made at once, so that a setting
                keeps its value when an assignment chooses another backend.

        Raises:
            InputError: A setting is unknown or has a wrong value, or an assignment gives it another
                value than ``settings``.
        """
        update: dict[str, Any] = {}
        for path, text in assignments.items():
            try:
                value = load_toml(f"value = {text}")["value"]
            except ValueError:
                value = text  # a bare word is a string
            _assign(update, path.split("."), value)
        return self.updated(_agreed(_of_settings(settings), update), "--set")

    def updated(self, update: Mapping[str, Any], source: str) -> Self:
        """Returns a validated copy, updated with a nested mapping.

        If the backend of a role changes, its settings start from the new backend's defaults. If its
        model changes, the old model's revision is dropped.
        """
        data = _merged(self.model_dump(), update)
        return self._validated(data, source)

    def to_toml(self) -> str:
        """Returns the configuration as TOML for :meth:`parse`."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @classmethod
    def _validated(cls, data: Mapping[str, Any], source: str) -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(_error_message(cls, error, source)) from None


def preset_names() -> list[str]:
    """Returns the names of the presets of the package."""
    folder = resources.files("visdiff") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith("toml"))


def _no_preset(preset: str, where: str) -> str:
    names = preset_names()
    near = difflib.get_close_matches(preset.lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Expected a preset ({', '.join(names)}) or a .toml file{where}, got {preset!r}.{hint}"


#: Settings that are kept when the backend of a role changes: the budget is the user's.
_KEPT_SETTINGS = frozenset({"max_calls", "max_cost"})


def _merged(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        current = merged.get(key)
        if isinstance(value, Mapping) and isinstance(current, Mapping):
            backend = current.get("backend")
            if value.get("backend", backend) != backend:
                current = {k: v for k, v in current.items() if k in _KEPT_SETTINGS}
            elif value.get("model", current.get("model")) != current.get("model"):
                # A commit is one of its own model only.
                current = {k: v for k, v in current.items() if k != "revision"}
            merged[key] = _merged(current, value)
        else:
            merged[key] = value
    return merged


def _of_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a nested update of settings by name, as for `Config.changed`."""
    update: dict[str, Any] = {}
    for name, value in settings.items():
        if value is not None:
            _assign(update, name.split("__"), value)
    return update


def _agreed(
    given: Mapping[str, Any], assigned: Mapping[str, Any], above: str = ""
) -> dict[str, Any]:
    """Returns two updates as one.

    Raises:
        InputError: They give a setting different values.
    """
    agreed = {**given, **assigned}
    for key in given.keys() & assigned.keys():
        name, first, second = f"{above}{key}", given[key], assigned[key]
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            agreed[key] = _agreed(first, second, f"{name}.")
        elif first != second:
            raise InputError(
                f"Expected one value of {name}, got {first!r} ({name} in the given settings) and "
                f"{second!r} (--set {name}=…); leave one out."
            )
    return agreed


def _assign(update: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Assigns a nested value; a string assigned to a role is the name of its backend."""
    if len(keys) == 1 and keys[0] in _ROLES and isinstance(value, str):
        keys = (*keys, "backend")
    for key in keys[:-1]:
        update = update.setdefault(key, {})
        if not isinstance(update, dict):
            raise InputError(
                f"Expected one value for {key!r}, got a value and nested settings; pass only one."
            )
    update[keys[-1]] = value


def _error_message(model: type[BaseModel], error: ValidationError, source: str) -> str:
    """Returns the first validation error in one sentence."""
    errors = error.errors()
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return str(cause)
    field, table = _locate(model, first["loc"])
    if first["type"] != "extra_forbidden":
        # A setting with several allowed types has one error per type.
        related = [e for e in errors if _locate(model, e["loc"])[0] == field]
        expected = " or ".join(dict.fromkeys(_expected(e["msg"]) for e in related))
        return f"Expected {field} in {source} to be {expected}, got {first['input']!r}."
    role, name = str(first["loc"][0]), str(first["loc"][-1])
    text, names = f"Expected known settings in {source}, got {field!r}", list(table.model_fields)
    if role in MODELS and (others := backends_with(role, name)):
        backend = table.model_fields["backend"].default
        return (
            f"{text}, which {backend!r} does not have; choose a backend that has it "
            f"({', '.join(others)}) or remove the setting. Known: {', '.join(names)}."
        )
    near = difflib.get_close_matches(name, names, n=1)
    return f"{text}. " + (f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}.")


def _locate(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """Returns the dotted name of an invalid field, and the model that contains it.

    A pydantic location also names the alternative of a union: the backend of a role, or the type
    of other fields ("constrained-int").
    """
    known, keys = list[str](), list(location)
    while keys:
        known.append(str(keys.pop(0)))
        if known[-1] not in model.model_fields or not keys:
            break
        if len(known) == 1 and known[0] in MODELS:
            table: type[BaseModel] | None = MODELS[known[0]].get(str(keys.pop(0)))
        else:
            table = _table(model, known[-1])
        if table is None:
            break
        model = table
    return ".".join(known), model


def _expected(message: str) -> str:
    return message.removeprefix("Input should be ").partition(", unable to parse")[0]


def _table(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Returns the model of a field that holds a table of settings; None for other fields."""
    annotation = model.model_fields[name].annotation
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
