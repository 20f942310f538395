"""Running a benchmark: what is kept, what is tried again, what the table and the commands say."""

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
    Found,
    agree,
    claims,
    comparison,
    listed,
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
    """Six pairs, grass against snow, and a null one; some bytes for images."""
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


def number(a: ImageSet) -> int:
    """Which pair a system was given, by the folder of its images."""
    path = a.path(0)
    assert path is not None
    return int(path.parent.name)


def finds(a: ImageSet, b: ImageSet) -> Found:
    """Right first in pairs 0 and 3, second in 1 and 4, and nothing in 2 and 5."""
    place = number(a) % 3
    right, wrong = Finding("grass", "A", 0.9, True), Finding("sand", "A", 0.8, False)
    other = Finding("snow", "B", 0.7, True)
    return Found([[right, wrong, other], [wrong, other, right], []][place])


def content(results: Results) -> dict[str, Any]:
    return {"header": results.header, "records": dict(sorted(results.records.items()))}


def go(benchmark: Benchmark, out: Path, system: Any = finds, **more: Any) -> Results:
    settings = {"config": CONFIG, "judge": WorldJudge(), "system": system, "progress": False}
    return run(benchmark, out, **{**settings, **more})


# --- a run --------------------------------------------------------------------------------------


def test_every_pair_is_compared_judged_and_kept(benchmark: Benchmark, tmp_path: Path) -> None:
    results = go(benchmark, tmp_path / "r.jsonl")
    assert list(results.records) == [pair.id for pair in benchmark.pairs]
    first = results.records["easy/0"]
    assert [(h["text"], h["score"]) for h in first["hypotheses"]] == [("grass", 1), ("sand", 0)]
    assert (first["found"], first["confirmed"], first["n_a"], first["n_b"]) == (3, 2, 10, 10)
    # Only what is truer of A, as in the paper, unless told otherwise.
    both = go(benchmark, tmp_path / "both.jsonl", directions="both")
    assert [h["score"] for h in both.records["easy/0"]["hypotheses"]] == [1, 0, 1]
    assert content(Results.read(tmp_path / "r.jsonl")) == content(results)


def test_the_rows_of_a_run(benchmark: Benchmark, tmp_path: Path) -> None:
    by_split = {row["split"]: row for row in table.rows([go(benchmark, tmp_path / "r.jsonl")])}
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


def test_the_hypotheses_that_are_judged_are_the_first(benchmark: Benchmark, tmp_path: Path) -> None:
    results = go(benchmark, tmp_path / "r.jsonl", top=1)
    assert all(len(r["hypotheses"]) <= 1 for r in results.records.values())
    assert results.records["easy/0"]["found"] == 3


def test_the_system_is_told_neither_pair_nor_truth(benchmark: Benchmark, tmp_path: Path) -> None:
    seen = []

    def looks(a: ImageSet, b: ImageSet) -> Found:
        seen.append((a.name, b.name))
        return Found([])

    go(benchmark, tmp_path / "r.jsonl", looks)
    assert set(seen) == {("A", "B")}


def test_a_comparison_lists_its_suggestions_behind_what_it_vouches_for() -> None:
    def difference(text: str, auroc: float, confirmed: bool) -> Difference:
        return Difference(text, "A", auroc, 0.4, 0.9, 0.01, 0.02, confirmed, 1.0, 0.0, 9, 9)

    card = SetCard("A", "", 9, 4, 5)
    report = DifferenceReport(
        verdict="",
        differences=(difference("grass", 0.7, True), difference("hay", 0.9, False)),
        rejected=(
            Rejected("moss", "A", "not significant", 0.6, 0.2, 0.3),
            Rejected("sand", "B", "not significant", 0.65, 0.1, 0.2),
            Rejected("sea", "A", "the scores go the other way", 0.5, 0.6, 0.6),
            Rejected("sky", "A", "no image could be scored on it"),
        ),
        separability=Separability(),
        set_a=card,
        set_b=card,
    )
    assert [(f.text, f.direction, f.confirmed) for f in listed(report)] == [
        ("grass", "A", True), ("hay", "A", False), ("sand", "B", False), ("moss", "A", False),
    ]  # fmt: skip


def test_suggestions_count_in_acc_at_k_and_not_among_the_confirmed(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    def suggests(a: ImageSet, b: ImageSet) -> Found:
        return Found([Finding("sand", "A", 0.9, True), Finding("grass", "A", 0.6)], tested=7)

    results = go(benchmark, tmp_path / "r.jsonl", suggests)
    rows = {row["split"]: row for row in table.rows([results])}
    assert [rows["easy"][k] for k in ("acc1", "acc5")] == [0, 1]
    assert [rows["easy"][k] for k in ("acc1_confirmed", "acc5_confirmed")] == [0, 0]
    assert rows["null"]["acc5_confirmed"] is None
    assert results.records["easy/0"]["tested"] == 7


# --- resuming -----------------------------------------------------------------------------------


def killed_after(n: int) -> Callable[[ImageSet, ImageSet], Found]:
    left = [n]

    def system(a: ImageSet, b: ImageSet) -> Found:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return finds(a, b)

    return system


@pytest.mark.parametrize("n", [0, 1, 4, PAIRS])
@pytest.mark.parametrize("purity", [1.0, 0.7])
def test_a_resumed_run_equals_an_uninterrupted_one(
    benchmark: Benchmark, tmp_path: Path, n: int, purity: float
) -> None:
    def mixture(a: ImageSet, b: ImageSet) -> Found:
        # What is found depends on which images are in the sets.
        return Found([Finding(" ".join(sorted(a.frame["id"])), "A")])

    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    whole = go(benchmark, once, mixture, purity=purity)
    left = [n]

    def killed(a: ImageSet, b: ImageSet) -> Found:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return mixture(a, b)

    with pytest.raises(Killed):
        go(benchmark, twice, killed, purity=purity)
    assert len(Results.read(twice).records) == n
    assert content(go(benchmark, twice, mixture, purity=purity)) == content(whole)
    assert once.read_bytes() == twice.read_bytes()


def test_another_pair_is_mixed_another_way(benchmark: Benchmark, tmp_path: Path) -> None:
    went = set()

    def system(a: ImageSet, b: ImageSet) -> Found:
        names = frozenset(str(a.path(i))[-6:] for i in range(len(a)))
        went.add(frozenset(name for name in names if name.startswith("b")))
        return Found([])

    go(benchmark, tmp_path / "r.jsonl", system, purity=0.5)
    assert len(went) > 1
    assert all(len(names) == 5 for names in went)


def test_nothing_is_compared_twice(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        go(benchmark, tmp_path / "r.jsonl", killed_after(4))
    go(benchmark, tmp_path / "r.jsonl", killed_after(PAIRS + 1 - 4))
    before = (tmp_path / "r.jsonl").read_bytes()
    go(benchmark, tmp_path / "r.jsonl", killed_after(0))
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_every_cut_of_the_file_is_recovered(benchmark: Benchmark, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    go(benchmark, file)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (1, 20, len(lines[0]) - 1, len(lines[0]), len(lines[0]) + 1,
                len(whole) - 5, len(whole) - 1):  # fmt: skip
        file.write_bytes(whole[:cut])
        go(benchmark, file)
        assert file.read_bytes() == whole, cut


def test_a_part_first_and_the_whole_later(benchmark: Benchmark, tmp_path: Path) -> None:
    go(benchmark.only(["hard"], limit=1), tmp_path / "r.jsonl")
    results = go(benchmark, tmp_path / "r.jsonl", killed_after(PAIRS))
    assert content(results) == content(go(benchmark, tmp_path / "s.jsonl"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"purity": 0.8}, "purity is 0.8, there 1.0"),
        ({"config": CONFIG.changed(seed=4)}, r"config\.seed is 4, there 3"),
        ({"top": 5}, "top is 5"),
        ({"directions": "both"}, "directions"),
        ({"proposer": "original"}, "proposer is 'original', there 'ngrams'"),
    ],
    ids=["purity", "seed", "top", "directions", "proposer"],
)
def test_another_run_in_the_same_file_is_refused(
    benchmark: Benchmark, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    go(benchmark, tmp_path / "r.jsonl")
    before = (tmp_path / "r.jsonl").read_bytes()
    with pytest.raises(InputError, match=message):
        go(benchmark, tmp_path / "r.jsonl", **more)
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_settings_that_change_no_result_may_change(benchmark: Benchmark, tmp_path: Path) -> None:
    go(benchmark, tmp_path / "r.jsonl")
    before = (tmp_path / "r.jsonl").read_bytes()
    go(benchmark, tmp_path / "r.jsonl", config=CONFIG.changed(device="cuda", ranker__workers=7))
    # Accepted as the same run: nothing was compared again.
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_another_judge_or_another_truth_is_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    go(benchmark, tmp_path / "r.jsonl")
    with pytest.raises(InputError, match=r"judge\.judge"):
        go(benchmark, tmp_path / "r.jsonl", judge=Fixed([1.0]))
    first = benchmark.pairs[0]
    other = Pair(first.id, first.split, "x", "y", "", first.images_a, first.images_b)
    with pytest.raises(InputError, match="another pair easy/0"):
        go(Benchmark("Tiny", (other,)), tmp_path / "r.jsonl")


def test_a_file_of_something_else_is_left_alone(benchmark: Benchmark, tmp_path: Path) -> None:
    for text in ("notes", "notes\n", '{"path": "x"}\n', '{"a": 1', "[]\n"):
        (tmp_path / "r.jsonl").write_text(text)
        with pytest.raises(InputError, match="results file"):
            go(benchmark, tmp_path / "r.jsonl")
        assert (tmp_path / "r.jsonl").read_text() == text


# --- failures -----------------------------------------------------------------------------------


def fails_at(broken: set[int]) -> Callable[[ImageSet, ImageSet], Found]:
    def system(a: ImageSet, b: ImageSet) -> Found:
        if number(a) in broken:
            raise RuntimeError("out of memory")
        return finds(a, b)

    return system


def test_a_failed_pair_is_recorded_not_scored_and_tried_again(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    out = tmp_path / "r.jsonl"
    results = go(benchmark, out, fails_at({0, 3}))
    assert results.failed == {
        "easy/0": "RuntimeError: out of memory",
        "hard/3": "RuntimeError: out of memory",
    }
    rows = {row["split"]: row for row in table.rows([results])}
    # Of easy, 2 found nothing and 4 found it second: 0 is not counted as wrong.
    assert (rows["easy"]["n"], rows["easy"]["unscored"], rows["easy"]["failed"]) == (3, 1, 1)
    assert (rows["easy"]["acc1"], rows["easy"]["acc5"]) == (0, 0.5)
    size = out.stat().st_size
    go(benchmark, out, fails_at({0, 3}))
    assert out.stat().st_size == size
    assert content(go(benchmark, out)) == content(go(benchmark, tmp_path / "once.jsonl"))


def test_missing_images_are_counted_and_a_missing_set_fails(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    first, second, *rest = benchmark.pairs
    first = Pair(first.id, first.split, first.a, first.b, "", first.images_a[1:], first.images_b,
                 ("0/a0.png",))  # fmt: skip
    second = Pair(second.id, second.split, second.a, second.b, "", (), second.images_b, ("x",) * 10)
    results = go(Benchmark("Tiny", (first, second, *rest)), tmp_path / "r.jsonl")
    assert results.n_missing == 11
    assert (results.records[first.id]["missing"], results.records[first.id]["n_a"]) == (1, 9)
    assert "no image of set A" in results.failed[second.id]


def test_what_stops_every_pair_stops_the_run(benchmark: Benchmark, tmp_path: Path) -> None:
    def no_weights(a: ImageSet, b: ImageSet) -> Found:
        raise MissingBackendError("no weights")

    with pytest.raises(MissingBackendError):
        go(benchmark, tmp_path / "r.jsonl", no_weights)
    with pytest.raises(InputError, match="ngrms"):
        go(benchmark, tmp_path / "s.jsonl", None, config=REAL.changed(proposer="ngrms"))
    assert not (tmp_path / "s.jsonl").exists()


def test_impossible_settings_are_refused_before_anything(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    for more in ({"purity": 0.2}, {"top": 0}, {"directions": "B"}):
        with pytest.raises(InputError):
            go(benchmark, tmp_path / "r.jsonl", **more)
    assert not (tmp_path / "r.jsonl").exists()


class Fixed:
    """Gives listed verdicts in turn, over and over."""

    def __init__(self, scores: Sequence[float | None]) -> None:
        self.scores = scores
        self.asked: list[Claim] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"judge": "fixed"}

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        found = []
        for claim in claims:
            score = self.scores[len(self.asked) % len(self.scores)]
            self.asked.append(claim)
            found.append(Verdict(score, "as told"))
        return found


def test_missing_verdicts_are_asked_for_again_and_only_those(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    out = tmp_path / "r.jsonl"
    broken = Fixed([1.0, None])
    results = go(benchmark, out, judge=broken)
    assert results.n_unscored == len(broken.asked) // 2 > 0
    rows = {row["split"]: row for row in table.rows([results])}
    assert rows["easy"]["acc1"] is not None
    mended = Fixed([0.5])
    results = go(benchmark, out, killed_after(0), judge=mended)
    assert len(mended.asked) == len(broken.asked) // 2
    assert results.n_unscored == 0
    assert {h["score"] for r in results.records.values() if r["split"] != "null"
            for h in r["hypotheses"]} == {1.0, 0.5}  # fmt: skip


def test_a_judge_that_breaks_loses_no_comparison(benchmark: Benchmark, tmp_path: Path) -> None:
    class Breaks(Fixed):
        def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
            raise InputError("no such model")

    with pytest.raises(InputError, match="no such model"):
        go(benchmark, tmp_path / "r.jsonl", judge=Breaks([]))
    assert Results.read(tmp_path / "r.jsonl").n_unscored == 2
    results = go(benchmark, tmp_path / "r.jsonl", killed_after(PAIRS), judge=Fixed([1.0]))
    assert results.n_unscored == 0


def test_null_pairs_are_not_put_before_the_judge(benchmark: Benchmark, tmp_path: Path) -> None:
    judge = Fixed([1.0])
    results = go(benchmark, tmp_path / "r.jsonl", judge=judge)
    assert all(claim.truth_b == "in the snow" for claim in judge.asked)
    assert {h["score"] for h in results.records[f"null/{PAIRS}"]["hypotheses"]} == {0}
    assert len(claims(results)) == len(judge.asked)


# --- other judges -------------------------------------------------------------------------------


def test_another_judge_compares_nothing_again(benchmark: Benchmark, tmp_path: Path) -> None:
    first = go(benchmark, tmp_path / "r.jsonl", fails_at({5}))
    second = rejudge(first, tmp_path / "s.jsonl", Fixed([1.0, 0.0]), progress=False)
    assert second.header["judge"] == {"judge": "fixed"}
    assert "hard/5" not in second.records
    found = agree(first, second)
    assert found.n == len(claims(first)) == sum(map(sum, found.table))
    again = agree(first, first)
    assert (again.observed, again.kappa) == (1, pytest.approx(1))
    with pytest.raises(InputError, match="another file"):
        rejudge(first, tmp_path / "r.jsonl", Fixed([1.0]))


def test_runs_without_a_common_hypothesis_do_not_agree(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    one = go(benchmark, tmp_path / "r.jsonl")
    other = go(benchmark, tmp_path / "s.jsonl", lambda a, b: Found([Finding("moss", "A")]))
    with pytest.raises(InputError, match="none in common"):
        agree(one, other)


# --- a real comparison --------------------------------------------------------------------------


def coloured(folder: Path) -> Benchmark:
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


class Says:
    """Right when the claim names the set's colour."""

    identity = {"judge": "says"}  # noqa: RUF012

    def judge(self, claims: Sequence[Claim], progress: bool = False) -> list[Verdict]:
        return [Verdict(float(claim.own in claim.text)) for claim in claims]


def test_compare_over_a_benchmark(tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        results = run(coloured(tmp_path / "images"), tmp_path / "r.jsonl", config=REAL,
                      judge=Says(), cache=cache, progress=False)  # fmt: skip
    rows = {row["split"]: row for row in table.rows([results])}
    assert (rows["easy"]["acc1"], rows["easy"]["n"]) == (1, 1)
    assert rows["null"]["confirmed_pairs"] == 0
    assert rows["easy"]["proposer"] == "ngrams"
    assert not results.failed


def test_a_lost_question_of_the_proposer_fails_the_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visdiff.bench import run as module

    class Report:
        unanswered = ("timed out",)
        differences = ()

    monkeypatch.setattr(module, "compare", lambda *_, **__: Report)
    with Cache(tmp_path / "cache") as cache:
        system = comparison(REAL, cache)
        results = go(coloured(tmp_path / "images"), tmp_path / "r.jsonl", system, config=REAL)
    assert all("timed out" in reason for reason in results.failed.values())
    assert len(results.failed) == 2


# --- table --------------------------------------------------------------------------------------


def recorded(path: Path, benchmark: str, proposer: str, splits: Sequence[str]) -> Results:
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


def test_published_numbers_stand_beside_ours_only_where_they_belong(tmp_path: Path) -> None:
    splits = ("imagenet-star", "hard", "imagenet-r", "easy")
    ours = recorded(tmp_path / "a.jsonl", "VisDiffBench", "captions-llm", splits)
    mini = recorded(tmp_path / "b.jsonl", "MiniDiffBench", "captions-llm", splits)
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


def test_published_numbers_are_those_of_the_reference() -> None:
    found = {(p.proposer, p.split, p.system): (p.acc1, p.acc5) for p in table.PUBLISHED}
    assert len(found) == len(table.PUBLISHED)
    captions = "BLIP-2 + GPT-4, CLIP ViT-bigG-14"
    assert found["captions-llm", "hard", captions] == (0.61, 0.80)
    assert found["images-vlm", "easy", "GPT-4V"] == (0.95, 1.00)
    assert found["InvDiff", "medium", "inverse CCA"] == (0.75, 0.84)
    # Where only Acc@1 could be sourced, no Acc@5 is made up.
    assert all(p.acc5 is None for p in table.PUBLISHED if p.second_hand)


# --- commands -----------------------------------------------------------------------------------


def bench(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark of one easy pair in the released layout, with captions to be made."""
    root = tmp_path / "bench"
    whole = coloured(tmp_path / "images")
    pair = whole.pairs[0]
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


class FromCommandLine(Says):
    """A judge that takes the command line's settings."""

    def __init__(self, **_: Any) -> None:
        pass


def test_commands_from_run_to_agree(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    ran = bench("run", folder, "--out", out, *RUN, "--json")
    assert ran.exit_code == 0, ran.stderr
    (row,) = json.loads(ran.stdout)
    wanted = {"proposer", "ranker", "split", "n", "acc1", "acc5", "acc1_ci", "unscored"}
    assert wanted <= set(row)
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
    shown = bench("table", out, people)
    assert shown.exit_code == 0
    assert "InvDiff" in shown.stdout
    assert len(json.loads(bench("table", out, people, "--json").stdout)) == 2


class Grader:
    """A chat model that gives every claim a 1, unless told to refuse."""

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
        refused = Failure("refused", "refusal")
        whole = Reply(json.dumps(data), data)
        return [refused if self.model == "prude" else whole for _ in requests]


def test_a_chat_model_judges_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert bench("run", folder, "--out", out, *RUN).exit_code == 0
    chat = ("--judge", "chat", "--llm", "test_bench_run:Grader", "--cache", "off", "--json")
    judged = bench("score", out, *chat, "--out", tmp_path / "chat.jsonl", "--samples", 3)
    assert judged.exit_code == 0, judged.exception
    assert json.loads(judged.stdout)[0]["acc1"] == 0.5
    told = (*chat, "--llm-set", "model=prude", "--out", tmp_path / "prude.jsonl")
    refused = bench("score", out, *told)
    assert refused.exit_code == 3
    (row,) = json.loads(refused.stdout)
    assert (row["acc1"], row["unscored"], row["n"]) == (None, 1, 1)
    assert "no verdict" in refused.stderr


def test_what_is_missing_makes_the_status_3(folder: Path, tmp_path: Path) -> None:
    whole = bench("list", folder)
    assert (whole.exit_code, "1 pairs" in whole.stdout) == (0, True)
    (folder / "easy/0_1/07.png").unlink()
    listed = bench("list", folder)
    assert listed.exit_code == 3
    assert "easy/0_1/07.png" in listed.stderr
    ran = bench("run", folder, "--out", tmp_path / "r.jsonl", *RUN)
    assert ran.exit_code == 3
    assert "1 images are missing (first: easy/0_1/07.png)" in ran.stderr
    assert "easy" in ran.stdout


def test_the_users_mistakes_are_one_sentence(folder: Path, tmp_path: Path) -> None:
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


def test_list_without_a_folder_says_what_there_is() -> None:
    listed = json.loads(bench("list", "--json").stdout)
    assert sum(listed["benchmarks"]["VisDiffBench"].values()) == 187
    assert {"world", "chat", "human"} <= set(listed["judges"])
    assert "187 pairs" in bench("list").stdout


# --- several processes --------------------------------------------------------------------------


def slowly(folder: Path, out: Path, pause: float) -> None:
    """Run six pairs with a pause in each; lines are long, so that a kill may cut one."""
    pairs = []
    for i in range(6):
        files = [folder / f"{i}{side}{k}.png" for side in "ab" for k in range(4)]
        for file in files:
            file.write_bytes(file.name.encode())
        truth = ("on the grass", "in the snow")
        pairs.append(Pair(f"easy/{i}", "easy", *truth, "", tuple(files[:4]), tuple(files[4:])))

    def system(a: ImageSet, b: ImageSet) -> Found:
        time.sleep(pause)
        return Found([Finding("grass" + " and more" * 500, "A")])

    go(Benchmark("Tiny", tuple(pairs)), out, system)


def test_a_killed_process_loses_nothing_that_it_wrote(tmp_path: Path) -> None:
    out, once = tmp_path / "r.jsonl", tmp_path / "once.jsonl"
    code = (
        "import sys; from pathlib import Path; import test_bench_run as t; "
        "t.slowly(Path(sys.argv[1]), Path(sys.argv[2]), 0.15)"
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
    slowly(tmp_path, out, 0)
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    slowly(tmp_path, once, 0)
    assert out.read_bytes() == once.read_bytes()


SLOWLY = """
import os, sys, time
from pathlib import Path
import test_bench_run as t
from visdiff.errors import InputError
folder, out = map(Path, sys.argv[1:])
(folder / f"{os.getpid()}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
try:
    t.slowly(folder, out, 0.3)
except InputError as error:
    sys.exit(f"refused: {error}")
"""


def start_slowly(folder: Path, out: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(folder), str(out)],
        cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(ready: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


def test_of_two_processes_one_writes_and_the_other_says_why_not(tmp_path: Path) -> None:
    out, once = tmp_path / "r.jsonl", tmp_path / "once.jsonl"
    both = [start_slowly(tmp_path, out) for _ in range(2)]
    for process in both:
        until((tmp_path / f"{process.pid}.ready").exists, process)
    (tmp_path / "go").touch()
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    refused = errors[[process.returncode for process in both].index(1)]
    assert "refused: expected to be the only one that writes" in refused
    slowly(tmp_path, once, 0)
    assert out.read_bytes() == once.read_bytes()


def test_the_lock_dies_with_its_process_and_keeps_no_reader_out(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    (tmp_path / "go").touch()
    process = start_slowly(tmp_path, out)
    until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 2, process)
    assert Results.read(out).records
    with pytest.raises(InputError, match="the only one that writes"):
        slowly(tmp_path, out, 0)
    with pytest.raises(InputError, match="the only one that writes"), sole_writer(out):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    slowly(tmp_path, out, 0)
    assert len(Results.read(out).records) == 6


def test_a_second_judge_does_not_write_into_a_file_that_is_being_written(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    first = go(benchmark, tmp_path / "r.jsonl")
    with sole_writer(tmp_path / "s.jsonl"), pytest.raises(InputError, match="the only one"):
        rejudge(first, tmp_path / "s.jsonl", Fixed([1.0]), progress=False)
    assert not (tmp_path / "s.jsonl").exists()
    assert rejudge(first, tmp_path / "s.jsonl", Fixed([1.0]), progress=False).records
