"""Tests of complete comparisons, with fake models or without models."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pandas as pd
import pytest
from fakes import CHANNELS, picture, place_captions, write_set
from PIL import Image

import visdiff
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.findings import NO_DIFFERENCE
from visdiff.comparison.null import shuffle_halves, shuffle_labels
from visdiff.comparison.plan import plan
from visdiff.comparison.rounds import propose
from visdiff.comparison.split import Halves, open_pair, split_pair
from visdiff.comparison.thumbnails import score_table
from visdiff.errors import CacheMissError, InputError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.llm import Failure
from visdiff.proposers import Evidence, Proposals
from visdiff.results import DifferenceReport, Hypothesis

WORDS: dict[str, Any] = {
    "captioner": "manifest",
    "ranker": "captions-lexical",
    "progress": False,
}
COLOURS: dict[str, Any] = {
    "captioner": "fakes:ColourCaptioner",
    "ranker": "fakes:ColourRanker",
    "progress": False,
}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns two manifests: the same people, mostly by a wall in A and on the grass in B."""
    folder = tmp_path_factory.mktemp("planted")
    return (
        write_set(folder / "A", place_captions(80, 1, place="by a brick wall", share=0.9), seed=1),
        write_set(folder / "B", place_captions(80, 2, place="on the grass", share=0.9), seed=2),
    )


def facts(report: DifferenceReport) -> dict[str, Any]:
    """Returns the report as JSON values, without times and cache counts."""
    data = json.loads(report.to_json())
    for name in ("seconds", "created", "cache_hits", "cache_misses"):
        del data["provenance"][name]
    return data


def colours(n: int, reds: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [picture("red" if i < reds else "blue", rng) for i in range(n)]


def test_a_planted_difference_is_found_in_both_directions(
    planted: tuple[Path, Path], cache: Cache, tmp_path: Path
) -> None:
    report = visdiff.compare(*planted, **WORDS, cache=cache)
    found = {d.direction: (d.text, *d.synonyms) for d in reversed(report.confirmed)}
    assert any("brick wall" in text for text in found["A"])
    assert any("grass" in text for text in found["B"])
    # Professions are the same in both sets.
    for d in report.confirmed:
        assert not {"cook", "nurse", "sailor", "judge", "clown"} & set(d.text.split())
        assert d.ci_low > 0.5
    assert "confirmed" in report.verdict
    assert "brick wall" in report.verdict
    assert "grass" in report.verdict
    assert not report.double_dipped
    assert report.cross_fitted
    for card in (report.set_a, report.set_b):
        assert card.n == card.n_discovery == card.n_scored == card.n_effective == 80
    assert report.config["ranker"]["backend"] == "captions-lexical"
    assert report.separability.sentences is not None
    assert report.separability.sentences > 0.8

    saved = report.save(tmp_path / "report")
    assert {f.name for f in saved.iterdir()} == {
        "report.html",
        "report.json",
        "report.md",
        "differences.csv",
        "scores.parquet",
        "forest.svg",
        "forest.pdf",
    }
    back = DifferenceReport.from_json((saved / "report.json").read_text("utf-8"))
    assert back == report
    scores = pd.read_parquet(saved / "scores.parquet")
    assert len(scores) == report.set_a.n_scored + report.set_b.n_scored
    assert report.differences[0].text in scores.columns


def test_statistics_use_the_scoring_half_only(planted: tuple[Path, Path], cache: Cache) -> None:
    report = visdiff.compare(*planted, **WORDS, cache=cache, statistics__cross_fit="never")
    assert not report.cross_fitted
    proposing, scored = set(report.captions), report.scores
    assert scored is not None
    testing = {f"{side}/{name}" for side, name in zip(scored["set"], scored["id"], strict=True)}
    assert not proposing & testing
    assert len(proposing | testing) == 160
    for d in report.differences:
        assert {f"A/{i}" for i in d.evidence_a} | {f"B/{i}" for i in d.evidence_b} <= testing
        assert {f"A/{i}" for i in d.evidence_a} <= set(report.thumbnails)


def test_swapping_the_sets_gives_the_mirrored_report(
    planted: tuple[Path, Path], cache: Cache
) -> None:
    there = visdiff.compare(*planted, **WORDS, cache=cache)
    back = visdiff.compare(*reversed(planted), **WORDS, cache=cache)
    other = {"A": "B", "B": "A"}

    def numbers(report: DifferenceReport, mirrored: bool) -> dict[tuple[str, str], Any]:
        return {
            (d.text, other[d.direction] if mirrored else d.direction): (
                d.confirmed,
                set(d.synonyms),
                *np.round([d.auroc, d.ci_low, d.ci_high, d.p_value, d.q_value], 9),
                *np.round([d.mean_b, d.mean_a] if mirrored else [d.mean_a, d.mean_b], 9),
                (d.n_b, d.n_a) if mirrored else (d.n_a, d.n_b),
            )
            for d in report.differences
        }

    assert numbers(there, mirrored=False) == numbers(back, mirrored=True)
    assert {(r.text, r.direction) for r in there.rejected} == {
        (r.text, other[r.direction]) for r in back.rejected
    }
    assert there.minimum_detectable_auroc == pytest.approx(back.minimum_detectable_auroc)


def test_the_same_seed_gives_the_same_report(planted: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {**WORDS, "null_repeats": 3, "seed": 5}
    runs = []
    for name in ("one", "two"):
        with Cache(tmp_path / name) as cache:
            runs.append(facts(visdiff.compare(*planted, **settings, cache=cache)))
    assert runs[0] == runs[1]


def test_sets_that_do_not_differ(tmp_path: Path, cache: Cache) -> None:
    a = write_set(tmp_path / "a", place_captions(60, 3, place="by a wall", share=0.5), seed=1)
    b = write_set(tmp_path / "b", place_captions(60, 4, place="by a wall", share=0.5), seed=2)
    report = visdiff.compare(a, b, **WORDS, cache=cache)
    assert report.verdict == NO_DIFFERENCE == "no difference found"
    assert not report.confirmed
    assert report.minimum_detectable_auroc is not None
    assert 0.5 < report.minimum_detectable_auroc < 0.9
    assert report.separability.sentences is None
    assert "no difference found" in report.to_html().casefold()


def test_a_set_against_itself(planted: tuple[Path, Path], cache: Cache) -> None:
    report = visdiff.compare(planted[0], planted[0], **WORDS, cache=cache)
    assert report.verdict == NO_DIFFERENCE
    assert report.minimum_detectable_auroc is not None
    assert any("80 images of A are in B as well" in w for w in report.warnings)


def test_too_few_images_confirm_nothing_and_warn(tmp_path: Path, cache: Cache) -> None:
    a = write_set(tmp_path / "a", place_captions(12, 1, place="by a wall"), seed=1)
    b = write_set(tmp_path / "b", place_captions(12, 2, place="on the grass"), seed=2)
    report = visdiff.compare(a, b, **WORDS, cache=cache)
    assert report.double_dipped
    assert report.differences
    assert not report.confirmed
    assert "too few images" in report.verdict
    assert report.scores is not None
    assert set(report.scores["half"]) == {"both"}


def test_a_set_needs_two_images(tmp_path: Path, cache: Cache) -> None:
    a = write_set(tmp_path / "a", ["a cook"], seed=1)
    b = write_set(tmp_path / "b", ["a nurse"] * 30, seed=2)
    with pytest.raises(InputError, match="at least 2 readable images in set A"):
        visdiff.compare(a, b, **WORDS, cache=cache)
    with pytest.raises(InputError, match="at least 2 readable images in set B"):
        visdiff.compare(b, a, **WORDS, cache=cache)


def test_images_in_memory_are_compared(cache: Cache) -> None:
    report = visdiff.compare(colours(60, 45, 1), colours(60, 15, 2), **COLOURS, cache=cache)
    found = {d.direction: d.text for d in report.confirmed}
    assert "red" in found["A"]
    assert "blue" in found["B"]
    # The ranker has features, so the separability of the images is known.
    assert report.separability.images is not None
    assert report.separability.images > 0.6
    assert report.separability.gap is not None
    assert report.separability.gap < 0.1


def test_the_batch_size_changes_nothing(tmp_path: Path) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    reports = []
    for size in (1, 7, 64):
        with Cache(tmp_path / str(size)) as cache:
            report = visdiff.compare(
                *sets,
                **COLOURS,
                cache=cache,
                captioner__batch_size=size,
                ranker__batch_size=size,
            )
        found = facts(report)
        del found["config"]
        reports.append(found)
    assert reports[0] == reports[1] == reports[2]


def test_original_visdiff_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As written by the original code: paths relative to the working directory, one group per row.
    data = tmp_path / "data" / "images"
    wall = write_set(data / "wall", place_captions(60, 1, place="by a wall"), seed=1)
    lawn = write_set(data / "lawn", place_captions(60, 2, place="on the grass"), seed=2)
    tables = []
    for group, path in (("007", wall), ("1.10", lawn)):
        table = pd.read_csv(path)
        table["path"] = f"./data/images/{path.parent.name}/" + table["path"]
        tables.append(table.assign(group_name=group))
    manifest = tmp_path / "data" / "all.csv"
    pd.concat(tables).to_csv(manifest, index=False)
    monkeypatch.chdir(tmp_path)
    report = visdiff.compare(
        manifest,
        manifest,
        where_a={"group_name": "007"},
        where_b={"group_name": "1.10"},
        **WORDS,
    )
    assert {d.direction for d in report.confirmed} == {"A", "B"}
    assert (report.set_a.n, report.set_b.n) == (60, 60)
    assert report.set_a.where == {"group_name": "007"}
    assert (report.set_a.name, report.set_b.name) == ("007", "1.10")
    with pytest.raises(InputError, match=r"group_name.*'008'.*007"):
        visdiff.compare(manifest, manifest, where_a={"group_name": "008"}, **WORDS)


def test_paired_sets(tmp_path: Path, cache: Cache) -> None:
    prompts = [f"prompt {i // 4}" for i in range(80)]
    seeds = [i % 4 for i in range(80)]
    before = write_set(
        tmp_path / "before",
        place_captions(80, 1, place="by a wall"),
        seed=1,
        prompt=prompts,
        seed_=seeds,
    )
    after = write_set(
        tmp_path / "after",
        place_captions(80, 1, place="on the grass", share=0.8, other="by a wall")[:77],
        seed=2,
        prompt=prompts[:77],
        seed_=seeds[:77],
    )
    report = visdiff.compare(before, after, **WORDS, cache=cache, paired_by=("prompt", "seed_"))
    assert report.paired_by == ("prompt", "seed_")
    assert {d.direction for d in report.confirmed} == {"A", "B"}
    assert report.set_a.n_scored == report.set_b.n_scored
    assert any("3 images without a partner" in w for w in report.warnings)
    with pytest.raises(InputError, match=r"each \(prompt\) once in before"):
        visdiff.compare(before, after, **WORDS, cache=cache, paired_by=("prompt",))
    with pytest.raises(InputError, match="add step to the manifest"):
        visdiff.compare(before, after, **WORDS, cache=cache, paired_by=("prompt", "step"))


def test_shuffled_runs_confirm_almost_nothing(planted: tuple[Path, Path], cache: Cache) -> None:
    report = visdiff.compare(*planted, **WORDS, cache=cache, null_repeats=20)
    assert report.confirmed
    assert report.null is not None
    assert report.null.repeats == len(report.null.confirmed_per_repeat) == 20
    assert report.null.with_any_confirmed == sum(n > 0 for n in report.null.confirmed_per_repeat)
    # 5 % of 20 is 1; four or more have a probability of 1/60 at this rate.
    assert report.null.with_any_confirmed <= 4
    # The shuffled runs do not change the result of the real run.
    alone = visdiff.compare(*planted, **WORDS, cache=cache)
    assert alone.differences == report.differences


def test_sentences_that_are_named_like_columns_replace_none(
    planted: tuple[Path, Path], cache: Cache
) -> None:
    proposer = {"backend": "manual", "hypotheses": ("A: by a brick wall", "A: set", "A: half")}
    report = visdiff.compare(*planted, **WORDS, proposer=proposer, cache=cache)
    assert report.scores is not None
    assert set(report.scores["set"]) == {"A", "B"}
    assert set(report.scores["half"]) == {"scoring"}
    assert not np.isnan(report.scores["set (score)"].to_numpy()).any()
    assert report.plot_scores(0) is not None


def test_a_text_of_both_directions_keeps_the_scores_of_both_halves() -> None:
    a, b = ImageSet.open(colours(2, 1, 1)), ImageSet.open(colours(2, 1, 2))
    first = np.array([True, False, True, False])
    halves = Halves(a, b, a, b, double_dipped=False, first=first)
    scores = np.array([[1, 2, 3, 4], [1, 2, 3, 4]], np.float32)
    scores[0, first], scores[1, ~first] = np.nan, np.nan
    both = [Hypothesis("a dog", "A", "test"), Hypothesis("a dog", "B", "test")]
    assert score_table(both, scores, halves)["a dog"].tolist() == [1, 2, 3, 4]


def test_every_level_of_the_test_is_reported(planted: tuple[Path, Path], cache: Cache) -> None:
    proposer = {"backend": "manual", "hypotheses": ("A: by a brick wall",)}
    report = visdiff.compare(
        *planted, **WORDS, proposer=proposer, cache=cache, statistics__alpha=0.6
    )
    assert report.confirmed
    assert report.minimum_detectable_auroc is None


def test_shuffled_pairs_keep_their_prompts() -> None:
    a, b = ImageSet.open(colours(8, 4, 1)), ImageSet.open(colours(8, 4, 2))
    prompts, first = np.array([f"p{i}" for i in range(8)]), np.tile([False, True], 8)
    halves = Halves(a, b, a, b, double_dipped=False, groups=prompts, first=first)
    mixed, _, order = shuffle_halves(halves, np.random.default_rng(0), paired=True)
    assert mixed.groups is not None
    assert mixed.groups.tolist() == [f"p{i % 8}" for i in order[:8]]


def test_shuffle_labels_keeps_the_counts() -> None:
    rng = np.random.default_rng(0)
    is_a = np.arange(50) < 20
    seen = set()
    for _ in range(20):
        new, order = shuffle_labels(is_a, rng, paired=False)
        assert new.sum() == 20
        assert sorted(order) == list(range(50))
        assert new[order[:20]].all()
        assert not new[order[20:]].any()
        seen.add(new.tobytes())
    assert len(seen) > 15


def test_shuffled_pairs_swap_within_pairs_only() -> None:
    rng = np.random.default_rng(0)
    is_a = np.arange(40) < 20
    swaps = np.zeros(20)
    for _ in range(200):
        new, order = shuffle_labels(is_a, rng, paired=True)
        assert new.sum() == 20
        # Positions i of A and of B still hold the two images of pair i.
        assert (new[:20] != new[20:]).all()
        assert (order[:20] % 20 == np.arange(20)).all()
        assert (order[20:] % 20 == np.arange(20)).all()
        assert new[order[:20]].all()
        swaps += ~new[:20]
    # Each pair is swapped with probability 1/2: 100 of 200, within four standard deviations.
    assert (np.abs(swaps - 100) < 29).all()


def layered(n: int, seed: int, loud: str, quiet: str) -> list[str]:
    """Returns captions: half with one property, the others mostly with a weaker one."""
    rng = np.random.default_rng(seed)
    return [
        f"a cook {loud}" if rng.random() < 0.5 else f"a nurse {quiet if rng.random() < 0.7 else ''}"
        for _ in range(n)
    ]


def test_more_rounds_keep_what_was_found(tmp_path: Path, cache: Cache) -> None:
    a = write_set(tmp_path / "a", layered(120, 1, "by a brick wall", "with a hat"), seed=1)
    b = write_set(tmp_path / "b", layered(120, 2, "on the grass", "with a cane"), seed=2)
    settings = {**WORDS, "cache": cache, "proposer__max_hypotheses": 1}
    once = visdiff.compare(a, b, **settings)
    twice = visdiff.compare(a, b, **settings, rounds=2)

    def texts(report: DifferenceReport) -> set[str]:
        kept = {t for d in report.differences for t in (d.text, *d.synonyms)}
        return kept | {r.text for r in report.rejected}

    assert texts(once) < texts(twice)
    assert {d.round for d in twice.differences} == {1, 2}
    # No hypothesis is proposed, and corrected for, twice.
    every = [(d.text, d.direction) for d in twice.differences]
    every += [(r.text, r.direction) for r in twice.rejected]
    assert len(every) == len(set(every))


def test_rounds_until_the_sentences_explain_the_images(cache: Cache) -> None:
    sets = colours(60, 55, 1), colours(60, 5, 2)
    report = visdiff.compare(*sets, **COLOURS, cache=cache, rounds="auto")
    assert report.confirmed
    # One round explains these sets, so there is no second round.
    assert {d.round for d in report.differences} == {1}


def test_rounds_auto_without_image_features(planted: tuple[Path, Path], cache: Cache) -> None:
    report = visdiff.compare(*planted, **WORDS, cache=cache, rounds="auto")
    assert {d.direction for d in report.confirmed} == {"A", "B"}


def test_damaged_files_are_skipped_counted_and_named(tmp_path: Path, cache: Cache) -> None:
    a = write_set(tmp_path / "a", place_captions(80, 1, place="by a wall"), seed=1)
    b = write_set(tmp_path / "b", place_captions(80, 2, place="on the grass"), seed=2)
    whole = (a.parent / "003.png").read_bytes()
    (a.parent / "003.png").write_bytes(whole[: len(whole) // 2])
    (a.parent / "005.png").write_bytes(b"not an image at all")
    (b.parent / "007.png").unlink()
    report = visdiff.compare(a, b, **WORDS, cache=cache)
    assert (report.set_a.n_unreadable, report.set_b.n_unreadable) == (2, 1)
    assert (report.set_a.n, report.set_b.n) == (80, 80)
    text = " ".join(report.warnings)
    for name in ("003.png", "005.png", "007.png"):
        assert name in text
    assert report.scores is not None
    assert not {"003.png", "005.png"} & set(report.scores.query("set == 'A'")["id"])
    assert {d.direction for d in report.confirmed} == {"A", "B"}
    assert all(d.n_unscored == 0 for d in report.differences)


def test_html_in_captions_is_escaped(tmp_path: Path, cache: Cache) -> None:
    evil = "<script>alert(1)</script>"
    a = write_set(tmp_path / "a", place_captions(60, 1, place=f"with {evil} & co"), seed=1)
    b = write_set(tmp_path / "b", place_captions(60, 2, place="on the <b>grass</b>"), seed=2)
    saved = visdiff.compare(a, b, **WORDS, cache=cache, name_a=evil).save(tmp_path / "out")
    page = (saved / "report.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>grass" not in page


@pytest.mark.parametrize("role", ["captioner", "ranker"])
def test_a_killed_run_resumes_and_gives_the_identical_report(tmp_path: Path, role: str) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    deadly = fakes.DeadlyCaptioner if role == "captioner" else fakes.DeadlyRanker
    settings = {
        "captioner": "fakes:DeadlyCaptioner",
        "ranker": "fakes:DeadlyRanker",
        "ranker__batch_size": 8,
        "progress": False,
    }
    with Cache(tmp_path / "whole") as cache:
        fakes.DeadlyCaptioner.computed = fakes.DeadlyRanker.computed = 0
        whole = visdiff.compare(*sets, **settings, cache=cache)
        total = deadly.computed
    assert total > 24
    fakes.DeadlyCaptioner.computed = fakes.DeadlyRanker.computed = 0
    try:
        deadly.dies_at = 20
        with pytest.raises(fakes.Killed), Cache(tmp_path / "cut") as cache:
            visdiff.compare(*sets, **settings, cache=cache)
    finally:
        deadly.dies_at = None
    # Two complete batches of 8 were processed.
    done = deadly.computed
    assert done == 16
    deadly.computed = 0
    with Cache(tmp_path / "cut") as cache:
        resumed = visdiff.compare(*sets, **settings, cache=cache)
    assert deadly.computed == total - done
    assert facts(resumed) == facts(whole)
    # The third run computes nothing.
    deadly.computed = 0
    with Cache(tmp_path / "cut", mode="replay") as cache:
        again = visdiff.compare(*sets, **settings, cache=cache)
        assert cache.misses == 0
    assert deadly.computed == 0
    assert facts(again) == facts(whole)


def test_replay_raises_on_a_miss(tmp_path: Path) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    with (
        Cache(tmp_path / "empty", mode="replay") as cache,
        pytest.raises(CacheMissError, match="fake-caption"),
    ):
        visdiff.compare(*sets, **COLOURS, cache=cache)


def test_names_and_sources_of_image_sets(planted: tuple[Path, Path], cache: Cache) -> None:
    a = ImageSet.open(planted[0], name="before")
    report = visdiff.compare(a, planted[1], name_b="after", **WORDS, cache=cache)
    assert (report.set_a.name, report.set_b.name) == ("before", "after")
    assert "before shows more" in report.verdict


CHAT: dict[str, Any] = {**COLOURS, "llm": "fakes:ColourChat", "proposer": "captions-llm"}


@pytest.fixture(autouse=True)
def fresh_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes.ColourChat, "asked", 0)
    monkeypatch.setattr(fakes.ColourCaptioner, "computed", 0)


@pytest.mark.parametrize(
    "proposer",
    [
        {"backend": "captions-llm"},
        {"backend": "images-vlm", "layout": "images"},
        {"backend": "manual", "hypotheses": ("A: a red square", "B: a blue square", "green")},
    ],
    ids=lambda proposer: proposer["backend"],
)
def test_every_kind_of_proposer_finds_the_colours(proposer: dict[str, Any], cache: Cache) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    report = visdiff.compare(*sets, **{**CHAT, "proposer": proposer}, cache=cache)
    found = {d.direction: d.text for d in report.confirmed}
    assert "red" in found["A"]
    assert "blue" in found["B"]
    # Backends without captions do not run the captioner.
    assert bool(report.captions) == (proposer["backend"] == "captions-llm")
    assert bool(fakes.ColourCaptioner.computed) == (proposer["backend"] == "captions-llm")
    assert ("captioner" in report.provenance.models) == (proposer["backend"] == "captions-llm")
    assert report.provenance.models["proposer"]["proposer"] == proposer["backend"]


def test_invalid_lines_of_replies_are_counted_and_reported(cache: Cache) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    settings = {**CHAT, "statistics__cross_fit": "never"}
    report = visdiff.compare(*sets, **settings, cache=cache)
    assert any("2 lines of replies were not hypotheses" in w for w in report.warnings)
    assert not any(":" in d.text or "*" in d.text for d in report.differences)
    assert report.provenance.tokens["calls"] == 2
    assert "captions-llm@1" in report.provenance.prompts
    # A second run makes no call and gives the same result.
    fakes.ColourChat.asked = 0
    again = visdiff.compare(*sets, **settings, cache=cache)
    assert fakes.ColourChat.asked == 0
    assert again.differences == report.differences
    assert again.provenance.tokens == {"calls": 0, "cached": 2, "prompt": 0, "completion": 0}


@pytest.mark.parametrize("rounds", [1, 2])
def test_shuffled_runs_and_rounds_of_a_vision_proposer(rounds: int, cache: Cache) -> None:
    report = visdiff.compare(
        *(colours(60, 45, 1), colours(60, 15, 2)),
        **{**CHAT, "proposer": "images-vlm", "proposer__layout": "images"},
        cache=cache,
        rounds=rounds,
        null_repeats=4,
    )
    assert {d.direction for d in report.confirmed} == {"A", "B"}
    assert report.null is not None
    assert report.null.with_any_confirmed <= 1
    # Shuffled runs show other images, so each run sends its own requests.
    assert fakes.ColourChat.asked >= 5 * 2


def test_ranking_by_a_chat_model(cache: Cache) -> None:
    sets = colours(50, 45, 1), colours(50, 5, 2)
    for ranker in ("captions-llm", "vqa"):
        settings = {**CHAT, "proposer": {"backend": "manual", "hypotheses": ("red", "blue")}}
        report = visdiff.compare(*sets, **{**settings, "ranker": ranker}, cache=cache)
        assert {(d.text, d.direction) for d in report.confirmed} == {("red", "A"), ("blue", "B")}
        assert report.differences[0].n_unscored == 0


def test_failed_requests_are_not_a_finding(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    monkeypatch.setattr(fakes.ColourChat, "fails", Failure("timed out", "timeout"))
    with pytest.raises(VisdiffError, match=r"no answer \(timed out\).*run again"):
        visdiff.compare(*sets, **CHAT, cache=cache)
    settings = {**CHAT, "proposer": {"backend": "manual", "hypotheses": ("A: red",)}}
    report = visdiff.compare(*sets, **{**settings, "ranker": "vqa"}, cache=cache)
    assert not report.confirmed
    assert report.rejected[0].reason == "no image could be scored"
    n = report.set_a.n_scored + report.set_b.n_scored
    assert f"{n} of {n} scores are missing and are ignored." in report.warnings
    # Failures are not cached: the next run repeats the requests and succeeds.
    monkeypatch.setattr(fakes.ColourChat, "fails", None)
    assert visdiff.compare(*sets, **CHAT, cache=cache).confirmed
    again = visdiff.compare(*sets, **{**settings, "ranker": "vqa"}, cache=cache)
    assert again.confirmed


def test_one_half_without_an_answer_keeps_the_hypotheses_of_the_other(cache: Cache) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    # Two directions of the first half.
    report = visdiff.compare(*sets, **CHAT, cache=cache, llm__max_calls=2)
    assert report.cross_fitted
    assert report.confirmed
    assert len(report.unanswered) == 2
    assert not report.is_complete
    assert visdiff.compare(*sets, **CHAT, cache=cache).is_complete


def test_a_spent_budget_keeps_the_results_so_far(cache: Cache) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    settings = {**CHAT, "proposer": {"backend": "manual", "hypotheses": ("A: red",)}}
    limited = {**settings, "ranker": "vqa", "llm__max_calls": 30, "null_repeats": 1}
    report = visdiff.compare(*sets, **limited, cache=cache)
    assert fakes.ColourChat.asked == 30
    # A shuffled run that was scored in part.
    assert any("shuffled runs: " in w and "scores are missing" in w for w in report.warnings)
    assert any("budget is spent" in w for w in report.warnings)
    every = [*report.differences, *report.rejected]
    assert len(every) == 1
    # The second run takes the first thirty from the cache and computes the others.
    again = visdiff.compare(*sets, **{**settings, "ranker": "vqa"}, cache=cache, llm__max_calls=99)
    assert again.confirmed
    assert again.differences[0].n_unscored == 0
    assert fakes.ColourChat.asked == again.set_a.n_scored + again.set_b.n_scored


def test_a_shuffled_run_without_scores_is_not_counted(cache: Cache) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    settings = {**CHAT, "proposer": {"backend": "manual", "hypotheses": ("A: red",)}}
    limited = {**settings, "ranker": "vqa", "llm__max_calls": 20, "null_repeats": 1}
    report = visdiff.compare(*sets, **limited, cache=cache)
    assert report.null is None
    assert any("1 of 1 runs are not counted (first: 2" in w for w in report.warnings)


def test_a_shuffled_run_without_an_answer_keeps_the_findings(cache: Cache) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    # Two directions of two halves are the real run; the next two the first shuffled one.
    report = visdiff.compare(*sets, **CHAT, cache=cache, llm__max_calls=6, null_repeats=2)
    assert report.confirmed
    assert report.null is not None
    assert report.null.repeats == 1
    assert any("1 of 2 runs are not counted (first: Expected" in w for w in report.warnings)


def test_invalid_settings_are_reported_before_any_computation(cache: Cache) -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    for settings, message in (
        ({"proposer": "paired-captions-llm"}, "Expected paired sets.*--paired-by"),
        ({"proposer": "images-vlm", "llm__vision": False}, "a chat model with vision.*images-vlm"),
        ({"ranker": "vqa", "llm__vision": False}, "a chat model with vision.*vqa"),
        ({"proposer": "manual"}, "got none; set proposer.hypotheses"),
        ({"proposer": "concepts"}, "a ranker without one"),
        ({"llm": "openai"}, "name of a model"),
        ({"llm__max_cost": 1.0}, "a price for the model"),
        ({"llm__prompt_price": 1.0}, "got one of them"),
    ):
        with pytest.raises(InputError, match=message):
            visdiff.compare(*sets, **{**CHAT, **settings}, cache=cache)
    assert fakes.ColourCaptioner.computed == fakes.ColourChat.asked == 0


def test_paired_captions_proposer_on_paired_sets(tmp_path: Path, cache: Cache) -> None:
    prompts = [f"prompt {i}" for i in range(80)]
    sets = [
        write_set(
            tmp_path / name, [f"a {colour} wall"] * 80, seed=seed, prompt=prompts,
            colours=[colour] * 80,
        )
        for seed, (name, colour) in enumerate((("before", "red"), ("after", "blue")))
    ]  # fmt: skip
    settings = {**CHAT, "captioner": "manifest", "proposer": "paired-captions-llm"}
    report = visdiff.compare(*sets, **settings, cache=cache, paired_by=("prompt",), rounds=2)
    assert {(d.text, d.direction) for d in report.confirmed} == {
        ("a red square", "A"),
        ("a blue square", "B"),
    }


def test_the_plan_counts_the_calls() -> None:
    sets = colours(60, 45, 1), colours(60, 15, 2)
    config = visdiff.Config.of("miniature").changed(
        **{k: v for k, v in CHAT.items() if k != "progress"}
    )

    def planned(**settings: Any) -> Any:
        changed = config.changed(**{"statistics__cross_fit": "never", **settings})
        return plan(split_pair(*open_pair(*sets), changed), changed)

    usual = planned()
    assert (usual.paid_calls, usual.hypotheses) == (2, 20)
    assert usual.captions == 120 - usual.scored
    assert planned(rounds=3, null_repeats=2).paid_calls == 2 * 3 * 3
    crossed = planned(statistics__cross_fit="auto")
    assert crossed.cross_fitted
    assert (crossed.paid_calls, crossed.hypotheses, crossed.captions) == (4, 40, 120)
    asked = planned(ranker="vqa", ranker__model="llm", statistics__cross_fit="always")
    assert asked.paid_calls == 4 + 40 * 60
    looks = planned(proposer="images-vlm")
    assert (looks.captions, looks.paid_calls) == (0, 2)
    assert planned(ranker="vqa", ranker__model="llm").paid_calls == 2 + 20 * usual.scored
    assert planned(ranker="captions-llm").captions == 120
    assert planned(ranker="vqa", llm__max_calls=7).paid_calls == 7
    own = planned(proposer={"backend": "manual", "hypotheses": ["A: x", "y"]})
    assert (own.hypotheses, own.captions, own.paid_calls) == (4, 0, 0)
    assert visdiff.Config.of("laptop").llm.model is None
    assert planned(proposer="ngrams").paid_calls == 0
    # Prices give a cost, which the budget bounds.
    priced = {"llm__prompt_price": 10.0, "llm__completion_price": 30.0}
    assert usual.cost is None
    cost = planned(**priced).cost
    assert 0.01 < cost < 0.1
    assert planned(**priced, rounds=3).cost == pytest.approx(3 * cost)
    assert planned(**priced, ranker="vqa", ranker__model="llm").cost > 10
    assert planned(**priced, ranker="vqa", ranker__model="llm", llm__max_cost=2.0).cost == 2
    assert "about US$ 0.0" in planned(**priced).sentence()


def test_joined_sets(tmp_path: Path) -> None:
    a = ImageSet.open(write_set(tmp_path / "a", ["a dog"] * 3, seed=1, mood=["x"] * 3))
    b = ImageSet.open(write_set(tmp_path / "b", ["a cat"] * 2, seed=2))
    known = [a.digest(0), b.digest(1)]
    both = a.joined(b)
    assert both.ids == ("000.png", "001.png", "002.png", "000.png#2", "001.png#2")
    assert [both.digest(0), both.digest(4)] == known
    assert both.digest(3) == b.digest(0) != a.digest(0)
    np.testing.assert_array_equal(np.asarray(both.image(4)), np.asarray(b.image(1)))
    assert both.frame["caption"].tolist() == ["a dog"] * 3 + ["a cat"] * 2
    assert both.frame["id"].tolist() == list(both.ids)
    # The two sets are unchanged, and a third can be joined.
    assert (len(a), len(b)) == (3, 2)
    assert both.joined(a).ids[-1] == "002.png#2"
    assert len(set(both.joined(both).ids)) == 10
    assert both.subset([4, 0]).digest(0) == known[1]
    # Images without a file are identified by their ids.
    c, d = (ImageSet.open(colours(2, 1, seed)) for seed in (1, 2))
    known = [s.digest(i) for s in (c, d) for i in range(2)]
    assert len(set(known)) == 4
    assert [c.joined(d).digest(i) for i in range(4)] == known
    # What the second image of c is called is free in a part of c, but its digest is not d's.
    d = ImageSet.open(colours(2, 1, 2))
    assert [c.subset([0]).joined(d).digest(i) for i in (0, 2)] == [known[0], known[3]]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n", [80, 24])
def test_captions_stay_with_their_images(
    tmp_path: Path, cache: Cache, paired: bool, n: int
) -> None:
    # In both halves (24 images are too few for two), in rounds and in shuffled runs.
    sets = [
        write_set(
            tmp_path / name,
            place_captions(n, seed, place="by a brick wall", share=share),
            seed=seed,
            prompt=[f"p{i}" for i in range(n)],
        )
        for seed, (name, share) in enumerate((("a", 0.8), ("b", 0.3)))
    ]
    report = visdiff.compare(
        *sets,
        **{**WORDS, "proposer": "fakes:WatchfulProposer", "ranker": "fakes:WatchfulRanker"},
        cache=cache,
        rounds=2,
        null_repeats=2,
        paired_by=("prompt",) if paired else (),
    )
    assert report.double_dipped == (n == 24)
    assert report.differences


def test_a_pair_stays_whole_while_one_of_the_two_is_unexplained(
    monkeypatch: pytest.MonkeyPatch, cache: Cache
) -> None:
    a, b = (ImageSet.open(colours(6, 3, seed), name=str(seed)) for seed in (1, 2))
    config = visdiff.Config.of("miniature").changed(
        captioner="fakes:ColourCaptioner",
        ranker="fakes:ColourRanker",
        proposer="images-vlm",
        llm="fakes:ColourChat",
        paired_by=("prompt",),
        rounds=2,
    )
    backends = Backends.of(config)
    seen: list[Evidence] = []

    def propose_once(evidence: Evidence, *, rng: Any, round: int) -> Proposals:
        seen.append(evidence)
        return Proposals((Hypothesis(f"red {round}", "A", "test", round),))

    monkeypatch.setattr(backends.proposer, "propose", propose_once)
    left = np.array([True, False, False, False, False, False] + [False, False, True] + [False] * 3)
    monkeypatch.setattr("visdiff.stats.unexplained", lambda *_: left)
    found = propose(backends, a, b, None, config, np.random.default_rng(0))
    assert [h.round for h in found.hypotheses] == [1, 2]
    assert (len(seen[0].images_a), len(seen[0].images_b)) == (6, 6)
    assert seen[1].images_a.ids == (a.ids[0], a.ids[2])
    assert seen[1].images_b.ids == (b.ids[0], b.ids[2])
    assert seen[1].paired


@pytest.mark.parametrize("paired", [False, True])
def test_shuffled_halves_hold_the_same_images(paired: bool) -> None:
    a, b = (ImageSet.open(colours(n, 3, seed), name=str(seed)) for seed, n in ((1, 9), (2, 9)))
    c, d = (ImageSet.open(colours(n, 3, seed), name=str(seed)) for seed, n in ((3, 7), (4, 7)))
    halves = Halves(a, b, c, d, double_dipped=False)
    mixed, discovery, scoring = shuffle_halves(halves, np.random.default_rng(0), paired=paired)
    for (first, second), (new_first, new_second), order in (
        ((a, b), (mixed.discovery_a, mixed.discovery_b), discovery),
        ((c, d), (mixed.scoring_a, mixed.scoring_b), scoring),
    ):
        before = [s.digest(i) for s in (first, second) for i in range(len(s))]
        after = [s.digest(i) for s in (new_first, new_second) for i in range(len(s))]
        assert after == [before[i] for i in order]
        assert sorted(after) == sorted(before)
        assert after != before
        assert len(new_first) == len(first)


def test_the_lexical_ranker_needs_captions(cache: Cache) -> None:
    with pytest.raises(InputError, match="column 'caption'"):
        visdiff.compare(colours(30, 10, 1), colours(30, 10, 2), **WORDS, cache=cache)


def test_the_fake_captioner_names_the_colour() -> None:
    # The tests above rely on this.
    captioner = fakes.ColourCaptioner()
    for channel in CHANNELS:
        seen = captioner.prepare(picture(channel, np.random.default_rng(0)))
        assert captioner.values([seen]) == [f"a {channel} square"]
