"""What can be asked of a closed-form edit: typed requests, and what makes a list of them sound.

A concept is a phrase as it would stand in a prompt ("church", "van gogh"). Requests of any kind may
be mixed in one list; they are solved together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from visdiff.errors import InputError


@dataclass(frozen=True)
class Erase:
    """Make a concept mean something else, nothing in particular by default.

    Attributes:
        concept: What to erase.
        target: What its prompts shall draw instead; "" stands for the empty prompt. A near but
            distinct concept ("English springer" → "dog") disturbs others less.
        scale: Weight of this request beside the others, > 0.
    """

    kind: ClassVar[str] = "erase"
    concept: str
    target: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        _text(self.concept, "a concept to erase")
        _different(self.concept, self.target)
        _positive(self.scale, self.concept)


@dataclass(frozen=True)
class Replace:
    """Make a concept's prompts draw another concept.

    Attributes:
        concept: What is replaced.
        target: What is drawn instead.
        scale: Weight of this request beside the others, > 0.
    """

    kind: ClassVar[str] = "replace"
    concept: str
    target: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        _text(self.concept, "a concept to replace")
        if not self.target.strip():
            raise InputError(
                f"Expected what to draw instead of {self.concept!r}, got an empty text; use Erase "
                "to draw nothing in particular."
            )
        _different(self.concept, self.target)
        _positive(self.scale, self.concept)


@dataclass(frozen=True)
class Debias:
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
    concept: str
    ratios: Mapping[str, float]
    weights: Mapping[str, float] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        _text(self.concept, "a concept to debias")
        _positive(self.scale, self.concept)
        object.__setattr__(self, "ratios", MappingProxyType(dict(self.ratios)))
        if len(self.ratios) < 2:
            raise InputError(
                f"Expected two or more attributes to debias {self.concept!r}, got "
                f"{len(self.ratios)}; name each with its wanted share."
            )
        for attribute, share in self.ratios.items():
            _text(attribute, f"an attribute to debias {self.concept!r}")
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


@dataclass(frozen=True)
class Moderate:
    """Make an unsafe concept's prompts draw what the empty prompt draws.

    Attributes:
        concept: What must not be drawn.
        scale: Weight of this request beside the others, > 0.
    """

    kind: ClassVar[str] = "moderate"
    concept: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        _text(self.concept, "a concept to moderate")
        _positive(self.scale, self.concept)


@dataclass(frozen=True)
class Preserve:
    """Hold concepts where they are.

    Attributes:
        concepts: Phrases or whole prompts; one text alone may be given as it is.
        scale: Weight of this request beside the other preserved ones, > 0.
    """

    kind: ClassVar[str] = "preserve"
    concepts: Sequence[str]
    scale: float = 1.0

    def __post_init__(self) -> None:
        texts = (self.concepts,) if isinstance(self.concepts, str) else tuple(self.concepts)
        object.__setattr__(self, "concepts", tuple(dict.fromkeys(texts)))
        if not texts:
            raise InputError("Expected at least one concept to preserve, got none.")
        for text in texts:
            _text(text, "a concept to preserve")
        _positive(self.scale, texts[0])


Change = Erase | Replace | Debias | Moderate
"""A request that changes what a concept draws."""
Request = Change | Preserve
"""Anything that can be asked."""

_KINDS: dict[str, type] = {c.kind: c for c in (Erase, Replace, Debias, Moderate, Preserve)}


def target_of(request: Change) -> str:
    """Returns the text whose value a concept takes: "" for nothing in particular.

    A debiased concept keeps its own, plus its attributes'.
    """
    match request:
        case Erase() | Replace():
            return request.target
        case Debias():
            return request.concept
        case Moderate():
            return ""


def checked(requests: Sequence[Request]) -> tuple[Request, ...]:
    """Returns requests without exact repetitions, after making sure that they can all be met.

    Raises:
        InputError: Nothing is to be changed; two requests want different things of one concept; a
            preserved concept is also changed; or a target or attribute is itself erased.
    """
    unique: list[Request] = []
    for request in requests:
        if type(request) not in _KINDS.values():
            raise InputError(
                "Expected requests (Erase, Replace, Debias, Moderate, Preserve), got "
                f"{type(request).__name__}."
            )
        if request not in unique:
            unique.append(request)
    changes = [r for r in unique if not isinstance(r, Preserve)]
    if not changes:
        raise InputError(
            "Expected at least one concept to erase, replace, debias or moderate, got none; "
            "a model that shall only stay as it is needs no edit."
        )
    by_concept: dict[str, Change] = {}
    for request in changes:
        other = by_concept.setdefault(normal(request.concept), request)
        if other is not request:
            raise InputError(
                f"Expected one request a concept, got {_said(other)} and {_said(request)}; they "
                "contradict each other: keep one."
            )
    for request in unique:
        if isinstance(request, Preserve):
            for text in request.concepts:
                if normal(text) in by_concept:
                    raise InputError(
                        f"Expected preserved concepts that no request changes, got {text!r}, which "
                        f"{_said(by_concept[normal(text)])} changes; take it off the preserve list."
                    )
    gone = {n for n, r in by_concept.items() if isinstance(r, (Erase, Moderate))}
    for request in changes:
        used = list(request.ratios) if isinstance(request, Debias) else [target_of(request)]
        for text in used:
            if text.strip() and normal(text) in gone:
                raise InputError(
                    f"Expected targets that stay in the model, got {_said(request)} beside "
                    f"{_said(by_concept[normal(text)])}; they contradict each other."
                )
    return tuple(unique)


def normal(text: str) -> str:
    """Returns a text as concepts are compared: case and spacing do not count."""
    return " ".join(text.split()).casefold()


def to_dict(request: Request) -> dict[str, Any]:
    """Returns a request as JSON writes it, with its kind."""
    if isinstance(request, Debias):
        weights = None if request.weights is None else dict(request.weights)
        return {
            "kind": request.kind,
            "concept": request.concept,
            "ratios": dict(request.ratios),
            "weights": weights,
            "scale": request.scale,
        }
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(request).items()}
    return {"kind": request.kind, **values}


def from_dict(values: Mapping[str, Any]) -> Request:
    """Reads what `to_dict` wrote, or a table of a request file.

    Raises:
        InputError: The kind or a field is unknown, or the request is not sound.
    """
    kind = values.get("kind")
    cls = _KINDS.get(str(kind))
    if cls is None:
        raise InputError(f"Expected a request of kind {', '.join(_KINDS)}, got {kind!r}.")
    known = [f.name for f in fields(cls) if f.init]
    given = {k: v for k, v in values.items() if k != "kind"}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(
            f"Expected {', '.join(known)} in a request to {kind}, got {', '.join(unknown)}."
        )
    missing = [f for f in known if f not in given and f in ("concept", "ratios", "concepts")]
    if kind == "replace" and "target" not in given:
        missing.append("target")
    if missing:
        raise InputError(f"Expected {', '.join(missing)} in a request to {kind}, got none.")
    return cls(**given)


def _said(request: Request) -> str:
    match request:
        case Erase() | Replace():
            return f"{type(request).__name__}({request.concept!r} → {request.target!r})"
        case Debias() | Moderate():
            return f"{type(request).__name__}({request.concept!r})"
        case Preserve():
            return "Preserve"


def _text(text: str, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"Expected {what}, got {text!r}; give a word or phrase.")


def _different(concept: str, target: str) -> None:
    if normal(concept) == normal(target):
        raise InputError(
            f"Expected a target that differs from the concept, got {target!r} for {concept!r}; "
            "name something else to draw."
        )


def _positive(scale: float, concept: str) -> None:
    if not scale > 0:
        raise InputError(f"Expected a scale above zero for {concept!r}, got {scale!r}.")
