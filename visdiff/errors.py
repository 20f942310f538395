"""Exceptions of visdiff. Each message is one clear sentence for the user."""


class VisdiffError(Exception):
    """Base class of visdiff's exceptions."""


class InputError(VisdiffError, ValueError):
    """Invalid input: a missing folder, an empty set, an unknown column, group or preset."""


class MissingBackendError(VisdiffError, ImportError):
    """A missing library or missing model weights; the message says how to get them."""


class MissingWeightsError(MissingBackendError):
    """Weights that are neither on disk nor can be downloaded.

    Attributes:
        what: The model, such as "captioner Salesforce/blip-image-captioning-base".
    """

    def __init__(self, message: str, what: str = "a model") -> None:
        super().__init__(message)
        self.what = what


class UnreadableImageError(VisdiffError):
    """An image that cannot be decoded; the message has the path and the reason."""


class IncompleteError(VisdiffError):
    """A run that got no answer where it needs one; another run may get it."""


class CacheMissError(VisdiffError, LookupError):
    """A value that is missing from the cache in replay mode; the message names it."""
