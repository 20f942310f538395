"""What every backend of a run shares: the cache, the progress bars, the engine, a few defaults."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from visdiff import registry
from visdiff.cache import Cache
from visdiff.config import EngineConfig

if TYPE_CHECKING:
    from visdiff.engine import Engine, ImageModel


def _no_cache() -> Cache:
    return Cache(mode="off")


@dataclass
class Runtime:
    """Where the backends of a run keep values, show progress and apply their models.

    Attributes:
        cache: Where captions, vectors and answers are kept; nothing is kept by default.
        progress: Show progress bars on stderr.
        engine: Where models are applied to many images; this machine when None.
    """

    cache: Cache = field(default_factory=_no_cache)
    progress: bool = False
    engine: "Engine | None" = None

    @classmethod
    def of(cls, settings: EngineConfig, cache: Cache | None = None, progress: bool = False) -> Self:
        """Makes the runtime of a configuration; without a cache nothing is kept."""
        where = settings.model_dump()
        engine = registry.load("engine", where.pop("backend"))(**where)
        return cls(_no_cache() if cache is None else cache, progress, engine)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hides progress bars for a while, such as those of repeated runs."""
        before, self.progress = self.progress, False
        try:
            yield
        finally:
            self.progress = before


class Backend(Protocol):
    """What captioners, proposers and rankers have in common; a backend inherits the defaults.

    Attributes:
        name: The backend's name in the registry.
        asks: Whether the number of questions to the chat model grows with the images.
        tokens_a_call: Tokens of such a question and of its reply, roughly.
    """

    name: ClassVar[str]
    asks: bool = False
    tokens_a_call: tuple[int, int] = (1100, 60)

    def __init__(self) -> None:
        """A backend without settings needs no constructor of its own."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What changes a result: backend, weights, prompt, decoding. JSON values."""
        ...

    @property
    def prompts(self) -> Mapping[str, str]:
        """Id of each prompt that is put to a chat model → its hash."""
        return {}

    @property
    def image_model(self) -> "ImageModel | None":
        """The local model that every image goes through, which can be loaded ahead; or None."""
        return None
