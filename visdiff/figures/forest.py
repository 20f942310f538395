"""The forest plot of a comparison: each difference with its AUROC and interval."""

import math
from typing import TYPE_CHECKING, Literal

from visdiff.figures.style import (
    FONT,
    LINE,
    Style,
    axes_of,
    figure_of,
    find_style,
    lines_of,
    plain_line,
    write,
    write_title,
)
from visdiff.report.figures import forest_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from visdiff.results import Difference, DifferenceReport

_LABEL_LINES = 2
_BAR = 1.35
"""Height of the interval of a difference with the space around it, in lines of text."""


def forest(
    report: "DifferenceReport", ax: "Axes | None" = None, style: str = "light", most: int = 12
) -> "Figure":
    """Returns the forest plot of the tested differences, the report's first ones on top.

    The axis is two-sided: an AUROC of 0.5 is in the middle, what is more true of A on the left,
    what is more true of B on the right. A filled dot is a confirmed difference, a hollow one was
    tested and is not confirmed.

    Args:
        report: The report.
        ax: Axes to draw on; new ones when None.
        style: "light" or "dark".
        most: Maximum number of differences; the figure states how many more there are.

    Raises:
        InputError: The style is unknown.
    """
    colours = find_style(style)
    shown = report.differences[:most]
    height = 0.75 + LINE * (_LABEL_LINES + _BAR) * max(len(shown), 1)
    ax = axes_of(ax, height, colours)
    labels = [lines_of(ax, d.text, _LABEL_LINES) for d in shown]
    if figure_of(ax).axes == [ax]:
        rows = sum(len(lines) + _BAR for lines in labels)
        figure_of(ax).set_figheight(0.75 + LINE * max(rows, 2.0))
    top = 0.0
    for d, lines in zip(shown, labels, strict=True):
        write(
            ax, 0.0, top, "\n".join(lines), colours.ink, va="top", linespacing=1.15,
            bbox={"facecolor": colours.paper, "linewidth": 0, "pad": 0.5},
        )  # fmt: skip
        _draw_interval(ax, d, top + len(lines) + 0.4, colours)
        top += len(lines) + _BAR
    ax.axvline(0.5, color=colours.rule, linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
    ax.set(xlim=(-0.02, 1.02), ylim=(max(top, 1.0), -0.4), yticks=[])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["1.0", "0.75", "0.5", "0.75", "1.0"])
    rest = len(report.differences) - len(shown)
    ax.set_xlabel(
        "AUROC (filled: confirmed)" + (f"; {rest} more not shown" if rest else "")
        if shown
        else "AUROC"
    )
    if shown:
        _write_sides(ax, report, colours)
    else:
        write_title(ax, report.verdict, colours)
    return figure_of(ax)


def _draw_interval(ax: "Axes", d: "Difference", y: float, colours: Style) -> None:
    row = forest_row(d.auroc, d.ci_low, d.ci_high, d.direction)
    colour = colours.of(d.direction)
    if row["left"] is not None and row["right"] is not None:
        ends = [row["left"] / 100, row["right"] / 100]
        ax.plot(ends, [y, y], "-", color=colour, linewidth=1.2, solid_capstyle="butt")
    if row["x"] is not None and math.isfinite(d.auroc):
        face = colour if d.confirmed else colours.paper
        ax.plot([row["x"] / 100], [y], "o", color=colour, markerfacecolor=face, markersize=4)


def _write_sides(ax: "Axes", report: "DifferenceReport", colours: Style) -> None:
    names: dict[Literal["left", "right"], str] = {
        "left": report.set_a.name,
        "right": report.set_b.name,
    }
    for place, name in names.items():
        direction = "A" if place == "left" else "B"
        text = (lines_of(ax, plain_line(name), 1, share=0.42) or [direction])[0]
        arrow = f"← {text}" if direction == "A" else f"{text} →"
        ax.set_title(arrow, loc=place, fontsize=FONT, color=colours.of(direction), parse_math=False)
