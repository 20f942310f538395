"""How an edit is shown: as text, as HTML in a notebook, and its diagnostics as a figure."""

import html
from typing import TYPE_CHECKING, Any

from visdiff.errors import InputError
from visdiff.figures.style import (
    LINE,
    Style,
    axes_of,
    figure_of,
    find_style,
    lines_of,
    write,
    write_title,
)
from visdiff.results.views import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editing.edit import Edit

_LIMIT = 0.5
"""Spill above which the fit warns; the same value for a request's residual."""


def edit_text(edit: "Edit") -> str:
    """Returns an edit as a few lines: what it is, its first requests and its warnings."""
    return summary(_headline(edit), (), [r.describe() for r in edit.requests], edit.warnings)


def edit_html(edit: "Edit") -> str:
    """Returns an edit as an HTML fragment for a notebook cell; all text is escaped."""
    warnings = "".join(
        f'<p style="margin:.2em 0"><b>Note.</b> {html.escape(w)}</p>' for w in edit.warnings
    )
    reached = {t["concept"]: f"{t['reached']:.0%}" for t in edit.diagnostics.get("targets", ())}
    cell = '<td style="text-align:left;padding:.1rem .8rem .1rem 0">'
    rows = "".join(
        f"<tr>{cell}{html.escape(r.describe())}</td>{cell}{reached.get(r.concept, '')}</td></tr>"
        for r in edit.requests
    )
    head = '<th style="text-align:left;padding:.1rem .8rem .1rem 0">'
    return (
        '<div style="max-width:52rem;line-height:1.45">'
        f'<p style="margin:.2em 0;font-weight:650">{html.escape(_headline(edit))}</p>{warnings}'
        f'<table style="border-collapse:collapse;margin:.4em 0">'
        f"<tr>{head}request</th>{head}{'way to its target' if reached else ''}</th></tr>"
        f"{rows}</table></div>"
    )


def plot_diagnostics(
    edit: "Edit", ax: "Axes | None" = None, style: str = "light", most: int = 12
) -> "Figure":
    """Returns the diagnostics of a fit as a figure.

    For a closed form: the share of the way to its target that each request goes, and below it how
    far other text vectors move relative to those of the requests. A line marks where the fit warns
    of a neighbour. For a trained edit: the loss of each part before and after.

    Args:
        edit: An edit with diagnostics.
        ax: Axes to draw on; new ones when None.
        style: "light" or "dark".
        most: Maximum number of neighbours; the figure states how many more there are.

    Raises:
        InputError: The edit has no diagnostics, or the style is unknown.
    """
    colours = find_style(style)
    found = edit.diagnostics
    if "targets" in found:
        bars, rest = _moves(found, colours, most)
        label, limit = "relative distance between text vectors", _LIMIT
    else:
        bars, rest, label, limit = _losses(edit, colours), 0, "loss", None
    ax = axes_of(ax, 0.65 + 2 * LINE * len(bars), colours)
    end = max([1.0 if limit else 0.0, *(value for _, value, _ in bars)]) or 1.0
    for row, (name, value, colour) in enumerate(bars):
        ax.barh(row + 0.28, value, 0.3, color=colour, linewidth=0)
        text = (lines_of(ax, name, 1, share=0.8) or [""])[0]
        write(ax, 0, row - 0.05, text, colours.ink, va="center")
        number = f"{value:.2f}" if limit else f"{value:.3g}"
        write(ax, end, row - 0.05, number, colours.muted, va="center", ha="right")
    if limit is not None:
        ax.axvline(limit, color=colours.rule, linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
    ax.set(xlim=(0, 1.02 * end), ylim=(len(bars) - 0.4, -0.5), yticks=[])
    ax.set_xlabel(label + (f"; {rest} neighbours not shown" if rest else ""))
    write_title(ax, _headline(edit), colours)
    return figure_of(ax)


def _headline(edit: "Edit") -> str:
    n = len(edit.tensors)
    return f"Edit of {edit.base_model} by {edit.method}: {n} changed tensor{'s' * (n != 1)}"


def _moves(found: Any, colours: Style, most: int) -> tuple[list[tuple[str, float, str]], int]:
    bars = [
        (f"{t['request']} {t['concept']}: way to its target", t["reached"], colours.a)
        for t in found["targets"]
    ]
    for key, name in (("preserved", "preserved concepts move"), ("null", "empty prompt moves")):
        if found.get(key):
            bars.append((name, found[key]["spill"], colours.b))
    neighbours = found.get("neighbours", [])
    bars += [(f"{n['concept']} moves", n["spill"], colours.b) for n in neighbours[:most]]
    return bars, len(neighbours[most:])


def _losses(edit: "Edit", colours: Style) -> list[tuple[str, float, str]]:
    losses = edit.diagnostics.get("loss", edit.diagnostics)
    if "before" not in losses or "after" not in losses:
        raise InputError(
            f"Expected an edit with the diagnostics of its fit, got one by {edit.method} without; "
            "draw the edit as it was fitted, since imported and composed edits have none."
        )
    return [
        (f"{part}, {time}", float(value), colour)
        for time, colour in (("before", colours.b), ("after", colours.a))
        for part, value in _parts(losses[time]).items()
    ]


def _parts(loss: Any) -> dict[str, float]:
    return loss if isinstance(loss, dict) else {"loss": loss}
