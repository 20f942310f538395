"""The style of all figures: width, type size and colours, and the axes that they are drawn on.

Nothing of matplotlib's global state is read or changed but its default font: colours and sizes are
set on each artist, so figures of two styles can be drawn side by side and from several threads.
"""

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from visdiff.errors import InputError
from visdiff.files import utf8

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.3
"""Width of a figure in inches: one column of a two-column paper."""

FONT = 7.0
"""Size of text in points."""

LINE = 0.135
"""Height of a line of text in inches."""

_CHARACTER = 0.56
"""Mean width of a character of DejaVu Sans, in units of the font size."""

StyleName = Literal["light", "dark"]


@dataclass(frozen=True)
class Style:
    """Colours, those of the pages' style sheet. A and B differ in every common colour blindness.

    Attributes:
        paper: Background.
        ink: Text.
        muted: Secondary text and axes.
        rule: Reference lines.
        a: Set A, or what was meant to change.
        b: Set B, or what was not meant to change.
    """

    paper: str
    ink: str
    muted: str
    rule: str
    a: str
    b: str

    def of(self, direction: str) -> str:
        """Returns the colour of set "A" or "B"."""
        return self.a if direction == "A" else self.b


_STYLES: dict[str, Style] = {
    "light": Style("#ffffff", "#191c20", "#5d6673", "#b6bec8", "#1e6fb5", "#b64d07"),
    "dark": Style("#121518", "#e9ecef", "#9aa5b1", "#56616d", "#6fb6f2", "#f39a55"),
}


def find_style(name: str) -> Style:
    """Returns a style by name.

    Raises:
        InputError: The name is unknown.
    """
    if name not in _STYLES:
        raise InputError(f"Expected a style ({', '.join(_STYLES)}), got {name!r}; choose one.")
    return _STYLES[name]


def axes_of(ax: "Axes | None", height: float, style: Style) -> "Axes":
    """Returns the axes to draw on, with the colours and type size of the style.

    Args:
        ax: Given axes, or None for those of a new figure.
        height: Height of a new figure in inches.
        style: The style.
    """
    if ax is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(COLUMN, height), layout="constrained", facecolor=style.paper)
        ax = figure.add_subplot()
    ax.set_facecolor(style.paper)
    ax.tick_params(colors=style.muted, labelsize=FONT, length=2, width=0.6)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(style.muted)
        spine.set_linewidth(0.6)
    ax.xaxis.label.set(color=style.ink, fontsize=FONT)
    ax.yaxis.label.set(color=style.ink, fontsize=FONT)
    return ax


def figure_of(ax: "Axes") -> "Figure":
    """Returns the figure of axes, also where they are in a subfigure."""
    figure: Any = ax.get_figure()
    while not hasattr(figure, "savefig"):
        figure = figure.figure
    return figure


def write_title(ax: "Axes", text: str, style: Style) -> None:
    """Writes a title over the axes, at the left, in up to two lines."""
    ax.set_title(
        "\n".join(lines_of(ax, text, most=2)),
        loc="left", fontsize=FONT + 0.5, color=style.ink, parse_math=False,
    )  # fmt: skip


def write(ax: "Axes", x: float, y: float, text: str, colour: str, **options: Any) -> None:
    """Writes plain text at a point; dollar signs are not mathematics."""
    ax.text(x, y, text, **{"fontsize": FONT, "color": colour, "parse_math": False, **options})


def plain_line(text: str) -> str:
    """Returns text on one line, without characters that have no glyph or no encoding."""
    readable = utf8(" ".join(text.split())).decode("utf-8")
    return "".join(c for c in readable if c.isprintable())


def lines_of(ax: "Axes", text: str, most: int = 1, share: float = 1.0) -> list[str]:
    """Returns text in lines that fit the axes; "…" marks what does not fit.

    Args:
        ax: The axes.
        text: The text.
        most: Maximum number of lines.
        share: Share of the axes' width that is free for the text.
    """
    figure = figure_of(ax)
    # A new figure's layout is computed when it is drawn; its axes will be nearly as wide as it is.
    points = (
        72 * figure.get_figwidth() * (1.0 if len(figure.axes) == 1 else ax.get_position().width)
    )
    width = max(int(share * points / (_CHARACTER * FONT)), 8)
    return textwrap.wrap(
        plain_line(text), width, max_lines=most, placeholder=" …", break_on_hyphens=False
    )
