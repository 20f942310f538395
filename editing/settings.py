"""The base classes of all methods' settings, and the settings of the closed-form methods.

A family of methods has one validated model of settings; each method has its own defaults.
"""

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from visdiff.errors import InputError

Tokens = Literal["last", "last+eos+pad", "words+eos+pad", "all", "aligned"]
"""Which positions of a prompt represent its concept.

``last``: the last token of the concept. ``last+eos+pad``: also the end token and the padding, where
CLIP aggregates the meaning of a prompt. ``words+eos+pad``: all tokens of the concept, the end token
and the padding. With it, the first word of an erased "palm tree" no longer affects images; but that
word has the same vector in every prompt that begins alike, so erasing "van gogh" would also affect
"van". ``all``: every position. ``aligned``: every position, each token matched to the same token of
the target, in order, with "an" as "a" (TIME).
"""


class _Settings(BaseModel):
    """Validated, immutable settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: ClassVar[str]
    """Name of the family in error messages."""

    def changed(self, **values: Any) -> Self:
        """Returns the settings with some values replaced.

        Raises:
            InputError: A name is unknown or a value is out of range.
        """
        known = list(type(self).model_fields)
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise InputError(
                    f"Expected a setting of {self.family}, got {name!r}{hint}; choose from "
                    f"{', '.join(known)}."
                )
        try:
            return type(self)(**self.model_dump() | values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"Expected valid settings, got {where or 'the settings'} ({first['msg']}); "
                "correct it."
            ) from error


class MethodConfig(_Settings):
    """Settings of a family of methods: everything that determines an edit."""

    templates: tuple[str, ...] = Field(
        default=("{}",),
        min_length=1,
        description="Prompts in which {} is replaced by each concept.",
    )

    @model_validator(mode="after")
    def _check_templates(self) -> Self:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template must contain {{}} once, {template!r} does not")
        return self


class RunConfig(_Settings):
    """Settings of a fit that do not change its edit: what it reports and what it stores."""

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Checks those of some settings that are its own, and returns the others.

        Raises:
            InputError: A value is out of range.
        """
        own = type(self).model_fields.keys() & settings.keys()
        self.changed(**{name: settings[name] for name in own})
        return {name: value for name, value in settings.items() if name not in own}


class LinearRun(RunConfig):
    """Settings of the fit of a closed-form method."""

    family: ClassVar[str] = "closed-form methods"

    nearest: int = Field(
        default=5,
        ge=0,
        description="Nearest words of each changed concept whose spill is measured.",
    )


class LinearConfig(MethodConfig):
    """Settings of a closed-form method.

    Exactly one of ``lam`` and ``lam_rel`` is set.
    """

    family: ClassVar[str] = "closed-form methods"

    tokens: Tokens = Field(
        default="last+eos+pad", description="Positions of a prompt that represent its concept."
    )
    lam: float | None = Field(
        default=None, ge=0, description="λ, absolute; lam or lam_rel is set, not both."
    )
    lam_rel: float | None = Field(default=None, ge=0, description="λ, in units of tr(B) / d.")
    erase_scale: float = Field(default=1.0, gt=0, description="Weight of changed concepts.")
    preserve_scale: float | None = Field(
        default=0.1,
        gt=0,
        description="Weight of preserved texts; none: max(0.1, 1 / number of texts).",
    )
    null_scale: float = Field(
        default=0.1, ge=0, description="Weight of the empty prompt; 0 does not preserve it."
    )
    corpus_scale: float = Field(
        default=1.0,
        gt=0,
        description="Weight of the second moment of the corpus, per edited vector.",
    )
    pooled: Literal["edit", "leave"] = Field(
        default="edit", description="Whether SDXL's pooled embedding is edited."
    )

    @model_validator(mode="after")
    def _check_lambda(self) -> Self:
        if (self.lam is None) == (self.lam_rel is None):
            raise ValueError("set exactly one of lam and lam_rel")
        return self

    def changed(self, **values: Any) -> Self:
        """Returns the settings with some values replaced; `lam` and `lam_rel` replace each other.

        Raises:
            InputError: A name is unknown or a value is out of range.
        """
        if "lam" in values and "lam_rel" not in values:
            values["lam_rel"] = None
        if "lam_rel" in values and "lam" not in values:
            values["lam"] = None
        return super().changed(**values)


class ReceConfig(LinearConfig):
    """Settings of RECE: those of its first solve, and those of its rounds."""

    epochs: int = Field(
        default=1, ge=1, description="Rounds of search and erasure after the first solve."
    )
    revive_lam: float = Field(
        default=1e-3, gt=0, description="Ridge of the search for reviving vectors, absolute."
    )
    round_lam: float = Field(default=0.1, gt=0, description="λ of each round's solve, absolute.")
    round_preserve_scale: float = Field(
        default=0.1,
        ge=0,
        description="Weight of the empty prompt and of preserved texts in each round.",
    )
