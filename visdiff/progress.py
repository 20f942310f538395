"""Whether progress bars are shown."""

import sys


def is_hidden(wanted: bool = True) -> bool:
    """Returns whether a progress bar is left out: a log file is no place for one.

    Args:
        wanted: Whether the caller asks for bars.

    Returns:
        True unless bars are wanted and stderr is a terminal or a notebook.
    """
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return not (wanted and (sys.stderr.isatty() or in_notebook))
