"""The audit as one self-contained HTML page."""

import base64
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from editing.audits.personalized.page import subject_section
from editing.audits.revival.page import revival_section
from visdiff.report.collect import auroc_text, p_text
from visdiff.report.html import CONTENT_SECURITY_POLICY

if TYPE_CHECKING:
    from editing.audits.outcomes import Outcome
    from editing.audits.pairs import ImagePair
    from editing.audits.report import AuditReport, GroupAudit

_FULL = 1.5
"""Drift at the right edge of the bars; 1 is the seed-noise floor."""


def render(report: "AuditReport", folder: str | Path) -> str:
    """Returns the page. It opens offline, loads nothing, and escapes all text it is given.

    Args:
        report: The audit.
        folder: Folder the page is written to, for the command that fits the next edit.
    """
    return _template("audit.html.j2").render(
        policy=CONTENT_SECURITY_POLICY,
        verdict=report.verdict,
        about=dict(report.about),
        requested=[r.describe() for r in report.requests],
        outcomes=[_outcome(o) for o in report.outcomes],
        groups=[_group(g) for g in report.groups],
        others=[_group(g) for g in report.groups if not g.meant],
        to_preserve=report.to_preserve,
        command=report.next_command(folder),
        n_candidates=report.n_candidates,
        warnings=report.warnings,
        subjects=subject_section(report.subjects),
        revivals=revival_section(report.revivals),
        n_pairs=sum(g.n for g in report.groups),
        full=_FULL,
    )


def render_fragment(report: "AuditReport") -> str:
    """Returns the verdict and a small table, for a notebook cell."""
    return _template("audit_fragment.html.j2").render(
        verdict=report.verdict, groups=[_group(g) for g in report.groups]
    )


def _outcome(o: "Outcome") -> dict[str, Any]:
    wanted = o.wanted if isinstance(o.wanted, str) else f"{o.wanted:.0%}"
    return {
        "request": o.request.describe(),
        "sought": o.sought,
        "wanted": wanted,
        "before": f"{o.before.value:.0%}",
        "after": f"{o.after.value:.0%}",
        "interval": f"{o.after.low:.0%}–{o.after.high:.0%}",
        "n": o.after.n,
        "met": o.met,
    }


def _group(group: "GroupAudit") -> dict[str, Any]:
    moved = group.drift
    return {
        "name": group.name,
        "meant": group.meant,
        "n": group.n,
        "n_tested": group.n_tested,
        "prompts": [prompt or "(empty)" for prompt in group.prompts],
        "verdict": group.report.verdict,
        "drift": None if moved is None else f"{moved.value:.2f}",
        "interval": None
        if moved is None or moved.low != moved.low
        else f"{moved.low:.2f}–{moved.high:.2f}",
        "bar": None if moved is None else round(100 * min(moved.value, _FULL) / _FULL, 1),
        "by_concept": [(c, f"{v:.2f}") for c, v in list(group.by_concept.items())[:8] if c],
        "metrics": [(name, f"{value:.3g}") for name, value in group.metrics.items()],
        "sentences": [
            {
                "text": d.text,
                "brought": d.direction == "B",
                "auroc": auroc_text(d.auroc),
                "q": p_text(d.q_value),
                "pairs": [_pair(p) for p in group.pairs.get(d.text, ())],
            }
            for d in group.confirmed
        ],
        "pairs": [_pair(p) for p in group.pairs.get("", ())],
    }


def _pair(pair: "ImagePair") -> dict[str, str]:
    return {
        "prompt": pair.prompt or "(empty)",
        "seed": pair.seed,
        "original": _uri(pair.original),
        "edited": _uri(pair.edited),
    }


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("editing.audits", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
