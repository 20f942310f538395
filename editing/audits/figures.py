"""The figures of an audit: drift by group, and pairs of original and edited images."""

import math
from typing import TYPE_CHECKING

from editing.audits.effects import change_text
from visdiff.errors import InputError
from visdiff.figures.images import ImageRow, image_rows
from visdiff.figures.style import (
    LINE,
    axes_of,
    figure_of,
    find_style,
    lines_of,
    write,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editing.audits.report import AuditReport, GroupAudit


def drift_figure(report: "AuditReport", ax: "Axes | None" = None, style: str = "light") -> "Figure":
    """Returns the drift of each group as bars with intervals.

    A dashed line marks 1, the effect of another seed. Groups that the edit was asked to change
    have another colour.

    Args:
        report: The audit.
        ax: Axes to draw on; new ones when None.
        style: "light" or "dark".

    Raises:
        InputError: The style is unknown.
    """
    colours = find_style(style)
    ax = axes_of(ax, 0.85 + 2 * LINE * max(len(report.groups), 1), colours)
    end = 1.1
    for row, group in enumerate(report.groups):
        moved = group.drift
        suffix = " (asked for)" if group.meant else ""
        label = (lines_of(ax, group.name + suffix, 1, share=0.7) or [""])[0]
        write(ax, 0, row - 0.05, label, colours.ink, va="center")
        if moved is None:
            write(ax, 0, row + 0.28, "not measured", colours.muted, va="center")
            continue
        ax.barh(row + 0.3, moved.value, 0.28, color=colours.of("A" if group.meant else "B"))
        end = max(end, moved.value)
        if math.isfinite(moved.low) and math.isfinite(moved.high):
            ends = [moved.low, moved.high]
            ax.plot(ends, [row + 0.3] * 2, "-", color=colours.ink, linewidth=0.9)
            end = max(end, moved.high)
    ax.axvline(1, color=colours.muted, linewidth=0.6, linestyle=(0, (3, 2)), zorder=0)
    ax.set(xlim=(0, 1.03 * end), ylim=(max(len(report.groups), 1) - 0.4, -0.5), yticks=[])
    ax.set_xlabel("drift (1: as far as another seed)")
    write_title(ax, report.verdict, colours)
    return figure_of(ax)


def pairs_figure(
    report: "AuditReport",
    group: str | None = None,
    text: str | None = None,
    ax: "Axes | None" = None,
    style: str = "light",
    n: int = 4,
) -> "Figure":
    """Returns original images above the edited images of the same prompts and seeds.

    Args:
        report: An audit with images.
        group: Name of a group; None for that of the largest side effect, or, without side effects,
            for the group that moved most.
        text: A confirmed sentence of the group, or a concept that the edit was asked to change; ""
            for the pairs that moved most; None for the group's largest difference.
        ax: Axes to draw on; new ones when None.
        style: "light" or "dark".
        n: Maximum number of pairs.

    Raises:
        InputError: There is no such group or sentence, the audit has no images of it (one that was
            read from JSON has none), or the style is unknown.
    """
    chosen = _find_group(report, group)
    if text is None:
        largest = max(chosen.confirmed, key=lambda d: d.auroc, default=None)
        text = largest.text if largest is not None else ""
    pairs = {**chosen.examples, **chosen.pairs}
    if not pairs.get(text):
        known = ", ".join(repr(name) for name, own in pairs.items() if own and name)
        raise InputError(
            f"Expected a sentence of the group {chosen.name!r} with images, got {text!r}; "
            + (f"choose from {known}." if known else "draw the audit that `audit` returned.")
        )
    shown = pairs[text][:n]
    directions = {d.text: d.direction for d in chosen.confirmed}
    what = change_text(text, directions[text]) if text in directions else text or "moved most"
    rows = [
        ImageRow("original", [pair.original for pair in shown]),
        ImageRow(
            "edited",
            [pair.edited for pair in shown],
            captions=[pair.prompt or "(empty)" for pair in shown],
        ),
    ]
    return image_rows(rows, f"{chosen.name}: {what}", ax, style)


def _find_group(report: "AuditReport", name: str | None) -> "GroupAudit":
    groups = {group.name: group for group in report.groups}
    if name is None and report.side_effects:
        return max(report.side_effects, key=lambda found: found[1].auroc)[0]
    if name is None and groups:
        return max(report.groups, key=lambda g: g.drift.value if g.drift is not None else 0.0)
    if name not in groups:
        raise InputError(
            f"Expected the name of a group ({', '.join(groups) or 'none'}), got {name!r}; choose "
            "one of these."
        )
    return groups[name]
