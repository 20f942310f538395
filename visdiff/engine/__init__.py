"""Apply a model to every image of a set, once per distinct image, through the cache.

What is not in the cache goes, in batches, to an `Engine`: this machine here, a Ray cluster in
`visdiff.engine.ray`. A batch's results are in the cache before the next one is asked for. A run
that is killed therefore resumes where it stopped, and memory holds a few batches of pixels whatever
the size of the set.
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

__all__ = [
    "Applied",
    "Backend",
    "Engine",
    "ImageModel",
    "LocalEngine",
    "Refused",
    "Runtime",
    "apply",
    "resolve_device",
]

# Keys looked up in one query; small enough for SQLite's limit on variables in every build.
_LOOKUP = 500


@dataclass(frozen=True)
class Refused:
    """What a model returns in place of a value for an image it has no answer for.

    Attributes:
        reason: One clause for the user, such as "empty caption".
    """

    reason: str


class ImageModel(Protocol):
    """A model that turns one image into one value, applied in batches.

    The value of an image must not depend on the batch it is in, beyond the last bits of floating
    point arithmetic.
    """

    @property
    def kind(self) -> str:
        """What the values are ("embedding", "caption", …); part of the cache key."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that changes a value: backend, weights, prompt; part of the cache key.

        Device, batch size and timeouts are left out. JSON values only.
        """
        ...

    def prepare(self, image: Image.Image) -> Any:
        """Make the model's input of one RGB image; runs in worker threads."""
        ...

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Return one cache value, or `Refused`, for each prepared input, in order."""
        ...


class Engine(Protocol):
    """Where a model is applied. Every engine gives the same values for the same batches."""

    def batches(
        self,
        model: ImageModel,
        images: ImageSet,
        todo: Sequence[tuple[str, int]],
        *,
        batch_size: int,
        workers: int,
    ) -> Generator[list[tuple[str, Any]]]:
        """Apply a model to images, in batches.

        Args:
            model: What to apply.
            images: The set.
            todo: Digest and index of each image to compute, no digest twice.
            batch_size: Images a call of the model: the first so many of `todo`, and so on.
            workers: Threads that decode and prepare, for each copy of the model.

        Yields:
            The digest and the value of each image of a batch, or a `Refused`; each batch once, in
            any order.
        """
        ...


@dataclass
class Applied:
    """The values of a set's images.

    Attributes:
        values: One an image, in the order of the set; None where there is none.
        failures: Reason by index, for exactly the images whose value is None.
    """

    values: list[Any]
    failures: dict[int, str] = field(default_factory=dict)


def resolve_device(name: str = "auto") -> str:
    """Turn a device setting into a torch device string.

    Args:
        name: "auto" (CUDA when there is one, else Apple's MPS, else the CPU), "cpu", "mps", "cuda"
            or "cuda:<index>".

    Returns:
        The name of a device that this machine has.

    Raises:
        InputError: The name is unknown, or torch sees no such device here.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise InputError(f"expected device auto, cpu, cuda, cuda:<index> or mps, got {name!r}")
    if kind == "cuda" and (not cuda or (index and int(index) >= torch.cuda.device_count())):
        count = torch.cuda.device_count() if cuda else 0
        raise InputError(
            f"device {name!r} was asked for, but torch sees {count} CUDA devices; use device auto "
            "or cpu"
        )
    if kind == "mps" and not mps:
        raise InputError(
            "device 'mps' was asked for, but torch has no MPS here; use device auto or cpu"
        )
    return name


class LocalEngine:
    """Applies a model on this machine: threads decode and prepare, a bounded number ahead of it.

    Args:
        **_: Fields of the configuration that mean nothing here.
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
        """Yield the batches in order (see `Engine`)."""
        with _threads(workers) as pool:
            ready = _in_order(
                pool,
                lambda index: prepared(model, lambda: images.image(index)),
                [index for _, index in todo],
                _ahead(batch_size, workers),
            )
            pending = zip([digest for digest, _ in todo], ready, strict=True)
            while chunk := list(itertools.islice(pending, batch_size)):
                yield computed(model, chunk)


def prepared(model: ImageModel, read: Callable[[], Image.Image]) -> Any:
    """Return a model's input of one image, or `Refused` with what is wrong with the image.

    One odd image (a width of one pixel, say) must not end a run over thousands; what is wrong with
    the model or the request rather than with the image does.

    Args:
        model: Prepares it.
        read: Returns the image.

    Raises:
        VisdiffError: The model cannot be had, or the request is wrong.
    """
    try:
        return model.prepare(read())
    except UnreadableImageError as error:
        return Refused(str(error))
    except VisdiffError:
        raise
    except (ValueError, OSError, ArithmeticError) as error:
        return Refused(f"cannot be prepared: {type(error).__name__}: {error}")


def computed(model: ImageModel, batch: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return a batch's values: of what was refused already the reason, of the rest the model's.

    Args:
        model: Called once, or not at all when everything was refused.
        batch: Digest, and prepared input or `Refused`, of each image.

    Raises:
        RuntimeError: The model returns another number of values than it was given images.
    """
    good = [(digest, item) for digest, item in batch if not isinstance(item, Refused)]
    outputs: Sequence[Any] = model([item for _, item in good]) if good else []
    if len(outputs) != len(good):
        raise RuntimeError(
            f"{type(model).__name__} returned {len(outputs)} values for {len(good)} images"
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
    """Compute, or take from the cache, one value for each image.

    Images with the same bytes are computed once. An image that cannot be decoded or prepared, and
    one that the model refuses, becomes None with a reason; neither is cached, so the next run tries
    again.

    Args:
        model: What to apply. It may load its weights on first use: when every value is cached,
            neither `ImageModel.prepare` nor the model itself is called.
        images: The set.
        runtime: Its cache is looked up before, and written after each batch.
        batch_size: Images a call of the model; changes speed and memory only.
        workers: Threads that decode and prepare.
        desc: Label of the progress bar.

    Returns:
        Values in the order of the set, and the reasons for the missing ones.

    Raises:
        CacheMissError: The cache replays and a readable image is not in it.
        InputError: The batch size or number of workers is below 1.
        MissingBackendError: The model's weights cannot be loaded.
    """
    if batch_size < 1 or workers < 1:
        raise InputError(
            f"expected a batch size and a number of workers of at least 1, got {batch_size} and "
            f"{workers}"
        )
    applied = Applied([None] * len(images))
    if not len(images):
        return applied
    with _threads(workers) as pool:
        groups = _by_digest(images, pool, applied, _ahead(batch_size, workers))
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
            disable=not runtime.progress,
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
                        applied.failures[index] = "the model gave no answer"
                    elif isinstance(value, Refused):
                        applied.failures[index] = value.reason
                    else:
                        applied.values[index] = value
            bar.update(len(batch))
    return applied


def _ahead(batch_size: int, workers: int) -> int:
    """Return how many images may be decoded and not yet used."""
    return 2 * batch_size + workers


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool; whoever leaves early does not wait for what is still queued."""
    with ThreadPoolExecutor(workers, thread_name_prefix="visdiff") as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _by_digest(
    images: ImageSet, pool: ThreadPoolExecutor, applied: Applied, ahead: int
) -> dict[str, list[int]]:
    """Group the indices of the set by content; files that cannot be read become failures."""

    def digest(index: int) -> str | Refused:
        try:
            return images.digest(index)
        except (UnreadableImageError, OSError) as error:
            return Refused(str(error))

    groups: dict[str, list[int]] = {}
    for index, found in enumerate(_in_order(pool, digest, range(len(images)), ahead)):
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
    """Fill in what the cache holds; return the digests it does not hold, in order."""
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
                _replayed(model.kind, part, images, groups[digest][0], cache)
                for digest, part in zip(chunk, parts, strict=True)
            ]
        for digest, value in zip(chunk, found, strict=True):
            if value is None:
                missing.append(digest)
                continue
            for index in groups[digest]:
                applied.values[index] = value
    return missing


def _replayed(
    kind: str, parts: Mapping[str, Any], images: ImageSet, index: int, cache: Cache
) -> Any:
    """Take one value in replay; an image that could not be read the first time was never cached."""
    try:
        return cache.get(kind, parts)
    except CacheMissError:
        try:
            images.image(index)
        except UnreadableImageError:
            return None
        raise


def _in_order(
    pool: ThreadPoolExecutor, function: Any, arguments: Sequence[Any], ahead: int
) -> Iterator[Any]:
    """Map in threads, results in order, at most ``ahead`` calls started and not yet consumed."""
    waiting: deque[Future[Any]] = deque()
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
