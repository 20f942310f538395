"""The settings of each captioner, proposer and ranker: one pydantic model per backend.

A backend that is not built in ("module:Class", or the name of an entry point) accepts any setting.
Its settings are checked when it is created, see `visdiff.registry.make`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Positive = Annotated[int, Field(ge=1)]


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
    model: str | None = None
    revision: str | None = None
    prompt: str | None = None
    max_new_tokens: Positive = 40
    num_beams: Positive = 1
    batch_size: Positive = 8
    workers: Positive = 2


class Blip2Config(BlipConfig):
    """Settings of the captioner `blip2`."""

    backend: Literal["blip2"] = "blip2"  # type: ignore[assignment]


class ChatCaptionerConfig(BackendConfig):
    """Settings of the captioner `chat`."""

    backend: Literal["chat"] = "chat"
    prompt: str | None = None
    max_new_tokens: Positive = 40
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
    min_z: float = Field(default=1.96, ge=0, description="Least log-odds z-score of a phrase.")
    max_words: Positive = 4
    min_count: Positive = 2
    prior: float = Field(default=10.0, gt=0)


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
    pretrained: str | None = None
    batch_size: Positive = 32
    workers: Positive = 2


class Blip2FeaturesConfig(_ProposerConfig):
    """Settings of the proposer `blip2-features`."""

    backend: Literal["blip2-features"] = "blip2-features"
    model: str | None = Field(default=None, description="BLIP-2 model; default the captioner's.")
    ask: Positive = Field(default=10, description="Sentences drawn per direction and round.")
    batch_size: Positive = 32
    workers: Positive = 2


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


# Rankers.


class ClipConfig(BackendConfig):
    """Settings of the ranker `clip`."""

    backend: Literal["clip"] = "clip"
    model: str | None = None
    pretrained: str | None = None
    template: str = "{}"
    batch_size: Positive = 32
    workers: Positive = 2


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
    revision: str | None = None
    batch_size: Positive = 32
    tile: int = Field(default=512, ge=16, description="Longest side of sent images, in pixels.")
    max_tokens: Positive = Field(default=10, description="Longest answer of a chat model.")


class ExternalRankerConfig(BackendConfig):
    """Settings of a ranker that is not built in."""

    model_config = ConfigDict(extra="allow")
    backend: str


_EXTERNAL = "not built in"


def _choice(role: str, default: str) -> Discriminator:
    def tag(value: Any) -> str:
        if isinstance(value, BaseModel):
            name = getattr(value, "backend", default)
        else:
            name = value.get("backend", default) if isinstance(value, Mapping) else default
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
    return [n for n, m in MODELS[role].items() if n != _EXTERNAL and setting in m.model_fields]
