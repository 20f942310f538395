"""The settings of each proposer; `visdiff.config.backends.SeveralConfig` combines them."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from visdiff.config.fields import BackendConfig, BatchSize, Positive, Pretrained, Workers


class ProposerSettings(BackendConfig):
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


class AskingSettings(ProposerSettings):
    """Settings of the proposers that use the chat model."""

    ask: Positive = Field(default=10, description="Requested hypotheses per direction and round.")
    goal: str | None = Field(default=None, description="Purpose of the comparison.")
    leave_out: tuple[str, ...] = Field(default=(), description="Topics to exclude.")
    structured: bool = Field(default=True, description="Request JSON instead of lines.")
    max_tokens: Positive = Field(default=1000, description="Longest reply, in tokens.")


class NgramsConfig(ProposerSettings):
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


class ManualConfig(ProposerSettings):
    """Settings of the proposer `manual`."""

    backend: Literal["manual"] = "manual"
    hypotheses: tuple[str, ...] = Field(
        default=(), description='"A: …", "B: …", or no letter for both.'
    )
    file: str | None = Field(default=None, description="Text file of hypotheses, one per line.")


class ConceptsConfig(ProposerSettings):
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


class Blip2FeaturesConfig(ProposerSettings):
    """Settings of the proposer `blip2-features`."""

    backend: Literal["blip2-features"] = "blip2-features"
    model: str | None = Field(default=None, description="BLIP-2 model; default the captioner's.")
    ask: Positive = Field(default=10, description="Sentences drawn per direction and round.")
    batch_size: BatchSize = 32
    workers: Workers = 2


class CaptionsLlmConfig(AskingSettings):
    """Settings of the proposer `captions-llm`."""

    backend: Literal["captions-llm"] = "captions-llm"


class PairedCaptionsLlmConfig(AskingSettings):
    """Settings of the proposer `paired-captions-llm`."""

    backend: Literal["paired-captions-llm"] = "paired-captions-llm"


class ImagesVlmConfig(AskingSettings):
    """Settings of the proposer `images-vlm`."""

    backend: Literal["images-vlm"] = "images-vlm"
    layout: Literal["grid", "images"] = Field(default="grid", description="Layout of the images.")
    tile: int = Field(default=256, ge=16, description="Longest side of sent images, in pixels.")


class ExternalProposerConfig(ProposerSettings):
    """Settings of a proposer that is not built in."""

    model_config = ConfigDict(extra="allow")
    backend: str
