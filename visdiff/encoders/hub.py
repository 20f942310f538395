"""Loading of weights from the Hugging Face hub, without long waits when offline.

huggingface_hub retries a failed request for half a minute, several times per model. `load_weights`
tries the files on disk first, in offline mode, and uses the network only after one quick request
to the hub has succeeded.
"""

import logging
import os
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from visdiff.errors import MissingWeightsError, VisdiffError

T = TypeVar("T")

# One model is loaded at a time, since offline mode is a constant of the whole process.
_loading = threading.RLock()
# Held only to count the `hub_offline` blocks, so that a long block does not keep other threads from
# loading.
_counting = threading.Lock()
_blocks = 0
_before = False
_TIMEOUT_S = 2.0


def load_weights(load: Callable[[], T], what: str) -> T:
    """Calls ``load`` in offline mode, and again online if that fails and the hub responds.

    Args:
        load: Builds a model; may download files through huggingface_hub.
        what: Description of the model for messages, such as
            "captioner Salesforce/blip-image-captioning-base".

    Returns:
        The result of ``load``.

    Raises:
        MissingWeightsError: The weights are not on disk and cannot be downloaded; the message says
            how to get them.
    """
    # open_clip logs missing files to the root logger, which prints to stderr unless configured.
    # The error below reports them once and in full.
    handler = logging.NullHandler()
    with _loading:
        logging.getLogger().addHandler(handler)
        try:
            return _load(load, what)
        finally:
            logging.getLogger().removeHandler(handler)


def _load(load: Callable[[], T], what: str) -> T:
    try:
        with hub_offline():
            return load()
    except VisdiffError:
        raise
    except Exception as error:
        # Libraries raise many different types for "not on disk".
        offline = error
    if reason := _no_hub():
        raise MissingWeightsError(_message(what, reason, offline), what) from offline
    try:
        return load()
    except VisdiffError:
        raise
    except Exception as error:
        raise MissingWeightsError(_message(what, "the download failed", error), what) from error


def check_download(what: str) -> None:
    """Checks, within two seconds and without loading anything, that the hub can be asked.

    For weights that are not on disk: libraries take half a minute to find out.

    Args:
        what: Description of the model, as for `load_weights`.

    Raises:
        MissingWeightsError: The hub is switched off or does not respond.
    """
    if reason := _no_hub():
        raise MissingWeightsError(_message(what, reason), what)


def _no_hub() -> str:
    """Returns why weights that are not on disk cannot be downloaded; "" if they may be."""
    if not _is_online():
        # Offline mode is set by the user, or by a `hub_offline` block (`visdiff doctor`).
        by_user = not _blocks or _before
        return "not on disk" + (", and the hub is switched off (HF_HUB_OFFLINE)" if by_user else "")
    return "" if _responds(endpoint()) else f"not on disk, and {endpoint()} does not respond"


def endpoint() -> str:
    """Returns the address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


@contextmanager
def hub_offline() -> Iterator[None]:
    """Restricts huggingface_hub to files on disk inside the block, whatever the setting."""
    from huggingface_hub import constants

    global _blocks, _before
    with _counting:
        if not _blocks:
            _before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        _blocks += 1
    try:
        yield
    finally:
        with _counting:
            _blocks -= 1
            if not _blocks:
                constants.HF_HUB_OFFLINE = _before


def cached_commit(repo: str, revision: str | None, file: str = "config.json") -> str | None:
    """Returns the commit of a model in the hub's cache on disk, or None if it is not cached.

    Args:
        repo: The model's id.
        revision: Commit, tag or branch; None for the default branch.
        file: A file that the model has.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    if not isinstance(found, str):
        return None
    parts = found.replace(os.sep, "/").split("/")
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def is_cached(repo: str, *files: str, revision: str | None = None) -> bool:
    """Returns whether the hub's cache on disk holds one of the files of a model."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repo, f, revision=revision), str) for f in files)


def _is_online() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE


def _responds(url: str) -> bool:
    """Returns whether a host responds within a few seconds; proxies are honoured."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _message(what: str, reason: str, error: Exception | None = None) -> str:
    detail = ""
    if error is not None:
        # Libraries add their own advice after the first sentence, which is dropped here.
        first = " ".join(str(error).split()).partition(". ")[0]
        short = textwrap.shorten(f"{type(error).__name__}: {first}", 200, placeholder=" …")
        detail = f" ({short})"
    return (
        f"Expected the weights of {what}, got none: {reason}{detail}; run once with network "
        "access to download them, or give a local folder (`--preset miniature` runs offline, on "
        "drawings only)."
    )
