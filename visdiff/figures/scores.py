"""The scores of one difference: the images of A above the axis, those of B below it."""

from typing import TYPE_CHECKING

from visdiff.errors import InputError
from visdiff.figures.style import (
    FONT,
    axes_of,
    figure_of,
    find_style,
    lines_of,
    write_title,
)
from visdiff.report.figures import histogram
from visdiff.results import score_column

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from visdiff.results import Difference, DifferenceReport


def difference_at(report: "DifferenceReport", i: int) -> "Difference":
    """Returns a difference of a report by its number, from 0.

    Raises:
        InputError: There is no such difference.
    """
    if not 0 <= i < len(report.differences):
        raise InputError(
            f"Expected the number of one of {len(report.differences)} differences, from 0, got "
            f"{i}; count along report.differences."
        )
    return report.differences[i]


def score_histogram(
    report: "DifferenceReport", i: int = 0, ax: "Axes | None" = None, style: str = "light"
) -> "Figure":
    """Returns the histograms of one difference's scores in both sets, back to back.

    Bars are shares of their set, so sets of different sizes can be compared. Only images that the
    difference was tested on are counted. Lines mark the means.

    Args:
        report: A report with its scores.
        i: Number of the difference in the report, from 0.
        ax: Axes to draw on; new ones when None.
        style: "light" or "dark".

    Raises:
        InputError: There is no such difference, the report has no scores of it (one that was read
            from JSON has none), or the style is unknown.
    """
    colours, d = find_style(style), difference_at(report, i)
    sides = _tested(report, d.text)
    drawn = histogram(*sides) if sides is not None else None
    if sides is None or drawn is None:
        raise InputError(
            f"Expected a report with the scores of {d.text!r}, got one without; draw the report "
            "that the comparison returned, since reports that are read from JSON have no scores."
        )
    ax = axes_of(ax, 1.7, colours)
    low, scale = drawn["low"], (drawn["high"] - drawn["low"]) / 100
    means = {"A": drawn["mean_a"], "B": drawn["mean_b"]}
    names = {"A": report.set_a.name, "B": report.set_b.name}
    for side, sign, values in zip("AB", (1, -1), sides, strict=True):
        bars = drawn[side.lower()]
        ax.bar(
            [low + scale * bar["x"] for bar in bars],
            [sign * bar["height"] for bar in bars],
            [scale * bar["width"] for bar in bars],
            align="edge", color=colours.of(side), linewidth=0,
        )  # fmt: skip
        mean = low + scale * means[side]
        ax.plot([mean, mean], [0, sign * 112], "-", color=colours.ink, linewidth=0.8)
        name = (lines_of(ax, names[side], 1, share=0.3) or [side])[0]
        right = means[side] < 50  # where there are fewer bars
        ax.annotate(
            f"{name}\nn = {values.count()}", (float(right), 0.97 if side == "A" else 0.03),
            xycoords="axes fraction", fontsize=FONT - 0.5, color=colours.of(side), parse_math=False,
            ha="right" if right else "left", va="top" if side == "A" else "bottom",
        )  # fmt: skip
    ax.axhline(0, color=colours.muted, linewidth=0.6)
    ax.set(ylim=(-118, 118), yticks=[])
    ax.set_xlabel("score")
    ax.set_ylabel("share of images")
    write_title(ax, d.text, colours)
    return figure_of(ax)


def _tested(report: "DifferenceReport", text: str) -> "tuple[pd.Series, pd.Series] | None":
    frame, name = report.scores, score_column(text)
    if frame is None or name not in frame:
        return None
    if "half" in frame and not report.double_dipped:
        frame = frame[frame["half"] != "discovery"]
    return frame.loc[frame["set"] == "A", name], frame.loc[frame["set"] == "B", name]
