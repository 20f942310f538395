"""The kinds of requests: erase, replace, debias, moderate, preserve, learn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar

from editing.requests.base import (
    Request,
    check_numbers,
    check_scale,
    check_target,
    check_text,
    normal,
)
from editing.requests.wording import subject_phrase
from visdiff.errors import InputError


@dataclass(frozen=True)
class Erase(Request):
    """A request to map a concept to a target, by default to the empty prompt.

    Attributes:
        concept: The concept to erase.
        target: The concept that its prompts draw instead; "" for the empty prompt. A close but
            distinct concept ("English springer" → "dog") affects other concepts less.
        scale: Weight of this request relative to the others, > 0.
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
    """A request to draw another concept for a concept's prompts.

    Attributes:
        concept: The concept to replace.
        target: The concept drawn instead.
        scale: Weight of this request relative to the others, > 0.
    """

    kind: ClassVar[str] = "replace"
    concept: str = field()
    target: str = field()
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_text(self.concept, "a concept to replace")
        check_target(self.concept, self.target)
        if not self.target.strip():
            raise InputError(
                f"Expected a target to draw instead of {self.concept!r}, got an empty text; use "
                "Erase for the empty prompt."
            )
        check_scale(self.scale, self.concept)


@dataclass(frozen=True)
class Debias(Request):
    """A request to change how often a concept is drawn with each of several attributes.

    The concept's new value is its own plus a weighted sum of the attributes' values (UCE). The
    weights that reach the wanted ratios cannot be computed from text alone; a control loop sets
    them by measuring generated images.

    Attributes:
        concept: The concept, such as "firefighter".
        ratios: Attribute → wanted share; two or more, each > 0, summing to one.
        weights: Attribute → weight of its value. None if they are not measured yet; the ratios are
            used in their place.
        scale: Weight of this request relative to the others, > 0.
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
        check_numbers(self.ratios, f"the shares of {self.concept!r}")
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
                    f"Expected attributes that differ from the concept {self.concept!r}, got the "
                    "concept itself; leave it out."
                )
            if not share > 0:
                raise InputError(
                    f"Expected shares above zero, got {attribute} = {share:g} for "
                    f"{self.concept!r}; leave out attributes that should not be changed."
                )
        total = sum(self.ratios.values())
        if abs(total - 1) > 1e-6:
            shares = ", ".join(f"{a} = {s:g}" for a, s in self.ratios.items())
            raise InputError(
                f"Expected ratios that sum to one for {self.concept!r}, got {shares} (sum "
                f"{total:g}); divide them by their sum."
            )
        if self.weights is not None:
            check_numbers(self.weights, f"the weights of {self.concept!r}")
            object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
            if set(self.weights) != set(self.ratios):
                raise InputError(
                    f"Expected one weight for each of {', '.join(self.ratios)} to debias "
                    f"{self.concept!r}, got {', '.join(self.weights) or 'none'}; name the "
                    "same attributes."
                )

    def __hash__(self) -> int:
        # Equal requests may have their attributes in another order.
        return hash((self.concept, frozenset(self.ratios.items()), self.scale))

    @property
    def applied_weights(self) -> dict[str, float]:
        """Attribute → weight that is used."""
        return dict(self.ratios if self.weights is None else self.weights)

    @property
    def needs_weights(self) -> bool:
        """Whether weights are not measured yet and the ratios are used in their place."""
        return self.weights is None

    @property
    def sought(self) -> Mapping[str, str | float]:
        """Attribute → wanted share."""
        return self.ratios

    def weighted(self, weights: Mapping[str, float]) -> "Debias":
        """Returns the request with measured weights."""
        return replace(self, weights=weights)

    def describe(self) -> str:
        """Returns the request as text: "debias judge: man 50%, woman 50%"."""
        shares = ", ".join(f"{a} {s:.0%}" for a, s in self.ratios.items())
        return f"debias {self.concept}: {shares}"


@dataclass(frozen=True)
class Moderate(Request):
    """A request to draw for an unsafe concept's prompts what the empty prompt draws.

    Attributes:
        concept: The unsafe concept.
        scale: Weight of this request relative to the others, > 0.
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
    """A request to keep concepts unchanged.

    Attributes:
        concepts: Phrases or complete prompts; a single text may be passed as a string.
        scale: Weight of this request relative to other preserve requests, > 0.
    """

    kind: ClassVar[str] = "preserve"
    lists: ClassVar[str] = "concepts"
    concepts: Sequence[str]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.concepts, Iterable):
            raise InputError(
                f"Expected concepts to preserve as a list of texts, got {self.concepts!r}; write "
                '["a house"].'
            )
        texts = (self.concepts,) if isinstance(self.concepts, str) else tuple(self.concepts)
        object.__setattr__(self, "concepts", tuple(dict.fromkeys(texts)))
        if not texts:
            raise InputError("Expected at least one concept to preserve, got none; add one.")
        for text in texts:
            check_text(text, "a concept to preserve")
        check_scale(self.scale, texts[0])

    @property
    def preserved(self) -> tuple[str, ...]:
        """The concepts."""
        return tuple(self.concepts)

    @property
    def sought(self) -> Mapping[str, str | float]:
        """Empty; preserved concepts are measured by their drift."""
        return {}

    def describe(self) -> str:
        """Returns the request as text: "preserve a castle, a house"."""
        return f"preserve {', '.join(self.concepts)}"


@dataclass(frozen=True)
class Learn(Request):
    """A request to draw a subject, known from images, for an identifier.

    Attributes:
        identifier: The token that names the subject, "olis".
        noun: Its class noun, "dog".
        images: Digest of its images and captions.
        scale: Without meaning for this kind; 1.
    """

    kind: ClassVar[str] = "learn"
    needs_images: ClassVar[bool] = True
    identifier: str = field()
    noun: str = field()
    images: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_text(self.identifier, "an identifier of a subject")
        check_text(self.noun, f"a class noun of the subject {self.identifier!r}")

    @property
    def concept(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The subject in prompts, "olis dog"."""
        return f"{self.identifier} {self.noun}"

    @property
    def named(self) -> tuple[str, ...]:
        """The subject and its class noun."""
        return (self.concept, self.noun)

    @property
    def wording(self) -> str:
        """The subject as its training captions name it, "a olis dog"."""
        return subject_phrase(self.identifier, self.noun)

    @property
    def sought(self) -> Mapping[str, str | float]:
        """The subject, to be seen more often."""
        return {self.concept: "more"}
