"""Checks of two sets that say what is wrong before anything else is printed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.config import Config
    from visdiff.imageset import ImageSet


def check_distinct(a: tuple[str, Mapping[str, str]], b: tuple[str, Mapping[str, str]]) -> None:
    """Checks that two sets are not the same files.

    Args:
        a: Path of set A and its filter.
        b: The same for set B.

    Raises:
        InputError: Path and filter are the same.
    """
    if Path(a[0]).resolve() == Path(b[0]).resolve() and a[1] == b[1]:
        raise InputError(
            f"Expected two sets, got {a[0]!r} twice, which cannot differ from itself; name another "
            "set as B, or parts of a manifest with --where-a and --where-b (--null N compares "
            "shuffled sets)."
        )


def warn_of_few(sets: "Sequence[ImageSet]", settings: "Config") -> None:
    """Prints a warning, before anything else, about sets in which nothing can be confirmed."""
    least = settings.statistics.min_scored
    for images in sets:
        if len(images) < least:
            typer.echo(
                f"warning: {images.name} has {len(images)} images; nothing is confirmed with fewer "
                f"than {least} scored images a set (--set statistics.min_scored=N)",
                err=True,
            )
