"""The provenance of a report: versions, models, times, cache."""

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
    """A timer of the stages of a run: ``with stopwatch("rank"): …``; sums are in ``seconds``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the run time of the block to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 3)


def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that can affect a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _device(name: str) -> str:
    """Returns the device of the models; "none" if no model ran on this machine."""
    # Importing torch takes two seconds. If it was not imported, no local model has run.
    if "torch" not in sys.modules:
        return "none"
    from visdiff.engine.device import resolve_device

    return resolve_device(name)


def provenance(
    config: Config, backends: Backends, seconds: Mapping[str, float], *, captioned: bool
) -> Provenance:
    """Collects the information needed to reproduce a report.

    Args:
        config: The configuration.
        backends: The models created from it, after their use.
        seconds: Stage → run time in seconds.
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
