"""The kinds of requests: what each is, and what it answers differently from the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar

from editing.requests.base import Request, check_scale, check_target, check_text, normal
from visdiff.errors import InputError


@dataclass(frozen=True)
class Erase(Request):
    """Make a concept mean something else, nothing in particular by default.

    Attributes:
        concept: What to erase.
        target: What its prompts shall draw instead; "" stands for the empty prompt. A near but
            distinct concept ("English springer" → "dog") disturbs others less.
        scale: Weight of this request beside the others, > 0.
    """

    kind: ClassVar[str] = "erase"
    removes: ClassVar[bool] = True
    concept: str = field()
    target: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_text(self.concept, "a concept to erase")
        check_target(self.concept, self.target)
        check_scale(self.scale, self.concept)


@dataclass(frozen=True)
class Replace(Request):
    """Make a concept's prompts draw another concept.

    Attributes:
        concept: What is replaced.
        target: What is drawn instead.
        scale: Weight of this request beside the others, > 0.
    """

    kind: ClassVar[str] = "replace"
    concept: str = field()
    target: str = field()
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_text(self.concept, "a concept to replace")
        if not self.target.strip():
            raise InputError(
                f"Expected what to draw instead of {self.concept!r}, got an empty text; use Erase "
                "to draw nothing in particular."
            )
        check_target(self.concept, self.target)
        check_scale(self.scale, self.concept)


@dataclass(frozen=True)
class Debias(Request):
    """Change how often a concept is drawn with each of several attributes.

    The concept's value becomes its own plus a weighted sum of the attributes' (UCE). Which weights
    reach the wanted ratios cannot be computed from text alone: a control loop measures images and
    sets them.

    Attributes:
        concept: The concept, "firefighter".
        ratios: Attribute → wanted share; two or more, each > 0, summing to one.
        weights: Attribute → weight of its value; None until they are measured, and then the ratios
            stand in for them.
        scale: Weight of this request beside the others, > 0.
    """

    kind: ClassVar[str] = "debias"
    keeps_own: ClassVar[bool] = True
    concept: str = field()
    ratios: Mapping[str, float] = field()
    weights: Mapping[str, float] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_text(self.concept, "a concept to debias")
        check_scale(self.scale, self.concept)
        object.__setattr__(self, "ratios", MappingProxyType(dict(self.ratios)))
        if len(self.ratios) < 2:
            raise InputError(
                f"Expected two or more attributes to debias {self.concept!r}, got "
                f"{len(self.ratios)}; name each with its wanted share."
            )
        for attribute, share in self.ratios.items():
            check_text(attribute, f"an attribute to debias {self.concept!r}")
            if normal(attribute) == normal(self.concept):
                raise InputError(
                    f"Expected attributes that differ from the concept {self.concept!r}, got it "
                    "among them; leave it out."
                )
            if not share > 0:
                raise InputError(
                    f"Expected shares above zero, got {attribute} = {share:g} for "
                    f"{self.concept!r}; leave the attribute out if it shall not be steered."
                )
        total = sum(self.ratios.values())
        if abs(total - 1) > 1e-6:
            shares = ", ".join(f"{a} = {s:g}" for a, s in self.ratios.items())
            raise InputError(
                f"Expected ratios that sum to one for {self.concept!r}, got {shares} (sum "
                f"{total:g}); give shares of all images."
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
            if set(self.weights) != set(self.ratios):
                raise InputError(
                    f"Expected one weight for each of {', '.join(self.ratios)} to debias "
                    f"{self.concept!r}, got {', '.join(self.weights) or 'none'}."
                )

    def __hash__(self) -> int:
        return hash((self.concept, tuple(self.ratios.items()), self.scale))

    @property
    def applied_weights(self) -> dict[str, float]:
        """Attribute → the weight that is used."""
        return dict(self.ratios if self.weights is None else self.weights)

    @property
    def needs_weights(self) -> bool:
        """Whether the ratios stand in for weights that nobody has measured."""
        return self.weights is None

    @property
    def sought(self) -> Mapping[str, str | float]:
        """Attribute → wanted share."""
        return self.ratios

    def weighted(self, weights: Mapping[str, float]) -> "Debias":
        """Returns the request with measured weights."""
        return replace(self, weights=weights)

    def describe(self) -> str:
        """Returns the request in words: "debias judge: man 50%, woman 50%"."""
        shares = ", ".join(f"{a} {s:.0%}" for a, s in self.ratios.items())
        return f"debias {self.concept}: {shares}"


@dataclass(frozen=True)
class Moderate(Request):
    """Make an unsafe concept's prompts draw what the empty prompt draws.

    Attributes:
        concept: What must not be drawn.
        scale: Weight of this request beside the others, > 0.
    """

    kind: ClassVar[str] = "moderate"
    removes: ClassVar[bool] = True
    concept: str = field()
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_text(self.concept, "a concept to moderate")
        check_scale(self.scale, self.concept)


@dataclass(frozen=True)
class Preserve(Request):
    """Hold concepts where they are.

    Attributes:
        concepts: Phrases or whole prompts; one text alone may be given as it is.
        scale: Weight of this request beside the other preserved ones, > 0.
    """

    kind: ClassVar[str] = "preserve"
    lists: ClassVar[str] = "concepts"
    concepts: Sequence[str]
    scale: float = 1.0

    def __post_init__(self) -> None:
        texts = (self.concepts,) if isinstance(self.concepts, str) else tuple(self.concepts)
        object.__setattr__(self, "concepts", tuple(dict.fromkeys(texts)))
        if not texts:
            raise InputError("Expected at least one concept to preserve, got none.")
        for text in texts:
            check_text(text, "a concept to preserve")
        check_scale(self.scale, texts[0])

    @property
    def preserved(self) -> tuple[str, ...]:
        """The concepts."""
        return tuple(self.concepts)

    @property
    def sought(self) -> Mapping[str, str | float]:
        """Nothing: what is preserved is measured as drift."""
        return {}

    def describe(self) -> str:
        """Returns the request in words: "preserve a castle, a house"."""
        return f"preserve {', '.join(self.concepts)}"
