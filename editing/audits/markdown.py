"""An audit as Markdown: verdict, requests, groups and what to preserve, without images."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from visdiff.report.markdown import escape, table

if TYPE_CHECKING:
    from editing.audits.outcomes import Outcome
    from editing.audits.report import AuditReport, GroupAudit


def render_markdown(report: "AuditReport") -> str:
    """Returns an audit as GitHub-flavoured Markdown. All text of users and models is escaped.

    Args:
        report: The audit.

    Returns:
        Text ending in a newline.
    """
    parts = [f"# {escape(report.verdict)}"]
    parts += [f"> **Note.** {escape(warning)}" for warning in report.warnings]
    if report.outcomes:
        header = ("request", "counted", "wanted", "before", "after", "met")
        parts += ["## What was asked", table(header, map(_outcome, report.outcomes))]
    if findings := [f for s in report.subjects for f in s.confirmed]:
        parts += ["## What else was learnt", _list(f.sentence for f in findings)]
    if report.revivals:
        parts += ["## Revival", _list(r.sentence for r in report.revivals)]
    if report.groups:
        header = ("prompts", "pairs", "drift", "interval", "confirmed changes")
        rows = [_group(group, report.sentences(group)) for group in report.groups]
        parts += ["## How much changed, and where", table(header, rows)]
        parts.append("Drift 0: identical images; 1: as far as another seed.")
    if report.to_preserve:
        parts += ["## To preserve in the next edit", _list(report.to_preserve)]
    facts = [*report.about.items(), ("sentences tested", f"{report.n_candidates:,}")]
    if report.command:
        facts.append(("command", report.command))
    parts += ["## Where this comes from", table(("what", "value"), facts)]
    return "\n\n".join(parts) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _outcome(o: "Outcome") -> tuple[str, ...]:
    wanted = o.wanted if isinstance(o.wanted, str) else f"{o.wanted:.0%}"
    shares = (f"{share.value:.0%} of {share.n}" for share in (o.before, o.after))
    return (o.request.describe(), o.sought, wanted, *shares, o.met)


def _group(group: "GroupAudit", sentences: list[str]) -> tuple[str, ...]:
    moved = group.drift
    interval = "–"
    if moved is not None and math.isfinite(moved.low) and math.isfinite(moved.high):
        interval = f"{moved.low:.2f} to {moved.high:.2f}"
    return (
        group.name + (" (asked for)" if group.meant else ""),
        str(group.n),
        "–" if moved is None else f"{moved.value:.2f}",
        interval,
        "; ".join(sentences) or "–",
    )
