"""Application of a model to every distinct image of a set, through the cache.

Images that are not cached go in batches to an `Engine`: the local machine (`LocalEngine`) or a Ray
cluster (`visdiff.engine.ray`). Results are cached before the next batch is requested. An
interrupted run therefore resumes where it stopped, and memory holds only a few batches of pixels.
"""

import itertools
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm

from visdiff.cache import Cache
from visdiff.engine.runtime import Backend, Runtime
from visdiff.errors import CacheMissError, InputError, UnreadableImageError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.progress import is_hidden

__all__ = [
    "Applied",
    "Backend",
    "Engine",
    "ImageModel",
    "LocalEngine",
    "Refused",
    "Runtime",
    "apply",
]

# Keys per query; below SQLite's limit on variables in every build.
_LOOKUP = 500


@dataclass(frozen=True)
class Refused:
    """The result of an image that a model cannot process, in place of a value.

    Attributes:
        reason: One clause for the user, such as "empty caption".
    """

    reason: str


class ImageModel(Protocol):
    """A model that maps one image to one value, applied in batches.

    The value of an image must not depend on its batch, except for floating-point rounding.
    """

    @property
    def kind(self) -> str:
        """Kind of the values ("embedding", "caption", …); part of the cache key."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that affects a value: backend, weights, prompt; part of the cache key.

        Device, batch size and timeouts are excluded. JSON values only.
        """
        ...

    def prepare(self, image: Image.Image) -> Any:
        """Returns the model input of one RGB image; runs in worker threads."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Returns one value, or `Refused`, per prepared input, in order."""
        ...


class Engine(Protocol):
    """An engine, which applies a model to images.

    All engines return the same values for the same batches.
    """

    def batches(
        self,
        model: ImageModel,
        images: ImageSet,
        todo: Sequence[tuple[str, int]],
        *,
        batch_size: int,
        workers: int,
    ) -> Generator[list[tuple[str, Any]]]:
        """Applies a model to images, in batches.

        Args:
            model: The model.
            images: The set.
            todo: Digest and index of each image to compute; digests are distinct.
            batch_size: Images per call of the model; batches are consecutive slices of `todo`.
            workers: Number of threads that decode and prepare images, per copy of the model.

        Yields:
            Digest and value (or `Refused`) of each image of a batch; each batch once, in any order.
        """
        ...


@dataclass
class Applied:
    """The values of a set's images.

    Attributes:
        values: One value per image, in the order of the set; None for failures.
        failures: Reasons by index, for exactly the images whose value is None.
    """

    values: list[Any]
    failures: dict[int, str] = field(default_factory=dict)


class LocalEngine:
    """An engine on the local machine; threads decode and prepare a bounded number of images ahead.

    Args:
        **_: Other fields of the configuration, ignored.
    """

    name = "local"

    def __init__(self, **_: Any) -> None:
        pass

    def batches(
        self,
        model: ImageModel,
        images: ImageSet,
        todo: Sequence[tuple[str, int]],
        *,
        batch_size: int,
        workers: int,
    ) -> Generator[list[tuple[str, Any]]]:
        """Yields the batches in order (see `Engine`).

        An image whose file has changed since it was listed is refused.
        """
        with _thread_pool(workers) as pool:
            ready = _map_in_order(
                pool,
                lambda one: prepare_or_refuse(model, lambda: images.image_of(one[1], one[0])),
                todo,
                _prefetch_limit(batch_size, workers),
            )
            pending = zip([digest for digest, _ in todo], ready, strict=True)
            while chunk := list(itertools.islice(pending, batch_size)):
                yield compute_batch(model, chunk)


def prepare_or_refuse(model: ImageModel, read: Callable[[], Image.Image]) -> Any:
    """Returns the model input of one image, or `Refused` if the image cannot be prepared.

    A single bad image (one pixel wide, say) does not end the run; errors of the model or of the
    configuration do.

    Args:
        model: The model.
        read: Returns the image.

    Raises:
        VisdiffError: The model is not available, or the configuration is invalid.
    """
    try:
        return model.prepare(read())
    except UnreadableImageError as error:
        return Refused(str(error))
    except VisdiffError:
        raise
    except (ValueError, OSError, ArithmeticError) as error:
        return Refused(f"cannot be prepared: {type(error).__name__}: {error}")


def compute_batch(model: ImageModel, batch: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Computes the values of a batch; images that are already `Refused` stay so.

    Args:
        model: The model; called once, or not at all if all images are refused.
        batch: Digest and prepared input (or `Refused`) of each image.

    Raises:
        RuntimeError: The model does not return one value per image.
    """
    good = [(digest, item) for digest, item in batch if not isinstance(item, Refused)]
    outputs: Sequence[Any] = model([item for _, item in good]) if good else []
    if len(outputs) != len(good):
        raise RuntimeError(
            f"Expected {len(good)} values from {type(model).__name__}, got {len(outputs)}; return "
            "one per image."
        )
    results = [(digest, item) for digest, item in batch if isinstance(item, Refused)]
    return results + [(digest, out) for (digest, _), out in zip(good, outputs, strict=True)]


def apply(
    model: ImageModel,
    images: ImageSet,
    runtime: Runtime,
    *,
    batch_size: int,
    workers: int = 2,
    desc: str,
) -> Applied:
    """Returns one value per image, from the cache or computed.

    Images with equal bytes are computed once. An image that cannot be decoded or prepared, or that
    the model refuses, gets None and a reason. These are not cached, so the next run tries again.

    Args:
        model: The model. If all values are cached, neither `ImageModel.prepare` nor the model is
            called, so weights can be loaded on first use.
        images: The set.
        runtime: Its cache is read before the computation and written after each batch.
        batch_size: Images per call of the model; affects only speed and memory.
        workers: Number of threads that decode and prepare images.
        desc: Label of the progress bar.

    Returns:
        Values in the order of the set, and the reasons of failures.

    Raises:
        CacheMissError: The cache is in mode "replay" and lacks a readable image.
        InputError: The batch size or number of workers is below 1.
        MissingBackendError: The model's weights cannot be loaded.
    """
    if batch_size < 1 or workers < 1:
        raise InputError(
            f"Expected a batch size and a number of workers of at least 1, got {batch_size} and "
            f"{workers}; increase them."
        )
    applied = Applied([None] * len(images))
    if not len(images):
        return applied
    with _thread_pool(workers) as pool:
        groups = _group_by_digest(images, pool, applied, _prefetch_limit(batch_size, workers))
    missing = _look_up(model, images, runtime.cache, applied, groups)
    if not missing:
        return applied
    identity = dict(model.identity)
    todo = [(digest, groups[digest][0]) for digest in missing]
    batches = (runtime.engine or LocalEngine()).batches(
        model, images, todo, batch_size=batch_size, workers=workers
    )
    with (
        closing(batches),
        tqdm(
            total=len(missing),
            desc=desc,
            disable=is_hidden(runtime.progress),
            file=sys.stderr,
            unit="image",
        ) as bar,
    ):
        for batch in batches:
            values = [(d, v) for d, v in batch if v is not None and not isinstance(v, Refused)]
            runtime.cache.put_many(model.kind, [({**identity, "image": d}, v) for d, v in values])
            for digest, value in batch:
                for index in groups[digest]:
                    if value is None:
                        applied.failures[index] = "the model returned no value"
                    elif isinstance(value, Refused):
                        applied.failures[index] = value.reason
                    else:
                        applied.values[index] = value
            bar.update(len(batch))
    return applied


def _prefetch_limit(batch_size: int, workers: int) -> int:
    """Returns the maximum number of decoded images that wait for the model."""
    return 2 * batch_size + workers


@contextmanager
def _thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yields a thread pool; cancels queued tasks on errors."""
    with ThreadPoolExecutor(workers, thread_name_prefix="visdiff") as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _group_by_digest(
    images: ImageSet, pool: ThreadPoolExecutor, applied: Applied, ahead: int
) -> dict[str, list[int]]:
    """Groups the indices of the set by digest; unreadable files become failures."""

    def digest(index: int) -> str | Refused:
        try:
            return images.digest(index)
        except (UnreadableImageError, OSError) as error:
            return Refused(str(error))

    groups: dict[str, list[int]] = {}
    for index, found in enumerate(_map_in_order(pool, digest, range(len(images)), ahead)):
        if isinstance(found, Refused):
            applied.failures[index] = found.reason
        else:
            groups.setdefault(found, []).append(index)
    return groups


def _look_up(
    model: ImageModel,
    images: ImageSet,
    cache: Cache,
    applied: Applied,
    groups: Mapping[str, list[int]],
) -> list[str]:
    """Fills in cached values; returns the missing digests, in order."""
    if not groups:
        return []
    identity = dict(model.identity)
    missing: list[str] = []
    digests = iter(groups)
    while chunk := list(itertools.islice(digests, _LOOKUP)):
        parts = [{**identity, "image": digest} for digest in chunk]
        try:
            found = cache.get_many(model.kind, parts)
        except CacheMissError:
            found = [
                _replay(model.kind, part, images, groups[digest][0], cache)
                for digest, part in zip(chunk, parts, strict=True)
            ]
        for digest, value in zip(chunk, found, strict=True):
            if value is None:
                missing.append(digest)
                continue
            for index in groups[digest]:
                applied.values[index] = value
    return missing


def _replay(kind: str, parts: Mapping[str, Any], images: ImageSet, index: int, cache: Cache) -> Any:
    """Returns a value in replay mode; None for an unreadable image, which is never cached."""
    try:
        return cache.get(kind, parts)
    except CacheMissError:
        try:
            images.image(index)
        except UnreadableImageError:
            return None
        raise


def _map_in_order(
    pool: ThreadPoolExecutor, function: Any, arguments: Sequence[Any], ahead: int
) -> Iterator[Any]:
    """Maps in threads; results in order, with at most ``ahead`` calls not yet consumed."""
    waiting: deque[Future[Any]] = deque()
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
