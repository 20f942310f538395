"""What the settings of all backends have in common."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1, description="Images per batch.")]
Workers = Annotated[int, Field(ge=1, description="Threads that decode images.")]
Revision = Annotated[
    str | None, Field(description="Commit, tag or branch of the model on the hub.")
]
Pretrained = Annotated[str | None, Field(description="Weights of open_clip: a tag or a file.")]


class Frozen(BaseModel):
    """Immutable settings; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackendConfig(Frozen):
    """The settings of a backend.

    Attributes:
        backend: Its name in the registry, or "module:Class".
    """

    #: Fields that are not passed to the constructor.
    _not_passed: ClassVar[frozenset[str]] = frozenset({"backend"})
    backend: Any  # a literal in each of the built-in ones

    def arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments of the backend's constructor."""
        arguments = self.model_dump(exclude=set(self._not_passed))
        if arguments.get("model") is None:
            # Without a model, the backend uses its default model with matching defaults.
            arguments = {name: value for name, value in arguments.items() if value is not None}
        return arguments
