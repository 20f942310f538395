"""The printed summary of an audit."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from editing.audits.report import AuditReport


def print_audit(report: "AuditReport", out: Path, as_json: bool) -> None:
    """Prints an audit, the command of the next edit, and the path of the report.

    Raises:
        typer.Exit: With status 3, if a part of the audit could not be computed.
    """
    if as_json:
        typer.echo(report.to_json(indent=2))
    else:
        _print_summary(report)
        if command := report.next_command(out):
            typer.echo(f"next: {command}")
    typer.echo(f"report: {out / 'audit.html'}", err=as_json)
    if not report.is_complete:
        raise typer.Exit(3)


def _print_summary(report: "AuditReport") -> None:
    """Prints the verdict, the outcomes and one line per group."""
    typer.echo(report.verdict)
    for o in report.outcomes:
        typer.echo(
            f"{o.request.kind} {o.request.concept}: {o.sought} {o.before.value:.0%} → "
            f"{o.after.value:.0%} ({o.met})"
        )
    for revival in report.revivals:
        typer.echo(revival.sentence)
    for group in report.groups:
        moved = "–" if group.drift is None else f"{group.drift.value:.2f}"
        changes = "; ".join(report.sentences(group))
        metrics = "".join(f", {name} {value:.3g}" for name, value in group.metrics.items())
        typer.echo(f"{group.name}: drift {moved}{metrics}" + (f"; {changes}" if changes else ""))
    for subject in report.subjects:
        for fault in subject.confirmed:
            typer.echo(f"{fault.sentence} (size {fault.size:.0%}, q {fault.q_value:.2g})")
        if subject.recommended is not None:
            typer.echo(f"recommended step: {subject.recommended}")
        for reason, parts in subject.reasons.items():
            typer.echo(f"not measured: {', '.join(parts)}: {reason}", err=True)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
