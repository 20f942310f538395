"""Everything a comparison can be told, validated: presets, TOML in and out, single settings.

A preset is a TOML file of this schema; ``Config.of("miniature").changed(seed=3)`` is a run. The
configuration is written into every report, so that a report says how to make it again.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import BaseModel, Field, ValidationError

from visdiff.config.backends import (
    MODELS,
    BlipConfig,
    CaptionerConfig,
    ClipConfig,
    Frozen,
    NgramsConfig,
    ProposerConfig,
    RankerConfig,
    having,
)
from visdiff.errors import InputError


class LlmConfig(Frozen):
    """The chat model that proposers and rankers ask, and what it may cost. Keys are never here."""

    backend: str = "openai"
    model: str | None = None
    revision: str | None = None
    base_url: str | None = Field(default=None, description="Of any OpenAI-compatible endpoint.")
    temperature: float | None = Field(default=None, ge=0, description="Of proposals.")
    vision: bool = Field(default=True, description="Whether the model reads pictures.")
    detail: str | None = None
    concurrency: int = Field(default=8, ge=1, description="Most calls at a time.")
    timeout: float = Field(default=90.0, gt=0)
    max_retries: int = Field(default=4, ge=0)
    batch_size: int = Field(default=8, ge=1, description="Of a local model.")
    max_new_tokens: int = Field(default=512, ge=1, description="Of a local model's replies.")
    max_calls: int | None = Field(default=None, ge=0, description="Most calls of a run.")
    max_cost: float | None = Field(default=None, ge=0, description="US dollars; needs prices.")
    prompt_price: float | None = Field(default=None, ge=0, description="US dollars for 1e6 tokens.")
    completion_price: float | None = Field(default=None, ge=0)


class StatisticsConfig(Frozen):
    """Thresholds of the statistics (`visdiff.stats`)."""

    discovery_fraction: float = Field(default=0.5, gt=0, lt=1)
    min_scored: int = Field(default=20, ge=2, description="Fewer a side: nothing is confirmed.")
    alpha: float = Field(default=0.05, gt=0, lt=1, description="Confirmed needs q ≤ alpha …")
    min_auroc: float = Field(default=0.55, ge=0.5, lt=1, description="… and at least this AUROC.")
    redundant: float = Field(default=0.9, gt=0, le=1, description="Spearman of synonyms.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Of the intervals.")
    permutations: int = Field(default=10_000, ge=100, description="Sign flips of paired tests.")
    resamples: int = Field(default=2_000, ge=100, description="Bootstrap of paired intervals.")


class EngineConfig(Frozen):
    """Where models are applied to many images."""

    backend: str = Field(default="local", description="This machine, or a cluster: `ray`.")
    workers: int = Field(default=2, ge=1, description="Of `ray`: copies of the model.")


_ROLES = ("captioner", "proposer", "ranker", "verify", "llm", "engine")


class Config(Frozen):
    """A whole comparison.

    Attributes:
        preset: Name of the preset it started from.
        captioner: Says what each image of the discovery half shows.
        proposer: Turns what the discovery half shows into hypotheses.
        ranker: Scores every hypothesis on every image of the other half.
        verify: A second ranker, which scores what the first confirmed as a cross-check; or None.
        llm: Answers the questions of those that ask; made only when somebody does.
        statistics: Thresholds.
        engine: Where models are applied to many images.
        rounds: Rounds of proposals, or "auto": until the sentences explain the sets.
        paired_by: Columns whose values pair an image of A with one of B; () when unpaired.
        null_repeats: Runs with shuffled membership, to see how often one "finds" something.
        seed: Seed of everything random.
        device: "auto", "cpu", "cuda" or "mps".
    """

    preset: str = "laptop"
    captioner: CaptionerConfig = BlipConfig()
    proposer: ProposerConfig = NgramsConfig()
    ranker: RankerConfig = ClipConfig()
    verify: RankerConfig | None = None
    llm: LlmConfig = LlmConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    engine: EngineConfig = EngineConfig()
    rounds: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    paired_by: tuple[str, ...] = ()
    null_repeats: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @classmethod
    def of(cls, preset: str) -> Self:
        """Returns a preset by name, or the configuration in a ``.toml`` file.

        Raises:
            InputError: No such preset (with a suggestion), or a file that does not fit.
        """
        if preset.endswith(".toml"):
            return cls.read(preset)
        if preset not in preset_names():
            raise InputError(_no_preset(preset, ""))
        text = (resources.files("visdiff") / "presets" / f"{preset}.toml").read_text("utf-8")
        return cls.parse(text, source=f"preset {preset}")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a TOML file; what it leaves out comes from the preset it names."""
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The configuration {path} cannot be read: {error}.") from error
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, source: str = "configuration") -> Self:
        """Parses TOML of this schema.

        Raises:
            InputError: It is not TOML, or a field is unknown or has a wrong value.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"Expected TOML in {source}, got a syntax error: {error}.") from error
        preset = data.get("preset", cls.model_fields["preset"].default)
        if isinstance(preset, str) and source != f"preset {preset}":
            if preset not in preset_names():
                raise InputError(_no_preset(preset, f" in {source}"))
            return cls.of(preset).updated(data, source)
        return cls._validated(data, source)

    def changed(self, **settings: Any) -> Self:
        """Returns a copy with settings changed; ``None`` leaves one as it is.

        Args:
            **settings: Fields by name. A role may be given as the name of a backend
                (``ranker="captions-lexical"``), a nested field with two underscores
                (``statistics__alpha=0.01``).
        """
        update: dict[str, Any] = {}
        for name, value in settings.items():
            if value is None:
                continue
            _assign(update, name.split("__"), value)
        return self.updated(update, "the given settings")

    def with_set(self, assignments: Mapping[str, str]) -> Self:
        """Applies ``a.b=c`` assignments from a command line; values are read as TOML values."""
        update: dict[str, Any] = {}
        for path, text in assignments.items():
            try:
                value = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                value = text  # a bare word is a string
            _assign(update, path.split("."), value)
        return self.updated(update, "--set")

    def updated(self, update: Mapping[str, Any], source: str) -> Self:
        """Returns a copy with a nested mapping laid over it, validated.

        A role that gets another backend starts from that backend's own defaults: the model of one
        is not the model of another.
        """
        data = _merged(self.model_dump(), update)
        return self._validated(data, source)

    def to_toml(self) -> str:
        """The configuration as TOML that :meth:`parse` reads back."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @classmethod
    def _validated(cls, data: Mapping[str, Any], source: str) -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(_complaint(cls, error, source)) from None


def preset_names() -> list[str]:
    """The presets that come with visdiff."""
    folder = resources.files("visdiff") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith("toml"))


def _no_preset(preset: str, where: str) -> str:
    names = preset_names()
    near = difflib.get_close_matches(preset.lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Expected a preset ({', '.join(names)}) or a .toml file{where}, got {preset!r}.{hint}"


#: What stays when a role gets another backend: the limits are the user's, not the backend's.
_OF_THE_USER = frozenset({"max_calls", "max_cost"})


def _merged(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        current = merged.get(key)
        if isinstance(value, Mapping) and isinstance(current, Mapping):
            backend = current.get("backend")
            if value.get("backend", backend) != backend:
                current = {k: v for k, v in current.items() if k in _OF_THE_USER}
            merged[key] = _merged(current, value)
        else:
            merged[key] = value
    return merged


def _assign(update: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Puts a value at a nested place; the name of a backend stands for a role's whole table."""
    if len(keys) == 1 and keys[0] in _ROLES and isinstance(value, str):
        keys = (*keys, "backend")
    for key in keys[:-1]:
        update = update.setdefault(key, {})
        if not isinstance(update, dict):
            raise InputError(f"Expected one value for {key!r}, got a value and settings inside it.")
    update[keys[-1]] = value


def _complaint(model: type[BaseModel], error: ValidationError, source: str) -> str:
    """What is wrong, in one sentence."""
    errors = error.errors()
    first = errors[0]
    field, table = _place(model, first["loc"])
    if first["type"] != "extra_forbidden":
        # A setting of several types has one complaint of each.
        about = [e for e in errors if _place(model, e["loc"])[0] == field]
        wants = " or ".join(dict.fromkeys(_wanted(e["msg"]) for e in about))
        return f"Expected {field} in {source} to be {wants}, got {first['input']!r}."
    role, name = str(first["loc"][0]), str(first["loc"][-1])
    text, names = f"Unknown setting {field!r} in {source}", list(table.model_fields)
    if role in MODELS and (others := having(role, name)):
        backend = table.model_fields["backend"].default
        return (
            f"{text}: {backend!r} has no such setting, others have ({', '.join(others)}); choose "
            f"one of them, or leave it out. Known: {', '.join(names)}."
        )
    near = difflib.get_close_matches(name, names, n=1)
    return f"{text}. " + (f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}.")


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """The name of a field that is wrong, and the table that it is in.

    pydantic also names which alternative of a union it tried: of a role the backend, of other
    fields the type ("constrained-int").
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


def _wanted(message: str) -> str:
    return message.removeprefix("Input should be ").partition(", unable to parse")[0]


def _table(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a field that is a table of settings, or may be one; None for other fields."""
    annotation = model.model_fields[name].annotation
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
