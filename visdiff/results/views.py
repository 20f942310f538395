"""How a comparison's report is shown: as text, a table, figures, Markdown and HTML."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from visdiff.results import DifferenceReport

ROWS = 5
"""Rows of a result's text in an interpreter."""

FIRST_COLUMNS = (
    "text", "direction", "confirmed", "auroc", "ci_low", "ci_high", "q_value", "n_a", "n_b",
    "synonyms",
)  # fmt: skip
"""Columns of `ReportViews.to_frame` that are read first."""


class ReportViews:
    """The views of `visdiff.results.DifferenceReport`, which inherits them."""

    def __repr__(self) -> str:
        report = _report(self)
        sets = f"A: {report.set_a.name} ({report.set_a.n} images), "
        sets += f"B: {report.set_b.name} ({report.set_b.n} images)"
        rows = [
            f"{d.direction}  {d.text}  AUROC {d.auroc:.2f} ({d.ci_low:.2f}–{d.ci_high:.2f}), "
            f"q {d.q_value:.1g}{'' if d.confirmed else ', not confirmed'}"
            for d in report.differences
        ]
        return summary(report.verdict, [sets], rows, report.warnings)

    def to_frame(self, full: bool = False) -> "pd.DataFrame":
        """Returns the differences as a table, one row each, in the report's order.

        Args:
            full: Whether to return all fields of `Difference`, not only `FIRST_COLUMNS`.

        Returns:
            A frame with the fields as columns; tuples are lists of strings.
        """
        import pandas as pd

        from visdiff.results import Difference

        every = [f.name for f in dataclasses.fields(Difference)]
        rows = [[getattr(d, c) for c in every] for d in _report(self).differences]
        frame = pd.DataFrame(rows, columns=pd.Index(every))
        for column in ("synonyms", "evidence_a", "evidence_b"):
            frame[column] = frame[column].map(list)
        return frame if full else frame.filter(FIRST_COLUMNS)

    def plot(self, ax: "Axes | None" = None, style: str = "light", most: int = 12) -> "Figure":
        """Returns the forest plot of the differences; see `visdiff.figures.forest.forest`.

        Args:
            ax: Axes to draw on; new ones when None.
            style: "light" or "dark".
            most: Maximum number of differences; the figure states how many more there are.
        """
        from visdiff.figures.forest import forest

        return forest(_report(self), ax, style, most)

    def plot_scores(self, i: int = 0, ax: "Axes | None" = None, style: str = "light") -> "Figure":
        """Returns the histograms of a difference's scores in both sets.

        Args:
            i: Number of the difference in ``differences``, from 0.
            ax: Axes to draw on; new ones when None.
            style: "light" or "dark".

        Raises:
            InputError: There is no such difference, or the report has no scores of it.
        """
        from visdiff.figures.scores import score_histogram

        return score_histogram(_report(self), i, ax, style)

    def show(
        self, i: int = 0, ax: "Axes | None" = None, style: str = "light", n: int = 4
    ) -> "Figure":
        """Returns the images of both sets that show a difference most clearly.

        Args:
            i: Number of the difference in ``differences``, from 0.
            ax: Axes to draw on; new ones when None.
            style: "light" or "dark".
            n: Maximum number of images of each set.

        Raises:
            InputError: There is no such difference, or the report has no images of it.
        """
        from visdiff.figures.images import evidence

        return evidence(_report(self), i, ax, style, n)

    def to_markdown(self) -> str:
        """Returns the report as Markdown, for a pull request, a chat or a language model."""
        from visdiff.report.markdown import render_markdown

        return render_markdown(_report(self))

    def to_html(self) -> str:
        """Returns the report as one self-contained HTML page that works offline."""
        from visdiff.report.html import render_html

        return render_html(_report(self))

    def _repr_html_(self) -> str:
        # Called by notebooks to display the report: a small table without images.
        from visdiff.report.html import render_fragment

        return render_fragment(_report(self))


def summary(
    verdict: str, about: Iterable[str], rows: Iterable[str], warnings: Iterable[str]
) -> str:
    """Returns a result as a few lines of text: verdict, facts, first rows and all warnings.

    Args:
        verdict: The result in one sentence.
        about: Facts, one line each.
        rows: Findings, one line each; the first `ROWS` are written, then how many more there are.
        warnings: Warnings, one line each.
    """
    rows = list(rows)
    lines = [verdict, *about, *(f"  {row}" for row in rows[:ROWS])]
    if len(rows) > ROWS:
        lines.append(f"  and {len(rows) - ROWS} more")
    return "\n".join(" ".join(line.split("\n")) for line in [*lines, *map(_warning, warnings)])


def _warning(text: str) -> str:
    return f"warning: {text}"


def _report(views: ReportViews) -> "DifferenceReport":
    return cast("DifferenceReport", views)
