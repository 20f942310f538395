"""The settings of the attack, its cost, and its events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from editing.pipelines.sampling import Settings
from visdiff.errors import InputError

_SPARE = 2
"""Pictures drawn for each that is wanted."""


@dataclass(frozen=True)
class RevivalConfig:
    """Settings of the attack.

    Attributes:
        steps: Training steps after which images are drawn, ascending; 0 is added.
        pictures: Numbers of pictures that the token is learnt from, ascending.
        images: Images that are drawn after each number of steps.
        start: Word that the token starts from; a neutral one by default. From the concept's own
            name, the original model draws the concept at step 0.
        training: Settings of textual inversion that differ from its defaults, such as ``lr``.
        sampling: Sampling settings of all images.
        batch_size: Images per call of the pipeline.
        seed: Added to all seeds.
    """

    steps: tuple[int, ...] = (25, 50, 100, 200)
    pictures: tuple[int, ...] = (1, 4, 16)
    images: int = 16
    start: str = "picture"
    training: Mapping[str, Any] = field(default_factory=dict)
    sampling: Settings = field(default_factory=Settings)
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("steps", self.steps), ("pictures", self.pictures)):
            if not values or min(values) < 1 or list(values) != sorted(set(values)):
                raise InputError(
                    f"Expected ascending numbers of {name} from 1, got {list(values)}; use for "
                    "example 25, 50, 100."
                )
        if self.images < 2 or self.seed < 0:
            raise InputError(
                f"Expected 2 or more images and a seed of 0 or more, got {self.images} and "
                f"{self.seed}; raise them."
            )

    @property
    def spare_pictures(self) -> int:
        """Pictures that are drawn, of which those that show the concept are learnt from."""
        return _SPARE * self.pictures[-1]

    @property
    def training_steps(self) -> int:
        """Training steps of one erased concept: two models and the control."""
        return 3 * len(self.pictures) * self.steps[-1]

    @property
    def drawn_images(self) -> int:
        """Images that are drawn for one erased concept."""
        points = 3 * (1 + len(self.pictures) * len(self.steps)) + 2
        return self.spare_pictures + points * self.images


@dataclass(frozen=True)
class Point:
    """The event after images were drawn, or read from an earlier run.

    Attributes:
        done: Points measured so far.
        total: All points of the attack.
        concept: The concept.
        model: "original", "edited" or "unknown".
        pictures: Pictures that the token is learnt from; 0 at step 0 and for the concept's name.
        step: Training steps.
        recognised: Number of images that show the concept.
    """

    done: int
    total: int
    concept: str
    model: str
    pictures: int
    step: int
    recognised: int
