"""How an audit is shown: as text, a table, figures, Markdown and HTML."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from visdiff.results.views import summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editing.audits.report import AuditReport


class AuditViews:
    """The views of `editing.audits.report.AuditReport`, which inherits them."""

    def __repr__(self) -> str:
        report = _report(self)
        about = [
            f"{o.request.describe()}: {o.sought} {o.before.value:.0%} → {o.after.value:.0%} "
            f"({o.met})"
            for o in report.outcomes
        ]
        rows = [
            f"{e.sentence}  AUROC {e.difference.auroc:.2f} "
            f"({e.difference.ci_low:.2f}–{e.difference.ci_high:.2f}), "
            f"q {e.difference.q_value:.1g}"
            for e in report.effects
        ]
        return summary(report.verdict, about, rows, report.warnings)

    def to_frame(self, full: bool = False) -> "pd.DataFrame":
        """Returns the differences of all groups as a table, one row each, confirmed or not.

        Args:
            full: Whether to return all fields of a difference.

        Returns:
            A frame with the columns ``group`` and ``meant``, and those of
            `visdiff.results.views.ReportViews.to_frame`.
        """
        import pandas as pd

        frames = []
        for group in _report(self).groups:
            frame = group.report.to_frame(full)
            frame.insert(0, "group", group.name)
            frame.insert(1, "meant", group.meant)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def plot(self, ax: "Axes | None" = None, style: str = "light") -> "Figure":
        """Returns the drift of each group with its interval; 1 is the effect of another seed.

        Args:
            ax: Axes to draw on; new ones when None.
            style: "light" or "dark".
        """
        from editing.audits.figures import drift_figure

        return drift_figure(_report(self), ax, style)

    def show_pairs(
        self,
        group: str | None = None,
        text: str | None = None,
        ax: "Axes | None" = None,
        style: str = "light",
        n: int = 4,
    ) -> "Figure":
        """Returns original and edited images of the same prompts and seeds.

        Args:
            group: Name of a group; by default that of the largest side effect, or the group that
                moved most.
            text: A confirmed sentence of the group; by default its largest one. "" for the pairs
                that moved most.
            ax: Axes to draw on; new ones when None.
            style: "light" or "dark".
            n: Maximum number of pairs.

        Raises:
            InputError: There is no such group or sentence, or the audit has no images of it.
        """
        from editing.audits.figures import pairs_figure

        return pairs_figure(_report(self), group, text, ax, style, n)

    def to_markdown(self) -> str:
        """Returns the audit as Markdown, for a pull request, a model card or a chat."""
        from editing.audits.markdown import render_markdown

        return render_markdown(_report(self))

    def to_html(self, folder: str | Path = ".") -> str:
        """Returns the audit as one HTML page that opens offline.

        Args:
            folder: Folder the page is written to, for its links and for the next command.
        """
        from editing.audits.page import render

        return render(_report(self), folder)

    def _repr_html_(self) -> str:
        from editing.audits.page import render_fragment

        return render_fragment(_report(self))


def _report(views: AuditViews) -> "AuditReport":
    return cast("AuditReport", views)
