"""Captions that already exist, in a column of the manifest."""

from collections.abc import Mapping
from typing import Any

from visdiff.captioners import Captioner
from visdiff.engine import Applied
from visdiff.errors import InputError
from visdiff.imageset import ImageSet


class ManifestCaptioner(Captioner):
    """A captioner that reads a column of the image set's frame; it computes and caches nothing.

    Args:
        column: Name of the column.
    """

    name = "manifest"

    def __init__(self, column: str = "caption") -> None:
        self.column = column

    @property
    def identity(self) -> Mapping[str, Any]:
        """The backend and the column's name; the captions are part of the image set."""
        return {"backend": self.name, "column": self.column}

    def captions(self, images: ImageSet) -> Applied:
        """Returns the column's texts, stripped; missing and empty ones are failures.

        Raises:
            InputError: The set has no such column.
        """
        columns = list(images.frame.columns)
        if self.column not in columns:
            raise InputError(
                f"Expected a column {self.column!r} with captions in {images.name!r}, got the "
                f"columns {', '.join(map(str, columns))}; add it to the manifest, or choose "
                "another captioner."
            )
        applied = Applied([None] * len(images))
        for index, value in enumerate(images.frame[self.column].tolist()):
            # A missing value is None or NaN; only NaN differs from itself.
            text = "" if value is None or value != value else str(value).strip()
            if text and text != "<NA>":
                applied.values[index] = text
            else:
                applied.failures[index] = f"no caption in column {self.column!r}"
        return applied
