"""What every request answers for itself, whatever its kind."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

from visdiff.errors import InputError


class Request:
    """One thing asked of an edit.

    A kind is a subclass in `editing.requests.kinds`, a frozen dataclass, and a row of
    `editing.requests.KINDS`. It declares its own fields and overrides the answers that differ from
    these defaults. A required field that is also named here needs ``= field()``; it would take the
    default from here otherwise.

    Attributes:
        kind: Name in files, messages and the tables of methods.
        removes: Whether no image should show the concept any more, so that nothing can aim at it.
        keeps_own: Whether the concept keeps its own value, to which others are added.
        lists: Field that a request file can fill from a text file, one text a line; "" for none.
        concept: What it changes; "" for nothing.
        target: What the concept's prompts draw instead; "" for nothing in particular.
        ratios: Attribute → wanted share of the concept's images.
        scale: Weight relative to the other requests, > 0.
    """

    kind: ClassVar[str] = ""
    removes: ClassVar[bool] = False
    keeps_own: ClassVar[bool] = False
    lists: ClassVar[str] = ""
    concept: str = ""
    target: str = ""
    ratios: Mapping[str, float] = MappingProxyType({})
    scale: float = 1.0

    @property
    def preserved(self) -> tuple[str, ...]:
        """Texts whose images stay as they are."""
        return ()

    @property
    def named(self) -> tuple[str, ...]:
        """Every text that it names."""
        return tuple(t for t in (self.concept, self.target, *self.ratios, *self.preserved) if t)

    @property
    def applied_weights(self) -> Mapping[str, float]:
        """Text → weight of its value in the concept's new value; "" is the empty prompt."""
        return {self.target.strip(): 1.0} if self.concept else {}

    @property
    def needs_weights(self) -> bool:
        """Whether its weights have to be measured on images and have not been."""
        return False

    @property
    def sought(self) -> Mapping[str, str | float]:
        """Text to look for in the concept's images → "less", "more" or the wanted share."""
        return {self.concept: "less", **({self.target: "more"} if self.target else {})}

    def weighted(self, weights: Mapping[str, float]) -> "Request":
        """Returns the request with measured weights; one without attributes as it is."""
        del weights
        return self

    def describe(self) -> str:
        """Returns the request in words: "erase church", "replace dog, draw cat instead"."""
        return f"{self.kind} {self.concept}" + (f", draw {self.target} instead" * bool(self.target))

    def to_dict(self) -> dict[str, Any]:
        """Returns the request as JSON values, with its kind."""
        values = {name: _plain(getattr(self, name)) for name in _fields(type(self))}
        return {"kind": self.kind, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Returns the request of these fields.

        Raises:
            InputError: A field is unknown or missing, or the request is not sound.
        """
        known = _fields(cls)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError(
                f"Expected {', '.join(known)} in a request to {cls.kind}, got {', '.join(unknown)}."
            )
        missing = [name for name, required in known.items() if required and name not in values]
        if missing:
            raise InputError(f"Expected {', '.join(missing)} in a request to {cls.kind}, got none.")
        return cls(**values)


def normal(text: str) -> str:
    """Returns a text as concepts are compared: case and spacing do not count."""
    return " ".join(text.split()).casefold()


def check_text(text: str, what: str) -> None:
    """Makes sure that a field holds a text that is not blank."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"Expected {what}, got {text!r}; give a word or phrase.")


def check_target(concept: str, target: str) -> None:
    """Makes sure that a concept and its target differ."""
    if normal(concept) == normal(target):
        raise InputError(
            f"Expected a target that differs from the concept, got {target!r} for {concept!r}; "
            "name something else to draw."
        )


def check_scale(scale: float, concept: str) -> None:
    """Makes sure that a scale is positive."""
    if not scale > 0:
        raise InputError(f"Expected a scale above zero for {concept!r}, got {scale!r}.")


def _fields(cls: type[Request]) -> dict[str, bool]:
    """Field → whether it is required."""
    return {
        f.name: f.default is MISSING and f.default_factory is MISSING
        for f in fields(cast(Any, cls))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
