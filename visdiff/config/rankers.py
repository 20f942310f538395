"""The settings of the rankers."""

from typing import Literal

from pydantic import ConfigDict, Field

from visdiff.config.fields import (
    BackendConfig,
    BatchSize,
    Positive,
    Pretrained,
    Revision,
    Workers,
)


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
