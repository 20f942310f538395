"""The settings of each captioner, proposer and ranker: one pydantic model per backend.

A backend that is not built in ("module:Class", or the name of an entry point) accepts any setting.
Its settings are checked when it is created, see `visdiff.registry.make`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FieldSerializationInfo,
    Tag,
    TypeAdapter,
    ValidationError,
    field_serializer,
    model_validator,
)

from visdiff.errors import InputError

Positive = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1, description="Images per batch.")]
Workers = Annotated[int, Field(ge=1, description="Threads that decode images.")]
Revision = Annotated[
    str | None, Field(description="Commit, tag or branch of the model on the hub.")
]
Pretrained = Annotated[str | None, Field(description="Weights of open_clip: a tag or a file.")]


class Frozen(BaseModel):
    """Immutable settings; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackendConfig(Frozen):
    """The settings of a backend.

    Attributes:
        backend: Its name in the registry, or "module:Class".
    """

    #: Fields that are not passed to the constructor.
    _not_passed: ClassVar[frozenset[str]] = frozenset({"backend"})
    backend: Any  # a literal in each of the built-in ones

    def arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments of the backend's constructor."""
        arguments = self.model_dump(exclude=set(self._not_passed))
        if arguments.get("model") is None:
            # Without a model, the backend uses its default model with matching defaults.
            arguments = {name: value for name, value in arguments.items() if value is not None}
        return arguments


# Captioners.


class BlipConfig(BackendConfig):
    """Settings of the captioner `blip`."""

    backend: Literal["blip"] = "blip"
    model: str | None = Field(default=None, description="Hub id, folder, or miniature (blip2).")
    revision: Revision = None
    prompt: str | None = Field(default=None, description="Instruction, or beginning of a caption.")
    max_new_tokens: Positive = Field(default=40, description="Longest caption, in tokens.")
    num_beams: Positive = Field(default=1, description="Beams of the search; 1 is greedy.")
    batch_size: BatchSize = 8
    workers: Workers = 2


class Blip2Config(BlipConfig):
    """Settings of the captioner `blip2`."""

    backend: Literal["blip2"] = "blip2"  # type: ignore[assignment]


class ChatCaptionerConfig(BackendConfig):
    """Settings of the captioner `chat`."""

    backend: Literal["chat"] = "chat"
    prompt: str | None = Field(default=None, description="Instruction to the chat model.")
    max_new_tokens: Positive = Field(default=40, description="Longest caption, in tokens.")
    side: int = Field(default=768, ge=16, description="Longest side of sent images, in pixels.")


class ManifestCaptionerConfig(BackendConfig):
    """Settings of the captioner `manifest`."""

    backend: Literal["manifest"] = "manifest"
    column: str = Field(default="caption", description="Column of the captions.")


class ExternalCaptionerConfig(BackendConfig):
    """Settings of a captioner that is not built in."""

    model_config = ConfigDict(extra="allow")
    backend: str


# Proposers.


class _ProposerConfig(BackendConfig):
    """Settings of every proposer: which images it is shown."""

    # `Backends.of` passes sample_size to proposers that draw a sample themselves.
    _not_passed = frozenset({"backend", "sampling", "sample_size"})
    sampling: Literal["random", "representative", "diverse"] = Field(
        default="random", description="How `sample_size` images per set are chosen."
    )
    sample_size: Positive = Field(default=20, description="Images per set in one request.")

    def change_of(self, name: str, change: Callable[[Any], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Returns an update of these settings that changes those of one proposer.

        Args:
            name: Name of the proposer.
            change: Its settings → the values to replace.

        Returns:
            Values for `visdiff.config.Config.changed`; empty if the proposer is not in use.
        """
        return change(self) if self.backend == name else {}


class _AskingConfig(_ProposerConfig):
    """Settings of the proposers that use the chat model."""

    ask: Positive = Field(default=10, description="Requested hypotheses per direction and round.")
    goal: str | None = Field(default=None, description="Purpose of the comparison.")
    leave_out: tuple[str, ...] = Field(default=(), description="Topics to exclude.")
    structured: bool = Field(default=True, description="Request JSON instead of lines.")
    max_tokens: Positive = Field(default=1000, description="Longest reply, in tokens.")


class NgramsConfig(_ProposerConfig):
    """Settings of the proposer `ngrams`."""

    backend: Literal["ngrams"] = "ngrams"
    max_hypotheses: Positive = Field(default=20, description="Limit of hypotheses per direction.")
    min_z: float = Field(default=1.64, ge=0, description="Least log-odds z-score of a phrase.")
    max_words: Positive = Field(default=4, description="Most words of a phrase.")
    min_count: Positive = Field(default=2, description="Least number of captions with a phrase.")
    prior: float = Field(default=10.0, gt=0, description="Pseudo-counts of the log-odds.")
    min_completeness: float = Field(
        default=0.0, ge=0, le=2, description="Below it, a whole phrase replaces a fragment."
    )


class ManualConfig(_ProposerConfig):
    """Settings of the proposer `manual`."""

    backend: Literal["manual"] = "manual"
    hypotheses: tuple[str, ...] = Field(
        default=(), description='"A: …", "B: …", or no letter for both.'
    )
    file: str | None = Field(default=None, description="Text file of hypotheses, one per line.")


class ConceptsConfig(_ProposerConfig):
    """Settings of the proposer `concepts`."""

    backend: Literal["concepts"] = "concepts"
    bank: str | None = Field(default=None, description="Text file of phrases, one per line.")
    max_hypotheses: Positive = Field(default=20, description="Limit of hypotheses per direction.")
    model: str | None = Field(default=None, description="Image-text model; default the ranker's.")
    pretrained: Pretrained = None
    min_z: float | None = Field(
        default=None, ge=0, description="Least t of a phrase; default: one by chance."
    )
    batch_size: BatchSize = 32
    workers: Workers = 2


class Blip2FeaturesConfig(_ProposerConfig):
    """Settings of the proposer `blip2-features`."""

    backend: Literal["blip2-features"] = "blip2-features"
    model: str | None = Field(default=None, description="BLIP-2 model; default the captioner's.")
    ask: Positive = Field(default=10, description="Sentences drawn per direction and round.")
    batch_size: BatchSize = 32
    workers: Workers = 2


class CaptionsLlmConfig(_AskingConfig):
    """Settings of the proposer `captions-llm`."""

    backend: Literal["captions-llm"] = "captions-llm"


class PairedCaptionsLlmConfig(_AskingConfig):
    """Settings of the proposer `paired-captions-llm`."""

    backend: Literal["paired-captions-llm"] = "paired-captions-llm"


class ImagesVlmConfig(_AskingConfig):
    """Settings of the proposer `images-vlm`."""

    backend: Literal["images-vlm"] = "images-vlm"
    layout: Literal["grid", "images"] = Field(default="grid", description="Layout of the images.")
    tile: int = Field(default=256, ge=16, description="Longest side of sent images, in pixels.")


class ExternalProposerConfig(_ProposerConfig):
    """Settings of a proposer that is not built in."""

    model_config = ConfigDict(extra="allow")
    backend: str


class SeveralConfig(_ProposerConfig):
    """Settings of several proposers, whose hypotheses are tested together.

    A setting of this table that is none of its own is set for all of the proposers that have it:
    ``min_z`` in the table of "ngrams,concepts" sets ``members.ngrams.min_z`` and
    ``members.concepts.min_z``.

    Attributes:
        backend: Names, separated by commas: "ngrams,concepts".
        members: Name → settings of that proposer, without ``sampling`` and ``sample_size``, which
            are the same for all.
    """

    backend: str = "ngrams,concepts"
    members: dict[str, Any] = Field(
        default={}, description="Settings of each proposer: proposer.members.NAME.SETTING."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        names = [name.strip() for name in str(data.get("backend", "")).split(",")]
        if len(set(names)) < len(names) or not all(names):
            raise InputError(
                f"Expected distinct names of proposers, got {data.get('backend')!r}; write for "
                'example "ngrams,concepts".'
            )
        tables = _tables(data.get("members") or {}, names)
        for key in set(data) - set(cls.model_fields):
            having = [name for name in names if key in _settings(name)]
            if not having:
                others = ", ".join(backends_with("proposer", key))
                raise InputError(
                    f"Expected a setting of {' or '.join(names)}, got 'proposer.{key}'; "
                    + (f"choose a proposer that has it ({others}) or " if others else "")
                    + "remove it."
                )
            for name in having:
                tables[name][key] = data[key]
        members = {name: _member(name, table) for name, table in tables.items()}
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        return {**own, "backend": ",".join(names), "members": members}

    def change_of(self, name: str, change: Callable[[Any], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Returns an update of these settings that changes those of one member."""
        if name not in self.members:
            return {}
        return {"members": {name: change(self.members[name])}}

    @field_serializer("members")
    def _without_shared(
        self, members: dict[str, BackendConfig], info: FieldSerializationInfo
    ) -> dict[str, Any]:
        shared, no_none = set(_SHARED), info.exclude_none or False
        return {
            name: m.model_dump(exclude=shared, exclude_none=no_none) for name, m in members.items()
        }


#: Settings of which images a proposer is shown; they are the same for all proposers of a run.
_SHARED = frozenset({"sampling", "sample_size"})


def _settings(name: str) -> set[str]:
    """Returns the settings of a built-in proposer, without the shared ones."""
    model = MODELS["proposer"].get(name)
    return set(model.model_fields) - _SHARED if model is not None else set()


def _member(name: str, table: Mapping[str, Any]) -> BackendConfig:
    try:
        return _PROPOSER.validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        field = f"proposer.members.{name}.{first['loc'][-1]}"
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(_settings(name)))
            raise InputError(f"Expected a setting of {name} ({known}), got {field!r}.") from None
        expected = first["msg"].removeprefix("Input should be ")
        raise InputError(f"Expected {field} to be {expected}, got {first['input']!r}.") from None


def _tables(members: Any, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns name → table of settings, with the name as its backend."""
    if not isinstance(members, Mapping) or not set(members) <= set(names):
        got = sorted(set(members) - set(names)) if isinstance(members, Mapping) else members
        raise InputError(
            f"Expected settings of {' and '.join(names)} in proposer.members, got {got}; add the "
            "proposer's name to proposer.backend."
        )
    tables = {}
    for name in names:
        table = members.get(name, {})
        table = table.model_dump(exclude=set(_SHARED)) if isinstance(table, BaseModel) else table
        if not isinstance(table, Mapping) or set(table) & _SHARED:
            got = sorted(set(table) & _SHARED) if isinstance(table, Mapping) else table
            raise InputError(
                f"Expected settings of {name} in proposer.members.{name}, got {got}; set "
                "proposer.sampling and proposer.sample_size for all proposers."
            )
        tables[name] = {"backend": name, **table}
    return tables


# Rankers.


class ClipConfig(BackendConfig):
    """Settings of the ranker `clip`."""

    backend: Literal["clip"] = "clip"
    model: str | None = Field(
        default=None, description="open_clip model, hf-hub:ID, folder, or miniature."
    )
    pretrained: Pretrained = None
    template: str = Field(default="{}", description="Prompt of a sentence, which replaces {}.")
    batch_size: BatchSize = 32
    workers: Workers = 2


class CaptionsLexicalConfig(BackendConfig):
    """Settings of the ranker `captions-lexical`, which has none."""

    backend: Literal["captions-lexical"] = "captions-lexical"


class CaptionsLlmRankerConfig(BackendConfig):
    """Settings of the ranker `captions-llm`."""

    backend: Literal["captions-llm"] = "captions-llm"
    max_tokens: Positive = Field(default=10, description="Longest answer of a chat model.")


class VqaConfig(BackendConfig):
    """Settings of the ranker `vqa`."""

    backend: Literal["vqa"] = "vqa"
    model: str | None = Field(default=None, description='BLIP-2 model, or "llm": the chat model.')
    revision: Revision = None
    batch_size: BatchSize = 32
    tile: int = Field(default=512, ge=16, description="Longest side of sent images, in pixels.")
    max_tokens: Positive = Field(default=10, description="Longest answer of a chat model.")


class ExternalRankerConfig(BackendConfig):
    """Settings of a ranker that is not built in."""

    model_config = ConfigDict(extra="allow")
    backend: str


_EXTERNAL = "not built in"
_SEVERAL = "several"


def _choice(role: str, default: str) -> Discriminator:
    def tag(value: Any) -> str:
        if isinstance(value, BaseModel):
            name = getattr(value, "backend", default)
        else:
            name = value.get("backend", default) if isinstance(value, Mapping) else default
        if role == "proposer" and "," in str(name):
            return _SEVERAL
        return name if name in MODELS[role] else _EXTERNAL

    return Discriminator(tag)


CaptionerConfig = Annotated[
    Annotated[BlipConfig, Tag("blip")]
    | Annotated[Blip2Config, Tag("blip2")]
    | Annotated[ChatCaptionerConfig, Tag("chat")]
    | Annotated[ManifestCaptionerConfig, Tag("manifest")]
    | Annotated[ExternalCaptionerConfig, Tag(_EXTERNAL)],
    _choice("captioner", "blip"),
]
ProposerConfig = Annotated[
    Annotated[NgramsConfig, Tag("ngrams")]
    | Annotated[ManualConfig, Tag("manual")]
    | Annotated[ConceptsConfig, Tag("concepts")]
    | Annotated[Blip2FeaturesConfig, Tag("blip2-features")]
    | Annotated[CaptionsLlmConfig, Tag("captions-llm")]
    | Annotated[PairedCaptionsLlmConfig, Tag("paired-captions-llm")]
    | Annotated[ImagesVlmConfig, Tag("images-vlm")]
    | Annotated[SeveralConfig, Tag(_SEVERAL)]
    | Annotated[ExternalProposerConfig, Tag(_EXTERNAL)],
    _choice("proposer", "ngrams"),
]
RankerConfig = Annotated[
    Annotated[ClipConfig, Tag("clip")]
    | Annotated[CaptionsLexicalConfig, Tag("captions-lexical")]
    | Annotated[CaptionsLlmRankerConfig, Tag("captions-llm")]
    | Annotated[VqaConfig, Tag("vqa")]
    | Annotated[ExternalRankerConfig, Tag(_EXTERNAL)],
    _choice("ranker", "clip"),
]


def _models(union: Any) -> dict[str, type[BackendConfig]]:
    """Returns tag → model of a union above."""
    return {tag.tag: model for model, tag in map(get_args, get_args(get_args(union)[0]))}


MODELS: Mapping[str, Mapping[str, type[BackendConfig]]] = {
    "captioner": _models(CaptionerConfig),
    "proposer": _models(ProposerConfig),
    "ranker": _models(RankerConfig),
    "verify": _models(RankerConfig),
}
"""Role → name of the backend → model of its settings."""


def backends_with(role: str, setting: str) -> Sequence[str]:
    """Returns the names of the backends of a role that have a setting."""
    unnamed = (_EXTERNAL, _SEVERAL)
    return [n for n, m in MODELS[role].items() if n not in unnamed and setting in m.model_fields]


_PROPOSER: TypeAdapter[BackendConfig] = TypeAdapter(ProposerConfig)
