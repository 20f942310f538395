"""Whether the models of a run can be had, found out before its first image is decoded.

Loading a model takes seconds, and a run whose every value is cached needs none. So a model is
loaded here only where the cache shows no value of it for the first images: it would then be loaded
a little later anyway, and weights that are missing, or a model that does not exist, are said at
once and not after a pre-flight over thousands of files.
"""

from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from visdiff.cache import Cache
from visdiff.captioners import Captioner
from visdiff.comparison.backends import Backends
from visdiff.engine import Backend, ImageModel, Runtime
from visdiff.errors import UnreadableImageError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.llm import Message, Request

#: Images a side that are looked up in the cache; one cached value tells that the weights were here.
_LOOKED_UP = 32


def check_models(backends: Backends, a: ImageSet, b: ImageSet) -> None:
    """Finds out whether a comparison's models can be had; asks them nothing and decodes no image.

    In replay everything comes from the cache, and nothing is checked.

    Raises:
        InputError: A model does not exist, or a chat model cannot be asked (no key, no name).
        MissingBackendError: A library or a model's weights are not available.
    """
    cache = backends.runtime.cache
    if cache.mode == "replay":
        return
    used: list[Backend] = [backends.proposer, *backends.rankers]
    for backend in used:
        # Naming the weights is enough for some to find that they are not there.
        _ = backend.identity
    if backends.needs_captions:
        used.append(backends.captioner)
    models = _image_models(used)
    new = [model for model in models if not _known(model, [a, b], cache)]
    # Cached replies need no key: a chat model is looked at where the other models are new as well.
    if backends.asks and (new or not models):
        backends.chat().check([Request((Message("user", ("a dog",)),), "readiness")])
    for model in new:
        _load(model)


def check_captioner(captioner: Captioner, images: ImageSet, runtime: Runtime) -> None:
    """Finds out whether a captioner's model can be had, as `check_models` does.

    Raises:
        InputError: The model does not exist.
        MissingBackendError: A library or the model's weights are not available.
    """
    model = captioner.image_model
    if model is None or runtime.cache.mode == "replay":
        return
    if not _known(model, [images], runtime.cache):
        _load(model)


def _load(model: ImageModel) -> None:
    blank = Image.new("RGB", (64, 64), "white")
    try:
        model.prepare(blank)  # loads the weights, as every first use does
    except VisdiffError:
        raise
    except (ValueError, OSError, ArithmeticError):
        return  # loaded, and it does not like a blank image


def _image_models(backends: Sequence[Backend]) -> list[ImageModel]:
    """The distinct image models of the backends, which may share one."""
    models = (backend.image_model for backend in backends)
    return list({id(model): model for model in models if model is not None}.values())


def _known(model: ImageModel, sets: Sequence[ImageSet], cache: Cache) -> bool:
    """Whether the cache holds a value of the model for one of the first images."""
    digests = []
    for images in sets:
        for index in range(min(_LOOKED_UP, len(images))):
            with suppress(UnreadableImageError):
                digests.append(images.digest(index))
    identity = dict(model.identity)
    # These look-ups are ours, not the run's: its counts of hits and misses stay its own.
    hits, misses = cache.hits, cache.misses
    found = cache.get_many(model.kind, [{**identity, "image": digest} for digest in digests])
    cache.hits, cache.misses = hits, misses
    return any(value is not None for value in found)
