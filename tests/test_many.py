"""Tests of several comparisons that are corrected together."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pandas as pd
import pytest
import typer
from fakes import place_captions, write_set
from typer.testing import CliRunner

import visdiff
from visdiff import stats
from visdiff.cache import Cache
from visdiff.cli.many import compare_many as command
from visdiff.comparison.backends import Backends
from visdiff.comparison.many import compare_many, compare_pairs, compare_rest, open_sets
from visdiff.config import Config
from visdiff.errors import CacheMissError, InputError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport
from visdiff.results.many import ManyReport, pair_folders

WORDS: dict[str, Any] = {
    "captioner": "manifest",
    "ranker": "captions-lexical",
    "progress": False,
}
CONFIG = Config.of("laptop").changed(captioner="manifest", ranker="captions-lexical")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Returns three sets of the same people, each mostly at its own place."""
    folder = tmp_path_factory.mktemp("places")
    there = {"wall": "by a brick wall", "grass": "on the grass", "sea": "at sea"}
    return {
        name: write_set(folder / name, place_captions(80, i, place=place, share=0.9), seed=i)
        for i, (name, place) in enumerate(there.items())
    }


def facts(report: DifferenceReport) -> dict[str, Any]:
    data = json.loads(report.to_json())
    del data["provenance"]
    return data


def q_values(report: DifferenceReport) -> dict[tuple[str, str], float | None]:
    """Returns the q-values of the report by sentence and direction."""
    found = {(d.text, d.direction): d.q_value for d in report.differences}
    return found | {(r.text, r.direction): r.q_value for r in report.rejected}


def test_one_pair_is_the_ordinary_comparison(places: Mapping[str, Path], cache: Cache) -> None:
    two = {name: places[name] for name in ("wall", "grass")}
    alone = visdiff.compare(*two.values(), name_a="wall", name_b="grass", cache=cache, **WORDS)
    many = compare_many(two, cache=cache, **WORDS)
    assert facts(many.reports["wall", "grass"]) == facts(alone)
    assert many.reports["wall", "grass"].thumbnails == alone.thumbnails


def test_one_paired_pair_is_the_ordinary_comparison(tmp_path: Path, cache: Cache) -> None:
    columns = {"prompt": [f"p{i // 2}" for i in range(80)], "number": list(range(80))}
    a = write_set(
        tmp_path / "a", place_captions(80, 1, place="by a wall", share=0.8), seed=1, **columns
    )
    b = write_set(
        tmp_path / "b", place_captions(80, 2, place="on grass", share=0.8), seed=2, **columns
    )
    settings = {**WORDS, "paired_by": ("prompt", "number")}
    alone = visdiff.compare(a, b, name_a="a", name_b="b", cache=cache, **settings)
    many = compare_many({"a": a, "b": b}, cache=cache, **settings)
    assert alone.confirmed
    assert facts(many.reports["a", "b"]) == facts(alone)


def test_every_pair_finds_its_difference(places: Mapping[str, Path], cache: Cache) -> None:
    many = compare_many(places, cache=cache, **WORDS)
    assert many.names == ("wall", "grass", "sea")
    assert list(many.reports) == [("wall", "grass"), ("wall", "sea"), ("grass", "sea")]
    word = {"wall": "brick", "grass": "grass", "sea": "sea"}
    for (a, b), report in many.reports.items():
        for direction, name in (("A", a), ("B", b)):
            texts = [t for d in report.confirmed if d.direction == direction
                     for t in (d.text, *d.synonyms)]  # fmt: skip
            assert any(word[name] in t for t in texts)


def test_the_correction_is_over_all_candidates_of_all_pairs(
    places: Mapping[str, Path], cache: Cache
) -> None:
    # With cross-fitting, a p-value may be that of two tests.
    settings = {**WORDS, "statistics__cross_fit": "never"}
    many = compare_many(places, cache=cache, **settings)
    single = {
        key: visdiff.compare(places[key[0]], places[key[1]], cache=cache, **settings)
        for key in many.reports
    }
    # All p-values, computed from the scores of the single comparisons.
    pooled: list[float] = []
    for report in single.values():
        assert report.scores is not None
        is_a = (report.scores["set"] == "A").to_numpy()
        claims = [(d.text, d.direction) for d in report.differences]
        claims += [(s, d.direction) for d in report.differences for s in d.synonyms]
        claims += [(r.text, r.direction) for r in report.rejected]
        for text, direction in claims:
            row = report.scores[text].to_numpy(float)[None]
            sign = 1 if direction == "A" else -1
            pooled.append(float(stats.mann_whitney(sign * row, is_a)[0]))
    assert many.n_candidates == len(pooled)
    p = np.array(pooled)
    q = dict(zip(p.tolist(), stats.benjamini_hochberg(p).tolist(), strict=True))
    for report in many.reports.values():
        for d in report.differences:
            assert d.q_value == pytest.approx(q[d.p_value])
            assert d.confirmed == (d.q_value <= 0.05 and d.auroc >= 0.55)
        assert any(f"over {len(p)} candidates of 3 comparisons" in w for w in report.warnings)
    # Except for q-values, the statistics equal those of a single comparison.
    for key, report in many.reports.items():
        assert {(d.text, d.auroc, d.p_value) for d in report.confirmed} <= {
            (d.text, d.auroc, d.p_value) for d in single[key].differences
        }
    assert any(q_values(many.reports[k]) != q_values(single[k]) for k in single)


def test_q_values_increase_with_the_number_of_comparisons(tmp_path: Path, cache: Cache) -> None:
    settings = {
        "proposer": "manual",
        "proposer__hypotheses": ("by a wall", "a cook", "a nurse", "a judge"),
    }
    weak = [
        write_set(
            tmp_path / f"w{i}", place_captions(120, 10 + i, place="by a wall", share=s), seed=i
        )
        for i, s in enumerate((0.7, 0.3))
    ]
    nulls = [
        write_set(
            tmp_path / f"n{i}",
            place_captions(60, 50 + i, place="by a wall", share=0.5),
            seed=100 + i,
        )
        for i in range(8)
    ]
    opened = [ImageSet.open(m, name=m.parent.name) for m in (*weak, *nulls)]
    pairs = [(opened[0], opened[1])]
    pairs += [(a, b) for i, a in enumerate(opened[2:]) for b in opened[3 + i :]]
    alone = visdiff.compare(*weak, cache=cache, **WORDS, **settings)
    together = compare_pairs(
        pairs, title="", config=CONFIG.changed(**settings), cache=cache, progress=False
    )
    of_weak = together.reports["w0", "w1"]
    assert alone.confirmed
    assert alone.minimum_detectable_auroc is not None
    assert of_weak.minimum_detectable_auroc is not None
    assert of_weak.minimum_detectable_auroc > alone.minimum_detectable_auroc
    before = q_values(alone)
    for d in of_weak.differences:
        was = before[d.text, d.direction]
        assert was is not None
        assert d.q_value > was
    # At q ≤ 0.05 overall, the null comparisons confirm almost nothing.
    assert sum(len(r.confirmed) for k, r in together.reports.items() if k != ("w0", "w1")) <= 1


def test_each_set_against_the_rest(places: Mapping[str, Path], cache: Cache) -> None:
    many = compare_rest(places, cache=cache, **WORDS)
    assert list(many.reports) == [(name, "the rest") for name in places]
    for name, word in (("wall", "brick"), ("grass", "grass"), ("sea", "sea")):
        report = many.reports[name, "the rest"]
        assert (report.set_a.n, report.set_b.n) == (80, 160)
        own = [t for d in report.confirmed if d.direction == "A" for t in (d.text, *d.synonyms)]
        assert any(word in text for text in own)
    with pytest.raises(InputError, match="unpaired sets"):
        compare_rest(places, cache=cache, **WORDS, paired_by=("prompt",))
    with pytest.raises(InputError, match="at least 3 sets"):
        compare_rest([places["wall"], places["sea"]], cache=cache, **WORDS)


def test_models_are_created_once(
    places: Mapping[str, Path], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Config] = []
    of = Backends.of.__func__

    def counted(cls: type, config: Config, *more: Any) -> Backends:
        made.append(config)
        return of(cls, config, *more)

    monkeypatch.setattr(Backends, "of", classmethod(counted))
    compare_many(places, cache=cache, **WORDS)
    assert len(made) == 1


def test_sets_too_small_to_confirm_anything_stay_out_of_the_pool(
    places: Mapping[str, Path], tmp_path: Path, cache: Cache
) -> None:
    few = write_set(tmp_path / "few", place_captions(12, 7, place="on the moon"), seed=9)
    two = {name: places[name] for name in ("wall", "grass")}
    without = compare_many(two, cache=cache, **WORDS)
    many = compare_many({**two, "few": few}, cache=cache, **WORDS)
    assert many.n_candidates == without.n_candidates
    assert facts(many.reports["wall", "grass"]) == facts(without.reports["wall", "grass"])
    for other in two:
        report = many.reports[other, "few"]
        assert report.double_dipped
        assert report.differences
        assert not report.confirmed
    assert "too few images" in many.to_markdown()


def test_a_failed_pair_is_listed_and_the_others_are_kept(
    places: Mapping[str, Path], tmp_path: Path, cache: Cache
) -> None:
    one = write_set(tmp_path / "one", ["a cook"], seed=9)
    two = {name: places[name] for name in ("wall", "grass")}
    many = compare_many({**two, "one": one}, cache=cache, **WORDS)
    assert list(many.reports) == [("wall", "grass")]
    assert set(many.failed) == {("wall", "one"), ("grass", "one")}
    assert all("at least 2 readable images" in reason for reason in many.failed.values())
    assert "Not compared" in many.to_markdown()
    with pytest.raises(InputError, match="a pair of sets that can be compared"):
        compare_many([one, one], cache=cache, **WORDS)


def test_a_replay_miss_is_raised(places: Mapping[str, Path], tmp_path: Path) -> None:
    config = CONFIG.changed(captioner="fakes:ColourCaptioner", ranker="fakes:ColourRanker")
    with Cache(tmp_path / "empty") as store:
        store.put("caption", {"nothing": 1}, "of use")
    with Cache(tmp_path / "empty", mode="replay") as replay, pytest.raises(CacheMissError):
        compare_many(places, config=config, cache=replay, progress=False)


def test_sets_get_distinct_names(places: Mapping[str, Path]) -> None:
    opened = open_sets([places["wall"], places["wall"], places["sea"]])
    assert len({s.name for s in opened}) == 3
    with pytest.raises(InputError, match="at least 2 sets, got 1"):
        open_sets([places["wall"]])
    with pytest.raises(InputError, match="pass by=COLUMN"):
        open_sets(str(places["wall"]))
    with pytest.raises(InputError, match="Expected a column 'nothing'"):
        open_sets(places["wall"], by="nothing")
    pairs = [(opened[0], opened[1])] * 2
    with pytest.raises(InputError, match="twice; rename"):
        compare_pairs(pairs, title="", config=CONFIG)
    with pytest.raises(InputError, match="got none"):
        compare_pairs([], title="", config=CONFIG)


def test_a_column_splits_one_manifest_into_sets(tmp_path: Path, cache: Cache) -> None:
    groups = ["one", "two", ""] * 60
    captions = [
        f"a {p} {'by a wall' if g == 'one' else 'on the grass'}"
        for p, g in zip(["cook", "nurse", "judge", "clown"] * 45, groups, strict=True)
    ]
    manifest = write_set(tmp_path / "m", captions, seed=1, group_name=groups)
    many = compare_many(manifest, by="group_name", cache=cache, **WORDS)
    assert list(many.reports) == [("one", "two")]
    assert many.n_confirmed


def test_saved_read_back_and_linked(
    places: Mapping[str, Path], tmp_path: Path, cache: Cache
) -> None:
    many = compare_many(places, cache=cache, **WORDS)
    assert ManyReport.from_json(many.to_json()) == many
    frame = many.to_frame()
    assert set(frame["set_a"]) | set(frame["set_b"]) == set(places)
    assert frame["confirmed"].tolist().count(True) == many.n_confirmed
    folder = many.save(tmp_path / "out")
    page = (folder / "index.html").read_text("utf-8")
    for where in pair_folders(list(many.reports)).values():
        assert f'href="{where}/report.html"' in page
        assert (folder / where / "report.html").is_file()
    assert ManyReport.from_json((folder / "many.json").read_bytes()) == many
    assert len(pd.read_csv(folder / "differences.csv")) == len(frame)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="folder that can be written"):
        many.save(tmp_path / "file")
    for text, wrong in (("no", "JSON"), ("{}", "something else")):
        with pytest.raises(InputError, match=wrong):
            ManyReport.from_json(text)


def test_user_text_is_escaped(tmp_path: Path, cache: Cache) -> None:
    bad = "<script>alert(1)</script>| *x*"
    sets = {
        bad: write_set(tmp_path / "a", place_captions(60, 1, place="by a wall"), seed=1),
        "b": write_set(tmp_path / "b", place_captions(60, 2, place="on the grass"), seed=2),
        "c": write_set(tmp_path / "c", ["a cook"], seed=3),
    }
    many = compare_many(sets, cache=cache, **WORDS)
    page, text = many.to_html(), many.to_markdown()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page.replace("&#39;", "'")
    assert "<script" not in text
    assert r"\| \*x\*" in text
    folder = many.save(tmp_path / "out")
    assert all(p.name.isascii() and "<" not in p.name for p in folder.rglob("*"))


def test_names_that_are_not_utf8_are_saved(tmp_path: Path, cache: Cache) -> None:
    odd = "caf\udce9"
    sets = {
        odd: write_set(tmp_path / "a", place_captions(60, 1, place="by a wall"), seed=1),
        "b": write_set(tmp_path / "b", place_captions(60, 2, place="on the grass"), seed=2),
    }
    many = compare_many(sets, cache=cache, **WORDS)
    assert set(many.to_frame()["set_a"]) == {odd}
    report = many.reports[odd, "b"]
    d = dataclasses.replace(report.differences[0], evidence_a=(f"{odd}.png",))
    odd_files = dataclasses.replace(report, differences=(d,))
    folder = dataclasses.replace(many, reports={(odd, "b"): odd_files}).save(tmp_path / "out")
    assert "caf" in (folder / "differences.csv").read_text("utf-8")
    with pytest.raises(InputError, match="damaged"):
        ManyReport.from_json('{"schema_version": 1, "comparisons": []}')


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command(places: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--captioner", "manifest", "--ranker", "captions-lexical", "--cache", "off")
    paths = [str(p) for p in places.values()]
    names = [part for name in places for part in ("--name", name)]
    plan = run(*paths, *options, "--dry-run")
    assert plan.exit_code == 0
    assert "3 sets: 3 comparisons of 240 images: 240 to caption" in plan.stdout
    counted = json.loads(run(*paths, *options, "--dry-run", "--json").stdout)
    assert (counted["comparisons"], counted["images"], counted["paid_calls"]) == (3, 240, 0)
    done = run(*paths, *options, *names, "--json", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["names"] == list(places)
    assert (tmp_path / "out" / "index.html").is_file()
    rest = run(*paths, *options, *names, "--rest")
    assert rest.exit_code == 0, rest.output
    assert "wall and the rest: " in rest.stdout
    one = write_set(tmp_path / "one", ["a cook"], seed=9)
    assert run(*paths, str(one), *options).exit_code == 3
    for wrong in ((*paths, "--name", "x"), (*paths, "--by", "group"), (paths[0],)):
        assert isinstance(run(*wrong, *options).exception, VisdiffError)


def test_rankers_with_features(cache: Cache) -> None:
    rng = np.random.default_rng(0)
    sets = {c: [fakes.picture(c, rng) for _ in range(50)] for c in fakes.CHANNELS}
    many = compare_many(
        sets,
        captioner="fakes:ColourCaptioner",
        ranker="fakes:ColourRanker",
        cache=cache,
        progress=False,
    )
    for (a, b), report in many.reports.items():
        found = {(d.direction, word) for d in report.confirmed for word in d.text.split()}
        assert {("A", a), ("B", b)} <= found
        assert report.separability.images is not None
