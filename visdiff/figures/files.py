"""Figures as the bytes of files, ready for a paper and equal for equal results."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from visdiff.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf")
"""Formats that are written next to a page."""

_DATES = {"svg": "Date", "pdf": "CreationDate"}


def figure_files(figure: "Figure", stem: str, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """Returns a figure as files, by name.

    Fonts are embedded as TrueType, as publishers ask for, and neither dates nor random ids are
    written: equal figures are equal files.

    Args:
        figure: The figure.
        stem: Name of the files without their suffix.
        formats: Suffixes, such as "svg", "pdf" and "png".

    Raises:
        InputError: A format is unknown.
    """
    if not formats:
        return {}
    import matplotlib

    found = {}
    # A font for every script would be too much: characters without a glyph are boxes.
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": stem}),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for suffix in formats:
            date = _DATES.get(suffix)
            buffer = BytesIO()
            try:
                figure.savefig(
                    buffer, format=suffix, dpi=200, metadata={date: None} if date else None
                )
            except ValueError as error:
                raise InputError(
                    f"Expected a format of figures such as svg, pdf or png, got {suffix!r} "
                    f"({error}); name another one."
                ) from error
            found[f"{stem}.{suffix}"] = buffer.getvalue()
    return found
