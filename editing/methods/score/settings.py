"""The settings of the score family."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from editing.methods.score.objective import Aim, Parametrisation, Reference
from editing.pipelines.denoiser import NullEncoding
from editing.settings import MethodConfig, RunConfig
from editing.training import Plan

Group = Literal["attn2", "attn2-kv", "not-attn2", "all"]
"""The trained linear and convolutional layers of the UNet, weights and biases: those of the
cross-attentions; only their keys and values; all others; all. Norms are never trained."""


class ScoreRun(RunConfig):
    """Settings of the fit of a method of the score family."""

    family: ClassVar[str] = "the score family"

    save_every: int = Field(default=100, ge=1, description="Steps between checkpoints.")
    runs_in: Path | str | None = Field(
        default=None, description="Folder that stores the frozen model's runs for other fits."
    )


class ScoreConfig(MethodConfig):
    """Settings of a method of the score family.

    Shares are the unnormalised probabilities that a training point lies on the frozen model's runs
    of each kind. Kinds without runs are left out (preserved texts if there are none; an empty
    target, whose share is added to that of the null).
    """

    family: ClassVar[str] = "the score family"

    weights: Group = Field(
        default="attn2",
        description="Trained layers of the UNet: cross-attentions, their keys and values, all "
        "others, or all.",
    )
    aim: Aim = Field(
        default="negate",
        description="Goal of the concept's guidance: the target's, zero, or its own negated.",
    )
    eta: float = Field(default=1.0, description="η, for aim = negate; see parametrisation.")
    parametrisation: Parametrisation = Field(
        default="paper", description="Convention for η: code is paper plus one."
    )
    reference: Reference = Field(
        default="frozen",
        description="Unconditional score: the frozen model's, or the trained model's without "
        "(detached) or with (live) gradient.",
    )
    teacher: Literal["frozen", "current"] = Field(
        default="frozen", description="Model that predicts the goal for the target."
    )
    null_encoding: NullEncoding = Field(
        default="pipeline",
        description="SDXL: the empty prompt of the objective as zeros, if its configuration "
        "specifies so (pipeline), or encoded (prompt). Runs are always guided as the pipeline is.",
    )
    null_weight: float = Field(default=0.0, ge=0, description="λ_u, for the empty prompt.")
    preserve_weight: float = Field(default=1.0, ge=0, description="λ_p, for preserved texts.")
    points: Literal["run", "noised"] = Field(
        default="run", description="Points of the runs, or their final latents with new noise."
    )
    concept_share: float = Field(default=1.0, ge=0, description="Points on runs of the concept.")
    target_share: float = Field(default=0.0, ge=0, description="Points on runs of the target.")
    null_share: float = Field(default=0.0, ge=0, description="Points on runs of the empty prompt.")
    preserve_share: float = Field(
        default=0.0, ge=0, description="Points on runs of preserved texts."
    )
    runs: int = Field(default=8, ge=1, description="Runs per kind and request.")
    run_steps: int = Field(default=50, ge=1, description="Points per run.")
    run_guidance: float = Field(default=3.0, ge=0, description="Guidance scale of the runs.")
    height: int | None = Field(
        default=None, ge=8, description="Pixels; none: that of the model's training."
    )
    width: int | None = Field(
        default=None, ge=8, description="Pixels; none: that of the model's training."
    )
    steps: int = Field(default=200, ge=1, description="Training steps.")
    lr: float = Field(default=1e-5, gt=0, description="Learning rate.")
    batch: int = Field(default=1, ge=1, description="Points per step.")
    micro_batch: int = Field(
        default=4, ge=1, description="Points per forward pass; affects memory only."
    )
    optimizer: Literal["adam", "adamw"] = Field(default="adam", description="Optimizer.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate after the warm-up."
    )
    warmup: int = Field(default=0, ge=0, description="Steps of a linear warm-up.")
    clip: float | None = Field(default=None, gt=0, description="Largest norm of the gradients.")
    seed: int = Field(default=0, ge=0, description="Random seed of the training.")

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.concept_share + self.target_share + self.null_share <= 0:
            raise ValueError("set concept_share, target_share or null_share above zero")
        return self

    def plan(self, save_every: int = 100) -> Plan:
        """Returns the hyperparameters of the training."""
        return Plan(
            steps=self.steps,
            lr=self.lr,
            batch=self.batch,
            micro_batch=self.micro_batch,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
            seed=self.seed,
            save_every=save_every,
        )
