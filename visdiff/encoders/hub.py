"""Loading weights without waiting for a network that is not there.

huggingface_hub retries a failed request for half a minute, several times a model. Here what is on
disk is tried first, with the hub switched off, and the network only when one quick request shows
that the hub answers.
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

from visdiff.errors import MissingBackendError, VisdiffError

T = TypeVar("T")

# One model is loaded at a time, since the hub's switch is one constant for the whole process …
_loading = threading.RLock()
# … which holds while any block wants it. This lock is held only to count the blocks: who keeps the
# hub switched off for a while must not keep worker threads from loading meanwhile.
_counting = threading.Lock()
_blocks = 0
_before = False
_TIMEOUT_S = 5.0


def load_weights(load: Callable[[], T], what: str) -> T:
    """Call ``load`` with the hub switched off, then, if that fails and the hub answers, with it.

    Args:
        load: Builds a model from files that may have to be downloaded through huggingface_hub.
        what: The model, for the message ("captioner Salesforce/blip-image-captioning-base").

    Returns:
        What ``load`` returned.

    Raises:
        MissingBackendError: The weights are neither on disk nor can be downloaded; says how to get
            them.
    """
    # open_clip tells the root logger of what it does not find, and logging then prints that to
    # stderr when nobody has set it up; the error below says it once and in full.
    silent = logging.NullHandler()
    with _loading:
        logging.getLogger().addHandler(silent)
        try:
            return _load(load, what)
        finally:
            logging.getLogger().removeHandler(silent)


def _load(load: Callable[[], T], what: str) -> T:
    try:
        with hub_offline():
            return load()
    except VisdiffError:
        raise
    except Exception as error:
        # Libraries raise half a dozen types for "not on disk"; what to do next is the same for all.
        offline = error
    if not _wanted():
        # Who asks what is on disk (`visdiff doctor`) has switched the hub off, not the user.
        by_user = not _blocks or _before
        off = ", and the hub is switched off (HF_HUB_OFFLINE)" if by_user else ""
        raise MissingBackendError(_message(what, f"not on disk{off}", offline)) from offline
    if not _answers(endpoint()):
        raise MissingBackendError(
            _message(what, f"not on disk, and {endpoint()} does not answer", offline)
        ) from offline
    try:
        return load()
    except VisdiffError:
        raise
    except Exception as error:
        raise MissingBackendError(_message(what, "the download failed", error)) from error


def endpoint() -> str:
    """Return the address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


@contextmanager
def hub_offline() -> Iterator[None]:
    """Make huggingface_hub use only files on disk inside the block, whatever the setting."""
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


def cached_commit(repo: str, revision: str | None) -> str | None:
    """Return the commit of a model in the hub's cache on disk, or None when it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    parts = found.replace(os.sep, "/").split("/")
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def _wanted() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE


def _answers(url: str) -> bool:
    """Say whether a host answers one request within a few seconds; proxies are honoured."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _message(what: str, reason: str, error: Exception) -> str:
    # Libraries add advice of their own after the first sentence; what to do is said below.
    first = " ".join(str(error).split()).partition(". ")[0]
    detail = textwrap.shorten(f"{type(error).__name__}: {first}", 200, placeholder=" …")
    return (
        f"the weights of {what} cannot be loaded: {reason} ({detail}). Run once with network "
        "access to download them, or give a local folder; `--preset miniature` runs offline, on "
        "drawings only"
    )
