"""Where a report comes from: versions, models, time, cache."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from visdiff.cache import Cache
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
    """Measures the stages of a run: ``with watch("rank"): …``; ``watch.seconds`` has the sums."""

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
    config: Config,
    models: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    cache: Cache,
) -> Provenance:
    """Collects what is needed to make a report again."""
    prompt = config.captioner.prompt
    return Provenance(
        versions=versions(),
        models={role: dict(identity) for role, identity in models.items()},
        prompts={"captioner": digest_bytes(prompt.encode())} if prompt else {},
        seed=config.seed,
        device=_device(config.device),
        seconds=dict(seconds),
        cache_hits=cache.hits,
        cache_misses=cache.misses,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
