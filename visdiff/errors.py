"""Errors a caller may want to catch; each one's text is one clear sentence for the user."""


class VisdiffError(Exception):
    """Base of every error that visdiff raises on purpose."""


class InputError(VisdiffError, ValueError):
    """The user's mistake: a missing folder, an empty set, an unknown column, group or preset."""


class MissingBackendError(VisdiffError, ImportError):
    """A library or a model's weights are not available; the text says how to get them."""


class UnreadableImageError(VisdiffError):
    """One image cannot be decoded; the text names the path and the reason."""


class CacheMissError(VisdiffError, LookupError):
    """Replay mode met something that the cache does not hold; the text names it."""
