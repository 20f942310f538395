"""The settings of the captioners."""

from typing import Literal

from pydantic import ConfigDict, Field

from visdiff.config.fields import BackendConfig, BatchSize, Positive, Revision, Workers


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
