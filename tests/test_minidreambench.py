"""Tests of MiniDreamBench: its renderings, masks, captions and prompts, and its resumable runs."""

import importlib
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy import ndimage

from editing.personalize.captions import case_of
from editing.personalize.regularization import Pools
from visdiff.miniature.world import PLACES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks/minidreambench"
ART = ROOT / ".art"
needs_art = pytest.mark.skipif(
    not (ART / "node_modules").is_dir(), reason="the art packages are not here: make art"
)
MODULES = ("subjects", "measures", "slots", "experiments", "run", "tables", "together")


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, Any]]:
    """The benchmark's modules, which import each other by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in MODULES}
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def art(bench: dict[str, Any]) -> Any:
    return bench["subjects"].load_art(ART)


@needs_art
@pytest.mark.parametrize("bias", ["none", "background", "nearby", "pose"])
def test_a_mask_covers_what_changes_with_the_subject(
    bench: dict[str, Any], art: Any, bias: str
) -> None:
    subjects = bench["subjects"]
    known = subjects.BY_NAME["teapot"]
    shown = subjects.references(known, art, bias=bias)
    other = subjects.references(replace(known, hue=0.9), art, bias=bias)
    differs = (shown.images != other.images).any(axis=3)
    assert differs.any(axis=(1, 2)).all()
    # A pixel at the edge belongs to the mask only if more than half of it is the subject.
    near = np.asarray(ndimage.binary_dilation(shown.masks, np.ones((1, 3, 3))), bool)
    assert not np.logical_and(differs, np.logical_not(near)).any()
    assert 0.03 < shown.masks.mean() < 0.4


@needs_art
def test_a_worn_thing_is_no_part_of_the_mask(bench: dict[str, Any], art: Any) -> None:
    subjects = bench["subjects"]
    known = subjects.BY_NAME["fox"]
    bare = subjects.references(known, art)
    worn = subjects.references(known, art, bias="tied")
    crown = (bare.images != worn.images).any(axis=3) & bare.masks
    assert crown.any(axis=(1, 2)).all()
    assert (crown & worn.masks).sum() < 0.25 * crown.sum()


@needs_art
def test_references_of_a_bias_share_it_and_nothing_else_does(
    bench: dict[str, Any], art: Any
) -> None:
    subjects = bench["subjects"]
    known = subjects.SUBJECTS[0]
    places = {
        bias: {s.place for s in subjects.references(known, art, bias=bias).scenes}
        for bias in get_args(subjects.Bias)
    }
    assert places.pop("background") == {"grass"}
    assert all(p == set(subjects.REFERENCE_PLACES) for p in places.values())
    again = subjects.references(known, art)
    np.testing.assert_array_equal(again.images, subjects.references(known, art).images)


@needs_art
@pytest.mark.parametrize("bias", ["background", "nearby", "tied", "style"])
def test_captions_are_those_of_their_case(bench: dict[str, Any], art: Any, bias: str) -> None:
    subjects = bench["subjects"]
    shown = subjects.references(subjects.BY_NAME["fox"], art, bias=bias)
    texts = {case: shown.captions(case) for case in (1, 2, 3, 4)}
    assert set(texts[1]) == {"a olis dog"}
    assert [case_of(t, "dog", "olis").case for t in texts[4]] == [4] * 4
    assert all(t.startswith("a olis dog") for t in texts[3])
    assert all("orange" in t and "orange" not in u for t, u in zip(texts[4], texts[3], strict=True))
    assert len({len(t.split()) for t in texts[1]}) == 1
    assert all(len(a) < len(b) for a, b in zip(texts[2], texts[3], strict=True))
    assert shown.subject(3).captions == tuple(texts[3])


def test_no_reference_or_class_image_shows_what_the_prompts_ask_for(bench: dict[str, Any]) -> None:
    subjects = bench["subjects"]
    assert len({p.text for p in subjects.PROMPTS}) == 16
    pools = Pools.of("miniature")
    words = " ".join((*pools.settings, *pools.photographic, *pools.styles))
    for prompt in subjects.PROMPTS:
        assert prompt.place not in subjects.REFERENCE_PLACES
        assert not prompt.place or not any(w in words for w in PLACES[prompt.place])
        assert not prompt.style or prompt.style not in words


@needs_art
def test_a_slot_that_is_left_out_is_in_no_prompt(bench: dict[str, Any], art: Any) -> None:
    slots, subjects = bench["slots"], bench["subjects"]
    subject = subjects.references(subjects.BY_NAME["fox"], art).subject(3)
    found = {slot: slots.prompts_without(slot, subject, 64) for slot in get_args(slots.Slot)}
    assert all(len(prompts) == 64 for prompts in found.values())
    parts = {slot: {p.part for p in prompts} for slot, prompts in found.items()}
    assert parts[""] == {"against", "photo", "styled"}
    assert parts["style"] == {"against", "photo"}
    assert {p.style for p in found["style"]} == {"picture"}
    assert {p.setting for p in found["setting"]} == {""}
    assert parts["setting"] == parts["against"] == {"photo", "styled"}
    assert all(p.setting for p in found["against"])


def test_every_cell_is_distinct_and_the_first_run_is_the_longest_wait(
    bench: dict[str, Any],
) -> None:
    experiments, run = bench["experiments"], bench["run"]
    for name, cells in experiments.EXPERIMENTS.items():
        assert len(set(cells)) == len(cells), name
    cells = experiments.EXPERIMENTS["priors"]
    everything = run.plan(cells, set())
    assert everything.startswith("128 of 128 states are missing: 19,200 training steps")
    assert run.plan(cells, set(run.states(cells))).startswith("0 of 128")


def _row(bench: dict[str, Any], steps: int, likeness: float, drift: float, aligned: float) -> Any:
    run, measures = bench["run"], bench["measures"]
    values = dict.fromkeys(measures.Measured.__dataclass_fields__, 0.0)
    values |= {"clip_likeness": likeness, "clip_drift": drift, "alignment": aligned}
    cell = bench["experiments"].Cell("fox", steps=(steps,))
    return run.Row(cell, measures.Measured(**values), 1.0)


def test_comparisons_of_curves_interpolate(bench: dict[str, Any]) -> None:
    tables = bench["tables"]
    rows = [
        _row(bench, 0, 0.0, 0.0, 0.8),
        _row(bench, 100, 0.4, 0.2, 0.76),
        _row(bench, 200, 0.6, 0.6, 0.68),
    ]
    assert tables.steps_until_loss(rows) == pytest.approx(150)
    assert math.isinf(tables.steps_until_loss(rows[:2]))
    assert tables.drift_at(rows, 0.5) == pytest.approx(0.4)
    assert tables.drift_at(rows, 0.7) is None
    assert tables.best_aligned(rows) == pytest.approx(0.4)


@needs_art
@pytest.mark.slow
def test_a_run_continues_where_it_stopped(
    bench: dict[str, Any], art: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cell = bench["run"], bench["experiments"].Cell
    sampling = replace(bench["measures"].SAMPLING, steps=1)
    monkeypatch.setattr(bench["measures"], "SAMPLING", sampling)
    monkeypatch.setattr(bench["measures"], "PROMPTS", bench["subjects"].PROMPTS[::4])
    (tmp_path / "checkpoints").mkdir()
    whole = cell("fox", "textual-inversion", steps=(1, 2), samples=2)
    file = tmp_path / "rows.jsonl"
    run.Runner(art, tmp_path, file).run(replace(whole, steps=(1,)))
    run.Runner(art, tmp_path, file).run(whole)
    rows = run.read(file)
    assert [row.steps for row in rows] == [1, 2]
    other = tmp_path / "other.jsonl"
    (tmp_path / "again" / "checkpoints").mkdir(parents=True)
    run.Runner(art, tmp_path / "again", other).run(whole)
    assert [row.measured for row in run.read(other)] == [row.measured for row in rows]
    assert "2 of 2 states are missing" in run.plan([whole], set())
    assert "0 of 2" in run.plan([whole], {row.cell for row in rows})


@needs_art
def test_pairs_of_subjects_are_recognised_on_renderings(bench: dict[str, Any], art: Any) -> None:
    from visdiff.miniature.evaluate import Recognizer

    subjects, together = bench["subjects"], bench["together"]
    left, right = subjects.BY_NAME["fox"], subjects.BY_NAME["teapot"]
    pairs = together.Pairs(left, right, art, Recognizer())
    assert pairs.accuracy > 0.85
