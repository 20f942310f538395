"""Running a benchmark: stored results, resuming, failures, judges, the table and the commands."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import Killed, picture
from typer.testing import CliRunner

from visdiff.bench import table
from visdiff.bench.pairs import Benchmark, Pair
from visdiff.bench.run import (
    Finding,
    SystemOutput,
    agree,
    claims,
    comparison,
    rank_findings,
    rejudge,
    run,
)
from visdiff.bench.store import Results, sole_writer
from visdiff.cache import Cache
from visdiff.cli.bench import app
from visdiff.config import Config
from visdiff.errors import InputError, MissingBackendError
from visdiff.imageset import ImageSet
from visdiff.judges import Claim, Verdict
from visdiff.judges.world import WorldJudge
from visdiff.llm import Failure, Reply, Request
from visdiff.results import Difference, DifferenceReport, Rejected, Separability, SetCard

CONFIG = Config.of("miniature").changed(seed=3)
REAL = CONFIG.changed(captioner="fakes:ColourCaptioner", ranker="fakes:ColourRanker")
PAIRS = 6


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    """Six pairs, grass against snow, and a null pair; the image files have arbitrary bytes."""
    pairs = []
    for i in range(PAIRS + 1):
        split = "null" if i == PAIRS else ("easy", "hard")[i % 2]
        files = [tmp_path / f"images/{i}/{side}{k}.png" for side in "ab" for k in range(10)]
        files[0].parent.mkdir(parents=True)
        for file in files:
            file.write_bytes(file.name.encode())
        texts = ("on the grass", "on the grass" if split == "null" else "in the snow")
        pairs.append(Pair(f"{split}/{i}", split, *texts, "", tuple(files[:10]), tuple(files[10:])))
    return Benchmark("Tiny", tuple(pairs))


def pair_number(a: ImageSet) -> int:
    """Returns the number of the pair that a system received, from the folder of its images."""
    path = a.path(0)
    assert path is not None
    return int(path.parent.name)


def find_grass(a: ImageSet, b: ImageSet) -> SystemOutput:
    """A system that is right at rank 1 in pairs 0 and 3, at rank 3 in 1 and 4, never in 2 and 5."""
    position = pair_number(a) % 3
    right, wrong = Finding("grass", "A", 0.9, True), Finding("sand", "A", 0.8, False)
    other = Finding("snow", "B", 0.7, True)
    return SystemOutput([[right, wrong, other], [wrong, other, right], []][position])


def content(results: Results) -> dict[str, Any]:
    return {"header": results.header, "records": dict(sorted(results.records.items()))}


def run_system(benchmark: Benchmark, out: Path, system: Any = find_grass, **more: Any) -> Results:
    settings = {"config": CONFIG, "judge": WorldJudge(), "system": system, "progress": False}
    return run(benchmark, out, **{**settings, **more})


# --- a run --------------------------------------------------------------------------------------


def test_every_pair_is_compared_judged_and_stored(benchmark: Benchmark, tmp_path: Path) -> None:
    results = run_system(benchmark, tmp_path / "r.jsonl")
    assert list(results.records) == [pair.id for pair in benchmark.pairs]
    first = results.records["easy/0"]
    assert [(h["text"], h["score"]) for h in first["hypotheses"]] == [("grass", 1), ("sand", 0)]
    assert (first["found"], first["confirmed"], first["n_a"], first["n_b"]) == (3, 2, 10, 10)
    # By default only hypotheses about A are judged, as in the paper.
    both = run_system(benchmark, tmp_path / "both.jsonl", directions="both")
    assert [h["score"] for h in both.records["easy/0"]["hypotheses"]] == [1, 0, 1]
    assert content(Results.read(tmp_path / "r.jsonl")) == content(results)


def test_the_rows_of_a_run(benchmark: Benchmark, tmp_path: Path) -> None:
    by_split = {
        row["split"]: row for row in table.rows([run_system(benchmark, tmp_path / "r.jsonl")])
    }
    # easy: pairs 0, 2, 4; hard: 1, 3, 5.
    assert (by_split["easy"]["acc1"], by_split["easy"]["acc5"]) == (
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    )
    assert by_split["hard"]["n"] == 3
    assert by_split["hard"]["unscored"] == 0
    low, high = by_split["easy"]["acc1_ci"]
    assert 0 <= low <= 1 / 3 <= high <= 1
    null = by_split["null"]
    assert (null["acc1"], null["acc5"], null["acc1_ci"]) == (None, None, None)
    assert (null["n"], null["confirmed_pairs"]) == (1, 1)


def test_only_the_top_hypotheses_are_judged(benchmark: Benchmark, tmp_path: Path) -> None:
    results = run_system(benchmark, tmp_path / "r.jsonl", top=1)
    assert all(len(r["hypotheses"]) <= 1 for r in results.records.values())
    assert results.records["easy/0"]["found"] == 3
    # Of one judged hypothesis a pair, the best of five is not known.
    rows = {row["split"]: row for row in table.rows([results])}
    assert rows["easy"]["acc1"] == pytest.approx(1 / 3)
    assert rows["easy"]["acc5"] is rows["easy"]["acc5_ci"] is rows["easy"]["acc5_confirmed"] is None


def test_the_system_receives_neither_pair_nor_truth(benchmark: Benchmark, tmp_path: Path) -> None:
    names = []

    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        names.append((a.name, b.name))
        return SystemOutput([])

    run_system(benchmark, tmp_path / "r.jsonl", system)
    assert set(names) == {("A", "B")}


def test_a_comparison_ranks_rejected_candidates_after_its_differences() -> None:
    def difference(text: str, auroc: float, confirmed: bool) -> Difference:
        return Difference(text, "A", auroc, 0.4, 0.9, 0.01, 0.02, confirmed, 1.0, 0.0, 9, 9)

    card = SetCard("A", "", 9, 4, 5)
    report = DifferenceReport(
        verdict="",
        differences=(difference("grass", 0.7, True), difference("hay", 0.9, False)),
        rejected=(
            Rejected("moss", "A", "not significant", 0.6, 0.2, 0.3),
            Rejected("sand", "B", "not significant", 0.65, 0.1, 0.2),
            Rejected("sea", "A", "the scores point in the other direction", 0.5, 0.6, 0.6),
            Rejected("sky", "A", "no image could be scored"),
        ),
        separability=Separability(),
        set_a=card,
        set_b=card,
    )
    assert [(f.text, f.direction, f.confirmed) for f in rank_findings(report)] == [
        ("grass", "A", True), ("hay", "A", False), ("sand", "B", False), ("moss", "A", False),
    ]  # fmt: skip


def test_unconfirmed_candidates_count_in_acc_at_k_but_not_as_confirmed(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        return SystemOutput([Finding("sand", "A", 0.9, True), Finding("grass", "A", 0.6)], tested=7)

    results = run_system(benchmark, tmp_path / "r.jsonl", system)
    rows = {row["split"]: row for row in table.rows([results])}
    assert [rows["easy"][k] for k in ("acc1", "acc5")] == [0, 1]
    assert [rows["easy"][k] for k in ("acc1_confirmed", "acc5_confirmed")] == [0, 0]
    assert rows["null"]["acc5_confirmed"] is None
    assert results.records["easy/0"]["tested"] == 7


# --- resuming -----------------------------------------------------------------------------------


def killed_after(n: int) -> Callable[[ImageSet, ImageSet], SystemOutput]:
    left = [n]

    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return find_grass(a, b)

    return system


@pytest.mark.parametrize("n", [0, 1, 4, PAIRS])
@pytest.mark.parametrize("purity", [1.0, 0.7])
def test_a_resumed_run_equals_an_uninterrupted_one(
    benchmark: Benchmark, tmp_path: Path, n: int, purity: float
) -> None:
    def mixture(a: ImageSet, b: ImageSet) -> SystemOutput:
        # The output depends on the images in the sets.
        return SystemOutput([Finding(" ".join(sorted(a.frame["id"])), "A")])

    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    uninterrupted = run_system(benchmark, once, mixture, purity=purity)
    left = [n]

    def killed(a: ImageSet, b: ImageSet) -> SystemOutput:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return mixture(a, b)

    with pytest.raises(Killed):
        run_system(benchmark, twice, killed, purity=purity)
    assert len(Results.read(twice).records) == n
    resumed = run_system(benchmark, twice, mixture, purity=purity)
    assert content(resumed) == content(uninterrupted)
    assert once.read_bytes() == twice.read_bytes()


def test_every_pair_is_mixed_differently(benchmark: Benchmark, tmp_path: Path) -> None:
    moved = set()

    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        names = frozenset(str(a.path(i))[-6:] for i in range(len(a)))
        moved.add(frozenset(name for name in names if name.startswith("b")))
        return SystemOutput([])

    run_system(benchmark, tmp_path / "r.jsonl", system, purity=0.5)
    assert len(moved) > 1
    assert all(len(names) == 5 for names in moved)


def test_nothing_is_compared_twice(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_system(benchmark, tmp_path / "r.jsonl", killed_after(4))
    run_system(benchmark, tmp_path / "r.jsonl", killed_after(PAIRS + 1 - 4))
    before = (tmp_path / "r.jsonl").read_bytes()
    run_system(benchmark, tmp_path / "r.jsonl", killed_after(0))
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_a_file_truncated_at_any_place_is_recovered(benchmark: Benchmark, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    run_system(benchmark, file)
    complete = file.read_bytes()
    lines = complete.splitlines(keepends=True)
    for length in (1, 20, len(lines[0]) - 1, len(lines[0]), len(lines[0]) + 1,
                   len(complete) - 5, len(complete) - 1):  # fmt: skip
        file.write_bytes(complete[:length])
        run_system(benchmark, file)
        assert file.read_bytes() == complete, length


def test_a_part_first_and_the_full_benchmark_later(benchmark: Benchmark, tmp_path: Path) -> None:
    run_system(benchmark.only(["hard"], limit=1), tmp_path / "r.jsonl")
    results = run_system(benchmark, tmp_path / "r.jsonl", killed_after(PAIRS))
    assert content(results) == content(run_system(benchmark, tmp_path / "s.jsonl"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"purity": 0.8}, "purity is 0.8, in the file 1.0"),
        ({"config": CONFIG.changed(seed=4)}, r"config\.seed is 4, in the file 3"),
        ({"top": 5}, "top is 5"),
        ({"directions": "both"}, "directions"),
        ({"proposer": "original"}, "proposer is 'original', in the file 'ngrams'"),
    ],
    ids=["purity", "seed", "top", "directions", "proposer"],
)
def test_another_run_in_the_same_file_is_rejected(
    benchmark: Benchmark, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    run_system(benchmark, tmp_path / "r.jsonl")
    before = (tmp_path / "r.jsonl").read_bytes()
    with pytest.raises(InputError, match=message):
        run_system(benchmark, tmp_path / "r.jsonl", **more)
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_settings_that_do_not_change_results_may_differ(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    run_system(benchmark, tmp_path / "r.jsonl")
    before = (tmp_path / "r.jsonl").read_bytes()
    run_system(
        benchmark, tmp_path / "r.jsonl", config=CONFIG.changed(device="cuda", ranker__workers=7)
    )
    # Accepted as the same run: nothing was compared again.
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_another_judge_or_another_truth_is_rejected(benchmark: Benchmark, tmp_path: Path) -> None:
    run_system(benchmark, tmp_path / "r.jsonl")
    with pytest.raises(InputError, match=r"judge\.judge"):
        run_system(benchmark, tmp_path / "r.jsonl", judge=FixedJudge([1.0]))
    first = benchmark.pairs[0]
    other = Pair(first.id, first.split, "x", "y", "", first.images_a, first.images_b)
    with pytest.raises(InputError, match="another pair easy/0"):
        run_system(Benchmark("Tiny", (other,)), tmp_path / "r.jsonl")


def test_a_file_with_other_content_is_not_changed(benchmark: Benchmark, tmp_path: Path) -> None:
    for text in ("notes", "notes\n", '{"path": "x"}\n', '{"a": 1', "[]\n"):
        (tmp_path / "r.jsonl").write_text(text)
        with pytest.raises(InputError, match="results file"):
            run_system(benchmark, tmp_path / "r.jsonl")
        assert (tmp_path / "r.jsonl").read_text() == text


# --- failures -----------------------------------------------------------------------------------


def failing_at(broken: set[int]) -> Callable[[ImageSet, ImageSet], SystemOutput]:
    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        if pair_number(a) in broken:
            raise RuntimeError("out of memory")
        return find_grass(a, b)

    return system


def test_a_failed_pair_is_recorded_not_scored_and_retried(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    out = tmp_path / "r.jsonl"
    results = run_system(benchmark, out, failing_at({0, 3}))
    assert results.failed == {
        "easy/0": "RuntimeError: out of memory",
        "hard/3": "RuntimeError: out of memory",
    }
    rows = {row["split"]: row for row in table.rows([results])}
    # Pair 2 found nothing, pair 4 the truth at a lower rank; pair 0 failed and is not wrong.
    assert (rows["easy"]["n"], rows["easy"]["unscored"], rows["easy"]["failed"]) == (3, 1, 1)
    assert (rows["easy"]["acc1"], rows["easy"]["acc5"]) == (0, 0.5)
    size = out.stat().st_size
    run_system(benchmark, out, failing_at({0, 3}))
    assert out.stat().st_size == size
    assert content(run_system(benchmark, out)) == content(
        run_system(benchmark, tmp_path / "once.jsonl")
    )


def test_missing_images_are_counted_and_a_missing_set_fails(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    first, second, *rest = benchmark.pairs
    first = Pair(first.id, first.split, first.a, first.b, "", first.images_a[1:], first.images_b,
                 ("0/a0.png",))  # fmt: skip
    second = Pair(second.id, second.split, second.a, second.b, "", (), second.images_b, ("x",) * 10)
    results = run_system(Benchmark("Tiny", (first, second, *rest)), tmp_path / "r.jsonl")
    assert results.n_missing == 11
    assert (results.records[first.id]["missing"], results.records[first.id]["n_a"]) == (1, 9)
    assert "Expected images of set A, got none" in results.failed[second.id]


def test_an_error_that_affects_all_pairs_stops_the_run(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    def no_weights(a: ImageSet, b: ImageSet) -> SystemOutput:
        raise MissingBackendError("no weights")

    with pytest.raises(MissingBackendError):
        run_system(benchmark, tmp_path / "r.jsonl", no_weights)
    with pytest.raises(InputError, match="ngrms"):
        run_system(benchmark, tmp_path / "s.jsonl", None, config=REAL.changed(proposer="ngrms"))
    assert not (tmp_path / "s.jsonl").exists()


def test_invalid_settings_are_rejected_before_the_run(benchmark: Benchmark, tmp_path: Path) -> None:
    for more in ({"purity": 0.2}, {"top": 0}, {"directions": "B"}):
        with pytest.raises(InputError):
            run_system(benchmark, tmp_path / "r.jsonl", **more)
    assert not (tmp_path / "r.jsonl").exists()


class FixedJudge:
    """A judge that cycles through a list of scores."""

    def __init__(self, scores: Sequence[float | None]) -> None:
        self.scores = scores
        self.claims: list[Claim] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"judge": "fixed"}

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        verdicts = []
        for claim in claims:
            score = self.scores[len(self.claims) % len(self.scores)]
            self.claims.append(claim)
            verdicts.append(Verdict(score, "fixed"))
        return verdicts


def test_only_missing_verdicts_are_judged_again(benchmark: Benchmark, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    incomplete = FixedJudge([1.0, None])
    results = run_system(benchmark, out, judge=incomplete)
    assert results.n_unscored == len(incomplete.claims) // 2 > 0
    rows = {row["split"]: row for row in table.rows([results])}
    assert rows["easy"]["acc1"] is not None
    complete = FixedJudge([0.5])
    results = run_system(benchmark, out, killed_after(0), judge=complete)
    assert len(complete.claims) == len(incomplete.claims) // 2
    assert results.n_unscored == 0
    assert {h["score"] for r in results.records.values() if r["split"] != "null"
            for h in r["hypotheses"]} == {1.0, 0.5}  # fmt: skip


def test_a_failing_judge_loses_no_comparison(benchmark: Benchmark, tmp_path: Path) -> None:
    class FailingJudge(FixedJudge):
        def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
            raise InputError("no such model")

    with pytest.raises(InputError, match="no such model"):
        run_system(benchmark, tmp_path / "r.jsonl", judge=FailingJudge([]))
    assert Results.read(tmp_path / "r.jsonl").n_unscored == 2
    results = run_system(
        benchmark, tmp_path / "r.jsonl", killed_after(PAIRS), judge=FixedJudge([1.0])
    )
    assert results.n_unscored == 0


def test_null_pairs_are_not_judged(benchmark: Benchmark, tmp_path: Path) -> None:
    judge = FixedJudge([1.0])
    results = run_system(benchmark, tmp_path / "r.jsonl", judge=judge)
    assert all(claim.truth_b == "in the snow" for claim in judge.claims)
    assert {h["score"] for h in results.records[f"null/{PAIRS}"]["hypotheses"]} == {0}
    assert len(claims(results)) == len(judge.claims)


# --- other judges -------------------------------------------------------------------------------


def test_another_judge_compares_nothing_again(benchmark: Benchmark, tmp_path: Path) -> None:
    first = run_system(benchmark, tmp_path / "r.jsonl", failing_at({5}))
    second = rejudge(first, tmp_path / "s.jsonl", FixedJudge([1.0, 0.0]), progress=False)
    assert second.header["judge"] == {"judge": "fixed"}
    assert "hard/5" not in second.records
    scored = bench("score", tmp_path / "r.jsonl", "--judge", "world", "--out", tmp_path / "w.jsonl")
    assert scored.exit_code == 3
    assert "failed, so not judged: hard/5" in scored.stderr
    found = agree(first, second)
    assert found.n == len(claims(first)) == sum(map(sum, found.table))
    again = agree(first, first)
    assert (again.observed, again.kappa) == (1, pytest.approx(1))
    with pytest.raises(InputError, match="another file"):
        rejudge(first, tmp_path / "r.jsonl", FixedJudge([1.0]))


def test_runs_without_a_common_hypothesis_do_not_agree(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    one = run_system(benchmark, tmp_path / "r.jsonl")
    other = run_system(
        benchmark, tmp_path / "s.jsonl", lambda a, b: SystemOutput([Finding("moss", "A")])
    )
    with pytest.raises(InputError, match="none in common"):
        agree(one, other)


# --- a real comparison --------------------------------------------------------------------------


def colour_benchmark(folder: Path) -> Benchmark:
    pairs = []
    for i, colours in enumerate((("red", "blue"), ("green", "green"))):
        files = []
        for side, colour in zip("ab", colours, strict=True):
            where = folder / f"{i}{side}"
            where.mkdir(parents=True)
            rng = np.random.default_rng([i, ord(side)])
            for k in range(50):
                picture(colour, rng).save(where / f"{k:02d}.png")
            files.append(tuple(sorted(where.iterdir())))
        split = "easy" if colours[0] != colours[1] else "null"
        pairs.append(Pair(f"{split}/{i}", split, *colours, "", *files))
    return Benchmark("Colours", tuple(pairs))


class ColourJudge:
    """A judge that gives 1 to claims that name the set's colour."""

    identity = {"judge": "says"}  # noqa: RUF012

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        return [Verdict(float(claim.own in claim.text)) for claim in claims]


def test_compare_over_a_benchmark(tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        results = run(colour_benchmark(tmp_path / "images"), tmp_path / "r.jsonl", config=REAL,
                      judge=ColourJudge(), cache=cache, progress=False)  # fmt: skip
    rows = {row["split"]: row for row in table.rows([results])}
    assert (rows["easy"]["acc1"], rows["easy"]["n"]) == (1, 1)
    assert rows["null"]["confirmed_pairs"] == 0
    assert rows["easy"]["proposer"] == "ngrams"
    assert not results.failed


def test_a_failed_request_of_the_proposer_fails_the_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visdiff.bench import run as module

    class Report:
        unanswered = ("timed out",)
        differences = ()

    monkeypatch.setattr(module, "compare", lambda *_, **__: Report)
    with Cache(tmp_path / "cache") as cache:
        system = comparison(REAL, cache)
        results = run_system(
            colour_benchmark(tmp_path / "images"), tmp_path / "r.jsonl", system, config=REAL
        )
    assert all("timed out" in reason for reason in results.failed.values())
    assert len(results.failed) == 2


# --- table --------------------------------------------------------------------------------------


def write_results(path: Path, benchmark: str, proposer: str, splits: Sequence[str]) -> Results:
    results = Results.open(path, {
        "benchmark": benchmark, "proposer": proposer, "ranker": "clip", "purity": 1.0,
        "directions": "A", "top": 5, "judge": {"judge": "chat"}, "config": {},
    })  # fmt: skip
    for split in splits:
        for i, score in enumerate((1.0, 0.5)):
            hypothesis = {"text": "x", "direction": "A", "auroc": None, "confirmed": True,
                          "score": score, "reason": ""}  # fmt: skip
            results.append({"pair": f"{split}/{i}", "split": split, "status": "done", "a": "a",
                            "b": "b", "hypotheses": [hypothesis], "confirmed": 1})  # fmt: skip
    return results


def test_published_numbers_are_shown_only_for_matching_runs(tmp_path: Path) -> None:
    splits = ("imagenet-star", "hard", "imagenet-r", "easy")
    ours = write_results(tmp_path / "a.jsonl", "VisDiffBench", "captions-llm", splits)
    mini = write_results(tmp_path / "b.jsonl", "MiniDiffBench", "captions-llm", splits)
    rows = table.rows([ours, mini])
    assert [r["split"] for r in rows[:5]] == [
        "easy", "hard", "imagenet-r", "imagenet-star", "imagenet-r/*",
    ]  # fmt: skip
    by_split = {r["split"]: r for r in rows[:5]}
    assert [p["acc1"] for p in by_split["easy"]["published"]] == [0.88]
    assert by_split["easy"]["acc1"] == 0.75
    assert by_split["imagenet-r/*"]["n"] == 4
    assert by_split["imagenet-r/*"]["published"][0]["second_hand"]
    assert all(not r["published"] for r in rows[5:])
    text = table.render(rows)
    assert "0.88/0.99 (BLIP-2 + GPT-4, CLIP ViT-bigG-14)" in text
    assert "InvDiff" in text
    assert "InvDiff" not in table.render(rows[5:], published=False)


def test_published_numbers_match_the_reference() -> None:
    found = {(p.proposer, p.split, p.system): (p.acc1, p.acc5) for p in table.PUBLISHED}
    assert len(found) == len(table.PUBLISHED)
    captions = "BLIP-2 + GPT-4, CLIP ViT-bigG-14"
    assert found["captions-llm", "hard", captions] == (0.61, 0.80)
    assert found["images-vlm", "easy", "GPT-4V"] == (0.95, 1.00)
    assert found["InvDiff", "medium", "inverse CCA"] == (0.75, 0.84)
    # Second-hand sources report Acc@1 only.
    assert all(p.acc5 is None for p in table.PUBLISHED if p.second_hand)


# --- commands -----------------------------------------------------------------------------------


def bench(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark of one easy pair in the released layout, without captions."""
    root = tmp_path / "bench"
    pair = colour_benchmark(tmp_path / "images").pairs[0]
    for side, files in (("1", pair.images_a), ("2", pair.images_b)):
        (root / f"easy/0_{side}").mkdir(parents=True)
        for file in files:
            (root / f"easy/0_{side}" / file.name).write_bytes(file.read_bytes())
    row = {"set1": "red", "set2": "blue", "difference": ""}
    for side in "12":
        names = sorted(p.name for p in (root / f"easy/0_{side}").iterdir())
        row[f"set{side}_images"] = [f"easy/0_{side}/{name}" for name in names]  # pyright: ignore
    (root / "easy.jsonl").write_text(json.dumps(row) + "\n")
    return root


RUN = (
    "--preset", "miniature", "--captioner", "fakes:ColourCaptioner", "--ranker",
    "fakes:ColourRanker", "--judge", "test_bench_run:FromCommandLine", "--cache", "off",
)  # fmt: skip


class FromCommandLine(ColourJudge):
    """A judge that accepts the settings of the command line."""

    def __init__(self, **_: Any) -> None:
        pass


def test_commands_from_run_to_agree(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    ran = bench("run", folder, "--out", out, *RUN, "--json")
    assert ran.exit_code == 0, ran.stderr
    (row,) = json.loads(ran.stdout)
    columns = {"proposer", "ranker", "split", "n", "acc1", "acc5", "acc1_ci", "unscored"}
    assert columns <= set(row)
    assert (row["split"], row["n"], row["acc1"], row["unscored"]) == ("easy", 1, 1.0, 0)

    sheet = tmp_path / "sheet.csv"
    assert bench("score", out, "--write-sheet", sheet).exit_code == 0
    lines = sheet.read_text("utf-8-sig").splitlines()
    assert len(lines) > 1
    filled = [lines[0], *(line.removesuffix(",,") + ",2," for line in lines[1:])]
    sheet.write_text("\n".join(filled) + "\n")
    people = tmp_path / "people.jsonl"
    judged = bench("score", out, "--judge", "human", "--sheet", sheet, "--out", people, "--json")
    assert judged.exit_code == 0, judged.stderr
    assert json.loads(judged.stdout)[0]["judge"] == "human"

    agreed = bench("agree", out, people, "--json")
    assert json.loads(agreed.stdout)["n"] == len(lines) - 1
    assert "Cohen's kappa" in bench("agree", out, people).stdout
    printed = bench("table", out, people)
    assert printed.exit_code == 0
    assert "InvDiff" in printed.stdout
    assert len(json.loads(bench("table", out, people, "--json").stdout)) == 2


class Grader:
    """A chat model that gives every claim a 1; the model "prude" refuses."""

    def __init__(self, model: str | None = None, **_: Any) -> None:
        self.model = model

    @property
    def identity(self) -> dict[str, Any]:
        return {"backend": "grader", "model": self.model}

    @property
    def has_vision(self) -> bool:
        return False

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Reply | Failure]:
        data = {"score": 1, "reason": "so so"}
        refusal = Failure("refused", "refusal")
        reply = Reply(json.dumps(data), data)
        return [refusal if self.model == "prude" else reply for _ in requests]


def test_a_chat_model_judges_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert bench("run", folder, "--out", out, *RUN).exit_code == 0
    chat = (
        "--judge",
        "chat",
        "--judge-set",
        "backend=test_bench_run:Grader",
        "--cache",
        "off",
        "--json",
    )
    judged = bench("score", out, *chat, "--out", tmp_path / "chat.jsonl", "--samples", 3)
    assert judged.exit_code == 0, judged.exception
    assert json.loads(judged.stdout)[0]["acc1"] == 0.5
    arguments = (*chat, "--judge-llm", "prude", "--out", tmp_path / "prude.jsonl")
    refused = bench("score", out, *arguments)
    assert refused.exit_code == 3
    (row,) = json.loads(refused.stdout)
    assert (row["acc1"], row["unscored"], row["n"]) == (None, 1, 1)
    assert "no verdict" in refused.stderr


def test_missing_images_exit_with_status_3(folder: Path, tmp_path: Path) -> None:
    complete = bench("list", folder)
    assert (complete.exit_code, "1 pairs" in complete.stdout) == (0, True)
    (folder / "easy/0_1/07.png").unlink()
    listed = bench("list", folder)
    assert listed.exit_code == 3
    assert "easy/0_1/07.png" in listed.stderr
    ran = bench("run", folder, "--out", tmp_path / "r.jsonl", *RUN)
    assert ran.exit_code == 3
    assert "1 images are missing (first: easy/0_1/07.png)" in ran.stderr
    assert "easy" in ran.stdout


def test_invalid_arguments_are_input_errors(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    for arguments, message in (
        (("run", tmp_path / "none", "--out", out, *RUN), "folder of a benchmark"),
        (("run", folder, "--out", out, "--preset", "miniature", "--judge", "chat"), "model"),
        (("run", folder, "--out", out, "--preset", "miniature", "--judge", "human"), "sheet"),
        (("run", folder, "--out", out, *RUN, "--split", "esay"), "got 'esay'"),
        (("score", tmp_path / "none.jsonl"), "results file"),
        (("agree", folder / "easy.jsonl", folder / "easy.jsonl"), "results file"),
    ):
        failed = bench(*arguments)
        assert isinstance(failed.exception, InputError), arguments
        assert message in str(failed.exception)
    assert not out.exists()


def test_list_without_a_folder_lists_benchmarks_and_judges() -> None:
    listed = json.loads(bench("list", "--json").stdout)
    assert sum(listed["benchmarks"]["VisDiffBench"].values()) == 187
    assert {"world", "chat", "human"} <= set(listed["judges"])
    assert "187 pairs" in bench("list").stdout


# --- several processes --------------------------------------------------------------------------


def run_slowly(folder: Path, out: Path, pause: float) -> None:
    """Runs six pairs with a pause in each; lines are long, so that a kill may truncate one."""
    pairs = []
    for i in range(6):
        files = [folder / f"{i}{side}{k}.png" for side in "ab" for k in range(4)]
        for file in files:
            file.write_bytes(file.name.encode())
        truth = ("on the grass", "in the snow")
        pairs.append(Pair(f"easy/{i}", "easy", *truth, "", tuple(files[:4]), tuple(files[4:])))

    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        time.sleep(pause)
        return SystemOutput([Finding("grass" + " and more" * 500, "A")])

    run_system(Benchmark("Tiny", tuple(pairs)), out, system)


def test_a_killed_process_loses_no_complete_line(tmp_path: Path) -> None:
    out, once = tmp_path / "r.jsonl", tmp_path / "once.jsonl"
    code = (
        "import sys; from pathlib import Path; import test_bench_run as t; "
        "t.run_slowly(Path(sys.argv[1]), Path(sys.argv[2]), 0.5)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(out)], cwd=Path(__file__).parent
    )
    deadline = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = out.read_bytes()
    assert 2 <= len(Results.read(out).records) < 6
    run_slowly(tmp_path, out, 0)
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    run_slowly(tmp_path, once, 0)
    assert out.read_bytes() == once.read_bytes()


RUN_SLOWLY = """
import os, sys, time
from pathlib import Path
import test_bench_run as t
from visdiff.errors import InputError
folder, out = map(Path, sys.argv[1:])
(folder / f"{os.getpid()}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
try:
    t.run_slowly(folder, out, 0.3)
except InputError as error:
    sys.exit(f"error: {error}")
"""


def start_process(folder: Path, out: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", RUN_SLOWLY, str(folder), str(out)],
        cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until(ready: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


def test_of_two_processes_one_writes_and_the_other_reports_the_lock(tmp_path: Path) -> None:
    out, once = tmp_path / "r.jsonl", tmp_path / "once.jsonl"
    both = [start_process(tmp_path, out) for _ in range(2)]
    for process in both:
        wait_until((tmp_path / f"{process.pid}.ready").exists, process)
    (tmp_path / "go").touch()
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    failed = errors[[process.returncode for process in both].index(1)]
    assert "error: Expected to be the only writer of" in failed
    run_slowly(tmp_path, once, 0)
    assert out.read_bytes() == once.read_bytes()


def test_the_lock_ends_with_its_process_and_does_not_block_readers(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    (tmp_path / "go").touch()
    process = start_process(tmp_path, out)
    wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 2, process)
    assert Results.read(out).records
    with pytest.raises(InputError, match="the only writer"):
        run_slowly(tmp_path, out, 0)
    with pytest.raises(InputError, match="the only writer"), sole_writer(out):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    run_slowly(tmp_path, out, 0)
    assert len(Results.read(out).records) == 6


def test_a_second_judge_does_not_write_to_a_locked_file(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    first = run_system(benchmark, tmp_path / "r.jsonl")
    with sole_writer(tmp_path / "s.jsonl"), pytest.raises(InputError, match="the only writer"):
        rejudge(first, tmp_path / "s.jsonl", FixedJudge([1.0]), progress=False)
    assert not (tmp_path / "s.jsonl").exists()
    assert rejudge(first, tmp_path / "s.jsonl", FixedJudge([1.0]), progress=False).records
