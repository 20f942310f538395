"""The cells of MiniDreamBench: which models are trained for which question."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from slots import Slot
from subjects import SUBJECTS, Bias, Case

PRIORS = ("none", "prompt", "structured", "teacher")
BIASES: tuple[Bias, ...] = ("background", "nearby", "tied", "style", "pose")
SID_METHODS = ("dreambooth", "custom-diffusion", "svdiff", "textual-inversion")
CURVE = (75, 150, 300, 600)
"""Training steps at which a curve is measured."""

_ALL = tuple(known.name for known in SUBJECTS)
_THREE = ("fox", "teapot", "racing car")


@dataclass(frozen=True)
class Cell:
    """One model to train.

    Attributes:
        subject: Name of the subject.
        method: Name of the method; "untaught" for the base.
        prior: Name of the prior.
        case: Case of the captions.
        bias: What the references have in common.
        references: Number of references.
        class_images: Number of class images.
        steps: Training steps at which the model is measured, ascending.
        samples: Images measured of the identifier and of the noun; a prompt gets an eighth.
        without: Slot left out of the prompts of structured class images.
    """

    subject: str
    method: str = "dreambooth"
    prior: str = "none"
    case: Case = 3
    bias: Bias = "none"
    references: int = 4
    class_images: int = 64
    steps: tuple[int, ...] = CURVE
    samples: int = 8
    without: Slot = ""


def _untaught() -> Iterable[Cell]:
    return [Cell(s, "untaught", steps=(0,)) for s in _ALL]


def _priors() -> Iterable[Cell]:
    return [Cell(s, prior=p) for s in _ALL for p in PRIORS]


def _priors_large() -> Iterable[Cell]:
    """A second attempt at the claims of `priors`: 400 class images, four times the measurements."""
    untaught = [Cell(s, "untaught", class_images=400, steps=(0,), samples=32) for s in _ALL]
    taught = [
        Cell(s, prior=p, class_images=400, steps=(300, 600), samples=32)
        for s in _ALL
        for p in ("prompt", "structured")
    ]
    return [*untaught, *taught]


def _methods() -> Iterable[Cell]:
    methods = ("lora", "custom-diffusion", "svdiff", "textual-inversion")
    priors = ("structured", "prompt", "none")
    return [Cell(s, m, p, steps=(150, 600)) for s in _THREE for m in methods for p in priors]


def _sid() -> Iterable[Cell]:
    """Every method and bias with plain captions and with SID's, and from a single reference.

    Without a prior: with class images of one prompt, 400 steps of DreamBooth teach the bundled
    model neither the subject nor what surrounds it.
    """
    conditions: list[tuple[Bias, int]] = [*((bias, 4) for bias in BIASES), ("none", 1)]
    return [
        Cell(_ALL[(3 * i + shift) % 8], method, "none", case, bias, count, steps=(300,))
        for shift in (0, 4)
        for i, (bias, count) in enumerate(conditions)
        for method in SID_METHODS
        for case in (1, 3)
    ]


def _sid_longer() -> Iterable[Cell]:
    """A second attempt with textual inversion, whose published runs have 3,000 steps."""
    return [replace(c, steps=(1000,)) for c in _sid() if c.method == "textual-inversion"]


def _cases() -> Iterable[Cell]:
    """The cases that `sid` leaves out, with DreamBooth."""
    return [
        Cell(_ALL[(3 * i) % 8], "dreambooth", "none", case, bias, steps=(300,))
        for i, bias in enumerate(BIASES)
        for case in (2, 4)
    ]


def _both() -> Iterable[Cell]:
    """Structured class images, SID's captions, both, and neither, on biased references."""
    return [
        Cell(s, "dreambooth", prior, case, "background", steps=(300,))
        for s in _THREE
        for prior in ("none", "structured")
        for case in (1, 3)
    ]


def _sizes() -> Iterable[Cell]:
    """20, 100 and 400 class images; 1, 2 and 4 references."""
    return [
        *(
            Cell("fox", prior="structured", class_images=n, steps=(300, 600))
            for n in (20, 100, 400)
        ),
        *(
            Cell(s, prior="structured", references=n, steps=(300, 600))
            for s in ("fox", "teapot")
            for n in (1, 2)
        ),
    ]


def _slots() -> Iterable[Cell]:
    """Structured class images with all slots, as in `priors`, and with each left out."""
    slots: tuple[Slot, ...] = ("style", "setting", "against")
    whole = [Cell(s, prior="structured") for s in _THREE]
    left_out = [
        Cell(s, prior="structured", steps=(300, 600), without=w) for s in _THREE for w in slots
    ]
    return [*whole, *left_out]


EXPERIMENTS: Mapping[str, tuple[Cell, ...]] = {
    name: tuple(cells())
    for name, cells in {
        "untaught": _untaught,
        "priors": _priors,
        "priors-large": _priors_large,
        "sid": _sid,
        "sid-longer": _sid_longer,
        "both": _both,
        "methods": _methods,
        "cases": _cases,
        "sizes": _sizes,
        "slots": _slots,
    }.items()
}
"""Experiment → its cells, in the order in which they are run."""
