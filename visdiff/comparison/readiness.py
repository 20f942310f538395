"""Checks that the models of a run are available, before the first image is decoded.

Loading a model takes seconds, and a run with a complete cache needs no model. So a model is loaded
here only if the cache has no value of it for the first images. It would be loaded a little later
anyway, and missing weights or a wrong model name are reported at once instead of after a preflight
over thousands of files.
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

#: Images per set that are looked up in the cache; one cached value shows that the model was here.
_LOOKED_UP = 32


def check_models(backends: Backends, a: ImageSet, b: ImageSet) -> None:
    """Checks that the models of a comparison are available, without running them on any image.

    In replay mode all results come from the cache, and nothing is checked.

    Raises:
        InputError: A model does not exist, or a chat model has no API key or no name.
        MissingBackendError: A library or a model's weights are not available.
    """
    cache = backends.runtime.cache
    if cache.mode == "replay":
        return
    check_weights(backends, [a, b])
    used: list[Backend] = [*backends.proposers, *backends.rankers]
    for backend in used:
        # For some backends, resolving the identity is enough to detect missing weights.
        _ = backend.identity
    if backends.needs_captions:
        used.append(backends.captioner)
    models = _image_models(used)
    new = [model for model in models if not _known(model, [a, b], cache)]
    # Cached replies need no key: the chat model is checked only if another model is not cached.
    if backends.uses_chat and (new or not models):
        backends.chat().check([Request((Message("user", ("a dog",)),), "readiness")])
    for model in new:
        _load(model)


def check_weights(backends: Backends, sets: Sequence[ImageSet]) -> None:
    """Checks that weights are on disk or can be downloaded, without loading any model.

    It takes a few seconds at most, and is called before a plan is printed. `check_models` then
    checks the rest.

    Args:
        backends: The models.
        sets: Sets to apply them to: a model with cached values needs no weights.

    Raises:
        InputError: A model does not exist.
        MissingWeightsError: Weights are not on disk, and the hub does not respond.
    """
    cache = backends.runtime.cache
    if cache.mode == "replay":
        return
    used: list[Backend] = [*backends.proposers, *backends.rankers]
    if backends.needs_captions:
        used.insert(0, backends.captioner)
    for model in _image_models(used):
        check = getattr(model, "check_weights", None)
        if check is not None and not _known(model, sets, cache):
            check()


def check_captioner(captioner: Captioner, images: ImageSet, runtime: Runtime) -> None:
    """Checks that a captioner's model is available, as `check_models` does.

    Raises:
        InputError: The model does not exist.
        MissingBackendError: A library or the model's weights are not available.
    """
    model = captioner.image_model
    if model is None or runtime.cache.mode == "replay":
        return
    if not _known(model, [images], runtime.cache):
        if check := getattr(model, "check_weights", None):
            check()
        _load(model)


def _load(model: ImageModel) -> None:
    blank = Image.new("RGB", (64, 64), "white")
    try:
        model.prepare(blank)  # the first use loads the weights
    except VisdiffError:
        raise
    except (ValueError, OSError, ArithmeticError):
        return  # the model was loaded, but does not accept a blank image


def _image_models(backends: Sequence[Backend]) -> list[ImageModel]:
    """Returns the distinct image models of the backends, which may share one."""
    models = (backend.image_model for backend in backends)
    return list({id(model): model for model in models if model is not None}.values())


def _known(model: ImageModel, sets: Sequence[ImageSet], cache: Cache) -> bool:
    """Returns whether the cache holds a value of the model for one of the first images."""
    digests = []
    for images in sets:
        for index in range(min(_LOOKED_UP, len(images))):
            with suppress(UnreadableImageError):
                digests.append(images.digest(index))
    identity = dict(model.identity)
    # These lookups do not count as hits and misses of the run.
    hits, misses = cache.hits, cache.misses
    found = cache.get_many(model.kind, [{**identity, "image": digest} for digest in digests])
    cache.hits, cache.misses = hits, misses
    return any(value is not None for value in found)
