"""The names of an audit's optional measures; `editing.audits.metrics` computes them."""

from collections.abc import Sequence

from visdiff.errors import InputError

NAMES = ("lpips", "clip", "nudenet", "q16:FILE", "fid", "kid")


def check_names(names: Sequence[str]) -> None:
    """Checks the names of measures without importing their libraries.

    Raises:
        InputError: A name is unknown.
    """
    for name in names:
        kind, _, file = name.partition(":")
        if not (file if kind == "q16" else name in NAMES):
            raise InputError(
                f"Expected a metric ({', '.join(NAMES)}), got {name!r}; correct --metrics."
            )
