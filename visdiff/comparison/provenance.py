"""Where a report comes from: versions, models, time, cache."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata

from visdiff.comparison.backends import Backends
from visdiff.config import Config
from visdiff.hashing import digest_bytes
from visdiff.results import Provenance

_PACKAGES = (
    "visdiff",
    "torch",
    "open_clip_torch",
    "transformers",
    "diffusers",
    "scikit-learn",
    "scipy",
    "numpy",
    "pandas",
    "pillow",
)


class Stopwatch:
    """Measures the stages of a run: ``with stopwatch("rank"): …``; ``seconds`` has the sums."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 3)


def versions() -> dict[str, str]:
    """The installed versions of the packages that can change a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _device(name: str) -> str:
    """Where models ran; "none" when everything came from the cache or from elsewhere."""
    # Torch takes two seconds to import, and what was not imported has not run.
    if "torch" not in sys.modules:
        return "none"
    from visdiff.engine import resolve_device

    return resolve_device(name)


def provenance(
    config: Config, backends: Backends, seconds: Mapping[str, float], *, captioned: bool
) -> Provenance:
    """Collects what is needed to make a report again.

    Args:
        config: The configuration.
        backends: The models made from it, after their use.
        seconds: Stage → time.
        captioned: Whether the captioner was used.
    """
    prompt, cache = config.captioner.arguments().get("prompt"), backends.runtime.cache
    own = {"captioner": digest_bytes(prompt.encode())} if prompt else {}
    return Provenance(
        versions=versions(),
        models=backends.identities(captioned=captioned),
        prompts={**own, **backends.prompts(captioned=captioned)},
        seed=config.seed,
        device=_device(config.device),
        seconds=dict(seconds),
        tokens=backends.tokens(),
        cache_hits=cache.hits,
        cache_misses=cache.misses,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cost=backends.cost(),
    )
