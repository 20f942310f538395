"""The settings of the score family."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from editing.methods.score.objective import Aim, Parametrisation, Reference
from editing.pipelines.denoiser import NullEncoding
from editing.settings import MethodConfig
from editing.training import Plan

Group = Literal["attn2", "attn2-kv", "not-attn2", "all"]
"""The trained linear and convolutional layers of the UNet, weights and biases: those of the
cross-attentions; only their keys and values; all others; all. Norms are never trained."""


class ScoreConfig(MethodConfig):
    """Settings of a method of the score family.

    Shares are the unnormalised probabilities that a training point lies on the frozen model's runs
    of each kind. Kinds without runs are left out (preserved texts if there are none; an empty
    target, whose share is added to that of the null).
    """

    family: ClassVar[str] = "the score family"

    weights: Group = "attn2"
    aim: Aim = "negate"
    eta: float = Field(default=1.0, description="η, for aim = negate; see parametrisation.")
    parametrisation: Parametrisation = Field(
        default="paper", description="Convention for η: code is paper plus one."
    )
    reference: Reference = "frozen"
    teacher: Literal["frozen", "current"] = Field(
        default="frozen", description="Model that predicts the goal for the target."
    )
    null_encoding: NullEncoding = Field(
        default="pipeline",
        description="SDXL: the empty prompt of the objective as zeros, if its configuration "
        "specifies so (pipeline), or encoded (prompt). Runs are always guided as the pipeline is.",
    )
    null_weight: float = Field(default=0.0, ge=0, description="λ_u.")
    preserve_weight: float = Field(default=1.0, ge=0, description="λ_p, for preserved texts.")
    points: Literal["run", "noised"] = Field(
        default="run", description="Points of the runs, or their final latents with new noise."
    )
    concept_share: float = Field(default=1.0, ge=0)
    target_share: float = Field(default=0.0, ge=0)
    null_share: float = Field(default=0.0, ge=0)
    preserve_share: float = Field(default=0.0, ge=0)
    runs: int = Field(default=8, ge=1, description="Runs per kind and request.")
    run_steps: int = Field(default=50, ge=1, description="Points per run.")
    run_guidance: float = Field(default=3.0, ge=0, description="Guidance scale of the runs.")
    height: int | None = Field(
        default=None, ge=8, description="None: that of the model's training."
    )
    width: int | None = Field(default=None, ge=8, description="None: that of the model's training.")
    steps: int = Field(default=200, ge=1)
    lr: float = Field(default=1e-5, gt=0)
    batch: int = Field(default=1, ge=1, description="Points per step.")
    micro_batch: int = Field(
        default=4, ge=1, description="Points per forward pass; affects memory only."
    )
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)

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
