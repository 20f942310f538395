"""The result dataclasses: JSON, tables, equality and validation."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from visdiff.errors import InputError
from visdiff.results import (
    Difference,
    DifferenceReport,
    Hypothesis,
    NullRun,
    Provenance,
    Rejected,
    Separability,
    SetCard,
)


def make_difference(**changes) -> Difference:
    values = {
        "text": "a red circle",
        "direction": "A",
        "auroc": 0.8712345678901234,
        "ci_low": 0.81,
        "ci_high": 0.92,
        "p_value": 1e-12,
        "q_value": 3e-11,
        "confirmed": True,
        "mean_a": 0.31,
        "mean_b": 0.27,
        "n_a": 70,
        "n_b": 68,
        "n_unscored": 2,
        "synonyms": ("red circles", "circles in red"),
        "evidence_a": ("a/1.png", "a/2.png"),
        "evidence_b": ("b/1.png",),
        "proposer": "ngrams",
        "round": 2,
    }
    return Difference(**{**values, **changes})


def make_report(**changes) -> DifferenceReport:
    values = {
        "verdict": "1 confirmed difference",
        "differences": (
            make_difference(),
            make_difference(text="noise", direction="B", confirmed=False),
        ),
        "rejected": (
            Rejected("blue", "B", "AUROC below 0.55", 0.52, 0.3, 0.4),
            Rejected("x", "A", "unscored"),
        ),
        "separability": Separability(0.97, 0.9),
        "set_a": SetCard("reds", "data/reds", 140, 70, 70, 1, {"group": "reds"}),
        "set_b": SetCard("blues", "data/blues", 138, 70, 68),
        "minimum_detectable_auroc": 0.62,
        "paired_by": ("prompt", "seed"),
        "preflight": {"duplicates_within_a": 1, "confounds": [{"name": "width", "auroc": 0.5}]},
        "null": NullRun(20, 1, (0, 2, 0)),
        "config": {"rank": {"model": "ViT-B-32", "threshold": 0.55}, "seed": 0},
        "provenance": Provenance(
            {"visdiff": "0.1.0"},
            {"ranker": {"id": "m"}},
            {"p": "h"},
            3,
            "cpu",
            {"rank": 1.5},
            {"prompt": 9},
            4,
            5,
            "2026-11-21",
        ),
        "warnings": ("ünïcode and a\nnewline",),
    }
    return DifferenceReport(**{**values, **changes})


def test_json_round_trip_is_exact():
    report = make_report()
    again = DifferenceReport.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()
    assert isinstance(again.differences[0].synonyms, tuple)
    assert isinstance(again.null, NullRun)


def test_json_round_trip_of_an_empty_report():
    report = make_report(
        differences=(), rejected=(), null=None, separability=Separability(), paired_by=()
    )
    assert DifferenceReport.from_json(report.to_json(indent=2)) == report


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_become_null_and_are_read_as_nan(value):
    report = make_report(
        differences=(make_difference(mean_a=value),),
        config={"x": value},
        minimum_detectable_auroc=value,
    )
    text = report.to_json()
    data = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert data["differences"][0]["mean_a"] is None
    assert data["config"]["x"] is None
    again = DifferenceReport.from_json(text)
    assert math.isnan(again.differences[0].mean_a)  # a number is required here …
    assert again.minimum_detectable_auroc is None  # … and optional here
    assert again.to_json() == text


def test_json_has_the_documented_fields():
    data = json.loads(make_report().to_json())
    assert data["schema_version"] == 2
    assert data["verdict"] == "1 confirmed difference"
    first = data["differences"][0]
    names = {
        "text",
        "direction",
        "auroc",
        "ci_low",
        "ci_high",
        "p_value",
        "q_value",
        "confirmed",
        "synonyms",
    }
    assert names <= first.keys()
    assert first["auroc"] == 0.8712345678901234
    assert first["synonyms"] == ["red circles", "circles in red"]
    assert not {"scores", "thumbnails", "captions"} & data.keys()


def test_values_that_are_not_json_are_converted_on_construction():
    report = make_report(
        config={
            "path": Path("a/b"),
            "n": np.int64(3),
            "x": np.float32(0.5),
            "t": (1, 2),
            "v": np.arange(2),
        }
    )
    assert report.config == {"path": "a/b", "n": 3, "x": 0.5, "t": [1, 2], "v": [0, 1]}
    assert DifferenceReport.from_json(report.to_json()) == report


def test_numpy_numbers_in_records_serialise():
    d = make_difference(
        auroc=np.float64(0.75), ci_low=np.float32(0.5), n_a=np.int64(7), confirmed=np.bool_(True)
    )
    first = json.loads(make_report(differences=(d,)).to_json())["differences"][0]
    assert (first["auroc"], first["ci_low"], first["n_a"], first["confirmed"]) == (
        0.75,
        0.5,
        7,
        True,
    )


def test_file_names_that_are_not_utf8_are_preserved():
    report = make_report(differences=(make_difference(evidence_a=("bad\udcff.png",)),))
    text = report.to_json()
    assert DifferenceReport.from_json(text.encode("utf-8")) == report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not JSON"),
        ("[]", "schema_version"),
        ('{"verdict": "x"}', "schema_version"),
        ('{"schema_version": 99}', "schema_version 1 or 2"),
        ('{"schema_version": 1}', "complete"),
        ('{"schema_version": 1, "differences": {}}', "list"),
        ('{"schema_version": 1, "set_a": 3}', "object"),
    ],
)
def test_invalid_reports_are_rejected(text, message):
    with pytest.raises(InputError, match=message):
        DifferenceReport.from_json(text)


def test_fields_of_a_later_version_are_ignored():
    data = json.loads(make_report().to_json())
    data["later"] = 1
    data["differences"][0]["later"] = 1
    assert DifferenceReport.from_json(json.dumps(data)) == make_report()


def test_frame_has_one_row_per_difference():
    frame = make_report().to_frame(full=True)
    assert list(frame["text"]) == ["a red circle", "noise"]
    assert list(frame["confirmed"]) == [True, False]
    assert list(frame.columns) == [f.name for f in dataclasses.fields(Difference)]
    assert frame.loc[0, "synonyms"] == ["red circles", "circles in red"]
    first = make_report().to_frame()
    assert len(first.columns) == 10
    pd.testing.assert_frame_equal(first, frame.filter(list(first.columns)))
    empty = make_report(differences=()).to_frame()
    assert len(empty) == 0
    assert list(empty.columns) == list(first.columns)


def test_fields_that_are_not_serialised_are_ignored_by_comparison_and_repr():
    plain = make_report()
    full = make_report(
        scores=pd.DataFrame({"set": ["A"], "id": ["1"]}),
        thumbnails={"A/1": b"png"},
        captions={"A/1": "c"},
    )
    assert plain == full
    assert "thumbnails" not in repr(full)


def test_the_text_of_a_report_is_short_and_states_what_it_leaves_out():
    text = repr(
        make_report(
            differences=tuple(make_difference(text=f"d{i}\nx") for i in range(8)),
            warnings=("Small sets.",),
        )
    )
    assert text.splitlines()[0] == "1 confirmed difference"
    assert [f"d{i} x" in text for i in range(8)] == [True] * 5 + [False] * 3
    assert "and 3 more" in text
    assert text.endswith("warning: Small sets.")


def test_reports_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_report().verdict = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("direction", ["C", "a", ""])
def test_invalid_directions_are_rejected(direction):
    with pytest.raises(InputError, match="direction"):
        Hypothesis("x", direction, "p")
    with pytest.raises(InputError, match="direction"):
        make_difference(direction=direction)


def test_confirmed_keeps_the_order():
    report = make_report(
        differences=tuple(
            make_difference(text=t, confirmed=c)
            for t, c in [("a", True), ("b", True), ("c", False)]
        )
    )
    assert [d.text for d in report.confirmed] == ["a", "b"]


@pytest.mark.parametrize(
    ("images", "sentences", "gap"),
    [(0.9, 0.7, 0.2), (None, 0.7, None), (0.9, None, None), (math.nan, 0.5, None)],
)
def test_gap(images, sentences, gap):
    assert Separability(images, sentences).gap == (None if gap is None else pytest.approx(gap))


def test_results_load_no_heavy_library():
    heavy = {"numpy", "pandas", "torch", "jinja2", "matplotlib"}
    code = f"import sys, visdiff.results; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
