"""The history of a debiasing loop as a figure: the distance of each concept from its ratios."""

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from visdiff.errors import InputError
from visdiff.figures.files import figure_files
from visdiff.figures.style import FONT, axes_of, figure_of, find_style, plain_line
from visdiff.files import explained, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editing.methods.debias.result import Debiased

_DASHES = ("-", "--", ":", "-.")
"""Styles of lines that tell concepts apart, together with the two colours."""


def plot(result: "Debiased", ax: "Axes | None" = None, style: str = "light") -> "Figure":
    """Returns Δ of every concept over the rounds; a filled dot marks a concept that is done.

    Args:
        result: The result of `editing.methods.debias.debias`.
        ax: Matplotlib axes to draw on; new ones when None.
        style: "light" or "dark".

    Raises:
        InputError: The style is unknown.
    """
    from matplotlib.ticker import MaxNLocator

    colours = find_style(style)
    concepts = list(dict.fromkeys(evaluation.concept for evaluation in result.evaluations))
    ax = axes_of(ax, 2.2 + 0.13 * len(concepts), colours)
    styles = cycle([(c, dash) for dash in _DASHES for c in (colours.a, colours.b, colours.muted)])
    for concept, (colour, dash) in zip(concepts, styles, strict=False):
        own = [evaluation for evaluation in result.evaluations if evaluation.concept == concept]
        rounds, values = [e.round for e in own], [e.delta.value for e in own]
        # Matplotlib leaves out of a legend what begins with an underscore.
        label = plain_line(concept).lstrip("_")
        ax.plot(rounds, values, dash, color=colour, linewidth=1, label=label)
        for e in own:
            face = colour if e.done else colours.paper
            ax.plot(e.round, e.delta.value, "o", color=colour, markerfacecolor=face, markersize=4)
    ax.set_xlabel("round (0: unedited); filled: done")
    ax.set_ylabel("Δ from the wanted ratios")
    ax.set_ylim(bottom=0)
    ax.spines["left"].set_visible(True)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend = ax.legend(fontsize=FONT, ncols=2, frameon=False, loc="upper left",
                       bbox_to_anchor=(0, -0.22), borderaxespad=0)  # fmt: skip
    for text in legend.get_texts():
        text.set(color=colours.ink, parse_math=False)
    return figure_of(ax)


def save(result: "Debiased", path: str | Path) -> Path:
    """Writes the figure in the format given by the suffix of the path.

    Raises:
        InputError: The file cannot be written, or the format is unknown.
    """
    path = Path(path)
    suffix = path.suffix.lstrip(".")
    if not suffix:
        raise InputError(
            f"Expected a file for the figure such as history.svg, got {path}; name another file."
        )
    (content,) = figure_files(plot(result), "history", [suffix]).values()
    with explained("a writable file for the figure, such as history.svg", path):
        write_whole(path, content)
    return path
