"""The base class of all requests, and the checks that they share."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from numbers import Real
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

from visdiff.errors import InputError


class Request:
    """One request to change or preserve concepts.

    Each kind is a subclass in `editing.requests.kinds`, a frozen dataclass, with an entry in
    `editing.requests.KINDS`. It declares its own fields and overrides the properties that differ
    from these defaults. A required field that has a default here needs ``= field()``; otherwise it
    would inherit the default.

    Attributes:
        kind: Name in files, messages and the tables of methods.
        removes: Whether the concept is removed, so that no other request can use it as a target.
        keeps_own: Whether the concept keeps its own value, to which others are added.
        lists: Field that a request file can fill from a text file, one text per line; "" for none.
        needs_images: Whether it is fitted to images, which a request file does not have.
        concept: The concept that is changed; "" for none.
        identifier: Token that names an instance of a class; "" for none.
        noun: The class noun of such an instance; "" for none.
        target: The concept drawn instead; "" for the empty prompt.
        ratios: Attribute → wanted share of the concept's images.
        scale: Weight relative to the other requests, > 0.
    """

    kind: ClassVar[str] = ""
    removes: ClassVar[bool] = False
    keeps_own: ClassVar[bool] = False
    lists: ClassVar[str] = ""
    needs_images: ClassVar[bool] = False
    concept: str = ""
    identifier: str = ""
    noun: str = ""
    target: str = ""
    ratios: Mapping[str, float] = MappingProxyType({})
    scale: float = 1.0

    @property
    def preserved(self) -> tuple[str, ...]:
        """Texts whose images are preserved."""
        return ()

    @property
    def named(self) -> tuple[str, ...]:
        """All texts that the request names."""
        return tuple(t for t in (self.concept, self.target, *self.ratios, *self.preserved) if t)

    @property
    def wording(self) -> str:
        """The concept as prompts have to write it; "" for the concept with its usual article."""
        return ""

    @property
    def applied_weights(self) -> Mapping[str, float]:
        """Text → weight of its value in the concept's new value; "" is the empty prompt."""
        return {self.target.strip(): 1.0} if self.concept else {}

    @property
    def needs_weights(self) -> bool:
        """Whether weights still have to be measured on images."""
        return False

    @property
    def sought(self) -> Mapping[str, str | float]:
        """Text to detect in the concept's images → "less", "more" or the wanted share."""
        return {self.concept: "less", **({self.target: "more"} if self.target else {})}

    def weighted(self, weights: Mapping[str, float]) -> "Request":
        """Returns the request with measured weights; unchanged if it has no attributes."""
        del weights
        return self

    def describe(self) -> str:
        """Returns the request as text: "erase church", "replace dog, draw cat instead"."""
        return f"{self.kind} {self.concept}" + (f", draw {self.target} instead" * bool(self.target))

    def to_dict(self) -> dict[str, Any]:
        """Returns the request as JSON values, including its kind."""
        values = {name: _plain(getattr(self, name)) for name in _fields(type(self))}
        return {"kind": self.kind, **values}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        # Pydantic reads results with requests in them (`editing.audits.record`).
        from pydantic_core import core_schema

        from editing.requests import from_dict

        return core_schema.no_info_plain_validator_function(from_dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Returns the request with these fields.

        Raises:
            InputError: A field is unknown or missing, or a value is not valid.
        """
        known = _fields(cls)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError(
                f"Expected {', '.join(known)} in a request to {cls.kind}, got "
                f"{', '.join(unknown)}; remove it or correct its name."
            )
        missing = [name for name, required in known.items() if required and name not in values]
        if missing:
            raise InputError(
                f"Expected {', '.join(missing)} in a request to {cls.kind}, got none; add it."
            )
        return cls(**values)


def normal(text: str) -> str:
    """Returns a text in the normal form used to compare concepts: case folded, single spaces."""
    return " ".join(text.split()).casefold()


def check_text(text: str, what: str) -> None:
    """Raises InputError if a field is not a text or is blank."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"Expected {what}, got {text!r}; give a word or phrase.")


def check_target(concept: str, target: str) -> None:
    """Raises InputError if a target is no text, or the concept itself."""
    if not isinstance(target, str):
        raise InputError(
            f"Expected a text as target of {concept!r}, got {target!r}; give a word or phrase."
        )
    if normal(concept) == normal(target):
        raise InputError(
            f"Expected a target that differs from the concept, got {target!r} for {concept!r}; "
            "name something else to draw."
        )


def check_scale(scale: float, concept: str) -> None:
    """Raises InputError if a scale is no positive number."""
    if not (is_number(scale) and 0 < scale < math.inf):
        raise InputError(
            f"Expected a scale above zero for {concept!r}, got {scale!r}; use 1 for the default."
        )


def is_number(value: object) -> bool:
    """Returns whether a value, perhaps of a file, is a number."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_numbers(values: object, what: str) -> None:
    """Raises InputError if values are no mapping to numbers."""
    if not isinstance(values, Mapping) or not all(map(is_number, values.values())):
        raise InputError(
            f"Expected {what} as a table of numbers, got {values!r}; write {{man = 0.5, woman = "
            "0.5}."
        )


def _fields(cls: type[Request]) -> dict[str, bool]:
    """Returns field → whether it is required."""
    return {
        f.name: f.default is MISSING and f.default_factory is MISSING
        for f in fields(cast(Any, cls))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
