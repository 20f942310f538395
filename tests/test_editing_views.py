"""How audits and edits are shown: figures, Markdown, text, HTML, and JSON that can be read back."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
from sample_reports import fake_report, sample_audit

import editing
from editing.audits.personalized.findings import Finding
from editing.audits.personalized.measures import Measured, Recognised
from editing.audits.personalized.result import SubjectAudit
from editing.audits.report import AuditReport
from editing.audits.revival.curves import Comparison, Curve, Duration, Revival
from editing.edit import Edit
from editing.metrics.proportions import proportion
from editing.metrics.subject import Estimate
from editing.requests import Debias, Erase, Learn, Moderate, Preserve, Replace, Request
from visdiff.errors import InputError
from visdiff.figures.style import COLUMN

HOSTILE = "<script>alert(1)</script> $\\frac{"
REQUESTS: tuple[Request, ...] = (
    Erase("church"), Replace("dog", "cat", scale=0.5), Debias("judge", {"man": 0.5, "woman": 0.5}),
    Moderate("bomb"), Preserve(("a castle",), scale=0.1), Learn("olis", "dog", "1f3a"),
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return sample_audit()


@pytest.fixture(scope="module")
def edit() -> Edit:
    return editing.fit(tiny.sd1(), [Erase("church"), Preserve(["a castle"])], nearest=4)


def full_audit() -> AuditReport:
    """An audit with every part, with NaN and with infinite numbers."""
    curve = Curve((0, 10), ((False, True), (True, True)))
    share, mean = proportion([True, False]), Estimate(0.4, math.nan, math.nan, 1, 1)
    durations = {n: Duration(math.inf, 3.0, math.inf) for n in ("original", "edited", "unknown")}
    revival = Revival(
        "church", {"original": share, "edited": share},
        (Comparison(1, curve, curve, curve, durations, "hidden"),), ("a note",), {"x": b"png"},
    )  # fmt: skip
    subject = SubjectAudit(
        REQUESTS[-1], Recognised(share, share, 0.7), (Measured("DINO", mean, mean),),
        (Finding("background", "more grass", 0.5, 0.01, True, "grass"),), missing={"DIV": "few"},
    )  # fmt: skip
    return sample_audit(requests=REQUESTS, subjects=(subject,), revivals=(revival,))


def widths_of(ax: Any) -> list[float]:
    return [bar.get_width() for bar in ax.patches]


def test_an_audit_is_read_from_its_json() -> None:
    report = full_audit()
    back = AuditReport.from_json(report.to_json())
    assert back.to_json() == report.to_json()
    assert back.requests == report.requests
    assert back.revivals == report.revivals
    assert back.verdict == report.verdict
    assert back.groups == report.groups
    assert not any(group.pairs for group in back.groups)
    plain = sample_audit()
    assert AuditReport.from_json(plain.to_json()) == plain


def test_the_saved_audit_is_the_one_that_is_read(report: AuditReport, tmp_path: Any) -> None:
    folder = report.save(tmp_path)
    assert AuditReport.from_json((folder / "audit.json").read_bytes()) == report
    assert (folder / "audit.md").read_text("utf-8") == report.to_markdown()
    assert (folder / "drift.pdf").read_bytes().startswith(b"%PDF")
    assert 'href="drift.svg"' in (folder / "audit.html").read_text("utf-8")
    assert not list((folder / "groups").rglob("*.svg"))
    report.save(tmp_path, figures=())
    assert not list(folder.glob("drift.*"))


def test_what_is_no_audit_is_an_error(report: AuditReport) -> None:
    data = json.loads(report.to_json())
    earlier = {k: v for k, v in data.items() if k != "record"} | {"schema": 1}
    damaged = data | {"record": data["record"] | {"groups": [{"name": "x"}]}}
    unknown = data | {"record": data["record"] | {"requests": [{"kind": "nonsense"}]}}
    for text, message in (
        ("{", "not JSON"),
        (fake_report().to_json(), "something else"),
        (json.dumps(earlier), "of schema 2, got 1"),
        (json.dumps(damaged), "a complete audit, got at record.groups"),
        (json.dumps(unknown), "a complete audit, got at record.requests"),
    ):
        with pytest.raises(InputError, match=message):
            AuditReport.from_json(text)


def test_the_drift_of_each_group_is_drawn_with_its_interval(report: AuditReport) -> None:
    groups = (*report.groups[:3], replace(report.groups[3], drift=None))
    ax = replace(report, groups=groups).plot().axes[0]
    widths = widths_of(ax)
    assert widths == [g.drift.value for g in groups if g.drift is not None]
    ends = [np.asarray(line.get_xdata()).tolist() for line in ax.get_lines()]
    assert [[g.drift.low, g.drift.high] for g in groups if g.drift is not None] == ends[:3]
    texts = [t.get_text() for t in ax.texts]
    assert texts.count("not measured") == 1
    assert ["(asked for)" in t for t in texts[:2]] == [True, True]
    assert replace(report, groups=()).plot().get_figwidth() == COLUMN


def test_pairs_are_those_of_the_largest_side_effect_unless_named(report: AuditReport) -> None:
    ax = report.show_pairs(style="dark").axes[0]
    assert ax.get_title("left") == "neighbours: a castle with a flag: less often"
    assert len(ax.images) == 8
    assert report.show_pairs("places").axes[0].get_title("left") == "places: moved most"
    assert len(report.show_pairs("targets", "church", n=1).axes[0].images) == 2
    with pytest.raises(InputError, match=r"a group \(targets, .* got 'nowhere'"):
        report.show_pairs("nowhere")
    with pytest.raises(InputError, match="with images, got 'x'; choose from 'a smiling"):
        report.show_pairs("people", "x")
    with pytest.raises(InputError, match="draw the audit that `audit` returned"):
        AuditReport.from_json(report.to_json()).show_pairs()


def test_an_audit_as_text_has_five_side_effects_and_all_warnings(report: AuditReport) -> None:
    lines = repr(report).splitlines()
    assert lines[0] == report.verdict
    assert sum(line.startswith("  ") and "AUROC" in line for line in lines) == 5
    assert f"  and {len(report.side_effects) - 5} more" in lines
    assert lines[-1] == f"warning: {report.warnings[0]}"


def test_a_table_of_an_audit_has_the_group_of_each_difference(report: AuditReport) -> None:
    frame, full = report.to_frame(), report.to_frame(full=True)
    assert list(frame.columns[:2]) == ["group", "meant"]
    assert len(frame.columns) == 12
    assert set(frame.columns) < set(full.columns)
    assert len(frame) == sum(len(g.report.differences) for g in report.groups)


def test_text_of_users_is_escaped_in_markdown_and_html(edit: Edit) -> None:
    audit = sample_audit(warnings=(HOSTILE,), about={"method": HOSTILE})
    named = replace(edit, requests=(Erase(HOSTILE),), diagnostics={"warnings": [HOSTILE]})
    for text in (audit.to_markdown(), audit._repr_html_(), named._repr_html_()):
        assert "<script" not in text
    assert "## What was asked" in audit.to_markdown()
    assert HOSTILE in repr(named)


def test_an_edit_as_text_names_its_requests(edit: Edit) -> None:
    lines = repr(edit).splitlines()
    assert lines[0].endswith(f"by uce: {len(edit.tensors)} changed tensors")
    assert lines[1:3] == ["  erase church", "  preserve a castle"]
    assert [f"warning: {w}" for w in edit.warnings] == lines[3:]


def test_diagnostics_of_a_closed_form_are_drawn(edit: Edit) -> None:
    ax = edit.plot_diagnostics(most=1).axes[0]
    found = edit.diagnostics
    expected = [t["reached"] for t in found["targets"]]
    expected += [found["preserved"]["spill"], found["null"]["spill"]]
    expected += [found["neighbours"][0]["spill"]]
    assert widths_of(ax) == expected
    assert f"{len(found['neighbours']) - 1} neighbours not shown" in ax.get_xlabel()


@pytest.mark.parametrize(
    "losses",
    [
        {"before": {"erase": 0.5, "prior": 0.1}, "after": {"erase": 0.2, "prior": 0.1}},
        {"loss": {"before": 0.5, "after": 0.2}, "notes": []},
    ],
)
def test_losses_of_a_trained_edit_are_drawn(edit: Edit, losses: Any) -> None:
    ax = replace(edit, diagnostics=losses).plot_diagnostics().axes[0]
    assert {0.5, 0.2} <= set(widths_of(ax))
    with pytest.raises(InputError, match="imported and composed edits have none"):
        replace(edit, diagnostics={}).plot_diagnostics()
