"""The settings of all personalisation methods."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from editing.personalize.regularization import Kind
from editing.personalize.trained.spectral import NormMode
from editing.pipelines.sampling import Settings
from editing.settings import MethodConfig
from editing.training import Plan

Optimizer = Literal["adam", "adamw", "sgd", "prodigy", "adamw-8bit"]
Schedule = Literal["constant", "cosine", "linear", "polynomial", "cosine-with-restarts"]


class PersonalizeConfig(MethodConfig):
    """Settings of a personalisation.

    A method uses those of the first part, and of the second part those that it declares.
    """

    family: ClassVar[str] = "personalisation"

    templates: tuple[str, ...] = Field(
        default=("{}",),
        min_length=1,
        description="Captions of images that have none; {} is replaced by the subject.",
    )
    steps: int = Field(default=800, ge=1, description="Training steps (--train-steps).")
    lr: float = Field(default=1e-4, gt=0, description="Learning rate (--lr).")
    batch: int = Field(default=1, ge=1, description="Images of the subject per step.")
    micro_batch: int = Field(
        default=4, ge=1, description="Of them per forward pass; affects memory only."
    )
    optimizer: Optimizer = Field(default="adamw", description="Optimizer.")
    optimizer_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the optimizer, such as betas."
    )
    weight_decay: float = Field(default=1e-2, ge=0, description="Weight decay.")
    schedule: Schedule = Field(default="constant", description="Learning rate after the warm-up.")
    warmup: int = Field(default=0, ge=0, description="Steps of a linear warm-up.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradients.")
    ema: float | None = Field(default=None, gt=0, lt=1, description="Decay of averaged weights.")
    seed: int = Field(default=0, ge=0, description="Random seed of the training (--seed).")
    precision: Literal["model", "bfloat16", "float16"] = Field(
        default="model", description="Computed in the model's dtype, or under autocast."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Computes activations twice instead of keeping them."
    )
    height: int | None = Field(
        default=None, ge=8, description="Pixels; none: that of the model's training."
    )
    width: int | None = Field(
        default=None, ge=8, description="Pixels; none: that of the model's training."
    )
    crop: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Smallest side of a random crop; 1 is the centre. None: 0.75 with structured "
        "class images, whose paper crops, and 1 with other priors.",
    )
    flip: bool = Field(default=False, description="Mirror half of the images.")
    buckets: bool = Field(default=False, description="Keep the nearest of several aspect ratios.")
    unmasked_weight: float = Field(
        default=1.0, ge=0, le=1, description="Weight of the loss outside the subject's masks."
    )
    empty_captions: float = Field(default=0.0, ge=0, lt=1, description="Share without caption.")
    min_snr: float | None = Field(
        default=None, gt=0, description="γ of min-SNR weighting, usually 5."
    )
    prior_weight: float = Field(
        default=1.0, ge=0, description="λ, weight of the loss on class images."
    )
    prior_images: int = Field(default=200, ge=1, description="Images of the class.")
    sampling_steps: int = Field(
        default=50, ge=1, description="Sampling steps of class images and sample grids."
    )
    sampling_guidance: float = Field(default=7.5, ge=0, description="Their guidance scale.")
    sampling_scheduler: str | None = Field(
        default=None, description="Their scheduler; None: the pipeline's."
    )
    kind: Kind = Field(default="thing", description="What the class noun names.")
    word_dropout: float = Field(
        default=0.3, ge=0, le=1, description="Share of adjectives left out of class captions."
    )

    text_encoder: bool = Field(default=False, description="Train the text encoders as well.")
    text_lr: float | None = Field(
        default=None, gt=0, description="Learning rate of the text encoders; none: lr."
    )
    rank: int = Field(default=4, ge=1, description="Rank of the changes.")
    alpha: float | None = Field(
        default=None, gt=0, description="Changes are scaled by alpha / rank; none: rank."
    )
    targets: tuple[str, ...] = Field(
        default=(), description="Names of adapted layers; empty for the attention layers."
    )
    dora: bool = Field(default=False, description="Train the lengths of rows as well.")
    new_token: bool = Field(default=False, description="Train a token of its own.")
    token_lr: float | None = Field(
        default=None, gt=0, description="Learning rate of the token; none: lr."
    )
    vectors: int = Field(default=1, ge=1, description="Embedding rows of the token.")
    initializer: str | None = Field(
        default=None, description="Word whose embedding the token starts from; None: the noun."
    )
    projections: Literal["kv", "qkvo"] = Field(
        default="kv", description="Trained projections of the cross-attention."
    )
    scaled_images: bool = Field(
        default=False, description="Show images smaller or larger, with words for it."
    )
    norm_mode: NormMode = Field(
        default="scalar",
        description="How weights of norms are shifted: by one number, by one an element, or not.",
    )
    norm_lr: float | None = Field(
        default=None, gt=0, description="Learning rate of norms; none: lr."
    )
    cut_mix: float = Field(
        default=0.0, ge=0, le=1, description="Share of images with two subjects."
    )
    unmix: float = Field(
        default=0.0,
        ge=0,
        description="Weight of each subject's attention in the other's half of such images. Its "
        "mean square is about 0.001, so that weights of 10 to 100 have an effect.",
    )

    @model_validator(mode="after")
    def _check_unmix(self) -> Self:
        if self.unmix and self.gradient_checkpointing:
            # Recomputed layers run outside the block in which attention is observed.
            raise ValueError("unmix does not work with gradient_checkpointing; leave one out")
        return self

    def sampling(self) -> Settings:
        """Returns the settings of class images and sample grids."""
        return Settings(
            steps=self.sampling_steps,
            guidance=self.sampling_guidance,
            height=self.height,
            width=self.width,
            scheduler=self.sampling_scheduler,
        )

    def plan(self, save_every: int, **more: Any) -> Plan:
        """Returns the hyperparameters of the training."""
        return Plan(
            steps=self.steps,
            lr=self.lr,
            batch=self.batch,
            micro_batch=self.micro_batch,
            optimizer=self.optimizer,
            optimizer_options=self.optimizer_options,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
            ema=self.ema,
            seed=self.seed,
            save_every=save_every,
            **more,
        )


MINIATURE: Mapping[str, Any] = MappingProxyType({
    "kind": "miniature", "batch": 1, "crop": 1.0, "steps": 400, "sampling_steps": 10,
    "sampling_scheduler": "DPMSolverMultistep",
})  # fmt: skip
"""What differs for the bundled model, with every method."""

COMMON = frozenset(PersonalizeConfig.model_fields) - frozenset({
    "text_encoder", "text_lr", "rank", "alpha", "targets", "dora", "new_token", "token_lr",
    "vectors", "initializer", "projections", "scaled_images", "norm_mode", "norm_lr", "cut_mix",
    "unmix",
})  # fmt: skip
"""Settings that every method uses."""
