"""The settings of a captioner, proposer or ranker: the union of those of all backends of a role.

A backend that is not built in ("module:Class", or the name of an entry point) accepts any setting.
Its settings are checked when it is created, see `visdiff.registry.make`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    FieldSerializationInfo,
    Tag,
    TypeAdapter,
    ValidationError,
    field_serializer,
    model_validator,
)

from visdiff.config.captioners import (
    Blip2Config,
    BlipConfig,
    ChatCaptionerConfig,
    ExternalCaptionerConfig,
    ManifestCaptionerConfig,
)
from visdiff.config.fields import BackendConfig
from visdiff.config.proposers import (
    Blip2FeaturesConfig,
    CaptionsLlmConfig,
    ConceptsConfig,
    ExternalProposerConfig,
    ImagesVlmConfig,
    ManualConfig,
    NgramsConfig,
    PairedCaptionsLlmConfig,
    ProposerSettings,
)
from visdiff.config.rankers import (
    CaptionsLexicalConfig,
    CaptionsLlmRankerConfig,
    ClipConfig,
    ExternalRankerConfig,
    VqaConfig,
)
from visdiff.errors import InputError


class SeveralConfig(ProposerSettings):
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
