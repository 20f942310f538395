"""What the settings of all methods share, and those of the closed-form methods.

A family of methods has one validated table; each method has its own defaults.
"""

import difflib
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from visdiff.errors import InputError

Tokens = Literal["last", "last+eos+pad", "words+eos+pad", "all", "aligned"]
"""Which positions of a prompt stand for its concept.

``last``: the concept's last token. ``last+eos+pad``: that, the end token and the padding, where
CLIP gathers what a prompt means. ``words+eos+pad``: all of the concept's tokens beside these, or
the first word of an erased "palm tree" goes on colouring what is drawn; but it has the same vector
in all prompts that begin like that, so not for "van gogh" where vans shall stay. ``all``: every
position. ``aligned``: every position, each token meeting the same token of the target, in order
(TIME).
"""


class MethodConfig(BaseModel):
    """Settings of a family of methods: frozen, validated, changed by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: ClassVar[str]
    """What the family is called in an error."""

    templates: tuple[str, ...] = Field(
        default=("{}",), min_length=1, description="Prompts that each concept is put in at {}."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template holds {{}} once, {template!r} does not")
        return self

    def changed(self, **values: Any) -> Self:
        """Returns the settings with some changed.

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
                f"Expected sound settings, got {where or 'the settings'}: {first['msg']}."
            ) from error


class LinearConfig(MethodConfig):
    """What a closed-form method is told beside the requests.

    Exactly one of ``lam`` and ``lam_rel`` is set.
    """

    family: ClassVar[str] = "closed-form methods"

    tokens: Tokens = "last+eos+pad"
    lam: float | None = Field(default=None, ge=0, description="λ in absolute units.")
    lam_rel: float | None = Field(default=None, ge=0, description="λ in units of tr(B) / d.")
    erase_scale: float = Field(default=1.0, gt=0)
    preserve_scale: float | None = Field(
        default=0.1, gt=0, description="None: max(0.1, 1 / number of preserved texts)."
    )
    null_scale: float = Field(default=0.1, ge=0, description="Of ''; 0 leaves it free.")
    corpus_scale: float = Field(
        default=1.0, gt=0, description="Of the corpus's second moment, per edited vector."
    )
    pooled: Literal["edit", "leave"] = Field(
        default="edit", description="What to do with SDXL's pooled embedding."
    )
    epochs: int = Field(default=1, ge=1, description="rece: how often to revive and erase again.")
    revive_rel: float = Field(
        default=1e-3, gt=0, description="rece: ridge of the revival, in units of tr(S) / d."
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.lam is None) == (self.lam_rel is None):
            raise ValueError("give exactly one of lam and lam_rel")
        return self

    def changed(self, **values: Any) -> Self:
        """Returns the settings with some changed; a λ of one kind takes the place of the other.

        Raises:
            InputError: A name is unknown or a value is out of range.
        """
        if "lam" in values and "lam_rel" not in values:
            values["lam_rel"] = None
        if "lam_rel" in values and "lam" not in values:
            values["lam"] = None
        return super().changed(**values)
