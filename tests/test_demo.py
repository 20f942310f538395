"""The comparison demo with a cold and with a warm cache; test_editing_audit.py runs the other."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from visdiff.cli import demo
from visdiff.results import DifferenceReport


def _run(out: Path, cache: Path) -> tuple[DifferenceReport, float]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "visdiff.cli", "demo", "compare", "--json", "--out", str(out)],
        env={**os.environ, "VISDIFF_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return DifferenceReport.from_json(done.stdout), time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_finds_only_the_planted_differences(tmp_path: Path) -> None:
    report, cold = _run(tmp_path / "out", tmp_path / "cache")
    assert demo.found(report) == {p.what: True for p in demo.PLANTED}
    assert [d.text for d in report.confirmed if not demo.names_planted(d)] == []
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    again, warm = _run(tmp_path / "out", tmp_path / "cache")
    # The second run reads everything from the cache: same report, much faster.
    ours, theirs = (
        {k: v for k, v in json.loads(r.to_json()).items() if k != "provenance"}
        for r in (report, again)
    )
    assert ours == theirs
    assert warm < cold / 2


def test_both_sets_have_the_same_professions() -> None:
    a, b = (list(demo.drawings(side)) for side in "AB")
    assert len(a) == len(b) == demo.N
    for one, other in zip(a, b, strict=True):
        assert one.prompt.split(" in front")[0] == other.prompt.split(" on the")[0]
    for side, drawn in (("A", a), ("B", b)):
        share = sum(demo.STYLES[side] in d.prompt for d in drawn) / demo.N
        # Four standard errors of a share of 80.
        assert abs(share - demo.STYLE_SHARE) < 0.22
