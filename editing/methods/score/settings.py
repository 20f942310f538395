"""The settings of the score family: one validated table, whose defaults each method names."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from editing.methods.score.objective import Aim, Parametrisation, Reference
from editing.settings import MethodConfig
from editing.training import Plan

Group = Literal["attn2", "attn2-kv", "not-attn2", "all"]
"""Which linear and convolutional layers of the UNet are trained, weights and biases: those of the
cross-attentions; only their keys and values; all others; all. Norms never are."""


class ScoreConfig(MethodConfig):
    """What a method of the score family is told beside the requests.

    Shares say on whose runs of the frozen model training points lie; they need not sum to one, and
    where there are no runs of a kind (no preserved texts; "" as target, whose runs are the null's)
    the others take over.
    """

    family: ClassVar[str] = "the score family"

    weights: Group = "attn2"
    aim: Aim = "negate"
    eta: float = Field(default=1.0, description="η; see parametrisation. For aim = negate.")
    parametrisation: Parametrisation = Field(
        default="paper", description="Whose η: the code's is the paper's plus one."
    )
    reference: Reference = "frozen"
    teacher: Literal["frozen", "current"] = Field(
        default="frozen", description="Whose prediction for the target is aimed at."
    )
    null_weight: float = Field(default=0.0, ge=0, description="λ_u.")
    preserve_weight: float = Field(default=1.0, ge=0, description="λ_p, with preserved texts.")
    points: Literal["run", "noised"] = Field(
        default="run", description="Points of the runs, or their images' latents noised anew."
    )
    concept_share: float = Field(default=1.0, ge=0)
    target_share: float = Field(default=0.0, ge=0)
    null_share: float = Field(default=0.0, ge=0)
    preserve_share: float = Field(default=0.0, ge=0)
    runs: int = Field(default=8, ge=1, description="Runs of each kind and request.")
    run_steps: int = Field(default=50, ge=1, description="Points a run.")
    run_guidance: float = Field(default=3.0, ge=0, description="Guidance scale of the runs.")
    height: int | None = Field(default=None, ge=8, description="None: as the model was trained.")
    width: int | None = Field(default=None, ge=8, description="None: as the model was trained.")
    steps: int = Field(default=200, ge=1)
    lr: float = Field(default=1e-5, gt=0)
    batch: int = Field(default=1, ge=1, description="Points a step.")
    micro_batch: int = Field(default=4, ge=1, description="Points at once; for memory alone.")
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.concept_share + self.target_share + self.null_share <= 0:
            raise ValueError("give concept_share, target_share or null_share above zero")
        return self

    def plan(self, save_every: int = 100) -> Plan:
        """Returns how to train."""
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
